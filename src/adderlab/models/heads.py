"""Projections as factors, and weights split by head: the algebra of ``Attention.dense``.

Shapes: S seeds, H query heads, G key and value heads, C width of a head, r rank.
"""

import torch
from torch import Tensor

from adderlab.models import ordered
from adderlab.models.components import LowRankLinear, Map, Stacked


class Factors:
    """A projection as first @ second; a full matrix has no first factor (None is the identity)."""

    def __init__(self, first: Tensor | None, second: Tensor) -> None:
        self.first_or_none, self.second = first, second

    @classmethod
    def of(cls, module: Map, params: Stacked, like: Tensor) -> "Factors":
        """The factors of a low-rank map; any other map as one dense factor. ``like``: a parameter of the
        same seeds, for maps that have none."""
        if isinstance(module, LowRankLinear):
            return cls(params["A"], params["B"])
        return cls(None, module.dense(params).to(like).expand(len(like), -1, -1))

    @property
    def rank(self) -> int:
        """Inner dimension; that of a full matrix is the number of channels it reads."""
        return self.second.shape[1]

    @property
    def first(self) -> Tensor:
        """(S, in, r)."""
        if self.first_or_none is None:
            S, C, _ = self.second.shape
            return torch.eye(C, dtype=self.second.dtype, device=self.second.device).expand(S, C, C)
        return self.first_or_none

    def product(self) -> Tensor:
        """(S, in, out)."""
        if self.first_or_none is None:
            return self.second
        return ordered.matmul(self.first_or_none, self.second)


def by_head_columns(w_SMD: Tensor, H: int) -> Tensor:
    """(S, M, H * C) -> (S, H, M, C)."""
    S, M, D = w_SMD.shape
    return w_SMD.reshape(S, M, H, D // H).transpose(1, 2)


def grouped(w_SMD: Tensor, G: int, H: int) -> Tensor:
    """(S, M, G * C) -> (S, H, M, C): each of the G heads serves H / G query heads."""
    w_SGMC = by_head_columns(w_SMD, G)
    return w_SGMC if G == H else ordered.expand(w_SGMC, 2, H // G).flatten(1, 2)


def by_head_rows(w_SDN: Tensor, H: int) -> Tensor:
    """(S, H * C, N) -> (S, H, C, N)."""
    S, D, N = w_SDN.shape
    return w_SDN.reshape(S, H, D // H, N)


def every_head(w_SMN: Tensor, H: int) -> Tensor:
    """(S, M, N) -> (S, H, M, N), the same for every head."""
    return ordered.expand(w_SMN, 1, H)


def matmul_heads(x_SHMK: Tensor, w_SHKN: Tensor) -> Tensor:
    """Head by head: (S, H, M, K) @ (S, H, K, N)."""
    S, H, M, K = x_SHMK.shape
    N = w_SHKN.shape[3]
    flat = ordered.matmul(x_SHMK.reshape(S * H, M, K), w_SHKN.reshape(S * H, K, N))
    return flat.reshape(S, H, M, N)
