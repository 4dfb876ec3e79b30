"""Reports: a page about runs, their comparison, the experiments log, replayed series."""

from __future__ import annotations

import importlib
import os
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from adderlab.engine.select import single_threaded
from adderlab.errors import UsageError
from adderlab.report.comparison import Comparison, compare_runs
from adderlab.report.evidence import read_run
from adderlab.report.log import refuse_foreign
from adderlab.report.log import write_log as write_log_file
from adderlab.report.replay import (
    Checked,
    Replay,
    Runner,
    StepStatus,
    chosen_experiments,
    find_replay,
    new_replay,
    read_series,
)
from adderlab.results import Result


class HasFolder(Protocol):
    """What ``train``, ``search``, ``sweep`` and ``open_run`` return."""

    @property
    def folder(self) -> Path: ...


RunLike: TypeAlias = "str | os.PathLike[str] | HasFolder"
"""A run, a search, a rate or a sweep: its folder, or what the function that wrote it returned."""

LOG = Path("EXPERIMENTS.md")
EVIDENCE = (Path("records"), Path("results"))
"""Where evidence lies unless folders are named."""


@single_threaded()
def write_report(
    runs: RunLike | Sequence[RunLike], output: str | os.PathLike[str] | None = None
) -> Path:
    """One HTML file about a run, a search, a rate or a sweep, or about several: curves, what became of
    each seed or cell, attention, margins, failures, settings.

    It opens offline in any browser, light and dark, and runs no script. ``output``: default
    ``report.html`` in the run's folder, ``results/report.html`` for several. Returns the file's path.

    Raises ``UsageError`` if a folder holds no run, ``Failure`` if the file cannot be written.
    """
    from adderlab.files.atomic import write_text
    from adderlab.report.page import report_page

    evidence = [read_run(path) for path in _folders(runs)]
    if not evidence:
        raise UsageError("name at least one run folder, for example results/runs/main")
    if output is None:
        output = evidence[0].path / "report.html" if len(evidence) == 1 else Path("results/report.html")
    write_text(Path(output), report_page(evidence))
    return Path(output)


def compare(runs: Sequence[RunLike]) -> Comparison:
    """Runs side by side: success rates, steps to grok, settings that differ; each against the first.

    Searches and rates stand beside runs; a sweep is replaced by its cells. Rates have 95% Wilson
    intervals, differences Newcombe's; the tests are Fisher's and the log-rank test
    (docs/statistics.md). Raises ``UsageError`` for fewer than two runs, ``Failure`` for a run
    without evaluations or without its settings.
    """
    return compare_runs([read_run(path) for path in _folders(runs)])


def write_log(
    paths: Iterable[str | os.PathLike[str]] = (), output: str | os.PathLike[str] = LOG
) -> Path:
    """The experiments log (Markdown) of all runs, replayed series, evaluations and certificates below
    ``paths``, by default the folders records and results.

    The same evidence gives the same text. Returns the file's path. Raises ``UsageError`` if there is no
    such path, or if ``output`` holds something that is no log: it is left as it is.
    """
    given, output = [Path(path) for path in paths], Path(output)
    used = given or [path for path in EVIDENCE if path.is_dir()]
    if not used:
        raise UsageError("there is no folder records or results here; name where the runs are")
    for path in used:
        if not path.exists():
            raise UsageError(f"there is no file or folder {path}; check the name")
    command = ["adderlab", "log", *map(str, given)]
    if output not in (LOG, Path("/dev/stdout")):
        command += ["--output", str(output)]
    write_log_file(used, output, shlex.join(command))
    return output


@dataclass(frozen=True, kw_only=True)
class Replayed(Result):
    """How the replay of a series ended."""

    folder: Path
    """Its records."""
    log: Path
    status: StepStatus
    """done; failed or absent, if some step was; interrupted."""
    checked: tuple[Checked, ...]
    """The expectations of the experiments that were run."""

    @property
    def passed(self) -> bool:
        """Whether every step ran and every expectation was met."""
        return self.status == "done" and all(each.met is True for each in self.checked)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        checks = [{"expected": str(each.expectation), "met": each.met} for each in self.checked]
        return {
            "folder": str(self.folder),
            "log": str(self.log),
            "status": self.status,
            "checks": checks,
        }

    def describe(self) -> list[str]:
        """Lines for people."""
        return [f"Records: {self.folder}; log: {self.log}"]


def replay(
    file: str | os.PathLike[str],
    *,
    only: Sequence[str] = (),
    again: bool = False,
    records: str | os.PathLike[str] = "records",
    log: str | os.PathLike[str] = LOG,
    on_message: Callable[[str], None] = print,
) -> Replayed:
    """Run a declared series of experiments (a TOML file, docs/reproducing.md) in order, check what it
    expects, and write the log after every experiment.

    Goes on where an earlier replay of the same file stopped; ``again`` starts anew. ``only``: names of
    experiments. ``records``: folder of records, in which the series gets one of its own.

    Raises ``UsageError`` for a wrong file, wrong arguments of one of its commands, or a ``log`` that
    holds something else, all before anything runs.
    """
    file, records, log = Path(file), Path(records), Path(log)
    runner, series = _command_line(), read_series(file)
    for _, _, step in series.steps():
        runner.check(step.command)
    experiments = chosen_experiments(series, only)
    refuse_foreign(log)
    found = None if again else find_replay(records, file)
    replayed = found or new_replay(records, file)
    if found and all(found.is_done(e, n) for e in experiments for n in range(len(e.step))):
        started = found.journal.started
        on_message(f"Already run: {found.path} (started {started}); --again runs it anew")
    return _carry_out(replayed, experiments, runner, log, on_message)


def _carry_out(
    replayed: Replay,
    experiments: Sequence[Any],
    runner: Runner,
    log: Path,
    on_message: Callable[[str], None],
) -> Replayed:
    records = replayed.path.parent
    worst: StepStatus = "done"
    checked: list[Checked] = []
    for experiment, status in replayed.run(experiments, runner, on_message):
        write_log_file([records], log, shlex.join(["adderlab", "log", str(records)]))
        worst = status if status != "done" else worst
        if status != "interrupted":
            found = replayed.check(experiment)
            for each in found:
                on_message(f"  {each}")
            checked += found
    return Replayed(folder=replayed.path, log=log, status=worst, checked=tuple(checked))


def _command_line() -> Runner:
    # A series is made of commands, and the command line is a client of this package: it is looked up
    # when a series is replayed, so that the packages stay a graph without circles.
    return importlib.import_module("adderlab.cli.commands").CommandLine()


def _folders(runs: RunLike | Sequence[RunLike]) -> list[Path]:
    several: Sequence[Any] = runs if isinstance(runs, (list, tuple)) else [runs]
    return [Path(getattr(run, "folder", run)) for run in several]
