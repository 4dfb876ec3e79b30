"""The parameter table of a checkpoint or a preset: what is stored, tied and counted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from adderlab.models.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Args:
    """What to look at."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CKPT|PRESET")]
    """A checkpoint file or the name of a preset."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one object instead of a table."""


def run(args: Args) -> int:
    """Print the parameter table and, for a checkpoint, where it comes from."""
    from adderlab.cli.options import emit_json
    from adderlab.files import schema
    from adderlab.models.describe import count_parameters, parameter_table
    from adderlab.models.mapping import why_no_tables
    from adderlab.models.zoo import get_preset
    from adderlab.runs.checkpoints import load_checkpoint

    origin: dict = {}
    if Path(args.model).exists() or "/" in args.model or "." in args.model:
        checkpoint = load_checkpoint(Path(args.model))
        config = checkpoint.config
        origin = {
            "checkpoint": args.model,
            "origin": checkpoint.origin,
            "step": checkpoint.step,
            "weights_sha256": checkpoint.weights_sha256,
        }
    else:
        config = get_preset(args.model).config

    reason = why_no_tables(config)
    if args.json:
        emit_json(
            {
                **origin,
                "config": schema.to_dict(config),
                "parameters": count_parameters(config),
                "table_form": reason is None,
                "table": [schema.to_dict(row) for row in parameter_table(config)],
            },
            None,
        )
        return 0
    for key, value in origin.items():
        print(f"{key}: {value}")
    print_parameters(config)
    print(f"table form (fast training, proof): {'yes' if reason is None else f'no, {reason}'}")
    return 0


def print_parameters(config: ModelConfig) -> None:
    """The parameter table with its total."""
    from rich.console import Console
    from rich.table import Table

    from adderlab.models.describe import count_parameters, parameter_table

    table = Table(box=None, pad_edge=False)
    for column in ("parameter", "shape", "numbers", "tied to", "counted"):
        table.add_column(column, justify="right" if column in ("numbers", "counted") else "left")
    for row in parameter_table(config):
        table.add_row(
            row.name,
            " x ".join(map(str, row.shape)) or "scalar",
            str(row.count),
            row.tied_to or "",
            str(row.count) if row.counted else "-",
        )
    table.add_row("total", "", "", "", str(count_parameters(config)))
    Console().print(table)
