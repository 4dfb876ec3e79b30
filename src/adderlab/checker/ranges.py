"""The claims low <= f.y <= high, proved by one maximum each (docs/proof.md, section 1), and their cells.

f.y <= tau on a leaf or cell if and only if the largest value there of
sum_p W[p, t_p] (f.U[p, t_p] - tau) is not positive. What is computed is an upper bound of that
largest value, so a claim that passes is true; the claimed numbers themselves are not trusted.

The maximum over all free digits is a carry DP: columns below i - 1 are tied together by the carries,
because their answer digits are keys too; the columns above i are free one by one. The same recursion
with exact integers counts pairs.

A split proves a leaf only if its cells leave no pair out. That is not seen from the shape of the tree,
which may call cells empty; so the pairs in every cell are counted exactly and have to add up to those of
the leaf, and a cell that is called empty has to hold none (``read_tree``).

Sides: 0 proves low (all signs turned), 1 proves high.
Shapes: n columns, Z query tokens, H heads, E functionals per head, M nodes, L = 3n slots (a_0.., b_0..,
s_0..), T digits (10), B batch (the last axis), C constant keys, N leaves or cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from adderlab.checker.document import Rejected
from adderlab.checker.intervals import Array, Interval, down, matmul, up
from adderlab.checker.model import FREE, Leaves, Step, Weights

NEVER = -1e300
"""The gain of what is forbidden: far below all real gains, and sums of it stay finite."""
CELLS_AT_ONCE = 256
INWARD = 1e-12
"""Where there are several bands, claims are proved with this much to spare, relative to 1 + |tau|; the
prover widens its bounds by a thousand times as much."""


def _pair_maxima(a_TB: Array, b_TB: Array, base: int) -> Array:
    """For q = 0 .. 2 (base - 1): at least max over a + b = q of a_TB[a] + b_TB[b]."""
    best_QB = np.full((2 * base - 1, a_TB.shape[1]), NEVER)
    if len(a_TB) != base:
        # One token is both digits: the gains of the pair are those of slot a.
        for a in range(base):
            window = best_QB[a : a + base]
            np.maximum(window, a_TB[base * a : base * (a + 1)], out=window)
        return best_QB
    for a in range(base):
        window = best_QB[a : a + base]
        np.maximum(window, a_TB[a] + b_TB, out=window)
    # ``up`` is monotone, so once after the maximum rounds up every sum before it, ten times cheaper.
    return up(best_QB)


def maximum(
    gain_LTB: Array,
    i: int,
    n: int,
    carry_allowed_JCB: NDArray[np.bool_] | None = None,
    base: int = 10,
) -> tuple[Array, Array]:
    """Upper bounds, for carry 0 and for carry 1 into column i - 1, of the largest sum of gains over
    the digits of all columns but i and i - 1 (for step 0: but column 0, with no carry).

    A gain of NEVER forbids a digit, ``carry_allowed_JCB[j, c]`` a carry c into column j.
    """
    B = gain_LTB.shape[-1]
    state = [np.zeros(B), np.full(B, NEVER)]
    for j in range(i - 1):
        if carry_allowed_JCB is not None:
            state = [np.where(carry_allowed_JCB[j, c], state[c], NEVER) for c in (0, 1)]
        pair_QB = _pair_maxima(gain_LTB[j], gain_LTB[n + j], base)
        answer_TB = gain_LTB[2 * n + j][:base]
        out = [np.full(B, NEVER), np.full(B, NEVER)]
        for carry in (0, 1):
            first_over = base - carry  # the smallest a + b that carries
            for into, sums, answers in (
                (0, pair_QB[:first_over], answer_TB[carry:]),
                (1, pair_QB[first_over:], answer_TB[: base - 1 + carry]),
            ):
                column_B = up((sums + answers).max(0))
                out[into] = np.maximum(out[into], up(state[carry] + column_B))
        state = out
    for j in range(i + 1, n):
        for slot in (j, n + j):
            best_B = gain_LTB[slot].max(0)
            state = [up(each + best_B) for each in state]
    return state[0], state[1]


@cache
def _carrying_pairs(base: int) -> list[list[list[int]]]:
    """[a][b][c]: number of digit pairs with a + b + c >= base; the last index of a and b means free."""
    choices = [[digit] for digit in range(base)] + [list(range(base))]
    return [
        [[sum(a + b + c >= base for a in some_a for b in some_b) for c in (0, 1)] for some_b in choices]
        for some_a in choices
    ]


def count(
    a: Sequence[int], b: Sequence[int], carry: Sequence[int], i: int, base: int = 10
) -> tuple[int, int]:
    """Exact numbers of digit choices of all columns but i and i - 1, for carry 0 and 1 into i - 1.

    ``a``, ``b`` and ``carry`` (into column j) give the fixed values, FREE elsewhere; entries of
    columns i and i - 1 are not read. Python integers: nothing can overflow.
    """
    n, carrying = len(a), _carrying_pairs(base)
    ways = [1, 0]
    for j in range(i - 1):
        if carry[j] != FREE:
            ways[1 - carry[j]] = 0
        size = (1 if a[j] != FREE else base) * (1 if b[j] != FREE else base)
        over0, over1 = carrying[a[j]][b[j]]
        ways = [
            ways[0] * (size - over0) + ways[1] * (size - over1),
            ways[0] * over0 + ways[1] * over1,
        ]
    free = 1
    for j in range(i + 1, n):
        free *= (1 if a[j] != FREE else base) * (1 if b[j] != FREE else base)
    return ways[0] * free, ways[1] * free


# The claims about leaves and cells.


@dataclass(frozen=True, kw_only=True)
class Projected:
    """Weights and f.U for R rows of functionals; a row is a query token, or one split leaf."""

    bands: tuple[Weights, ...]
    projected_RHELT: Interval
    constant_RHEC: Interval
    """f.U of the constant keys."""


def project(step: Step, rows: NDArray[np.intp], functional_RHEE: Interval) -> Projected:
    """f_k.U for each row's functionals f_k = functional[r, h, k]; ``rows`` are query token indices."""
    L, T, H, E = step.value_LTHE.shape
    value_HEM = step.value_LTHE.reshape(L * T, H, E).transpose(1, 2, 0)
    projected = matmul(functional_RHEE, value_HEM).reshape(len(rows), H, E, L, T)
    constant_RHEC = step.constant_value_ZCHE[rows].transpose(0, 2, 3, 1)
    return Projected(
        bands=tuple(band.take(rows) for band in step.bands),
        projected_RHELT=projected,
        constant_RHEC=matmul(functional_RHEE, constant_RHEC),
    )


