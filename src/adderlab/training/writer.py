"""Evaluations and the final state of a population, into its run folder.

Shapes: S seeds, N parameters of one model, flat.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from adderlab import schema
from adderlab.runs.checkpoints import Checkpoint
from adderlab.runs.folder import RunFolder, Status
from adderlab.runs.resume import save_state
from adderlab.training.job import Job, Outcome, fingerprint
from adderlab.training.ledger import SUCCESS, Ledger
from adderlab.training.measure import Evaluation


class Trained(Protocol):
    """What the writer needs to know of a population."""

    seeds: tuple[int, ...]
    """Those still training."""
    next_step: int
    seconds: float

    @property
    def num_parameters(self) -> int: ...

    def params(self, flat_SN: Tensor) -> dict[str, Tensor]: ...

    def keep(self, rows: list[int]) -> None: ...

    def state(self) -> dict[str, Any]: ...


class Writer:
    """Puts evaluations and the final state into the run folder."""

    def __init__(self, job: Job, folder: RunFolder, population: Trained, ledger: Ledger) -> None:
        self.job, self.folder, self.population, self.ledger = job, folder, population, ledger

    def begin(self) -> None:
        """A state to go on from before there is any result."""
        self._save_state()

    def take(self, evaluation: Evaluation, retired: Mapping[int, str] | None = None) -> None:
        """Tables first, then checkpoints, and the state that knows of them last. ``retired``: seeds
        that end here, each with its status."""
        population, ledger = self.population, self.ledger
        self.folder.check()
        self.folder.record(ledger.take(evaluation, population.seconds))
        perfect = ledger.finished(evaluation, self.job.recipe)
        ending = {evaluation.seeds[row]: "perfect" for row in perfect} | dict(retired or {})
        if ending:
            for seed, status in ending.items():
                ledger.set_status((seed,), status)
            population.keep([row for row, seed in enumerate(evaluation.seeds) if seed not in ending])
        self._write("running")
        self._save_state()

    def finish(self, status: Status) -> Outcome:
        """The closing files. A stopped run keeps its state at the very step it stopped at."""
        ledger, population = self.ledger, self.population
        self.folder.check()
        if status == "done":
            ledger.set_status(population.seeds, "done")
        self._write(status)
        self._save_state()
        if self.folder.is_population and status == "done":
            kept = {seed: self._checkpoints(seed) for seed in self._kept_seeds()}
            rows = list(ledger.rows.values())
            self.folder.keep_seeds(kept, rows, status=status, step=population.next_step - 1)
        best, _ = self._checkpoints(ledger.best_seed)
        path = self.job.folder / "checkpoints" / "best.pt"
        best = dataclasses.replace(best, path=path)
        return Outcome(status=status, ledger=ledger, best=best, folder=self.job.folder)

    def _write(self, status: Status) -> None:
        ledger, rows = self.ledger, list(self.ledger.rows.values())
        rate = ledger.successes()
        best, last = self._checkpoints(ledger.best_seed)
        self.folder.save_best(best)
        self.folder.save_last(last)
        self.folder.write_seeds(rows)
        self.folder.write_summary(
            rows,
            status=status,
            step=self.population.next_step - 1,
            elapsed_sec=self.population.seconds,
            params=self.population.num_parameters,
            success={
                "criterion": f"final val_exact >= {SUCCESS}",
                "successes": rate.count,
                "seeds": rate.n,
                "rate": rate.count / rate.n,
                "wilson_95": [rate.low, rate.high],
            },
        )

    def _save_state(self) -> None:
        save_state(
            self.job.folder,
            {
                "run": fingerprint(self.job),
                "population": self.population.state(),
                "ledger": self.ledger.state(),
            },
        )

    def _kept_seeds(self) -> list[int]:
        rows = self.ledger.rows.values()
        if self.job.keep == "all":
            return [row.seed for row in rows]
        return [
            row.seed
            for row in rows
            if row.seed == self.ledger.best_seed or row.final_val_exact >= SUCCESS
        ]

    def _checkpoints(self, seed: int) -> tuple[Checkpoint, Checkpoint]:
        """(best, last) of a seed."""
        best_N, row = self.ledger.best_weights(seed)
        last_N, last_step = self.ledger.last_weights(seed)
        return (
            self._checkpoint(seed, best_N, row.best_step, row.best_val_exact),
            self._checkpoint(seed, last_N, max(last_step, 0), row.final_val_exact),
        )

    def _checkpoint(self, seed: int, flat_N: Tensor, step: int, val_exact: float) -> Checkpoint:
        params = self.population.params(flat_N[None])
        return Checkpoint(
            config=self.job.config,
            params={name: tensor[0] for name, tensor in params.items()},
            recipe=schema.to_dict(self.job.recipe),
            seed=seed,
            step=step,
            val_exact=val_exact,
        )
