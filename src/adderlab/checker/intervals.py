"""Intervals of float64 numbers, rounded outward: every result encloses the exact real one.

The hardware rounds each operation to a nearest number; one step outward from there is therefore never
too narrow. Products of matrices use the midpoint-radius form with the standard
bound on the rounding of a sum of n products, |computed - exact| <= gamma_n sum |x||y|, which holds
for every order of summation and with or without fused multiply-add (Higham, Accuracy and Stability
of Numerical Algorithms, section 3.1; Rump, Acta Numerica 2010, section 9).

Trusted here: IEEE 754 double arithmetic, rounding to nearest, gradual underflow.
``arithmetic_is_ieee`` looks for the usual breaches.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Index = Any

UNIT = 2.0**-53
"""Largest relative error of one rounded operation."""
LEAST = 2.0**-1022
TINY = 2.0**-1000
"""Added to error bounds of whole sums: far above what underflow can lose in them."""


def up(x: Array) -> Array:
    """At least the next number above: |x| 2^-52 is one step of x or more, and a sum of two float64
    numbers is never rounded below a float64 number that it reaches. The last term serves where
    |x| 2^-52 underflows. Several times faster than ``nextafter``."""
    step = np.abs(x)
    step *= 2.0**-52
    step += LEAST
    step += x
    return step


def down(x: Array) -> Array:
    """At most the next number below."""
    step = np.abs(x)
    step *= 2.0**-52
    step += LEAST
    return x - step


def arithmetic_is_ieee() -> bool:
    """Whether rounding is to nearest even and numbers below 2^-1022 are kept."""
    one, half_ulp = np.array([1.0]), np.array([UNIT])
    odd = np.array([1.0 + 2 * UNIT])
    least = np.array([2.0**-1074])
    rounds = (one + half_ulp)[0] == 1.0 and (odd + half_ulp)[0] == 1.0 + 4 * UNIT
    rounds = rounds and (one - half_ulp / 2)[0] == 1.0 and (-one - half_ulp)[0] == -1.0
    keeps = (least * one)[0] > 0.0 and (np.array([2.0**-1022]) * 0.5)[0] == 2.0**-1023
    return bool(rounds and keeps)


class Interval:
    """An array of intervals [low, high]. Ends are finite float64 numbers with low <= high."""

    __slots__ = ("high", "low")
    __array_ufunc__ = None  # numpy arrays leave mixed operations to this class

    def __init__(self, low: ArrayLike, high: ArrayLike | None = None) -> None:
        self.low: Array = np.asarray(low, dtype=np.float64)
        self.high: Array = self.low if high is None else np.asarray(high, dtype=np.float64)
        assert self.low.shape == self.high.shape

    @property
    def shape(self) -> tuple[int, ...]:
        return self.low.shape

    @property
    def ndim(self) -> int:
        return self.low.ndim

    def is_sound(self) -> bool:
        """Whether every end is a finite number and no interval is empty."""
        finite = np.isfinite(self.low).all() and np.isfinite(self.high).all()
        return bool(finite and (self.low <= self.high).all())

    def __getitem__(self, index: Index) -> Interval:
        return Interval(self.low[index], self.high[index])

    def reshape(self, *shape: int) -> Interval:
        return Interval(self.low.reshape(*shape), self.high.reshape(*shape))

    def transpose(self, *axes: int) -> Interval:
        return Interval(self.low.transpose(*axes), self.high.transpose(*axes))

    def __neg__(self) -> Interval:
        return Interval(-self.high, -self.low)

    def __add__(self, other: Interval | ArrayLike) -> Interval:
        other = of(other)
        return Interval(down(self.low + other.low), up(self.high + other.high))

    __radd__ = __add__

    def __sub__(self, other: Interval | ArrayLike) -> Interval:
        other = of(other)
        return Interval(down(self.low - other.high), up(self.high - other.low))

    def __rsub__(self, other: Interval | ArrayLike) -> Interval:
        return of(other) - self

    @property
    def is_point(self) -> bool:
        """Whether these are single numbers, made from one array."""
        return self.low is self.high

    def __mul__(self, other: Interval | ArrayLike) -> Interval:
        other = of(other)
        if self.is_point or other.is_point:
            wide, point = (other, self.low) if self.is_point else (self, other.low)
            first, second = wide.low * point, wide.high * point
            return Interval(down(np.minimum(first, second)), up(np.maximum(first, second)))
        first, second = self.low * other.low, self.low * other.high
        third, fourth = self.high * other.low, self.high * other.high
        low = np.minimum(np.minimum(first, second), np.minimum(third, fourth))
        high = np.maximum(np.maximum(first, second), np.maximum(third, fourth))
        return Interval(down(low), up(high))

    __rmul__ = __mul__

    def reciprocal(self) -> Interval:
        """1 / x; ``ArithmeticError`` if an interval touches zero."""
        if not ((self.low > 0) | (self.high < 0)).all():
            raise ArithmeticError("division by an interval that contains zero")
        return Interval(down(1.0 / self.high), up(1.0 / self.low))

    def __truediv__(self, other: Interval | ArrayLike) -> Interval:
        other = of(other)
        if not ((other.low > 0) | (other.high < 0)).all():
            raise ArithmeticError("division by an interval that contains zero")
        first, second = self.low / other.low, self.low / other.high
        third, fourth = self.high / other.low, self.high / other.high
        low = np.minimum(np.minimum(first, second), np.minimum(third, fourth))
        high = np.maximum(np.maximum(first, second), np.maximum(third, fourth))
        return Interval(down(low), up(high))

    def square(self) -> Interval:
        """x * x with both factors the same number."""
        first, second = self.low * self.low, self.high * self.high
        straddles = (self.low < 0) & (self.high > 0)
        low = np.where(straddles, 0.0, np.minimum(first, second))
        return Interval(np.maximum(down(low), 0.0), up(np.maximum(first, second)))

    def sqrt(self) -> Interval:
        """Square root; ``ArithmeticError`` below zero. IEEE rounds sqrt correctly."""
        if (self.low < 0).any():
            raise ArithmeticError("square root of an interval that reaches below zero")
        return Interval(np.maximum(down(np.sqrt(self.low)), 0.0), up(np.sqrt(self.high)))

    def nonnegative(self) -> Interval:
        """Of a number known not to be negative, without what rounding adds below zero."""
        return Interval(np.maximum(self.low, 0.0), self.high)

    def magnitude(self) -> Array:
        """Largest absolute value."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    def mid_rad(self) -> tuple[Array, Array]:
        """A point inside and a radius that reaches both ends."""
        mid = np.clip(0.5 * self.low + 0.5 * self.high, self.low, self.high)
        return mid, up(np.maximum(self.high - mid, mid - self.low))

    def sum(self, axis: int) -> Interval:
        """Sum along one axis."""
        low, high = np.moveaxis(self.low, axis, 0), np.moveaxis(self.high, axis, 0)
        total = Interval(np.zeros(low.shape[1:]))
        for each_low, each_high in zip(low, high, strict=True):
            total = total + Interval(each_low, each_high)
        return total

    def meet(self, other: Interval) -> Interval:
        """Intersection of two enclosures of the same number."""
        return Interval(np.maximum(self.low, other.low), np.minimum(self.high, other.high))

    def hull(self, other: Interval) -> Interval:
        """Smallest interval around both."""
        return Interval(np.minimum(self.low, other.low), np.maximum(self.high, other.high))


