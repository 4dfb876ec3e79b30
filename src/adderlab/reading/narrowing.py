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

import torch
from torch import Tensor

from adderlab.reading.dependence import CASTS, MOVES
from adderlab.reading.trace import Ref, Trace, rebuild
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
    origins = _Origins(trace)
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


class _Origins:
    """Where the numbers of a trace come from."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._made = {
            ref.number: (i, place)
            for i, node in enumerate(trace.nodes)
            for place, ref in enumerate(node.outputs)
            if ref is not None
        }
        self._sources: dict[int, list[tuple[int, int]]] = {}

    def product(self, entry: Entry) -> tuple[tuple[Entry, ...], tuple[Entry, ...]] | None:
        """The row and the column whose product a number is, moved about since or not."""
        entry = self._unmoved(entry)
        if entry[0] not in self._made:
            return None
        node = self._trace.nodes[self._made[entry[0]][0]]
        if node.name.removeprefix("aten.") not in ("mm", "bmm"):
            return None
        (a, b) = (ref.number for ref in node.args[:2])
        x, y = (self._trace.shapes[number] for number in (a, b))
        batch, rest = divmod(entry[1], x[-2] * y[-1])
        i, j = divmod(rest, y[-1])
        M = x[-1]
        left = tuple(self._unmoved((a, (batch * x[-2] + i) * M + m)) for m in range(M))
        return left, tuple(self._unmoved((b, (batch * M + m) * y[-1] + j)) for m in range(M))

    def _unmoved(self, entry: Entry) -> Entry:
        while entry[0] in self._made:
            node = self._trace.nodes[self._made[entry[0]][0]]
            moves = node.function in MOVES and node.name.removeprefix("aten.") not in ("tril", "triu")
            joined = node.name in ("aten.cat", "aten.stack")
            if not (moves or node.function in CASTS) or (len(node.inputs()) != 1 and not joined):
                return entry
            entry = self._places(entry[0])[entry[1]]
        return entry

    def _places(self, number: int) -> list[tuple[int, int]]:
        """For every number of a tensor that a move made, where it was before."""
        if number not in self._sources:
            index, output = self._made[number]
            node, where, known = self._trace.nodes[index], {}, []
            for ref in node.inputs():
                shape = self._trace.shapes[ref.number]
                size = int(torch.Size(shape).numel())
                where[ref.number] = torch.arange(len(known), len(known) + size).reshape(shape)
                known += [(ref.number, place) for place in range(size)]

            def place(ref: Ref) -> Tensor:
                return where[ref.number]

            args, kwargs = rebuild(node, place)
            if node.function in CASTS:
                result = args[0]
            else:
                kwargs = {k: v for k, v in kwargs.items() if k not in ("dtype", "device", "layout")}
                found = node.function(*args, **kwargs)
                result = found if node.single else found[output]
            self._sources[number] = [known[i] for i in result.reshape(-1).tolist()]
        return self._sources[number]
