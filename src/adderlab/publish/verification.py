"""The form of a verification: four answers about one submission, each of which may be missing.

*score*    how many of its sums are right; certain, for the sums are known only to the checking process
*count*    how many numbers it holds, by every convention; evidence, for its own process shows them
*watched*  whether its sums come from its model; evidence, for its own process is what is watched
*decided*  whether all pairs are right; as certain as the prover is about the tables it got

The verdict follows from the first three and from how the submission ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from adderlab.evaluation.exact import SuiteReport
from adderlab.publish.counting import Counts
from adderlab.publish.model_card import Count, accuracy_line
from adderlab.results import Result, html_table
from adderlab.task.addition import PUBLISHED, Addition

BAR = 0.99
"""The board's: exact match on its 10,010 pairs. A file for numbers of another size is held to it on
pairs of its own."""
_SHOWN_MISSES = 3

VerdictName = Literal["qualified", "not qualified", "rejected", "failed"]


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A pair to which the model, driven in batches, and ``add`` gave different answers."""

    a: int
    b: int
    batched: str
    by_add: str

    def __str__(self) -> str:
        return f"{self.a} + {self.b}: {self.batched} in batches, {self.by_add} through add"


@dataclass(frozen=True, kw_only=True)
class Score:
    """How many of its sums are right."""

    reports: tuple[SuiteReport, ...] = ()
    """The board's pairs, then the strata, as far as they were answered."""
    complete: bool = False
    """Whether every pair of the board was answered."""
    board_pairs: int = 10_010
    addition: Addition = PUBLISHED
    suite: str = "adderboard"
    """What stands for the board's pairs; of numbers of another size "uniform", or "all" where all of
    them are few."""
    how: str = ""
    """How the pairs were asked."""
    disagreements: tuple[Disagreement, ...] = ()
    """Where the answer of ``add`` counted instead of that of the batch."""
    seconds: float = 0.0

    @property
    def board(self) -> SuiteReport | None:
        """Exact match on the board's pairs, or what stands for them; None if not one was answered."""
        return next((report for report in self.reports if report.suite == self.suite), None)

    @property
    def passes(self) -> bool:
        """Whether the board would qualify it: all its pairs answered, and 99% of them right."""
        return self.complete and self.board is not None and self.board.total.exact_match >= BAR

    @property
    def wrong_pair(self) -> tuple[int, int] | None:
        """A pair with a wrong sum, of the board or of the strata; None if none was found."""
        misses = [miss for report in self.reports for miss in report.failures]
        return (misses[0].a, misses[0].b) if misses else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        task = self.addition
        size = {} if task == PUBLISHED else {"columns": task.columns, "base": task.base}
        return {
            **size,
            "complete": self.complete,
            "passes": self.passes,
            "suites": [report.to_dict() for report in self.reports],
            "how": self.how,
            "disagreements": [vars(each) for each in self.disagreements],
            "seconds": round(self.seconds, 3),
        }

    def describe(self) -> list[str]:
        """Statements for people."""
        lines = []
        for report in self.reports:
            lines.append(accuracy_line(report))
            lines += [f"  wrong: {miss}" for miss in report.failures[:_SHOWN_MISSES]]
        if lines and not self.complete:
            answered = self.board.total.n if self.board else 0
            whose = "the board's" if self.addition == PUBLISHED else "its"
            lines.insert(0, f"in part: {answered:,} of {whose} {self.board_pairs:,} pairs")
        if self.addition != PUBLISHED:
            lines.insert(
                0,
                "AdderBoard's score does not apply: it is about ten-digit numbers, and this file adds "
                f"{self.addition.operands_text}",
            )
        lines += [f"  batches and add disagree: {each}" for each in self.disagreements[:_SHOWN_MISSES]]
        return [*lines, *([f"asked {self.how}"] if self.how else [])] or ["not scored"]


@dataclass(frozen=True, kw_only=True)
class Counted:
    """How many numbers it holds."""

    counts: Counts | None = None
    """By every convention; None if it did not load."""
    claimed: Any = None
    """What its metadata says."""
    claim: str = ""
    """The claim compared with the counts, in one sentence."""
    confirmed: bool | None = None
    """Whether the claim is one of the counts, or more than the board's; None: nothing to compare."""
    notes: tuple[str, ...] = ()
    """What lies outside the board's count: fixed or learned?"""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "claimed": self.claimed,
            "confirmed": self.confirmed,
            "claim": self.claim,
            "counts": None if self.counts is None else self.counts.named(),
            "notes": list(self.notes),
        }

    def describe(self) -> list[str]:
        """Statements for people."""
        if self.counts is None:
            return [self.claim or "not counted"]
        named = ", ".join(f"{name} {value:,}" for name, value in self.counts.named().items())
        return [self.claim, f"  {named}", *(f"  {note}" for note in self.notes)]


