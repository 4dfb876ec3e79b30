"""Whether a submission's sums come from its model, as far as its own process lets itself be watched.

Three checks on unpredictable pairs: what the model is called with while ``add`` runs, whether the sums
follow when what it answers is replaced, whether they go wrong when its numbers are overwritten. Each
can be impossible for an honest file (a model of a kind that cannot be watched); that is said, and held
against nobody.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from adderlab.publish.counting import Counts
from adderlab.publish.sandbox import Ended, Sandbox
from adderlab.publish.scoring import Pair, Reading
from adderlab.publish.verification import Watched
from adderlab.task.addition import OPERAND_LIMIT, PUBLISHED, Addition

_TRACES, _PROBES = 24, 16
_TRACED_DIGITS = 200
"""Digits of sums that are seen at least, of tasks of few columns: each must occur."""


def random_pairs(count: int, limit: int = OPERAND_LIMIT) -> list[Pair]:
    """Not foreseeable by the submission."""
    draw = random.SystemRandom()
    return [(draw.randrange(limit), draw.randrange(limit)) for _ in range(count)]


def traced_pairs(addition: Addition = PUBLISHED) -> list[Pair]:
    """Pairs whose additions are watched: of all lengths, for a file may read short sums otherwise."""
    lengths = range(1, addition.columns)
    short = [pair for digits in lengths for pair in random_pairs(1, addition.base**digits)]
    count = max(_TRACES, _TRACED_DIGITS // addition.sum_digits)
    return [*random_pairs(count, addition.limit), *short]


@dataclass(kw_only=True)
class Watcher:
    """The checks on one submission, and what they found."""

    sandbox: Sandbox
    addition: Addition = PUBLISHED
    findings: list[str] = field(default_factory=list)
    rejections: list[str] = field(default_factory=list)
    """Evidence that the sums are not its model's."""
    _names: set[str] = field(default_factory=set)
    """Functions whose answers are the model's."""
    _of_model: bool = False
    """Whether those are methods of the model, not mere functions of the file."""
    _confirmed: bool = False

    def watched(self) -> Watched:
        """The answer so far."""
        if self.rejections:
            return Watched(verdict="not from the model", findings=(*self.rejections, *self.findings))
        verdict = "from the model" if self._confirmed else "could not be watched"
        return Watched(verdict=verdict, findings=tuple(self.findings))

    def note_calls(self, traces: list[dict[str, Any]]) -> None:
        """What the calls of the model show by themselves. Raises what forged traces make it raise."""
        calls = [call for trace in traces for call in trace["calls"]]
        self._names = {str(call["module"]) for call in calls}
        self._of_model = bool(calls) and all(call["of_model"] for call in calls)
        if not calls:
            self.findings.append("no call of its model was seen while it adds")
            return
        fewest = min(traces, key=lambda trace: trace["count"] - self._length(trace["answer"]))
        times, digits = fewest["count"], self._length(fewest["answer"])
        if times >= digits:
            return
        numbers = sum(call["size"] for call in fewest["calls"])
        called = f"its model is called {times} times for an answer of {digits} digits"
        if numbers < digits and self._of_model:
            self.rejections.append(f"{called}, and answers {numbers} numbers: the sum, not its digits")
        else:
            self.findings.append(f"{called}, not once a digit as the board asks")

    def _length(self, answer: Any) -> int:
        """Digits of an answer; of what is no number, its characters."""
        whole = isinstance(answer, int) and answer >= 0
        return len(self.addition.numeral(answer) if whole else str(answer))

    def steer(self, reading: Reading | None) -> None:
        """Replace what the model answers: the sums must follow."""
        if not self._names:
            return
        task, draw = self.addition, random.SystemRandom()
        pairs = random_pairs(_PROBES, task.limit)
        targets = [draw.randrange(task.limit, task.limit * task.base) for _ in pairs]
        if reading is not None:
            tokens: list[Any] = [reading.tokens(target) for target in targets]
        else:
            tokens = [[draw.randrange(task.base) for _ in range(100)] for _ in pairs]
        limit = _PROBES * self.sandbox.limits.answer_seconds
        names = sorted(self._names)
        try:
            reply = self.sandbox.ask("steer", limit, pairs=pairs, tokens=tokens, names=names)
        except Ended as end:
            self.findings.append(f"with what its model answers replaced: {end}")
            return
        answers, replaced = reply.get("answers", []), reply.get("replaced", [])
        still_correct = [
            answer == a + b
            for (a, b), answer, times in zip(pairs, answers, replaced, strict=False)
            if times
        ]
        if not still_correct:
            self.findings.append("what its model answers could not be replaced")
        elif sum(still_correct) > len(still_correct) // 2:
            found = "its sums stay correct when what its model answers is replaced"
            (self.rejections if self._of_model else self.findings).append(found)
        else:
            self._confirmed = True
            exact = reading is not None and answers == targets
            self.findings.append(
                "its sums are, digit for digit, what its model's calls answer"
                if exact
                else "its sums change when what its model answers is replaced"
            )

    def scramble(self, counts: Counts | None) -> None:
        """Overwrite every number: the sums must go wrong. The submission is of no use afterwards."""
        limit = self.sandbox.limits.answer_seconds
        pairs = random_pairs(_PROBES, self.addition.limit)
        try:
            without = self.sandbox.ask("without", _PROBES * limit, pairs=pairs)
            reply = self.sandbox.ask("scramble", limit, seed=1)
            after = self.sandbox.ask("add", _PROBES * limit, pairs=pairs)
        except Ended as end:
            self.findings.append(f"with its weights overwritten: {end}")
            return
        there, overwritten = reply.get("there", 0), reply.get("overwritten", 0)
        if not isinstance(overwritten, int) or not isinstance(there, int) or overwritten <= 0:
            self._without_numbers(_correct(pairs, without), counts)
            return
        correct = _correct(pairs, after)
        every = overwritten >= there
        what = "every weight" if every else f"{overwritten:,} of {there:,} weights"
        if correct <= _PROBES // 2:
            self._confirmed = True
            self.findings.append(f"with {what} overwritten, {correct} of {_PROBES} sums are correct")
        elif every:
            self.rejections.append("its sums stay correct when every weight is overwritten")
        else:
            self.findings.append(f"its sums stay correct with {what} overwritten; the others resist")

    def _without_numbers(self, correct: int, counts: Counts | None) -> None:
        """Nothing was overwritten: is there anything that the sums could come from?"""
        if counts is not None and not counts.with_literals and correct > _PROBES // 2:
            self.rejections.append("its sums are correct without a model, and it holds no number at all")
        else:
            self.findings.append("it holds no weights that could be overwritten")


def _correct(pairs: list[Pair], reply: dict[str, Any]) -> int:
    answers = reply.get("answers")
    if not isinstance(answers, list):
        return 0
    return sum(answer == a + b for (a, b), answer in zip(pairs, answers, strict=False))
