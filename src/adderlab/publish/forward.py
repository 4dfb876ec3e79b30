"""Python source of one model's forward pass, specialised to its configuration.

The model of a submission file is one class, ``Adder``: a table of weights as parameters, and a method
for every stage of ``adderlab.models.transformer`` in the same order of operations.

Linear maps and norms are one expression for each part of a model. ``applied(part, x, code)`` is the
source of ``part(x)``: the same operations in the same order as the part's own ``forward``, with
everything that this model does not have left out.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import Parameter

from adderlab.errors import UsageError
from adderlab.models.config import SPECIALS, ModelConfig
from adderlab.models.layers import MLP, SHARED_FACTORS, Attention, PlainRMSNorm, RMSNorm
from adderlab.models.maps import (
    CarryDown,
    Identity,
    InputRotated,
    LastScalesFirst,
    Linear,
    LowRankLinear,
    MirroredDown,
    MirroredUp,
    Negated,
    OneChannel,
    QuarterNorm,
    QueryTransposeTail,
    Rotated,
    Scaled,
    ScaledChannels,
    ScaledRotation,
    SparseGate,
    Transposed,
)
from adderlab.models.transformer import (
    Block,
    CircleColumns,
    ColumnPositions,
    LearnedColumns,
    LowRankPositionTable,
    PositionTable,
    TokenArc,
    Transformer,
    skeleton,
)

ROTARY = '''
def rotary(x):
    """Rotary positions (arXiv 2104.09864) of base {theta:g}, on pairs of {which}."""
    position = torch.arange(x.shape[-2], dtype=torch.float64)
    frequency = [{theta!r} ** (-2 * g / {width}) for g in range({pairs})]
    angle = position[:, None] * torch.tensor(frequency, dtype=torch.float64)
    cos, sin = angle.cos().to(x), angle.sin().to(x)
    first, second = {split}
    turned = (first * cos - second * sin, first * sin + second * cos)
    return {join}
'''


def adder_class(model: Transformer) -> tuple[list[str], Code]:
    """(lines of the class ``Adder``, the helpers and imports it needs).

    Raises ``UsageError`` for a model with a part that cannot be written.
    """
    code = Code(expressions(model))
    layers = model.config.n_layer > 1
    methods = [
        _method("forward(self, tokens)", *_forward(model, code)),
        *_tables(model, code),
        _method(_signature("attention", layers), None, _attention(model.block(0).attn, code)),
        _method(_signature("mlp", layers), None, _mlp(model.block(0).mlp, code)),
    ]
    return [line for method in methods for line in ["", *method]], code


def _method(signature: str, docstring: str | None, body: list[str]) -> list[str]:
    lines = [f"    def {signature}:"]
    if docstring:
        lines.append(f'        """{docstring}"""')
    return lines + [f"        {line}" for line in body]


def _signature(name: str, layers: bool) -> str:
    return f"{name}(self, x, layer)" if layers else f"{name}(self, x)"


def _forward(model: Transformer, code: Code) -> tuple[str, list[str]]:
    config = model.config
    lines = _embedded(model, code)
    if config.repeat_mix:
        gain = code.weight(model.repeat_gain)
        through = [
            "once = x",
            *_blocks(model, code, "once"),
            "twice = once",
            *_blocks(model, code, "twice"),
        ]
        lines += [*through, f"x = once + {gain} * (twice - once)"]
    else:
        lines += _blocks(model, code, "x")
    lines.append(f"x = {applied(model.ln_f, 'x', code)}")
    width = config.content_width if config.head == "projected" else config.token_width
    read = _read(range(width), config.d_model)
    if model.head_proj is not None:
        read = applied(model.head_proj, read, code)
    logits = f"{code.function('linear')}({read}, {_token_table(model, code)})"
    scale = "" if config.logit_scale == 1.0 else f" * {config.logit_scale!r}"
    lines.append(f"return {logits}{scale}")
    vocabulary = config.token_layout.vocab_size
    return f"Tokens (batch, length) -> logits (batch, length, {vocabulary}).", lines


def _blocks(model: Transformer, code: Code, x: str) -> list[str]:
    block: Block = model.block(0)
    layer = ", layer" if model.config.n_layer > 1 else ""
    lines = [
        f"{x} = {x} + self.attention({applied(block.ln1, x, code)}{layer})",
        f"{x} = {x} + self.mlp({applied(block.ln2, x, code)}{layer})",
    ]
    if not layer:
        return lines
    return ["for layer in self.layers:", *(f"    {line}" for line in lines)]


def _embedded(model: Transformer, code: Code) -> list[str]:
    config, tokens = model.config, f"{_token_table(model, code)}[tokens]"
    rest = config.d_model - config.token_width
    if model.pos_emb is None:
        return [f"x = {_padded(tokens, rest, code)}"]
    positions = _positions(model, code)
    if config.token_dim is None:
        return [f"x = {tokens} + {positions}"]
    return [
        f"positions = {operand(positions)}.expand(tokens.shape[0], -1, -1)",
        f"x = torch.cat([{tokens}, positions], -1)",
    ]


def _padded(source: str, rest: int, code: Code) -> str:
    """The expression with so many zero channels after its own."""
    return f"{code.function('pad')}({source}, (0, {rest}))" if rest else source


def _token_table(model: Transformer, code: Code) -> str:
    if isinstance(model.token_emb, TokenArc):
        return "self.token_table()"
    return code.weight(model.token_emb.weight)


def _positions(model: Transformer, code: Code) -> str:
    """The rows of the positions that are read, (length, width)."""
    part, read = model.pos_emb, "[: tokens.shape[1]]"
    if isinstance(part, PositionTable):
        return code.weight(part.weight) + read
    if isinstance(part, LowRankPositionTable):
        return f"{code.weight(part.A)}{read} @ {code.weight(part.B)}"
    assert isinstance(part, ColumnPositions)
    return f"self.position_table(){read}"


def _tables(model: Transformer, code: Code) -> list[list[str]]:
    """The methods that make the token or position table from fewer numbers."""
    methods = []
    if isinstance(model.token_emb, TokenArc):
        part = model.token_emb
        methods.append(_token_arc(part, code))
    if isinstance(model.pos_emb, ColumnPositions):
        docstring = "The same row for column j of both numbers and of the sum."
        methods.append(_method("position_table(self)", docstring, _column_table(model.pos_emb, code)))
    return methods


def _token_arc(part: TokenArc, code: Code) -> list[str]:
    stride, middle = code.weight(part.stride), (part.vocab_size - 1) / 2
    if part.start is None:
        docstring = f"Token t at (t - {middle}) * stride on an arc."
        lines = [f"token = torch.arange({part.vocab_size}) - {middle}", f"angle = token * {stride}"]
    else:
        docstring = "Token t at start + t * stride on an arc."
        angle = f"angle = {code.weight(part.start)} + token * {stride}"
        lines = [f"token = torch.arange({part.vocab_size})", angle]
    lines.append("cos, sin = angle.cos(), angle.sin()")
    if part.radius is None:
        lines.append("return torch.stack([cos, sin], 1)")
    else:
        radius = code.weight(part.radius)
        sine = radius if part.sine_radius is None else code.weight(part.sine_radius)
        lines.append(f"return torch.stack([{radius} * cos, {sine} * sin], 1)")
    return _method("token_table(self)", docstring, lines)


def _column_table(part: ColumnPositions, code: Code) -> list[str]:
    """Rows of all positions: runs of the columns, and single special rows between."""
    lines, count = _columns(part, code), part.num_columns
    pieces, rows = [], list(part.row_of_position)
    ascending = list(range(count))
    if part.learned_specials:
        shared = len(part.learned_specials) == 1
        left = part.learned_specials[0] if shared else ", ".join(part.learned_specials)
        lines.append(f"{left} = {code.weight(part.special)}" + ("" if shared else ".split(1)"))
    while rows:
        if rows[:count] in (ascending, ascending[::-1]):
            pieces.append("columns" if rows[0] == 0 else "columns.flip(0)")
            rows = rows[count:]
            continue
        special = SPECIALS[rows.pop(0) - count]
        if isinstance(part.columns, CircleColumns):
            pieces.append("top" if special == "top" else "separator")
        else:
            pieces.append(special if special in part.learned_specials else "zero")
    if "zero" in pieces:
        lines.append(f"zero = torch.zeros(1, {part.width})")
    if pieces[-1] == "separator":
        # Of the circle: the end, which is never read, after three equal runs.
        run = pieces[: len(pieces) // 3]
        assert pieces[:-1] == run * 3, pieces
        return [*lines, f"return torch.cat([{', '.join(run)}]).repeat(3, 1)"]
    return [*lines, f"return torch.cat([{', '.join(pieces)}])"]


def _columns(part: ColumnPositions, code: Code) -> list[str]:
    columns = part.columns
    if isinstance(columns, LearnedColumns):
        return [f"columns = {code.weight(columns.weight)}"]
    if isinstance(columns, CircleColumns):
        return _circle(columns, code)
    if columns.learned:
        values = [code.weight(getattr(columns, name)) for name in columns.NAMES]
        kind, end = "", ""
    else:
        # In float64 and then rounded, as the checkpoint's own model has it.
        values = [repr(value) if value else "" for value in columns.start]
        kind, end = ", dtype=torch.float64", ".float()"
    amplitude, phase, slope, offset = values
    code.needs_math = True
    angle = f"column * (2 * math.pi / {columns.columns})" + (f" + {phase}" if phase else "")
    height = f"{slope or '0'} * column" + (f" + {offset}" if offset else "")
    scale = f"{amplitude or '0'} * "
    return [
        f"column = torch.arange({columns.columns}{kind})",
        f"angle = {angle}",
        f"circle = {scale}angle.cos(), {scale}angle.sin()",
        f"columns = torch.stack([*circle, {height}], 1){end}",
    ]


def _circle(columns: CircleColumns, code: Code) -> list[str]:
    """The columns, the top one and the separators' place."""
    code.needs_math = True
    phase = f" + {columns.phase!r}" if columns.phase else ""
    scale = "" if columns.amplitude == 1.0 else f"{columns.amplitude!r} * "
    places = columns.columns + 2
    return [
        f"place = torch.arange({places}, dtype=torch.float64)",
        f"angle = 2 * math.pi * place / {places}{phase}",
        f"places = torch.stack([{scale}angle.cos(), {scale}angle.sin()], 1).float()",
        f"columns, top, separator = places.split([{columns.columns}, 1, 1])",
    ]


