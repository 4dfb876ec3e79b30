"""Patterns of digits and carries: counted, merged, intersected and united like sets of pairs."""

import numpy as np
import pytest

from adderlab.proof import count as union
from adderlab.proof.carries import leaves
from adderlab.proof.witnesses import carries_of, to_digits
from oracle.proof_twin import all_pairs, random_problem

N = 2
A, B = all_pairs(N)
CARRY = carries_of(A, B)


def members(patterns: np.ndarray) -> np.ndarray:
    """How many of the patterns each pair lies in."""
    digits = np.concatenate([A, B, CARRY], 1)
    inside = np.ones((len(patterns), len(A)), dtype=bool)
    for k in range(3 * N + 1):
        inside &= (patterns[:, k, None] >> digits[:, k]) & 1 == 1
    return inside.sum(0)


def random_cells(seed: int, count: int) -> np.ndarray:
    """Disjoint patterns: cells of a random tree over digits and carries."""
    rng = np.random.default_rng(seed)
    digits = np.full((1, 2 * N), -1, dtype=np.int8)
    carry = np.full((1, N), -1, dtype=np.int8)
    while len(digits) < count:
        row = int(rng.integers(len(digits)))
        slot = int(rng.integers(2 * N + 1))
        fixed, held = digits[row].copy(), carry[row].copy()
        if (slot < 2 * N and fixed[slot] >= 0) or (slot == 2 * N and held[1] >= 0):
            continue
        values = 10 if slot < 2 * N else 2
        digits = np.concatenate([np.delete(digits, row, 0), np.tile(fixed, (values, 1))])
        carry = np.concatenate([np.delete(carry, row, 0), np.tile(held, (values, 1))])
        (digits[-values:, slot] if slot < 2 * N else carry[-values:, 1])[:] = np.arange(values)
    chosen = rng.uniform(size=len(digits)) < 0.4
    return union.patterns(digits[chosen], carry[chosen])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("marked", [0, union.MOST_MARKED], ids=["overlaps", "marked"])
def test_counts_merges_intersections_and_unions(
    marked: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(union, "MOST_MARKED", marked)
    families = [random_cells(3 * seed + k, 60) for k in range(3)]
    sets = [members(family) for family in families]
    for family, inside in zip(families, sets, strict=True):
        assert inside.max() <= 1
        assert union.count(family) == inside.sum()
        listed = sorted(union.members(family).tolist())
        assert listed == sorted((A[inside > 0] @ [1, 10] + B[inside > 0] @ [100, 1000]).tolist())
        fewer = union.merged(family)
        assert len(fewer) <= len(family) and (members(fewer) == inside).all()
    both = union.intersection(families[0], families[1])
    assert both is not None
    assert (members(both) == sets[0] * sets[1]).all()
    size = int(np.any(sets, 0).sum())
    assert union.union_size(families, 10.0) == (size, size)


@pytest.mark.parametrize("seed", range(3))
def test_a_union_too_large_to_work_out_is_bracketed(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    families = [random_cells(10 * seed + k, 80) for k in range(3)]
    sets = [members(family) for family in families]
    size = int(np.any(sets, 0).sum())
    monkeypatch.setattr(union, "MOST_MARKED", 0)
    monkeypatch.setattr(union, "PAIR_BUDGET", 10)
    monkeypatch.setattr(union, "WIDE", 6)
    low, high = union.union_size(families, 10.0)
    assert max(s.sum() for s in sets) <= low < size < high <= sum(s.sum() for s in sets)
    wide = union.widened(families[0])
    assert len(wide) <= 6 and (members(wide) >= sets[0]).all()
    rough_low, rough_high = union.union_size(families, -1.0)
    assert rough_low <= low and high <= rough_high
    assert union.intersection(families[0], families[1], limit=3) is None


def test_union_of_leaves_is_counted_exactly() -> None:
    problem = random_problem(0, columns=N)
    rng = np.random.default_rng(0)
    chosen, inside = [], np.zeros(len(A), dtype=bool)
    for step in problem.steps:
        leaf = leaves(step)
        chosen.append(rng.uniform(size=step.num_leaves) < 0.1)
        inside |= members(union.leaf_patterns(step, leaf, chosen[-1])) > 0
    assert union.leaf_union(problem.steps, chosen) == inside.sum()


def test_a_pair_of_every_cell() -> None:
    family = random_cells(1, 90)
    digits = np.full((len(family), 2 * N), -1, dtype=np.int8)
    carry = np.full((len(family), N), -1, dtype=np.int8)
    for row, cell in enumerate(family):
        for slot in range(2 * N):
            if cell[slot] != union.any_digit(10):
                digits[row, slot] = int(cell[slot]).bit_length() - 1
        if cell[2 * N + 1] != union.ANY_CARRY:
            carry[row, 1] = int(cell[2 * N + 1]).bit_length() - 1
    filled = np.flatnonzero([union.count(cell[None]) > 0 for cell in family])
    pairs = union.some_pairs(digits[filled], carry[filled])
    a, b = (to_digits(values, N) for values in pairs)
    rows = (a @ [1, 10]) * 100 + b @ [1, 10]
    for cell, row in zip(family[filled], rows, strict=True):
        assert members(cell[None])[row] == 1


def test_ten_columns_count_beyond_64_bits() -> None:
    everything = union.patterns(np.full((1, 20), -1, dtype=np.int8), np.full((1, 10), -1, dtype=np.int8))
    assert union.count(everything) == 10**20
