"""From a trace to a head program: what follows the attention, at one query position.

The trace is walked once for every answer step. Beside every tensor stands a tensor of *codes* of the
same shape and strides: which channel of which program value each number is. Numbers that come before
the attention have none: where one enters the head, it becomes a constant if no token decides it, and a
channel of ``row`` if the token at the query position does. What moves numbers moves codes.

Attention is a softmax whose weights multiply values of single positions; the sums are the channels of
``mixed``.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from adderlab.errors import Failure
from adderlab.models.head_program import MIXED, ROW, HeadProgram, Operand, Operation
from adderlab.reading.dependence import CASTS, MOVES, Dependence
from adderlab.reading.trace import Node, Ref, Trace, laid_out, rebuild, writes

Entry = tuple[int, int]
"""(tensor, place in it, counted row by row)."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """A constant made of others: ``left @ right``, or the rows or columns of ``left`` scaled by
    ``right``."""

    kind: Literal["matrices", "rows", "columns"]
    left: Spec
    right: Spec


Part = Entry | float | None
"""A number of the trace, a fixed number, or zero."""
Spec = tuple[tuple[int, ...], "tuple[Part, ...] | Product"]
"""A constant: its shape, and what it consists of row by row, or how it is made of others."""

BEFORE, OTHER = -1, -2
"""Codes: comes before the attention; belongs to another query position."""
FIRST_WEIGHT = -10
"""Code FIRST_WEIGHT - k is attention weight k."""
FIRST_PART = -(10**12)
"""Code FIRST_PART - k is part k of those that were put among numbers of the head, constants as a
rule."""
TWO_TOKENS = (
    "an attention whose scores depend on more than two tokens: a second layer, or a block applied twice"
)
CHANNELS = 1 << 20
"""Code value * CHANNELS + channel."""

FUNCTIONS = {
    "neg": "negate", "abs": "abs", "square": "square", "sqrt": "sqrt", "rsqrt": "rsqrt",
    "reciprocal": "reciprocal", "exp": "exp", "relu": "relu", "silu": "silu", "sigmoid": "sigmoid",
    "tanh": "tanh", "softplus": "softplus",
}  # fmt: skip
TWO = {
    "add": "add", "sub": "subtract", "mul": "multiply", "div": "divide", "minimum": "minimum",
    "maximum": "maximum",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Attention:
    """One softmax over the keys, of one head."""

    softmax: int
    """Number of the node."""
    source: int
    """The tensor of scores that it takes."""
    head: int
    """Which of its rows: the place of the leading axes, counted row by row."""


@dataclass(frozen=True, kw_only=True)
class Coordinate:
    """One channel of ``mixed``: what the weights of one head multiply."""

    attention: Attention
    values: tuple[Entry | None, ...]
    """For every key of the softmax; None where it has no value."""


@dataclass(kw_only=True)
class Lowered:
    """The program of one step, and what its constants and rows are."""

    program: HeadProgram
    constants: dict[str, Spec]
    origins: dict[Any, tuple[int, int]]
    """Of every list of entries that some constant consists of: (node, operand) that asked for it
    first."""
    rows: tuple[Entry, ...]
    row_shift: tuple[Entry, ...]
    """What is added to the row: the bias of attention's output; empty without one."""
    mixed: tuple[Coordinate | None, ...]
    """Head by head, all of one width; None stands for a channel that is always zero."""
    offset: int
    """Keys before the first position: 1 with a sink there."""
    last: Literal["logits", "log_probabilities", "probabilities"]
    """What the model gives out; the program's own results are logits in any case."""


@dataclass
class _Writer:
    """The operations so far. The same operation on the same operands is written once."""

    widths: list[int] = field(default_factory=lambda: [0, 0])
    operations: list[Operation] = field(default_factory=list)
    known: dict[Operation, int] = field(default_factory=dict)

    def put(self, name: str, *operands: Operand, width: int, **more: Any) -> int:
        operation = Operation(name=name, operands=operands, width=width, **more)  # type: ignore[arg-type]
        if operation not in self.known:
            self.operations.append(operation)
            self.known[operation] = len(self.operations) + 1
        return self.known[operation]

    def made_by(self, x: Operand) -> Operation | None:
        return self.operations[x - 2] if isinstance(x, int) and x >= 2 else None


