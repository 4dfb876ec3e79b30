"""Runs side by side: success rates, a test of each against the first, settings that differ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from adderlab.report.comparison import Compared, Comparison


@dataclass(frozen=True, kw_only=True)
class Args:
    """Which runs; each is compared with the first."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN RUN ...")]
    """Run folders."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one object instead of tables."""


def run(args: Args) -> int:
    """Print rates with intervals, p-values and differing settings (docs/statistics.md)."""
    import sys

    from adderlab.cli.options import emit_json
    from adderlab.errors import Failure, UsageError
    from adderlab.report.comparison import compare
    from adderlab.report.history import read_run

    if len(args.runs) < 2:
        raise UsageError("name at least two run folders to compare")
    runs = [read_run(path) for path in args.runs]
    for each in runs:
        if each.config is None:
            raise Failure(each.problems[0])  # its settings would seem to differ in everything
        for problem in each.problems:
            print(f"{each.path}: {problem}", file=sys.stderr)
    comparison = compare(runs)
    if args.json:
        emit_json(as_json(comparison), None)
    else:
        _print(comparison)
    return 0


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Plain values."""
    return {
        "runs": [_entry(each) for each in comparison.runs],
        "differing": {name: list(values) for name, values in comparison.differing},
    }


def _entry(each: Compared) -> dict[str, Any]:
    from dataclasses import asdict

    rate = each.rate
    return {
        "name": each.name,
        "successes": rate.count,
        "seeds": rate.n,
        "rate": rate.value,
        "wilson_95": [rate.low, rate.high],
        "steps_to_grok": {
            "reached": list(each.grokking.reached),
            "censored": list(each.grokking.censored),
            "median": each.grokking.median,
        },
        "against_first": None if each.contrast is None else asdict(each.contrast),
    }


def _print(comparison: Comparison) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    rates = Table(box=None, pad_edge=False)
    for column in ("run", "seeds at 99%, 95% interval", "median steps to grok", "against the first"):
        rates.add_column(column)
    for each in comparison.runs:
        rates.add_row(each.name, str(each.rate), _median(each), _contrast(each))
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


def _median(each: Compared) -> str:
    if each.grokking.median is not None:
        return f"{each.grokking.median:,.0f}"
    watched = max((*each.grokking.censored, *each.grokking.reached))
    return f"not within {watched:,}"


def _contrast(each: Compared) -> str:
    c = each.contrast
    if c is None:
        return "(the first)"
    log_rank = "no seed grokked" if c.log_rank_p is None else f"log-rank p {c.log_rank_p:.2g}"
    holm = "" if c.fisher_holm_p == c.fisher_p else f" (Holm {c.fisher_holm_p:.2g})"
    return (
        f"{100 * c.difference:+.1f} points [{100 * c.low:+.1f}, {100 * c.high:+.1f}], "
        f"Fisher p {c.fisher_p:.2g}{holm}, {log_rank}"
    )
