"""Runs: populations trained, followed and written to their folders, from the start or from a stop.

Shapes: S seeds still training, N parameters of one model, flat.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
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

from adderlab.errors import Failure, UsageError
from adderlab.files import schema
from adderlab.models.config import ModelConfig
from adderlab.reading.file_model import FileModel
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint, parameter_shapes, save_checkpoint
from adderlab.runs.folder import (
    START_FILE,
    STATE_FILE,
    RunFolder,
    drop_rows_after,
    load_state,
    save_state,
)
from adderlab.runs.metadata import (
    ENDED,
    Keep,
    RunConfig,
    Status,
    collect_environment,
    ended_as,
    now,
    read_config,
)
from adderlab.runs.records import SUCCESS, Metrics, SeedRecord
from adderlab.runs.stored import SnapshotFile, snapshots_size, tracker_state
from adderlab.training.measure import Evaluation, Listener, SeedTracker, Start
from adderlab.training.objective import Objective
from adderlab.training.population import Population, advance, furthest_behind
from adderlab.training.recipe import Recipe, Stage, learning_rate
from adderlab.training.start import check_fits


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to train and where to write it."""

    config: ModelConfig | FileModel
    recipe: Recipe
    seeds: tuple[int, ...]
    folder: Path
    run_name: str = ""
    """Empty: the folder's name."""
    overwrite: bool = False
    """Delete a run that is there already."""
    keep: Keep = "grokked"
    source: Checkpoint | None = None
    """The trained model that the recipe's ``warm_start`` names."""
    checkpoint_every: int | None = None
    """Steps from one snapshot of all weights to the next; None: none are taken. No effect on a seed."""

    def run_config(self, command: Sequence[str]) -> RunConfig:
        """What ``config.json`` says of it."""
        return RunConfig(
            model=self.config,
            recipe=schema.to_dict(self.recipe),
            seeds=self.seeds,
            command=tuple(command),
            run_name=self.run_name,
            keep=self.keep,
            checkpoint_every=self.checkpoint_every,
        )


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
        source=load_checkpoint(folder / START_FILE) if recipe.warm_start else None,
        checkpoint_every=stored.checkpoint_every,
    )


def extended(job: Job, steps: int) -> Job:
    """The job with ``steps`` steps in all: a last stage at the rate where the recipe ends, from every
    seed's best weights. The folder's settings say so from here on.

    Raises ``UsageError`` if there are as many already, or no state to go on from; ``Failure`` if the
    state cannot be read or the disk refuses.
    """
    recipe, total = job.recipe, job.recipe.total_steps
    if steps <= total:
        raise UsageError(f"the run in {job.folder} takes {total} steps: give more with --steps")
    rate = learning_rate(recipe, total - 1)
    stage = Stage(steps=steps - total, lr=rate, schedule="constant")
    longer = dataclasses.replace(job, recipe=dataclasses.replace(recipe, stages=(*recipe.stages, stage)))
    check_fits(longer.config, longer.recipe, longer.seeds, longer.source)
    with RunFolder.open(job.folder) as folder:
        state = load_state(job.folder)
        records = state["tracker"]["records"]
        if all(record["status"] == "diverged" for record in records.values()):
            raise UsageError(f"the run in {job.folder} has diverged: train it anew, with a smaller lr")
        for record in records.values():
            if record["status"] == "done":
                record["status"] = "training"
        # The state first: it goes with either settings, so a kill between the two leaves a run that
        # can be taken up.
        save_state(job.folder, {**state, "extended": fingerprint(longer)})
        folder.replace_recipe(schema.to_dict(longer.recipe))
    return longer


def fingerprint(job: Job, *, old_names: bool = False) -> str:
    """SHA-256 over what decides a run's numbers: model, recipe and seeds.

    ``old_names``: as version 0.1 hashed them, under the settings' names of its time.
    """
    model, recipe = (schema.to_dict(each, old_names=old_names) for each in (job.config, job.recipe))
    settings = [model, recipe, list(job.seeds)]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """How a run ended."""

    status: Status
    steps: int
    """Of the seeds that trained longest."""
    tracker: SeedTracker
    """The record and the weights of every seed."""
    best: Checkpoint
    folder: Path

    @property
    def records(self) -> tuple[SeedRecord, ...]:
        """In the order of the run's seeds."""
        return tuple(self.tracker.records.values())


