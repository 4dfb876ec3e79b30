"""Writing a head program: operations and constants, put down in an order in which they are known.

What files write in several operations is recognised where it is one of the program's: RMS norms, SiLU,
a mean taken off, a bias after a linear map. What a program has no operation for is put together of
those it has.

What is written is then made as short as its standard form (``simplified``). Files write in several
operations what is one matrix: projections head by head, rotations, norms' weights before a map. Programs
that compute the same get the same form here, so that kernels written for that form are found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from adderlab.errors import Failure
from adderlab.models.head_program import ROW, Operand, Operation

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


# Programs as short as their standard form: maps that follow one another become one.


def simplified(
    operations: list[Operation], constants: dict[str, Spec], widths: dict[int, int]
) -> tuple[list[Operation], dict[str, Spec]]:
    """Maps that follow one another become one, where nothing else reads what lies between: linear after
    linear, linear after a choice of channels, a linear's columns scaled. What presets write as one
    matrix is then one here too."""
    operations, constants = list(operations), dict(constants)

    def width(x: int) -> int:
        return widths[x] if x < 2 else operations[x - 2].width

    def norm(x: Operand) -> bool:
        return isinstance(x, int) and x >= 2 and operations[x - 2].name == "rms"

    changed = True
    while changed:
        changed = False
        uses = [x for operation in operations for x in operation.operands]
        for k, outer in enumerate(operations):
            x = next((operand for operand in outer.operands if isinstance(operand, int)), ROW)
            if x < 2 or uses.count(x) != 1:
                continue
            inner = operations[x - 2]
            made = _merged(inner, outer, constants, width, norm)
            if made is None:
                continue
            operations[k] = made
            operations = _without(operations, x)
            used = {name for operation in operations for name in operation.operands}
            constants = {name: spec for name, spec in constants.items() if name in used}
            changed = True
            break
        if not changed:
            for k, outer in enumerate(operations):
                found = _as_one_map(operations, constants, outer, width)
                if found is None:
                    continue
                source, spec = found
                fresh = _fresh(constants)
                kept = [*operations]
                kept[k] = dataclasses.replace(outer, operands=(source, fresh, *outer.operands[2:]))
                kept = _alive(kept)
                if len(kept) < len(operations):
                    operations, constants[fresh] = kept, spec
                    changed = True
                    break
    return renamed(operations, constants)


def _as_one_map(
    operations: Sequence[Operation],
    constants: dict[str, Spec],
    outer: Operation,
    width: Callable[[int], int],
) -> tuple[int, Spec] | None:
    """(value, matrix) if what a linear map reads is several linear images of one value put together."""
    if outer.name != "linear" or not isinstance(outer.operands[0], int):
        return None
    found = _image(operations, constants, outer.operands[0], width)
    if found is None or found[0] == outer.operands[0]:
        return None
    right = constants[str(outer.operands[1])]
    return found[0], times(found[1], right)


def _image(
    operations: Sequence[Operation], constants: dict[str, Spec], x: int, width: Callable[[int], int]
) -> tuple[int, Spec]:
    """(value, matrix) whose product x is; x itself where it is no linear image of one value."""
    own = x, _chosen(width(x), range(width(x)))
    if x < 2:
        return own
    operation = operations[x - 2]
    name, operands = operation.name, operation.operands
    values = [y for y in operands if isinstance(y, int)]
    fixed = [constants[y] for y in operands if isinstance(y, str)]
    images = [_image(operations, constants, y, width) for y in values]
    if not images or len({source for source, _ in images}) != 1:
        return own
    source, first = images[0]
    if name == "take":
        return source, times(first, _chosen(width(values[0]), operation.indices))
    if name == "negate":
        return source, _scaled(first, (-1.0,))
    weight_of_norm = values[0] >= 2 and operations[values[0] - 2].name == "rms"
    if name == "multiply" and len(values) == 1 and not weight_of_norm:
        size, what = fixed[0]
        if width(values[0]) == operation.width and size[0] in (1, operation.width):
            return source, (first[0], Product(kind="columns", left=first, right=(size, what)))
    same = len(values) == 2 and width(values[0]) == width(values[1])
    if name in ("add", "subtract") and same:
        second = images[1][1] if name == "add" else _scaled(images[1][1], (-1.0,))
        return source, (first[0], Product(kind="sum", left=first, right=second))
    nothing = all(isinstance(what, tuple) and not any(what) for _, what in fixed)
    if name == "concat" and nothing:
        before, total, left = 0, None, iter(images)
        for y in operands:
            own_width = width(y) if isinstance(y, int) else constants[y][0][0]
            if isinstance(y, int):
                places = [None] * before + list(range(own_width))
                places += [None] * (operation.width - len(places))
                part = times(next(left)[1], _chosen(own_width, places))
                total = part if total is None else (part[0], Product(kind="sum", left=total, right=part))
            before += own_width
        assert total is not None
        return source, total
    return own


def _chosen(rows: int, places: Sequence[int | None]) -> Spec:
    """The matrix whose columns take these channels of a vector; zero for None."""
    parts = tuple(1.0 if place == row else None for row in range(rows) for place in places)
    return (rows, len(places)), parts


def times(left: Spec, right: Spec) -> Spec:
    """The product of two matrices."""
    return (left[0][0], right[0][1]), Product(kind="matrices", left=left, right=right)


def _scaled(left: Spec, factor: tuple[float, ...]) -> Spec:
    return left[0], Product(kind="columns", left=left, right=((len(factor),), factor))


def _alive(operations: list[Operation]) -> list[Operation]:
    """Without what the last one does not need."""
    used = {len(operations) + 1}
    for value in range(len(operations) + 1, 1, -1):
        if value in used:
            used.update(x for x in operations[value - 2].operands if isinstance(x, int))
    for value in range(len(operations) + 1, 1, -1):
        if value not in used:
            operations = _without(operations, value)
    return operations


def _fresh(constants: dict[str, Spec]) -> str:
    """A name that no constant has."""
    fresh = f"m{len(constants)}"
    while fresh in constants:
        fresh += "_"
    return fresh


def _merged(
    inner: Operation,
    outer: Operation,
    constants: dict[str, Spec],
    width: Callable[[int], int],
    norm: Callable[[Operand], bool],
) -> Operation | None:
    """Both as one operation on the inner one's operand; a new constant is added."""
    source = inner.operands[0]
    fresh = _fresh(constants)
    if outer.name == "linear" and inner.name == "linear" and len(inner.operands) == 2:
        left, right = (constants[str(op.operands[1])] for op in (inner, outer))
        constants[fresh] = (left[0][0], right[0][1]), Product(kind="matrices", left=left, right=right)
        return dataclasses.replace(outer, operands=(source, fresh, *outer.operands[2:]))
    if outer.name == "linear" and inner.name == "take" and isinstance(source, int):
        if len(set(inner.indices)) != len(inner.indices):
            return None
        wide = _spread(constants[str(outer.operands[1])], inner.indices, width(source))
        constants[fresh] = wide
        return dataclasses.replace(outer, operands=(source, fresh, *outer.operands[2:]))
    if outer.name == "linear" and inner.name in ("negate", "multiply"):
        matrix = constants[str(outer.operands[1])]
        factor: Spec = (matrix[0][:1], (-1.0,) * matrix[0][0])
        if inner.name == "multiply":
            # The weight of a norm stays with the norm.
            if not isinstance(inner.operands[1], str) or norm(source):
                return None
            if not isinstance(source, int) or width(source) != matrix[0][0]:
                return None  # one channel stands for many
            factor = constants[inner.operands[1]]
        constants[fresh] = matrix[0], Product(kind="rows", left=matrix, right=factor)
        return dataclasses.replace(outer, operands=(source, fresh, *outer.operands[2:]))
    if outer.name == "concat" and isinstance(source, int):
        return _padded(inner, outer, constants, fresh)
    if inner.name != "linear" or len(inner.operands) != 2:
        return None
    (rows, columns), spec = constants[str(inner.operands[1])]
    if outer.name == "take" and isinstance(spec, tuple):
        chosen = [spec[row * columns + i] for row in range(rows) for i in outer.indices]
        constants[fresh] = (rows, len(outer.indices)), tuple(chosen)
        return dataclasses.replace(inner, operands=(source, fresh), width=outer.width)
    if outer.name == "multiply" and isinstance(outer.operands[1], str) and outer.width == columns:
        left, right = constants[str(inner.operands[1])], constants[outer.operands[1]]
        constants[fresh] = (rows, columns), Product(kind="columns", left=left, right=right)
        return dataclasses.replace(inner, operands=(source, fresh))
    return None


