"""Scores as queries times keys, where they are that: for training, and for proofs that are fast.

From the softmax the trace is followed back to the product of two matrices. What lies between may move
scores, scale them and add to them, by numbers that no token decides; and where it is asked for, once be
a function of single scores (a soft cap).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from adderlab.models.head_program import Function
from adderlab.reading.attention import Attention, rows_and_keys
from adderlab.reading.dependence import CASTS, MOVES, ZEROING, Dependence, move
from adderlab.reading.lowering import Answer
from adderlab.reading.nodes import Node, Ref
from adderlab.reading.trace import Trace, keeps_numbers
from adderlab.reading.writing import FUNCTIONS, Entry, Part


@dataclass(frozen=True, kw_only=True)
class ScoreFunction:
    """What the products of one head go through at one step, number by number."""

    name: Function
    source: int
    """The tensor that it takes."""
    result: int
    cells: tuple[int, ...]
    """Of every key of its call, the place in both."""


@dataclass(frozen=True, kw_only=True)
class Factors:
    """Scores of one head as queries times keys."""

    products: frozenset[int]
    """What multiplies them: the results' tensors, one for all steps or one for each; none where no
    token decides the scores."""
    queries: tuple[tuple[Entry, ...], ...]
    """(answer step, coordinate)."""
    keys: tuple[tuple[Part, ...], ...]
    """(key, coordinate)."""
    functions: tuple[ScoreFunction, ...] = ()
    """One for every step, the same but for where it is, or none."""


FUNCTIONS_OF_SCORES: dict[str, Function] = {
    name: cast(Function, own) for name, own in FUNCTIONS.items() if name != "neg"
}
"""PyTorch's name -> that of a head program."""
_AFFINE = {"mul", "div", "add", "sub", "neg", "where", "masked_fill"}

Same = Callable[[int, Entry], Entry]
"""(answer step, a number of its call) -> that number in the longest call, if it is there."""


def find_factors(
    trace: Trace,
    dependence: Dependence,
    answers: Sequence[Answer],
    attentions: Sequence[Sequence[Attention]],
    offset: int,
    same: Same,
    *,
    curved: bool = False,
) -> tuple[Factors, ...] | None:
    """For every head the product of queries and keys from which its scores come by scaling and adding
    what no token decides; None if those of some head do not, or are of another width. ``curved``: and by
    one function, the same in all heads.

    ``attentions``: (answer step, head).
    """
    found = []
    for heads_A in zip(*attentions, strict=True):
        own = _head_factors(trace, dependence, answers, heads_A, offset, same, curved)
        if own is None:
            return None
        found.append(own)
    alike = {(len(own.keys[0]), *{function.name for function in own.functions}) for own in found}
    return tuple(found) if len(alike) == 1 else None


def _head_factors(
    trace: Trace,
    dependence: Dependence,
    answers: Sequence[Answer],
    attentions: Sequence[Attention],
    offset: int,
    same: Same,
    curved: bool,
) -> Factors | None:
    keys, length = trace.shapes[attentions[-1].source][-1], answers[-1].length
    if not any(bool(dependence.positions(own.source).any()) for own in attentions):
        if curved:
            return None
        return Factors(products=frozenset(), queries=((),) * len(answers), keys=((),) * keys)
    cells = _Cells(trace, dependence)
    products: set[int] = set()
    functions: list[ScoreFunction] = []
    queries: list[tuple[Entry, ...]] = []
    own_keys: list[tuple[Part, ...] | None] = [None] * keys
    for i, (answer, attention) in enumerate(zip(answers, attentions, strict=True)):
        bends = cells.bends(attention)
        if bends is None or len(bends) != curved:
            return None
        functions += [cells.function(attention, answer.position, node) for node in bends]
        product, line = cells.product(attention, answer.position)
        seen = [(j, cell) for j, cell in enumerate(line) if cell >= 0]
        if not seen:
            return None
        node = trace.nodes[product]
        products.update(ref.number for ref in node.outputs if ref is not None)
        sides = [_operand_entries(trace, node, cell) for _, cell in seen]
        first, second = (_is_of(dependence, side, answer.position) for side in sides[0])
        pairs = [(b, a) if second and not first else (a, b) for a, b in sides]
        query = pairs[0][0]
        if any(own != query for own, _ in pairs) or not _is_of(dependence, query, answer.position):
            return None
        queries.append(tuple(same(i, entry) for entry in query))
        # A sink after the keys of a shorter call.
        missing = keys - len(line)
        for (j, _), (_, key) in zip(seen, pairs, strict=True):
            key = tuple(same(i, entry) for entry in key)
            place = j if j - offset < answer.length else j + missing
            if own_keys[place] not in (None, key) or not _is_of(dependence, key, place - offset):
                return None
            own_keys[place] = key
    sink = (None,) * len(queries[0])
    complete = [
        key if key is not None or 0 <= j - offset < length else sink for j, key in enumerate(own_keys)
    ]
    if any(key is None for key in complete) or len({function.name for function in functions}) > 1:
        return None
    return Factors(
        products=frozenset(products),
        queries=tuple(queries),
        keys=tuple(k for k in complete if k is not None),
        functions=tuple(functions),
    )


