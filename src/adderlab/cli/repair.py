"""Repair a checkpoint until it is proved: prove, train on the worst pairs, prove again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from adderlab.cli.options import Switch, arg, emit_json

if TYPE_CHECKING:
    from adderlab.training.repair import Round


@dataclass(frozen=True, kw_only=True)
class Args:
    """What to repair, and how hard to try."""

    checkpoint: Annotated[Path, tyro.conf.Positional, arg(metavar="CKPT")]
    """A checkpoint file, or the folder of a run: its best model."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="OUT")]
    """Where to write the repaired checkpoint (.pt or .safetensors)."""
    rounds: int = 5
    """Trainings at most; a proof follows each."""
    steps: int = 1000
    """Steps of one training."""
    lr: float = 1e-3
    """Learning rate of the first round, falling linearly to 0 over it."""
    lr_decay: float = 0.5
    """Factor on the rate from round to round."""
    target_margin: float = 1.5
    """Logits by which the right digit should lead."""
    seed: int = 0
    """Of the fresh pairs mixed in."""
    json: Switch = False
    """Print one object instead of text."""


def run(args: Args) -> int:
    """0 if the result is proved, 1 if not; the last model is written either way."""
    import adderlab
    from adderlab.api.models import check_model_name

    check_model_name(args.output)

    def print_round(each: Round) -> None:
        verdict, (a, b) = each.verdict, each.verdict.margin.pair
        line = f"{verdict.verdict}: smallest margin {verdict.margin.witness:.4f} at {a} + {b}"
        if verdict.failing_pairs != 0:
            line += f"; failing pairs: {verdict.failing_pairs}"
        print(f"{line} ({verdict.seconds:.1f} s)")
        if each.witnesses:
            print(f"training {args.steps} steps on {each.witnesses} witnesses", flush=True)

    result = adderlab.repair(
        args.checkpoint,
        rounds=args.rounds,
        steps=args.steps,
        lr=args.lr,
        lr_decay=args.lr_decay,
        target_margin=args.target_margin,
        seed=args.seed,
        on_round=None if args.json else print_round,
    )
    adderlab.load(result).save(args.output)
    if args.json:
        emit_json(result.to_dict() | {"output": str(args.output)})
    elif result.proved:
        print(f"Proved after {result.trainings} training(s): all 10^20 pairs. Written to {args.output}")
    else:
        print(f"Not proved after {result.trainings} training(s). The last model is in {args.output}")
    return 0 if result.proved else 1
