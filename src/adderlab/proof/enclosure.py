"""A head program over boxes: every value with an interval Jacobian.

On a box {u : |u - centre| <= radius} a value is known by what it is at the centre, by an interval
Jacobian with respect to u, by a box, and by the size of its terms, which measures rounding. Plain
interval arithmetic would forget that all coordinates move together with u, and its bounds would be
useless after one matrix product. What is linear is multiplied out before (``proof.forms``).

Shapes: N boxes, R query tokens, K functionals (H heads times bottleneck), M channels of a value, T
channels of a form, D of what a norm is taken of.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from adderlab.models.head_program import MIXED, ROW, Operand, Operation
from adderlab.proof.forms import EXACT, FUNCTIONS, Array, Form, Head, Interval, Part, Scale, Scales, Term

Ints = NDArray[np.int64]
ROUNDING = 2.0**-44
"""Relative widening of a box from boxes: next to a long end, a short one is lost in rounding."""
DOMAINS: dict[str, Callable[[Array, Array], NDArray[np.bool_]]] = {
    "sqrt": lambda low, high: low > 0,
    "rsqrt": lambda low, high: low > 0,
    "reciprocal": lambda low, high: (low > 0) | (high < 0),
}
"""Where the functions that are not defined everywhere, or not smooth, surely are."""


@dataclass(frozen=True, kw_only=True)
class Affine:
    """offset + u @ slope, for each query token."""

    offset_RM: Array
    slope_RKM: Array


class Rows:
    """The affine values of a head, for R query tokens."""

    def __init__(self, head: Head, mixed_RKM: Array, row_RM: Array) -> None:
        self.head = head
        R, K, _ = mixed_RKM.shape
        self.shape = (R, K)
        self._found = {
            MIXED: Affine(offset_RM=np.zeros((R, mixed_RKM.shape[2])), slope_RKM=mixed_RKM),
            ROW: Affine(offset_RM=row_RM, slope_RKM=np.zeros((R, K, row_RM.shape[1]))),
        }
        self._images: dict[int, tuple[Part, Array]] = {}

    def __getitem__(self, value: int) -> Affine:
        if value not in self._found:
            self._found[value] = self._work_out(value)
        return self._found[value]

    def slope(self, part: Part) -> Array:
        """Slope of a part of a form: (R, K, T)."""
        slope_RKM = self[part.of].slope_RKM
        if part.matrix_MT is None:
            return slope_RKM
        if id(part) not in self._images:
            self._images[id(part)] = part, slope_RKM @ part.matrix_MT
        return self._images[id(part)][1]

    def _work_out(self, value: int) -> Affine:
        head, (R, K) = self.head, self.shape
        operation = head.operation(value)
        name, operands = operation.name, operation.operands

        def read(x: Operand) -> Affine:
            if not isinstance(x, str):
                return self[x]
            array = head.constants[x]
            return Affine(
                offset_RM=np.broadcast_to(array, (R, len(array))), slope_RKM=np.zeros((R, K, len(array)))
            )

        if name == "linear":
            x, W = read(operands[0]), head.constants[str(operands[1])]
            bias = head.constants[str(operands[2])] if len(operands) == 3 else 0.0
            return Affine(offset_RM=x.offset_RM @ W + bias, slope_RKM=x.slope_RKM @ W)
        parts = [read(x) for x in operands]
        if head.of_row[value]:
            offset_RM = apply(operation, [part.offset_RM for part in parts])
            return Affine(offset_RM=offset_RM, slope_RKM=np.zeros((R, K, operation.width)))
        if name in ("multiply", "divide"):
            first, second = parts
            if name == "divide":
                factor_RM, x = 1.0 / second.offset_RM, first
            elif isinstance(operands[0], str) or head.of_row[operands[0]]:
                factor_RM, x = first.offset_RM, second
            else:
                factor_RM, x = second.offset_RM, first
            return Affine(offset_RM=x.offset_RM * factor_RM, slope_RKM=x.slope_RKM * factor_RM[:, None])
        slopes = [part.slope_RKM for part in parts]
        return Affine(
            offset_RM=apply(operation, [part.offset_RM for part in parts]),
            slope_RKM=apply(operation, slopes),
        )


def apply(operation: Operation, operands: list[Array]) -> Array:
    """An operation other than linear, channels last."""
    name, x = operation.name, operands[0]
    match name:
        case "add":
            return x + operands[1]
        case "subtract":
            return x - operands[1]
        case "multiply":
            return x * operands[1]
        case "divide":
            return x / operands[1]
        case "minimum":
            return np.minimum(x, operands[1])
        case "maximum":
            return np.maximum(x, operands[1])
        case "negate":
            return -x
        case "centre":
            return x - x.mean(-1, keepdims=True)
        case "rms":
            return x / np.sqrt((x * x).mean(-1, keepdims=True) + operation.eps)
        case "mean":
            return x.mean(-1, keepdims=True)
        case "sum":
            return x.sum(-1, keepdims=True)
        case "clamp":
            return np.clip(x, _end(operation.low, -np.inf), _end(operation.high, np.inf))
        case "take":
            return x[..., list(operation.indices)]
        case "concat":
            return np.concatenate(operands, -1)
    return FUNCTIONS[name].value(x)


def _end(end: float | None, otherwise: float) -> float:
    return otherwise if end is None else end


Ends = tuple[Array, Array]


@dataclass(kw_only=True, eq=False)
class Enclosed:
    """A value over N boxes."""

    value_NM: Array
    """At the centres."""
    jacobian_NKM: Interval
    find_size: Callable[[], Array]
    """Of the terms that it is the sum of. Not everybody wants to know this, nor what follows."""
    find_reach: Callable[[], Array]
    """How far from its centre the Jacobian lets it get."""
    find_ends: Callable[[], Ends] | None = None
    """The box (low, high), where more is known of it."""

    @cached_property
    def size_NM(self) -> Array:
        return self.find_size()

    @cached_property
    def reach_NM(self) -> Array:
        return self.find_reach()

    @cached_property
    def ends(self) -> Ends:
        if self.find_ends is not None:
            return self.find_ends()
        return self.value_NM - self.reach_NM, self.value_NM + self.reach_NM

    @property
    def low_NM(self) -> Array:
        return self.ends[0]

    @property
    def high_NM(self) -> Array:
        return self.ends[1]

    @property
    def box(self) -> Interval:
        if self.find_ends is None:
            return Interval(self.value_NM, self.reach_NM)
        return Interval.between(*self.ends)


@dataclass(kw_only=True, eq=False)
class Root:
    """sigma > 0, the reciprocal of a common scale, over N boxes."""

    value_N: Array
    low_N: Array
    high_N: Array
    along: Callable[[], Interval]
    """A multiple of sigma' (N, K): d(sigma^power)/du / power."""
    power: int

    @property
    def inverse(self) -> Interval:
        return Interval.between(1.0 / self.high_N, 1.0 / self.low_N)

    def _times_power(self, power: int) -> Interval:
        """``along`` times sigma^power."""
        ends = self.low_N**power, self.high_N**power
        return self.along_NK.times(Interval.between(*(ends if power > 0 else ends[::-1])).axis(1))

    @cached_property
    def along_NK(self) -> Interval:
        return self.along()

    @cached_property
    def turn_NK(self) -> Interval:
        """sigma' / sigma."""
        return self._times_power(-self.power)

    @cached_property
    def slope_NK(self) -> Interval:
        """sigma'."""
        return self._times_power(1 - self.power) if self.power != 1 else self.along_NK


