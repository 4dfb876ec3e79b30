"""Rigorous exp, GELU and SiLU: Arb does the mathematics, tables of Taylor polynomials the volume.

Arb (python-flint) computes with balls that provably contain the exact value (Johansson, IEEE
Transactions on Computers 66, 2017). exp is needed for some ten thousand scores and asked of Arb one
by one. The activations are needed millions of times: on a grid of cells of width 1/32 Arb encloses
the Taylor coefficients at each cell's centre and, over the whole cell, the coefficient after the
last; that one bounds the remainder (Lagrange). The error of evaluating the polynomial in float64 is
bounded as in Higham, section 5.1, and added.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from flint import arb, arb_series, ctx
from numpy.typing import NDArray

from adderlab.checker.intervals import (
    TINY,
    Array,
    Interval,
    down,
    gamma,
    up,
)

PRECISION = 113
"""Bits Arb works with; far more than float64's 53."""
TERMS = 8
CELLS_PER_UNIT = 32
EDGE = 64.0
"""Beyond +-64 the activations are their asymptotes up to 1e-25 (``_asymptote``)."""


def to_arb(low: float, high: float) -> arb:
    """A ball that contains [low, high]."""
    return arb(float(low)) if low == high else arb(float(low)).union(arb(float(high)))


def from_arb(ball: arb) -> tuple[float, float]:
    """float64 numbers around a ball. ``float`` rounds the end point, a step outward makes up for it."""
    if not ball.is_finite():
        return -math.inf, math.inf
    return (
        math.nextafter(float(ball.lower()), -math.inf),
        math.nextafter(float(ball.upper()), math.inf),
    )


def exp(x: Interval, where: NDArray[np.bool_] | None = None) -> Interval:
    """e^x, number by number; exp is increasing, so the ends are enough. Elsewhere than ``where``: 0."""
    low, high = np.zeros(x.shape), np.zeros(x.shape)
    for index in np.ndindex(*x.shape):
        if where is not None and not where[index]:
            continue
        low[index] = max(0.0, from_arb(arb(float(x.low[index])).exp())[0])
        high[index] = from_arb(arb(float(x.high[index])).exp())[1]
    return Interval(low, high)


Series = Callable[[arb_series], arb_series]


def _gelu(x: arb_series) -> arb_series:
    return x * (1 + (x / arb(2).sqrt()).erf()) / 2


def _gelu_derivative(x: arb_series) -> arb_series:
    return (1 + (x / arb(2).sqrt()).erf()) / 2 + x * (-x * x / 2).exp() / (2 * arb.pi()).sqrt()


def _silu(x: arb_series) -> arb_series:
    return x / (1 + (-x).exp())


def _silu_derivative(x: arb_series) -> arb_series:
    sigmoid = 1 / (1 + (-x).exp())
    return sigmoid * (1 + x * (1 - sigmoid))


@dataclass(frozen=True)
class _Table:
    coefficients: Array
    """(cells, TERMS) around the centres, lowest first."""
    error: Array
    """(cells,) bound of |polynomial in float64 - function| on each cell."""


@cache
def _table(series: Series) -> _Table:
    cells = round(2 * EDGE * CELLS_PER_UNIT) + 1
    coefficients, error = np.empty((cells, TERMS)), np.empty(cells)
    half = 0.5 / CELLS_PER_UNIT
    before = ctx.prec, ctx.cap
    ctx.prec, ctx.cap = PRECISION, TERMS + 1
    try:
        for cell in range(cells):
            centre = arb(cell / CELLS_PER_UNIT - EDGE)
            at_centre = series(arb_series([centre, 1], TERMS + 1)).coeffs()
            over_cell = series(arb_series([arb(centre, half), 1], TERMS + 1)).coeffs()
            at_centre += [arb(0)] * (TERMS + 1 - len(at_centre))
            over_cell += [arb(0)] * (TERMS + 1 - len(over_cell))
            total = over_cell[TERMS].abs_upper() * arb(half) ** TERMS
            for j in range(TERMS):
                number = float(at_centre[j].mid())
                coefficients[cell, j] = number
                wrong = (at_centre[j] - arb(number)).abs_upper()
                total += (wrong + abs(arb(number)) * gamma(2 * TERMS)) * arb(half) ** j
            error[cell] = from_arb(total)[1] + TINY
    finally:
        ctx.prec, ctx.cap = before
    assert np.isfinite(error).all()
    return _Table(coefficients, error)


def _at(series: Series, x: Array, asymptote: Callable[[Array], Interval]) -> Interval:
    """Enclosure of the function at float64 numbers."""
    table = _table(series)
    inside = np.abs(x) <= EDGE
    near = np.where(inside, x, 0.0)
    cell = np.rint(near * CELLS_PER_UNIT)
    # Exact: a grid point and a number of its cell are within a factor of two (Sterbenz), or one is 0.
    offset = near - cell / CELLS_PER_UNIT
    row = (cell + EDGE * CELLS_PER_UNIT).astype(np.intp)
    value = table.coefficients[row, TERMS - 1]
    for j in reversed(range(TERMS - 1)):
        value = value * offset + table.coefficients[row, j]
    error = table.error[row]
    low, high = down(value - error), up(value + error)
    if not inside.all():
        far = asymptote(np.where(inside, 0.0, x))
        low, high = np.where(inside, low, far.low), np.where(inside, high, far.high)
    return Interval(low, high)


