"""Rigorous functions of one number: Arb does the mathematics, tables of Taylor polynomials the volume.

Arb (python-flint) computes with balls that provably contain the exact value (Johansson, IEEE
Transactions on Computers 66, 2017). exp is needed for some ten thousand scores and asked of Arb one
by one. The activations are needed millions of times: on a grid of cells of width 1/32 Arb encloses
the Taylor coefficients at each cell's centre and, over the whole cell, the coefficient after the
last; that one bounds the remainder (Lagrange). The error of evaluating the polynomial in float64 is
bounded as in Higham, section 5.1, and added.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable, Iterator
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
    symmetric,
    up,
)

PRECISION = 113
"""Bits Arb works with; far more than float64's 53."""
TERMS = 8
CELLS_PER_UNIT = 32
EDGE = 64.0
"""Beyond +-64 the functions are their asymptotes up to 1e-25 (``TAIL``), some of them earlier."""
NORMAL_EDGE = 12.0
"""Of GELU, where x e^(-x^2 / 2) bounds what is left: below 1e-30 at 12, and it falls."""
CUBIC_EDGE = 10.0
"""Of GELU by tanh: x^3 s^2 e^(-2 t) with s = 2 t' bounds what is left of it, its slope and its bend; at
10 that is below 1e-28, and it falls."""

_SETTINGS = threading.RLock()
"""Arb's settings are the whole process': a thread that changes them has them to itself. With series cut
off by another thread's, a table's coefficients would be wrong."""
if hasattr(os, "register_at_fork"):
    # No copy of the process finds them locked by a thread that it does not have.
    os.register_at_fork(
        before=_SETTINGS.acquire, after_in_parent=_SETTINGS.release, after_in_child=_SETTINGS.release
    )


@contextlib.contextmanager
def _precise(terms: int) -> Iterator[None]:
    """Arb at ``PRECISION``, its series up to so many terms."""
    with _SETTINGS:
        before = ctx.prec, ctx.cap
        ctx.prec, ctx.cap = PRECISION, terms
        try:
            yield
        finally:
            ctx.prec, ctx.cap = before


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
_KAPPA = arb(0.044715, 1e-17)
"""Of GELU's approximation by tanh: 0.044715 and its rounding to float64."""


def _gelu(x: arb_series) -> arb_series:
    return x * (1 + (x / arb(2).sqrt()).erf()) / 2


def _exp(x: arb_series) -> arb_series:
    return x.exp()


def _sigmoid(x: arb_series) -> arb_series:
    return 1 / (1 + (-x).exp())


def _sigmoid_derivative(x: arb_series) -> arb_series:
    return _sigmoid(x) * _sigmoid(-x)


def _softplus(x: arb_series) -> arb_series:
    return (1 + x.exp()).log()


def _gelu_tanh(x: arb_series) -> arb_series:
    """x / 2 (1 + tanh t) = x sigmoid(2 t) with t = sqrt(2 / pi) (x + 0.044715 x^3)."""
    return x * _sigmoid(_twice_t(x))


def _gelu_tanh_derivative(x: arb_series) -> arb_series:
    slope = 2 * (2 / arb.pi()).sqrt() * (1 + 3 * _KAPPA * x * x)
    return _sigmoid(_twice_t(x)) + x * slope * _sigmoid_derivative(_twice_t(x))


def _gelu_tanh_second(x: arb_series) -> arb_series:
    sigmoid = _sigmoid(_twice_t(x))
    root = 2 * (2 / arb.pi()).sqrt()
    first, second = root * (1 + 3 * _KAPPA * x * x), root * 6 * _KAPPA * x
    bell = sigmoid * _sigmoid(-_twice_t(x))
    return bell * (2 * first + x * second + x * first * first * (1 - 2 * sigmoid))


def _twice_t(x: arb_series) -> arb_series:
    return 2 * (2 / arb.pi()).sqrt() * (x + _KAPPA * x * x * x)


def _gelu_derivative(x: arb_series) -> arb_series:
    return (1 + (x / arb(2).sqrt()).erf()) / 2 + x * (-x * x / 2).exp() / (2 * arb.pi()).sqrt()


def _silu(x: arb_series) -> arb_series:
    return x / (1 + (-x).exp())


def _silu_derivative(x: arb_series) -> arb_series:
    sigmoid = 1 / (1 + (-x).exp())
    return sigmoid * (1 + x * (1 - sigmoid))


def _grid(series: Series) -> tuple[float, int]:
    """From where on a function is its asymptote up to TAIL, and how many cells it takes a unit."""
    if series in (_gelu_tanh, _gelu_tanh_derivative, _gelu_tanh_second):
        return CUBIC_EDGE, 4 * CELLS_PER_UNIT
    if series in (_gelu, _gelu_derivative):
        return NORMAL_EDGE, CELLS_PER_UNIT
    return EDGE, CELLS_PER_UNIT


