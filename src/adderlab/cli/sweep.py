"""Train a grid or a random space of settings, all over the same seeds; a table of what succeeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from adderlab.cli.options import ComputeOptions, Switch, arg

if TYPE_CHECKING:
    from adderlab.study.cells import CellRow


@dataclass(frozen=True, kw_only=True)
class Args(ComputeOptions):
    """What to try, and with what."""

    file: Annotated[Path, tyro.conf.Positional, arg(metavar="FILE.toml")]
    """The declaration: preset, recipe, seeds, settings to vary (docs/scale.md)."""
    output: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Where the cells and the table go; default: the declaration's, or results/sweeps/FILE."""
    resume: Switch = False
    """Go on with a sweep that was stopped or killed."""
    optuna: Switch = False
    """Choose every cell after those before it, where success is likeliest (needs adderlab[sweep])."""
    threads: Annotated[int | None, arg(metavar="N")] = None
    """Seeds trained at once on a CPU; default: every core. On a cluster: of each shard; default: 1."""
    cluster: Annotated[str | None, arg(metavar="ADDRESS")] = None
    """Train on a Ray cluster: local, auto, or ray://HOST:10001 (needs adderlab[cluster])."""
    store: Annotated[str | None, arg(metavar="URL")] = None
    """With --cluster: where the machines keep their state; default: the cells' own folders, which all
    machines must then see."""
    json: Switch = False
    """Print the table as one JSON object instead of text."""


def run(args: Args) -> int:
    """Train every cell, print the table."""
    import shlex

    import adderlab as al
    from adderlab.api.studies import read_space, sweep_folder
    from adderlab.cli.following import Following
    from adderlab.runs.metadata import kind_of

    folder = sweep_folder(args.file, read_space(args.file), args.output)
    again = shlex.join(["adderlab", "sweep", str(args.file), "--resume", *_options(args)])
    following = Following(lambda: again if kind_of(folder) == "sweep" else None, quiet=args.json)
    with following as listener:
        found = al.sweep(
            args.file,
            folder=folder,
            resume=args.resume,
            optuna=args.optuna,
            device=args.device,
            engine=args.engine,
            threads=args.threads,
            cluster=args.cluster,
            store=args.store,
            listener=listener,
        )
    if args.json:
        print((folder / "table.json").read_text(), end="")
    else:
        _print(found.rows, folder)
    return 0


def _options(args: Args) -> list[str]:
    """The options with which to go on."""
    from adderlab.training.objective import Compute

    options = ["--optuna"] if args.optuna else []
    for name in ("output", "cluster", "store"):
        value = getattr(args, name)
        options += [f"--{name}", str(value)] if value else []
    return options + Compute(device=args.device, engine=args.engine).options()


def _print(rows: Sequence[CellRow], folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    settings = list(dict.fromkeys(path for row in rows for path in row.cell.settings))
    table = Table(box=None, pad_edge=False)
    leaves = {path: path.rpartition(".")[2] for path in settings}
    unique = len(set(leaves.values())) == len(leaves)
    for column in ("cell", *(leaves.values() if unique else settings)):
        table.add_column(column, overflow="fold")
    table.add_column("seeds at 99%, 95% interval", no_wrap=True)
    for column in ("median steps to grok", ""):
        table.add_column(column)
    for row in rows:
        found = row.measured
        assert found is not None
        grok = "" if found.median_grok_step is None else f"{found.median_grok_step:,.0f}"
        ended = "" if row.state == "done" else f"{row.state} at step {found.step:,}"
        values = [str(row.cell.settings.get(path, "")) for path in settings]
        table.add_row(row.cell.name, *values, str(found.rate), grok, ended)
    console = Console()
    if not console.is_terminal:
        console.width = 200  # a file has no edge to wrap at
    console.print(table)
    console.print(f"Files: {folder}/ (table.csv, table.json, cells/NNNN/)", highlight=False)
