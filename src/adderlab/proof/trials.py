"""Real pairs tried on the real module, beside what the prover says: the truth that it can be held to.

The attack is the strongest cheap test: strata, the prover's witnesses, and a local search where there
are none. It works on the real model, in its own arithmetic, so it also serves models that cannot be
proved.

Nothing tests a proof like the truth. Of three columns there are a million pairs, and the module answers
each in a few microseconds (``try_all``). Its greedy answers in fp32 are what a user gets; its margins in
float64 are, but for rounding, those that the prover bounds. Both know nothing of tables, leaves or
carries. All 10^20 pairs of ten columns cannot be tried, but the 10^(2w) that share the digits of every
other column can, a *window* (``try_every_pair``). The prover is asked about the same pairs: its leaves,
carry DPs, chords, cuts, splits and counts work as ever, with fewer digits to choose from. Where it is
exact, its count has to be the module's, pair for pair.

Shapes: B pairs, J operand columns (10), I = J + 1 sum digits (and the end token where it counts),
A answer steps, N neighbours.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adderlab.errors import UsageError
from adderlab.evaluation.exact import model_of, oracle_decoder
from adderlab.evaluation.suites import Suite, check_few, pairs_between, strata
from adderlab.models.tables import why_no_tables
from adderlab.models.transformer import Adder
from adderlab.proof.problem import FREE, Problem
from adderlab.proof.prove import Count, Proof, Verdict
from adderlab.proof.search import Limits, decide_leaves
from adderlab.proof.witnesses import (
    CHUNK,
    Witness,
    leaf_witnesses,
    margins_of,
    model_margins,
    smallest_witness,
    step_name,
    to_ints,
)
from adderlab.results import Result
from adderlab.task.addition import PUBLISHED, Addition, from_digits, pairs_from_ints

# The attack.

STARTS = 24
ROUNDS = 12
"""Moves of the local search: each changes one digit of every start."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One kind of pairs: how many fail (teacher-forced, which is greedy), and the smallest margin."""

    name: str
    n: int
    failures: int
    margin: float
    pair: tuple[int, int]
    step: int


@dataclass(frozen=True, kw_only=True, repr=False)
class Attack(Result):
    """All attempts, and the failing pair with the smallest margin found, if any."""

    attempts: tuple[Attempt, ...]
    counterexample: tuple[int, int] | None
    """A failing pair; None: none was found, which proves nothing."""
    seconds: float
    no_witnesses: str | None = None
    """Why the prover has no witnesses for this model, so that a local search took their place."""
    addition: Addition = PUBLISHED

    @property
    def worst(self) -> Attempt:
        """The attempt with the smallest margin."""
        return min(self.attempts, key=lambda attempt: attempt.margin)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        worst = self.worst
        return {
            "counterexample": None if self.counterexample is None else list(self.counterexample),
            "margin": {"witness": worst.margin, "pair": list(worst.pair), "step": worst.step},
            "checked": sum(attempt.n for attempt in self.attempts),
            "failures": sum(attempt.failures for attempt in self.attempts),
            "attempts": [
                dataclasses.asdict(attempt) | {"pair": list(attempt.pair)} for attempt in self.attempts
            ],
            "seconds": self.seconds,
        }

    def describe(self) -> list[str]:
        """A line for every attempt, then what was found."""
        lines = [
            f"{attempt.name:32} {attempt.failures:>7,} of {attempt.n:>7,} fail, "
            f"smallest margin {attempt.margin:10.4f} ({self._step(attempt)})"
            for attempt in self.attempts
        ]
        if self.no_witnesses:
            lines.append(f"a local search, since the prover has no witnesses here: {self.no_witnesses}")
        a, b = map(self.addition.numeral, self.worst.pair)
        found = "a failing pair" if self.counterexample else "no failing pair found; the weakest"
        lines.append(f"{found}: {a} + {b}, margin {self.worst.margin:.4f}; {self.seconds:.1f} s")
        return lines

    def _step(self, attempt: Attempt) -> str:
        return step_name(attempt.step, self.addition.columns).removeprefix("digit ")


@torch.no_grad()
def _step_margins(model: Adder, i: int, a_BJ: Tensor, b_BJ: Tensor) -> Tensor:
    """As ``model_margins`` for digit i alone, reading no further than its query: margin_B."""
    parts, read = [], model.layout.query_positions[i] + 1
    for a, b in zip(a_BJ.split(CHUNK), b_BJ.split(CHUNK), strict=True):
        tokens_BP, targets_BA = model.layout.encode(a, b)
        parts.append(margins_of(model.next_logits(tokens_BP[:, :read]), targets_BA[:, i]))
    return torch.cat(parts)


