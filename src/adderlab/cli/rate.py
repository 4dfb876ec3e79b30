"""Measure how often a recipe gives a proved adder: train many seeds, decide each on all 10^20 pairs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from adderlab.cli.options import ChangeOptions, ComputeOptions, Switch, arg

if TYPE_CHECKING:
    from adderlab.study.rate import RateRecord


@dataclass(frozen=True, kw_only=True)
class Args(ComputeOptions, ChangeOptions):
    """What to measure; or, with --table, --markdown or --json alone, what has been measured."""

    preset: Annotated[str | None, tyro.conf.Positional, arg(metavar="[PRESET]")] = None
    """A published architecture, for example 456p (adderlab zoo lists them)."""
    recipe: Annotated[str, arg(metavar="NAME")] = "best"
    """best (the one that adderlab zoo names), published, quick, or one by name, for example circle."""
    seeds: str = "1000-1047"
    """Seeds, for example 1000-1095. Report none that served to develop the recipe."""
    name: Annotated[str | None, arg(metavar="NAME")] = None
    """The row's name instead of the recipe's, where settings are changed."""
    batch_of_seeds: Annotated[int, arg(metavar="N")] = 48
    """Seeds trained side by side; results do not depend on it."""
    assisted: Switch = False
    """Repair seeds that come near and are not proved, and report that rate too."""
    repair_from: Annotated[float, arg(metavar="EXACT")] = 0.9
    """Exact match from which a seed is near enough for repair."""
    repair_missing: Annotated[int, arg(metavar="N")] = 0
    """Repair seeds too that miss at most so many answer steps; 0: only by exact match."""
    repair_rounds: Annotated[int, arg(metavar="N")] = 5
    """Trainings of a repair at most."""
    prove_cells: Annotated[int, arg(metavar="N")] = 3_000_000
    """Cells that a proof may bound before a seed counts as undecided."""
    prove_seconds: Annotated[float, arg(metavar="S")] = 60.0
    """Time that a proof may take."""
    output: Annotated[Path | None, arg(aliases=["-o"], metavar="FOLDER")] = None
    """Folder of rows to write to or read from; default: records/rates."""
    resume: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Go on with a stopped measurement (results/rates/NAME); give no preset. --assisted adds repair."""
    overwrite: Switch = False
    """Measure anew, or write the row again, where that is there already."""
    quiet: Switch = False
    """Print only the rate at the end."""
    table: Switch = False
    """Print all rows as a table."""
    markdown: Switch = False
    """Print docs/rates.md."""
    json: Switch = False
    """Print the row, or without a preset a list of all rows, as JSON."""


def run(args: Args) -> int:
    """Measure, or show what was measured."""
    import shlex

    import adderlab as al
    from adderlab.api.studies import PROVER_LIMITS, plan_rate, rate_folder
    from adderlab.cli.following import Following
    from adderlab.cli.options import emit_json
    from adderlab.errors import UsageError
    from adderlab.files.schema import to_dict
    from adderlab.report.describe import describe_rate
    from adderlab.runs.metadata import kind_of
    from adderlab.study.rate import FOLDER
    from adderlab.study.verdicts import Assistance
    from adderlab.training.objective import Compute

    measures = args.preset is not None or args.resume is not None
    if args.table or args.markdown or not measures:
        if measures:
            raise UsageError(
                "--table and --markdown show what was measured: give no preset, no --resume"
            )
        return _show(args)
    assistance = Assistance(
        exact=args.repair_from, missing=args.repair_missing, rounds=args.repair_rounds
    )
    plan = None
    if args.resume is not None:
        folder = args.resume
        if args.preset or args.recipe != "best" or args.steps or args.set or args.name:
            raise UsageError(
                "--resume takes the measurement's own settings: give no preset, --recipe, --steps, "
                "--set or --name"
            )
    else:
        limits = dataclasses.replace(PROVER_LIMITS, cells=args.prove_cells, seconds=args.prove_seconds)
        plan = plan_rate(
            str(args.preset),
            seeds=args.seeds,
            recipe=args.recipe,
            steps=args.steps,
            set=args.settings,
            name=args.name,
            batch_of_seeds=args.batch_of_seeds,
            assistance=assistance if args.assisted else None,
            limits=limits,
        )
        folder = rate_folder(plan)
    options = ["--output", str(args.output)] if args.output else []
    options += ["--overwrite"] if args.overwrite else []
    options += Compute(device=args.device, engine=args.engine).options()
    again = shlex.join(["adderlab", "rate", "--resume", str(folder), *options])
    following = Following(
        lambda: again if folder and kind_of(folder) == "rate" else None, quiet=args.quiet or args.json
    )
    with following as listener:
        record = al.measure_rate(
            plan or "",
            assistance=assistance if args.assisted else None,
            folder=folder,
            rows=args.output or FOLDER,
            resume=args.resume is not None,
            overwrite=args.overwrite,
            device=args.device,
            engine=args.engine,
            threads=args.threads,
            listener=listener,
        )
    if args.json:
        emit_json(to_dict(record), None)
    else:
        path = (args.output or FOLDER) / record.file_name
        print("\n".join([*describe_rate(record), f"Written to {path}; runs are in {folder}/"]))
    return 0


def _show(args: Args) -> int:
    """All rows: a table, docs/rates.md, or JSON."""
    from adderlab.cli.options import emit_json
    from adderlab.errors import UsageError
    from adderlab.files.schema import to_dict
    from adderlab.report.describe import rates_page
    from adderlab.study.rate import default_folder, read_rates

    if not (args.table or args.markdown or args.json):
        raise UsageError("name a preset to measure, for example 456p, or pass --table")
    folder = args.output or default_folder()
    records = [] if folder is None else read_rates(folder)
    if args.json:
        emit_json([to_dict(record) for record in records], None)
    elif args.markdown:
        print(rates_page(records))
    elif records:
        _print_table(records)
    else:
        print("No rate has been measured yet: adderlab rate PRESET measures one.")
    return 0


def _print_table(records: list[RateRecord]) -> None:
    """As wide as it is: a narrower window wraps the lines, and no header or figure is cut."""
    from adderlab.report.describe import COLUMNS, table_row
    from adderlab.results import text_table

    rows = [dict(zip(COLUMNS, table_row(record), strict=True)) for record in records]
    print(*text_table(rows), sep="\n")
    print("train s, prove s: median core-seconds of a seed; to a proof: expected, on 2 cores.")
