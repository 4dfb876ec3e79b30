"""Scores are made of answers and of nothing else; what watching shows is concluded, and no more."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from adderlab.evaluation.suites import Group, Suite
from adderlab.publish.sandbox import Ended, Limits
from adderlab.publish.scoring import Answerer, Prompt, Reading, evaluate, find_prompt, find_reading
from adderlab.task.layouts import pairs_from_ints

PAIRS = [(0, 0), (1, 9), (99, 1), (9999999999, 9999999999), (5, 6)]


class ScriptedSandbox:
    """A sandbox with given replies."""

    def __init__(self, reply: Any) -> None:
        self.reply, self.asked, self.limits = reply, [], Limits()

    def ask(self, do: str, seconds: float, **request: Any) -> Any:
        self.asked.append((do, request))
        return self.reply(request) if callable(self.reply) else self.reply


def answerer(reply: Any, batched: Any = None) -> Answerer:
    return Answerer(sandbox=ScriptedSandbox(reply), seconds_per_pair=0.4, batched=batched)  # type: ignore[arg-type]


def suite() -> Suite:
    groups = []
    for name, pairs in (("first", PAIRS[:2]), ("second", PAIRS[2:])):
        a_BJ, b_BJ = pairs_from_ints(pairs)
        groups.append(Group(name=name, a_BJ=a_BJ, b_BJ=b_BJ))
    return Suite(name="small", groups=tuple(groups))


def test_right_and_wrong_are_counted_by_group_and_digit() -> None:
    wrong = {(1, 9): 11, (5, 6): "RuntimeError: boom"}
    seen: list[tuple[str, int, int]] = []
    report = evaluate(
        answerer(lambda r: {"answers": [wrong.get(tuple(p), sum(p)) for p in r["pairs"]]}),
        suite(),
        lambda stage, done, total: seen.append((stage, done, total)),
    )
    assert [(g.name, g.n, g.errors) for g in report.groups] == [("first", 2, 1), ("second", 3, 1)]
    assert report.total.right_digits == (3, 4, *[4] * 9)
    assert [(miss.a, miss.b, miss.right_sum, miss.answer) for miss in report.failures] == [
        (1, 9, 10, "11"),
        (5, 6, 11, "RuntimeError: boom"),
    ]
    assert seen[-1] == ("small", 5, 5)


def test_few_pairs_of_each_group() -> None:
    report = evaluate(
        answerer(lambda r: {"answers": [0 for _ in r["pairs"]]}), suite(), lambda *_: None, 1
    )
    assert [g.n for g in report.groups] == [1, 1]


@pytest.mark.parametrize(
    "reply", [{}, {"answers": 3}, {"answers": [1]}, {"answers": None}, {"error": "it broke"}]
)
def test_missing_answers_end_it(reply: dict[str, Any]) -> None:
    asked = answerer(reply)
    asked.seconds_per_pair = 1e-9
    with pytest.raises(Ended):
        asked.add(PAIRS)


def test_slow_submissions_are_asked_in_small_portions() -> None:
    asked = answerer(lambda r: {"answers": [sum(p) for p in r["pairs"]]})
    assert asked.add(PAIRS) == [sum(p) for p in PAIRS]
    sizes = [len(request["pairs"]) for _, request in asked.sandbox.asked]  # type: ignore[attr-defined]
    assert sizes[0] == 2


def test_batches_read_tokens_and_trust_no_shape() -> None:
    rules = Prompt(module="", dtype="int64", rules=((0, 1, 0, 0), (0, 0, 1, 0)))
    reading = Reading(first_call=0, up=True, token_of={d: d for d in range(10)})
    rows = [[1, *[0] * 10], [2], "x", [11] * 11, [9, 8, *[0] * 9]]
    asked = answerer({"tokens": rows}, (rules, reading))
    assert asked.answer(PAIRS) == [1, -1, -1, -1, 89]
    do, request = asked.sandbox.asked[0]  # type: ignore[attr-defined]
    assert do == "greedy" and request["prompts"][2] == [9, 1] and request["steps"] == 11


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
    return {"module": "net", "plain": True, "tokens": tokens, "dtype": "int64", "next": following}


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize(("encode", "shift"), [(msd, 2), (paired, 0)])
def test_rules_are_found(encode: Encoder, shift: int, up: bool, before: int) -> None:
    traces = [trace(pair, encode, shift, up, before) for pair in TRACED]
    reading = find_reading(TRACED, traces)
    assert reading is not None
    assert (reading.first_call, reading.up) == (before, up)
    assert reading.token_of == {d: d + shift for d in range(10)}
    prompt = find_prompt(TRACED, traces, reading)
    assert prompt is not None and (prompt.module, prompt.dtype) == ("net", "int64")
    for pair in [(0, 0), (9999999999, 1), (1234567890, 5)]:
        assert prompt.tokens(*pair) == encode(*pair)
    tokens = reading.tokens(40_000_000_321)
    assert tokens[:before] == [None] * before
    assert reading.value([t for t in tokens[before:] if t is not None]) == 40_000_000_321


def test_tokens_that_are_no_digits_are_no_number() -> None:
    reading = Reading(first_call=0, up=True, token_of={d: d for d in range(10)})
    assert reading.value([1] * 10 + [12]) == -1
    assert reading.value([1] * 10) == -1
    assert Prompt(module="", dtype="int64", rules=((5, 0, 0, 0), (0, 1, 0, 3))).tokens(7000, 0) == [5, 7]


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
    assert find_reading(TRACED, broken(change)) is None


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
    reading = find_reading(TRACED, traces)
    assert reading is not None
    assert find_prompt(TRACED, traces, reading) is None
