"""Nothing that works is lost: this checkout beside another, compared through commands and files.

    python benchmarks/gate.py                         # all but recipes, against the old packages
    python benchmarks/gate.py --only recipes          # slower, and rarely needed
    python benchmarks/gate.py --against main~3 --only weights,proofs
    python benchmarks/gate.py --against ../other-checkout

Both trees are run by this interpreter, as `python -m adderlab.cli.main`, in temporary folders. Every
check is a line, every difference a line below it, and any difference is exit code 1.

    weights   600 steps of 4 seeds of 456p, 67p, 44p and 7p end in the same weights to the last bit, also
              a run that the old tree began and this one goes on with
    proofs    every model of records/best is proved anew with the same verdict, margin bound and leaf
              count; the certificates on record, and fresh ones of the old tree, are accepted
    records   every file of records/ and of ../shared/reference/checkpoints is read with the same answer
    commands  every command of the README runs, with small arguments, and ends with the same exit code
    recipes   5 steps of one seed, with every recipe of the rates on record by its old name, end in the
              same weights

Records, checkpoints and names of recipes and settings are the old tree's for both, so that what was
written before is what is read. More keys and more numbers than before are no difference.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator

from checkouts import BEFORE_REARRANGING, Pair, checkouts
from gate_parts.check import Check
from gate_parts.commands import check_commands
from gate_parts.proofs import check_proofs
from gate_parts.records import check_records
from gate_parts.weights import check_recipes, check_weights

CHECKS: dict[str, Callable[[Pair], Iterator[Check]]] = {
    "weights": check_weights,
    "proofs": check_proofs,
    "records": check_records,
    "commands": check_commands,
    "recipes": check_recipes,
}
DEFAULT = ["weights", "proofs", "records", "commands"]


def report(check: Check, seconds: float) -> None:
    word = "skipped" if check.skipped else "DIFFERS" if check.problems else "same"
    note = f": {check.note}" if check.note else ""
    print(f"{word:8} {check.name}{note} ({seconds:.1f} s)", flush=True)
    for problem in check.problems:
        print(f"             {problem}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", default=BEFORE_REARRANGING, help="a checkout or a revision")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=DEFAULT, help="comma-separated parts"
    )
    args = parser.parse_args()
    if unknown := set(args.only) - set(CHECKS):
        parser.error(f"--only {','.join(sorted(unknown))}: the parts are {','.join(CHECKS)}")

    started = time.monotonic()
    done: list[Check] = []
    with checkouts(args.against) as pair:
        for part in args.only:
            print(f"== {part}", flush=True)
            last = time.monotonic()
            for check in CHECKS[part](pair):
                report(check, time.monotonic() - last)
                done.append(check)
                last = time.monotonic()
    differing = sum(bool(check.problems) for check in done)
    skipped = sum(check.skipped for check in done)
    print(
        f"{len(done)} checks against {args.against}: {len(done) - differing - skipped} same, "
        f"{differing} differ, {skipped} skipped; {time.monotonic() - started:.0f} s"
    )
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())
