"""Maps of one or two numbers, or of none, from our own line (docs/smallest.md).

Shapes: S seeds, C channels, N units of one half of the pairs; weights as (S, in, out).
"""

import math

import torch
from torch import Tensor, nn

from adderlab.models import ordered
from adderlab.models.components import Linear, Stacked, padded, scope
from adderlab.models.rotation import turn_by, turn_neighbours


class Same(nn.Module):
    """The identity: what it reads is what it gives. No parameters."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return x

    def dense(self, params: Stacked) -> Tensor:
        """(1, in, out)."""
        return torch.eye(self.channels)[None]


class Turn(nn.Module):
    """One learned number times a turn by one learned angle, in the pairs (0,1), (2,3), ..."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.angle = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * turn_neighbours(x, self.angle.cos(), self.angle.sin())

    def dense(self, params: Stacked) -> Tensor:
        """(S, in, out)."""
        scale_S, C = params["scale"], self.channels
        eye_SCC = torch.eye(C, dtype=scale_S.dtype, device=scale_S.device).expand(len(scale_S), C, C)
        return ordered.scale(turn_by(eye_SCC, params["angle"]), scale_S)


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
