"""Intervals, and what the elementwise functions of a head do to them.

Each function knows its value, its range over an interval and the range of its derivative. Ranges are
exact where the extremes are known, and they hold for infinite ends; where a function is not defined on
all of an interval, they are infinite. Float64, not rounded outward: the slacks of ``head`` are thousands
of times larger.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.float64]


EXACT = np.zeros((1, 1, 1))
"""The radius of numbers that are known exactly."""


class Interval(NamedTuple):
    """All numbers within ``radius`` of ``middle``, elementwise."""

    middle: Array
    radius: Array

    @classmethod
    def between(cls, low: Array, high: Array) -> Interval:
        return cls(0.5 * (low + high), 0.5 * (high - low))

    def axis(self, *axes: int) -> Interval:
        """With new axes of length 1."""
        return Interval(np.expand_dims(self.middle, axes), np.expand_dims(self.radius, axes))

    def times(self, other: Interval) -> Interval:
        if self.radius is EXACT:
            return Interval(self.middle * other.middle, np.abs(self.middle) * other.radius)
        return Interval(
            self.middle * other.middle,
            np.abs(self.middle) * other.radius + self.radius * (np.abs(other.middle) + other.radius),
        )

    def plus(self, other: Interval) -> Interval:
        return Interval(self.middle + other.middle, self.radius + other.radius)

    def most(self) -> Array:
        """Largest absolute value."""
        if self.radius is EXACT:
            return np.abs(self.middle)
        return np.abs(self.middle) + self.radius


@dataclass(frozen=True, kw_only=True)
class Function:
    """An elementwise function. Ranges are (least, greatest) over low <= x <= high."""

    value: Callable[[Array], Array]
    range: Callable[[Array, Array], tuple[Array, Array]]
    slope: Callable[[Array, Array], Interval]
    """The interval of the derivative."""
    bounded: bool = False
    """Whether the range over an interval may be far narrower than its derivative says."""


# Values and derivatives.

SQRT2 = math.sqrt(2.0)
GELU_LEAST = -0.7517915246935645
"""Where gelu is smallest: its derivative is zero."""
SILU_LEAST = -1.2784645427610738
"""Where silu is smallest: 1 + x (1 - sigmoid(x)) = 0."""
SILU_BEND = 2.3993572805154676
"""Where silu' is largest, and at the negative smallest: x tanh(x / 2) = 2."""
GELU_TANH_LEAST = -0.7524614220710162
GELU_TANH_BEND = 1.4185040087908283
"""The same of gelu_tanh."""
GELU_TANH_RATE, GELU_TANH_CUBE = math.sqrt(2.0 / math.pi), 0.044715
FAR = 1e6
"""Beyond it the derivatives of gelu and silu are 0 or 1 to the last bit, and they themselves 0 or x."""


def _erf(x: Array) -> Array:
    return torch.erf(torch.from_numpy(np.ascontiguousarray(x))).numpy()


def sigmoid(x: Array) -> Array:
    return torch.sigmoid(torch.from_numpy(np.ascontiguousarray(x))).numpy()


def gelu(x: Array) -> Array:
    """x Phi(x), the exact form."""
    return x * (0.5 + 0.5 * _erf(x / SQRT2))


def gelu_derivative(x: Array) -> Array:
    """Phi(x) + x phi(x)."""
    return 0.5 + 0.5 * _erf(x / SQRT2) + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1.0 + np.tanh(GELU_TANH_RATE * (x + GELU_TANH_CUBE * x**3)))


def gelu_tanh_derivative(x: Array) -> Array:
    t = np.tanh(GELU_TANH_RATE * (x + GELU_TANH_CUBE * x**3))
    inner = GELU_TANH_RATE * (1.0 + 3.0 * GELU_TANH_CUBE * x * x)
    return 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner


def silu(x: Array) -> Array:
    return x * sigmoid(x)


def silu_derivative(x: Array) -> Array:
    s = sigmoid(x)
    return s * (1.0 + x * (1.0 - s))


