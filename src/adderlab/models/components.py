"""Linear maps, full and low-rank, alone or derived from another. Each says two things side by side:

``forward``  what it does to one model's activations, as plain PyTorch (the oracle);
``dense``    the dense weights it stands for, for S models at once (on the way to the tables).

``dense`` takes the part's own parameters stacked over seeds, by name.

Shapes: S seeds, r rank; weights as (S, in, out).
Initialisation: protocols of the published 456p program; low-rank factors are
N(0, sqrt(2 / (rows + columns))), full matrices N(0, 0.02) (models/start.py).
"""

import math
from collections.abc import Mapping
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from adderlab.models import ordered
from adderlab.models.rotation import turn_by, turn_neighbours

Stacked = Mapping[str, Tensor]


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


class Scaled(nn.Module):
    """One learned number times another map (K = alpha Q, gate = alpha up)."""

    def __init__(self, source: "Map") -> None:
        super().__init__()
        self.source = source
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.source(x)

    def dense(self, params: Stacked) -> Tensor:
        """(S, in, out)."""
        return ordered.scale(self.source.dense(scope(params, "source")), params["scale"])


class Rotated(nn.Module):
    """Another map, its output turned by one learned angle in every pair of coordinates.

    ``group`` coordinates (a head) are turned on their own; an odd last one of a group stays.
    """

    def __init__(self, source: "Map", group: int, angle: float) -> None:
        super().__init__()
        self.source, self.group = source, group
        self.angle = nn.Parameter(torch.tensor(angle))

    def forward(self, x: Tensor) -> Tensor:
        y = self.source(x).unflatten(-1, (-1, self.group))
        return turn_neighbours(y, self.angle.cos(), self.angle.sin()).flatten(-2)

    def dense(self, params: Stacked) -> Tensor:
        """(S, in, out)."""
        weight = self.source.dense(scope(params, "source")).unflatten(-1, (-1, self.group))
        return turn_by(weight, params["angle"]).flatten(-2)


class InputRotated(nn.Module):
    """Another map, its input turned first by one learned angle in every pair of coordinates."""

    def __init__(self, source: "Map", angle: float) -> None:
        super().__init__()
        self.source = source
        self.angle = nn.Parameter(torch.tensor(angle))

    def forward(self, x: Tensor) -> Tensor:
        return self.source(turn_neighbours(x, self.angle.cos(), self.angle.sin()))

    def dense(self, params: Stacked) -> Tensor:
        """(S, in, out): R W, with the rotation x -> x R written on the columns of W^T."""
        columns = self.source.dense(scope(params, "source")).transpose(1, 2)
        return turn_by(columns, -params["angle"]).transpose(1, 2)


class Transposed(nn.Module):
    """The transpose of a full map without bias (O = Q^T, down = up^T, the head's map read back)."""

    def __init__(self, source: "Map") -> None:
        super().__init__()
        self.source = source

    def forward(self, x: Tensor) -> Tensor:
        return x @ cast(Linear, self.source).weight

    def dense(self, params: Stacked) -> Tensor:
        """(S, in, out)."""
        return self.source.dense(scope(params, "source")).transpose(1, 2)


class Map(Protocol):
    """Any linear map: the classes here, in models/sparse.py and in models/frugal.py."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def dense(self, params: Stacked) -> Tensor: ...


def linear(in_features: int, out_features: int, rank: int, *, bias: bool = False) -> Map:
    """A full map for rank 0, otherwise a low-rank one."""
    if rank:
        return LowRankLinear(in_features, out_features, rank)
    return Linear(in_features, out_features, bias=bias)
