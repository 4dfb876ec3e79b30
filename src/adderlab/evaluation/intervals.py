"""Rates with their 95% confidence intervals, so that no rate is shown without its n.

``scipy.stats`` has both intervals too, but takes most of a second to import, which every search for a
proved model would pay; the tests compare.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from adderlab.format import percent

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
        return f"{self.count:,}/{self.n:,} = {value} [{low}, {high}]"


def wilson(successes: int, n: int) -> Rate:
    """Wilson score interval: for success rates over seeds, where n is small.

    ``n`` must be at least 1. Source: Brown, Cai and DasGupta, Statistical Science 2001, equation 4.
    """
    _check(successes, n)
    z2 = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) ** 2
    middle = (successes + z2 / 2) / (n + z2)
    reach = math.sqrt(z2 * (successes * (n - successes) / n + z2 / 4)) / (n + z2)
    low = 0.0 if successes == 0 else middle - reach
    high = 1.0 if successes == n else middle + reach
    return Rate(count=successes, n=n, low=low, high=high, kind="wilson")


def clopper_pearson(errors: int, n: int) -> Rate:
    """Clopper-Pearson ("exact") interval: for error rates, where it must never be too narrow."""
    from scipy.special import betaincinv

    _check(errors, n)
    tail = (1 - CONFIDENCE) / 2
    low = 0.0 if errors == 0 else float(betaincinv(errors, n - errors + 1, tail))
    high = 1.0 if errors == n else float(betaincinv(errors + 1, n - errors, 1 - tail))
    return Rate(count=errors, n=n, low=low, high=high, kind="clopper-pearson")


def _check(count: int, n: int) -> None:
    assert 0 <= count <= n and n >= 1, (count, n)
