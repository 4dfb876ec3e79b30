"""Heads of any program, scores of any kind: the engines against the slow float64 twin."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from _pytest.mark.structures import ParameterSet
from torch import Tensor

from adderlab.engine.native import NativeEngine, why_not
from adderlab.engine.torch_tables import TorchEngine
from adderlab.engine.triton import with_coordinates, without_coordinates
from adderlab.models.head_program import standard_head
from adderlab.models.tables import Tables
from helpers.machine import ISAS
from oracle import table_forward
from oracle.programs import CASES, Case
from oracle.random_tables import random_tokens

QUICK = "-O1"
"""Half the compile time."""

S, B = 2, 21


def errors(got: Tables, want: Tables) -> dict[str, float]:
    """Largest error of every table and seed over the table's largest entry."""
    found = {}
    for (name, grad), (other, exact) in zip(got.items(), want.items(), strict=True):
        assert name == other
        if grad.numel():
            error_S = (grad - exact).flatten(1).abs().amax(1)
            found[name] = float((error_S / exact.flatten(1).abs().amax(1).clamp(min=1e-12)).max())
    return found


def check(engine: NativeEngine | TorchEngine, tables: Tables, tokens: Tensor, targets: Tensor) -> None:
    loss_S, grads = engine.loss_and_grad(tables, tokens, targets)
    want_S, exact = table_forward.loss_and_grad(tables, tokens, targets)
    assert torch.allclose(loss_S.double(), want_S, rtol=1e-6), (loss_S, want_S)
    assert {name: error for name, error in errors(grads, exact).items() if not error < 1e-5} == {}
    precise = tables.to(dtype=torch.float64)
    margins = engine.margins(tables, tokens, targets)
    want = table_forward.margins(precise, tokens, targets)
    assert (margins - want).abs().max() < 3e-6 * want.abs().max()
    prompt = tokens[..., : tables.form.layout.num_prompt]
    assert torch.equal(engine.decode(tables, prompt), table_forward.decode(precise, prompt))


OFTEN = ("every_operation", "no_mlp-positions-tanh-sink")
"""The program of every operation, and one with other scores; the others are compiled in the slow
tests."""


def fewer(cases: Sequence[Case]) -> list[ParameterSet]:
    return [pytest.param(case, marks=[pytest.mark.slow] * (case.name not in OFTEN)) for case in cases]


@pytest.mark.parametrize(
    "case",
    fewer(CASES),
    ids=lambda case: case.name,
)
def test_native(case: Case) -> None:
    tables = case.tables(S)
    assert why_not(tables.form) is None
    assert standard_head(tables.form.program) is None
    check(NativeEngine(1, optimise=QUICK), tables, *random_tokens(tables.form, S, B))


@pytest.mark.parametrize("isa", ISAS[1:])
@pytest.mark.parametrize(
    "case",
    fewer([case for case in CASES if case.score == "tokens" or (case.sink and case.function != "tanh")]),
    ids=lambda case: case.name,
)
@pytest.mark.slow
def test_native_elsewhere(case: Case, isa: str) -> None:
    tables = case.tables(S)
    check(NativeEngine(1, optimise=QUICK, isa=isa), tables, *random_tokens(tables.form, S, B))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.slow
def test_torch(case: Case) -> None:
    """In float64: to the last digits."""
    tables = case.tables(S).to(dtype=torch.float64)
    tokens, targets = random_tokens(tables.form, S, B)
    engine = TorchEngine(1)
    loss_S, grads = engine.loss_and_grad(tables, tokens, targets)
    want_S, exact = table_forward.loss_and_grad(tables, tokens, targets)
    assert torch.allclose(loss_S, want_S, rtol=1e-12)
    assert {name: error for name, error in errors(grads, exact).items() if not error < 1e-10} == {}
    margins = engine.margins(tables, tokens, targets)
    assert torch.allclose(margins, table_forward.margins(tables, tokens, targets), atol=1e-10)
    prompt = tokens[..., : tables.form.layout.num_prompt]
    assert torch.equal(engine.decode(tables, prompt), table_forward.decode(tables, prompt))


def test_biases_as_coordinates() -> None:
    """Hidden keys too: by a number that is large and finite, as training has them."""
    (case,) = [case for case in CASES if case.name == "no_mlp-query"]
    tables = replace(case, score="hidden", heads=2).tables(S).to(dtype=torch.float64)
    tables = replace(tables, score=tables.score.clamp(min=-50.0))  # type: ignore[union-attr]
    tokens, targets = random_tokens(tables.form, S, B)
    plain = with_coordinates(tables)
    assert plain.score is None and plain.form.key_dim == tables.form.key_dim + 12
    loss_S, grads = TorchEngine(1).loss_and_grad(plain, tokens, targets)
    want_S, wanted = TorchEngine(1).loss_and_grad(tables, tokens, targets)
    assert torch.allclose(loss_S, want_S, rtol=1e-12)
    found = errors(without_coordinates(grads, tables), wanted)
    assert "score" in found and {name: error for name, error in found.items() if not error < 1e-10} == {}