def softplus(x: Array) -> Array:
    """log(1 + exp x), without the threshold from which PyTorch says x."""
    return np.logaddexp(0.0, x)


def _sigmoid_derivative(x: Array) -> Array:
    return sigmoid(x) * sigmoid(-x)


def _tanh_derivative(x: Array) -> Array:
    return 4.0 * _sigmoid_derivative(2.0 * x)


# Ranges.


def gelu_derivative_range(low: Array, high: Array) -> Interval:
    """GELU'' = (2 - x^2) phi(x): the derivative is least at -sqrt 2 and greatest at sqrt 2."""
    return _slope(gelu_derivative, -SQRT2, SQRT2)(low, high)


def silu_derivative_range(low: Array, high: Array) -> Interval:
    return _slope(silu_derivative, -SILU_BEND, SILU_BEND)(low, high)


def relu_derivative_range(low: Array, high: Array) -> Interval:
    # Written so that an end that is no number allows both 0 and 1.
    return Interval.between((low > 0).astype(np.float64), (~(high <= 0)).astype(np.float64))


def _extremes(
    low: Array, high: Array, function: Callable[[Array], Array], least: float, greatest: float | None
) -> tuple[Array, Array]:
    """Exact range of a function that falls to ``least``, rises to ``greatest`` and falls again."""
    at_low, at_high = function(low), function(high)
    bottom, top = np.minimum(at_low, at_high), np.maximum(at_low, at_high)
    bottom = np.where((low < least) & (least < high), function(np.array([least])), bottom)
    if greatest is not None:
        top = np.where((low < greatest) & (greatest < high), function(np.array([greatest])), top)
    return bottom, top


def _valley(function: Callable[[Array], Array], least: float) -> Callable:
    """The range of a function that is 0 far to the left, falls to ``least`` and rises."""

    def ranged(low: Array, high: Array) -> tuple[Array, Array]:
        # -infinity times 0 is no number; what the function does out there is be 0.
        return _extremes(np.maximum(low, -FAR), np.maximum(high, -FAR), function, least, None)

    return ranged


def _slope(derivative: Callable[[Array], Array], least: float, greatest: float) -> Callable:
    def ranged(low: Array, high: Array) -> Interval:
        low, high = np.clip(low, -FAR, FAR), np.clip(high, -FAR, FAR)
        return Interval.between(*_extremes(low, high, derivative, least, greatest))

    return ranged


def _rising(function: Callable[[Array], Array]) -> Callable:
    return lambda low, high: (function(low), function(high))


def _falling(function: Callable[[Array], Array]) -> Callable:
    return lambda low, high: (function(high), function(low))


def _around_zero(function: Callable[[Array], Array]) -> Callable:
    """The range of an even function that falls away from 0."""

    def ranged(low: Array, high: Array) -> Interval:
        far, near = np.maximum(-low, high), np.maximum(np.maximum(low, -high), 0.0)
        return Interval.between(function(far), function(near))

    return ranged


def _interval(ranged: Callable) -> Callable:
    return lambda low, high: Interval.between(*ranged(low, high))


def _positive(ranged: Callable) -> Callable:
    """Where the argument may be negative or zero, anything is possible."""

    def guarded(low: Array, high: Array) -> tuple[Array, Array]:
        bottom, top = ranged(low, high)
        return np.where(low > 0, bottom, -np.inf), np.where(low > 0, top, np.inf)

    return guarded


def _apart_from_zero(ranged: Callable) -> Callable:
    def guarded(low: Array, high: Array) -> tuple[Array, Array]:
        apart = (low > 0) | (high < 0)
        bottom, top = ranged(low, high)
        return np.where(apart, bottom, -np.inf), np.where(apart, top, np.inf)

    return guarded


def _square_range(low: Array, high: Array) -> tuple[Array, Array]:
    near = np.maximum(np.maximum(low, -high), 0.0)
    far = np.maximum(-low, high)
    return near * near, far * far


def _abs_range(low: Array, high: Array) -> tuple[Array, Array]:
    return np.maximum(np.maximum(low, -high), 0.0), np.maximum(-low, high)


