"""Boxes on which something is to be shown: many at a time, a few neighbours as one, and in halves.

What holds on a box that contains others holds on each of them. Many leaves have nearly the same box,
so one *hull* around several neighbours often settles all of them. Where it does not, its boxes are
tried one by one, and then their halves.

Shapes: N boxes, K coordinates of a box.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from adderlab.checker.head import BOXES_AT_ONCE, Rows
from adderlab.checker.intervals import Array
from adderlab.checker.model import Head, Leaves, Step
from adderlab.checker.ranges import Projected

LEAST = 2.0**-1000
"""A margin has to be at least this to count as positive."""
HULLS = (16, 4)
"""Boxes in a hull: first so many, and where that is too many, so many."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Boxes of one step on which the head's claim has been proved."""

    step: Step
    cells: bool
    """Whether these are cells of split leaves."""
    owner_N: NDArray[np.intp]
    """Number of the leaf, or cell, that each box belongs to."""
    head: Head
    leaves: Leaves
    """One entry for each box."""
    parts: Projected
    residual: Rows
    directions: Rows
    """Its rows are those of ``parts``."""
    low_NK: Array
    high_NK: Array
    heads_NHE2: Array | None
    """Where a box bounds the sum of the heads: bounds of each of them."""
    claimed: float
    """The margin bound that the certificate claims for the step."""

    @property
    def right_N(self) -> NDArray[np.intp]:
        """The digit that has to win on each box."""
        return self.leaves.right


Open = tuple[int, bool, int]
"""(step, whether cells, number) of a leaf or cell on which nothing is shown."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What came of the boxes of some steps."""

    halves: int
    margin: float
    reason: str | None
    left: frozenset[Open]


@dataclass(kw_only=True)
class Examination:
    """Something shown of the boxes of all steps, perhaps of each step in a process of its own."""

    effort: int
    """Halves that may be tried."""
    halves: int = 0
    """Boxes tried beside those there were."""
    margin: float = math.inf
    """The smallest that was shown."""
    reason: str | None = None
    """Why no more is shown."""
    left: set[Open] = field(default_factory=set)
    """What is open."""

    def alone(self) -> Self:
        """The same with nothing taken yet: for one step."""
        return dataclasses.replace(self, halves=0, margin=math.inf, left=set())

    @property
    def part(self) -> Part:
        """What came of what was taken."""
        return Part(
            halves=self.halves, margin=self.margin, reason=self.reason, left=frozenset(self.left)
        )

    def join(self, part: Part) -> None:
        """Take what has been taken elsewhere."""
        self.halves, self.margin = self.halves + part.halves, min(self.margin, part.margin)
        self.left |= part.left
        self.reason = self.reason or part.reason
        if self.reason is None and self.halves > self.effort:
            self.reason = self.too_much("in all")

    def too_much(self, where: str) -> str:
        """The reason when the effort is used up."""
        raise NotImplementedError


Boxes = tuple[NDArray[np.intp], Array, Array]
"""Rows of a batch, and the ends (N, K) of a box for each."""

Attempt = Callable[[Boxes, float], tuple[Array, NDArray[np.intp]]]
"""From boxes and what is wanted of them to a lower bound for each (not a number where there is none),
and the coordinate in which the bound loses most."""


def settle(
    batch: Batch,
    boxes: Boxes,
    attempt: Attempt,
    enough: Callable[[int], float],
    most_halvings: int,
    spend: Callable[[int], None],
) -> tuple[float, NDArray[np.intp]]:
    """Bound boxes until each reaches what is ``enough`` after so many halvings: the smallest bound that
    was, and the rows of the boxes (some perhaps twice) that do not reach it after ``most_halvings``.

    ``spend`` is called with the number of boxes that halving makes, and may raise.
    """
    least, boxes = settle_hulls(batch, boxes, attempt, enough(0))
    for halving in range(most_halvings + 1):
        smallest, open_N, axis_N = _tried(boxes, attempt, enough(halving))
        least, boxes = min(least, smallest), _take(boxes, open_N)
        if not len(boxes[0]) or halving == most_halvings:
            break
        boxes = halved(boxes, axis_N[open_N])
        spend(len(boxes[0]))
    return least, boxes[0]


