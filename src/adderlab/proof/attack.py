"""The strongest cheap test: strata, the prover's witnesses, and a local search where there are none.

Works on the real model, in its own arithmetic, so it also serves models that cannot be proved.

Shapes: B pairs, J operand columns (10), I = J + 1 sum digits (and the end token where it counts),
A answer steps, N neighbours.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adderlab.evaluation.suites import Suite
from adderlab.models.tables import why_no_tables
from adderlab.models.transformer import Adder
from adderlab.proof.problem import Problem
from adderlab.proof.search import Limits, decide_leaves
from adderlab.proof.witnesses import Witness, leaf_witnesses, step_name, to_ints
from adderlab.results import Result
from adderlab.task.addition import PUBLISHED, Addition, pairs_from_ints

CHUNK = 4096
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
def model_margins(model: Adder, a_BJ: Tensor, b_BJ: Tensor) -> Tensor:
    """Teacher-forced margins of the answer's decided tokens, the digits and perhaps the end
    token, by the full model: margin_BI."""
    parts, decided = [], model.layout.num_decided
    for a, b in zip(a_BJ.split(CHUNK), b_BJ.split(CHUNK), strict=True):
        tokens_BP, targets_BA = model.layout.encode(a, b)
        logits_BIV = model.answer_logits(tokens_BP)[:, :decided]
        parts.append(_margins(logits_BIV, targets_BA[:, :decided]))
    return torch.cat(parts)


@torch.no_grad()
def _step_margins(model: Adder, i: int, a_BJ: Tensor, b_BJ: Tensor) -> Tensor:
    """As ``model_margins`` for digit i alone, reading no further than its query: margin_B."""
    parts, read = [], model.layout.query_positions[i] + 1
    for a, b in zip(a_BJ.split(CHUNK), b_BJ.split(CHUNK), strict=True):
        tokens_BP, targets_BA = model.layout.encode(a, b)
        parts.append(_margins(model.next_logits(tokens_BP[:, :read]), targets_BA[:, i]))
    return torch.cat(parts)


def _margins(logits: Tensor, target: Tensor) -> Tensor:
    """Logit of the target minus the best other one, over the last axis."""
    index = target[..., None].long()
    right = logits.gather(-1, index)[..., 0]
    return right - logits.scatter(-1, index, -torch.inf).amax(-1)


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
