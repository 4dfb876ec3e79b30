"""One descent step of a population: Grokfast's part of the gradient, AdamW with clipping, the running
average of the weights; each seed by its own numbers.

Every operation is elementwise and correctly rounded, and the gradient norm is summed in a fixed
order, so a seed's bits do not depend on the population (models.ordered says why).

Shapes: S seeds, N parameters of one model, flat; X and R as in ``engine.stretch``.
Source of AdamW: Loshchilov and Hutter, arXiv 1711.05101; constants and order of operations as in
torch.optim.AdamW. Of the others: ``training.grokfast``, ``training.average``.
"""

from typing import Protocol

import torch
from torch import Tensor

from adderlab.engine.stretch import CONSTANTS
from adderlab.models.ordered import halving_sum


class Descending(Protocol):
    """What a step updates in place, and the numbers that no schedule decides."""

    @property
    def params_SN(self) -> Tensor: ...
    @property
    def mean_SN(self) -> Tensor: ...
    @property
    def square_SN(self) -> Tensor: ...
    @property
    def slow_SN(self) -> Tensor | None: ...
    @property
    def average_SN(self) -> Tensor | None: ...
    @property
    def weight_decay_S(self) -> Tensor: ...


def descend(
    state: Descending,
    grad_SN: Tensor,
    rates_SR: Tensor,
    constants_SX: Tensor,
    lr_scale_SN: Tensor | None = None,
) -> None:
    """One step of every seed; see ``engine.stretch`` for the numbers. ``grad_SN`` may be overwritten
    by a faster twin."""
    columns = constants_SX.split(1, 1)
    own_S1 = dict(zip(CONSTANTS, columns, strict=True))
    lr_S1, correction_S1, scale_S1 = rates_SR.split(1, 1)
    params_SN, mean_SN, square_SN = state.params_SN, state.mean_SN, state.square_SN
    slow_SN, average_SN = state.slow_SN, state.average_SN
    if slow_SN is not None:
        slow_SN *= own_S1["slow_keep"]
        slow_SN += grad_SN * own_S1["slow_rest"]
        grad_SN = grad_SN + slow_SN * own_S1["strength"]
    norm_S1 = torch.sqrt(halving_sum(grad_SN * grad_SN, 1))[:, None]
    grad_SN = grad_SN * (own_S1["clip"] / (norm_S1 + 1e-6)).clamp(max=1.0)
    decay_SN, rate_SN = lr_S1 * state.weight_decay_S[:, None], lr_S1 / correction_S1
    if lr_scale_SN is not None:
        decay_SN, rate_SN = decay_SN * lr_scale_SN, rate_SN * lr_scale_SN
    params_SN *= 1.0 - decay_SN
    mean_SN += (grad_SN - mean_SN) * own_S1["beta1_rest"]
    square_SN *= own_S1["beta2"]
    square_SN += grad_SN * grad_SN * own_S1["beta2_rest"]
    params_SN -= rate_SN * (mean_SN / (square_SN.sqrt() / scale_S1 + own_S1["eps"]))
    if average_SN is not None:
        # Written as a step towards the weights: elementwise, and exact where they stand still.
        average_SN += (params_SN - average_SN) * own_S1["average_rest"]
