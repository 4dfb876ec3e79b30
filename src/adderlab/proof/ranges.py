"""How far the attention output reaches: bounds of E functionals per head on every leaf or cell.

On a cell, f.y <= tau for every pair if and only if S(tau) = max sum_p W (f.U - tau) <= 0: the total
weight is positive, so a ratio is at most tau exactly where the numerator minus tau times the
denominator is not. Unlike the ratio, that sum is separable, which is what the carry DP needs.

S is the cell's own part, linear in tau, plus a convex function G of what is left to choose. G depends
on the query token and on carries alone, so thousands of cells share it. It is worked out at a few
*nodes*; a chord of G between two nodes lies above it, and where the cell's own part plus the chord is
zero, tau bounds f.y (docs/proof.md, section 1).

Shapes: N leaves or cells, G groups that share one G(tau), Z query tokens, H heads, E functionals per
head (and dimensions of y), D width, M nodes, C carry codes, L slots, T digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adderlab.errors import Failure
from adderlab.proof.carries import Fixed, Leaves, Rest, fixed_parts, maximum
from adderlab.proof.problem import Array, Step, Weights

Ints = NDArray[np.int64]
SLACK = 1e-9
"""Relative widening of every bound, far above float64 rounding, for an outward-rounding checker."""
ROUNDING = 1e-6
"""Relative widening of the outermost nodes, so that bounds rounded to float32 lie between nodes."""
CANCELLATION = 1e-3
"""What is left of values that cancel may be this small a share of them before the share counts."""
IMPOSSIBLE = -1e250
"""The gain of a forbidden digit: far below all real gains, and sums of it stay finite."""
LARGEST = 1e38
"""Bounds beyond this do not fit the float32 numbers of a certificate."""
TOO_LARGE = "this model's weights are too large for the prover: bounds of its attention overflow"
SUM_ROUNDING = 1e-14
"""Relative room for adding the bounds of heads."""
JOINT_AT_ONCE = 512
COARSE_NODES, FINE_NODES, CELL_NODES = 12, 48, 12
SIGNS = (-1.0, 1.0)
"""Side 0 bounds f.y from below, as minus the largest -f.y; side 1 from above."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Coordinates of the attention output in which a leaf's box is thin, for every (z, h).

    What a leaf leaves free moves y nearly along one line, because the values of the ten digits lie
    nearly on a curve. In plain coordinates the box around that line would be fat; so all functionals
    but one are chosen constant along it. With p the pivot and shear[p] = 1: f_p.y = y_p, and
    f_k.y = y_k - shear[k] y_p otherwise. The inverse is exact: y_p = u_p, y_k = u_k + shear[k] u_p. A
    rotation would be narrower still, but its inverse is rounded, and a checker would have to bound that.
    """

    pivot_ZH: NDArray[np.int64]
    shear_ZHE: Array

    @classmethod
    def axes(cls, Z: int, H: int, E: int) -> Frame:
        shear_ZHE = np.zeros((Z, H, E))
        shear_ZHE[:, :, 0] = 1.0
        return cls(pivot_ZH=np.zeros((Z, H), dtype=np.int64), shear_ZHE=shear_ZHE)

    @classmethod
    def along(cls, direction_ZHE: Array) -> Frame:
        """The frame of a given direction; its largest coordinate is the pivot."""
        pivot_ZH = np.abs(direction_ZHE).argmax(2)
        largest_ZH1 = np.take_along_axis(direction_ZHE, pivot_ZH[..., None], 2)
        largest_ZH1 = np.where(largest_ZH1 == 0, 1.0, largest_ZH1)
        shear_ZHE = direction_ZHE / largest_ZH1
        np.put_along_axis(shear_ZHE, pivot_ZH[..., None], 1.0, 2)
        return cls(pivot_ZH=pivot_ZH, shear_ZHE=shear_ZHE)

    def functionals(self) -> Array:
        """Rows f_k: (Z, H, E, E)."""
        Z, H, E = self.shear_ZHE.shape
        rows = np.broadcast_to(np.eye(E), (Z, H, E, E)).copy()
        pivot = self.pivot_ZH[:, :, None]
        column = -self.shear_ZHE
        np.put_along_axis(column, pivot, 1.0, 2)
        np.put_along_axis(rows, pivot[..., None], column[..., None], 3)
        return rows

    def attn_out(self, attn_out_HED: Array) -> Array:
        """The output projection in the coordinates u: (Z, H, E, D)."""
        Z = len(self.pivot_ZH)
        out_ZHED = np.broadcast_to(attn_out_HED, (Z, *attn_out_HED.shape)).copy()
        along_ZHD = np.einsum("zhe,hed->zhd", self.shear_ZHE, attn_out_HED)
        np.put_along_axis(out_ZHED, self.pivot_ZH[:, :, None, None], along_ZHD[:, :, None], 2)
        return out_ZHED


def thin_frame(step: Step, rest: Rest) -> Frame:
    """The frame along the main direction in which the rest moves y, for every query token.

    A slot that holds digit t with weight W and value U moves y by about W (U - y) / D; the main
    direction is that of the largest variance. It is a guess that makes boxes small: bounds are sound in
    any frame, so nothing here needs care about rounding, and the band of most inputs will do.
    """
    band = step.bands[-1]
    total_ZH = band.weight_ZH + band.weight_ZHLT.mean(-1).sum(-1)
    y_ZHE = (band.mass_ZHE + band.mass_ZHLTE.mean(3).sum(2)) / total_ZH[..., None]
    slots = list(rest.slots())
    weight_ZHST = band.weight_ZHLT[:, :, slots]
    move_ZHSTE = band.mass_ZHLTE[:, :, slots] - weight_ZHST[..., None] * y_ZHE[:, :, None, None]
    move_ZHSTE = move_ZHSTE - move_ZHSTE.mean(3, keepdims=True)
    if step.summed:
        # Of the sum of the heads, which see the same digits: one frame for all of them.
        move_ZHSTE = (move_ZHSTE / total_ZH[..., None, None, None]).sum(1, keepdims=True)
    spread_ZHEE = np.einsum("zhste,zhstf->zhef", move_ZHSTE, move_ZHSTE)
    # A scale keeps the directions of very small moves meaningful.
    size_ZH11 = np.abs(spread_ZHEE).max((2, 3), keepdims=True)
    spread_ZHEE = spread_ZHEE / np.where(size_ZH11 > 0, size_ZH11, 1.0)
    direction_ZHE = np.linalg.eigh(spread_ZHEE)[1][..., -1]
    return Frame.along(np.broadcast_to(direction_ZHE, y_ZHE.shape))


@dataclass(frozen=True, kw_only=True)
class Functionals:
    """The functionals of a frame applied to a step's tables."""

    rows_ZHEE: Array
    bands: tuple[Array, ...]
    """Weight times f.U for each band of the step: (Z, H, E, L, T)."""
    ends_ZHE2: Array
    """Least and greatest value of f.y whatever the attention does."""
    slack_ZHE: Array
    """Absolute widening of bounds."""
    reach_ZHE: Array
    """Absolute widening of the outermost nodes."""
    size_ZHE: Array
    """One plus the largest |f.y|, the unit of the relative slacks."""


