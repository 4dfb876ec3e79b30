"""A sweep: cells trained side by side or all over a cluster, compared in a table.

The folder of a sweep, besides what every run folder has (``runs.folder``):
    cells/0007/         a run folder for every cell, and cell.json with its settings
    table.csv           the cells, the best first
    table.json          the same for programs
"""

from __future__ import annotations

import importlib
import math
import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from adderlab.errors import Failure, UsageError
from adderlab.files import schema
from adderlab.files.atomic import RunLock, make_folder, read_json, write_json
from adderlab.models.config import ModelConfig
from adderlab.models.describe import count_parameters
from adderlab.reading.file_model import FileModel
from adderlab.runs.folder import STATE_FILE
from adderlab.runs.metadata import (
    ENDED,
    RunConfig,
    collect_environment,
    kind_of,
    read_config,
    read_summary,
    summarise,
    write_config,
)
from adderlab.runs.records import SeedRecord, write_records
from adderlab.runs.stored import seed_records
from adderlab.study.cells import (
    Axis,
    Cell,
    CellRow,
    CellScore,
    Halving,
    State,
    SweepPlan,
    measure,
    write_table,
)
from adderlab.study.cluster import Done, Fleet, ShardedRun, Stopped, is_sharded
from adderlab.training.measure import Listener, Start
from adderlab.training.objective import Compute, open_backend
from adderlab.training.population import batch_shape
from adderlab.training.run import Job, Order, RunResult, run_together

SWEEP_VERSION = 1


class Trainer(Protocol):
    """Something that trains cells."""

    def train(self, sweep: OpenSweep, cells: Sequence[Cell], until: int | None) -> None:
        """Bring every cell to ``until`` steps, or to its end, and tell ``sweep`` of each. Raises
        ``Stopped`` if the user asks for it."""
        ...


