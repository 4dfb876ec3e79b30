"""A head program with its constants, and what is linear in it, multiplied out.

What is linear is never enclosed step by step: that would take absolute values after every matrix, and
hidden units could no longer cancel. A *form* follows a value back through linear maps, sums and choices
of channels to what they start from, and multiplies the matrices out once for the whole proof. What it
starts from is

- a value that is affine in the attention's output: with the query token given, everything that only
  ``row`` and linear maps of ``mixed`` enter;
- an *atom*: what an operation makes that is not linear;
- either of them times common *scales*: the factors of a norm, one number for all channels. The weights
  behind a norm are folded into the matrix, and the derivative of the scale enters once, behind it.

Shapes: M channels of a value, T channels of a form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from adderlab.models.head_program import HeadProgram, Operand, Operation
from adderlab.proof.functions import FUNCTIONS, Array

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
