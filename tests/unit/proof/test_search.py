"""Branch and bound on single groups of leaves, against every pair of those leaves."""

import time

import numpy as np
import pytest

from adderlab.proof.carries import leaves
from adderlab.proof.head import OPEN, RIGHT, WRONG
from adderlab.proof.search import Group, Limits, decide_leaves, search
from oracle.proof_twin import attention, pairs_of_leaf, random_problem, step_margins, tokens_of

CASES = [(4, 2, 1, "S"), (4, 3, 1, "P"), (4, 1, 2, "M"), (3, 3, 2, "S"), (3, 0, 1, "M"), (3, 2, 1, "P")]


def group_of(columns: int, index: int, heads: int, style: str, count: int = 3):
    """Leaves of one query token on which some pairs are right and some wrong."""
    for seed in range(40):
        problem = random_problem(
            seed, columns=columns, style=style, heads=heads, bottleneck=2, activation="relu", local=0.5
        )
        step = problem.steps[index]
        leaf = leaves(step)
        status = decide_leaves(problem, step, Limits()).decision.status_N
        for row in np.flatnonzero(status == OPEN)[:200:10]:
            a, b = pairs_of_leaf(step, leaf, row)
            some = slice(None, None, max(1, len(a) // 200))
            margin = step_margins(problem, index, a[some], b[some])
            if margin.min() < 0 < margin.max():
                z = leaf.row_N[row]
                others = np.flatnonzero((status == OPEN) & (leaf.row_N == z))
                rows = np.unique([row, *others[: count - 1]])
                return problem, step, leaf, rows, Group.open(problem, step, leaf, z, rows)
    raise AssertionError("no mixed leaves in forty instances")


def run(group: Group, cells: int = 10**7) -> int:
    return search([group], Limits(cells=cells), time.monotonic() + 100, lambda done, left: None)


@pytest.mark.parametrize(("columns", "index", "heads", "style"), CASES)
def test_counts_are_those_of_all_pairs_of_the_leaves(columns, index, heads, style) -> None:
    problem, step, leaf, rows, group = group_of(columns, index, heads, style)
    run(group)
    right = wrong = 0
    for row in rows:
        margin = step_margins(problem, index, *pairs_of_leaf(step, leaf, row))
        right, wrong = right + int((margin > 0).sum()), wrong + int((margin < 0).sum())
    assert group.inputs[RIGHT] == right and group.inputs[WRONG] == wrong
    assert group.inputs[OPEN] == 0
    assert right + wrong == group.total == sum(leaf.inputs_N[rows].tolist())
    assert wrong and right


@pytest.mark.parametrize(("columns", "index", "heads", "style"), CASES[:3])
def test_children_partition_their_parents_and_boxes_hold_their_pairs(columns, index, heads, style):
    problem, step, leaf, rows, group = group_of(columns, index, heads, style, count=2)
    cells = group.roots()
    assert group.inputs_of(cells, 0) == group.total
    for level in range(min(3, len(group.moves))):
        cells = group.children(cells, level)
        assert group.inputs_of(cells, level + 1) == group.total
        keys = np.concatenate([cells.leaf_N[:, None], cells.digits_NS, cells.carry_NC], 1)
        assert len(np.unique(keys, axis=0)) == len(keys)
    level = min(3, len(group.moves))
    box = group.box(cells, level).reshape(len(cells.leaf_N), heads, -1, 2)
    functional = group.frame.functionals()[0]
    for number, row in enumerate(rows):
        a, b = pairs_of_leaf(step, leaf, row)
        y = attention(problem, index, tokens_of(problem, a, b)[0])
        u = np.einsum("hke,bhe->bhk", functional, y)
        digits = np.concatenate([a, b], 1)
        for cell in np.flatnonzero(cells.leaf_N == number)[::37]:
            wanted = cells.digits_NS[cell]
            inside = ((digits == wanted) | (wanted < 0)).all(1)
            carry = np.zeros(len(a), dtype=np.int64)
            for j in range(columns):
                held = cells.carry_NC[cell, j]
                if j < max(index, 1) and held >= 0:
                    inside &= carry == held
                carry = (a[:, j] + b[:, j] + carry) // 10
            assert inside.sum() == group.inputs_of(cells.take(np.array([cell])), level)
            low, high = box[cell, ..., 0], box[cell, ..., 1]
            assert (low <= u[inside]).all() and (u[inside] <= high).all()


def test_what_is_left_open_is_counted() -> None:
    *_, group = group_of(4, 3, 1, "P")
    bounded = run(group, cells=20)
    assert 20 <= bounded < run(group_of(4, 3, 1, "P")[-1])
    assert group.inputs[OPEN] > 0
    assert sum(group.inputs) == group.total
    left = [part for part in group.decided if part.status == OPEN]
    assert sum(group.inputs_of(part.cells, part.level) for part in left) == group.inputs[OPEN]
