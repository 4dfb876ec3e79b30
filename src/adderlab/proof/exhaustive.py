"""Every pair of a small task, answered by the real module: the truth that a prover can be held to.

Of three columns there are a million pairs, and the module answers each in a few microseconds. Its greedy
answers in fp32 are what a user gets; its margins in float64 are, but for rounding, those that the prover
bounds. Both know nothing of tables, leaves or carries.

Shapes: B pairs, J operand columns, I decided answer steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from adderlab.evaluation.exact import model_of, oracle_decoder
from adderlab.evaluation.suites import check_few, pairs_between
from adderlab.models.transformer import Adder
from adderlab.proof.attack import model_margins
from adderlab.proof.prove import Count, Proof, Verdict
from adderlab.proof.witnesses import smallest_witness, step_name
from adderlab.results import Result
from adderlab.task.addition import Addition

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