def attack(
    model: Adder,
    suite: Suite,
    problem: Problem | None,
    *,
    starts: int = STARTS,
    progress: Callable[[str], None] | None = None,
) -> Attack:
    """Try a suite's groups, then the prover's witnesses for a model with tables (``problem``), or a
    local search from the suite's weakest pairs for one without."""
    began = time.monotonic()
    report = progress or (lambda _: None)
    attempts, weakest, task = [], _Weakest(starts), model.layout.addition
    for group in suite.groups:
        report(group.name)
        margin_BI = model_margins(model, group.a_BJ, group.b_BJ)
        weakest.add(group.a_BJ, group.b_BJ, margin_BI)
        attempts.append(_attempt(group.name, group.a_BJ, group.b_BJ, margin_BI, task))
    if problem is not None:
        report("the prover's witnesses")
        pairs = sorted({(w.a, w.b) for w in weakest_pairs(problem)})
        a_BJ, b_BJ = pairs_from_ints(pairs, task)
        margin_BI = model_margins(model, a_BJ, b_BJ)
        attempts.append(_attempt("the prover's witnesses", a_BJ, b_BJ, margin_BI, task))
    else:
        for i in range(model.layout.num_decided):
            report(f"local search, {step_name(i, task.columns)}")
            attempts.append(_local_search(model, i, *weakest.pairs(i)))
    worst = min(attempts, key=lambda attempt: attempt.margin)
    return Attack(
        attempts=tuple(attempts),
        counterexample=worst.pair if worst.margin <= 0 else None,
        seconds=time.monotonic() - began,
        no_witnesses=None if problem is not None else why_no_tables(model.config),
        addition=task,
    )


def weakest_pairs(problem: Problem, per_step: int = 128) -> Iterator[Witness]:
    """Both ends of the weakest leaves of every step, as real pairs."""
    for step in problem.steps:
        yield from leaf_witnesses(problem, decide_leaves(problem, step, Limits(parts=4)), per_step)


def _attempt(name: str, a_BJ: Tensor, b_BJ: Tensor, margin_BI: Tensor, addition: Addition) -> Attempt:
    least_B, step_B = margin_BI.min(1)
    row = int(least_B.argmin())
    (a,), (b,) = (to_ints(x_BJ[row : row + 1].numpy(), addition.base) for x_BJ in (a_BJ, b_BJ))
    return Attempt(
        name=name,
        n=len(a_BJ),
        failures=int((least_B <= 0).sum()),
        margin=float(least_B[row]),
        pair=(a, b),
        step=int(step_B[row]),
    )


