"""AdamW for a whole population at once, each seed clipped and stepped on its own.

Every operation is elementwise and correctly rounded, and the gradient norm is summed in a fixed
order, so a seed's bits do not depend on the population (models.ordered says why).

Shapes: S seeds, N parameters of one model, flat.
Source: Loshchilov and Hutter, arXiv 1711.05101; constants and order of operations as in
torch.optim.AdamW.
"""

import torch
from torch import Tensor

from adderlab.engine.base import AdamWStep
from adderlab.models.ordered import halving_sum


class AdamW:
    """Decoupled weight decay Adam over ``params_SN``, updated in place."""

    def __init__(
        self,
        params_SN: Tensor,
        *,
        beta1: float,
        beta2: float,
        eps: float,
        bias_correction: bool = True,
        fused: AdamWStep | None = None,
    ) -> None:
        """``fused``: a faster twin of the step. Without ``bias_correction`` the moments are taken as
        they are, zero at the start (MLX)."""
        self.params_SN = params_SN
        self.mean_SN = torch.zeros_like(params_SN)
        self.square_SN = torch.zeros_like(params_SN)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.bias_correction = bias_correction
        self._fused = fused
        self.steps = 0

    def step(
        self,
        grad_SN: Tensor,
        *,
        lr_S: Tensor,
        weight_decay_S: Tensor,
        clip_S: Tensor,
        lr_scale_N: Tensor | None = None,
    ) -> None:
        """One step. ``clip_S``: largest gradient norm of each seed; infinity never clips.

        ``lr_scale_N``: what every parameter's learning rate is multiplied by; None is 1.
        """
        self.steps += 1
        if self._fused:
            self._fused(
                self.params_SN,
                self.mean_SN,
                self.square_SN,
                grad_SN,
                lr_S=lr_S,
                weight_decay_S=weight_decay_S,
                clip_S=clip_S,
                lr_scale_N=lr_scale_N,
                beta1=self.beta1,
                beta2=self.beta2,
                eps=self.eps,
                correction=self.correction(self.steps),
                scale=self.scale(self.steps),
            )
            return
        norm_S = torch.sqrt(halving_sum(grad_SN * grad_SN, 1))
        grad_SN = grad_SN * (clip_S / (norm_S + 1e-6)).clamp(max=1.0)[:, None]
        correction, scale = self.correction(self.steps), self.scale(self.steps)
        decay_SN, rate_SN = (lr_S * weight_decay_S)[:, None], (lr_S / correction)[:, None]
        if lr_scale_N is not None:
            decay_SN, rate_SN = decay_SN * lr_scale_N, rate_SN * lr_scale_N
        self.params_SN *= 1.0 - decay_SN
        self.mean_SN += (grad_SN - self.mean_SN) * (1.0 - self.beta1)
        self.square_SN *= self.beta2
        self.square_SN += grad_SN * grad_SN * (1.0 - self.beta2)
        self.params_SN -= rate_SN * (self.mean_SN / (self.square_SN.sqrt() / scale + self.eps))

    def correction(self, step: int) -> float:
        """Divisor of the rate at the optimiser's ``step``-th step, from 1."""
        return 1.0 - self.beta1**step if self.bias_correction else 1.0

    def scale(self, step: int) -> float:
        """Divisor of the root of the square."""
        return (1.0 - self.beta2**step) ** 0.5 if self.bias_correction else 1.0

    def keep(self, rows: Tensor, params_SN: Tensor) -> None:
        """Go on with the seeds in ``rows`` only; ``params_SN`` are their parameters."""
        self.params_SN = params_SN
        self.mean_SN, self.square_SN = self.mean_SN[rows].clone(), self.square_SN[rows].clone()

    def state(self) -> dict[str, Tensor | int]:
        return {"mean": self.mean_SN, "square": self.square_SN, "steps": self.steps}

    def load_state(self, state: dict[str, Tensor | int]) -> None:
        mean, square, steps = state["mean"], state["square"], state["steps"]
        assert isinstance(mean, Tensor) and isinstance(square, Tensor) and isinstance(steps, int)
        self.mean_SN.copy_(mean)
        self.square_SN.copy_(square)
        self.steps = steps
