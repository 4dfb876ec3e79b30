"""Attention so sharp that float64 weights underflow: bounds and verdicts hold for it all the same."""

import dataclasses

import numpy as np
import pytest

from adderlab.errors import Failure
from adderlab.proof.carries import Rest, leaves
from adderlab.proof.problem import ONE_BAND, Problem, problem_from_tables
from adderlab.proof.prove import exact_tables, prove_problem
from adderlab.proof.ranges import sweep, thin_frame
from adderlab.proof.search import Limits
from adderlab.proof.witnesses import extremes
from adderlab.runs.checkpoints import load_checkpoint
from helpers.paths import ROOT
from oracle.proof_twin import (
    all_margins,
    all_pairs,
    attention,
    pairs_of_leaf,
    random_problem,
    step_margins,
    tokens_of,
    with_attn_out,
)

SPREADS = [1.0, 30.0, 300.0, 1e3, 3e3, 1e4, 1e5, 1e6]
STYLES = [("P", 1, 2), ("S", 2, 1), ("M", 1, 3)]


def spread_of(problem: Problem) -> float:
    """Largest minus smallest score of any query and key."""
    score = np.einsum("avhk,puhk->avhpu", problem.query_AVHK, problem.key_PVHK)
    return float((score.max((3, 4)) - score.min((3, 4))).max())


def with_spread(spread: float, seed: int, **kind) -> Problem:
    problem = random_problem(seed, **kind)
    factor = spread / spread_of(problem)
    return dataclasses.replace(problem, query_AVHK=factor * problem.query_AVHK)


@pytest.mark.parametrize(("style", "heads", "bottleneck"), STYLES)
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.slow
def test_bounds_hold_every_pair_and_extremes_are_attained(spread, style, heads, bottleneck) -> None:
    problem = with_spread(spread, 3, columns=2, style=style, heads=heads, bottleneck=bottleneck)
    rng = np.random.default_rng(0)
    for step in problem.steps:
        assert (len(step.bands) > 1) <= (spread > ONE_BAND)
        leaf, frame = leaves(step), thin_frame(step, Rest.of_leaf(step.index, 2))
        bounds_NHE2 = sweep(step, leaf, frame).bounds_NHE2
        assert np.isfinite(bounds_NHE2).all()
        rows_ZHEE = frame.functionals()
        for row in rng.choice(step.num_leaves, 40):
            y = attention(problem, step.index, tokens_of(problem, *pairs_of_leaf(step, leaf, row))[0])
            u = np.einsum("hke,bhe->bhk", rows_ZHEE[leaf.row_N[row]], y)
            low, high = bounds_NHE2[row, ..., 0], bounds_NHE2[row, ..., 1]
            assert (low <= u).all() and (u <= high).all()
            # Tight, too: a bound that says nothing would be sound.
            assert (u.min(0) - low <= 0.3 * (high - low) + 1e-3).all()
            assert (high - u.max(0) <= 0.3 * (high - low) + 1e-3).all()
            functional = rng.normal(size=(1, bottleneck))
            found = extremes(step, leaf, np.array([row]), heads - 1, functional)
            assert found.value_B[0] == pytest.approx((y[:, -1] @ functional[0]).max(), abs=1e-7)


@pytest.mark.parametrize(("style", "heads", "bottleneck"), STYLES)
@pytest.mark.parametrize("spread", SPREADS)
def test_counts_agree_with_every_pair(spread, style, heads, bottleneck) -> None:
    problem = with_spread(spread, 1, columns=2, style=style, heads=heads, bottleneck=bottleneck)
    margins = all_margins(problem, *all_pairs(2))
    # A margin within the slack of the bounds is open by right: it may count either way.
    surely, perhaps = (margins < -1e-4).any(1).sum(), (margins < 1e-4).any(1).sum()
    verdict = prove_problem(problem, limits=Limits(cells=200_000))
    count = verdict.failing_pairs
    low, high = count if isinstance(count, tuple) else (count, count)
    assert low <= perhaps and surely <= high
    assert high - low <= perhaps - surely
    assert verdict.margin.witness >= margins.min() - 1e-6
    assert verdict.margin.bound is not None and verdict.margin.bound <= margins.min()


@pytest.fixture(scope="module")
def right() -> Problem:
    checkpoint = load_checkpoint(ROOT / "records" / "best" / "456p" / "model.pt")
    return problem_from_tables(exact_tables(checkpoint))


def second_head(problem: Problem, score_of_9: float, value: float) -> Problem:
    """The same model with a head that looks at nines: its value is ``value``, and zero on a 9.

    So it adds ``value`` to the stream unless the prompt holds a 9, and then nothing.
    """
    query, key = (np.zeros_like(x) for x in (problem.query_AVHK, problem.key_PVHK))
    query[..., 0], key[:, 9, :, 0] = 1.0, score_of_9
    values = np.full_like(problem.value_PVHE, value)
    values[:, 9] = 0.0
    return dataclasses.replace(
        problem,
        query_AVHK=np.concatenate([problem.query_AVHK, query], 2),
        key_PVHK=np.concatenate([problem.key_PVHK, key], 2),
        value_PVHE=np.concatenate([problem.value_PVHE, values], 2),
        head=with_attn_out(problem.head, np.tile(problem.head.constants["attn_out"], (2, 1))),
    )


def test_keys_that_no_leaf_holds_do_not_hide_a_wrong_model(right: Problem) -> None:
    """The second head breaks every pair without a 9, whose weights all underflow beside a 9's."""
    wrong = second_head(right, 1e5, 30.0)
    verdict = prove_problem(wrong, limits=Limits(cells=0))
    assert verdict.verdict == "refuted" and np.isfinite(verdict.margin.witness)
    a, b = ([[value // 10**j % 10 for j in range(10)]] for value in verdict.margin.pair)
    margin = step_margins(wrong, verdict.margin.step, np.array(a), np.array(b))
    assert verdict.margin.witness == pytest.approx(margin[0], abs=1e-6) and margin[0] < 0
    assert "9" not in f"{verdict.margin.pair}"
    zeros = np.zeros((1, 10), dtype=np.int64)
    assert step_margins(wrong, 0, zeros, zeros)[0] < 0


@pytest.mark.slow
def test_a_sharp_head_that_changes_nothing_is_proved_all_the_same(right: Problem) -> None:
    plain = prove_problem(right)
    sharp = prove_problem(second_head(right, 1e5, 0.0))
    assert plain.verdict == sharp.verdict == "proved"
    assert sharp.margin.witness == pytest.approx(plain.margin.witness)
    assert sharp.margin.bound == pytest.approx(plain.margin.bound, rel=0.05)


@pytest.mark.slow
def test_scores_without_a_correct_digit_prove_nothing(right: Problem) -> None:
    """Beyond 2^53 a rounded score may be off by whole units, so every weight is in doubt."""
    huge = dataclasses.replace(right, query_AVHK=1e30 * right.query_AVHK)
    verdict = prove_problem(huge, limits=Limits(cells=0))
    assert verdict.verdict != "proved" and np.isfinite(verdict.margin.witness)


@pytest.mark.parametrize("part", ["query_AVHK", "value_PVHE", "row_AVR"])
def test_weights_beyond_float64_are_an_error_in_one_line(right: Problem, part: str) -> None:
    huge = dataclasses.replace(right, **{part: 1e200 * getattr(right, part)})
    with pytest.raises(Failure, match="too large for the prover"):
        prove_problem(huge, limits=Limits(cells=0))
