"""Whether a stranger's model adds all pairs, 10^20 of ten columns: read in the sandbox, decided outside.

The reading runs beside the file and hands out tables, head program and prompt rule as data, which are
taken in without trust (``handout``) and given to prover and checker (``proving``). Whose tables they
are is then asked of the file, with what it could not foresee when it handed them out: sequences of
tokens for its logits, pairs for its sums, and the very pairs at which the tables' lead is smallest.

A refutation always ends in a pair whose wrong sum the file itself gave; only this process knows the
sums, so it is certain. A proof is about the tables. docs/publishing.md says what the comparison can
exclude.

Shapes: N sequences, P positions, A answer steps, V vocabulary.
"""

from __future__ import annotations

import gzip
import hashlib
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from adderlab.errors import Failure, UsageError
from adderlab.evaluation.suites import strata
from adderlab.files.atomic import write_bytes
from adderlab.publish.handout import HandOut, Refused, numbers, take, take_numbers
from adderlab.publish.proving import CERTIFICATE, NotComputed, Proved, prove_apart
from adderlab.publish.sandbox import Ended, Limits, Mode, Names, Sandbox
from adderlab.publish.verification import Decided, printable
from adderlab.publish.watching import random_pairs
from adderlab.reading.agreement import SLACK, SLACK_FLOAT32, compared
from adderlab.task.addition import PUBLISHED, Addition, Layout, from_digits, pairs_from_ints

Pair = tuple[int, int]
Answers = Callable[[list[Pair]], list[Any]]
"""Pairs -> what the file answers to each; whatever is no whole number is wrong. Raises ``Ended``."""
Progress = Callable[[str, int, int], None]

SEQUENCES = 24
"""Asked for their logits at every answer step: half are additions, half are any tokens."""
ASKING_SECONDS, FEWEST_PAIRS, MOST_PAIRS = 6.0, 40, 5000
"""Pairs drawn for the comparison: as many as the file answers in this time."""
AT_ONCE = 200
"""Of the pairs with the smallest margins, until one is wrong."""
ATTACK_SECONDS = 10.0
WORTH_COUNTING = 0.9
"""Below this exact match a wrong pair is all: counting the others would take minutes."""
_SECONDS = 180.0
"""For prover and checker."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A file that is judged, and what is known of it."""

    path: Path
    source: str
    names: Names
    """Of its two functions."""
    ours: bool
    """Whether it is a file that adderlab wrote, whose weights stand in its text."""
    answers: Answers
    pairs_per_second: float
    wrong: tuple[Pair, ...]
    """Pairs that it was seen to fail on."""
    exact: float
    """Its exact match on the board's pairs."""
    addition: Addition = PUBLISHED
    """What it says that it adds."""


class _Unread(Exception):
    """Why there are no tables, and the pair that an attack found, if it could look for one."""

    def __init__(self, reason: str, pair: Pair | None = None) -> None:
        super().__init__(reason)
        self.pair = pair


@dataclass(frozen=True, kw_only=True)
class _Read:
    """Tables, and what the model answered to sequences that were drawn once they were here."""

    handout: HandOut
    message: dict[str, Any]
    arrays: dict[str, NDArray[np.float64]]
    sequences: list[list[int]]
    logits_NAV: NDArray[np.float64]


def decide(
    subject: Subject,
    *,
    mode: Mode,
    limits: Limits,
    certificate: Path | None = None,
    progress: Progress = lambda *_: None,
) -> Decided:
    """Decide all pairs for a file, or say why they cannot be decided.

    ``mode`` and ``limits``: of the sandbox that reads it. ``certificate``: where a proof is written; a
    name ending in .gz compresses it. Raises ``Failure`` if that cannot be written.
    """
    started = time.monotonic()
    wrong, pairs = subject.wrong[0] if subject.wrong else None, subject.addition.pairs_text
    if wrong and subject.exact < WORTH_COUNTING:
        return Decided(verdict="refuted", counterexample=wrong, source="the score", pairs=pairs)
    with tempfile.TemporaryDirectory(prefix="adderlab-decide-") as folder:
        try:
            decided = _decide(subject, mode, limits, Path(folder), progress)
        except Ended as end:
            decided = Decided(reason=f"the file was to be asked again, and {end}")
        if wrong and decided.verdict != "refuted":
            decided = replace(decided, verdict="refuted", counterexample=wrong, source="the score")
        if decided.verdict == "proved" and certificate is not None:
            data = (Path(folder) / CERTIFICATE).read_bytes()
            write_bytes(certificate, data if certificate.suffix == ".gz" else gzip.decompress(data))
            decided = replace(decided, certificate=str(certificate))
    return replace(decided, seconds=time.monotonic() - started, pairs=pairs)