@dataclass(frozen=True, kw_only=True)
class Watched:
    """Whether its sums come from its model."""

    verdict: Literal["from the model", "not from the model", "could not be watched", "not watched"] = (
        "not watched"
    )
    findings: tuple[str, ...] = ()
    """What was seen, a sentence each."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"verdict": self.verdict, "findings": list(self.findings)}

    def describe(self) -> list[str]:
        """Statements for people."""
        return [self.verdict, *(f"  {finding}" for finding in self.findings)]


@dataclass(frozen=True, kw_only=True)
class Decided:
    """Whether all pairs are right."""

    verdict: Literal["proved", "refuted", "undecided", "not decided"] = "not decided"
    """Undecided: the prover stopped at its limit. Not decided: it was not asked; ``reason`` says why."""
    counterexample: tuple[int, int] | None = None
    """A pair with a wrong sum, if refuted: by the prover, or the first that the score met."""
    failing_pairs: Count | None = None
    """How many of all pairs fail, or between which two numbers that lies."""
    pairs: str = PUBLISHED.pairs_text
    """How many pairs there are; not in JSON where they are the board's."""
    reason: str | None = None
    """Why it is neither proved nor refuted."""
    margin: float | None = None
    """By how many logits the correct digit leads at least; below zero if refuted."""
    margin_pair: tuple[int, int] | None = None
    """The pair at which the lead is the smallest that was found."""
    source: str = ""
    """What it rests on, for example "tables read from the running file"."""
    certificate: str | None = None
    """The file it was written to."""
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""

        def listed(value: Any) -> Any:
            return list(value) if isinstance(value, tuple) else value

        plain = {name: listed(value) for name, value in vars(self).items()}
        if self.pairs == PUBLISHED.pairs_text:
            del plain["pairs"]
        return plain

    def describe(self) -> list[str]:
        """Statements for people."""
        return [
            " ".join(self._sentence()),
            *([f"  {self.reason}"] if self.verdict == "refuted" and self.reason else []),
            *([f"  certificate: {self.certificate}"] if self.certificate else []),
        ]

    def _sentence(self) -> list[str]:
        source = f"({self.source})" if self.source else ""
        if self.verdict == "proved":
            words = [f"proved: all {self.pairs} pairs are added correctly in real arithmetic"]
            if self.margin is not None:
                words.append(f"by at least {self.margin:.3g} logits")
        elif self.verdict == "refuted":
            words = ["refuted:"]
            if self.failing_pairs is not None:
                words.append(f"{_range(self.failing_pairs)} of {self.pairs} pairs fail, for example")
            assert self.counterexample is not None
            words.append("{} + {}".format(*self.counterexample))
        else:
            words = [f"{self.verdict}: {self.reason or 'the prover stopped at its limit'}"]
            if self.margin_pair is not None:
                words.append("(the closest pair found is {} + {})".format(*self.margin_pair))
        return [*words, source] if source else words


def _range(count: Count) -> str:
    return f"{count:,}" if isinstance(count, int) else " to ".join(f"{n:,}" for n in count)


@dataclass(frozen=True, kw_only=True)
class Verification(Result):
    """The verdict on one submission, and the four answers. Texts may hold what the stranger wrote."""

    file: str
    sandbox: str
    """The mode it ran in, and what that protects from."""
    verdict: VerdictName
    failure: str | None
    """Why it could not be measured to the end."""
    rejections: tuple[str, ...]
    """Evidence of cheating: why its score does not count."""
    notes: tuple[str, ...]
    metadata: dict[str, Any]
    """As ``build_model`` returned it; texts are cut."""
    score: Score
    count: Counted
    watched: Watched
    decided: Decided
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "schema_version": 2,
            "file": self.file,
            "verdict": self.verdict,
            "failure": self.failure,
            "rejections": list(self.rejections),
            "notes": list(self.notes),
            "metadata": self.metadata,
            "score": self.score.to_dict(),
            "count": self.count.to_dict(),
            "watched": self.watched.to_dict(),
            "decided": self.decided.to_dict(),
            "sandbox": self.sandbox,
            "seconds": round(self.seconds, 3),
        }

    def _repr_html_(self) -> str:
        board = self.score.board
        row = {
            "verdict": self.verdict,
            "exact match": None if board is None else board.total.exact_match,
            "parameters": None if self.count.counts is None else self.count.counts.parameters,
            "watched": self.watched.verdict,
            "decided": self.decided.verdict,
            "reasons": "; ".join(filter(None, (*self.rejections, self.failure))),
        }
        return html_table([row], self.file)

    def describe(self) -> list[str]:
        """The verdict for people, one statement a line, without characters that steer a terminal."""
        lines = [f"{self.file}: {self.verdict.upper()}"]
        lines += [f"  {reason}" for reason in self.rejections]
        if self.failure is not None:
            lines.append(f"  {self.failure}")
        for name in ("score", "count", "watched", "decided"):
            first, *rest = getattr(self, name).describe()
            lines += [f"{name + ':':<9}{first}", *(f"{'':9}{line.removeprefix('  ')}" for line in rest)]
        lines += [f"note: {note}" for note in self.notes]
        lines.append(f"sandbox: {self.sandbox}; {self.seconds:.1f} s")
        return [printable(line) for line in lines]


def printable(text: str, instead: str = "?") -> str:
    """A stranger's text without characters that steer a terminal."""
    return "".join(c if c.isprintable() else instead for c in text)
