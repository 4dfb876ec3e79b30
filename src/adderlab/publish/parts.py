"""Python source of the linear maps and norms, one expression for each part of a model, and the names
of the weights in it.

``applied(part, x, code)`` is the source of ``part(x)``: the same operations in the same order as the
part's own ``forward``, with everything that this model does not have left out.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import Parameter

from adderlab.errors import UsageError
from adderlab.models.config import ModelConfig
from adderlab.models.layers import PlainRMSNorm, RMSNorm
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
from adderlab.models.transformer import Transformer, skeleton

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
