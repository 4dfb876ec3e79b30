"""How many pairs fail at one step or more: each counted once.

The failures of a step are a list of disjoint *patterns*: a set of allowed digits for every operand
slot and a set of allowed carries for every column. Patterns intersect slot by slot (sets of digits are
bit masks), and a carry DP counts them exactly, so the union over steps follows by inclusion and
exclusion. Where the pairs are few, as of three columns, they are marked one by one. The carries are part
of a pattern because a leaf knows the carry into its columns, not the digits that made it.

Shapes: N patterns, n columns, S = 3n + 1 fields (a, b, carries 0 .. n).
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from adderlab.proof.carries import Leaves, fixed_digits
from adderlab.proof.problem import Step

Patterns = NDArray[np.uint16]
ANY_CARRY = 3
MOST_TABULATED = 10
"""Largest base for which the ways of a column are a table: 2^base squared entries."""
LARGEST_INT64 = 2**63 - 1
MOST_MARKED = 10_000_000
"""Pairs of a task up to which those of every pattern are listed."""
PAIR_BUDGET = 100_000_000
COMMON_LIMIT = 3_000_000
WIDE = 250
"""Patterns to which a large family is reduced for an upper bound of its overlaps."""
BLOCK = 4096


def any_digit(base: int) -> int:
    """The set of all digits."""
    return (1 << base) - 1


def patterns(digits_NS: NDArray[np.int8], carry_NC: NDArray[np.int8], base: int = 10) -> Patterns:
    """Cells (digits (N, 2n), carries into columns (N, n), perhaps with that out of the last (N, n + 1);
    -1 where free) as patterns."""
    N, slots = digits_NS.shape
    n = slots // 2
    fields = np.full((N, 3 * n + 1), any_digit(base), dtype=np.uint16)
    fields[:, 2 * n :] = ANY_CARRY
    fields[:, : 2 * n] = np.where(
        digits_NS < 0, any_digit(base), 1 << np.maximum(digits_NS, 0).astype(np.int64)
    )
    carry = np.where(carry_NC < 0, ANY_CARRY, 1 << np.maximum(carry_NC, 0).astype(np.int64))
    fields[:, 2 * n : 2 * n + carry.shape[1]] = carry
    fields[:, 2 * n] = 1
    return fields


def merged(cells: Patterns) -> Patterns:
    """The same set with fewer patterns: those that differ in one field only are joined."""
    n = (cells.shape[1] - 1) // 3
    for slot in range(2 * n):
        if len(cells) < 2:
            break
        others = np.delete(cells, slot, 1)
        order = np.lexsort(others.T)
        new_group = np.r_[True, (others[order][1:] != others[order][:-1]).any(1)]
        starts = np.flatnonzero(new_group)
        joined = cells[order[starts]]
        joined[:, slot] = np.bitwise_or.reduceat(cells[order, slot], starts)
        cells = joined
    return cells


def widened(cells: Patterns, base: int = 10) -> Patterns:
    """A superset in at most WIDE patterns, which may overlap: the rarest constraints are dropped."""
    n = (cells.shape[1] - 1) // 3
    whole = np.full(cells.shape[1], any_digit(base), dtype=np.uint16)
    whole[2 * n :] = ANY_CARRY
    order = np.argsort((cells != whole).mean(0), kind="stable")

    def without(fields: NDArray[np.int64]) -> Patterns:
        kept = cells.copy()
        kept[:, fields] = whole[fields]
        return _distinct(kept)

    # Fewest dropped constraints that leave few enough patterns.
    low, high = 0, len(order)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(without(order[:middle])) <= 4 * WIDE else (middle + 1, high)
    wide = merged(without(order[:low]))
    while len(wide) > WIDE:
        low += 1
        wide = merged(without(order[:low]))
    return wide


def _distinct(cells: Patterns) -> Patterns:
    rows = np.ascontiguousarray(cells).view(np.dtype((np.void, cells.itemsize * cells.shape[1])))
    return cells[np.unique(rows.ravel(), return_index=True)[1]]


def count(cells: Patterns, base: int = 10) -> int:
    """Exact number of pairs in disjoint patterns: the carry DP with sums in place of maxima."""
    n = (cells.shape[1] - 1) // 3
    total = 0
    for start in range(0, len(cells), BLOCK):
        block = cells[start : start + BLOCK]
        state = [(block[:, 2 * n] & 1).astype(np.int64), (block[:, 2 * n] >> 1).astype(np.int64)]
        for j in range(n):
            a, b, carry = block[:, j], block[:, n + j], block[:, 2 * n + j + 1]
            if base ** (2 * (j + 1)) > LARGEST_INT64:
                # Ten columns reach 10^20, beyond int64: from there on in Python integers.
                state = [part.astype(object) for part in state]
            ways = _column_ways(a, b, base)
            state = [
                (state[0] * ways[0, out] + state[1] * ways[1, out]) * (carry >> out & 1)
                for out in (0, 1)
            ]
        total += int(sum(state[0]) + sum(state[1]))
    return total


def _column_ways(a_N: Patterns, b_N: Patterns, base: int) -> NDArray[np.int64]:
    """Number of (a, b) from the digit sets of every row, with a given carry in and out: (2, 2, N)."""
    if base <= MOST_TABULATED:
        return _ways(base)[:, :, a_N, b_N]
    digit = np.arange(base)
    a_NT, b_NT = (x_N[:, None] >> digit & 1 for x_N in (a_N.astype(np.int64), b_N.astype(np.int64)))
    return np.einsum("na,coab,nb->con", a_NT, _over(base), b_NT)


@functools.cache
def _ways(base: int) -> NDArray[np.int64]:
    """The same for any two digit sets: (2, 2, 1024, 1024) in base 10."""
    bits = np.arange(1 << base)[:, None] >> np.arange(base) & 1
    return bits @ _over(base) @ bits.T


def _over(base: int) -> NDArray[np.int64]:
    """1 where digits a, b and the carry in make the carry out: (2, 2, base, base)."""
    digit = np.arange(base)
    total = digit[:, None] + digit
    over = np.array([[total + carry < base, total + carry >= base] for carry in (0, 1)])
    return over.astype(np.int64)


def members(cells: Patterns, base: int = 10) -> NDArray[np.int64]:
    """Every pair in disjoint patterns, as the number a + base^n b."""
    n = (cells.shape[1] - 1) // 3
    digit, over = np.arange(base), _over(base)[:, 1].astype(np.int64)
    row = np.flatnonzero(cells[:, 2 * n] & 1)
    pair, carry = np.zeros_like(row), np.zeros_like(row)
    for j in range(n):
        a_RT, b_RT = (cells[row, slot][:, None] >> digit & 1 for slot in (j, n + j))
        leaves_RTT = cells[row, 2 * n + j + 1][:, None, None] >> over[carry] & 1
        chosen, a, b = np.nonzero(a_RT[:, :, None] & b_RT[:, None] & leaves_RTT)
        pair = pair[chosen] + a * base**j + b * base ** (n + j)
        row, carry = row[chosen], over[carry[chosen], a, b]
    return pair


def pairs_in(cells: Patterns, base: int = 10) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Digits a_BJ and b_BJ, units first, of every pair in disjoint patterns, pattern by pattern."""
    columns = (cells.shape[1] - 1) // 3
    digits_BS = members(cells, base)[:, None] // base ** np.arange(2 * columns) % base
    return digits_BS[:, :columns], digits_BS[:, columns:]