def _spread(spec: Spec, indices: Sequence[int], rows: int) -> Spec:
    """The same rows at these places among ``rows``, zeros elsewhere."""
    size, what = spec
    if isinstance(what, Product):
        left = _spread(what.left, indices, rows)
        right = what.right
        if what.kind == "sum" or (what.kind == "rows" and right[0][0] > 1):
            right = _spread(right, indices, rows)
        return (rows, *size[1:]), dataclasses.replace(what, left=left, right=right)
    columns = size[1] if len(size) > 1 else 1
    wide: list[Part] = [None] * (rows * columns)
    for row, index in enumerate(indices):
        wide[index * columns : (index + 1) * columns] = what[row * columns : (row + 1) * columns]
    return (rows, *size[1:]), tuple(wide)


def _padded(
    inner: Operation, outer: Operation, constants: dict[str, Spec], fresh: str
) -> Operation | None:
    """A vector between zeros, as one linear map of what the vector was made of."""
    values = [x for x in outer.operands if isinstance(x, int)]
    zeros = [constants[x] for x in outer.operands if isinstance(x, str)]
    if len(values) != 1 or any(part is not None for _, spec in zeros for part in spec):  # type: ignore[union-attr]
        return None
    before = 0
    for x in outer.operands:
        if isinstance(x, int):
            break
        before += constants[x][0][0]
    width = outer.width - sum(size[0] for size, _ in zeros)
    after = outer.width - before - width
    if inner.name == "linear" and len(inner.operands) == 2:
        (rows, columns), spec = constants[str(inner.operands[1])]
        if isinstance(spec, tuple):
            lines = [spec[r * columns : (r + 1) * columns] for r in range(rows)]
            wide = tuple(p for line in lines for p in (*[None] * before, *line, *[None] * after))
            constants[fresh] = (rows, outer.width), wide
            return dataclasses.replace(inner, operands=(inner.operands[0], fresh), width=outer.width)
    return None


