"""What a run remembers of every seed: its row, its best and its last weights.

Shapes: S seeds of the whole run (not only those still training), N parameters of one model.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from adderlab.evaluation.intervals import Rate, wilson
from adderlab.runs.metrics import Metrics, SeedRow
from adderlab.training.measure import Evaluation
from adderlab.training.recipe import Recipe

SUCCESS = 0.99
"""A seed succeeds if its last evaluation has at least this exact match (facts: AdderBoard's bar)."""


class SeedTracker:
    """Rows, best and last weights of all seeds of a run."""

    def __init__(self, seeds: tuple[int, ...], flat_SN: Tensor) -> None:
        self.rows = {seed: SeedRow(seed=seed) for seed in seeds}
        self.best_SN, self.last_SN = flat_SN.clone(), flat_SN.clone()
        self._index = {seed: s for s, seed in enumerate(seeds)}
        self._score = {seed: (-1.0, 0.0, 0.0) for seed in seeds}
        self._perfect = dict.fromkeys(seeds, 0)
        self._perfect_since: dict[int, int | None] = dict.fromkeys(seeds)
        self._last_step = dict.fromkeys(seeds, -1)

    def take(self, evaluation: Evaluation, elapsed_sec: float) -> dict[int, Metrics]:
        """Note an evaluation of the active seeds; its table rows."""
        metrics, flat_SN = {}, evaluation.weights_SN.cpu()
        for row, seed in enumerate(evaluation.seeds):
            metrics[seed] = Metrics(
                step=evaluation.step,
                train_loss=float(evaluation.train_loss_S[row]),
                val_exact=float(evaluation.val_exact_S[row]),
                val_token_acc=float(evaluation.val_token_acc_S[row]),
                lr=evaluation.lr,
                elapsed_sec=elapsed_sec,
                step_acc=tuple(evaluation.step_acc_SI[row].tolist()),
            )
            score = evaluation.score(row)
            is_best = score > self._score[seed]
            s = self._index[seed]
            self.last_SN[s] = flat_SN[row]
            self._last_step[seed] = evaluation.step
            if is_best:
                self._score[seed] = score
                self.best_SN[s] = flat_SN[row]
            perfect = metrics[seed].val_exact == 1.0
            self._perfect[seed] = self._perfect[seed] + 1 if perfect else 0
            if not perfect:
                self._perfect_since[seed] = None
            elif self._perfect[seed] == 1:
                self._perfect_since[seed] = evaluation.step
            self.rows[seed] = self.rows[seed].after(metrics[seed], is_best=is_best)
        return metrics

    def finished(self, evaluation: Evaluation, recipe: Recipe) -> list[int]:
        """Rows of the evaluation whose seeds have been perfect for as long as the recipe asks."""
        return [
            row
            for row, seed in enumerate(evaluation.seeds)
            if self._perfect_long_enough(seed, evaluation.step, recipe)
        ]

    def _perfect_long_enough(self, seed: int, step: int, recipe: Recipe) -> bool:
        since, times, steps = (
            self._perfect_since[seed],
            recipe.stop_after_perfect,
            recipe.stop_perfect_steps,
        )
        if since is None:
            return False
        return 0 < times <= self._perfect[seed] or 0 < steps <= step - since

    def set_status(self, seeds: tuple[int, ...], status: str) -> None:
        for seed in seeds:
            self.rows[seed] = dataclasses.replace(self.rows[seed], status=status)

    @property
    def best_seed(self) -> int:
        """The seed with the best checkpoint; the first of equals."""
        return max(self._score, key=lambda seed: self._score[seed])

    def best_weights(self, seed: int) -> tuple[Tensor, SeedRow]:
        return self.best_SN[self._index[seed]], self.rows[seed]

    def last_weights(self, seed: int) -> tuple[Tensor, int]:
        """The weights at the last evaluation, and its step."""
        return self.last_SN[self._index[seed]], self._last_step[seed]

    def successes(self) -> Rate:
        """Seeds that end at ``SUCCESS`` or better, with the 95% Wilson interval of their rate."""
        return wilson(self.num_successes, len(self.rows))

    @property
    def num_successes(self) -> int:
        return sum(row.final_val_exact >= SUCCESS for row in self.rows.values())

    def state(self) -> dict[str, Any]:
        """Plain values for a resume."""
        return {
            "rows": {seed: dataclasses.asdict(row) for seed, row in self.rows.items()},
            "best": self.best_SN,
            "last": self.last_SN,
            "score": dict(self._score),
            "perfect": dict(self._perfect),
            "perfect_since": dict(self._perfect_since),
            "last_step": dict(self._last_step),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.rows = {seed: SeedRow(**row) for seed, row in state["rows"].items()}
        self.best_SN = torch.as_tensor(state["best"])
        self.last_SN = torch.as_tensor(state["last"])
        self._score = {seed: tuple(score) for seed, score in state["score"].items()}
        self._perfect = dict(state["perfect"])
        self._perfect_since = dict(state["perfect_since"])
        self._last_step = dict(state["last_step"])
