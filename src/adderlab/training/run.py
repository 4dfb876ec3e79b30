"""Runs: populations trained, watched and written to their folders, from the start or from a stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from adderlab import schema
from adderlab.errors import Failure
from adderlab.runs.environment import collect_environment
from adderlab.runs.folder import RunConfig, RunFolder
from adderlab.runs.resume import STATE_FILE, drop_rows_after, load_state
from adderlab.training.checks import check_fits
from adderlab.training.job import Job, Outcome, fingerprint
from adderlab.training.launch import advance, furthest_behind
from adderlab.training.ledger import Ledger
from adderlab.training.measure import Evaluation
from adderlab.training.objective import Objective
from adderlab.training.population import Population
from adderlab.training.writer import Writer


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
        ledger = Ledger(job.seeds, self.population.first_SN.cpu())
        self._writer = Writer(job, folder, self.population, ledger)
        if order.resume and (job.folder / STATE_FILE).exists():
            _restore(job, self.population, ledger)
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


class Pace:
    """How many steps to take in one call: as many as fit between two looks at the signals and the
    display. No effect on any result."""

    SECONDS = 0.2

    def __init__(self) -> None:
        self._most = 1

    def advance(self, populations: Sequence[Population], last: int) -> list[Tensor]:
        """``launch.advance`` by a stretch that does not pass step ``last``."""
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
