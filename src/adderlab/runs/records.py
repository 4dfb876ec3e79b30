"""What became of each seed: its evaluations, and one record, from its first step to its verdict.

Evaluations stand in CSV tables: one row per evaluation, of a population also by seed. ``metrics.csv``
starts with R456's columns, so that what reads its runs reads ours. The seed tracker makes the record
while the seed trains; proofs and repairs add to it; the live view, the rate, the search, the sweep, the
report and the log read it. ``seeds.json`` holds the records of a folder.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from adderlab.errors import Failure, UsageError
from adderlab.files import schema
from adderlab.files.atomic import disk_failure, read_json, write_text
from adderlab.task.addition import SUM_DIGITS

R456_COLUMNS = ("step", "train_loss", "val_exact", "val_token_acc", "lr", "elapsed_sec")
STEP_PREFIX = "step_acc_"
WEIGHT_NORM, TRAIN_EXACT = "weight_norm", "train_exact"


def step_columns(sum_digits: int = SUM_DIGITS) -> tuple[str, ...]:
    """A column of a table for every digit of a sum."""
    return tuple(f"{STEP_PREFIX}{i}" for i in range(sum_digits))


def metric_columns(sum_digits: int = SUM_DIGITS, *, pool: bool = False) -> tuple[str, ...]:
    """Of ``metrics.csv``; those of ``seed_metrics.csv`` begin with the seed. ``pool``: of a run on a
    finite set of training pairs, whose accuracy on them is a column too."""
    return (*R456_COLUMNS, *step_columns(sum_digits), WEIGHT_NORM, *([TRAIN_EXACT] if pool else []))


STEP_COLUMNS = step_columns()
METRIC_COLUMNS = metric_columns()
SEED_METRIC_COLUMNS = ("seed", *METRIC_COLUMNS)
"""Of the published task."""
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
    weight_norm: float | None = None
    """Euclidean norm of all parameters together; None where it was not recorded."""
    train_exact: float | None = None
    """Exact match on the seed's own training pairs; None where every step draws fresh ones."""

    def cells(self, columns: Sequence[str] | None = None) -> list[str]:
        """The row under these columns; default: ``metric_columns`` of what is known."""
        columns = columns or metric_columns(
            len(self.step_acc) or SUM_DIGITS, pool=self.train_exact is not None
        )
        return [self._cell(name) for name in columns]

    def _cell(self, name: str) -> str:
        if name == "elapsed_sec":
            return f"{self.elapsed_sec:.3f}"
        if name.startswith(STEP_PREFIX):
            place = int(name.removeprefix(STEP_PREFIX))
            return csv_number(self.step_acc[place]) if place < len(self.step_acc) else ""
        value = getattr(self, name)
        return "" if value is None else str(value) if name == "step" else csv_number(value)


def as_written(metrics: Metrics) -> Metrics:
    """What a table gives back of an evaluation."""
    columns = metric_columns(len(metrics.step_acc) or SUM_DIGITS, pool=metrics.train_exact is not None)
    cells = dict(zip(columns, metrics.cells(columns), strict=True))
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
    more = {
        name: _median(known)
        for name in (WEIGHT_NORM, TRAIN_EXACT)
        if len(known := [value for row in rows if (value := getattr(row, name)) is not None])
    }
    return Metrics(step=rows[0].step, step_acc=steps, **middle, **more)


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
    for place, row in _rows(path, ("seed", *R456_COLUMNS)):
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
    optional = (name for name in (WEIGHT_NORM, TRAIN_EXACT) if row.get(name))
    values |= {name: _float(row, name, place) for name in optional}
    return Metrics(step=_int(row, "step", place), step_acc=_step_acc(row, place), **values)


def _step_acc(row: dict[str, str], place: str) -> tuple[float, ...]:
    present = [name for name in row if name.startswith(STEP_PREFIX) and row[name]]
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


def csv_steps(step_acc: Sequence[float], sum_digits: int = SUM_DIGITS) -> list[str]:
    """The cells of ``step_columns``, empty where nothing is known."""
    return [csv_number(value) for value in step_acc] or [""] * sum_digits


