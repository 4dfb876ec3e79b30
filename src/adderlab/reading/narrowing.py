"""Queries and keys no wider than what they are made of.

A file may compute with wide vectors that come from narrow ones: ``x @ A @ B`` with an inner dimension
below the width. Scores are then the same from the narrow vectors, if the other factor is multiplied by B
in their place. In the narrow form every pair of positions takes fewer multiplications; the model and its
parameters stay what they are. Values have ``folding``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from adderlab.reading.origins import Origins
from adderlab.reading.trace import Trace
from adderlab.reading.writing import Entry, Part

Rows = Sequence[Sequence[Sequence[Part]]]
"""(head, step or key, coordinate)."""


@dataclass(frozen=True, kw_only=True)
class NarrowScores:
    """Queries or keys before their last product with a matrix of parameters."""

    side: Literal["query", "key"]
    width: int
    rows: tuple[tuple[tuple[Entry, ...], ...], ...]
    """(head, step or key, narrow coordinate)."""
    matrices: tuple[tuple[Entry, ...], ...]
    """Of every head, (narrow coordinate, coordinate) row by row."""


def narrow_scores(trace: Trace, free: frozenset[int], queries: Rows, keys: Rows) -> NarrowScores | None:
    """The narrower of what queries and keys are made of; None where neither is narrower than they.

    ``free``: tensors that no token decides.
    """
    found = [
        one
        for side, rows in (("query", queries), ("key", keys))
        if (one := _before_product(trace, free, side, rows)) is not None  # type: ignore[arg-type]
    ]
    return min(found, key=lambda each: each.width, default=None)


def _before_product(
    trace: Trace, free: frozenset[int], side: Literal["query", "key"], rows: Rows
) -> NarrowScores | None:
    origins = Origins(trace)
    every, matrices = [], []
    for head in rows:
        own, matrix = [], None
        for row in head:
            if not row or not all(isinstance(part, tuple) for part in row):
                return None
            made = [origins.product(entry) for entry in row if isinstance(entry, tuple)]
            pairs = [pair for pair in made if pair is not None]
            lefts = {left for left, _ in pairs}
            if len(pairs) != len(row) or len(lefts) != 1 or len(pairs[0][0]) >= len(row):
                return None
            here = tuple(right[j] for j in range(len(pairs[0][0])) for _, right in pairs)
            if matrix not in (None, here) or any(number not in free for number, _ in here):
                return None
            matrix = here
            own.append(pairs[0][0])
        if matrix is None:
            return None
        every.append(tuple(own))
        matrices.append(matrix)
    widths = {len(row) for head in every for row in head}
    if len(widths) != 1:
        return None
    return NarrowScores(side=side, width=widths.pop(), rows=tuple(every), matrices=tuple(matrices))