def intersection(
    first: Patterns, second: Patterns, limit: int | None = None, base: int = 10
) -> Patterns | None:
    """All non-empty intersections of two lists of disjoint patterns, again disjoint; None if there
    are more than ``limit``."""
    if len(first) > len(second):
        first, second = second, first
    found = [np.zeros((0, first.shape[1]), dtype=np.uint16)]
    size = 0
    n = (first.shape[1] - 1) // 3
    whole = np.r_[np.full(2 * n, base), np.full(n + 1, 2)]
    # The tightest constraints first: most candidates fall there.
    tight = np.argsort(np.bitwise_count(first) / whole, 1, kind="stable")
    for cell, places in zip(first, tight, strict=True):
        fits = np.arange(len(second))
        for place in places:
            fits = fits[(second[fits, place] & cell[place]) != 0]
            if not len(fits):
                break
        if len(fits):
            found.append(second[fits] & cell)
            size += len(fits)
        if limit is not None and size > limit:
            return None
    return np.concatenate(found)


@dataclass(kw_only=True)
class _Work:
    """What the overlaps may cost, and wide versions of large families found so far."""

    pairs: int
    deadline: float
    base: int
    wide: dict[int, tuple[Patterns, Patterns]] = field(default_factory=dict)

    def late(self) -> bool:
        return time.process_time() > self.deadline

    def widened(self, cells: Patterns) -> Patterns:
        if id(cells) not in self.wide:
            # The family is kept too, so that its identity stays its own.
            self.wide[id(cells)] = (cells, widened(cells, self.base))
        return self.wide[id(cells)][1]


