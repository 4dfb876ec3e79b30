"""The evaluations of a run, as CSV tables: one row per evaluation, of a population also by seed.

``metrics.csv`` starts with R456's columns, so that what reads its runs reads ours.
"""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adderlab.errors import Failure
from adderlab.files.atomic import disk_failure
from adderlab.task.layouts import SUM_DIGITS

R456_COLUMNS = ("step", "train_loss", "val_exact", "val_token_acc", "lr", "elapsed_sec")
STEP_COLUMNS = tuple(f"step_acc_{i}" for i in range(SUM_DIGITS))
METRIC_COLUMNS = (*R456_COLUMNS, *STEP_COLUMNS)
SEED_METRIC_COLUMNS = ("seed", *METRIC_COLUMNS)
LEARNED = 0.99
"""An answer step counts as learned from this accuracy on."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """One evaluation of one seed, or the median over seeds."""

    step: int
    train_loss: float
    val_exact: float
    val_token_acc: float
    lr: float
    elapsed_sec: float
    step_acc: tuple[float, ...] = ()
    """Accuracy of answer steps 0..10 given the right earlier digits; empty in R456's own files."""

    def cells(self) -> list[str]:
        """The row under ``METRIC_COLUMNS``."""
        values = (self.train_loss, self.val_exact, self.val_token_acc, self.lr)
        return [
            str(self.step),
            *map(csv_number, values),
            f"{self.elapsed_sec:.3f}",
            *csv_steps(self.step_acc),
        ]


def as_written(metrics: Metrics) -> Metrics:
    """What a table gives back of an evaluation."""
    cells = dict(zip(METRIC_COLUMNS, metrics.cells(), strict=True))
    return _metrics(cells, "an evaluation")


def median_metrics(rows: Sequence[Metrics]) -> Metrics:
    """The median over seeds of one step's evaluations, column by column.

    Seeds whose value is NaN (diverged) are left out of that column.
    """
    assert len({row.step for row in rows}) == 1
    width = min(len(row.step_acc) for row in rows)
    middle = {
        name: _median([getattr(row, name) for row in rows]) for name in R456_COLUMNS if name != "step"
    }
    steps = tuple(_median([row.step_acc[i] for row in rows]) for i in range(width))
    return Metrics(step=rows[0].step, step_acc=steps, **middle)


def csv_lines(rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells, none of which needs quoting, as CSV text."""
    return "".join(",".join(row) + "\n" for row in rows)


def read_metrics(path: Path | str) -> list[Metrics]:
    """The evaluations of a run folder (its ``metrics.csv``) or of that file; R456's or ours.

    A last line that a killed writer left unfinished is left out. Raises ``Failure``.
    """
    path = Path(path)
    path = path / "metrics.csv" if path.is_dir() else path
    return [_metrics(row, place) for place, row in _rows(path, R456_COLUMNS)]


def read_seed_metrics(path: Path | str) -> dict[int, list[Metrics]]:
    """The evaluations of every seed of a population, from its folder or ``seed_metrics.csv``."""
    path = Path(path)
    path = path / "seed_metrics.csv" if path.is_dir() else path
    found: dict[int, list[Metrics]] = {}
    for place, row in _rows(path, SEED_METRIC_COLUMNS):
        found.setdefault(_int(row, "seed", place), []).append(_metrics(row, place))
    return found


def _rows(path: Path, columns: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
    """(place for messages, row) of every whole line; the columns must be there."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise disk_failure(error, path, "read") from error
    except UnicodeDecodeError as error:
        raise Failure(f"{path} is not text; it is damaged, restore it from a copy") from error
    whole = text[: text.rfind("\n") + 1].splitlines()
    if not whole:
        raise Failure(f"{path} has no header line; it is damaged, restore it from a copy")
    header, *lines = csv.reader(whole)
    missing = [name for name in columns if name not in header]
    if missing:
        raise Failure(f"{path} has no column {missing[0]}; it is no table of a run")
    found = []
    for number, cells in enumerate(lines, start=2):
        if len(cells) != len(header):
            raise Failure(
                f"{path}, line {number} has {len(cells)} cells instead of {len(header)}; "
                "it is damaged, restore it from a copy"
            )
        found.append((f"{path}, line {number}", dict(zip(header, cells, strict=True))))
    return found


def _metrics(row: dict[str, str], place: str) -> Metrics:
    values: dict[str, Any] = {name: _float(row, name, place) for name in R456_COLUMNS if name != "step"}
    return Metrics(step=_int(row, "step", place), step_acc=_step_acc(row, place), **values)


def _step_acc(row: dict[str, str], place: str) -> tuple[float, ...]:
    present = [name for name in STEP_COLUMNS if row.get(name)]
    return tuple(_float(row, name, place) for name in present)


def _int(row: dict[str, str], name: str, place: str) -> int:
    try:
        return int(row[name])
    except ValueError as error:
        raise _bad_cell(row[name], name, place) from error


def _float(row: dict[str, str], name: str, place: str) -> float:
    try:
        return float(row[name])
    except ValueError as error:
        raise _bad_cell(row[name], name, place) from error


def _bad_cell(cell: str, name: str, place: str) -> Failure:
    return Failure(f"{place}: {name} is {cell!r}, not a number; restore the file from a copy")


def csv_number(value: float) -> str:
    """Nine significant digits: enough to give a float32 back exactly."""
    return f"{value:.9g}"


def csv_steps(step_acc: Sequence[float]) -> list[str]:
    """The cells of ``STEP_COLUMNS``, empty where nothing is known."""
    assert len(step_acc) in (0, SUM_DIGITS), len(step_acc)
    return [csv_number(value) for value in step_acc] or [""] * SUM_DIGITS


def _median(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else math.nan
