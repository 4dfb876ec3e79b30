"""The claims low <= f.y <= high, proved by one maximum each (docs/proof.md, section 1).

f.y <= tau on a leaf or cell if and only if the largest value there of
sum_p W[p, t_p] (f.U[p, t_p] - tau) is not positive. What is computed is an upper bound of that
largest value, so a claim that passes is true; the claimed numbers themselves are not trusted.

Sides: 0 proves low (all signs turned), 1 proves high.
Shapes: Z query tokens, H heads, E functionals per head, M nodes, L slots, T digits, C constant keys,
N leaves or cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adderlab.proof.checker.carries import NEVER, maximum
from adderlab.proof.checker.intervals import Array, Interval, matmul, up
from adderlab.proof.checker.model import Leaves, Step

CELLS_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class Projected:
    """Weights and f.U for R rows of functionals; a row is a query token, or one split leaf.

    ``weight_RHLT``, ``projected_RHELT``; constant keys ``constant_RHC``, ``constant_RHEC``.
    """

    weight_RHLT: Interval
    projected_RHELT: Interval
    constant_RHC: Interval
    constant_RHEC: Interval


def project(step: Step, rows: NDArray[np.intp], functional_RHEE: Interval) -> Projected:
    """f_k.U for each row's functionals f_k = functional[r, h, k]; ``rows`` are query token indices."""
    L, T, H, E = step.value_LTHE.shape
    value_HEM = step.value_LTHE.reshape(L * T, H, E).transpose(1, 2, 0)
    projected = matmul(functional_RHEE, value_HEM).reshape(len(rows), H, E, L, T)
    constant_RHEC = step.constant_value_ZCHE[rows].transpose(0, 2, 3, 1)
    return Projected(
        weight_RHLT=step.weight_ZHLT[rows],
        projected_RHELT=projected,
        constant_RHC=step.constant_weight_ZHC[rows],
        constant_RHEC=matmul(functional_RHEE, constant_RHEC),
    )


def gain(weight: Interval, projected: Interval, tau: Array, side: int) -> Array:
    """Upper bound of W (f.U - tau) for side 1, of W (tau - f.U) for side 0."""
    inner = up(projected.high - tau) if side else up(tau - projected.low)
    return up(np.where(inner > 0, weight.high, weight.low) * inner)


def own_slots(step: Step, leaf: Leaves) -> list[tuple[int, NDArray[np.intp]]]:
    """(slot, its digit on every leaf) of columns i and i - 1."""
    i, n = step.index, step.columns
    here = [(i, leaf.a), (n + i, leaf.b)] if i < n else []
    before = [(i - 1, leaf.a_before), (n + i - 1, leaf.b_before)] if i > 0 else []
    return here + before


def _own_part(
    parts: Projected, leaf: Leaves, step: Step, row: NDArray[np.intp], tau_NHE: Array, side: int
) -> Array:
    """Upper bound of what columns i, i - 1 and the constant keys add on each leaf: (N, H, E)."""
    total = np.zeros_like(tau_NHE)
    for slot, digit in own_slots(step, leaf):
        weight = parts.weight_RHLT[row, :, slot, digit][:, :, None]
        total = up(total + gain(weight, parts.projected_RHELT[row, :, :, slot, digit], tau_NHE, side))
    for constant in range(parts.constant_RHC.shape[-1]):
        weight = parts.constant_RHC[row, :, constant][:, :, None]
        total = up(total + gain(weight, parts.constant_RHEC[row, :, :, constant], tau_NHE, side))
    return total


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


def leaf_excess(
    step: Step, leaf: Leaves, parts: Projected, nodes_ZHE2M: Array, bounds_NHE2: Array
) -> Array:
    """Upper bound of S(tau) for every claim of every leaf: (N, H, E, 2). Proved where <= 0."""
    i, n = step.index, step.columns
    Z, H, E, _, M = nodes_ZHE2M.shape
    L, T = parts.weight_RHLT.shape[2:]
    weight = parts.weight_RHLT.transpose(2, 3, 0, 1).reshape(L, T, Z, H, 1, 1)
    projected = parts.projected_RHELT.transpose(3, 4, 0, 1, 2).reshape(L, T, Z, H, E, 1)
    excess = np.empty(bounds_NHE2.shape)
    order = [np.flatnonzero(leaf.row == z) for z in range(Z)]
    for side in (0, 1):
        gains = gain(weight, projected, nodes_ZHE2M[:, :, :, side], side)
        best = [part.reshape(Z, H, E, M) for part in maximum(gains.reshape(L, T, -1), i, n)]
        excess[..., side] = _own_part(parts, leaf, step, leaf.row, bounds_NHE2[..., side], side)
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
    i, n = step.index, step.columns
    excess = np.empty(bounds_NHE2.shape)
    for start in range(0, len(row_N), CELLS_AT_ONCE):
        part = slice(start, start + CELLS_AT_ONCE)
        row = row_N[part]
        cells, H, E, _ = bounds_NHE2[part].shape
        weight = parts.weight_RHLT[row].transpose(2, 3, 0, 1)[..., None]
        projected = parts.projected_RHELT[row].transpose(3, 4, 0, 1, 2)
        choice_TN = np.arange(10)[:, None] == digits_NL[part].T[:, None]
        allowed_LTN = choice_TN | (digits_NL[part].T[:, None] < 0)
        carry_JCN = (carries_NJ[part].T[:, None] < 0) | (
            carries_NJ[part].T[:, None] == np.arange(2)[:, None]
        )
        carry_JCB = np.repeat(carry_JCN, H * E, axis=2)
        own_leaf = Leaves(**{name: getattr(leaf, name)[part] for name in leaf.__dataclass_fields__})
        for side in (0, 1):
            tau_NHE = bounds_NHE2[part, ..., side]
            gains = gain(weight, projected, tau_NHE, side)
            gains[: 2 * n][~allowed_LTN] = NEVER
            best = maximum(gains.reshape(*gains.shape[:2], -1), i, n, carry_JCB)
            carry = own_leaf.carry[:, None, None]
            free = np.where(carry == 0, *(each.reshape(cells, H, E) for each in best))
            own = _own_part(parts, own_leaf, step, row, tau_NHE, side)
            excess[part, ..., side] = up(own + free)
    return excess