class BoxValues:
    """A program over N boxes of u. Values are worked out when they are asked for, each once."""

    def __init__(self, rows: Rows, row_N: Ints, centre_NK: Array, radius_NK: Array) -> None:
        self.head, self.rows, self.row_N = rows.head, rows, row_N
        self.centre_NK, self.radius_NK = centre_NK, radius_NK
        self.defined_N = np.ones(len(row_N), dtype=bool)
        """False where an operation that has been bounded may not be defined: bounds of what is made of
        it say nothing, even if a clamp makes them finite."""
        self._values: dict[int, Enclosed] = {}
        self._affine: dict[int, tuple[Array, Array]] = {}
        self._enclosed: dict[int, Enclosed] = {}
        self._roots: dict[Scale, Root] = {}

    def affine(self, value: int) -> tuple[Array, Array]:
        """(value at the centres, slope) of an affine value: (N, M), (N, K, M)."""
        if value not in self._affine:
            of_rows = self.rows[value]
            slope_NKM = of_rows.slope_RKM.take(self.row_N, 0)
            moved_NM = np.einsum("nk,nkm->nm", self.centre_NK, slope_NKM)
            self._affine[value] = of_rows.offset_RM.take(self.row_N, 0) + moved_NM, slope_NKM
            if self.head.partial:
                self.defined_N &= np.isfinite(self._affine[value][0]).all(1)
        return self._affine[value]

    def reach(self, jacobian_NKM: Interval) -> Array:
        """How far a value moves over the box at most: (N, M)."""
        return np.einsum("nk,nkm->nm", self.radius_NK, jacobian_NKM.most())

    def enclosed(
        self,
        value_NM: Array,
        size: Callable[[], Array],
        jacobian_NKM: Interval,
        ends: Callable[[], Ends] | None = None,
    ) -> Enclosed:
        return Enclosed(
            value_NM=value_NM,
            jacobian_NKM=jacobian_NKM,
            find_size=size,
            find_reach=lambda: self.reach(jacobian_NKM),
            find_ends=ends,
        )

    def value(self, value: int) -> Enclosed:
        """Any value by its number."""
        if self.head.affine[value] or self._is_linear(value):
            if value not in self._enclosed:
                self._enclosed[value] = self.form(self.head.form(value))
            return self._enclosed[value]
        if value not in self._values:
            self._values[value] = self._atom(self.head.operation(value))
        return self._values[value]

    def _is_linear(self, value: int) -> bool:
        (first, *rest) = self.head.form(value).terms
        return bool(rest) or bool(first.scales) or [part.of for part in first.parts] != [value]

    def term(self, term: Term) -> Enclosed:
        """A term without its scales."""
        middles, radii = [], []
        for part in term.parts:
            if self.head.affine[part.of]:
                middle_NKM = self.affine(part.of)[1]
                if part.matrix_MT is not None:
                    middle_NKM = self.rows.slope(part).take(self.row_N, 0)
            else:
                middle_NKM, radius_NKM = self.value(part.of).jacobian_NKM
                if part.matrix_MT is not None:
                    middle_NKM = middle_NKM @ part.matrix_MT
                    radius_NKM = radius_NKM @ np.abs(part.matrix_MT)
                radii.append(radius_NKM)
            middles.append(middle_NKM)
        parts, bias_T = ((term.whole,), 0.0) if term.whole else (term.parts, term.bias_T)
        values = [bias_T]
        for part in parts:
            x_NM = self._centre(part.of)
            values.append(x_NM if part.matrix_MT is None else x_NM @ part.matrix_MT)
        value_NT = _total(values)
        if not term.parts:
            value_NT = np.broadcast_to(value_NT, (len(self.radius_NK), value_NT.shape[-1]))

        def size() -> Array:
            sizes = [0.0 if term.whole else np.broadcast_to(term.size_T, value_NT.shape)]
            if term.parts and not np.any(term.size_T):
                sizes = []
            for part in parts:
                size_NM = self._size(part.of)
                sizes.append(size_NM if part.size_MT is None else size_NM @ part.size_MT)
            return _total(sizes)

        return self.enclosed(value_NT, size, Interval(_total(middles), _total(radii)))

    def _centre(self, value: int) -> Array:
        if self.head.affine[value]:
            return self.affine(value)[0]
        return self.value(value).value_NM

    def _size(self, value: int) -> Array:
        if self.head.affine[value]:
            return np.abs(self.affine(value)[0])
        return self.value(value).size_NM

    def table(self, form: Form) -> Array:
        """Sum of the absolute values of all factors of a form's summands: what the rounding of the
        tables is relative to."""
        totals = []
        for term in form.terms:
            summands = [term.table_T if term.parts else np.broadcast_to(term.table_T, (1, form.width))]
            if term.whole:
                summands = []
            for part in (term.whole,) if term.whole else term.parts:
                size_NM = self._size(part.of)
                summands.append(size_NM if part.table_MT is None else size_NM @ part.table_MT)
            total_NT = _total(summands)
            for root in map(self.root, term.scales):
                total_NT = total_NT / root.value_N[:, None]
            totals.append(total_NT)
        return _total(totals)

    def scaled(self, term: Term, x: Enclosed, scales: Scales) -> Enclosed:
        """x / sigma, where (x / sigma)' = (x' - x sigma' / sigma) / sigma."""
        if not scales:
            return x
        roots = [self.root(scale) for scale in scales]
        turn_NK, inverse = roots[0].turn_NK, roots[0].inverse
        for root in roots[1:]:
            turn_NK, inverse = turn_NK.plus(root.turn_NK), inverse.times(root.inverse)

        def over_sigma(number_NM: Array) -> Array:
            for root in roots:
                number_NM = number_NM / root.value_N[:, None]
            return number_NM

        bent = turn_NK.axis(2).times(x.box.axis(1))
        middle, radius = x.jacobian_NKM
        bent = Interval(middle - bent.middle, _total([radius, bent.radius]))
        jacobian = bent.times(inverse.axis(1, 2))
        return self.enclosed(over_sigma(x.value_NM), lambda: over_sigma(x.size_NM), jacobian)

    def form(self, form: Form) -> Enclosed:
        """Everything about the value that a form describes."""
        parts = [self.scaled(term, self.term(term), term.scales) for term in form.terms]
        total = parts[0]
        if len(parts) > 1:
            total = self._sum(parts)
        if not form.bounded:
            return total

        def ends() -> Ends:
            low_NM, high_NM = self.direct(form)
            return np.fmax(total.low_NM, low_NM), np.fmin(total.high_NM, high_NM)

        return self.enclosed(total.value_NM, total.find_size, total.jacobian_NKM, ends)

    def _sum(self, parts: list[Enclosed]) -> Enclosed:
        jacobian = Interval(
            _total([part.jacobian_NKM.middle for part in parts]),
            _total([part.jacobian_NKM.radius for part in parts]),
        )
        value_NM = _total([part.value_NM for part in parts])
        return self.enclosed(value_NM, lambda: _total([part.size_NM for part in parts]), jacobian)

    def direct(self, form: Form) -> tuple[Array, Array]:
        """The box of a form from the boxes of its atoms alone."""
        lows, highs = [], []
        for term in form.terms:
            middles, radii = [np.broadcast_to(term.bias_T, (1, form.width))], [np.zeros((1, form.width))]
            for part in term.parts:
                A = part.matrix_MT
                if self.head.affine[part.of]:
                    x_NM, slope_NKT = self.affine(part.of)
                    slope_NKT = slope_NKT if A is None else self.rows.slope(part).take(self.row_N, 0)
                    middles.append(x_NM if A is None else x_NM @ A)
                    radii.append(self.reach(Interval(slope_NKT, EXACT)))
                else:
                    middle_NM, radius_NM = self.value(part.of).box
                    middles.append(middle_NM if A is None else middle_NM @ A)
                    radii.append(radius_NM if A is None else radius_NM @ np.abs(A))
            middle_NT, radius_NT = _total(middles), _total(radii)
            radius_NT = radius_NT + ROUNDING * (np.abs(middle_NT) + radius_NT)
            low_NT, high_NT = unbounded(middle_NT - radius_NT, middle_NT + radius_NT)
            for root in map(self.root, term.scales):
                inverse = 1.0 / root.high_N[:, None], 1.0 / root.low_N[:, None]
                low_NT, high_NT = product(low_NT, high_NT, *inverse)
            lows.append(low_NT)
            highs.append(high_NT)
        return unbounded(_total(lows), _total(highs))

    def root(self, scale: Scale) -> Root:
        if scale not in self._roots:
            if scale.kind == "rms":
                self._roots[scale] = self._rms_root(scale)
            else:
                self._roots[scale] = self._value_root(scale)
            if self.head.partial:
                self.defined_N &= self._roots[scale].low_N > 0
        return self._roots[scale]

    def _value_root(self, scale: Scale) -> Root:
        s = self.value(scale.value)
        value_N, low_N, high_N = s.value_NM[:, 0], np.maximum(s.low_NM[:, 0], 0.0), s.high_NM[:, 0]
        slope_NK = Interval(
            *(np.broadcast_to(part, (*self.radius_NK.shape, 1))[..., 0] for part in s.jacobian_NKM)
        )
        if scale.kind == "divisor":
            return Root(value_N=value_N, low_N=low_N, high_N=high_N, along=lambda: slope_NK, power=1)
        # sigma = 1 / s: sigma' = -s' sigma^2.
        back = Interval(-slope_NK.middle, slope_NK.radius)
        return Root(
            value_N=1.0 / value_N, low_N=1.0 / high_N, high_N=1.0 / low_N, along=lambda: back, power=-1
        )

    def _rms_root(self, scale: Scale) -> Root:
        eps, radius_NK = scale.eps, self.radius_NK
        if self.head.affine[scale.value]:
            x_ND, R_NKD = self.affine(scale.value)
            D = x_ND.shape[1]
            rho_N = root_mean_square(x_ND, eps)
            slope_RKD = self.rows[scale.value].slope_RKM
            gram_NKK = np.abs(slope_RKD @ slope_RKD.transpose(0, 2, 1)).take(self.row_N, 0)
            dot_NK = Interval(
                np.einsum("nd,nkd->nk", x_ND, R_NKD) / D,
                np.einsum("nkl,nl->nk", gram_NKK, radius_NK) / D,
            )
            # d rho / d u_k = x . R_k / (D rho), and by Cauchy-Schwarz at most sqrt(R_k . R_k / D).
            crude_N = np.einsum("nk,nkk->n", radius_NK, np.sqrt(gram_NKK)) / math.sqrt(D)
            least_N = np.maximum(rho_N - crude_N, math.sqrt(eps))
            stray_N = np.minimum(crude_N, (dot_NK.most() * radius_NK).sum(1) / least_N)

            def along() -> Interval:
                return dot_NK

        else:
            x = self.value(scale.value)
            x_ND, flow = x.value_NM, x.jacobian_NKM
            rho_N = root_mean_square(x_ND, eps)
            stray_N = root_mean_square(x.reach_NM, 0.0)

            def along() -> Interval:
                return self._dot(x_ND, flow)

        low_N, high_N = np.maximum(rho_N - stray_N, math.sqrt(eps)), rho_N + stray_N
        return Root(value_N=rho_N, low_N=low_N, high_N=high_N, along=along, power=2)

    def _dot(self, x_ND: Array, flow: Interval) -> Interval:
        """x . flow_k / D over the boxes, where x is x_ND at the centre and moves by the flows."""
        radius_NK, D = self.radius_NK, x_ND.shape[1]
        most_NKD = np.abs(flow.middle)
        gram_NKK = np.abs(flow.middle @ flow.middle.transpose(0, 2, 1))
        moved_NK = np.einsum("nkl,nl->nk", gram_NKK, radius_NK)
        if flow.radius.any():
            loose_ND = self.reach(Interval(EXACT, flow.radius))
            reach_ND = np.abs(x_ND) + self.reach(flow)
            moved_NK = moved_NK + np.einsum("nkd,nd->nk", most_NKD, loose_ND)
            moved_NK = moved_NK + np.einsum("nkd,nd->nk", flow.radius, reach_ND)
        return Interval(np.einsum("nd,nkd->nk", x_ND, flow.middle) / D, moved_NK / D)

    def _operand(self, x: Operand) -> Enclosed:
        if not isinstance(x, str):
            return self.value(x)
        N = len(self.radius_NK)
        array_NM = np.broadcast_to(self.head.constants[x], (N, len(self.head.constants[x])))
        return self.enclosed(
            array_NM, lambda: np.abs(array_NM), Interval(EXACT, EXACT), lambda: (array_NM, array_NM)
        )

    def _atom(self, operation: Operation) -> Enclosed:
        name, operands = operation.name, operation.operands
        x = self._operand(operands[0])
        if name == "multiply" and operands[0] == operands[1]:
            return self._function("square", x)
        if name == "multiply":
            return self._product(x, self._operand(operands[1]))
        if name == "divide":
            return self._product(x, self._function("reciprocal", self._operand(operands[1])))
        if name in ("minimum", "maximum"):
            return self._choice(name, x, self._operand(operands[1]))
        if name == "clamp":
            low, high = _end(operation.low, -np.inf), _end(operation.high, np.inf)
            lows, highs = unbounded(*x.ends)
            slope = Interval.between(
                ((lows >= low) & (highs <= high)).astype(np.float64),
                ((highs >= low) & (lows <= high)).astype(np.float64),
            )
            return self._with_slope(
                x,
                np.clip(x.value_NM, low, high),
                slope,
                lambda: (np.clip(lows, low, high), np.clip(highs, low, high)),
            )
        return self._function(name, x)

    def _function(self, name: str, x: Enclosed) -> Enclosed:
        function, ends = FUNCTIONS[name], unbounded(*x.ends)
        if name in DOMAINS:
            self.defined_N &= DOMAINS[name](*ends).all(1)
        value_NM, slope = function.value(x.value_NM), function.slope(*ends)
        return self._with_slope(x, value_NM, slope, lambda: function.range(*ends), function.bounded)

    def _with_slope(
        self,
        x: Enclosed,
        value_NM: Array,
        slope: Interval,
        ends: Callable[[], Ends],
        bounded: bool = True,
    ) -> Enclosed:
        def size() -> Array:
            if not bounded:
                return x.size_NM
            return np.maximum(x.size_NM * np.maximum(slope.most(), 1.0), np.abs(value_NM))

        return self.enclosed(value_NM, size, x.jacobian_NKM.times(slope.axis(1)), ends)

    def _product(self, x: Enclosed, y: Enclosed) -> Enclosed:
        value_NM = x.value_NM * y.value_NM
        jacobian = x.jacobian_NKM.times(y.box.axis(1)).plus(y.jacobian_NKM.times(x.box.axis(1)))

        def ends() -> Ends:
            reach_NM = self.reach(jacobian)
            low_NM, high_NM = product(*x.ends, *y.ends)
            return np.fmax(value_NM - reach_NM, low_NM), np.fmin(value_NM + reach_NM, high_NM)

        def size() -> Array:
            return (1.0 + x.size_NM) * (1.0 + y.size_NM)

        return self.enclosed(value_NM, size, jacobian, ends)

    def _choice(self, name: str, x: Enclosed, y: Enclosed) -> Enclosed:
        """The smaller or larger of two: the derivative is that of either where both may be it."""
        pick = np.minimum if name == "minimum" else np.maximum
        x_ends, y_ends = unbounded(*x.ends), unbounded(*y.ends)
        surely_x, surely_y = x_ends[1] < y_ends[0], y_ends[1] < x_ends[0]
        if name == "maximum":
            surely_x, surely_y = surely_y, surely_x
        both = x.jacobian_NKM, y.jacobian_NKM
        hull = Interval.between(
            np.minimum(*(part.middle - part.radius for part in both)),
            np.maximum(*(part.middle + part.radius for part in both)),
        )
        ways = surely_x[:, None], surely_y[:, None]
        jacobian = Interval(
            *(
                np.where(ways[0], of_x, np.where(ways[1], of_y, of_both))
                for of_x, of_y, of_both in zip(*both, hull, strict=True)
            )
        )
        return self.enclosed(
            pick(x.value_NM, y.value_NM),
            lambda: np.maximum(x.size_NM, y.size_NM),
            jacobian,
            lambda: (pick(x_ends[0], y_ends[0]), pick(x_ends[1], y_ends[1])),
        )


def _total(summands: list) -> Array:
    """Their sum, zeros left out."""
    some = [each for each in summands if each is not EXACT and np.ndim(each)]
    return functools.reduce(np.add, some) if some else EXACT


def root_mean_square(x_ND: Array, eps: float) -> Array:
    return np.sqrt((x_ND * x_ND).mean(-1) + eps)


def unbounded(low: Array, high: Array) -> tuple[Array, Array]:
    """Ends that are no numbers bound nothing."""
    return np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high)


def product(low: Array, high: Array, other_low: Array, other_high: Array) -> tuple[Array, Array]:
    """Ends of the product of two intervals; infinity times zero bounds nothing."""
    ends = [low * other_low, low * other_high, high * other_low, high * other_high]
    smallest = np.minimum.reduce(ends)
    largest = np.maximum.reduce(ends)
    return unbounded(smallest, largest)
