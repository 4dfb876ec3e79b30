"""Intervals against their definitions and against figures published elsewhere."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from adderlab.evaluation.suites import clopper_pearson, wilson

counts = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts)
def test_clopper_pearson_leaves_a_fortieth_on_each_side(count: tuple[int, int]) -> None:
    k, n = count
    rate = clopper_pearson(k, n)
    assert rate.low <= rate.value <= rate.high
    if k > 0:
        assert binom.sf(k - 1, n, rate.low) == pytest.approx(0.025, rel=1e-6)
    if k < n:
        assert binom.cdf(k, n, rate.high) == pytest.approx(0.025, rel=1e-6)


@given(counts)
def test_wilson_solves_its_equation(count: tuple[int, int]) -> None:
    """|k/n - p| = 1.96 sqrt(p (1 - p) / n) at both ends."""
    k, n = count
    rate = wilson(k, n)
    for p in (rate.low, rate.high):
        assert abs(k / n - p) == pytest.approx(1.959964 * math.sqrt(p * (1 - p) / n), rel=1e-5, abs=1e-9)


@given(counts)
def test_both_equal_scipy_s(count: tuple[int, int]) -> None:
    test = binomtest(*count)
    for rate, method in ((wilson(*count), "wilson"), (clopper_pearson(*count), "exact")):
        theirs = test.proportion_ci(0.95, method=method)
        assert (rate.low, rate.high) == pytest.approx((theirs.low, theirs.high), rel=1e-9, abs=1e-12)


def test_text() -> None:
    assert str(wilson(12, 16)) == "12/16 = 75.0% [50.5%, 89.8%]"
    assert str(wilson(0, 12)) == "0/12 = 0.0% [0.0%, 24.2%]"
    assert str(clopper_pearson(12, 100_000)) == "12/100,000 = 0.012% [0.0062%, 0.021%]"
    assert str(clopper_pearson(0, 100_000)) == "0/100,000 = 0.0% [0.0%, 0.0037%]"
    assert str(wilson(10_010, 10_010)) == "10,010/10,010 = 100.0% [99.962%, 100.0%]"
