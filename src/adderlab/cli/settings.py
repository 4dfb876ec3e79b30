"""Every setting of a model and a recipe: its type, its default and what it does."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from adderlab.cli.options import Switch, arg, emit_json

HEAD = """\
# Settings

Written by `adderlab settings --markdown`, from the configuration dataclasses themselves.
`adderlab settings recipe.prefit` prints a part of it; `al.settings()` gives rows for pandas or polars.

Change one with `--set recipe.lr=0.01 model.d_ff=12`, or `set={"recipe.lr": 0.01}` in Python. A value is
JSON or a word. Where a section is left out by default (`null`), give it whole:
`--set 'recipe.restarts={"halve_at": [400, 800]}'`. A name such as `recipe.stages[].lr` stands in a list;
give the whole list: `--set 'recipe.stages=[{"steps": 2000, "lr": 0.001}]'`.
"""


@dataclass(frozen=True, kw_only=True)
class Args:
    """Which settings to show."""

    name: Annotated[str, tyro.conf.Positional, arg(metavar="[NAME]")] = ""
    """model, recipe, a part such as recipe.prefit, or one setting; all without a name."""
    json: Switch = False
    """Print a list of objects instead of text."""
    markdown: Switch = False
    """Print docs/settings.md."""


def run(args: Args) -> int:
    """Print the settings."""
    import adderlab

    found = adderlab.settings(args.name)
    if args.json:
        emit_json(found.to_dicts())
    elif args.markdown:
        print(f"{HEAD}\n{found.markdown()}".rstrip())
    else:
        print(*found.describe(), sep="\n")
    return 0