def _attention(part: Attention, code: Code) -> list[str]:
    config = part.config
    H, G, K = config.n_head, config.kv_heads, config.key_width
    lines = _projections(part, code)
    if H > 1:
        for name, heads in (("query", H), ("key", G), ("value", G)):
            lines.append(f"{name} = {name}.unflatten(-1, ({heads}, -1)).transpose(1, 2)")
    if config.qk_norm != "none":
        lines.append(f"query = {applied(part.q_norm, 'query', code)}")
        lines.append(f"key = {applied(part.k_norm, 'key', code)}")
    if config.rope_theta is not None:
        rotary = code.helper("rotary", _rotary(config.rope_theta, K, config.rope_pairs))
        lines.append(f"query, key = {rotary}(query), {rotary}(key)")
    if G < H:
        repeat = f"repeat_interleave({H // G}, 1)"
        lines.append(f"key, value = key.{repeat}, value.{repeat}")
    root = math.isqrt(K)
    scale = str(root)
    if root * root != K:
        code.needs_math, scale = True, f"math.sqrt({K})"
    if K > 1:
        lines.append(f"score = query @ key.transpose(-2, -1) / {scale}")
    else:
        lines.append("score = query @ key.transpose(-2, -1)")
    lines += [
        "future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)",
        'weight = score.masked_fill(future, float("-inf")).softmax(-1)',
    ]
    mixed = "weight @ value" if H == 1 else "(weight @ value).transpose(1, 2).flatten(2)"
    rest = config.d_model - config.content_width
    result = _padded(applied(part.proj, mixed, code), rest, code)
    return [*lines, *code.take_lines(), f"return {result}"]


