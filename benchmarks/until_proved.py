"""From nothing to a proved model, several times from different seeds: how long it takes.

    python benchmarks/until_proved.py --preset 456p --runs 10 --first 6000 --apart 100 -o records/until
    python benchmarks/until_proved.py --preset examples/my_adder.py --runs 10 --first 34000 --apart 100

Every run is ``adderlab train PRESET --until proved --seeds N-`` as a process of its own, so start-up
counts. One JSON file with every run, the median and what it ran on is written when all have ended.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from adderlab.files.atomic import write_text
from adderlab.runs.metadata import collect_environment

SCHEMA_VERSION = 1


def search(preset: str, seed: int, minutes: float, folder: Path) -> dict[str, Any]:
    """One search: what it found and spent."""
    options = [
        "--until",
        "proved",
        "--seeds",
        f"{seed}-",
        "--budget",
        str(minutes),
        "--evaluate",
        "none",
    ]
    command = [
        sys.executable,
        "-m",
        "adderlab.cli.main",
        "train",
        preset,
        *options,
        "--evaluate",
        "none",
    ]
    started = time.perf_counter()
    subprocess.run([*command, "--run-name", "search", "--quiet"], cwd=folder, check=False)
    seconds = time.perf_counter() - started
    summary = json.loads((folder / "results/runs/search/summary.json").read_text())
    return {
        "seeds_from": seed,
        "seconds": round(seconds, 2),
        "core_seconds": round(summary["spent"]["core_seconds"], 2),
        "seed_steps": summary["spent"]["seed_steps"],
        "seeds_tried": summary["seeds"],
        "dropped": summary["counts"]["dropped"],
        "proved": [_proof(row) for row in summary["proved"]],
    }


def _proof(row: dict[str, Any]) -> dict[str, Any]:
    """Of a proved seed: how it came to be, and when."""
    assisted = row["route"] == "assisted"
    return {
        "seed": row["seed"],
        "route": row["route"],
        "step": row["repair_step"] if assisted else row["steps"] - 1,
        "margin_bound": row["repair_margin_bound" if assisted else "margin_bound"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", default="456p", help="its name, or a FILE.py")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--first", type=int, default=6000, help="first seed of the first run")
    parser.add_argument(
        "--apart", type=int, default=100, help="seeds from one run's first to the next's"
    )
    parser.add_argument("--budget", type=float, default=10.0, help="minutes of one run")
    parser.add_argument("-o", "--output", type=Path, default=Path("records/until"))
    args = parser.parse_args()
    preset = name = args.preset
    if name.endswith(".py"):  # the searches run in folders of their own
        preset, name = str(Path(name).resolve()), Path(name).stem
    searches = []
    for i in range(args.runs):
        with tempfile.TemporaryDirectory() as folder:
            found = search(preset, args.first + i * args.apart, args.budget, Path(folder))
        searches.append(found)
        print(json.dumps(found), flush=True)
    seconds = [found["seconds"] for found in searches]
    proved = sum(bool(found["proved"]) for found in searches)
    print(
        f"{name}: {proved} of {args.runs} ended with a proved model; seconds from nothing to it: "
        f"median {statistics.median(seconds):.1f}, {min(seconds):.1f} to {max(seconds):.1f}"
    )
    document = {
        "schema_version": SCHEMA_VERSION,
        "preset": args.preset,
        "runs": args.runs,
        "proved": proved,
        "median_seconds": statistics.median(seconds),
        "environment": collect_environment("cpu"),
        "searches": searches,
    }
    args.output.mkdir(parents=True, exist_ok=True)
    write_text(args.output / f"{name}.json", json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
