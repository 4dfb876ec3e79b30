"""Grokfast-EMA: the slow part of the gradient, amplified before clipping.

Source: Lee et al., arXiv 2405.20233 (m <- alpha m + (1 - alpha) g;  g <- g + lambda m). The average
starts at zero, as in the published sub-60-parameter runs (tbukic/M10S-Transformer).

``engine.descent`` does it; here are the settings and the memory.

Shapes: S seeds, N parameters of one model, flat.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from adderlab.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Grokfast:
    """How slow the average is and how much of it is added."""

    alpha: float = 0.98
    strength: float = 2.0
    """lambda of the paper."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < 1:
            raise UsageError(f"grokfast.alpha must lie in [0, 1), not {self.alpha}")
        if not self.strength >= 0:
            raise UsageError(f"grokfast.strength must be at least 0, not {self.strength}")


class SlowGradients:
    """The running average of every seed's gradient."""

    def __init__(self, settings: Grokfast, like_SN: Tensor) -> None:
        self.settings = settings
        self.mean_SN = torch.zeros_like(like_SN)

    def keep(self, rows: Tensor) -> None:
        """Go on with the seeds in ``rows`` only."""
        self.mean_SN = self.mean_SN[rows].clone()