def _is_of(dependence: Dependence, entries: Sequence[Entry], position: int) -> bool:
    """Whether no token decides these numbers but that at ``position`` (none at a negative one)."""
    bits = 0
    for number, place in entries:
        bits |= int(dependence.positions(number).reshape(-1)[place])
    return bits & ~(1 << position if position >= 0 else 0) == 0


def _operand_entries(trace: Trace, node: Node, cell: int) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
    """The row of the first operand and the column of the second whose product the cell is."""
    a, b = (x.number for x in node.args[-2:])
    x, y = trace.shapes[a], trace.shapes[b]
    if node.operation == "mv":
        y = (*y, 1)
    batch, rest = divmod(cell, x[-2] * y[-1])
    i, j = divmod(rest, y[-1])
    M = x[-1]
    left = tuple((a, (batch * x[-2] + i) * M + m) for m in range(M))
    right = tuple((b, (batch * M + m) * y[-1] + j) for m in range(M))
    return left, right


def _chain(trace: Trace, dependence: Dependence, source: int) -> tuple[int, list[int]] | None:
    """(the product's node, the nodes from there to the scores), if each only moves its scores, scales
    them, adds to them what no token decides or is a function of each."""
    path: list[int] = []
    number = source
    while number in dependence.made_by:
        index = dependence.made_by[number]
        node = trace.nodes[index]
        name = node.operation
        if name in ("mm", "bmm", "mv"):
            return index, path[::-1]
        if not _is_affine(node) and name not in FUNCTIONS_OF_SCORES:
            return None
        tokens = [r for r in node.inputs() if bool(dependence.positions(r.number).any())]
        if len(tokens) != 1 or (name == "div" and node.args[0] != tokens[0]):
            return None
        path.append(index)
        number = tokens[0].number
    return None


def _is_affine(node: Node) -> bool:
    if node.function in CASTS:
        return keeps_numbers(node)
    if node.function in MOVES:
        return node.operation not in ZEROING | {"index_select"}
    return node.operation in _AFFINE and node.named.get("rounding_mode") is None


class _Cells:
    """Where scores come from: places in the results of products, and of functions of these."""

    def __init__(self, trace: Trace, dependence: Dependence) -> None:
        self._trace, self._dependence = trace, dependence
        self._chains: dict[int, tuple[int, list[int]] | None] = {}
        self._found: dict[tuple[int, int], Tensor] = {}

    def bends(self, attention: Attention) -> list[int] | None:
        """The nodes of functions between the product and the scores; None where there is no product."""
        chain = self._chain(attention.source)
        if chain is None:
            return None
        return [i for i in chain[1] if self._trace.nodes[i].operation in FUNCTIONS_OF_SCORES]

    def product(self, attention: Attention, position: int) -> tuple[int, list[int]]:
        """(its node, of every key the place in its result); -1 for what does not come from it."""
        chain = self._chain(attention.source)
        assert chain is not None
        return chain[0], self._line(attention, position, *chain)

    def function(self, attention: Attention, position: int, index: int) -> ScoreFunction:
        chain = self._chain(attention.source)
        assert chain is not None
        node = self._trace.nodes[index]
        (result,) = [ref.number for ref in node.outputs if ref is not None]
        after = chain[1][chain[1].index(index) + 1 :]
        return ScoreFunction(
            name=FUNCTIONS_OF_SCORES[node.operation],
            source=node.args[0].number,
            result=result,
            cells=tuple(self._line(attention, position, index, after)),
        )

    def _chain(self, source: int) -> tuple[int, list[int]] | None:
        if source not in self._chains:
            self._chains[source] = _chain(self._trace, self._dependence, source)
        return self._chains[source]

    def _line(self, attention: Attention, position: int, index: int, path: Sequence[int]) -> list[int]:
        """Of every key the place in the result of a node, the product or the function."""
        source = attention.source
        if (source, index) not in self._found:
            self._found[source, index] = self._places(index, path, source)
        rows, keys = rows_and_keys(self._trace.shapes[source])
        row = position if rows > 1 else 0
        return self._found[source, index].reshape(-1, rows, keys)[attention.head, row].tolist()

    def _places(self, index: int, path: Sequence[int], source: int) -> Tensor:
        trace = self._trace
        ref = trace.nodes[index].outputs[0]
        assert ref is not None
        shape = trace.shapes[ref.number]
        places = {ref.number: torch.arange(int(torch.Size(shape).numel())).reshape(shape)}

        def placed(r: Ref) -> Tensor:
            return places[r.number] if r.number in places else torch.full(trace.shapes[r.number], -1)

        for each in path:
            node = trace.nodes[each]
            if node.function in MOVES:
                results = move(node, placed)
            else:
                out = next(r.number for r in node.outputs if r is not None)
                (before,) = [r for r in node.inputs() if r.number in places]
                results = [places[before.number].expand(trace.shapes[out])]
            for own, result in zip(node.outputs, results, strict=True):
                if own is not None:
                    places[own.number] = result
        return places[source]
