"""What a run folder of any kind holds, read: its records, its curves, the runs below it, its snapshots.

A run, a search, a rate and a sweep leave the same files (``runs.folder``). Folders of version 0.1 and
of the published program have no ``seeds.json``; their records are read off what they have instead.

Snapshots are the weights of every seed every so many steps, for those who study how a model comes to
be. One array file in the run's folder, ``checkpoints/snapshots.npy``, which numpy opens as it is:
float32 (F, S, N), frame k taken after step k * ``every`` (so with the evaluations of these steps),
seeds in the run's order, parameters flat in the module's order. A seed that trains no more is NaN. The
file grows in place: a frame is written behind the last one, and then the header counts it, so that what
a kill leaves can be read. A run that goes on drops the frames that its state does not know.

Shapes: F frames, S seeds, N parameters of one model, flat.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from adderlab.errors import Failure, UsageError
from adderlab.files import schema
from adderlab.files.atomic import disk_failure, make_folder, read_json, write_bytes
from adderlab.runs.checkpoints import Checkpoint, parameter_shapes
from adderlab.runs.metadata import Kind, RunConfig, kind_of, read_config, read_summary
from adderlab.runs.records import (
    SEEDS_FILE,
    TABLE_FILE,
    Metrics,
    Repair,
    SeedRecord,
    SeedStatus,
    from_history,
    read_metrics,
    read_records,
    read_seed_metrics,
)
from adderlab.task.addition import SUM_DIGITS


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """A run folder of any kind."""

    path: Path
    config: RunConfig
    environment: dict[str, Any]
    """Empty where none was recorded."""
    summary: dict[str, Any] | None
    """None before the first evaluation."""
    seeds: tuple[SeedRecord, ...]
    """Of a search, a rate or a sweep those of all its runs; paths in them are relative to ``path``."""

    @property
    def kind(self) -> Kind:
        return self.config.kind

    @property
    def name(self) -> str:
        return self.config.run_name or self.path.resolve().name

    @property
    def status(self) -> str:
        return "started" if self.summary is None else str(self.summary["status"])

    def history(self, record: SeedRecord) -> list[Metrics]:
        """The evaluations of a seed. Raises ``Failure``."""
        return read_history(self.path / record.run, record.seed)

    def children(self) -> tuple[Path, ...]:
        """The ordinary runs below a search, a rate or a sweep, in order; of a run, none."""
        return child_runs(self.path, self.kind)


def open_run(path: Path | str) -> StoredRun:
    """Any run folder. Raises ``UsageError`` if there is none, ``Failure`` if it is damaged."""
    path = Path(path)
    kind = kind_of(path)
    if kind is None:
        raise UsageError(f"there is no run in {path} (no config.json); check the name")
    environment = path / "environment.json"
    summary = path / "summary.json"
    return StoredRun(
        path=path,
        config=read_config(path),
        environment=read_json(environment) if environment.is_file() else {},
        summary=read_summary(path) if summary.is_file() else None,
        seeds=seed_records(path),
    )


def child_runs(path: Path, kind: Kind) -> tuple[Path, ...]:
    """The ordinary runs below a search, a rate or a sweep, in order; of a run, none."""
    patterns: Mapping[Kind, tuple[str, ...]] = {
        "run": (),
        "search": ("seed_[0-9]*", "seeds_[0-9]*"),
        "rate": ("population_[0-9]*",),
        "sweep": ("cells/[0-9]*",),
    }
    found = (folder for pattern in patterns[kind] for folder in sorted(path.glob(pattern)))
    return tuple(folder for folder in found if (folder / "config.json").is_file())


def read_history(folder: Path, seed: int) -> list[Metrics]:
    """The evaluations of one seed of an ordinary run. Raises ``Failure``."""
    if (folder / "seed_metrics.csv").is_file():
        return read_seed_metrics(folder).get(seed, [])
    return read_metrics(folder)


def seed_records(folder: Path) -> tuple[SeedRecord, ...]:
    """The records of a run folder of any kind, from ``seeds.json`` or, where that is not yet there or
    never was, from what older programs left. Raises ``Failure``."""
    if (folder / SEEDS_FILE).is_file():
        return read_records(folder)
    kind = kind_of(folder)
    if kind == "search":
        return _of_old_search(folder)
    if kind == "rate":
        return _of_old_rate(folder)
    if kind == "sweep":
        return tuple(
            record.below(f"cells/{cell.name}")
            for cell in child_runs(folder, "sweep")
            for record in seed_records(cell)
        )
    return _of_tables(folder)


def _of_tables(folder: Path) -> tuple[SeedRecord, ...]:
    """An ordinary run without ``seeds.json``: its tables have all but the margins, ``seeds.csv`` the
    best step that these decided."""
    seeds = read_config(folder).seeds
    histories: Mapping[int, list[Metrics]] = {}
    if (folder / "seed_metrics.csv").is_file():
        histories = read_seed_metrics(folder)
    elif len(seeds) == 1 and (folder / "metrics.csv").is_file():
        histories = {seeds[0]: read_metrics(folder)}  # of a population it holds medians
    known = _seed_rows(folder / TABLE_FILE)
    return tuple(
        dataclasses.replace(
            from_history(seed, histories.get(seed, ())),
            checkpoint=_best_file(folder, seed, alone=len(seeds) == 1),
            **known.get(seed, {}),
        )
        for seed in seeds
    )


def _best_file(folder: Path, seed: int, *, alone: bool) -> str | None:
    """The best checkpoint of a seed, if it was kept: in its own folder, or in that of its run."""
    name = "checkpoints/best.pt" if alone else f"seed_{seed:04d}/checkpoints/best.pt"
    return name if (folder / name).is_file() else None


def _seed_rows(path: Path) -> dict[int, dict[str, Any]]:
    """Status and best evaluation of every seed in a ``seeds.csv``."""
    if not path.is_file():
        return {}
    try:
        return {
            int(row["seed"]): {
                "status": _status(row["status"]),
                "best_exact": float(row["best_val_exact"]),
                "best_step": int(row["best_step"]),
            }
            for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failure(f"{path} is no table of seeds ({error}); restore it from a copy") from error


def _status(name: str) -> SeedStatus:
    """A seed's status, as version 0.1 or this one writes it. Raises ``ValueError``."""
    name = {"running": "training"}.get(name, name)
    if name not in get_args(SeedStatus):
        raise ValueError(f"no status {name!r}")
    return cast(SeedStatus, name)