def _projections(part: Attention, code: Code) -> list[str]:
    """Statements that set query, key and value, (batch, length, width) each."""
    config, tie = part.config, part.config.tie_qkv
    if tie == "none":
        return [f"query, key, value = {operand(applied(part.qkv, 'x', code))}.chunk(3, -1)"]
    if part.map_names is None:
        sources = [
            f"x @ {code.weight(getattr(part, A))} @ {code.weight(getattr(part, B))}"
            for A, B in SHARED_FACTORS[tie]
        ]
    else:
        qk, value = (_read(c, config.d_model) for c in (part.qk_channels, part.value_channels))
        query_name, key_name, value_name = part.map_names
        sources = [
            applied(getattr(part, query_name), qk, code),
            applied(getattr(part, key_name), qk, code),
            applied(getattr(part, value_name), value, code),
        ]
    lines = code.take_lines()
    known: dict[str, str] = {}
    for name, source in zip(("query", "key", "value"), sources, strict=True):
        lines.append(f"{name} = {known.get(source, source)}")
        known.setdefault(source, name)
    return lines


def _read(channels: range, width: int) -> str:
    if len(channels) == width:
        return "x"
    start, stop = channels.start or "", "" if channels.stop == width else channels.stop
    return f"x[..., {start}:{stop}]"


