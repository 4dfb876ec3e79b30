"""Digit tensors against Python integers."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from adderlab.task.addition import add, carries, from_digits, pairs_from_ints, to_digits

operands = st.integers(0, 10**10 - 1)
pairs = st.lists(st.tuples(operands, operands), min_size=1, max_size=20)


@given(st.lists(operands, min_size=1, max_size=20))
def test_to_digits_and_back(values: list[int]) -> None:
    digit_BJ = to_digits(torch.tensor(values))
    assert digit_BJ.dtype == torch.uint8 and int(digit_BJ.max()) <= 9
    assert from_digits(digit_BJ).tolist() == values
    assert [int("".join(map(str, reversed(row)))) for row in digit_BJ.tolist()] == values


@given(pairs)
def test_add_is_integer_addition(values: list[tuple[int, int]]) -> None:
    a_BJ, b_BJ = pairs_from_ints(values)
    sum_BI = add(a_BJ, b_BJ)
    assert sum_BI.dtype == torch.uint8 and sum_BI.shape == (len(values), 11)
    assert from_digits(sum_BI).tolist() == [a + b for a, b in values]


@given(pairs)
def test_carries_are_those_of_the_sums_below(values: list[tuple[int, int]]) -> None:
    carry_BI = carries(*pairs_from_ints(values))
    for (a, b), carry_I in zip(values, carry_BI.tolist(), strict=True):
        assert carry_I == [(a % 10**j + b % 10**j) // 10**j for j in range(11)]