class OpenSweep:
    """A sweep's folder, locked while it is open, and what is known of its cells."""

    def __init__(
        self, sweep: SweepPlan, folder: Path, listener: Listener, *, guided: bool, resume: bool
    ) -> None:
        """Raises ``UsageError`` if another sweep is there, or none to resume; ``Failure`` if another
        process is at it."""
        self.sweep, self.folder, self.listener = sweep, folder, listener
        kind = kind_of(folder)
        if resume and kind != "sweep":
            raise UsageError(f"there is no sweep in {folder} to resume; leave out resume=True")
        if kind is not None and not resume:
            raise UsageError(
                f"{folder} already holds a {kind}; go on with it (resume=True), or name another output"
            )
        make_folder(folder)
        self._lock = RunLock(folder)
        try:
            asked = {"guided": guided, "declaration": sweep.declaration}
            if resume:
                _must_match(read_config(folder).details, asked, folder)
            self._write_config(asked)
        except BaseException:
            self._lock.release()
            raise
        self._states: dict[int, State] = {}
        self._limits: dict[int, int | None] = {}
        self._cells: dict[int, Cell] = {}
        self._measured: dict[int, CellScore | None] = {}

    def _write_config(self, details: dict[str, Any]) -> None:
        environment, first = collect_environment("cpu"), self.sweep.cells()[0]
        config = RunConfig(
            kind="sweep",
            model=first.config,
            recipe=schema.to_dict(first.recipe),
            seeds=self.sweep.seeds,
            command=tuple(environment["command"]),
            details=details,
        )
        write_config(self.folder, config)
        write_json(self.folder / "environment.json", environment)

    def place(self, cell: Cell) -> Path:
        """A cell's run folder."""
        return self.folder / "cells" / cell.name

    def job(self, cell: Cell) -> Job:
        folder = self.place(cell)
        return Job(config=cell.config, recipe=cell.recipe, seeds=self.sweep.seeds, folder=folder)

    def begin(self, cell: Cell) -> None:
        """Make a cell known: it is in the table from now on."""
        if cell.index in self._cells:
            return
        path = self.place(cell) / "config.json"
        if path.is_file():
            stored = read_config(path.parent)
            if (stored.model, stored.recipe) != (cell.config, schema.to_dict(cell.recipe)):
                raise Failure(
                    f"{path} is of another model or recipe than cell {cell.name} ({cell.text}): was the "
                    "sweep begun by another version of adderlab? Begin it anew in another output"
                )
        self._cells[cell.index] = cell
        self._states[cell.index] = "waiting"
        self._measured[cell.index] = None

    def is_done(self, cell: Cell) -> bool:
        """Whether nothing of a cell is left to do."""
        path = self.place(cell) / "cell.json"
        return path.is_file() and read_json(path).get("state") == "done"

    def reached(self, cell: Cell, until: int | None) -> bool:
        """Whether a cell has done ``until`` steps, or all; if so, it needs no training now."""
        if self.is_done(cell):
            return True
        if until is None or is_sharded(self.place(cell)) or not self.is_resumable(cell):
            return False
        summary = read_summary(self.place(cell))
        # A run that is done but not noted as such was killed while it wrote its last files.
        return summary["status"] not in ENDED and summary["step"] + 1 >= until

    def is_resumable(self, cell: Cell) -> bool:
        """Whether the cell's run has a state to go on from."""
        names = ("config.json", STATE_FILE, "summary.json")
        return all((self.place(cell) / name).is_file() for name in names)

    def trained(self, cell: Cell, until: int | None) -> None:
        """A cell has reached its end (``until`` is None) or a rung: note it, and the table."""
        done = until is None or read_summary(self.place(cell))["status"] in ENDED
        self._states[cell.index] = "done" if done else "training"
        limit = None if until is None else until - 1
        found = measure(self.place(cell), limit)
        assert found is not None
        self._measured[cell.index] = found
        if done and not self.is_done(cell):
            self._write_cell(cell, "done")
        row = CellRow(cell=cell, state=self._states[cell.index], measured=found)
        self.listener.on_message(row.describe())

    def abandon(self, cell: Cell) -> None:
        self._states[cell.index] = "abandoned"

    def rows(self) -> list[CellRow]:
        """What is known of every cell; of those that wait, what an earlier process left."""
        return [
            CellRow(cell=cell, state=self._states[index], measured=self._measured[index])
            for index, cell in self._cells.items()
        ]

    def write_table(self) -> list[CellRow]:
        """The table of the cells known so far, the records of their seeds, and a summary."""
        about = {
            "preset": self.sweep.preset,
            "recipe": self.sweep.recipe,
            "seeds": list(self.sweep.seeds),
        }
        rows = write_table(self.folder, self.rows(), about)
        known = [(row, record) for row in rows for record in self._records(row)]
        if known:
            write_records(self.folder, [record for _, record in known])
            self._write_summary(rows, *max(known, key=lambda each: each[1].best_score))
        return rows

    def _records(self, row: CellRow) -> list[SeedRecord]:
        """Of the seeds of a cell that has been trained, with paths from the sweep's folder."""
        if row.measured is None:
            return []
        name = f"cells/{row.cell.name}"
        return [record.below(name) for record in seed_records(self.folder / name)]

    def _write_summary(self, rows: Sequence[CellRow], row: CellRow, best: SeedRecord) -> None:
        """``row``, ``best``: the cell and the seed of the best checkpoint."""
        config, measured = row.cell.config, [each.measured for each in rows if each.measured]
        ended = all(each.state in ("done", "abandoned") for each in rows)
        summaries = [read_summary(self.place(each.cell)) for each in rows if each.measured]
        table = summarise(
            run_name=self.folder.resolve().name,
            model=config,
            train_steps=row.cell.recipe.total_steps,
            seeds=sum(each.rate.n for each in measured),
            best=best,
            status="done" if ended else "stopped",
            step=max(each.step for each in measured),
            elapsed_sec=sum(each["elapsed_sec"] for each in summaries),
            params=count_parameters(config),
        )
        more = {"cells": len(rows), "best_cell": row.cell.name}
        write_json(self.folder / "summary.json", table | more)

    def _write_cell(self, cell: Cell, state: str) -> None:
        write_json(
            self.place(cell) / "cell.json",
            {"schema_version": SWEEP_VERSION, "settings": cell.settings, "state": state},
        )

    def close(self) -> None:
        self._lock.release()

    def __enter__(self) -> OpenSweep:
        return self

    def __exit__(self, *trouble: object) -> None:
        self.close()


def run_cells(opened: OpenSweep, trainer: Trainer) -> list[CellRow]:
    """Train every declared cell, by successive halving if declared; the table. Raises ``Stopped``."""
    cells = opened.sweep.cells()
    for cell in cells:
        opened.begin(cell)
    try:
        halving = opened.sweep.halving
        for rung in halving.rungs if halving else ():
            assert halving is not None
            trainer.train(opened, cells, rung + 1)
            cells = _halve(opened, cells, rung, halving)
        trainer.train(opened, cells, None)
    finally:
        rows = opened.write_table()
    return rows


def _halve(opened: OpenSweep, cells: Sequence[Cell], rung: int, halving: Halving) -> list[Cell]:
    """The cells that go on. What they had reached at the rung decides, also if they are further now:
    a resumed sweep decides as the interrupted one did."""
    found = {cell.index: measure(opened.place(cell), rung) for cell in cells}
    scores = {index: each.score for index, each in found.items() if each is not None}
    order = sorted(cells, key=lambda cell: (*(-value for value in scores[cell.index]), cell.index))
    kept = order[: max(1, math.ceil(halving.keep * len(order)))]
    for cell in order[len(kept) :]:
        if not opened.is_done(cell):
            opened.abandon(cell)
    opened.listener.on_message(f"step {rung:,}: {len(kept)} of {len(order)} cells go on")
    return sorted(kept, key=lambda cell: cell.index)


