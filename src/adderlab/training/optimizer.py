"""AdamW's memory of a population; the step itself is ``engine.descent``.

Shapes: S seeds, N parameters of one model, flat.
"""

import torch
from torch import Tensor


class AdamW:
    """The moments of every seed's gradient, and how many steps they are of."""

    def __init__(
        self, like_SN: Tensor, *, beta1: float, beta2: float, bias_correction: bool = True
    ) -> None:
        """Without ``bias_correction`` the moments are taken as they are, zero at the start (MLX)."""
        self.mean_SN = torch.zeros_like(like_SN)
        self.square_SN = torch.zeros_like(like_SN)
        self.beta1, self.beta2 = beta1, beta2
        self.bias_correction = bias_correction
        self.steps = 0

    def correction(self, step: int) -> float:
        """Divisor of the rate at the optimiser's ``step``-th step, from 1."""
        return 1.0 - self.beta1**step if self.bias_correction else 1.0

    def scale(self, step: int) -> float:
        """Divisor of the root of the square."""
        return (1.0 - self.beta2**step) ** 0.5 if self.bias_correction else 1.0

    def keep(self, rows: Tensor) -> None:
        """Go on with the seeds in ``rows`` only."""
        self.mean_SN, self.square_SN = self.mean_SN[rows].clone(), self.square_SN[rows].clone()

    def state(self) -> dict[str, Tensor | int]:
        return {"mean": self.mean_SN, "square": self.square_SN, "steps": self.steps}

    def load_state(self, state: dict[str, Tensor | int]) -> None:
        mean, square, steps = state["mean"], state["square"], state["steps"]
        assert isinstance(mean, Tensor) and isinstance(square, Tensor) and isinstance(steps, int)
        self.mean_SN.copy_(mean)
        self.square_SN.copy_(square)
        self.steps = steps
