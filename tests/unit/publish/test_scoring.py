"""Scores are made of answers and of nothing else, and they are those of ``add``."""

import threading
from typing import Any

import pytest

from adderlab.evaluation.suites import Group, Suite
from adderlab.publish import scoring
from adderlab.publish.sandbox import Ended, Limits
from adderlab.publish.scoring import Answerer, Prompt, Reading, evaluate
from adderlab.task.addition import pairs_from_ints

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
    assert report is not None
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
    assert report is not None and [g.n for g in report.groups] == [1, 1]


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


class BatchedSandbox(ScriptedSandbox):
    """Answers batches with given rows and ``add`` with given answers."""

    def __init__(self, rows: Any, leads: Any, by_add: dict[tuple[int, int], Any]) -> None:
        super().__init__(None)
        self.rows, self.leads, self.by_add = rows, leads, by_add

    def ask(self, do: str, seconds: float, **request: Any) -> Any:
        self.asked.append((do, request))
        if do == "greedy":
            return {"tokens": self.rows, "leads": self.leads}
        return {"answers": [self.by_add.get(tuple(p), sum(p)) for p in request["pairs"]]}


RULES = Prompt(module="", library="torch", dtype="int64", rules=((0, 1, 0, 0), (0, 0, 1, 0)))
ENDED = Reading(up=True, token_of={d: d for d in range(10)}, after=(13,))


def row(value: int) -> list[int]:
    return [value // 10**i % 10 for i in range(11)]


def batched(rows: Any, leads: Any, by_add: dict[tuple[int, int], Any], reading: Reading) -> Answerer:
    box: Any = BatchedSandbox(rows, leads, by_add)
    return Answerer(sandbox=box, seconds_per_pair=0.01, batched=(RULES, reading))


def test_what_the_batches_cannot_read_add_is_asked() -> None:
    rows = [[*row(0), 13], [2], "x", [*[11] * 11, 13], [*row(11), 4]]
    asked = batched(rows, [1.0] * 5, {PAIRS[4]: 110}, ENDED)
    assert asked.answer(PAIRS) == [0, 10, 100, 19999999998, 110]
    do, request = asked.sandbox.asked[0]  # type: ignore[attr-defined]
    assert do == "greedy" and request["prompts"][2] == [9, 1] and request["steps"] == 12
    do, request = asked.sandbox.asked[1]  # type: ignore[attr-defined]
    assert do == "add" and request["pairs"] == PAIRS[1:], "the last one forgets its end token"


def test_wrong_and_close_answers_are_asked_again_and_disagreements_are_named() -> None:
    rows = [[*row(sum(pair)), 13] for pair in PAIRS]
    rows[1] = [*row(999), 13]
    asked = batched(rows, [9.0, 9.0, 0.001, "NaN", 9.0], {PAIRS[2]: 7}, ENDED)
    report = evaluate(asked, suite(), lambda *_: None)
    assert report is not None and report.total.errors == 1, "add is right where the batch is wrong"
    assert [(miss.a, miss.answer) for miss in report.failures] == [(99, "7")]
    assert [(each.a, each.batched, each.by_add) for each in asked.disagreements] == [
        (1, "999", "10"),
        (99, "100", "7"),
    ]
    assert asked.by_add == len(PAIRS)


def test_forged_batches_are_an_end_and_no_crash() -> None:
    asked = batched([1] * 5, None, {}, ENDED)
    assert asked.answer(PAIRS) == [None] * 5 and isinstance(asked.ended, Ended)


def test_no_answer_is_a_wrong_one() -> None:
    asked = answerer(lambda r: {"answers": [None for _ in r["pairs"]]})
    report = evaluate(asked, suite(), lambda *_: None)
    assert report is not None and (report.total.n, report.total.errors) == (5, 5)


def test_what_was_answered_until_the_end_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_CHUNK_SECONDS", 0.0)

    class Ending(ScriptedSandbox):
        def ask(self, do: str, seconds: float, **request: Any) -> Any:
            if (9999999999, 9999999999) in request["pairs"]:
                raise Ended("it was not done")
            return super().ask(do, seconds, **request)

    box: Any = Ending(lambda r: {"answers": [0 for _ in r["pairs"]]})
    asked = Answerer(sandbox=box, seconds_per_pair=0.1)
    report = evaluate(asked, suite(), lambda *_: None)
    assert report is not None and [(g.n, g.errors) for g in report.groups] == [(2, 1), (1, 1)]
    assert str(asked.ended) == "it was not done"


def test_every_core_asks_add() -> None:
    both = threading.Barrier(2, timeout=20)
    seen: dict[int, int] = {}

    class Slow(ScriptedSandbox):
        def ask(self, do: str, seconds: float, **request: Any) -> Any:
            if threading.get_ident() not in seen:
                both.wait()
            seen[threading.get_ident()] = seen.get(threading.get_ident(), 0) + len(request["pairs"])
            return {"answers": [sum(p) for p in request["pairs"]]}

    def slow() -> Any:
        return Slow(None)

    asked = Answerer(sandbox=slow(), seconds_per_pair=3.0, another=slow, cores=2)
    assert asked.add(PAIRS) == [sum(pair) for pair in PAIRS]
    assert len(seen) == 2 and sum(seen.values()) == len(PAIRS)
    assert "2 processes" in asked.how


def test_an_end_in_one_process_ends_all() -> None:
    class Broken(ScriptedSandbox):
        def ask(self, do: str, seconds: float, **request: Any) -> Any:
            raise Ended("it crashed")

    boxes: list[Any] = [Broken(None), Broken(None)]
    asked = Answerer(sandbox=boxes[0], seconds_per_pair=3.0, another=lambda: boxes[1], cores=2)
    with pytest.raises(Ended, match="it crashed"):
        asked.add(PAIRS)
