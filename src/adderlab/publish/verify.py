"""Checking a stranger's submission: four answers, and the verdict that follows from them.

What is certain: the score, because the sums are known only here. What is evidence: everything that the
file's own process reports (counts, calls, what happens under overwritten weights). A file can be
written to deceive those checks; docs/publishing.md says how far each one goes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from adderlab.errors import Failure, UsageError
from adderlab.evaluation.suites import Suite, adderboard, every_pair, strata
from adderlab.files.atomic import disk_failure
from adderlab.publish.counting import Literals, TooMany, count, judge_claim, outside_the_count
from adderlab.publish.decide import Subject, check_certificate_name, decide
from adderlab.publish.sandbox import Ended, Limits, Mode, Names, Sandbox, describe, require
from adderlab.publish.scoring import (
    Answerer,
    Progress,
    Prompt,
    Reading,
    evaluate,
    find_prompt,
    find_reading,
    usual,
)
from adderlab.publish.submission import read_submission
from adderlab.publish.verification import (
    Counted,
    Decided,
    Disagreement,
    Score,
    VerdictName,
    Verification,
    Watched,
)
from adderlab.publish.watching import Watcher, random_pairs, traced_pairs
from adderlab.reading.running import stated_size
from adderlab.task.addition import PUBLISHED, Addition
from adderlab.workers import usable_cores

STRATUM = 5000
"""Pairs there are in each stratum."""
NAMES: Names = ("build_model", "add")
"""What the board calls the two functions of a submission."""
_LARGEST_FILE, _LARGEST_OWN = 64 << 20, 4 << 20
"""Bytes; a file that adderlab wrote has a few hundred thousand."""
_COMPARED = 100
MOST_TRIED, MOST_TRIED_BY_ADD = 100_000, 20_000
"""Pairs of a small task that are all asked: of a model in batches, and of ``add``."""
_METADATA = ("name", "author", "params", "architecture", "tricks")


def verify(
    path: Path | str,
    *,
    sandbox: Mode = "bubblewrap",
    limits: Limits | None = None,
    names: Names = NAMES,
    pairwise: bool = False,
    strata_pairs: int | None = None,
    prove: bool = True,
    certificate: Path | None = None,
    progress: Progress = lambda *_: None,
) -> Verification:
    """Run anybody's AdderBoard submission in a sandbox and judge it; or a file like one whose metadata
    name another size (``columns``, ``base``), of which the board's score says nothing.

    ``path`` is a Python file with ``build_model`` and ``add``, or with functions of other ``names``; it
    sees a copy of its own folder. ``sandbox`` is "bubblewrap", or "limits"
    where a container of your own is the wall; docs/publishing.md says what each protects from.
    ``limits`` bounds seconds, memory and output. ``pairwise`` asks every pair through ``add``, also
    where the model can be driven in batches. ``strata_pairs`` is the number of pairs in each stratum
    (1 to 5,000; by default 1,000 in batches and 10 through ``add``). ``prove`` decides all pairs
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
    with contextlib.ExitStack() as running:
        referee = _Referee(path, sandbox, limits, names, running, progress)
        if prove:
            ours = _is_ours(text, referee.notes)
            referee.decide = lambda answerer: decide(
                _subject(path, text, names, ours, answerer, referee.score),
                mode=sandbox,
                limits=limits,
                certificate=certificate,
                progress=referee.on_progress,
            )
        referee.run(pairwise, strata_pairs)
    return Verification(
        file=str(path),
        sandbox=describe(sandbox),
        verdict=referee.verdict(),
        failure=referee.failure,
        rejections=tuple(referee.rejections),
        notes=tuple(referee.notes),
        metadata=referee.metadata,
        score=referee.score,
        count=referee.counted,
        watched=referee.watched,
        decided=_refuted_by(referee.score, referee.decided),
        seconds=time.monotonic() - started,
    )


def _subject(
    path: Path, text: str, names: Names, ours: bool, answerer: Answerer, score: Score
) -> Subject:
    """What ``decide`` needs of a file whose score is known."""
    return Subject(
        path=path,
        source=text,
        names=names,
        ours=ours,
        answers=answerer.add,
        pairs_per_second=1 / max(answerer.seconds_per_pair, 1e-5),
        wrong=tuple((miss.a, miss.b) for report in score.reports for miss in report.failures),
        exact=0.0 if score.board is None else score.board.total.exact_match,
        addition=score.addition,
    )


def _refuted_by(score: Score, decided: Decided) -> Decided:
    """A wrong sum of the score decides, however far the rest came."""
    if decided.verdict == "refuted" or score.wrong_pair is None:
        return decided
    return Decided(
        verdict="refuted",
        counterexample=score.wrong_pair,
        source="the score",
        pairs=score.addition.pairs_text,
    )


