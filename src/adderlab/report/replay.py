"""Series of experiments: commands in order, what each leaves behind, what is expected; and their replay.

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
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from adderlab.errors import Failure, UsageError
from adderlab.files import schema
from adderlab.files.atomic import disk_failure, make_folder, read_json, write_bytes, write_json
from adderlab.runs.metadata import collect_environment, now

SERIES_VERSION = 1

TRAIN_ENTRY = ("python", "-m", "src.train")
EVALUATE_ENTRY = ("python", "evaluate_checkpoints.py")
"""Entry points of the published program, which adderlab offers under the same names."""


@dataclass(frozen=True, kw_only=True)
class SeriesStep:
    """One command and what it writes."""

    command: str
    run: str | None = None
    output: str | None = None
    needs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        split_command(self.command)
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
    """The expectation as a sentence."""

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


EntryPoint = Literal["adderlab", "src.train", "evaluate_checkpoints"]


def split_command(command: str) -> tuple[EntryPoint, list[str]]:
    """Which of our programs a command starts, and its arguments. Raises ``UsageError``."""
    try:
        parts = shlex.split(command.replace("\\\n", " "))
    except ValueError as error:
        raise UsageError(f"the command {command!r} cannot be read: {error}") from error
    if parts[:1] == ["adderlab"] and len(parts) > 1:
        return "adderlab", parts[1:]
    if tuple(parts[:3]) == TRAIN_ENTRY:
        return "src.train", parts[3:]
    if tuple(parts[:2]) == EVALUATE_ENTRY:
        return "evaluate_checkpoints", parts[2:]
    raise UsageError(
        f"the command {command!r} is none of adderlab's; a series runs adderlab ..., "
        f"{' '.join(TRAIN_ENTRY)} ... and {' '.join(EVALUATE_ENTRY)} ..."
    )


@dataclass(frozen=True, kw_only=True)
class Checked:
    """How an expectation came out. ``met`` is None where the file or the value is missing."""

    expectation: Expectation
    met: bool | None
    found: str
    """The value as text, or why there is none."""

    def __str__(self) -> str:
        expected = str(self.expectation)
        if self.expectation.says:
            expected = f"{self.expectation.says} ({expected})"
        if self.met is None:
            return f"cannot be checked: {expected}; {self.found}"
        return f"{'met' if self.met else 'NOT met'}: {expected}; found {self.found}"


def check(expectation: Expectation, locate: Callable[[str], Path]) -> Checked:
    """Look the value up; ``locate`` gives the present place of a file that the series names."""
    path = locate(expectation.file)
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
    """The value. Raises ``KeyError``, whose message is a sentence, if the file has no such entry."""
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


# A replayed series: its steps run in order, and what each left is kept in a folder of records.
#
#     records/2026-11-23_seed-log/
#         series.toml         the series as it was run
#         journal.json        when each step ran, where, how long, how it ended
#         repro_456_s43/      the small files of a run: settings, environment, tables, checkpoints
#         eval.json           outputs of evaluations and proofs
#         notes.md            hand-written remarks on the series; read, never written
#         notes/E1.md         hand-written remarks on one experiment
#
# The log is written from this folder alone, and a replay that was interrupted goes on from it.


JOURNAL, SERIES_FILE = "journal.json", "series.toml"
JOURNAL_VERSION = 1

KEPT_RUN_FILES = (
    "config.json",
    "environment.json",
    "summary.json",
    "metrics.csv",
    "seed_metrics.csv",
    "seeds.csv",
    "seeds.json",
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


class Runner(Protocol):
    """Runs the commands of a series: the command line does (``adderlab.cli.main``)."""

    def check(self, command: str) -> None:
        """Raises ``UsageError`` for a command with wrong arguments, without running it."""
        ...

    def device(self, command: str) -> str:
        """Where the command will compute."""
        ...

    def run(self, step: SeriesStep) -> tuple[StepStatus, str]:
        """Run a step's command; (how it ended, why if not well)."""
        ...


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
        """The latest entry of a step."""
        found = [e for e in self.entries if (e.experiment, e.number) == (experiment, number)]
        return found[-1] if found else None

    def with_entry(self, entry: Entry) -> Journal:
        """With ``entry`` in place of an earlier one of the same step."""
        key = (entry.experiment, entry.number)
        others = [e for e in self.entries if (e.experiment, e.number) != key]
        return dataclasses.replace(self, entries=(*others, entry))


