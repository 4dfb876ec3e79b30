"""Studies through the public API: success rates, sweeps over settings, forecasts."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from adderlab.api.experiments import (
    Experiment,
    Seeds,
    Settings,
    Trainable,
    define,
    explain,
    name_file,
    parse_seeds,
)
from adderlab.engine.base import select_engine, single_threaded
from adderlab.errors import UsageError
from adderlab.files import schema
from adderlab.files.atomic import RunLock, disk_failure, make_folder
from adderlab.format import as_typed, seed_list
from adderlab.proof.search import Limits
from adderlab.report.describe import COLUMNS, rates_page, table_row
from adderlab.results import Result, html_table, text_table
from adderlab.runs.metadata import collect_environment, kind_of
from adderlab.study.cells import CellRow, SweepPlan, read_sweep
from adderlab.study.cluster import Stopped, connected, describe_machines
from adderlab.study.forecast import KnownRate, Plan, given_rate, make_plan, recorded_rate
from adderlab.study.rate import (
    FOLDER,
    RateExperiment,
    RatePlan,
    RateRecord,
    default_folder,
    delete_measurement,
    file_name,
    rate_of,
    read_plan,
    read_rates,
    write_plan,
    write_rate,
)
from adderlab.study.sweep import (
    ClusterTrainer,
    LocalTrainer,
    OpenSweep,
    check_guided,
    run_cells,
    run_guided,
)
from adderlab.study.verdicts import Assistance
from adderlab.training.measure import Listener
from adderlab.training.objective import Compute, open_backend
from adderlab.training.recipe import Recipe
from adderlab.training.run import stop_requests
from adderlab.training.start import check_fits

PROVER_LIMITS = Limits(cells=3_000_000, seconds=60.0, union_seconds=1.0)
"""Of a rate's proofs."""


def plan_rate(
    model: Trainable,
    *,
    seeds: Seeds,
    recipe: str | Recipe = "best",
    steps: int | None = None,
    set: Settings = (),
    name: str | None = None,
    batch_of_seeds: int = 48,
    assistance: Assistance | None = None,
    limits: Limits = PROVER_LIMITS,
) -> RatePlan:
    """What ``measure_rate`` would do. Raises ``UsageError`` for what cannot be."""
    wanted = define(model, recipe, steps=steps, settings=set)
    if name and not wanted.changes and wanted.recipe_name:
        raise UsageError(f"name={name} is for changed settings (set, steps): there are none")
    if not (name or wanted.recipe_name):
        raise UsageError("a recipe of your own needs a name under which its rate is kept")
    return RatePlan(
        preset=wanted.name,
        recipe_name=name or "+".join([wanted.recipe_name, *wanted.changes]),
        published=wanted.is_published,
        config=wanted.config,
        recipe=wanted.recipe,
        seeds=parse_seeds(seeds),
        batch_of_seeds=batch_of_seeds,
        limits=limits,
        assistance=assistance,
        command=tuple(as_typed(collect_environment("cpu")["command"])),
        note=wanted.note,
    )