def functionals(step: Step, frame: Frame) -> Functionals:
    rows_ZHEE = frame.functionals()
    low, high = step.range_HE2[..., 0][:, None], step.range_HE2[..., 1][:, None]
    up, down = np.maximum(rows_ZHEE, 0), np.minimum(rows_ZHEE, 0)
    ends = [(up * low + down * high).sum(-1), (up * high + down * low).sum(-1)]
    terms_ZHE = (np.abs(rows_ZHEE) * np.maximum(np.abs(low), np.abs(high))).sum(-1)
    # Where large values cancel in f.U, their rounding is what counts, not the little that is left.
    size_ZHE = np.maximum(1.0 + np.abs(ends).max(0), CANCELLATION * terms_ZHE)
    # Weights known to a relative d move an average of f.U by at most 2 d max |f.U| or so.
    doubt_ZH1 = 8.0 * step.doubt_ZH[..., None]
    reach_ZHE = np.maximum(ROUNDING, 2.0 * doubt_ZH1) * size_ZHE
    return Functionals(
        rows_ZHEE=rows_ZHEE,
        bands=tuple(np.einsum("zhlte,zhke->zhklt", band.mass_ZHLTE, rows_ZHEE) for band in step.bands),
        ends_ZHE2=np.stack([ends[0] - reach_ZHE, ends[1] + reach_ZHE], -1),
        slack_ZHE=np.maximum(SLACK, doubt_ZH1) * size_ZHE,
        reach_ZHE=reach_ZHE,
        size_ZHE=size_ZHE,
    )


