"""Writing a head program: operations and constants, put down in an order in which they are known.

What files write in several operations is recognised where it is one of the program's: RMS norms, SiLU,
a mean taken off, a bias after a linear map. What a program has no operation for is put together of
those it has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from adderlab.errors import Failure
from adderlab.models.head_program import Operand, Operation

Entry = tuple[int, int]
"""(tensor, place in it, counted row by row)."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """A constant made of others: ``left @ right``, the rows or columns of ``left`` scaled by ``right``,
    or ``left + right``."""

    kind: Literal["matrices", "rows", "columns", "sum"]
    left: Spec
    right: Spec


Part = Entry | float | None
"""A number of the trace, a fixed number, or zero."""
Spec = tuple[tuple[int, ...], "tuple[Part, ...] | Product"]
"""A constant: its shape, and what it consists of row by row, or how it is made of others."""

FUNCTIONS = {
    "neg": "negate", "abs": "abs", "square": "square", "sqrt": "sqrt", "rsqrt": "rsqrt",
    "reciprocal": "reciprocal", "exp": "exp", "relu": "relu", "silu": "silu", "sigmoid": "sigmoid",
    "tanh": "tanh", "softplus": "softplus",
}  # fmt: skip
TWO = {
    "add": "add", "sub": "subtract", "mul": "multiply", "div": "divide", "minimum": "minimum",
    "maximum": "maximum",
}  # fmt: skip


REDUCTIONS = {"sum", "mean", "amax", "amin", "var", "std", "linalg_vector_norm"}


class Writer:
    """The operations so far. The same operation on the same operands is written once."""

    def __init__(self, fixed: Callable[[Entry], float | None]) -> None:
        """``fixed``: the number that an entry is, whatever tokens and parameters are; None if it is not
        the same for all."""
        self.operations: list[Operation] = []
        self.specs: dict[str, Spec] = {}
        """Of every constant."""
        self.origins: dict[str, tuple[int, int]] = {}
        """(node, operand) that asked for it first."""
        self.at = (0, 0)
        """Where the walk is."""
        self._fixed = fixed
        self._known: dict[Operation, int] = {}
        self._names: dict[Spec, str] = {}

    def put(self, name: str, *operands: Operand, width: int, **more: Any) -> int:
        operation = Operation(name=name, operands=operands, width=width, **more)  # type: ignore[arg-type]
        if operation not in self._known:
            self.operations.append(operation)
            self._known[operation] = len(self.operations) + 1
        return self._known[operation]

    def made_by(self, x: Operand) -> Operation | None:
        return self.operations[x - 2] if isinstance(x, int) and x >= 2 else None

    def width(self, x: Operand) -> int:
        return self.specs[x][0][-1] if isinstance(x, str) else self.operations[x - 2].width

    # Constants ------------------------------------------------------------------------------------

    def literal(self, value: float) -> str:
        return self.constant((1,), (float(value),))

    def constant(self, shape: tuple[int, ...], parts: tuple[Part, ...]) -> str:
        parts = tuple(map(self.plain_zero, parts))
        key = shape, parts
        if key not in self._names:
            name = f"c{len(self._names)}"
            self._names[key] = name
            self.specs[name] = key
            self.origins[name] = self.at
        return self._names[key]

    def number(self, name: str) -> float | None:
        """The number that all parts of a constant are, if neither tokens nor parameters decide it."""
        parts = self.specs[name][1]
        assert not isinstance(parts, Product)
        values = {self._fixed(part) if isinstance(part, tuple) else part or 0.0 for part in parts}
        return values.pop() if len(values) == 1 else None

    def plain_zero(self, part: Part) -> Part:
        """A zero that nothing decides is written as such, so that it can be seen."""
        value = self._fixed(part) if isinstance(part, tuple) else part
        return None if value == 0.0 else part

    # Operations -----------------------------------------------------------------------------------

    def operation(self, name: str, operands: Sequence[Operand | float | None]) -> int:
        """``name`` is a program's own, or PyTorch's of one that several of those make up. Numbers among
        the operands are floats; values are integers."""
        if name in TWO.values():
            x, y = (self.literal(v) if isinstance(v, float) else v for v in operands)
            assert x is not None and y is not None
            return self._two(name, x, y)
        x = operands[0]
        if isinstance(x, float) or x is None:
            raise Failure(
                f"{name} of a number, with an exponent that follows from the attention, is not "
                "in the reading's table"
            )
        width = self.width(x)
        if name in (*FUNCTIONS.values(), "gelu", "gelu_tanh"):
            return self.put(name, x, width=width)
        if name == "pow":
            return self._power(x, operands[1], width)
        if name in ("clamp", "clamp_min", "clamp_max", "hardtanh", "relu6"):
            low, high = {
                "clamp": (*operands[1:], None, None)[:2],
                "clamp_min": (operands[1] if len(operands) > 1 else None, None),
                "clamp_max": (None, operands[1] if len(operands) > 1 else None),
                "hardtanh": (*operands[1:], -1.0, 1.0)[:2],
                "relu6": (0.0, 6.0),
            }[name]
            return self._clamp(x, low, high, width)
        if name == "leaky_relu":
            slope = operands[1] if len(operands) > 1 else 0.01
            if not isinstance(slope, float) or not 0 <= slope <= 1:
                raise Failure(f"leaky_relu with slope {slope} is not in the reading's table")
            scaled = self.put("multiply", x, self.literal(slope), width=width)
            return self.put("maximum", x, scaled, width=width)
        if name == "hardsigmoid":
            sixth = self.put("multiply", x, self.literal(1 / 6), width=width)
            half = self.put("add", sixth, self.literal(0.5), width=width)
            return self.put("clamp", half, width=width, low=0.0, high=1.0)
        if name == "hardswish":
            three = self.put("add", x, self.literal(3.0), width=width)
            clamped = self.put("clamp", three, width=width, low=0.0, high=6.0)
            both = self.put("multiply", x, clamped, width=width)
            return self.put("multiply", both, self.literal(1 / 6), width=width)
        if name == "mish":
            gate = self.put("tanh", self.put("softplus", x, width=width), width=width)
            return self.put("multiply", x, gate, width=width)
        if name == "log_sigmoid_forward":
            opposite = self.put("softplus", self.put("negate", x, width=width), width=width)
            return self.put("negate", opposite, width=width)
        if name == "exp2":
            scaled = self.put("multiply", x, self.literal(0.6931471805599453), width=width)
            return self.put("exp", scaled, width=width)
        raise Failure(f"the operation aten.{name} after the attention is not in the reading's table")

    def reduction(self, name: str, x: Operand, width: int, named: Mapping[str, Any]) -> int:
        """One number of a vector's channels; ``named``: PyTorch's arguments."""
        if name in ("sum", "mean"):
            return self.put(name, x, width=1)
        if name in ("amax", "amin"):
            found, *parts = (self.put("take", x, width=1, indices=(i,)) for i in range(width))
            for part in parts:
                found = self.put("maximum" if name == "amax" else "minimum", found, part, width=1)
            return found
        if name == "linalg_vector_norm":
            if named["ord"] not in (1, 2):
                raise Failure(f"the norm of order {named['ord']} is not in the reading's table")
            each = self.put("square" if named["ord"] == 2 else "abs", x, width=width)
            total = self.put("sum", each, width=1)
            return self.put("sqrt", total, width=1) if named["ord"] == 2 else total
        correction = named.get("correction")
        correction = 1 if correction is None else correction
        if width <= correction:
            raise Failure(f"it takes the variance of {width} number with correction {correction}")
        square = self.put("square", self.put("centre", x, width=width), width=width)
        found = self.put("mean", square, width=1)
        if correction:
            found = self.put("multiply", found, self.literal(width / (width - correction)), width=1)
        return self.put("sqrt", found, width=1) if name == "std" else found

    def _clamp(self, x: Operand, low: Any, high: Any, width: int) -> int:
        if isinstance(low, (int, str)) or isinstance(high, (int, str)):
            for bound, name in ((low, "maximum"), (high, "minimum")):
                if bound is not None:
                    bound = self.literal(bound) if isinstance(bound, float) else bound
                    x = self._two(name, x, bound)
            assert isinstance(x, int)
            return x
        if low == 0.0 and high is None:
            return self.put("relu", x, width=width)
        return self.put("clamp", x, width=width, low=low, high=high)

    def _two(self, name: str, x: Operand, y: Operand) -> int:
        wide = max(self.width(x), self.width(y))
        if name == "multiply" and x == y:
            return self.put("square", x, width=wide)
        if name == "multiply":
            for value, gate in ((x, y), (y, x)):
                made = self.made_by(gate)
                if made and made.name == "sigmoid" and made.operands == (value,):
                    return self.put("silu", value, width=wide)
                if (
                    made
                    and made.name == "rsqrt"
                    and (eps := self._mean_square(made.operands[0], value)) is not None
                ):
                    return self.put("rms", value, width=wide, eps=eps)
        if name == "divide":
            made = self.made_by(y)
            if (
                made
                and made.name == "sqrt"
                and (eps := self._mean_square(made.operands[0], x)) is not None
            ):
                return self.put("rms", x, width=wide, eps=eps)
        if name == "subtract":
            made = self.made_by(y)
            if made and made.name == "mean" and made.operands == (x,):
                return self.put("centre", x, width=wide)
        if name == "maximum" and any(isinstance(v, str) and self.number(v) == 0.0 for v in (x, y)):
            return self.put("relu", x if isinstance(x, int) else y, width=wide)
        if (
            isinstance(x, str)
            and isinstance(y, int)
            and name in ("add", "multiply", "minimum", "maximum")
        ):
            x, y = y, x
        made = self.made_by(x)
        plain = made is not None and (name, made.name, len(made.operands)) == ("add", "linear", 2)
        if made is not None and plain and isinstance(y, str) and self.width(y) == wide:
            return self.put("linear", *made.operands, y, width=wide)
        return self.put(name, x, y, width=wide)

    def _mean_square(self, x: Operand, of: Operand) -> float | None:
        """eps, if x is the mean square of ``of`` plus eps; None otherwise."""
        made, eps = self.made_by(x), 0.0
        if made and made.name == "add" and isinstance(made.operands[1], str):
            number = self.number(made.operands[1])
            if number is None or number < 0:
                return None
            eps, made = number, self.made_by(made.operands[0])
        if made is None or made.name != "mean":
            return None
        square = self.made_by(made.operands[0])
        return eps if square and square.name == "square" and square.operands == (of,) else None

    def _power(self, x: Operand, exponent: Any, width: int) -> int:
        if not isinstance(exponent, float):
            raise Failure("a power whose exponent is no number is not in the reading's table")
        if exponent in (2, 3, 4):
            square = self.put("square", x, width=width)
            if exponent == 2:
                return square
            if exponent == 4:
                return self.put("square", square, width=width)
            return self.put("multiply", square, x, width=width)
        names = {0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal", 1: None}
        if exponent not in names:
            raise Failure(f"the power {exponent} after the attention is not in the reading's table")
        name = names[exponent]
        if name is None:
            assert isinstance(x, int)
            return x
        return self.put(name, x, width=width)
