"""Leaves: the partition of all pairs that each step starts from, in canonical order.

A leaf of step i fixes (c, a', b', a, b): the carry into column i - 1, the digits of column i - 1 and
those of column i. That fixes the query token z = s_(i-1) and the right digit s_i.

Shapes: N leaves in canonical order (lexicographic in c, a', b', a, b), Z query tokens, H heads,
E bottleneck, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adderlab.proof.columns import Rest
from adderlab.proof.problem import RADIX, Array, Step

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Leaves:
    """All leaves of a step: fixed digits, query row, right digit and multiplicity."""

    carry_N: Ints
    """Carry into column i - 1."""
    a_before_N: Ints
    b_before_N: Ints
    a_N: Ints
    b_N: Ints
    row_N: Ints
    """Index of the query token among the step's Z."""
    target_N: Ints
    inputs_N: Ints

    def take(self, rows: Ints) -> Leaves:
        return Leaves(**{name: value[rows] for name, value in vars(self).items()})


def leaves(step: Step) -> Leaves:
    """The leaves of a step. Digits of columns that do not exist read 0."""
    shape = step.leaf_shape
    carry_N, a_before_N, b_before_N, a_N, b_N = (grid.reshape(-1) for grid in np.indices(shape))
    before_N = a_before_N + b_before_N + carry_N
    carry_here_N = before_N // RADIX
    row_N = before_N % RADIX if step.index else np.zeros_like(before_N)
    target_N = (a_N + b_N + carry_here_N) % RADIX
    rest = Rest.of_leaf(step.index, step.columns)
    ways_C = np.array([rest.ways((0, c) if rest.runs else ()) for c in (0, 1)], dtype=np.int64)
    return Leaves(
        carry_N=carry_N,
        a_before_N=a_before_N,
        b_before_N=b_before_N,
        a_N=a_N,
        b_N=b_N,
        row_N=row_N,
        target_N=target_N,
        inputs_N=ways_C[carry_N],
    )


def fixed_digits(step: Step, leaf: Leaves) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """The digits (N, 2n) and carries (N, n) that leaves fix; -1 where nothing is fixed."""
    n, i = step.columns, step.index
    N = len(leaf.row_N)
    digits = np.full((N, 2 * n), -1, dtype=np.int8)
    carries = np.full((N, n), -1, dtype=np.int8)
    carries[:, 0] = 0
    if i > 0:
        carries[:, i - 1] = leaf.carry_N
        digits[:, i - 1], digits[:, n + i - 1] = leaf.a_before_N, leaf.b_before_N
    if i < n:
        digits[:, i], digits[:, n + i] = leaf.a_N, leaf.b_N
    return digits, carries


def fixed_parts(step: Step, leaf: Leaves) -> tuple[Array, Array]:
    """What a leaf's fixed keys weigh: (weight_NH, mass_NHE)."""
    i, n = step.index, step.columns
    z = leaf.row_N
    weight_NH = step.weight_ZH[z]
    mass_NHE = step.mass_ZHE[z]
    slots: list[tuple[int, Ints]] = []
    if i > 0:
        slots += [(i - 1, leaf.a_before_N), (n + i - 1, leaf.b_before_N)]
    if i < n:
        slots += [(i, leaf.a_N), (n + i, leaf.b_N)]
    for slot, digit_N in slots:
        weight_NH = weight_NH + step.weight_ZHLT[z, :, slot, digit_N]
        mass_NHE = mass_NHE + step.mass_ZHLTE[z, :, slot, digit_N]
    return weight_NH, mass_NHE
