"""What the search leaves open, of a task whose pairs are few: tried pair by pair.

A model that is refuted is left to count. Bounds of a badly trained model decide few of its cells, and of
three columns' million pairs each is worked out in microseconds, in float64 and from the same tables.
Nothing is proved this way: a proof is made of bounds alone.

Shapes: N cells, B pairs, J operand columns, S = 2 J slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adderlab.proof import count as union
from adderlab.proof.head import OPEN
from adderlab.proof.problem import FREE, Problem
from adderlab.proof.search import Group, StepResult
from adderlab.proof.witnesses import pair_margins

MOST_TRIED = union.MOST_MARKED
"""Pairs of a task up to which that is done."""
AT_ONCE = 256
"""Cells, of up to some hundred pairs each."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """Of one step's open inputs, those whose margins are beyond rounding."""

    right: int
    wrong: union.Patterns
    """A pattern for each."""


def try_open_inputs(
    problem: Problem, result: StepResult, groups: Sequence[Group], rounding: float
) -> Tried:
    """All inputs of a step that neither a leaf nor a cell decides; margins up to ``rounding`` say
    nothing. ``groups`` are those of all steps."""
    step = result.step
    right, wrong = 0, [np.zeros((0, 3 * step.columns + 1), dtype=np.uint16)]
    cells = _open_cells(result, [group for group in groups if group.step.index == step.index])
    for start in range(0, len(cells), AT_ONCE):
        a_BJ, b_BJ = union.pairs_in(cells[start : start + AT_ONCE], step.base)
        margin_B = pair_margins(problem, step, a_BJ, b_BJ)
        right += int((margin_B > rounding).sum())
        fails_BS = np.concatenate([a_BJ, b_BJ], 1)[margin_B < -rounding].astype(np.int8)
        unsaid = np.full((len(fails_BS), step.columns), FREE, dtype=np.int8)
        wrong.append(union.patterns(fails_BS, unsaid, step.base))
    return Tried(right=right, wrong=np.concatenate(wrong))


def _open_cells(result: StepResult, groups: Sequence[Group]) -> union.Patterns:
    """Leaves that no group took up, and what the groups left open."""
    step, open_N = result.step, result.decision.status_N == OPEN
    for group in groups:
        open_N[group.leaf_rows] = False
    cells = [
        union.patterns(part.cells.digits_NS, part.cells.carry_NC, step.base)
        for group in groups
        for part in group.decided
        if part.status == OPEN
    ]
    return np.concatenate([union.leaf_patterns(step, result.leaves, open_N), *cells])
