"""Scores as queries times keys, where they are that: for training, and for proofs that are fast.

From the softmax the trace is followed back to the product of two matrices. What lies between may move
scores, scale them and add to them, by numbers that no token decides; and where it is asked for, once be
a function of single scores (a soft cap).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from adderlab.models.head_program import Function
from adderlab.reading.attention import Attention
from adderlab.reading.dependence import CASTS, MOVES, ZEROING, Dependence, move
from adderlab.reading.trace import Node, Ref, Trace, keeps_numbers
from adderlab.reading.writing import FUNCTIONS, Entry, Part
from adderlab.task.layouts import Layout


@dataclass(frozen=True, kw_only=True)
class ScoreFunction:
    """What the products of one head go through, number by number."""

    name: Function
    source: int
    """The tensor that it takes."""
    result: int
    cells: tuple[tuple[int, ...], ...]
    """(answer step, key) -> place in both."""


@dataclass(frozen=True, kw_only=True)
class Factors:
    """Scores of one head as queries times keys."""

    product: int | None
    """The node that multiplies them; None where no token decides the scores."""
    queries: tuple[tuple[Entry, ...], ...]
    """(answer step, coordinate)."""
    keys: tuple[tuple[Part, ...], ...]
    """(key, coordinate)."""
    function: ScoreFunction | None = None


FUNCTIONS_OF_SCORES: dict[str, Function] = {
    name: cast(Function, own) for name, own in FUNCTIONS.items() if name != "neg"
}
"""PyTorch's name -> that of a head program."""
_AFFINE = {"mul", "div", "add", "sub", "neg", "where", "masked_fill"}


def find_factors(
    trace: Trace,
    dependence: Dependence,
    layout: Layout,
    heads: Sequence[Attention],
    offset: int,
    *,
    curved: bool = False,
) -> tuple[Factors, ...] | None:
    """For every head the product of queries and keys from which its scores come by scaling and adding
    what no token decides; None if those of some head do not, or are of another width. ``curved``: and by
    one function, the same in all heads."""
    found = []
    for attention in heads:
        own = _head_factors(trace, dependence, layout, attention, offset, curved)
        if own is None:
            return None
        found.append(own)
    alike = {(len(own.keys[0]), own.function and own.function.name) for own in found}
    return tuple(found) if len(alike) == 1 else None


def _head_factors(
    trace: Trace,
    dependence: Dependence,
    layout: Layout,
    attention: Attention,
    offset: int,
    curved: bool,
) -> Factors | None:
    keys = trace.shapes[attention.source][-1]
    if not bool(dependence.positions(attention.source).any()):
        if curved:
            return None
        return Factors(product=None, queries=((),) * layout.num_answers, keys=((),) * keys)
    chain = _chain(trace, dependence, attention.source)
    if chain is None:
        return None
    product, path = chain
    bends = [i for i, index in enumerate(path) if trace.nodes[index].operation in FUNCTIONS_OF_SCORES]
    if len(bends) != curved:
        return None
    function = None
    for i in bends:
        function = _function(trace, path[i], path[i + 1 :], attention, layout)
    cells_AJ = _cells(trace, product, path, attention, layout)
    node = trace.nodes[product]
    args = [x.number for x in node.args[-2:]]
    shapes = [trace.shapes[number] for number in args]
    out_shape = trace.shapes[node.outputs[0].number]  # type: ignore[union-attr]
    queries: list[tuple[Entry, ...]] = []
    own_keys: list[tuple[Part, ...] | None] = [None] * keys
    for i, line in enumerate(cells_AJ):
        position = layout.query_positions[i]
        seen = [(j, cell) for j, cell in enumerate(line) if cell >= 0]
        sides = [_operand_entries(args, shapes, out_shape, cell) for _, cell in seen]
        if not seen:
            return None
        first, second = (_is_of(dependence, side, position) for side in sides[0])
        pairs = [(b, a) if second and not first else (a, b) for a, b in sides]
        if len({query for query, _ in pairs}) != 1 or not _is_of(dependence, pairs[0][0], position):
            return None
        queries.append(pairs[0][0])
        for (j, _), (_, key) in zip(seen, pairs, strict=True):
            if own_keys[j] not in (None, key) or not _is_of(dependence, key, j - offset):
                return None
            own_keys[j] = key
    sink = (None,) * len(queries[0])
    complete = [
        key if key is not None or 0 <= j - offset < trace.length else sink
        for j, key in enumerate(own_keys)
    ]
    if any(key is None for key in complete):
        return None
    return Factors(
        product=product,
        queries=tuple(queries),
        keys=tuple(k for k in complete if k is not None),
        function=function,
    )


def _function(
    trace: Trace, index: int, after: Sequence[int], attention: Attention, layout: Layout
) -> ScoreFunction:
    node = trace.nodes[index]
    (result,) = [ref.number for ref in node.outputs if ref is not None]
    cells_AJ = _cells(trace, index, after, attention, layout)
    return ScoreFunction(
        name=FUNCTIONS_OF_SCORES[node.operation],
        source=node.args[0].number,
        result=result,
        cells=tuple(map(tuple, cells_AJ)),
    )


def _is_of(dependence: Dependence, entries: Sequence[Entry], position: int) -> bool:
    """Whether no token decides these numbers but that at ``position`` (none at a negative one)."""
    bits = 0
    for number, place in entries:
        bits |= int(dependence.positions(number).reshape(-1)[place])
    return bits & ~(1 << position if position >= 0 else 0) == 0


def _operand_entries(
    args: Sequence[int], shapes: Sequence[tuple[int, ...]], out_shape: tuple[int, ...], cell: int
) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
    """The row of the first operand and the column of the second whose product the cell is."""
    (a, b), (x, y) = args, shapes
    columns = out_shape[-1]
    batch, rest = divmod(cell, out_shape[-2] * columns)
    i, j = divmod(rest, columns)
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
        if name in ("mm", "bmm"):
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


def _cells(
    trace: Trace,
    product: int,
    path: Sequence[int],
    attention: Attention,
    layout: Layout,
) -> list[list[int]]:
    """(answer step, key) -> place in the result of a node, the product or the function; -1 for what does
    not come from it."""
    ref = trace.nodes[product].outputs[0]
    assert ref is not None
    shape = trace.shapes[ref.number]
    places = {ref.number: torch.arange(int(torch.Size(shape).numel())).reshape(shape)}

    def placed(r: Ref) -> Tensor:
        return places[r.number] if r.number in places else torch.full(trace.shapes[r.number], -1)

    for index in path:
        node = trace.nodes[index]
        if node.function in MOVES:
            results = move(node, placed)
        else:
            out = next(r.number for r in node.outputs if r is not None)
            (source,) = [r for r in node.inputs() if r.number in places]
            results = [places[source.number].expand(trace.shapes[out])]
        for own, result in zip(node.outputs, results, strict=True):
            if own is not None:
                places[own.number] = result
    size = trace.shapes[attention.source]
    found = places[attention.source].reshape(-1, *size[-2:])[attention.head]
    rows = [q if size[-2] > 1 else 0 for q in layout.query_positions]
    return found[rows].tolist()
