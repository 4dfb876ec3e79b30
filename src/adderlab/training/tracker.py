"""What a run remembers of every seed: its record, its best and its last weights.

Shapes: S seeds of the whole run (not only those still training), N parameters of one model, flat.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from adderlab.evaluation.intervals import Rate, wilson
from adderlab.files import schema
from adderlab.models.config import ModelConfig
from adderlab.runs.checkpoints import Checkpoint, parameter_shapes
from adderlab.runs.records import Metrics, SeedRecord, SeedStatus, best_of
from adderlab.training.measure import Evaluation
from adderlab.training.recipe import Recipe


class SeedTracker:
    """Records, best and last weights of all seeds of a run."""

    def __init__(
        self, config: ModelConfig, recipe: Recipe, seeds: tuple[int, ...], flat_SN: Tensor
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
        metrics, flat_SN = {}, evaluation.weights_SN.cpu()
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
