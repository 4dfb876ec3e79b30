"""The claims about one step, proved again: bounds, head, split trees and the number of pairs.

First the partition (the leaves hold 10^(2n) pairs, and the cells of a split leaf all of the leaf's),
then the bounds of y on every leaf and cell, then the head on every box. Each part relies on the one
before: a box that the head decides says something about pairs only because the bounds hold, and the
boxes together say something about all pairs only because the leaves partition them.

The boxes of a step are handed on in a ``Batch`` to whatever more is to be shown of them
(``Examination``: by the module's own code, in fp32). What holds on a box that contains others holds on
each of them. Many leaves have nearly the same box, so one *hull* around several neighbours often settles
all of them. Where it does not, its boxes are tried one by one, and then their halves (``settle``).

Shapes: N leaves, cells or boxes, Z query tokens, R rows of frames, H heads, E bottleneck, K = H * E
coordinates of a box, D width, S split leaves.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from adderlab.checker.document import Frame, Rejected, StepClaims
from adderlab.checker.head import BOXES_AT_ONCE, Rows, margins, proved_margins
from adderlab.checker.intervals import Array, Interval, stack
from adderlab.checker.model import FREE, Head, Leaves, Model, Step, leaves_of
from adderlab.checker.ranges import (
    Projected,
    cell_excess,
    count,
    joint_excess,
    leaf_excess,
    own_slots,
    project,
    read_tree,
)

MOST_PARTS = 4096
MOST_BOXES = 20_000_000
"""A step that is cut into more boxes than this is refused, for the sake of memory."""
BOXES_TOGETHER = 50_000
"""Boxes are looked at in batches of about so many: a step's leaves, if they are not cut."""
MOST_TOGETHER = 2 * BOXES_TOGETHER


@dataclass(frozen=True, kw_only=True)
class Watch:
    """Callbacks: the number of leaves and cells done since the last call, and the boxes proved."""

    advance: Callable[[int], None]
    boxes: Callable[[Batch], None] | None = None


@dataclass(frozen=True, kw_only=True)
class _Claimed:
    """Leaves or cells with their claims; ``row_N`` is the row of the frame and the directions."""

    cells: bool
    number_N: NDArray[np.intp]
    leaves: Leaves
    parts: Projected
    directions_RKD: Interval
    row_N: NDArray[np.intp]
    frame: Frame
    bounds_NHE2: Array
    joint_NE2: Array | None
    parts_NH: np.ndarray


def functionals(frame: Frame) -> Interval:
    """f_p.y = y_p at the pivot p, f_k.y = y_k - shear[k] y_p elsewhere: exact numbers, (R, H, E, E).

    Heads that share their coordinates share one frame: then H is 1, which serves all of them."""
    R, H, E = frame.shear_RHE.shape
    rows = np.zeros((R, H, E, E))
    rows[..., np.arange(E), np.arange(E)] = 1.0
    for r, h in np.ndindex(R, H):
        p = frame.pivot_RH[r, h]
        rows[r, h, :, p] = -frame.shear_RHE[r, h]
        rows[r, h, p, p] = 1.0
    return Interval(rows)


def _directions(frame: Frame, model: Model) -> Interval:
    """d x / d u_k: attn_out[h, k], and the sum of shear[k] attn_out[h, k] for the pivot: (R, K, D)."""
    R, H, E = frame.shear_RHE.shape
    D = model.out_HED.shape[2]
    rows = []
    for r in range(R):
        for h in range(H):
            along_D = (model.out_HED[h] * frame.shear_RHE[r, h][:, None]).sum(0)
            rows += [along_D if k == frame.pivot_RH[r, h] else model.out_HED[h, k] for k in range(E)]
    return stack(rows).reshape(R, H * E, D)


def take(leaves: Leaves, index: NDArray[np.intp]) -> Leaves:
    return Leaves(**{name: getattr(leaves, name)[index] for name in leaves.__dataclass_fields__})


