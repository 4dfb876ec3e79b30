"""What a replayed series left: a folder of records, complete enough to write the log from.

records/2026-11-23_seed-log/
    series.toml         the series as it was run
    journal.json        when each step ran, where, how long, how it ended
    repro_456_s43/      the small files of a run: settings, environment, tables, checkpoints
    eval.json           outputs of evaluations and proofs
    notes.md            hand-written remarks on the series; read, never written
    notes/E1.md         hand-written remarks on one experiment
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from adderlab import schema
from adderlab.errors import Failure, UsageError
from adderlab.report.series import Checked, Experiment, Series, SeriesStep, check, read_series
from adderlab.runs.atomic import disk_failure, make_folder, read_json, write_bytes, write_json

JOURNAL, SERIES_FILE = "journal.json", "series.toml"
SCHEMA_VERSION = 1

KEPT_RUN_FILES = (
    "config.json",
    "environment.json",
    "summary.json",
    "metrics.csv",
    "seed_metrics.csv",
    "seeds.csv",
    "evaluation.json",
    "proofs.json",
    "checkpoints/best.pt",
    "checkpoints/last.pt",
)
"""Files of a run that are kept as records: all but the state for a resume, kept seeds and
certificates, which are large and can be made again from the checkpoint."""

LARGEST_KEPT = 4_000_000
"""Bytes. A larger output (a certificate may be) is not copied; the journal keeps its checksum."""

StepStatus = Literal["done", "failed", "absent", "interrupted"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """How one step went."""

    experiment: str
    number: int
    command: str
    status: StepStatus
    started: str
    """UTC."""
    seconds: float
    environment: int
    """Index into the journal's environments."""
    sha256: str | None = None
    """Of the output file; None for run folders and where there is none."""
    message: str = ""
    """Why it failed, or what was absent."""


@dataclass(frozen=True, kw_only=True)
class Journal:
    schema_version: int
    name: str
    started: str
    environments: tuple[dict, ...]
    entries: tuple[Entry, ...] = ()

    def entry(self, experiment: str, number: int) -> Entry | None:
        """The last word on a step."""
        found = [e for e in self.entries if (e.experiment, e.number) == (experiment, number)]
        return found[-1] if found else None

    def with_entry(self, entry: Entry) -> Journal:
        """With ``entry`` in place of what was said of that step before."""
        key = (entry.experiment, entry.number)
        others = [e for e in self.entries if (e.experiment, e.number) != key]
        return dataclasses.replace(self, entries=(*others, entry))


class Record:
    """The folder of records of one replay."""

    def __init__(self, path: Path, series: Series, journal: Journal) -> None:
        """Use ``open_record``, ``new_record`` or ``find_record``."""
        self.path, self.series, self.journal = path, series, journal

    def place(self, file: str) -> Path:
        """Where a file that the series names lies among the records."""
        for _, _, step in self.series.steps():
            if step.run is not None and Path(file).is_relative_to(step.run):
                return self.path / Path(step.run).name / Path(file).relative_to(step.run)
        return self.path / Path(file).name

    def check(self, experiment: Experiment) -> list[Checked]:
        return [check(expectation, self.place) for expectation in experiment.expect]

    def is_done(self, experiment: Experiment, number: int) -> bool:
        """Whether a step ran to its end and its records are still here."""
        entry = self.journal.entry(experiment.name, number)
        if entry is None or entry.status != "done":
            return False
        step = experiment.step[number]
        place = self.place(f"{step.run}/summary.json" if step.run is not None else step.product)
        return place.is_file() or (step.run is None and not self.was_kept(step))

    def was_kept(self, step: SeriesStep) -> bool:
        """Whether the step's output is among the records: it was small enough."""
        source = Path(step.product)
        return not (source.is_file() and source.stat().st_size > LARGEST_KEPT)

    def keep(self, step: SeriesStep) -> str | None:
        """Copy what a step wrote; the checksum of its output file. Raises ``Failure``."""
        if step.run is not None:
            self._keep_run(Path(step.run))
            return None
        source = Path(step.product)
        data = _read(source)
        if len(data) <= LARGEST_KEPT:
            write_bytes(self.place(step.product), data)
        return hashlib.sha256(data).hexdigest()

    def _keep_run(self, source: Path) -> None:
        for name in KEPT_RUN_FILES:
            file, copy = source / name, self.place(str(source / name))
            if file.is_file() and file.stat().st_size <= LARGEST_KEPT:
                make_folder(copy.parent)
                write_bytes(copy, _read(file))

    def forget(self, step: SeriesStep) -> None:
        """Delete the copies of what a step wrote before: it is about to write anew. Remarks stay."""
        names = [step.product] if step.run is None else [f"{step.run}/{n}" for n in KEPT_RUN_FILES]
        for name in names:
            try:
                self.place(name).unlink(missing_ok=True)
            except OSError as error:
                raise disk_failure(error, self.place(name), "remove") from error

    def note(self, entry: Entry) -> None:
        """Write one step's outcome down. Raises ``Failure``."""
        self.journal = self.journal.with_entry(entry)
        write_json(self.path / JOURNAL, schema.to_dict(self.journal))

    def environment(self, environment: dict[str, Any]) -> int:
        """The index of this environment in the journal, added if it is new there."""
        # What changes from call to call says nothing about where a step ran.
        here = {k: v for k, v in environment.items() if k not in ("started", "command")}
        known = list(self.journal.environments)
        if here not in known:
            known.append(here)
            self.journal = dataclasses.replace(self.journal, environments=tuple(known))
        return known.index(here)


def open_record(path: Path) -> Record:
    """The records in a folder. Raises ``Failure`` if they cannot be read."""
    file = path / JOURNAL
    data = read_json(file)
    try:
        journal = schema.from_dict(Journal, data, "journal")
        series = read_series(path / SERIES_FILE)
    except UsageError as error:
        raise Failure(f"{file} does not fit: {error}; restore it from a copy") from error
    if journal.schema_version != SCHEMA_VERSION:
        raise Failure(f"{file} was written by another version of adderlab (schema_version)")
    return Record(path, series, journal)


def new_record(folder: Path, series_file: Path, started: str) -> Record:
    """A new folder of records below ``folder``, named by the day and the series."""
    series = read_series(series_file)
    stem = f"{started[:10]}_{series.name}"
    path, number = folder / stem, 2
    while path.exists():
        path, number = folder / f"{stem}_{number}", number + 1
    make_folder(path)
    write_bytes(path / SERIES_FILE, _read(series_file))
    journal = Journal(schema_version=SCHEMA_VERSION, name=series.name, started=started, environments=())
    write_json(path / JOURNAL, schema.to_dict(journal))
    return Record(path, series, journal)


def find_record(folder: Path, series_file: Path) -> Record | None:
    """The newest records of this very series below ``folder``, to go on with; None if none."""
    wanted = _read(series_file)
    same = [
        open_record(path)
        for path in sorted(folder.glob(f"*_{read_series(series_file).name}*"))
        if is_record(path) and _read(path / SERIES_FILE) == wanted
    ]
    return max(same, key=lambda record: (record.journal.started, len(str(record.path))), default=None)


def is_record(path: Path) -> bool:
    return (path / JOURNAL).is_file() and (path / SERIES_FILE).is_file()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise disk_failure(error, path, "read") from error
