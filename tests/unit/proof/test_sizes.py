"""Prover and checker at other sizes, held to the truth: every pair, answered by the real module.

Sixty trained, half-trained and nudged models run on command; the plain run has a few that are right by
construction, which need no training.
"""

import dataclasses
import functools
from typing import Any

import pytest

from adderlab.checker.verify import check_document
from adderlab.proof.certificate import certificate
from adderlab.proof.prove import greedy_answer, prove_checkpoint
from adderlab.proof.search import Limits
from adderlab.proof.trials import TOLERANCE, disagreements, try_all, with_smallest_margin
from adderlab.runs.checkpoints import Checkpoint
from adderlab.task.addition import Addition
from helpers import adders
from helpers.trained import nudged, trained

LAYOUTS = ("P", "S", "M", "C", "M13")
SIZES = {
    "2 columns": Addition(columns=2),
    "3 columns": Addition(columns=3),
    "7 of base 2": Addition(columns=7, base=2),
    "2 of base 16": Addition(columns=2, base=16),
}
KINDS = ("right", "nudged", "half trained")
UNHURRIED = Limits(seconds=3600.0, union_seconds=600.0)
"""A count is a bracket where the time is up, which on a busy machine it soon is."""


@pytest.fixture(autouse=True)
def bounds_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that bounds leave open is tried: the prover's counts are its own."""
    monkeypatch.setattr("adderlab.proof.prove.MOST_TRIED", 0)


@functools.cache
def made(layout: str, size: str, heads: int, kind: str) -> Checkpoint:
    """By construction."""
    model = adders.built(layout, SIZES[size], heads)
    seed = LAYOUTS.index(layout) + 10 * list(SIZES).index(size)
    if kind == "nudged":
        model = adders.nudged(model, seed)
    if kind == "half trained":
        model = adders.spoilt(model, seed)
    return adders.checkpoint(model)


def learnt(layout: str, size: str, heads: int, kind: str) -> Checkpoint:
    """By training."""
    found = trained(layout, SIZES[size], heads)
    if kind == "nudged":
        return nudged(found.right)
    return found.half if kind == "half trained" else found.right


def hold_to_the_truth(found: Checkpoint, kind: str) -> None:
    proof = with_smallest_margin(prove_checkpoint(found, limits=UNHURRIED))
    trial = try_all(found.module())
    assert disagreements(trial, proof) == []
    counts = (proof.failing_pairs, *proof.failing_by_step)
    for count, true in zip(counts, (trial.failing_float64, *trial.failing_by_step), strict=True):
        # Exact, but for margins so near zero that rounding decides: those are left open.
        low, high = count if isinstance(count, tuple) else (count, count)
        assert low <= true <= high <= low + trial.ties
    assert abs(proof.margin.witness - trial.margin) <= 1e-6
    assert (proof.verdict == "proved") == (trial.failing_float64 == 0) == (kind == "right")
    if kind == "nudged":
        assert 1 <= trial.failing_float64 <= 10
    if proof.verdict == "refuted":
        assert proof.counterexample is not None
        a, b = proof.counterexample
        assert greedy_answer(found.module())(a, b) != a + b
    report = check_document(certificate(proof), found, fp32=False)
    assert report.accepted == (proof.verdict == "proved")
    if report.accepted:
        assert report.pairs_per_step == trial.pairs and report.margin is not None
        assert 0 < report.margin <= trial.margin + TOLERANCE
    else:
        assert report.counterexample_confirmed


FAST = [
    ("P", "2 columns", 1, "right"),
    ("S", "2 columns", 2, "nudged"),
    ("C", "7 of base 2", 1, "right"),
    ("M", "2 columns", 1, "half trained"),
]
SIXTY = [
    # Heads alternate, so that every layout and every size has models of one head and of two.
    (layout, size, 1 + (i + j) % 2, kind)
    for i, layout in enumerate(LAYOUTS)
    for j, size in enumerate(SIZES)
    for kind in KINDS
]


@pytest.mark.parametrize(("layout", "size", "heads", "kind"), FAST)
def test_the_prover_counts_what_the_module_fails(layout, size, heads, kind) -> None:
    hold_to_the_truth(made(layout, size, heads, kind), kind)


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "size", "heads", "kind"), SIXTY)
def test_the_prover_counts_what_a_trained_module_fails(layout, size, heads, kind) -> None:
    hold_to_the_truth(learnt(layout, size, heads, kind), kind)


def test_a_trial_that_says_something_else_is_a_disagreement() -> None:
    found = made("P", "2 columns", 1, "right")
    proof, trial = with_smallest_margin(prove_checkpoint(found)), try_all(found.module())
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"failing_float64": 1}, "pairs: 1 fail by trial in float64, 0 to 0 by proof"),
        ({"failing_pairs": 7}, "which rounding does not explain"),
        ({"margin": trial.margin + 0.1}, "the smallest margin is"),
        ({"margin": trial.margin - 1.0}, "is above the smallest margin"),
    )
    for changes, told in cases:
        wrong = disagreements(dataclasses.replace(trial, **changes), proof)
        assert any(told in each for each in wrong), (changes, wrong)
