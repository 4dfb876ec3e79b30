"""Certificates of models whose head is no preset's: proved by the prover, accepted, and bound to it."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import adderlab as al
from adderlab.checker import verify
from adderlab.checker.document import digest_of
from adderlab.checker.intervals import Interval
from adderlab.checker.model import margin_by_step, model_from_tables
from adderlab.checker.verify import Report, check, plain_config
from adderlab.models.config import ModelConfig
from adderlab.models.head_program import ProgramBuilder
from adderlab.models.tables import Tables, plain_form, tables_of
from adderlab.proof.certificate import certificate
from adderlab.proof.problem import problem_from_tables
from adderlab.proof.prove import exact_tables, prove_problem
from adderlab.runs.checkpoints import load_checkpoint
from helpers.paths import ROOT

WEIGHTS = "a" * 64


def written_out(tables: Tables, cap: float = 1000.0) -> Tables:
    """The same model with its norms written out, and logits that go through cap * tanh(logit / cap)."""
    old, constants = tables.form.program, dict(tables.head)
    build, number = ProgramBuilder(old.mixed_width, old.row_width), {0: 0, 1: 1}

    def constant(name: str, value: float) -> str:
        constants[name] = torch.full((1, 1), value, dtype=torch.float64)
        return build.constant(name, 1)

    for k, operation in enumerate(old.operations):
        operands = [
            number[x] if isinstance(x, int) else build.constant(x, *old.shapes[x])
            for x in operation.operands
        ]
        x: Any = operands[0]
        if operation.name == "rms":
            mean = build.reduce("mean", build.function("square", x))
            root = build.function("rsqrt", build.add(mean, constant(f"eps{k}", operation.eps)))
            number[2 + k] = build.multiply(x, root)
        elif operation.name == "linear":
            matrix, *bias = (str(each) for each in operands[1:])
            number[2 + k] = build.linear(x, matrix, *bias)
        elif operation.name in ("add", "multiply"):
            number[2 + k] = build.elementwise(operation.name, x, operands[1])
        else:
            assert operation.name == "gelu"
            number[2 + k] = build.function("gelu", x)
    logits = build.multiply(number[1 + len(old.operations)], constant("scale", 1 / cap))
    build.multiply(build.function("tanh", logits), constant("cap", cap))
    program = build.build()
    named = {name: tensor for name, tensor in tables.items() if name not in tables.head}
    named |= {name: constants[name] for name in program.shapes}
    return tables_of(dataclasses.replace(tables.form, program=program), named)


@pytest.fixture(scope="module")
def tables() -> Tables:
    return written_out(exact_tables(load_checkpoint(ROOT / "records" / "best" / "67p" / "model.pt")))


@pytest.fixture(scope="module")
def document(tables: Tables) -> dict[str, Any]:
    config = plain_config(ModelConfig())
    proof = prove_problem(problem_from_tables(tables), weights_sha256=WEIGHTS, config=config)
    assert proof.verdict == "proved"
    return json.loads(json.dumps(certificate(proof)))


def checked(document: dict[str, Any], tables: Tables) -> Report:
    enclosed = {name: Interval(table[0].numpy()) for name, table in tables.items()}
    return check(
        document,
        model_from_tables(tables.form, enclosed),
        form=plain_form(tables.form),
        weights_sha256=WEIGHTS,
        config=plain_config(ModelConfig()),
    )


def sealed(document: dict[str, Any], **changes: Any) -> dict[str, Any]:
    changed = {**document, **changes}
    return changed | {"digest": digest_of(changed)}


def test_a_proof_of_another_program_is_accepted(document: dict[str, Any], tables: Tables) -> None:
    report = checked(document, tables)
    assert report.accepted, report.reason
    assert report.margin == pytest.approx(document["margin"]["bound"], rel=0.05)
    assert report.margin >= document["margin"]["bound"]


def test_a_margin_claimed_too_large_is_refused(document: dict[str, Any], tables: Tables) -> None:
    steps = [{**step} for step in document["steps"]]
    steps[2]["margin_bound"] = 10 * steps[2]["margin_bound"]
    report = checked(sealed(document, steps=steps), tables)
    assert not report.accepted and "not proved" in (report.reason or "")


def test_other_numbers_of_the_head_are_refused(document: dict[str, Any], tables: Tables) -> None:
    head = {**tables.head, "cap": tables.head["cap"] * 1e-4}
    report = checked(document, dataclasses.replace(tables, head=head))
    assert not report.accepted


@pytest.mark.parametrize(
    "change",
    [
        lambda form: form["program"]["operations"].pop(),
        lambda form: form["program"]["operations"][2].update(name="abs"),
        lambda form: form["program"]["operations"][0].update(eps=1e-3),
        lambda form: form["program"]["constants"].append(["more", [1]]),
        lambda form: form["layout"].update(end_token=3),
        lambda form: form.update(heads=True),
        lambda form: form.update(heads=2),
        lambda form: form.pop("layout"),
    ],
)
def test_another_form_is_refused(change: Any, document: dict[str, Any], tables: Tables) -> None:
    form = json.loads(json.dumps(document["form"]))
    change(form)
    report = checked(sealed(document, form=form), tables)
    assert not report.accepted and "another form" in (report.reason or "")


# Models of somebody's own code.


class Odd(torch.nn.Module):
    """A decoder with what no preset has: tanh, a sigmoid gate, a clamp before the logits."""

    tokens: Tensor
    positions: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor
    up: Tensor
    gate: Tensor
    down: Tensor
    head: Tensor

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shapes = {
            "tokens": (14, 4), "positions": (34, 4), "query": (4, 3), "key": (4, 3), "value": (4, 2),
            "out": (2, 4), "up": (4, 5), "gate": (4, 5), "down": (5, 4), "head": (4, 14),
        }  # fmt: skip
        for name, shape in shapes.items():
            weight = torch.randn(shape, generator=generator) * 0.5
            self.register_parameter(name, torch.nn.Parameter(weight))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        T = tokens_BT.shape[1]
        x = self.tokens[tokens_BT] + self.positions[:T]
        score = x @ self.query @ (x @ self.key).transpose(-1, -2) / 3**0.5
        score = score + torch.triu(torch.full((T, T), float("-inf"), dtype=x.dtype), 1)
        x = x + torch.softmax(score, -1) @ (x @ self.value) @ self.out
        n = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5)
        x = x + (torch.tanh(n @ self.up) * torch.sigmoid(x @ self.gate)) @ self.down
        return torch.clamp(x, -2.0, 1.5) @ self.head


def test_a_model_of_somebody_s_own_code_is_enclosed() -> None:
    """Tables from the recorded operations, on intervals, and margins as the code computes them."""
    module = Odd()
    found = al.read(module, layout="P")
    model, form = verify.read_model(found)
    assert {"tanh", "sigmoid", "clamp"} <= {each["name"] for each in form["program"]["operations"]}
    module.double()
    for a, b in ((0, 0), (9999999999, 1), (1234567890, 9876543210)):
        digits = [int(d) for d in f"{a:010d}"] + [10] + [int(d) for d in f"{b:010d}"] + [11]
        answer = [int(d) for d in reversed(f"{a + b:011d}")]
        with torch.no_grad():
            logits = module(torch.tensor([digits + answer[:-1]]))[0, len(digits) - 1 :].numpy()
        for (low, high), row, right in zip(margin_by_step(model, a, b), logits, answer, strict=True):
            margin = row[right] - np.delete(row, right).max()
            assert low - 1e-9 <= margin <= high + 1e-9 and high - low < 1e-9