def check_step(model: Model, step: Step, claim: StepClaims, watch: Watch) -> float:
    """Prove all claims of a step; the smallest margin proved. Raises ``Rejected``."""
    leaves, i = leaves_of(step), step.index
    split_rows = [split.leaf for split in claim.splits]
    if any(first >= second for first, second in pairwise(split_rows)):
        raise Rejected(f"step {i}: the split leaves do not ascend")
    whole = np.ones(len(leaves), dtype=bool)
    whole[split_rows] = False
    _check_parts(claim.parts_NH, whole, f"step {i}")

    a, b = step.given[: model.columns], step.given[model.columns :]
    by_carry = count(a, b, [FREE] * model.columns, i, step.base)
    # Of a window, some leaves hold no pair: they have nothing to prove.
    held = np.array(by_carry)[leaves.carry] > 0
    for slot, digit in own_slots(step, leaves):
        held &= (step.given[slot] == FREE) | (step.given[slot] == digit)
    if not held[split_rows].all():
        raise Rejected(f"step {i}: a leaf without any pair is split")
    inputs = sum(
        by_carry[carry] * int(number)
        for carry, number in enumerate(np.bincount(leaves.carry[held], minlength=2))
    )
    if inputs != model.num_pairs or claim.inputs != inputs:
        raise Rejected(
            f"step {i}: the leaves hold {inputs} pairs, the certificate says {claim.inputs}, "
            f"and there are {model.num_pairs}"
        )

    rows = np.arange(len(step.tokens), dtype=np.intp)
    parts = project(step, rows, functionals(claim.frame))
    excess = leaf_excess(step, leaves, parts, claim.nodes_ZHE2M, claim.bounds_NHE2)
    _require((excess <= 0) | ~held[:, None, None, None], f"step {i}: the bound of leaf")

    if claim.joint_NE2 is not None:
        excess = joint_excess(
            step,
            leaves,
            parts,
            leaves.row,
            np.tile(np.array(step.given, dtype=np.int8), (len(leaves), 1)),
            np.full((len(leaves), model.columns), FREE, dtype=np.int8),
            claim.bounds_NHE2,
            claim.joint_NE2,
        )
        _require((excess <= 0) | ~held[:, None, None], f"step {i}: the bound of the heads' sum on leaf")

    directions = _directions(claim.frame, model)
    keep = np.flatnonzero(whole & held)
    claimed = _Claimed(
        cells=False,
        number_N=keep,
        leaves=take(leaves, keep),
        parts=parts,
        directions_RKD=directions,
        row_N=leaves.row[keep],
        frame=claim.frame,
        bounds_NHE2=claim.bounds_NHE2[keep],
        joint_NE2=None if claim.joint_NE2 is None else claim.joint_NE2[keep],
        parts_NH=claim.parts_NH[keep],
    )
    margin = _check_head(model, step, claimed, claim.margin_bound, watch)
    watch.advance(len(leaves) - len(keep))
    if claim.splits:
        margin = min(margin, _check_splits(model, step, leaves, claim, by_carry, watch))
    if not claim.margin_bound <= margin:
        raise Rejected(f"step {i}: claims the margin {claim.margin_bound}; proved is {margin}")
    return margin


def _check_parts(parts_NH: np.ndarray, whole: NDArray[np.bool_], what: str) -> None:
    good = (parts_NH >= 1) & (parts_NH <= MOST_PARTS)
    if not good[whole].all() or parts_NH[~whole].any():
        raise Rejected(f"{what}: parts have to be at least 1, and 0 for a split leaf")


def _require(good: NDArray[np.bool_], what: str) -> None:
    bad = np.flatnonzero(~good.reshape(len(good), -1).all(1))
    if len(bad):
        raise Rejected(f"{what} {bad[0]} is not proved ({len(bad)} such in all)")


