"""Exact match of checkpoints on a suite of pairs, with 95% intervals and the first failures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from adderlab.cli.options import DeviceOptions, Switch, arg, emit_json, print_note


@dataclass(frozen=True, kw_only=True)
class Args(DeviceOptions):
    """What to evaluate, and on which pairs."""

    checkpoints: Annotated[tuple[Path, ...], tyro.conf.Positional, arg(metavar="CKPT ...")]
    """Checkpoint files (ours, R456's .pt, MicroAdder's .pt, MLX-named .npz, .safetensors), or folders of
    runs: their best models."""
    suite: str = "published"
    """published (10 x 10,000 pairs), adderboard (10,010), strata, or fresh:N."""
    json: Switch = False
    """Print a list of objects instead of text."""
    output: Annotated[Path | None, arg(metavar="F")] = None
    """Write the JSON to a file as well."""


def run(args: Args) -> int:
    """Evaluate each checkpoint in turn. The exit code says whether it could, not how well it went."""
    import adderlab
    from adderlab.errors import UsageError

    if not args.checkpoints:
        raise UsageError("name at least one checkpoint file")
    # All are read first: a wrong name ends the command before minutes of work, not after.
    models = [adderlab.load(path) for path in args.checkpoints]
    entries = []
    for model in models:
        report = model.evaluate(args.suite, device=args.device, engine=args.engine, log=print_note)
        entries.append(report.to_dict())
        if not args.json:
            print(f"{model.path}: {model.num_parameters} parameters", *report.describe(), sep="\n")
    if args.json:
        emit_json(entries)
    if args.output is not None:
        emit_json(entries, args.output)
    return 0
