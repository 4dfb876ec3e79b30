"""How long a run will take on this machine or several, what it costs, how many seeds it needs."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class Args:
    """What to train, on how many machines."""

    preset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PRESET")]
    """A published architecture, for example 456p (adderlab zoo lists them)."""
    recipe: Annotated[str, tyro.conf.arg(metavar="NAME")] = "best"
    """best or published, or a recipe by name, as for adderlab train."""
    seeds: Annotated[int, tyro.conf.arg(metavar="N")] = 64
    """How many seeds."""
    steps: Annotated[int | None, tyro.conf.arg(metavar="T")] = None
    """Optimiser steps of each seed before any restart; default: the recipe's."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="SECTION.NAME=VALUE")] = ()
    """Changed settings, as for adderlab train."""
    nodes: Annotated[int, tyro.conf.arg(metavar="K")] = 1
    """Machines like this one that share the seeds (adderlab train --cluster)."""
    price_per_hour: Annotated[float | None, tyro.conf.arg(metavar="X")] = None
    """Price of one machine for an hour, in any currency."""
    rate: Annotated[str | None, tyro.conf.arg(metavar="K/N")] = None
    """Seeds that succeeded of those tried, for example 12/48; default: as in records/rates."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    engine: str = "auto"
    """auto, native, triton or torch."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Seeds trained at once on a CPU; default: every core."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one object instead of text."""


def run(args: Args) -> int:
    """Measure for a few seconds; print the forecast."""
    import sys

    import adderlab as al
    from adderlab.cli.options import emit_json
    from adderlab.training.listener import Listener

    class OnStderr(Listener):
        def on_message(self, text: str) -> None:
            print(text, file=sys.stderr)

    values = {field.name: getattr(args, field.name) for field in fields(args) if field.name != "json"}
    found = al.plan(values.pop("preset"), **values, listener=OnStderr())
    if args.json:
        emit_json(found.to_dict(), None)
    else:
        print("\n".join(found.describe()))
    return 0
