"""Maps with few free numbers, from the 39p model (Lokimorty's AdderBoard submission).

Shapes: S seeds, C channels, D width, F hidden units, K width of a key; weights as (S, in, out).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adderlab.models import ordered
from adderlab.models.components import Linear, Stacked, scope


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
