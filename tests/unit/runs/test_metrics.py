"""The tables of a run: written and read back, R456's own read as well, damage named."""

import csv
import math
from pathlib import Path

import pytest
import torch

from adderlab.errors import Failure
from adderlab.runs.records import (
    METRIC_COLUMNS,
    SEED_METRIC_COLUMNS,
    Metrics,
    csv_lines,
    median_metrics,
    metric_columns,
    read_metrics,
    read_seed_metrics,
)

STEPS = tuple(i / 10 for i in range(11))


def metrics(step: int = 100, val_exact: float = 0.25, **changes: float) -> Metrics:
    values = {"train_loss": 1.896949, "val_token_acc": 0.5, "lr": 1.5e-5, "elapsed_sec": 12.5}
    return Metrics(step=step, val_exact=val_exact, step_acc=STEPS, **values | changes)


def write(path: Path, columns: tuple[str, ...], rows: list[list[str]]) -> Path:
    path.write_text(csv_lines([columns, *rows]))
    return path


def test_columns_start_with_the_published_ones() -> None:
    assert METRIC_COLUMNS[:6] == (
        "step",
        "train_loss",
        "val_exact",
        "val_token_acc",
        "lr",
        "elapsed_sec",
    )
    assert METRIC_COLUMNS[6:] == (*(f"step_acc_{i}" for i in range(11)), "weight_norm")
    assert metric_columns(pool=True) == (*METRIC_COLUMNS, "train_exact")


def test_rows_come_back(tmp_path: Path) -> None:
    rows = [metrics(), metrics(200, train_loss=math.nan), metrics(300, lr=0.0)]
    write(tmp_path / "metrics.csv", METRIC_COLUMNS, [row.cells() for row in rows])
    first, second, third = read_metrics(tmp_path)
    assert (first, third) == (rows[0], rows[2])
    assert second.step == 200 and math.isnan(second.train_loss)


def test_float32_comes_back_exactly(tmp_path: Path) -> None:
    values = torch.rand(50, generator=torch.Generator().manual_seed(1))
    rows = [metrics(train_loss=float(value)).cells() for value in values]
    write(tmp_path / "metrics.csv", METRIC_COLUMNS, rows)
    read = torch.tensor([row.train_loss for row in read_metrics(tmp_path)], dtype=torch.float32)
    assert torch.equal(read, values)


def test_published_tables_are_read(tmp_path: Path) -> None:
    with (tmp_path / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(METRIC_COLUMNS[:6]))
        writer.writeheader()
        first = (0, 2.632636, 0.0, 0.089982, 1.5e-05, 0.7)
        writer.writerow(dict(zip(METRIC_COLUMNS[:6], first, strict=True)))
    (row,) = read_metrics(tmp_path)
    assert (row.step, row.train_loss, row.val_token_acc) == (0, 2.632636, 0.089982)
    assert row.step_acc == ()


def test_unfinished_last_line_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "metrics.csv", METRIC_COLUMNS, [metrics().cells(), metrics(200).cells()])
    text = path.read_text()
    for cut in range(1, len(text.splitlines()[-1]) + 1):
        path.write_text(text[:-cut])
        assert [row.step for row in read_metrics(path)] == [100]


def test_damage_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    good = metrics().cells()
    for rows, columns, word in (
        ([good, good[:-1]], METRIC_COLUMNS, "line 3 has 17 cells instead of 18"),
        ([["x", *good[1:]]], METRIC_COLUMNS, "line 2: step is 'x'"),
        ([[good[0], "?", *good[2:]]], METRIC_COLUMNS, "line 2: train_loss is '?'"),
        ([], ("step", "loss"), "no column train_loss"),
    ):
        write(path, columns, rows)
        with pytest.raises(Failure) as error:
            read_metrics(path)
        assert word in str(error.value) and "\n" not in str(error.value)
    for content in (b"", b"step", b"\xff\xff\n"):
        path.write_bytes(content)
        with pytest.raises(Failure, match=r"metrics\.csv"):
            read_metrics(path)
    path.unlink()
    with pytest.raises(Failure, match="does not exist"):
        read_metrics(path)


def test_seed_metrics_are_grouped(tmp_path: Path) -> None:
    rows = [[str(seed), *metrics(step).cells()] for step in (0, 100) for seed in (7, 3)]
    write(tmp_path / "seed_metrics.csv", SEED_METRIC_COLUMNS, rows)
    assert read_seed_metrics(tmp_path) == {seed: [metrics(0), metrics(100)] for seed in (7, 3)}


def test_median_is_per_column_and_leaves_out_nan() -> None:
    rows = [metrics(train_loss=loss, val_exact=exact) for loss, exact in ((1, 0), (5, 0.5), (2, 1))]
    middle = median_metrics(rows)
    assert (middle.train_loss, middle.val_exact, middle.step) == (2, 0.5, 100)
    assert middle.step_acc == STEPS
    with_nan = median_metrics([*rows, metrics(train_loss=math.nan)])
    assert with_nan.train_loss == 2
    assert math.isnan(median_metrics([metrics(train_loss=math.nan)]).train_loss)