def check_certificate_name(path: Path) -> None:
    """Raises ``UsageError`` where a certificate would be written over something else."""
    if path.exists() and path.stat().st_size and not _is_certificate(path):
        raise UsageError(f"{path} is no certificate: name another file for the certificate")


def _is_certificate(path: Path) -> bool:
    from adderlab.checker.document import read_document

    try:
        read_document(path)
    except (Failure, UsageError):
        return False
    return True


def _decide(subject: Subject, mode: Mode, limits: Limits, folder: Path, progress: Progress) -> Decided:
    """Raises ``Ended`` where the file does not answer any more."""
    try:
        read = None if subject.ours else _read(subject, mode, limits, progress)
        progress("proof", 0, 1)
        proved = prove_apart(
            folder,
            seconds=min(_SECONDS, limits.seconds),
            failing=subject.wrong,
            handed=None if read is None else (read.message, read.arrays),
            sequences=[] if read is None else read.sequences,
            source=subject.source,
            sha256=hashlib.sha256(subject.source.encode()).hexdigest(),
            on_progress=progress,
        )
    except _Unread as unread:
        return _open(subject, "not decided", str(unread), unread.pair)
    except NotComputed as stopped:
        return _open(subject, "not decided", str(stopped), None)
    basis = "the weights in its text, which adderlab wrote"
    if read is not None:
        difference, limit = _difference(read, proved)
        if not difference <= limit:
            reason = (
                "the tables that were handed out are not those of its model: on sequences drawn "
                f"afterwards a logit differs by {difference:.2g}"
            )
            return _open(subject, "not decided", reason, None)
        calls = read.logits_NAV.shape[0] * read.logits_NAV.shape[1]
        basis = (
            f"tables read in the sandbox; its logits agree within {difference:.1e} on {calls} calls "
            "drawn afterwards"
        )
    if proved.verdict == "refuted":
        return _refuted(subject, proved, basis)
    if proved.verdict == "undecided":
        reason = proved.reason or "the prover stopped at its limit"
        return _open(subject, "undecided", reason, proved.pair)
    progress("pairs drawn for the comparison", 0, 1)
    drawn = _unforeseen(subject.pairs_per_second, subject.addition)
    for pairs in (list(proved.weakest), drawn):
        if miss := _first_wrong(subject.answers, pairs):
            reason = (
                "its tables add every pair right in real arithmetic, and it does not: its arithmetic "
                "rounds, or the tables are not its model's"
            )
            return Decided(verdict="refuted", counterexample=miss, reason=reason, source=basis)
    asked = len(drawn) + len(proved.weakest)
    return Decided(
        verdict="proved",
        failing_pairs=0,
        margin=proved.margin_bound,
        margin_pair=proved.pair,
        source=f"{basis}; its sums of {asked:,} pairs, the weakest among them, are right",
    )


def _refuted(subject: Subject, proved: Proved, basis: str) -> Decided:
    """With a pair that the file itself fails on."""
    miss = subject.wrong[0] if subject.wrong else _first_wrong(subject.answers, list(proved.weakest))
    if miss is None:
        reason = (
            "in real arithmetic some pairs fail; it answers the "
            f"{len(proved.weakest)} worst of them correctly, within its rounding"
        )
        return Decided(
            verdict="undecided",
            reason=reason,
            failing_pairs=proved.failing_pairs,
            margin_pair=proved.pair,
            source=basis,
        )
    return Decided(
        verdict="refuted",
        counterexample=miss,
        failing_pairs=proved.failing_pairs,
        reason=proved.reason or None,
        margin=proved.margin,
        margin_pair=proved.pair,
        source=basis,
    )


def _open(
    subject: Subject, verdict: Literal["undecided", "not decided"], reason: str, pair: Pair | None
) -> Decided:
    """Without a proof, but perhaps with a pair that refutes all the same."""
    if pair is not None and _first_wrong(subject.answers, [pair]):
        return Decided(verdict="refuted", counterexample=pair, reason=reason, source="an attack")
    return Decided(verdict=verdict, reason=reason, margin_pair=pair)


def _first_wrong(answers: Answers, pairs: list[Pair]) -> Pair | None:
    for start in range(0, len(pairs), AT_ONCE):
        part = pairs[start : start + AT_ONCE]
        for (a, b), answer in zip(part, answers(part), strict=True):
            if answer != a + b:
                return a, b
    return None


