"""Token embeddings: a table, or digits on an arc of a few learned numbers.

Shapes: S seeds, V vocabulary, W token channels.
"""

import torch
from torch import Tensor, nn

from adderlab.models import ordered
from adderlab.models.components import Stacked
from adderlab.models.config import ModelConfig

ARC_RADIUS, ARC_START, ARC_STRIDE = 2.5, -1.2, 0.29
"""Where the arc starts, in every published model that has one (MicroAdder, M10S)."""


class TokenTable(nn.Embedding):
    """A learned row per token."""

    def table(self) -> Tensor:
        """(V, W)."""
        return self.weight

    def dense(self, params: Stacked) -> Tensor:
        """(S, V, W)."""
        return params["weight"]


class TokenArc(nn.Module):
    """Token d at (radius cos(start + d stride), radius sin(start + d stride)): 3 or 4 parameters.

    An ellipse has a radius for the cosine and another for the sine.
    """

    def __init__(self, vocab_size: int, *, ellipse: bool) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.radius = nn.Parameter(torch.tensor(ARC_RADIUS))
        self.sine_radius = nn.Parameter(torch.tensor(ARC_RADIUS)) if ellipse else None
        self.start = nn.Parameter(torch.tensor(ARC_START))
        self.stride = nn.Parameter(torch.tensor(ARC_STRIDE))

    def table(self) -> Tensor:
        """(V, 2)."""
        token_V = torch.arange(self.vocab_size, device=self.start.device, dtype=self.start.dtype)
        angle_V = self.start + token_V * self.stride
        sine_radius = self.radius if self.sine_radius is None else self.sine_radius
        return torch.stack([self.radius * angle_V.cos(), sine_radius * angle_V.sin()], 1)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table()[tokens]

    def dense(self, params: Stacked) -> Tensor:
        """(S, V, 2)."""
        start_S, stride_S, V = params["start"], params["stride"], self.vocab_size
        token_V = torch.arange(V, device=start_S.device, dtype=start_S.dtype)
        steps_SV = ordered.scale(token_V.expand(len(start_S), V), stride_S)
        angle_SV = ordered.expand(start_S, 1, V) + steps_SV
        if "sine_radius" not in params:
            return ordered.scale(torch.stack([angle_SV.cos(), angle_SV.sin()], 2), params["radius"])
        cosine_SV = ordered.scale(angle_SV.cos(), params["radius"])
        return torch.stack([cosine_SV, ordered.scale(angle_SV.sin(), params["sine_radius"])], 2)


def token_embedding(config: ModelConfig) -> TokenTable | TokenArc:
    """The token embedding that the configuration names."""
    V = config.token_layout.vocab_size
    if config.tokens == "table":
        return TokenTable(V, config.token_width)
    return TokenArc(V, ellipse=config.tokens == "ellipse")
