"""The decision over all pairs: proved, refuted with an exact count, or undecided.

See docs/proof.md. Everything here is float64 with stated slacks; the independent checker turns a
certificate of a proved model into a proof.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from adderlab.errors import Failure, UsageError
from adderlab.evaluation.exact import predict
from adderlab.files.schema import to_dict
from adderlab.models.config import ModelConfig
from adderlab.models.tables import Tables, tables, why_no_tables
from adderlab.models.transformer import Adder, Architecture
from adderlab.proof import count as union
from adderlab.proof.head import OPEN, RIGHT, WRONG, raise_margins
from adderlab.proof.problem import Problem, problem_from_tables
from adderlab.proof.search import Group, Limits, StepResult, decide_leaves, open_groups, search
from adderlab.proof.witnesses import (
    MOST_TRIED,
    Tried,
    Witness,
    cell_witnesses,
    failing_samples,
    leaf_witnesses,
    real_margins,
    step_name,
    try_open_inputs,
)
from adderlab.results import Result
from adderlab.runs.checkpoints import Checkpoint
from adderlab.task.addition import PUBLISHED, Addition, pairs_from_ints
from adderlab.workers import Report, share_out

Count = int | tuple[int, int]
"""An exact number, or (low, high)."""
WEAKEST = 48
"""Leaves per step whose ends are tried as witnesses."""
CERTAIN = 1e-9
"""A pair counts as failing if its margin is this far below zero, relative to the lowest margin."""
COUNTING_SECONDS = 20.0
"""Of two or more heads the count converges slowly; once a failing pair is known it stops after this."""
MARGIN_SHARE = 0.995
"""The margin bound is sharpened until it reaches this share of the witness, if cuts can do it."""


NOT_CHECKED = (
    "Computed, not yet proved: adderlab check proves every bound again (it needs pip install "
    "python-flint)."
)


def claim(checked: bool | None) -> str:
    """What may be said of a model whose verdict is "proved", in one word: only a certificate that the
    independent checker has accepted is a proof."""
    return "PROVED" if checked else "DECIDED (float64)"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a proof stands: the phase, how far, and how many inputs are open in the search."""

    phase: Literal["samples", "leaves", "search", "union", "check", "training"]
    """``training`` is that of a repair, between two proofs."""
    done: int
    total: int
    open_inputs: int = 0
    addition: Addition = PUBLISHED
    refuted_by: tuple[int, int] | None = None
    """A failing pair, as soon as one is known: what goes on is the count."""


@dataclass(frozen=True, kw_only=True)
class Margin:
    """Smallest margin over all inputs and steps, in true logits: no smaller than ``bound`` (None if
    no bound is known), and ``witness`` is attained by ``pair``."""

    bound: float | None
    witness: float
    pair: tuple[int, int]
    step: int


