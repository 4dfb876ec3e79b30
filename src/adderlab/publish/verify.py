"""Checking a stranger's submission: right sums, a true count, and sums that come from the model.

What is certain: the score, because the sums are known only here. What is evidence: everything that the
file's own process tells (counts, calls, what happens under overwritten weights). A file can be written
to deceive those checks; docs/publishing.md says how far each one goes.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from adderlab.errors import Failure, UsageError
from adderlab.evaluation.exact import SuiteReport
from adderlab.evaluation.suites import adderboard, strata
from adderlab.files.atomic import disk_failure
from adderlab.models.mapping import why_no_tables
from adderlab.publish.counting import (
    Counts,
    Literals,
    beyond,
    count,
    judge_claim,
)
from adderlab.publish.driving import (
    Pair,
    Reading,
    find_prompt,
    find_reading,
)
from adderlab.publish.evidence import ProofStatement, proved
from adderlab.publish.sandbox import (
    Ended,
    Limits,
    Mode,
    Sandbox,
    best_mode,
    describe,
)
from adderlab.publish.scoring import Answerer, Progress, evaluate
from adderlab.publish.submission import Submission, read_submission
from adderlab.task.digits import OPERAND_LIMIT, SUM_DIGITS

BAR = 0.99
"""The board's: exact match on its 10,010 pairs."""
_LARGEST_FILE, _LARGEST_OURS = 64 << 20, 4 << 20
"""Bytes; a file of ours has a few hundred thousand."""
_TRACES, _PROBES, _COMPARED = 24, 16, 200
_METADATA = ("name", "author", "params", "architecture", "tricks")

VerdictName = Literal["qualified", "not qualified", "rejected", "failed"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to check, and how hard."""

    limits: Limits = field(default_factory=Limits)
    mode: Mode | None = None
    """None takes the strongest that works here."""
    pairwise: bool = False
    """Ask every pair through ``add``, also where the model could be driven in batches."""
    strata_pairs: int | None = None
    """Pairs per stratum; None is 1,000 in batches and 10 through ``add``."""
    prove: bool = True


@dataclass(kw_only=True)
class Verification:
    """What came out. ``verdict`` follows from the rest."""

    file: str
    sandbox: str
    failure: str | None = None
    """Why it could not be measured to the end."""
    tried: list[str] = field(default_factory=list)
    """Forbidden things that it tried; the sandbox refused them."""
    rejections: list[str] = field(default_factory=list)
    """Why its score does not count."""
    notes: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    counts: Counts | None = None
    claim: str = ""
    reports: list[SuiteReport] = field(default_factory=list)
    how: str = ""
    """How the pairs were asked."""
    proof: ProofStatement | None = None
    seconds: float = 0.0

    @property
    def verdict(self) -> VerdictName:
        if self.tried:
            return "rejected"
        if self.failure is not None or not self.reports:
            return "failed"
        if self.rejections:
            return "rejected"
        return "qualified" if self.reports[0].total.exact_match >= BAR else "not qualified"


def verify(path: Path, settings: Settings, progress: Progress = lambda *_: None) -> Verification:
    """Run and judge a submission. Raises ``UsageError`` or ``Failure`` if the file cannot be read."""
    started = time.monotonic()
    mode = settings.mode or best_mode()
    result = Verification(file=str(path), sandbox=describe(mode))
    ours = _ours(_text(path), result)
    stage = _Stage(progress)
    with Sandbox(path, settings.limits, mode) as sandbox:
        try:
            _run(sandbox, settings, result, stage)
        except Ended as end:
            result.failure = f"{end} ({stage})"
            if sandbox.printed.strip():
                result.notes.append(f"the end of what it printed: {_last_line(sandbox.printed)}")
        words = {"network": "use the network", "process": "start a process", "file": "change files"}
        result.tried = [
            f"it tried to {words.get(kind, kind)} ({how})" for kind, how in sandbox.tried.items()
        ]
    if ours is not None and settings.prove and why_no_tables(ours.config) is None:
        progress("proof", 0, 1)
        result.proof = proved(ours.checkpoint())
    result.seconds = time.monotonic() - started
    return result


class _Stage:
    """Passes progress on and remembers it, for the sentence that says where a submission ended."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._last = ("loading", 0, 1)

    def __call__(self, stage: str, done: int, total: int) -> None:
        self._last = (stage, done, total)
        self._progress(stage, done, total)

    def __str__(self) -> str:
        stage, done, total = self._last
        return stage if total == 1 else f"{stage}: {done:,} of {total:,} pairs answered"


def _text(path: Path) -> str:
    if not path.is_file():
        raise UsageError(f"there is no file {path}; check the path")
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise Failure(
                f"{path} has more than {_LARGEST_FILE >> 20} MiB; a submission is a text of code"
            )
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise disk_failure(error, path, "read") from error
    except UnicodeDecodeError as error:
        raise Failure(f"{path} is not text; name a Python file") from error


def _ours(text: str, result: Verification) -> Submission | None:
    try:
        ours = read_submission(text) if len(text) <= _LARGEST_OURS else None
    except Failure as error:
        result.notes.append(f"not proved: {error}")
        return None
    if ours is None:
        result.notes.append("not proved: only files that adderlab wrote can be read as weights")
    elif reason := why_no_tables(ours.config):
        result.notes.append(f"not proved: {reason}")
    return ours


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1][-200:]