Verify = Callable[[Evaluation, SeedTracker], None]
"""Called after every evaluation. It may put what it finds of seeds into the tracker's records; those
that it gives a status to end in train no further. Raises ``BrokenOff`` where a stop comes before it
is done."""


class BrokenOff(Exception):
    """The run goes back to its last state, so that the evaluation is made, and verified, when it goes
    on."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """A run to be begun or gone on with, and who follows it."""

    job: Job
    listener: Listener
    resume: bool = False
    verify: Verify | None = None
    environment: Mapping[str, Any] | None = None
    """What ``environment.json`` says, but for the time, where who starts many runs has asked already."""
    ended: Callable[[RunResult], None] = lambda result: None
    """Called once the run is done, or where it was to go, or stopped."""


class RunFailed(Failure):
    """A run that had begun could not go on; its folder keeps the last good state."""


def run(
    job: Job,
    objective: Objective,
    device: torch.device,
    listener: Listener | None = None,
    *,
    resume: bool = False,
    until: int | None = None,
    stop: threading.Event | None = None,
    verify: Verify | None = None,
    environment: Mapping[str, Any] | None = None,
) -> RunResult:
    """Train until done, stopped by a signal, or failed; the folder is valid at any moment, and at most
    an evaluation or a second behind, whichever is more.

    ``until``, ``stop`` and what it raises: see ``run_together``; ``environment``: see ``Order``.
    """
    order = Order(
        job=job,
        listener=listener or Listener(),
        resume=resume,
        verify=verify,
        environment=environment,
    )
    return run_together([order], objective, device, until=until, stop=stop)[0]


def run_together(
    orders: Sequence[Order],
    objective: Objective,
    device: torch.device,
    *,
    until: int | None = None,
    stop: threading.Event | None = None,
) -> list[RunResult]:
    """Runs of one model side by side, their steps batched wherever they can be
    (``population.advance``). Every run's folder is what it would be had the run been alone, but for
    times.

    ``until``: stop, as on a signal, once so many steps are done. ``stop``: who starts several runs
    listens for signals itself and sets this event; otherwise it is done here.

    Raises ``UsageError`` if a recipe does not fit the model, or a folder already holds a run (or none,
    to resume), ``Failure`` if the disk refuses: then the last good states stay (``RunFailed`` once
    there are some).
    """
    for order in orders:
        _check(order.job)
    with ExitStack() as opened:
        folders = [opened.enter_context(_open_folder(order, device)) for order in orders]
        stopping = opened.enter_context(stop_requests()) if stop is None else stop
        begun = zip(orders, folders, strict=True)
        training = [_Run(order, folder, objective, device, until) for order, folder in begun]
        results: dict[Path, RunResult] = {}
        pace = Pace()
        try:
            while training:
                for each in [one for one in training if one.is_there or stopping.is_set()]:
                    training.remove(each)
                    results[each.order.job.folder] = each.end()
                if training:
                    _advance(training, pace)
        except Failure as error:
            raise RunFailed(str(error)) from error
    return [results[order.job.folder] for order in orders]


def _check(job: Job) -> None:
    """Raises ``UsageError`` for what cannot be, before anything is written."""
    check_fits(job.config, job.recipe, job.seeds, job.source)
    if job.checkpoint_every is not None:
        size = sum(torch.Size(shape).numel() for shape in parameter_shapes(job.config).values())
        snapshots_size(job.recipe.total_steps, job.checkpoint_every, len(job.seeds), size)


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
        self._folder, self._objective, self._device = folder, objective, device
        self._begin()
        self._snapshots = None
        if job.checkpoint_every is not None:
            size = self.population.num_parameters
            self._snapshots = SnapshotFile(job.folder, job.checkpoint_every, job.seeds, size)
        resumed = order.resume and (job.folder / STATE_FILE).exists()
        if resumed:
            _restore(job, self.population, self._tracker)
            folder.begin_missing_tables()
        else:
            if order.resume:
                folder.restart(collect_environment(str(device)))
            self._writer.save_state()
        if self._snapshots is not None:
            self._snapshots.go_on(self.population.next_step)
        order.listener.on_start(
            Start(
                folder=job.folder,
                seeds=self.population.seeds,
                steps=job.recipe.total_steps,
                resumed=resumed,
                device=str(device),
                engine=objective.engine_name,
                halvings=job.recipe.restarts.halve_at if job.recipe.restarts else (),
            )
        )

    def _begin(self) -> None:
        job = self.order.job
        self.population = Population(
            job.config, job.recipe, job.seeds, self._objective, self._device, job.source
        )
        first_SN = self.population.first_SN.cpu()
        self._tracker = SeedTracker(job.config, job.recipe, job.seeds, first_SN)
        self._writer = Writer(job, self._folder, self.population, self._tracker)

    def _go_back(self) -> None:
        """To the last state: what was trained since is lost."""
        self._begin()
        _restore(self.order.job, self.population, self._tracker)
        if self._snapshots is not None:
            self._snapshots.go_on(self.population.next_step)

    @property
    def is_there(self) -> bool:
        return self.population.done or self.population.next_step >= self.last

    @property
    def stops_at(self) -> int:
        """How many steps are done when there is something to do: the run's own evaluations aside, that
        is at a snapshot or at the end."""
        if self._snapshots is None:
            return self.last
        return min(self.last, self._snapshots.next_step(self.population.next_step) + 1)

    def after_steps(self, loss_S: Tensor) -> None:
        """What follows a batch of steps: an evaluation where the recipe asks for one, and what is due of
        the folder's files."""
        population, order, tracker = self.population, self.order, self._tracker
        step = population.next_step - 1
        order.listener.on_step(population.seeds, step + 1, population.num_rows)
        if self._snapshots is not None and self._snapshots.next_step(step) == step:
            self._snapshots.append(step, population.seeds, population.first_SN)
        if not order.job.recipe.looks_at(step):
            return
        evaluation = population.evaluate(loss_S)
        self._writer.take(evaluation)
        tracker.end(tracker.perfect_long_enough(evaluation), "perfect")
        needed = order.job.recipe.needed_after(step)
        tracker.end(
            (seed for seed in evaluation.seeds if tracker.records[seed].best_exact < needed), "done"
        )
        records = tuple(tracker.records[seed] for seed in evaluation.seeds)
        order.listener.on_evaluation(evaluation, records)
        if order.verify:
            try:
                order.verify(evaluation, tracker)
            except BrokenOff:
                self._go_back()
                return
        going = ("training", "diverged")
        left = [
            row for row, seed in enumerate(evaluation.seeds) if tracker.records[seed].status in going
        ]
        ended = len(left) < len(evaluation.seeds)
        if ended:
            population.keep(left)
        # At the end the closing files follow at once.
        if not self.is_there and (ended or self._writer.is_due):
            self._writer.write("running")

    def end(self) -> RunResult:
        """Close the folder's files, and what came of the run."""
        result = self._writer.finish("done" if self.population.done else "stopped")
        self.order.ended(result)
        return result