class _Table:
    """Taylor polynomials of a function, each worked out when a number of its cell is first asked for:
    one model needs a few hundred of the thousands there are."""

    def __init__(self, series: Series) -> None:
        self._series = series
        self._edge, self._per_unit = _grid(series)
        cells = round(2 * self._edge * self._per_unit) + 1
        self._known = np.zeros(cells, dtype=bool)
        self.coefficients: Array = np.empty((cells, TERMS))
        """(cells, TERMS) around the centres, lowest first; of the known cells."""
        self.error: Array = np.empty(cells)
        """(cells,) bound of |polynomial in float64 - function| on each of them."""

    def know(self, cells: NDArray[np.intp]) -> None:
        """Work out those of these cells that are not known."""
        missing = np.unique(cells[~self._known[cells]])
        if not len(missing):
            return
        with _precise(TERMS + 1):
            for cell in missing.tolist():
                self._work_out(cell)
        assert np.isfinite(self.error[missing]).all()
        self._known[missing] = True

    def _work_out(self, cell: int) -> None:
        centre, half = arb(cell / self._per_unit - self._edge), 0.5 / self._per_unit
        at_centre = self._series(arb_series([centre, 1], TERMS + 1)).coeffs()
        over_cell = self._series(arb_series([arb(centre, half), 1], TERMS + 1)).coeffs()
        at_centre += [arb(0)] * (TERMS + 1 - len(at_centre))
        over_cell += [arb(0)] * (TERMS + 1 - len(over_cell))
        total = over_cell[TERMS].abs_upper() * arb(half) ** TERMS
        for j in range(TERMS):
            number = float(at_centre[j].mid())
            self.coefficients[cell, j] = number
            wrong = (at_centre[j] - arb(number)).abs_upper()
            total += (wrong + abs(arb(number)) * gamma(2 * TERMS)) * arb(half) ** j
        self.error[cell] = from_arb(total)[1] + TINY


@cache
def _table(series: Series) -> _Table:
    return _Table(series)


def _at(series: Series, x: Array, asymptote: Callable[[Array], Interval]) -> Interval:
    """Enclosure of the function at float64 numbers."""
    table, (edge, per_unit) = _table(series), _grid(series)
    inside = np.abs(x) <= edge
    near = np.where(inside, x, 0.0)
    cell = np.rint(near * per_unit)
    # Exact: a grid point and a number of its cell are within a factor of two (Sterbenz), or one is 0.
    offset = near - cell / per_unit
    row = (cell + edge * per_unit).astype(np.intp)
    table.know(row)
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
"""Beyond the edges the bounds of the distance to the asymptotes, x e^-|x| of SiLU among them, are below
2^-86."""


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


# Functions that rise everywhere, or whose slope has one bend only, where it is known exactly.


def _far_exp(x: Array) -> Interval:
    """Below -64 and above 64: one by one."""
    return _each(arb.exp, x)


def _each(function: Callable[[arb], arb], x: Array) -> Interval:
    low, high = np.full(x.shape, np.nan), np.full(x.shape, np.nan)
    for index in zip(*np.nonzero(np.abs(x) > EDGE), strict=True):
        if np.isfinite(x[index]):
            low[index], high[index] = from_arb(function(arb(float(x[index]))))
    return Interval(low, high)


def _far_sigmoid(x: Array) -> Interval:
    """0 on the left and 1 on the right, reached from inside up to TAIL."""
    left, right = x <= 0, x > 0
    bottom = np.where(left, 0.0, np.where(right, down(np.array(1.0 - TAIL)), np.nan))
    top = np.where(left, up(np.array(TAIL)), np.where(right, 1.0, np.nan))
    return Interval(bottom, top)


def _far_bell(x: Array) -> Interval:
    """Between 0 and TAIL."""
    zero = x * 0.0  # of no number nothing is known
    return Interval(zero, zero + TAIL)


def _far_softplus(x: Array) -> Interval:
    return Interval(np.maximum(x, 0.0), up(np.maximum(x, 0.0) + TAIL))


def exp_fast(x: Interval) -> Interval:
    """e^x of many numbers."""
    low, high = _at(_exp, x.low, _far_exp).low, _at(_exp, x.high, _far_exp).high
    return Interval(np.maximum(low, 0.0), high)


def _rising(series: Series, far: Callable[[Array], Interval], x: Interval) -> Interval:
    return Interval(_at(series, x.low, far).low, _at(series, x.high, far).high)


def sigmoid(x: Interval) -> Interval:
    return _rising(_sigmoid, _far_sigmoid, x)


def sigmoid_derivative(x: Interval) -> Interval:
    """sigmoid(x) sigmoid(-x), even, falls with |x| from 1/4."""
    return _between(lambda at: _at(_sigmoid_derivative, at, _far_bell), x, [_Turn(0.0, 0.0, 0.25, 0.25)])


def tanh(x: Interval) -> Interval:
    """2 sigmoid(2 x) - 1."""
    return (sigmoid(x * 2.0) * 2.0 - 1.0).meet(Interval(np.array(-1.0), np.array(1.0)))


def tanh_derivative(x: Interval) -> Interval:
    return sigmoid_derivative(x * 2.0) * 4.0


