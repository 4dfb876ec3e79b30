"""Leaves, time and memory of a proof and its check, as functions of columns and base.

    python benchmarks/proof_sizes.py [--sizes 3x10 10x10 ...]

The models are the hand-made adders of the tests (``tests/helpers/adders.py``), right at every size: what
is measured is the size of the task, not how hard a trained model is to bound. A line of JSON for each.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from adderlab.checker.verify import check_document
from adderlab.engine.base import single_threaded
from adderlab.proof.certificate import certificate
from adderlab.proof.prove import prove_checkpoint
from adderlab.task.addition import Addition
from helpers.adders import built, checkpoint

SIZES = ("3x10", "5x10", "10x10", "15x10", "18x10", "10x2", "18x2", "3x16", "5x16", "10x16", "15x16")


@single_threaded()
def measure(size: str, layout: str) -> dict[str, object]:
    """One adder, proved and checked in real arithmetic."""
    columns, base = map(int, size.split("x"))
    found = checkpoint(built(layout, Addition(columns=columns, base=base)))
    started = time.process_time()
    proof = prove_checkpoint(found)
    proved = time.process_time()
    report = check_document(certificate(proof), found, fp32=False)
    return {
        "columns": columns,
        "base": base,
        "layout": layout,
        "verdict": proof.verdict,
        "accepted": report.accepted,
        "leaves": proof.leaves,
        "prove_core_seconds": round(proved - started, 2),
        "check_core_seconds": round(time.process_time() - proved, 2),
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="*", default=SIZES, metavar="COLUMNSxBASE")
    parser.add_argument("--layout", default="P")
    args = parser.parse_args()
    for size in args.sizes:
        print(json.dumps(measure(size, args.layout)), flush=True)


if __name__ == "__main__":
    main()
