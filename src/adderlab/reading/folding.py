"""Values that are read through a narrow matrix, in the channels of the narrow matrix.

A model of low rank multiplies what attention mixes by two matrices, of which the first has fewer columns
than a head has channels. Mixing and multiplying commute: each value is multiplied by the first matrix,
and the mixture has that many channels. Tables are smaller then, a training step is faster, and a proof
has fewer coordinates to bound.

Shapes: H heads, E channels of a value, N columns of the narrow matrix, D of the operation's result.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import reduce

from adderlab.models.head_program import MIXED, HeadProgram
from adderlab.reading.lowering import Lowered
from adderlab.reading.writing import Product, Spec


@dataclass(frozen=True, kw_only=True)
class Fold:
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


def fold_of(step: Lowered, heads: int) -> Fold | None:
    """None where nothing becomes narrower."""
    program, width = step.program, len(step.mixed) // heads
    readers = [each for each in program.operations if MIXED in each.operands]
    if len(readers) != 1 or readers[0].name != "linear":
        return None
    name = str(readers[0].operands[1])
    if sum(name in each.operands for each in program.operations) != 1:
        return None
    factors = _factors(step.constants[name])
    inner = [factor[0][1] for factor in factors[:-1]]
    if not inner or min(inner) >= width:
        return None
    cut = inner.index(min(inner)) + 1
    narrow = inner[cut - 1]
    shapes = {**program.shapes, name: (heads * narrow, readers[0].width)}
    return Fold(
        constant=name,
        into_values=reduce(_times, factors[:cut]),
        rest=reduce(_times, factors[cut:]),
        width=narrow,
        program=dataclasses.replace(
            program, mixed_width=heads * narrow, constants=tuple(shapes.items())
        ),
    )


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
