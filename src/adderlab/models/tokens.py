"""Token embeddings: a table, or digits on an arc of a few learned numbers.

Shapes: S seeds, V vocabulary, W token channels.
"""

import torch
from torch import Tensor, nn

from adderlab.models import ordered
from adderlab.models.components import Stacked
from adderlab.models.config import ModelConfig


class TokenTable(nn.Embedding):
    """A learned row per token."""

    def table(self) -> Tensor:
        """(V, W)."""
        return self.weight

    def dense(self, params: Stacked) -> Tensor:
        """(S, V, W)."""
        return params["weight"]


class TokenArc(nn.Module):
    """Token d at (radius cos(start + d stride), radius sin(start + d stride)): 1 to 4 parameters.

    An ellipse has a radius for the cosine and another for the sine. A centred arc has no start of its
    own: its middle is at angle 0.
    """

    def __init__(self, vocab_size: int, arc: tuple[float, float, float], kind: str) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        radius, start, stride = arc
        self.radius = None if kind == "unit_arc" else nn.Parameter(torch.tensor(radius))
        self.sine_radius = nn.Parameter(torch.tensor(radius)) if kind == "ellipse" else None
        self.start = None if kind in ("centred_arc", "unit_arc") else nn.Parameter(torch.tensor(start))
        self.stride = nn.Parameter(torch.tensor(stride))

    def table(self) -> Tensor:
        """(V, 2)."""
        token_V = self._tokens().to(self.stride)
        angle_V = token_V * self.stride if self.start is None else self.start + token_V * self.stride
        if self.radius is None:
            return torch.stack([angle_V.cos(), angle_V.sin()], 1)
        sine_radius = self.radius if self.sine_radius is None else self.sine_radius
        return torch.stack([self.radius * angle_V.cos(), sine_radius * angle_V.sin()], 1)

    def _tokens(self) -> Tensor:
        """0, 1, ... as the angle counts them (V,)."""
        middle = (self.vocab_size - 1) / 2 if self.start is None else 0.0
        return torch.arange(self.vocab_size) - middle

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table()[tokens]

    def dense(self, params: Stacked) -> Tensor:
        """(S, V, 2)."""
        stride_S, V = params["stride"], self.vocab_size
        angle_SV = ordered.scale(self._tokens().to(stride_S).expand(len(stride_S), V), stride_S)
        if "start" in params:
            angle_SV = ordered.expand(params["start"], 1, V) + angle_SV
        if "radius" not in params:
            return torch.stack([angle_SV.cos(), angle_SV.sin()], 2)
        if "sine_radius" not in params:
            return ordered.scale(torch.stack([angle_SV.cos(), angle_SV.sin()], 2), params["radius"])
        cosine_SV = ordered.scale(angle_SV.cos(), params["radius"])
        return torch.stack([cosine_SV, ordered.scale(angle_SV.sin(), params["sine_radius"])], 2)


def token_embedding(config: ModelConfig) -> TokenTable | TokenArc:
    """The token embedding that the configuration names."""
    V = config.token_layout.vocab_size
    if config.tokens == "table":
        return TokenTable(V, config.token_width)
    return TokenArc(V, config.arc, config.tokens)