@single_threaded()
def measure_rate(
    model: Trainable | RatePlan,
    *,
    seeds: Seeds = "1000-1047",
    recipe: str | Recipe = "best",
    steps: int | None = None,
    set: Settings = (),
    name: str | None = None,
    batch_of_seeds: int = 48,
    assistance: Assistance | None = None,
    limits: Limits = PROVER_LIMITS,
    folder: str | os.PathLike[str] | None = None,
    rows: str | os.PathLike[str] = FOLDER,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    engine: str = "auto",
    threads: int | None = None,
    listener: Listener | None = None,
) -> RateRecord:
    """How often a recipe gives a proved adder: train many seeds, decide each on all 10^20 pairs.

    ``seeds``: none that served to develop the recipe. ``name``: of the row, where settings are changed.
    ``assistance``: repair seeds that come near and are not proved, and count that rate too. ``folder``:
    of the runs, default below results/rates; with ``resume`` what is there is gone on with, with its own
    settings (of a file's model ``model`` is the file, which is run). ``rows``: where the row goes, one
    file for preset and recipe.

    Ctrl-C raises ``KeyboardInterrupt`` once all is put away to be resumed. Raises ``UsageError`` if a
    measurement or a row is there already, and neither ``resume`` nor ``overwrite`` is set.
    """
    listener, rows = listener or Listener(), Path(rows)
    if resume and folder is None:
        raise UsageError("name the folder of the measurement to go on with")
    if resume:
        is_file = isinstance(model, str | os.PathLike) and str(model).endswith(".py")
        name_file(Path(str(folder)), str(model) if is_file else None)
        plan = _resumed(Path(str(folder)), assistance)
    elif isinstance(model, RatePlan):
        plan = model
    else:
        plan = plan_rate(
            model,
            seeds=seeds,
            recipe=recipe,
            steps=steps,
            set=set,
            name=name,
            batch_of_seeds=batch_of_seeds,
            assistance=assistance,
            limits=limits,
        )
    work = Path(folder) if folder else rate_folder(plan)
    row = rows / file_name(plan.preset, plan.recipe_name)
    if row.exists() and not overwrite:
        raise UsageError(f"{row} is there already; pass overwrite=True to replace it, or rows=FOLDER")
    compute = Compute(device=device, engine=engine, threads=threads)
    make_folder(work)
    with RunLock(work):
        if not resume and kind_of(work) == "rate":
            if not overwrite:
                raise UsageError(
                    f"{work} holds a measurement: go on with it (adderlab rate --resume {work}, or "
                    "resume=True), or pass overwrite=True to measure anew"
                )
            delete_measurement(work)
        write_plan(work, plan)
        explain(plan, listener)
        backend = open_backend(plan.config, compute, listener.on_message)
        # The published pairs are decoded one model at a time: on the CPU, whatever trained them.
        cpu = torch.device("cpu")
        decoder = select_engine("auto", plan.config, cpu, threads=1, log=listener.on_message)
        experiment = RateExperiment(plan, work)
        if not experiment.measure(backend.objective, backend.device, decoder, listener):
            raise KeyboardInterrupt
        record = rate_of(experiment, engine=backend.engine, threads=backend.threads)
        write_rate(rows, record)
    listener.on_end(work, record.results, "done")
    return record


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Rates(Result):
    """Measured rates, one of a preset and a recipe each."""

    records: tuple[RateRecord, ...]

    def to_dicts(self) -> list[dict[str, Any]]:
        """Every rate as its file has it."""
        return [schema.to_dict(record) for record in self.records]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"rates": self.to_dicts()}

    def describe(self) -> list[str]:
        """A table, as wide as it is: a narrower window wraps the lines, and no figure is cut."""
        if not self.records:
            return ["No rate has been measured yet: adderlab rate PRESET measures one."]
        rows = [dict(zip(COLUMNS, table_row(each), strict=True)) for each in self.records]
        meaning = "train s, prove s: median core-seconds of a seed; to a proof: expected, on 2 cores."
        return [*text_table(rows), meaning]

    def markdown(self) -> str:
        """docs/rates.md."""
        return rates_page(self.records)


def rates(folder: str | os.PathLike[str] | None = None) -> Rates:
    """The rates in a folder, by default records/rates of the checkout or of the current folder. Raises
    ``Failure`` for a file that is no rate."""
    place = Path(folder) if folder else default_folder()
    return Rates(records=tuple(read_rates(place)) if place else ())


def _resumed(folder: Path, assistance: Assistance | None) -> RatePlan:
    """The plan of a stopped measurement, with repair if it is added now."""
    plan = read_plan(folder)
    if assistance is not None and plan.assistance is None:
        return replace(plan, assistance=assistance, command=(*plan.command, "--assisted"))
    return plan


def rate_folder(plan: RatePlan) -> Path:
    """Where a measurement's runs go that are given no folder."""
    stem = Path(file_name(plan.preset, plan.recipe_name)).stem
    return Path("results/rates") / f"{stem}_{seed_list(plan.seeds)[:60]}"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Sweep(Result):
    """The cells of a sweep, the best first."""

    folder: Path
    rows: tuple[CellRow, ...]

    def to_dicts(self) -> list[dict[str, Any]]:
        """A flat row for every cell, for pandas or polars: its settings, then how its seeds stand."""
        entries = [row.entry() for row in self.rows]
        return [{**entry.pop("settings"), **entry} for entry in entries]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"folder": str(self.folder), "cells": [row.entry() for row in self.rows]}

    def describe(self) -> list[str]:
        """A line for every cell."""
        return [row.describe() for row in self.rows]

    def _repr_html_(self) -> str:
        return html_table(self.to_dicts(), str(self.folder))


def read_space(space: str | os.PathLike[str] | Mapping[str, Any]) -> SweepPlan:
    """A sweep's declaration, from a TOML file or as a table (docs/scale.md). Raises ``UsageError``."""
    if isinstance(space, Mapping):
        return read_sweep(space, _declared_seeds(space, "the declaration"))
    path = Path(space)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"there is no file {path}; check the name") from None
    except OSError as error:
        raise disk_failure(error, path, "read") from error
    except ValueError as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    try:
        return read_sweep(table, _declared_seeds(table, str(path)))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _declared_seeds(table: Mapping[str, Any], where: str) -> tuple[int, ...]:
    seeds = table.get("seeds", "0-7")
    whole = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
    if not (isinstance(seeds, str) or (whole and seeds)):
        raise UsageError(f'{where}: seeds must be a text like "0-7" or a list of numbers, not {seeds!r}')
    return parse_seeds(seeds)


