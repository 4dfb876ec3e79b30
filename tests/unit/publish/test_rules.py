"""What watching shows is concluded, and no more: how a file asks its model and reads its answers."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from adderlab.publish.scoring import Prompt, Reading, find_prompt, find_reading

TRACED = [(r.randrange(10**10), r.randrange(10**10)) for r in map(random.Random, range(24))]
Encoder = Callable[[int, int], list[int]]


def digits(value: int, count: int) -> list[int]:
    return [value // 10**j % 10 for j in range(count)]


def msd(a: int, b: int) -> list[int]:
    """Layout P, with digit d as token d + 2."""
    x, y = digits(a, 10), digits(b, 10)
    return [*(d + 2 for d in x[::-1]), 0, *(d + 2 for d in y[::-1]), 1]


def paired(a: int, b: int) -> list[int]:
    return [111, *(10 + 10 * x + y for x, y in zip(digits(a, 10), digits(b, 10), strict=True)), 110]


def trace(
    pair: tuple[int, int], encode: Encoder, shift: int, up: bool, before: int = 0
) -> dict[str, Any]:
    """What a right greedy model would show; ``before`` calls come first."""
    answer = sum(pair)
    order = digits(answer, 11) if up else digits(answer, 11)[::-1]
    tokens = encode(*pair)
    calls = [call([[9]], 3) for _ in range(before)]
    for digit in order:
        calls.append(call([tokens], digit + shift))
        tokens = [*tokens, digit + shift]
    return {"answer": answer, "calls": calls, "count": len(calls)}


def call(tokens: Any, following: int) -> dict[str, Any]:
    return {
        "module": "net",
        "plain": True,
        "tokens": tokens,
        "library": "torch",
        "dtype": "int64",
        "next": following,
    }


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize(("encode", "shift"), [(msd, 2), (paired, 0)])
def test_rules_are_found(encode: Encoder, shift: int, up: bool, before: int) -> None:
    traces = [trace(pair, encode, shift, up, before) for pair in TRACED]
    reading = find_reading(traces)
    assert reading is not None
    assert (len(reading.before), reading.up, reading.after) == (before, up, ())
    assert reading.token_of == {d: d + shift for d in range(10)}
    prompt = find_prompt(TRACED, traces, reading)
    assert prompt is not None and (prompt.module, prompt.dtype) == ("net", "int64")
    for pair in [(0, 0), (9999999999, 1), (1234567890, 5)]:
        assert prompt.tokens(*pair) == encode(*pair)
    tokens = reading.tokens(40_000_000_321)
    assert tokens[:before] == [3] * before
    assert reading.value(tokens) == 40_000_000_321
    assert reading.value([None] * before + tokens[before:]) == 40_000_000_321


def test_tokens_of_another_form_are_no_number() -> None:
    reading = Reading(up=True, token_of={d: d for d in range(10)})
    assert reading.value([1] * 10 + [12]) is None
    assert reading.value([1] * 10) is None
    rule = Prompt(module="", library="torch", dtype="int64", rules=((5, 0, 0, 0), (0, 1, 0, 3)))
    assert rule.tokens(7000, 0) == [5, 7]


def test_an_end_token_belongs_to_the_form() -> None:
    traces = [trace(pair, msd, 2, True) for pair in TRACED]
    for each in traces:
        last = each["calls"][-1]
        tokens = [*last["tokens"][0], last["next"]]
        each["calls"].append(call([tokens], 13))
    reading = find_reading(traces)
    assert reading is not None and reading.after == (13,) and reading.num_calls == 12
    tokens = reading.tokens(1234)
    assert reading.value(tokens) == 1234
    assert reading.value([*tokens[:-1], 5]) is None, "what add makes of that is not known"
    assert reading.value([13, *tokens[1:]]) is None
    prompt = find_prompt(TRACED, traces, reading)
    assert prompt is not None and prompt.tokens(5, 6) == msd(5, 6)


@pytest.mark.parametrize("up", [True, False])
def test_answers_as_long_as_the_sum(up: bool) -> None:
    traces, pairs = [], [*TRACED, (1, 1), (7, 8), (400, 99)]
    for a, b in pairs:
        each = trace((a, b), msd, 2, up)
        number = digits(a + b, len(str(a + b)))
        tokens, calls = msd(a, b), []
        for token in [*(d + 2 for d in (number if up else number[::-1])), 13]:
            calls.append(call([tokens], token))
            tokens = [*tokens, token]
        traces.append(each | {"calls": calls, "count": len(calls)})
    reading = find_reading(traces)
    assert reading is not None and not reading.padded
    assert reading.lengths == (1, 2, 3, 10, 11) and reading.num_calls == 12
    assert reading.value([*reading.tokens(499), 0, 0, 0]) == 499
    assert reading.value(reading.tokens(12345)) is None, "no sum of that length was seen"
    assert reading.value([2, 2, 13]) is None, "no zeros were seen in front"
    assert reading.value([2, 13]) == 0
    assert reading.value([2] * 12) is None


def broken(change: Callable[[list[dict[str, Any]]], None]) -> list[dict[str, Any]]:
    traces = [trace(pair, msd, 2, True) for pair in TRACED]
    change(traces)
    return traces


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t[3].update(answer="no number"),
        lambda t: t[3].update(answer=t[3]["answer"] + 1),
        lambda t: t[3].update(answer=10**11),
        lambda t: t[3]["calls"].pop(),
        lambda t: t[3]["calls"][4].pop("next"),
        lambda t: t.clear(),
        lambda t: [x["calls"].clear() for x in t],
    ],
    ids=["text", "another sum", "too long", "a call less", "no output", "nothing", "no calls"],
)
def test_answers_that_are_not_the_models_have_no_reading(change: Callable) -> None:
    assert find_reading(broken(change)) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t[3]["calls"][4].update(plain=False),
        lambda t: t[3]["calls"][4].update(module="other"),
        lambda t: t[3]["calls"][4].update(tokens=[[1, 2, 3]]),
        lambda t: t[3]["calls"][4].pop("tokens"),
        lambda t: [x["calls"][0]["tokens"][0].insert(0, 1) for x in t[:1]],
        lambda t: [each["tokens"][0].__setitem__(2, i) for i, x in enumerate(t) for each in x["calls"]],
    ],
    ids=["more arguments", "two modules", "not appended", "no tokens", "lengths", "no rule"],
)
def test_what_does_not_decode_greedily_has_no_prompt_rule(change: Callable) -> None:
    traces = broken(change)
    reading = find_reading(traces)
    assert reading is not None
    assert find_prompt(TRACED, traces, reading) is None
