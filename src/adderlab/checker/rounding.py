"""What fp32 arithmetic can do to a quantity: the real value enclosed, and a bound of the difference.

A ``Rounded`` stands for a number of a program that should be ``real`` and comes out as something
within ``err`` of it. Every operation below says how errors of its operands arrive at its result
(propagation) and how much its own rounding adds (local). The assumptions are those of docs/proof.md,
"Floating point": IEEE rounding to nearest with unit u, sums and products of matrices in any order and
with or without fused multiply-add (gamma_n), results below 2^-126 flushed or not, and the stated
accuracy of exp, erf, sine and cosine.

Adding errors up forwards loses the cancellation between a rounding's several ways to the result, which
is most of it. So each result also remembers its operands and how to pull a cotangent back to them, and
``moved_by_rounding`` goes backwards from the end. Let every operation's own rounding be an unknown
delta_j with |delta_j| <= eps_j. The computed result is a function M of all of them, the real one is
M(0), and by the mean value theorem

    |M(delta) - M(0)| <= sum_j eps_j sup |dM / d delta_j|,

with the supremum over everything between the real and the computed values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from adderlab.checker import functions, intervals, mean_value
from adderlab.checker.intervals import (
    Array,
    Interval,
    above,
    down,
    matmul,
    up,
)
from adderlab.checker.mean_value import MeanValueForm, Real


@dataclass(frozen=True)
class Format:
    """A floating-point format: unit roundoff, what may be lost below the normal range, and the size
    from which a number may overflow (half of what does)."""

    unit: float
    flush: float
    limit: float


FP32, FP64 = Format(2.0**-24, 2.0**-126, 2.0**127), Format(2.0**-53, 2.0**-1022, 2.0**1023)

ROOT_ULPS = 2.0
"""Assumed accuracy of the square root in units of the last place. IEEE asks for half a unit; some vector
libraries give 1.5 (``primitives``)."""
EXP_ULPS = 32.0
"""Assumed accuracy of exp in units of the last place (PyTorch's softmax on the CPU states 20)."""
ERF_ERROR = 2.0**-20
"""Assumed absolute accuracy of erf in fp32: 8 ulps of 1 (oneDNN's polynomial is the least exact)."""
CIRCLE_ULPS = 4.0
"""Assumed accuracy of sine and cosine in ulps of 1."""

TANH_ULPS = 4.0
"""Assumed accuracy of tanh in ulps of 1."""

Vjp = Callable[[Interval], Interval]
"""From the cotangent of a result (derivative of the end with respect to it) to that of an operand."""


@dataclass(eq=False)
class Rounded:
    """An array of numbers of one format. ``varies`` is False for what depends on weights only."""

    real: Real
    err: Array
    format: Format = FP32
    varies: bool = False
    local: Array = field(default_factory=lambda: np.zeros(()))
    """The part of ``err`` that arises here: own rounding, and errors of operands that do not vary."""
    parents: list[tuple[Rounded, Vjp]] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.real.shape

    @property
    def known(self) -> Interval:
        """The real value of what does not depend on a box."""
        assert isinstance(self.real, Interval)
        return self.real

    @cached_property
    def range(self) -> Interval:
        """Everything between the real value and what may be computed."""
        box = self.real.box if isinstance(self.real, MeanValueForm) else self.real
        return box + Interval(-self.err, self.err) if self.err.any() else box

    def moved(self, move: Callable[[np.ndarray], np.ndarray]) -> Rounded:
        """The same numbers in another arrangement (a view, a selection, a repetition)."""
        real = mean_value.rearranged(self.real, lambda x: _moved(x, move))
        out = Rounded(real, move(self.err), self.format, self.varies, np.zeros(real.shape))
        if self.varies:
            numbers = move(np.arange(self.err.size).reshape(self.shape)).reshape(-1).astype(np.int64)
            out.parents = [(self, lambda g: _scatter(g, numbers, self.shape))]
        return out


def _moved(x: Interval, move: Callable[[np.ndarray], np.ndarray]) -> Interval:
    return Interval(move(x.low)) if x.is_point else Interval(move(x.low), move(x.high))


def exact(x: Array | Interval, format: Format = FP32) -> Rounded:
    """Numbers that every run has exactly: stored weights. Only those below the normal range may be read
    as zero."""
    real = intervals.of(x)
    size = real.magnitude()
    return Rounded(real, np.where(size < format.flush, size, 0.0), format)


def constant(x: float, format: Format) -> Rounded:
    """A number written in the program, which an operation in ``format`` rounds first."""
    real, size = intervals.widened(x), abs(x)
    representable = format is FP64 or float(np.float32(x)) == x
    error = 0.0 if representable else 2 * format.unit * size
    return Rounded(real, np.asarray(max(error, size if size < format.flush else 0.0)), format)


def _scatter(g: Interval, numbers: np.ndarray, shape: tuple[int, ...]) -> Interval:
    """Derivatives added up where an entry was used more than once."""
    size = int(np.prod(shape))
    uses = np.bincount(numbers, minlength=size).max(initial=0)
    low, high = np.zeros(size), np.zeros(size)
    if uses <= 1:
        low[numbers], high[numbers] = g.low.reshape(-1), g.high.reshape(-1)
        return Interval(low.reshape(shape), high.reshape(shape))
    np.add.at(low, numbers, g.low.reshape(-1))
    np.add.at(high, numbers, g.high.reshape(-1))
    size_sum = np.zeros(size)
    np.add.at(size_sum, numbers, g.magnitude().reshape(-1))
    slack = above(size_sum * intervals.gamma(int(uses)), int(uses))
    return Interval(down(low - slack).reshape(shape), up(high + slack).reshape(shape))


def _unbroadcast(g: Interval, shape: tuple[int, ...]) -> Interval:
    """Sum over the axes along which an operand of ``shape`` was repeated."""
    while g.ndim > len(shape):
        g = g.sum(0)
    for axis, size in enumerate(shape):
        if size == 1 and g.shape[axis] != 1:
            total = g.sum(axis)
            g = Interval(np.expand_dims(total.low, axis), np.expand_dims(total.high, axis))
    return g


def _result(
    real: Real, own: Array, operands: Sequence[tuple[Rounded, Array, Vjp]], format: Format
) -> Rounded:
    """``own``: local rounding; for each operand what its error contributes, and its vjp."""
    local, err = np.broadcast_to(own, real.shape), np.broadcast_to(own, real.shape)
    parents = []
    for operand, contribution, vjp in operands:
        err = up(err + contribution)
        if operand.varies:
            parents.append((operand, vjp))
        else:
            local = up(local + contribution)
    varies = any(operand.varies for operand, _, _ in operands)
    return Rounded(real, err, format, varies, local, parents)


def _one_rounding(real: Real, passed_on: Array, format: Format) -> Array:
    """Of a result whose exact value, from the operands as they are, is within ``passed_on`` of real."""
    size = up(real.magnitude() + passed_on)
    return _unless_overflow(size, up(format.unit * size + format.flush), format.limit)


def _unless_overflow(size: Array, error: Array, limit: float) -> Array:
    """An infinite error where numbers of ``size`` might not fit: from there on nothing is known.

    For sums ``size`` is that of all terms together, since a partial sum in some order may reach it.
    """
    return np.where(size < limit, error, np.inf)


def _binary(
    real: Real, a: Rounded, from_a: Array, vjp_a: Vjp, b: Rounded, from_b: Array, vjp_b: Vjp
) -> Rounded:
    format = _wider(a, b)
    own = _one_rounding(real, up(from_a + from_b), format)
    return _result(
        real,
        own,
        [
            (a, from_a, lambda g: _unbroadcast(vjp_a(g), a.shape)),
            (b, from_b, lambda g: _unbroadcast(vjp_b(g), b.shape)),
        ],
        format,
    )


def _wider(*operands: Rounded) -> Format:
    """Number formats mix as in PyTorch: single numbers (no axes) do not widen arrays."""
    arrays = [x for x in operands if x.real.ndim] or list(operands)
    return FP64 if any(x.format is FP64 for x in arrays) else FP32


def add(a: Rounded, b: Rounded) -> Rounded:
    real = mean_value.add(a.real, b.real)
    return _binary(real, a, a.err, lambda g: g, b, b.err, lambda g: g)


def subtract(a: Rounded, b: Rounded) -> Rounded:
    real = mean_value.subtract(a.real, b.real)
    return _binary(real, a, a.err, lambda g: g, b, b.err, lambda g: -g)


def multiply(a: Rounded, b: Rounded) -> Rounded:
    real, a_range, b_range = mean_value.multiply(a.real, b.real), a.range, b.range
    from_a = up(a.err * b_range.magnitude())
    from_b = up(a.real.magnitude() * b.err)
    return _binary(real, a, from_a, lambda g: g * b_range, b, from_b, lambda g: g * a_range)


def _without(lost: NDArray[np.bool_], x: Interval) -> Interval:
    """1 in place of the lost numbers, so that the arithmetic goes on; their error is to be infinite,
    and from there on everything that depends on them says nothing."""
    return Interval(np.where(lost, 1.0, x.low), np.where(lost, 1.0, x.high))


def _holds_zero(b: Rounded) -> NDArray[np.bool_]:
    return ~((b.range.low > 0) | (b.range.high < 0))


def divide(a: Rounded, b: Rounded) -> Rounded:
    """Where the divisor might come out as zero, the error is infinite."""
    lost = _holds_zero(b)
    real = mean_value.divide(a.real, mean_value.mapped(b.real, lambda x: _without(lost, x)))
    inverse = _without(lost, b.range).reciprocal()
    least = inverse.magnitude()
    from_a = up(a.err * least)
    from_b = np.where(lost, np.inf, up(up(real.magnitude() * b.err) * least))
    ratio = a.range * inverse
    # An infinite contribution makes the own rounding infinite too, which no drawing back can mend.
    return _binary(real, a, from_a, lambda g: g * inverse, b, from_b, lambda g: -(g * ratio * inverse))


def negate(a: Rounded) -> Rounded:
    return _result(mean_value.negate(a.real), np.zeros(a.shape), [(a, a.err, lambda g: -g)], a.format)


def square(a: Rounded) -> Rounded:
    real, a_range = a.real.square(), a.range
    from_a = up(a.err * up(a.real.magnitude() + a_range.magnitude()))
    own = _one_rounding(real, from_a, a.format)
    return _result(real, own, [(a, from_a, lambda g: g * a_range * 2.0)], a.format)


def root(a: Rounded) -> Rounded:
    """Square root. Where the operand might come out as zero or less, the error is infinite."""
    lost = ~(a.range.low > 0)
    real = mean_value.mapped(a.real, lambda x: _without(lost, x)).sqrt()
    # |sqrt x - sqrt y| = |x - y| / (sqrt x + sqrt y).
    derivative = (_without(lost, a.range).sqrt() * 2.0).reciprocal()
    from_a = up(a.err * derivative.magnitude())
    # One rounding is half a unit of the last place, or a whole one just above a power of two.
    own = np.where(lost, np.inf, 2.0 * ROOT_ULPS * _one_rounding(real, from_a, a.format))
    return _result(real, own, [(a, from_a, lambda g: g * derivative)], a.format)


def total(a: Rounded, axes: tuple[int, ...], keep: bool, divisor: int = 1) -> Rounded:
    """Sum or mean, in any order."""
    count = int(np.prod([a.shape[axis] for axis in axes]))
    real, size, passed = a.real, a.range.magnitude(), a.err
    for axis in sorted((axis % a.real.ndim for axis in axes), reverse=True):
        real = real.sum(axis)
        size, passed = above(size.sum(axis), count), above(passed.sum(axis), count)
        if keep:
            real = mean_value.rearranged(real, lambda x, axis=axis: _with_axis(x, axis))
            size, passed = np.expand_dims(size, axis), np.expand_dims(passed, axis)
    summed = size
    if divisor != 1:
        real = mean_value.divide(real, intervals.of(float(divisor)))
        size, passed = up(size / divisor), up(passed / divisor)
    # One more for the division.
    own = up(_gamma(count + 1, a.format) * size + (count + 1) * a.format.flush)
    own = _unless_overflow(summed, own, a.format.limit)
    positive = {axis % a.real.ndim for axis in axes}

    def vjp(g: Interval) -> Interval:
        low, high = g.low, g.high
        if not keep:
            for axis in sorted(positive):
                low, high = np.expand_dims(low, axis), np.expand_dims(high, axis)
        g = Interval(np.broadcast_to(low, a.shape), np.broadcast_to(high, a.shape))
        return g / float(divisor) if divisor != 1 else g

    return _result(real, own, [(a, passed, vjp)], a.format)


def _with_axis(x: Interval, axis: int) -> Interval:
    return Interval(np.expand_dims(x.low, axis), np.expand_dims(x.high, axis))


def _gamma(terms: int, format: Format) -> float:
    """n u / (1 - n u), rounded up."""
    return terms * format.unit * (1.0 + 2.0 * terms * format.unit)


def product(a: Rounded, b: Rounded) -> Rounded:
    """Matrix product (..., M, K) @ (..., K, N), in any order of summation."""
    terms, format = a.shape[-1], _wider(a, b)
    real, a_range, b_range = mean_value.matmul(a.real, b.real), a.range, b.range
    from_a = above(a.err @ b_range.magnitude(), terms)
    from_b = above(a.real.magnitude() @ b.err, terms)
    size = above(a_range.magnitude() @ b_range.magnitude(), terms)
    own = up(_gamma(terms, format) * size + terms * format.flush)
    own = _unless_overflow(size, own, format.limit)

    def turned(x: Interval) -> Interval:
        return Interval(np.swapaxes(x.low, -1, -2), np.swapaxes(x.high, -1, -2))

    return _result(
        real,
        own,
        [
            (a, from_a, lambda g: _unbroadcast(matmul(g, turned(b_range)), a.shape)),
            (b, from_b, lambda g: _unbroadcast(matmul(turned(a_range), g), b.shape)),
        ],
        format,
    )


def _smooth(a: Rounded, real: Real, derivative: Interval, own: Array) -> Rounded:
    """A function of one number; ``derivative`` encloses it between the real and the computed operand."""
    return _result(
        real, own, [(a, up(a.err * derivative.magnitude()), lambda g: g * derivative)], a.format
    )


def gelu(a: Rounded) -> Rounded:
    """x / 2 (1 + erf(x / sqrt 2)), the factors in any order.

    Rounding the argument of erf moves erf by at most max |z erf'(z)| < 1/2 times two units; the sum is
    at most 2; three more roundings are relative.
    """
    real = mean_value.smooth(a.real, functions.gelu, functions.gelu_derivative)
    size, u = a.range.magnitude(), a.format.unit
    own = up(size * (0.5 * ERF_ERROR + 6.0 * u) + 4.0 * a.format.flush)
    own = _unless_overflow(up(size * size), own, a.format.limit)  # erf may form the square
    return _smooth(a, real, functions.gelu_derivative(a.range), own)


def silu(a: Rounded) -> Rounded:
    """x / (1 + e^-x), or x times its sigmoid."""
    real, u = mean_value.smooth(a.real, functions.silu, functions.silu_derivative), a.format.unit
    size = up(functions.silu(a.range).magnitude())
    own = up(size * ((2.0 * EXP_ULPS + 6.0) * u) + up(a.range.magnitude() + 4.0) * a.format.flush)
    own = _unless_overflow(up(a.range.magnitude()), own, a.format.limit)
    return _smooth(a, real, functions.silu_derivative(a.range), own)


def relu(a: Rounded) -> Rounded:
    real = mean_value.smooth(a.real, functions.relu, functions.relu_derivative)
    return _smooth(a, real, functions.relu_derivative(a.range), np.zeros(a.shape))


def gelu_tanh(a: Rounded) -> Rounded:
    """x / 2 (1 + tanh(c (x + d x^3))).

    Rounding the argument of tanh moves it by at most max |z tanh'(z)| < 1/2 times six units; tanh's own
    error counts half; three more roundings are relative.
    """
    real = mean_value.smooth(a.real, functions.gelu_tanh, functions.gelu_tanh_derivative)
    size, u = a.range.magnitude(), a.format.unit
    own = up(size * ((TANH_ULPS + 10.0) * u) + 4.0 * a.format.flush)
    own = _unless_overflow(up(up(size * size) * size), own, a.format.limit)
    return _smooth(a, real, functions.gelu_tanh_derivative(a.range), own)


def softplus(a: Rounded) -> Rounded:
    """log(1 + e^x), or from 20 on x itself."""
    real, u = mean_value.smooth(a.real, functions.softplus, functions.sigmoid), a.format.unit
    size = up(functions.softplus(a.range).magnitude())
    own = up(4.0 * EXP_ULPS * u * size + a.format.flush)
    return _smooth(a, real, functions.sigmoid(a.range), own)


def maximum(a: Rounded, b: Rounded) -> Rounded:
    """The larger of two, which is exact: b + relu(a - b)."""
    apart = mean_value.subtract(a.real, b.real)
    real = mean_value.add(b.real, mean_value.smooth(apart, functions.relu, functions.relu_derivative))
    slope = functions.relu_derivative(a.range - b.range)
    rest = 1.0 - slope
    return _result(
        real,
        np.zeros(real.shape),
        [
            (a, up(a.err * slope.magnitude()), lambda g: _unbroadcast(g * slope, a.shape)),
            (b, up(b.err * rest.magnitude()), lambda g: _unbroadcast(g * rest, b.shape)),
        ],
        _wider(a, b),
    )


def minimum(a: Rounded, b: Rounded) -> Rounded:
    return negate(maximum(negate(a), negate(b)))


def choose(mask: NDArray[np.bool_], a: Rounded, b: Rounded) -> Rounded:
    """a where the mask is set, b elsewhere: exact."""
    first, second = intervals.of(mask.astype(np.float64)), intervals.of((~mask).astype(np.float64))
    real = mean_value.add(mean_value.multiply(a.real, first), mean_value.multiply(b.real, second))
    from_a, from_b = np.where(mask, a.err, 0.0), np.where(mask, 0.0, b.err)
    return _result(
        real,
        np.zeros(real.shape),
        [
            (a, from_a, lambda g: _unbroadcast(g * first, a.shape)),
            (b, from_b, lambda g: _unbroadcast(g * second, b.shape)),
        ],
        _wider(a, b),
    )


def absolute(a: Rounded) -> Rounded:
    """Exact, as a clamp is."""
    real = mean_value.smooth(a.real, functions.absolute, functions.absolute_derivative)
    return _smooth(a, real, functions.absolute_derivative(a.range), np.zeros(a.shape))


def clamp(a: Rounded, low: float | None, high: float | None) -> Rounded:
    """Between two numbers written in the program, which are rounded first."""
    ends = [None if x is None else constant(x, a.format) for x in (low, high)]
    low_end, high_end = (None if end is None else intervals.of(end.range) for end in ends)

    def clamped(x: Interval) -> Interval:
        return functions.clamp(x, low_end, high_end)

    def slope(x: Interval) -> Interval:
        return functions.clamp_derivative(x, low_end, high_end)

    own = np.zeros(a.shape)
    for end in ends:
        own = own if end is None else np.maximum(own, end.err)
    return _smooth(a, mean_value.smooth(a.real, clamped, slope), slope(a.range), own)


def reciprocal(a: Rounded) -> Rounded:
    return divide(constant(1.0, a.format), a)


def inverse_root(a: Rounded) -> Rounded:
    """1 / sqrt(x), as two operations or as one that is no worse."""
    return reciprocal(root(a))


def exp(a: Rounded) -> Rounded:
    real, u = mean_value.smooth(a.real, functions.exp_fast, functions.exp_fast), a.format.unit
    size = up(functions.exp_fast(a.range).magnitude())
    own = up(2.0 * EXP_ULPS * u * size + a.format.flush)
    return _smooth(a, real, functions.exp_fast(a.range), _unless_overflow(size, own, a.format.limit))


def sigmoid(a: Rounded) -> Rounded:
    """1 / (1 + e^-x)."""
    real = mean_value.smooth(a.real, functions.sigmoid, functions.sigmoid_derivative)
    size = up(functions.sigmoid(a.range).magnitude())
    own = up((2.0 * EXP_ULPS + 6.0) * a.format.unit * size + a.format.flush)
    return _smooth(a, real, functions.sigmoid_derivative(a.range), own)


def tanh(a: Rounded) -> Rounded:
    """Of at most 1, and accurate to ``TANH_ULPS`` of 1."""
    real = mean_value.smooth(a.real, functions.tanh, functions.tanh_derivative)
    own = np.full(a.shape, 2.0 * TANH_ULPS * a.format.unit)
    return _smooth(a, real, functions.tanh_derivative(a.range), own)


def circle(a: Rounded, real: Interval) -> Rounded:
    """Sine or cosine, whose enclosure is given; the derivative is at most 1."""
    one = Interval(-np.ones(a.shape), np.ones(a.shape))
    own = np.full(a.shape, CIRCLE_ULPS * 2 * a.format.unit)
    return _smooth(a, real, one, own)


def narrowed(a: Rounded, format: Format) -> Rounded:
    """A conversion to another format."""
    if format is a.format or format is FP64:
        return Rounded(a.real, a.err, format, a.varies, a.local, a.parents)
    own = _one_rounding(a.real, a.err, format)
    return _result(a.real, own, [(a, a.err, lambda g: g)], format)


def join(parts: Sequence[Rounded], put: Callable[[list[Array]], Array]) -> Rounded:
    """Concatenation or stacking, done by ``put`` on plain arrays."""
    real = mean_value.join([p.real for p in parts], put)
    out = Rounded(real, put([p.err for p in parts]), _wider(*parts), local=np.zeros(real.shape))
    out.varies = any(part.varies for part in parts)
    for number, part in enumerate(parts):
        marks = [np.full(p.shape, -1) for p in parts]
        marks[number] = np.arange(part.err.size).reshape(part.shape)
        where = put([mark.astype(np.float64) for mark in marks]).astype(np.int64)
        mine = np.flatnonzero(where.reshape(-1) >= 0)
        if part.varies:
            out.parents.append((part, _chooser(mine, where.reshape(-1)[mine], part.shape)))
        else:
            local = np.zeros(real.shape).reshape(-1)
            local[mine] = part.err.reshape(-1)[where.reshape(-1)[mine]]
            out.local = up(out.local + local.reshape(real.shape))
    return out


def _chooser(mine: np.ndarray, numbers: np.ndarray, shape: tuple[int, ...]) -> Vjp:
    def vjp(g: Interval) -> Interval:
        return _scatter(Interval(g.low.reshape(-1)[mine], g.high.reshape(-1)[mine]), numbers, shape)

    return vjp


def layer_norm(x: Rounded, weight: Rounded | None, bias: Rounded | None, eps: float) -> Rounded:
    """LayerNorm over the last axis, whether variance comes from deviations (in one pass or two) or
    from squares, and whether x - mean is formed before or after the division."""
    n, axis, u = x.shape[-1], (x.real.ndim - 1,), x.format.unit
    mean = total(x, axis, True, n)
    deviation = subtract(x, mean)
    variance = total(square(deviation), axis, True, n)
    size = x.range.magnitude()
    squares = above((size * size).sum(-1, keepdims=True), n)
    stray = up(_gamma(4 * n + 8, x.format) * squares / n)
    # Of (x - mean)^2, too: a deviation is at most twice the largest number.
    variance = _noisier(variance, _unless_overflow(4.0 * squares, stray, x.format.limit))
    sigma = root(add(variance, constant(eps, x.format)))
    inverse = _without(_holds_zero(sigma), sigma.range).reciprocal()
    spread = up(up(size + mean.range.magnitude()) * inverse.magnitude())
    out = _noisier(divide(deviation, sigma), up(6.0 * u * spread))
    if weight is not None:
        out = multiply(out, weight)
    return out if bias is None else add(out, bias)


def _noisier(a: Rounded, extra: Array) -> Rounded:
    """The same number with more local error."""
    return Rounded(a.real, up(a.err + extra), a.format, a.varies, up(a.local + extra), a.parents)


# Backwards from the end.


def _order(end: Rounded) -> list[Rounded]:
    """Everything that varies and leads to ``end``, each after what depends on it."""
    order: list[Rounded] = []
    seen: set[int] = set()
    stack = [(end, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack += [(parent, False) for parent, _ in node.parents]
    return order[::-1]


def moved_by_rounding(end: Rounded, direction: Interval) -> Array:
    """Upper bound, for each row, of how far rounding moves ``direction . end``: (N,).

    The first axis of everything that varies is the row.
    """
    bound_N = np.zeros(end.shape[0])
    for node, g in _cotangents(end, direction):
        rows = up(g.magnitude() * node.local).reshape(len(bound_N), -1)
        bound_N = up(bound_N + above(rows.sum(1), rows.shape[1]))
    return bound_N


NUMBERS_AT_ONCE = 2_000_000
"""Of a table of directions times numbers of a node, for the sake of memory."""


def moved_along_each(end: Rounded, axes: Sequence[Interval], direction_AK: Interval) -> Array:
    """``moved_by_rounding`` of the A directions sum_k direction[a, k] axes[k], going backwards K times
    instead of A times: a derivative is linear in the direction that it is drawn back from. (A, N)."""
    A, N = direction_AK.shape[0], end.shape[0]
    bound_AN = np.zeros((A, N))
    for each in zip(*(_cotangents(end, axis) for axis in axes), strict=True):
        node = each[0][0]
        local_J = np.broadcast_to(node.local, node.shape).reshape(-1)
        along_KJ = intervals.stack([g.reshape(-1) for _, g in each])
        M, some = len(local_J) // N, max(1, NUMBERS_AT_ONCE // len(local_J))
        for start in range(0, A, some):
            a = slice(start, start + some)
            size_aJ = matmul(direction_AK[a], along_KJ).magnitude()
            moved_aN = above(up(size_aJ * local_J).reshape(-1, N, M).sum(2), M)
            bound_AN[a] = up(bound_AN[a] + moved_aN)
    return bound_AN


def derivative(end: Rounded, start: Rounded, direction: Interval) -> Interval:
    """Derivative of ``direction . end`` by ``start``, over everything between the real and the computed
    values: in the shape of ``start``, which ``end`` depends on."""
    return next(g for node, g in _cotangents(end, direction) if node is start)


def _cotangents(end: Rounded, direction: Interval) -> Iterator[tuple[Rounded, Interval]]:
    """Everything that varies, with the derivative of ``direction . end`` by it."""
    cotangents: dict[int, Interval] = {id(end): direction}
    for node in _order(end):
        g = cotangents.pop(id(node), None)
        if g is None:
            continue
        yield node, g
        for parent, vjp in node.parents:
            share = vjp(g)
            before = cotangents.get(id(parent))
            cotangents[id(parent)] = share if before is None else before + share
