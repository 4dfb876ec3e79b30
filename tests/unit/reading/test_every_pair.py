"""Decoders as strangers write them, on two and three columns: the prover's counts are those of the
module, asked for every pair."""

import pytest
import torch

import adderlab as al
from adderlab.proof.problem import problem_from_tables
from adderlab.proof.prove import exact_tables, prove_problem
from adderlab.proof.search import Limits
from adderlab.proof.witnesses import model_margins
from adderlab.task.addition import Addition, get_layout
from helpers import decoders
from helpers.decoders import READ

FEW = (decoders.LastQuery,)
AT_ONCE = 1 << 15


def counts(kind: type, columns: int) -> tuple[int, ...]:
    """Failing pairs at every step, of prover and module alike."""
    layout = get_layout("S", Addition(columns=columns))
    torch.manual_seed(3)
    model = al.read(kind(), layout=layout)  # type: ignore[arg-type]
    # What two million cells leave open, as of norms right behind the attention, is tried pair by pair.
    limits = Limits(cells=2_000_000, seconds=3600.0)
    verdict = prove_problem(problem_from_tables(exact_tables(model)), limits=limits)
    number = torch.arange(100**columns)
    a_BJ, b_BJ = (
        torch.stack([x // 10**j % 10 for j in range(columns)], 1).to(torch.uint8)
        for x in (number // 10**columns, number % 10**columns)
    )
    module = model.module().double()
    parts = [
        model_margins(module, *each)
        for each in zip(a_BJ.split(AT_ONCE), b_BJ.split(AT_ONCE), strict=True)
    ]
    margin_BI = torch.cat(parts)
    assert float(margin_BI.abs().min()) > 1e-9, "no pair is left to rounding"
    wrong_BI = margin_BI < 0
    assert list(verdict.failing_by_step) == wrong_BI.sum(0).tolist()
    assert verdict.failing_pairs == int(wrong_BI.any(1).sum())
    assert verdict.margin.bound is not None
    assert verdict.margin.bound <= float(margin_BI.min()) + 1e-9
    return tuple(wrong_BI.sum(0).tolist())


@pytest.mark.parametrize("kind", FEW, ids=lambda kind: kind.__name__)
def test_counts_of_two_columns(kind: type) -> None:
    assert any(0 < count < 10**4 for count in counts(kind, 2))


@pytest.mark.slow
@pytest.mark.parametrize("kind", READ, ids=lambda kind: kind.__name__)
def test_counts_of_three_columns(kind: type) -> None:
    """A million pairs."""
    assert any(0 < count < 10**6 for count in counts(kind, 3))
