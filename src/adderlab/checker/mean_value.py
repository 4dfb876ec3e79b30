"""Intervals that know how they depend on the box: value at the centre, gradients over the box.

Plain interval arithmetic forgets that all coordinates move together and soon gives ranges far too
wide. A ``MeanValueForm`` number carries an enclosure of its value at the centre of a box and of its
derivatives over the box, and meets the mean value form with the plain range after every operation.

Shapes: N boxes (first axis of every array), K coordinates of the box.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from adderlab.checker import intervals
from adderlab.checker.intervals import (
    Array,
    Interval,
    above,
    symmetric,
)


class MeanValueForm:
    """Quantities of N boxes; ``gradients[k]`` is the derivative by coordinate k, ``radii[k]`` (N,)."""

    __slots__ = ("box", "centre", "gradients", "radii")

    def __init__(
        self, centre: Interval, box: Interval, gradients: tuple[Interval, ...], radii: tuple[Array, ...]
    ) -> None:
        reached = np.zeros(centre.shape)
        for derivative, radius in zip(gradients, radii, strict=True):
            wide = radius.reshape(-1, *[1] * (derivative.ndim - 1))
            reached = reached + derivative.magnitude() * wide
        self.centre, self.gradients, self.radii = centre, gradients, radii
        self.box = box.meet(centre + symmetric(above(reached, len(radii))))

    @property
    def low(self) -> Array:
        return self.box.low

    @property
    def high(self) -> Array:
        return self.box.high

    @property
    def shape(self) -> tuple[int, ...]:
        return self.box.shape

    @property
    def ndim(self) -> int:
        return self.box.ndim

    def magnitude(self) -> Array:
        return self.box.magnitude()

    def mapped(self, move: Callable[[Interval], Interval]) -> MeanValueForm:
        """Every part in another arrangement or multiplied by the same numbers: a linear map."""
        gradients = tuple(map(move, self.gradients))
        return MeanValueForm(move(self.centre), move(self.box), gradients, self.radii)

    def rearranged(self, move: Callable[[Interval], Interval]) -> MeanValueForm:
        """The same numbers in another arrangement, some perhaps repeated or left out."""
        out = object.__new__(MeanValueForm)
        out.centre, out.box = move(self.centre), move(self.box)
        out.gradients, out.radii = tuple(map(move, self.gradients)), self.radii
        return out

    def _with(
        self, other: Real, derivative: Callable[[int], Interval], value: Callable
    ) -> MeanValueForm:
        centre = value(self.centre, _centre(other))
        box = value(self.box, _box(other))
        gradients = tuple(_spread(derivative(k), box.shape) for k in range(len(self.radii)))
        return MeanValueForm(centre, box, gradients, self.radii)

    def plus(self, other: Real) -> MeanValueForm:
        return self._with(
            other,
            lambda k: (
                self.gradients[k] + other.gradients[k]
                if isinstance(other, MeanValueForm)
                else self.gradients[k]
            ),
            lambda a, b: a + b,
        )

    def times(self, other: Real) -> MeanValueForm:
        def derivative(k: int) -> Interval:
            mine = self.gradients[k] * _box(other)
            return mine + self.box * other.gradients[k] if isinstance(other, MeanValueForm) else mine

        return self._with(other, derivative, lambda a, b: a * b)

    def over(self, other: Real) -> MeanValueForm:
        ratio = self.box / _box(other)

        def derivative(k: int) -> Interval:
            mine = self.gradients[k]
            if isinstance(other, MeanValueForm):
                mine = mine - ratio * other.gradients[k]
            return mine / _box(other)

        return self._with(other, derivative, lambda a, b: a / b)

    def smooth(
        self, function: Callable[[Interval], Interval], derivative: Callable[[Interval], Interval]
    ) -> MeanValueForm:
        """A function of each number, with the range of its derivative."""
        steep = derivative(self.box)
        gradients = tuple(steep * each for each in self.gradients)
        return MeanValueForm(function(self.centre), function(self.box), gradients, self.radii)

    def square(self) -> MeanValueForm:
        return self.smooth(Interval.square, lambda x: x * 2.0)

    def sqrt(self) -> MeanValueForm:
        return self.smooth(Interval.sqrt, lambda x: (x.sqrt() * 2.0).reciprocal())

    def reciprocal(self) -> MeanValueForm:
        return self.smooth(Interval.reciprocal, lambda x: -x.square().reciprocal())

    def sum(self, axis: int) -> MeanValueForm:
        assert axis % self.ndim, "the first axis holds the boxes"
        return self.mapped(lambda x: x.sum(axis))


Real = Interval | MeanValueForm


def _box(x: Real) -> Interval:
    return x.box if isinstance(x, MeanValueForm) else x


def _centre(x: Real) -> Interval:
    return x.centre if isinstance(x, MeanValueForm) else x


def _spread(x: Interval, shape: tuple[int, ...]) -> Interval:
    if x.shape == shape:
        return x
    return Interval(np.broadcast_to(x.low, shape), np.broadcast_to(x.high, shape))


def negate(x: Real) -> Real:
    return x.rearranged(lambda part: -part) if isinstance(x, MeanValueForm) else -x


def add(x: Real, y: Real) -> Real:
    if isinstance(x, MeanValueForm):
        return x.plus(y)
    return y.plus(x) if isinstance(y, MeanValueForm) else x + y


def subtract(x: Real, y: Real) -> Real:
    return add(x, negate(y))


def multiply(x: Real, y: Real) -> Real:
    if isinstance(x, MeanValueForm):
        return x.times(y)
    return y.times(x) if isinstance(y, MeanValueForm) else x * y


def divide(x: Real, y: Real) -> Real:
    if isinstance(x, MeanValueForm):
        return x.over(y)
    return y.reciprocal().times(x) if isinstance(y, MeanValueForm) else x / y


def mapped(x: Real, move: Callable[[Interval], Interval]) -> Real:
    """A linear map of either kind."""
    return x.mapped(move) if isinstance(x, MeanValueForm) else move(x)


def rearranged(x: Real, move: Callable[[Interval], Interval]) -> Real:
    return x.rearranged(move) if isinstance(x, MeanValueForm) else move(x)


def smooth(
    x: Real, function: Callable[[Interval], Interval], derivative: Callable[[Interval], Interval]
) -> Real:
    return x.smooth(function, derivative) if isinstance(x, MeanValueForm) else function(x)


def matmul(x: Real, y: Real) -> Real:
    """Matrix product; the second factor of a MeanValueForm one does not depend on the box."""
    if isinstance(y, MeanValueForm):
        raise ArithmeticError("product of two matrices that both depend on the box")
    return mapped(x, lambda part: intervals.matmul(part, y))


def join(parts: list[Real], put: Callable[[list[Array]], Array]) -> Real:
    """Concatenation or stacking, done by ``put`` on plain arrays; the boxes are the same for all."""

    def joined(each: list[Interval]) -> Interval:
        return Interval(put([x.low for x in each]), put([x.high for x in each]))

    varying = next((x for x in parts if isinstance(x, MeanValueForm)), None)
    if varying is None:
        return joined([_box(x) for x in parts])
    gradients = tuple(
        joined(
            [
                x.gradients[k] if isinstance(x, MeanValueForm) else Interval(np.zeros(x.shape))
                for x in parts
            ]
        )
        for k in range(len(varying.radii))
    )
    return MeanValueForm(
        joined([_centre(x) for x in parts]), joined([_box(x) for x in parts]), gradients, varying.radii
    )