def _advance(training: Sequence[_Run], pace: Pace) -> None:
    """One call: of those furthest behind, so that runs stopped at different steps come together."""
    populations, ahead = furthest_behind([each.population for each in training])
    chosen = {id(population) for population in populations}
    runs = [each for each in training if id(each.population) in chosen]
    last = min(each.stops_at for each in runs)
    losses = pace.advance(populations, last if ahead is None else min(last, ahead))
    for each, loss_S in zip(runs, losses, strict=True):
        each.after_steps(loss_S)


def _restore(job: Job, population: Population, tracker: SeedTracker) -> None:
    """Where the run was when it last wrote its state; the tables end there too."""
    state, path = load_state(job.folder), job.folder / STATE_FILE
    own = {fingerprint(job), fingerprint(job, old_names=True)}
    if not own & {state.get("run", fingerprint(job)), state.get("extended")}:
        raise Failure(
            f"{path} belongs to other settings than {job.folder / 'config.json'}: one of them was "
            "changed; restore it from a copy, or train the run anew"
        )
    try:
        population.load_state(state["population"])
        tracker.load_state(tracker_state(state, job.folder))
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise Failure(f"{path} does not fit this run ({reason}); train the run anew") from error
    drop_rows_after(job.folder, population.next_step - 1, tracker.last_steps())


class Trained(Protocol):
    """What the writer needs to know of a population."""

    seeds: tuple[int, ...]
    """Those still training."""
    next_step: int
    seconds: float

    @property
    def num_parameters(self) -> int: ...

    def state(self) -> dict[str, Any]: ...