class _Weakest:
    """The pairs with the smallest margins at every step, as starts of the local search."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.kept: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, a_BJ: Tensor, b_BJ: Tensor, margin_BI: Tensor) -> None:
        rows = margin_BI.topk(min(self.count, len(a_BJ)), 0, largest=False).indices.flatten().unique()
        self.kept.append((a_BJ[rows], b_BJ[rows], margin_BI[rows]))

    def pairs(self, i: int) -> tuple[Tensor, Tensor]:
        a_BJ, b_BJ, margin_BI = (torch.cat(part) for part in zip(*self.kept, strict=True))
        rows = margin_BI[:, i].topk(min(self.count, len(a_BJ)), largest=False).indices
        return a_BJ[rows], b_BJ[rows]


def _local_search(model: Adder, i: int, a_BJ: Tensor, b_BJ: Tensor) -> Attempt:
    """Greedy coordinate descent on the margin of digit i: the best change of one digit, repeated."""
    margin_B = _step_margins(model, i, a_BJ, b_BJ)
    tried, task = len(a_BJ), model.layout.addition
    for _ in range(ROUNDS):
        near_a, near_b = _neighbours(a_BJ, b_BJ, task.base)
        tried += near_a.shape[0] * near_a.shape[1]
        near_BN = _step_margins(model, i, near_a.flatten(0, 1), near_b.flatten(0, 1))
        near_BN = near_BN.view(near_a.shape[:2])
        best_B, choice_B = near_BN.min(1)
        better_B = best_B < margin_B
        if not better_B.any():
            break
        rows = torch.arange(len(a_BJ))
        a_BJ = torch.where(better_B[:, None], near_a[rows, choice_B], a_BJ)
        b_BJ = torch.where(better_B[:, None], near_b[rows, choice_B], b_BJ)
        margin_B = torch.minimum(margin_B, best_B)
    margin_BI = model_margins(model, a_BJ, b_BJ)
    found = _attempt(f"local search, {step_name(i, task.columns)}", a_BJ, b_BJ, margin_BI, task)
    return dataclasses.replace(found, n=tried)


def _neighbours(a_BJ: Tensor, b_BJ: Tensor, base: int) -> tuple[Tensor, Tensor]:
    """Every pair with one digit of a or b changed: (B, N, J) twice, N = 2 J (base - 1)."""
    J, others = a_BJ.shape[1], base - 1
    near = torch.cat([a_BJ, b_BJ], 1)[:, None].repeat(1, 2 * J * others, 1)
    rows = torch.arange(near.shape[1])
    place = rows // others
    near[:, rows, place] = (near[:, rows, place] + 1 + rows % others).to(torch.uint8) % base
    return near[..., :J], near[..., J:]


# Every pair of a small task.

AT_ONCE = 1 << 15
TOLERANCE = 1e-6
"""Relative: smallest margins of module and prover may differ by this much of rounding."""
FLOAT32_NOISE = 1e-3
"""Relative to the largest margin: where fp32 may answer otherwise than real arithmetic."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Trial(Result):
    """What the module answers to every pair of its task."""

    addition: Addition
    pairs: int
    failing_pairs: int
    """Of greedy decoding in fp32."""
    failing_float64: int
    """With a margin of no more than 0 at some step, in float64: these fail in real arithmetic, but for
    the ties."""
    failing_by_step: tuple[int, ...]
    """Float64, teacher-forced: pairs for which each digit of the sum is wrong, units first, and then the
    end token where it counts."""
    ties: int
    """Pairs with a float64 margin so near zero that rounding may decide."""
    close: int
    """Pairs with a float64 margin so near zero that fp32 may answer otherwise."""
    counterexample: tuple[int, int] | None
    """The pair with the lowest margin of those that fail in fp32."""
    margin: float
    """The smallest, in float64, in logits."""
    margin_pair: tuple[int, int]
    step: int
    """Where it is attained."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "columns": self.addition.columns,
            "base": self.addition.base,
            "pairs": self.pairs,
            "failing_pairs": self.failing_pairs,
            "failing_float64": self.failing_float64,
            "failing_by_step": list(self.failing_by_step),
            "ties": self.ties,
            "close": self.close,
            "counterexample": None if self.counterexample is None else list(self.counterexample),
            "margin": self.margin,
            "margin_pair": list(self.margin_pair),
            "step": self.step,
        }

    def describe(self) -> list[str]:
        """Who fails how often, and the smallest margin."""
        task = self.addition
        a, b = map(task.numeral, self.margin_pair)
        return [
            f"every pair tried ({self.pairs:,}): greedy decoding in fp32 fails on "
            f"{self.failing_pairs:,}, float64 on {self.failing_float64:,}",
            f"smallest margin in float64: {self.margin:.6g} logits at {a} + {b} "
            f"({step_name(self.step, task.columns)})",
        ]


def try_all(model: Adder, progress: Callable[[int, int], None] | None = None) -> Trial:
    """Run a float32 module, and the same in float64, on every pair of its task.

    ``progress`` gets (pairs done, pairs in all). Raises ``UsageError`` for more than ten million pairs.
    """
    layout, task = model.layout, model.layout.addition
    check_few(task)
    pairs = task.num_pairs
    stacked = {name: each.detach().double()[None] for name, each in model.named_parameters()}
    exact, decided = model_of(model.config, stacked), layout.num_decided
    wrong_parts, margin_parts = [], []
    decode = oracle_decoder(model)
    for start in range(0, pairs, AT_ONCE):
        a_BJ, b_BJ = pairs_between(start, min(start + AT_ONCE, pairs), task)
        margin_parts.append(model_margins(exact, a_BJ, b_BJ))
        # What is right at every step, given the right digits before it, is what greedy decoding
        # answers; the rest, and what rounding may decide, is decoded.
        least_B = model_margins(model, a_BJ, b_BJ).min(1).values
        rounding = FLOAT32_NOISE * (1.0 + float(least_B.abs().median()))
        wrong_B = ~(least_B > rounding)
        a_BJ, b_BJ = a_BJ[wrong_B], b_BJ[wrong_B]
        if len(a_BJ):
            target_BI = layout.encode(a_BJ, b_BJ)[1][:, :decided]
            wrong_B[wrong_B.clone()] = (decode(a_BJ, b_BJ)[:, :decided] != target_BI).any(1)
        wrong_parts.append(wrong_B)
        if progress is not None:
            progress(min(start + AT_ONCE, pairs), pairs)
    wrong_B, margin_BI = torch.cat(wrong_parts), torch.cat(margin_parts)
    margin_BI = torch.nan_to_num(margin_BI, nan=-torch.inf)
    least_B, step_B = margin_BI.min(1)
    worst = int(least_B.argmin())
    size = 1.0 + float(least_B.abs().median())
    failing = wrong_B.nonzero().flatten()
    shown = int(failing[least_B[failing].argmin()]) if len(failing) else None
    return Trial(
        addition=task,
        pairs=pairs,
        failing_pairs=len(failing),
        failing_float64=int((least_B <= 0).sum()),
        failing_by_step=tuple((margin_BI <= 0).sum(0).tolist()),
        ties=int((margin_BI.abs() <= 1e-9 * size).any(1).sum()),
        close=int((margin_BI.abs() <= FLOAT32_NOISE * size).any(1).sum()),
        counterexample=None if shown is None else divmod(shown, task.limit),
        margin=float(least_B[worst]),
        margin_pair=divmod(worst, task.limit),
        step=int(step_B[worst]),
    )


def with_smallest_margin(proof: Proof) -> Proof:
    """The proof, of a small task, with the smallest margin there is in place of the smallest that it
    found: by its own tables, of every pair in the leaves whose bounds leave room for a smaller one.

    A proof needs no more than that every bound is above zero; its witnesses are ends of the weakest
    leaves, which the smallest margin need not be at.
    """
    best = smallest_witness(proof.problem, proof.results, proof.witnesses[0])
    margin = dataclasses.replace(
        proof.margin, witness=best.margin, pair=(best.a, best.b), step=best.step
    )
    return dataclasses.replace(proof, margin=margin, witnesses=(best, *proof.witnesses))


@dataclass(frozen=True, kw_only=True, repr=False)
class Exhaustive(Result):
    """A proof beside what the module answers to every pair."""

    proof: Proof
    trial: Trial
    disagreements: tuple[str, ...]
    """What cannot be true of both. Empty, or there is a mistake in here."""
    seconds: float
    """Of both together."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: the prover's, and beside them the trial of every pair."""
        return {
            **self.proof.to_dict(),
            "exhaustive": self.trial.to_dict(),
            "agree": not self.disagreements,
            "disagreements": list(self.disagreements),
        }

    def describe(self) -> list[str]:
        """The verdict, the trial, and whether they agree."""
        told = "THEY AGREE" if not self.disagreements else "THEY DISAGREE:"
        lines = [*self.proof.describe(), *self.trial.describe(), f"prover and trial: {told}"]
        return [*lines, *self.disagreements]


