"""Rates with their 95% confidence intervals, so that no rate is told without its n."""

import math
from dataclasses import dataclass
from typing import Literal

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Rate:
    """``count`` of ``n`` with a two-sided 95% interval [low, high] of the underlying rate.

    Its text form: "12/16 = 75.0% [50.5%, 89.8%]".
    """

    count: int
    n: int
    low: float
    high: float
    kind: Literal["wilson", "clopper-pearson"]

    @property
    def value(self) -> float:
        return self.count / self.n

    def __str__(self) -> str:
        value, low, high = (percent(x) for x in (self.value, self.low, self.high))
        return f"{self.count}/{self.n} = {value} [{low}, {high}]"


def wilson(successes: int, n: int) -> Rate:
    """Wilson score interval: for success rates over seeds, where n is small.

    ``n`` must be at least 1. Source: Brown, Cai and DasGupta, Statistical Science 2001.
    """
    return _rate(successes, n, "wilson")


def clopper_pearson(errors: int, n: int) -> Rate:
    """Clopper-Pearson ("exact") interval: for error rates, where it must never be too narrow."""
    return _rate(errors, n, "clopper-pearson")


def _rate(count: int, n: int, kind: Literal["wilson", "clopper-pearson"]) -> Rate:
    from scipy.stats import binomtest  # half a second to import: not for --help

    assert 0 <= count <= n and n >= 1, (count, n)
    method = "wilson" if kind == "wilson" else "exact"
    interval = binomtest(count, n).proportion_ci(CONFIDENCE, method=method)
    return Rate(count=count, n=n, low=float(interval.low), high=float(interval.high), kind=kind)


def percent(rate: float) -> str:
    """A rate in percent with one decimal, or with two digits of what is missing to 0% or 100%."""
    distance = 100 * min(rate, 1 - rate)
    decimals = 1 if distance <= 1e-12 else max(1, 1 - math.floor(math.log10(distance)))
    return f"{100 * rate:.{decimals}f}%"
