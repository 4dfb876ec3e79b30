"""Train fresh seeds until one is proved on all pairs: ``adderlab train PRESET --until proved``.

Workers train one batch of seeds after another side by side (processes where they can be,
``adderlab.workers``, threads elsewhere); a batch is an ordinary run of the next seeds in order: on a CPU
one seed for every core, because a seed is sequential and two seeds on one core take twice as long as
one; on an accelerator one worker with many seeds. A seed ends early when it is proved or hopeless
(``study.verdicts``), and the worker starts the next. Everything spent is counted, on failures too: what
a user pays is the time from nothing to a proved model.

The folder of a search, besides what every run folder has (``runs.folder``):
    seed_0043/          a batch: an ordinary run folder (seeds_0000-0031/ where seeds train together)
    proved/             seed_0043.pt and seed_0043.cert.json.gz for every proved seed
"""

from __future__ import annotations

import itertools
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from adderlab.errors import Failure, UsageError
from adderlab.files import schema
from adderlab.files.atomic import (
    RunLock,
    disk_failure,
    make_folder,
    read_json,
    remove_leftovers,
    write_json,
)
from adderlab.models.describe import count_parameters
from adderlab.models.tables import why_no_tables
from adderlab.proof.prove import NOT_CHECKED, claim
from adderlab.runs.folder import RUN_FILES, seed_folder
from adderlab.runs.metadata import (
    RunConfig,
    collect_environment,
    kind_of,
    read_config,
    summarise,
    write_config,
)
from adderlab.runs.records import SeedRecord, SeedStatus, write_records
from adderlab.runs.stored import seed_records
from adderlab.study.batches import Batch, SearchPlan, Trainer
from adderlab.training.measure import Evaluation, Listener, Start
from adderlab.training.objective import Objective
from adderlab.training.recipe import Recipe
from adderlab.training.run import stop_requests
from adderlab.training.start import check_fits
from adderlab.workers import Flag, Worker, can_fork

