"""Linear maps: full, low-rank, tied to another map, or made of a few numbers.

Each says two things side by side:

``forward``  what it does to one model's activations, as plain PyTorch (the oracle);
``dense``    the dense weights it stands for, for S models at once (on the way to the tables).

``dense`` takes the part's own parameters stacked over seeds, by name.

Shapes: S seeds, r rank, C channels, D width, F hidden units, K coordinates of a key, G = K / 2 pairs of
coordinates, R positions; weights as (S, in, out).
Initialisation: protocols of the published 456p program; low-rank factors are
N(0, sqrt(2 / (rows + columns))), full matrices N(0, 0.02) (``transformer.draw``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from adderlab.models import ordered

Stacked = Mapping[str, Tensor]
"""Parameters of S models by name, the seed axis first."""


def scope(params: Stacked, prefix: str) -> dict[str, Tensor]:
    """The parameters below ``prefix.``, with the prefix taken off."""
    head = prefix + "."
    return {name[len(head) :]: tensor for name, tensor in params.items() if name.startswith(head)}


def padded(x: Tensor, dim: int, *, before: int = 0, after: int = 0) -> Tensor:
    """``x`` with so many zeros around it on one axis."""
    if not before and not after:
        return x

    def zeros(count: int) -> list[Tensor]:
        shape = list(x.shape)
        shape[dim] = count
        return [x.new_zeros(shape)] if count else []

    return torch.cat([*zeros(before), x, *zeros(after)], dim)


class Map(Protocol):
    """Any linear map: the classes below, and modules of other files that have the same two methods."""

    def __call__(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        ...

    def dense(self, params: Stacked) -> Tensor:
        """(S, in, out); a map without parameters may give (1, in, out)."""
        ...


class Linear(nn.Linear):
    """x @ weight^T (+ bias); the weight is stored (out, in) as in PyTorch."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False) -> None:
        super().__init__(in_features, out_features, bias=bias)

    def dense(self, params: Stacked) -> Tensor:
        """(S, in, out)."""
        return params["weight"].transpose(1, 2)


class LowRankLinear(nn.Module):
    """x @ A @ B, no bias: in * r + r * out parameters."""

    def __init__(self, in_features: int, out_features: int, rank: int) -> None:
        super().__init__()
        self.A = low_rank_factor(in_features, rank)
        self.B = low_rank_factor(rank, out_features)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.A @ self.B

    def dense(self, params: Stacked) -> Tensor:
        """(S, in, out)."""
        return ordered.matmul(params["A"], params["B"])


def low_rank_factor(rows: int, columns: int) -> nn.Parameter:
    """A factor of a low-rank matrix, drawn so that A @ B has the variance of a full one."""
    return nn.Parameter(torch.empty(rows, columns).normal_(0.0, math.sqrt(2.0 / (rows + columns))))


def linear(in_features: int, out_features: int, rank: int, *, bias: bool = False) -> Map:
    """A full map for rank 0, otherwise a low-rank one."""
    if rank:
        return LowRankLinear(in_features, out_features, rank)
    return Linear(in_features, out_features, bias=bias)


# Rotations of pairs of coordinates: by a learned angle, or by one that grows with the position.


def split_pairs(x: Tensor, pairs: str) -> tuple[Tensor, Tensor]:
    """(..., K) -> first and second coordinate of each pair, (..., G)."""
    if pairs == "halves":
        first, second = x.chunk(2, -1)
        return first, second
    return x[..., 0::2], x[..., 1::2]


def join_pairs(first: Tensor, second: Tensor, pairs: str) -> Tensor:
    """The inverse of ``split_pairs``."""
    if pairs == "halves":
        return torch.cat([first, second], -1)
    return torch.stack([first, second], -1).flatten(-2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, pairs: str) -> Tensor:
    """Each pair (u, v) becomes (u cos - v sin, u sin + v cos); cos and sin broadcast to (..., G)."""
    first, second = split_pairs(x, pairs)
    return join_pairs(first * cos - second * sin, first * sin + second * cos, pairs)


