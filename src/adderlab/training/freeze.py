"""Parameters that stand still for a part of the run and learn at a rate of their own afterwards.

Standing still is a learning rate of 0: gradients and Adam's moments go on, so the release is smooth.

Shapes: N parameters of one model, flat.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adderlab.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Freeze:
    """Parameters whose name starts with ``prefix``."""

    prefix: str
    until: float
    """Fraction of ``recipe.steps``; before it they stand still."""
    then: float = 1.0
    """Their learning rate from there on (restarts included), as a multiple of the others'."""

    def __post_init__(self) -> None:
        if not self.prefix:
            raise UsageError("freeze needs the beginning of a parameter's name, such as pos_emb.A")
        if not 0 <= self.until <= 1:
            raise UsageError(f"freeze.until is a fraction of the run from 0 to 1, not {self.until}")
        if not self.then >= 0:
            raise UsageError(f"freeze.then must be at least 0, not {self.then}")

    def multiplier(self, step: int, steps: int) -> float:
        """Of the learning rate at that step of a run of ``steps``."""
        return 0.0 if step < self.until * steps else self.then


def check_names(freezes: Sequence[Freeze], names: Sequence[str]) -> None:
    """Raises ``UsageError`` for a prefix that no parameter has."""
    for freeze in freezes:
        if not any(name.startswith(freeze.prefix) for name in names):
            raise UsageError(
                f"freeze: no parameter's name begins with {freeze.prefix!r}; there are "
                f"{', '.join(names)}"
            )


class LearningRates:
    """The multiple of the learning rate at which every parameter learns."""

    def __init__(
        self, freezes: Sequence[Freeze], sizes: Mapping[str, int], steps: int, like: Tensor
    ) -> None:
        """``sizes``: numbers of every parameter, in flat order. ``like``: dtype and device."""
        self.freezes, self.sizes, self.steps, self.like = freezes, sizes, steps, like
        self._multipliers: tuple[float, ...] | None = None
        self._scale_N: Tensor | None = None

    def at(self, step: int) -> Tensor | None:
        """scale_N, or None where every parameter learns at the full rate."""
        multipliers = tuple(freeze.multiplier(step, self.steps) for freeze in self.freezes)
        if multipliers != self._multipliers:
            self._multipliers, self._scale_N = multipliers, self._build(multipliers)
        return self._scale_N

    def same_until(self, step: int) -> int | None:
        """The next step at which some rate changes; None: never again."""
        changes = [math.ceil(freeze.until * self.steps) for freeze in self.freezes]
        return min((change for change in changes if change > step), default=None)

    def _build(self, multipliers: Sequence[float]) -> Tensor | None:
        values: list[float] = []
        for name, size in self.sizes.items():
            own = 1.0
            for freeze, multiplier in zip(self.freezes, multipliers, strict=True):
                if name.startswith(freeze.prefix):
                    own *= multiplier
            values += [own] * size
        if all(value == 1.0 for value in values):
            return None
        return torch.tensor(values, dtype=self.like.dtype, device=self.like.device)