def union_size(families: list[Patterns], seconds: float, base: int = 10) -> tuple[int, int]:
    """Size of the union of families of disjoint patterns, (low, high): equal where it is exact.

    Of more than MOST_MARKED pairs, families too large to intersect, or not intersected after ``seconds``
    of processor time, leave a bracket.
    """
    families = [family for family in families if len(family)]
    if not families:
        return 0, 0
    everything = base ** (2 * ((families[0].shape[1] - 1) // 3))
    if everything <= MOST_MARKED:
        marked = np.zeros(everything, dtype=bool)
        for family in families:
            for start in range(0, len(family), BLOCK):
                marked[members(family[start : start + BLOCK], base)] = True
        return int(marked.sum()), int(marked.sum())
    work = _Work(pairs=PAIR_BUDGET, deadline=time.process_time() + seconds, base=base)
    families = [merged(family) for family in families]
    sizes = [count(family, base) for family in families]
    low = high = 0
    for k, family in enumerate(families):
        overlap_low, overlap_high = _overlap(family, sizes[k], families[k + 1 :], sizes[k + 1 :], work)
        low += sizes[k] - overlap_high
        high += sizes[k] - overlap_low
    return max(low, *sizes), min(high, everything)


def _overlap(
    family: Patterns, size: int, others: list[Patterns], sizes: list[int], work: _Work
) -> tuple[int, int]:
    """Bounds of the number of pairs in ``family`` and in the union of ``others``."""
    low = high = 0
    for k, other in enumerate(others):
        most = min(size, sizes[k])
        if work.late():
            high += most
            continue
        common = None
        if len(family) * len(other) <= work.pairs:
            work.pairs -= len(family) * len(other)
            common = intersection(family, other, COMMON_LIMIT, work.base)
        if common is None:
            rough = intersection(work.widened(family), work.widened(other), base=work.base)
            assert rough is not None
            high += min(most, count(rough, work.base))
            continue
        common_size = count(common, work.base)
        if common_size:
            again_low, again_high = _overlap(common, common_size, others[k + 1 :], sizes[k + 1 :], work)
            low += common_size - again_high
            high += common_size - again_low
    return max(low, 0), min(high, size)


def leaf_patterns(step: Step, leaf: Leaves, chosen_N: NDArray[np.bool_]) -> Patterns:
    """The chosen leaves of a step as patterns."""
    return patterns(*fixed_digits(step, leaf.take(np.flatnonzero(chosen_N))), step.base)


def leaf_union(steps: tuple[Step, ...], chosen: list[NDArray[np.bool_]]) -> int:
    """Exact number of pairs that lie in a chosen leaf of one step or more.

    A leaf looks at two neighbouring columns, so the pairs that avoid all chosen leaves are counted
    column by column, by the digits of the last column and the carry into it.
    """
    n, base = steps[0].columns, steps[0].base
    free = ~chosen[0].reshape(base, base)
    # avoid[c, a, b]: pairs of the columns so far, in Python integers.
    avoid = np.zeros((2, base, base), dtype=object)
    avoid[0] = free.astype(object)
    carry, a, b = np.indices(avoid.shape)
    carry_out = (a + b + carry) // base
    for i in range(1, n):
        free = ~chosen[i].reshape(steps[i].leaf_shape)
        if i == 1:
            free = np.concatenate([free, np.zeros_like(free)])
        following = np.zeros_like(avoid)
        for out in (0, 1):
            rows = carry_out == out
            following[out] = (avoid[rows][:, None, None] * free[rows]).sum(0)
        avoid = following
    free = ~chosen[n].reshape(-1, base, base)
    avoid = avoid[: len(free)] * free
    if len(chosen) > n + 1:
        # The leaves of the end token: one for each carry out of the last column.
        avoid = avoid * ~chosen[n + 1][carry_out[: len(free)]]
    return base ** (2 * n) - int(avoid.sum())


def some_pairs(
    digits_NS: NDArray[np.int8], carry_NC: NDArray[np.int8], base: int = 10
) -> tuple[list[int], list[int]]:
    """One pair from each cell: free digits 0, and 5 + 5 or 9 where a carry has to come from."""
    fields = patterns(digits_NS, carry_NC, base)
    n = digits_NS.shape[1] // 2
    pairs: tuple[list[int], list[int]] = ([], [])
    for cell in fields.tolist():
        a, b = _some_pair(cell, n, base)
        pairs[0].append(a)
        pairs[1].append(b)
    return pairs


def _some_pair(cell: list[int], n: int, base: int) -> tuple[int, int]:
    """A pair of a non-empty pattern, by a search over carries from the units up."""
    ways: list[dict[int, tuple[int, int, int]]] = []
    reachable = {0}
    for j in range(n):
        reached: dict[int, tuple[int, int, int]] = {}
        for carry in sorted(reachable):
            if not cell[2 * n + j] >> carry & 1:
                continue
            for a in range(base):
                for b in range(base):
                    if cell[j] >> a & 1 and cell[n + j] >> b & 1:
                        reached.setdefault((a + b + carry) // base, (a, b, carry))
        ways.append(reached)
        reachable = set(reached)
    carry = next(c for c in sorted(reachable) if cell[3 * n] >> c & 1)
    a_value = b_value = 0
    for j in reversed(range(n)):
        a, b, carry = ways[j][carry]
        a_value += a * base**j
        b_value += b * base**j
    return a_value, b_value
