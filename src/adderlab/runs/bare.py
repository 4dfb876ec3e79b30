"""Bare state dicts: weights in a file that does not say of what model, read as the preset that the user
names, or as the model of their Python file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adderlab.errors import Failure
from adderlab.models.config import ModelConfig
from adderlab.models.transformer import build_model
from adderlab.reading.file_model import FileModel
from adderlab.runs import microadder
from adderlab.runs.foreign import Foreign, from_mlx, is_mlx, unwrapped

_WITHIN = ("model_state", "model_state_dict", "state_dict", "model", "weights", "params")
"""Where programs put a state dict, when it is not the whole file."""

_SHOWN = 3
"""Names of weights in one complaint."""


def bare_state(payload: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """The named tensors in a file's table, or in the part of it that usually holds them; None if there
    are none."""
    for table in (payload, *(payload.get(key) for key in _WITHIN)):
        if isinstance(table, Mapping) and table:
            tensors = {name: tensor for name, tensor in table.items() if isinstance(tensor, Tensor)}
            if tensors and (table is not payload or len(tensors) == len(payload)):
                return unwrapped(tensors)
    return None


def parameters(
    config: ModelConfig | FileModel, state: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """The weights as parameters of this architecture, out of its own names, MicroAdder's or MLX's.

    A tied tensor may be there once or under each of its names, and masks may be there. Raises
    ``Failure`` naming the weights that are missing, that have no place, or are of another shape.
    """
    if isinstance(config, ModelConfig):
        found = _known(config, state, path)
        if found is not None:
            if found.config != config:
                raise Failure(
                    f"{path} holds weights of another model than the one named: {found.trained} "
                    f"trained numbers, not {_count(config)}; name their preset"
                )
            return found.params
    return _fitted(config, state, path)


def _known(config: ModelConfig, state: Mapping[str, Tensor], path: Path) -> Foreign | None:
    """The model of weights under another program's names; None where they have none of those."""
    if microadder.is_microadder(state):
        return microadder.from_state(microadder.settings_of(state, config, path), state, path)
    return from_mlx(state, path) if is_mlx(state) else None


def _count(config: ModelConfig) -> int:
    return sum(p.numel() for p in build_model(config, 0).parameters())


def _fitted(
    config: ModelConfig | FileModel, state: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """The parameters, each once."""
    model = build_model(config, 0)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    within = getattr(model, "own", model)  # of a Python file, what its build_model made
    own = dict(model.named_parameters())
    if isinstance(within, nn.Module):
        own = within.state_dict(keep_vars=True)
    every: dict[str, list[str]] = {name: [] for name in names.values()}
    for alias, tensor in own.items():
        if id(tensor) in names:
            every[names[id(tensor)]].append(alias)
    found = {name: [a for a in aliases if a in state] for name, aliases in every.items()}
    missing = [name for name, aliases in found.items() if not aliases]
    unknown = [name for name in state if name not in own and not name.endswith("mask")]
    misshapen = [
        f"{alias} is {tuple(state[alias].shape)}, not {tuple(own[alias].shape)}"
        for aliases in found.values()
        for alias in aliases
        if state[alias].shape != own[alias].shape
    ]
    complaints = (("missing: ", missing), ("without a place: ", unknown), ("", misshapen))
    wrong = [f"{what}{_list(names)}" for what, names in complaints if names]
    if wrong:
        raise Failure(f"{path} does not fit the model named; {'; '.join(wrong)}")
    for aliases in found.values():
        if any(not torch.equal(state[a], state[aliases[0]]) for a in aliases):
            raise Failure(f"{path}: {' and '.join(aliases)} are one tensor in the model, but differ")
    buffers = [a for a, t in own.items() if id(t) not in names and a in state]
    for name in buffers:
        if not torch.equal(state[name].to(own[name]), own[name]):
            raise Failure(f"{path}: the buffer {name} is not what the model makes it; it cannot be read")
    return {name: state[aliases[0]].detach() for name, aliases in found.items()}


def _list(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
