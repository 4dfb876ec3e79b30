"""A run's folder: everything that training leaves behind, in the published program's form and more.

Every folder that ``train``, ``search``, ``measure_rate`` or ``sweep`` writes has

    config.json         kind (run, search, rate, sweep), model, recipe, seeds, command, and under the
                        kind's name what it has besides; written at the start, and where a run is
                        extended
    environment.json    versions, machine, device, git revision
    summary.json        how far it is: R456's keys, of the best seed, then ours
    seeds.json          the record of every seed (``runs.records``), of all runs below the folder too
    model.py            the user's file whose model it is; never run unless it is named

A search, a rate and a sweep have their runs below them, each in an ordinary run folder: seed_0043/
(or seeds_0000-0031/), population_00/, cells/0007/. A record's ``run`` says in which one its curves are.
A run itself has besides

    metrics.csv         one row per evaluation; of a population the median over seeds
    seed_metrics.csv    population: one row per seed and evaluation
    seeds.csv           what training came to, one row per seed
    checkpoints/        best.pt and last.pt; of a population those of its best seed; start.pt, what a
                        warm start began from
    seed_0043/          population: a kept seed, as if it had been run alone
    state.pt            what a stopped run goes on from
    checkpoints/snapshots.npy   the weights every N steps, if the run keeps them (``runs.stored``)

``runs.stored`` reads all of it, and what version 0.1 wrote instead. This module writes a run, and is
the one place that deletes one.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

from adderlab.errors import Failure, UsageError
from adderlab.files.atomic import (
    RunLock,
    append_text,
    disk_failure,
    make_folder,
    read_json,
    remove_leftovers,
    write_json,
    write_text,
    write_torch,
)
from adderlab.files.weights import read_torch, read_weight_file
from adderlab.reading.file_model import FileModel
from adderlab.runs import stored
from adderlab.runs.checkpoints import Checkpoint, save_checkpoint
from adderlab.runs.metadata import (
    MODEL_FILE,
    RunConfig,
    Status,
    ended_as,
    has_pool,
    read_config,
    read_summary,
    summarise,
    write_config,
)
from adderlab.runs.records import (
    Metrics,
    SeedRecord,
    as_written,
    best_of,
    csv_lines,
    median_metrics,
    metric_columns,
    read_records,
    read_seed_metrics,
    write_records,
    write_table,
)
from adderlab.task.addition import from_digits
from adderlab.task.r456 import holdout

RUN_FILES = (
    "summary.json",
    "seeds.json",
    "seeds.csv",
    "metrics.csv",
    "seed_metrics.csv",
    "checkpoints/best.pt",
    "checkpoints/last.pt",
    "checkpoints/start.pt",
    "checkpoints/snapshots.npy",
    "state.pt",
    "fleet.json",
    "environment.json",
    "config.json",
)
"""Everything a run writes into its folder. Deleted in this order: the summary first, so that what
a kill leaves does not pass for a run; the config last, by which the folder is known as one."""

START_FILE = "checkpoints/start.pt"

_SEED_FOLDERS = "seed_[0-9][0-9][0-9][0-9]*"

_RESULTS = ("summary.json", "seeds.csv", "checkpoints/best.pt", "checkpoints/last.pt")


class RunFolder:
    """A run being written. Holds the folder's lock until ``close`` (or the end of ``with``)."""

    def __init__(self, path: Path | str, config: RunConfig, lock: RunLock | None) -> None:
        """Use ``RunFolder.create`` or ``RunFolder.open``."""
        self.path = Path(path)
        self.config = config
        self._lock = lock

    @classmethod
    def create(
        cls,
        path: Path | str,
        config: RunConfig,
        environment: Mapping[str, Any],
        *,
        overwrite: bool = False,
    ) -> RunFolder:
        """Start a run in a new folder, or in one whose run never reached an evaluation.

        Raises ``UsageError`` if a run with results is there and ``overwrite`` is not set (with it,
        that run's files are deleted) or if the folder is used for something else; ``Failure`` if
        another process is writing there or the disk refuses.
        """
        path = Path(path)
        make_folder(path)
        lock = RunLock(path)
        try:
            _refuse_what_is_no_run(path)
            if not overwrite:
                _refuse_to_overwrite(path)
            _delete_run(path)
            folder = cls(path, config, lock)
            folder._start(environment)
        except BaseException:
            lock.release()
            raise
        return folder

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """Take up an existing run again, to write on.

        Raises ``UsageError`` if there is none, ``Failure`` if another process is writing there or
        its config cannot be read.
        """
        path = Path(path)
        if not (path / "config.json").is_file():
            raise UsageError(f"there is no run in {path} (no config.json); check the name")
        lock = RunLock(path)
        try:
            config = read_config(path)
            for folder in (path, *path.glob(_SEED_FOLDERS)):
                remove_leftovers(folder)
                remove_leftovers(folder / "checkpoints")
            return cls(path, config, lock)
        except BaseException:
            lock.release()
            raise

    def restart(self, environment: Mapping[str, Any]) -> None:
        """Begin again a run that was killed before it left anything to go on from.

        Raises ``UsageError`` if it has results all the same, ``Failure`` if the disk refuses.
        """
        if any((self.path / name).exists() for name in _RESULTS):
            raise UsageError(f"{self.path} holds no state.pt: it cannot be resumed; train it anew")
        self._start(environment)

    def replace_recipe(self, recipe: dict[str, Any]) -> None:
        """The run is trained on by a longer recipe. Raises ``Failure``."""
        self.config = dataclasses.replace(self.config, recipe=recipe)
        write_config(self.path, self.config)

    def check(self) -> None:
        """Raises ``Failure`` if the folder was deleted, moved or replaced since it was locked."""
        if self._lock is not None:
            self._lock.check()

    def begin_missing_tables(self) -> None:
        """Tables that were deleted go on without their earlier rows. Raises ``Failure``."""
        for name, columns in self._tables().items():
            if not (self.path / name).exists():
                write_text(self.path / name, csv_lines([columns]))

    @property
    def name(self) -> str:
        """The run's name, or its folder's."""
        return self.config.run_name or self.path.resolve().name

    @property
    def is_population(self) -> bool:
        return len(self.config.seeds) > 1

    def record(self, *evaluations: Mapping[int, Metrics]) -> None:
        """Append the rows of some steps, each by seed. Raises ``Failure``."""
        if self.is_population:
            path = self.path / "seed_metrics.csv"
            columns = _header(path)[1:]
            lines = [
                [str(seed), *row.cells(columns)] for each in evaluations for seed, row in each.items()
            ]
            append_text(path, csv_lines(lines))
        path = self.path / "metrics.csv"
        columns = _header(path)
        append_text(path, csv_lines(self._row(each).cells(columns) for each in evaluations))

    def _row(self, evaluation: Mapping[int, Metrics]) -> Metrics:
        """Of ``metrics.csv``."""
        rows = list(evaluation.values())
        if not self.is_population:
            return rows[0]
        # Of the numbers as they stand in the table, so that its reader finds the very same medians.
        return median_metrics([as_written(row) for row in rows])

    def write_seeds(self, records: Sequence[SeedRecord]) -> None:
        """Replace ``seeds.json`` and ``seeds.csv``. Raises ``Failure``."""
        write_records(self.path, records)
        write_table(self.path, records)

    def write_summary(
        self,
        records: Sequence[SeedRecord],
        *,
        status: Status,
        step: int,
        elapsed_sec: float,
        params: int,
        success: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Replace ``summary.json``: R456's seven keys, then ours.

        ``success`` is the success rate with its interval (a table of
        JSON values); ``extra`` is added as it is. Raises ``Failure``.
        """
        summary = summarise(
            run_name=self.name,
            model=self.config.model,
            train_steps=self.config.train_steps,
            seeds=len(self.config.seeds),
            best=best_of(records),
            status=status,
            step=step,
            elapsed_sec=elapsed_sec,
            params=params,
        )
        more = dict(extra or {}) | ({} if success is None else {"success": dict(success)})
        assert not set(more) & set(summary), set(more) & set(summary)
        write_json(self.path / "summary.json", summary | more)

    def save_best(self, checkpoint: Checkpoint) -> Path:
        """Write ``checkpoints/best.pt`` and give its path. Raises ``Failure``."""
        return self._save("best.pt", checkpoint)

    def save_last(self, checkpoint: Checkpoint) -> Path:
        """Write ``checkpoints/last.pt`` and give its path. Raises ``Failure``."""
        return self._save("last.pt", checkpoint)

    def seed_path(self, seed: int) -> Path:
        """The folder of a kept seed of a population."""
        return seed_folder(self.path, seed)

    def keep_seeds(
        self,
        kept: Mapping[int, tuple[Checkpoint, Checkpoint]],
        records: Sequence[SeedRecord],
        *,
        step: int,
    ) -> None:
        """Write one folder per kept seed of a population, from its (best, last) checkpoints and
        what was recorded, as if the seed had been run alone. ``step`` is the run's last.
        Raises ``Failure``."""
        assert self.is_population
        history = read_seed_metrics(self.path)
        environment = read_json(self.path / "environment.json")
        of_seed = {record.seed: record for record in records}
        for seed, (best, last) in kept.items():
            config = dataclasses.replace(self.config, seeds=(seed,), run_name="")
            alone = RunFolder(self.seed_path(seed), config, lock=None)
            alone._start(environment)
            evaluations = history.get(seed, [])
            columns = self._metric_columns
            lines = [columns, *(metrics.cells(columns) for metrics in evaluations)]
            write_text(alone.path / "metrics.csv", csv_lines(lines))
            alone.save_best(best)
            alone.save_last(last)
            stored.keep_seed(self.path, alone.path, self.config, seed)
            record = dataclasses.replace(of_seed[seed], checkpoint="checkpoints/best.pt")
            alone.write_seeds([record])
            alone.write_summary(
                [record],
                status=ended_as([record]),
                step=evaluations[-1].step if evaluations else step,
                elapsed_sec=evaluations[-1].elapsed_sec if evaluations else 0.0,
                params=best.num_parameters,
            )

    def close(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, environment: Mapping[str, Any]) -> None:
        make_folder(self.path / "checkpoints")
        write_config(self.path, self.config)
        write_json(self.path / "environment.json", dict(environment))
        for name, columns in self._tables().items():
            write_text(self.path / name, csv_lines([columns]))

    def _tables(self) -> dict[str, tuple[str, ...]]:
        """Files that grow by rows, with their columns."""
        tables: dict[str, tuple[str, ...]] = {"metrics.csv": self._metric_columns}
        if self.is_population:
            tables["seed_metrics.csv"] = ("seed", *self._metric_columns)
        return tables

    @property
    def _metric_columns(self) -> tuple[str, ...]:
        return metric_columns(
            self.config.model.token_layout.sum_digits, pool=has_pool(self.config.recipe)
        )

    def _save(self, name: str, checkpoint: Checkpoint) -> Path:
        path = self.path / "checkpoints" / name
        save_checkpoint(path, checkpoint)
        return path


def _header(table: Path) -> list[str]:
    """The columns of a table that grows: those it was begun with, which an earlier version may have
    done. Raises ``Failure``."""
    try:
        with table.open(encoding="utf-8") as file:
            return file.readline().rstrip("\n").split(",")
    except OSError as error:
        raise disk_failure(error, table, "read") from error


def seed_folder(run: Path, seed: int) -> Path:
    """Where a kept seed of a population lies."""
    return run / f"seed_{seed:04d}"


def update_records(path: Path, changed: Mapping[int, SeedRecord]) -> None:
    """Put what was found of some seeds of a finished run into its ``seeds.json``, and into those of its
    kept seeds. Raises ``Failure``."""
    write_records(path, [changed.get(record.seed, record) for record in read_records(path)])
    for seed, record in changed.items():
        own = seed_folder(path, seed)
        if own.is_dir():
            alone = dataclasses.replace(
                record,
                checkpoint=record.checkpoint and record.checkpoint.removeprefix(f"{own.name}/"),
                certificate=record.certificate and record.certificate.removeprefix(f"{own.name}/"),
            )
            write_records(own, [alone])


def _seed_paths(path: Path) -> list[Path]:
    """The folders of kept seeds: only those that are run folders themselves."""
    found = path.glob(_SEED_FOLDERS)
    return [folder for folder in found if (folder / "config.json").is_file()]


def _refuse_what_is_no_run(path: Path) -> None:
    """A folder with files of these names that no run wrote: they are somebody's, not ours."""
    if any((path / name).exists() for name in RUN_FILES):
        try:
            read_config(path)
        except Failure as error:
            raise UsageError(
                f"{path} holds files of another kind under the names a run uses ({error}); "
                "choose another folder"
            ) from error


def _refuse_to_overwrite(path: Path) -> None:
    if not any((path / name).exists() for name in _RESULTS):
        return
    try:
        summary = read_summary(path)
        state = f"({summary['status']}, step {summary['step']})"
    except Failure:
        state = "without a readable summary"
    raise UsageError(
        f"{path} already holds a run {state}; pass overwrite=True to delete it, or another folder"
    )


def _delete_run(path: Path) -> None:
    """Delete what a run wrote, and folders that this leaves empty; nothing else."""
    try:
        (path / "summary.json").unlink(missing_ok=True)
        for folder in _seed_paths(path):
            _delete_run(folder)
            _remove_if_empty(folder)
        _delete_source(path)
        for name in RUN_FILES:
            (path / name).unlink(missing_ok=True)
        for folder in (path, path / "checkpoints"):
            remove_leftovers(folder)
        _remove_if_empty(path / "checkpoints")
    except OSError as error:
        raise disk_failure(error, path, "overwrite the run in") from error


def _delete_source(path: Path) -> None:
    """Delete the copy of the user's file that the run made: that of the very source it trained."""
    copy = path / MODEL_FILE
    if not copy.is_file() or not (path / "config.json").is_file():
        return
    try:
        model = read_config(path).model
    except Failure:
        return
    if isinstance(model, FileModel) and sha256(copy.read_bytes()).hexdigest() == model.sha256:
        copy.unlink()


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


# What a run needs to go on after it was stopped or killed: ``state.pt``.
#
# The state is written before the first step, and later as the last of all files, in one atomic step. A
# kill between the tables and the state leaves rows of steps that the state does not know; going on drops
# them first.


STATE_FILE = "state.pt"
SCHEMA_VERSION = 1
LARGEST_STATE = 1 << 36
"""Bytes. Six numbers for every parameter of every seed: gigabytes for thousands of large ones."""

_REPAIR_TABLE = "restore it from a copy, or delete it to go on without its rows"


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Replace ``state.pt``: plain containers, numbers and tensors only. Raises ``Failure``."""
    write_torch(folder / STATE_FILE, {"schema_version": SCHEMA_VERSION, **state})


def load_state(folder: Path) -> dict[str, Any]:
    """The state of a stopped run.

    Raises ``UsageError`` if the run left none, ``Failure`` if the file is damaged.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        raise UsageError(f"{folder} holds no {STATE_FILE}: it cannot be resumed; train it anew")
    state = read_torch(read_weight_file(path, LARGEST_STATE), path, LARGEST_STATE)
    if state.get("schema_version") != SCHEMA_VERSION:
        raise Failure(f"{path} was written by another version of adderlab; train the run anew")
    return state


def resume_command(folder: Path, options: Sequence[str] = ()) -> str:
    """What to type to go on with a run."""
    return shlex.join(["adderlab", "train", "--resume", str(folder), *options])


def drop_rows_after(folder: Path, step: int, last_steps: Mapping[int, int] | None = None) -> None:
    """Take rows of later steps, and a half-written last line, out of the metric tables.

    ``last_steps``: the step of every seed's last evaluation, -1 before its first. A table that ends
    earlier was cut short: ``Failure``.
    """
    last = max(last_steps.values()) if last_steps else -1
    seeds = {seed for seed, at in (last_steps or {}).items() if at == last}
    for name, column in (("metrics.csv", 0), ("seed_metrics.csv", 1)):
        path = folder / name
        if not path.is_file():
            continue
        try:
            header, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            rows = [line.rstrip("\n").split(",") for line in lines if line.endswith("\n")]
            kept = [row for row in rows if int(row[column]) <= step]
        except (ValueError, IndexError) as error:
            raise Failure(f"{path} is no table of a run ({error}); {_REPAIR_TABLE}") from error
        ends = [row for row in kept if int(row[column]) == last]
        if last >= 0 and (not ends or (column and not seeds <= {int(row[0]) for row in ends})):
            raise Failure(
                f"{path} lacks rows of step {last}, where the run was evaluated: it was cut short; "
                f"{_REPAIR_TABLE}"
            )
        write_text(path, header + csv_lines(kept))


# The hold-out file of a seed, as the published program stores it beside its runs.


def save_split(folder: Path, seed: int, val_size: int, test_size: int) -> Path:
    """Write ``holdout_v{val}_t{test}_seed{seed}.pt`` unless it is there; its path.

    A dict of int64 tensors val_a, val_b, test_a, test_b. Raises ``Failure``.
    """
    path = folder / f"holdout_v{val_size}_t{test_size}_seed{seed}.pt"
    if not path.exists():
        make_folder(folder)
        split = holdout(seed, val_size, test_size)
        write_torch(
            path,
            {
                "val_a": from_digits(split.val_a_BJ),
                "val_b": from_digits(split.val_b_BJ),
                "test_a": from_digits(split.test_a_BJ),
                "test_b": from_digits(split.test_b_BJ),
            },
        )
    return path
