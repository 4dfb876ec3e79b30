"""Is this checkout as fast as another? Interleaved (A B A B ...), medians, ratios.

    python benchmarks/compare_speed.py --against 590c4ba --rounds 7
    python benchmarks/compare_speed.py --against ../other-checkout --only train startup

Training (456p, 16 seeds, one thread) is the processor time of a long run less that of a short one, so
that neither the start nor the first evaluation counts; by the recipe `circle`, whose start is short.
Evaluation and proof are the seconds that the program itself reports for 100,000 pairs and for
records/best/456p. Whole commands are processor time too: other programs on the machine matter less to it
than to the wall clock. Start-up is the wall clock of `adderlab --help` and of `import adderlab`.

The two trees take turns, so that a machine that slows down slows both; which of them goes first
alternates. Exit code 1 if training, evaluation or proof is slower here than `--tolerance` allows, or if
the start misses its targets (--help under 0.2 s, import under 0.1 s and without torch).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from checkouts import BEFORE_REARRANGING, HERE, Checkout, Pair, checkouts

SEEDS = 16
TRAINED = ("456p", "--recipe", "circle", "--seeds", f"0-{SEEDS - 1}", "--threads", "1")
SHORT_STEPS = 200
PAIRS = 100_000
EVALUATIONS = 9
"""Of one process: an evaluation takes 20 ms, the process more than a second."""
MODEL = HERE / "records" / "best" / "456p" / "model.pt"
HELP_SECONDS, IMPORT_SECONDS = 0.2, 0.1


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Something that both trees do; `cost` gives what it took, the less the better."""

    name: str
    unit: str
    cost: Callable[[Checkout], float]
    limit: float | None = None
    """What this tree may take at most; None: what the other takes, and the tolerance."""
    rated: bool = True
    """Whether slower than the other counts as a failure."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A command that succeeded: its output, and what it took."""

    stdout: str
    wall_seconds: float
    core_seconds: float


def succeed(tree: Checkout, command: list[str]) -> Finished:
    """Run `command` in the tree. Raises `SystemExit` if it fails."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = tree.run(command)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.code != 0:
        raise SystemExit(f"{tree.name}: {' '.join(command)} ended with {done.code}: {done.complaint}")
    core = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Finished(stdout=done.stdout, wall_seconds=wall, core_seconds=core)


def train_contest(steps: int) -> Contest:
    def cost(tree: Checkout) -> float:
        took = []
        for length in (SHORT_STEPS, steps):
            options = ["--steps", str(length), "--evaluate", "none", "--no-prove"]
            options += ["--run-name", "speed", "--overwrite", "--quiet"]
            took.append(succeed(tree, tree.adderlab("train", *TRAINED, *options)).core_seconds)
        return (took[1] - took[0]) / (SEEDS * (steps - SHORT_STEPS)) * 1e6

    return Contest(name=f"train 456p, {SEEDS} seeds, 1 thread", unit="us a seed-step", cost=cost)


def evaluate_cost(tree: Checkout) -> float:
    command = tree.adderlab("evaluate", *[MODEL] * EVALUATIONS, "--suite", f"fresh:{PAIRS}", "--json")
    reports = json.loads(succeed(tree, command).stdout)
    return statistics.median(float(report["seconds"]) for report in reports) * 1e3


def prove_cost(tree: Checkout) -> float:
    return float(json.loads(succeed(tree, tree.adderlab("prove", MODEL, "--json")).stdout)["seconds"])


def import_cost(tree: Checkout) -> float:
    """Seconds that the import takes inside an interpreter that is already there."""
    code = (
        "import sys, time; t = time.perf_counter(); import adderlab; t = time.perf_counter() - t; "
        "print(t, 'torch' in sys.modules)"
    )
    seconds, torch = succeed(tree, [sys.executable, "-c", code]).stdout.split()
    if torch == "True":
        raise SystemExit(f"{tree.name}: import adderlab imports torch")
    return float(seconds)


def contests(steps: int) -> dict[str, list[Contest]]:
    def whole(*args: str) -> Callable[[Checkout], float]:
        return lambda tree: succeed(tree, tree.adderlab(*args)).core_seconds

    def start(tree: Checkout) -> float:
        return succeed(tree, tree.adderlab("--help")).wall_seconds

    return {
        "train": [train_contest(steps)],
        "evaluate": [
            Contest(name=f"evaluate {PAIRS:,} pairs", unit="ms", cost=evaluate_cost),
            Contest(
                name="the whole command evaluate",
                unit="core-s",
                cost=whole("evaluate", str(MODEL), "--suite", f"fresh:{PAIRS}", "--json"),
                rated=False,
            ),
        ],
        "prove": [
            Contest(name="prove records/best/456p", unit="s", cost=prove_cost),
            Contest(
                name="the whole command prove",
                unit="core-s",
                cost=whole("prove", str(MODEL), "--json"),
                rated=False,
            ),
        ],
        "startup": [
            Contest(name="adderlab --help", unit="s", cost=start, limit=HELP_SECONDS),
            Contest(name="import adderlab", unit="s", cost=import_cost, limit=IMPORT_SECONDS),
        ],
    }


def medians(contest: Contest, pair: Pair, rounds: int) -> tuple[float, float]:
    """(old, new) over `rounds` rounds after one that is not counted: it compiles and fills caches."""
    costs: dict[str, list[float]] = {"old": [], "new": []}
    for number in range(rounds + 1):
        order = (pair.old, pair.new) if number % 2 else (pair.new, pair.old)
        for tree in order:
            cost = contest.cost(tree)
            if number:
                costs[tree.name].append(cost)
    return statistics.median(costs["old"]), statistics.median(costs["new"])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", default=BEFORE_REARRANGING, help="a checkout or a revision")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=2200, help="steps of the longer training")
    parser.add_argument("--tolerance", type=float, default=0.03, help="how much slower is as fast")
    parser.add_argument("--only", nargs="+", choices=["train", "evaluate", "prove", "startup"])
    args = parser.parse_args()
    slower = 0
    with checkouts(args.against) as pair:
        print(f"old {args.against}, new {HERE.name}: medians of {args.rounds} rounds, taking turns\n")
        print("| | old | new | new / old | |\n|---|---|---|---|---|")
        for group, found in contests(args.steps).items():
            for contest in found if not args.only or group in args.only else ():
                old, new = medians(contest, pair, args.rounds)
                limit = old * (1 + args.tolerance) if contest.limit is None else contest.limit
                bad = contest.rated and new > limit
                slower += bad
                verdict = "not rated" if not contest.rated else "TOO SLOW" if bad else "ok"
                print(
                    f"| {contest.name} ({contest.unit}) | {old:.4g} | {new:.4g} | {new / old:.3f} | "
                    f"{verdict} |",
                    flush=True,
                )
    return int(slower > 0)


if __name__ == "__main__":
    sys.exit(main())