@dataclass(frozen=True, kw_only=True, repr=False)
class Verdict(Result):
    """What is known about all pairs of one model, in real arithmetic."""

    verdict: Literal["proved", "refuted", "undecided"]
    failing_pairs: Count
    """Pairs whose greedy answer is wrong."""
    failing_by_step: tuple[Count, ...]
    """Pairs for which digit s_i is wrong given the right earlier digits, i = 0 (units) up; then those
    for which the end token is wrong, where it counts."""
    counterexample: tuple[int, int] | None
    """A failing pair, confirmed by the real model where one was given."""
    answer: int | None
    """What the real model answered to the counterexample; None without a real model."""
    margin: Margin
    reason: str
    """Why a count is a bracket or the verdict is open; empty otherwise."""
    seconds: float
    leaves: int
    cells: int
    """Cells bounded by the branch and bound."""
    split_leaves: int
    checked: bool | None = None
    """Whether the independent checker has accepted the certificate; None where it was not asked."""
    addition: Addition = PUBLISHED
    """The task: how many columns, in which base."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; a count that is not known exactly is [low, high]."""
        margin, task = self.margin, self.addition
        size = {} if task == PUBLISHED else {"columns": task.columns, "base": task.base}
        return {
            **size,
            "verdict": self.verdict,
            "failing_pairs": _plain(self.failing_pairs),
            "failing_by_step": [_plain(count) for count in self.failing_by_step],
            "counterexample": None if self.counterexample is None else list(self.counterexample),
            "answer": self.answer,
            "margin": {"bound": margin.bound, "witness": margin.witness, "pair": list(margin.pair)},
            "checked": self.checked,
            "reason": self.reason,
            "leaves": self.leaves,
            "cells": self.cells,
            "seconds": self.seconds,
        }

    def describe(self) -> list[str]:
        """What the verdict means."""
        lines, task = [], self.addition
        if self.verdict == "proved":
            lines.append(
                f"{claim(self.checked)}: greedy decoding of the stored weights, in real arithmetic, "
                f"adds every one of the {task.pairs_text} pairs of {task.operands_text} right."
            )
            lines.append(
                "The independent checker has proved every bound again in interval arithmetic."
                if self.checked
                else NOT_CHECKED
            )
        elif self.verdict == "refuted":
            failing = _format_count(self.failing_pairs, task)
            lines.append(f"REFUTED: {failing} of the {task.pairs_text} pairs fail.")
            steps = [
                f"{step_name(i, task.columns).removeprefix('digit ')} {_format_count(count, task)}"
                for i, count in enumerate(self.failing_by_step)
                if count != 0
            ]
            lines.append(f"by digit of the sum (s_0 the units): {'; '.join(steps)}")
        else:
            lines.append(
                "UNDECIDED: no failing pair is known; "
                f"{_format_count(self.failing_pairs, task)} may fail."
            )
        if self.counterexample is not None:
            a, b = self.counterexample
            answered = ""
            if self.answer is not None:
                answer = "no number" if self.answer < 0 else task.numeral(self.answer)
                answered = f"; the model, run in fp32, answers {answer}"
            example = f"{task.numeral(a)} + {task.numeral(b)} = {task.numeral(a + b)}"
            lines.append(f"for example {example}{answered}")
        if self.reason:
            lines.append(self.reason)
        margin, (a, b) = self.margin, map(task.numeral, self.margin.pair)
        bound = (
            "no bound is known" if margin.bound is None else f"at least {margin.bound:.4f} everywhere"
        )
        lines.append(
            f"smallest margin: {margin.witness:.4f} logits at {a} + {b} "
            f"({step_name(margin.step, task.columns)}); "
            f"{bound}"
        )
        splits = f", {self.split_leaves:,} split into {self.cells:,} cells" if self.cells else ""
        lines.append(f"{self.leaves:,} leaves{splits}, {self.seconds:.1f} s")
        return lines


def _plain(count: Count) -> int | list[int]:
    return count if isinstance(count, int) else list(count)


