"""The claims about one step, proved again: bounds, head, split trees and the number of pairs.

First the partition (the leaves hold 10^(2n) pairs, and the cells of a split leaf all of the leaf's),
then the bounds of y on every leaf and cell, then the head on every box. Each part relies on the one
before: a box that the head decides says something about pairs only because the bounds hold, and the
boxes together say something about all pairs only because the leaves partition them.

Shapes: N leaves, cells or boxes, Z query tokens, R rows of frames, H heads, E bottleneck, K = H * E, D
width, S split leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from adderlab.checker.boxes import LEAST, Batch, Boxes, settle_hulls
from adderlab.checker.document import Frame, Rejected, StepClaims
from adderlab.checker.head import margins, proved_margins
from adderlab.checker.intervals import Array, Interval, stack
from adderlab.checker.model import FREE, Leaves, Model, Step, leaves_of
from adderlab.checker.ranges import (
    Projected,
    cell_excess,
    count,
    joint_excess,
    leaf_excess,
    own_slots,
    project,
)
from adderlab.checker.trees import read_tree

MOST_PARTS = 4096
MOST_BOXES = 20_000_000
"""A step that is cut into more boxes than this is refused, for the sake of memory."""
BOXES_TOGETHER = 50_000
"""Boxes are handed on in batches of about so many or more: a step's leaves, if they are not cut."""


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
    for mine in _together(claimed.parts_NH):
        batch = _batch(model, step, claimed, mine, margin_bound)
        smallest = min(smallest, _prove_batch(batch, wanted))
        if watch.boxes is not None:
            watch.boxes(batch)
        watch.advance(len(mine))
    return smallest


def _together(parts_NH: np.ndarray) -> list[NDArray[np.intp]]:
    """Leaves or cells, so many together that their boxes are about ``BOXES_TOGETHER``."""
    if not len(parts_NH):
        return []
    before_N = np.cumsum(parts_NH.astype(np.intp).prod(1))
    group_N = before_N // BOXES_TOGETHER
    return np.split(np.arange(len(parts_NH)), np.flatnonzero(np.diff(group_N)) + 1)


def _prove_batch(batch: Batch, wanted: float) -> float:
    """The smallest margin proved on boxes, none below ``wanted``. Raises ``Rejected``."""

    def bound(boxes: Boxes, _: float) -> tuple[Array, NDArray[np.intp]]:
        rows, low_NK, high_NK = boxes
        (residual, z), (directions, r) = batch.residual, batch.directions
        own_ND, own_NKD = residual[z[rows]], directions[r[rows]]
        found = margins(batch.head, batch.right_N[rows], own_ND, own_NKD, low_NK, high_NK)
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


def _batch(
    model: Model, step: Step, claimed: _Claimed, mine: NDArray[np.intp], margin_bound: float
) -> Batch:
    """The boxes of some leaves or cells."""
    # Of heads that share their coordinates, what matters is where their sum lies.
    boxes_NHE2 = claimed.bounds_NHE2 if claimed.joint_NE2 is None else claimed.joint_NE2[:, np.newaxis]
    pivot_NH = claimed.frame.pivot_RH[claimed.row_N[mine]]
    owner_N, low_NK, high_NK = _cut(boxes_NHE2[mine], claimed.parts_NH[mine], pivot_NH)
    owner_N = mine[owner_N]
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
