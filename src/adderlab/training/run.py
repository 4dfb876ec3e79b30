"""Runs: populations trained, watched and written to their folders, from the start or from a stop."""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from adderlab.errors import Failure
from adderlab.files import schema
from adderlab.runs.checkpoints import Checkpoint
from adderlab.runs.environment import collect_environment
from adderlab.runs.folder import (
    STATE_FILE,
    RunConfig,
    RunFolder,
    Status,
    drop_rows_after,
    load_state,
    save_state,
)
from adderlab.training.job import Job, Outcome, fingerprint
from adderlab.training.measure import Evaluation
from adderlab.training.objective import Objective
from adderlab.training.population import Population, advance, furthest_behind
from adderlab.training.start import check_fits
from adderlab.training.tracker import SUCCESS, SeedTracker

# Evaluations and the final state of a population, into its run folder.
#
# Shapes: S seeds, N parameters of one model, flat.


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

    def __init__(self, job: Job, folder: RunFolder, population: Trained, tracker: SeedTracker) -> None:
        self.job, self.folder, self.population, self.tracker = job, folder, population, tracker

    def begin(self) -> None:
        """A state to go on from before there is any result."""
        self._save_state()

    def take(self, evaluation: Evaluation, retired: Mapping[int, str] | None = None) -> None:
        """Tables first, then checkpoints, and the state that knows of them last. ``retired``: seeds
        that end here, each with its status."""
        population, tracker = self.population, self.tracker
        self.folder.check()
        self.folder.record(tracker.take(evaluation, population.seconds))
        perfect = tracker.finished(evaluation, self.job.recipe)
        ending = {evaluation.seeds[row]: "perfect" for row in perfect} | dict(retired or {})
        if ending:
            for seed, status in ending.items():
                tracker.set_status((seed,), status)
            population.keep([row for row, seed in enumerate(evaluation.seeds) if seed not in ending])
        self._write("running")
        self._save_state()

    def finish(self, status: Status) -> Outcome:
        """The closing files. A stopped run keeps its state at the very step it stopped at."""
        tracker, population = self.tracker, self.population
        self.folder.check()
        if status == "done":
            tracker.set_status(population.seeds, "done")
        self._write(status)
        self._save_state()
        if self.folder.is_population and status == "done":
            kept = {seed: self._checkpoints(seed) for seed in self._kept_seeds()}
            rows = list(tracker.rows.values())
            self.folder.keep_seeds(kept, rows, status=status, step=population.next_step - 1)
        best, _ = self._checkpoints(tracker.best_seed)
        path = self.job.folder / "checkpoints" / "best.pt"
        best = dataclasses.replace(best, path=path)
        return Outcome(status=status, tracker=tracker, best=best, folder=self.job.folder)

    def _write(self, status: Status) -> None:
        tracker, rows = self.tracker, list(self.tracker.rows.values())
        rate = tracker.successes()
        best, last = self._checkpoints(tracker.best_seed)
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
                "ledger": self.tracker.state(),
            },
        )

    def _kept_seeds(self) -> list[int]:
        rows = self.tracker.rows.values()
        if self.job.keep == "all":
            return [row.seed for row in rows]
        return [
            row.seed
            for row in rows
            if row.seed == self.tracker.best_seed or row.final_val_exact >= SUCCESS
        ]

    def _checkpoints(self, seed: int) -> tuple[Checkpoint, Checkpoint]:
        """(best, last) of a seed."""
        best_N, row = self.tracker.best_weights(seed)
        last_N, last_step = self.tracker.last_weights(seed)
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


class RunFailed(Failure):
    """A run that had begun could not go on; its folder keeps the last good state."""


class Listener(Protocol):
    """Whoever watches a run."""

    def stepped(self, step: int, active: int) -> None:
        """``step`` steps are done; ``active`` models are training: every seed's, or all its draws."""
        ...

    def evaluated(self, evaluation: Evaluation) -> None: ...


Retire = Callable[[Evaluation], Mapping[int, str]]
"""Seeds that need no more training after an evaluation, each with the status it ends in."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """A run to be begun or gone on with, and who is told of it."""

    job: Job
    listener: Listener
    resume: bool = False
    retire: Retire | None = None
    """Asked after every evaluation which seeds to train no further."""
    reached: Callable[[Outcome], None] = lambda outcome: None
    """Told once the run is where it was to go; not if it was stopped before."""


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

    ``until``, ``stop`` and what it raises: see ``run_together``; ``retire``: see ``Order``.
    """
    order = Order(job=job, listener=listener, resume=resume, retire=retire)
    return run_together([order], objective, device, until=until, stop=stop)[0]


