"""Exact match of checkpoints on a suite of pairs, with 95% intervals and the first failures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Args:
    """What to evaluate, and on which pairs."""

    checkpoints: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="CKPT ...")]
    """Checkpoint files: ours, R456's .pt, MicroAdder's .pt, MLX-named .npz, .safetensors."""
    suite: str = "published"
    """published (10 x 10,000 pairs), adderboard (10,010), strata, or fresh:N."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    engine: str = "auto"
    """auto, native, triton or torch."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print a list of objects instead of text."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="F")] = None
    """Write the JSON to a file as well."""


def run(args: Args) -> int:
    """Evaluate each checkpoint in turn. The exit code says whether it could, not how well it went."""
    from rich.console import Console

    from adderlab.cli.evaluating import evaluate_checkpoint, print_report, report_entry
    from adderlab.cli.options import emit_json
    from adderlab.errors import UsageError
    from adderlab.evaluation.suites import parse_suite
    from adderlab.runs.checkpoints import load_checkpoint

    if not args.checkpoints:
        raise UsageError("name at least one checkpoint file")
    checkpoints = [load_checkpoint(path) for path in args.checkpoints]
    suite = parse_suite(args.suite)
    console, notes = Console(), Console(stderr=True)
    entries = []
    for checkpoint in checkpoints:
        report = evaluate_checkpoint(
            checkpoint,
            suite,
            device=args.device,
            engine=args.engine,
            say=lambda line: notes.print(line, highlight=False, markup=False),
        )
        entries.append(report_entry(checkpoint, report))
        if not args.json:
            console.print(
                f"{checkpoint.path}: {checkpoint.num_parameters} parameters",
                highlight=False,
                markup=False,
            )
            print_report(console, report)
    if args.json:
        emit_json(entries, None)
    if args.output is not None:
        emit_json(entries, args.output)
    return 0