def _format_count(count: Count, task: Addition) -> str:
    pairs = task.num_pairs
    if isinstance(count, int):
        return f"{count:,} ({count / pairs:.4e})"
    low, high = count
    return f"{low:,} to {high:,} ({low / pairs:.4e} to {high / pairs:.4e})"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Proof(Verdict):
    """A verdict with the material for its certificate; compared and shown by the verdict alone."""

    weights_sha256: str | None
    """Of the checkpoint that it is about; None for tables of no checkpoint."""
    config: Mapping[str, Any] | None
    """Its configuration as JSON values, but for how its first weights were drawn."""
    problem: Problem = field(repr=False)
    results: tuple[StepResult, ...] = field(repr=False)
    groups: tuple[Group, ...] = field(repr=False)
    witnesses: tuple[Witness, ...] = field(repr=False)
    """Real pairs with the smallest margins found, smallest first."""

    @property
    def summary(self) -> Verdict:
        """The verdict alone, without the material (tens of megabytes)."""
        fields = dataclasses.fields(Verdict)
        return Verdict(**{field.name: getattr(self, field.name) for field in fields})

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the certificate, all or nothing; a name ending in .gz compresses it. Returns the path.

        Raises ``Failure`` if it cannot be written. The format is in docs/proof.md.
        """
        from adderlab.proof.certificate import certificate, write_certificate

        write_certificate(Path(path), certificate(self))
        return Path(path)


@np.errstate(all="ignore")  # overflows are found where they would matter, and raise there
def prove_problem(
    problem: Problem,
    *,
    weights_sha256: str | None = None,
    config: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
    progress: Callable[[Progress], None] | None = None,
    confirm: Callable[[int, int], int] | None = None,
    failing: Sequence[tuple[int, int]] = (),
    counting: bool = True,
    threads: int | None = 1,
) -> Proof:
    """Decide all pairs of one model. ``confirm`` is the real model's greedy answer to a + b, ``failing``
    are pairs that it was seen to fail on in its own arithmetic. Where they refute the model, its failing
    pairs are counted, unless ``counting`` says otherwise. ``threads``: how many processes bound the
    leaves, None for one on each core; the result is the same.

    The answer of greedy decoding is right if and only if every teacher-forced step is, because up to
    the first wrong step both read the same tokens; so the steps are decided one by one, and the
    failing pairs are the union of theirs. Raises ``Failure`` where the weights are so large that
    float64 overflows.
    """
    limits = limits or Limits()
    start = time.monotonic()
    seen = sorted(real_margins(problem, failing), key=lambda w: w.margin)
    refuted_by = (seen[0].a, seen[0].b) if seen and seen[0].margin < 0 else None
    if not counting and certain_failures(seen):
        return _not_counted(problem, seen, start, weights_sha256, config, confirm)
    seconds = limits.seconds
    if refuted_by and problem.heads > 1:
        seconds = min(seconds, COUNTING_SECONDS)

    def report(at: Progress) -> None:
        if progress is not None:
            task = problem.geometry.addition
            progress(dataclasses.replace(at, refuted_by=refuted_by, addition=task))

    asked = time.monotonic()
    report(Progress(phase="leaves", done=0, total=len(problem.steps)))
    # A search may let the proof wait for another: that is no time of its own.
    start += time.monotonic() - asked
    results, ends = _all_leaves(problem, limits, threads, report)

    # Real pairs first: they say how sharp a margin bound can be, and so what is worth cutting.
    found = sorted([*seen, *ends], key=lambda w: w.margin)
    goal = found[0].margin - (1 - MARGIN_SHARE) * abs(found[0].margin)
    results = [
        dataclasses.replace(r, decision=raise_margins(problem.head, r.boxes, r.decision, goal))
        for r in results
    ]

    deadline = start + seconds
    groups = []
    for group in (group for result in results for group in open_groups(problem, result)):
        groups.append(group)
        # With more open leaves than half the time can prepare, the rest stays open.
        if time.monotonic() > start + seconds / 2 or not limits.cells:
            break
    cells = search(
        groups,
        limits,
        deadline,
        lambda done, left: report(
            Progress(phase="search", done=done, total=limits.cells, open_inputs=left)
        ),
    )
    found = sorted([*found, *cell_witnesses(problem, groups)], key=lambda w: w.margin)

    report(Progress(phase="union", done=0, total=1))
    tried: list[Tried] = []
    if counting and certain_failures(found) and problem.num_pairs <= MOST_TRIED:
        rounding = CERTAIN * (1 + abs(found[0].margin))
        tried = [try_open_inputs(problem, result, groups, rounding) for result in results]
    by_step = tuple(_failing(result, groups, tried) for result in results)
    pairs, reason = _failing_pairs(problem, results, groups, tried, by_step, limits.union_seconds)
    if isinstance(pairs, tuple):
        # Pairs that certainly fail, found one by one.
        pairs = (max(pairs[0], min(certain_failures(found), pairs[1])), pairs[1])
    verdict: Literal["proved", "refuted", "undecided"]
    if pairs == 0:
        # Bounds and witnesses are computed in different ways: they have to agree.
        if not found[0].margin > 0:
            raise Failure(f"the prover contradicts itself at {found[0]}: please report this model")
        verdict = "proved"
    elif (pairs if isinstance(pairs, int) else pairs[0]) > 0:
        verdict = "refuted"
    else:
        verdict = "undecided"
    counterexample, answer, doubt = _counterexample(found, confirm)
    rounding = next((w for w in seen if w.margin >= 0), None)
    if rounding is not None:
        doubt += (
            f" Run in fp32 the model fails on {rounding.a} + {rounding.b}, where real arithmetic is "
            f"right by {rounding.margin:.3g} logits."
        )
    bound = _margin_bound(results, groups)
    worst = found[0]
    return Proof(
        verdict=verdict,
        failing_pairs=pairs,
        failing_by_step=by_step,
        counterexample=counterexample,
        answer=answer,
        margin=Margin(
            bound=bound if np.isfinite(bound) else None,
            witness=worst.margin,
            pair=(worst.a, worst.b),
            step=worst.step,
        ),
        reason=" ".join(part for part in (reason, doubt.strip()) if part),
        seconds=time.monotonic() - start,
        leaves=sum(result.step.num_leaves for result in results),
        cells=cells,
        split_leaves=sum(len(group.leaf_rows) for group in groups),
        addition=problem.geometry.addition,
        weights_sha256=weights_sha256,
        config=config,
        problem=problem,
        results=tuple(results),
        groups=tuple(groups),
        witnesses=tuple(found),
    )


def _all_leaves(
    problem: Problem, limits: Limits, threads: int | None, report: Callable[[Progress], None]
) -> tuple[list[StepResult], list[Witness]]:
    """The leaf pass of every step by so many processes, and its witnesses."""
    results: dict[int, StepResult] = {}
    witnesses: dict[int, list[Witness]] = {}

    def work(i: int, hear: Report) -> None:
        result = decide_leaves(problem, problem.steps[i], limits)
        # The step itself is here already.
        parts = {name: each for name, each in vars(result).items() if name != "step"}
        hear(i, parts, list(leaf_witnesses(problem, result, WEAKEST)))

    def hear(i: int, parts: Mapping[str, Any], found: list[Witness]) -> None:
        results[i], witnesses[i] = StepResult(step=problem.steps[i], **parts), found
        report(Progress(phase="leaves", done=len(results), total=len(problem.steps)))

    share_out(work, len(problem.steps), hear, number=threads)
    in_order = sorted(results)
    return [results[i] for i in in_order], [each for i in in_order for each in witnesses[i]]


def certain_failures(found: Sequence[Witness]) -> int:
    """How many of these pairs, the lowest margin first, fail beyond any rounding."""
    return len({(w.a, w.b) for w in found if w.margin < -CERTAIN * (1 + abs(found[0].margin))})


def _not_counted(
    problem: Problem,
    seen: Sequence[Witness],
    start: float,
    weights_sha256: str | None,
    config: Mapping[str, Any] | None,
    confirm: Callable[[int, int], int] | None,
) -> Proof:
    """The refutation by pairs that fail, the lowest margin first, and by nothing else."""
    counterexample, answer, doubt = _counterexample(seen, confirm)
    worst, everything = seen[0], problem.num_pairs
    reason = "Failing pairs were not counted: one refutes the model."
    return Proof(
        verdict="refuted",
        failing_pairs=(certain_failures(seen), everything),
        failing_by_step=((0, everything),) * len(problem.steps),
        counterexample=counterexample,
        answer=answer,
        margin=Margin(bound=None, witness=worst.margin, pair=(worst.a, worst.b), step=worst.step),
        reason=" ".join(part for part in (reason, doubt) if part),
        seconds=time.monotonic() - start,
        leaves=0,
        cells=0,
        split_leaves=0,
        addition=problem.geometry.addition,
        weights_sha256=weights_sha256,
        config=config,
        problem=problem,
        results=(),
        groups=(),
        witnesses=tuple(seen),
    )


def _failing(result: StepResult, groups: list[Group], tried: list[Tried]) -> Count:
    mine = [group for group in groups if group.step.index == result.step.index]
    low = result.inputs(WRONG) + sum(group.inputs[WRONG] for group in mine)
    # Leaves that no group took up, for want of time, are open too.
    left = result.inputs(OPEN) - sum(group.inputs[RIGHT] + group.inputs[WRONG] for group in mine)
    for each in tried[result.step.index : result.step.index + 1]:
        low += len(each.wrong)
        left -= len(each.wrong) + each.right
    return (low, low + left) if left else low


def _failing_pairs(
    problem: Problem,
    results: list[StepResult],
    groups: list[Group],
    tried: list[Tried],
    by_step: tuple[Count, ...],
    seconds: float,
) -> tuple[Count, str]:
    """Pairs that fail at one step or more, and why the number is a bracket if it is."""
    everything, base = problem.num_pairs, problem.geometry.base
    left = sum(count[1] - count[0] for count in by_step if isinstance(count, tuple))
    if by_step == (0,) * len(by_step):
        return 0, ""
    families = []
    for result in results:
        wrong = [union.leaf_patterns(result.step, result.leaves, result.decision.status_N == WRONG)]
        wrong += [
            union.patterns(part.cells.digits_NS, part.cells.carry_NC, base)
            for group in groups
            if group.step.index == result.step.index
            for part in group.decided
            if part.status == WRONG
        ]
        wrong += [each.wrong for each in tried[result.step.index : result.step.index + 1]]
        families.append(np.concatenate(wrong))
    low, high = union.union_size(families, seconds, base)
    reasons = []
    if left:
        reasons.append(f"{left} cases (pair and step) were still open when the search stopped.")
    if low < high and not problem.given:
        # The exact union of whole leaves may say more than the overlaps that could be worked out.
        status = [result.decision.status_N for result in results]
        leaves_low = union.leaf_union(problem.steps, [s == WRONG for s in status])
        leaves_high = union.leaf_union(problem.steps, [s != RIGHT for s in status])
        in_cells = sum(group.inputs[WRONG] for group in groups)
        low = max(low, leaves_low)
        high = min(high, leaves_low + in_cells, leaves_high)
    if low < high:
        reasons.append("Too many regions fail at several steps to count each pair once.")
    high = min(high + left, everything)
    return (low if low == high else (low, high)), " ".join(reasons)


def _margin_bound(results: list[StepResult], groups: list[Group]) -> float:
    """Lower bound of the margin over all inputs; leaves proved by splitting count with their cells."""
    bound = np.inf
    for result in results:
        margin_N = result.decision.margin_N.copy()
        for group in groups:
            if group.step.index == result.step.index and group.inputs[OPEN] == 0:
                best = np.full(len(group.leaf_rows), np.inf)
                for part in group.decided:
                    np.minimum.at(best, part.cells.leaf_N, part.margin_N)
                # Right cells are not kept beside wrong ones, but their margins are positive.
                best[np.isinf(best)] = 0.0
                margin_N[group.leaf_rows] = np.maximum(margin_N[group.leaf_rows], best)
        bound = min(bound, float(margin_N.min()))
    return bound


def _counterexample(
    found: Sequence[Witness], confirm: Callable[[int, int], int] | None, attempts: int = 200
) -> tuple[tuple[int, int] | None, int | None, str]:
    """The failing pair with the lowest margin that the real model truly gets wrong."""
    failing = [w for w in found if w.margin < 0]
    if not failing:
        return None, None, ""
    if confirm is None:
        return (failing[0].a, failing[0].b), None, ""
    for w in failing[:attempts]:
        answer = confirm(w.a, w.b)
        if answer != w.a + w.b:
            return (w.a, w.b), answer, ""
    return (
        None,
        None,
        "The real model answers every witness correctly: the failures are within its rounding.",
    )


# Proofs about checkpoints: tables in float64 from the stored weights, answers by the real model.


def exact_tables(checkpoint: Checkpoint) -> Tables:
    """The tables of the stored fp32 weights, worked out in float64.

    Raises ``UsageError`` for models outside the table form (``Failure`` for a file's), and for the
    weights of a file that was not named.
    """
    reason = why_no_tables(checkpoint.config)
    if reason and not isinstance(checkpoint.config, ModelConfig):
        raise Failure(f"{checkpoint.config.file} cannot be proved: {reason}")
    if reason:
        raise UsageError(f"this model cannot be proved: {reason}; adderlab attack can test it")
    checkpoint.need_code()
    config, params = checkpoint.config, {n: t.double() for n, t in checkpoint.stacked().items()}
    with torch.no_grad():
        if isinstance(config, ModelConfig):
            return tables(config, params)
        return config.tables(params, exact=True)


def plain_config(config: Architecture) -> dict[str, Any]:
    """What a configuration says about the model, as JSON values: all but how its first weights were
    drawn. Of a file's model: how it is asked, and every operation and constant, by their SHA-256."""
    if not isinstance(config, ModelConfig):
        return config.bound()
    return {name: value for name, value in to_dict(config).items() if name != "init"}


def greedy_answer(model: Adder) -> Callable[[int, int], int]:
    """The model's own answer to a + b as a number; -1 where it is no number, or does not end where the
    end token counts."""
    layout, task = model.layout, model.layout.addition

    def answer(a: int, b: int) -> int:
        own = model.own_sum(a, b)
        if own is not None:
            return own
        if layout.num_decided > task.sum_digits:
            prompt_1T = layout.encode_prompt(*pairs_from_ints([(a, b)], task))
            if int(model.generate(prompt_1T)[0, task.sum_digits]) != layout.end_token:
                return -1
        digits = predict(model, a, b).tokens
        if any(digit >= task.base for digit in digits):
            return -1
        return sum(digit * task.base**i for i, digit in enumerate(digits))

    return answer


def prove_checkpoint(
    checkpoint: Checkpoint,
    *,
    limits: Limits | None = None,
    progress: Callable[[Progress], None] | None = None,
    known: Sequence[tuple[int, int]] = (),
    counting: bool = True,
    threads: int | None = 1,
) -> Proof:
    """Decide all pairs for a checkpoint, ``failing_samples`` first; a counterexample is run
    through the real model in fp32. ``threads``: as of ``prove_problem``.

    ``counting``: whether the failing pairs of a model that is refuted by one are counted. If not, pairs
    that are ``known`` to be difficult, for an earlier state of the weights failed on them, come first: a
    model that still fails on one is refuted within milliseconds.
    Raises ``UsageError`` for models outside the table form.
    """
    problem, model = problem_from_tables(exact_tables(checkpoint)), checkpoint.module()
    if progress is not None:
        progress(Progress(phase="samples", done=0, total=1))
    failing = () if counting else known
    if not certain_failures(sorted(real_margins(problem, failing), key=lambda w: w.margin)):
        failing = failing_samples(model)
    return prove_problem(
        problem,
        weights_sha256=checkpoint.weights_sha256,
        config=plain_config(checkpoint.config),
        limits=limits,
        progress=progress,
        confirm=greedy_answer(model),
        failing=failing,
        counting=counting,
        threads=threads,
    )
