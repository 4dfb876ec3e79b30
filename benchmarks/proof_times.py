"""What a proof costs on one core: `adderlab prove` and `adderlab check` of every model of records/best.

    python benchmarks/proof_times.py                        # a Markdown table, one row a record
    python benchmarks/proof_times.py --only 7p 36p -o times.json

Each command is a process of its own, bound to one core and one thread, so start-up counts and nothing
runs beside it. `prove --no-check` is the prover alone; `check --real-only` is what `prove` adds to it
before it says PROVED; `check` answers for fp32 too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from adderlab.files.atomic import write_text
from adderlab.runs.metadata import collect_environment

ROOT = Path(__file__).resolve().parent.parent
BEST = ROOT / "records" / "best"


def timed(arguments: list[str], core: int) -> dict[str, Any]:
    """Seconds on the clock and of the core that one command took; it has to end with exit code 0."""
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "adderlab.cli.main", *arguments],
        env={**os.environ, **threads, "PYTHONPATH": str(ROOT / "src")},
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        stdout=subprocess.DEVNULL,
        check=True,
    )
    seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(seconds, 2), "core_seconds": round(used, 2)}


def measure(record: str, core: int, folder: Path) -> dict[str, Any]:
    model, certificate = str(BEST / record / "model.pt"), str(folder / f"{record}.json")
    return {
        "record": record,
        "prove": timed(["prove", model, "--no-check", "-o", certificate], core),
        "check_real": timed(["check", certificate, model, "--real-only"], core),
        "check": timed(["check", certificate, model], core),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    records = sorted((f.name for f in BEST.iterdir() if f.is_dir()), key=lambda name: int(name[:-1]))
    parser.add_argument("--only", nargs="+", default=records, metavar="RECORD")
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    rows = []
    print("| record | prove, s | check in real arithmetic, s | check with fp32, s |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for record in options.only:
            row = measure(record, options.core, Path(folder))
            rows.append(row)
            times = [f"{row[part]['seconds']:.1f}" for part in ("prove", "check_real", "check")]
            print(f"| {record} | " + " | ".join(times) + " |", flush=True)
    if options.output:
        text = json.dumps({"environment": collect_environment("cpu"), "rows": rows}, indent=1)
        write_text(options.output, text + "\n")


if __name__ == "__main__":
    main()
