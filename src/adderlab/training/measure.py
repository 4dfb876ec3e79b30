"""What a population can do at one step: each seed on its own validation pairs.

Shapes: S seeds still training, N parameters of one model, B pairs, I = 11 columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from adderlab.errors import UsageError
from adderlab.evaluation.suites import PUBLISHED_SEEDS
from adderlab.runs.records import Metrics, Score
from adderlab.task.layouts import SUM_DIGITS, Layout, answers_correct
from adderlab.task.r456 import Holdout
from adderlab.training.objective import Objective, Params

PUBLISHED_VAL_SIZE = 5000
"""A published test set begins behind so many validation pairs of the same seed."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Accuracies of every seed, on the CPU."""

    val_exact_S: Tensor
    val_token_acc_S: Tensor
    """Share of the eleven digits that greedy decoding gets right."""
    step_acc_SI: Tensor
    """Accuracy of each answer step, given the right earlier digits."""
    margin_S: Tensor
    """Smallest teacher-forced margin over the validation pairs, in logits as the loss sees them."""

    def score(self, row: int) -> Score:
        """Of a seed's weights as a checkpoint."""
        return (
            float(self.val_exact_S[row]),
            float(self.step_acc_SI[row].mean()),
            float(self.margin_S[row]),
        )

    def scores(self) -> list[Score]:
        return [self.score(row) for row in range(len(self.val_exact_S))]


@dataclass(frozen=True, kw_only=True)
class Evaluation(Measured):
    """The active seeds at one step. With averaging, each seed's better weights speak for it."""

    step: int
    lr: float
    seeds: tuple[int, ...]
    train_loss_S: Tensor
    weights_SN: Tensor
    """The weights that were measured."""
    averaged_S: Tensor
    """Whether these are the running average."""

    def metrics(self, row: int, elapsed_sec: float) -> Metrics:
        """A seed's row in the tables of its run."""
        return Metrics(
            step=self.step,
            train_loss=float(self.train_loss_S[row]),
            val_exact=float(self.val_exact_S[row]),
            val_token_acc=float(self.val_token_acc_S[row]),
            lr=self.lr,
            elapsed_sec=elapsed_sec,
            step_acc=tuple(self.step_acc_SI[row].tolist()),
        )

    def of(self, seeds: tuple[int, ...], rows: list[int]) -> Evaluation:
        """The given rows, one for each of ``seeds``."""
        index = torch.tensor(rows, dtype=torch.int64)
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen = {
            name: value[index.to(value.device)]
            for name, value in values.items()
            if isinstance(value, Tensor)
        }
        return replace(self, seeds=seeds, **chosen)


def check_validation(val_size: int, seeds: Sequence[int]) -> None:
    """Raises ``UsageError`` where validation would look at pairs of a published test set."""
    for seed in seeds:
        if val_size > PUBLISHED_VAL_SIZE and seed in PUBLISHED_SEEDS:
            raise UsageError(
                f"recipe.val_size {val_size} reaches into the published test set of seed {seed}: use "
                f"at most {PUBLISHED_VAL_SIZE}, or another seed"
            )


class Validation:
    """Every seed's validation pairs, and how its weights do on them."""

    def __init__(self, layout: Layout, holdouts: Sequence[Holdout], device: torch.device) -> None:
        a_SBJ = torch.stack([each.val_a_BJ for each in holdouts]).to(device)
        b_SBJ = torch.stack([each.val_b_BJ for each in holdouts]).to(device)
        self.layout = layout
        self.tokens_SBP, self.targets_SBA = layout.encode(a_SBJ, b_SBJ)

    def measure(self, objective: Objective, params: Params) -> Measured:
        margin_SBA = objective.margins(params, self.tokens_SBP, self.targets_SBA)
        margin_SBI = margin_SBA[..., :SUM_DIGITS]
        answers = objective.decode(params, self.tokens_SBP[..., : self.layout.num_prompt])
        right_SBI = answers_correct(answers, self.targets_SBA)
        return Measured(
            val_exact_S=right_SBI.all(2).double().mean(1).cpu(),
            val_token_acc_S=right_SBI.double().mean((1, 2)).cpu(),
            step_acc_SI=(margin_SBI > 0).double().mean(1).cpu(),
            margin_S=margin_SBI.amin((1, 2)).cpu(),
        )

    def keep(self, rows: Tensor) -> None:
        """Go on with the seeds in ``rows`` only."""
        self.tokens_SBP, self.targets_SBA = self.tokens_SBP[rows], self.targets_SBA[rows]


def better(one: Measured, other: Measured) -> tuple[Measured, Tensor]:
    """Seed by seed the better of two, and where it is the other (bool, S)."""
    is_other_S = torch.tensor(
        [b > a for a, b in zip(one.scores(), other.scores(), strict=True)], dtype=torch.bool
    )
    chosen = Measured(
        val_exact_S=torch.where(is_other_S, other.val_exact_S, one.val_exact_S),
        val_token_acc_S=torch.where(is_other_S, other.val_token_acc_S, one.val_token_acc_S),
        step_acc_SI=torch.where(is_other_S[:, None], other.step_acc_SI, one.step_acc_SI),
        margin_S=torch.where(is_other_S, other.margin_S, one.margin_S),
    )
    return chosen, is_other_S


class Best:
    """The best weights of every active seed so far, from which restarts begin."""

    def __init__(self, flat_SN: Tensor) -> None:
        self.weights_SN = flat_SN.clone()
        self.scores: list[Score] = [(-1.0, 0.0, 0.0)] * len(flat_SN)

    def take(self, evaluation: Evaluation) -> None:
        for row, score in enumerate(evaluation.scores()):
            if score > self.scores[row]:
                self.scores[row] = score
                self.weights_SN[row] = evaluation.weights_SN[row]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with the seeds in ``rows`` only."""
        self.weights_SN = self.weights_SN[list(rows)].clone()
        self.scores = [self.scores[row] for row in rows]
