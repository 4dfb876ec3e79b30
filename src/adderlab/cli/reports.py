"""The commands that write of runs and compare them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from adderlab.cli.options import Switch, WeightsOptions, arg, emit_json


@dataclass(frozen=True, kw_only=True)
class Report:
    """One HTML file about a run or several: curves, digits, attention, margins, failures, settings."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, arg(metavar="RUN|FILE.py ...")]
    """Folders of runs, searches, rates or sweeps, for example results/runs/main, and the Python file
    whose model they trained, which is run, to look into the model too."""
    output: Annotated[Path | None, arg(metavar="F", aliases=["-o"])] = None
    """Default: report.html in the run's folder; results/report.html for several."""

    def run(self) -> int:
        """Write the report; it opens offline in any browser."""
        from adderlab.api.reports import write_report

        print(f"Report: {write_report(self.runs, self.output)}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Explore(WeightsOptions):
    """One HTML file in which one types two numbers, watches a model add them, and moves its parameters.

    It opens offline in any browser, and computes the model itself.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional, arg(metavar="CKPT|FILE.py")]
    """A checkpoint file, the folder of a run (its best model, and its training where that was kept), or
    a Python file, which is run."""
    output: Annotated[Path, arg(metavar="F", aliases=["-o"])] = Path("explore.html")
    """The file to write, never over one that adderlab did not write."""
    certificate: Annotated[Path | None, arg(metavar="CERT")] = None
    """What is known of the model over all pairs; default: NAME.cert.json.gz beside NAME.pt."""

    def run(self) -> int:
        """Write the page."""
        import adderlab

        written = adderlab.explore(
            self.model(self.checkpoint), self.output, certificate=self.certificate
        )
        print(f"Explorer: {written}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Runs side by side: success rates, a test of each against the first, settings that differ."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, arg(metavar="RUN RUN ...")]
    """Folders of runs, searches, rates or sweeps; a sweep is replaced by its cells."""
    json: Switch = False
    """Print one object instead of tables."""

    def run(self) -> int:
        """Print rates with intervals, p-values and differing settings (docs/statistics.md)."""
        import sys

        from adderlab.api.reports import compare

        comparison = compare(self.runs)
        for problem in comparison.problems:
            print(problem, file=sys.stderr)
        if self.json:
            emit_json(comparison.to_dict(), None)
        else:
            print(*comparison.describe(), sep="\n")
        return 0


@dataclass(frozen=True, kw_only=True)
class Log:
    """Write the experiments log from run folders, replayed series, evaluations and certificates."""

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional, arg(metavar="[PATH ...]")] = ()
    """Folders of records or runs, single runs, JSON files; default: records and results, where there."""
    output: Annotated[Path | None, arg(metavar="F", aliases=["-o"])] = None
    """The file to write, never over one that is no log or was edited; /dev/stdout prints it. Default:
    EXPERIMENTS.md; in a clone, of anything but records alone, results/EXPERIMENTS.md."""

    def run(self) -> int:
        """Write the log; 0 also where evidence is missing, which the log then states."""
        from adderlab.api.reports import write_log

        output = write_log(self.paths, self.output)
        if output != Path("/dev/stdout"):
            print(f"Log: {output}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Run a declared series of experiments in order, go on where it stopped, check it, log it."""

    file: Annotated[Path, tyro.conf.Positional, arg(metavar="FILE.toml")]
    """A series, for example experiments/seed-log.toml."""
    only: Annotated[tuple[str, ...], arg(metavar="NAME")] = ()
    """Run these experiments only, for example --only E4."""
    again: Switch = False
    """Start anew although this series has been run, or begun, here."""
    records: Annotated[Path, arg(metavar="DIR")] = Path("records")
    """Folder of records; the series gets one of its own in it."""
    log: Annotated[Path | None, arg(metavar="F")] = None
    """The log, written from the folder of records after every experiment. Default: EXPERIMENTS.md, in a
    clone results/EXPERIMENTS.md."""

    def run(self) -> int:
        """0 if everything ran and met its expectations, 1 if not, 130 if interrupted."""
        import functools

        from adderlab.api.reports import replay
        from adderlab.cli.main import FAILURE, INTERRUPTED

        replayed = replay(
            self.file,
            only=self.only,
            again=self.again,
            records=self.records,
            log=self.log,
            on_message=functools.partial(print, flush=True),
        )
        if replayed.status == "interrupted":
            print(f"To go on: {shlex.join(['adderlab', 'replay', str(self.file)])}")
            return INTERRUPTED
        print(*replayed.describe(), sep="\n")
        return 0 if replayed.passed else FAILURE