def _run(sandbox: Sandbox, settings: Settings, result: Verification, progress: Progress) -> None:
    progress("loading", 0, 1)
    told = sandbox.ask("literals", settings.limits.load_seconds)
    if "error" in told:
        raise Ended(f"it cannot be read as Python: {told['error']}")
    literals = Literals.of(told)
    loaded = sandbox.ask("load", settings.limits.load_seconds)
    if "error" in loaded:
        raise Ended(f"it does not load: {loaded['error']}")
    _note_metadata(loaded, literals, result)
    progress("watching", 0, 1)
    answerer, reading = _watch(sandbox, settings, result)
    result.how = _how(answerer)
    progress("adderboard", 0, adderboard().num_pairs)
    result.reports.append(evaluate(answerer, adderboard(), progress))
    per_group = settings.strata_pairs or (1000 if answerer.batched else 10)
    result.reports.append(evaluate(answerer, strata(), progress, per_group))
    if result.reports[0].total.exact_match >= BAR:
        progress("whose sums these are", 0, 1)
        _try(lambda: _steer(sandbox, reading, result), result, "its outputs replaced")
        _try(lambda: _scramble(answerer, result), result, "its weights overwritten")


def _try(check: Callable[[], None], result: Verification, what: str) -> None:
    """The score stands whatever a check does to the submission."""
    try:
        check()
    except Ended as end:
        result.notes.append(f"with {what}: {end}")


def _note_metadata(loaded: dict[str, Any], literals: Literals, result: Verification) -> None:
    metadata = loaded.get("metadata")
    result.metadata = metadata if isinstance(metadata, dict) else {}
    missing = [key for key in _METADATA if key not in result.metadata]
    if missing:
        result.notes.append(f"its metadata lacks {', '.join(missing)}")
    try:
        result.counts = count(list(loaded.get("numbers", [])), literals)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        result.rejections.append(f"its numbers cannot be counted: {error}"[:200])
        return
    true, result.claim = judge_claim(result.metadata.get("params"), result.counts)
    if not true:
        result.rejections.append(result.claim)
    result.notes += beyond(result.counts)
    if not result.counts.with_others:
        result.rejections.append("it holds no weights that can be found")


def _random_pairs(count: int) -> list[Pair]:
    """Not foreseeable by the submission."""
    draw = random.SystemRandom()
    return [(draw.randrange(OPERAND_LIMIT), draw.randrange(OPERAND_LIMIT)) for _ in range(count)]


def _watch(
    sandbox: Sandbox, settings: Settings, result: Verification
) -> tuple[Answerer, Reading | None]:
    """Watch some additions: is the model called, and can it be driven in batches?"""
    limit = settings.limits.answer_seconds
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
            result.notes.append(f"its calls could not be watched: {reply['error']}")
            return answerer, None
    reading = None
    try:
        _judge_calls(traces, result)
        reading = find_reading(pairs, traces)
        prompt = None if reading is None else find_prompt(pairs, traces, reading)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise Ended(f"it forges what is seen of it ({error})") from error
    if reading is not None and prompt is not None and not settings.pairwise:
        answerer.batched = prompt, reading
        if not _agrees(answerer, result):
            answerer.batched = None
    return answerer, reading


def _judge_calls(traces: list[dict[str, Any]], result: Verification) -> None:
    counts = [(trace["count"], len(str(trace["answer"]))) for trace in traces]
    if not any(calls for calls, _ in counts):
        result.rejections.append("no torch module of its model is called while it adds")
    elif any(calls < digits for calls, digits in counts):
        calls, digits = min(counts)
        result.rejections.append(
            f"its model is called {calls} times for an answer of {digits} digits, not once a digit"
        )


def _agrees(answerer: Answerer, result: Verification) -> bool:
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
        result.notes.append("its model could not be driven in batches with the same answers")
    return same


def _how(answerer: Answerer) -> str:
    if answerer.batched:
        return "the model driven in batches, in agreement with add on a sample"
    return f"through add, one pair at a time ({1 / max(answerer.seconds_per_pair, 1e-9):,.0f} a second)"


def _steer(sandbox: Sandbox, reading: Reading | None, result: Verification) -> None:
    """Replace what the model answers: the sums must follow."""
    pairs, draw = _random_pairs(_PROBES), random.SystemRandom()
    targets = [draw.randrange(10**SUM_DIGITS) for _ in pairs]
    if reading is not None:
        tokens = [reading.tokens(target) for target in targets]
    else:
        tokens = [[draw.randrange(10) for _ in range(100)] for _ in pairs]
    limit = _PROBES * sandbox.limits.answer_seconds
    reply = sandbox.ask("steer", limit, pairs=pairs, tokens=tokens)
    answers, replaced = reply.get("answers", []), reply.get("replaced", [])
    still_right = [
        answer == a + b for (a, b), answer, times in zip(pairs, answers, replaced, strict=False) if times
    ]
    if not still_right:
        result.notes.append("what its model answers could not be replaced")
    elif sum(still_right) > len(still_right) // 2:
        result.rejections.append("its sums stay right when what its model answers is replaced")
    elif reading is not None and answers == targets:
        result.notes.append("its sums are, digit for digit, what its model's calls answer")
    else:
        result.notes.append("its sums change when what its model answers is replaced")


def _scramble(answerer: Answerer, result: Verification) -> None:
    """Overwrite every weight: the sums must go wrong. The submission is of no use afterwards."""
    reply = answerer.sandbox.ask("scramble", answerer.sandbox.limits.answer_seconds, seed=1)
    if "error" in reply:
        result.notes.append(f"its weights could not be overwritten: {reply['error']}")
        return
    pairs = _random_pairs(_PROBES)
    right = sum(answer == a + b for (a, b), answer in zip(pairs, answerer.add(pairs), strict=True))
    if right > _PROBES // 2:
        result.rejections.append("its sums stay right when every weight is overwritten")
    else:
        result.notes.append(f"with every weight overwritten, {right} of {_PROBES} sums are right")
