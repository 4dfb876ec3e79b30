"""Verdicts and counts against trying every pair of small instances."""

import dataclasses
import time

import numpy as np
import pytest

from adderlab.proof.head import OPEN
from adderlab.proof.prove import Progress, prove_problem
from adderlab.proof.search import Limits, decide_leaves
from oracle.proof_twin import (
    all_margins,
    all_pairs,
    cancelling,
    fitted_problem,
    random_problem,
    sharing,
    with_constants,
)

KINDS = [
    ("P", 1, 1, "rms", "gelu"),
    ("M", 1, 2, "layer", "gelu"),
    ("S", 2, 3, "none", "gelu"),
    ("P", 2, 1, "rms", "relu"),
    ("S", 1, 2, "layer", "relu"),
    ("M", 1, 3, "none", "relu"),
    ("M", 1, 1, "rms", "swiglu"),
    ("P", 2, 2, "layer", "swiglu"),
    ("S", 1, 3, "none", "swiglu"),
]


@pytest.fixture(autouse=True)
def bounds_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that bounds leave open is tried."""
    monkeypatch.setattr("adderlab.proof.prove.MOST_TRIED", 0)


def truth(problem):
    """Failures per step, failing pairs, and every margin."""
    margins = all_margins(problem, *all_pairs(problem.columns))
    wrong = margins < 0
    return tuple(wrong.sum(0).tolist()), int(wrong.any(1).sum()), margins


@pytest.mark.parametrize(("style", "heads", "bottleneck", "norm", "activation"), KINDS)
def test_counts_are_exact_for_every_kind(style, heads, bottleneck, norm, activation) -> None:
    problem = random_problem(
        1,
        style=style,
        heads=heads,
        bottleneck=bottleneck,
        norm=norm,
        activation=activation,
        local=2.0,
    )
    by_step, pairs, margins = truth(problem)
    verdict = prove_problem(problem)
    assert verdict.verdict == "refuted" and verdict.reason == ""
    assert verdict.failing_by_step == by_step
    assert verdict.failing_pairs == pairs
    assert verdict.margin.bound is not None
    assert verdict.margin.bound <= margins.min() <= verdict.margin.witness + 1e-9
    a, b = verdict.margin.pair
    assert margins[a * 100 + b, verdict.margin.step] == pytest.approx(verdict.margin.witness, abs=1e-9)
    assert verdict.counterexample is not None
    a, b = verdict.counterexample
    assert margins[a * 100 + b].min() < 0


@pytest.mark.parametrize(
    ("style", "heads", "bottleneck", "norm", "activation"),
    [
        ("S", 2, 3, "none", "gelu"),
        ("P", 2, 1, "rms", "relu"),
        ("P", 3, 1, "layer", "swiglu"),
        ("M", 3, 2, "rms", "gelu"),
    ],
)
def test_counts_of_heads_that_share_their_coordinates_are_exact(
    style, heads, bottleneck, norm, activation
) -> None:
    apart = random_problem(
        2,
        style=style,
        heads=heads,
        bottleneck=bottleneck,
        norm=norm,
        activation=activation,
        local=2.0,
    )
    by_step, pairs, margins = truth(apart)
    verdict = prove_problem(sharing(apart))
    assert verdict.verdict == "refuted" and verdict.reason == ""
    assert verdict.failing_by_step == by_step and verdict.failing_pairs == pairs
    assert verdict.margin.bound is not None
    assert verdict.margin.bound <= margins.min() <= verdict.margin.witness + 1e-9


def test_bounding_heads_together_decides_more_leaves() -> None:
    """Two heads that nearly cancel: each moves far, and their sum hardly."""
    problem = cancelling(random_problem(1, bottleneck=2, local=1.0))
    left = []
    for each in (problem, sharing(problem)):
        results = [decide_leaves(each, step, Limits()) for step in each.steps]
        left.append(sum(result.inputs(OPEN) for result in results))
    assert left[1] < 0.6 * left[0]
    by_step, pairs, _ = truth(problem)
    verdict = prove_problem(sharing(problem))
    assert verdict.failing_by_step == by_step and verdict.failing_pairs == pairs


@pytest.mark.parametrize("seed", [0, 2])
def test_counts_of_pair_tokens_are_exact(seed: int) -> None:
    problem = fitted_problem(seed, style="pairs", hidden=160)
    by_step, pairs, margins = truth(problem)
    assert 0 < pairs < 10**4
    verdict = prove_problem(problem)
    assert verdict.failing_by_step == by_step and verdict.failing_pairs == pairs
    assert verdict.cells > 0 and verdict.margin.bound is not None
    assert verdict.margin.bound <= margins.min() <= verdict.margin.witness + 1e-9


@pytest.mark.parametrize(("bottleneck", "norm"), [(2, "rms"), (3, "none")])
def test_counts_of_heads_over_pair_tokens_are_exact(bottleneck: int, norm: str) -> None:
    apart = random_problem(1, style="pairs", heads=2, bottleneck=bottleneck, norm=norm, local=2.0)
    by_step, pairs, _ = truth(apart)
    verdict = prove_problem(sharing(apart))
    assert verdict.failing_by_step == by_step and verdict.failing_pairs == pairs


@pytest.mark.parametrize("seed", range(3))
def test_pairs_that_fail_at_several_steps_count_once(seed: int) -> None:
    problem = fitted_problem(seed)
    by_step, pairs, _ = truth(problem)
    assert max(by_step) < pairs < sum(by_step)
    verdict = prove_problem(problem)
    assert verdict.failing_by_step == by_step
    assert verdict.failing_pairs == pairs


def test_what_a_search_leaves_open_of_few_pairs_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adderlab.proof.prove.MOST_TRIED", 10**4)
    problem = random_problem(11, heads=2, bottleneck=3, norm="none")
    by_step, pairs, _ = truth(problem)
    verdict = prove_problem(problem, limits=Limits(cells=0))
    assert any(result.inputs(OPEN) for result in verdict.results)
    assert (verdict.failing_by_step, verdict.failing_pairs) == (by_step, pairs)


def test_a_search_that_is_not_allowed_brackets_the_truth() -> None:
    problem = random_problem(11, heads=2, bottleneck=3, norm="none")
    by_step, pairs, _ = truth(problem)
    verdict = prove_problem(problem, limits=Limits(cells=0))
    assert isinstance(verdict.failing_pairs, tuple) and "still open" in verdict.reason
    low, high = verdict.failing_pairs
    assert low <= pairs <= high
    for count, true in zip(verdict.failing_by_step, by_step, strict=True):
        low, high = count if isinstance(count, tuple) else (count, count)
        assert low <= true <= high
    assert any(isinstance(count, tuple) for count in verdict.failing_by_step)
    assert prove_problem(problem).failing_pairs == pairs


def test_without_any_known_failure_the_verdict_is_undecided() -> None:
    """A model whose logits all tie is never decided: no token wins, none loses."""
    problem = random_problem(0)
    flat = with_constants(problem, unembed=np.zeros((4, 12)))
    verdict = prove_problem(flat, limits=Limits(cells=500))
    assert verdict.verdict == "undecided"
    assert verdict.failing_pairs == (0, 10**4)
    assert verdict.counterexample is None and verdict.margin.witness == 0


def test_confirmation_by_the_real_model_decides_the_counterexample() -> None:
    problem = random_problem(1)
    asked: list[tuple[int, int]] = []

    def right(a: int, b: int) -> int:
        asked.append((a, b))
        return a + b

    stubborn = prove_problem(problem, confirm=right)
    assert stubborn.verdict == "refuted" and stubborn.counterexample is None
    assert "within its rounding" in stubborn.reason and len(asked) > 10
    late = prove_problem(problem, confirm=lambda a, b: a + b + ((a, b) == asked[3]))
    assert late.counterexample == asked[3] and late.answer == sum(asked[3]) + 1


def test_progress_is_reported_and_results_repeat() -> None:
    problem = random_problem(11, heads=2, bottleneck=3, norm="none")
    seen: list[Progress] = []
    first = prove_problem(problem, progress=seen.append)
    assert {p.phase for p in seen} == {"leaves", "search", "union"}
    assert [p.done for p in seen if p.phase == "leaves"] == [0, 1, 2, 3]
    left = [p.open_inputs for p in seen if p.phase == "search"]
    assert left == sorted(left, reverse=True) and left[-1] == 0
    for threads in (1, 2):
        second = prove_problem(problem, threads=threads)
        assert dataclasses.replace(first, seconds=0) == dataclasses.replace(second, seconds=0)


def test_waiting_for_another_proof_is_no_time_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search answers a proof's first word when the cores are free."""
    problem = random_problem(11, heads=2, bottleneck=3, norm="none")
    waited, clock = 0.0, time.monotonic

    def answered(at: Progress) -> None:
        nonlocal waited
        if at.phase == "leaves" and not at.done:
            waited += 1000.0

    monkeypatch.setattr("time.monotonic", lambda: clock() + waited)
    late = prove_problem(problem, progress=answered)
    assert waited == 1000.0 and late.seconds < 1000.0
    assert dataclasses.replace(late, seconds=0) == dataclasses.replace(prove_problem(problem), seconds=0)
