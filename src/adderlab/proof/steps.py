"""One step, all leaves: frame, ranges, verdicts, and the pairs that come closest to failing.

Shapes: N leaves in canonical order, Z query tokens, H heads, E bottleneck, K = H * E, n columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from adderlab.proof.boxes import OPEN, Boxes, Decision, decide
from adderlab.proof.columns import Rest
from adderlab.proof.extremes import extremes, pair_margins, to_ints
from adderlab.proof.frames import Frame, rod_frame
from adderlab.proof.groups import Group
from adderlab.proof.leaves import Leaves, leaves
from adderlab.proof.problem import Problem, Step
from adderlab.proof.ranges import Ranges, sweep
from adderlab.proof.search import Limits

GROUP_LEAVES = 256


@dataclass(frozen=True, kw_only=True)
class Witness:
    """A real pair and its smallest margin, in true logits, at one teacher-forced step."""

    margin: float
    step: int
    a: int
    b: int


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What the leaf pass found out about a step."""

    step: Step
    leaves: Leaves
    frame: Frame
    ranges: Ranges
    boxes: Boxes
    decision: Decision

    def inputs(self, status: int) -> int:
        """Number of inputs in leaves of this status."""
        return sum(self.leaves.inputs_N[self.decision.status_N == status].tolist())


def decide_leaves(problem: Problem, step: Step, limits: Limits) -> StepResult:
    """Ranges and verdicts of all leaves of a step."""
    leaf, frame = leaves(step), rod_frame(step, Rest.of_leaf(step.index, step.columns))
    ranges = sweep(step, leaf, frame, limits.nodes)
    H, E, D = problem.attn_out_HED.shape
    K, Z = H * E, len(step.tokens)
    bounds_NK2 = ranges.bounds_NHE2.reshape(-1, K, 2)
    boxes = Boxes(
        low_NK=bounds_NK2[..., 0],
        high_NK=bounds_NK2[..., 1],
        residual_RD=step.residual_ZD,
        out_RKD=frame.attn_out(problem.attn_out_HED).reshape(Z, K, D),
        pivot_RH=frame.pivot_ZH + E * np.arange(H),
        row_N=leaf.row_N,
        target_N=leaf.target_N,
    )
    decision = decide(problem.head, boxes, limits.parts)
    return StepResult(step=step, leaves=leaf, frame=frame, ranges=ranges, boxes=boxes, decision=decision)


def open_groups(problem: Problem, result: StepResult) -> Iterator[Group]:
    """The open leaves of a step, by query token, ready for branch and bound."""
    open_N = result.decision.status_N == OPEN
    for z in range(len(result.step.tokens)):
        rows = np.flatnonzero(open_N & (result.leaves.row_N == z))
        for start in range(0, len(rows), GROUP_LEAVES):
            some = rows[start : start + GROUP_LEAVES]
            yield Group.open(problem, result.step, result.leaves, z, some)


def witnesses(problem: Problem, result: StepResult, count: int) -> list[Witness]:
    """Real inputs from the ends of the ``count`` weakest rods of a step, smallest margin first.

    A rod's ends along its pivot are attained by real inputs, and a margin that is nearly linear
    along a thin rod is smallest at one of them.
    """
    rows = np.argsort(result.decision.margin_N, kind="stable")[:count]
    functional_ZHEE = result.frame.functionals()
    found = []
    for h in range(problem.heads):
        pivot_B = result.frame.pivot_ZH[result.leaves.row_N[rows], h]
        functional_BE = functional_ZHEE[result.leaves.row_N[rows], h, pivot_B]
        for sign in (-1.0, 1.0):
            ends = extremes(result.step, result.leaves, rows, h, sign * functional_BE)
            margin_B = pair_margins(problem, result.step, ends.a_BJ, ends.b_BJ)
            found += [
                Witness(margin=margin, step=result.step.index, a=a, b=b)
                for margin, a, b in zip(
                    margin_B.tolist(), to_ints(ends.a_BJ), to_ints(ends.b_BJ), strict=True
                )
            ]
    return sorted(found, key=lambda w: (w.margin, w.a, w.b))
