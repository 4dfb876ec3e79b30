"""Write the experiments log from run folders, replayed series, evaluations and certificates."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from adderlab.cli.options import arg


@dataclass(frozen=True, kw_only=True)
class Args:
    """Where the evidence lies and where the log goes."""

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional, arg(metavar="[PATH ...]")] = ()
    """Folders of records or runs, single runs, JSON files; default: records and results, where there."""
    output: Annotated[Path, arg(metavar="F")] = Path("EXPERIMENTS.md")
    """The file to write, never over one that is no log; /dev/stdout prints it."""


def run(args: Args) -> int:
    """Write the log; 0 also where evidence is missing, which the log then states."""
    from adderlab.api.reports import write_log

    output = write_log(args.paths, args.output)
    if output != Path("/dev/stdout"):
        print(f"Log: {output}")
    return 0
