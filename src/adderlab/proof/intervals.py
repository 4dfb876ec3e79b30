"""Intervals as (middle, radius) arrays, and the exact ranges of the activations over intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from adderlab.proof.problem import Array

SQRT2 = math.sqrt(2.0)
SILU_LEAST = -1.2784645427610738
"""Where silu is smallest: 1 + x (1 - sigmoid(x)) = 0."""
SILU_BEND = 2.3993572805154676
"""Where silu' is largest, and at the negative smallest: x tanh(x / 2) = 2."""


class Interval(NamedTuple):
    """All numbers within ``radius`` of ``middle``, elementwise; float64, not rounded outward."""

    middle: Array
    radius: Array

    @classmethod
    def between(cls, low: Array, high: Array) -> Interval:
        return cls(0.5 * (low + high), 0.5 * (high - low))

    def axis(self, *axes: int) -> Interval:
        """With new axes of length 1."""
        return Interval(np.expand_dims(self.middle, axes), np.expand_dims(self.radius, axes))

    def times(self, other: Interval) -> Interval:
        return Interval(
            self.middle * other.middle,
            np.abs(self.middle) * other.radius + self.radius * (np.abs(other.middle) + other.radius),
        )

    def plus(self, other: Interval) -> Interval:
        return Interval(self.middle + other.middle, self.radius + other.radius)

    def most(self) -> Array:
        """Largest absolute value."""
        return np.abs(self.middle) + self.radius


def _erf(x: Array) -> Array:
    return torch.erf(torch.from_numpy(np.ascontiguousarray(x))).numpy()


def _sigmoid(x: Array) -> Array:
    return torch.sigmoid(torch.from_numpy(np.ascontiguousarray(x))).numpy()


def gelu(x: Array) -> Array:
    """x Phi(x), the exact form."""
    return x * (0.5 + 0.5 * _erf(x / SQRT2))


def gelu_slope(x: Array) -> Array:
    """Phi(x) + x phi(x)."""
    return 0.5 + 0.5 * _erf(x / SQRT2) + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def silu(x: Array) -> Array:
    return x * _sigmoid(x)


def silu_slope(x: Array) -> Array:
    s = _sigmoid(x)
    return s * (1.0 + x * (1.0 - s))


def gelu_slope_range(low: Array, high: Array) -> Interval:
    """GELU'' = (2 - x^2) phi(x): the slope is least at -sqrt 2 and greatest at sqrt 2."""
    return _range(low, high, gelu_slope, -SQRT2, SQRT2)


def silu_range(low: Array, high: Array) -> Interval:
    return _range(low, high, silu, SILU_LEAST, None)


def silu_slope_range(low: Array, high: Array) -> Interval:
    return _range(low, high, silu_slope, -SILU_BEND, SILU_BEND)


def relu_slope_range(low: Array, high: Array) -> Interval:
    return Interval.between((low > 0).astype(np.float64), (high > 0).astype(np.float64))


def _range(
    low: Array, high: Array, function: Callable[[Array], Array], least: float, greatest: float | None
) -> Interval:
    """Exact range of a function that falls to ``least``, rises to ``greatest`` and falls again."""
    at_low, at_high = function(low), function(high)
    bottom, top = np.minimum(at_low, at_high), np.maximum(at_low, at_high)
    bottom = np.where((low < least) & (least < high), function(np.array([least])), bottom)
    if greatest is not None:
        top = np.where((low < greatest) & (greatest < high), function(np.array([greatest])), top)
    return Interval.between(bottom, top)