def _without(operations: list[Operation], value: int) -> list[Operation]:
    """Without the operation that made ``value``, which nothing reads."""

    def moved(x: Operand) -> Operand:
        return x - 1 if isinstance(x, int) and x > value else x

    return [
        dataclasses.replace(operation, operands=tuple(map(moved, operation.operands)))
        for k, operation in enumerate(operations)
        if k != value - 2
    ]


def renamed(
    operations: list[Operation], constants: dict[str, Spec]
) -> tuple[list[Operation], dict[str, Spec]]:
    """Constants called c0, c1, ... in the order of their use."""
    names: dict[str, str] = {}
    changed = []
    for operation in operations:
        operands = tuple(
            x if isinstance(x, int) else names.setdefault(x, f"c{len(names)}")
            for x in operation.operands
        )
        changed.append(dataclasses.replace(operation, operands=operands))
    return changed, {new: constants[old] for old, new in names.items()}


def bias_in_row(operations: list[Operation], width: int) -> tuple[list[Operation], str | None]:
    """Where the program begins row + (mixed @ matrix + bias), the bias belongs into the row, where
    presets have it too."""
    uses = [(k, x) for k, operation in enumerate(operations) for x in operation.operands]
    rows = [k for k, x in uses if x == ROW]
    if len(rows) != 1 or operations[rows[0]].name != "add" or operations[rows[0]].width != width:
        return operations, None
    (other,) = [x for x in operations[rows[0]].operands if x != ROW] or [ROW]
    if not isinstance(other, int) or other < 2 or [x for _, x in uses].count(other) != 1:
        return operations, None
    linear = operations[other - 2]
    if linear.name != "linear" or len(linear.operands) != 3 or linear.width != width:
        return operations, None
    bias = str(linear.operands[2])
    if [x for _, x in uses].count(bias) != 1:
        return operations, None
    changed = list(operations)
    changed[other - 2] = dataclasses.replace(linear, operands=linear.operands[:2])
    return changed, bias