TAIL = 2.0**-80
"""For |x| > 64: x e^-|x| and x phi(x), bounds of the distance to the asymptotes, are below 2^-86."""


def _value_far(x: Array) -> Interval:
    """gelu and silu: between x - TAIL and x on the right, -TAIL and 0 on the left."""
    return Interval(down(np.maximum(x, 0.0) - TAIL), np.maximum(x, 0.0))


def _derivative_far(x: Array) -> Interval:
    """Their derivatives: within 2 TAIL of 1 on the right and of 0 on the left."""
    step = np.where(x > 0, 1.0, np.where(x <= 0, 0.0, np.nan))  # of no number nothing is known
    return Interval(down(step - 2 * TAIL), up(step + 2 * TAIL))


def gelu_at(x: Array) -> Interval:
    """x Phi(x) at float64 numbers."""
    return _at(_gelu, x, _value_far)


def gelu_derivative_at(x: Array) -> Interval:
    return _at(_gelu_derivative, x, _derivative_far)


def silu_at(x: Array) -> Interval:
    """x / (1 + e^-x) at float64 numbers."""
    return _at(_silu, x, _value_far)


def silu_derivative_at(x: Array) -> Interval:
    return _at(_silu_derivative, x, _derivative_far)


@dataclass(frozen=True)
class _Turn:
    """Where a function has its only minimum or maximum on an interval, and an enclosure of the value."""

    low: float
    high: float
    value_low: float
    value_high: float


@cache
def _turn(zero_of: Callable[[arb], arb], value: Series, guess: float) -> _Turn:
    """The sign change of ``zero_of`` next to ``guess``, proved by Arb at its two ends."""
    low, high = guess - 1e-12, guess + 1e-12
    before = ctx.prec, ctx.cap
    ctx.prec, ctx.cap = PRECISION, 2
    try:
        at_low, at_high = zero_of(arb(low)), zero_of(arb(high))
        assert (at_low < 0 and at_high > 0) or (at_low > 0 and at_high < 0)
        (enclosed, *_) = value(arb_series([to_arb(low, high), 1], 2)).coeffs()
        ends = from_arb(enclosed)
    finally:
        ctx.prec, ctx.cap = before
    return _Turn(low, high, *ends)


def _gelu_bend(x: arb) -> arb:
    """Sign of gelu'' = phi(x) (2 - x^2)."""
    return 2 - x * x


def _gelu_zero(x: arb) -> arb:
    """gelu'. It is below 0 left of its only zero and above 0 right of it."""
    (derivative, *_) = _gelu_derivative(arb_series([x, 1], 2)).coeffs()
    return derivative


def _silu_bend(x: arb) -> arb:
    """silu'' up to a positive factor: 2 - x tanh(x / 2), times cosh(x / 2). x tanh(x / 2) is even and
    grows with |x|, so there is one zero on each side."""
    return 2 * (x / 2).cosh() - x * (x / 2).sinh()


def _silu_zero(x: arb) -> arb:
    """silu' up to a positive factor: 1 + e^-x + x e^-x, whose derivative -x e^-x changes sign at 0,
    where it is 2; it tends to 1 on the right and to -infinity on the left: one zero."""
    return 1 + (-x).exp() * (1 + x)


def _between(at: Callable[[Array], Interval], x: Interval, turns: list[_Turn]) -> Interval:
    """Range over intervals of a function that is monotone between its turns."""
    first, last = at(x.low), at(x.high)
    low, high = np.minimum(first.low, last.low), np.maximum(first.high, last.high)
    for turn in turns:
        meets = (x.low <= turn.high) & (x.high >= turn.low)
        low = np.where(meets, np.minimum(low, turn.value_low), low)
        high = np.where(meets, np.maximum(high, turn.value_high), high)
    return Interval(low, high)


def gelu(x: Interval) -> Interval:
    """Range of x Phi(x): it falls to its only minimum near -0.7518 and rises after it."""
    return _between(gelu_at, x, [_turn(_gelu_zero, _gelu, -0.7517915246935645)])


def gelu_derivative(x: Interval) -> Interval:
    """Range of the derivative, which turns at -sqrt 2 and sqrt 2 only."""
    root = math.sqrt(2.0)
    return _between(
        gelu_derivative_at, x, [_turn(_gelu_bend, _gelu_derivative, s * root) for s in (-1.0, 1.0)]
    )


def silu(x: Interval) -> Interval:
    return _between(silu_at, x, [_turn(_silu_zero, _silu, -1.2784645427610738)])


def silu_derivative(x: Interval) -> Interval:
    at = 2.3993572805154677
    return _between(
        silu_derivative_at, x, [_turn(_silu_bend, _silu_derivative, s * at) for s in (-1.0, 1.0)]
    )


def relu(x: Interval) -> Interval:
    return Interval(np.maximum(x.low, 0.0), np.maximum(x.high, 0.0))


def relu_derivative(x: Interval) -> Interval:
    """Slopes of all secants in the interval: the mean value form needs no derivative at the kink."""
    return Interval((x.low > 0).astype(np.float64), (~(x.high <= 0)).astype(np.float64))
