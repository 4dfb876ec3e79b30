"""A running average of the weights, evaluated beside the weights themselves.

The average lags behind a seed that is learning and is steadier than one that jumps between right
and wrong at a high learning rate; the better of the two is kept (tbukic/M10S-Transformer, 62p).
``engine.descent`` takes it; here are the settings and the memory.

Shapes: S seeds, N parameters of one model, flat.
"""

from dataclasses import dataclass

from torch import Tensor

from adderlab.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Average:
    """mean <- decay mean + (1 - decay) weights, after every step."""

    decay: float = 0.999

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise UsageError(f"average.decay must lie in [0, 1), not {self.decay}")


class WeightAverage:
    """The average of every seed; it starts at the weights given."""

    def __init__(self, settings: Average, flat_SN: Tensor) -> None:
        self.settings = settings
        self.mean_SN = flat_SN.clone()

    def keep(self, rows: Tensor) -> None:
        """Go on with the seeds in ``rows`` only."""
        self.mean_SN = self.mean_SN[rows].clone()
