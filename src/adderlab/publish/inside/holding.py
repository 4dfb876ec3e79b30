"""What a stranger's model holds: every tensor, array and table of numbers that can be reached from it.

Reached are attributes, slots, items of containers, closures and defaults of functions, and what the
file's own classes and modules hold, at any depth.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from . import arrays

_MOST_OBJECTS = 1_000_000
_MOST_VALUES = 100_000
"""Numbers whose values are told, not their places alone."""
_TABLE = 2
"""Floats in one list from which on they are a table."""
_SIMPLE = (str, bytes, int, float, complex, bool, type(None), range, slice)
_CONTAINERS = (list, tuple, set, frozenset, deque)


@dataclass(frozen=True)
class Held:
    """One tensor, array or table."""

    value: Any
    kind: str
    """parameter (registered as one), held (of a model that registers nothing), buffer, other (of the
    model, not registered), loose (in the file's globals alone)."""
    trained: bool


def reach(roots: Iterable[Any], ours: Callable[[str], bool]) -> Iterator[Any]:
    """What can be reached from the roots, each object once, the nearest first.

    ``ours`` says whether the module of this name belongs to the stranger: only such modules' globals
    and such classes' attributes are his.
    """
    seen: dict[int, Any] = {}
    waiting = deque(roots)
    while waiting and len(seen) < _MOST_OBJECTS:
        thing = waiting.popleft()
        if isinstance(thing, _SIMPLE) or id(thing) in seen:
            continue
        seen[id(thing)] = thing  # and kept alive: no other object gets its id
        yield thing
        # Objects of strangers may raise anything when they are looked at.
        with contextlib.suppress(Exception):
            waiting.extend(_parts(thing, ours))


def _parts(thing: Any, ours: Callable[[str], bool]) -> list[Any]:
    if arrays.library(thing) is not None:
        return list(thing.flat) if str(getattr(thing, "dtype", "")) == "object" else []
    if isinstance(thing, types.ModuleType):
        return list(vars(thing).values()) if ours(thing.__name__) else []
    if isinstance(thing, type):
        return list(vars(thing).values()) if ours(thing.__module__) else []
    parts: list[Any] = [type(thing)]
    if isinstance(thing, dict):
        parts += thing.values()
    elif isinstance(thing, _CONTAINERS):
        parts += thing
    elif isinstance(thing, types.FunctionType):
        parts += [cell.cell_contents for cell in thing.__closure__ or () if _filled(cell)]
        parts += [*(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()]
    elif isinstance(thing, types.MethodType):
        parts += [thing.__self__, thing.__func__]
    elif isinstance(thing, functools.partial):
        parts += [thing.func, *thing.args, *thing.keywords.values()]
    elif isinstance(thing, (staticmethod, classmethod)):
        parts.append(thing.__func__)
    elif isinstance(thing, property):
        parts.append(thing.fget)
    if _is_module(thing):
        # Of compiled ones these tables are not among the attributes.
        for table in ("_parameters", "_buffers", "_modules"):
            parts += dict(getattr(thing, table, {}).items()).values()
    parts += getattr(thing, "__dict__", {}).values()
    for each in type(thing).__mro__:
        names = each.__dict__.get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if hasattr(thing, name):
                parts.append(getattr(thing, name))
    return parts


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _is_module(thing: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(thing, torch.nn.Module)


def modules(model: Any, ours: Callable[[str], bool]) -> list[Any]:
    """Every torch module in the model, the outermost first."""
    return [thing for thing in reach([model], ours) if _is_module(thing)]


def held(model: Any, own_globals: list[Any], ours: Callable[[str], bool]) -> Iterator[Held]:
    """Everything with numbers in it, each once: the model's own, then what only the globals hold."""
    kinds, trained = _registered(model, ours)
    seen: set[int] = set()
    for roots, otherwise in (([model], "other" if kinds else "held"), (own_globals, "loose")):
        for thing in reach(roots, ours):
            if id(thing) in seen or not _has_numbers(thing):
                continue
            seen.add(id(thing))
            kind = kinds.get(id(thing), otherwise)
            learns = trained.get(id(thing), bool(getattr(thing, "requires_grad", kind == "held")))
            yield Held(thing, kind, learns)


def _registered(model: Any, ours: Callable[[str], bool]) -> tuple[dict[int, str], dict[int, bool]]:
    """What the model's modules register: id -> kind, and id -> whether it is trained."""
    kinds: dict[int, str] = {}
    trained: dict[int, bool] = {}
    for module in modules(model, ours):
        for kind, table in (("parameter", "_parameters"), ("buffer", "_buffers")):
            for tensor in dict(getattr(module, table, {}).items()).values():
                if tensor is not None:
                    kinds.setdefault(id(tensor), kind)
    mlx = sys.modules.get("mlx.nn")
    if mlx is not None and isinstance(model, mlx.Module):
        everything, learned = model.parameters(), model.trainable_parameters()
        for thing in reach([everything], ours):
            if arrays.library(thing) is not None:
                kinds[id(thing)], trained[id(thing)] = "parameter", False
        for thing in reach([learned], ours):
            if arrays.library(thing) is not None:
                trained[id(thing)] = True
        for thing in reach([model], ours):
            if arrays.library(thing) is not None:
                kinds.setdefault(id(thing), "buffer")
    return kinds, trained


def _has_numbers(thing: Any) -> bool:
    if arrays.library(thing) is not None:
        return arrays.is_floating(thing) or arrays.is_whole(thing)
    return bool(_table(thing))


def _table(thing: Any) -> list[float]:
    """The floats of a list, tuple or dict with at least two."""
    if isinstance(thing, dict):
        thing = list(thing.values())
    if not isinstance(thing, (list, tuple)):
        return []
    floats = [part for part in thing if type(part) is float]
    return floats if len(floats) >= _TABLE else []


def shown(everything: Iterable[Held]) -> list[dict[str, Any]]:
    """For each tensor, array and table: its kind, where its numbers lie, and their values.

    What has no address (a list, an array of mlx) gets one of its own, below zero. The values are left
    out once there were many.
    """
    shown: list[dict[str, Any]] = []
    values_left = _MOST_VALUES
    for number, each in enumerate(everything):
        own_place = -(number + 1) << 40
        with contextlib.suppress(Exception):
            entry = _place(each.value, own_place) | {"kind": each.kind, "trained": each.trained}
            count = arrays.size(each.value) if "table" not in entry else entry["shape"][0]
            entry["whole"] = "table" not in entry and arrays.is_whole(each.value)
            if count <= values_left and not entry["whole"]:
                values_left -= count
                entry["values"] = _values(each.value)
            shown.append(entry)
    return shown


def _place(value: Any, own_place: int) -> dict[str, Any]:
    which = arrays.library(value)
    if which == "torch":
        tensor = _strided(value)
        place = {"shape": list(tensor.shape), "stride": list(tensor.stride())}
        return place | {"size": tensor.element_size(), "start": tensor.data_ptr()}
    if which == "numpy":
        place = {"shape": list(value.shape), "stride": [step for step in value.strides], "size": 1}
        return place | {"start": value.__array_interface__["data"][0]}
    shape = list(value.shape) if which == "mlx" else [len(_table(value))]
    stride = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        stride[axis] = stride[axis + 1] * shape[axis + 1]
    place = {"shape": shape, "stride": stride, "size": 1, "start": own_place}
    return place if which == "mlx" else place | {"table": True}


def _strided(tensor: Any) -> Any:
    """A tensor with an address for each number: of a sparse one its values, of a complex one both
    parts."""
    if tensor.layout != sys.modules["torch"].strided:
        tensor = tensor.coalesce().values() if tensor.is_sparse else tensor.values()
    return (
        sys.modules["torch"].view_as_real(tensor.detach().resolve_conj())
        if tensor.is_complex()
        else tensor
    )


def _values(value: Any) -> list[float]:
    if arrays.library(value) is None:
        return _table(value)
    if arrays.library(value) == "torch":
        value = _strided(value)
    values = arrays.to_numpy(value)
    return values.astype(float).reshape(-1).tolist()


def scramble(everything: Iterable[Held], seed: int) -> dict[str, int]:
    """Overwrite every finite number: they are shuffled, and noise of their own size is added.

    Returns how many there are and how many could be overwritten.
    """
    import numpy

    draw = numpy.random.default_rng(seed)
    there = overwritten = 0
    for each in list(everything):
        whole = arrays.library(each.value) is not None and arrays.is_whole(each.value)
        if whole:
            continue
        with contextlib.suppress(Exception):
            before = numpy.array(_values(each.value))
            there += len(before)
            finite = numpy.isfinite(before)
            good = before[finite]
            scale = float(numpy.sqrt(numpy.mean(good**2))) if len(good) else 0.0
            after = before.copy()
            after[finite] = draw.permutation(good) + (scale or 1.0) * draw.standard_normal(len(good))
            _overwrite(each.value, after)
            overwritten += len(before)
    return {"there": there, "overwritten": overwritten}


def _overwrite(value: Any, numbers: Any) -> None:
    """Put numbers into an array or a list, in place. Raises whatever the value does about it."""
    which = arrays.library(value)
    if which == "torch":
        torch = sys.modules["torch"]
        with torch.no_grad():
            target = _strided(value.detach())
            target.copy_(torch.from_numpy(numbers).reshape(target.shape).to(target.dtype))
    elif which == "numpy":
        value[...] = numbers.reshape(value.shape).astype(value.dtype)
    elif which == "mlx":
        mlx = sys.modules["mlx.core"]
        value[...] = mlx.array(numbers.reshape(value.shape)).astype(value.dtype)
    else:
        fresh = iter(numbers.tolist())
        for key, old in list(value.items() if isinstance(value, dict) else enumerate(value)):
            if type(old) is float:
                value[key] = next(fresh)