def _rotary(theta: float, width: int, pairs: str) -> str:
    halves = pairs == "halves"
    return ROTARY.format(
        theta=theta,
        which="coordinates half the width apart" if halves else "neighbouring coordinates",
        width=width,
        pairs=width // 2,
        split="x.chunk(2, -1)" if halves else "x[..., 0::2], x[..., 1::2]",
        join="torch.cat(turned, -1)" if halves else "torch.stack(turned, -1).flatten(-2)",
    )


def _mlp(part: MLP, code: Code) -> list[str]:
    read = _read(range(part.content), part.content + part.rest)
    up = applied(part.fc1, read, code)
    if part.activation == "swiglu":
        assert isinstance(part.gate, nn.Module)
        gate = applied(part.gate, read, code)
        hidden = code.let("hidden", f"{code.function('silu')}({gate}) * {operand(up)}")
    else:
        hidden = f"{code.function(part.activation)}({up})"
    result = _padded(applied(part.fc2, hidden, code), part.rest, code)
    return [*code.take_lines(), f"return {result}"]


# Linear maps and norms.


_PLACE = re.compile(r"^blocks\.(\d+)\.(?:(?:attn|mlp)\.)?")

RMS_NORM = '''
def rms_norm(x, weight):
    """RMS norm (arXiv 1910.07467)."""
    return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + {eps}) * weight
'''

PLAIN_RMS_NORM = '''
def rms_norm(x):
    """RMS norm (arXiv 1910.07467) without a weight."""
    return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + {eps})
'''

TURN = '''
def turn(x, angle):
    """Turn each pair of coordinates by one angle."""
    first, second = x[..., 0::2], x[..., 1::2]
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([first * cos - second * sin, first * sin + second * cos], -1).flatten(-2)
'''

TURN_ODD = '''
def turn_all_but_last(x, angle):
    """Turn each pair of coordinates by one angle; the last coordinate stays."""
    first, second = x[..., 0:-1:2], x[..., 1:-1:2]
    cos, sin = angle.cos(), angle.sin()
    turned = torch.stack([first * cos - second * sin, first * sin + second * cos], -1).flatten(-2)
    return torch.cat([turned, x[..., -1:]], -1)
'''


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a parameter lives in the file: an attribute of the model, or of one of its layers."""

    layer: int | None
    attribute: str

    @property
    def expression(self) -> str:
        """How a method of the model reads it."""
        return f"{'self' if self.layer is None else 'layer'}.{self.attribute}"


def places(config: ModelConfig) -> dict[str, Place]:
    """Checkpoint name -> place, in the checkpoint's order. Tied parameters are there once."""
    return {name: place for _, name, place in _walk(skeleton(config))}


def expressions(model: Transformer) -> dict[int, str]:
    """Identity of each parameter of ``model`` -> how a method reads it."""
    return {id(parameter): place.expression for parameter, _, place in _walk(model)}


def _walk(model: Transformer) -> list[tuple[Parameter, str, Place]]:
    every: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        every.setdefault(id(parameter), []).append(name)
    found = []
    for name, parameter in model.named_parameters():
        attribute = _PLACE.sub("", name)
        if attribute.endswith(".weight") and f"{name[:-7]}.bias" not in dict(model.named_parameters()):
            attribute = attribute[:-7]
        attribute = attribute.replace("pos_emb.columns.", "pos_emb.")
        place = Place(
            layer=_layer(every[id(parameter)], len(model.blocks)), attribute=attribute.replace(".", "_")
        )
        found.append((parameter, name, place))
    assert len({place for _, _, place in found}) == len(found), "two parameters with one attribute"
    return found


