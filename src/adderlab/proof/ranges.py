"""Bounds of functionals of the attention output on many leaves or cells, with few programmes.

S(tau) = max over a cell of sum_p W (f.U - tau) is the cell's own part, linear in tau, plus a convex
function G(tau) of what is left to choose, shared by many cells. A chord of G between two nodes
bounds it from above, so where the chord's sum is zero, tau bounds f.y (docs/proof.md, section 1).

Shapes: N leaves or cells, G groups that share their programmes, Z query tokens, H heads,
E functionals per head, M nodes, C carries, L slots, T digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adderlab.proof.columns import Rest, maximum
from adderlab.proof.frames import Frame
from adderlab.proof.leaves import Leaves, fixed_parts
from adderlab.proof.problem import Array, Step

SLACK = 1e-9
"""Relative widening of every bound, far above float64 rounding, for an outward-rounding checker."""
ROUNDING = 1e-6
"""Relative widening of the outermost nodes, so that bounds rounded to float32 lie between nodes."""
COARSE_NODES, FINE_NODES, CELL_NODES = 12, 48, 12
SIGNS = (-1.0, 1.0)
"""Side 0 bounds f.y from below, as minus the largest -f.y; side 1 from above."""


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """Sound bounds of every functional on every leaf, and the nodes that prove them."""

    bounds_NHE2: Array
    nodes_ZHE2M: Array


@dataclass(frozen=True, kw_only=True)
class Functionals:
    """The functionals of a frame applied to a step's tables."""

    rows_ZHEE: Array
    mass_ZHELT: Array
    ends_ZHE2: Array
    """Least and greatest value of f.y whatever the attention does."""
    slack_ZHE: Array
    """Absolute widening of bounds."""
    size_ZHE: Array
    """One plus the largest |f.y|, the unit of the relative slacks."""


def functionals(step: Step, frame: Frame) -> Functionals:
    rows_ZHEE = frame.functionals()
    low, high = step.range_HE2[..., 0][:, None], step.range_HE2[..., 1][:, None]
    up, down = np.maximum(rows_ZHEE, 0), np.minimum(rows_ZHEE, 0)
    ends = [(up * low + down * high).sum(-1), (up * high + down * low).sum(-1)]
    size_ZHE = 1.0 + np.abs(ends).max(0)
    reach_ZHE = ROUNDING * size_ZHE
    return Functionals(
        rows_ZHEE=rows_ZHEE,
        mass_ZHELT=np.einsum("zhlte,zhke->zhklt", step.mass_ZHLTE, rows_ZHEE),
        ends_ZHE2=np.stack([ends[0] - reach_ZHE, ends[1] + reach_ZHE], -1),
        slack_ZHE=SLACK * size_ZHE,
        size_ZHE=size_ZHE,
    )


def programmes(
    step: Step, rest: Rest, mass_GHELT: Array, row_G: NDArray[np.int64], nodes: Array
) -> Array:
    """G at every node (G, H, E, 2, M), for every carry code of ``rest``: (C, G, H, E, 2, M)."""
    weight = step.weight_ZHLT[row_G].transpose(2, 3, 0, 1)[..., None, None]
    mass = mass_GHELT.transpose(3, 4, 0, 1, 2)[..., None]
    L, T = weight.shape[:2]
    best = np.empty((rest.codes, *nodes.shape))
    for side, sign in enumerate(SIGNS):
        gain = sign * (mass - nodes[:, :, :, side] * weight)
        best[:, :, :, :, side] = maximum(gain.reshape(L, T, -1), rest).reshape(-1, *gain.shape[2:])
    return best


def even_nodes(ends: Array, count: int) -> Array:
    """Evenly spaced nodes from end to end (..., 2) -> (..., 2, M), the same for both sides."""
    low, high = ends[..., :1], ends[..., 1:]
    nodes = low + (high - low) * np.linspace(0.0, 1.0, count)
    nodes[..., -1] = high[..., 0]
    return np.stack([nodes, nodes], -2)


def chord_bounds(
    best: Array, nodes: Array, group_N: NDArray[np.int64], code_N, weight_NH: Array, fixed_NHE: Array
) -> Array:
    """Where a cell's part plus the chord of G is zero, for both sides: (N, H, E, 2).

    ``best`` (C, G, H, E, 2, M) are the values of G at ``nodes`` (G, H, E, 2, M).
    """
    G, H, E, _, M = nodes.shape
    bounds = np.empty((len(group_N), H, E, 2))
    codes = len(best)
    which_N = group_N * codes + code_N
    for h in range(H):
        for k in range(E):
            for side, sign in enumerate(SIGNS):
                turn = slice(None, None, int(sign))
                t_GM = sign * nodes[:, h, k, side, turn]
                g_WM = best[:, :, h, k, side, turn].swapaxes(0, 1).reshape(codes * G, M)
                bounds[:, h, k, side] = sign * _roots(
                    np.repeat(t_GM, codes, 0), g_WM, which_N, sign * fixed_NHE[:, h, k], weight_NH[:, h]
                )
    return bounds


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
    assert (s_high <= 0).all(), "the last node is above every value"
    share = np.where(s_low > 0, s_low / np.where(s_low > 0, s_low - s_high, 1.0), 0.0)
    return t[low] + share * (t[high] - t[low])


def sweep(step: Step, leaf: Leaves, frame: Frame, num_nodes: int = FINE_NODES) -> Ranges:
    """Bounds on every leaf: a coarse pass finds the range of tau that matters, a fine one bounds."""
    rest = Rest.of_leaf(step.index, step.columns)
    table = functionals(step, frame)
    weight_NH, mass_NHE = fixed_parts(step, leaf)
    fixed_NHE = np.einsum("nhe,nhke->nhk", mass_NHE, table.rows_ZHEE[leaf.row_N])
    row_Z = np.arange(len(step.tokens))
    code_N = leaf.carry_N if rest.runs else np.zeros_like(leaf.carry_N)
    order = np.argsort(leaf.row_N, kind="stable")
    starts = np.searchsorted(leaf.row_N[order], row_Z)

    def bounds(nodes: Array) -> Array:
        best = programmes(step, rest, table.mass_ZHELT, row_Z, nodes)
        return chord_bounds(best, nodes, leaf.row_N, code_N, weight_NH, fixed_NHE)

    coarse = bounds(even_nodes(table.ends_ZHE2, COARSE_NODES))[order]
    ends = np.stack(
        [
            np.minimum.reduceat(coarse[..., 0], starts) - ROUNDING * table.size_ZHE,
            np.maximum.reduceat(coarse[..., 1], starts) + ROUNDING * table.size_ZHE,
        ],
        -1,
    )
    nodes = even_nodes(ends, num_nodes)
    slack_NHE = table.slack_ZHE[leaf.row_N]
    return Ranges(bounds_NHE2=_to_float32(bounds(nodes), slack_NHE), nodes_ZHE2M=nodes)


def _to_float32(bounds_NHE2: Array, slack_NHE: Array) -> Array:
    """Bounds widened by the slack and rounded outward to float32 numbers (kept as float64)."""
    infinity = np.float32(np.inf)
    low = np.nextafter((bounds_NHE2[..., 0] - slack_NHE).astype(np.float32), -infinity)
    high = np.nextafter((bounds_NHE2[..., 1] + slack_NHE).astype(np.float32), infinity)
    return np.stack([low, high], -1).astype(np.float64)
