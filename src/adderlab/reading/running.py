"""A user's model as it runs here: built from its file, its tensors found, its calls watched.

Nothing is known of it but that it is Python: it may be a module, a plain class, or a function, its
logits may lie inside what it returns, and it may write in the middle of a call which type of number it
wants. Only files that the user named are run, in this process.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.util
import itertools
import random
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from adderlab.errors import Failure, UsageError
from adderlab.task.addition import PUBLISHED, Addition


def load_file(path: Path) -> types.ModuleType:
    """Run a Python file that the user named. Raises ``UsageError`` where there is none, ``Failure``
    where it fails."""
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    name = f"adderlab_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # Files beside it can be imported, as when it is run on its own.
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise Failure(f"{path} fails when it is run: {one_line(error)}") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def built(module: types.ModuleType, seed: int | None = None) -> Any:
    """What the file's ``build_model`` makes, its metadata left out; ``seed`` is that of the
    generators, for constructors that draw."""
    return built_with_metadata(module, seed)[0]


def built_with_metadata(module: types.ModuleType, seed: int | None = None) -> tuple[Any, Any]:
    """As ``built``, and the metadata; None where there are none."""
    build = getattr(module, "build_model", None)
    if not callable(build):
        raise Failure(f"{module.__file__} has no function build_model")
    try:
        with _seeded(seed) if seed is not None else contextlib.nullcontext():
            result = build()
    except Exception as error:
        raise Failure(f"build_model fails: {one_line(error)}") from error
    model, *rest = result if isinstance(result, tuple) and result else (result,)
    if isinstance(model, nn.Module) and model.training:
        model.eval()
    return model, rest[0] if rest else None


def stated_size(metadata: Any) -> Addition:
    """The size of the task that a file's metadata name, under ``columns`` and ``base`` (10 unless
    named); without columns that of AdderBoard. Raises ``UsageError`` for what is no size."""
    if not isinstance(metadata, Mapping) or "columns" not in metadata:
        return PUBLISHED
    found = {"columns": metadata["columns"], "base": metadata.get("base", 10)}
    for name, value in found.items():
        if type(value) is not int:
            raise UsageError(f"its metadata name {value!r} as {name}: a whole number says the size")
    return Addition(**found)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """PyTorch's, Python's and numpy's generators at ``seed``; as before afterwards."""
    python, arrays = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)


def one_line(error: Exception) -> str:
    """Its kind and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


# The tensors of a model, whatever holds them, and the arithmetic it runs in.

_HELD_DEPTH = 6


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
    for _ in range(_HELD_DEPTH):
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


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: with tensors this small, threads wait for one another most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def plain_rms_norm() -> Iterator[None]:
    """PyTorch's RMS norm in operations of its own, with the epsilon of float32 where none is given: a
    model that runs in float64 for once is meant as it runs in float32."""
    fused = torch.rms_norm

    def rms_norm(
        x: Tensor, shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
    ) -> Tensor:
        eps = torch.finfo(torch.float32).eps if eps is None else eps
        dims = list(range(-len(shape), 0))
        normed = x * torch.rsqrt(x.square().mean(dims, keepdim=True) + eps)
        return normed if weight is None else normed * weight

    vars(torch)["rms_norm"] = rms_norm
    try:
        yield
    finally:
        vars(torch)["rms_norm"] = fused


# Where the logits are in what a model returned: a tensor, or something that holds it.

Step = tuple[str, Any]
"""("item", index or key) or ("attribute", name)."""
_RESULT_DEPTH = 4


def logits_place(result: Any, depth: int = _RESULT_DEPTH) -> tuple[Step, ...] | None:
    """The way to what is called logits, or to the first tensor of real numbers; None if there is none.

    A single number is none (a loss).
    """
    if isinstance(result, Tensor):
        return () if result.is_floating_point() and result.ndim else None
    for step, part in _parts(result) if depth else ():
        rest = logits_place(part, depth - 1)
        if rest is not None:
            return (step, *rest)
    return None


def first_logits(result: Any) -> Tensor | None:
    """The tensor at ``logits_place``."""
    place = logits_place(result)
    if place is None:
        return None
    for step in place:
        result = _taken(result, step)
    return result


def with_logits(result: Any, place: tuple[Step, ...], new: Tensor) -> Any:
    """The same with another tensor at that place; what was returned is left as it is."""
    if not place:
        return new
    step, *rest = place
    kind, name = step
    part = with_logits(_taken(result, step), tuple(rest), new)
    if isinstance(result, (tuple, list)) and kind == "item":
        parts = [part if i == name else own for i, own in enumerate(result)]
        # A named tuple takes its fields one by one.
        return type(result)(*parts) if hasattr(result, "_fields") else type(result)(parts)
    changed = copy.copy(result)
    if kind == "item":
        changed[name] = part
    # Some mappings hold their items as attributes too.
    if kind == "attribute" or name in getattr(changed, "__dict__", {}):
        object.__setattr__(changed, name, part)
    return changed


def _taken(result: Any, step: Step) -> Any:
    kind, name = step
    return result[name] if kind == "item" else getattr(result, name)


def _parts(result: Any) -> Iterator[tuple[Step, Any]]:
    """What it holds, what is called logits first."""
    if isinstance(result, Mapping):
        named = [(("item", key), value) for key, value in result.items()]
    elif isinstance(result, (tuple, list)):
        names = getattr(result, "_fields", range(len(result)))
        parts = [(("item", i), value) for i, value in enumerate(result)]
        yield from (part for name, part in zip(names, parts, strict=True) if name == "logits")
        named = parts
    elif isinstance(result, nn.Module):
        return
    else:
        names = [*(["logits"] if hasattr(result, "logits") else []), *getattr(result, "__dict__", {})]
        named = [(("attribute", name), getattr(result, name)) for name in names]
    yield from (part for part in named if part[0][1] == "logits")
    yield from named


# Watching a file's calls of its model, and answering in the model's place.

MOST_CALLS = 60
"""Of the model, for one sum."""
LEVEL, LITTLE = 0.25, 2.0**-8
"""Logits that are put in place are plus or minus the first, call by call, and the largest is so little
above the others. Any format of numbers holds both."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call that gave logits."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    place: int | str
    """Of the tokens among the arguments."""
    tokens: tuple[int, ...]
    shape: tuple[int, ...]
    logits: Tensor
    """Those of the last position, (V,), by the model itself."""
    chosen: int
    """The token with the largest logit at the end, or the one that was put in its place."""


