"""Several starts for a seed, of which the best goes on: they train side by side, and at given steps the
worse half of each seed's is dropped.

Whether a start leads anywhere shows early (docs/why-runs-fail.md). Where most starts of a small model
lead nowhere, a seed that begins with sixteen and soon goes on with one costs a few runs and succeeds
far more often. All draws of a seed train and are judged on the seed's own pairs; what decides is
accuracy on its validation pairs. That is a choice among starts, so a rate measured with it says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adderlab.errors import UsageError

_APART = 1_000_000
"""Between the seeds of two draws: draw 0 of a seed is the seed's own."""


@dataclass(frozen=True, kw_only=True)
class Draws:
    """A start drawn ``count`` times; the better half goes on at the first evaluation from each of
    ``halvings`` on."""

    halvings: tuple[int, ...]
    """Steps, rising; after the last one draw is left, so ``count`` is 2 to their number."""

    def __post_init__(self) -> None:
        if not self.halvings or list(self.halvings) != sorted(set(self.halvings)):
            raise UsageError(f"draws.halvings must be rising steps, not {list(self.halvings)}")
        if self.halvings[0] < 0 or len(self.halvings) > 8:
            raise UsageError("draws.halvings holds one to eight steps, none below 0")

    @property
    def count(self) -> int:
        """How many draws a seed begins with."""
        return int(2 ** len(self.halvings))

    def left_after(self, step: int) -> int:
        """How many go on after the evaluation at ``step``."""
        return int(2 ** sum(step < halving for halving in self.halvings))

    def seed_steps(self, steps: int) -> int:
        """Steps of all draws together in a run of ``steps``, if evaluations fall on the halvings."""
        return steps + sum(halving * (self.count >> i) // 2 for i, halving in enumerate(self.halvings))


def draw_seeds(seed: int, count: int) -> list[int]:
    """The numbers that ``count`` draws of a seed's parameters are made from."""
    return [seed + i * _APART for i in range(count)]


def rows_of(of_row: Sequence[int]) -> dict[int, list[int]]:
    """The rows of every seed, in their order. ``of_row``: which seed each row is of."""
    rows: dict[int, list[int]] = {}
    for row, seed in enumerate(of_row):
        rows.setdefault(seed, []).append(row)
    return rows


def leaders(of_row: Sequence[int], scores: Sequence[tuple[float, ...]], count: int) -> list[int]:
    """The ``count`` best rows of every seed, in their order."""
    chosen: list[int] = []
    for rows in rows_of(of_row).values():
        chosen += sorted(sorted(rows, key=lambda row: scores[row], reverse=True)[:count])
    return chosen
