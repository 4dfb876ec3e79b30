"""Bounds of the attention output: sound for every pair, tight, and in frames that invert exactly."""

import numpy as np
import pytest

from adderlab.proof.carries import Rest, leaves
from adderlab.proof.ranges import Frame, sweep, thin_frame
from adderlab.proof.witnesses import extremes, pair_margins
from oracle.proof_twin import (
    all_margins,
    all_pairs,
    attention,
    pairs_of_leaf,
    random_problem,
    tokens_of,
)

CASES = [("P", 1, 2), ("S", 2, 1), ("M", 1, 3)]
COLUMNS = 3


def by_leaf(problem, rows):
    """For every step: leaf of each pair, and the attention output, computed the slow way."""
    a, b = (digits[rows] for digits in all_pairs(COLUMNS))
    tokens, _ = tokens_of(problem, a, b)
    for step in problem.steps:
        i = step.index
        key = np.zeros(len(a), dtype=np.int64)
        if i:
            below = 10 ** np.arange(i - 1)
            carry = ((a[:, : i - 1] + b[:, : i - 1]) @ below >= 10 ** (i - 1)) if i > 1 else 0 * key
            key = carry * 100 + a[:, i - 1] * 10 + b[:, i - 1]
        if i < COLUMNS:
            key = key * 100 + a[:, i] * 10 + b[:, i]
        yield step, key, attention(problem, i, tokens)


@pytest.mark.parametrize(("style", "heads", "bottleneck"), CASES)
@pytest.mark.parametrize("nodes", [3, 48])
def test_every_pair_is_inside_the_bounds_of_its_leaf(style, heads, bottleneck, nodes) -> None:
    problem = random_problem(
        7, columns=COLUMNS, style=style, heads=heads, bottleneck=bottleneck, local=1.0
    )
    rows = np.random.default_rng(0).choice(10 ** (2 * COLUMNS), 60_000, replace=False)
    for step, key, y in by_leaf(problem, rows):
        leaf = leaves(step)
        frame = thin_frame(step, Rest.of_leaf(step.index, COLUMNS))
        bounds = sweep(step, leaf, frame, nodes).bounds_NHE2[key]
        u = np.einsum("bhke,bhe->bhk", frame.functionals()[leaf.row_N[key]], y)
        assert (bounds[..., 0] <= u).all() and (u <= bounds[..., 1]).all()
        # Undoing the frame gives the same stream.
        out = frame.attn_out(problem.attn_out_HED)[leaf.row_N[key]]
        straight = np.einsum("bhe,hed->bd", y, problem.attn_out_HED)
        assert np.allclose(np.einsum("bhk,bhkd->bd", u, out), straight, atol=1e-11)


@pytest.mark.parametrize(("style", "heads", "bottleneck"), CASES)
@pytest.mark.parametrize(("columns", "index"), [(3, 3), (4, 1), (4, 2), (4, 3)])
def test_extremes_are_attained_and_nothing_exceeds_them(
    style, heads, bottleneck, columns, index
) -> None:
    problem = random_problem(
        3, columns=columns, style=style, heads=heads, bottleneck=bottleneck, local=1.0
    )
    rng = np.random.default_rng(1)
    h = heads - 1
    step = problem.steps[index]
    leaf = leaves(step)
    rows = rng.choice(step.num_leaves, 6)
    functional = rng.normal(size=(6, bottleneck))
    found = extremes(step, leaf, rows, h, functional)
    axes = Frame.axes(len(step.tokens), heads, bottleneck)
    bounds = sweep(step, leaf, axes).bounds_NHE2[rows, h]
    for item, row in enumerate(rows):
        a, b = pairs_of_leaf(step, leaf, row)
        assert len(a) == leaf.inputs_N[row]
        y = attention(problem, step.index, tokens_of(problem, a, b)[0])[:, h]
        assert found.value_B[item] == pytest.approx((y @ functional[item]).max(), abs=1e-12)
        attained = (a == found.a_BJ[item]).all(1) & (b == found.b_BJ[item]).all(1)
        assert y[attained] @ functional[item] == pytest.approx([found.value_B[item]], abs=1e-12)
        # The chord bounds enclose the leaf and are not much wider.
        low, high = y.min(0), y.max(0)
        assert (bounds[item, :, 0] <= low).all() and (high <= bounds[item, :, 1]).all()
        slack = (low - bounds[item, :, 0]) + (bounds[item, :, 1] - high)
        assert (slack < 0.02 * (high - low) + 1e-5).all()


def test_margins_of_pairs_are_those_of_the_twin() -> None:
    problem = random_problem(5, columns=2, style="P", heads=2)
    a, b = all_pairs(2)
    true = all_margins(problem, a, b)
    for step in problem.steps:
        assert np.allclose(pair_margins(problem, step, a, b), true[:, step.index], atol=1e-10)