MOST_CELLS = 128
"""Side by side: each keeps files open."""

SEEDS_PER_THREAD = 32
"""Side by side on a CPU: the end of a batch, when threads run out of seeds, is then a few percent of
it, and the first cells are done long before the last."""

SEEDS_ON_A_DEVICE = 4096
"""Side by side elsewhere, where a batch takes as long for a few seeds as for thousands."""


@dataclass(frozen=True, kw_only=True)
class LocalTrainer:
    """Cells on this machine, each as one population; those that can share their steps side by side, as
    many as keep the machine busy."""

    compute: Compute
    stop: threading.Event

    def train(self, sweep: OpenSweep, cells: Sequence[Cell], until: int | None) -> None:
        groups: dict[tuple[ModelConfig | FileModel, Hashable], list[Cell]] = {}
        for cell in cells:
            sweep.begin(cell)
            if is_sharded(sweep.place(cell)):
                raise UsageError(
                    f"the sweep in {sweep.folder} was begun on a cluster; go on with cluster=ADDRESS"
                )
            if sweep.reached(cell, until):
                sweep.trained(cell, until)
            else:
                groups.setdefault((cell.config, batch_shape(cell.recipe)), []).append(cell)
        for group in groups.values():
            self._train(sweep, group, until)
        if self.stop.is_set():
            raise Stopped

    def _train(self, sweep: OpenSweep, group: Sequence[Cell], until: int | None) -> None:
        """Cells of one model whose steps can be shared."""
        backend = open_backend(group[0].config, self.compute, sweep.listener.on_message)
        seeds = SEEDS_PER_THREAD * backend.threads if backend.on_cpu else SEEDS_ON_A_DEVICE
        width = min(MOST_CELLS, max(1, seeds // len(sweep.sweep.seeds)))
        for start in range(0, len(group), width):
            if not self.stop.is_set():
                cells = group[start : start + width]
                listener = _CellListener(sweep.listener, cells)
                orders = [self._order(sweep, cell, until, listener) for cell in cells]
                run_together(orders, backend.objective, backend.device, until=until, stop=self.stop)

    def _order(self, sweep: OpenSweep, cell: Cell, until: int | None, listener: Listener) -> Order:
        resume = sweep.is_resumable(cell)
        last = cell.recipe.total_steps if until is None else until

        def ended(result: RunResult) -> None:
            if result.status in ENDED or result.steps >= last:
                sweep.trained(cell, until)

        return Order(
            # Without a state, what a kill left is begun anew.
            job=replace(sweep.job(cell), overwrite=not resume),
            listener=listener,
            resume=resume,
            ended=ended,
        )


@dataclass(frozen=True, kw_only=True)
class ClusterTrainer:
    """Cells all at once on a cluster, each in as many shards as keep it busy."""

    fleet: Fleet
    store: str | None

    def train(self, sweep: OpenSweep, cells: Sequence[Cell], until: int | None) -> None:
        runs: list[tuple[Cell, ShardedRun]] = []
        try:
            shards = max(1, math.ceil(self.fleet.slots / len(cells)))
            for cell in cells:
                sweep.begin(cell)
                if sweep.reached(cell, until) or _is_merged(sweep, cell):
                    sweep.trained(cell, until)
                else:
                    runs.append((cell, self._open(sweep, cell, shards)))
            self._carry_out(sweep, runs, until)
        finally:
            for _, each in runs:
                each.close()

    def _open(self, sweep: OpenSweep, cell: Cell, shards: int) -> ShardedRun:
        job, halving = sweep.job(cell), sweep.sweep.halving
        if is_sharded(job.folder):
            return ShardedRun.open(job, self.fleet.compute)
        store = f"{self.store.rstrip('/')}/{cell.name}" if self.store else None
        pauses = tuple(rung + 1 for rung in halving.rungs) if halving else ()
        job = replace(job, overwrite=True)
        return ShardedRun.create(job, self.fleet.compute, shards=shards, store=store, pauses=pauses)

    def _carry_out(
        self, sweep: OpenSweep, runs: Sequence[tuple[Cell, ShardedRun]], until: int | None
    ) -> None:
        of_task = {task.name: (cell, each) for cell, each in runs for task in each.tasks(until)}
        left = {cell.index: len(each.plan.shards) for cell, each in runs}

        def finished(done: Done) -> None:
            cell, each = of_task[done.task.name]
            left[cell.index] -= 1
            if not left[cell.index]:
                each.merge(until)
                sweep.trained(cell, until)

        tasks = [task for _, each in runs for task in each.tasks(until)]
        if tasks:
            self.fleet.carry_out(tasks, finished)


def _is_merged(sweep: OpenSweep, cell: Cell) -> bool:
    """Whether a cell's run is complete. Raises ``UsageError`` if it was begun without shards."""
    if is_sharded(sweep.place(cell)) or not sweep.is_resumable(cell):
        return False
    if read_summary(sweep.place(cell))["status"] in ENDED:
        return True
    raise UsageError(
        f"the sweep in {sweep.folder} was begun on one machine; go on without cluster=ADDRESS"
    )


class _CellListener(Listener):
    """Passes on where cells side by side begin and how far they are; their seeds are too many to be
    followed one by one."""

    def __init__(self, listener: Listener, cells: Sequence[Cell]) -> None:
        self._listener = listener
        first, last = cells[0], cells[-1]
        self._label = f"cell {first.name}: {first.text}"
        if len(cells) > 1:
            self._label = f"{len(cells)} cells side by side, {first.name} to {last.name}"

    def on_start(self, start: Start) -> None:
        self._listener.on_start(replace(start, label=self._label))

    def on_step(self, seeds: tuple[int, ...], step: int, models: int) -> None:
        self._listener.on_step(seeds, step, models)


def _must_match(stored: dict[str, Any], asked: dict[str, Any], folder: Path) -> None:
    """A sweep goes on only as it was declared; more samples may be asked for."""
    before, now = stored.get("declaration"), asked["declaration"]
    if stored.get("guided") != asked["guided"]:
        with_or = "with" if stored.get("guided") else "without"
        raise UsageError(f"the sweep was begun {with_or} optuna=True; go on with it the same way")
    assert isinstance(before, dict)
    for key in dict.fromkeys((*before, *now)):
        one, other = before.get(key), now.get(key)
        if key == "random" and isinstance(one, dict) and isinstance(other, dict):
            more = other.get("samples", 0) >= one.get("samples", 0)
            one = one | {"samples": other.get("samples")} if more else one
        if one != other:
            raise UsageError(
                f"the sweep was begun with {key} = {one} ({folder}), not {other}; change it back, or "
                "name another output"
            )


# Guided search: Optuna proposes each cell after having seen how the earlier ones did.
#
# The sampler (tree-structured Parzen estimator; Bergstra et al., NeurIPS 2011) is seeded and gets the
# same results in the same order, so a search that was interrupted is replayed from its trained cells: it
# proposes them again, finds them done, and goes on.


def run_guided(opened: OpenSweep, trainer: Trainer) -> list[CellRow]:
    """Train ``samples`` cells, one after the other, each where Optuna expects the most; the table.

    Raises ``Stopped``; ``UsageError`` if Optuna is missing or there is nothing to search.
    """
    sweep = opened.sweep
    optuna = _import_optuna()
    sampler = optuna.samplers.TPESampler(seed=sweep.random_seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    try:
        for index in range(sweep.samples):
            trial = study.ask()
            settings = {axis.path: _suggested(trial, axis) for axis in sweep.axes}
            cell = sweep.cell(index, settings)
            trainer.train(opened, [cell], None)
            opened.write_table()
            found = measure(opened.place(cell))
            assert found is not None
            study.tell(trial, value(found))
    finally:
        rows = opened.write_table()
    return rows


def check_guided(sweep: SweepPlan) -> None:
    """Raises ``UsageError`` where guided search makes no sense, or Optuna is missing."""
    if not sweep.space:
        raise UsageError("optuna=True searches random.space: declare one, and random.samples")
    if sweep.halving:
        raise UsageError(
            "halving compares cells that train side by side, optuna=True tries one after the other; "
            "leave one of them out"
        )
    _import_optuna()


def value(found: CellScore) -> float:
    """What the search makes as large as it can: the success rate; between equal rates, the share of
    right digits, which says something long before the first success does."""
    return found.rate.value + found.mean_token_acc / (2 * found.rate.n)


def _suggested(trial: Any, axis: Axis) -> Any:
    if axis.values:
        # Values may be lists or tables, which Optuna's own categories may not.
        return axis.values[trial.suggest_categorical(axis.path, list(range(len(axis.values))))]
    if axis.integer:
        return trial.suggest_int(axis.path, int(axis.low), int(axis.high), log=axis.log)
    return float(f"{trial.suggest_float(axis.path, axis.low, axis.high, log=axis.log):.6g}")


def _import_optuna() -> Any:
    try:
        optuna = importlib.import_module("optuna")
    except ImportError as error:
        raise UsageError("optuna=True needs Optuna: pip install 'adderlab[sweep]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