class Lowering:
    """The walk for one query position. ``as_rows``: (node, operand) of constants that are not the same
    at every step, and so are channels of ``row``."""

    def __init__(
        self,
        trace: Trace,
        dependence: Dependence,
        position: int,
        output_row: int,
        as_rows: frozenset[tuple[int, int]] = frozenset(),
    ) -> None:
        self.trace, self.dependence = trace, dependence
        self.position, self.output_row = position, output_row
        self._as_rows = as_rows
        self._codes: dict[int, Tensor] = {}
        self._weights: list[tuple[Attention, int, int]] = []
        """(attention, query row, key) of every weight that has a code."""
        self._write = _Writer()
        self._constants: dict[Any, str] = {}
        self._specs: dict[str, tuple[tuple[int, ...], Any]] = {}
        self._origins: dict[str, tuple[int, int]] = {}
        self._rows: dict[Entry, int] = {}
        self._mixed: dict[Coordinate, int] = {}
        self._parts: dict[Part, int] = {}
        self._last: Literal["logits", "log_probabilities", "probabilities"] = "logits"
        self._key_offset = 0
        self._at = (0, 0)

    def lowered(self, order: Sequence[int]) -> Lowered:
        """The program whose logits are the output's channels in this order."""
        for number in {0, *self.trace.parameters, *self.trace.constants}:
            self._put(number, torch.full(self.trace.shapes[number][0], BEFORE))
        for number, node in enumerate(self.trace.nodes):
            self._at = (number, 0)
            self._node(number, node)
        codes = self._codes[self.trace.output.number]
        last = codes.reshape(-1, codes.shape[-1])[self.output_row].tolist()
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

    # One operation --------------------------------------------------------------------------------

    def _node(self, number: int, node: Node) -> None:
        name = node.name.removeprefix("aten.")
        refs = node.inputs()
        if all(bool((self._codes[ref.number] == BEFORE).all()) for ref in refs):
            if writes(node):
                return
            if name in ("_softmax", "_safe_softmax") and self._is_attention(node):
                self._attend(number, node)
                return
            for ref in node.outputs:
                if ref is not None and ref.number in self.trace.shapes:
                    self._put(ref.number, torch.full(self.trace.shapes[ref.number][0], BEFORE))
            return
        if node.function in MOVES:
            self._move(node)
            return
        if writes(node):
            self._write_into(node, name)
            return
        outputs = [ref.number for ref in node.outputs if ref is not None]
        if node.function in CASTS:
            self._put(outputs[0], self._codes[refs[0].number])
        elif name in ("mm", "bmm", "addmm", "baddbmm", "mv", "dot"):
            self._put(outputs[0], self._product(node, name))
        elif name in ("sum", "mean", "amax", "amin"):
            self._put(outputs[0], self._reduced(node, name))
        elif name in ("native_layer_norm", "_fused_rms_norm"):
            for ref, codes in zip(outputs, self._normed(node, name), strict=False):
                self._put(ref, codes)
        elif name in ("var", "std", "var_mean"):
            for ref, codes in zip(outputs, self._variance(node, name), strict=True):
                self._put(ref, codes)
        elif name in ("linalg_vector_norm",):
            self._put(outputs[0], self._length(node))
        elif name in ("_softmax", "_log_softmax", "_safe_softmax"):
            self._put(outputs[0], self._probabilities(node, number, name))
        elif name == "constant_pad_nd":
            value = float(node.args[2]) if len(node.args) > 2 else 0.0
            padded = torch.constant_pad_nd(self._codes[refs[0].number], node.args[1], self._part(value))
            self._put(outputs[0], _parts_of_own_rows(padded))
        else:
            self._put(outputs[0], self._elementwise(node, name))

    def _put(self, number: int, codes: Tensor) -> None:
        shape, strides = self.trace.shapes[number]
        self._codes[number] = laid_out(codes, shape, strides)

    def _move(self, node: Node) -> None:
        if any(isinstance(x, Ref) for x in node.args[1:]):
            args, kwargs = rebuild(node, lambda ref: self.dependence.fixed[ref.number])
            result = node.function(self._codes[node.args[0].number], *args[1:], **kwargs)
        elif node.name in ("aten.tril", "aten.triu"):
            raise Failure(f"the operation {node.name} after the attention is not in the table")
        else:
            # Parts of other tensors that come before the attention get codes of their own here.
            args, kwargs = rebuild(node, lambda ref: self._with_entries(ref.number))
            kwargs = {k: v for k, v in kwargs.items() if k not in ("dtype", "device", "layout")}
            result = node.function(*args, **kwargs)
        for ref, codes in zip(node.outputs, [result] if node.single else result, strict=True):
            if ref is not None:
                joined = node.name in ("aten.cat", "aten.stack")
                self._codes[ref.number] = _parts_of_own_rows(codes) if joined else codes

    def _with_entries(self, number: int) -> Tensor:
        """Codes of a tensor for joining it with others. (Those of its own are left as they are.)"""
        codes = self._codes[number]
        if not bool((codes == BEFORE).all()):
            return codes
        bits = self.dependence.positions(number)
        own = 1 << self.position
        if not bool(((bits & ~own) == 0).any()):
            return codes
        fresh = codes.clone().reshape(-1)
        mine = ((bits & ~own) == 0).reshape(-1)
        for place in torch.nonzero(mine).flatten().tolist():
            free = int(bits.reshape(-1)[place]) == 0
            fresh[place] = self._part((number, place)) if free else self._entry_code((number, place))
        return fresh.reshape(codes.shape)

    def _plain_zero(self, part: Part) -> Part:
        """A zero that nothing decides is written as such, so that it can be seen."""
        if isinstance(part, tuple):
            number, place = part
            fixed = int(self.dependence.bits[number].reshape(-1)[place]) == 0
            return (
                None
                if fixed and float(self.dependence.fixed[number].reshape(-1)[place]) == 0.0
                else part
            )
        return None if part == 0.0 else part

    def _part(self, part: Part) -> int:
        part = self._plain_zero(part)
        return FIRST_PART - self._parts.setdefault(part, len(self._parts))

    def _part_of(self, code: int) -> Part:
        return list(self._parts)[FIRST_PART - code]

    def _entry_code(self, entry: Entry) -> int:
        number, place = entry
        bits = int(self.dependence.positions(number).reshape(-1)[place])
        if bits & ~(1 << self.position):
            raise Failure(
                f"at position {self.position} it uses the token at position {bits.bit_length() - 1} "
                f"outside "
                "the attention"
            )
        channel = self._rows.setdefault(entry, len(self._rows))
        return ROW * CHANNELS + channel

    def _write_into(self, node: Node, name: str) -> None:
        target = node.args[0]
        plain = name.rstrip("_")
        if plain == "copy":
            self._codes[target.number].copy_(self._codes[node.args[1].number])
            return
        if plain in ("fill", "zero"):
            self._codes[target.number].fill_(BEFORE)
            return
        self._codes[target.number].copy_(self._elementwise(node, plain))

    # Attention ------------------------------------------------------------------------------------

    def _is_attention(self, node: Node) -> bool:
        """Whether the softmax runs over keys: as many as there are tokens, or one more."""
        ref, dim = node.args[0], int(node.args[1])
        shape = self.trace.shapes[ref.number][0]
        if dim % len(shape) != len(shape) - 1 or len(shape) < 2:
            return False
        return shape[-1] in (self.trace.length, self.trace.length + 1)

    def _attend(self, number: int, node: Node) -> None:
        source = node.args[0].number
        shape = self.trace.shapes[source][0]
        rows, keys = shape[-2], shape[-1]
        if rows not in (1, self.trace.length):
            raise Failure(f"its attention has {rows} queries and {keys} keys: that cannot be placed")
        bits = self.dependence.positions(source).reshape(-1, rows, keys)
        self._key_offset = offset = self._offset(bits)
        row = self.position if rows == self.trace.length else 0
        codes = torch.full((len(bits), rows, keys), OTHER)
        for head, key in itertools.product(range(len(bits)), range(keys)):
            allowed = 1 << self.position
            position = key - offset
            if 0 <= position < self.trace.length:
                allowed |= 1 << position
            if int(bits[head, row, key]) & ~allowed:
                raise Failure(TWO_TOKENS)
            self._weights.append((Attention(softmax=number, source=source, head=head), row, key))
            codes[head, row, key] = FIRST_WEIGHT - (len(self._weights) - 1)
        self._put(node.outputs[0].number, codes.reshape(shape))  # type: ignore[union-attr]

    def _offset(self, bits_HIJ: Tensor) -> int:
        """By how much keys are shifted against positions: 1 with a sink before the first."""
        _, rows, keys = bits_HIJ.shape
        if keys == self.trace.length:
            return 0
        own_I = torch.ones(rows, dtype=torch.int64) << torch.arange(rows)
        for offset in (0, 1):
            key_J = torch.zeros(keys, dtype=torch.int64)
            key_J[offset : offset + self.trace.length] = 1 << torch.arange(self.trace.length)
            if rows > 1 and not bool((bits_HIJ & ~(own_I[:, None] | key_J)).any()):
                return offset
        raise Failure(TWO_TOKENS)

    def _mixture(self, weights: Sequence[int], values: Sequence[Entry | None]) -> int:
        """The code of sum_j weight_j value_j. Weights that are no attention weights are fixed zeros."""
        chosen = [self._weights[FIRST_WEIGHT - code] for code in weights if _is_weight(code)]
        attentions = {attention for attention, _, _ in chosen}
        if len(attentions) != 1:
            raise Failure("values are mixed by the weights of more than one softmax at once")
        attention = attentions.pop()
        keys = self.trace.shapes[attention.source][0][-1]
        found: list[Entry | None] = [None] * keys
        for code, value in zip(weights, values, strict=True):
            if _is_weight(code):
                _, _, key = self._weights[FIRST_WEIGHT - code]
                value = self._plain_zero(value)  # type: ignore[assignment]
                if found[key] is not None:
                    raise Failure("one attention weight multiplies two values")
                found[key] = value
        coordinate = Coordinate(attention=attention, values=tuple(found))
        return MIXED * CHANNELS + self._mixed.setdefault(coordinate, len(self._mixed))

    # Products -------------------------------------------------------------------------------------

    def _product(self, node: Node, name: str) -> Tensor:
        args = list(node.args)
        scale = {k: v for k, v in node.kwargs.items() if k in ("alpha", "beta") and v != 1}
        if scale:
            raise Failure(f"{node.name} with {', '.join(scale)} is not in the reading's table")
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
            if OTHER in row and not any(_is_weight(code) for code in row):
                out[i] = OTHER
                continue
            if any(_is_weight(code) for code in row):
                for n in range(y.shape[1]):
                    values = [(b, int(place)) for place in py[:, n].tolist()]
                    out[i, n] = self._mixture(row, values)
                continue
            if bool((y == OTHER).any()):
                out[i] = OTHER
                continue
            matrix = [[(b, place) for place in line] for line in py.tolist()]
            if bool((y == BEFORE).all()) and self._token_free(b, py):
                vector = self._gather(row, (a, px[i]))
                self._at = (self._at[0], 1)
                name = self._constant(tuple(y.shape), tuple(e for line in matrix for e in line))
                value = self._write.put("linear", vector, name, width=y.shape[1])
                out[i] = torch.arange(y.shape[1]) + value * CHANNELS
                continue
            for n in range(y.shape[1]):
                first = self._gather(row, (a, px[i]))
                second = self._gather(y[:, n].tolist(), (b, py[:, n]))
                both = self._write.put("multiply", first, second, width=len(row))
                out[i, n] = self._write.put("sum", both, width=1) * CHANNELS

    def _token_free(self, number: int, places: Tensor) -> bool:
        bits = self.dependence.positions(number).reshape(-1)[places.reshape(-1)]
        return not bool(bits.any()) and (self._at[0], 1) not in self._as_rows

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

    def _each_group(
        self, number: int, dims: Sequence[int], make: Callable[[Operand, int], int | Sequence[int]]
    ) -> tuple[Tensor, list[int]]:
        """``make`` of every group's vector and width; codes of single results, in the rest's shape."""
        lines, places, shape = self._groups(number, dims)
        out = torch.full((len(lines),), BEFORE)
        for g, line in enumerate(lines.tolist()):
            if all(code == BEFORE for code in line):
                continue
            if OTHER in line:
                out[g] = OTHER
                continue
            out[g] = make(self._gather(line, (number, places[g])), len(line))  # type: ignore[assignment]
        return out.reshape(shape), shape

    def _dims(self, node: Node, at: int = 1) -> list[int]:
        dims = node.args[at] if len(node.args) > at else node.kwargs.get("dim")
        if dims is None or isinstance(dims, bool):
            return []
        return [dims] if isinstance(dims, int) else list(dims)

    def _kept(self, node: Node, out: Tensor, dims: Sequence[int], number: int) -> Tensor:
        """The result with its reduced axes kept, where the operation kept them."""
        wanted = self.trace.shapes[next(ref.number for ref in node.outputs if ref is not None)][0]
        return out.reshape(wanted)

    def _reduced(self, node: Node, name: str) -> Tensor:
        number, dims = node.args[0].number, self._dims(node)

        def make(x: Operand, width: int) -> int:
            if name in ("sum", "mean"):
                return self._write.put(name, x, width=1) * CHANNELS
            parts = [self._write.put("take", x, width=1, indices=(i,)) for i in range(width)]
            largest = parts[0]
            for part in parts[1:]:
                kind = "maximum" if name == "amax" else "minimum"
                largest = self._write.put(kind, largest, part, width=1)
            return largest * CHANNELS

        out, _ = self._each_group(number, dims, make)
        return self._kept(node, out, dims, number)

    def _variance(self, node: Node, name: str) -> list[Tensor]:
        number, dims = node.args[0].number, self._dims(node)
        correction = node.kwargs.get("correction", 1)
        correction = 1 if correction is None else correction

        def variance(x: Operand, width: int) -> int:
            centred = self._write.put("centre", x, width=width)
            mean = self._write.put("mean", self._write.put("square", centred, width=width), width=1)
            if correction:
                factor = self._literal(width / (width - correction))
                mean = self._write.put("multiply", mean, factor, width=1)
            if name == "std":
                mean = self._write.put("sqrt", mean, width=1)
            return mean * CHANNELS

        out, _ = self._each_group(number, dims, variance)
        results = [self._kept(node, out, dims, number)]
        if name == "var_mean":
            means, _ = self._each_group(
                number, dims, lambda x, width: self._write.put("mean", x, width=1) * CHANNELS
            )
            results.append(self._kept(node, means, dims, number))
        return results

    def _length(self, node: Node) -> Tensor:
        order = node.args[1] if len(node.args) > 1 else 2
        number, dims = node.args[0].number, self._dims(node, 2)
        if order not in (1, 2):
            raise Failure(f"the norm of order {order} is not in the reading's table")

        def make(x: Operand, width: int) -> int:
            each = self._write.put("square" if order == 2 else "abs", x, width=width)
            total = self._write.put("sum", each, width=1)
            return (self._write.put("sqrt", total, width=1) if order == 2 else total) * CHANNELS

        out, _ = self._each_group(number, dims, make)
        return self._kept(node, out, dims, number)

    def _normed(self, node: Node, name: str) -> list[Tensor]:
        number, shape = node.args[0].number, list(node.args[1])
        layer = name == "native_layer_norm"
        weight, bias = (node.args[2], node.args[3]) if layer else (node.args[2], None)
        eps = node.args[4] if layer else (node.args[3] if len(node.args) > 3 else None)
        eps = torch.finfo(torch.float32).eps if eps is None else float(eps)
        lines, places, rest = self._groups(number, range(-len(shape), 0))
        out = torch.full(lines.shape, BEFORE)
        for g, line in enumerate(lines.tolist()):
            if all(code == BEFORE for code in line):
                continue
            if OTHER in line:
                out[g] = OTHER
                continue
            x, width = self._gather(line, (number, places[g])), len(line)
            if layer:
                x = self._write.put("centre", x, width=width)
            x = self._write.put("rms", x, width=width, eps=eps)
            for at, (operand, kind) in enumerate(((weight, "multiply"), (bias, "add"))):
                if operand is not None:
                    entries = [(operand.number, i) for i in range(width)]
                    x = self._write.put(kind, x, self._from(entries, at + 2), width=width)
            out[g] = torch.arange(width) + x * CHANNELS
        codes = out.reshape(*rest, *shape)
        lost = [
            torch.full(self.trace.shapes[r.number][0], OTHER) for r in node.outputs[1:] if r is not None
        ]
        return [codes, *lost]

    def _probabilities(self, node: Node, number: int, name: str) -> Tensor:
        """At the very end, where only the order of the logits counts."""
        used = any(
            ref.number == node.outputs[0].number and later.function not in MOVES  # type: ignore[union-attr]
            for later in self.trace.nodes[number + 1 :]
            for ref in later.inputs()
        )
        if used:
            raise Failure(
                "a softmax over what follows an attention: a second attention (a second layer), or "
                "a gate that "
                "the reading's table does not have"
            )
        self._last = "log_probabilities" if name == "_log_softmax" else "probabilities"
        return self._codes[node.args[0].number]

    # Elementwise ----------------------------------------------------------------------------------

    def _elementwise(self, node: Node, name: str) -> Tensor:
        shape = self.trace.shapes[next(ref.number for ref in node.outputs if ref is not None)][0]
        if name in ("where", "masked_fill"):
            return self._chosen(node, name, shape)
        operands = [x for x in node.args if not isinstance(x, (str, bool))]
        if name == "rsub":
            name, operands = "sub", [operands[1], operands[0], *operands[2:]]
        if name in ("add", "sub") and node.kwargs.get("alpha", 1) != 1:
            raise Failure(f"{node.name} with alpha is not in the reading's table")
        codes = [self._codes[x.number].expand(shape) if isinstance(x, Ref) else None for x in operands]
        sources = [
            (x.number, _places(self._codes[x.number].shape).expand(shape))
            if isinstance(x, Ref)
            else (None, x)
            for x in operands
        ]
        if name == "gelu":
            kind = "gelu_tanh" if node.kwargs.get("approximate", "none") == "tanh" else "gelu"
            return self._combined(kind, codes[:1], sources[:1], shape)
        if name in FUNCTIONS:
            return self._combined(FUNCTIONS[name], codes[:1], sources[:1], shape)
        if name in TWO and len(operands) >= 2:
            return self._combined(TWO[name], codes[:2], sources[:2], shape)
        return self._combined(name, codes, sources, shape)

    def _chosen(self, node: Node, name: str, shape: Sequence[int]) -> Tensor:
        """A selection by what is fixed picks codes."""
        condition, yes, no = node.args if name == "where" else (node.args[1], node.args[2], node.args[0])
        if bool(self.dependence.bits[condition.number].any()):
            raise Failure(f"{node.name} chooses by numbers that tokens or parameters decide")
        chosen = self.dependence.fixed[condition.number].bool().expand(shape)
        parts = []
        for x in (yes, no):
            if isinstance(x, Ref):
                parts.append(self._with_entries(x.number).expand(shape))
            else:
                parts.append(torch.full(tuple(shape), self._part(float(x))))
        return _parts_of_own_rows(torch.where(chosen, *parts))

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
        operands: list[Operand | float] = []
        for at, (each, (number, extra)) in enumerate(zip(codes, sources, strict=True)):
            if each is None:
                operands.append(float(extra) if isinstance(extra, (int, float)) else extra)
                continue
            self._at = (self._at[0], at)
            places = extra[mine] if number is not None else None
            operands.append(
                self._gather(each[mine].tolist(), None if number is None else (number, places))
            )
        width = int(mine.sum())
        value = self._operation(name, operands, width)
        made = self._width(value)
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
            f"attention weights go through {name} before they multiply the values: the reading does "
            f"not know "
            "such an attention"
        )

    def _operation(self, name: str, operands: list[Any], width: int) -> int:
        """``name`` is a program's own, or one that several of those make up."""
        write = self._write
        if name in TWO.values():
            x, y = (self._literal(v) if isinstance(v, float) else v for v in operands)
            return self._two(name, x, y, width)
        x = operands[0]
        if name in (*FUNCTIONS.values(), "gelu", "gelu_tanh"):
            return write.put(name, x, width=self._width(x))
        width = self._width(x)
        if name == "pow":
            return self._power(x, operands[1], width)
        if name in ("clamp", "clamp_min", "clamp_max", "hardtanh", "relu6"):
            low, high = {
                "clamp": (*operands[1:], None, None)[:2],
                "clamp_min": (operands[1] if len(operands) > 1 else None, None),
                "clamp_max": (None, operands[1] if len(operands) > 1 else None),
                "hardtanh": (*operands[1:], -1.0, 1.0)[:2],
                "relu6": (0.0, 6.0),
            }[name]
            if low == 0.0 and high is None:
                return write.put("relu", x, width=width)
            return write.put("clamp", x, width=width, low=low, high=high)
        if name == "leaky_relu":
            slope = operands[1] if len(operands) > 1 else 0.01
            if not 0 <= slope <= 1:
                raise Failure(f"leaky_relu with slope {slope} is not in the reading's table")
            scaled = write.put("multiply", x, self._literal(slope), width=width)
            return write.put("maximum", x, scaled, width=width)
        if name == "hardsigmoid":
            sixth = write.put("multiply", x, self._literal(1 / 6), width=width)
            half = write.put("add", sixth, self._literal(0.5), width=width)
            return write.put("clamp", half, width=width, low=0.0, high=1.0)
        if name == "hardswish":
            three = write.put("add", x, self._literal(3.0), width=width)
            clamped = write.put("clamp", three, width=width, low=0.0, high=6.0)
            both = write.put("multiply", x, clamped, width=width)
            return write.put("multiply", both, self._literal(1 / 6), width=width)
        if name == "mish":
            gate = write.put("tanh", write.put("softplus", x, width=width), width=width)
            return write.put("multiply", x, gate, width=width)
        if name == "exp2":
            scaled = write.put("multiply", x, self._literal(0.6931471805599453), width=width)
            return write.put("exp", scaled, width=width)
        raise Failure(f"the operation aten.{name} after the attention is not in the reading's table")

    def _two(self, name: str, x: Operand, y: Operand, width: int) -> int:
        write, wide = self._write, max(self._width(x), self._width(y))
        if name == "multiply" and x == y:
            return write.put("square", x, width=wide)
        if name == "multiply":
            for value, gate in ((x, y), (y, x)):
                made = write.made_by(gate)
                if made and made.name == "sigmoid" and made.operands == (value,):
                    return write.put("silu", value, width=wide)
                if (
                    made
                    and made.name == "rsqrt"
                    and (eps := self._mean_square(made.operands[0], value)) is not None
                ):
                    return write.put("rms", value, width=wide, eps=eps)
        if name == "divide":
            made = write.made_by(y)
            if (
                made
                and made.name == "sqrt"
                and (eps := self._mean_square(made.operands[0], x)) is not None
            ):
                return write.put("rms", x, width=wide, eps=eps)
        if name == "subtract":
            made = write.made_by(y)
            if made and made.name == "mean" and made.operands == (x,):
                return write.put("centre", x, width=wide)
        if name == "maximum" and any(isinstance(v, str) and self._number(v) == 0.0 for v in (x, y)):
            return write.put("relu", x if isinstance(x, int) else y, width=wide)
        if (
            isinstance(x, str)
            and isinstance(y, int)
            and name in ("add", "multiply", "minimum", "maximum")
        ):
            x, y = y, x
        made = write.made_by(x)
        if name == "add" and made and made.name == "linear" and isinstance(y, str):
            if len(made.operands) == 2 and self._width(y) == wide:
                return write.put("linear", *made.operands, y, width=wide)
        return write.put(name, x, y, width=wide)

    def _mean_square(self, x: Operand, of: Operand) -> float | None:
        """eps, if x is the mean square of ``of`` plus eps; None otherwise."""
        made, eps = self._write.made_by(x), 0.0
        if made and made.name == "add" and isinstance(made.operands[1], str):
            number = self._number(made.operands[1])
            if number is None or number < 0:
                return None
            eps, made = number, self._write.made_by(made.operands[0])
        if made is None or made.name != "mean":
            return None
        square = self._write.made_by(made.operands[0])
        return eps if square and square.name == "square" and square.operands == (of,) else None

    def _power(self, x: Operand, exponent: Any, width: int) -> int:
        write = self._write
        if exponent in (2, 3, 4):
            square = write.put("square", x, width=width)
            if exponent == 2:
                return square
            if exponent == 4:
                return write.put("square", square, width=width)
            return write.put("multiply", square, x, width=width)
        names = {0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal", 1: None}
        if not isinstance(exponent, (int, float)) or exponent not in names:
            raise Failure(f"the power {exponent} after the attention is not in the reading's table")
        name = names[exponent]
        if name is None:
            assert isinstance(x, int)
            return x
        return write.put(name, x, width=width)

    # Operands -------------------------------------------------------------------------------------

    def _width(self, x: Operand) -> int:
        if isinstance(x, str):
            return self._specs[x][0][-1]
        if x in (MIXED, ROW):
            raise AssertionError("inputs are read through takes")
        return self._write.operations[x - 2].width

    def _number(self, name: str) -> float | None:
        """The number that all parts of a constant are, if neither tokens nor parameters decide it."""
        values = set()
        for part in self._specs[name][1]:
            if isinstance(part, tuple):
                number, place = part
                if int(self.dependence.bits[number].reshape(-1)[place]):
                    return None
                values.add(float(self.dependence.fixed[number].reshape(-1)[place]))
            else:
                values.add(part or 0.0)
        return values.pop() if len(values) == 1 else None

    def _literal(self, value: float) -> str:
        return self._constant((1,), (float(value),))

    def _constant(self, shape: tuple[int, ...], parts: tuple[Part, ...]) -> str:
        parts = tuple(map(self._plain_zero, parts))
        key = shape, parts
        if key not in self._constants:
            name = f"c{len(self._constants)}"
            self._constants[key] = name
            self._specs[name] = key
            self._origins[name] = self._at
        return self._constants[key]

    def _from(self, entries: Sequence[Entry], at: int) -> Operand:
        """A vector of numbers that come before the attention: a constant, or channels of the row."""
        self._at = (self._at[0], at)
        same = len(set(entries)) == 1
        entries = entries[:1] if same else entries
        free = all(not int(self.dependence.positions(n).reshape(-1)[p]) for n, p in entries)
        if free and self._at not in self._as_rows:
            return self._constant((len(entries),), tuple(entries))
        channels = tuple(self._entry_code(entry) % CHANNELS for entry in entries)
        return self._write.put("take", ROW, width=len(channels), indices=channels)

    def _gather(self, codes: Sequence[int], source: tuple[int, Tensor] | None = None) -> Operand:
        """The operand whose channels have these codes; ``source``: the tensor, and the places in it, of
        those that come before the attention."""
        if all(code == BEFORE for code in codes):
            assert source is not None
            number, places = source
            return self._from(
                [(number, int(place)) for place in places.reshape(-1).tolist()], self._at[1]
            )
        if len(set(codes)) == 1:
            codes = codes[:1]
        parts: list[Operand] = []
        for before, run in itertools.groupby(enumerate(codes), lambda pair: pair[1] == BEFORE):
            pairs = list(run)
            if before:
                assert source is not None
                flat = source[1].reshape(-1).tolist()
                entries = [(source[0], int(flat[i])) for i, _ in pairs]
                channels = tuple(self._entry_code(entry) % CHANNELS for entry in entries)
                parts.append(self._write.put("take", ROW, width=len(channels), indices=channels))
                continue
            for value, same in itertools.groupby(
                pairs, lambda pair: pair[1] // CHANNELS if pair[1] >= 0 else BEFORE
            ):
                if value == BEFORE:
                    chosen = tuple(self._part_of(code) for _, code in same)
                    parts.append(self._constant((len(chosen),), chosen))
                    continue
                channels = tuple(code % CHANNELS for _, code in same)
                whole = value >= 2 and channels == tuple(range(self._width(value)))
                parts.append(
                    value
                    if whole
                    else self._write.put("take", value, width=len(channels), indices=channels)
                )
        if len(parts) == 1:
            return parts[0]
        return self._write.put("concat", *parts, width=len(codes))

    # The finished program -------------------------------------------------------------------------

    def _finished(self, logits: int) -> Lowered:
        """Only what the logits need, with the channels of ``mixed`` head by head."""
        operations = self._write.operations
        mixed, place = self._by_head()
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
            if operation.name == "take" and number != logits and source in (MIXED, ROW):
                if indices == tuple(range(widths[source])):  # type: ignore[index]
                    rename[number] = source
                    continue
            operands = tuple(
                rename[x] if isinstance(x, int) else names.setdefault(x, f"c{len(names)}")
                for x in operation.operands
            )
            kept.append(dataclasses.replace(operation, operands=operands, indices=indices))
            rename[number] = len(kept) + 1
        constants = {new: self._specs[old] for old, new in names.items()}
        kept, constants = simplified(kept, constants, widths)
        kept, row_bias = _bias_in_row(kept, len(self._rows))
        shift = constants.pop(row_bias, None) if row_bias else None
        kept, constants = _renamed(kept, constants)
        return Lowered(
            program=HeadProgram(
                mixed_width=len(mixed),
                row_width=len(self._rows),
                operations=tuple(kept),
                constants=tuple((name, shape) for name, (shape, _) in constants.items()),
            ),
            constants=constants,
            origins={self._specs[old][1]: self._origins[old] for old in names},
            rows=tuple(self._rows),
            row_shift=shift[1] if shift else (),
            mixed=mixed,
            offset=self._key_offset,
            last=self._last,
        )

    def _by_head(self) -> tuple[tuple[Coordinate | None, ...], dict[int, int]]:
        """The channels of ``mixed`` in the tables' order, each head filled up to the longest with None,
        and where each channel went."""
        heads: dict[Attention, list[Coordinate]] = {}
        for coordinate in self._mixed:
            heads.setdefault(coordinate.attention, []).append(coordinate)
        longest = max(map(len, heads.values()))
        ordered: list[Coordinate | None] = []
        for own in heads.values():
            ordered += [*own, *[None] * (longest - len(own))]
        place = {self._mixed[c]: i for i, c in enumerate(ordered) if c is not None}
        return tuple(ordered), place


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
    return _renamed(operations, constants)


def _merged(
    inner: Operation,
    outer: Operation,
    constants: dict[str, Spec],
    width: Callable[[int], int],
    norm: Callable[[Operand], bool],
) -> Operation | None:
    """Both as one operation on the inner one's operand; a new constant is added."""
    source = inner.operands[0]
    fresh = f"m{len(constants)}"
    while fresh in constants:
        fresh += "_"
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
        if what.kind == "rows" and right[0][0] > 1:
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


def _renamed(
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


def _bias_in_row(operations: list[Operation], width: int) -> tuple[list[Operation], str | None]:
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


def _parts_of_own_rows(codes: Tensor) -> Tensor:
    """What was put among numbers of another query position belongs to that one too."""
    others = (codes == OTHER).any(-1, keepdim=True)
    return torch.where((codes <= FIRST_PART) & others, OTHER, codes)


def _is_weight(code: int) -> bool:
    return FIRST_PART < code <= FIRST_WEIGHT


def _places(shape: Sequence[int]) -> Tensor:
    return torch.arange(int(torch.Size(shape).numel())).reshape(tuple(shape))