def softplus(x: Interval) -> Interval:
    """log(1 + e^x), and what PyTorch makes of it, which from 20 on is x."""
    found = _rising(_softplus, _far_softplus, x)
    beyond = x.high > SOFTPLUS_EDGE
    return Interval(np.where(beyond, down(found.low - SOFTPLUS_JUMP), found.low), found.high)


SOFTPLUS_EDGE, SOFTPLUS_JUMP = 20.0, 2.0**-28
"""log(1 + e^-20) = 2.06e-9 < 2^-28 is the largest difference between softplus(x) and x there."""


def gelu_tanh(x: Interval) -> Interval:
    """Range over intervals: it moves from its middle by no more than its steepest slope allows."""
    return _wandering(_gelu_tanh, _value_far, gelu_tanh_derivative, x)


def gelu_tanh_derivative(x: Interval) -> Interval:
    return _wandering(_gelu_tanh_derivative, _derivative_far, _gelu_tanh_bend, x)


def _gelu_tanh_bend(x: Interval) -> Interval:
    """Range of the second derivative, from the cells that an interval meets."""
    return _over_cells(_gelu_tanh_second, Interval(np.array(-TAIL), np.array(TAIL)), x)


def _wandering(
    series: Series,
    far: Callable[[Array], Interval],
    slope: Callable[[Interval], Interval],
    x: Interval,
) -> Interval:
    middle, radius = x.mid_rad()
    at_middle = _at(series, middle, far)
    return at_middle + symmetric(up(slope(x).magnitude() * radius))


@cache
def _ladder(series: Series) -> tuple[list[Array], list[Array]]:
    """Smallest and largest values over 1, 2, 4, .. neighbouring cells."""
    edge, per_unit = _grid(series)
    cells = round(2 * edge * per_unit) + 1
    low, high = np.empty(cells), np.empty(cells)
    with _precise(1):
        for cell in range(cells):
            # A little wider than the cell, so that rounding a number to a cell needs no care.
            ball = arb(cell / per_unit - edge, 0.5001 / per_unit)
            (value, *_) = [*series(arb_series([ball], 1)).coeffs(), arb(0)]
            low[cell], high[cell] = from_arb(value)
    lows, highs = [low], [high]
    while len(lows[-1]) > 2 ** (len(lows) - 1):
        step = 2 ** (len(lows) - 1)
        lows.append(np.minimum(lows[-1][:-step], lows[-1][step:]))
        highs.append(np.maximum(highs[-1][:-step], highs[-1][step:]))
    return lows, highs


def _over_cells(series: Series, far: Interval, x: Interval) -> Interval:
    """Range over intervals, from that of every cell they meet; ``far`` holds beyond the cells."""
    (lows, highs), (edge, per_unit) = _ladder(series), _grid(series)
    first, last = (
        np.rint(np.clip(np.nan_to_num(end, nan=nan), -edge, edge) * per_unit).astype(np.intp)
        for end, nan in ((x.low, -edge), (x.high, edge))
    )
    first, last = (each + round(edge * per_unit) for each in (first, last))
    level = np.floor(np.log2(np.maximum(last - first + 1, 1))).astype(np.intp)
    low, high = np.empty(x.shape), np.empty(x.shape)
    for number in np.unique(level):
        mine = level == number
        ends = first[mine], last[mine] - 2**number + 1
        low[mine] = np.minimum(*(lows[number][end] for end in ends))
        high[mine] = np.maximum(*(highs[number][end] for end in ends))
    out = ~(x.low >= -edge) | ~(x.high <= edge)
    low = np.where(out, np.minimum(low, far.low), low)
    return Interval(low, np.where(out, np.maximum(high, far.high), high))


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
    with _precise(2):
        at_low, at_high = zero_of(arb(low)), zero_of(arb(high))
        assert (at_low < 0 and at_high > 0) or (at_low > 0 and at_high < 0)
        (enclosed, *_) = value(arb_series([to_arb(low, high), 1], 2)).coeffs()
        ends = from_arb(enclosed)
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


def absolute(x: Interval) -> Interval:
    low = np.maximum(np.maximum(x.low, -x.high), 0.0)
    return Interval(low, x.magnitude())


def absolute_derivative(x: Interval) -> Interval:
    """Slopes of all secants."""
    return Interval(np.where(x.low >= 0, 1.0, -1.0), np.where(x.high <= 0, -1.0, 1.0))


def clamp(x: Interval, low: Interval | None, high: Interval | None) -> Interval:
    """Between ends that are themselves known as intervals."""
    if low is not None:
        x = Interval(np.maximum(x.low, low.low), np.maximum(x.high, low.high))
    if high is not None:
        x = Interval(np.minimum(x.low, high.low), np.minimum(x.high, high.high))
    return x


def clamp_derivative(x: Interval, low: Interval | None, high: Interval | None) -> Interval:
    """Slopes of all secants."""
    inside, outside = np.ones(x.shape, dtype=bool), np.zeros(x.shape, dtype=bool)
    if low is not None:
        inside &= x.low >= low.high
        outside |= x.high <= low.low
    if high is not None:
        inside &= x.high <= high.low
        outside |= x.low >= high.high
    return Interval(np.where(inside & ~outside, 1.0, 0.0), np.where(outside, 0.0, 1.0))