# Reading.


def _read(subject: Subject, mode: Mode, limits: Limits, progress: Progress) -> _Read:
    """Raises ``_Unread`` where there is nothing to prove."""
    progress("reading", 0, 1)
    try:
        with Sandbox(subject.path, limits, mode, "reader", subject.names) as box:
            return _hand_out(box, limits, subject.addition)
    except Ended as end:
        raise _Unread(f"while it was read, {end}") from end
    except Refused as refused:
        raise _Unread(f"what its reading handed out is no reading ({refused})") from refused


def _hand_out(box: Sandbox, limits: Limits, task: Addition) -> _Read:
    message = box.ask("read", limits.load_seconds)
    if "error" in message:
        raise _Unread(_one_line(message["error"]))
    if "no_tables" in message:
        raise _Unread(_one_line(message["no_tables"]), _attacked(box, limits, task))
    handout = take(message)
    if handout.form.layout.addition != task:
        raise Refused("the layout: it is of numbers of another size")
    seconds = limits.answer_seconds
    arrays = take_numbers(
        handout,
        lambda name, start, count: box.ask("numbers", seconds, name=name, start=start, count=count),
    )
    sequences = _sequences(handout.form.layout)
    layout = handout.form.layout
    shape = (len(sequences), layout.num_answers, layout.vocab_size)
    reply = box.ask("logits", limits.load_seconds, tokens=sequences)
    if "error" in reply:
        raise _Unread(f"its model could not be asked for logits: {_one_line(reply['error'])}")
    logits_NAV = numbers(reply, int(np.prod(shape)), "its logits").reshape(shape)
    return _Read(
        handout=handout, message=message, arrays=arrays, sequences=sequences, logits_NAV=logits_NAV
    )


def _attacked(box: Sandbox, limits: Limits, task: Addition) -> Pair | None:
    """The pair that comes nearest to failing, where the model can be asked."""
    try:
        seed = random.SystemRandom().randrange(2**31)
        reply = box.ask("attack", limits.load_seconds, seed=seed, budget=ATTACK_SECONDS)
    except Ended:
        return None
    pair = reply.get("pair")
    whole = isinstance(pair, list) and len(pair) == 2 and all(type(x) is int for x in pair)
    if not whole or not all(0 <= x < task.limit for x in pair):
        return None
    return pair[0], pair[1]


def _one_line(text: Any) -> str:
    return printable(str(text)[:300], " ").strip()


# What the file could not foresee.


def _sequences(layout: Layout) -> list[list[int]]:
    draw = random.SystemRandom()
    pairs = random_pairs(SEQUENCES // 2, layout.addition.limit)
    additions_NP, _ = layout.encode(*pairs_from_ints(pairs, layout.addition))
    P, V = layout.num_positions, layout.vocab_size
    anything = [[draw.randrange(V) for _ in range(P)] for _ in range(SEQUENCES - len(pairs))]
    return additions_NP.tolist() + anything


def _unforeseen(per_second: float, task: Addition = PUBLISHED) -> list[Pair]:
    """Uniform pairs, and as many of all strata, from a seed that nobody knew before."""
    draw = random.SystemRandom()
    count = max(FEWEST_PAIRS, min(MOST_PAIRS, int(ASKING_SECONDS * per_second))) // 2
    pairs = random_pairs(count, task.limit)
    groups = len(strata(1, addition=task).groups)
    suite = strata(max(1, count // groups + 1), draw.randrange(2**31), task)
    hard = []
    for group in suite.groups:
        a_B, b_B = (from_digits(digits, task.base).tolist() for digits in (group.a_BJ, group.b_BJ))
        hard += zip(a_B, b_B, strict=True)
    return [*pairs, *draw.sample(hard, min(count, len(hard)))]


def _difference(read: _Read, proved: Proved) -> tuple[float, float]:
    """(the largest difference of a logit, the largest that rounding explains)."""
    assert proved.logits is not None
    tables_NAV = compared(read.handout.last, torch.from_numpy(proved.logits))
    own_NAV = compared(read.handout.last, torch.from_numpy(read.logits_NAV), model=True)
    difference = (tables_NAV - own_NAV).abs().nan_to_num(nan=torch.inf).max()
    scale = max(1.0, float(tables_NAV.abs().max()))
    slack = SLACK_FLOAT32 if read.handout.precision == "float32" else SLACK
    return float(difference), slack * scale