def rotate_neighbours(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """``rotate`` on the pairs (0,1), (2,3), ...; with an odd last coordinate, that one stays."""
    whole = x.shape[-1] // 2 * 2
    rotated = rotate(x[..., :whole], cos, sin, "neighbours")
    return rotated if whole == x.shape[-1] else torch.cat([rotated, x[..., whole:]], -1)


class _RotateFixed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, pairs: str) -> Tensor:
        ctx.rotation = cos, sin, pairs
        return rotate(x, cos, sin, pairs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin, pairs = ctx.rotation
        return rotate(grads[0], cos, -sin, pairs), None, None, None


def rotate_fixed(x: Tensor, cos: Tensor, sin: Tensor, pairs: str) -> Tensor:
    """``rotate`` by angles that are not learned; its derivative rotates back."""
    return _RotateFixed.apply(x, cos, sin, pairs)


class _RotateBy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, angle_S: Tensor) -> Tensor:
        cos_sin = [t.reshape(-1, *[1] * (x.ndim - 1)) for t in (angle_S.cos(), angle_S.sin())]
        y = rotate_neighbours(x, *cos_sin)
        ctx.save_for_backward(y, *cos_sin)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (grad,) = grads
        y, cos, sin = ctx.saved_tensors
        whole = y.shape[-1] // 2 * 2
        first, second = split_pairs(y[..., :whole], "neighbours")
        grad_first, grad_second = split_pairs(grad[..., :whole], "neighbours")
        swirl = grad_second * first - grad_first * second
        grad_angle_S = ordered.fold(swirl.reshape(len(y), -1), 1)
        return rotate_neighbours(grad, cos, -sin), grad_angle_S


def rotate_by(x: Tensor, angle_S: Tensor) -> Tensor:
    """``rotate_neighbours`` of x (S, ..., K) by one learned angle per seed."""
    return _RotateBy.apply(x, angle_S)