def _check_splits(
    model: Model,
    step: Step,
    leaves: Leaves,
    claim: StepClaims,
    by_carry: tuple[int, int],
    watch: Watch,
) -> float:
    i, n, splits = step.index, model.columns, claim.splits
    digits, carries, owner = [], [], []
    for number, split in enumerate(splits):
        carry = int(leaves.carry[split.leaf])
        cells, pairs = read_tree(split.tree, i, n, carry, step.given, step.base)
        if pairs != by_carry[carry]:
            raise Rejected(
                f"step {i}: the cells of leaf {split.leaf} hold {pairs} pairs, not {by_carry[carry]}"
            )
        if len(cells) != len(split.bounds_NHE2):
            raise Rejected(
                f"step {i}: leaf {split.leaf} has {len(cells)} cells and {len(split.bounds_NHE2)} boxes"
            )
        digits.append(cells.digits_NS)
        carries.append(cells.carries_NJ)
        owner.append(np.full(len(cells), number, dtype=np.intp))
    owner_N = np.concatenate(owner)
    leaf_N = np.array([split.leaf for split in splits], dtype=np.intp)
    frame = _joined([split.frame for split in splits])
    bounds_NHE2 = np.concatenate([split.bounds_NHE2 for split in splits])
    parts_NH = np.concatenate([split.parts_NH for split in splits])
    _check_parts(parts_NH, np.ones(len(parts_NH), dtype=bool), f"step {i}, cells")
    own_leaves = take(leaves, leaf_N[owner_N])
    parts = project(step, leaves.row[leaf_N], functionals(frame))
    digits_NS, carries_NJ = np.concatenate(digits), np.concatenate(carries)
    excess = cell_excess(step, own_leaves, parts, owner_N, digits_NS, carries_NJ, bounds_NHE2)
    _require(excess <= 0, f"step {i}: the bound of cell")
    joint_NE2 = None
    if claim.joint_NE2 is not None:
        joint_NE2 = np.concatenate([split.joint_NE2 for split in splits if split.joint_NE2 is not None])
        excess = joint_excess(
            step, own_leaves, parts, owner_N, digits_NS, carries_NJ, bounds_NHE2, joint_NE2
        )
        _require(excess <= 0, f"step {i}: the bound of the heads' sum on cell")
    claimed = _Claimed(
        cells=True,
        number_N=np.arange(len(owner_N)),
        leaves=own_leaves,
        parts=parts,
        directions_RKD=_directions(frame, model),
        row_N=owner_N,
        frame=frame,
        bounds_NHE2=bounds_NHE2,
        joint_NE2=joint_NE2,
        parts_NH=parts_NH,
    )
    return _check_head(model, step, claimed, claim.margin_bound, watch)


def _joined(frames: list[Frame]) -> Frame:
    return Frame(
        pivot_RH=np.concatenate([frame.pivot_RH for frame in frames]),
        shear_RHE=np.concatenate([frame.shear_RHE for frame in frames]),
    )


def _check_head(model: Model, step: Step, claimed: _Claimed, margin_bound: float, watch: Watch) -> float:
    """Prove that the right digit wins on every box; the smallest margin proved."""
    if number_of_boxes(claimed.parts_NH) > MOST_BOXES:
        raise Rejected(f"step {step.index}: more than {MOST_BOXES} boxes")
    wanted, smallest = max(margin_bound, LEAST), np.inf
    # Of heads that share their coordinates, what matters is where their sum lies.
    boxes_NHE2 = claimed.bounds_NHE2 if claimed.joint_NE2 is None else claimed.joint_NE2[:, np.newaxis]
    pivot_NH = claimed.frame.pivot_RH[claimed.row_N]
    for mine in _together(claimed.parts_NH):
        owner_N, low_NK, high_NK = _cut(boxes_NHE2[mine], claimed.parts_NH[mine], pivot_NH[mine])
        # One leaf may be cut into millions.
        for start in range(0, len(owner_N), MOST_TOGETHER):
            n = slice(start, start + MOST_TOGETHER)
            batch = _batch(model, step, claimed, (mine[owner_N[n]], low_NK[n], high_NK[n]), margin_bound)
            smallest = min(smallest, _prove_batch(batch, wanted))
            if watch.boxes is not None:
                watch.boxes(batch)
        watch.advance(len(mine))
    return smallest


def _together(parts_NH: np.ndarray) -> list[NDArray[np.intp]]:
    """Leaves or cells, so many together that their boxes are about ``BOXES_TOGETHER``, or one."""
    if not len(parts_NH):
        return []
    before_N = np.cumsum(parts_NH.astype(np.intp).prod(1))
    group_N = before_N // BOXES_TOGETHER
    return np.split(np.arange(len(parts_NH)), np.flatnonzero(np.diff(group_N)) + 1)


