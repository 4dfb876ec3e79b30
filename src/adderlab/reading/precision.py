"""The tensors of a model, whatever holds them, and the model in float64."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from adderlab.reading.trace import plain_rms_norm

_DEPTH = 6


def parameters_of(model: Any) -> dict[str, Tensor]:
    """The tensors that training changes: a module's parameters; of a plain object, its tensors of real
    numbers, or those alone that ask for a gradient if some do."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, thing in reachable(model):
        if isinstance(thing, nn.Module):
            for own, parameter in thing.named_parameters():
                found.setdefault(id(parameter), (f"{name}.{own}".lstrip("."), parameter))
    if not found:
        tensors = [
            (name.lstrip("."), thing)
            for name, thing in reachable(model)
            if isinstance(thing, Tensor) and thing.is_floating_point()
        ]
        asked = [(name, tensor) for name, tensor in tensors if tensor.requires_grad]
        found = {id(tensor): (name, tensor) for name, tensor in asked or tensors}
    return dict(found.values())


def reachable(thing: Any) -> Iterator[tuple[str, Any]]:
    """``thing`` and what its attributes, lists and dicts hold, outermost first, a few steps deep."""
    seen: set[int] = set()
    level: list[tuple[str, Any]] = [("", thing)]
    for _ in range(_DEPTH):
        following: list[tuple[str, Any]] = []
        for name, item in level:
            if id(item) in seen or isinstance(item, (str, bytes, int, float, types.ModuleType)):
                continue
            seen.add(id(item))
            yield name, item
            if isinstance(item, (Tensor, nn.Module)):
                continue
            if isinstance(item, Mapping):
                following += [(f"{name}.{key}", value) for key, value in item.items()]
            elif isinstance(item, (list, tuple)):
                following += [(f"{name}.{i}", value) for i, value in enumerate(item)]
            elif hasattr(item, "__dict__") and not isinstance(item, type):
                following += [(f"{name}.{key}", value) for key, value in vars(item).items()]
        level = following


class _Double(TorchDispatchMode):
    """Operations in its scope neither take nor make narrower floating-point numbers, whatever a model
    asks for in so many words: what is meant by ``.float()`` is a real number."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("dtype") in NARROW:
            kwargs = {**kwargs, "dtype": torch.float64}
        if any(map(_is_narrow, args)) and not func._schema.is_mutable:
            args = tree_map(lambda x: x.double() if _is_narrow(x) else x, args)
        return func(*args, **kwargs)


NARROW = (torch.float16, torch.bfloat16, torch.float32)


def _is_narrow(x: Any) -> bool:
    """Whether it is, or is a list of, tensors of narrow numbers."""
    if isinstance(x, Tensor):
        return x.dtype in NARROW
    return isinstance(x, (list, tuple)) and any(map(_is_narrow, x))


def _held(module: nn.Module) -> list[Tensor]:
    """Tensors that a module has as plain attributes."""
    return [x for part in module.modules() for x in vars(part).values() if isinstance(x, Tensor)]


@contextlib.contextmanager
def in_double(model: Any, *, all_of_it: bool = False) -> Iterator[None]:
    """The model's parameters and buffers, and new tensors, in float64; as before afterwards.
    Tensors that share memory still do.

    ``all_of_it``: also what the model makes float32 in so many words, which takes longer.
    """
    tensors = [
        tensor
        for _, thing in reachable(model)
        for tensor in (
            [*thing.parameters(), *thing.buffers(), *_held(thing)]
            if isinstance(thing, nn.Module)
            else [thing]
            if isinstance(thing, Tensor)
            else []
        )
        if tensor.is_floating_point()
    ]
    kept = [(tensor, tensor.data) for tensor in tensors]
    default = torch.get_default_dtype()
    wide: dict[int, Tensor] = {}
    try:
        for tensor, data in kept:
            storage = data.untyped_storage()
            if storage.data_ptr() not in wide:
                whole = torch.empty(0, dtype=data.dtype).set_(storage)
                wide[storage.data_ptr()] = whole.double()
            tensor.data = wide[storage.data_ptr()].as_strided(
                data.shape, data.stride(), data.storage_offset()
            )
        torch.set_default_dtype(torch.float64)
        with plain_rms_norm(), _Double() if all_of_it else contextlib.nullcontext():
            yield
    finally:
        torch.set_default_dtype(default)
        for tensor, data in kept:
            tensor.data = data
