"""Values in fewer channels: those of a narrow matrix on one side of the mixture or the other.

A model of low rank multiplies what attention mixes by two matrices, of which the first has fewer columns
than a head has channels; or its values are themselves narrow vectors times a wide matrix. Mixing and
multiplying commute: the first matrix multiplies the values before they are mixed, the wide one what was
mixed of the narrow vectors. Tables are smaller then, a training step is faster, and a proof has fewer
coordinates to bound.

Which side it is follows the rule of the presets (``models.layers.Attention.dense``): the matrix after
the mixture, unless what values are made of is narrower still. So a preset read back from a file has the
tables, and the bounds, of its configuration.

Shapes: H heads, P positions, E channels of a value, N of the narrow vectors, D of the matrix' result.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import reduce

from adderlab.models.head_program import MIXED, HeadProgram
from adderlab.reading.lowering import Lowered
from adderlab.reading.origins import Origins
from adderlab.reading.trace import Trace
from adderlab.reading.writing import Entry, Product, Spec


@dataclass(frozen=True, kw_only=True)
class OutputFold:
    """The matrix that alone reads the mixture, as two."""

    constant: str
    """Its name in the program."""
    into_values: Spec
    """(H * E, N)."""
    rest: Spec
    """(N, D): of each head the same."""
    width: int
    """N."""
    program: HeadProgram
    """With a mixture of H * N channels."""


@dataclass(frozen=True, kw_only=True)
class InputFold:
    """What values are made of, and the matrices that make them of it."""

    constant: str
    """The name in the program of the matrix that alone reads the mixture."""
    rows: tuple[tuple[Entry, ...], ...]
    """(P, H * N)."""
    matrices: tuple[tuple[Entry, ...], ...]
    """Of every head, (N, E) row by row."""
    width: int
    """N."""
    program: HeadProgram
    """With a mixture of H * N channels."""


Fold = OutputFold | InputFold


def fold_of(
    trace: Trace, free: frozenset[int], step: Lowered, heads: int, positions: int
) -> Fold | None:
    """None where nothing becomes narrower. ``step``: the one that reads all ``positions``; ``free``:
    tensors that no token decides."""
    program, width = step.program, len(step.mixed) // heads
    readers = [each for each in program.operations if MIXED in each.operands]
    if len(readers) != 1 or readers[0].name != "linear":
        return None
    name = str(readers[0].operands[1])
    if sum(name in each.operands for each in program.operations) != 1:
        return None

    def narrower(channels: int) -> HeadProgram:
        shapes = {**program.shapes, name: (heads * channels, readers[0].width)}
        constants = tuple(shapes.items())
        return dataclasses.replace(program, mixed_width=heads * channels, constants=constants)

    before = _before_values(trace, free, step, heads, positions)
    factors = _factors(step.constants[name])
    inner = [factor[0][1] for factor in factors[:-1]]
    narrow = min(inner, default=width)
    if narrow < width and (before is None or narrow <= len(before[0][0]) // heads):
        cut = inner.index(narrow) + 1
        return OutputFold(
            constant=name,
            into_values=reduce(_times, factors[:cut]),
            rest=reduce(_times, factors[cut:]),
            width=narrow,
            program=narrower(narrow),
        )
    if before is None:
        return None
    rows, matrices = before
    channels = len(rows[0]) // heads
    return InputFold(
        constant=name, rows=rows, matrices=matrices, width=channels, program=narrower(channels)
    )


_Rows = tuple[tuple[Entry, ...], ...]


def _before_values(
    trace: Trace, free: frozenset[int], step: Lowered, heads: int, positions: int
) -> tuple[_Rows, _Rows] | None:
    """(rows, matrices) as of ``InputFold``, if values are narrower vectors times matrices that are the
    same at every position."""
    origins, width = Origins(trace), len(step.mixed) // heads
    rows, matrices = [], []
    for p in range(positions):
        values = [None if c is None else c.values[p + step.offset] for c in step.mixed]
        made = [None if entry is None else origins.product(entry) for entry in values]
        row: list[Entry] = []
        for h in range(heads):
            own = [each for each in made[h * width : (h + 1) * width] if each is not None]
            if len(own) < width or len({left for left, _ in own}) > 1:
                return None
            left = own[0][0]
            matrix = tuple(right[n] for n in range(len(left)) for _, right in own)
            matrices += [matrix] if p == 0 else []
            if len(left) >= width or matrix != matrices[h] or any(n not in free for n, _ in matrix):
                return None
            row += left
        rows.append(tuple(row))
    if len({len(row) for row in rows}) > 1 or len({len(matrix) for matrix in matrices}) > 1:
        return None
    return tuple(rows), tuple(matrices)


def _times(left: Spec, right: Spec) -> Spec:
    return (left[0][0], right[0][1]), Product(kind="matrices", left=left, right=right)


def _factors(spec: Spec) -> list[Spec]:
    """A matrix as a product of matrices, first to last; scaled rows belong to the first, columns to the
    last."""
    _, what = spec
    if not isinstance(what, Product) or what.kind == "sum":
        return [spec]
    factors = _factors(what.left)
    if what.kind == "matrices":
        return factors + _factors(what.right)
    place = 0 if what.kind == "rows" else -1
    size = factors[place][0]
    factors[place] = size, dataclasses.replace(what, left=factors[place])
    return factors
