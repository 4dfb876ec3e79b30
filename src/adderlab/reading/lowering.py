"""From a trace to a head program: what follows the attention, at one query position.

The trace is walked once for every answer step. Beside every tensor stands a tensor of *codes* of the
same shape: which channel of which program value each number is. Numbers that come before
the attention have none: where one enters the head, it becomes a constant if no token decides it, and a
channel of ``row`` if the token at the query position does. What moves numbers moves codes. What belongs
to other query positions is not followed; the logits must have none of it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from adderlab.errors import Failure
from adderlab.models.head_program import MIXED, ROW, HeadProgram, Operand, Operation
from adderlab.reading.attention import (
    BEFORE,
    FIRST_PART,
    FIRST_WEIGHT,
    OTHER,
    Coordinate,
    Mixtures,
    is_weight,
)
from adderlab.reading.dependence import (
    CASTS,
    CREATORS,
    MOVES,
    POINTWISE,
    UNFILLED,
    ZEROING,
    Dependence,
    move,
)
from adderlab.reading.trace import Node, Ref, Trace, keeps_numbers, needed_nodes
from adderlab.reading.writing import (
    FUNCTIONS,
    REDUCTIONS,
    TWO,
    Entry,
    Part,
    Spec,
    Writer,
    bias_in_row,
    renamed,
    simplified,
)

CHANNELS = 1 << 20
"""Code value * CHANNELS + channel."""


@dataclass(kw_only=True)
class Lowered:
    """The program of one step, and what its constants and rows are."""

    program: HeadProgram
    constants: dict[str, Spec]
    origins: dict[Any, tuple[int, int]]
    """Of every list of entries that some constant consists of: (node, operand) that asked for it
    first."""
    rows: tuple[Entry, ...]
    row_shift: Spec | None
    """What is added to the row: the bias of attention's output."""
    mixed: tuple[Coordinate | None, ...]
    """Head by head, all of one width; None stands for a channel that is always zero."""
    offset: int
    """Keys before the first position: 1 with a sink there."""
    last: Literal["logits", "log_probabilities", "probabilities"]
    """What the model gives out; the program's own results are logits in any case."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Where a trace has the logits of one answer step."""

    position: int
    """Of the query."""
    output: int
    """The tensor."""
    row: int
    """Which of its rows, counted over the leading axes."""
    length: int
    """Tokens that the call read."""


