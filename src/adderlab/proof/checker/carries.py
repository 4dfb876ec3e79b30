"""Programmes over the carry: upper bounds of maxima, and exact counts, over all free digits.

Columns below i - 1 are tied together by the carries, because their answer digits are keys too; the
columns above i are free. Maxima are for a batch of independent instances, the batch last.

Shapes: n columns, L = 3n slots (a_0.., b_0.., s_0..), T = 10 digits, B batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from adderlab.proof.checker.intervals import Array, up
from adderlab.proof.checker.model import RADIX

FREE = -1
"""Stands for a digit or carry that is not fixed."""
NEVER = -1e300
"""The gain of what is forbidden: far below all real gains, and sums of it stay finite."""


def _pair_maxima(a_TB: Array, b_TB: Array) -> Array:
    """For q = 0 .. 18: at least max over a + b = q of a_TB[a] + b_TB[b]."""
    best_QB = np.full((2 * RADIX - 1, a_TB.shape[1]), NEVER)
    for a in range(RADIX):
        window = best_QB[a : a + RADIX]
        np.maximum(window, a_TB[a] + b_TB, out=window)
    # A step up is monotone, so one after the maximum rounds up every sum before it.
    return up(best_QB)


def maximum(
    gain_LTB: Array, i: int, n: int, carry_allowed_JCB: NDArray[np.bool_] | None = None
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
        pair_QB = _pair_maxima(gain_LTB[j], gain_LTB[n + j])
        answer_TB = gain_LTB[2 * n + j]
        out = [np.full(B, NEVER), np.full(B, NEVER)]
        for carry in (0, 1):
            first_over = RADIX - carry  # the smallest a + b that carries
            for into, sums, answers in (
                (0, pair_QB[:first_over], answer_TB[carry:]),
                (1, pair_QB[first_over:], answer_TB[: RADIX - 1 + carry]),
            ):
                column_B = up((sums + answers).max(0))
                out[into] = np.maximum(out[into], up(state[carry] + column_B))
        state = out
    for j in range(i + 1, n):
        for slot in (j, n + j):
            best_B = gain_LTB[slot].max(0)
            state = [up(each + best_B) for each in state]
    return state[0], state[1]


def _carrying_pairs() -> list[list[list[int]]]:
    """[a][b][c]: number of digit pairs with a + b + c >= 10; the last index of a and b means free."""
    choices = [[digit] for digit in range(RADIX)] + [list(range(RADIX))]
    return [
        [[sum(a + b + c >= RADIX for a in some_a for b in some_b) for c in (0, 1)] for some_b in choices]
        for some_a in choices
    ]


_CARRYING = _carrying_pairs()


def count(a: Sequence[int], b: Sequence[int], carry: Sequence[int], i: int) -> tuple[int, int]:
    """Exact numbers of digit choices of all columns but i and i - 1, for carry 0 and 1 into i - 1.

    ``a``, ``b`` and ``carry`` (into column j) give the fixed values, FREE elsewhere; entries of
    columns i and i - 1 are not read. Python integers: nothing can overflow.
    """
    n = len(a)
    ways = [1, 0]
    for j in range(i - 1):
        if carry[j] != FREE:
            ways[1 - carry[j]] = 0
        size = (1 if a[j] != FREE else RADIX) * (1 if b[j] != FREE else RADIX)
        over0, over1 = _CARRYING[a[j]][b[j]]
        ways = [
            ways[0] * (size - over0) + ways[1] * (size - over1),
            ways[0] * over0 + ways[1] * over1,
        ]
    free = 1
    for j in range(i + 1, n):
        free *= (1 if a[j] != FREE else RADIX) * (1 if b[j] != FREE else RADIX)
    return ways[0] * free, ways[1] * free