def rotary(positions: list[int], width: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos_RG and sin_RG of position p times theta^(-2 g / width), float64 (arXiv 2104.09864)."""
    angle_RG = torch.tensor(
        [[p * theta ** (-2 * g / width) for g in range(width // 2)] for p in positions],
        dtype=torch.float64,
    ).reshape(len(positions), width // 2)
    return angle_RG.cos(), angle_RG.sin()


def circle(count: int, amplitude: float, phase: float) -> list[tuple[float, float]]:
    """``count`` points at equal angles."""
    angles = [2 * math.pi * i / count + phase for i in range(count)]
    return [(amplitude * math.cos(angle), amplitude * math.sin(angle)) for angle in angles]


# Maps tied to another map, whose parameters they share.


class Scaled(nn.Module):
    """One learned number times another map (K = alpha Q, gate = alpha up)."""

    def __init__(self, source: Map) -> None:
        super().__init__()
        self.source = source
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.source(x)

    def dense(self, params: Stacked) -> Tensor:
        """(S, in, out)."""
        return ordered.scale(self.source.dense(scope(params, "source")), params["scale"])


class Rotated(nn.Module):
    """Another map, its output rotated by one learned angle in every pair of coordinates.

    ``group`` coordinates (a head) are rotated on their own; an odd last one of a group stays.
    """

    def __init__(self, source: Map, group: int, angle: float) -> None:
        super().__init__()
        self.source, self.group = source, group
        self.angle = nn.Parameter(torch.tensor(angle))

    def forward(self, x: Tensor) -> Tensor:
        y = self.source(x).unflatten(-1, (-1, self.group))
        return rotate_neighbours(y, self.angle.cos(), self.angle.sin()).flatten(-2)

    def dense(self, params: Stacked) -> Tensor:
        """(S, in, out)."""
        weight = self.source.dense(scope(params, "source")).unflatten(-1, (-1, self.group))
        return rotate_by(weight, params["angle"]).flatten(-2)


class InputRotated(nn.Module):
    """Another map, its input rotated first by one learned angle in every pair of coordinates."""

    def __init__(self, source: Map, angle: float) -> None:
        super().__init__()
        self.source = source
        self.angle = nn.Parameter(torch.tensor(angle))

    def forward(self, x: Tensor) -> Tensor:
        return self.source(rotate_neighbours(x, self.angle.cos(), self.angle.sin()))

    def dense(self, params: Stacked) -> Tensor:
        """(S, in, out): R W, with the rotation x -> x R written on the columns of W^T."""
        columns = self.source.dense(scope(params, "source")).transpose(1, 2)
        return rotate_by(columns, -params["angle"]).transpose(1, 2)


class Transposed(nn.Module):
    """The transpose of a full map without bias (O = Q^T, down = up^T, the head's map read back)."""

    def __init__(self, source: Map) -> None:
        super().__init__()
        self.source = source

    def forward(self, x: Tensor) -> Tensor:
        return x @ cast(Linear, self.source).weight

    def dense(self, params: Stacked) -> Tensor:
        """(S, in, out)."""
        return self.source.dense(scope(params, "source")).transpose(1, 2)


# Maps of one or two numbers, or of none: our own line (docs/smallest.md).


class Identity(nn.Module):
    """x itself: keys or values that are the channels they read. No parameters."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return x

    def dense(self, params: Stacked) -> Tensor:
        """(1, in, out)."""
        return torch.eye(self.channels)[None]


class ScaledRotation(nn.Module):
    """One learned number times a rotation by one learned angle, in the pairs (0,1), (2,3), ..."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.angle = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * rotate_neighbours(x, self.angle.cos(), self.angle.sin())

    def dense(self, params: Stacked) -> Tensor:
        """(S, in, out)."""
        scale_S, C = params["scale"], self.channels
        eye_SCC = torch.eye(C, dtype=scale_S.dtype, device=scale_S.device).expand(len(scale_S), C, C)
        return ordered.scale(rotate_by(eye_SCC, params["angle"]), scale_S)


class MirroredUp(nn.Module):
    """A map to units that come in pairs, which mirror each other in the last channel: the second of a
    pair reads it with the opposite sign. ``unit``: the first reads it with weight 1."""

    def __init__(self, channels: int, units: int, *, unit: bool) -> None:
        super().__init__()
        self.unit = unit
        self.pairs = Linear(channels - unit, units // 2)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self._both(self.pairs.weight))

    def dense(self, params: Stacked) -> Tensor:
        """(S, in, out)."""
        return self._both(params["pairs.weight"]).transpose(1, 2)

    def _both(self, first_NC: Tensor) -> Tensor:
        if self.unit:
            first_NC = torch.cat([first_NC, torch.ones_like(first_NC[..., :1])], -1)
        second_NC = torch.cat([first_NC[..., :-1], -first_NC[..., -1:]], -1)
        return torch.cat([first_NC, second_NC], -2)


class MirroredDown(nn.Module):
    """A map from such units: the second of a pair writes the last channel with the opposite sign.
    ``even``: the first writes the same number to all channels."""

    def __init__(self, units: int, channels: int, *, even: bool) -> None:
        super().__init__()
        self.channels, self.even = channels, even
        self.pairs = Linear(units // 2, 1 if even else channels)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self._both(self.pairs.weight))

    def dense(self, params: Stacked) -> Tensor:
        """(S, in, out)."""
        return self._both(params["pairs.weight"]).transpose(1, 2)

    def _both(self, first_CN: Tensor) -> Tensor:
        if self.even:
            first_CN = torch.cat([first_CN] * self.channels, -2)
        second_CN = torch.cat([first_CN[..., :-1, :], -first_CN[..., -1:, :]], -2)
        return torch.cat([first_CN, second_CN], -1)


class OneChannel(nn.Module):
    """A map to one channel, of which ``before`` come first and ``after`` follow: all others get 0."""

    def __init__(self, inputs: int, before: int, after: int) -> None:
        super().__init__()
        self.column = Linear(inputs, 1)
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Tensor:
        return padded(self.column(x), -1, before=self.before, after=self.after)

    def dense(self, params: Stacked) -> Tensor:
        """(S, in, out)."""
        weight_SI1 = self.column.dense(scope(params, "column"))
        return padded(weight_SI1, -1, before=self.before, after=self.after)


class ScaledChannels(nn.Module):
    """Each channel times its own learned number, or all times the same."""

    def __init__(self, channels: int, *, once: bool) -> None:
        super().__init__()
        self.channels = channels
        numbers = 1 if once else channels
        self.scale = nn.Parameter(torch.empty(numbers).uniform_(-math.sqrt(3.0), math.sqrt(3.0)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale

    def dense(self, params: Stacked) -> Tensor:
        """(S, in, out)."""
        scale_SN, C = params["scale"], self.channels
        scale_SC = scale_SN if scale_SN.shape[1] == C else ordered.expand(scale_SN[:, 0], 1, C)
        eye_CC = torch.eye(C, dtype=scale_SN.dtype, device=scale_SN.device)
        return ordered.expand(scale_SC, 1, C) * eye_CC


class Negated(nn.Module):
    """Every channel with the opposite sign. No parameters."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return -x

    def dense(self, params: Stacked) -> Tensor:
        """(1, in, out)."""
        return -torch.eye(self.channels)[None]


# Maps with few free numbers: the 39p (Lokimorty's AdderBoard submission).


def _drawn(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape).normal_(0.0, 0.02))


class LastScalesFirst(nn.Module):
    """A full map whose last output is one learned number times the first."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.core = _drawn(outputs - 1, channels)
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, torch.cat([self.core, self.scale * self.core[:1]]))

    def dense(self, params: Stacked) -> Tensor:
        """(S, C, K)."""
        core_SKC = params["core"]
        last_S1C = ordered.scale(core_SKC[:, :1], params["scale"])
        return torch.cat([core_SKC, last_S1C], 1).transpose(1, 2)


class QueryTransposeTail(nn.Module):
    """The query map (C -> K) transposed, and one more channel: the query map's last column with
    each entry scaled by a learned number, the first by zero."""

    def __init__(self, query: Linear) -> None:
        super().__init__()
        self.source = query
        self.tail_scale = nn.Parameter(torch.ones(query.out_features - 1))

    def forward(self, x: Tensor) -> Tensor:
        weight_KC = self.source.weight
        tail_K = nn.functional.pad(weight_KC[1:, -1] * self.tail_scale, (1, 0))
        return torch.cat([x @ weight_KC, x @ tail_K[:, None]], -1)

    def dense(self, params: Stacked) -> Tensor:
        """(S, K, C + 1)."""
        weight_SKC = self.source.dense(scope(params, "source")).transpose(1, 2)
        tail_SK = nn.functional.pad(weight_SKC[:, 1:, -1] * params["tail_scale"], (1, 0))
        return torch.cat([weight_SKC, tail_SK[:, :, None]], 2)


class QuarterNorm(nn.Module):
    """RMS norm with the weight (a, a/4, 0, -a)."""

    SHAPE = (1.0, 0.25, 0.0, -1.0)

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        weight = self.scale * torch.tensor(self.SHAPE, dtype=x.dtype, device=x.device)
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * weight

    def dense(self, params: Stacked) -> Tensor:
        """The weight (S, K)."""
        scale_S = params["scale"]
        return ordered.scale(torch.tensor(self.SHAPE).to(scale_S).expand(len(scale_S), 4), scale_S)


class SparseGate(nn.Module):
    """A full map D -> F whose last unit does not read the last channel."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.rows = _drawn(hidden - 1, width)
        self.last = _drawn(width - 1)

    def weight(self) -> Tensor:
        """(F, D)."""
        return torch.cat([self.rows, nn.functional.pad(self.last, (0, 1))[None]])

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight())

    def dense(self, params: Stacked) -> Tensor:
        """(S, D, F)."""
        last_S1D = nn.functional.pad(params["last"], (0, 1))[:, None]
        return torch.cat([params["rows"], last_S1D], 1).transpose(1, 2)


class CarryDown(nn.Module):
    """The first map (D -> F) transposed, each channel scaled by a learned number and the last by
    zero, plus the last hidden unit times its own row of the gate."""

    def __init__(self, up: Linear, gate: SparseGate) -> None:
        super().__init__()
        self.up, self.gate = up, gate
        self.scale = nn.Parameter(torch.ones(up.in_features - 1))

    def forward(self, h: Tensor) -> Tensor:
        scale_D = nn.functional.pad(self.scale, (0, 1))
        return h @ self.up.weight * scale_D + h[..., -1:] * self.gate.weight()[-1]

    def dense(self, params: Stacked) -> Tensor:
        """(S, F, D)."""
        up_SFD = self.up.dense(scope(params, "up")).transpose(1, 2)
        scale_SD = nn.functional.pad(params["scale"], (0, 1))
        scaled_SFD = up_SFD * ordered.expand(scale_SD, 1, up_SFD.shape[1])
        carry_SD = self.gate.dense(scope(params, "gate"))[:, :, -1]
        last_S1D = scaled_SFD[:, -1:] + carry_SD[:, None]
        return torch.cat([scaled_SFD[:, :-1], last_S1D], 1)