def suite_for(task: Addition, *, batched: bool) -> Suite:
    """The pairs that the score is about: the board's; of another size every pair where those are few,
    or else as many, drawn as the board's are."""
    if task == PUBLISHED:
        return adderboard()
    if task.num_pairs <= (MOST_TRIED if batched else MOST_TRIED_BY_ADD):
        return every_pair(task)
    return replace(adderboard(task), name="uniform")


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

    def __init__(
        self,
        path: Path,
        mode: Mode,
        limits: Limits,
        names: Names,
        running: contextlib.ExitStack,
        progress: Progress,
    ) -> None:
        self._path, self._mode, self._limits, self._names = path, mode, limits, names
        self._running, self._progress = running, progress
        self._boxes: list[Sandbox] = []
        self._stage = ("loading", 0, 1)
        self.failure: str | None = None
        self.rejections: list[str] = []
        self.notes: list[str] = []
        self.metadata: dict[str, Any] = {}
        self.score = Score(board_pairs=adderboard().num_pairs)
        self.counted = Counted()
        self.watched = Watched()
        self.decide: Callable[[Answerer], Decided] | None = None
        """Asked once the score is known, while the submission still answers."""
        self.decided = Decided(reason="the prover was not asked")

    def verdict(self) -> VerdictName:
        if self.rejections:
            return "rejected"
        if not self.score.complete:
            return "failed"
        return "qualified" if self.score.passes else "not qualified"

    def run(self, pairwise: bool, strata_pairs: int | None) -> None:
        """Ask the submission everything. However it ends, what was found until then stays."""
        box = self._start()
        if box.alone is not None:
            self.notes.append(f"what lies beside it was not shown to it: {box.alone}")
        try:
            self._check(box, pairwise, strata_pairs)
        except Ended as end:
            ending = f"{end} ({self._where()})"
            if self.score.complete:
                self.notes.append(ending)
            else:
                self.failure = ending
            if box.printed.strip():
                last = box.printed.strip().splitlines()[-1][-200:]
                self.notes.append(f"the end of what it printed: {last}")
        actions = {"network": "use the network", "process": "start a process", "file": "change files"}
        tried = {kind: how for each in reversed(self._boxes) for kind, how in each.tried.items()}
        self.rejections[:0] = [
            f"it tried to {actions.get(kind, kind)} ({how})" for kind, how in tried.items()
        ]

    def _start(self) -> Sandbox:
        """A process with the submission in it, nothing asked of it yet. All have one time limit."""
        box = self._running.enter_context(
            Sandbox(self._path, self._limits, self._mode, names=self._names)
        )
        if self._boxes:
            box.started = self._boxes[0].started
        self._boxes.append(box)
        return box

    def _start_another(self) -> Sandbox | None:
        """One more process for ``add``, loaded; None if it does not load there."""
        box = self._start()
        try:
            loaded = box.ask("load", self._limits.load_seconds)
        except Ended:
            return None
        return None if "error" in loaded else box

    def _check(self, box: Sandbox, pairwise: bool, strata_pairs: int | None) -> None:
        self.on_progress("loading", 0, 1)
        # Before any of its code runs, so that the code cannot change what is counted.
        literals = box.ask("literals", self._limits.load_seconds)
        if "error" in literals:
            raise Ended(f"it cannot be read as Python: {literals['error']}")
        loaded = box.ask("load", self._limits.load_seconds)
        if "error" in loaded:
            raise Ended(f"it does not load: {loaded['error']}{self._hint(loaded)}")
        self._note_metadata(loaded)
        try:
            self.score = replace(self.score, addition=stated_size(self.metadata))
        except UsageError as error:
            raise Ended(str(error)) from error
        self.counted = self._count(loaded, Literals.of(literals))
        self.on_progress("watching", 0, 1)
        task = self.score.addition
        watcher = Watcher(sandbox=box, addition=task)
        answerer, reading = self._watch(box, watcher, pairwise)
        suite = suite_for(task, batched=answerer.batched is not None)
        self.score = replace(self.score, suite=suite.name, board_pairs=suite.num_pairs)
        self._evaluate(answerer, suite)
        if suite.name != "all":
            few = strata_pairs or (1000 if answerer.batched else 10)
            self._evaluate(answerer, strata(addition=task), few)
        if self.decide is not None:
            self.decided = self.decide(answerer)
        if self.score.passes:
            self.on_progress("do the sums come from the model", 0, 1)
            watcher.steer(reading)
            if not box.closed:
                watcher.scramble(self.counted.counts)
            self.watched = watcher.watched()
            self.rejections += watcher.rejections

    def _hint(self, loaded: dict[str, Any]) -> str:
        """The remedy, where the file only calls its functions otherwise, or lacks a library of ours."""
        if "No module named 'mlx" in str(loaded["error"]):
            return "; pip install 'adderlab[mlx]'"
        if "lacks" not in loaded or self._names != NAMES:
            return ""
        option = "--model" if loaded["lacks"] == "model" else "--add"
        return f"; if another does that, name it: {option} NAME"

    def on_progress(self, stage: str, done: int, total: int) -> None:
        """Where the checks are."""
        self._stage = (stage, done, total)
        self._progress(stage, done, total)

    def _where(self) -> str:
        """The stage a submission ended in."""
        stage, done, total = self._stage
        return stage if total == 1 else f"{stage}: {done:,} of {total:,} pairs answered"

    def _evaluate(self, answerer: Answerer, suite: Suite, per_group: int | None = None) -> None:
        """Add a suite to the score. Raises ``Ended`` once its part is kept."""
        started = time.monotonic()
        self.on_progress(suite.name, 0, suite.num_pairs)
        report = evaluate(answerer, suite, self.on_progress, per_group)
        reports = self.score.reports if report is None else (*self.score.reports, report)
        whole = report is not None and report.total.n == self.score.board_pairs
        self.score = replace(
            self.score,
            reports=reports,
            complete=self.score.complete or (suite.name == self.score.suite and whole),
            how=answerer.how,
            disagreements=(*self.score.disagreements, *answerer.disagreements),
            seconds=self.score.seconds + time.monotonic() - started,
        )
        answerer.disagreements = []
        if answerer.ended is not None:
            raise answerer.ended

    def _note_metadata(self, loaded: dict[str, Any]) -> None:
        metadata = loaded.get("metadata")
        self.metadata = metadata if isinstance(metadata, dict) else {}
        missing = [key for key in _METADATA if key not in self.metadata]
        if missing and self._names[0] == NAMES[0]:
            self.notes.append(f"its metadata lacks {', '.join(missing)}")

    def _count(self, loaded: dict[str, Any], literals: Literals) -> Counted:
        claimed = self.metadata.get("params")
        try:
            counts = count(list(loaded.get("numbers", [])), literals)
        except TooMany as many:
            return Counted(claimed=claimed, claim=f"not counted: it holds {many}")
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            self.rejections.append(f"it forges what it holds: {error}"[:200])
            return Counted(claimed=claimed, claim="not counted")
        claim = judge_claim(claimed, counts)
        if claim.false:
            self.rejections.append(claim.sentence)
        return Counted(
            counts=counts,
            claimed=claimed,
            claim=claim.sentence,
            confirmed=claim.confirmed,
            notes=tuple(outside_the_count(counts)),
        )

    def _watch(self, box: Sandbox, watcher: Watcher, pairwise: bool) -> tuple[Answerer, Reading | None]:
        """Watch some additions: is the model called, and can it be driven in batches?"""
        limit = self._limits.answer_seconds
        # The first addition may be slow (lazy imports, caches); the second tells the speed.
        first = box.ask("add", limit, pairs=[(0, 0)])
        if "error" in first:
            raise Ended(f"add fails: {first['error']}")
        started = time.monotonic()
        box.ask("add", limit, pairs=[(0, 0)])
        task = self.score.addition
        answerer = Answerer(
            sandbox=box,
            addition=task,
            seconds_per_pair=time.monotonic() - started,
            another=self._start_another,
            cores=usable_cores(),
        )
        pairs = traced_pairs(task)
        traces: list[dict[str, Any]] = []
        for pair in pairs:
            reply = box.ask("trace", limit, pairs=[pair])
            traces += reply.get("traces", [])
            if "error" in reply:
                watcher.findings.append(f"its calls could not be watched: {reply['error']}")
                return answerer, None
        reading = None
        try:
            watcher.note_calls(traces)
            pairs, traces = usual(pairs, traces)
            reading = find_reading(traces, task)
            prompt = None if reading is None else find_prompt(pairs, traces, reading)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            raise Ended(f"it forges what is seen of it ({error})") from error
        if reading is not None and prompt is not None and not pairwise:
            self._drive_in_batches(answerer, prompt, reading)
        return answerer, reading

    def _drive_in_batches(self, answerer: Answerer, prompt: Prompt, reading: Reading) -> None:
        """Batches may be used only if they say what ``add`` says; else the pairs are kept."""
        few = max(10, min(_COMPARED, int(30 / max(answerer.seconds_per_pair, 1e-5))))
        limit = answerer.addition.limit
        pairs = [(0, 0), (limit - 1, limit - 1), (1, limit - 1), *random_pairs(few - 3, limit)]
        by_add = answerer.add(pairs)
        for at_once in (True, False):
            answerer.batched = replace(prompt, at_once=at_once), reading
            try:
                batched = answerer.by_batches(pairs)
            except Ended as end:
                if answerer.sandbox.closed:
                    raise
                trouble = str(end)
                continue
            trouble = ""
            unread = batched.count(None)
            answerer.disagreements = [
                Disagreement(a=a, b=b, batched=_said(other), by_add=_said(answer))
                for (a, b), other, answer in zip(pairs, batched, by_add, strict=True)
                if other != answer and (other is not None or unread > few // 2)
            ]
            if not answerer.disagreements:
                return
        answerer.batched = None
        if trouble:
            self.notes.append(f"its model cannot be driven in batches: {trouble}")


def _said(answer: Any) -> str:
    return "no number" if answer is None else str(answer)[:80]