def of(x: Interval | ArrayLike) -> Interval:
    return x if isinstance(x, Interval) else Interval(x)


def widened(x: ArrayLike) -> Interval:
    """A constant of a program: both the number written there and its rounding to float64.

    Whole numbers are exact; anything else gets a step to both sides.
    """
    x = np.asarray(x, dtype=np.float64)
    whole = (x == np.rint(x)) & (np.abs(x) <= 2.0**53)
    return Interval(np.where(whole, x, down(x)), np.where(whole, x, up(x)))


def stack(parts: list[Interval], axis: int = 0) -> Interval:
    return Interval(
        np.stack([part.low for part in parts], axis), np.stack([part.high for part in parts], axis)
    )


def concatenate(parts: list[Interval], axis: int = 0) -> Interval:
    return Interval(
        np.concatenate([part.low for part in parts], axis),
        np.concatenate([part.high for part in parts], axis),
    )


def symmetric(radius: Array) -> Interval:
    """[-radius, radius]."""
    return Interval(-radius, radius)


def above(computed: Array, terms: int) -> Array:
    """Upper bound of a sum of ``terms`` products of non-negative numbers, from its float64 value.

    All partial results are non-negative, so the computed value is at least (1 - u)^(terms + 2) times
    the exact one, up to underflow.
    """
    return up(computed * (1.0 + 4.0 * (terms + 3) * UNIT) + TINY)


def gamma(terms: int) -> float:
    """At least n u / (1 - n u) for n = ``terms``, for fewer than 2^40 terms."""
    return (terms + 1) * UNIT * (1.0 + 2.0**-10)


def matmul(x: Interval | Array, y: Interval | Array) -> Interval:
    """Product of interval matrices (..., M, K) @ (..., K, N), leading axes as in numpy.

    With x = mx +- rx and y = my +- ry, every product lies within
    |mx| ry + rx (|my| + ry) + gamma_K |mx| |my| of the computed mx @ my.
    """
    x, y = of(x), of(y)
    terms = x.shape[-1]
    if y.ndim == 2:  # BLAS may take a hundred times as long for a small matrix stored by columns
        low = np.ascontiguousarray(y.low)
        y = Interval(low) if y.is_point else Interval(low, np.ascontiguousarray(y.high))
    mx, rx = x.mid_rad()
    if y.is_point:
        product = mx @ y.low
        spread = up(above(up(up(rx + gamma(terms) * np.abs(mx))) @ np.abs(y.low), terms)) + TINY
        return Interval(down(product - up(spread)), up(product + up(spread)))
    my, ry = y.mid_rad()
    ax, ay = np.abs(mx), np.abs(my)
    product = mx @ my
    spread = above(ax @ up(ry + gamma(terms) * ay), terms) + above(rx @ up(ay + ry), terms)
    spread = up(spread) + TINY
    return Interval(down(product - up(spread)), up(product + up(spread)))


def reach(radius: Array, size: Array) -> Array:
    """Upper bound of sum_k radius[..., k] * size[..., k] over the last axis, both non-negative."""
    return above((radius * size).sum(-1), radius.shape[-1])
