"""The head program as the checker reads it: every operation, operand, width and number is looked at.

What the operations mean is said in ``adderlab.models.head_program``; nothing of its code is used here.
A program that does not fit is refused, so the interpreter (``head``) has no cases to doubt.

Shapes: M channels of an operand, R channels of ``row``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from adderlab.checker import intervals
from adderlab.checker.intervals import Interval
from adderlab.errors import Failure

MIXED, ROW, INPUTS = 0, 1, 2
"""The values every program starts from, and how many they are."""
PAIRWISE = {"add", "subtract", "multiply", "divide", "minimum", "maximum"}
FUNCTIONS = {
    "negate",
    "abs",
    "square",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "exp",
    "relu",
    "gelu",
    "gelu_tanh",
    "silu",
    "sigmoid",
    "tanh",
    "softplus",
}
KEEPING_WIDTH = FUNCTIONS | {"centre", "rms", "clamp"}
REDUCING = {"mean", "sum"}

Operand = int | str
"""A value by its number, or a constant by its name."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation; the numbers that it holds are enclosed as written and as rounded."""

    name: str
    operands: tuple[Operand, ...]
    width: int
    eps: Interval | None = None
    """Of rms."""
    low: Interval | None = None
    high: Interval | None = None
    """Of clamp."""
    indices: tuple[int, ...] = ()
    """Of take."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """Operations; operation k makes value ``INPUTS`` + k, and the last one makes the logits."""

    mixed_width: int
    row_width: int
    operations: tuple[Operation, ...]

    @property
    def vocab_size(self) -> int:
        return self.operations[-1].width

    def uses(self, value: int) -> list[int]:
        """The operations that read a value, as often as they do."""
        return [
            k for k, operation in enumerate(self.operations) for x in operation.operands if x == value
        ]

    def without(self, made: Mapping[int, int], mixed_width: int, row_width: int) -> Program:
        """The program whose value ``old`` is the input ``new``, for each of ``made``; the operations
        that made those are left out."""
        number, operations = dict(made), []
        for k, operation in enumerate(self.operations):
            if INPUTS + k in made:
                continue
            number[INPUTS + k] = INPUTS + len(operations)
            operands = tuple(x if isinstance(x, str) else number[x] for x in operation.operands)
            operations.append(replace(operation, operands=operands))
        last = INPUTS + len(self.operations) - 1
        if last in made:  # the logits are an input
            width = self.vocab_size
            everything = tuple(range(width))
            operations.append(
                Operation(name="take", operands=(made[last],), width=width, indices=everything)
            )
        return Program(mixed_width=mixed_width, row_width=row_width, operations=tuple(operations))


def read_program(value: Any, constants: Mapping[str, Interval]) -> Program:
    """The checker's copy of a ``HeadProgram`` whose constants are these. Raises ``Failure`` where
    something does not fit."""
    widths = [_count(value.mixed_width, "mixed"), _count(value.row_width, "row", least=0)]
    shapes = dict(value.constants)
    for name, shape in shapes.items():
        if name not in constants or constants[name].shape != tuple(shape):
            raise Failure(f"the head program's constant {name!r} has no table of its shape")
    operations = []
    for k, each in enumerate(value.operations):
        operation = _operation(each, f"operation {k} of the head program", widths, constants)
        operations.append(operation)
        widths.append(operation.width)
    if not operations:
        raise Failure("the head program has no operation")
    return Program(mixed_width=widths[0], row_width=widths[1], operations=tuple(operations))


def _operation(each: Any, what: str, widths: list[int], constants: Mapping[str, Interval]) -> Operation:
    name, operands, width = each.name, tuple(each.operands), _count(each.width, what)

    def is_value(x: Operand) -> bool:
        return isinstance(x, int) and not isinstance(x, bool) and 0 <= x < len(widths)

    def size(x: Operand) -> int:
        """Channels of a value or of a constant vector."""
        if is_value(x):
            return widths[int(x)]
        if not isinstance(x, str) or x not in constants or constants[x].ndim != 1:
            raise Failure(f"{what} ({name}) has the operand {x!r}, which is no value before it")
        return constants[x].shape[0]

    def require(good: bool) -> None:
        if not good:
            raise Failure(f"{what} ({name}) does not fit its operands")

    eps = low = high = None
    indices: tuple[int, ...] = ()
    if name == "linear":
        require(len(operands) in (2, 3) and is_value(operands[0]) and isinstance(operands[1], str))
        matrix = constants.get(str(operands[1]))
        require(matrix is not None and matrix.shape == (size(operands[0]), width))
        require(len(operands) == 2 or (isinstance(operands[2], str) and size(operands[2]) == width))
    elif name in PAIRWISE:
        require(len(operands) == 2 and any(map(is_value, operands)))
        sizes = [size(x) for x in operands]
        require(all(s in (1, width) for s in sizes) and width in sizes)
    elif name == "concat":
        require(bool(operands) and sum(map(size, operands)) == width)
    elif name in KEEPING_WIDTH | REDUCING | {"take"}:
        require(len(operands) == 1 and is_value(operands[0]))
        own = size(operands[0])
        require(width == {"take": len(each.indices)}.get(name, 1 if name in REDUCING else own))
        if name == "take":
            indices = tuple(each.indices)
            require(all(_is_index(x, own) for x in indices))
        elif name == "rms":
            eps = _number(each.eps, what)
            require(bool(eps.low >= 0))
        elif name == "clamp":
            low, high = (None if x is None else _number(x, what) for x in (each.low, each.high))
            require(low is None or high is None or bool(each.low <= each.high))
    else:
        raise Failure(f"the checker does not know the operation {name!r} of the head program")
    return Operation(
        name=name, operands=operands, width=width, eps=eps, low=low, high=high, indices=indices
    )


def _count(x: Any, what: str, least: int = 1) -> int:
    if not isinstance(x, int) or isinstance(x, bool) or x < least:
        raise Failure(f"{what} has the width {x!r}")
    return x


def _is_index(x: Any, size: int) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and 0 <= x < size


def _number(x: Any, what: str) -> Interval:
    if not isinstance(x, (int, float)) or isinstance(x, bool) or not math.isfinite(x):
        raise Failure(f"{what} holds {x!r}, which is no number")
    return intervals.widened(x)