def free_maxima(
    band: Weights, rest: Rest, mass_GHELT: Array, row_G: NDArray[np.int64], nodes: Array
) -> Array:
    """G(tau) at every node (G, H, E, 2, M), for every carry code of ``rest``: (C, G, H, E, 2, M).

    One carry DP serves all carry codes, all groups and all nodes at once (they are its batch)."""
    weight = band.weight_ZHLT[row_G].transpose(2, 3, 0, 1)[..., None, None]
    mass = mass_GHELT.transpose(3, 4, 0, 1, 2)[..., None]
    forbidden = None if not band.forbids else ~band.allowed_ZHLT[row_G].transpose(2, 3, 0, 1)
    L, T, G = weight.shape[:3]
    best = np.empty((rest.codes, *nodes.shape))
    # Of pair tokens a tenth of the groups at a time: their tables are ten times as large.
    at_once = max(1, G * rest.base // T)
    for start in range(0, G, at_once):
        some = slice(start, start + at_once)
        for side, sign in enumerate(SIGNS):
            gain = sign * (mass[:, :, some] - nodes[some, :, :, side] * weight[:, :, some])
            if forbidden is not None:
                gain[forbidden[:, :, some]] = IMPOSSIBLE
            most = maximum(gain.reshape(L, T, -1), rest)
            best[:, some, :, :, side] = most.reshape(-1, *gain.shape[2:])
    return best


def even_nodes(ends: Array, count: int) -> Array:
    """Evenly spaced nodes from end to end (..., 2) -> (..., 2, M), the same for both sides."""
    low, high = ends[..., :1], ends[..., 1:]
    nodes = low + (high - low) * np.linspace(0.0, 1.0, count)
    nodes[..., -1] = high[..., 0]
    return np.stack([nodes, nodes], -2)


def chord_bounds(
    best: Array, nodes: Array, group_N: Ints, code_N: Ints, fixed: Fixed, least_NHE: Array
) -> Array:
    """Where a cell's part plus the chord of G is ``least`` (zero, but for sharp attention), for both
    sides: (N, H, E, 2). Where a band holds none of a cell's inputs, an end that widens nothing.

    ``best`` (C, G, H, E, 2, M) are the values of G at ``nodes`` (G, H, E, 2, M); ``fixed.mass_NHE``
    holds weights times functionals.
    """
    G, H, E, _, M = nodes.shape
    bounds = np.empty((len(group_N), H, E, 2))
    codes = len(best)
    which_N = group_N * codes + code_N
    all_possible = fixed.possible_NH.all()
    for h in range(H):
        for k in range(E):
            for side, sign in enumerate(SIGNS):
                # A bound from below is a bound of -f.y from above: reversed, its nodes ascend too.
                ascending = slice(None, None, int(sign))
                t_GM = sign * nodes[:, h, k, side, ascending]
                g_WM = best[:, :, h, k, side, ascending].swapaxes(0, 1).reshape(codes * G, M)
                f_N = sign * fixed.mass_NHE[:, h, k] - least_NHE[:, h, k]
                if not all_possible:
                    f_N = np.where(fixed.possible_NH[:, h], f_N, IMPOSSIBLE)
                bounds[:, h, k, side] = sign * _roots(
                    np.repeat(t_GM, codes, 0), g_WM, which_N, f_N, fixed.weight_NH[:, h]
                )
    return bounds


def in_functionals(fixed: Fixed, table: Functionals, row_N: Ints) -> Fixed:
    """The same with masses times functionals: f.U in place of U."""
    mass_NHE = np.einsum("nhe,nhke->nhk", fixed.mass_NHE, table.rows_ZHEE[row_N])
    return Fixed(weight_NH=fixed.weight_NH, mass_NHE=mass_NHE, possible_NH=fixed.possible_NH)


def widest(bounds: list[Array]) -> Array:
    """The hull of bounds (..., 2), one array for each band: every input is in one of the bands."""
    if len(bounds) == 1:
        return bounds[0]
    low = np.minimum.reduce([each[..., 0] for each in bounds])
    high = np.maximum.reduce([each[..., 1] for each in bounds])
    return np.stack([low, high], -1)


def _roots(t_WM: Array, g_WM: Array, which_N, f_N: Array, d_N: Array) -> Array:
    """Roots of f - t d + g(t), decreasing in t, with g linear between nodes; clipped to the nodes."""
    M = t_WM.shape[1]
    t, g, first_N = t_WM.ravel(), g_WM.ravel(), which_N * M
    low, high = first_N, first_N + (M - 1)
    # The sum is positive at low (unless low is the first node) and not positive at high.
    for _ in range((M - 2).bit_length()):
        middle = (low + high) // 2
        positive = f_N - t[middle] * d_N + g[middle] > 0
        low = np.where(positive & (middle > low), middle, low)
        high = np.where(positive, high, np.maximum(middle, low + 1))
    s_low = f_N - t[low] * d_N + g[low]
    s_high = f_N - t[high] * d_N + g[high]
    # The last node is above every value. Only numbers that are none at all can say otherwise.
    if not ((s_high <= 0).all() and np.isfinite(s_high).all()):
        raise Failure(TOO_LARGE)
    share = np.where(s_low > 0, s_low / np.where(s_low > 0, s_low - s_high, 1.0), 0.0)
    return t[low] + share * (t[high] - t[low])


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """Sound bounds of every functional on every leaf, and the nodes that prove them."""

    bounds_NHE2: Array
    nodes_ZHE2M: Array

    def joint_NE2(self) -> Array:
        """Bounds of every functional of the sum of the heads, from those of each: float32 numbers."""
        total_NE2 = self.bounds_NHE2.sum(1)
        return _to_float32(total_NE2, np.zeros_like(total_NE2[..., 0]))


def sweep(step: Step, leaf: Leaves, frame: Frame, num_nodes: int = FINE_NODES) -> Ranges:
    """Bounds on every leaf of a step.

    A coarse pass over the whole range of f.y finds the range of tau that matters; nodes placed there
    make chords so short that the second pass loses a fraction of a percent."""
    rest = Rest.of_step(step)
    table = functionals(step, frame)
    fixed = [in_functionals(fixed_parts(step, band, leaf), table, leaf.row_N) for band in step.bands]
    row_Z = np.arange(len(step.tokens))
    code_N = leaf.carry_N if rest.runs else np.zeros_like(leaf.carry_N)
    order = np.argsort(leaf.row_N, kind="stable")
    rows, starts = np.unique(leaf.row_N[order], return_index=True)

    def bounds(nodes: Array) -> Array:
        found = []
        for band, mass_ZHELT, part in zip(step.bands, table.bands, fixed, strict=True):
            best = free_maxima(band, rest, mass_ZHELT, row_Z, nodes)
            least_NHE = (band.least_ZH[..., None] * table.size_ZHE)[leaf.row_N]
            found.append(chord_bounds(best, nodes, leaf.row_N, code_N, part, least_NHE))
        return widest(found)

    coarse = bounds(even_nodes(table.ends_ZHE2, COARSE_NODES))[order]
    ends = table.ends_ZHE2.copy()  # of query tokens that a window does not have, nothing better is known
    ends[rows, ..., 0] = np.minimum.reduceat(coarse[..., 0], starts) - table.reach_ZHE[rows]
    ends[rows, ..., 1] = np.maximum.reduceat(coarse[..., 1], starts) + table.reach_ZHE[rows]
    nodes = even_nodes(ends, num_nodes)
    slack_NHE = table.slack_ZHE[leaf.row_N]
    return Ranges(bounds_NHE2=_to_float32(bounds(nodes), slack_NHE), nodes_ZHE2M=nodes)


def _to_float32(bounds_NHE2: Array, slack_NHE: Array) -> Array:
    """Bounds widened by the slack and rounded outward to float32 numbers (kept as float64)."""
    low, high = bounds_NHE2[..., 0] - slack_NHE, bounds_NHE2[..., 1] + slack_NHE
    # A comparison that a number that is none fails too.
    if not (low >= -LARGEST).all() or not (high <= LARGEST).all():
        raise Failure(TOO_LARGE)
    infinity = np.float32(np.inf)
    low = np.nextafter(low.astype(np.float32), -infinity)
    high = np.nextafter(high.astype(np.float32), infinity)
    return np.stack([low, high], -1).astype(np.float64)


# Several heads that share their coordinates: bounds of f.(y_1 + ... + y_H).


def summed_bounds(bounds_NHE2: Array) -> Array:
    """Bounds of the sum of the heads (N, E, 2) from those of each, with room for rounding."""
    total_NE2 = bounds_NHE2.sum(1)
    room_NE = SUM_ROUNDING * np.abs(bounds_NHE2).sum((1, 3))
    return np.stack([total_NE2[..., 0] - room_NE, total_NE2[..., 1] + room_NE], -1)


def joint_bounds(
    step: Step,
    table: Functionals,
    rest: Rest,
    row_N: Ints,
    code_N: Ints,
    fixed: Fixed,
    bounds_NHE2: Array,
) -> Array:
    """Bounds of f.(y_1 + ... + y_H) on leaves or cells (N, E, 2), from bounds of each f.y_h there.

    The heads see the same digits, so their extremes need not come together. With any numbers tau_h and
    lambda_h > 0

        sum f.y_h = sum tau_h + sum lambda_h (f.N_h - tau_h D_h) + sum (f.y_h - tau_h) (1 - lambda_h D_h)

    (docs/proof.md, section 1). The second sum is separable over the slots, so the carry DP finds its
    maximum over all heads at once, and the third is at most radius_h times the largest
    |1 - lambda_h D_h|, with tau_h the middle of the head's own bounds and 1 / lambda_h that of its total
    weights. ``code_N`` are the carries (``carries.maximum``), ``row_N`` rows of the step's tables. The
    step has one band.
    """
    (band,), (mass_ZHELT,) = step.bands, table.bands
    weight_ZHLT = band.weight_ZHLT
    allowed_ZLT = band.allowed_ZHLT[:, 0]
    Z, H, L, T = weight_ZHLT.shape
    E, n = bounds_NHE2.shape[2], rest.columns
    ends = np.stack([-weight_ZHLT, weight_ZHLT])
    ends = np.where(allowed_ZLT[:, None], ends, IMPOSSIBLE).transpose(3, 4, 0, 1, 2)
    free_C2ZH = maximum(ends.reshape(L, T, -1), rest).reshape(-1, 2, Z, H)
    out = np.empty((len(row_N), E, 2))
    at_once = JOINT_AT_ONCE * rest.base // T
    for start in range(0, len(row_N), at_once):
        part = slice(start, start + at_once)
        row, code, own_NH = row_N[part], code_N[part], fixed.weight_NH[part]
        least_NH, most_NH = own_NH - free_C2ZH[code, 0, row], own_NH + free_C2ZH[code, 1, row]
        lambda_NH = 2.0 / (least_NH + most_NH)
        low_NHE, high_NHE = bounds_NHE2[part, ..., 0], bounds_NHE2[part, ..., 1]
        tau_NHE, radius_NHE = 0.5 * (low_NHE + high_NHE), 0.5 * (high_NHE - low_NHE)
        stray_NH = np.maximum(lambda_NH * most_NH - 1.0, 1.0 - lambda_NH * least_NH)
        own_NHE = fixed.mass_NHE[part] - tau_NHE * own_NH[..., None]
        own_NE = (lambda_NH[..., None] * own_NHE).sum(1)
        both = np.zeros((L, T, len(row), E, 2))
        for slot in rest.slots():
            if step.pairs and n <= slot < 2 * n:
                continue
            choices = rest.base if slot >= 2 * n else T
            mass_NHET = mass_ZHELT[row, :, :, slot, :choices]
            weight_NHT = weight_ZHLT[row, :, slot, :choices]
            gain_NHET = mass_NHET - tau_NHE[..., None] * weight_NHT[:, :, None]
            gain_TNE = np.einsum("nh,nhet->tne", lambda_NH, gain_NHET)
            both[slot, :choices, :, :, 0], both[slot, :choices, :, :, 1] = -gain_TNE, gain_TNE
            if band.forbids:
                both[slot, :choices][~allowed_ZLT[row, slot, :choices].T] = IMPOSSIBLE
        best = maximum(both.reshape(L, T, -1), rest).reshape(-1, len(row), E, 2)
        best_NE2 = best[code, np.arange(len(row))]
        centre_NE = tau_NHE.sum(1) + own_NE
        room_NE = (radius_NHE * stray_NH[..., None]).sum(1) + table.slack_ZHE[row].sum(1)
        out[part, :, 0] = centre_NE - best_NE2[..., 0] - room_NE
        out[part, :, 1] = centre_NE + best_NE2[..., 1] + room_NE
    return out


def joint_leaf_bounds(step: Step, leaf: Leaves, frame: Frame, bounds_NHE2: Array) -> Array:
    """The same on leaves of a step, no wider than the sum of the heads' bounds: float32 numbers."""
    rest, table = Rest.of_step(step), functionals(step, frame)
    fixed = in_functionals(fixed_parts(step, step.bands[0], leaf), table, leaf.row_N)
    code_N = leaf.carry_N if rest.runs else np.zeros_like(leaf.carry_N)
    found = joint_bounds(step, table, rest, leaf.row_N, code_N, fixed, bounds_NHE2)
    both = narrower(summed_bounds(bounds_NHE2), found)
    return _to_float32(both, np.zeros_like(both[..., 0]))


def narrower(first_NE2: Array, second_NE2: Array) -> Array:
    """Where both hold."""
    low = np.maximum(first_NE2[..., 0], second_NE2[..., 0])
    high = np.minimum(first_NE2[..., 1], second_NE2[..., 1])
    return np.stack([low, high], -1)
