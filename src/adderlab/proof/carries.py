"""Leaves, and the carry DP over what they leave free.

A *leaf* of step i fixes the carry into column i - 1, the digits of column i - 1 and those of column i.
That fixes the query token z = s_(i-1) and the right digit s_i, and these digits are what a model that
adds looks at most. The leaves of a step partition all pairs.

What a leaf leaves free is maximised, or counted, exactly. A separable sum over slots is given as
``gain_LTB``: the gain of slot l holding digit t, for B independent instances at once (the batch is the
last axis, so that every operation runs over it). Columns above i are free one by one; columns below
i - 1 are tied by the carries, because their answer digits are keys too, and the dynamic program over
the carry walks through them. Fixing a tied column with its carry breaks a run of tied columns in two.

Shapes: n columns, L = 3n slots (a, b, s), T digits (10), B batch, Q digit sums (19), C = 2 carries,
N leaves in canonical order (lexicographic in carry, a', b', a, b), Z query tokens, H heads, E
bottleneck.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adderlab.proof.problem import FREE, Array, Step, Weights

Ints = NDArray[np.int64]
NO = -np.inf
"""The gain of what is impossible."""
LARGEST_INT64 = 2**63 - 1


@dataclass(frozen=True, kw_only=True)
class Rest:
    """What is left to choose: runs of tied columns, each between known carries, and free slots."""

    columns: int
    runs: tuple[tuple[int, int], ...]
    """Tied columns lo .. hi - 1; the carries into columns lo and hi are known."""
    free: tuple[int, ...]
    given: tuple[int, ...] = ()
    """A window's digits (``Problem.given``). They leave less to choose, but no slot leaves the list."""
    base: int = 10

    @classmethod
    def of_step(cls, step: Step) -> Rest:
        """What the leaves of a step leave."""
        return cls.of_leaf(step.index, step.columns, step.given, step.base)

    @classmethod
    def of_leaf(cls, i: int, n: int, given: tuple[int, ...] = (), base: int = 10) -> Rest:
        """A leaf of step i leaves all columns but i and i - 1."""
        above = range(i + 1, n)
        return cls(
            columns=n,
            runs=((0, i - 1),) if i > 1 else (),
            free=(*above, *(n + j for j in above)),
            given=given,
            base=base,
        )

    @property
    def tied(self) -> tuple[int, ...]:
        return tuple(j for lo, hi in self.runs for j in range(lo, hi))

    @property
    def codes(self) -> int:
        """Number of carry codes: the carries in and out of all runs as one binary number."""
        return 4 ** len(self.runs)

    def slots(self) -> tuple[int, ...]:
        """Every slot that is left, the answer digits of tied columns included."""
        return (*self.free, *(k * self.columns + j for k in range(3) for j in self.tied))

    def without(self, slot: int) -> Rest:
        """After fixing a tied column (with its carry) or a free slot."""
        if slot in self.free:
            free = tuple(s for s in self.free if s != slot)
            return dataclasses.replace(self, free=free)
        runs = []
        for lo, hi in self.runs:
            pieces = ((lo, slot), (slot + 1, hi)) if lo <= slot < hi else ((lo, hi),)
            runs += [piece for piece in pieces if piece[0] < piece[1]]
        return dataclasses.replace(self, runs=tuple(runs))

    def ways(self, carries: tuple[int, ...]) -> int:
        """Number of choices; ``carries`` holds the carry in and out of each run in turn."""
        given = self.given or (FREE,) * (2 * self.columns)
        total = self.base ** sum(given[slot] == FREE for slot in self.free)
        for (lo, hi), first, last in zip(self.runs, carries[::2], carries[1::2], strict=True):
            # No carry enters the units column.
            state = [1 - first, first if lo else 0]
            for j in range(lo, hi):
                size, over0, over1 = _ways(given[j], given[self.columns + j], self.base)
                state = [
                    (size - over0) * state[0] + (size - over1) * state[1],
                    over0 * state[0] + over1 * state[1],
                ]
            total *= state[last]
        return total


