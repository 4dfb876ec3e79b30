"""One HTML file about a run or several: curves, digits, attention, margins, failures, settings."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Args:
    """Which runs, and where the file goes."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN ...")]
    """Run folders, for example results/runs/main."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="F")] = None
    """Default: report.html in the run's folder; results/report.html for several."""


def run(args: Args) -> int:
    """Write the report; it opens offline in any browser."""
    import torch

    from adderlab.errors import UsageError
    from adderlab.files.atomic import write_text
    from adderlab.report.anatomy import dissect
    from adderlab.report.history import read_run
    from adderlab.report.page import Subject, report_html

    if not args.runs:
        raise UsageError("name at least one run folder, for example results/runs/main")
    torch.set_num_threads(1)
    runs = [read_run(path) for path in args.runs]
    subjects = [
        Subject(run=each, anatomy=None if each.checkpoint is None else dissect(each.checkpoint))
        for each in runs
    ]
    alone = len(runs) == 1
    output = args.output or (runs[0].path / "report.html" if alone else Path("results/report.html"))
    write_text(output, report_html(subjects))
    print(f"Report: {output}")
    return 0
