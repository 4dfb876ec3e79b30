"""How long a run will take on this machine or several, what it costs, how many seeds it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from adderlab.cli.options import ChangeOptions, ComputeOptions, Switch, arg, emit_json


@dataclass(frozen=True, kw_only=True)
class Args(ComputeOptions, ChangeOptions):
    """What to train, on how many machines."""

    preset: Annotated[str, tyro.conf.Positional, arg(metavar="PRESET")]
    """A published architecture, for example 456p (adderlab zoo lists them)."""
    recipe: Annotated[str, arg(metavar="NAME")] = "best"
    """best or published, or a recipe by name, as for adderlab train."""
    seeds: Annotated[int, arg(metavar="N")] = 64
    """How many seeds."""
    nodes: Annotated[int, arg(metavar="K")] = 1
    """Machines like this one that share the seeds (adderlab train --cluster)."""
    price_per_hour: Annotated[float | None, arg(metavar="X")] = None
    """Price of one machine for an hour, in any currency."""
    rate: Annotated[str | None, arg(metavar="K/N")] = None
    """Seeds that succeeded of those tried, for example 12/48; default: as in records/rates."""
    json: Switch = False
    """Print one object instead of text."""


def run(args: Args) -> int:
    """Measure for a few seconds; print the forecast."""
    import sys

    import adderlab as al
    from adderlab.training.measure import Listener

    class OnStderr(Listener):
        def on_message(self, text: str) -> None:
            print(text, file=sys.stderr)

    found = al.plan(
        args.preset,
        recipe=args.recipe,
        seeds=args.seeds,
        steps=args.steps,
        set=args.settings,
        nodes=args.nodes,
        price_per_hour=args.price_per_hour,
        rate=args.rate,
        device=args.device,
        engine=args.engine,
        threads=args.threads,
        listener=OnStderr(),
    )
    if args.json:
        emit_json(found.to_dict(), None)
    else:
        print("\n".join(found.describe()))
    return 0
