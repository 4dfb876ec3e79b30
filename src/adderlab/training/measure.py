"""What is seen of seeds while they train: their evaluations, who is told of them, what is remembered.

Each seed is evaluated on its own validation pairs. A ``Listener`` follows a run, a search, a rate or a
sweep: the live view, JSON lines, dashboards, meters. The ``SeedTracker`` keeps the record, the best and
the last weights of every seed.

Shapes: S seeds (still training; in the tracker all of the run), N parameters of one model, flat, B
pairs, I columns of a sum (11).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adderlab.errors import UsageError
from adderlab.evaluation.suites import PUBLISHED_SEEDS, Rate, wilson
from adderlab.files import schema
from adderlab.models.config import ModelConfig
from adderlab.reading.file_model import FileModel
from adderlab.runs.checkpoints import Checkpoint, parameter_shapes
from adderlab.runs.records import Metrics, Score, SeedRecord, SeedStatus, best_of
from adderlab.task.addition import Layout, answers_correct
from adderlab.task.r456 import Holdout
from adderlab.task.sampling import DataConfig, pool_pairs
from adderlab.training.objective import Objective, Params
from adderlab.training.recipe import Recipe

if TYPE_CHECKING:
    from adderlab.runs.records import SeedRecord

MOST_TRAIN_PAIRS = 10_000
"""Of a pool, over which train accuracy is measured."""
PUBLISHED_VAL_SIZE = 5000
"""A published test set begins behind so many validation pairs of the same seed."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Accuracies of every seed, on the CPU."""

    val_exact_S: Tensor
    val_token_acc_S: Tensor
    """Share of the sums' digits that greedy decoding gets right."""
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
    lr_factor_S: Tensor | None = None
    """What ``lr`` is multiplied by for each seed; None: by 1."""
    train_exact_S: Tensor | None = None
    """Exact match on the seed's own training pairs; None where every step draws fresh ones."""

    @cached_property
    def weights_on_cpu_SN(self) -> Tensor:
        """One copy off the device for all who look at the weights."""
        return self.weights_SN.cpu()

    @cached_property
    def _weight_norms(self) -> list[float]:
        """Of every row, in float64, which not every device has; one by one, so that no neighbour changes
        the order of a sum."""
        return [float(weights_N.double().norm()) for weights_N in self.weights_on_cpu_SN]

    def metrics(self, row: int, elapsed_sec: float) -> Metrics:
        """A seed's row in the tables of its run."""
        return Metrics(
            step=self.step,
            train_loss=float(self.train_loss_S[row]),
            val_exact=float(self.val_exact_S[row]),
            val_token_acc=float(self.val_token_acc_S[row]),
            lr=self.lr if self.lr_factor_S is None else self.lr * float(self.lr_factor_S[row]),
            elapsed_sec=elapsed_sec,
            step_acc=tuple(self.step_acc_SI[row].tolist()),
            weight_norm=self._weight_norms[row],
            train_exact=None if self.train_exact_S is None else float(self.train_exact_S[row]),
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
        margin_SBI = margin_SBA[..., : self.layout.sum_digits]
        answers = objective.decode(params, self.tokens_SBP[..., : self.layout.num_prompt])
        right_SBI = answers_correct(answers, self.targets_SBA, self.layout)
        return Measured(
            val_exact_S=_share(right_SBI.all(2)),
            val_token_acc_S=_share(right_SBI.flatten(1)),
            step_acc_SI=_share(margin_SBI > 0),
            margin_S=margin_SBI.amin((1, 2)).cpu(),
        )

    def keep(self, rows: Tensor) -> None:
        """Go on with the seeds in ``rows`` only."""
        self.tokens_SBP, self.targets_SBA = self.tokens_SBP[rows], self.targets_SBA[rows]


class TrainingSet:
    """The pairs that each row of a population trains on, where they are a pool; of a larger pool than
    ``MOST_TRAIN_PAIRS``, its first pairs."""

    def __init__(self, layout: Layout, data: DataConfig, seeds_S: Tensor) -> None:
        a_SBJ, b_SBJ = pool_pairs(data, seeds_S, layout.addition, MOST_TRAIN_PAIRS)
        self.layout = layout
        self.tokens_SBP, self.targets_SBA = layout.encode(a_SBJ, b_SBJ)

    def exact(self, objective: Objective, params: Params) -> Tensor:
        """Exact match of greedy decoding, train_exact_S, on the CPU."""
        answers = objective.decode(params, self.tokens_SBP[..., : self.layout.num_prompt])
        return _share(answers_correct(answers, self.targets_SBA, self.layout).all(2))

    def keep(self, rows: Tensor) -> None:
        """Go on with the seeds in ``rows`` only."""
        self.tokens_SBP, self.targets_SBA = self.tokens_SBP[rows], self.targets_SBA[rows]


def _share(right_SN: Tensor) -> Tensor:
    """Of the N of every seed, exact, on the CPU: (S, N, ...) bool -> (S, ...) float64.

    The device counts and the CPU divides, for not every device has float64 (Apple's has not).
    """
    return right_SN.sum(1).cpu().double() / right_SN.shape[1]


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


# Who is told.


@dataclass(frozen=True, kw_only=True)
class Start:
    """Seeds that begin to train side by side, or go on."""

    folder: Path
    """Their run folder."""
    seeds: tuple[int, ...]
    steps: int
    """Optimiser steps of each seed at most, restarts included."""
    resumed: bool
    device: str
    engine: str
    label: str = ""
    """What they are part of, for people."""
    halvings: tuple[int, ...] = ()
    """Steps after which half of each seed's restarts are given up, and steps are twice as fast."""


class Listener:
    """Does nothing; a listener overrides what it wants to know of.

    A search calls it from its worker threads, one call at a time. What it raises ends the training.
    """

    def on_start(self, start: Start) -> None:
        """Seeds begin to train, or go on."""

    def on_step(self, seeds: tuple[int, ...], step: int, models: int) -> None:
        """``step`` steps of these seeds are done; ``models`` are training: one for each seed that has
        not ended, or all its restarts. Called often: be quick."""

    def on_evaluation(self, evaluation: Evaluation, records: tuple[SeedRecord, ...]) -> None:
        """Seeds were evaluated; ``records`` are theirs, in the evaluation's order."""

    def on_activity(self, seed: int, doing: str) -> None:
        """A search begins something else with a seed than training: "proving", "checking" or
        "repairing". Steps or a verdict of the seed end it."""

    def on_verdict(self, record: SeedRecord, verdict: str) -> None:
        """A proof is over (``verdict``: proved, refuted or undecided), or a search has decided without
        one (dropped, unproved); ``record`` knows of it."""

    def on_end(self, folder: Path, records: tuple[SeedRecord, ...], status: str) -> None:
        """All is over, proofs included; ``records`` are those of all seeds. ``status`` says how: done,
        stopped, or how a search ended."""

    def on_message(self, text: str) -> None:
        """A line for people."""


class Listeners(Listener):
    """Several listeners as one, called in order."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self.listeners = tuple(listeners)

    def on_start(self, start: Start) -> None:
        for each in self.listeners:
            each.on_start(start)

    def on_step(self, seeds: tuple[int, ...], step: int, models: int) -> None:
        for each in self.listeners:
            each.on_step(seeds, step, models)

    def on_evaluation(self, evaluation: Evaluation, records: tuple[SeedRecord, ...]) -> None:
        for each in self.listeners:
            each.on_evaluation(evaluation, records)

    def on_activity(self, seed: int, doing: str) -> None:
        for each in self.listeners:
            each.on_activity(seed, doing)

    def on_verdict(self, record: SeedRecord, verdict: str) -> None:
        for each in self.listeners:
            each.on_verdict(record, verdict)

    def on_message(self, text: str) -> None:
        for each in self.listeners:
            each.on_message(text)

    def on_end(self, folder: Path, records: tuple[SeedRecord, ...], status: str) -> None:
        for each in self.listeners:
            each.on_end(folder, records, status)


# What is remembered.


class SeedTracker:
    """Records, best and last weights of all seeds of a run."""

    def __init__(
        self, config: ModelConfig | FileModel, recipe: Recipe, seeds: tuple[int, ...], flat_SN: Tensor
    ) -> None:
        """``flat_SN``: where the seeds start, on the CPU."""
        self._config, self._recipe = config, recipe
        self.records = {seed: SeedRecord(seed=seed) for seed in seeds}
        self._best_SN, self._last_SN = flat_SN.clone(), flat_SN.clone()
        self._index = {seed: s for s, seed in enumerate(seeds)}
        self._perfect_since: dict[int, int | None] = dict.fromkeys(seeds)
        """Step of the first of the latest evaluations in a row at exact match 1."""

    def take(self, evaluation: Evaluation, elapsed_sec: float) -> dict[int, Metrics]:
        """Note an evaluation of the seeds that are training; its table rows."""
        metrics, flat_SN = {}, evaluation.weights_on_cpu_SN
        for row, seed in enumerate(evaluation.seeds):
            metrics[seed] = evaluation.metrics(row, elapsed_sec)
            self.records[seed] = self.records[seed].after(metrics[seed], evaluation.score(row))
            s = self._index[seed]
            self._last_SN[s] = flat_SN[row]
            if self.records[seed].best_step == evaluation.step:
                self._best_SN[s] = flat_SN[row]
            if metrics[seed].val_exact < 1.0:
                self._perfect_since[seed] = None
            elif self._perfect_since[seed] is None:
                self._perfect_since[seed] = evaluation.step
        return metrics

    def perfect_long_enough(self, evaluation: Evaluation) -> list[int]:
        """Seeds of the evaluation that have been perfect for as long as the recipe asks."""
        return [seed for seed in evaluation.seeds if self._is_over(seed, evaluation.step)]

    def _is_over(self, seed: int, step: int) -> bool:
        since = self._perfect_since[seed]
        return since is not None and 0 < self._recipe.stop_perfect_steps <= step - since

    def put(self, records: Iterable[SeedRecord]) -> None:
        """Replace the records of some seeds: what a proof has found, or where a file lies."""
        self.records |= {record.seed: record for record in records}

    def end(self, seeds: Iterable[int], status: SeedStatus) -> None:
        """These seeds train no more. One that diverged stays known as such."""
        ended = (self.records[seed] for seed in seeds if self.records[seed].status != "diverged")
        self.put([dataclasses.replace(record, status=status) for record in ended])

    @property
    def best_seed(self) -> int:
        """The seed with the best checkpoint; the first of equals."""
        return best_of(self.records.values()).seed

    def best(self, seed: int) -> Checkpoint:
        """The weights of the seed's best evaluation."""
        record = self.records[seed]
        flat_N = self._best_SN[self._index[seed]]
        return self.checkpoint(seed, flat_N, record.best_step, record.best_exact)

    def last(self, seed: int) -> Checkpoint:
        """The weights of the seed's last evaluation."""
        record = self.records[seed]
        flat_N = self._last_SN[self._index[seed]]
        return self.checkpoint(seed, flat_N, max(record.steps - 1, 0), record.last_exact)

    def checkpoint(self, seed: int, flat_N: Tensor, step: int, val_exact: float) -> Checkpoint:
        """Flat weights of a seed as a checkpoint of this run."""
        shapes = parameter_shapes(self._config)
        parts = flat_N.split([torch.Size(shape).numel() for shape in shapes.values()])
        named = zip(shapes.items(), parts, strict=True)
        return Checkpoint(
            config=self._config,
            params={name: part.reshape(shape) for (name, shape), part in named},
            recipe=schema.to_dict(self._recipe),
            seed=seed,
            step=step,
            val_exact=val_exact,
        )

    def successes(self) -> Rate:
        """Seeds that end at 99% exact match or better, with the 95% Wilson interval of their rate."""
        return wilson(sum(each.succeeded for each in self.records.values()), len(self.records))

    def last_steps(self) -> dict[int, int]:
        """The step of every seed's last evaluation, -1 before its first."""
        return {seed: record.steps - 1 for seed, record in self.records.items()}

    def state(self) -> dict[str, Any]:
        """Plain values for a resume."""
        return {
            # While a seed trains its record is flat; only a repair, after the last state, is not.
            "records": {seed: dict(vars(record)) for seed, record in self.records.items()},
            "best": self._best_SN,
            "last": self._last_SN,
            "perfect_since": dict(self._perfect_since),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state()`` of a run of the same seeds."""
        stored = state["records"]
        self.records = {seed: schema.from_dict(SeedRecord, stored[seed]) for seed in self.records}
        self._best_SN = torch.as_tensor(state["best"])
        self._last_SN = torch.as_tensor(state["last"])
        self._perfect_since = dict(state["perfect_since"])