class Watch:
    """Notes every call that takes tokens and gives logits, of ``digits`` tokens or more; of nested ones
    the outermost.

    With ``only``, the function that was found to do so, its answers can be replaced, by those that
    ``forced`` gives out, None leaving one alone; with ``enough`` so many calls end the sum. The logit
    put in place is the largest by very little, so that who draws by them is found out; ``above`` is a
    token whose logit is larger still.
    """

    def __init__(
        self,
        module: types.ModuleType,
        model: Any,
        digits: int = 10,
        only: Any = None,
        enough: int = 0,
    ) -> None:
        self._module, self._model, self._digits = module, model, digits
        self._only, self._enough = only, enough
        self._undo: list[Callable[[], None]] = []
        self.calls: list[Call] = []
        self.forced: Iterator[int | None] | None = None
        self.above: int | None = None

    def __enter__(self) -> Watch:
        own = self._module.__name__
        for _, thing in reachable(self._model):
            if isinstance(thing, nn.Module):
                self._patch_instance(thing, "forward")
            elif type(thing).__module__ == own:
                for name, function in list(vars(type(thing)).items()):
                    if isinstance(function, types.FunctionType) and name != "__init__":
                        self._patch(type(thing), name, function)
        for name, function in list(vars(self._module).items()):
            plain = isinstance(function, types.FunctionType) and function.__module__ == own
            if plain and name not in ("add", "build_model"):
                self._patch(self._module, name, function)
        return self

    def __exit__(self, *_: object) -> None:
        for undo in reversed(self._undo):
            undo()

    def _patch(self, owner: Any, name: str, function: Callable[..., Any]) -> None:
        setattr(owner, name, self._watched(function))
        self._undo.append(lambda: setattr(owner, name, function))

    def _patch_instance(self, thing: nn.Module, name: str) -> None:
        before = vars(thing).get(name)
        # Called by its owner again, a module runs its hooks too.
        vars(thing)[name] = self._watched(getattr(thing, name), thing)

        def undo() -> None:
            del vars(thing)[name]
            if before is not None:
                vars(thing)[name] = before

        self._undo.append(undo)

    def _watched(self, function: Callable[..., Any], again: Any = None) -> Callable[..., Any]:
        asked = function if again is None else again

        @functools.wraps(function)
        def watched(*args: Any, **kwargs: Any) -> Any:
            if self._only is not None and asked is not self._only:
                return function(*args, **kwargs)
            before = len(self.calls)
            place, tokens = _tokens_among(args, kwargs)
            output = function(*args, **kwargs)
            logits = first_logits(output) if tokens else None
            if place is None or logits is None or logits.ndim == 0:
                return output
            if logits.shape[-1] < self._digits:
                return output
            del self.calls[before:]  # what was called inside is part of this call
            token = None if self.forced is None else next(self.forced, None)
            self.calls.append(
                Call(
                    function=asked,
                    args=args,
                    kwargs=kwargs,
                    place=place,
                    tokens=tuple(tokens),
                    shape=tuple(logits.shape),
                    logits=logits.detach().reshape(-1, logits.shape[-1])[-1].clone(),
                    chosen=int(logits.reshape(-1, logits.shape[-1])[-1].argmax())
                    if token is None
                    else token,
                )
            )
            if len(self.calls) > MOST_CALLS:
                raise Failure(f"add calls its model more than {MOST_CALLS} times for one sum")
            if self._enough and len(self.calls) >= self._enough:
                raise Enough
            if token is None:
                return output
            rigged = torch.full_like(logits, LEVEL if len(self.calls) % 2 else -LEVEL)
            rigged[..., token] += LITTLE
            if self.above is not None:
                rigged[..., self.above] += 2 * LITTLE
            return with_logits(output, logits_place(output) or (), rigged)

        return watched


class Enough(BaseException):
    """All that was to be seen of a sum has been seen."""


def _tokens_among(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int | str | None, list[int]]:
    """(where the tokens are among the arguments, the tokens)."""
    for place, value in itertools.chain(enumerate(args), kwargs.items()):
        whole = isinstance(value, Tensor) and value.dtype in (torch.int64, torch.int32, torch.uint8)
        if whole and value.numel() > 1 and tuple(value.shape[:-1]) in ((), (1,)):
            return place, value.reshape(-1).tolist()
        if isinstance(value, (list, tuple)) and len(value) > 1 and all(type(x) is int for x in value):
            return place, list(value)
    return None, []
