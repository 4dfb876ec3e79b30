"""Asking a submission for sums and scoring the answers; only this process knows the sums.

A pair is asked through ``add``, or, where watching has shown how, many at once. From traces of ``add``
(the tokens each call of the model got, and the token it answered) follows which calls make the answer's
digits, in which order, and, for models that decode greedily from a fixed prompt, the prompt's rule.
Then the model can be driven in batches, without ``add``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from adderlab.evaluation.exact import Miss, Score, SuiteReport
from adderlab.evaluation.suites import Suite
from adderlab.publish.sandbox import Ended, Sandbox
from adderlab.task.layouts import OPERAND_DIGITS, SUM_DIGITS, from_digits

Pair = tuple[int, int]
Progress = Callable[[str, int, int], None]
"""(stage, done, of all)."""
_BATCH = 500
_CHUNK_SECONDS = 1.0
_MOST_FAILURES = 10


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Digit ``i`` of the answer (0: units) is made by one call; ``token_of`` says how it is written."""

    first_call: int
    up: bool
    """Units first."""
    token_of: dict[int, int]

    def tokens(self, answer: int) -> list[int | None]:
        """What the calls must answer for ``add`` to return ``answer``."""
        digits = _digits(answer, SUM_DIGITS)
        order = digits if self.up else digits[::-1]
        return [None] * self.first_call + [self.token_of[digit] for digit in order]

    def value(self, tokens: list[int]) -> int:
        """The number that eleven answered tokens stand for; -1 if one is no digit."""
        digit_of = {token: digit for digit, token in self.token_of.items()}
        digits = [digit_of.get(token, -1) for token in tokens]
        if len(digits) != SUM_DIGITS or -1 in digits:
            return -1
        order = digits if self.up else digits[::-1]
        return sum(digit * 10**i for i, digit in enumerate(order))


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The token at each position: a constant, or a column's digits, ``constant + wa a_j + wb b_j``."""

    module: str
    dtype: str
    rules: tuple[tuple[int, int, int, int], ...]
    """(constant, wa, wb, j) for each position."""

    def tokens(self, a: int, b: int) -> list[int]:
        x, y = _digits(a, OPERAND_DIGITS), _digits(b, OPERAND_DIGITS)
        return [constant + wa * x[j] + wb * y[j] for constant, wa, wb, j in self.rules]


def _digits(value: int, count: int) -> list[int]:
    return [value // 10**j % 10 for j in range(count)]


def find_reading(pairs: list[Pair], traces: list[dict[str, Any]]) -> Reading | None:
    """The reading under which every trace's answer is what its calls answered; None without one."""
    counts = {len(trace["calls"]) for trace in traces}
    if len(counts) != 1 or not pairs or not all(isinstance(t["answer"], int) for t in traces):
        return None
    (calls,) = counts
    if any("next" not in call for trace in traces for call in trace["calls"]):
        return None
    for first in range(calls - SUM_DIGITS + 1):
        for up in (True, False):
            token_of = _token_of(traces, first, up)
            if token_of is not None:
                return Reading(first_call=first, up=up, token_of=token_of)
    return None


def _token_of(traces: list[dict[str, Any]], first: int, up: bool) -> dict[int, int] | None:
    """Digit -> token, if that is one and the same for all traces and distinct for all digits."""
    found: dict[int, int] = {}
    for trace in traces:
        if not 0 <= trace["answer"] < 10**SUM_DIGITS:
            return None
        digits = _digits(trace["answer"], SUM_DIGITS)
        calls = trace["calls"][first : first + SUM_DIGITS]
        for digit, call in zip(digits if up else digits[::-1], calls, strict=True):
            if found.setdefault(digit, call["next"]) != call["next"]:
                return None
    return found if len(set(found.values())) == len(found) == 10 else None


def find_prompt(pairs: list[Pair], traces: list[dict[str, Any]], reading: Reading) -> Prompt | None:
    """The rule of the prompt, if each call reads the last one's tokens and its answer; else None."""
    prompts = []
    for trace in traces:
        calls = trace["calls"][reading.first_call : reading.first_call + SUM_DIGITS]
        prompt = _greedy_prompt(calls)
        if prompt is None:
            return None
        prompts.append(prompt)
    first = traces[0]["calls"][reading.first_call]
    if len({len(prompt) for prompt in prompts}) != 1:
        return None
    rules = [
        _rule([prompt[position] for prompt in prompts], pairs) for position in range(len(prompts[0]))
    ]
    known = tuple(rule for rule in rules if rule is not None)
    if len(known) != len(rules):
        return None
    return Prompt(module=str(first["module"]), dtype=str(first["dtype"]), rules=known)


def _greedy_prompt(calls: list[dict[str, Any]]) -> list[int] | None:
    tokens = None
    for call in calls:
        if not call.get("plain") or call["module"] != calls[0]["module"]:
            return None
        seen = call.get("tokens")
        if not (isinstance(seen, list) and len(seen) == 1 and isinstance(seen[0], list)):
            return None
        if tokens is not None and seen[0] != tokens:
            return None
        tokens = [*seen[0], call["next"]]
    assert tokens is not None
    return tokens[: len(tokens) - len(calls)]


def _rule(tokens: list[int], pairs: list[Pair]) -> tuple[int, int, int, int] | None:
    """The simplest rule that gives this position's token for every pair."""
    if len(set(tokens)) == 1:
        return tokens[0], 0, 0, 0
    for weights in ((1, 0), (0, 1), (10, 1), (1, 10)):
        for j in range(OPERAND_DIGITS):
            wa, wb = weights
            rests = {
                token - wa * (a // 10**j % 10) - wb * (b // 10**j % 10)
                for token, (a, b) in zip(tokens, pairs, strict=True)
            }
            if len(rests) == 1:
                return rests.pop(), wa, wb, j
    return None


@dataclass(kw_only=True)
class Answerer:
    """Asks the submission: through ``add``, or in batches where the model's rule is known."""

    sandbox: Sandbox
    seconds_per_pair: float
    """Of ``add``; measured as it goes."""
    batched: tuple[Prompt, Reading] | None = None

    @property
    def how(self) -> str:
        """How the pairs are asked, for people."""
        if self.batched:
            return "the model driven in batches, in agreement with add on a sample"
        return f"through add, one pair at a time ({1 / max(self.seconds_per_pair, 1e-9):,.0f} a second)"

    def add(self, pairs: list[Pair], on_answers: Callable[[int], None] = lambda done: None) -> list[Any]:
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
            on_answers(len(answers))
        return answers

    def by_batches(
        self, pairs: list[Pair], on_answers: Callable[[int], None] = lambda done: None
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
            on_answers(len(answers))
        return answers

    def answer(
        self, pairs: list[Pair], on_answers: Callable[[int], None] = lambda done: None
    ) -> list[Any]:
        """By batches where that is known to work."""
        return self.by_batches(pairs, on_answers) if self.batched else self.add(pairs, on_answers)


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
    correct = [0] * SUM_DIGITS
    errors = 0
    for (a, b), answer in zip(pairs, answers, strict=True):
        errors += answer != a + b
        for i, same in enumerate(_same_digits(a + b, answer)):
            correct[i] += same
    return Score(name=name, n=len(pairs), errors=errors, right_digits=tuple(correct))


def _same_digits(wanted: int, answer: Any) -> Iterator[bool]:
    number = answer if isinstance(answer, int) and answer >= 0 else None
    for i in range(SUM_DIGITS):
        yield number is not None and wanted // 10**i % 10 == number // 10**i % 10
