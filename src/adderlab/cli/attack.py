"""Look for a failing pair: strata, the prover's witnesses, a local search where it has none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from adderlab.proof.attack import Attack


@dataclass(frozen=True, kw_only=True)
class Args:
    """Which model, and how many pairs."""

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CKPT")]
    """A checkpoint file."""
    pairs: int = 1000
    """Pairs of each stratum."""
    seed: int = 0
    """Seed of the strata's pairs."""
    starts: int = 24
    """Pairs from which the local search starts, for each digit of the sum."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one object instead of text."""


def run(args: Args) -> int:
    """Attack; the exit code is 0 whether a failing pair is found or not."""
    import torch
    from rich.console import Console

    from adderlab.cli.options import emit_json
    from adderlab.errors import UsageError
    from adderlab.evaluation.suites import strata
    from adderlab.models.mapping import why_no_tables
    from adderlab.proof.attack import attack
    from adderlab.proof.problem import problem_from_tables
    from adderlab.proof.prove import exact_tables
    from adderlab.runs.checkpoints import load_checkpoint

    for name in ("pairs", "starts"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name} must be 1 or more, not {getattr(args, name)}")
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(args.checkpoint)
    reason = why_no_tables(checkpoint.config)
    problem = None if reason else problem_from_tables(exact_tables(checkpoint))
    with Console(stderr=True).status("tables") as status:
        result = attack(
            checkpoint.model(),
            strata(args.pairs, args.seed),
            problem,
            starts=args.starts,
            progress=lambda name: status.update(name),
        )
    if args.json:
        emit_json(as_json(result), None)
        return 0
    for attempt in result.attempts:
        print(
            f"{attempt.name:32} {attempt.failures:>7,} of {attempt.n:>7,} fail, "
            f"smallest margin {attempt.margin:10.4f} (s_{attempt.step})"
        )
    if reason:
        print(f"a local search, since the prover has no witnesses here: {reason}")
    a, b = result.worst.pair
    found = "a failing pair" if result.counterexample else "no failing pair found; the weakest"
    print(f"{found}: {a} + {b}, margin {result.worst.margin:.4f}; {result.seconds:.1f} s")
    return 0


def as_json(result: Attack) -> dict[str, Any]:
    """The attack as plain values."""
    from dataclasses import asdict

    worst = result.worst
    return {
        "counterexample": None if result.counterexample is None else list(result.counterexample),
        "margin": {"witness": worst.margin, "pair": list(worst.pair), "step": worst.step},
        "checked": sum(attempt.n for attempt in result.attempts),
        "failures": sum(attempt.failures for attempt in result.attempts),
        "attempts": [asdict(attempt) | {"pair": list(attempt.pair)} for attempt in result.attempts],
        "seconds": result.seconds,
    }
