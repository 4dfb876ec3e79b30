"""Descent steps by hand, for the tests of the step and of its C++ twin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adderlab.engine.step_batch import Settings, StepBatch


@dataclass(frozen=True, kw_only=True)
class State:
    """What a step updates."""

    params_SN: Tensor
    mean_SN: Tensor
    square_SN: Tensor
    weight_decay_S: Tensor
    slow_SN: Tensor | None = None
    average_SN: Tensor | None = None

    def clone(self) -> State:
        return self.rows(slice(None))

    def rows(self, rows: slice) -> State:
        """Some seeds, copied."""
        copies: dict[str, Any] = {
            name: None if tensor is None else tensor[rows].clone() for name, tensor in vars(self).items()
        }
        return State(**copies)

    def seed(self, s: int) -> State:
        """One seed alone, copied."""
        return self.rows(slice(s, s + 1))


def state_of(params_SN: Tensor, weight_decay: list[float], *, running: bool = False) -> State:
    """At rest; ``running``: with slow gradients and averaged weights."""
    zeros_SN = torch.zeros_like(params_SN)
    return State(
        params_SN=params_SN.clone(),
        mean_SN=zeros_SN.clone(),
        square_SN=zeros_SN.clone(),
        weight_decay_S=params_SN.new_tensor(weight_decay),
        slow_SN=zeros_SN.clone() if running else None,
        average_SN=params_SN.clone() if running else None,
    )


def settings(
    step: int,
    *,
    lr: float = 0.01,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    clip: float = torch.inf,
    slow: tuple[float, float] = (0.0, 0.0),
    average: float = 0.0,
    bias_correction: bool = True,
) -> Settings:
    """Of the ``step``-th step, from 1."""
    return Settings(
        lr=[lr],
        correction=[1 - beta1**step if bias_correction else 1.0],
        scale=[(1 - beta2**step) ** 0.5 if bias_correction else 1.0],
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        clip=clip,
        slow=slow,
        average=average,
    )


def numbers(state: State, each: list[Settings]) -> tuple[Tensor, Tensor]:
    """(rates_SR, constants_SX), settings for every seed."""
    S = len(state.params_SN)
    step_batch = StepBatch(
        seeds_S=torch.arange(S),
        first=0,
        batch_size=1,
        settings=tuple(each),
        setting_S=torch.arange(S, dtype=torch.int32),
        **vars(state),
    )
    return step_batch.rates_CGR()[0], step_batch.constants_GX()
