"""Windows: all pairs that differ in a few columns only, decided by the prover and by trying each.

Nothing tests a proof like the truth. All 10^20 pairs cannot be tried, but the 10^(2w) that share the
digits of every other column can, by the readable module itself. The prover is asked about the same
pairs: its leaves, carry DPs, chords, cuts, splits and counts work as ever, with fewer digits to choose
from. Where it is exact, its count has to be the module's, pair for pair.

Shapes: B pairs, J operand columns (10), I steps (11).
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adderlab.errors import UsageError
from adderlab.evaluation.suites import strata
from adderlab.models.transformer import Adder
from adderlab.proof.attack import model_margins
from adderlab.proof.problem import FREE, Problem
from adderlab.proof.prove import Count, Verdict
from adderlab.proof.witnesses import step_name, to_ints
from adderlab.results import Result
from adderlab.task.addition import PUBLISHED, Addition, from_digits, pairs_from_ints

MOST_COLUMNS = 3
"""A million pairs; a hundred million would take an hour."""
AT_ONCE = 1 << 16
TOLERANCE = 1e-6
"""Relative: margins of the module and bounds of the prover may disagree by this much of rounding."""


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
class Tried:
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
) -> Tried:
    """Run a module, of either precision, on all pairs of a window."""
    a_BJ, b_BJ = window.pairs()
    margins = []
    for start in range(0, len(a_BJ), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        margins.append(model_margins(model, a_BJ[part], b_BJ[part]).double())
        if progress is not None:
            progress(min(start + AT_ONCE, len(a_BJ)), len(a_BJ))
    margin_BI = torch.nan_to_num(torch.cat(margins), nan=-torch.inf)
    least_B = margin_BI.min(1).values
    worst = int(least_B.argmin())
    (a,), (b,) = to_ints(a_BJ[[worst]].numpy()), to_ints(b_BJ[[worst]].numpy())
    scale = TOLERANCE * (1.0 + float(least_B.abs().median()))
    return Tried(
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
    float64: Tried
    float32: Tried
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


def _tried(tried: Tried) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(tried).items()}


def disagreements(float64: Tried, float32: Tried, verdict: Verdict, check: Any) -> list[str]:
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
