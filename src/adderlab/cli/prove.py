"""Decide all 10^20 pairs for a checkpoint: proved, refuted with a count, or undecided."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from adderlab.cli.options import Switch, arg, emit_json


@dataclass(frozen=True, kw_only=True)
class Args:
    """Which model, and how hard to try."""

    checkpoint: Annotated[Path, tyro.conf.Positional, arg(metavar="CKPT")]
    """A checkpoint file, or the folder of a run: its best model."""
    output: Annotated[Path | None, arg(aliases=["-o"], metavar="CERT")] = None
    """Write the certificate here; a name ending in .gz compresses it (2.6 MB, not 4.8, for 456p)."""
    cells: int = 3_000_000
    """Cells that the branch and bound may bound before it reports what is left."""
    seconds: float = 120.0
    """Time after which the branch and bound stops."""
    check: bool = True
    """Let the independent checker prove every bound again (needs python-flint; about 5 s)."""
    window: int = 0
    """Decide all pairs that differ in this many columns only (1 to 3), and try every one of them."""
    window_seed: int = 0
    """Draws the window: which columns, and the digits of the others."""
    json: Switch = False
    """Print one object instead of text."""


def run(args: Args) -> int:
    """Prove; the exit code is 0 whatever the verdict, and 1 if a window shows a contradiction."""
    import adderlab
    from adderlab.cli.progress import Bar

    if args.window:
        if args.output is not None:
            raise adderlab.UsageError("a window has no certificate: leave out --output or --window")
        with Bar("tables") as bar:
            report = adderlab.prove_window(
                args.checkpoint, args.window, seed=args.window_seed, fp32=True, progress=bar.name
            )
        if args.json:
            emit_json(report.to_dict())
        else:
            print(*report.describe(), sep="\n")
        return 1 if report.disagreements else 0
    with Bar("tables") as bar:
        model = adderlab.load(args.checkpoint)
        proof = adderlab.prove(
            model, cells=args.cells, seconds=args.seconds, check=args.check, progress=bar.proof
        )
    if args.output is not None:
        proof.save(args.output)
    if args.json:
        emit_json(proof.to_dict())
        return 0
    print(f"{args.checkpoint}: {model.num_parameters} parameters", *proof.describe(), sep="\n")
    if args.output is not None:
        print(f"certificate: {args.output}")
        if proof.verdict == "proved":
            print(f"check it: adderlab check {args.output} {args.checkpoint}")
    return 0