def gain(weight: Interval, projected: Interval, tau: Array, side: int) -> Array:
    """Upper bound of W (f.U - tau) for side 1, of W (tau - f.U) for side 0.

    A weight is never negative, so the sign of the other factor says which end of it counts.
    """
    inner = up(projected.high - tau) if side else up(tau - projected.low)
    return up(np.where(inner > 0, weight.high, weight.low) * inner)


def own_keys(step: Step, leaf: Leaves) -> list[tuple[int, NDArray[np.intp]]]:
    """(slot, its choice on every leaf) of the keys of columns i and i - 1: digits, or pairs of them."""
    own = own_slots(step, leaf)
    if not step.pairs:
        return own
    halves = zip(own[::2], own[1::2], strict=True)
    return [(slot, step.base * digit_a + digit_b) for (slot, digit_a), (_, digit_b) in halves]


def own_slots(step: Step, leaf: Leaves) -> list[tuple[int, NDArray[np.intp]]]:
    """(slot, its digit on every leaf) of columns i and i - 1: of each a, then b."""
    i, n = step.index, step.columns
    here = [(i, leaf.a), (n + i, leaf.b)] if i < n else []
    before = [(i - 1, leaf.a_before), (n + i - 1, leaf.b_before)] if 0 < i <= n else []
    return here + before