_TICK = 0.1
"""Seconds between looks at the clock and the signals."""
GRACE = 0.2
"""Seconds that workers with nothing proved have to stop by themselves once enough is. Then their
processes end as by a kill: what their seeds go on from is on the disk."""


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Everything the search took, failures included."""

    seed_steps: int = 0
    wall_seconds: float = 0.0
    core_seconds: float = 0.0
    """Processor time of the whole process: training, evaluations, proofs, repairs, files."""

    def plus(self, other: Spent) -> Spent:
        return Spent(
            seed_steps=self.seed_steps + other.seed_steps,
            wall_seconds=self.wall_seconds + other.wall_seconds,
            core_seconds=self.core_seconds + other.core_seconds,
        )


@dataclass(kw_only=True)
class SearchResult:
    """A search so far."""

    plan: SearchPlan
    records: dict[int, SeedRecord] = field(default_factory=dict)
    """Of every seed that was begun, in that order."""
    spent: Spent = Spent()
    wanted: int = 1
    status: str = "running"
    """running; proved (as many as wanted), budget spent, seeds used up, stopped."""

    @property
    def proved(self) -> list[SeedRecord]:
        return [record for record in self.records.values() if record.status == "proved"]

    def count(self, status: SeedStatus) -> int:
        return sum(record.status == status for record in self.records.values())

    @property
    def num_unfinished(self) -> int:
        return sum(_unfinished(record) for record in self.records.values())

    def describe(self) -> list[str]:
        """What was found and what it took."""
        lines, pairs = [], self.plan.config.token_layout.addition.pairs_text
        for record in self.proved:
            found, step, route = record.proof_of, record.steps - 1, "by training alone"
            if record.repair is not None and record.route == "assisted":
                step = record.repair.step or step
                route = f"after {record.repair.trainings} repair(s)"
            bound = (
                "" if found.margin_bound is None else f", at least {found.margin_bound:.4f} everywhere"
            )
            lines.append(
                f"Seed {record.seed} is {claim(found.checked)} on all {pairs} pairs {route}, at step "
                f"{step:,}: smallest margin {found.margin_witness or 0.0:.4f} logits{bound}."
            )
            files = (self.plan.folder / str(name) for name in (record.checkpoint, record.certificate))
            lines.append("  {}, certificate {}".format(*files))
        if any(not record.proof_of.checked for record in self.proved):
            lines.append(NOT_CHECKED)
        spent, tried = self.spent, len(self.records)
        counts = (self.count("dropped"), self.count("unproved"), self.num_unfinished)
        others = [
            f", {count} {name}"
            for count, name in zip(counts, ("dropped", "unproved", "unfinished"), strict=True)
            if count
        ]
        lines.append(
            f"Spent: {tried} seed{'s' if tried != 1 else ''} ({self.count('proved')} proved"
            f"{''.join(others)}), {spent.seed_steps:,} seed-steps, "
            f"{spent.core_seconds:.1f} core-seconds, {spent.wall_seconds:.1f} s. "
            f"{self.plan.folder / 'summary.json'}"
        )
        return lines


def _unfinished(record: SeedRecord) -> bool:
    """Whether nothing has been decided about a seed."""
    return record.status not in ("proved", "dropped", "unproved")


def search_until_proved(
    plan: SearchPlan | Path,
    objective: Objective,
    device: torch.device,
    listener: Listener,
    *,
    wanted: int | None = None,
    seconds: float,
    workers: int,
    overwrite: bool = False,
) -> SearchResult:
    """Search as planned, or go on in the folder of a search, until ``wanted`` seeds are proved in all,
    ``seconds`` have passed, the seeds are used up, or a signal comes: ``SearchResult.status`` says
    which. Every end but the first leaves unfinished batches that another call goes on with. ``wanted``:
    None for as many as the search was last asked for, at first one.

    All workers share ``objective``: it holds no state of a run, and compiling it takes a second.
    Raises ``UsageError`` if the plan cannot be, ``Failure`` if the disk refuses.
    """
    if wanted is not None and wanted < 1:
        raise UsageError(f"proved={wanted}: it must be at least 1")
    if not seconds > 0:
        raise UsageError(f"minutes={seconds / 60:g}: it must be above 0")
    if isinstance(plan, Path):
        result = read_search(plan)
    else:
        reason = why_no_tables(plan.config)
        if reason:
            raise UsageError(f"this model cannot be proved: {reason}")
        check_fits(plan.config, plan.recipe, plan.seeds[:1])
        _create(plan, str(device), overwrite=overwrite)
        result = SearchResult(plan=plan)
    wanted = wanted or result.wanted
    with RunLock(result.plan.folder), stop_requests() as asked:
        for written in (result.plan.folder, result.plan.folder / "proved"):
            remove_leftovers(written)
        return _Search(result, wanted, device, listener).run(objective, workers, asked, seconds)


def read_search(folder: Path) -> SearchResult:
    """The plan of a search and what came of it so far, of version 0.1 too.

    Raises ``UsageError`` if there is none, ``Failure`` for damaged files.
    """
    kind = kind_of(folder)
    if kind is None:
        raise UsageError(f"there is no search in {folder}; check the name")
    if kind != "search":
        raise UsageError(f"{folder} is no search: it can only be resumed as what it is")
    stored = read_config(folder)
    try:
        plan = SearchPlan(
            config=stored.model,
            recipe=schema.from_dict(Recipe, stored.recipe, "recipe"),
            seeds=stored.seeds,
            folder=folder,
            **{name: stored.details[name] for name in ("onward", "assisted", "together")},
        )
        result = SearchResult(plan=plan)
        if (folder / "summary.json").is_file():
            data = read_json(folder / "summary.json")
            result.spent = schema.from_dict(Spent, data["spent"], "spent")
            result.records = {record.seed: record for record in seed_records(folder)}
            result.wanted, result.status = data["wanted"], data["search"]
    except (KeyError, TypeError, UsageError) as error:
        raise Failure(f"the search in {folder} is damaged ({error}); begin another") from error
    return result


class _Search:
    """What the workers share; everything in ``result`` is touched under the lock only."""

    def __init__(
        self, result: SearchResult, wanted: int, device: torch.device, listener: Listener
    ) -> None:
        self.result, self.wanted, self.device = result, wanted, device
        self.plan, self.listener = result.plan, listener
        self.stop = Flag()
        self.lock = threading.RLock()
        self._at_proof: Batch | None = None
        """A seed of it is being proved, on all cores: that probably ends the search, and others wait."""
        self._done = threading.Condition(self.lock)
        self._failure: BaseException | None = None
        self._open = _unfinished_batches(result)
        self._fresh = self._fresh_batches()
        self._before = result.spent
        self._started = time.monotonic(), time.process_time()
        self._steps = 0
        self._workers: list[Worker] = []
        self._busy: dict[Worker, Batch] = {}
        self._ended: set[Worker] = set()
        """Workers that were not waited for."""
        self._found: float | None = None
        """When enough were proved."""

    def run(
        self, objective: Objective, workers: int, asked: threading.Event, seconds: float
    ) -> SearchResult:
        """Until the end; the result says which."""
        if self._enough():
            # Resumed after its end: what other workers had begun by then is wanted no more.
            self.stop.set()
        forked = workers > 1 and objective.engine_name == "native" and can_fork()
        # Among threads that compute no process can be copied.
        provers = workers if forked else 1
        trainer = Trainer(self.plan, objective, self.device, self.stop, provers)
        if forked:
            trainer.prepare()
            self._workers = [Worker(trainer.train) for _ in range(workers)]
        threads = [
            threading.Thread(target=self._work, args=(trainer, worker))
            for worker in self._workers or [None] * workers
        ]
        try:
            for thread in threads:
                thread.start()
            status = self._wait(threads, asked, seconds)
        finally:
            self._end(self._workers)
            for worker in self._workers:
                worker.close()
        if self._failure is not None:
            raise self._failure
        self._write("proved" if self._enough() else status)
        return self.result

    def _wait(self, threads: Sequence[threading.Thread], asked: threading.Event, seconds: float) -> str:
        """For all threads to end; why they do if not for a proof."""
        deadline = time.monotonic() + seconds
        status = "seeds used up"
        while any(thread.is_alive() for thread in threads):
            if not self.stop.is_set() and (asked.is_set() or time.monotonic() >= deadline):
                status = "stopped" if asked.is_set() else "budget spent"
                self.stop.set()
            for thread in threads:
                thread.join(_TICK / len(threads))
            if self._found is not None and time.monotonic() >= self._found + GRACE:
                with self.lock:
                    late = [each for each, batch in self._busy.items() if self._is_open(batch)]
                self._end(late)
        return status

    def _is_open(self, batch: Batch) -> bool:
        """Whether some seed of the batch is undecided; what is decided is worth its closing files."""
        return any(_unfinished(self.result.records[seed]) for seed in batch.seeds)

    def _end(self, workers: Iterable[Worker]) -> None:
        for worker in workers:
            self._ended.add(worker)
            worker.end()

    def _work(self, trainer: Trainer, worker: Worker | None) -> None:
        """One thread: it trains, or has its worker train."""
        do = trainer.train if worker is None else worker.do
        try:
            while (batch := self._next()) is not None:
                if worker is not None:
                    with self.lock:
                        self._busy[worker] = batch
                try:
                    do(batch, _Follower(self, batch).hear)
                finally:
                    self.end_proof(batch)
                with self.lock:
                    self._write("running")
        except BaseException as error:
            if worker in self._ended:
                return
            # The thread that waits raises it.
            self._failure = self._failure or error
            self.stop.set()
        finally:
            if worker is not None:
                with self.lock:
                    self._busy.pop(worker, None)

    def _next(self) -> Batch | None:
        """Stopped batches first, then fresh ones; None where none is wanted any more."""
        with self.lock:
            if self.stop.is_set():
                return None
            if self._open:
                return self._open.pop(0)
            batch = next(self._fresh, None)
            if batch is not None:
                fresh = (SeedRecord(seed=seed, run=batch.folder.name) for seed in batch.seeds)
                self.result.records |= {record.seed: record for record in fresh}
                self._write("running")
            return batch

    def _fresh_batches(self) -> Iterator[Batch]:
        """As many seeds as train together, in order, none twice."""
        plan, used = self.plan, set(self.result.records)
        onward = itertools.count(max(plan.seeds) + 1) if plan.onward else ()
        seeds = (seed for seed in itertools.chain(plan.seeds, onward) if seed not in used)
        while group := tuple(itertools.islice(seeds, plan.together)):
            folder = seed_folder(plan.folder, group[0])
            if len(group) > 1:
                folder = plan.folder / f"seeds_{group[0]:04d}-{group[-1]:04d}"
            yield Batch(folder=folder, seeds=group)

    def take(self, records: Iterable[SeedRecord]) -> None:
        """Put a batch's records among the search's; stop all workers once enough seeds are proved."""
        with self.lock:
            self.result.records |= {record.seed: record for record in records}
            if self._enough():
                self._found = time.monotonic() if self._found is None else self._found
                self.stop.set()

    def on_verdict(self, record: SeedRecord, verdict: str) -> None:
        """Note what was found of a seed, and pass it on."""
        with self.lock:
            self.take([record])
            self._write("running")
            self.listener.on_verdict(record, verdict)

    def begin_proof(self, batch: Batch) -> None:
        """A seed of the batch has stood the first tests, and is to be proved or checked on all cores."""
        with self.lock:
            self.give_way(batch)
            self._at_proof = batch

    def end_proof(self, batch: Batch) -> None:
        """Whatever came of it."""
        with self.lock:
            if self._at_proof == batch:
                self._at_proof = None
                self._done.notify_all()

    def give_way(self, batch: Batch) -> None:
        """Wait while a seed of another batch is being proved on all cores."""
        with self.lock:
            while self._at_proof not in (None, batch) and not self.stop.is_set():
                self._done.wait(_TICK)

    def count(self, steps: int) -> None:
        """Seed-steps taken."""
        with self.lock:
            self._steps += steps

    def _enough(self) -> bool:
        return self.result.count("proved") >= self.wanted

    def _write(self, status: str) -> None:
        wall, cpu = time.monotonic() - self._started[0], time.process_time() - self._started[1]
        cpu += sum(worker.core_seconds for worker in self._workers)
        self.result.status = status
        self.result.wanted = self.wanted
        self.result.spent = self._before.plus(
            Spent(seed_steps=self._steps, wall_seconds=wall, core_seconds=cpu)
        )
        _write_result(self.result)


class _Follower:
    """Hears the reports about one batch: counts steps, passes everything on under the search's lock."""

    def __init__(self, search: _Search, batch: Batch) -> None:
        self.search, self.batch, self._last = search, batch, 0

    def hear(self, name: str, *arguments: Any) -> None:
        """A report of the trainer's, who waits until it has been heard."""
        with self.search.lock:
            self.search.give_way(self.batch)
            getattr(self, name)(*arguments)

    def begin(self, first: int) -> None:
        """``first``: steps that the batch has behind it."""
        self._last = first

    def take(self, records: tuple[SeedRecord, ...]) -> None:
        """The records of the batch, as they stand in the search."""
        self.search.take(records)

    def on_start(self, start: Start) -> None:
        self.search.listener.on_start(start)

    def on_step(self, seeds: tuple[int, ...], step: int, models: int) -> None:
        self.search.count((step - self._last) * models)
        self._last = step
        self.search.listener.on_step(seeds, step, models)

    def on_evaluation(self, evaluation: Evaluation, records: tuple[SeedRecord, ...]) -> None:
        self.search.listener.on_evaluation(evaluation, records)

    def on_activity(self, seed: int, doing: str) -> None:
        self.search.listener.on_activity(seed, doing)

    def on_verdict(self, record: SeedRecord, verdict: str) -> None:
        self.search.on_verdict(record, verdict)

    def on_cores(self, taken: bool) -> None:
        (self.search.begin_proof if taken else self.search.end_proof)(self.batch)


