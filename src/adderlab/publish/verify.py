"""Checking a stranger's submission: correct sums, a true count, and sums that come from the model.

What is certain: the score, because the sums are known only here. What is evidence: everything that the
file's own process reports (counts, calls, what happens under overwritten weights). A file can be
written to deceive those checks; docs/publishing.md says how far each one goes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from adderlab.errors import Failure, UsageError
from adderlab.evaluation.exact import SuiteReport
from adderlab.evaluation.suites import adderboard, strata
from adderlab.files.atomic import disk_failure
from adderlab.publish.counting import Counts, Literals, count, judge_claim, outside_the_count
from adderlab.publish.decide import Subject, check_certificate_name, decide
from adderlab.publish.sandbox import Ended, Limits, Mode, Sandbox, describe, require
from adderlab.publish.scoring import (
    Answerer,
    Pair,
    Progress,
    Reading,
    evaluate,
    find_prompt,
    find_reading,
)
from adderlab.publish.submission import read_submission
from adderlab.publish.verification import Counted, Decided, Score, VerdictName, Verification, Watched
from adderlab.task.layouts import OPERAND_LIMIT, SUM_DIGITS

STRATUM = 5000
"""Pairs there are in each stratum."""
_LARGEST_FILE, _LARGEST_OWN = 64 << 20, 4 << 20
"""Bytes; a file that adderlab wrote has a few hundred thousand."""
_TRACES, _PROBES, _COMPARED = 24, 16, 200
_METADATA = ("name", "author", "params", "architecture", "tricks")


def verify(
    path: Path | str,
    *,
    sandbox: Mode = "bubblewrap",
    limits: Limits | None = None,
    pairwise: bool = False,
    strata_pairs: int | None = None,
    prove: bool = True,
    certificate: Path | None = None,
    progress: Progress = lambda *_: None,
) -> Verification:
    """Run anybody's AdderBoard submission in a sandbox and judge it.

    ``path`` is a Python file with ``build_model`` and ``add``. ``sandbox`` is "bubblewrap", or "limits"
    where a container of your own is the wall; docs/publishing.md says what each protects from.
    ``limits`` bounds seconds, memory and output. ``pairwise`` asks every pair through ``add``, also
    where the model can be driven in batches. ``strata_pairs`` is the number of pairs in each stratum
    (1 to 5,000; by default 1,000 in batches and 10 through ``add``). ``prove`` decides all 10^20 pairs
    (``decide``); ``certificate`` is where a proof is written. ``progress`` is called with (stage, done,
    of all).

    Raises ``UsageError`` for a missing file, a wrong setting, or a sandbox that this machine does not
    have, and ``Failure`` for a file that is no text. Whatever is wrong with the submission is a verdict.

    Source of the protocol: the board's verify.py (github.com/anadim/AdderBoard), seed 2025.
    """
    started = time.monotonic()
    if strata_pairs is not None and not 1 <= strata_pairs <= STRATUM:
        raise UsageError(f"strata must be 1 to {STRATUM} pairs each, not {strata_pairs}")
    path, limits = Path(path), limits or Limits()
    text = _text(path)
    if certificate is not None:
        check_certificate_name(certificate)
    require(sandbox)
    referee = _Referee(limits, pairwise, strata_pairs, progress)
    if prove:
        ours = _is_ours(text, referee.notes)
        referee.decide = lambda answerer, reports: decide(
            _subject(path, text, ours, answerer, reports),
            mode=sandbox,
            limits=limits,
            certificate=certificate,
            progress=referee.on_progress,
        )
    with Sandbox(path, limits, sandbox) as box:
        referee.run(box)
    score = Score(
        reports=tuple(referee.reports),
        complete=referee.failure is None,
        board_pairs=adderboard().num_pairs,
        how=referee.how,
    )
    return Verification(
        file=str(path),
        sandbox=describe(sandbox),
        verdict=referee.verdict(),
        failure=referee.failure,
        rejections=(*referee.tried, *referee.rejections),
        notes=tuple(referee.notes),
        metadata=referee.metadata,
        score=score,
        count=Counted(
            counts=referee.counts,
            claimed=referee.metadata.get("params"),
            claim=referee.claim,
            confirmed=referee.confirmed,
        ),
        watched=Watched(),
        decided=_refuted_by(score, referee.decided),
        seconds=time.monotonic() - started,
    )


def _subject(
    path: Path, text: str, ours: bool, answerer: Answerer, reports: Sequence[SuiteReport]
) -> Subject:
    """What ``decide`` needs of a file whose score is known."""
    return Subject(
        path=path,
        source=text,
        ours=ours,
        answers=answerer.add,
        pairs_per_second=1 / max(answerer.seconds_per_pair, 1e-5),
        wrong=tuple((miss.a, miss.b) for report in reports for miss in report.failures),
        exact=reports[0].total.exact_match,
    )


def _refuted_by(score: Score, decided: Decided) -> Decided:
    """A wrong sum of the score decides, however far the rest came."""
    if decided.verdict == "refuted" or score.wrong_pair is None:
        return decided
    return Decided(verdict="refuted", counterexample=score.wrong_pair, source="the score")


def _text(path: Path) -> str:
    if not path.is_file():
        raise UsageError(f"there is no file {path}; check the path")
    if path.suffix != ".py":
        raise UsageError(f"{path} is no Python file: a submission is a .py with build_model and add")
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise Failure(f"{path} has more than {_LARGEST_FILE >> 20} MiB; a submission is code")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise disk_failure(error, path, "read") from error
    except UnicodeDecodeError as error:
        raise Failure(f"{path} is not text; name a Python file") from error


def _is_ours(text: str, notes: list[str]) -> bool:
    """Whether adderlab wrote the file: its weights can be read without running it. Else a note says what
    is wrong with a file that looks so."""
    try:
        return len(text) <= _LARGEST_OWN and read_submission(text) is not None
    except Failure as error:
        notes.append(f"not read as weights: {error}")
        return False


class _Referee:
    """One submission being judged: the checks in their order, and what they found so far."""

    def __init__(self, limits: Limits, pairwise: bool, strata: int | None, progress: Progress) -> None:
        self._limits, self._pairwise, self._strata_pairs = limits, pairwise, strata
        self._progress = progress
        self._stage = ("loading", 0, 1)
        self.failure: str | None = None
        self.tried: list[str] = []
        self.rejections: list[str] = []
        self.notes: list[str] = []
        self.metadata: dict[str, Any] = {}
        self.counts: Counts | None = None
        self.claim, self.confirmed = "", None
        self.reports: list[SuiteReport] = []
        self.how = ""
        self.decide: Callable[[Answerer, Sequence[SuiteReport]], Decided] | None = None
        """Asked once the score is known, while the submission still answers."""
        self.decided = Decided(reason="the prover was not asked")

    def verdict(self) -> VerdictName:
        if self.tried:
            return "rejected"
        if self.failure is not None or not self.reports:
            return "failed"
        if self.rejections:
            return "rejected"
        return "qualified" if self._passes() else "not qualified"

    def _passes(self) -> bool:
        return self.reports[0].total.exact_match >= 0.99

    def run(self, sandbox: Sandbox) -> None:
        """Ask the submission everything. However it ends, what was found until then stays."""
        try:
            self._check(sandbox)
        except Ended as end:
            self.failure = f"{end} ({self._where()})"
            if sandbox.printed.strip():
                last = sandbox.printed.strip().splitlines()[-1][-200:]
                self.notes.append(f"the end of what it printed: {last}")
        actions = {"network": "use the network", "process": "start a process", "file": "change files"}
        self.tried = [
            f"it tried to {actions.get(kind, kind)} ({how})" for kind, how in sandbox.tried.items()
        ]

    def _check(self, sandbox: Sandbox) -> None:
        self.on_progress("loading", 0, 1)
        # Before any of its code runs, so that the code cannot change what is counted.
        counted = sandbox.ask("literals", self._limits.load_seconds)
        if "error" in counted:
            raise Ended(f"it cannot be read as Python: {counted['error']}")
        loaded = sandbox.ask("load", self._limits.load_seconds)
        if "error" in loaded:
            raise Ended(f"it does not load: {loaded['error']}")
        self._note_metadata(loaded, Literals.of(counted))
        self.on_progress("watching", 0, 1)
        answerer, reading = self._watch(sandbox)
        self.how = answerer.how
        self.on_progress("adderboard", 0, adderboard().num_pairs)
        self.reports.append(evaluate(answerer, adderboard(), self.on_progress))
        per_stratum = self._strata_pairs or (1000 if answerer.batched else 10)
        self.reports.append(evaluate(answerer, strata(), self.on_progress, per_stratum))
        if self.decide is not None:
            self.decided = self.decide(answerer, self.reports)
        if self._passes():
            self.on_progress("do the sums come from the model", 0, 1)
            self._attempt(lambda: self._steer(sandbox, reading), "its outputs replaced")
            self._attempt(lambda: self._scramble(answerer), "its weights overwritten")

    def on_progress(self, stage: str, done: int, total: int) -> None:
        """Where the checks are."""
        self._stage = (stage, done, total)
        self._progress(stage, done, total)

    def _where(self) -> str:
        """The stage a submission ended in."""
        stage, done, total = self._stage
        return stage if total == 1 else f"{stage}: {done:,} of {total:,} pairs answered"

    def _attempt(self, check: Callable[[], None], what: str) -> None:
        """The score stands whatever a check does to the submission."""
        try:
            check()
        except Ended as end:
            self.notes.append(f"with {what}: {end}")

    def _note_metadata(self, loaded: dict[str, Any], literals: Literals) -> None:
        metadata = loaded.get("metadata")
        self.metadata = metadata if isinstance(metadata, dict) else {}
        missing = [key for key in _METADATA if key not in self.metadata]
        if missing:
            self.notes.append(f"its metadata lacks {', '.join(missing)}")
        try:
            self.counts = count(list(loaded.get("numbers", [])), literals)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            self.rejections.append(f"its numbers cannot be counted: {error}"[:200])
            return
        self.confirmed, self.claim = judge_claim(self.metadata.get("params"), self.counts)
        if not self.confirmed:
            self.rejections.append(self.claim)
        self.notes += outside_the_count(self.counts)
        if not self.counts.with_others:
            self.rejections.append("it holds no weights that can be found")

    def _watch(self, sandbox: Sandbox) -> tuple[Answerer, Reading | None]:
        """Watch some additions: is the model called, and can it be driven in batches?"""
        limit = self._limits.answer_seconds
        # The first addition may be slow (lazy imports, caches); the second tells the speed.
        first = sandbox.ask("add", limit, pairs=[(0, 0)])
        if "error" in first:
            raise Ended(f"add fails: {first['error']}")
        started = time.monotonic()
        sandbox.ask("add", limit, pairs=[(0, 0)])
        answerer = Answerer(sandbox=sandbox, seconds_per_pair=time.monotonic() - started)
        pairs = _random_pairs(_TRACES)
        traces: list[dict[str, Any]] = []
        for pair in pairs:
            reply = sandbox.ask("trace", limit, pairs=[pair])
            traces += reply.get("traces", [])
            if "error" in reply:
                self.notes.append(f"its calls could not be watched: {reply['error']}")
                return answerer, None
        reading = None
        try:
            self._judge_calls(traces)
            reading = find_reading(pairs, traces)
            prompt = None if reading is None else find_prompt(pairs, traces, reading)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            raise Ended(f"it forges what is seen of it ({error})") from error
        if reading is not None and prompt is not None and not self._pairwise:
            answerer.batched = prompt, reading
            if not self._agrees(answerer):
                answerer.batched = None
        return answerer, reading

    def _judge_calls(self, traces: list[dict[str, Any]]) -> None:
        counts = [(trace["count"], len(str(trace["answer"]))) for trace in traces]
        if not any(calls for calls, _ in counts):
            self.rejections.append("no torch module of its model is called while it adds")
        elif any(calls < digits for calls, digits in counts):
            calls, digits = min(counts)
            self.rejections.append(
                f"its model is called {calls} times for an answer of {digits} digits, not once a digit"
            )

    def _agrees(self, answerer: Answerer) -> bool:
        """Batches may be used only if they say what ``add`` says."""
        few = max(10, min(_COMPARED, int(30 / max(answerer.seconds_per_pair, 1e-5))))
        pairs = [(0, 0), (9999999999, 9999999999), (1, 9999999999), *_random_pairs(few - 3)]
        try:
            same = answerer.by_batches(pairs) == answerer.add(pairs)
        except Ended:
            if answerer.sandbox.closed:
                raise
            same = False
        if not same:
            self.notes.append("its model could not be driven in batches with the same answers")
        return same

    def _steer(self, sandbox: Sandbox, reading: Reading | None) -> None:
        """Replace what the model answers: the sums must follow."""
        pairs, draw = _random_pairs(_PROBES), random.SystemRandom()
        targets = [draw.randrange(10**SUM_DIGITS) for _ in pairs]
        if reading is not None:
            tokens = [reading.tokens(target) for target in targets]
        else:
            tokens = [[draw.randrange(10) for _ in range(100)] for _ in pairs]
        limit = _PROBES * self._limits.answer_seconds
        reply = sandbox.ask("steer", limit, pairs=pairs, tokens=tokens)
        answers, replaced = reply.get("answers", []), reply.get("replaced", [])
        still_correct = [
            answer == a + b
            for (a, b), answer, times in zip(pairs, answers, replaced, strict=False)
            if times
        ]
        if not still_correct:
            self.notes.append("what its model answers could not be replaced")
        elif sum(still_correct) > len(still_correct) // 2:
            self.rejections.append("its sums stay correct when what its model answers is replaced")
        elif reading is not None and answers == targets:
            self.notes.append("its sums are, digit for digit, what its model's calls answer")
        else:
            self.notes.append("its sums change when what its model answers is replaced")

    def _scramble(self, answerer: Answerer) -> None:
        """Overwrite every weight: the sums must go wrong. The submission is of no use afterwards."""
        reply = answerer.sandbox.ask("scramble", self._limits.answer_seconds, seed=1)
        if "error" in reply:
            self.notes.append(f"its weights could not be overwritten: {reply['error']}")
            return
        pairs = _random_pairs(_PROBES)
        answers = answerer.add(pairs)
        correct = sum(answer == a + b for (a, b), answer in zip(pairs, answers, strict=True))
        if correct > _PROBES // 2:
            self.rejections.append("its sums stay correct when every weight is overwritten")
        else:
            self.notes.append(f"with every weight overwritten, {correct} of {_PROBES} sums are correct")


def _random_pairs(count: int) -> list[Pair]:
    """Not foreseeable by the submission."""
    draw = random.SystemRandom()
    return [(draw.randrange(OPERAND_LIMIT), draw.randrange(OPERAND_LIMIT)) for _ in range(count)]
