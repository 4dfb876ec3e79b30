"""Hold-out splits equal R456's walk, and the test for held-out pairs is exact."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adderlab.errors import UsageError
from adderlab.task.addition import PUBLISHED, Addition, from_digits, pairs_from_ints
from adderlab.task.r456 import (
    Holdout,
    holdout,
    without_repeats,
)
from oracle import sampler_twin


def held(split: Holdout, a_BJ: torch.Tensor, b_BJ: torch.Tensor) -> np.ndarray:
    """Which of the pairs are in the split."""
    return split.contains(from_digits(a_BJ).numpy(), from_digits(b_BJ).numpy())


def pairs_of(a_BJ: torch.Tensor, b_BJ: torch.Tensor) -> list[tuple[int, int]]:
    return list(zip(from_digits(a_BJ).tolist(), from_digits(b_BJ).tolist(), strict=True))


@pytest.mark.parametrize(
    ("seed", "val_size", "test_size"),
    [(41, 5000, 10_000), (31415, 5000, 10_000), (43, 7, 20), (2, 0, 5000)],
)
def test_equals_the_twin(seed: int, val_size: int, test_size: int) -> None:
    split = holdout(seed, val_size, test_size)
    expected = sampler_twin.holdout_pairs(seed, val_size + test_size)
    assert pairs_of(split.val_a_BJ, split.val_b_BJ) == expected[:val_size]
    assert pairs_of(split.test_a_BJ, split.test_b_BJ) == expected[val_size:]


few = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=30)


@given(few, few, st.integers(0, 40))
def test_repeats_are_skipped_in_order(
    first: list[tuple[int, int]], second: list[tuple[int, int]], count: int
) -> None:
    """As the walk: pairs of an earlier draw count as seen in a later one."""
    seen: set[tuple[int, int]] = set()
    expected = sampler_twin.new_pairs(first, seen) + sampler_twin.new_pairs(second, seen)
    a, b = np.array(first + second, dtype=np.int64).reshape(-1, 2).T
    for task in (PUBLISHED, Addition(columns=3)):
        got_a, got_b = without_repeats(a, b, count, task)
        assert list(zip(got_a.tolist(), got_b.tolist(), strict=True)) == expected[:count]


def test_pairs_of_a_split_are_found_and_others_are_not() -> None:
    split = holdout(43, 50, 100)
    a_BJ = torch.cat([split.val_a_BJ, split.test_a_BJ])
    b_BJ = torch.cat([split.val_b_BJ, split.test_b_BJ])
    assert held(split, a_BJ, b_BJ).all()
    assert not held(split, b_BJ, a_BJ).any()
    assert not held(split, a_BJ, b_BJ.roll(1, 0)).any()
    mixed = held(split, a_BJ.reshape(2, 75, 10), torch.stack([b_BJ[:75], b_BJ[:75]]))
    assert mixed.tolist() == [[True] * 75, [False] * 75]


def test_pairs_with_equal_hashes_are_different_pairs() -> None:
    """2^64 = 1844674408 * 10^10 - 6290448384, so these two pairs share a * 10^10 + b mod 2^64."""
    first, second = (8_000_000_000, 1), (8_000_000_000 - 1844674408, 1 + 6290448384)
    assert (first[0] * 10**10 + first[1] - second[0] * 10**10 - second[1]) % 2**64 == 0
    a_BJ, b_BJ = pairs_from_ints([first, second])
    one = Holdout(val_a_BJ=a_BJ[:1], val_b_BJ=b_BJ[:1], test_a_BJ=a_BJ[:0], test_b_BJ=b_BJ[:0])
    assert held(one, a_BJ, b_BJ).tolist() == [True, False]
    both = Holdout(val_a_BJ=a_BJ[:1], val_b_BJ=b_BJ[:1], test_a_BJ=a_BJ[1:], test_b_BJ=b_BJ[1:])
    assert held(both, a_BJ, b_BJ).all()


def test_empty_and_refused_sizes() -> None:
    nothing = holdout(1, 0, 0)
    assert not held(nothing, *pairs_from_ints([(1, 2)])).any()
    with pytest.raises(UsageError, match="not -1 and 5"):
        holdout(1, -1, 5)
