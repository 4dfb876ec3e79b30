"""From nothing to a proved model, several times from different seeds: how long it takes.

    python benchmarks/until_proved.py --preset 456p --runs 10 --first 6000 --apart 100 -o records/until
    python benchmarks/until_proved.py --preset examples/my_adder.py --runs 10 --first 34000 --apart 100
    python benchmarks/until_proved.py --preset 122p --columns 3 --runs 10 --first 0 --apart 100
    python benchmarks/until_proved.py --preset 456p --runs 5 --against ../other

Every run is ``adderlab train PRESET --until proved --seeds N-`` as a process of its own, so start-up
counts: wall time, and processor time of the process and its workers, which depends less on what else the
machine does. One JSON file with all runs, the medians and what it ran on is written when all have ended.
``--against``: each run also by another checkout, the two in turn; then nothing is written.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
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


def search(words: list[str], seed: int, folder: Path, checkout: Path) -> dict[str, Any]:
    """One search: what it found and spent."""
    command = [sys.executable, "-m", "adderlab", "train", *words, "--until", "proved"]
    command += ["--seeds", f"{seed}-", "--evaluate", "none", "--run-name", "search", "--quiet"]
    environment = os.environ | {"PYTHONPATH": str(checkout / "src")}
    started, before = time.perf_counter(), _processor_seconds()
    subprocess.run(command, cwd=folder, env=environment, check=False)
    seconds, process = time.perf_counter() - started, _processor_seconds() - before
    summary = json.loads((folder / "results/runs/search/summary.json").read_text())
    return {
        "seeds_from": seed,
        "seconds": round(seconds, 2),
        "core_seconds": round(summary["spent"]["core_seconds"], 2),
        "process_core_seconds": round(process, 2),
        "seed_steps": summary["spent"]["seed_steps"],
        "seeds_tried": summary["seeds"],
        "dropped": summary["counts"]["dropped"],
        "proved": [_proof(row) for row in summary["proved"]],
    }


def _processor_seconds() -> float:
    """Of all processes that have ended below this one: start-up and the search's workers are in it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
    parser.add_argument("--columns", type=int, help="digits of a number, if not ten")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--first", type=int, default=6000, help="first seed of the first run")
    parser.add_argument(
        "--apart", type=int, default=100, help="seeds from one run's first to the next's"
    )
    parser.add_argument("--budget", type=float, default=10.0, help="minutes of one run")
    parser.add_argument("--against", type=Path, help="another checkout, to run in turn with this one")
    parser.add_argument("-o", "--output", type=Path, default=Path("records/until"))
    args = parser.parse_args()
    preset = name = args.preset
    if name.endswith(".py"):  # the searches run in folders of their own
        preset, name = str(Path(name).resolve()), Path(name).stem
    words = [preset, "--budget", str(args.budget)]
    if args.columns is not None:
        words += ["--columns", str(args.columns)]
        name = f"{name}@{args.columns}"
    here = Path(__file__).resolve().parents[1]
    checkouts = [here] if args.against is None else [here, args.against.resolve()]
    searches: dict[Path, list[dict[str, Any]]] = {checkout: [] for checkout in checkouts}
    for i in range(args.runs):
        for checkout in checkouts:
            with tempfile.TemporaryDirectory() as folder:
                found = search(words, args.first + i * args.apart, Path(folder), checkout)
            searches[checkout].append({**found, "load": round(os.getloadavg()[0], 1)})
            print(json.dumps(searches[checkout][-1]), flush=True)
    for checkout, runs in searches.items():
        _describe(name if args.against is None else f"{name} by {checkout.name}", runs)
    if args.against is not None:
        return
    document = {
        "schema_version": SCHEMA_VERSION,
        "preset": args.preset,
        **({} if args.columns is None else {"columns": args.columns}),
        "runs": args.runs,
        "proved": sum(bool(found["proved"]) for found in searches[here]),
        **{f"median_{key}": _median(key, searches[here]) for key in _MEASURED},
        "environment": collect_environment("cpu"),
        "searches": searches[here],
    }
    args.output.mkdir(parents=True, exist_ok=True)
    write_text(args.output / f"{name}.json", json.dumps(document, indent=1) + "\n")


_MEASURED = ("seconds", "process_core_seconds")


def _median(key: str, searches: list[dict[str, Any]]) -> float:
    return round(statistics.median(found[key] for found in searches), 2)


def _describe(name: str, searches: list[dict[str, Any]]) -> None:
    proved = sum(bool(found["proved"]) for found in searches)
    print(f"{name}: {proved} of {len(searches)} ended with a proved model; from nothing to it:")
    for key in _MEASURED:
        values = [found[key] for found in searches]
        print(f"  {key}: median {_median(key, searches):.1f}, {min(values):.1f} to {max(values):.1f}")


if __name__ == "__main__":
    main()
