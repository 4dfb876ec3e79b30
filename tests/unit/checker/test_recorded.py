"""The operations recorded of a file's model, run with rounding errors."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import adderlab as al
from adderlab.checker.fp32 import FloatCheck, FloatReport, attention_errors
from adderlab.checker.intervals import Array
from adderlab.checker.model import digits_of
from adderlab.checker.primitives import OTHERS, of
from adderlab.checker.recorded import RecordedArithmetic
from adderlab.checker.verify import read_model
from adderlab.errors import Failure
from adderlab.task.addition import get_layout
from helpers import decoders
from helpers.fp32_runs import Perturbed, allowed, point_batch
from helpers.paths import ROOT

FOLLOWED = [
    kind
    for kind in decoders.READ
    if not kind.__name__.startswith("Last")
    and kind.__name__
    not in (
        "InPlace", "PerHeadNorm", "SinkLast", "SinkFirst", "SinkOfTheToken", "ScoresOfPositions",
        "LogProbabilities", "Probabilities", "HeadLoop",
    )
]  # fmt: skip
OFTEN = (decoders.TanhGate, decoders.PositionsAfter)
PAIRS = ((1234567890, 9876543210), (9999999999, 1))


def read(kind: type, seed: int = 3) -> al.Model:
    torch.manual_seed(seed)
    return al.read(kind(), layout=get_layout("S"))  # type: ignore[arg-type]


def recorded(model: al.Model) -> RecordedArithmetic:
    reading = model.config.live.reading  # type: ignore[union-attr]
    assert reading is not None
    with np.errstate(all="ignore"):
        return RecordedArithmetic(reading, model.params, read_model(model)[0])


def runs(model: al.Model, a: int, b: int, perturbed: int) -> Iterator[Array]:
    """Logits (A, V): of the module in fp32, and in float64 with every operation disturbed."""
    digits = torch.tensor([digits_of(a, 10), digits_of(b, 10)], dtype=torch.uint8)
    tokens, _ = model.config.token_layout.encode(digits[:1], digits[1:])
    with torch.no_grad():
        yield model.module().answer_logits(tokens)[0].double().numpy()
        for seed in range(perturbed):
            wide = model.module().double()
            with Perturbed(seed):
                logits = wide.answer_logits(tokens)
            yield logits[0].numpy()


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[pytest.mark.slow] * (kind not in OFTEN)) for kind in FOLLOWED],
    ids=lambda kind: kind.__name__,
)
def test_margins_stay_within_their_bounds(kind: type) -> None:
    """Of the module itself, at pairs and steps of both kinds; and the bounds say something."""
    model = read(kind)
    tables, _ = read_model(model)
    arithmetic = recorded(model)
    with np.errstate(all="ignore"):
        errors = attention_errors(arithmetic, tables)
    nearest = 0.0
    for a, b in PAIRS:
        answer, outcomes = digits_of(a + b, 11), list(runs(model, a, b, 6))
        for i in (0, 1, 5, 10):
            low, high = allowed(tables, arithmetic, errors, point_batch(tables, i, a, b))
            for logits in outcomes:
                margin = logits[i, answer[i]] - np.delete(logits[i], answer[i])
                assert (low <= margin).all() and (margin <= high).all(), (kind.__name__, i)
                middle, width = 0.5 * (low + high), 0.5 * (high - low)
                nearest = max(nearest, float((np.abs(margin - middle) / width).max()))
    assert nearest > 1e-3, "the bounds are far too wide to mean anything"


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.slow] * (kind is not decoders.SinkFirst))
        for kind in decoders.READ
    ],
    ids=lambda kind: kind.__name__,
)
def test_tables_of_every_decoder_are_enclosed(kind: type) -> None:
    """What is read is checked too: no operation is known to the one and not to the other."""
    tables, _ = read_model(read(kind))
    assert all(np.isfinite(x.magnitude()).all() for x in (tables.value_PVHE, tables.residual_AVD))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (decoders.SinkLast, "sink"),
        (decoders.PerHeadNorm, "one product mixes the values"),
        (decoders.LastSelected, "logits of every position"),
        (decoders.Probabilities, "logits of every position"),
    ],
)
def test_what_is_not_followed_is_said(kind: type, reason: str) -> None:
    with pytest.raises(Failure, match=reason) as refusal:
        recorded(read(kind))
    assert "\n" not in str(refusal.value)


def test_a_wrong_cut_is_noticed() -> None:
    """Of another model's tables the stream is another."""
    model, other = read(decoders.Decoder), read(decoders.Decoder, seed=4)
    with pytest.raises(Failure, match="could not be taken apart"), np.errstate(all="ignore"):
        RecordedArithmetic(model.config.live.reading, model.params, read_model(other)[0])  # type: ignore


def test_only_its_own_operations_are_measured() -> None:
    arithmetic = recorded(read(decoders.TanhGate))
    assert {each.name for each in of(arithmetic.relies_on)} & set(OTHERS) == {"gelu by tanh", "tanh"}
    assert all(each.holds for each in of(lambda name: True))


def test_numbers_that_may_overflow_are_not_covered() -> None:
    """The normalised stream is the same whatever its size, but squares of it are not."""
    model = read(decoders.SandwichNorm)
    a, b = PAIRS[0]

    def report(power: int) -> FloatReport:
        grown = ("tok.weight", "pos.weight")
        params = {n: x * 2.0**power if n in grown else x for n, x in model.params.items()}
        scaled = dataclasses.replace(model, params=params)
        tables, _ = read_model(scaled)
        check = FloatCheck.asking(lambda: recorded(scaled), tables)
        for i in (0, 5):
            check.take(point_batch(tables, i, a, b))
        return check.report()

    assert "may overflow" in str(report(66).reason) and not report(66).covered
    assert report(0).reason is None


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) for name in ("7p", "67p", "122p", "456p")]
)
def test_a_record_as_a_stranger_s_file_is_covered(name: str, tmp_path: Path) -> None:
    record = ROOT / "records" / "best" / name / "model.pt"
    path = al.export(record, to="adderboard", output=tmp_path / "s.py", prove=False, suites=()).written[
        0
    ]
    lines = [x for x in path.read_text().splitlines(True) if not x.startswith("# adderlab model")]
    path.write_text("".join(lines))
    model = al.read(path)
    certificate = tmp_path / "c.json"
    al.prove(model, check=False).save(certificate)
    report = al.check(certificate, model)
    assert report.accepted and report.fp32 is not None and report.fp32.covered, report.fp32
    assert "operations recorded" in report.fp32.what
