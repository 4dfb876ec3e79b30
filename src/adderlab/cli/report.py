"""One HTML file about a run or several: curves, digits, attention, margins, failures, settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from adderlab.cli.options import arg


@dataclass(frozen=True, kw_only=True)
class Args:
    """Which runs, and where the file goes."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, arg(metavar="RUN ...")]
    """Folders of runs, searches, rates or sweeps, for example results/runs/main."""
    output: Annotated[Path | None, arg(metavar="F")] = None
    """Default: report.html in the run's folder; results/report.html for several."""


def run(args: Args) -> int:
    """Write the report; it opens offline in any browser."""
    from adderlab.api.reports import write_report

    print(f"Report: {write_report(args.runs, args.output)}")
    return 0
