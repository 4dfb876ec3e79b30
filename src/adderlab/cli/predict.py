"""One addition by a checkpoint: the answer, how sure each digit is, right or wrong."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from adderlab.cli.options import Switch, arg, emit_json


@dataclass(frozen=True, kw_only=True)
class Args:
    """A model and two numbers."""

    checkpoint: Annotated[Path, tyro.conf.Positional, arg(metavar="CKPT")]
    """A checkpoint file, or the folder of a run: its best model."""
    a: Annotated[int, tyro.conf.Positional]
    """0 to 9999999999."""
    b: Annotated[int, tyro.conf.Positional]
    """0 to 9999999999."""
    json: Switch = False
    """Print one object instead of text."""


def run(args: Args) -> int:
    """Answer; the exit code is 0 whether the answer is right or not."""
    import adderlab

    answer = adderlab.predict(args.checkpoint, args.a, args.b)
    if args.json:
        emit_json(answer.to_dict())
    else:
        print(*answer.describe(), sep="\n")
    return 0
