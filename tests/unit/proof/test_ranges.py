"""Bounds of the attention output: sound for every pair, tight, and in frames that invert exactly."""

import numpy as np
import pytest

from adderlab.proof.carries import Rest, leaves
from adderlab.proof.ranges import Frame, joint_leaf_bounds, sweep, thin_frame
from adderlab.proof.search import Group, Limits, decide_leaves
from adderlab.proof.witnesses import EVERY, extremes, pair_margins
from oracle.proof_twin import (
    all_margins,
    all_pairs,
    attention,
    cancelling,
    pairs_of_leaf,
    random_problem,
    sharing,
    tokens_of,
)

CASES = [("P", 1, 2), ("S", 2, 1), ("M", 1, 3), ("pairs", 1, 2)]
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
        out_HED = problem.head.constants["attn_out"].reshape(heads, bottleneck, -1)
        out = frame.attn_out(out_HED)[leaf.row_N[key]]
        straight = np.einsum("bhe,hed->bd", y, out_HED)
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


# Heads that share their coordinates.

SHARED = [
    cancelling(random_problem(4, columns=COLUMNS, bottleneck=2, local=1.0)),
    random_problem(5, columns=COLUMNS, style="S", heads=2, bottleneck=3, local=1.0),
    random_problem(6, columns=COLUMNS, style="M", heads=3, bottleneck=1, local=2.0),
]


@pytest.mark.parametrize("apart", SHARED)
def test_shared_coordinates_move_the_stream_alike(apart) -> None:
    problem = sharing(apart)
    (a, b), step = (digits[::37] for digits in all_pairs(2)), 1
    small = random_problem(5, style="S", heads=2, bottleneck=3)
    assert np.allclose(all_margins(small, a, b), all_margins(sharing(small), a, b), atol=1e-9)
    assert problem.head.program.mixed_width == problem.bottleneck
    frame = thin_frame(problem.steps[step], Rest.of_leaf(step, COLUMNS))
    assert (frame.shear_ZHE == frame.shear_ZHE[:, :1]).all()


@pytest.mark.parametrize("apart", SHARED)
def test_every_pair_is_inside_the_bounds_of_the_sum_of_heads(apart) -> None:
    problem, narrower = sharing(apart), []
    rows = np.random.default_rng(0).choice(10 ** (2 * COLUMNS), 60_000, replace=False)
    for step, key, y in by_leaf(problem, rows):
        leaf = leaves(step)
        frame = thin_frame(step, Rest.of_leaf(step.index, COLUMNS))
        ranges = sweep(step, leaf, frame)
        together = joint_leaf_bounds(step, leaf, frame, ranges.bounds_NHE2)
        u = np.einsum("bhke,bhe->bk", frame.functionals()[leaf.row_N[key]], y)
        for bounds in (ranges.joint_NE2(), together):
            assert (bounds[key, :, 0] <= u).all() and (u <= bounds[key, :, 1]).all()
        width, alone = (x[..., 1] - x[..., 0] for x in (together, ranges.joint_NE2()))
        assert (width <= alone + 1e-6).all()  # but for the rounding to float32
        narrower.append(float((width / alone).mean()))
    if apart is SHARED[0]:
        assert np.mean(narrower) < 0.7


@pytest.mark.parametrize("apart", SHARED)
def test_bounds_of_the_sum_hold_on_cells_too(apart) -> None:
    problem = sharing(apart)
    for index in (0, 3):
        result = decide_leaves(problem, problem.steps[index], Limits())
        z = int(result.leaves.row_N[0])
        rows = np.flatnonzero(result.leaves.row_N == z)[:3]
        group = Group.open(problem, result.step, result.leaves, z, rows)
        cells = group.children(group.roots(), 0)
        cells = cells.take(np.arange(0, len(cells.leaf_N), 29))
        _, _, joint_NE2 = group.decide(cells, 1)
        assert joint_NE2 is not None
        functional_KE = group.frame.functionals()[0, 0]
        for n, row in enumerate(rows[cells.leaf_N].tolist()):
            a, b = pairs_of_leaf(result.step, result.leaves, row)
            inside = np.ones(len(a), dtype=bool)
            for slot, digit in enumerate(cells.digits_NS[n].tolist()):
                digits = (a if slot < COLUMNS else b)[:, slot % COLUMNS]
                inside &= (digit < 0) | (digits == digit)
            carry = np.zeros(len(a), dtype=np.int64)
            for j in range(COLUMNS):
                inside &= np.isin(cells.carry_NC[n, j], (-1,)) | (carry == cells.carry_NC[n, j])
                carry = (a[:, j] + b[:, j] + carry) // 10
            y = attention(problem, index, tokens_of(problem, a[inside], b[inside])[0]).sum(1)
            u = y @ functional_KE.T
            assert len(u)
            assert (joint_NE2[n, :, 0] <= u).all() and (u <= joint_NE2[n, :, 1]).all()


@pytest.mark.parametrize("apart", SHARED)
def test_large_sums_of_heads_are_attained(apart) -> None:
    problem = sharing(apart)
    step, leaf = problem.steps[3], leaves(problem.steps[3])
    rows, E = np.arange(0, len(leaf.row_N), 41), problem.bottleneck
    functional = np.random.default_rng(2).normal(size=(len(rows), E))
    found = extremes(step, leaf, rows, EVERY, functional)
    reached = []
    for item, row in enumerate(rows):
        a, b = pairs_of_leaf(step, leaf, int(row))
        y = attention(problem, 3, tokens_of(problem, a, b)[0]).sum(1) @ functional[item]
        attained = (a == found.a_BJ[item]).all(1) & (b == found.b_BJ[item]).all(1)
        assert y[attained] == pytest.approx([found.value_B[item]], abs=1e-12)
        reached.append((found.value_B[item] - y.min()) / (y.max() - y.min()))
    assert np.mean(reached) > 0.95
