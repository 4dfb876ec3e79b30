"""A run: a population trained, watched and written to its folder, from the start or from a stop."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from adderlab import schema
from adderlab.errors import Failure, UsageError
from adderlab.models.config import ModelConfig
from adderlab.runs.checkpoints import Checkpoint
from adderlab.runs.environment import collect_environment
from adderlab.runs.folder import RunConfig, RunFolder, Status, read_config
from adderlab.runs.resume import STATE_FILE, drop_rows_after, load_state, save_state
from adderlab.runs.run_config import Keep
from adderlab.training.checks import check_fits
from adderlab.training.ledger import SUCCESS, Ledger
from adderlab.training.measure import Evaluation
from adderlab.training.objective import Objective
from adderlab.training.population import Population
from adderlab.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to train and where to write it."""

    config: ModelConfig
    recipe: Recipe
    seeds: tuple[int, ...]
    folder: Path
    run_name: str = ""
    """Empty: the folder's name."""
    overwrite: bool = False
    """Delete a run that is there already."""
    keep: Keep = "grokked"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    status: Status
    ledger: Ledger
    best: Checkpoint
    folder: Path


class RunFailed(Failure):
    """A run that had begun could not go on; its folder keeps the last good state."""


class Listener(Protocol):
    """Whoever watches a run."""

    def stepped(self, step: int, active: int) -> None:
        """``step`` steps are done; ``active`` seeds are training."""
        ...

    def evaluated(self, evaluation: Evaluation) -> None: ...


Retire = Callable[[Evaluation], Mapping[int, str]]
"""Seeds that need no more training after an evaluation, each with the status it ends in."""


def read_job(folder: Path) -> Job:
    """The job of a run folder, to resume it. Raises ``UsageError`` if there is none."""
    if not (folder / "config.json").is_file():
        raise UsageError(f"there is no run in {folder} (no config.json); check the name")
    stored = read_config(folder)
    recipe = schema.from_dict(Recipe, stored.recipe, f"{folder / 'config.json'}: recipe")
    return Job(
        config=stored.model,
        recipe=recipe,
        seeds=stored.seeds,
        folder=folder,
        run_name=stored.run_name,
        keep=stored.keep,
    )


def run(
    job: Job,
    objective: Objective,
    device: torch.device,
    listener: Listener,
    *,
    resume: bool = False,
    until: int | None = None,
    stop: threading.Event | None = None,
    retire: Retire | None = None,
) -> Outcome:
    """Train until done, stopped by a signal, or failed; the folder is valid after every evaluation.

    ``until``: stop, as on a signal, once so many steps are done. ``stop``: whoever starts several runs
    listens for signals itself and sets this event; then ``run`` does not. ``retire``: asked after every
    evaluation which seeds to train no further.

    Raises ``UsageError`` if the recipe does not fit the model, or the folder already holds a run (or
    none, to resume), ``Failure`` if the disk refuses: then the last good state stays (``RunFailed``
    once there is one).
    """
    check_fits(job.config, job.recipe, job.seeds)
    folder = _open_folder(job, device, resume)
    with folder, stop_requests() if stop is None else nullcontext(stop) as stopping:
        population = Population(job.config, job.recipe, job.seeds, objective, device)
        ledger = Ledger(job.seeds, population.flat_SN.cpu())
        writer = Writer(job, folder, population, ledger)
        if resume and (job.folder / STATE_FILE).exists():
            _restore(job, population, ledger)
            folder.begin_missing_tables()
        else:
            if resume:
                folder.restart(collect_environment(str(device)))
            writer.begin()
        last = job.recipe.total_steps if until is None else until
        pace = Pace()
        try:
            while not population.done and not stopping.is_set() and population.next_step < last:
                loss_S = pace.advance(population, last)
                step = population.next_step - 1
                listener.stepped(step + 1, len(population.seeds))
                if job.recipe.looks_at(step):
                    evaluation = population.evaluate(loss_S)
                    listener.evaluated(evaluation)
                    writer.take(evaluation, retire(evaluation) if retire else None)
            return writer.finish("done" if population.done else "stopped")
        except Failure as error:
            raise RunFailed(str(error)) from error


def _restore(job: Job, population: Population, ledger: Ledger) -> None:
    """Where the run was when it last wrote its state; the tables end there too."""
    state, path = load_state(job.folder), job.folder / STATE_FILE
    if state.get("run", fingerprint(job)) != fingerprint(job):
        raise Failure(
            f"{path} belongs to other settings than {job.folder / 'config.json'}: one of them was "
            "changed; restore it from a copy, or train the run anew"
        )
    try:
        population.load_state(state["population"])
        ledger.load_state(state["ledger"])
        last_steps = dict(state["ledger"]["last_step"])
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise Failure(f"{path} does not fit this run ({reason}); train the run anew") from error
    drop_rows_after(job.folder, population.next_step - 1, last_steps)


def fingerprint(job: Job) -> str:
    """SHA-256 over what decides a run's numbers: model, recipe and seeds."""
    settings = [schema.to_dict(job.config), schema.to_dict(job.recipe), list(job.seeds)]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


class Pace:
    """How many steps to take in one call: as many as fit between two looks at the signals and the
    display. No effect on any result."""

    SECONDS = 0.2

    def __init__(self) -> None:
        self._most = 1

    def advance(self, population: Population, last: int) -> Tensor:
        """Advance by a stretch that does not pass step ``last``; loss_S before its last step."""
        before, started = population.next_step, time.perf_counter()
        loss_S = population.advance(min(self._most, last - before))
        steps, seconds = population.next_step - before, time.perf_counter() - started
        self._most = max(1, min(2 * self._most, int(steps * self.SECONDS / max(seconds, 1e-6))))
        return loss_S


def _open_folder(job: Job, device: torch.device, resume: bool) -> RunFolder:
    if resume:
        return RunFolder.open(job.folder)
    environment = collect_environment(str(device))
    config = RunConfig(
        model=job.config,
        recipe=schema.to_dict(job.recipe),
        seeds=job.seeds,
        command=tuple(environment["command"]),
        run_name=job.run_name,
        keep=job.keep,
    )
    return RunFolder.create(job.folder, config, environment, overwrite=job.overwrite)


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


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM ask for a stop after the current step; a second one is not held back."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def request(number: int, frame: object) -> None:
        event.set()
        for each, handler in previous.items():
            signal.signal(each, handler)

    for number in previous:
        signal.signal(number, request)
    try:
        yield event
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
