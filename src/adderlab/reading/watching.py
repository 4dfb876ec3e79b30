"""Watching a file's calls of its model, and answering in the model's place."""

from __future__ import annotations

import functools
import itertools
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adderlab.errors import Failure
from adderlab.reading.outputs import first_logits, logits_place, with_logits
from adderlab.reading.precision import reachable

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