def _of_old_search(folder: Path) -> tuple[SeedRecord, ...]:
    """From the ``summary.json`` of version 0.1, which had them under ``tries``."""
    path = folder / "summary.json"
    if not path.is_file():
        return ()
    try:
        return tuple(
            _of_fate(fate, batch["folder"], folder)
            for batch in read_json(path)["tries"]
            for fate in batch["seeds"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Failure(f"{path} is no summary of a search ({error!r}); begin another") from error


def _of_fate(fate: Mapping[str, Any], run: str, folder: Path) -> SeedRecord:
    """From what the search noted of a seed, added to what the tables of its run know."""
    known = SeedRecord(
        seed=fate["seed"],
        steps=fate["step"] + 1 if fate["step"] or fate["val_exact"] else 0,
        last_exact=fate["val_exact"],
        best_exact=fate["val_exact"],
        best_step=fate["step"],
    )
    if any((folder / run / name).is_file() for name in ("metrics.csv", "seed_metrics.csv")):
        known = from_history(fate["seed"], read_history(folder / run, fate["seed"]))
    proved = fate["state"] == "proved"
    margins: dict[str, Any] = {
        "verdict": "proved" if proved else None,
        "margin_bound": fate["margin_bound"],
        "margin_witness": fate["margin_witness"],
        "worst_pair": tuple(fate["pair"]) or None,
    }
    assisted = fate["route"] == "assisted"
    own = margins | {"weights": "last"} if proved and not assisted else {}
    repair = None
    if assisted:
        repair = Repair(trainings=fate["trainings"], step=fate["step"], **margins)
    return dataclasses.replace(
        known,
        status=fate["state"],
        proofs=fate["proofs"],
        repair=repair,
        run=run,
        checkpoint=f"proved/{Path(fate['checkpoint']).name}" if fate["checkpoint"] else None,
        certificate=f"proved/{Path(fate['certificate']).name}" if fate["certificate"] else None,
        **own,
    )


def _of_old_rate(folder: Path) -> tuple[SeedRecord, ...]:
    """From the files that version 0.1 wrote for every seed that was verified; the others are read off
    the tables of their populations."""
    records: dict[int, SeedRecord] = {}
    for run in child_runs(folder, "rate"):
        own = (record.below(run.name) for record in seed_records(run))
        records |= {record.seed: record for record in own}
    for seed, record in records.items():
        path = folder / f"seed_{seed:04d}.json"
        if path.is_file():
            records[seed] = of_old_outcome(read_json(path), str(path), record)
    return tuple(records.values())


def of_old_outcome(data: Mapping[str, Any], where: str, known: SeedRecord | None = None) -> SeedRecord:
    """What version 0.1 wrote of a seed of a rate, added to what else is ``known`` of it.

    Raises ``Failure``.
    """
    try:
        values = dict(data)
        values["steps_learned"] = SUM_DIGITS - values.pop("missing_steps")
        table = schema.to_dict(known) if known else {"seed": values["seed"], "status": "done"}
        return schema.from_dict(SeedRecord, table | values, where)
    except (KeyError, TypeError, UsageError) as error:
        raise Failure(f"{where} is no record of a seed ({error}); restore it from a copy") from error


def tracker_state(state: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """What ``state.pt`` says of a run's seeds. Version 0.1 wrote less: the tables in ``folder`` have the
    rest."""
    if "tracker" in state:
        return state["tracker"]
    ledger = state["ledger"]
    records = {}
    for seed, row in ledger["rows"].items():
        last_step = ledger["last_step"][seed]
        history = [each for each in read_history(folder, seed) if each.step <= last_step]
        _, accuracy, margin = ledger["score"][seed]
        records[seed] = dataclasses.replace(
            from_history(seed, history),
            status=_status(row["status"]),
            best_exact=row["best_val_exact"],
            best_step=row["best_step"],
            best_step_accuracy=accuracy,
            best_margin=margin if history and math.isfinite(margin) else None,
        )
    kept = {name: ledger[name] for name in ("best", "last", "perfect_since")}
    return {"records": {seed: schema.to_dict(each) for seed, each in records.items()}, **kept}


# Snapshots: the weights of every seed every so many steps.


SNAPSHOTS_FILE = Path("checkpoints") / "snapshots.npy"
MOST_BYTES = 4 << 30
"""Of one file: what a reader would still open."""
_FLOAT = np.dtype("<f4")


def snapshots_size(steps: int, every: int, seeds: int, parameters: int) -> int:
    """Bytes of the snapshots of a whole run. Raises ``UsageError`` for a step below 1, and for too many
    of them."""
    if every < 1:
        raise UsageError(f"checkpoint_every must be at least 1 step, not {every}")
    size = -(-steps // every) * seeds * parameters * _FLOAT.itemsize
    if size > MOST_BYTES:
        least = every * -(-size // MOST_BYTES)
        raise UsageError(
            f"a checkpoint every {every:,} steps of {seeds:,} seeds takes {size / 2**30:,.0f} GiB; take "
            f"at least {least:,} steps"
        )
    return size


class SnapshotFile:
    """The snapshots of a run that trains."""

    def __init__(self, folder: Path, every: int, seeds: Sequence[int], parameters: int) -> None:
        self.path, self.every = folder / SNAPSHOTS_FILE, every
        self._row = {seed: s for s, seed in enumerate(seeds)}
        self._shape = (len(seeds), parameters)

    def next_step(self, step: int) -> int:
        """The first step from ``step`` on after which there is a snapshot."""
        return -(-step // self.every) * self.every

    def go_on(self, next_step: int) -> None:
        """Keep the frames of steps before ``next_step`` and no others; where some are missing, for
        somebody deleted the file, they are NaN. Raises ``Failure``."""
        frames = self.next_step(next_step) // self.every
        there = self._frames()
        with self._opened() as file:
            file.seek(self._place(there))
            empty = np.full(self._shape, np.nan, dtype=_FLOAT).tobytes()
            for _ in range(there, frames):
                file.write(empty)
            file.truncate(self._place(frames))
            self._count(file, frames)

    def append(self, step: int, seeds: Sequence[int], flat_SN: Tensor) -> None:
        """The weights after ``step`` of the seeds that are training. Raises ``Failure``."""
        frame, weights_SN = step // self.every, np.full(self._shape, np.nan, dtype=_FLOAT)
        weights_SN[[self._row[seed] for seed in seeds]] = flat_SN.float().cpu().numpy()
        with self._opened() as file:
            file.seek(self._place(frame))
            file.write(weights_SN.tobytes())
            self._count(file, frame + 1)

    def _opened(self) -> _Opened:
        return _Opened(self.path)

    def _frames(self) -> int:
        """Frames in a file of this run; 0 if there is none."""
        if not self.path.is_file():
            make_folder(self.path.parent)
            write_bytes(self.path, self._header(0))
            return 0
        try:
            weights_FSN = np.load(self.path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise _damaged(self.path, str(error)) from error
        if weights_FSN.shape[1:] != self._shape or weights_FSN.dtype != _FLOAT:
            raise _damaged(self.path, f"its shape is {weights_FSN.shape}")
        return len(weights_FSN)

    def _place(self, frame: int) -> int:
        """Where a frame begins."""
        return len(self._header(frame)) + frame * self._shape[0] * self._shape[1] * _FLOAT.itemsize

    def _count(self, file: io.BufferedRandom, frames: int) -> None:
        """The header says how many frames there are: only once they are on the disk."""
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        file.write(self._header(frames))

    def _header(self, frames: int) -> bytes:
        buffer = io.BytesIO()
        shape = (frames, *self._shape)
        # The format leaves room for the first axis to grow: its length is the same for all counts.
        fields = {"descr": npy.dtype_to_descr(_FLOAT), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(buffer, fields)
        return buffer.getvalue()


class _Opened:
    """A file to be changed in place, whose errors are ``Failure``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> io.BufferedRandom:
        try:
            self._file = self._path.open("r+b")
        except OSError as error:
            raise disk_failure(error, self._path, "append to") from error
        return self._file

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self._file.close()
        except OSError as closing:
            error = closing
        if isinstance(error, OSError):
            raise disk_failure(error, self._path, "append to") from error


@dataclass(frozen=True, kw_only=True)
class Snapshots:
    """The snapshots of one seed."""

    config: RunConfig
    seed: int
    steps: tuple[int, ...]
    """After which each was taken."""
    weights_FN: Tensor
    """float32, finite."""

    def thinned(self, most: int) -> Snapshots:
        """At most so many, the first and the last among them, evenly spread."""
        count = len(self.steps)
        if count <= most:
            return self
        rows = sorted({round(k * (count - 1) / (most - 1)) for k in range(most)})
        steps = tuple(self.steps[row] for row in rows)
        return Snapshots(
            config=self.config, seed=self.seed, steps=steps, weights_FN=self.weights_FN[rows]
        )

    def stacked(self) -> dict[str, Tensor]:
        """Parameters by name, frames where seeds stand elsewhere: (F, ...)."""
        shapes = parameter_shapes(self.config.model)
        parts = self.weights_FN.split([torch.Size(shape).numel() for shape in shapes.values()], 1)
        named = zip(shapes.items(), parts, strict=True)
        return {name: part.reshape(len(part), *shape) for (name, shape), part in named}

    def checkpoint(self, frame: int) -> Checkpoint:
        """One snapshot as a model."""
        return Checkpoint(
            config=self.config.model,
            params={name: stacked[frame].clone() for name, stacked in self.stacked().items()},
            recipe=self.config.recipe,
            seed=self.seed,
            step=self.steps[frame],
            val_exact=math.nan,
        )


def read_snapshots(folder: Path, seed: int) -> Snapshots | None:
    """The snapshots of a seed in a run folder or in that of a kept seed; None if none were taken.
    Raises ``Failure`` for a damaged file."""
    path = folder / SNAPSHOTS_FILE
    if not path.is_file():
        return None
    config = read_config(folder)
    every = config.checkpoint_every
    if every is None or seed not in config.seeds:
        return None
    try:
        weights_FSN = np.load(path, mmap_mode="r")
        weights_FN = np.array(weights_FSN[:, config.seeds.index(seed)], dtype=np.float32)
    except (OSError, ValueError, IndexError) as error:
        raise _damaged(path, str(error)) from error
    parameters = sum(torch.Size(shape).numel() for shape in parameter_shapes(config.model).values())
    if weights_FN.ndim != 2 or weights_FN.shape[1] != parameters:
        raise _damaged(path, f"it has {weights_FN.shape[-1]} parameters, the model {parameters}")
    taken = np.isfinite(weights_FN).all(1)
    return Snapshots(
        config=config,
        seed=seed,
        steps=tuple(int(k) * every for k in np.nonzero(taken)[0]),
        weights_FN=torch.from_numpy(weights_FN[taken]),
    )


def keep_seed(run: Path, folder: Path, config: RunConfig, seed: int) -> None:
    """Write the snapshots of one seed of a population into its own folder. Raises ``Failure``."""
    if config.checkpoint_every is None or not (run / SNAPSHOTS_FILE).is_file():
        return
    weights_FSN = np.load(run / SNAPSHOTS_FILE, mmap_mode="r")
    place = config.seeds.index(seed)
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(weights_FSN[:, place : place + 1]))
    write_bytes(folder / SNAPSHOTS_FILE, buffer.getvalue())


def _damaged(path: Path, why: str) -> Failure:
    return Failure(f"{path} does not fit the run ({why}); restore it from a copy, or delete it")