def _median(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else math.nan


# The record of a seed.


SEEDS_FILE = "seeds.json"
SCHEMA_VERSION = 1

SUCCESS = 0.99
"""A seed succeeds if its last evaluation has at least this exact match: AdderBoard's bar."""

SeedStatus = Literal["training", "done", "perfect", "diverged", "dropped", "proved", "unproved"]
"""``done``: trained to the end. ``perfect``: stopped early, as the recipe asks, after perfect
evaluations. ``diverged``: its loss is no number. The last three are a search's: given up as hopeless,
proved, and trained to the end without a proof."""

Verdict = Literal["proved", "refuted", "undecided", "missed", "no tables"]
"""``missed``: never at 99% exact match, so no proof was tried. ``no tables``: outside the table form,
so it cannot be proved."""

Weights = Literal["last", "best"]
Route = Literal["pure", "assisted"]
Score = tuple[float, float, float]
"""What makes a checkpoint better, the first difference deciding: exact match, the mean accuracy of the
answer steps, the smallest margin. It decides the best step of a seed and the best seed of a run."""


@dataclass(frozen=True, kw_only=True)
class Repair:
    """What proof-guided repair came to: training on the pairs that a proof found worst."""

    verdict: Verdict
    margin_bound: float | None
    """Lower bound in logits of the smallest margin over all pairs; None unless proved."""
    trainings: int
    published_errors: int | None = None
    """Of the 100,000 published pairs; None: not run."""
    core_seconds: float | None = None
    margin_witness: float | None = None
    """Smallest margin met, in logits; that of ``worst_pair``."""
    worst_pair: tuple[int, int] | None = None
    step: int | None = None
    """Of the repaired weights, the steps of the repair included."""
    checked: bool | None = None
    """Whether the independent checker has accepted the proof; None: not asked, or not recorded."""


@dataclass(frozen=True, kw_only=True)
class SeedRecord:
    """What became of one seed. Accuracies are of its own validation pairs."""

    seed: int
    status: SeedStatus = "training"
    """Why it trains no more."""
    steps: int = 0
    """Optimiser steps at its last evaluation; 0 before the first."""
    last_exact: float = 0.0
    """Exact match at the last evaluation."""
    last_token_accuracy: float = 0.0
    """Share of the sums' digits that greedy decoding gets right, at the last evaluation."""
    step_accuracy: tuple[float, ...] = ()
    """Accuracy of the answer steps (0 to 10 for ten columns) given the right earlier digits, at the last
    evaluation; empty where the run's program did not record it."""
    steps_learned: int = 0
    """Answer steps (of eleven for ten columns) at 99% or more, at the last evaluation."""
    train_loss: float | None = None
    """Before the last step evaluated; None: no finite number, or not recorded."""
    train_exact: float | None = None
    """Exact match on its own training pairs, at the last evaluation; None: they were drawn afresh."""
    first_fitted_step: int | None = None
    """The first step evaluated at 99% or more of its training pairs; None: never, or no such set."""
    best_exact: float = 0.0
    """Exact match of its best checkpoint."""
    best_step: int = 0
    """Where the best checkpoint was taken: THE best step, of ``best.pt`` as of ``summary.json``."""
    best_step_accuracy: float = 0.0
    """Of the best checkpoint, the mean over answer steps."""
    best_margin: float | None = None
    """Of the best checkpoint: the smallest teacher-forced margin over the validation pairs, in logits
    as the loss saw them. None: not recorded, or no finite number."""
    first_perfect_step: int | None = None
    """The first step evaluated at exact match 1; None: never."""
    first_success_step: int | None = None
    """The first step evaluated at 99% exact match or more; it may have been lost again."""
    grokked_at: int | None = None
    """The first step evaluated at 99% or more after which none was below; None: there is none."""
    verdict: Verdict | None = None
    """On all pairs, of the weights that training left; None: no proof was asked for."""
    weights: Weights | None = None
    """Which weights ``verdict`` is about; None without a proof."""
    margin_bound: float | None = None
    """Lower bound in logits of the smallest margin over all pairs; None unless proved."""
    margin_witness: float | None = None
    """Smallest margin that a proof met, in logits; that of ``worst_pair``."""
    worst_pair: tuple[int, int] | None = None
    checked: bool | None = None
    """Whether the independent checker has accepted the proof; None: not asked, or not recorded."""
    published_errors: int | None = None
    """Of the 100,000 published pairs, for the proved weights or else the best; None: not run."""
    proofs: int = 0
    """Proofs tried, those of a repair included."""
    repair: Repair | None = None
    """None: not tried."""
    training_core_seconds: float | None = None
    """Its part, by steps, of the run's processor time; None: not measured."""
    proving_core_seconds: float | None = None
    run: str = ""
    """The run folder that holds its curves, relative to the folder of this record; empty: that one."""
    checkpoint: str | None = None
    """Its best, or the proved, or the repaired weights, relative to the folder of this record; None:
    not kept."""
    certificate: str | None = None
    """Of the proved weights, likewise."""

    @property
    def succeeded(self) -> bool:
        """Ends at ``SUCCESS`` or more: what success rates count."""
        return self.last_exact >= SUCCESS

    @property
    def best_score(self) -> Score:
        """Of the best checkpoint."""
        margin = -math.inf if self.best_margin is None else self.best_margin
        return self.best_exact, self.best_step_accuracy, margin

    @property
    def missing_steps(self) -> int:
        """Answer steps below 99% at the last evaluation."""
        return self.sum_digits - self.steps_learned

    @property
    def sum_digits(self) -> int:
        """Digits of a sum; eleven, as the published task has, where no step is recorded."""
        return len(self.step_accuracy) or SUM_DIGITS

    @property
    def route(self) -> Route | None:
        """How it came to be proved: by training alone, or with repair; None: it is not proved."""
        if self.verdict == "proved":
            return "pure"
        return "assisted" if self.repair is not None and self.repair.verdict == "proved" else None

    @property
    def proof_of(self) -> SeedRecord | Repair:
        """Where ``verdict``, the margins, ``worst_pair`` and ``checked`` are those of the
        model that the seed ends with: the repair if there was one."""
        return self if self.repair is None else self.repair

    def after(self, metrics: Metrics, score: Score | None = None) -> SeedRecord:
        """The record after one more evaluation, which scored ``score`` (``Evaluation.score``); without
        that, as far as ``metrics`` tells."""
        steps = metrics.step_acc
        exact, accuracy, margin = score or (metrics.val_exact, _mean(steps), -math.inf)
        known = margin if math.isfinite(margin) else -math.inf
        best: dict[str, Any] = {}
        if self.steps == 0 or (exact, accuracy, known) > self.best_score:
            best = {
                "best_exact": exact,
                "best_step": metrics.step,
                "best_step_accuracy": accuracy,
                "best_margin": margin if math.isfinite(margin) else None,
            }
        diverged = not math.isfinite(metrics.train_loss)
        success, perfect = metrics.val_exact >= SUCCESS, metrics.val_exact == 1.0
        fitted = metrics.train_exact is not None and metrics.train_exact >= SUCCESS
        return dataclasses.replace(
            self,
            status="diverged" if diverged else "training",
            steps=metrics.step + 1,
            last_exact=metrics.val_exact,
            last_token_accuracy=metrics.val_token_acc,
            step_accuracy=steps,
            steps_learned=sum(accuracy >= LEARNED for accuracy in steps),
            train_loss=None if diverged else metrics.train_loss,
            train_exact=metrics.train_exact,
            first_fitted_step=_first(self.first_fitted_step, metrics.step, fitted),
            first_perfect_step=_first(self.first_perfect_step, metrics.step, perfect),
            first_success_step=_first(self.first_success_step, metrics.step, success),
            grokked_at=_first(self.grokked_at, metrics.step, True) if success else None,
            **best,
        )

    def below(self, name: str) -> SeedRecord:
        """As seen from the folder above its run, which is called ``name`` there."""
        return dataclasses.replace(
            self,
            run=name,
            checkpoint=self.checkpoint and f"{name}/{self.checkpoint}",
            certificate=self.certificate and f"{name}/{self.certificate}",
        )

    def to_dict(self) -> dict[str, Any]:
        """One flat row, for pandas or polars: lists as numbered columns, the repair's values with its
        name in front."""
        row: dict[str, Any] = {}
        for name, value in vars(self).items():
            if name == "step_accuracy":
                row |= {f"step_accuracy_{i}": accuracy for i, accuracy in enumerate(value)}
            elif name == "repair":
                repair = vars(value) if value else dict.fromkeys(Repair.__dataclass_fields__)
                row |= _flat_pair(repair, "repair_")
            else:
                row[name] = value
        return _flat_pair(row) | {"succeeded": self.succeeded, "route": self.route}


def best_of(records: Iterable[SeedRecord]) -> SeedRecord:
    """The record of the best checkpoint, the first of equals: the one that decides ``best.pt`` and what
    ``summary.json`` says is best."""
    return max(records, key=lambda record: record.best_score)


def from_history(seed: int, evaluations: Iterable[Metrics]) -> SeedRecord:
    """The record of a seed whose tables alone are known. Tables hold no margins: of evaluations equal in
    all else, the first counts as the best."""
    record = SeedRecord(seed=seed)
    for metrics in evaluations:
        record = record.after(metrics)
    return record


TABLE_FILE = "seeds.csv"


def table_columns(sum_digits: int = SUM_DIGITS) -> tuple[str, ...]:
    """Of ``seeds.csv``."""
    return (
        "seed",
        "best_val_exact",
        "best_step",
        "final_val_exact",
        "final_token_acc",
        "steps_learned",
        "first_step_100",
        *step_columns(sum_digits),
        "status",
    )


TABLE_COLUMNS = table_columns()


def write_table(folder: Path, records: Iterable[SeedRecord]) -> None:
    """Replace ``seeds.csv``: what training came to, a row for every seed, by number. Raises
    ``Failure``."""
    ordered = sorted(records, key=lambda record: record.seed)
    known = [len(record.step_accuracy) for record in ordered if record.step_accuracy]
    digits = max(known, default=SUM_DIGITS)
    rows = [_table_row(each, digits) for each in ordered]
    write_text(folder / TABLE_FILE, csv_lines([table_columns(digits), *rows]))


def _table_row(record: SeedRecord, sum_digits: int) -> list[str]:
    first = record.first_perfect_step
    return [
        str(record.seed),
        csv_number(record.best_exact),
        str(record.best_step),
        csv_number(record.last_exact),
        csv_number(record.last_token_accuracy),
        str(record.steps_learned),
        "" if first is None else str(first),
        *csv_steps(record.step_accuracy, sum_digits),
        record.status,
    ]


def write_records(folder: Path, records: Sequence[SeedRecord]) -> None:
    """Replace ``seeds.json``: a line for every seed, in the order given. Raises ``Failure``."""
    # One line a record by the fast encoder: thousands of seeds are written at every evaluation.
    lines = ",\n".join(json.dumps(vars(record), default=vars, allow_nan=False) for record in records)
    text = f'{{"schema_version": {SCHEMA_VERSION}, "seeds": [\n{lines}\n]}}\n'
    write_text(folder / SEEDS_FILE, text)


def read_records(folder: Path) -> tuple[SeedRecord, ...]:
    """The records in ``seeds.json``. Raises ``Failure`` if it is missing or damaged."""
    path = folder / SEEDS_FILE
    data = read_json(path)
    version = data.get("schema_version")
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise Failure(
            f"{path} was written by another adderlab (schema {version}, this one reads up to "
            f"{SCHEMA_VERSION}); upgrade with pip install -U adderlab"
        )
    rows = data.get("seeds")
    if not isinstance(rows, list):
        raise Failure(f"{path} lacks its list of seeds; restore it from a copy")
    try:
        return tuple(schema.from_dict(SeedRecord, row, f"seeds[{i}]") for i, row in enumerate(rows))
    except UsageError as error:
        raise Failure(f"{path} does not fit: {error}; restore it from a copy") from error


def _first(before: int | None, step: int, reached: bool) -> int | None:
    return before if before is not None or not reached else step


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def _flat_pair(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """With the worst pair as two columns."""
    flat = {f"{prefix}{name}": value for name, value in values.items() if name != "worst_pair"}
    a, b = values["worst_pair"] or (None, None)
    return flat | {f"{prefix}worst_a": a, f"{prefix}worst_b": b}
