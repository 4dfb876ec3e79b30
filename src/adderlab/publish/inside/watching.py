"""What can be seen of a stranger's model while ``add`` runs: what it is called with, what it answers.

A model may be a torch module, an object of a class of the file's own, or a handful of functions. So
all of the file's own functions and methods are watched, and the ``forward`` of every torch module. A
*call of the model* is an outermost call that answers floating-point numbers: the loop around it
answers tokens, and what it calls itself is its own affair.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from . import arrays

_MOST_CALLS = 400
_MOST_TOKENS = 400


@dataclass(frozen=True)
class Site:
    """One function that is watched, and where it stands."""

    name: str
    of_model: bool
    """A method of an object, not a mere function of the file."""
    function: Callable[..., Any]
    put: Callable[[Any], None]
    """Puts another function in its place."""
    restore: Callable[[], Any]
    module: Any = None
    """The torch module whose ``forward`` it is."""


def sites(modules: Iterable[Any], own: Iterable[types.ModuleType], model: Any, add: Any) -> list[Site]:
    """What can be watched: torch modules, the file's functions and classes, calls of the model."""
    found = [_forward(f"{type(each).__name__} {i}", each) for i, each in enumerate(modules)]
    classes = {id(cls): (cls, {"__call__"}) for cls in type(model).__mro__ if not _is_torch(cls)}
    for module in own:
        for name, value in list(vars(module).items()):
            if getattr(value, "__module__", None) != module.__name__:
                continue
            if isinstance(value, type):
                classes[id(value)] = (
                    value,
                    {name for name in vars(value) if name[:2] != "__"} | {"__call__"},
                )
            elif isinstance(value, types.FunctionType) and value is not add and name != "build_model":
                found.append(_standing(name, False, module, name))
    for cls, names in classes.values():
        # A torch module's forward is watched on the object itself, where compiled ones have it too.
        for name in sorted(names & vars(cls).keys() - ({"forward"} if _is_torch_module(cls) else set())):
            if isinstance(vars(cls)[name], types.FunctionType):
                found.append(_standing(f"{cls.__name__}.{name}", True, cls, name))
    return found


def _is_torch(cls: type) -> bool:
    return cls.__module__.split(".")[0] == "torch"


def _is_torch_module(cls: type) -> bool:
    return any(each.__module__ == "torch.nn.modules.module" for each in cls.__mro__)


def _forward(name: str, module: Any) -> Site:
    table = vars(module)
    before = table.get("forward")

    def restore() -> None:
        del table["forward"]
        if before is not None:
            table["forward"] = before

    put = functools.partial(table.__setitem__, "forward")
    return Site(name, True, module.forward, put, restore, module)


def _standing(name: str, of_model: bool, owner: Any, attribute: str) -> Site:
    function = vars(owner)[attribute]
    put = functools.partial(setattr, owner, attribute)
    return Site(name, of_model, function, put, lambda: setattr(owner, attribute, function))


@dataclass
class Watch:
    """Sees the model's calls while it is entered, and can replace what they answer."""

    sites: list[Site]
    calls: list[dict[str, Any]] = field(default_factory=list)
    targets: dict[str, Callable[[Any], Any]] = field(default_factory=dict)
    """How each watched function was last called with nothing but tokens."""
    forced: list[int | None] | None = None
    """What the calls shall answer, one after the other; None leaves one alone."""
    names: frozenset[str] = frozenset()
    """Whose answers are replaced."""
    replaced: int = 0
    _running: list[list[dict[str, Any]]] = field(default_factory=list)
    _undo: list[Callable[[], None]] = field(default_factory=list)
    _inside: int = 0
    """How many calls whose answers are replaced are running."""

    def __enter__(self) -> Watch:
        for site in self.sites:
            try:
                site.put(self._wrap(site))
            except (AttributeError, TypeError):
                continue  # a class that cannot be changed: it is not watched
            self._undo.append(site.restore)
        return self

    def __exit__(self, *_: object) -> None:
        for undo in self._undo:
            undo()
        self._undo.clear()

    def _wrap(self, site: Site) -> Callable[..., Any]:
        function = site.function
        bound = 1 if site.of_model and site.module is None else 0  # self comes first

        @functools.wraps(function)
        def watched(*arguments: Any, **named: Any) -> Any:
            forcing = site.name in self.names
            self._running.append([])
            self._inside += forcing
            try:
                output = function(*arguments, **named)
            finally:
                inner = self._running.pop()
                self._inside -= forcing
            above = self._running[-1] if self._running else self.calls
            logits = arrays.first(output, floating=True)
            if logits is None or not arrays.size(logits):
                above += inner
                return output
            self._note(site, above, arguments[bound:], named, logits)
            if len(arguments) == bound + 1 and not named:
                called = function if site.module is None else site.module
                self.targets[site.name] = functools.partial(called, *arguments[:bound])
            if forcing and not self._inside:
                return self._force(output, logits)
            return output

        return watched

    def _note(
        self, site: Site, above: list[Any], shown: tuple[Any, ...], named: dict[str, Any], logits: Any
    ) -> None:
        if len(above) >= _MOST_CALLS:
            return
        tokens = arrays.first((*shown, *named.values()), floating=False)
        call: dict[str, Any] = {
            "module": site.name,
            "of_model": site.of_model,
            "plain": len(shown) == 1 and not named,
            "size": arrays.size(logits),
        }
        if tokens is not None and 0 < arrays.size(tokens) <= _MOST_TOKENS:
            call["tokens"] = arrays.listed(tokens)
            call["library"] = arrays.library(tokens)
            call["dtype"] = arrays.dtype_name(tokens) if call["library"] else ""
        if getattr(logits, "ndim", 1):
            call["next"] = int(arrays.last_row(logits).argmax())
        above.append(call)

    def _force(self, output: Any, logits: Any) -> Any:
        token = self.forced.pop(0) if self.forced else None
        if token is None or not 0 <= token < len(arrays.last_row(logits)):
            return output
        self.replaced += 1
        return _exchange(output, logits, arrays.certain(logits, token))


