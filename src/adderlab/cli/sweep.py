"""Train a grid or a random space of settings, all over the same seeds; a table of what succeeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from adderlab.study.space import Cell, Sweep
    from adderlab.study.sweep import OpenSweep, Row

Switch = tyro.conf.FlagCreatePairsOff


@dataclass(frozen=True, kw_only=True)
class Args:
    """What to try, and with what."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.toml")]
    """The declaration: preset, recipe, seeds, settings to vary (docs/scale.md)."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Where the cells and the table go; default: the declaration's, or results/sweeps/FILE."""
    resume: Annotated[bool, Switch] = False
    """Go on with a sweep that was stopped or killed."""
    optuna: Annotated[bool, Switch] = False
    """Choose every cell after those before it, where success is likeliest (needs adderlab[sweep])."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    engine: str = "auto"
    """auto, native, triton or torch."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Seeds trained at once on a CPU; default: every core. On a cluster: of each shard; default: 1."""
    cluster: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """Train on a Ray cluster: local, auto, or ray://HOST:10001 (needs adderlab[cluster])."""
    store: Annotated[str | None, tyro.conf.arg(metavar="URL")] = None
    """With --cluster: where the machines keep their state; default: the cells' own folders, which all
    machines must then see."""
    json: Annotated[bool, Switch] = False
    """Print the table as one JSON object instead of text."""


def run(args: Args) -> int:
    """Train every cell, print the table."""
    from adderlab.cli.main import INTERRUPTED
    from adderlab.errors import UsageError
    from adderlab.study.cluster.ray import Stopped
    from adderlab.study.sweep import OpenSweep, check_guided

    if args.store and not args.cluster:
        raise UsageError("--store goes with --cluster")
    sweep = _read(args.file)
    if args.optuna:
        check_guided(sweep)
    folder = args.output or Path(sweep.output or Path("results/sweeps") / args.file.stem)
    watcher = _Watcher(quiet=args.json)
    try:
        with OpenSweep(sweep, folder, watcher, guided=args.optuna, resume=args.resume) as opened:
            watcher.say(_plan(sweep, folder, args.optuna))
            rows = _train(opened, watcher, args)
    except Stopped:
        flags = " ".join(_flags(args))
        watcher.say(f"stopped. To go on: adderlab sweep {args.file} --resume{flags and ' ' + flags}")
        return INTERRUPTED
    if args.json:
        print((folder / "table.json").read_text(), end="")
    else:
        _print(rows, folder)
    return 0


def _read(path: Path) -> Sweep:
    import tomllib

    from adderlab.cli.options import parse_seeds
    from adderlab.errors import UsageError
    from adderlab.files.atomic import disk_failure
    from adderlab.study.space import read_sweep

    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise disk_failure(error, path, "read") from error
    except ValueError as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    seeds = table.get("seeds", "0-7")
    whole = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not (isinstance(seeds, str) or (whole and seeds)):
        raise UsageError(f'{path}: seeds must be a text like "0-7" or a list of numbers, not {seeds!r}')
    try:
        return read_sweep(table, parse_seeds(seeds) if isinstance(seeds, str) else tuple(seeds))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _plan(sweep: Sweep, folder: Path, guided: bool) -> str:
    count = sweep.samples if guided else len(sweep.cells())
    seeds = len(sweep.seeds)
    return f"{count} cells of {seeds} seed{'s' if seeds > 1 else ''} each -> {folder}"


def _train(opened: OpenSweep, watcher: _Watcher, args: Args) -> list[Row]:
    from adderlab.cli.clustering import fleet_at, warnings
    from adderlab.cli.training import usable_cores
    from adderlab.errors import UsageError
    from adderlab.study.cluster.shards import Means
    from adderlab.study.sweep import FleetTrainer, HereTrainer, run_cells, run_guided
    from adderlab.training.run import stop_requests

    go = run_guided if args.optuna else run_cells
    if args.cluster:
        where: dict[str, Any] = {"device": args.device, "engine": args.engine, "threads": args.threads}
        with fleet_at(args.cluster, **where, say=watcher.say) as fleet:
            rows = go(opened, FleetTrainer(fleet=fleet, store=args.store))
        for line in warnings([opened.place(row.cell) for row in rows]):
            watcher.say(line)
        return rows
    threads = usable_cores() if args.threads is None else args.threads
    if threads < 1:
        raise UsageError(f"--threads must be at least 1, not {threads}")
    means = Means(device=args.device, engine=args.engine, threads=threads)
    with stop_requests() as stop, watcher:
        return go(opened, HereTrainer(means=means, stop=stop))


def _flags(args: Args) -> list[str]:
    """The flags with which to go on."""
    flags = ["--optuna"] if args.optuna else []
    for name in ("output", "cluster", "store"):
        value = getattr(args, name)
        flags += [f"--{name} {value}"] if value else []
    return flags


class _Watcher:
    """A line for every cell; on a terminal also how far those in training are."""

    def __init__(self, *, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._quiet, self._text = quiet, ""
        self._console = Console(highlight=False, soft_wrap=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("step {task.completed:,.0f}"),
        )
        hidden = quiet or not self._console.is_terminal
        self._bar = Progress(*columns, console=self._console, transient=True, disable=hidden)
        self._task = self._bar.add_task("", total=None, visible=False)

    def say(self, line: str) -> None:
        if not self._quiet:
            self._console.print(line, markup=False)

    def began(self, cells: Sequence[Cell]) -> None:
        first, last = cells[0], cells[-1]
        self._text = f"cell {first.name}: {first.text}"
        if len(cells) > 1:
            self._text = f"{len(cells)} cells side by side, {first.name} to {last.name}"

    def stepped(self, cell: Cell, step: int) -> None:
        total = cell.recipe.total_steps
        self._bar.update(self._task, description=self._text, completed=step, total=total, visible=True)

    def measured(self, row: Row) -> None:
        from adderlab.study.sweep import in_words

        self.say(in_words(row))

    def __enter__(self) -> _Watcher:
        self._bar.start()
        return self

    def __exit__(self, *trouble: object) -> None:
        self._bar.stop()


def _print(rows: list[Row], folder: Path) -> None:
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
