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
import itertools
import random
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adderlab.errors import Failure
from adderlab.reading.reading import Tokens
from adderlab.reading.running import (
    MOST_CALLS,
    Call,
    Enough,
    Watch,
    built_with_metadata,
    first_logits,
    load_file,
    one_line,
    one_thread,
    parameters_of,
    reachable,
    stated_size,
)
from adderlab.task.addition import NUMERALS, Addition, Layout, named_layout

ROUNDS, FEWEST_PAIRS = 3, 60
"""Rounds of as many pairs as there are digits, in which every digit occurs in every column; from them
the rule is learned. Of few digits there are more rounds: one column's digits must not be another's."""
STEERED = 4


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A model that is asked in a way that was learned, or stated."""

    name: str
    model: Any
    call: Callable[[Tensor], Tensor]
    """Tokens (1, L) -> logits (1, L, V) by the model itself, or (1, 1, V) of the last position alone."""
    params: Mapping[str, Tensor]
    layout: Layout
    tokens: Tokens
    add: Callable[[int, int], int]
    """Its answer to a + b; -1 where it is no number."""
    asked: tuple[_Asked, ...] = ()
    """What it answered while the way to ask it was learned, from its first call on."""
    rows_alone: bool = False
    """Whether it takes one sequence at a time."""
    never: tuple[int, ...] = ()
    """The model's tokens that ``add`` never chooses, however large their logits."""
    stated: bool = False
    """Whether the layout was named, and not learned from ``add``."""


_Asked = tuple[tuple[int, ...], Tensor]
"""(the model's tokens, the logits (V,) of the last one)."""


def foreign_file(path: Path, model: Any = None) -> Foreign:
    """The model of a file with ``build_model``, and ``add`` or ``layout`` (docs/your-own-model.md).

    ``model``: what its ``build_model`` made, if that was called before. Raises ``UsageError`` or
    ``Failure`` with one line.
    """
    module = load_file(path)
    made, metadata = built_with_metadata(module)
    return foreign_module(module, made if model is None else model, stated_size(metadata), path)


def foreign_module(module: types.ModuleType, model: Any, task: Addition, path: Path) -> Foreign:
    """``foreign_file`` of a file that has been run, whose metadata name the task."""
    layout = getattr(module, "layout", getattr(module, "LAYOUT", None))
    if callable(getattr(module, "add", None)):
        return learned(module, model, path.name, task)
    if isinstance(layout, str):
        return stated(model, named_layout(layout, task), path.name)
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
        return _with_axes(logits, tokens)

    tokens = Tokens(ids_PV=ids_PV, order=tuple(range(V)))
    return Foreign(
        name=name,
        model=model,
        call=call,
        params=parameters_of(model),
        layout=layout,
        tokens=tokens,
        add=_greedy(call, layout, tokens),
        asked=_asked_first(call, layout),
        stated=True,
    )


@one_thread()
@torch.no_grad()
def _asked_first(call: Callable[[Tensor], Tensor], layout: Layout) -> tuple[_Asked, ...]:
    """Its first answers, with which later ones are compared."""
    task = layout.addition
    digits = torch.arange(task.columns, dtype=torch.uint8)[None] % task.base
    tokens_P = layout.encode(digits, digits.flip(1))[0][0].long()
    try:
        return tuple(
            (tuple(tokens_P[: last + 1].tolist()), call(tokens_P[None, : last + 1])[0, -1].clone())
            for last in layout.query_positions
        )
    except Failure:
        raise
    except Exception as error:
        raise Failure(f"the model fails when it is called: {one_line(error)}") from error


def _greedy(
    call: Callable[[Tensor], Tensor], layout: Layout, tokens: Tokens
) -> Callable[[int, int], int]:
    """Greedy decoding of a sum, by the model itself."""
    base, columns = layout.base, layout.columns

    def add(a: int, b: int) -> int:
        digits = [torch.tensor([_digits(x, columns, base)], dtype=torch.uint8) for x in (a, b)]
        sequence = layout.encode_prompt(*digits).long()
        answer = []
        with torch.no_grad():
            for _ in range(layout.num_answers):
                logits = call(tokens.of(sequence))[0, -1]
                token = int(logits[list(tokens.order)].argmax())
                answer.append(token)
                sequence = torch.cat([sequence, torch.tensor([[token]])], 1)
        wrong_end = layout.end_decided and answer[-1] != layout.end_token
        answer = answer[: layout.sum_digits]
        if wrong_end or any(digit >= base for digit in answer):
            return -1
        return _from_digits(answer, base)

    return add


# Learning.


