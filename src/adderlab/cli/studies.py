"""The commands that measure rates, try settings and forecast."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from adderlab.cli.options import (
    ChangeOptions,
    ComputeOptions,
    Following,
    Switch,
    arg,
    emit_json,
    going_on,
    is_file,
)


@dataclass(frozen=True, kw_only=True)
class Rate(ComputeOptions, ChangeOptions):
    """Measure how often a recipe gives a proved adder: train many seeds, decide each on all 10^20
    pairs."""

    preset: Annotated[str | None, tyro.conf.Positional, arg(metavar="[PRESET|FILE.py]")] = None
    """A published architecture, for example 456p (adderlab zoo lists them), or a Python file of yours,
    which is run."""
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
    """Go on with a stopped measurement (results/rates/NAME); give no preset, but FILE.py where it is of
    one. --assisted adds repair."""
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

    def run(self) -> int:
        """Measure, or show what was measured."""
        import adderlab as al
        from adderlab.api.studies import PROVER_LIMITS, plan_rate, rate_folder
        from adderlab.errors import UsageError
        from adderlab.files.schema import to_dict
        from adderlab.report.describe import describe_rate
        from adderlab.study.rate import FOLDER
        from adderlab.study.verdicts import Assistance

        measures = self.preset is not None or self.resume is not None
        of_file = [str(self.preset)] if is_file(self.preset) else []
        if self.table or self.markdown or not measures:
            return self._show(measures)
        assistance = Assistance(
            exact=self.repair_from, missing=self.repair_missing, rounds=self.repair_rounds
        )
        plan, folder = None, self.resume
        if folder is None:
            plan = plan_rate(
                str(self.preset),
                seeds=self.seeds,
                recipe=self.recipe,
                steps=self.steps,
                set=self.settings,
                name=self.name,
                batch_of_seeds=self.batch_of_seeds,
                assistance=assistance if self.assisted else None,
                limits=replace(PROVER_LIMITS, cells=self.prove_cells, seconds=self.prove_seconds),
            )
            folder = rate_folder(plan)
        elif (
            (self.preset and not of_file) or self.recipe != "best" or self.steps or self.set or self.name
        ):
            raise UsageError(
                "--resume takes the measurement's own settings: give no preset, --recipe, --steps, "
                "--set or --name"
            )
        options = ["--output", str(self.output)] if self.output else []
        options += ["--overwrite"] if self.overwrite else []
        following = Following(
            going_on(
                folder,
                "rate",
                ["rate", *of_file, "--resume", str(folder), *options, *self.compute_words],
            ),
            quiet=self.quiet or self.json,
        )
        with following as listener:
            record = al.measure_rate(
                plan or (self.preset or ""),
                assistance=assistance if self.assisted else None,
                folder=folder,
                rows=self.output or FOLDER,
                resume=plan is None,
                overwrite=self.overwrite,
                listener=listener,
                **self.compute,
            )
        if self.json:
            emit_json(to_dict(record))
        else:
            path = (self.output or FOLDER) / record.file_name
            print(*describe_rate(record), f"Written to {path}; runs are in {folder}/", sep="\n")
        return 0

    def _show(self, measures: bool) -> int:
        """All rows: a table, docs/rates.md, or JSON."""
        from adderlab.api.studies import rates
        from adderlab.errors import UsageError

        if measures:
            raise UsageError(
                "--table and --markdown show what was measured: give no preset, no --resume"
            )
        if not (self.table or self.markdown or self.json):
            raise UsageError("name a preset to measure, for example 456p, or pass --table")
        found = rates(self.output)
        if self.json:
            emit_json(found.to_dicts())
        elif self.markdown:
            print(found.markdown())
        else:
            print(*found.describe(), sep="\n")
        return 0


@dataclass(frozen=True, kw_only=True)
class Sweep(ComputeOptions):
    """Train a grid or a random space of settings, all over the same seeds; a table of what succeeds."""

    file: Annotated[Path, tyro.conf.Positional, arg(metavar="FILE.toml")]
    """The declaration: preset, recipe, seeds, settings to vary (docs/scale.md)."""
    output: Annotated[Path | None, arg(metavar="FOLDER", aliases=["-o"])] = None
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

    def run(self) -> int:
        """Train every cell, print the table."""
        import adderlab as al
        from adderlab.api.studies import read_space, sweep_folder
        from adderlab.report.live import print_cells

        folder = sweep_folder(self.file, read_space(self.file), self.output)
        again = ["sweep", str(self.file), "--resume", *(["--optuna"] if self.optuna else [])]
        for name in ("output", "cluster", "store"):
            value = getattr(self, name)
            again += [f"--{name}", str(value)] if value else []
        again += self.compute_words
        with Following(going_on(folder, "sweep", again), quiet=self.json) as listener:
            found = al.sweep(
                self.file,
                folder=folder,
                resume=self.resume,
                optuna=self.optuna,
                cluster=self.cluster,
                store=self.store,
                listener=listener,
                **self.compute,
            )
        if self.json:
            print((folder / "table.json").read_text(), end="")
        else:
            print_cells(found.rows, folder)
        return 0


@dataclass(frozen=True, kw_only=True)
class Plan(ComputeOptions, ChangeOptions):
    """How long a run will take on this machine or several, what it costs, how many seeds it needs."""

    preset: Annotated[str, tyro.conf.Positional, arg(metavar="PRESET|FILE.py")]
    """A published architecture, for example 456p (adderlab zoo lists them), or a Python file of yours,
    which is run."""
    recipe: Annotated[str, arg(metavar="NAME")] = "best"
    """best or published, or a recipe by name, as for adderlab train."""
    seeds: Annotated[str, arg(metavar="N|A-B")] = "64"
    """How many seeds, or which, for example 0-63."""
    nodes: Annotated[int, arg(metavar="K")] = 1
    """Machines like this one that share the seeds (adderlab train --cluster)."""
    price_per_hour: Annotated[float | None, arg(metavar="X")] = None
    """Price of one machine for an hour, in any currency."""
    rate: Annotated[str | None, arg(metavar="K/N")] = None
    """Seeds that succeeded of those tried, for example 12/48; default: as in records/rates."""
    json: Switch = False
    """Print one object instead of text."""

    def run(self) -> int:
        """Measure for a few seconds; print the forecast."""
        import sys

        import adderlab as al
        from adderlab.training.measure import Listener

        class OnStderr(Listener):
            def on_message(self, text: str) -> None:
                print(text, file=sys.stderr)

        found = al.plan(
            self.preset,
            recipe=self.recipe,
            seeds=int(self.seeds) if self.seeds.isdigit() else self.seeds,
            steps=self.steps,
            set=self.settings,
            nodes=self.nodes,
            price_per_hour=self.price_per_hour,
            rate=self.rate,
            listener=OnStderr(),
            **self.compute,
        )
        if self.json:
            emit_json(found.to_dict(), None)
        else:
            print("\n".join(found.describe()))
        return 0
