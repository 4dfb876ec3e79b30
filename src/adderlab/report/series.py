"""A declared series of experiments: commands in order, what each leaves behind, what is expected.

A TOML file (experiments/seed-log.toml is one):

    schema_version = 1
    name = "seed-log"
    title = "The published log's E1 to E4"

    [[experiment]]
    name = "E1"
    title = "456p Training Reproduction (Seed 43)"
    reported = "Did not grok."                      # what somebody else reported; optional

    [[experiment.step]]
    command = "adderlab train 456p --seeds 43 --run-name repro"
    run = "results/runs/repro"                      # the run folder that a training writes
    # or: output = "results/eval.json"              # the file that an evaluation or proof writes
    # needs = ["a/checkpoint.pt"]                   # files without which the step cannot run

    [[experiment.expect]]
    file = "results/runs/repro/summary.json"
    key = "status"                                  # dotted; in a CSV file, a column ...
    # step = 0                                      # ... of the row of that step
    reads = "done"                                  # or equals (within: relative), at_least, at_most

Only adderlab's own commands can stand in a series: a file from a stranger runs nothing else.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import math
import shlex
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from adderlab.errors import Failure, UsageError
from adderlab.files import schema
from adderlab.files.atomic import (
    disk_failure,
    make_folder,
    read_json,
    write_bytes,
    write_json,
)

SERIES_VERSION = 1

TRAIN_DOOR = ("python", "-m", "src.train")
EVALUATE_DOOR = ("python", "evaluate_checkpoints.py")


@dataclass(frozen=True, kw_only=True)
class SeriesStep:
    """One command and what it writes."""

    command: str
    run: str | None = None
    output: str | None = None
    needs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        words(self.command)
        if (self.run is None) == (self.output is None):
            raise UsageError(
                f"the step {self.command!r} must name what it writes: a run folder (run = ...) "
                "or a file (output = ...), one of the two"
            )

    @property
    def product(self) -> str:
        """The run folder or the file."""
        return self.run or self.output or ""


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """A value in a file that must come out."""

    file: str
    key: str
    step: int | None = None
    reads: str | None = None
    """The text that must stand there."""
    equals: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    within: float = 0.0
    """Relative tolerance of ``equals``."""
    says: str = ""
    """In words."""

    def __post_init__(self) -> None:
        if sum(x is not None for x in (self.reads, self.equals, self.at_least, self.at_most)) != 1:
            raise UsageError(
                f"the expectation on {self.key!r} must have one of reads, equals, at_least, at_most"
            )

    def __str__(self) -> str:
        where = f"{self.key} at step {self.step}" if self.step is not None else self.key
        if self.at_least is not None:
            return f"{where} at least {self.at_least:g}"
        if self.at_most is not None:
            return f"{where} at most {self.at_most:g}"
        if self.equals is not None:
            return f"{where} is {self.equals:.10g}" + (f" within {self.within:g}" if self.within else "")
        return f"{where} is {self.reads}"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    name: str
    title: str
    step: tuple[SeriesStep, ...]
    expect: tuple[Expectation, ...] = ()
    reported: str = ""
    """What the log that is being replayed said."""


@dataclass(frozen=True, kw_only=True)
class Series:
    schema_version: int
    name: str
    title: str
    experiment: tuple[Experiment, ...]
    reported_by: str = ""
    """Whose reports the experiments quote."""
    reported_environment: str = ""

    def __post_init__(self) -> None:
        if self.schema_version != SERIES_VERSION:
            raise UsageError(
                f"schema_version is {self.schema_version}; this adderlab reads {SERIES_VERSION}"
            )
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise UsageError(f"name {self.name!r} may hold letters, digits, - and _ only")
        names = [experiment.name for experiment in self.experiment]
        for name in names:
            if names.count(name) > 1 or not name.replace("-", "").replace("_", "").isalnum():
                raise UsageError(
                    f"experiment name {name!r} must be unique and hold letters, digits, - and _ only"
                )

    def steps(self) -> Iterator[tuple[Experiment, int, SeriesStep]]:
        """Every step in order, with its experiment and its number there."""
        for experiment in self.experiment:
            for number, step in enumerate(experiment.step):
                yield experiment, number, step


def read_series(path: Path | str) -> Series:
    """The series in a TOML file. Raises ``UsageError`` naming what is wrong in it."""
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"there is no file {path}; check the name") from None
    except OSError as error:
        raise disk_failure(error, path, "read") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    try:
        return schema.from_dict(Series, data, "series")
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


Kind = Literal["adderlab", "train door", "evaluate door"]


def words(command: str) -> tuple[Kind, list[str]]:
    """Which of our programs a command names, and its arguments. Raises ``UsageError``."""
    try:
        parts = shlex.split(command.replace("\\\n", " "))
    except ValueError as error:
        raise UsageError(f"the command {command!r} cannot be read: {error}") from error
    if parts[:1] == ["adderlab"] and len(parts) > 1:
        return "adderlab", parts[1:]
    if tuple(parts[:3]) == TRAIN_DOOR:
        return "train door", parts[3:]
    if tuple(parts[:2]) == EVALUATE_DOOR:
        return "evaluate door", parts[2:]
    raise UsageError(
        f"the command {command!r} is none of adderlab's; a series runs adderlab ..., "
        f"{' '.join(TRAIN_DOOR)} ... and {' '.join(EVALUATE_DOOR)} ..."
    )


@dataclass(frozen=True, kw_only=True)
class Checked:
    """How an expectation came out. ``met`` is None where the file or the value is missing."""

    expectation: Expectation
    met: bool | None
    found: str
    """The value as text, or why there is none."""

    def __str__(self) -> str:
        what = str(self.expectation)
        told = f"{self.expectation.says} ({what})" if self.expectation.says else what
        if self.met is None:
            return f"cannot be checked: {told}; {self.found}"
        return f"{'met' if self.met else 'NOT met'}: {told}; found {self.found}"


def check(expectation: Expectation, place: Callable[[str], Path]) -> Checked:
    """Look the value up; ``place`` says where a file that the series names lies now."""
    path = place(expectation.file)
    if not path.is_file():
        return Checked(expectation=expectation, met=None, found=f"{path.name} is not there")
    try:
        value = _lookup(path, expectation)
    except (Failure, KeyError) as error:
        found = str(error.args[0]) if isinstance(error, KeyError) else str(error)
        return Checked(expectation=expectation, met=None, found=found)
    return Checked(expectation=expectation, met=_holds(expectation, value), found=_text(value))


def _holds(expectation: Expectation, value: Any) -> bool:
    if expectation.reads is not None:
        return str(value) == expectation.reads
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    if expectation.at_least is not None:
        return value >= expectation.at_least
    if expectation.at_most is not None:
        return value <= expectation.at_most
    assert expectation.equals is not None
    return math.isclose(value, expectation.equals, rel_tol=expectation.within, abs_tol=0.0)


def _text(value: Any) -> str:
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def _lookup(path: Path, expectation: Expectation) -> Any:
    """The value; ``KeyError`` with a sentence if the file has no such place."""
    if path.suffix == ".csv":
        return _cell(path, expectation)
    value: Any = read_json(path)
    for key in expectation.key.split("."):
        if not isinstance(value, dict) or key not in value:
            raise KeyError(f"{path.name} has no entry {expectation.key}")
        value = value[key]
    return value


def _cell(path: Path, expectation: Expectation) -> float:
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except OSError as error:
        raise disk_failure(error, path, "read") from error
    chosen = [
        row for row in rows if expectation.step is None or row.get("step") == str(expectation.step)
    ]
    if not chosen or expectation.key not in chosen[-1]:
        at = "" if expectation.step is None else f" at step {expectation.step}"
        raise KeyError(f"{path.name} has no {expectation.key}{at}")
    try:
        return float(chosen[-1][expectation.key])
    except ValueError:
        raise KeyError(f"{path.name} has no number in {expectation.key}") from None


# What a replayed series left: a folder of records, complete enough to write the log from.
#
# records/2026-11-23_seed-log/
#     series.toml         the series as it was run
#     journal.json        when each step ran, where, how long, how it ended
#     repro_456_s43/      the small files of a run: settings, environment, tables, checkpoints
#     eval.json           outputs of evaluations and proofs
#     notes.md            hand-written remarks on the series; read, never written
#     notes/E1.md         hand-written remarks on one experiment


JOURNAL, SERIES_FILE = "journal.json", "series.toml"
JOURNAL_VERSION = 1

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
    if journal.schema_version != JOURNAL_VERSION:
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
    journal = Journal(schema_version=JOURNAL_VERSION, name=series.name, started=started, environments=())
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
