"""Scores are made of answers and of nothing else."""

from typing import Any

import pytest

from adderlab.evaluation.suites import Group, Suite
from adderlab.publish.driving import Prompt, Reading
from adderlab.publish.sandbox import Ended, Limits
from adderlab.publish.scoring import Answerer, evaluate
from adderlab.task.digits import pairs_from_ints

PAIRS = [(0, 0), (1, 9), (99, 1), (9999999999, 9999999999), (5, 6)]


class Told:
    """A sandbox that answers as it is told to."""

    def __init__(self, reply: Any) -> None:
        self.reply, self.asked, self.limits = reply, [], Limits()

    def ask(self, do: str, seconds: float, **request: Any) -> Any:
        self.asked.append((do, request))
        return self.reply(request) if callable(self.reply) else self.reply


def answerer(reply: Any, batched: Any = None) -> Answerer:
    return Answerer(sandbox=Told(reply), seconds_per_pair=0.4, batched=batched)  # type: ignore[arg-type]


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
    assert [str(miss) for miss in report.failures] == [
        "1 + 9 = 10, answered 11",
        "5 + 6 = 11, answered RuntimeError: boom",
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
