"""Look for a failing pair: strata, the prover's witnesses, a local search where it has none."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from adderlab.cli.options import Switch, arg, emit_json


@dataclass(frozen=True, kw_only=True)
class Args:
    """Which model, and how many pairs."""

    checkpoint: Annotated[Path, tyro.conf.Positional, arg(metavar="CKPT")]
    """A checkpoint file, or the folder of a run: its best model."""
    pairs: int = 1000
    """Pairs of each stratum."""
    seed: int = 0
    """Seed of the strata's pairs."""
    starts: int = 24
    """Pairs from which the local search starts, for each digit of the sum."""
    json: Switch = False
    """Print one object instead of text."""


def run(args: Args) -> int:
    """Attack; the exit code is 0 whether a failing pair is found or not."""
    import adderlab
    from adderlab.cli.progress import Bar

    with Bar("tables") as bar:
        result = adderlab.attack(
            args.checkpoint, pairs=args.pairs, seed=args.seed, starts=args.starts, progress=bar.name
        )
    if args.json:
        emit_json(result.to_dict())
    else:
        print(*result.describe(), sep="\n")
    return 0
