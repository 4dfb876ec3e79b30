"""A stranger's answers compared with the sums, pair by pair; only this process knows the sums."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from adderlab.evaluation.exact import Miss, Score, SuiteReport
from adderlab.evaluation.suites import Suite
from adderlab.publish.driving import Pair, Prompt, Reading
from adderlab.publish.sandbox import Ended, Sandbox
from adderlab.task.digits import SUM_DIGITS, from_digits

Progress = Callable[[str, int, int], None]
"""(stage, done, of all)."""
_BATCH = 500
_CHUNK_SECONDS = 1.0
_MOST_FAILURES = 10


@dataclass(kw_only=True)
class Answerer:
    """Asks the submission: through ``add``, or in batches where the model's rule is known."""

    sandbox: Sandbox
    seconds_per_pair: float
    """Of ``add``; measured as it goes."""
    batched: tuple[Prompt, Reading] | None = None

    def add(self, pairs: list[Pair], told: Callable[[int], None] = lambda done: None) -> list[Any]:
        """Answers of ``add``, an int or a text that says what came instead. Raises ``Ended``."""
        answers: list[Any] = []
        limit = self.sandbox.limits.answer_seconds
        while len(answers) < len(pairs):
            size = max(1, min(1000, int(_CHUNK_SECONDS / max(self.seconds_per_pair, 1e-5))))
            chunk = pairs[len(answers) : len(answers) + size]
            started = time.monotonic()
            reply = self.sandbox.ask("add", limit, pairs=chunk)
            answers += _list(reply, "answers", len(chunk))
            self.seconds_per_pair = (time.monotonic() - started) / len(chunk)
            told(len(answers))
        return answers

    def by_batches(
        self, pairs: list[Pair], told: Callable[[int], None] = lambda done: None
    ) -> list[Any]:
        """Answers of the model itself, driven greedily on prompts made here. Raises ``Ended``."""
        assert self.batched is not None
        prompt, reading = self.batched
        answers: list[Any] = []
        for start in range(0, len(pairs), _BATCH):
            chunk = pairs[start : start + _BATCH]
            reply = self.sandbox.ask(
                "greedy",
                10 * self.sandbox.limits.answer_seconds,
                module=prompt.module,
                dtype=prompt.dtype,
                prompts=[prompt.tokens(a, b) for a, b in chunk],
                steps=SUM_DIGITS,
            )
            rows = _list(reply, "tokens", len(chunk))
            answers += [reading.value(row) if isinstance(row, list) else -1 for row in rows]
            told(len(answers))
        return answers

    def answer(self, pairs: list[Pair], told: Callable[[int], None] = lambda done: None) -> list[Any]:
        """By batches where that is known to work."""
        return self.by_batches(pairs, told) if self.batched else self.add(pairs, told)


def _list(reply: dict[str, Any], key: str, length: int) -> list[Any]:
    found = reply.get(key)
    if not isinstance(found, list) or len(found) != length:
        raise Ended(str(reply.get("error", "it did not answer every pair"))[:300])
    return found


def evaluate(
    answerer: Answerer, suite: Suite, progress: Progress, per_group: int | None = None
) -> SuiteReport:
    """Exact match on a suite, or on the first ``per_group`` pairs of each group. Raises ``Ended``."""
    started = time.monotonic()
    groups = [(group.name, _pairs(group, per_group)) for group in suite.groups]
    total, before = sum(len(pairs) for _, pairs in groups), 0
    scores: list[Score] = []
    misses: list[Miss] = []
    for name, pairs in groups:
        base = before
        answers = answerer.answer(
            pairs, lambda done, base=base: progress(suite.name, base + done, total)
        )
        before += len(pairs)
        wrong = [
            (a, b, answer) for (a, b), answer in zip(pairs, answers, strict=True) if answer != a + b
        ]
        scores.append(_score(name, pairs, answers))
        misses += [
            Miss(group=name, a=a, b=b, answer=str(answer)[:80], right_sum=a + b)
            for a, b, answer in wrong
        ]
    return SuiteReport(
        suite=suite.name,
        groups=tuple(scores),
        failures=tuple(misses[:_MOST_FAILURES]),
        seconds=time.monotonic() - started,
    )


def _pairs(group: Any, most: int | None) -> list[Pair]:
    a_B, b_B = from_digits(group.a_BJ[:most]), from_digits(group.b_BJ[:most])
    return list(zip(a_B.tolist(), b_B.tolist(), strict=True))


def _score(name: str, pairs: list[Pair], answers: list[Any]) -> Score:
    right = [0] * SUM_DIGITS
    errors = 0
    for (a, b), answer in zip(pairs, answers, strict=True):
        errors += answer != a + b
        for i, same in enumerate(_same_digits(a + b, answer)):
            right[i] += same
    return Score(name=name, n=len(pairs), errors=errors, right_digits=tuple(right))


def _same_digits(wanted: int, answer: Any) -> Iterator[bool]:
    number = answer if isinstance(answer, int) and answer >= 0 else None
    for i in range(SUM_DIGITS):
        yield number is not None and wanted // 10**i % 10 == number // 10**i % 10
