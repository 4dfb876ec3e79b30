"""What a head program is made of: what is linear, multiplied out, and the functions between.

What is linear is never enclosed step by step: that would take absolute values after every matrix, and
hidden units could no longer cancel. A *form* follows a value back through linear maps, sums and choices
of channels to what they start from, and multiplies the matrices out once for the whole proof. What it
starts from is

- a value that is affine in the attention's output: with the query token given, everything that only
  ``row`` and linear maps of ``mixed`` enter;
- an *atom*: what an operation makes that is not linear;
- either of them times common *scales*: the factors of a norm, one number for all channels. The weights
  behind a norm are folded into the matrix, and the derivative of the scale enters once, behind it.

Each elementwise function knows its value, its range over an interval and the range of its derivative.
Ranges are exact where the extremes are known, and they hold for infinite ends; where a function is not
defined on all of an interval, they are infinite. Float64, not rounded outward: the slacks of ``head``
are thousands of times larger.

Shapes: M channels of a value, T channels of a form.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from adderlab.models.head_program import HeadProgram, Operand, Operation

LINEAR = frozenset({"linear", "add", "subtract", "negate", "centre", "mean", "sum", "take", "concat"})
NONNEGATIVE, POSITIVE = 1, 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One summand of a form: value ``of`` times a matrix; None stands for the identity."""

    of: int
    matrix_MT: Array | None
    size_MT: Array | None
    """Absolute values, of the factors of the matrix from where parts were first added up."""
    table_MT: Array | None
    """Absolute values of all factors."""


@dataclass(frozen=True)
class Scale:
    """A common factor of all channels: 1 / sqrt(mean x^2 + eps) of the operand of an rms, or a positive
    value of width 1, or its reciprocal."""

    kind: str
    value: int
    eps: float = 0.0


Scales = tuple[Scale, ...]