class Replay:
    """The folder of records of one replay of a series."""

    def __init__(self, path: Path, series: Series, journal: Journal) -> None:
        """Use ``open_replay``, ``new_replay`` or ``find_replay``."""
        self.path, self.series, self.journal = path, series, journal

    def locate(self, file: str) -> Path:
        """Where a file that the series names lies among the records."""
        for _, _, step in self.series.steps():
            if step.run is not None and Path(file).is_relative_to(step.run):
                return self.path / Path(step.run).name / Path(file).relative_to(step.run)
        return self.path / Path(file).name

    def check(self, experiment: Experiment) -> list[Checked]:
        """The expectations of an experiment, looked up among the records."""
        return [check(expectation, self.locate) for expectation in experiment.expect]

    def is_done(self, experiment: Experiment, number: int) -> bool:
        """Whether a step ran to its end and its records are still here."""
        entry = self.journal.entry(experiment.name, number)
        if entry is None or entry.status != "done":
            return False
        step = experiment.step[number]
        if step.run is not None:
            return self.locate(f"{step.run}/summary.json").is_file()
        return self.locate(step.product).is_file() or _too_large(Path(step.product))

    def run(
        self, experiments: Iterable[Experiment], runner: Runner, on_message: Callable[[str], None]
    ) -> Iterable[tuple[Experiment, StepStatus]]:
        """Run the steps that are not done yet; yields every experiment with its status when it ends.

        An experiment stops at the first step that does not end well, the replay at an interruption.
        """
        for experiment in experiments:
            on_message(f"{experiment.name}: {experiment.title}")
            status = self._run_experiment(experiment, runner, on_message)
            yield experiment, status
            if status == "interrupted":
                return

    def _run_experiment(
        self, experiment: Experiment, runner: Runner, on_message: Callable[[str], None]
    ) -> StepStatus:
        for number, step in enumerate(experiment.step):
            command = " ".join(step.command.replace("\\\n", " ").split())
            if self.is_done(experiment, number):
                on_message(f"  done before: {command}")
                continue
            on_message(f"  {command}")
            entry = self._run_step(experiment, number, runner)
            if entry.status in ("absent", "failed"):
                on_message(f"  {'failed' if entry.status == 'failed' else 'not run'}: {entry.message}")
            if entry.status != "done":
                return entry.status
        return "done"

    def _run_step(self, experiment: Experiment, number: int, runner: Runner) -> Entry:
        step = experiment.step[number]
        started, clock = now(), time.monotonic()
        self._delete_copies(step)
        absent = [name for name in step.needs if not Path(name).exists()]
        status: StepStatus
        if absent:
            status, message = "absent", f"{absent[0]} is not here"
        else:
            status, message = runner.run(step)
        # What an interrupted training has reached is evidence too.
        kept = status in ("done", "interrupted") and Path(step.product).exists()
        entry = Entry(
            experiment=experiment.name,
            number=number,
            command=step.command.strip(),
            status=status,
            started=started,
            seconds=round(time.monotonic() - clock, 3),
            environment=self._environment(collect_environment(runner.device(step.command))),
            sha256=self._keep(step) if kept else None,
            message=message,
        )
        self.journal = self.journal.with_entry(entry)
        write_json(self.path / JOURNAL, schema.to_dict(self.journal))
        return entry

    def _keep(self, step: SeriesStep) -> str | None:
        """Copy what a step wrote; the checksum of its output file. Raises ``Failure``."""
        if step.run is not None:
            for name in KEPT_RUN_FILES:
                file, copy = Path(step.run) / name, self.locate(f"{step.run}/{name}")
                if file.is_file() and not _too_large(file):
                    make_folder(copy.parent)
                    write_bytes(copy, _read(file))
            return None
        data = _read(Path(step.product))
        if len(data) <= LARGEST_KEPT:
            write_bytes(self.locate(step.product), data)
        return hashlib.sha256(data).hexdigest()

    def _delete_copies(self, step: SeriesStep) -> None:
        """Of what a step wrote before: it is about to write anew. Remarks stay."""
        names = [step.product] if step.run is None else [f"{step.run}/{n}" for n in KEPT_RUN_FILES]
        for path in map(self.locate, names):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise disk_failure(error, path, "remove") from error

    def _environment(self, environment: dict[str, Any]) -> int:
        """The index of this environment in the journal, added if it is new there."""
        # What changes from call to call does not describe where a step ran.
        here = {k: v for k, v in environment.items() if k not in ("started", "command")}
        known = list(self.journal.environments)
        if here not in known:
            known.append(here)
            self.journal = dataclasses.replace(self.journal, environments=tuple(known))
        return known.index(here)


def open_replay(path: Path) -> Replay:
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
    return Replay(path, series, journal)


def new_replay(folder: Path, series_file: Path) -> Replay:
    """A new folder of records below ``folder``, named by the day and the series."""
    series, started = read_series(series_file), now()
    stem = f"{started[:10]}_{series.name}"
    path, number = folder / stem, 2
    while path.exists():
        path, number = folder / f"{stem}_{number}", number + 1
    make_folder(path)
    write_bytes(path / SERIES_FILE, _read(series_file))
    journal = Journal(schema_version=JOURNAL_VERSION, name=series.name, started=started, environments=())
    write_json(path / JOURNAL, schema.to_dict(journal))
    return Replay(path, series, journal)


def find_replay(folder: Path, series_file: Path) -> Replay | None:
    """The newest records of this very series below ``folder``, to go on with; None if none."""
    wanted = _read(series_file)
    same = [
        open_replay(path)
        for path in sorted(folder.glob(f"*_{read_series(series_file).name}*"))
        if is_replay(path) and _read(path / SERIES_FILE) == wanted
    ]
    return max(same, key=lambda found: (found.journal.started, len(str(found.path))), default=None)


def is_replay(path: Path) -> bool:
    """Whether a folder holds the records of a replay."""
    return (path / JOURNAL).is_file() and (path / SERIES_FILE).is_file()


def chosen_experiments(series: Series, only: Sequence[str]) -> list[Experiment]:
    """The experiments named in ``only``, in the series' order; all where it is empty.

    Raises ``UsageError`` for a name that the series does not have.
    """
    names = [experiment.name for experiment in series.experiment]
    for name in only:
        if name not in names:
            raise UsageError(f"only={name}: the series has the experiments {', '.join(names)}")
    return [each for each in series.experiment if not only or each.name in only]


def _too_large(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > LARGEST_KEPT


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise disk_failure(error, path, "read") from error