def _own_part(
    parts: Projected,
    band: Weights,
    leaf: Leaves,
    step: Step,
    row: NDArray[np.intp],
    tau_NHE: Array,
    side: int,
) -> Array:
    """Upper bound of what columns i, i - 1 and the constant keys add on each leaf: (N, H, E).

    NEVER where the band forbids a leaf's own digit: then it holds none of its pairs.
    """
    total = np.zeros_like(tau_NHE)
    allowed_NH = np.ones(tau_NHE.shape[:2], dtype=bool)
    for slot, digit in own_keys(step, leaf):
        weight = band.weight_RHLT[row, :, slot, digit][:, :, None]
        total = up(total + gain(weight, parts.projected_RHELT[row, :, :, slot, digit], tau_NHE, side))
        allowed_NH &= band.allowed_RHLT[row, :, slot, digit]
    for constant in range(band.constant_RHC.shape[-1]):
        weight = band.constant_RHC[row, :, constant][:, :, None]
        total = up(total + gain(weight, parts.constant_RHEC[row, :, :, constant], tau_NHE, side))
    return np.where(allowed_NH[:, :, None], total, NEVER)


def _asked(band: Weights, row_N: NDArray[np.intp], bounds_NHE2: Array) -> tuple[Array, Array]:
    """The bounds to try for a band (N, H, E, 2), and the value of S(tau) that is allowed there.

    With one band: the claims themselves, and S <= 0. With several, S at the claim moved inward by mu may
    be as large as mu times the least total weight D of the band's inputs, because then
    f.y <= tau - mu + S / D <= tau. So inputs *below* the band, whose weights may be lost and whose S may
    be anything tiny, do not stand in the way of the band's own.
    """
    least_NH11 = band.least_RH[row_N][..., None, None]
    mu = np.where(least_NH11 > 0, INWARD * (1.0 + np.abs(bounds_NHE2)), 0.0)
    low, high = up(bounds_NHE2[..., 0] + mu[..., 0]), down(bounds_NHE2[..., 1] - mu[..., 1])
    asked = np.where(mu > 0, np.stack([low, high], -1), bounds_NHE2)
    return asked, np.maximum(down(mu * least_NH11), 0.0)


def _chord(nodes_M: Array, value_M: Array, tau_N: Array) -> Array:
    """Upper bound at ``tau_N`` of a convex function that is at most ``value_M`` at the nodes.

    Plus infinity outside the nodes.
    """
    last = len(nodes_M) - 1
    m_N = np.clip(np.searchsorted(nodes_M, tau_N, side="right") - 1, 0, last - 1)
    left, right = Interval(nodes_M[m_N]), Interval(nodes_M[m_N + 1])
    share = (tau_N - left) / (right - left)
    share = Interval(np.clip(share.low, 0.0, 1.0), np.clip(share.high, 0.0, 1.0))
    at_left, at_right = Interval(value_M[m_N]), Interval(value_M[m_N + 1])
    bound_N = (at_left + share * (at_right - at_left)).high
    return np.where((nodes_M[0] <= tau_N) & (tau_N <= nodes_M[-1]), bound_N, np.inf)


