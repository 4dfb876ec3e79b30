"""What the tables are products of: scores as queries times keys, and all three no wider than need be.

From the softmax the trace is followed back to the product of two matrices. What lies between may move
scores, scale them and add to them, by numbers that no token decides; and where it is asked for, once be
a function of single scores (a soft cap). With such factors training and proofs are fast.

A file may compute with wide vectors that come from narrow ones: ``x @ A @ B`` with an inner dimension
below the width. Scores are then the same from the narrow vectors, if the other factor is multiplied by B
in their place. In the narrow form every pair of positions takes fewer multiplications; the model and its
parameters stay what they are.

Values of low rank are multiplied by two matrices after they are mixed, of which the first has fewer
columns than a head has channels; or they are themselves narrow vectors times a wide matrix. Mixing and
multiplying commute: the first matrix multiplies the values before they are mixed, the wide one what was
mixed of the narrow vectors. Tables are smaller then, a training step is faster, and a proof has fewer
coordinates to bound. Which side it is follows the rule of the presets
(``models.layers.Attention.dense``): the matrix after the mixture, unless what values are made of is
narrower still. So a preset read back from a file has the tables, and the bounds, of its configuration.

Shapes: H heads, P positions, E channels of a value, N of the narrow vectors, D of the matrix' result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal, cast

import torch
from torch import Tensor

from adderlab.models.head_program import MIXED, Function, HeadProgram
from adderlab.reading.attention import Attention, rows_and_keys
from adderlab.reading.dependence import CASTS, MOVES, ZEROING, Dependence, move
from adderlab.reading.lowering import Answer, Lowered
from adderlab.reading.trace import Node, Ref, Trace, keeps_numbers, rebuild
from adderlab.reading.writing import FUNCTIONS, Entry, Part, Product, Spec, times


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


# Queries and keys no wider than what they are made of.

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


# Values in fewer channels: those of a narrow matrix on one side of the mixture or the other.


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
            into_values=reduce(times, factors[:cut]),
            rest=reduce(times, factors[cut:]),
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


# Where the numbers of a trace come from: moved from elsewhere, or the product of a row and a column.


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
