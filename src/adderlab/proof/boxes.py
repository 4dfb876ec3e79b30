"""Right, wrong or open: the head's verdict on rods, cut into parts where that helps.

A rod long enough for the mean-value bound to be weak is cut along its pivot into 4, 16, 64 parts,
unless two parts already lie on different sides of the decision: then only digits can decide.

Shapes: N boxes, K = H * E functionals, H heads, P parts, T competing tokens, D width.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adderlab.proof.head import MarginBounds, margin_bounds
from adderlab.proof.problem import Array, Head

Ints = NDArray[np.int64]
RIGHT, WRONG, OPEN = 0, 1, 2
PART_STEPS = (1, 4, 16, 64)
PART_BUDGET = 1 << 16
"""Boxes that a step may be cut into; with more open leaves than that, cutting is no help."""
MAX_BATCH = 1 << 14


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """N boxes low <= u <= high with the stream x = residual + u @ out and the right token of each.

    Rows of ``residual`` and ``out`` are picked by ``row_N``: many boxes share them.
    """

    low_NK: Array
    high_NK: Array
    residual_RD: Array
    out_RKD: Array
    pivot_RH: Ints
    """Which of the K functionals is the pivot of each head."""
    row_N: Ints
    target_N: Ints

    def take(self, rows: NDArray) -> Boxes:
        return Boxes(
            low_NK=self.low_NK[rows],
            high_NK=self.high_NK[rows],
            residual_RD=self.residual_RD,
            out_RKD=self.out_RKD,
            pivot_RH=self.pivot_RH,
            row_N=self.row_N[rows],
            target_N=self.target_N[rows],
        )

    def margins(self, head: Head) -> MarginBounds:
        return margin_bounds(
            head,
            self.residual_RD[self.row_N],
            self.out_RKD[self.row_N],
            self.low_NK,
            self.high_NK,
            self.target_N,
        )

    def cut(self, parts: int) -> Boxes:
        """Every box cut into ``parts`` equal parts along each head's pivot: N * parts^H boxes."""
        N, H = len(self.low_NK), self.pivot_RH.shape[1]
        cuts = np.array(list(itertools.product(range(parts), repeat=H)))
        rows = np.repeat(np.arange(N), len(cuts))
        part = np.tile(cuts, (N, 1))
        low, high = self.low_NK[rows], self.high_NK[rows]
        each = np.arange(len(rows))
        for h in range(H):
            pivot = self.pivot_RH[self.row_N[rows], h]
            start, size = low[each, pivot], high[each, pivot] - low[each, pivot]
            low[each, pivot] = start + size * part[:, h] / parts
            last = part[:, h] == parts - 1
            high[each, pivot] = np.where(
                last, high[each, pivot], start + size * (part[:, h] + 1) / parts
            )
        return Boxes(
            low_NK=low,
            high_NK=high,
            residual_RD=self.residual_RD,
            out_RKD=self.out_RKD,
            pivot_RH=self.pivot_RH,
            row_N=self.row_N[rows],
            target_N=self.target_N[rows],
        )


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Verdict per box, its smallest true margin (a lower bound), and the parts it was cut into."""

    status_N: NDArray[np.int8]
    margin_N: Array
    parts_N: Ints


def classify(bounds: MarginBounds) -> NDArray[np.int8]:
    """RIGHT where every margin is positive, WRONG where one is negative everywhere, else OPEN."""
    status = np.full(len(bounds.low_NT), OPEN, dtype=np.int8)
    status[(bounds.low_NT > 0).all(1)] = RIGHT
    status[(bounds.high_NT < 0).any(1)] = WRONG
    return status


def decide(head: Head, boxes: Boxes, max_parts: int = PART_STEPS[-1]) -> Decision:
    """Verdicts of N boxes; ``max_parts`` limits the cuts along each pivot."""
    N, H = len(boxes.low_NK), boxes.pivot_RH.shape[1]
    status_N = np.full(N, OPEN, dtype=np.int8)
    margin_N = np.full(N, -np.inf)
    parts_N = np.ones(N, dtype=np.int64)
    rows = np.arange(N)
    for parts in PART_STEPS:
        if not len(rows) or parts > max_parts:
            break
        if parts > 1 and (parts**H > PART_STEPS[-1] or len(rows) * parts**H > PART_BUDGET):
            break
        mixed = np.zeros(len(rows), dtype=bool)
        step = max(1, MAX_BATCH // parts**H)
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            bounds = (boxes.take(some) if parts == 1 else boxes.take(some).cut(parts)).margins(head)
            shape = (len(some), parts**H)
            each = classify(bounds).reshape(shape)
            right_at = (bounds.middle_NT > 0).all(1).reshape(shape)
            status_N[some] = np.where(
                (each == RIGHT).all(1), RIGHT, np.where((each == WRONG).all(1), WRONG, OPEN)
            )
            margin_N[some] = np.maximum(margin_N[some], bounds.true_low_N().reshape(shape).min(1))
            parts_N[some] = parts
            mixed[start : start + step] = np.any(right_at, 1) & ~np.all(right_at, 1)
        rows = rows[(status_N[rows] == OPEN) & ~mixed]
    return Decision(status_N=status_N, margin_N=margin_N, parts_N=parts_N)


def raise_margins(head: Head, boxes: Boxes, decision: Decision, goal: float) -> Decision:
    """Cut boxes whose margin bound is below ``goal`` into more parts, for a sharper bound."""
    margin_N, parts_N = decision.margin_N.copy(), decision.parts_N.copy()
    H = boxes.pivot_RH.shape[1]
    for parts in PART_STEPS[1:]:
        rows = np.flatnonzero((margin_N < goal) & (parts_N < parts))
        if not len(rows) or parts**H > PART_STEPS[-1] or len(rows) * parts**H > PART_BUDGET:
            break
        step = max(1, MAX_BATCH // parts**H)
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            low_N = boxes.take(some).cut(parts).margins(head).true_low_N()
            new_N = low_N.reshape(len(some), -1).min(1)
            better = new_N > margin_N[some]
            margin_N[some] = np.where(better, new_N, margin_N[some])
            parts_N[some] = np.where(better, parts, parts_N[some])
    return Decision(status_N=decision.status_N, margin_N=margin_N, parts_N=parts_N)