def settle_hulls(batch: Batch, boxes: Boxes, attempt: Attempt, wanted: float) -> tuple[float, Boxes]:
    """Bound hulls: the smallest bound that is as ``wanted``, and the boxes of which no hull has one."""
    least = np.inf
    boxes, hulls = neighbours(batch, boxes)
    while hulls:
        around, member_N = hull_boxes(boxes, hulls[0])
        smallest, open_N, _ = _tried(around, attempt, wanted)
        least, open_N = min(least, smallest), open_N[member_N]
        boxes, hulls = _take(boxes, open_N), [each[open_N] for each in hulls[1:]]
    return least, boxes


def _tried(
    boxes: Boxes, attempt: Attempt, wanted: float
) -> tuple[float, NDArray[np.bool_], NDArray[np.intp]]:
    """The smallest bound that is as ``wanted``, the boxes that have none, and where each loses most."""
    least, N = np.inf, len(boxes[0])
    open_N, axis_N = np.ones(N, dtype=bool), np.zeros(N, dtype=np.intp)
    for start in range(0, N, BOXES_AT_ONCE):
        n = slice(start, start + BOXES_AT_ONCE)
        bound_n, axis_N[n] = attempt(_take(boxes, n), wanted)
        open_N[n] = ~(bound_n >= wanted)
        least = min(least, float(bound_n[~open_N[n]].min(initial=np.inf)))
    return least, open_N, axis_N


def _take(boxes: Boxes, index: slice | NDArray) -> Boxes:
    rows, low_NK, high_NK = boxes
    return rows[index], low_NK[index], high_NK[index]


def neighbours(batch: Batch, boxes: Boxes) -> tuple[Boxes, list[NDArray[np.intp]]]:
    """The boxes in another order, and for each size in ``HULLS`` the number of every box's hull: boxes
    with the same right digit, rest of the stream and axes, next to each other along the coordinates in
    which they differ most."""
    rows, low_NK, high_NK = boxes
    keys = [batch.directions[1][rows], batch.residual[1][rows], batch.right_N[rows]]
    order_N = np.lexsort(keys)
    rows, low_NK, high_NK = _take(boxes, order_N)
    middle_NK = 0.5 * low_NK + 0.5 * high_NK
    differs_N = np.zeros(len(rows), dtype=bool)
    for key in keys:
        differs_N[1:] |= np.diff(key[order_N]) != 0
    hull_N, found = np.cumsum(differs_N), []
    for most in HULLS:
        while len(rows) and (size := np.bincount(hull_N)).max() > most:
            start = np.cumsum(size) - size
            spread = np.maximum.reduceat(middle_NK, start) - np.minimum.reduceat(middle_NK, start)
            width = np.add.reduceat(high_NK - low_NK, start) / size[:, np.newaxis]
            axis = np.nan_to_num(spread / (width + np.finfo(float).tiny)).argmax(1)
            order_N = np.lexsort((middle_NK[np.arange(len(rows)), axis[hull_N]], hull_N))
            rows, low_NK, high_NK = _take((rows, low_NK, high_NK), order_N)
            middle_NK = middle_NK[order_N]
            found = [each[order_N] for each in found]
            # Hulls that are small enough stay whole, the others are cut in the middle.
            place_N = np.arange(len(rows)) - start[hull_N]
            second_N = (2 * place_N >= size[hull_N]) & (size[hull_N] > most)
            hull_N = np.unique(2 * hull_N + second_N, return_inverse=True)[1]
        found.append(hull_N)
    return (rows, low_NK, high_NK), found


def hull_boxes(boxes: Boxes, hull_N: NDArray[np.intp]) -> tuple[Boxes, NDArray[np.intp]]:
    """One box around those of each hull, which lie together, and for every box the number of its own."""
    rows, low_NK, high_NK = boxes
    if not len(rows):
        return boxes, rows
    start = np.flatnonzero(np.diff(hull_N, prepend=hull_N[0] - 1))
    member_N = np.cumsum(np.diff(hull_N, prepend=hull_N[0]) != 0)
    low, high = np.minimum.reduceat(low_NK, start), np.maximum.reduceat(high_NK, start)
    return (rows[start], low, high), member_N


def halved(boxes: Boxes, axis_N: NDArray[np.intp]) -> Boxes:
    """Two boxes for each."""
    rows, low_NK, high_NK = boxes
    each = np.arange(len(rows))
    cut = low_NK[each, axis_N] + 0.5 * (high_NK[each, axis_N] - low_NK[each, axis_N])
    left_high, right_low = high_NK.copy(), low_NK.copy()
    left_high[each, axis_N] = right_low[each, axis_N] = cut
    return (
        np.concatenate([rows, rows]),
        np.concatenate([low_NK, right_low]),
        np.concatenate([left_high, high_NK]),
    )
