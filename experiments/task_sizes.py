"""How difficulty grows with the task: steps and success of three shapes at other sizes, by one recipe.

    python experiments/task_sizes.py experiments/task_sizes.json [--seeds 24] [--steps 6000]

Every cell is a preset's architecture at some columns and base, and all are trained by the generic
recipe ``auto`` in ``--steps`` steps, and anneal stages of a tenth of them for seeds that come far
enough. A seed succeeds if it ends at 99% of its validation pairs. The file is written after every cell,
and a cell that is in it already, with the same settings, is not measured again: one may stop it. Cells
go from short numbers to long ones. At the end the table of docs/sizes.md is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import adderlab as al
from adderlab.evaluation.suites import wilson

SHAPES = ("456p", "122p", "7p")
CELLS = [
    (shape, columns, base) for columns in (3, 5, 10, 15) for base in (10, 2, 16) for shape in SHAPES
]


def cell(shape: str, columns: int, base: int, seeds: int, steps: int) -> dict[str, Any]:
    """Train the seeds of one cell and say how they end."""
    wall, core = time.monotonic(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        run = al.train(
            shape,
            recipe="auto",
            steps=steps,
            set={"model.columns": columns, "model.base": base},
            seeds=range(2000, 2000 + seeds),
            threads=1,
            folder=Path(folder) / "run",
        )
        if run.status == "stopped":
            raise SystemExit(f"{shape}:{columns}x{base} was stopped; the next call begins it again")
        records = run.seeds
    reached = sorted(each.first_success_step for each in records if each.first_success_step is not None)
    rate = wilson(sum(each.succeeded for each in records), len(records))
    return {
        "shape": shape,
        "columns": columns,
        "base": base,
        "parameters": al.preset(shape, columns=columns, base=base).parameters,
        "steps": steps,
        "seeds": f"2000-{1999 + seeds}",
        "n": seeds,
        "succeeded": rate.count,
        "interval": [round(rate.low, 4), round(rate.high, 4)],
        "first_at_99": reached,
        "median_step_of_those": statistics.median(reached) if reached else None,
        "median_exact": round(statistics.median(each.last_exact for each in records), 4),
        "median_steps_learned": statistics.median(each.steps_learned for each in records),
        "core_seconds": round(time.process_time() - core, 1),
        "wall_seconds": round(time.monotonic() - wall, 1),
    }


def table(cells: list[dict[str, Any]]) -> str:
    """Markdown: a row for each size, a column for each shape."""
    found = {(each["columns"], each["base"], each["shape"]): each for each in cells}
    lines = ["| columns | base | " + " | ".join(SHAPES) + " |", "|---|---|" + "---|" * len(SHAPES)]
    for columns, base in dict.fromkeys(key[:2] for key in found):
        texts = []
        for shape in SHAPES:
            each = found.get((columns, base, shape))
            if each is None:
                texts.append("not run")
                continue
            low, high = each["interval"]
            text = f"{each['succeeded']}/{each['n']} [{low:.0%}, {high:.0%}]"
            if each["first_at_99"]:
                text += f", step {each['median_step_of_those']:,.0f}"
            texts.append(text)
        lines.append(f"| {columns} | {base} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no cell after so long")
    parser.add_argument("--cells", nargs="*", help="such as 122p:3x10; default: all")
    args = parser.parse_args()
    wanted = CELLS
    if args.cells:
        parts = [each.replace(":", "x").split("x") for each in args.cells]
        wanted = [(shape, int(columns), int(base)) for shape, columns, base in parts]
    cells: list[dict[str, Any]] = []
    if args.output.exists():
        cells = json.loads(args.output.read_text())["cells"]
    began = time.monotonic()
    for shape, columns, base in wanted:
        key = (shape, columns, base, args.steps, args.seeds)
        done = {(c["shape"], c["columns"], c["base"], c["steps"], c["n"]) for c in cells}
        if key in done:
            continue
        if time.monotonic() - began > 60 * args.minutes:
            break
        found = cell(shape, columns, base, args.seeds, args.steps)
        cells.append(found)
        print(json.dumps(found), flush=True)
        about = {
            "recipe": "auto",
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, shared with other work",
            "torch": torch.__version__,
            "adderlab": al.__version__,
        }
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps({"about": about, "cells": cells}, indent=1) + "\n")
    print(table(cells))


if __name__ == "__main__":
    main()
