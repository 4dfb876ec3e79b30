"""Whether the weights in a file are those its settings ask for, to the last name and number."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from adderlab.errors import Failure
from adderlab.models.config import ModelConfig
from adderlab.models.transformer import Transformer


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter, tied ones once, in the module's order."""
    return {name: tuple(p.shape) for name, p in _skeleton(config).named_parameters()}


def check_parameters(config: ModelConfig, params: Mapping[str, Any], path: Path) -> None:
    """Raises ``Failure`` unless ``params`` has exactly the config's parameters, all finite."""
    _not_too_deep(config, params, path)
    shapes = parameter_shapes(config)
    _same_names(params, tuple(shapes), path)
    for name, shape in shapes.items():
        _check_tensor(name, params[name], shape, path)


def untied(config: ModelConfig, state: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    """A module's state -> its parameters, once each; the copies of tied ones must agree."""
    _not_too_deep(config, state, path)
    aliases, shapes = _state_names(config), parameter_shapes(config)
    _same_names(state, tuple(aliases), path)
    for name, parameter in aliases.items():
        if parameter is not None:
            _check_tensor(name, state[name], shapes[parameter], path)
            if not torch.equal(state[name].float(), state[parameter].float()):
                raise Failure(f"{path}: {name} and {parameter} must be the same tensor, but differ")
    return {name: state[name] for name in shapes}


def _not_too_deep(config: ModelConfig, found: Mapping[str, Any], path: Path) -> None:
    """Before the model is built from settings that a file made up."""
    if config.n_layer > len(found):
        raise Failure(
            f"{path} has {len(found)} weights, too few for the {config.n_layer} layers of its settings"
        )


def _same_names(found: Mapping[str, Any], wanted: tuple[str, ...], path: Path) -> None:
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in found if name not in wanted]
    if missing or unknown:
        what = f"lacks the weight {missing[0]}" if missing else f"has an unknown weight {unknown[0]}"
        raise Failure(f"{path} {what} for a model of its settings; fetch or save it again")


def _check_tensor(name: str, tensor: Any, shape: tuple[int, ...], path: Path) -> None:
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_quantized:
        raise Failure(f"{path}: {name} is not a plain tensor; fetch or save it again")
    if tuple(tensor.shape) != shape:
        raise Failure(
            f"{path}: {name} has the shape {tuple(tensor.shape)}, its settings ask for {shape}; "
            "fetch or save it again"
        )
    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        exact = tensor.dtype == torch.float64 and torch.equal(tensor.float().double(), tensor)
        if not exact:
            raise Failure(f"{path}: {name} is {tensor.dtype}, not float32; save it again as float32")
    if not torch.isfinite(tensor).all():
        raise Failure(
            f"{path}: the weight {name} is not finite (the training diverged, or the file is damaged); "
            "use another checkpoint"
        )


class _Undrawn(TorchFunctionMode):
    """Draws no starting values: on the meta device that would load torch's compiler, for seconds."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in ("normal_", "uniform_", "kaiming_uniform_"):
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@functools.lru_cache(maxsize=64)
def _skeleton(config: ModelConfig) -> Transformer:
    with torch.device("meta"), _Undrawn():
        return Transformer(config)


def _state_names(config: ModelConfig) -> dict[str, str | None]:
    """Every name of the module's state -> the parameter it is; None for a constant."""
    skeleton = _skeleton(config)
    names = {id(parameter): name for name, parameter in skeleton.named_parameters()}
    return {name: names.get(id(t)) for name, t in skeleton.state_dict(keep_vars=True).items()}