def _layer(names: list[str], num_layers: int) -> int | None:
    """The layer that alone uses a parameter; None in a model of one layer."""
    layers = {int(match[1]) if (match := _PLACE.match(name)) else None for name in names}
    return layers.pop() if num_layers > 1 and len(layers) == 1 else None


class Code:
    """What one file needs: the names of its weights, its helper functions, its imports."""

    def __init__(self, names: dict[int, str]) -> None:
        self._names = names
        self.helpers: dict[str, str] = {}
        self.functions: set[str] = set()
        """Used functions of ``torch.nn.functional``."""
        self.needs_math = False
        self.lines: list[str] = []
        """Statements of the method being written."""

    def weight(self, parameter: Tensor | None) -> str:
        assert parameter is not None
        return self._names[id(parameter)]

    def function(self, name: str) -> str:
        """A function of ``torch.nn.functional``, imported by its name."""
        self.functions.add(name)
        return name

    def helper(self, name: str, source: str) -> str:
        """A function of the file itself."""
        assert self.helpers.setdefault(name, source) == source, f"two helpers named {name}"
        return name

    def let(self, name: str, value: str) -> str:
        """Assign ``value`` to a local name unless it is one already."""
        if re.fullmatch(r"\w+", value):
            return value
        line = f"{name} = {value}"
        if line not in self.lines:
            self.lines.append(line)
        return name

    def take_lines(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines


def operand(expression: str) -> str:
    """The expression, in brackets unless it binds tighter than any operator."""
    depth = 0
    for character in expression:
        depth += (character in "([{") - (character in ")]}")
        if character == " " and depth == 0:
            return f"({expression})"
    return expression


@functools.singledispatch
def applied(part: Any, x: str, code: Code) -> str:
    """Source of ``part(x)``; ``x`` is an expression. Raises ``UsageError`` for an unknown part."""
    raise UsageError(
        f"export to adderboard cannot write the part {type(part).__name__}; "
        "export to safetensors or hub-folder instead"
    )


@applied.register
def _(part: Linear, x: str, code: Code) -> str:
    weights = [code.weight(part.weight)]
    if part.bias is not None:
        weights.append(code.weight(part.bias))
    return f"{code.function('linear')}({x}, {', '.join(weights)})"


@applied.register
def _(part: LowRankLinear, x: str, code: Code) -> str:
    return f"{operand(x)} @ {code.weight(part.A)} @ {code.weight(part.B)}"


@applied.register
def _(part: Scaled, x: str, code: Code) -> str:
    return f"{code.weight(part.scale)} * {operand(applied(part.source, x, code))}"


@applied.register
def _(part: Rotated, x: str, code: Code) -> str:
    source, angle = applied(part.source, x, code), code.weight(part.angle)
    turn = _turn(code, part.group)
    if part.group == width(part.source):
        return f"{turn}({source}, {angle})"
    return f"{turn}({operand(source)}.unflatten(-1, (-1, {part.group})), {angle}).flatten(-2)"


@applied.register
def _(part: InputRotated, x: str, code: Code) -> str:
    assert isinstance(part.source, Transposed)
    turn = _turn(code, width(part.source.source))
    return applied(part.source, f"{turn}({x}, {code.weight(part.angle)})", code)


@applied.register
def _(part: Transposed, x: str, code: Code) -> str:
    assert isinstance(part.source, Linear)
    return f"{operand(x)} @ {code.weight(part.source.weight)}"


@applied.register
def _(part: LastScalesFirst, x: str, code: Code) -> str:
    core, scale = code.weight(part.core), code.weight(part.scale)
    rows = code.let("rows", f"torch.cat([{core}, {scale} * {core}[:1]])")
    return f"{code.function('linear')}({x}, {rows})"


@applied.register
def _(part: QueryTransposeTail, x: str, code: Code) -> str:
    x, query, scale = code.let("mixed", x), code.weight(part.source.weight), code.weight(part.tail_scale)
    tail = code.let("tail", f"{code.function('pad')}({query}[1:, -1] * {scale}, (1, 0))")
    return f"torch.cat([{x} @ {query}, {x} @ {tail}[:, None]], -1)"


@applied.register
def _(part: SparseGate, x: str, code: Code) -> str:
    return f"{code.function('linear')}({x}, {_sparse_gate(part, code)})"


@applied.register
def _(part: CarryDown, x: str, code: Code) -> str:
    hidden = code.let("hidden", x)
    scale = code.let("scale", f"{code.function('pad')}({code.weight(part.scale)}, (0, 1))")
    carry = f"{hidden}[..., -1:] * {_sparse_gate(part.gate, code)}[-1]"
    return f"{hidden} @ {code.weight(part.up.weight)} * {scale} + {carry}"


def _sparse_gate(part: SparseGate, code: Code) -> str:
    last = f"{code.function('pad')}({code.weight(part.last)}, (0, 1))"
    return code.let("gate", f"torch.cat([{code.weight(part.rows)}, {last}[None]])")


@applied.register
def _(part: Identity, x: str, code: Code) -> str:
    return x


@applied.register
def _(part: Negated, x: str, code: Code) -> str:
    return f"-{operand(x)}"


@applied.register
def _(part: ScaledChannels, x: str, code: Code) -> str:
    return f"{operand(x)} * {code.weight(part.scale)}"


@applied.register
def _(part: ScaledRotation, x: str, code: Code) -> str:
    turn = _turn(code, part.channels)
    return f"{code.weight(part.scale)} * {turn}({x}, {code.weight(part.angle)})"


@applied.register
def _(part: MirroredUp, x: str, code: Code) -> str:
    weight = code.weight(part.pairs.weight)
    if part.unit:
        weight = code.let("up", f"torch.cat([{weight}, torch.ones_like({weight}[:, :1])], 1)")
    mirrored = code.let("mirrored_up", f"torch.cat([{weight}[:, :-1], -{weight}[:, -1:]], 1)")
    both = code.let("up_pairs", f"torch.cat([{weight}, {mirrored}])")
    return f"{code.function('linear')}({x}, {both})"


@applied.register
def _(part: MirroredDown, x: str, code: Code) -> str:
    weight = code.weight(part.pairs.weight)
    if part.even:
        weight = code.let("down", f"torch.cat([{weight}] * {part.channels})")
    mirrored = code.let("mirrored_down", f"torch.cat([{weight}[:-1], -{weight}[-1:]])")
    both = code.let("down_pairs", f"torch.cat([{weight}, {mirrored}], 1)")
    return f"{code.function('linear')}({x}, {both})"


@applied.register
def _(part: OneChannel, x: str, code: Code) -> str:
    return f"{code.function('pad')}({applied(part.column, x, code)}, ({part.before}, {part.after}))"


@applied.register
def _(part: PlainRMSNorm, x: str, code: Code) -> str:
    return f"{code.helper('rms_norm', PLAIN_RMS_NORM.format(eps=repr(part.eps)))}({x})"


@applied.register
def _(part: RMSNorm, x: str, code: Code) -> str:
    return _rms_norm(code, part.eps, x, code.weight(part.weight))


@applied.register
def _(part: QuarterNorm, x: str, code: Code) -> str:
    shape = ", ".join(map(repr, part.SHAPE))
    return _rms_norm(code, part.eps, x, f"{code.weight(part.scale)} * torch.tensor([{shape}])")


@applied.register
def _(part: nn.LayerNorm, x: str, code: Code) -> str:
    (size,) = part.normalized_shape
    weight, bias = code.weight(part.weight), code.weight(part.bias)
    eps = "" if part.eps == 1e-5 else f", {part.eps!r}"
    return f"{code.function('layer_norm')}({x}, ({size},), {weight}, {bias}{eps})"


def _rms_norm(code: Code, eps: float, x: str, weight: str) -> str:
    return f"{code.helper('rms_norm', RMS_NORM.format(eps=repr(eps)))}({x}, {weight})"


def _turn(code: Code, size: int) -> str:
    """The helper that turns neighbouring pairs of ``size`` coordinates; an odd last one stays."""
    return code.helper("turn", TURN) if size % 2 == 0 else code.helper("turn_all_but_last", TURN_ODD)


@functools.singledispatch
def width(part: Any) -> int:
    """Number of outputs of a map that has them in its weights."""
    raise UsageError(f"export to adderboard does not know the width of a {type(part).__name__}")


@width.register
def _(part: Linear) -> int:
    return part.out_features


@width.register
def _(part: LowRankLinear) -> int:
    return part.B.shape[1]


@width.register
def _(part: LastScalesFirst) -> int:
    return part.core.shape[0] + 1
