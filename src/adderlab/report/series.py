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
import math
import shlex
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from adderlab.errors import Failure, UsageError
from adderlab.files import schema
from adderlab.files.atomic import disk_failure, read_json

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
