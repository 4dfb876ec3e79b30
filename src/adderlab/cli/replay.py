"""Run a declared series of experiments in order, go on where it stopped, check it, log it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from adderlab.cli.options import Switch, arg


@dataclass(frozen=True, kw_only=True)
class Args:
    """Which series, and where its records and its log go."""

    file: Annotated[Path, tyro.conf.Positional, arg(metavar="FILE.toml")]
    """A series, for example experiments/seed-log.toml."""
    only: Annotated[tuple[str, ...], arg(metavar="NAME")] = ()
    """Run these experiments only, for example --only E4."""
    again: Switch = False
    """Start anew although this series has been run, or begun, here."""
    records: Annotated[Path, arg(metavar="DIR")] = Path("records")
    """Folder of records; the series gets one of its own in it."""
    log: Annotated[Path, arg(metavar="F")] = Path("EXPERIMENTS.md")
    """The log, written from the folder of records after every experiment."""


def run(args: Args) -> int:
    """0 if everything ran and met its expectations, 1 if not, 130 if interrupted."""
    import functools

    from adderlab.api.reports import replay
    from adderlab.cli.main import FAILURE, INTERRUPTED

    replayed = replay(
        args.file,
        only=args.only,
        again=args.again,
        records=args.records,
        log=args.log,
        on_message=functools.partial(print, flush=True),
    )
    if replayed.status == "interrupted":
        print(f"To go on: adderlab replay {args.file}")
        return INTERRUPTED
    print(*replayed.describe(), sep="\n")
    return 0 if replayed.passed else FAILURE