def disagreements(trial: Trial, verdict: Verdict) -> list[str]:
    """Statements of prover and trial about the same pairs that cannot all be true; the verdict's margin
    is that of ``with_smallest_margin``."""
    found = []

    def compare(what: str, tried: int, count: Count) -> None:
        low, high = (count, count) if isinstance(count, int) else count
        if not low - trial.ties <= tried <= high + trial.ties:
            found.append(f"{what}: {tried:,} fail by trial in float64, {low:,} to {high:,} by proof")

    compare("pairs", trial.failing_float64, verdict.failing_pairs)
    steps = zip(trial.failing_by_step, verdict.failing_by_step, strict=True)
    for i, (tried, count) in enumerate(steps):
        compare(step_name(i, trial.addition.columns), tried, count)
    if abs(trial.failing_pairs - trial.failing_float64) > trial.close:
        found.append(
            f"fp32 fails on {trial.failing_pairs:,} pairs and float64 on {trial.failing_float64:,}, "
            f"which rounding does not explain: it may decide {trial.close:,}"
        )
    if verdict.verdict == "proved" and trial.failing_float64 > trial.ties:
        found.append(f"the verdict is proved, and {trial.failing_float64:,} pairs fail in float64")
    if verdict.verdict == "refuted" and trial.failing_float64 + trial.ties == 0:
        found.append("the verdict is refuted, and no pair fails in float64")
    bound, witness = verdict.margin.bound, verdict.margin.witness
    slack = TOLERANCE * (1.0 + abs(trial.margin))
    if abs(witness - trial.margin) > slack:
        found.append(f"the smallest margin is {witness} by proof and {trial.margin} by trial")
    if bound is not None and bound > trial.margin + slack:
        found.append(f"the prover's bound {bound} is above the smallest margin, {trial.margin}")
    return found


