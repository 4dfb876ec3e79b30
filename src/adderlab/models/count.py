"""Counting parameters as AdderBoard does: unique trained numbers, tied ones once.

Fixed numbers (a fixed spiral, rotary angles, a position held at zero) are no tensors here and have
no row.
"""

import math
from dataclasses import dataclass

from adderlab.models.config import ModelConfig
from adderlab.models.transformer import skeleton


@dataclass(frozen=True, kw_only=True)
class ParameterRow:
    """One tensor of the state dict."""

    name: str
    shape: tuple[int, ...]
    count: int
    """Numbers in the tensor."""
    tied_to: str | None
    """Name of the earlier row that is the same tensor, or None."""
    counted: bool
    """Trained and not tied to an earlier row."""


def parameter_table(config: ModelConfig) -> tuple[ParameterRow, ...]:
    """Every tensor of the model in the order of the state dict; no weights are made."""
    model = skeleton(config)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    first_name: dict[int, str] = {}
    rows = []
    for name, tensor in model.state_dict(keep_vars=True).items():
        earlier = first_name.setdefault(id(tensor), name)
        tied_to = None if earlier == name else earlier
        trained = name in parameters and parameters[name].requires_grad
        shape = tuple(tensor.shape)
        rows.append(
            ParameterRow(
                name=name,
                shape=shape,
                count=math.prod(shape),
                tied_to=tied_to,
                counted=trained and tied_to is None,
            )
        )
    return tuple(rows)


def count_parameters(config: ModelConfig) -> int:
    """Unique trained parameters of a model of this configuration."""
    return sum(row.count for row in parameter_table(config) if row.counted)