def _inverse_square(low: Array, high: Array) -> tuple[Array, Array]:
    """The range of -1 / x^2."""
    near, far = _abs_range(low, high)
    return -1.0 / (near * near), -1.0 / (far * far)


FUNCTIONS: dict[str, Function] = {
    "abs": Function(
        value=np.abs,
        range=_abs_range,
        slope=lambda low, high: Interval.between(
            np.where(low > 0, 1.0, -1.0), np.where(high < 0, -1.0, 1.0)
        ),
        bounded=True,
    ),
    "square": Function(
        value=np.square,
        range=_square_range,
        slope=lambda low, high: Interval.between(2.0 * low, 2.0 * high),
        bounded=True,
    ),
    "sqrt": Function(
        value=np.sqrt,
        range=_positive(_rising(np.sqrt)),
        slope=_interval(_positive(_falling(lambda x: 0.5 / np.sqrt(x)))),
        bounded=True,
    ),
    "rsqrt": Function(
        value=lambda x: 1.0 / np.sqrt(x),
        range=_positive(_falling(lambda x: 1.0 / np.sqrt(x))),
        slope=_interval(_positive(_rising(lambda x: -0.5 / (x * np.sqrt(x))))),
        bounded=True,
    ),
    "reciprocal": Function(
        value=lambda x: 1.0 / x,
        range=_apart_from_zero(_falling(lambda x: 1.0 / x)),
        slope=_interval(_apart_from_zero(_inverse_square)),
        bounded=True,
    ),
    "exp": Function(value=np.exp, range=_rising(np.exp), slope=_interval(_rising(np.exp)), bounded=True),
    "relu": Function(
        value=lambda x: np.maximum(x, 0.0),
        range=_rising(lambda x: np.maximum(x, 0.0)),
        slope=relu_derivative_range,
    ),
    "gelu": Function(value=gelu, range=_valley(gelu, GELU_LEAST), slope=gelu_derivative_range),
    "gelu_tanh": Function(
        value=gelu_tanh,
        range=_valley(gelu_tanh, GELU_TANH_LEAST),
        slope=_slope(gelu_tanh_derivative, -GELU_TANH_BEND, GELU_TANH_BEND),
    ),
    "silu": Function(value=silu, range=_valley(silu, SILU_LEAST), slope=silu_derivative_range),
    "sigmoid": Function(
        value=sigmoid, range=_rising(sigmoid), slope=_around_zero(_sigmoid_derivative), bounded=True
    ),
    "tanh": Function(
        value=np.tanh, range=_rising(np.tanh), slope=_around_zero(_tanh_derivative), bounded=True
    ),
    "softplus": Function(
        value=softplus, range=_rising(softplus), slope=_interval(_rising(sigmoid)), bounded=True
    ),
}
"""All but ``negate``, which is linear."""


# Strictly increasing functions keep the order of logits.


def _tanh_difference(x: Array, y: Array, gap: Array) -> Array:
    # Numbers this large are ones to float64, and the sign of the gap is what counts then.
    x, y, gap = np.clip(x, -350, 350), np.clip(y, -350, 350), np.clip(gap, -700, 700)
    return np.sinh(gap) / (np.cosh(x) * np.cosh(y))


def _softplus_difference(x: Array, y: Array, gap: Array) -> Array:
    near = np.clip(gap, -30.0, 30.0)
    close = np.log1p(np.expm1(near) * sigmoid(y))
    return np.where(np.abs(gap) < 30.0, close, softplus(x) - softplus(y))


DIFFERENCES: dict[str, Callable[[Array, Array, Array], Array]] = {
    "tanh": _tanh_difference,
    "sigmoid": lambda x, y, gap: 0.5 * _tanh_difference(0.5 * x, 0.5 * y, 0.5 * gap),
    "exp": lambda x, y, gap: np.exp(y) * np.expm1(gap),
    "softplus": _softplus_difference,
}
"""f(x) - f(y) of the functions that increase strictly, from x, y and x - y, without cancellation."""