# Windows: all pairs that differ in a few columns only.

MOST_COLUMNS = 3
"""A million pairs; a hundred million would take an hour."""
WINDOW_AT_ONCE = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Window:
    """The pairs that agree with a + b in every column but ``columns`` (0 is the units)."""

    columns: tuple[int, ...]
    a: int
    b: int
    addition: Addition = PUBLISHED

    def __post_init__(self) -> None:
        right = set(self.columns) <= set(range(self.addition.columns))
        if not right or not 1 <= len(set(self.columns)) == len(self.columns) <= MOST_COLUMNS:
            raise UsageError(
                f"a window has 1 to {MOST_COLUMNS} different columns from 0 (the units) to "
                f"{self.addition.columns - 1}, not {', '.join(map(str, self.columns)) or 'none'}"
            )

    @classmethod
    def draw(cls, columns: int | Sequence[int], seed: int, addition: Addition = PUBLISHED) -> Window:
        """At random: which columns, if only their number is given, and a pair of any stratum."""
        rng = random.Random(seed)
        if isinstance(columns, int):
            most = min(MOST_COLUMNS, addition.columns)
            if not 1 <= columns <= most:
                raise UsageError(f"a window has 1 to {most} columns, not {columns}")
            columns = rng.sample(range(addition.columns), columns)
        group = rng.choice(strata(1, seed, addition).groups)
        a, b = (int(from_digits(x_BJ[0], addition.base)) for x_BJ in (group.a_BJ, group.b_BJ))
        return cls(columns=tuple(sorted(columns)), a=a, b=b, addition=addition)

    @property
    def num_pairs(self) -> int:
        return self.addition.base ** (2 * len(self.columns))

    @property
    def given(self) -> tuple[int, ...]:
        """Digits of the slots a_0 .., b_0 ..; FREE in the open columns (``Problem.given``)."""
        base = self.addition.base
        return tuple(
            FREE if j in self.columns else number // base**j % base
            for number in (self.a, self.b)
            for j in range(self.addition.columns)
        )

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Digits of every pair, units first: a_BJ, b_BJ."""
        a_1J, b_1J = pairs_from_ints([(self.a, self.b)], self.addition)
        a_BJ, b_BJ = (x.repeat(self.num_pairs, 1) for x in (a_1J, b_1J))
        w, base = len(self.columns), self.addition.base
        digits_CB = torch.from_numpy(np.indices((base,) * (2 * w)).reshape(2 * w, -1)).to(a_BJ.dtype)
        a_BJ[:, list(self.columns)], b_BJ[:, list(self.columns)] = digits_CB[:w].T, digits_CB[w:].T
        return a_BJ, b_BJ


@dataclass(frozen=True, kw_only=True)
class WindowTrial:
    """What the module does on every pair of a window, in its own arithmetic."""

    failing_pairs: int
    failing_by_step: tuple[int, ...]
    """Teacher-forced."""
    ties: int
    """Pairs with a margin so near zero that rounding may decide."""
    margin: float
    """The smallest of all steps and pairs, in logits."""
    pair: tuple[int, int]
    """Where it is attained."""


def try_every_pair(
    model: Adder, window: Window, progress: Callable[[int, int], None] | None = None
) -> WindowTrial:
    """Run a module, of either precision, on all pairs of a window."""
    a_BJ, b_BJ = window.pairs()
    margins = []
    for start in range(0, len(a_BJ), WINDOW_AT_ONCE):
        part = slice(start, start + WINDOW_AT_ONCE)
        margins.append(model_margins(model, a_BJ[part], b_BJ[part]).double())
        if progress is not None:
            progress(min(start + WINDOW_AT_ONCE, len(a_BJ)), len(a_BJ))
    margin_BI = torch.nan_to_num(torch.cat(margins), nan=-torch.inf)
    least_B = margin_BI.min(1).values
    worst = int(least_B.argmin())
    (a,), (b,) = to_ints(a_BJ[[worst]].numpy()), to_ints(b_BJ[[worst]].numpy())
    scale = TOLERANCE * (1.0 + float(least_B.abs().median()))
    return WindowTrial(
        failing_pairs=int((least_B <= 0).sum()),
        failing_by_step=tuple((margin_BI <= 0).sum(0).tolist()),
        ties=int((margin_BI.abs() <= scale).any(1).sum()),
        margin=float(least_B[worst]),
        pair=(a, b),
    )


def restricted(problem: Problem, window: Window) -> Problem:
    """The problem about the pairs of a window alone."""
    return dataclasses.replace(problem, given=window.given)


@dataclass(frozen=True, kw_only=True)
class WindowReport(Result):
    """A window: the module's answers to every pair beside what prover and checker say of them."""

    window: Window
    float64: WindowTrial
    float32: WindowTrial
    verdict: Verdict
    """The prover's, about the pairs of the window."""
    check: Any
    """The checker's ``Report`` on the prover's certificate; None without python-flint."""
    disagreements: tuple[str, ...]
    """What cannot be true of all of them. Empty, or there is a mistake in here."""
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        check = None
        if self.check is not None:
            check = {name: getattr(self.check, name) for name in ("accepted", "reason", "margin")}
        return {
            "columns": list(self.window.columns),
            "a": self.window.a,
            "b": self.window.b,
            "pairs": self.window.num_pairs,
            "float64": _tried(self.float64),
            "float32": _tried(self.float32),
            "prover": self.verdict.to_dict(),
            "checker": check,
            "agree": not self.disagreements,
            "disagreements": list(self.disagreements),
            "seconds": self.seconds,
        }

    def describe(self) -> list[str]:
        """The window, who says what, and whether all agree."""
        window, verdict = self.window, self.verdict
        columns = ", ".join(map(str, window.columns))
        failing = verdict.failing_pairs
        count = f"{failing:,}" if isinstance(failing, int) else f"{failing[0]:,} to {failing[1]:,}"
        bound = "none" if verdict.margin.bound is None else f"{verdict.margin.bound:.6g}"
        lines = [
            f"all {window.num_pairs:,} pairs that agree with {window.a} + {window.b} outside the "
            f"columns {columns} (0 is the units):",
            *(
                f"the module in {name}: {tried.failing_pairs:,} fail; smallest margin "
                f"{tried.margin:.6g} at {tried.pair[0]} + {tried.pair[1]}"
                for name, tried in (("float64", self.float64), ("float32", self.float32))
            ),
            f"the prover: {count} fail; margins of at least {bound}",
        ]
        if self.check is None:
            lines.append("the checker was not asked: it needs python-flint")
        elif self.check.accepted:
            lines.append(f"the checker: none fails; margins of at least {self.check.margin:.6g}")
        else:
            lines.append(f"the checker: {self.check.reason}")
        lines.append("THEY AGREE" if not self.disagreements else "THEY DISAGREE:")
        return [*lines, *self.disagreements, f"{self.seconds:.1f} s"]