def _in_pairs(allowed_LTN: NDArray[np.bool_], pairs: bool) -> NDArray[np.bool_]:
    """Which choices the slots of a and b have (2n, T, N), from the digits allowed there; slots that are
    no keys have all."""
    if not pairs:
        return allowed_LTN
    n, base, N = (allowed_LTN.shape[0] // 2, *allowed_LTN.shape[1:])
    both = allowed_LTN[:n, :, np.newaxis] & allowed_LTN[n:, np.newaxis]
    return np.concatenate([both.reshape(n, -1, N), np.ones((n, base**2, N), dtype=bool)])


def _choices(
    step: Step, digits_NL: NDArray[np.int8], carries_NJ: NDArray[np.int8]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which choices of a and b (2n, T, N) and which carries (n, 2, N) cells allow."""
    digits_L1N, carries_J1N = digits_NL.T[:, None], carries_NJ.T[:, None]
    allowed_LTN = (digits_L1N < 0) | (digits_L1N == np.arange(step.base)[:, None])
    carry_JCN = (carries_J1N < 0) | (carries_J1N == np.arange(2)[:, None])
    return _in_pairs(allowed_LTN, step.pairs), carry_JCN


def leaf_excess(
    step: Step, leaf: Leaves, parts: Projected, nodes_ZHE2M: Array, bounds_NHE2: Array
) -> Array:
    """Upper bound of S(tau), less what is allowed, for every claim of every leaf: (N, H, E, 2).

    A claim is proved where it is <= 0 in every band.
    """
    found = []
    for band in parts.bands:
        asked, room = _asked(band, leaf.row, bounds_NHE2)
        excess = _leaf_excess(step, band, leaf, parts, nodes_ZHE2M, asked)
        found.append(np.where(room > 0, up(excess - room), excess))
    return np.maximum.reduce(found)


def _leaf_excess(
    step: Step,
    band: Weights,
    leaf: Leaves,
    parts: Projected,
    nodes_ZHE2M: Array,
    bounds_NHE2: Array,
) -> Array:
    i, n = step.index, step.columns
    Z, H, E, _, M = nodes_ZHE2M.shape
    L, T = band.weight_RHLT.shape[2:]
    weight = band.weight_RHLT.transpose(2, 3, 0, 1).reshape(L, T, Z, H, 1, 1)
    forbidden = ~band.allowed_RHLT.transpose(2, 3, 0, 1)
    given_1L = np.array([step.given], dtype=np.int8)
    allowed_LT1, _ = _choices(step, given_1L, np.full((1, n), FREE, dtype=np.int8))
    forbidden[: 2 * n] |= ~allowed_LT1[..., np.newaxis]
    projected = parts.projected_RHELT.transpose(3, 4, 0, 1, 2).reshape(L, T, Z, H, E, 1)
    excess = np.empty(bounds_NHE2.shape)
    order = [np.flatnonzero(leaf.row == z) for z in range(Z)]
    for side in (0, 1):
        best = np.empty((2, Z, H, E, M))
        # Of pair tokens one query token after the other, for the memory.
        at_once = max(1, Z * step.base // T)
        for z in range(0, Z, at_once):
            some = slice(z, z + at_once)
            nodes = nodes_ZHE2M[some, :, :, side]
            gains = gain(weight[:, :, some], projected[:, :, some], nodes, side)
            if forbidden.any():
                gains[forbidden[:, :, some]] = NEVER
            for carry, most in enumerate(maximum(gains.reshape(L, T, -1), i, n, base=step.base)):
                best[carry, some] = most.reshape(-1, H, E, M)
        excess[..., side] = _own_part(parts, band, leaf, step, leaf.row, bounds_NHE2[..., side], side)
        for z, rows in enumerate(order):
            for h, k in np.ndindex(H, E):
                nodes_M, tau_N = nodes_ZHE2M[z, h, k, side], bounds_NHE2[rows, h, k, side]
                free = np.where(
                    leaf.carry[rows] == 0,
                    _chord(nodes_M, best[0][z, h, k], tau_N),
                    _chord(nodes_M, best[1][z, h, k], tau_N) if i > 1 else np.inf,
                )
                excess[rows, h, k, side] = up(excess[rows, h, k, side] + free)
    return excess


def cell_excess(
    step: Step,
    leaf: Leaves,
    parts: Projected,
    row_N: NDArray[np.intp],
    digits_NL: NDArray[np.int8],
    carries_NJ: NDArray[np.int8],
    bounds_NHE2: Array,
) -> Array:
    """The same for cells, each with its own maximum over what its digits and carries leave free.

    ``leaf`` has one entry per cell; ``row_N`` is the cell's row in ``parts``; -1 means free in
    ``digits_NL`` (a and b) and ``carries_NJ``.
    """
    found = []
    for band in parts.bands:
        asked, room = _asked(band, row_N, bounds_NHE2)
        excess = _cell_excess(step, band, leaf, parts, row_N, digits_NL, carries_NJ, asked)
        found.append(np.where(room > 0, up(excess - room), excess))
    return np.maximum.reduce(found)


def _cell_excess(
    step: Step,
    band: Weights,
    leaf: Leaves,
    parts: Projected,
    row_N: NDArray[np.intp],
    digits_NL: NDArray[np.int8],
    carries_NJ: NDArray[np.int8],
    bounds_NHE2: Array,
) -> Array:
    i, n = step.index, step.columns
    excess = np.empty(bounds_NHE2.shape)
    at_once = CELLS_AT_ONCE * step.base // step.value_LTHE.shape[1]
    for start in range(0, len(row_N), at_once):
        part = slice(start, start + at_once)
        row = row_N[part]
        cells, H, E, _ = bounds_NHE2[part].shape
        weight = band.weight_RHLT[row].transpose(2, 3, 0, 1)[..., None]
        forbidden = ~band.allowed_RHLT[row].transpose(2, 3, 0, 1)
        projected = parts.projected_RHELT[row].transpose(3, 4, 0, 1, 2)
        allowed_LTN, carry_JCN = _choices(step, digits_NL[part], carries_NJ[part])
        carry_JCB = np.repeat(carry_JCN, H * E, axis=2)
        own_leaf = Leaves(**{name: getattr(leaf, name)[part] for name in leaf.__dataclass_fields__})
        for side in (0, 1):
            tau_NHE = bounds_NHE2[part, ..., side]
            gains = gain(weight, projected, tau_NHE, side)
            gains[: 2 * n][~allowed_LTN] = NEVER
            if forbidden.any():
                gains[forbidden] = NEVER
            best = maximum(gains.reshape(*gains.shape[:2], -1), i, n, carry_JCB, step.base)
            carry = own_leaf.carry[:, None, None]
            free = np.where(carry == 0, *(each.reshape(cells, H, E) for each in best))
            own = _own_part(parts, band, own_leaf, step, row, tau_NHE, side)
            excess[part, ..., side] = up(own + free)
    return excess


# The sum of several heads that share their coordinates.


def joint_excess(
    step: Step,
    leaf: Leaves,
    parts: Projected,
    row_N: NDArray[np.intp],
    digits_NL: NDArray[np.int8],
    carries_NJ: NDArray[np.int8],
    bounds_NHE2: Array,
    joint_NE2: Array,
) -> Array:
    """Upper bound of how far f.(y_1 + .. + y_H) may lie outside each claim about it: (N, E, 2).

    A claim is proved where it is <= 0. ``bounds_NHE2`` have been proved of each head, and may be enough
    if added; where they are not, the heads are looked at together. ``leaf`` has one entry for each leaf
    or cell, ``row_N`` is its row in ``parts``; FREE means free in ``digits_NL`` (a and b) and
    ``carries_NJ``.
    """
    low_NE, high_NE = bounds_NHE2[:, 0, :, 0], bounds_NHE2[:, 0, :, 1]
    for h in range(1, bounds_NHE2.shape[1]):
        low_NE, high_NE = down(low_NE + bounds_NHE2[:, h, :, 0]), up(high_NE + bounds_NHE2[:, h, :, 1])
    excess = np.stack([up(joint_NE2[..., 0] - low_NE), up(high_NE - joint_NE2[..., 1])], -1)
    if len(parts.bands) > 1:
        return excess
    asked = np.flatnonzero((excess > 0).any((1, 2)))
    at_once = CELLS_AT_ONCE * step.base // step.value_LTHE.shape[1]
    for start in range(0, len(asked), at_once):
        n = asked[start : start + at_once]
        together = _joint_excess(
            step,
            Leaves(**{name: getattr(leaf, name)[n] for name in leaf.__dataclass_fields__}),
            parts,
            row_N[n],
            _choices(step, digits_NL[n], carries_NJ[n]),
            bounds_NHE2[n],
            joint_NE2[n],
        )
        excess[n] = np.minimum(excess[n], together)
    return excess


def _joint_excess(
    step: Step,
    leaf: Leaves,
    parts: Projected,
    row: NDArray[np.intp],
    choices: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    bounds_NHE2: Array,
    joint_NE2: Array,
) -> Array:
    """With y = N / D, for any numbers tau_h and share_h > 0,

        sum f.y_h = sum tau_h + sum share_h (f.N_h - tau_h D_h) + sum (f.y_h - tau_h) (1 - share_h D_h).

    The second sum is one over slots, whose largest value the carry DP bounds for all heads at once. In
    the third, |f.y_h - tau_h| is bounded by what has been proved of the head, and 1 - share_h D_h by the
    range of its total weight D_h, another two maxima. Infinite where that range reaches zero.
    """
    (band,), (allowed_LTN, carry_JCN) = parts.bands, choices
    i, n = step.index, step.columns
    N, H, E, _ = bounds_NHE2.shape
    weight = band.weight_RHLT[row].transpose(2, 3, 0, 1)
    projected = parts.projected_RHELT[row].transpose(3, 4, 0, 1, 2)

    def best(gain_LTNX: Array) -> Array:
        """Its largest sum over what each cell leaves free: (N, X)."""
        gain_LTNX[: 2 * n][~allowed_LTN] = NEVER
        L, T, _, X = gain_LTNX.shape
        found = maximum(gain_LTNX.reshape(L, T, -1), i, n, np.repeat(carry_JCN, X, axis=2), step.base)
        return np.where(leaf.carry[:, None] == 0, *(each.reshape(N, X) for each in found))

    least_NH, most_NH = (-best(-weight.low), best(weight.high.copy()))
    for slot, digit in own_keys(step, leaf):
        own = band.weight_RHLT[row, :, slot, digit]
        least_NH, most_NH = down(least_NH + own.low), up(most_NH + own.high)
    for constant in range(band.constant_RHC.shape[-1]):
        own = band.constant_RHC[row, :, constant]
        least_NH, most_NH = down(least_NH + own.low), up(most_NH + own.high)
    # Any positive numbers would do for the shares, any at all for tau.
    known_N: NDArray[np.bool_] = np.all((least_NH > 0) & np.isfinite(most_NH), axis=1)
    share_NH = np.where(known_N[:, None], 2.0 / (least_NH + most_NH), 1.0)
    stray_NH = np.maximum(up(up(share_NH * most_NH) - 1.0), up(1.0 - down(share_NH * least_NH)))
    low_NHE, high_NHE = bounds_NHE2[..., 0], bounds_NHE2[..., 1]
    tau_NHE = 0.5 * (low_NHE + high_NHE)
    radius_NHE = np.maximum(up(high_NHE - tau_NHE), up(tau_NHE - low_NHE))
    room_NHE = up(radius_NHE * stray_NH[..., None])

    excess = np.empty(joint_NE2.shape)
    for side, sign in enumerate((-1.0, 1.0)):
        own_NHE = _own_part(parts, band, leaf, step, row, tau_NHE, side)
        total_LTNE, bound_NE = np.zeros((*weight.shape[:3], E)), np.zeros((N, E))
        for h in range(H):
            share_N1, tau_NE = share_NH[:, [h]], tau_NHE[:, h]
            each = gain(_along_last(weight[..., h]), projected[..., h, :], tau_NE, side)
            total_LTNE = up(total_LTNE + up(share_N1 * each))
            for part_NE in (sign * tau_NE, up(share_N1 * own_NHE[:, h]), room_NHE[:, h]):
                bound_NE = up(bound_NE + part_NE)
        bound_NE = up(bound_NE + best(total_LTNE))
        excess[..., side] = up(bound_NE - sign * joint_NE2[..., side])
    return np.where(known_N[:, None, None], excess, np.inf)


def _along_last(x: Interval) -> Interval:
    return Interval(x.low[..., None], x.high[..., None])


# Split leaves: a tree of fixed digits and carries, read in pre-order, with every pair accounted for.

TERMINAL, EMPTY = -1, -2


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Terminal cells of one leaf in pre-order; FREE where nothing is fixed."""

    digits_NS: NDArray[np.int8]
    carries_NJ: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.digits_NS)


def _walk(codes: Sequence[int], i: int, n: int, base: int) -> Iterator[tuple[int, list[int], list[int]]]:
    """(code, digits, carries) of every end of the tree, in pre-order; ``Rejected`` if it is no tree."""
    digits, carries = [FREE] * (2 * n), [FREE] * n
    fixed = {i, i - 1}
    position = 0
    # A frame is (variable, next value to visit); visiting a value descends into that child.
    path: list[list[int]] = []
    while True:
        if position == len(codes):
            raise Rejected("a tree of splits ends before its cells do")
        code = codes[position]
        position += 1
        if code in (TERMINAL, EMPTY):
            yield code, digits, carries
            while path:
                variable, value = path[-1]
                target, slot, values = _variable(variable, digits, carries, n, base)
                if value < values:
                    target[slot] = value
                    path[-1][1] += 1
                    break
                target[slot] = FREE
                path.pop()
            if not path:
                break
        else:
            column = code % n
            if not 0 <= code < 3 * n:
                raise Rejected(f"a tree of splits has the unknown code {code}")
            if code < 2 * n and column in fixed:
                raise Rejected(f"a tree of splits fixes column {column}, which the leaf fixes already")
            if code >= 2 * n and not 1 <= column <= i - 2:
                raise Rejected(f"a tree of splits fixes the carry into column {column} of step {i}")
            target, slot, _ = _variable(code, digits, carries, n, base)
            if target[slot] != FREE:
                raise Rejected("a tree of splits fixes a digit or carry twice on one path")
            target[slot] = 0
            path.append([code, 1])
    if position != len(codes):
        raise Rejected("a tree of splits goes on after its last cell")


def _variable(
    code: int, digits: list[int], carries: list[int], n: int, base: int
) -> tuple[list[int], int, int]:
    """Where the value of a variable stands, and how many values it has."""
    return (digits, code, base) if code < 2 * n else (carries, code - 2 * n, 2)


def read_tree(
    codes: Sequence[int], i: int, n: int, carry: int, given: Sequence[int] = (), base: int = 10
) -> tuple[Cells, int]:
    """The terminal cells of a leaf with carry ``carry`` into column i - 1, and their exact number of
    pairs; ``given`` are the digits of a window. ``Rejected`` if the tree is malformed or an empty cell
    is not empty."""
    given = given or (FREE,) * (2 * n)
    digits: list[list[int]] = []
    carries: list[list[int]] = []
    pairs = 0
    for code, cell_digits, cell_carries in _walk(codes, i, n, base):
        fixed = [own if own != FREE else held for own, held in zip(cell_digits, given, strict=True)]
        fits = all(held in (FREE, own) for own, held in zip(fixed, given, strict=True))
        inside = count(fixed[:n], fixed[n:], cell_carries, i, base)[carry] if fits else 0
        if code == EMPTY:
            if inside:
                raise Rejected(f"a cell is called empty and holds {inside} pairs")
            continue
        pairs += inside
        digits.append(fixed)
        carries.append(list(cell_carries))
    cells = Cells(
        digits_NS=np.array(digits, dtype=np.int8).reshape(-1, 2 * n),
        carries_NJ=np.array(carries, dtype=np.int8).reshape(-1, n),
    )
    return cells, pairs
