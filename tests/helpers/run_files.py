"""Folders as values: every file without its times, so that equal means equal bits."""

import json
from pathlib import Path
from typing import Any

import torch

from adderlab.runs.folder import load_state

TIMES = {"elapsed_sec", "updated", "seconds"}
"""What is not a function of the settings."""


def results(run: Path) -> dict[str, Any]:
    """Every file of a run: what has to come out the same."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in run.rglob("*") if path.is_file()):
        name = str(path.relative_to(run))
        if path.name in (".lock", "environment.json"):
            continue
        if path.name.endswith("metrics.csv"):
            header, *rows = (line.split(",") for line in path.read_text().splitlines())
            column = header.index("elapsed_sec")
            found[name] = [row[:column] + row[column + 1 :] for row in (header, *rows)]
        elif path.suffix == ".json":
            found[name] = untimed(json.loads(path.read_text()))
        elif path.name == "state.pt":
            found[name] = untimed(load_state(run))
        else:
            found[name] = path.read_bytes()
    return found


def untimed(value: Any) -> Any:
    """Without times; tensors as bytes."""
    if isinstance(value, dict):
        return {key: untimed(each) for key, each in value.items() if key not in TIMES}
    if isinstance(value, (list, tuple)):
        return [untimed(each) for each in value]
    if isinstance(value, torch.Tensor):
        return (value.dtype, tuple(value.shape), value.numpy().tobytes())
    return value


def files(folder: Path) -> dict[str, bytes]:
    """Every file as it is, but locks."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}