def _tried(tried: WindowTrial) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(tried).items()}


def window_disagreements(
    float64: WindowTrial, float32: WindowTrial, verdict: Verdict, check: Any
) -> list[str]:
    """Statements about the same pairs that cannot all be true."""
    found = []
    slack = TOLERANCE * (1.0 + abs(float64.margin))

    def compare(what: str, tried: int, count: Count) -> None:
        low, high = (count, count) if isinstance(count, int) else count
        if not low - float64.ties <= tried <= high + float64.ties:
            found.append(f"{what}: {tried:,} fail by trial, {low:,} to {high:,} by proof")

    compare("pairs", float64.failing_pairs, verdict.failing_pairs)
    for i, (tried, count) in enumerate(
        zip(float64.failing_by_step, verdict.failing_by_step, strict=True)
    ):
        compare(step_name(i, verdict.addition.columns), tried, count)
    bound, witness = verdict.margin.bound, verdict.margin.witness
    if bound is not None and bound > float64.margin + slack:
        found.append(f"the prover's bound {bound} is above the margin {float64.margin}")
    if witness < float64.margin - slack:
        found.append(f"the prover's witness {witness} is below every margin, {float64.margin}")
    if check is None:
        return found
    if verdict.verdict == "proved" and not check.accepted:
        found.append(f"the checker does not accept the proof: {check.reason}")
    if check.accepted and (
        float64.failing_pairs > float64.ties or check.margin > float64.margin + slack
    ):
        found.append(f"the checker accepts margins of {check.margin}; the smallest is {float64.margin}")
    if check.witness is not None and check.witness[1] < float64.margin - slack:
        found.append(f"the checker's witness {check.witness} is below every margin, {float64.margin}")
    covered = check.fp32 is not None and check.fp32.covered
    if covered and not check.fp32.margin <= float32.margin:
        found.append(f"fp32 is covered with {check.fp32.margin}, and its margin is {float32.margin}")
    return found
