"""Quantities that know how they depend on the box: value at the centre, slopes over the box.

Plain interval arithmetic forgets that all coordinates move together and soon gives ranges far too
wide. A ``MeanValueForm`` number carries an enclosure of its value at the centre of a box and of its
derivatives over the box, and meets the mean value form with the plain range after every operation.

A head program is followed in another way. On a box u_c - r <= u <= u_c + r every quantity v satisfies
v(u) in v_c + J (u - u_c), with enclosures of the value at the centre and of the slopes J over the box (J
need hold secants only, so kinks do no harm). Interval arithmetic forgets that two quantities move
together as soon as sizes are taken. So matrices that follow each other are multiplied first: a
``Linear`` is a sum of *atoms*, each times a matrix, and only what enters a nonlinear function is worked
out, as a new atom. The scale of a norm, one positive number for all channels, is carried along undivided
(``Value``).

Shapes: N boxes (first axis of every array), K coordinates of the box, M channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adderlab.checker import intervals
from adderlab.checker.intervals import (
    Array,
    Interval,
    above,
    concatenate,
    reach,
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


# The same for programs: linear images of few atoms, for as long as the program is linear.


@dataclass(frozen=True, eq=False)
class Atom:
    """What is known of M channels: at the centre, over the box (both (N, M)), and the slopes (N, K, M);
    None where nothing depends on u."""

    centre: Interval
    box: Interval
    slopes: Interval | None
    affine: bool = False
    """Whether it is an affine function of u, whose slopes are the same everywhere (constants are)."""

    @property
    def width(self) -> int:
        return self.centre.shape[-1]

    def on(self, boxes_n: NDArray[np.intp]) -> Atom:
        """The same on some of the boxes."""
        slopes = None if self.slopes is None else self.slopes[boxes_n]
        return Atom(self.centre[boxes_n], self.box[boxes_n], slopes, self.affine)


@dataclass(frozen=True, eq=False)
class Scale:
    """A positive number for each box: sigma, by which a norm divides."""

    centre: Interval
    box: Interval
    slopes: Interval
    """(N,), (N,) and (N, K)."""

    def on(self, boxes_n: NDArray[np.intp]) -> Scale:
        """The same on some of the boxes."""
        return Scale(self.centre[boxes_n], self.box[boxes_n], self.slopes[boxes_n])


Move = Callable[[Interval], Interval]
"""A linear map of the last axis, on matrices (M', M) and biases (1 or N, M) alike."""


@dataclass(frozen=True, eq=False)
class Linear:
    """sum of atom @ matrix, plus bias. No matrix stands for the identity, no bias for zero."""

    terms: tuple[tuple[Atom, Interval | None], ...]
    bias: Interval | None
    width: int

    def mapped(self, move: Move, width: int) -> Linear:
        terms = tuple((atom, move(_matrix(atom, matrix))) for atom, matrix in self.terms)
        return Linear(terms, None if self.bias is None else move(self.bias), width)

    def plus(self, other: Linear) -> Linear:
        """The sum; an atom that both contain gets one matrix, so that what cancels is gone."""
        terms = dict(self.terms)
        for atom, matrix in other.terms:
            if atom in terms:
                matrix = _matrix(atom, terms[atom]) + _matrix(atom, matrix)
            terms[atom] = matrix
        bias = _sum_of(self.bias, other.bias)
        return Linear(tuple(terms.items()), bias, self.width)


def _matrix(atom: Atom, matrix: Interval | None) -> Interval:
    return Interval(np.eye(atom.width)) if matrix is None else matrix


def _sum_of(x: Interval | None, y: Interval | None) -> Interval | None:
    if x is None or y is None:
        return y if x is None else x
    return x + y


@dataclass(frozen=True, eq=False)
class Value:
    """sum over scales of linear / scale; the part under None is not divided."""

    parts: Mapping[Scale | None, Linear]
    width: int

    @classmethod
    def of(cls, atom: Atom) -> Value:
        return cls({None: Linear(((atom, None),), None, atom.width)}, atom.width)

    @classmethod
    def constant(cls, number: Interval) -> Value:
        """Of (1 or N, M)."""
        return cls({None: Linear((), number, number.shape[-1])}, number.shape[-1])

    def mapped(self, move: Move, width: int) -> Value:
        parts = {scale: linear.mapped(move, width) for scale, linear in self.parts.items()}
        return Value(parts, width)

    def plus(self, other: Value) -> Value:
        width = max(self.width, other.width)
        parts = dict(self.widened(width).parts)
        for scale, linear in other.widened(width).parts.items():
            parts[scale] = parts[scale].plus(linear) if scale in parts else linear
        return Value(parts, width)

    def widened(self, width: int) -> Value:
        """One channel as often as another operand needs it."""
        if self.width == width:
            return self
        return self.mapped(lambda x: x[..., [0] * width], width)

    def scaled(self, change: Callable[[Scale | None], Scale]) -> Value:
        return Value({change(scale): linear for scale, linear in self.parts.items()}, self.width)

    def alone(self) -> Linear | None:
        """The linear form it is, if no scale divides any of it."""
        return self.parts[None] if set(self.parts) == {None} else None

    def on(self, boxes_n: NDArray[np.intp]) -> Value:
        """The same on some of the boxes."""
        parts = {}
        for scale, linear in self.parts.items():
            terms = tuple((atom.on(boxes_n), matrix) for atom, matrix in linear.terms)
            bias = linear.bias
            if bias is not None and bias.shape[0] != 1:
                bias = bias[boxes_n]
            parts[scale and scale.on(boxes_n)] = Linear(terms, bias, linear.width)
        return Value(parts, self.width)


def concatenated(values: list[Value]) -> Value:
    """Channels of several values one after another."""
    width, start = sum(value.width for value in values), 0
    total: Value | None = None
    for value in values:
        before, after = start, width - start - value.width

        def pad(x: Interval, before: int = before, after: int = after) -> Interval:
            zeros = [Interval(np.zeros((*x.shape[:-1], n))) for n in (before, after)]
            return concatenate([zeros[0], x, zeros[1]], -1)

        padded = value.mapped(pad, width)
        total = padded if total is None else total.plus(padded)
        start += value.width
    assert total is not None
    return total


# Linear maps of the last axis.


def along_last(x: Interval) -> Interval:
    return Interval(x.low[..., None], x.high[..., None])


def centred(x: Interval) -> Interval:
    """Less the mean."""
    return x - along_last(x.sum(-1) / float(x.shape[-1]))


def total(x: Interval) -> Interval:
    return along_last(x.sum(-1))


# What a form is worth on the boxes.


def swell(centre: Interval, radius_NK: Array, slopes: Interval | None) -> Interval:
    """Centre plus everything the slopes allow: (N, ...), slopes (N, K, ...)."""
    if slopes is None:
        return centre
    size = np.moveaxis(slopes.magnitude(), 1, -1)
    radius = radius_NK.reshape(len(radius_NK), *[1] * (size.ndim - 2), radius_NK.shape[1])
    return centre + symmetric(reach(radius, size))


def worth(linear: Linear, radius_NK: Array) -> Atom:
    """A linear form worked out."""
    centre, slopes, box = linear.bias, None, linear.bias
    affine = all(atom.affine for atom, _ in linear.terms)
    for atom, matrix in linear.terms:
        at_centre = atom.centre if matrix is None else intervals.matmul(atom.centre, matrix)
        centre = _sum_of(centre, at_centre)
        slopes = _sum_of(slopes, _slopes(atom, matrix))
        if not affine:
            over_box = atom.box if matrix is None else intervals.matmul(atom.box, matrix)
            box = _sum_of(box, over_box)
    if centre is None:
        centre = Interval(np.zeros((1, linear.width)))
    shape = (len(radius_NK), linear.width)
    if centre.shape != shape:
        centre = Interval(np.broadcast_to(centre.low, shape), np.broadcast_to(centre.high, shape))
    reached = swell(centre, radius_NK, slopes)
    if not affine and box is not None:
        reached = reached.meet(box)
    return Atom(centre, reached, slopes, affine)


def _slopes(atom: Atom, matrix: Interval | None) -> Interval | None:
    if atom.slopes is None or matrix is None:
        return atom.slopes
    N, K, M = atom.slopes.shape
    return intervals.matmul(atom.slopes.reshape(N * K, M), matrix).reshape(N, K, -1)
