"""Sums in a fixed order: the arithmetic of the parameters-to-tables map.

A seed must give the same bits whatever seeds run beside it. Library matrix products and reductions
may choose another order of summation when the batch grows, so the map uses only elementwise
products and sums by halving, whose rounding depends on nothing but the summed length. The
derivatives use the same sums.

Shapes: S seeds first, then M, K, N as in an (M, K) by (K, N) product.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor


def halving_sum(x: Tensor, dim: int) -> Tensor:
    """Sum over ``dim``: the upper half is added to the lower until one entry is left."""
    n = x.shape[dim]
    if n <= 2:
        return fold(x, dim)
    half = (n + 1) // 2
    low, high = x.narrow(dim, 0, half), x.narrow(dim, half, n - half)
    if n - half == half:
        return fold(low + high, dim)
    middle = low.narrow(dim, n - half, 1)
    return fold(torch.cat([low.narrow(dim, 0, n - half) + high, middle], dim), dim)


def fold(x: Tensor, dim: int) -> Tensor:
    """``halving_sum`` of an ``x`` that nobody needs any more: it may be overwritten."""
    n = x.shape[dim]
    while n > 2:
        half = (n + 1) // 2
        x.narrow(dim, 0, n - half).add_(x.narrow(dim, half, n - half))
        n = half
    return x.select(dim, 0) + x.select(dim, 1) if n == 2 else x.select(dim, 0)


def product(x_SMK: Tensor, w_SKN: Tensor) -> Tensor:
    """``matmul`` without a derivative."""
    x_SMK1, w_S1KN = x_SMK.unsqueeze(3), w_SKN.unsqueeze(1)
    if x_SMK.shape[2] > 4:
        return fold(x_SMK1 * w_S1KN, 2)
    # The same sums, faster for few terms: no tensor of all products is formed.
    terms = [x * w for x, w in zip(x_SMK1.unbind(2), w_S1KN.unbind(2), strict=True)]
    n = len(terms)
    while n > 1:
        half = (n + 1) // 2
        for i in range(n - half):
            terms[i].add_(terms[half + i])
        n = half
    return terms[0]


class _MatMul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_SMK: Tensor, w_SKN: Tensor) -> Tensor:
        ctx.save_for_backward(x_SMK, w_SKN)
        return product(x_SMK, w_SKN)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (grad_SMN,) = grads
        x_SMK, w_SKN = ctx.saved_tensors
        needs_x, needs_w = ctx.needs_input_grad
        grad_x = product(grad_SMN, w_SKN.transpose(1, 2)) if needs_x else None
        grad_w = product(x_SMK.transpose(1, 2), grad_SMN) if needs_w else None
        return grad_x, grad_w


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        ctx.dim, ctx.shape = dim, x.shape
        return halving_sum(x, dim)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0].unsqueeze(ctx.dim).expand(ctx.shape), None


class _Expand(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, size: int) -> Tensor:
        ctx.dim = dim
        shape = list(x.shape)
        shape.insert(dim, size)
        return x.unsqueeze(dim).expand(shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return halving_sum(grads[0], ctx.dim), None, None


def matmul(x_SMK: Tensor, w_SKN: Tensor) -> Tensor:
    """(S, M, K) @ (S, K, N) -> (S, M, N)."""
    return _MatMul.apply(x_SMK, w_SKN)


def total(x: Tensor, dim: int) -> Tensor:
    """Sum over ``dim`` (a non-negative index)."""
    return _Sum.apply(x, dim)


def expand(x: Tensor, dim: int, size: int) -> Tensor:
    """Repeat ``x`` along a new axis at ``dim``; the derivative sums by halving."""
    if size == 1:
        return x.unsqueeze(dim)
    return _Expand.apply(x, dim, size)


class _Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor_S: Tensor) -> Tensor:
        ctx.save_for_backward(x, factor_S)
        return x * _like(factor_S, x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (grad,) = grads
        x, factor_S = ctx.saved_tensors
        needs_x, needs_factor = ctx.needs_input_grad
        grad_x = grad * _like(factor_S, x) if needs_x else None
        return grad_x, fold((grad * x).reshape(len(x), -1), 1) if needs_factor else None


def scale(x: Tensor, factor_S: Tensor) -> Tensor:
    """x (S, ...) times one number per seed."""
    return _Scale.apply(x, factor_S)


def _like(x_S: Tensor, shaped: Tensor) -> Tensor:
    return x_S.reshape(-1, *[1] * (shaped.ndim - 1))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: tuple[int, ...]) -> Tensor:
        ctx.index, ctx.rows = index, x.shape[1]
        return x[:, list(index)]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        padded = torch.cat([grad, torch.zeros_like(grad[:, :1])], 1)
        uses = _uses(ctx.index, ctx.rows)
        result = padded[:, uses[0]]
        for use in uses[1:]:
            result = result + padded[:, use]
        return result, None


@cache
def _uses(index: tuple[int, ...], rows: int) -> list[list[int]]:
    """n-th entry: for every row the n-th place that reads it, or one past the last place."""
    places = [[i for i, row in enumerate(index) if row == r] for r in range(rows)]
    most = max(1, *map(len, places))
    return [[p[n] if n < len(p) else len(index) for p in places] for n in range(most)]


def gather(x: Tensor, index: tuple[int, ...]) -> Tensor:
    """x[:, index]; the derivative of a row adds its uses from first to last."""
    return _Gather.apply(x, index)