@dataclass(kw_only=True, eq=False)
class Term:
    """scales * (sum of parts + bias)."""

    scales: Scales
    parts: list[Part] = field(default_factory=list)
    bias_T: Array | float = 0.0
    size_T: Array | float = 0.0
    table_T: Array | float = 0.0
    whole: Part | None = None
    """All of it but the scales as one value times a matrix, where it is that. Its Jacobian is that of
    the parts; its centre is worked out from fewer numbers."""
    entries: int = 0
    """How many values have been followed into it through their scales."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Form:
    """A value, or a linear image of one, as a sum of terms."""

    terms: tuple[Term, ...]
    width: int
    bounded: bool
    """Whether any atom in it has a box that may be far narrower than its Jacobian says."""


@dataclass(kw_only=True)
class _Matrices:
    """The matrix that a value is multiplied by on the way to a form; ``thin`` until parts are added."""

    exact: Array | None
    size: Array | None
    table: Array | None
    thin: bool = True

    def after(self, step: Callable[[Array], Array], absolute: Callable[[Array], Array], M: int):
        """The matrices of the operand of a linear operation, whose result has M channels. ``step``
        multiplies by the operation from the left, ``absolute`` by its absolute values."""
        exact = step(np.eye(M) if self.exact is None else self.exact)
        size = np.abs(exact) if self.thin or self.size is None else absolute(self.size)
        table = absolute(np.eye(M) if self.table is None else self.table)
        return _Matrices(exact=exact, size=size, table=table, thin=self.thin)

    def spread(self) -> _Matrices:
        return _Matrices(exact=self.exact, size=self.size, table=self.table, thin=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """What follows the attention: a program and its constants."""

    program: HeadProgram
    constants: Mapping[str, Array]

    def __post_init__(self) -> None:
        shapes = {name: array.shape for name, array in self.constants.items()}
        assert shapes == self.program.shapes, (shapes, self.program.shapes)

    @property
    def vocab_size(self) -> int:
        return self.program.vocab_size

    @property
    def logits(self) -> int:
        """The number of the value that the program makes last."""
        return len(self.program.operations) + 1

    def operation(self, value: int) -> Operation:
        return self.program.operations[value - 2]

    @cached_property
    def of_row(self) -> tuple[bool, ...]:
        """Which values depend on the query token alone."""
        found = [False, True]
        for operation in self.program.operations:
            found.append(all(isinstance(x, str) or found[x] for x in operation.operands))
        return tuple(found)

    @cached_property
    def affine(self) -> tuple[bool, ...]:
        """Which values are affine in u once the query token is known."""
        found = [True, True]
        for value, operation in enumerate(self.program.operations, 2):
            name, operands = operation.name, operation.operands
            values = [x for x in operands if not isinstance(x, str)]
            still = all(found[x] for x in values)
            if name not in LINEAR and not self.of_row[value]:
                moved = [x for x in values if not self.of_row[x]]
                still &= len(moved) == 1 and (
                    name == "multiply" or (name == "divide" and moved[0] == operands[0])
                )
            found.append(still)
        return tuple(found)

    @cached_property
    def partial(self) -> bool:
        """Whether an operation is not defined everywhere, so that bounds may be infinite."""
        names = {operation.name for operation in self.program.operations}
        zero_eps = any(o.name == "rms" and not o.eps > 0 for o in self.program.operations)
        return zero_eps or bool(names & {"divide", "sqrt", "rsqrt", "reciprocal", "exp"})

    @cached_property
    def _signs(self) -> tuple[int, ...]:
        """What is known of the sign of every value: 0 nothing, NONNEGATIVE or POSITIVE."""
        found = [0, 0]

        def sign(x: Operand) -> int:
            if not isinstance(x, str):
                return found[x]
            least = self.constants[x].min()
            return POSITIVE if least > 0 else NONNEGATIVE if least >= 0 else 0

        for operation in self.program.operations:
            found.append(_sign(operation, [sign(x) for x in operation.operands]))
        return tuple(found)

    def scale(self, value: int) -> tuple[Scale, int] | None:
        """(common scale, what it multiplies), if that is how the value is made."""
        operation = self.operation(value)
        name, operands = operation.name, operation.operands
        if name == "rms":
            x = operands[0]
            assert not isinstance(x, str)
            return Scale("rms", x, operation.eps), x
        if name in ("multiply", "divide"):
            for x, s in (operands, operands[::-1]) if name == "multiply" else (operands,):
                if isinstance(x, str) or isinstance(s, str) or x == s:
                    continue
                if self.program.width(s) == 1 and self._signs[s] == POSITIVE:
                    return Scale("factor" if name == "multiply" else "divisor", s), x
        return None

    def form(self, value: int) -> Form:
        """The form of a value."""
        if value not in self._forms:
            matrices = _Matrices(exact=None, size=None, table=None)
            self._forms[value] = self._form(value, matrices, self.program.width(value))
        return self._forms[value]

    def image(self, value: int, matrix_MT: Array) -> Form:
        """The form of a value times a matrix."""
        size = np.abs(matrix_MT)
        matrices = _Matrices(exact=matrix_MT, size=size, table=size)
        return self._form(value, matrices, matrix_MT.shape[1])

    @cached_property
    def _forms(self) -> dict[int, Form]:
        return {}

    @cached_property
    def margin_forms(self) -> dict:
        """Of ``head.margin_form``, by right token."""
        return {}

    def _form(self, value: int, matrices: _Matrices, width: int) -> Form:
        terms: dict[Scales, Term] = {}
        self._follow(value, matrices, (), terms)
        some = tuple(term for term in terms.values() if term.parts or np.any(term.bias_T))
        atoms = [part.of for term in some for part in term.parts]
        return Form(
            terms=some or (Term(scales=(), bias_T=np.zeros(width)),),
            width=width,
            bounded=any(self.bounded(atom) for atom in atoms),
        )

    @cached_property
    def _bounded(self) -> dict[int, bool]:
        return {}

    def bounded(self, value: int) -> bool:
        if self.affine[value]:
            return False
        if value not in self._bounded:
            operation = self.operation(value)
            function = FUNCTIONS.get(operation.name)
            known = function.bounded if function else operation.name in ("minimum", "maximum", "clamp")
            for x in operation.operands:
                known = known or (not isinstance(x, str) and self.form(x).bounded)
            self._bounded[value] = known or operation.name == "divide"
        return self._bounded[value]

    def _follow(self, value: int, m: _Matrices, scales: Scales, terms: dict[Scales, Term]) -> None:
        """Add value times matrix to the terms."""
        term = terms.setdefault(scales, Term(scales=scales))
        if self.affine[value]:
            term.parts.append(Part(of=value, matrix_MT=m.exact, size_MT=m.size, table_MT=m.table))
            return
        operation = self.operation(value)
        name, operands, M = operation.name, operation.operands, operation.width
        width = self.program.width

        def constant(x: str, sign: float, at: _Matrices) -> None:
            array = np.broadcast_to(self.constants[x], (M if at is m else width(x),))
            exact = array if at.exact is None else array @ at.exact
            thin = at.thin or at.size is None
            absolute = np.abs(array)
            term.bias_T = term.bias_T + sign * exact
            term.size_T = term.size_T + (np.abs(exact) if thin else absolute @ at.size)
            term.table_T = term.table_T + (absolute if at.table is None else absolute @ at.table)

        def go_on(x: Operand, step: Callable, absolute: Callable, thin: bool = True) -> None:
            assert not isinstance(x, str)
            after = m.after(step, absolute, M)
            self._follow(x, after if thin else after.spread(), scales, terms)

        if name in ("add", "subtract"):
            values = [x for x in operands if not isinstance(x, str)]
            for x, sign in zip(operands, (1.0, 1.0 if name == "add" else -1.0), strict=True):
                if isinstance(x, str):
                    constant(x, sign, m)
                    continue
                at = m if len(values) == 1 else m.spread()
                if sign < 0:
                    after = at.after(lambda B: -B, lambda B: B, M)
                    at = _Matrices(exact=after.exact, size=after.size, table=after.table, thin=at.thin)
                if width(x) == 1 < M:
                    at = at.after(_over_rows, _over_rows, M)
                self._follow(x, at, scales, terms)
        elif name == "linear":
            W = self.constants[str(operands[1])]
            if len(operands) == 3:
                constant(str(operands[2]), 1.0, m)
            go_on(operands[0], lambda B: W @ B, lambda B: np.abs(W) @ B)
        elif name == "negate":
            go_on(operands[0], lambda B: -B, lambda B: B)
        elif name == "centre":
            go_on(operands[0], lambda B: B - B.mean(0), lambda B: B + B.mean(0))
        elif name in ("mean", "sum"):
            before = width(operands[0])
            share = 1.0 / before if name == "mean" else 1.0

            def repeated(B: Array) -> Array:
                return np.repeat(share * B, before, 0)

            go_on(operands[0], repeated, repeated)
        elif name == "take":
            rows = list(operation.indices)
            before = width(operands[0])

            def put(B: Array) -> Array:
                found = np.zeros((before, B.shape[1]))
                np.add.at(found, rows, B)
                return found

            go_on(operands[0], put, put)
        elif name == "concat":
            start = 0
            for x in operands:
                stop = start + width(x)
                piece = slice(start, stop)
                if isinstance(x, str):
                    constant(x, 1.0, m.after(lambda B, p=piece: B[p], lambda B, p=piece: B[p], M))
                else:
                    go_on(x, *[lambda B, p=piece: B[p]] * 2, thin=False)
                start = stop
        elif (
            name in ("multiply", "divide")
            and any(isinstance(x, str) for x in operands)
            and not (name == "divide" and isinstance(operands[0], str))
        ):
            x, c = operands if isinstance(operands[1], str) else operands[::-1]
            factor = self.constants[str(c)]
            factor_M1 = (1.0 / factor if name == "divide" else factor)[:, None]
            assert not isinstance(x, str)
            after = m.after(lambda B: factor_M1 * B, lambda B: np.abs(factor_M1) * B, M)
            self._follow(
                x, after.after(_over_rows, _over_rows, M) if width(x) < M else after, scales, terms
            )
        elif (found := self.scale(value)) is not None and width(found[1]) == M:
            behind = (*scales, found[0])
            inner = terms.setdefault(behind, Term(scales=behind))
            inner.entries += 1
            inner.whole = None
            if inner.entries == 1 and not self.affine[found[1]]:
                inner.whole = Part(of=found[1], matrix_MT=m.exact, size_MT=m.size, table_MT=m.table)
            self._follow(found[1], m, behind, terms)
            if any(len(key) > len(behind) and key[: len(behind)] == behind for key in terms):
                inner.whole = None
        else:
            term.parts.append(Part(of=value, matrix_MT=m.exact, size_MT=m.size, table_MT=m.table))


def _sign(operation: Operation, signs: list[int]) -> int:
    match operation.name:
        case "exp" | "sigmoid" | "softplus":
            return POSITIVE
        case "abs" | "square" | "relu":
            return max(NONNEGATIVE, signs[0])
        case "sqrt" | "rsqrt" | "reciprocal" | "mean" | "sum" | "take":
            return signs[0]
        case "add":
            return max(signs) if min(signs) >= NONNEGATIVE else 0
        case "multiply" | "divide" | "minimum" | "concat":
            return min(signs)
        case "maximum":
            return max(signs)
        case "clamp":
            if operation.high is not None and not operation.high > 0:
                return 0
            low = -np.inf if operation.low is None else operation.low
            return max(signs[0], POSITIVE if low > 0 else NONNEGATIVE if low >= 0 else 0)
    return 0


def _over_rows(B: Array) -> Array:
    """What one number that stands for all channels is multiplied by."""
    return B.sum(0, keepdims=True)


# Intervals, and what the elementwise functions of a head do to them.

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
