"""Consecutive steps of many seeds, each by settings of its own, as one call.

Seeds of one recipe share their settings, and seeds of several recipes may share a call: a launch costs
the same however many kinds of seed it holds, and no number of a seed depends on another's.

Shapes: S seeds with N parameters each, flat; C steps; G settings; X = 9 constants; R = 3 rates.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

CONSTANTS = (
    *("beta1_rest", "beta2", "beta2_rest", "eps", "clip"),
    *("slow_keep", "slow_rest", "strength", "average_rest"),
)
"""Of a seed over all steps of a call, in the order of ``Constants`` in adamw.hpp; rest: 1 - it."""

_STATES = ("params_SN", "mean_SN", "square_SN", "slow_SN", "average_SN")

RATES = ("lr", "correction", "scale")
"""Of a seed at one step, in the order of ``Rates`` in adamw.hpp."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the seeds of one recipe are trained with over C steps.

    What the numbers mean stands in ``training.optimizer``, ``training.grokfast`` and
    ``training.average``.
    """

    lr: Sequence[float]
    """Of each step; C of them."""
    correction: Sequence[float]
    scale: Sequence[float]
    """Divisors that correct the moments of each step."""
    beta1: float
    beta2: float
    eps: float
    clip: float
    """Largest gradient norm of a seed; infinity never clips."""
    lr_scale_N: Tensor | None = None
    """What every parameter's learning rate is multiplied by; None is 1."""
    slow: tuple[float, float] = (0.0, 0.0)
    """Grokfast's (alpha, strength), where there are slow gradients."""
    average: float = 0.0
    """Decay of the running average, where there is one."""

    def constants(self) -> tuple[float, ...]:
        """In the order of ``CONSTANTS``. Differences are taken in double precision, rounded later."""
        alpha, strength = self.slow
        return (
            *(1.0 - self.beta1, self.beta2, 1.0 - self.beta2, self.eps, self.clip),
            *(alpha, 1.0 - alpha, strength, 1.0 - self.average),
        )


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """C consecutive steps of S seeds. The (S, N) tensors are updated in place."""

    seeds_S: Tensor
    first: int
    """Number of the first step."""
    batch_size: int
    params_SN: Tensor
    mean_SN: Tensor
    square_SN: Tensor
    """Adam's moments."""
    weight_decay_S: Tensor
    settings: tuple[Settings, ...]
    """G of them."""
    setting_S: Tensor
    """Which of the settings are a seed's; int32."""
    slow_SN: Tensor | None = None
    """Grokfast's running mean of the gradient."""
    average_SN: Tensor | None = None
    """The running average of the weights."""

    @property
    def count(self) -> int:
        """C."""
        return len(self.settings[0].lr)

    @property
    def kind(self) -> Hashable:
        """What a call has only once: stretches on the same data that are equal in it can be joined."""
        return (
            *(self.first, self.count, self.batch_size, self.params_SN.shape[1]),
            *(self.slow_SN is None, self.average_SN is None),
        )

    def constants_GX(self) -> Tensor:
        """The constants of every settings, on the CPU in the weights' precision."""
        return torch.tensor([own.constants() for own in self.settings], dtype=self.params_SN.dtype)

    def rates_CGR(self, start: int = 0, stop: int | None = None) -> Tensor:
        """The rates of the steps ``start`` to ``stop`` (all by default), on the CPU."""
        dtype, steps = self.params_SN.dtype, slice(start, stop)
        rates = [[getattr(own, name)[steps] for name in RATES] for own in self.settings]
        return torch.tensor(rates, dtype=dtype).permute(2, 0, 1).contiguous()

    def lr_scale_GN(self) -> Tensor | None:
        """None where no settings have any. A learning rate times 1 is that rate to the bit."""
        scales = [own.lr_scale_N for own in self.settings]
        given = next((scale_N for scale_N in scales if scale_N is not None), None)
        if given is None:
            return None
        return torch.stack([torch.ones_like(given) if each is None else each for each in scales])


def joined(stretches: Sequence[Stretch]) -> Stretch:
    """One call for all seeds of stretches of one kind; the only one as it is, several as a copy."""
    first, *others = stretches
    if not others:
        return first
    assert all(other.kind == first.kind for other in others)
    offsets, settings = [], []
    for each in stretches:
        offsets.append(each.setting_S + len(settings))
        settings += each.settings
    together: dict[str, Any] = {}
    for name in ("seeds_S", "weight_decay_S", *_STATES):
        tensors = [getattr(each, name) for each in stretches]
        together[name] = None if tensors[0] is None else torch.cat(tensors)
    return replace(first, settings=tuple(settings), setting_S=torch.cat(offsets), **together)


def hand_back(together: Stretch, stretches: Sequence[Stretch]) -> None:
    """What the steps of ``joined(stretches)`` came to, into the tensors it was made of."""
    if together is stretches[0]:
        return
    counts = [len(each.params_SN) for each in stretches]
    for name in _STATES:
        tensor = getattr(together, name)
        if tensor is not None:
            for each, part in zip(stretches, tensor.split(counts), strict=True):
                getattr(each, name).copy_(part)
