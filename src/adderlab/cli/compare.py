"""Runs side by side: success rates, a test of each against the first, settings that differ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from adderlab.cli.options import Switch, arg, emit_json

if TYPE_CHECKING:
    from adderlab.report.comparison import Comparison


@dataclass(frozen=True, kw_only=True)
class Args:
    """Which runs; each is compared with the first."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, arg(metavar="RUN RUN ...")]
    """Folders of runs, searches, rates or sweeps; a sweep is replaced by its cells."""
    json: Switch = False
    """Print one object instead of tables."""


def run(args: Args) -> int:
    """Print rates with intervals, p-values and differing settings (docs/statistics.md)."""
    import sys

    from adderlab.api.reports import compare

    comparison = compare(args.runs)
    for problem in comparison.problems:
        print(problem, file=sys.stderr)
    if args.json:
        emit_json(comparison.to_dict(), None)
    else:
        _print(comparison)
    return 0


def _print(comparison: Comparison) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    rates = Table(*comparison.runs[0].row(), box=None, pad_edge=False)
    for each in comparison.runs:
        rates.add_row(*each.row().values())
    console.print(rates)
    if not comparison.differing:
        console.print("No setting differs.")
        return
    settings = Table(box=None, pad_edge=False, title="Settings that differ", title_justify="left")
    for column in ("setting", *(each.name for each in comparison.runs)):
        settings.add_column(column, overflow="fold")
    for name, values in comparison.differing:
        settings.add_row(name, *map(str, values))
    console.print(settings)