@functools.cache
def _ways(a: int, b: int, base: int) -> tuple[int, int, int]:
    """Digit pairs of a column, and those that make a carry without and with one coming in. Of all 100 of
    base 10 these are 45 and 55."""
    pairs = [
        x + y for x in (range(base) if a == FREE else (a,)) for y in (range(base) if b == FREE else (b,))
    ]
    return len(pairs), sum(q >= base for q in pairs), sum(q + 1 >= base for q in pairs)


def pair_maximum(gain_a_TB: Array, gain_b_TB: Array, base: int) -> Array:
    """max over a + b = q of gain_a[a] + gain_b[b], for q = 0 .. 2 (base - 1): (Q, B).

    The answer digit and the carry out see a and b through their sum alone: 19 sums instead of 100
    pairs are all that the rest of the column has to look at. Where one token is both digits, gain_a is
    that of the pair.
    """
    best_QB = np.full((2 * base - 1, gain_a_TB.shape[1]), NO)
    for a in range(base):
        if len(gain_a_TB) != base:
            pair_TB = gain_a_TB[base * a : base * (a + 1)]
            np.maximum(best_QB[a : a + base], pair_TB, out=best_QB[a : a + base])
            continue
        np.maximum(best_QB[a : a + base], gain_a_TB[a] + gain_b_TB, out=best_QB[a : a + base])
    return best_QB


def column_table(gain_a_TB: Array, gain_b_TB: Array, gain_s_TB: Array, base: int) -> Array:
    """Best total of one column for each carry in and out: (C in, C out, B)."""
    best_QB, gain_s_TB = pair_maximum(gain_a_TB, gain_b_TB, base), gain_s_TB[:base]
    table = np.empty((2, 2, gain_a_TB.shape[1]))
    for carry in (0, 1):
        table[carry, 0] = (best_QB[: base - carry] + gain_s_TB[carry:]).max(0)
        table[carry, 1] = (best_QB[base - carry :] + gain_s_TB[: base - 1 + carry]).max(0)
    return table


def run_maximum(gain_LTB: Array, rest: Rest, run: tuple[int, int], first_carries: int = 2) -> Array:
    """Best total of a run of tied columns for each carry in and out: (C in, C out, B).

    With ``first_carries`` 1 only carry in 0 is worked out (carry in 1 is minus infinity).
    """
    states = np.full((first_carries, 2, gain_LTB.shape[-1]), NO)
    for carry in range(first_carries):
        states[carry, carry] = 0.0
    n = rest.columns
    for j in range(*run):
        table = column_table(gain_LTB[j], gain_LTB[n + j], gain_LTB[2 * n + j], rest.base)
        states = np.maximum(states[:, :1] + table[0], states[:, 1:] + table[1])
    if first_carries == 1:
        states = np.concatenate([states, np.full_like(states, NO)])
    return states


def maximum(gain_LTB: Array, rest: Rest) -> Array:
    """Best total over all that is left, for every carry in and out of the runs: (C^(2 runs), B).

    The first axis reads the carries as one binary number: in and out of the first run first.
    """
    batch = gain_LTB.shape[-1]
    total = np.zeros((1, batch))
    for run in rest.runs:
        table = run_maximum(gain_LTB, rest, run, 1 if run[0] == 0 else 2).reshape(4, batch)
        total = (total[:, None] + table).reshape(-1, batch)
    for slot in rest.free:
        total = total + gain_LTB[slot].max(0)
    return total


