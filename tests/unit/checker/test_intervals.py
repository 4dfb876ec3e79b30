"""Interval arithmetic encloses the exact result, and not by much more."""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adderlab.checker import intervals
from adderlab.checker.intervals import Interval

numbers = st.floats(min_value=-1e6, max_value=1e6, allow_nan=False, allow_subnormal=True)
pairs = st.tuples(numbers, numbers).map(sorted)
shares = st.fractions(min_value=0, max_value=1)


def inside(interval: Interval, exact: Fraction, index: tuple[int, ...] = ()) -> bool:
    return Fraction(float(interval.low[index])) <= exact <= Fraction(float(interval.high[index]))


def point(ends: list[float], share: Fraction) -> Fraction:
    low, high = map(Fraction, ends)
    return low + share * (high - low)


@pytest.mark.parametrize(
    ("name", "operation"),
    [
        ("add", lambda x, y: x + y),
        ("subtract", lambda x, y: x - y),
        ("multiply", lambda x, y: x * y),
        ("divide", lambda x, y: x / y),
    ],
)
@given(x=pairs, y=pairs, s=shares, t=shares)
def test_every_pair_of_members_is_enclosed(
    name: str, operation: Callable, x: list[float], y: list[float], s: Fraction, t: Fraction
) -> None:
    if name == "divide" and y[0] <= 1e-3:
        y = [1e-3, 1e-3 + abs(y[1])]
    result = operation(Interval(*x), Interval(*y))
    assert inside(result, operation(point(x, s), point(y, t)))


@given(x=numbers, y=numbers)
def test_one_operation_costs_two_steps_to_each_side_at_most(x: float, y: float) -> None:
    result = Interval(x) * Interval(y)
    step = math.ulp(x * y) + 2 * intervals.LEAST
    assert x * y - 2 * step <= result.low < result.high <= x * y + 2 * step


@given(x=st.floats(allow_nan=False, allow_infinity=False, max_value=1e300, min_value=-1e300))
def test_up_and_down_reach_the_next_number(x: float) -> None:
    assert intervals.up(np.array(x)) >= math.nextafter(x, math.inf)
    assert intervals.down(np.array(x)) <= math.nextafter(x, -math.inf)


@given(x=pairs, s=shares)
def test_square_and_root(x: list[float], s: Fraction) -> None:
    member = point(x, s)
    squared = Interval(*x).square()
    assert inside(squared, member * member) and squared.low >= 0
    root = squared.sqrt()
    assert Fraction(float(root.low)) <= abs(member) <= Fraction(float(root.high))


@given(x=pairs, s=shares)
def test_middle_and_radius_reach_every_member(x: list[float], s: Fraction) -> None:
    mid, rad = Interval(*x).mid_rad()
    assert abs(point(x, s) - Fraction(float(mid))) <= Fraction(float(rad))


@given(seed=st.integers(0, 10**6), width=st.sampled_from([0.0, 1e-12, 0.3]))
@settings(max_examples=30)
def test_matrix_products_enclose_exact_ones(seed: int, width: float) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(3, 5)) * 10.0 ** rng.integers(-8, 8), rng.normal(size=(5, 2))
    wide_x, wide_y = Interval(x, x + width), Interval(y - width, y)
    product = intervals.matmul(wide_x, wide_y)
    for _ in range(4):
        a = x + width * rng.integers(0, 2, x.shape)
        b = y - width * rng.integers(0, 2, y.shape)
        for i, j in np.ndindex(3, 2):
            exact = sum(Fraction(a[i, k]) * Fraction(b[k, j]) for k in range(5))
            assert inside(product, Fraction(exact), (i, j))
    if not width:
        size = np.abs(x) @ np.abs(y)
        assert (product.high - product.low <= 1e-14 * size).all()


def test_matrix_product_survives_cancellation() -> None:
    """1e16 + 1 - 1e16 is 1, whatever the order of summation makes of it."""
    product = intervals.matmul(np.array([[1e16, 1.0, -1e16]]), np.ones((3, 1)))
    assert product.low <= 1.0 <= product.high


@given(st.lists(st.tuples(pairs, shares), min_size=1, max_size=6))
def test_sums_enclose(terms: list[tuple[list[float], Fraction]]) -> None:
    ends = np.array([x for x, _ in terms])
    total = Interval(ends[:, 0], ends[:, 1]).sum(0)
    assert inside(total, sum((point(x, s) for x, s in terms), Fraction(0)))


def test_division_by_an_interval_with_zero_is_refused() -> None:
    for low, high in ((-1.0, 1.0), (0.0, 1.0), (-1.0, 0.0)):
        with pytest.raises(ArithmeticError, match="zero"):
            Interval(1.0) / Interval(low, high)
        with pytest.raises(ArithmeticError, match="zero"):
            Interval(low, high).reciprocal()
    with pytest.raises(ArithmeticError, match="below zero"):
        Interval(-1e-300, 1.0).sqrt()


def test_constants_cover_the_decimal_and_its_rounding() -> None:
    tenth = intervals.widened(0.1)
    assert inside(tenth, Fraction(1, 10)) and inside(tenth, Fraction(0.1))
    three = intervals.widened(3.0)
    assert three.low == three.high == 3.0


def test_reach_and_above_bound_from_above() -> None:
    rng = np.random.default_rng(0)
    radius, size = rng.random((50, 7)), rng.random((50, 7)) * 1e3
    bound = intervals.reach(radius, size)
    for row in range(50):
        exact = sum(Fraction(r) * Fraction(s) for r, s in zip(radius[row], size[row], strict=True))
        assert exact <= Fraction(bound[row]) <= exact * (1 + Fraction(1, 10**13))


def test_subnormal_products_do_not_vanish() -> None:
    product = Interval(2.0**-600) * Interval(2.0**-600)
    assert product.low <= 0.0 < product.high and intervals.arithmetic_is_ieee()