def _unfinished_batches(result: SearchResult) -> list[Batch]:
    batches: dict[str, list[SeedRecord]] = {}
    for record in result.records.values():
        batches.setdefault(record.run, []).append(record)
    return [
        Batch(folder=result.plan.folder / name, seeds=tuple(record.seed for record in records))
        for name, records in batches.items()
        if any(map(_unfinished, records))
    ]


def _create(plan: SearchPlan, device: str, *, overwrite: bool) -> None:
    """Write the plan into a new folder. Raises ``UsageError`` where a search or a run is already."""
    folder = plan.folder
    if any((folder / name).exists() for name in ("until.json", *RUN_FILES)):
        if not overwrite:
            raise UsageError(
                f"{folder} already holds a run; pass overwrite=True to delete it, resume it, or choose "
                "another folder"
            )
        if kind_of(folder) != "search":
            raise UsageError(f"{folder} holds a run of another kind; choose another folder")
        _delete(folder)
    make_folder(folder)
    environment = collect_environment(device)
    config = RunConfig(
        kind="search",
        model=plan.config,
        recipe=schema.to_dict(plan.recipe),
        seeds=plan.seeds,
        command=tuple(environment["command"]),
        details={"onward": plan.onward, "assisted": plan.assisted, "together": plan.together},
    )
    write_config(folder, config)
    write_json(folder / "environment.json", environment)