def tied_children(base: int = 10) -> np.ndarray:
    """All (a, b, s, carry in, carry out) of a column: (2 base^2, 5)."""
    rows = [
        (a, b, (a + b + carry) % base, carry, (a + b + carry) // base)
        for carry in (0, 1)
        for a in range(base)
        for b in range(base)
    ]
    return np.array(rows)


# Leaves.


@dataclass(frozen=True, kw_only=True)
class Leaves:
    """Leaves of a step: fixed digits, query row, right digit and multiplicity."""

    number_N: Ints
    """Place in the canonical order; a window has some of them only."""
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
    """Python integers, where 64 bits are too few."""

    def take(self, rows: Ints) -> Leaves:
        return Leaves(**{name: value[rows] for name, value in vars(self).items()})


def leaves(step: Step) -> Leaves:
    """The leaves of a step. Digits of columns that do not exist read 0."""
    shape, base = step.leaf_shape, step.base
    carry_N, a_before_N, b_before_N, a_N, b_N = (grid.reshape(-1) for grid in np.indices(shape))
    before_N = a_before_N + b_before_N + carry_N
    carry_here_N = before_N // base
    row_N = before_N % base if step.index else np.zeros_like(before_N)
    target_N = (a_N + b_N + carry_here_N) % base
    if step.end_token is not None:
        # The carry out of the top column, s_n, is the query token; no column is fixed.
        row_N, target_N = carry_N, np.full_like(carry_N, step.end_token)
    rest = Rest.of_step(step)
    ways = [rest.ways((0, c) if rest.runs else ()) for c in (0, 1)]
    ways_C = np.array(ways, dtype=np.int64 if max(ways) <= LARGEST_INT64 else object)
    found = Leaves(
        number_N=np.arange(len(carry_N)),
        carry_N=carry_N,
        a_before_N=a_before_N,
        b_before_N=b_before_N,
        a_N=a_N,
        b_N=b_N,
        row_N=row_N,
        target_N=target_N,
        inputs_N=ways_C[carry_N],
    )
    if not step.given:
        return found
    possible_N = found.inputs_N > 0
    for slot, digit_N in own_digits(step, found):
        possible_N &= (step.given[slot] == FREE) | (step.given[slot] == digit_N)
    return found.take(np.flatnonzero(possible_N))


def own_digits(step: Step, leaf: Leaves) -> list[tuple[int, Ints]]:
    """(slot, its digit on every leaf) of the columns that leaves fix."""
    i, n = step.index, step.columns
    slots: list[tuple[int, Ints]] = []
    if 0 < i <= n:
        slots += [(i - 1, leaf.a_before_N), (n + i - 1, leaf.b_before_N)]
    if i < n:
        slots += [(i, leaf.a_N), (n + i, leaf.b_N)]
    return slots


def keys_of(step: Step, digits: list[tuple[int, Ints]]) -> list[tuple[int, Ints]]:
    """(slot, choice) of the keys that given digits of whole columns make: with pair tokens one of each
    column, otherwise the same list. The digits of a come before those of b, in the same order."""
    if not step.pairs:
        return digits
    n = step.columns
    b_of = dict((slot - n, digit) for slot, digit in digits if n <= slot < 2 * n)
    pairs = [(slot, step.base * digit + b_of[slot]) for slot, digit in digits if slot < n]
    return [*pairs, *((slot, digit) for slot, digit in digits if slot >= 2 * n)]


def fixed_digits(step: Step, leaf: Leaves) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """The digits (N, 2n) and carries (N, n + 1) that leaves or a window fix; FREE where nothing is
    fixed."""
    n, i = step.columns, step.index
    N = len(leaf.row_N)
    digits = np.full((N, 2 * n), FREE, dtype=np.int8)
    digits[:] = step.given or FREE
    carries = np.full((N, n + 1), FREE, dtype=np.int8)
    carries[:, 0] = 0
    if i > 0:
        carries[:, i - 1] = leaf.carry_N
    for slot, digit_N in own_digits(step, leaf):
        digits[:, slot] = digit_N
    return digits, carries


@dataclass(frozen=True, kw_only=True)
class Fixed:
    """What the fixed keys of N leaves or cells add to the sums of one band."""

    weight_NH: Array
    mass_NHE: Array
    possible_NH: NDArray[np.bool_]
    """False where a fixed digit is forbidden: then the band holds none of the leaf's inputs."""


def fixed_parts(step: Step, band: Weights, leaf: Leaves) -> Fixed:
    z = leaf.row_N
    weight_NH = band.weight_ZH[z]
    mass_NHE = band.mass_ZHE[z]
    possible_NH = np.ones(weight_NH.shape, dtype=bool)
    for slot, digit_N in keys_of(step, own_digits(step, leaf)):
        weight_NH = weight_NH + band.weight_ZHLT[z, :, slot, digit_N]
        mass_NHE = mass_NHE + band.mass_ZHLTE[z, :, slot, digit_N]
        if band.forbids:
            possible_NH &= band.allowed_ZHLT[z, :, slot, digit_N]
    return Fixed(weight_NH=weight_NH, mass_NHE=mass_NHE, possible_NH=possible_NH)
