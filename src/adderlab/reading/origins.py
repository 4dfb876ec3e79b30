"""Where the numbers of a trace come from: moved from elsewhere, or the product of a row and a column."""

from __future__ import annotations

import torch
from torch import Tensor

from adderlab.reading.dependence import CASTS, MOVES, ZEROING
from adderlab.reading.nodes import Ref
from adderlab.reading.trace import Trace, keeps_numbers, rebuild
from adderlab.reading.writing import Entry


class Origins:
    """Where the numbers of a trace come from."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._made = {
            ref.number: (i, place)
            for i, node in enumerate(trace.nodes)
            for place, ref in enumerate(node.outputs)
            if ref is not None
        }
        self._moved: dict[int, bool] = {}
        self._sources: dict[int, list[tuple[int, int]]] = {}

    def product(self, entry: Entry) -> tuple[tuple[Entry, ...], tuple[Entry, ...]] | None:
        """The row and the column whose product a number is, moved about since or not."""
        entry = self.unmoved(entry)
        if entry[0] not in self._made:
            return None
        node = self._trace.nodes[self._made[entry[0]][0]]
        if node.operation not in ("mm", "bmm"):
            return None
        (a, b) = (ref.number for ref in node.args[:2])
        x, y = (self._trace.shapes[number] for number in (a, b))
        batch, rest = divmod(entry[1], x[-2] * y[-1])
        i, j = divmod(rest, y[-1])
        M = x[-1]
        left = tuple(self.unmoved((a, (batch * x[-2] + i) * M + m)) for m in range(M))
        return left, tuple(self.unmoved((b, (batch * M + m) * y[-1] + j)) for m in range(M))

    def unmoved(self, entry: Entry) -> Entry:
        """Where a number was before it was moved about."""
        while self._is_moved(entry[0]):
            entry = self._places(entry[0])[entry[1]]
        return entry

    def _is_moved(self, number: int) -> bool:
        """Whether a tensor consists of numbers of others."""
        if number not in self._moved:
            moves = False
            if number in self._made:
                node = self._trace.nodes[self._made[number][0]]
                moves = node.function in MOVES and node.operation not in ZEROING
                moves |= node.function in CASTS and keeps_numbers(node)
                moves &= len(node.inputs()) == 1 or node.operation in ("cat", "stack")
            self._moved[number] = moves
        return self._moved[number]

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
