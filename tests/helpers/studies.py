"""Folders of searches and sweeps with made-up curves, written by the functions that the program uses."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from adderlab.files.atomic import write_json
from adderlab.runs.metadata import RunConfig, Status, summarise, write_config
from adderlab.runs.records import Repair, SeedRecord, write_records
from adderlab.runs.stored import seed_records
from helpers.runs import COMMAND, ENVIRONMENT, GROKS, LATE, LOST, MODEL, NEVER, recipe, write_run

SPENT = {"seed_steps": 12_000, "wall_seconds": 75.5, "core_seconds": 140.25}


def write_search(path: Path) -> Path:
    """Three seeds in two batches: one given up, one proved, one proved after repair. Ended as wanted."""
    found: dict[int, dict[str, Any]] = {
        3: {"status": "dropped"},
        4: {
            "status": "proved",
            "verdict": "proved",
            "weights": "last",
            "margin_bound": 0.25,
            "margin_witness": 0.3,
            "worst_pair": (9_999_999_999, 1),
            "proofs": 1,
        },
        5: {
            "status": "proved",
            "proofs": 3,
            "repair": Repair(
                verdict="proved",
                margin_bound=0.01,
                trainings=2,
                margin_witness=0.02,
                worst_pair=(55, 45),
                step=2500,
            ),
        },
    }
    write_run(path / "seed_0003", {3: NEVER}, status="stopped")
    write_run(path / "seeds_0004-0005", {4: GROKS, 5: LATE}, status="stopped")
    (path / "proved").mkdir()
    records = []
    for run in ("seed_0003", "seeds_0004-0005"):
        for record in seed_records(path / run):
            files: dict[str, Any] = {"run": run}
            if found[record.seed]["status"] == "proved":
                files["checkpoint"] = f"proved/seed_{record.seed:04d}.pt"
                shutil.copy(path / run / "checkpoints" / "best.pt", path / files["checkpoint"])
            records.append(dataclasses.replace(record, **files, **found[record.seed]))
    details = {"onward": True, "assisted": True, "together": 2}
    more = {"search": "proved", "wanted": 2, "spent": SPENT}
    _write_study(path, "search", (3,), records, "done", details, more)
    return path


def write_sweep(path: Path) -> Path:
    """Two cells of four seeds; the second is better."""
    runs = {"0000": (0.02, (NEVER, NEVER, LOST, NEVER)), "0001": (0.01, (GROKS, LATE, GROKS, NEVER))}
    cells, records = [], []
    for name, (lr, curves) in runs.items():
        folder = path / "cells" / name
        write_run(folder, dict(enumerate(curves)), changes={"lr": lr})
        records += [dataclasses.replace(each, run=f"cells/{name}") for each in seed_records(folder)]
        cells.append({"cell": name, "state": "done", "settings": {"recipe.lr": lr}})
    write_json(path / "table.json", {"schema_version": 1, "cells": cells[::-1]})
    details = {"guided": False, "declaration": {"preset": "456p", "grid": {"recipe.lr": [0.02, 0.01]}}}
    _write_study(path, "sweep", (0, 1, 2, 3), records, "done", details, {})
    return path


def _write_study(
    path: Path,
    kind: Any,
    seeds: tuple[int, ...],
    records: list[SeedRecord],
    status: Status,
    details: dict[str, Any],
    more: dict[str, Any],
) -> None:
    config = RunConfig(
        kind=kind, model=MODEL, recipe=recipe(), seeds=seeds, command=COMMAND, details=details
    )
    write_config(path, config)
    write_json(path / "environment.json", ENVIRONMENT)
    write_records(path, records)
    best = max(records, key=lambda record: (record.route is not None, record.best_score))
    summary = summarise(
        run_name=path.name,
        model=MODEL,
        train_steps=3000,
        seeds=len(records),
        best=best,
        status=status,
        step=3000,
        elapsed_sec=75.5,
        params=456,
    )
    write_json(path / "summary.json", summary | more)
