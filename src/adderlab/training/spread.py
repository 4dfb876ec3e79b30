"""Starts that differ: where a model's own draw is nearly the same for every seed, a wider one.

Most published starts are narrow: maps N(0, 0.02), every weight of a norm 1, digits on an arc of 150
degrees. Two draws of such a model differ in little that matters, and what training would have to cross
zero for, the sign of a channel, is the same in all. A spread start draws whole maps Xavier uniform and
gives every weight of the stream's norms a random sign; with ``recipe.draws`` a seed then begins with
starts that are worth choosing from. Digits may start on a short arc, on which a channel is nearly
linear in the digit. Nothing comes from a trained model, and no parameter is added or fixed.

Shapes: S draws.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from adderlab.errors import UsageError
from adderlab.models.config import ModelConfig

_NORMS = ("ln1.weight", "ln2.weight", "ln_f.weight")
_SIGNS_STREAM = 7_919
"""Added to a draw's number: signs come from a stream of their own."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """What is drawn otherwise than the model does."""

    maps: Literal["own", "xavier"] = "xavier"
    """How whole maps are drawn; "own": as the model does."""
    signs: bool = True
    """Whether every weight of the norms before attention, MLP and head gets a random sign."""
    arc: tuple[float, float, float] | None = None
    """(radius, start, stride) of digits on an arc; None: as the model has it."""

    def __post_init__(self) -> None:
        if self.arc is not None and not self.arc[0] > 0:
            raise UsageError(f"spread.arc starts with a radius above 0, not {self.arc[0]}")


def check_spread(spread: Spread, config: ModelConfig, names: list[str]) -> None:
    """Raises ``UsageError`` for a model that has no arc, or no norm with weights."""
    if spread.arc is not None and config.tokens == "table":
        raise UsageError(
            "spread.arc needs digits on an arc (67p, 62p, 44p, ...); this model has a table of them: "
            "set recipe.spread.arc=null"
        )
    if spread.signs and not any(name.endswith(_NORMS) for name in names):
        raise UsageError(
            "spread.signs needs norms with weights; this model has none: set recipe.spread.signs=false"
        )


def drawn_as(spread: Spread, config: ModelConfig) -> ModelConfig:
    """The model whose own draw is the spread one; their parameters have the same names and shapes."""
    init = "xavier" if spread.maps == "xavier" else config.init
    return dataclasses.replace(config, init=init, arc=spread.arc or config.arc)


def with_signs(params: dict[str, Tensor], drawn: list[int]) -> dict[str, Tensor]:
    """Norm weights (S, D) of draws numbered ``drawn`` with signs at random."""
    signed = dict(params)
    generators = [torch.Generator().manual_seed(number + _SIGNS_STREAM) for number in drawn]
    for name, tensor in params.items():
        if name.endswith(_NORMS):
            bits = [torch.randint(2, tensor.shape[1:], generator=each) for each in generators]
            signed[name] = tensor * (2 * torch.stack(bits) - 1)
    return signed
