"""Names of a model's parameters in its submission file: short, and fit for Python attributes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch.nn import Parameter

from adderlab.models.config import ModelConfig
from adderlab.models.transformer import Transformer, skeleton

_PLACE = re.compile(r"^blocks\.(\d+)\.(?:(?:attn|mlp)\.)?")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a parameter lives in the file: an attribute of the model, or of one of its layers."""

    layer: int | None
    attribute: str

    @property
    def expression(self) -> str:
        """How a method of the model reads it."""
        return f"{'self' if self.layer is None else 'layer'}.{self.attribute}"


def places(config: ModelConfig) -> dict[str, Place]:
    """Checkpoint name -> place, in the checkpoint's order. Tied parameters are there once."""
    return {name: place for _, name, place in _walk(skeleton(config))}


def expressions(model: Transformer) -> dict[int, str]:
    """Identity of each parameter of ``model`` -> how a method reads it."""
    return {id(parameter): place.expression for parameter, _, place in _walk(model)}


def _walk(model: Transformer) -> list[tuple[Parameter, str, Place]]:
    every: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        every.setdefault(id(parameter), []).append(name)
    found = []
    for name, parameter in model.named_parameters():
        attribute = _PLACE.sub("", name)
        if attribute.endswith(".weight") and f"{name[:-7]}.bias" not in dict(model.named_parameters()):
            attribute = attribute[:-7]
        attribute = attribute.replace("pos_emb.columns.", "pos_emb.")
        place = Place(
            layer=_layer(every[id(parameter)], len(model.blocks)), attribute=attribute.replace(".", "_")
        )
        found.append((parameter, name, place))
    assert len({place for _, _, place in found}) == len(found), "two parameters with one attribute"
    return found


def _layer(names: list[str], num_layers: int) -> int | None:
    """The layer that alone uses a parameter; None in a model of one layer."""
    layers = {int(match[1]) if (match := _PLACE.match(name)) else None for name in names}
    return layers.pop() if num_layers > 1 and len(layers) == 1 else None
