"""Learned positions that start in convex position: the columns of a sum on a circle.

A query can single out a column only if the column's keys are an extreme point of all columns' keys,
so the columns must stand in convex position (docs/why-runs-fail.md). A low-rank table of positions,
row p = A[p] @ B, starts here with the rows of A that belong to column j - a_j, b_j and the query of
answer step j - at (cos 2 pi j / period, sin 2 pi j / period, 0, ...). The noise around them is the
model's own first draw, N(0, 0.02); its B is widened. Nothing comes from a trained model.

Shapes: S seeds, P rows of the table, R its rank.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from adderlab.errors import UsageError
from adderlab.models.config import PUBLISHED_ARC, ModelConfig
from adderlab.task.digits import OPERAND_DIGITS, SUM_DIGITS

DRAWN_STD = 0.02
"""Standard deviation of the table's factors and of the token table as models draw them."""


@dataclass(frozen=True, kw_only=True)
class Circle:
    """Where positions, and if wanted digits, start."""

    period: int = SUM_DIGITS
    """Columns of a full turn."""
    spread: float = 0.5
    """Standard deviation of B."""
    digit_radius: float = 0.0
    """Digit d starts at this radius, angle -1.2 + 0.29 d, of the first two channels; 0: undisturbed."""

    def __post_init__(self) -> None:
        if self.period < 3:
            raise UsageError(f"circle.period must be at least 3, not {self.period}")
        for name in ("spread", "digit_radius"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"circle.{name} must be at least 0, not {getattr(self, name)}")


def check_circle(circle: Circle, config: ModelConfig) -> None:
    """Raises ``UsageError`` for a model without a low-rank table of positions."""
    if config.positions != "learned" or config.pos_rank < 2:
        raise UsageError(
            "circle needs learned positions of rank 2 or more (456p, 311p, 262p, ...); this model's "
            f"positions are {config.positions} of rank {config.pos_rank or 'full'}"
        )
    if circle.digit_radius and (config.tokens != "table" or config.init != "normal"):
        raise UsageError("circle.digit_radius needs a token table; set it to 0 for this model")


def on_circle(circle: Circle, config: ModelConfig, params: dict[str, Tensor]) -> dict[str, Tensor]:
    """Freshly drawn parameters (S in front) with positions moved to the circle."""
    check_circle(circle, config)
    moved = dict(params)
    moved["pos_emb.A"] = params["pos_emb.A"] + _rows(circle, config, params["pos_emb.A"])
    moved["pos_emb.B"] = params["pos_emb.B"] * (circle.spread / DRAWN_STD)
    if circle.digit_radius:
        table_SVW = params["token_emb.weight"]
        _, start, stride = PUBLISHED_ARC
        centre_VW = torch.zeros_like(table_SVW[0])
        for d in range(10):
            angle = start + d * stride
            centre_VW[d, 0] = circle.digit_radius * math.cos(angle)
            centre_VW[d, 1] = circle.digit_radius * math.sin(angle)
        moved["token_emb.weight"] = table_SVW + centre_VW
    return moved


def _rows(circle: Circle, config: ModelConfig, table_SPR: Tensor) -> Tensor:
    """Centre of every row of A, (P, R); zero for rows that belong to no column."""
    layout = config.token_layout
    centre_PR = torch.zeros_like(table_SPR[0])
    of_column = [[layout.query_positions[j]] for j in range(SUM_DIGITS)]
    for j in range(OPERAND_DIGITS):
        of_column[j] += [layout.a_positions[j], layout.b_positions[j]]
    for j, positions in enumerate(of_column):
        angle = 2 * math.pi * j / circle.period
        for p in positions:
            centre_PR[p, 0], centre_PR[p, 1] = math.cos(angle), math.sin(angle)
    return centre_PR