class Lowering:
    """The walk for one answer step. ``as_rows``: (node, operand) of constants that are not the same
    at every step, and so are channels of ``row``."""

    def __init__(
        self,
        trace: Trace,
        dependence: Dependence,
        answer: Answer,
        as_rows: frozenset[tuple[int, int]] = frozenset(),
    ) -> None:
        self.trace, self.dependence = trace, dependence
        self.answer, self.position = answer, answer.position
        self._as_rows = as_rows
        self._codes: dict[int, Tensor] = {}
        self._write = Writer(self._fixed)
        self._mixtures = Mixtures(trace, dependence, answer.position, answer.length)
        self._rows: dict[Entry, int] = {}
        self._parts: dict[Part, int] = {}
        self._last: Literal["logits", "log_probabilities", "probabilities"] = "logits"
        self._final: set[int] = set()
        """A last softmax and what is moved of it: nothing may be computed from them."""

    def lowered(self, order: Sequence[int]) -> Lowered:
        """The program whose logits are the output's channels in this order."""
        for number in {0, *self.trace.parameters, *self.trace.constants}:
            self._codes[number] = torch.full(self.trace.shapes[number], BEFORE)
        needed = needed_nodes(self.trace, {self.answer.output})
        for number, node in enumerate(self.trace.nodes):
            if needed[number]:
                self._write.at = (number, 0)
                self._node(number, node)
        codes = self._codes[self.answer.output]
        last = codes.reshape(-1, codes.shape[-1])[self.answer.row].tolist()
        if any(code == BEFORE for code in last):
            raise Failure("its logits do not come from an attention: there is no mixture to read")
        if any(code < 0 for code in last):
            raise Failure(
                "its logits at one position depend on the attention of another: a second layer"
            )
        logits = self._gather([last[token] for token in order])
        if not isinstance(logits, int) or logits < 2:
            logits = self._write.put("take", logits, width=len(order), indices=tuple(range(len(order))))
        return self._finished(logits)

    def _fixed(self, entry: Entry) -> float | None:
        number, place = entry
        if int(self.dependence.bits[number].reshape(-1)[place]):
            return None
        return float(self.dependence.fixed[number].reshape(-1)[place])

    def _positions(self, entry: Entry) -> int:
        number, place = entry
        return int(self.dependence.positions(number).reshape(-1)[place])

    # One operation --------------------------------------------------------------------------------

    def _node(self, number: int, node: Node) -> None:
        name, refs = node.operation, node.inputs()
        outputs = [ref.number for ref in node.outputs if ref is not None]
        if all(bool((self._codes[ref.number] == BEFORE).all()) for ref in refs):
            if self._mixtures.is_attention(node):
                self._codes[outputs[0]] = self._mixtures.attend(number, node)
                return
            for out in outputs:
                self._codes[out] = torch.full(self.trace.shapes[out], BEFORE)
            return
        if any(ref.number in self._final for ref in refs):
            if node.function not in MOVES | CASTS or len(refs) > 1:
                raise Failure(
                    "it computes with a softmax of what follows its attention: a second attention (a "
                    "second layer), or a gate that the reading's table does not have"
                )
            self._final.update(outputs)
        if node.function in MOVES:
            self._move(node)
        elif node.function in CASTS:
            if not keeps_numbers(node):
                raise Failure(f"it rounds to whole numbers what follows its attention ({node.name})")
            self._codes[outputs[0]] = self._codes[refs[0].number]
        elif name == "copy":
            source = self._with_entries(node.args[1].number)
            self._codes[outputs[0]] = _parts_of_own_rows(source.expand(self.trace.shapes[outputs[0]]))
        elif name in ("mm", "bmm", "addmm", "baddbmm", "mv", "dot"):
            self._codes[outputs[0]] = self._product(node, name)
        elif name in REDUCTIONS:
            self._codes[outputs[0]] = self._reduced(node, name)
        elif name == "var_mean":
            for out, each in zip(outputs, ("var", "mean"), strict=True):
                self._codes[out] = self._reduced(node, each)
        elif name in ("native_layer_norm", "_fused_rms_norm"):
            for out, codes in zip(outputs, self._normed(node, name), strict=False):
                self._codes[out] = codes
        elif name in ("_softmax", "_log_softmax", "_safe_softmax"):
            self._codes[outputs[0]] = self._probabilities(node, name)
            self._final.add(outputs[0])
        elif name == "constant_pad_nd":
            value = self._part(float(node.named["value"]))
            padded = torch.constant_pad_nd(self._codes[refs[0].number], node.args[1], value)
            self._codes[outputs[0]] = _parts_of_own_rows(padded)
        elif name in ("index", "gather"):
            self._codes[outputs[0]] = self._looked_up(node)
        elif name in CREATORS | UNFILLED or (name in ("zero", "fill") and len(refs) == 1):
            self._codes[outputs[0]] = torch.full(self.trace.shapes[outputs[0]], BEFORE)
        elif name not in POINTWISE:
            raise Failure(f"the operation {node.name} after the attention is not in the reading's table")
        else:
            for out in outputs:
                self._codes[out] = torch.full(self.trace.shapes[out], OTHER)
            self._codes[outputs[0]] = self._elementwise(node, name)

    def _move(self, node: Node) -> None:
        if node.operation in ZEROING:
            raise Failure(f"the operation {node.name} after the attention is not in the reading's table")
        index = node.named.get("index") if node.operation == "index_select" else None

        def moved(ref: Ref) -> Tensor:
            # Parts of other tensors that come before the attention get codes of their own here.
            return self.dependence.fixed[ref.number] if ref is index else self._with_entries(ref.number)

        joined = len(node.inputs()) > 1 and index is None
        for ref, codes in zip(node.outputs, move(node, moved), strict=True):
            if ref is not None:
                self._codes[ref.number] = _parts_of_own_rows(codes) if joined else codes

    def _looked_up(self, node: Node) -> Tensor:
        codes, *rest = [self._codes[ref.number] for ref in node.inputs()]
        indices = [ref.number for ref in node.inputs()[1:]]
        if not all(map(self.dependence.is_fixed, indices)) or not rest:
            raise Failure(
                f"{node.name} after the attention takes numbers from where tokens or parameters decide"
            )
        fixed = self.dependence.fixed
        if node.operation == "gather":
            return torch.gather(codes, node.args[1], fixed[indices[0]])
        plain = [None if i is None else fixed[i.number] for i in node.args[1]]
        return torch.ops.aten.index.Tensor(codes, plain)

    def _with_entries(self, number: int) -> Tensor:
        """Codes of a tensor for joining it with others: what comes before the attention gets its own,
        where this position may use it."""
        codes = self._codes[number]
        if not bool((codes == BEFORE).all()):
            return codes
        bits = self.dependence.positions(number)
        mine = (bits & ~(1 << self.position)) == 0
        fresh, bits = codes.clone().reshape(-1), bits.reshape(-1)
        for place in torch.nonzero(mine.reshape(-1)).flatten().tolist():
            entry = number, place
            fresh[place] = self._entry_code(entry) if int(bits[place]) else self._part(entry)
        fresh[~mine.reshape(-1)] = OTHER
        return fresh.reshape(codes.shape)

    def _part(self, part: Part) -> int:
        part = self._write.plain_zero(part)
        return FIRST_PART - self._parts.setdefault(part, len(self._parts))

    def _part_of(self, code: int) -> Part:
        return list(self._parts)[FIRST_PART - code]

    def _entry_code(self, entry: Entry) -> int:
        bits = self._positions(entry)
        if bits & ~(1 << self.position):
            raise Failure(
                f"at position {self.position} it uses the token at position {bits.bit_length() - 1} "
                "outside the attention"
            )
        return ROW * CHANNELS + self._rows.setdefault(entry, len(self._rows))

    def _mixture(self, row: Sequence[int], values: Sequence[Part]) -> int:
        """The code of a sum of values by attention weights. Fixed zeros may stand beside these."""
        zero = FIRST_PART - self._parts.get(None, -1)
        if any(not is_weight(code) and code != zero for code in row):
            raise Failure(
                "attention weights are joined with other numbers: that is no mixture that is known"
            )
        pairs = [(code, value) for code, value in zip(row, values, strict=True) if code != zero]
        return MIXED * CHANNELS + self._mixtures.channel(pairs)

    # Products -------------------------------------------------------------------------------------

    def _product(self, node: Node, name: str) -> Tensor:
        args = list(node.args)
        if any(node.named.get(name, 1) != 1 for name in ("alpha", "beta")):
            raise Failure(f"{node.name} with alpha or beta is not in the reading's table")
        bias = args.pop(0) if name in ("addmm", "baddbmm") else None
        a, b = args[0].number, args[1].number
        x, y = self._codes[a], self._codes[b]
        places_x, places_y = _places(x.shape), _places(y.shape)
        if name in ("mv", "dot"):
            y, places_y = y[:, None], places_y[:, None]
        if name == "dot":
            x, places_x = x[None], places_x[None]
        plain = x.ndim == 2
        if plain:
            x, y, places_x, places_y = x[None], y[None], places_x[None], places_y[None]
        out = torch.full((x.shape[0], x.shape[1], y.shape[2]), BEFORE)
        for g in range(x.shape[0]):
            self._one_product(out[g], (a, x[g], places_x[g]), (b, y[g], places_y[g]))
        out = out[0] if plain else out
        if name in ("mv", "dot"):
            out = out[..., 0]
        out = out[0] if name == "dot" else out
        if bias is None:
            return out
        own = self._codes[bias.number].expand(out.shape)
        entries = _places(self._codes[bias.number].shape).expand(out.shape)
        return self._combined("add", [out, own], [(None, None), (bias.number, entries)], out.shape)

    def _one_product(
        self, out: Tensor, left: tuple[int, Tensor, Tensor], right: tuple[int, Tensor, Tensor]
    ) -> None:
        (a, x, px), (b, y, py) = left, right
        head_y = bool((y >= 0).any()) or bool(((y <= FIRST_WEIGHT) & (y > FIRST_PART)).any())
        if head_y and not bool((x != BEFORE).any()):
            self._one_product(out.T, (b, y.T, py.T), (a, x.T, px.T))
            return
        for i in range(x.shape[0]):
            row = x[i].tolist()
            if all(code == BEFORE for code in row):
                if bool((y != BEFORE).any()):
                    out[i] = OTHER
                continue
            if OTHER in row and not any(is_weight(code) for code in row):
                out[i] = OTHER
                continue
            if any(is_weight(code) for code in row):
                for n in range(y.shape[1]):
                    values = [self._write.plain_zero((b, place)) for place in py[:, n].tolist()]
                    out[i, n] = self._mixture(row, values)
                continue
            if bool((y == OTHER).any()):
                out[i] = OTHER
                continue
            matrix = [[(b, place) for place in line] for line in py.tolist()]
            if bool((y == BEFORE).all()) and self._token_free(b, py):
                vector = self._gather(row, (a, px[i]), whole=True)
                self._write.at = (self._write.at[0], 1)
                name = self._write.constant(tuple(y.shape), tuple(e for line in matrix for e in line))
                value = self._write.put("linear", vector, name, width=y.shape[1])
                out[i] = torch.arange(y.shape[1]) + value * CHANNELS
                continue
            for n in range(y.shape[1]):
                first = self._gather(row, (a, px[i]), whole=True)
                second = self._gather(y[:, n].tolist(), (b, py[:, n]), whole=True)
                both = self._write.put("multiply", first, second, width=len(row))
                out[i, n] = self._write.put("sum", both, width=1) * CHANNELS

    def _token_free(self, number: int, places: Tensor) -> bool:
        bits = self.dependence.positions(number).reshape(-1)[places.reshape(-1)]
        return not bool(bits.any()) and (self._write.at[0], 1) not in self._as_rows

    # Sums and norms -------------------------------------------------------------------------------

    def _groups(self, number: int, dims: Sequence[int]) -> tuple[Tensor, Tensor, list[int]]:
        """Codes and places with the reduced axes last and flat: (rest, reduced), and the rest's
        shape."""
        codes = self._codes[number]
        dims = [d % codes.ndim for d in dims] or list(range(codes.ndim))
        rest = [d for d in range(codes.ndim) if d not in dims]
        order, shape = [*rest, *dims], [codes.shape[d] for d in rest]
        width = -1 if codes.numel() else 0
        lines = codes.permute(order).reshape(int(torch.Size(shape).numel()), width)
        places = _places(codes.shape).permute(order).reshape(lines.shape)
        return lines, places, shape

    def _own_lines(self, lines: Tensor, out: Tensor) -> Iterator[tuple[int, list[int]]]:
        """(number, codes) of every group that belongs to the head at this position. In ``out`` those of
        other positions are marked; what comes before the attention is left as it is."""
        for g, line in enumerate(lines.tolist()):
            if OTHER in line:
                out[g] = OTHER
            elif any(code != BEFORE for code in line):
                yield g, line

    def _reduced(self, node: Node, name: str) -> Tensor:
        """Codes of a reduction of every group, its axes kept where the operation keeps them."""
        number, dims = node.args[0].number, node.named.get("dim")
        dims = [dims] if isinstance(dims, int) else list(dims or ())
        lines, places, _ = self._groups(number, dims)
        out = torch.full((len(lines),), BEFORE)
        for g, line in self._own_lines(lines, out):
            x = self._gather(line, (number, places[g]), whole=True)
            out[g] = self._write.reduction(name, x, len(line), node.named) * CHANNELS
        result = next(ref.number for ref in node.outputs if ref is not None)
        return out.reshape(self.trace.shapes[result])

    def _normed(self, node: Node, name: str) -> list[Tensor]:
        number, shape = node.args[0].number, list(node.args[1])
        layer = name == "native_layer_norm"
        weight, bias = (node.args[2], node.args[3]) if layer else (node.args[2], None)
        eps = node.args[4] if layer else (node.args[3] if len(node.args) > 3 else None)
        eps = torch.finfo(torch.float32).eps if eps is None else float(eps)
        lines, places, rest = self._groups(number, range(-len(shape), 0))
        out = torch.full(lines.shape, BEFORE)
        for g, line in self._own_lines(lines, out):
            x, width = self._gather(line, (number, places[g]), whole=True), len(line)
            if layer:
                x = self._write.put("centre", x, width=width)
            normed = self._write.put("rms", x, width=width, eps=eps)
            for at, (operand, kind) in enumerate(((weight, "multiply"), (bias, "add"))):
                if operand is not None:
                    entries = [(operand.number, i) for i in range(width)]
                    normed = self._write.put(kind, normed, self._from(entries, at + 2), width=width)
            out[g] = torch.arange(width) + normed * CHANNELS
        codes = out.reshape(*rest, *shape)
        lost = [
            torch.full(self.trace.shapes[r.number], OTHER) for r in node.outputs[1:] if r is not None
        ]
        return [codes, *lost]

    def _probabilities(self, node: Node, name: str) -> Tensor:
        """At the very end, where only the order of the logits counts."""
        codes = self._codes[node.args[0].number]
        if int(node.args[1]) % codes.ndim != codes.ndim - 1:
            raise Failure(
                "it has a softmax over positions of what follows its attention: a second layer"
            )
        self._last = "log_probabilities" if name == "_log_softmax" else "probabilities"
        return codes

    # Elementwise ----------------------------------------------------------------------------------

    def _elementwise(self, node: Node, name: str) -> Tensor:
        shape = self.trace.shapes[next(ref.number for ref in node.outputs if ref is not None)]
        if name in ("where", "masked_fill"):
            return self._chosen(node, name, shape)
        named = node.named
        plain = {"alpha": 1, "rounding_mode": None, "beta": 1, "threshold": 20}
        if any(named.get(key, value) != value for key, value in plain.items()):
            raise Failure(
                f"{node.name} with {', '.join(key for key in plain if key in named)} other than by "
                "default is not in the reading's table"
            )
        operands = list(node.args)
        if name == "rsub":
            name, operands = "sub", [operands[1], operands[0]]
        if name == "gelu":
            name = "gelu_tanh" if named["approximate"] == "tanh" else "gelu"
        if name in FUNCTIONS or name in ("gelu", "gelu_tanh"):
            name, operands = FUNCTIONS.get(name, name), operands[:1]
        if name in TWO:
            name, operands = TWO[name], operands[:2]
        codes = [self._codes[x.number].expand(shape) if isinstance(x, Ref) else None for x in operands]
        sources = [
            (x.number, _places(self._codes[x.number].shape).expand(shape))
            if isinstance(x, Ref)
            else (None, x)
            for x in operands
        ]
        return self._combined(name, codes, sources, shape)

    def _chosen(self, node: Node, name: str, shape: Sequence[int]) -> Tensor:
        """A selection by what is fixed picks codes."""
        condition, yes, no = node.args if name == "where" else (node.args[1], node.args[2], node.args[0])
        if not self.dependence.is_fixed(condition.number):
            raise Failure(f"{node.name} chooses by numbers that tokens or parameters decide")
        chosen = self.dependence.fixed[condition.number].bool().expand(shape)
        parts = []
        for x in (yes, no):
            if isinstance(x, Ref):
                parts.append(self._with_entries(x.number).expand(shape))
            else:
                parts.append(torch.full(tuple(shape), self._part(float(x))))
        return _parts_of_own_rows(torch.where(chosen, parts[0], parts[1]))

    def _combined(
        self, name: str, codes: list[Tensor | None], sources: list[tuple[Any, Any]], shape: Sequence[int]
    ) -> Tensor:
        """One vector operation for all numbers that belong to the head at this position."""
        out = torch.full(tuple(shape), BEFORE)
        present = [c for c in codes if c is not None]
        other = torch.zeros(tuple(shape), dtype=torch.bool)
        mine = torch.zeros(tuple(shape), dtype=torch.bool)
        for each in present:
            if bool(((each <= FIRST_WEIGHT) & (each > FIRST_PART)).any()):
                return self._weighted(name, codes, sources, shape)
            other |= each == OTHER
            mine |= (each >= 0) | (each <= FIRST_PART)
        out[other] = OTHER
        mine &= ~other
        if not bool(mine.any()):
            return out
        operands: list[Operand | float | None] = []
        for at, (each, (number, extra)) in enumerate(zip(codes, sources, strict=True)):
            if each is None:
                operands.append(float(extra) if isinstance(extra, (int, float)) else extra)
                continue
            self._write.at = (self._write.at[0], at)
            places = extra[mine] if number is not None else None
            operands.append(
                self._gather(each[mine].tolist(), None if places is None else (number, places))
            )
        width = int(mine.sum())
        value = self._write.operation(name, operands)
        made = self._write.width(value)
        out[mine] = value * CHANNELS + (torch.arange(width) if made == width else 0)
        return out

    def _weighted(
        self, name: str, codes: list[Tensor | None], sources: list[tuple[Any, Any]], shape: Sequence[int]
    ) -> Tensor:
        """Attention weights times one, or plus nothing; anything else is no attention that is known."""
        if name in ("multiply", "divide") and codes[1] is None and sources[1][1] == 1:
            assert codes[0] is not None
            return codes[0]
        raise Failure(
            f"attention weights go through {name} before they multiply the values: the reading does not "
            "know such an attention"
        )

    # Operands -------------------------------------------------------------------------------------

    def _from(self, entries: Sequence[Entry], at: int, whole: bool = False) -> Operand:
        """A vector of numbers that come before the attention: a constant, or channels of the row."""
        self._write.at = (self._write.at[0], at)
        if len(set(entries)) == 1 and not whole:
            entries = entries[:1]
        free = all(not self._positions(entry) for entry in entries)
        if free and self._write.at not in self._as_rows:
            return self._write.constant((len(entries),), tuple(entries))
        channels = tuple(self._entry_code(entry) % CHANNELS for entry in entries)
        return self._write.put("take", ROW, width=len(channels), indices=channels)

    def _gather(
        self,
        codes: Sequence[int],
        source: tuple[int, Tensor] | None = None,
        whole: bool = False,
    ) -> Operand:
        """The operand whose channels have these codes; ``source``: the tensor, and the places in it, of
        those that come before the attention. Unless it is asked for ``whole``, one channel may stand for
        many that are the same."""
        if any(map(is_weight, codes)):
            raise Failure("it computes with attention weights otherwise than by mixing values with them")
        places = [] if source is None else source[1].reshape(-1).tolist()
        if all(code == BEFORE for code in codes):
            assert source is not None
            return self._from([(source[0], place) for place in places], self._write.at[1], whole)
        if len(set(codes)) == 1 and not whole:
            codes = codes[:1]
        parts: list[Operand] = []
        kinds = itertools.groupby(enumerate(codes), lambda pair: _kind(pair[1]))
        for kind, pairs in kinds:
            if kind == BEFORE:
                assert source is not None
                entries = [(source[0], places[i]) for i, _ in pairs]
                channels = tuple(self._entry_code(entry) % CHANNELS for entry in entries)
                parts.append(self._write.put("take", ROW, width=len(channels), indices=channels))
            elif kind == FIRST_PART:
                chosen = tuple(self._part_of(code) for _, code in pairs)
                parts.append(self._write.constant((len(chosen),), chosen))
            else:
                channels = tuple(code % CHANNELS for _, code in pairs)
                all_of_it = kind >= 2 and channels == tuple(range(self._write.width(kind)))
                parts.append(
                    kind
                    if all_of_it
                    else self._write.put("take", kind, width=len(channels), indices=channels)
                )
        return parts[0] if len(parts) == 1 else self._write.put("concat", *parts, width=len(codes))

    # The finished program -------------------------------------------------------------------------

    def _finished(self, logits: int) -> Lowered:
        """Only what the logits need, with the channels of ``mixed`` head by head."""
        operations = self._write.operations
        mixed, place = self._mixtures.by_head()
        widths = {MIXED: len(mixed), ROW: len(self._rows)}
        used = {logits}
        for number in range(len(operations) + 1, 1, -1):
            if number in used:
                used.update(x for x in operations[number - 2].operands if isinstance(x, int))
        rename: dict[Operand, Operand] = {MIXED: MIXED, ROW: ROW}
        names: dict[str, str] = {}
        kept: list[Operation] = []
        for number, operation in enumerate(operations, 2):
            if number not in used:
                continue
            indices = operation.indices
            if operation.name == "take" and operation.operands[0] == MIXED:
                indices = tuple(place[i] for i in indices)
            source = operation.operands[0]
            whole = tuple(range(widths.get(source, 0)))  # type: ignore[arg-type]
            if operation.name == "take" and number != logits and whole == indices:
                rename[number] = source
                continue
            operands = tuple(
                rename[x] if isinstance(x, int) else names.setdefault(x, f"c{len(names)}")
                for x in operation.operands
            )
            kept.append(dataclasses.replace(operation, operands=operands, indices=indices))
            rename[number] = len(kept) + 1
        constants = {new: self._write.specs[old] for old, new in names.items()}
        kept, constants = simplified(kept, constants, widths)
        kept, row_bias = bias_in_row(kept, len(self._rows))
        shift = constants.pop(row_bias, None) if row_bias else None
        kept, constants = renamed(kept, constants)
        return Lowered(
            program=HeadProgram(
                mixed_width=len(mixed),
                row_width=len(self._rows),
                operations=tuple(kept),
                constants=tuple((name, shape) for name, (shape, _) in constants.items()),
            ),
            constants=constants,
            origins={self._write.specs[old][1]: self._write.origins[old] for old in names},
            rows=tuple(self._rows),
            row_shift=shift,
            mixed=mixed,
            offset=self._mixtures.offset,
            last=self._last,
        )


def _parts_of_own_rows(codes: Tensor) -> Tensor:
    """What was put among numbers of another query position belongs to that one too."""
    others = (codes == OTHER).any(-1, keepdim=True)
    return torch.where((codes <= FIRST_PART) & others, OTHER, codes)


def _kind(code: int) -> int:
    """The value that a code belongs to; ``BEFORE``, or ``FIRST_PART`` for parts."""
    return code // CHANNELS if code >= 0 else FIRST_PART if code <= FIRST_PART else BEFORE


def _places(shape: Sequence[int]) -> Tensor:
    return torch.arange(int(torch.Size(shape).numel())).reshape(tuple(shape))