def _prove_batch(batch: Batch, wanted: float) -> float:
    """The smallest margin proved on boxes, none below ``wanted``. Raises ``Rejected``."""

    def bound(boxes: Boxes, _: float) -> tuple[Array, NDArray[np.intp]]:
        rows, low_NK, high_NK = boxes
        found = margins(batch.head, batch.right_N[rows], *batch.stream(rows), low_NK, high_NK)
        return found.true_low_N(), np.zeros(len(rows), dtype=np.intp)

    every = np.arange(len(batch.low_NK))
    least, (rows, low_NK, high_NK) = settle_hulls(
        batch, (every, batch.low_NK, batch.high_NK), bound, wanted
    )
    (residual, z), (directions, r) = batch.residual, batch.directions
    proved_N = proved_margins(
        batch.head,
        batch.right_N[rows],
        (residual, z[rows]),
        (directions, r[rows]),
        low_NK,
        high_NK,
        wanted,
    )
    bad = ~(proved_N >= wanted)
    if bad.any():
        raise Rejected(
            f"step {batch.step.index}: on {bad.sum()} boxes the margin of {batch.claimed} that the "
            "certificate claims is not proved"
        )
    return min(least, float(proved_N.min(initial=np.inf)))


_Cut = tuple[NDArray[np.intp], Array, Array]
"""The leaf or cell of each box, and its ends."""


def _batch(model: Model, step: Step, claimed: _Claimed, cut: _Cut, margin_bound: float) -> Batch:
    owner_N, low_NK, high_NK = cut
    leaves = take(claimed.leaves, owner_N)
    return Batch(
        step=step,
        cells=claimed.cells,
        owner_N=claimed.number_N[owner_N],
        head=model.head,
        leaves=leaves,
        parts=claimed.parts,
        residual=(step.residual_ZD, leaves.row),
        directions=(claimed.directions_RKD, claimed.row_N[owner_N]),
        low_NK=low_NK,
        high_NK=high_NK,
        heads_NHE2=None if claimed.joint_NE2 is None else claimed.bounds_NHE2[owner_N],
        claimed=margin_bound,
    )


def number_of_boxes(parts_NH: np.ndarray) -> float:
    """Boxes that leaves cut into these parts make: a float, since many heads overflow an integer."""
    return float(parts_NH.astype(np.float64).prod(1).sum())


def _cut(bounds_NHE2: Array, parts_NH: np.ndarray, pivot_NH: np.ndarray):
    """Boxes of leaves cut along each head's pivot: (leaf of each box, low_NK, high_NK).

    The inner edges may be any numbers, as long as neighbours share them.
    """
    N, H, E, _ = bounds_NHE2.shape
    low, high = bounds_NHE2[..., 0].reshape(N, H * E), bounds_NHE2[..., 1].reshape(N, H * E)
    owner = np.arange(N)
    for h in range(H):
        parts = parts_NH[owner, h]
        repeat = np.repeat(np.arange(len(owner)), parts)
        number = np.arange(len(repeat)) - np.repeat(np.cumsum(parts) - parts, parts)
        owner, low, high, parts = owner[repeat], low[repeat].copy(), high[repeat].copy(), parts[repeat]
        rows, k = np.arange(len(owner)), h * E + pivot_NH[owner, h]
        start, width = low[rows, k], high[rows, k] - low[rows, k]
        left, right = start + width * (number / parts), start + width * ((number + 1) / parts)
        low[rows, k] = np.where(number == 0, start, left)
        high[rows, k] = np.where(number + 1 == parts, high[rows, k], right)
    return owner, low, high


# Boxes on which something is to be shown: many at a time, a few neighbours as one, and in halves.

LEAST = 2.0**-1000
"""A margin has to be at least this to count as positive."""
HULLS = (16, 4)
"""Boxes in a hull: first so many, and where that is too many, so many."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Boxes of one step: on all of them the right digit has to win, by the head and by whatever else is
    examined."""

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

    def stream(self, rows: NDArray[np.intp]) -> tuple[Interval, Interval]:
        """On these boxes the stream is x_0 + sum_k u_k R_k: (n, D) and (n, K, D)."""
        (residual, z), (directions, r) = self.residual, self.directions
        return residual[z[rows]], directions[r[rows]]


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