def _exchange(output: Any, old: Any, new: Any) -> Any:
    if output is old:
        return new
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(*(_exchange(part, old, new) for part in output))
    if isinstance(output, (tuple, list)):
        return type(output)(_exchange(part, old, new) for part in output)
    if isinstance(output, dict):
        return {key: _exchange(part, old, new) for key, part in output.items()}
    if getattr(output, "logits", None) is old:
        output.logits = new
    return output


def greedy(
    target: Callable[[Any], Any], library: str, dtype: str, prompts: list[list[int]], steps: int
) -> tuple[list[list[int]], list[float]]:
    """Drive a model greedily on a batch of prompts of one length.

    Returns the tokens that it answers, and for each prompt by how much its choice leads at least.
    """
    import numpy

    tokens = numpy.array(prompts, dtype=numpy.int64)
    start = tokens.shape[1]
    leads = numpy.full(len(tokens), numpy.inf)
    for _ in range(steps):
        answer = _logits(target, library, dtype, tokens)
        last = answer[:, -1] if answer.ndim == 3 else answer
        leads = numpy.minimum(leads, _leads(last))
        tokens = numpy.concatenate([tokens, last.argmax(-1)[:, None]], 1)
    return tokens[:, start:].tolist(), leads.tolist()


def greedy_at_once(
    target: Callable[[Any], Any], library: str, dtype: str, prompts: list[list[int]], steps: int
) -> tuple[list[list[int] | None], list[float]]:
    """``greedy`` for a causal model that answers at every position, in fewer and longer calls.

    All answers are guessed, and replaced by what the model answers to them, until it answers its own
    guess: in a causal model that is the greedy answer, token for token. Each call settles one more
    token at least, and most additions, whose carries are short, in three or four. None for a prompt
    that never settles. Raises ``ValueError`` for a model without an answer at every position.
    """
    import numpy

    prompt = numpy.array(prompts, dtype=numpy.int64)
    start = prompt.shape[1]
    tokens = numpy.pad(prompt, ((0, 0), (0, steps - 1)))
    leads = numpy.zeros(len(tokens))
    answers: list[list[int] | None] = [None] * len(tokens)
    left = numpy.arange(len(tokens))
    for _ in range(steps):
        answer = _logits(target, library, dtype, tokens[left])
        if answer.shape[:-1] != tokens[left].shape:
            raise ValueError("the model does not answer at every position")
        following = answer[:, start - 1 :].argmax(-1)
        settled = (following[:, :-1] == tokens[left, start:]).all(1)
        leads[left[settled]] = _leads(answer[settled, start - 1 :]).min(1)
        for row, chosen in zip(left[settled].tolist(), following[settled].tolist(), strict=True):
            answers[row] = chosen
        tokens[left, start:] = following[:, :-1]
        left = left[~settled]
        if not len(left):
            break
    return answers, leads.tolist()


def _logits(target: Callable[[Any], Any], library: str, dtype: str, tokens: Any) -> Any:
    return arrays.to_numpy(arrays.first(target(arrays.like(library, dtype, tokens)), floating=True))


def _leads(logits: Any) -> Any:
    """By how much the largest of the last axis leads."""
    import numpy

    two = numpy.partition(logits, -2, axis=-1)[..., -2:]
    return two[..., 1] - two[..., 0]
