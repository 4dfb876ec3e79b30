"""The trained architectures, published ones and our own, with their exact parameter counts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from adderlab.cli.options import Switch, arg, emit_json


@dataclass(frozen=True, kw_only=True)
class Args:
    """Which architecture to show; all of them in one table without a name."""

    name: Annotated[str | None, tyro.conf.Positional, arg(metavar="[NAME]")] = None
    """A preset, for example 456p: its parameter table, ties, recipe and source."""
    json: Switch = False
    """Print a list of objects instead of a table."""
    markdown: Switch = False
    """Print docs/zoo.md."""
    records: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Folder of measured rates; default: records/rates of the checkout, if there is one."""


def run(args: Args) -> int:
    """Print the table, or one preset."""
    import adderlab

    zoo = adderlab.presets(*([args.name] if args.name else []), records=args.records)
    if args.json:
        emit_json(zoo.to_dicts())
    elif args.markdown:
        print(zoo.markdown())
    else:
        print(*zoo.describe(), sep="\n")
    return 0
