"""A program as short as its standard form: maps that follow one another become one.

Files write in several operations what is one matrix: projections head by head, rotations, norms' weights
before a map. Programs that compute the same get the same form here, so that kernels written for that
form are found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from adderlab.models.head_program import ROW, Operand, Operation
from adderlab.reading.writing import Part, Product, Spec


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
    return found[0], _times(found[1], right)


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
        return source, _times(first, _chosen(width(values[0]), operation.indices))
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
                part = _times(next(left)[1], _chosen(own_width, places))
                total = part if total is None else (part[0], Product(kind="sum", left=total, right=part))
            before += own_width
        assert total is not None
        return source, total
    return own


def _chosen(rows: int, places: Sequence[int | None]) -> Spec:
    """The matrix whose columns take these channels of a vector; zero for None."""
    parts = tuple(1.0 if place == row else None for row in range(rows) for place in places)
    return (rows, len(places)), parts


def _times(left: Spec, right: Spec) -> Spec:
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