def _write_result(result: SearchResult) -> None:
    """``seeds.json``, then ``summary.json``: what every run's says, of the best seed, then the
    search's own."""
    plan, records = result.plan, list(result.records.values())
    best = max(
        records, key=lambda each: (each.route is not None, each.best_score), default=SeedRecord(seed=0)
    )
    write_records(plan.folder, records)
    table = summarise(
        run_name=plan.folder.resolve().name,
        model=plan.config,
        train_steps=plan.recipe.total_steps,
        seeds=len(records),
        best=best,
        status={"proved": "done", "running": "running"}.get(result.status, "stopped"),  # type: ignore[arg-type]
        step=max((record.steps for record in records), default=0) - 1,
        elapsed_sec=result.spent.wall_seconds,
        params=count_parameters(plan.config),
    )
    more = {
        "search": result.status,
        "wanted": result.wanted,
        "counts": {
            **{status: result.count(status) for status in ("proved", "dropped", "unproved")},  # type: ignore[arg-type]
            "proved_pure": sum(record.route == "pure" for record in records),
            "proved_assisted": sum(record.route == "assisted" for record in records),
            "unfinished": result.num_unfinished,
        },
        "spent": schema.to_dict(result.spent),
        "proofs": sum(record.proofs for record in records),
        "repair_trainings": sum(record.repair.trainings for record in records if record.repair),
        "proved": [record.to_dict() for record in result.proved],
    }
    write_json(plan.folder / "summary.json", table | more)


def _delete(folder: Path) -> None:
    """What a search wrote there; ``config.json``, by which it is known as one, last."""
    try:
        for path in (*folder.glob("seed_[0-9]*"), *folder.glob("seeds_[0-9]*"), folder / "proved"):
            if path.is_dir():
                shutil.rmtree(path)
        for name in (*RUN_FILES, "until.json"):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise disk_failure(error, folder, "overwrite the search in") from error
