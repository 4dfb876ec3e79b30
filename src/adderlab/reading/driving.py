"""How a file asks its model: the prompt, the calls, and what of their answers becomes the sum.

The file's own ``add`` is run on pairs while every call of its model is watched. From the calls follow
which function maps tokens to logits, which position holds which digit, in which order the answer is
written and where it ends. What was learned is then tried: the model's answers are replaced, and ``add``
must return what was put in their place.

Only files that the user named are run here, in this process.
"""

from __future__ import annotations

import contextlib
import dataclasses
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
from adderlab.reading.reading import Tokens
from adderlab.reading.trace import first_logits
from adderlab.task.layouts import OPERAND_DIGITS, SUM_DIGITS, Layout, get_layout

ROUNDS = 3
"""Of ten pairs, in which every digit occurs in every column; from them the rule is learned."""
STEERED = 4
MOST_CALLS = 60
"""Of the model, for one sum."""
_DEPTH = 6


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A model that is asked in a way that was learned, or stated."""

    name: str
    model: Any
    call: Callable[[Tensor], Tensor]
    """Tokens (1, L) -> logits (1, L, V), by the model itself."""
    params: Mapping[str, Tensor]
    layout: Layout
    tokens: Tokens
    add: Callable[[int, int], int]
    """Its answer to a + b; -1 where it is no number."""
    asked: tuple[_Asked, ...] = ()
    """What it answered while the way to ask it was learned, from its first call on."""
    rows_alone: bool = False
    """Whether it takes one sequence at a time."""
    stated: bool = False
    """Whether the layout was named, and not learned from ``add``."""


_Asked = tuple[tuple[int, ...], Tensor]
"""(the model's tokens, the logits (V,) of the last one)."""


@dataclass(frozen=True, kw_only=True)
class _Call:
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
        raise Failure(f"{path} fails when it is run: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def built(module: types.ModuleType, seed: int | None = None) -> Any:
    """What the file's ``build_model`` makes, its metadata left out; ``seed`` is that of the
    generators, for constructors that draw."""
    build = getattr(module, "build_model", None)
    if not callable(build):
        raise Failure(f"{module.__file__} has no function build_model")
    try:
        with _seeded(seed) if seed is not None else contextlib.nullcontext():
            result = build()
    except Exception as error:
        raise Failure(f"build_model fails: {type(error).__name__}: {error}") from error
    model = result[0] if isinstance(result, tuple) and result else result
    if isinstance(model, nn.Module) and model.training:
        model.eval()
    return model


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


def foreign_file(path: Path, model: Any = None) -> Foreign:
    """The model of a file with ``build_model``, and ``add`` or ``layout`` (docs/your-own-model.md).

    ``model``: what its ``build_model`` made, if that was called before. Raises ``UsageError`` or
    ``Failure`` with one line.
    """
    module = load_file(path)
    return foreign_module(module, built(module) if model is None else model, path)


def foreign_module(module: types.ModuleType, model: Any, path: Path) -> Foreign:
    """``foreign_file`` of a file that has been run."""
    layout = getattr(module, "layout", getattr(module, "LAYOUT", None))
    if callable(getattr(module, "add", None)):
        return learned(module, model, path.name)
    if isinstance(layout, str):
        return stated(model, get_layout(layout), path.name)
    raise Failure(
        f"{path} has neither a function add(model, a, b) nor a layout (the name of one, such as "
        'layout = "P"): how the model is to be asked is not known'
    )


def stated(model: Any, layout: Layout, name: str) -> Foreign:
    """A model that maps the tokens of a layout to logits."""
    V = layout.vocab_size
    ids_PV = torch.arange(V).expand(layout.num_positions, V).contiguous()

    def call(tokens: Tensor) -> Tensor:
        logits = first_logits(model(tokens))
        if logits is None:
            raise Failure("the model returns no logits")
        return logits if logits.ndim == 3 else logits[None]

    tokens = Tokens(ids_PV=ids_PV, order=tuple(range(V)))
    return Foreign(
        name=name,
        model=model,
        call=call,
        params=parameters_of(model),
        layout=layout,
        tokens=tokens,
        add=_greedy(call, layout, tokens),
        stated=True,
    )


def _greedy(
    call: Callable[[Tensor], Tensor], layout: Layout, tokens: Tokens
) -> Callable[[int, int], int]:
    """Greedy decoding of a sum, by the model itself."""

    def add(a: int, b: int) -> int:
        digits = [
            torch.tensor([[x // 10**j % 10 for j in range(OPERAND_DIGITS)]], dtype=torch.uint8)
            for x in (a, b)
        ]
        sequence = layout.encode_prompt(*digits).long()
        answer = []
        with torch.no_grad():
            for _ in range(layout.num_answers):
                logits = call(tokens.of(sequence))[0, -1]
                token = int(logits[list(tokens.order)].argmax())
                answer.append(token)
                sequence = torch.cat([sequence, torch.tensor([[token]])], 1)
        wrong_end = layout.end_decided and answer[-1] != layout.end_token
        if wrong_end or any(digit > 9 for digit in answer[:SUM_DIGITS]):
            return -1
        return sum(digit * 10**i for i, digit in enumerate(answer[:SUM_DIGITS]))

    return add


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


# Watching.


class _Watch:
    """Notes every call that takes tokens and gives logits; of nested ones the outermost.

    With ``only``, the function that was found to do so, its answers can be replaced, by those that
    ``forced`` gives out, None leaving one alone; with ``enough`` so many calls end the sum.
    """

    def __init__(self, module: types.ModuleType, model: Any, only: Any = None, enough: int = 0) -> None:
        self._module, self._model = module, model
        self._only, self._enough = only, enough
        self._undo: list[Callable[[], None]] = []
        self.calls: list[_Call] = []
        self.forced: Iterator[int | None] | None = None

    def __enter__(self) -> _Watch:
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
            if place is None or logits is None or logits.ndim == 0 or logits.shape[-1] < 10:
                return output
            del self.calls[before:]  # what was called inside is part of this call
            token = None if self.forced is None else next(self.forced, None)
            self.calls.append(
                _Call(
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
                raise _Enough
            if token is None:
                return output
            rigged = torch.zeros_like(logits)
            rigged[..., token] = 1e4
            return _exchanged(output, logits, rigged)

        return watched


class _Enough(BaseException):
    """All that was to be seen of a sum has been seen."""


def _exchanged(output: Any, old: Tensor, new: Tensor) -> Any:
    if output is old:
        return new
    if isinstance(output, (tuple, list)):
        return type(output)(_exchanged(part, old, new) for part in output)
    if isinstance(output, Mapping):
        return {key: _exchanged(value, old, new) for key, value in output.items()}
    output.logits = new
    return output


def _tokens_among(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int | str | None, list[int]]:
    """(where the tokens are among the arguments, the tokens)."""
    for place, value in itertools.chain(enumerate(args), kwargs.items()):
        if isinstance(value, Tensor) and not value.is_floating_point() and value.dtype != torch.bool:
            if value.ndim in (1, 2) and (value.ndim == 1 or len(value) == 1) and value.numel() > 1:
                return place, value.reshape(-1).tolist()
        if isinstance(value, (list, tuple)) and len(value) > 1 and all(type(x) is int for x in value):
            return place, list(value)
    return None, []


# Learning.


def learned(module: types.ModuleType, model: Any, name: str) -> Foreign:
    """How ``module.add`` asks ``model``. Raises ``Failure`` with what cannot be followed."""
    pairs = _covering_pairs()
    with _Watch(module, model) as watch, torch.no_grad():
        first = _answer(module, model, *pairs[0])
    if not watch.calls:
        reason = f": {first}" if isinstance(first, str) else ""
        raise Failure(
            "add calls nothing that takes tokens and gives logits: the model is asked in a way that "
            "is not "
            f"known (numpy arrays cannot be followed){reason}"
        )
    asked = watch.calls[0].function
    seen = [call for call in watch.calls if call.function is asked]
    prompts, calls = [], []
    with _Watch(module, model, only=asked, enough=1) as watch, torch.no_grad():
        for a, b in pairs:
            watch.calls = []
            with contextlib.suppress(_Enough):
                _answer(module, model, a, b)
            calls.append(watch.calls[0])
            prompts.append(watch.calls[0].tokens)
    seen += calls
    if len({len(prompt) for prompt in prompts}) != 1:
        raise Failure("the prompt's length depends on the pair")
    call = _caller(calls[0])
    V = calls[0].shape[-1]
    rules = _rules(pairs, prompts)
    order = _answer_order(module, model, asked, pairs, V, rules)
    steps, end = _end_rule(module, model, asked, pairs, order, V)
    layout, tokens = _layout(name, rules, order, V, end, steps)
    foreign = Foreign(
        name=name,
        model=model,
        call=call,
        params=parameters_of(model),
        layout=layout,
        tokens=tokens,
        add=lambda a, b: _number(_answer(module, model, a, b)),
        asked=tuple((call.tokens, call.logits) for call in seen),
        rows_alone=_takes_rows_alone(calls[0]),
    )
    return foreign


def asked_alike(foreign: Foreign, module: types.ModuleType | None, model: Any) -> Foreign:
    """Another model of the same file, which is asked as the one that was learned from."""
    if module is None or foreign.stated:
        return stated(model, foreign.layout, foreign.name)
    with _Watch(module, model) as watch, torch.no_grad():
        _answer(module, model, *_covering_pairs()[0])
    if not watch.calls:
        raise Failure(f"{foreign.name}: add calls one model that build_model makes, and not another")
    return dataclasses.replace(
        foreign,
        model=model,
        call=_caller(watch.calls[0]),
        params=parameters_of(model),
        add=lambda a, b: _number(_answer(module, model, a, b)),
        asked=(),
    )


def _takes_rows_alone(call: _Call) -> bool:
    """Whether its tokens come as a list or without a batch axis."""
    value = call.args[call.place] if isinstance(call.place, int) else call.kwargs[call.place]
    return not isinstance(value, Tensor) or value.ndim == 1


def _covering_pairs() -> list[tuple[int, int]]:
    generator, pairs = random.Random(0), []
    for _ in range(ROUNDS):
        columns = [generator.sample(range(10), 10) for _ in range(2 * OPERAND_DIGITS)]
        for digits in zip(*columns, strict=True):
            own = digits[:OPERAND_DIGITS], digits[OPERAND_DIGITS:]
            a, b = (sum(d * 10**j for j, d in enumerate(half)) for half in own)
            pairs.append((a, b))
    return pairs


def _answer(module: types.ModuleType, model: Any, a: int, b: int) -> Any:
    try:
        return module.add(model, a, b)
    except Failure:
        raise
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _number(answer: Any) -> int:
    try:
        return int(answer)
    except (TypeError, ValueError):
        return -1


def _check_greedy(runs: Sequence[Sequence[_Call]]) -> None:
    """Every call reads the last one's tokens and the token that it answered."""
    for calls in runs:
        first = calls[0]
        for before, after in itertools.pairwise(calls):
            if after.function is not first.function or after.shape[-1] != first.shape[-1]:
                raise Failure("add asks more than one function for logits: that cannot be followed")
            if len(after.tokens) == len(before.tokens):
                raise Failure(
                    "add calls its model with sequences of one length, padded or cut: the reading knows "
                    "sequences that grow"
                )
            if len(after.tokens) < len(before.tokens):
                raise Failure(
                    "add calls its model with less than the whole sequence: a cache cannot be read"
                )
            if after.tokens[:-1] != before.tokens:
                raise Failure("add does not append one token to its sequence at each step")
            if after.tokens[-1] != before.chosen:
                raise Failure("add does not append the token with the largest logit")
        last = first.shape
        if last[:-1] not in ((1, len(first.tokens)), (len(first.tokens),)):
            raise Failure(
                f"on {len(first.tokens)} tokens the model's logits have the shape {last}: the "
                f"reading needs those "
                "of every position"
            )


def _caller(first: _Call) -> Callable[[Tensor], Tensor]:
    """The function that takes tokens (1, L) to logits (1, L, V)."""
    value = first.args[first.place] if isinstance(first.place, int) else first.kwargs[first.place]

    def call(tokens: Tensor) -> Tensor:
        if not isinstance(value, Tensor):
            own: Any = tokens[0].tolist()
        else:
            own = tokens.to(value.dtype) if value.ndim == 2 else tokens[0].to(value.dtype)
        args, kwargs = list(first.args), dict(first.kwargs)
        if isinstance(first.place, int):
            args[first.place] = own
        else:
            kwargs[first.place] = own
        logits = first_logits(first.function(*args, **kwargs))
        assert logits is not None
        return logits if logits.ndim == 3 else logits[None]

    return call


@dataclass(frozen=True)
class _Rule:
    """What stands at a prompt position: a constant token, or a digit by ``token_of``."""

    constant: int | None = None
    operand: int = 0
    column: int = 0
    token_of: tuple[int, ...] = ()


def _rules(pairs: Sequence[tuple[int, int]], prompts: Sequence[Sequence[int]]) -> list[_Rule]:
    rules = []
    for position in range(len(prompts[0])):
        seen = [prompt[position] for prompt in prompts]
        if len(set(seen)) == 1:
            rules.append(_Rule(constant=seen[0]))
            continue
        rule = _digit_rule(pairs, seen)
        if rule is None:
            raise Failure(
                f"the token at prompt position {position} is neither fixed nor one digit of a or b"
            )
        rules.append(rule)
    places = [(rule.operand, rule.column) for rule in rules if rule.constant is None]
    for operand, column in itertools.product(range(2), range(OPERAND_DIGITS)):
        count = places.count((operand, column))
        if count != 1:
            raise Failure(
                f"the digit of 10^{column} of {'ab'[operand]} stands at {count} prompt positions, "
                f"not at one"
            )
    return rules


def _digit_rule(pairs: Sequence[tuple[int, int]], seen: Sequence[int]) -> _Rule | None:
    for operand, column in itertools.product(range(2), range(OPERAND_DIGITS)):
        token_of: dict[int, int] = {}
        digits = [pair[operand] // 10**column % 10 for pair in pairs]
        if all(token_of.setdefault(d, t) == t for d, t in zip(digits, seen, strict=True)):
            if len(token_of) == len(set(token_of.values())) == 10:
                return _Rule(
                    operand=operand, column=column, token_of=tuple(token_of[d] for d in range(10))
                )
    return None


def _steered(
    module: types.ModuleType,
    model: Any,
    asked: Any,
    pair: tuple[int, int],
    tokens: Sequence[int | None],
) -> tuple[Any, list[_Call]]:
    """(what ``add`` returns, what it asked), with the model's answers replaced."""
    with _Watch(module, model, only=asked) as watch, torch.no_grad():
        watch.forced = iter(tokens)
        return _answer(module, model, *pair), watch.calls


def _answer_order(
    module: types.ModuleType,
    model: Any,
    asked: Any,
    pairs: Sequence[tuple[int, int]],
    V: int,
    rules: Sequence[_Rule],
) -> tuple[int, ...]:
    """The token of every digit in the answer, tried by replacing what the model answers."""
    generator = random.Random(1)
    guess = next(rule.token_of for rule in rules if rule.constant is None)
    candidates = [guess] + ([tuple(range(10))] if guess != tuple(range(10)) else [])
    # Where decoding stops at an end token, the digits alone do not end it.
    ends = [(), *((token,) for token in range(V))]
    for token_of, end in itertools.product(candidates, ends):
        if max(token_of) >= V or token_of[0] in end:
            continue
        good, up = 0, 0
        for pair in pairs[:STEERED]:
            digits = [generator.randrange(10) for _ in range(SUM_DIGITS)]
            digits[-1] = generator.randrange(1, 10)
            answer, _ = _steered(module, model, asked, pair, [*(token_of[d] for d in digits), *end])
            good += answer == sum(d * 10**i for i, d in enumerate(digits))
            up += answer == int("".join(map(str, digits)))
        if good == STEERED:
            return token_of
        if up == STEERED:
            raise Failure(
                "add writes the most significant digit first: the carry then comes from digits not "
                "yet written, "
                "and the proof needs units first"
            )
    raise Failure(
        "add does not return what its model answers: with the answers replaced, another number "
        "comes back (or "
        "digits are written in a way that is not known)"
    )


def _end_rule(
    module: types.ModuleType,
    model: Any,
    asked: Any,
    pairs: Sequence[tuple[int, int]],
    order: Sequence[int],
    V: int,
) -> tuple[int, tuple[int | None, bool]]:
    """How often the model is asked, (the end token, whether the answer depends on it).

    With the right digits put in place, every token is tried as the twelfth.
    """
    counts = set()
    for a, b in pairs[:STEERED]:
        digits = [order[(a + b) // 10**i % 10] for i in range(SUM_DIGITS)]
        answer, calls = _steered(module, model, asked, (a, b), digits)
        _check_greedy([calls])
        counts.add(len(calls))
    if counts == {SUM_DIGITS}:
        return SUM_DIGITS, (None, False)
    if min(counts) < SUM_DIGITS:
        raise Failure(f"add asks its model {min(counts)} times, not for each of {SUM_DIGITS} digits")
    ends, ignored = [], True
    for token in range(V):
        answer, calls = _steered(
            module, model, asked, (a, b), [*digits, token, *[order[0]] * MOST_CALLS]
        )
        stops = answer == a + b and len(calls) == SUM_DIGITS + 1
        ignored &= stops
        ends += [token] if stops else []
    if ignored:
        return SUM_DIGITS, (None, False)  # a twelfth answer that plays no part
    if len(ends) != 1:
        raise Failure(f"after the digits add ends at {len(ends)} of {V} tokens, not at one end token")
    return SUM_DIGITS + 1, (ends[0], True)


def _layout(
    name: str,
    rules: Sequence[_Rule],
    order: tuple[int, ...],
    V: int,
    end: tuple[int | None, bool],
    steps: int,
) -> tuple[Layout, Tokens]:
    """In the layout's own tokens digits are 0 to 9; what they are to the model says ``Tokens``."""
    rest = [token for token in range(V) if token not in order]
    every = (*order, *rest)
    own = {token: i for i, token in enumerate(every)}
    spare = 10 if V > 10 else 0
    positions: dict[tuple[int, int], int] = {}
    separators = []
    P = len(rules) + steps - 1
    ids_PV = torch.tensor(every).expand(P, V).clone()
    for p, rule in enumerate(rules):
        if rule.constant is not None:
            token = own.get(rule.constant, spare)
            ids_PV[p, token] = rule.constant
            separators.append((p, token))
            continue
        positions[rule.operand, rule.column] = p
        ids_PV[p, :10] = torch.tensor(rule.token_of)
    end_token, decided = end
    layout = Layout(
        name=f"that of {name}",
        source=name,
        vocabulary=(*"0123456789", *(f"<{token}>" for token in rest)),
        a_positions=tuple(positions[0, j] for j in range(OPERAND_DIGITS)),
        b_positions=tuple(positions[1, j] for j in range(OPERAND_DIGITS)),
        num_prompt=len(rules),
        separators=tuple(separators),
        end_token=None if end_token is None else own[end_token],
        end_decided=decided,
    )
    return layout, Tokens(ids_PV=ids_PV, order=every)


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


@contextlib.contextmanager
def in_double(model: Any, *, all_of_it: bool = False) -> Iterator[None]:
    """The model's parameters and buffers, and new tensors, in float64; as before afterwards.

    ``all_of_it``: also what the model makes float32 in so many words, which takes longer.
    """
    tensors = [
        tensor
        for _, thing in reachable(model)
        for tensor in (
            [*thing.parameters(), *thing.buffers()]
            if isinstance(thing, nn.Module)
            else [thing]
            if isinstance(thing, Tensor)
            else []
        )
        if tensor.is_floating_point()
    ]
    kept = [(tensor, tensor.data) for tensor in tensors]
    default = torch.get_default_dtype()
    try:
        for tensor in tensors:
            tensor.data = tensor.data.double()
        torch.set_default_dtype(torch.float64)
        with _Double() if all_of_it else contextlib.nullcontext():
            yield
    finally:
        torch.set_default_dtype(default)
        for tensor, data in kept:
            tensor.data = data