@one_thread()
def learned(module: types.ModuleType, model: Any, name: str, task: Addition) -> Foreign:
    """How ``module.add`` asks ``model``. Raises ``Failure`` with what cannot be followed."""
    pairs = _covering_pairs(task)
    with Watch(module, model, task.base) as watch, torch.no_grad():
        first = _answer(module, model, *pairs[0])
    params = parameters_of(model)
    if not params:
        arrays = any(isinstance(thing, np.ndarray) for _, thing in reachable(model))
        raise Failure(
            "what build_model returns consists of numpy arrays, whose operations cannot be followed: "
            "compute with PyTorch's tensors"
            if arrays
            else "what build_model returns holds no tensors that training could change: return the "
            "module, or the class or dict of tensors, that add asks"
        )
    if not watch.calls:
        reason = f": {first}" if isinstance(first, str) else ""
        raise Failure(
            "add calls nothing that takes tokens and gives logits, one function or module that does all "
            f"between: the model is asked in a way that is not known{reason}"
        )
    asked = watch.calls[0].function
    seen = [call for call in watch.calls if call.function is asked]
    prompts, calls = [], []
    with Watch(module, model, task.base, asked, enough=1) as watch, torch.no_grad():
        for a, b in pairs:
            watch.calls = []
            with contextlib.suppress(Enough):
                _answer(module, model, a, b)
            calls.append(watch.calls[0])
            prompts.append(watch.calls[0].tokens)
    seen += calls
    if len({len(prompt) for prompt in prompts}) != 1:
        raise Failure("the prompt's length depends on the pair")
    V = calls[0].shape[-1]
    rules = _rules(pairs, prompts, task)
    order = _answer_order(module, model, asked, pairs, V, rules, task)
    steps, end = _end_rule(module, model, asked, pairs, order, V, task)
    never = _never_chosen(module, model, asked, pairs[0], order, end[0], V, task)
    call = _caller(calls[0], never)
    layout, tokens = _layout(rules, order, V, end, steps, task)
    foreign = Foreign(
        name=name,
        model=model,
        call=call,
        params=params,
        layout=layout,
        tokens=tokens,
        add=lambda a, b: _number(_answer(module, model, a, b)),
        asked=tuple((each.tokens, _without(each.logits, never)) for each in seen),
        rows_alone=_takes_rows_alone(calls[0]),
        never=never,
    )
    return foreign


def asked_alike(foreign: Foreign, module: types.ModuleType | None, model: Any) -> Foreign:
    """Another model of the same file, which is asked as the one that was learned from."""
    if module is None or foreign.stated:
        return dataclasses.replace(stated(model, foreign.layout, foreign.name), asked=())
    task = foreign.layout.addition
    with Watch(module, model, task.base) as watch, torch.no_grad():
        _answer(module, model, *_covering_pairs(task)[0])
    if not watch.calls:
        raise Failure(f"{foreign.name}: add calls one model that build_model makes, and not another")
    return dataclasses.replace(
        foreign,
        model=model,
        call=_caller(watch.calls[0], foreign.never),
        params=parameters_of(model),
        add=lambda a, b: _number(_answer(module, model, a, b)),
        asked=(),
    )


def _takes_rows_alone(call: Call) -> bool:
    """Whether its tokens come as a list or without a batch axis."""
    value = call.args[call.place] if isinstance(call.place, int) else call.kwargs[call.place]
    return not isinstance(value, Tensor) or value.ndim == 1


