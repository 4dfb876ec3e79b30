"""What a run needs to go on after it was stopped or killed: ``state.pt``.

The state is written before the first step and as the last thing of every evaluation, in one atomic
step. A kill between the tables and the state leaves rows of a step that the state does not know;
going on drops them first.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adderlab.errors import Failure, UsageError
from adderlab.runs.atomic import write_text, write_torch
from adderlab.runs.metrics import csv_lines
from adderlab.runs.weights import read_torch, read_weight_file

STATE_FILE = "state.pt"
SCHEMA_VERSION = 1
LARGEST_STATE = 1 << 36
"""Bytes. Six numbers for every parameter of every seed: gigabytes for thousands of large ones."""

_REPAIR_TABLE = "restore it from a copy, or delete it to go on without its rows"


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Replace ``state.pt``: plain containers, numbers and tensors only. Raises ``Failure``."""
    write_torch(folder / STATE_FILE, {"schema_version": SCHEMA_VERSION, **state})


def load_state(folder: Path) -> dict[str, Any]:
    """The state of a stopped run.

    Raises ``UsageError`` if the run left none, ``Failure`` if the file is damaged.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        raise UsageError(f"{folder} holds no {STATE_FILE}: it cannot be resumed; train it anew")
    state = read_torch(read_weight_file(path, LARGEST_STATE), path, LARGEST_STATE)
    if state.get("schema_version") != SCHEMA_VERSION:
        raise Failure(f"{path} was written by another version of adderlab; train the run anew")
    return state


def resume_command(folder: Path, options: Sequence[str] = ()) -> str:
    """What to type to go on with a run."""
    return shlex.join(["adderlab", "train", "--resume", str(folder), *options])


def drop_rows_after(folder: Path, step: int, last_steps: Mapping[int, int] | None = None) -> None:
    """Take rows of later steps, and a half-written last line, out of the metric tables.

    ``last_steps``: the step of every seed's last evaluation, -1 before its first. A table that ends
    earlier was cut short: ``Failure``.
    """
    last = max(last_steps.values()) if last_steps else -1
    seeds = {seed for seed, at in (last_steps or {}).items() if at == last}
    for name, column in (("metrics.csv", 0), ("seed_metrics.csv", 1)):
        path = folder / name
        if not path.is_file():
            continue
        try:
            header, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            rows = [line.rstrip("\n").split(",") for line in lines if line.endswith("\n")]
            kept = [row for row in rows if int(row[column]) <= step]
        except (ValueError, IndexError) as error:
            raise Failure(f"{path} is no table of a run ({error}); {_REPAIR_TABLE}") from error
        ends = [row for row in kept if int(row[column]) == last]
        if last >= 0 and (not ends or (column and not seeds <= {int(row[0]) for row in ends})):
            raise Failure(
                f"{path} lacks rows of step {last}, where the run was evaluated: it was cut short; "
                f"{_REPAIR_TABLE}"
            )
        write_text(path, header + csv_lines(kept))