class Writer:
    """Puts evaluations and the final state of a population into its run folder.

    Small models are evaluated many times a second, and every file that is safely on the disk takes
    milliseconds: so there is a pause between two writings. What a kill takes is trained again.
    """

    PAUSE = 1.0
    """Seconds."""

    def __init__(self, job: Job, folder: RunFolder, population: Trained, tracker: SeedTracker) -> None:
        self.job, self.folder, self.population, self.tracker = job, folder, population, tracker
        self._rows: list[dict[int, Metrics]] = []
        """Of the tables, not written yet."""
        self._written = time.monotonic()

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self._written + self.PAUSE

    def take(self, evaluation: Evaluation) -> None:
        """Note an evaluation."""
        self._rows.append(self.tracker.take(evaluation, self.population.seconds))

    def write(self, status: Status) -> None:
        """The tables first, then the checkpoints, and the state that knows of them last."""
        self.folder.check()
        if self._rows:
            self.folder.record(*self._rows)
            self._rows = []
        best = self.tracker.best_seed
        self.folder.save_best(self.tracker.best(best))
        self.folder.save_last(self.tracker.last(best))
        self._write_records(status, {best: "checkpoints/best.pt"})
        self.save_state()
        self._written = time.monotonic()

    def save_state(self) -> None:
        """What a resume goes on from; there is one before there is any result."""
        save_state(
            self.job.folder,
            {
                "run": fingerprint(self.job),
                "population": self.population.state(),
                "tracker": self.tracker.state(),
            },
        )

    def finish(self, status: Status) -> RunResult:
        """The closing files. A stopped run keeps its state at the very step it stopped at; one that is
        done, and whose seeds have all diverged, is called so."""
        tracker, population, folder = self.tracker, self.population, self.folder
        if status == "done":
            tracker.end(population.seeds, "done")
            status = ended_as(tracker.records.values())
        self.write(status)
        if folder.is_population and status in ENDED:
            kept = {seed: (tracker.best(seed), tracker.last(seed)) for seed in self._kept_seeds()}
            step = population.next_step - 1
            folder.keep_seeds(kept, list(tracker.records.values()), step=step)
            places = {seed: f"{folder.seed_path(seed).name}/checkpoints/best.pt" for seed in kept}
            self._write_records(status, places)
        best = tracker.best(tracker.best_seed)
        return RunResult(
            status=status,
            steps=population.next_step,
            tracker=tracker,
            best=dataclasses.replace(best, path=self.job.folder / "checkpoints" / "best.pt"),
            folder=self.job.folder,
        )

    def _write_records(self, status: Status, checkpoints: Mapping[int, str]) -> None:
        """``checkpoints``: where the checkpoints lie that are kept, by seed."""
        tracker = self.tracker
        for record in list(tracker.records.values()):
            place = checkpoints.get(record.seed)
            if record.checkpoint != place:
                tracker.put([dataclasses.replace(record, checkpoint=place)])
        rate = tracker.successes()
        records = list(tracker.records.values())
        self.folder.write_seeds(records)
        self.folder.write_summary(
            records,
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

    def _kept_seeds(self) -> list[int]:
        records = self.tracker.records.values()
        best = self.tracker.best_seed
        everyone = self.job.keep == "all"
        return [each.seed for each in records if everyone or each.succeeded or each.seed == best]


class Pace:
    """How many steps to take in one call: as many as fit between two looks at the signals and the
    display. No effect on any result."""

    SECONDS = 0.2

    def __init__(self) -> None:
        self._most = 1

    def advance(self, populations: Sequence[Population], last: int) -> list[Tensor]:
        """``population.advance`` by steps that do not pass step ``last``."""
        before, started = populations[0].next_step, time.perf_counter()
        losses = advance(populations, min(self._most, last - before))
        steps, seconds = populations[0].next_step - before, time.perf_counter() - started
        self._most = max(1, min(2 * self._most, int(steps * self.SECONDS / max(seconds, 1e-6))))
        return losses


def _open_folder(order: Order, device: torch.device) -> RunFolder:
    job = order.job
    if order.resume:
        return RunFolder.open(job.folder)
    if order.environment is None:
        environment = collect_environment(str(device))
    else:
        environment = {**order.environment, "started": now()}
    config = job.run_config(environment["command"])
    folder = RunFolder.create(job.folder, config, environment, overwrite=job.overwrite)
    if job.source is not None:
        # Where it lay, it may be gone or another when the run is taken up again.
        save_checkpoint(job.folder / START_FILE, job.source)
    return folder


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
