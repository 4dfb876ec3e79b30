"""The parameter table of a checkpoint or a preset: what is stored, tied and counted."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from adderlab.cli.options import Switch, arg, emit_json


@dataclass(frozen=True, kw_only=True)
class Args:
    """What to look at."""

    model: Annotated[str, tyro.conf.Positional, arg(metavar="CKPT|PRESET")]
    """A checkpoint file, the folder of a run (its best model), or the name of a preset."""
    json: Switch = False
    """Print one object instead of a table."""


def run(args: Args) -> int:
    """Print the parameter table and, for a checkpoint, where it comes from."""
    import adderlab

    inspection = adderlab.inspect(args.model)
    if args.json:
        emit_json(inspection.to_dict())
    else:
        print(*inspection.describe(), sep="\n")
    return 0