@single_threaded()
def sweep(
    space: str | os.PathLike[str] | Mapping[str, Any],
    *,
    folder: str | os.PathLike[str] | None = None,
    resume: bool = False,
    optuna: bool = False,
    device: str = "auto",
    engine: str = "auto",
    threads: int | None = None,
    cluster: str | None = None,
    store: str | None = None,
    listener: Listener | None = None,
) -> Sweep:
    """Train a grid or a random space of settings, all over the same seeds.

    ``space``: a TOML file, or its table (docs/scale.md). ``folder``: default the declaration's, or
    results/sweeps/NAME. ``optuna``: choose every cell after those before it (needs adderlab[sweep]).
    ``cluster``, ``store``: as for ``train``.

    Ctrl-C raises ``KeyboardInterrupt`` once all is put away to be resumed.
    """
    if store and not cluster:
        raise UsageError("store=URL goes with cluster=ADDRESS")
    listener, plan = listener or Listener(), read_space(space)
    if optuna:
        check_guided(plan)
    place = sweep_folder(space, plan, folder)
    compute = Compute(device=device, engine=engine, threads=threads)
    go = run_guided if optuna else run_cells
    with OpenSweep(plan, place, listener, guided=optuna, resume=resume) as opened:
        count, seeds = plan.samples if optuna else len(plan.cells()), len(plan.seeds)
        listener.on_message(f"{count} cells of {seeds} seed{'s' if seeds > 1 else ''} each -> {place}")
        try:
            if cluster:
                with connected(cluster, compute, listener.on_message) as fleet:
                    rows = go(opened, ClusterTrainer(fleet=fleet, store=store))
                for line in describe_machines([opened.place(row.cell) for row in rows]):
                    listener.on_message(line)
            else:
                with stop_requests() as stop:
                    rows = go(opened, LocalTrainer(compute=compute, stop=stop))
        except Stopped:
            raise KeyboardInterrupt from None
    listener.on_end(place, (), "done")
    return Sweep(folder=place, rows=tuple(rows))


def sweep_folder(
    space: str | os.PathLike[str] | Mapping[str, Any],
    plan: SweepPlan,
    folder: str | os.PathLike[str] | None,
) -> Path:
    """Where a sweep goes."""
    name = plan.preset if isinstance(space, Mapping) else Path(space).stem
    return Path(folder or plan.output or Path("results/sweeps") / name)


def known_rate(wanted: Experiment) -> KnownRate | None:
    """The rate measured for an experiment, if it is in records/rates; changed settings have none, but
    for the number of steps."""
    folder, steps = default_folder(), f"steps={wanted.recipe.steps}"
    if folder is None or set(wanted.changes) - {steps}:
        return None
    return recorded_rate(read_rates(folder), wanted.name, wanted.recipe_name)


@single_threaded()
def plan(
    model: Trainable,
    *,
    recipe: str | Recipe = "best",
    seeds: int | Seeds = 64,
    steps: int | None = None,
    set: Settings = (),
    nodes: int = 1,
    price_per_hour: float | None = None,
    rate: str | None = None,
    device: str = "auto",
    engine: str = "auto",
    threads: int | None = None,
    listener: Listener | None = None,
) -> Plan:
    """How long ``seeds`` (how many, or which) will take on ``nodes`` machines like this one, what that
    costs, and how many seeds are needed for a success. Trains for a few seconds to measure; keeps
    nothing.

    ``rate``: successes of seeds tried, for example ``"12/48"``; default as measured in records/rates.
    ``price_per_hour``: of one machine, in any currency. Raises ``UsageError`` for what cannot be.
    """
    if price_per_hour is not None and not price_per_hour >= 0:
        raise UsageError(f"price_per_hour={price_per_hour}: it must be 0 or more")
    seeds = seeds if isinstance(seeds, int) else len(parse_seeds(seeds))
    if seeds < 1 or nodes < 1:
        raise UsageError(f"seeds={seeds}, nodes={nodes}: both must be at least 1")
    compute = Compute(device=device, engine=engine, threads=threads)
    known = given_rate(rate) if rate else None
    wanted = define(model, recipe, steps=steps, settings=set)
    known = known or known_rate(wanted)
    check_fits(wanted.config, wanted.recipe, (0,))
    listener = listener or Listener()
    explain(wanted, listener)
    backend = open_backend(wanted.config, compute, listener.on_message)
    return make_plan(
        wanted.config,
        wanted.recipe,
        backend,
        preset=wanted.name,
        recipe_name=recipe if isinstance(recipe, str) else "",
        seeds=seeds,
        nodes=nodes,
        price_per_hour=price_per_hour,
        known=known,
    )
