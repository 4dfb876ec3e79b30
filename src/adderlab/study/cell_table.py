"""How the cells of a sweep stand, and the table that compares them.

A pure function of their run folders, without times, so that a sweep that was interrupted gives the same
bytes as one that was not.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from adderlab.evaluation.intervals import Rate, wilson
from adderlab.files.atomic import write_json, write_text
from adderlab.runs.records import LEARNED, SUCCESS, Metrics, read_metrics, read_seed_metrics
from adderlab.study.space import Cell

TABLE_VERSION = 1

State = Literal["done", "abandoned", "training", "waiting"]

COLUMNS = (
    "cell",
    "state",
    "step",
    "seeds",
    "successes",
    "rate",
    "wilson_low",
    "wilson_high",
    "grokked",
    "median_grok_step",
    "mean_exact",
    "mean_token_acc",
    "mean_steps_learned",
)


@dataclass(frozen=True, kw_only=True)
class CellScore:
    """How the seeds of a cell stand at one step."""

    step: int
    """The last one evaluated."""
    rate: Rate
    """Seeds whose last evaluation is at 99% or more."""
    grokked: int
    """Seeds that were ever evaluated at 99% or more."""
    median_grok_step: float | None
    """The median, over these seeds, of the first such step."""
    mean_exact: float
    mean_token_acc: float
    mean_steps_learned: float
    """Means over seeds of their last evaluation."""

    @property
    def score(self) -> tuple[float, float, float]:
        """What makes a cell better, the first difference deciding: successes, then how many answer
        steps are learned and how many digits right, in the mean."""
        return (self.rate.count, self.mean_steps_learned, self.mean_token_acc)


@dataclass(frozen=True, kw_only=True)
class CellRow:
    """A cell in the table. ``measured`` is None before its first evaluation."""

    cell: Cell
    state: State
    measured: CellScore | None

    @property
    def rank(self) -> tuple[Any, ...]:
        """The best first: by success rate, then the earlier grokking, then by score, then by number."""
        if self.measured is None:
            return (1, self.cell.index)
        successes, *rest = self.measured.score
        grok = self.measured.median_grok_step
        early = float("inf") if grok is None else grok
        return (0, -successes, early, *(-value for value in rest), self.cell.index)

    def describe(self) -> str:
        """One line."""
        found, name = self.measured, f"cell {self.cell.name} ({self.cell.text})"
        if found is None:
            return f"{name}: {self.state}"
        text = f"{name}: {found.rate} at step {found.step:,}"
        if found.median_grok_step is not None:
            text += f", median step to grok {found.median_grok_step:,.0f}"
        return text

    def entry(self) -> dict[str, Any]:
        """The cell as plain JSON values, under ``COLUMNS`` and ``settings``."""
        about = {"cell": self.cell.name, "state": self.state}
        if self.measured is None:
            return about | {"settings": self.cell.settings}
        values = dataclasses.asdict(self.measured)
        rate = self.measured.rate
        numbers = {
            "seeds": rate.n,
            "successes": rate.count,
            "rate": rate.value,
            "wilson_low": rate.low,
            "wilson_high": rate.high,
        }
        merged = (
            about
            | numbers
            | {name: values[name] for name in COLUMNS if name in values and name != "rate"}
        )
        return {name: merged[name] for name in COLUMNS} | {"settings": self.cell.settings}


def measure(folder: Path, limit: int | None = None) -> CellScore | None:
    """The seeds of a run folder at its end, or as they stood at step ``limit``. Raises ``Failure``."""
    if not (folder / "metrics.csv").is_file():
        return None
    if (folder / "seed_metrics.csv").is_file():
        history = list(read_seed_metrics(folder).values())
    else:
        history = [read_metrics(folder)]
    histories = [[each for each in own if limit is None or each.step <= limit] for own in history]
    histories = [own for own in histories if own]
    if not histories:
        return None
    last = [own[-1] for own in histories]
    grokked = [step for step in map(_grokked_at, histories) if step is not None]
    return CellScore(
        step=max(each.step for each in last),
        rate=wilson(sum(each.val_exact >= SUCCESS for each in last), len(last)),
        grokked=len(grokked),
        median_grok_step=float(statistics.median(grokked)) if grokked else None,
        mean_exact=_mean([each.val_exact for each in last]),
        mean_token_acc=_mean([each.val_token_acc for each in last]),
        mean_steps_learned=_mean([sum(acc >= LEARNED for acc in each.step_acc) for each in last]),
    )


def write_table(folder: Path, rows: Sequence[CellRow], about: Mapping[str, Any]) -> list[CellRow]:
    """``table.csv`` and ``table.json``, the best cell first; the rows in that order."""
    rows = sorted(rows, key=lambda row: row.rank)
    settings = list(dict.fromkeys(path for row in rows for path in row.cell.settings))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*settings, *COLUMNS])
    for row in rows:
        entry = row.entry()
        cells = [_cell(row.cell.settings.get(path)) for path in settings]
        writer.writerow([*cells, *(_cell(entry.get(name)) for name in COLUMNS)])
    write_text(folder / "table.csv", buffer.getvalue())
    table = {"schema_version": TABLE_VERSION, **about, "cells": [row.entry() for row in rows]}
    write_json(folder / "table.json", table)
    return rows


def _grokked_at(history: Sequence[Metrics]) -> int | None:
    return next((each.step for each in history if each.val_exact >= SUCCESS), None)


def _mean(values: Sequence[float]) -> float:
    """Independent of the order of the seeds (fsum is exact before it rounds)."""
    return statistics.fmean(values)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.9g}"
    return value if isinstance(value, str) else json.dumps(value)