def run_together(
    orders: Sequence[Order],
    objective: Objective,
    device: torch.device,
    *,
    until: int | None = None,
    stop: threading.Event | None = None,
) -> list[Outcome]:
    """Runs of one model side by side, their steps in one launch wherever they can be
    (``training.launch``). Every run's folder is what it would be had the run been alone, but for times.

    ``until``: stop, as on a signal, once so many steps are done. ``stop``: whoever starts several runs
    listens for signals itself and sets this event; otherwise it is done here.

    Raises ``UsageError`` if a recipe does not fit the model, or a folder already holds a run (or none,
    to resume), ``Failure`` if the disk refuses: then the last good states stay (``RunFailed`` once
    there are some).
    """
    for order in orders:
        check_fits(order.job.config, order.job.recipe, order.job.seeds)
    with ExitStack() as opened:
        folders = [opened.enter_context(_open_folder(order, device)) for order in orders]
        stopping = opened.enter_context(stop_requests()) if stop is None else stop
        begun = zip(orders, folders, strict=True)
        training = [_Run(order, folder, objective, device, until) for order, folder in begun]
        outcomes: dict[Path, Outcome] = {}
        pace = Pace()
        try:
            while training:
                for each in [one for one in training if one.is_there or stopping.is_set()]:
                    training.remove(each)
                    outcomes[each.order.job.folder] = each.end()
                if training:
                    _advance(training, pace)
        except Failure as error:
            raise RunFailed(str(error)) from error
    return [outcomes[order.job.folder] for order in orders]


class _Run:
    """A run that is being trained."""

    def __init__(
        self,
        order: Order,
        folder: RunFolder,
        objective: Objective,
        device: torch.device,
        until: int | None,
    ) -> None:
        job = order.job
        self.order = order
        self.last = job.recipe.total_steps if until is None else until
        self.population = Population(job.config, job.recipe, job.seeds, objective, device)
        tracker = SeedTracker(job.seeds, self.population.first_SN.cpu())
        self._writer = Writer(job, folder, self.population, tracker)
        if order.resume and (job.folder / STATE_FILE).exists():
            _restore(job, self.population, tracker)
            folder.begin_missing_tables()
        else:
            if order.resume:
                folder.restart(collect_environment(str(device)))
            self._writer.begin()

    @property
    def is_there(self) -> bool:
        return self.population.done or self.population.next_step >= self.last

    def stepped(self, loss_S: Tensor) -> None:
        """What follows a stretch of steps."""
        population, order = self.population, self.order
        step = population.next_step - 1
        order.listener.stepped(step + 1, population.num_rows)
        if order.job.recipe.looks_at(step):
            evaluation = population.evaluate(loss_S)
            order.listener.evaluated(evaluation)
            self._writer.take(evaluation, order.retire(evaluation) if order.retire else None)

    def end(self) -> Outcome:
        outcome = self._writer.finish("done" if self.population.done else "stopped")
        if self.is_there:
            self.order.reached(outcome)
        return outcome


def _advance(training: Sequence[_Run], pace: Pace) -> None:
    """One launch: of those furthest behind, so that runs stopped at different steps come together."""
    populations, ahead = furthest_behind([each.population for each in training])
    chosen = {id(population) for population in populations}
    runs = [each for each in training if id(each.population) in chosen]
    last = min(each.last for each in runs)
    losses = pace.advance(populations, last if ahead is None else min(last, ahead))
    for each, loss_S in zip(runs, losses, strict=True):
        each.stepped(loss_S)


def _restore(job: Job, population: Population, tracker: SeedTracker) -> None:
    """Where the run was when it last wrote its state; the tables end there too."""
    state, path = load_state(job.folder), job.folder / STATE_FILE
    own = {fingerprint(job), fingerprint(job, old_names=True)}
    if state.get("run", fingerprint(job)) not in own:
        raise Failure(
            f"{path} belongs to other settings than {job.folder / 'config.json'}: one of them was "
            "changed; restore it from a copy, or train the run anew"
        )
    try:
        population.load_state(state["population"])
        tracker.load_state(state["ledger"])
        last_steps = dict(state["ledger"]["last_step"])
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise Failure(f"{path} does not fit this run ({reason}); train the run anew") from error
    drop_rows_after(job.folder, population.next_step - 1, last_steps)


class Pace:
    """How many steps to take in one call: as many as fit between two looks at the signals and the
    display. No effect on any result."""

    SECONDS = 0.2

    def __init__(self) -> None:
        self._most = 1

    def advance(self, populations: Sequence[Population], last: int) -> list[Tensor]:
        """``launch.advance`` by a step_batch that does not pass step ``last``."""
        before, started = populations[0].next_step, time.perf_counter()
        losses = advance(populations, min(self._most, last - before))
        steps, seconds = populations[0].next_step - before, time.perf_counter() - started
        self._most = max(1, min(2 * self._most, int(steps * self.SECONDS / max(seconds, 1e-6))))
        return losses


def _open_folder(order: Order, device: torch.device) -> RunFolder:
    job = order.job
    if order.resume:
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
