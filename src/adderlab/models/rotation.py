"""Turning pairs of coordinates: by one learned angle, or by an angle that grows with the position.

Shapes: S seeds, R positions, K coordinates, G = K / 2 pairs.
"""

import math
from typing import Any

import torch
from torch import Tensor

from adderlab.models import ordered


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


def turn(x: Tensor, cos: Tensor, sin: Tensor, pairs: str) -> Tensor:
    """Each pair (u, v) becomes (u cos - v sin, u sin + v cos); cos and sin broadcast to (..., G)."""
    first, second = split_pairs(x, pairs)
    return join_pairs(first * cos - second * sin, first * sin + second * cos, pairs)


def turn_neighbours(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """``turn`` on the pairs (0,1), (2,3), ...; with an odd last coordinate, that one stays."""
    whole = x.shape[-1] // 2 * 2
    turned = turn(x[..., :whole], cos, sin, "neighbours")
    return turned if whole == x.shape[-1] else torch.cat([turned, x[..., whole:]], -1)


class _Turn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, pairs: str) -> Tensor:
        ctx.turn = cos, sin, pairs
        return turn(x, cos, sin, pairs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin, pairs = ctx.turn
        return turn(grads[0], cos, -sin, pairs), None, None, None


def turn_fixed(x: Tensor, cos: Tensor, sin: Tensor, pairs: str) -> Tensor:
    """``turn`` by angles that are not learned; its derivative turns back."""
    return _Turn.apply(x, cos, sin, pairs)


class _TurnBy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, angle_S: Tensor) -> Tensor:
        cos_sin = [t.reshape(-1, *[1] * (x.ndim - 1)) for t in (angle_S.cos(), angle_S.sin())]
        y = turn_neighbours(x, *cos_sin)
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
        return turn_neighbours(grad, cos, -sin), grad_angle_S


def turn_by(x: Tensor, angle_S: Tensor) -> Tensor:
    """``turn_neighbours`` of x (S, ..., K) by one learned angle per seed."""
    return _TurnBy.apply(x, angle_S)


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
