"""Publish a checkpoint: a one-file AdderBoard submission, weights, a hub folder, or an ONNX graph."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from adderlab.cli.options import Switch, arg, emit_json


@dataclass(frozen=True, kw_only=True)
class Args:
    """What to publish, as what, and under whose name."""

    checkpoint: Annotated[Path, tyro.conf.Positional, arg(metavar="CKPT")]
    """A checkpoint file, or the folder of a run: its best model."""
    to: Literal["adderboard", "safetensors", "hub-folder", "onnx"]
    """adderboard: one Python file that needs torch only, and the text of the board's issue form.
    safetensors, onnx: one file and a model card. hub-folder: all of a model page."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="OUT")]
    """File to write, or the folder for hub-folder."""
    name: Annotated[str | None, arg(metavar="NAME")] = None
    """Name of the model; else the zoo's, or the parameter count."""
    author: Annotated[str | None, arg(metavar="NAME")] = None
    """Name of the author; else that of git's settings."""
    certificate: Annotated[Path | None, arg(metavar="F")] = None
    """A certificate of adderlab prove for these weights."""
    prove: bool = True
    """Without a certificate, ask the prover (up to a minute)."""
    suites: tuple[str, ...] = ("adderboard", "published", "strata")
    """Pairs to measure the accuracy on, as for adderlab evaluate."""
    json: Switch = False
    """Print one object instead of text."""


def run(args: Args) -> int:
    """Measure, prove, write, and say what was written."""
    import adderlab

    exported = adderlab.export(
        args.checkpoint,
        to=args.to,
        output=args.output,
        name=args.name,
        author=args.author,
        certificate=args.certificate,
        prove=args.prove,
        suites=args.suites,
    )
    if args.json:
        emit_json(exported.to_dict())
    else:
        print("\n".join(exported.describe()))
    return 0