def _covering_pairs(task: Addition) -> list[tuple[int, int]]:
    generator, pairs, base, J = random.Random(0), [], task.base, task.columns
    for _ in range(ROUNDS if base >= 10 else -(-FEWEST_PAIRS // base)):
        columns = [generator.sample(range(base), base) for _ in range(2 * J)]
        for digits in zip(*columns, strict=True):
            a, b = (_from_digits(half, base) for half in (digits[:J], digits[J:]))
            pairs.append((a, b))
    return pairs


def _digits(number: int, count: int, base: int) -> list[int]:
    """Units first."""
    return [number // base**i % base for i in range(count)]


def _from_digits(digits: Sequence[int], base: int) -> int:
    return sum(digit * base**i for i, digit in enumerate(digits))


def _answer(module: types.ModuleType, model: Any, a: int, b: int) -> Any:
    try:
        return module.add(model, a, b)
    except Failure:
        raise
    except Exception as error:
        return one_line(error)


def _number(answer: Any) -> int:
    try:
        return int(answer)
    except (TypeError, ValueError):
        return -1


def _check_greedy(runs: Sequence[Sequence[Call]]) -> None:
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
        length, shape = len(first.tokens), first.shape
        if shape[:-1] not in ((1, length), (length,), (1, 1), (1,), ()):
            raise Failure(
                f"on {length} tokens the model's logits have the shape {shape}: the reading needs those "
                "of every position, or of the last"
            )


def _caller(first: Call, never: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """The function that takes tokens (1, L) to logits (1, L, V), or (1, 1, V).

    ``never``: tokens that are not chosen; their logits are put below all others.
    """
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
        return _without(_with_axes(logits, tokens), never)

    return call


def _without(logits: Tensor, never: Sequence[int]) -> Tensor:
    """Logits (..., V) of which those of some tokens are replaced by one less than the smallest other."""
    if not never:
        return logits
    chosen = [token for token in range(logits.shape[-1]) if token not in never]
    less = logits[..., chosen].amin(-1, keepdim=True) - 1
    parts = [logits[..., t : t + 1] if t in chosen else less for t in range(logits.shape[-1])]
    return torch.cat(parts, -1)


def _with_axes(logits: Tensor, tokens_BL: Tensor) -> Tensor:
    """Logits of sequences (B, L) with all axes: (B, L, V), or (B, 1, V) of the last position alone."""
    B, L = tokens_BL.shape
    if logits.ndim == 1 or (logits.ndim == 2 and len(logits) == B and (B > 1 or L > 1)):
        return logits.reshape(B, 1, -1)
    return logits if logits.ndim == 3 else logits[None]


def answer_logits(call: Callable[[Tensor], Tensor], layout: Layout, tokens_BP: Tensor) -> Tensor:
    """Logits (B, A, V) of the answer steps, by a model that gives out those of every position or, asked
    once for every step, of the last one."""
    whole = call(tokens_BP)
    *earlier, _ = queries = layout.query_positions
    if whole.shape[1] == tokens_BP.shape[1]:
        return whole[:, list(queries)]
    return torch.cat([*(call(tokens_BP[:, : q + 1]) for q in earlier), whole], 1)


@dataclass(frozen=True)
class _Rule:
    """What stands at a prompt position: a constant token, or a digit by ``token_of``."""

    constant: int | None = None
    operand: int = 0
    column: int = 0
    token_of: tuple[int, ...] = ()


def _rules(
    pairs: Sequence[tuple[int, int]], prompts: Sequence[Sequence[int]], task: Addition
) -> list[_Rule]:
    rules = []
    for position in range(len(prompts[0])):
        seen = [prompt[position] for prompt in prompts]
        if len(set(seen)) == 1:
            rules.append(_Rule(constant=seen[0]))
            continue
        rule = _digit_rule(pairs, seen, task)
        if rule is None:
            raise Failure(
                f"the token at prompt position {position} is neither fixed nor one digit of a or b"
            )
        rules.append(rule)
    places = [(rule.operand, rule.column) for rule in rules if rule.constant is None]
    for operand, column in itertools.product(range(2), range(task.columns)):
        count = places.count((operand, column))
        if count != 1:
            raise Failure(
                f"the digit of {task.base}^{column} of {'ab'[operand]} stands at {count} prompt "
                "positions, not at one"
            )
    return rules


def _digit_rule(pairs: Sequence[tuple[int, int]], seen: Sequence[int], task: Addition) -> _Rule | None:
    base = task.base
    for operand, column in itertools.product(range(2), range(task.columns)):
        token_of: dict[int, int] = {}
        digits = [pair[operand] // base**column % base for pair in pairs]
        decided = all(token_of.setdefault(d, t) == t for d, t in zip(digits, seen, strict=True))
        if decided and len(token_of) == len(set(token_of.values())) == base:
            tokens = tuple(token_of[d] for d in range(base))
            return _Rule(operand=operand, column=column, token_of=tokens)
    return None


def _steered(
    module: types.ModuleType,
    model: Any,
    asked: Any,
    pair: tuple[int, int],
    tokens: Sequence[int | None],
    digits: int,
    above: int | None = None,
) -> tuple[Any, list[Call]]:
    """(what ``add`` returns, what it asked), with the model's answers replaced. ``digits``: how many
    there are; ``above``: a token whose logit is larger still."""
    with Watch(module, model, digits, asked) as watch, torch.no_grad():
        watch.forced, watch.above = iter(tokens), above
        return _answer(module, model, *pair), watch.calls


def _answer_order(
    module: types.ModuleType,
    model: Any,
    asked: Any,
    pairs: Sequence[tuple[int, int]],
    V: int,
    rules: Sequence[_Rule],
    task: Addition,
) -> tuple[int, ...]:
    """The token of every digit in the answer, tried by replacing what the model answers."""
    generator, base = random.Random(1), task.base
    guess, plain = next(rule.token_of for rule in rules if rule.constant is None), tuple(range(base))
    candidates = [guess] + ([plain] if guess != plain else [])
    # Where decoding stops at an end token, the digits alone do not end it.
    ends = [(), *((token,) for token in range(V))]
    most = 0
    for token_of, end in itertools.product(candidates, ends):
        if max(token_of) >= V or token_of[0] in end:
            continue
        good, up = 0, 0
        for pair in pairs[:STEERED]:
            digits = _asymmetric(generator, task)
            forced = [*(token_of[d] for d in digits), *end]
            answer, calls = _steered(module, model, asked, pair, forced, base)
            most = max(most, len(calls))
            good += answer == _from_digits(digits, base)
            up += answer == _from_digits(digits[::-1], base)
        if good == STEERED:
            return token_of
        if up == STEERED:
            raise Failure(
                "add writes the most significant digit first: the carry then comes from digits not "
                "yet written, "
                "and the proof needs units first"
            )
    if most < task.sum_digits:
        times = "once" if most == 1 else f"{most} times"
        raise Failure(
            f"add asks its model {times} with the whole sequence, not for each of {task.sum_digits} "
            "digits: a cache of keys, or digits that are answered at once, cannot be read"
        )
    raise Failure(
        "add does not return what its model answers: with the answers replaced, another number comes "
        "back (it draws them, changes logits before it chooses, or writes digits in a way that is not "
        "known)"
    )


def _asymmetric(generator: random.Random, task: Addition) -> list[int]:
    """Digits of a sum that, read the other way round, are those of another; the last is not 0."""
    while True:
        digits = [generator.randrange(task.base) for _ in range(task.sum_digits)]
        digits[-1] = generator.randrange(1, task.base)
        if digits != digits[::-1]:
            return digits


def _end_rule(
    module: types.ModuleType,
    model: Any,
    asked: Any,
    pairs: Sequence[tuple[int, int]],
    order: Sequence[int],
    V: int,
    task: Addition,
) -> tuple[int, tuple[int | None, bool]]:
    """How often the model is asked, (the end token, whether the answer depends on it).

    With the right digits put in place, every token is tried as the one after them.
    """
    counts, I = set(), task.sum_digits
    for a, b in pairs[:STEERED]:
        digits = [order[digit] for digit in _digits(a + b, I, task.base)]
        answer, calls = _steered(module, model, asked, (a, b), digits, task.base)
        _check_greedy([calls])
        counts.add(len(calls))
    if counts == {I}:
        return I, (None, False)
    if min(counts) < I:
        raise Failure(f"add asks its model {min(counts)} times, not for each of {I} digits")
    ends, ignored = [], True
    for token in range(V):
        answer, calls = _steered(
            module, model, asked, (a, b), [*digits, token, *[order[0]] * MOST_CALLS], task.base
        )
        stops = answer == a + b and len(calls) == I + 1
        ignored &= stops
        ends += [token] if stops else []
    if ignored:
        return I, (None, False)  # one more answer, which plays no part
    if len(ends) != 1:
        raise Failure(f"after the digits add ends at {len(ends)} of {V} tokens, not at one end token")
    return I + 1, (ends[0], True)


def _never_chosen(
    module: types.ModuleType,
    model: Any,
    asked: Any,
    pair: tuple[int, int],
    order: Sequence[int],
    end: int | None,
    V: int,
    task: Addition,
) -> tuple[int, ...]:
    """Tokens besides digits and end that do not become part of the answer though their logits are the
    largest: ``add`` chooses among the others."""
    a, b = pair
    right = [order[digit] for digit in _digits(a + b, task.sum_digits, task.base)]
    asked_for = right if end is None else [*right, end]
    rest = [token for token in range(V) if token not in order and token != end]
    return tuple(
        token
        for token in rest
        if _steered(module, model, asked, pair, asked_for, task.base, above=token)[0] == a + b
    )


def _layout(
    rules: Sequence[_Rule],
    order: tuple[int, ...],
    V: int,
    end: tuple[int | None, bool],
    steps: int,
    task: Addition,
) -> tuple[Layout, Tokens]:
    """In the layout's own tokens digits come first; what they are to the model says ``Tokens``."""
    base, J = task.base, task.columns
    rest = [token for token in range(V) if token not in order]
    every = (*order, *rest)
    own = {token: i for i, token in enumerate(every)}
    spare = base if base < V else 0
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
        ids_PV[p, :base] = torch.tensor(rule.token_of)
    end_token, decided = end
    layout = Layout(
        # Not the file's name: a copy of it asks alike.
        name="learned",
        source="the calls of a file",
        vocabulary=(*NUMERALS[:base], *(f"<{token}>" for token in rest)),
        a_positions=tuple(positions[0, j] for j in range(J)),
        b_positions=tuple(positions[1, j] for j in range(J)),
        num_prompt=len(rules),
        separators=tuple(separators),
        end_token=None if end_token is None else own[end_token],
        end_decided=decided,
        base=base,
    )
    return layout, Tokens(ids_PV=ids_PV, order=every)
