"""How often a recipe gives a proved adder: many seeds trained as a series of ordinary runs, then each
decided on all pairs.

The folder of a rate, besides what every run folder has (``runs.folder``):
    population_00/      a run with every seed kept, and cost.json: its processor time

``records/rates/*.json`` has a file for every row of docs/rates.md: a preset trained by one recipe from
many seeds, every seed that reached 99% exact match decided on all 10^20 pairs. A row is written only
when every seed has its verdict.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import shutil
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adderlab.engine.base import Engine
from adderlab.errors import Failure, UsageError
from adderlab.evaluation.suites import Rate, published, wilson
from adderlab.files import schema
from adderlab.files.atomic import (
    disk_failure,
    make_folder,
    read_json,
    write_json,
)
from adderlab.format import seed_list
from adderlab.models.config import ModelConfig
from adderlab.models.describe import count_parameters
from adderlab.models.tables import why_no_tables
from adderlab.proof.search import Limits
from adderlab.reading.file_model import FileModel
from adderlab.runs.folder import RUN_FILES, STATE_FILE, seed_folder
from adderlab.runs.metadata import (
    ENDED,
    RunConfig,
    Status,
    collect_environment,
    kind_of,
    kind_of_start,
    now,
    read_config,
    read_summary,
    summarise,
    write_config,
)
from adderlab.runs.records import SUCCESS, SeedRecord, best_of, write_records
from adderlab.runs.stored import of_old_outcome, seed_records
from adderlab.study.verdicts import Assistance, repair_seed, verify_seed, worth_repair
from adderlab.training.measure import Evaluation, Listener, Listeners
from adderlab.training.objective import Objective
from adderlab.training.recipe import Recipe
from adderlab.training.repair import RepairSettings
from adderlab.training.run import Job, run
from adderlab.training.start import check_fits

SCHEMA_VERSION = 2
FOLDER = Path("records") / "rates"
PACKAGED = Path(__file__).resolve().parents[1] / "rates"
"""Where a wheel has them."""
_RATES = ("pure", "assisted", "exact_at_end", "exact_ever", "published_perfect")


@dataclass(frozen=True, kw_only=True)
class RateRecord:
    """A row: one preset, one recipe, many seeds."""

    preset: str
    parameters: int
    recipe: str
    """Its name, and settings changed by hand after a +."""
    published: bool
    """Whether this is the preset's published recipe, unchanged."""
    recipe_settings: dict
    """The whole recipe, as ``config.json`` of a run has it."""
    model_settings: dict
    seeds: str
    """For example 1000-1095."""
    n: int
    steps: int
    """Optimiser steps of one seed at most."""
    pure: Rate | None
    """Proved on all 10^20 pairs as trained; None where the model has no table form."""
    assisted: Rate | None
    """Proved as trained or after repair; None where no repair was tried."""
    exact_at_end: Rate
    """At 99% exact match or more at the end."""
    exact_ever: Rate
    """At 99% exact match or more at any evaluation."""
    published_perfect: Rate
    """Without an error on the 100,000 published pairs."""
    median_steps_to_grok: float | None
    """Over the seeds that have one; None: no seed has."""
    median_training_core_seconds: float
    """Processor time of one seed, of the host where an accelerator trained it; proving is apart."""
    median_proving_core_seconds: float | None
    """Over the seeds with a proof; None: there was none."""
    training_core_seconds: float
    """All seeds together."""
    proving_core_seconds: float
    repairing_core_seconds: float
    expected_seconds_on_2_cores: float | None
    """From nothing to a proved model: training and proving of all seeds / seeds proved / 2 cores;
    None: no seed was proved, or an accelerator trained them."""
    expected_assisted_seconds_on_2_cores: float | None
    """The same with repair."""
    limits: Limits
    repair_settings: dict | None
    """How repair was done and which seeds it was tried on; None: not tried."""
    results: tuple[SeedRecord, ...]
    """Of every seed."""
    command: tuple[str, ...]
    """As typed."""
    git_revision: str | None
    date: str
    """UTC, to the second."""
    machine: str
    engine: str
    threads: int
    versions: dict
    """adderlab, python, torch, numpy."""
    schema_version: int = SCHEMA_VERSION

    @property
    def start(self) -> str:
        """``generic``, or ``informed`` and by what (``runs.metadata``)."""
        return kind_of_start(self.recipe_settings)

    @property
    def file_name(self) -> str:
        return file_name(self.preset, self.recipe)

    def to_dicts(self) -> list[dict[str, Any]]:
        """A flat row for every seed, for pandas or polars."""
        return [record.to_dict() for record in self.results]


def file_name(preset: str, recipe: str) -> str:
    """``456p_circle.json``; signs that a file system may refuse become ``-``."""
    return re.sub(r"[^A-Za-z0-9._=+-]", "-", f"{preset}_{recipe}") + ".json"


def write_rate(folder: Path, record: RateRecord) -> Path:
    """Write the row into ``folder``; its path. Raises ``Failure``."""
    make_folder(folder)
    path = folder / record.file_name
    write_json(path, schema.to_dict(record))
    return path


def read_rate(path: Path | str) -> RateRecord:
    """The row in a file. Raises ``Failure`` naming what is wrong with it."""
    data = read_json(path)
    version = data.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise Failure(f"{path} has no schema_version; it is no rate, take it out of the folder")
    if version > SCHEMA_VERSION:
        raise Failure(
            f"{path} was written by a newer adderlab (schema {version}, this one reads up to "
            f"{SCHEMA_VERSION}); upgrade with pip install -U adderlab"
        )
    try:
        data = _upgraded(data, path)
        record = schema.from_dict(RateRecord, data, str(path))
    except UsageError as error:
        raise Failure(f"{error}; restore the file from a copy") from error
    _check(record, path)
    return record


def _upgraded(data: dict[str, Any], path: Path | str) -> dict[str, Any]:
    """A row of an earlier version under the names of today. What is no such thing stays as it is: the
    schema refuses it."""
    upgraded = dict(data)
    if isinstance(data.get("recipe_settings"), dict):
        upgraded["recipe_settings"] = schema.upgraded_recipe(data["recipe_settings"])
    if isinstance(data.get("recipe"), str):
        upgraded["recipe"] = schema.recipe_name(data["recipe"])
    words = data.get("command")
    if isinstance(words, list) and all(isinstance(word, str) for word in words):
        upgraded["command"] = schema.command(words)
    if data.get("schema_version") == 1:
        # Rates did not say what their intervals are, and a seed had an entry of its own kind.
        for name in _RATES:
            if isinstance(data.get(name), dict):
                upgraded[name] = {"kind": "wilson"} | data[name]
        if isinstance(data.get("results"), list):
            upgraded["results"] = [
                schema.to_dict(of_old_outcome(each, f"{path}: results[{i}]"))
                for i, each in enumerate(data["results"])
            ]
        upgraded["schema_version"] = SCHEMA_VERSION
    return upgraded


def read_rates(folder: Path | str) -> list[RateRecord]:
    """All rows of a folder: the largest model first, then the highest rate. Raises ``Failure``."""
    folder = Path(folder)
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".json")
    except OSError as error:
        raise disk_failure(error, folder, "read") from error
    return sorted((read_rate(path) for path in paths), key=_order)


def default_folder() -> Path | None:
    """``records/rates`` of the source checkout, or below the current folder, or else the rates that an
    installed package brings; None: there is none."""
    checkout = Path(__file__).resolve().parents[3]
    places = [Path.cwd()] if not (checkout / "pyproject.toml").is_file() else [checkout, Path.cwd()]
    folders = [*(place / FOLDER for place in places), PACKAGED]
    return next((folder for folder in folders if folder.is_dir()), None)


def _merit(record: RateRecord) -> tuple[float, float, float, int]:
    pure, assisted = record.pure, record.assisted
    return (
        pure.value if pure else -1.0,
        assisted.value if assisted else -1.0,
        record.exact_at_end.value,
        record.n,
    )


def _order(record: RateRecord) -> tuple[Any, ...]:
    return (-record.parameters, record.preset, *(-part for part in _merit(record)), record.recipe)


def _check(record: RateRecord, path: Path | str) -> None:
    """What the schema alone cannot see: the counts are those of the seeds listed."""
    counted = {
        "n": (record.n, len(record.results)),
        "seeds": (record.seeds, seed_list([each.seed for each in record.results])),
        "pure": (
            record.pure and record.pure.count,
            sum(each.route == "pure" for each in record.results),
        ),
        "assisted": (
            record.assisted and record.assisted.count,
            sum(each.route is not None for each in record.results),
        ),
    }
    for name, (said, found) in counted.items():
        if said is not None and said != found:
            raise Failure(
                f"{path}: {name} is {said}, but its seeds come to {found}; it was changed by hand, "
                "restore it from a copy"
            )


# The measurement.


COST_FILE = "cost.json"
CORES = 2
"""Of the machine that expected times are for."""
_VERSIONS = ("adderlab", "python", "torch", "numpy")


@dataclass(frozen=True, kw_only=True)
class RatePlan:
    """A measurement before it is made."""

    preset: str
    recipe_name: str
    """As the row shall name it."""
    published: bool
    config: ModelConfig | FileModel
    recipe: Recipe
    seeds: tuple[int, ...]
    batch_of_seeds: int
    """Seeds trained side by side at most; a seed's result does not depend on it."""
    limits: Limits
    assistance: Assistance | None
    command: tuple[str, ...]
    note: str = ""
    """What the user should know of it that was not asked for."""

    def __post_init__(self) -> None:
        if self.batch_of_seeds < 1:
            raise UsageError(f"a batch has at least 1 seed, not {self.batch_of_seeds}")
        if self.limits.cells < 0 or not self.limits.seconds > 0:
            raise UsageError("a proof needs cells at least 0 and seconds above 0")
        check_fits(self.config, self.recipe, self.seeds)

    @property
    def batches(self) -> list[tuple[int, ...]]:
        """The seeds in parts of nearly equal size."""
        parts = math.ceil(len(self.seeds) / self.batch_of_seeds)
        edges = [len(self.seeds) * i // parts for i in range(parts + 1)]
        return [self.seeds[low:high] for low, high in itertools.pairwise(edges)]


_DETAILS = ("preset", "recipe_name", "published", "batch_of_seeds", "limits", "assistance")
"""What ``config.json`` says of a rate besides what it says of every run."""


def write_plan(folder: Path, plan: RatePlan) -> None:
    """Make the folder and note the plan in its ``config.json``. Raises ``Failure``."""
    make_folder(folder)
    details = schema.to_dict(plan)
    write_config(
        folder,
        RunConfig(
            kind="rate",
            model=plan.config,
            recipe=schema.to_dict(plan.recipe),
            seeds=plan.seeds,
            command=plan.command,
            keep="all",
            details={name: details[name] for name in _DETAILS},
        ),
    )


def read_plan(folder: Path) -> RatePlan:
    """The plan of a measurement that was begun, of version 0.1 too. ``UsageError`` if there is none."""
    if kind_of(folder) != "rate":
        raise UsageError(f"there is no measurement in {folder}; check the name")
    stored = read_config(folder)
    values = {
        **stored.details,
        "config": schema.to_dict(stored.model),
        "recipe": stored.recipe,
        "seeds": list(stored.seeds),
        "command": list(stored.command),
    }
    try:
        return schema.from_dict(RatePlan, values, f"{folder}: rate")
    except UsageError as error:
        raise Failure(f"{error}; restore config.json from a copy, or measure anew") from error


@dataclass(frozen=True, kw_only=True)
class Population:
    """One of a rate's runs."""

    folder: Path
    seeds: tuple[int, ...]

    @property
    def done(self) -> bool:
        """Trained to the end, with every seed's weights on the disk."""
        if not (self.folder / "summary.json").is_file():
            return False
        return read_summary(self.folder)["status"] in ENDED and all(
            (self.checkpoints(seed) / "last.pt").is_file() for seed in self.seeds
        )

    @property
    def begun(self) -> bool:
        """Whether there is a state to go on from."""
        return (self.folder / STATE_FILE).is_file()

    def checkpoints(self, seed: int) -> Path:
        """The folder of a seed's best.pt and last.pt."""
        alone = len(self.seeds) == 1
        return (self.folder if alone else seed_folder(self.folder, seed)) / "checkpoints"

    def records(self) -> list[SeedRecord]:
        """Of its seeds, once it is done, with their parts of its processor time: a step costs every
        seed the same. Raises ``Failure``."""
        records, total = seed_records(self.folder), _read_cost(self.folder)
        steps = sum(record.steps for record in records)
        return [
            dataclasses.replace(
                record.below(self.folder.name), training_core_seconds=total * record.steps / steps
            )
            for record in records
        ]


class RateExperiment:
    """A plan and the folder that it fills."""

    def __init__(self, plan: RatePlan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self.populations = [
            Population(folder=folder / f"population_{i:02d}", seeds=seeds)
            for i, seeds in enumerate(plan.batches)
        ]
        self._of_seed = {seed: each for each in self.populations for seed in each.seeds}
        known = {record.seed: record for record in seed_records(folder) if record.verdict is not None}
        self.records = {seed: known.get(seed, SeedRecord(seed=seed)) for seed in plan.seeds}
        """Of all seeds, in the plan's order: with their verdicts, as far as they have one."""

    def measure(
        self, objective: Objective, device: torch.device, prover: Engine, listener: Listener
    ) -> bool:
        """Train, verify and, if planned, repair every seed; False if it was stopped on the way.

        ``prover`` decodes the published pairs, one model at a time. What is lost to a kill, back to the
        last evaluation, is not counted in any cost: the result is the same.
        """
        environment = self.folder / "environment.json"
        if not environment.is_file():
            write_json(environment, collect_environment(str(device), self.plan.command))
        for i, population in enumerate(self.populations, start=1):
            label = f"population {i} of {len(self.populations)}, {len(population.seeds)} seeds"
            if population.done:
                listener.on_message(f"{label}: done before")
            else:
                listener.on_message(f"{label} -> {population.folder}")
                if not self._train(population, objective, device, listener):
                    self.write("stopped")
                    return False
            if any(self.records[seed].verdict is None for seed in population.seeds):
                for record in population.records():
                    if self.records[record.seed].verdict is None:
                        self.records[record.seed] = record
                self.write("running")
        self._verify(prover, listener)
        self.write("done")
        return True

    def _train(
        self, population: Population, objective: Objective, device: torch.device, listener: Listener
    ) -> bool:
        plan, begun = self.plan, population.begun
        job = Job(
            config=plan.config,
            recipe=plan.recipe,
            seeds=population.seeds,
            folder=population.folder,
            keep="all",
        )
        # A run killed before its first evaluation has a state, but nothing that has cost anything.
        known = begun and (population.folder / COST_FILE).is_file()
        meter = _CostMeter(population.folder, _read_cost(population.folder) if known else 0.0)
        result = run(job, objective, device, Listeners((listener, meter)), resume=begun)
        meter.note()
        return result.status in ENDED

    def _verify(self, prover: Engine, listener: Listener) -> None:
        """Verdicts of all seeds that have none yet, then repairs; each is on the disk before the next
        is begun."""
        suite = published(self.plan.config.token_layout.addition)
        limits, assistance = self.plan.limits, self.plan.assistance
        for seed, record in self.records.items():
            if record.verdict is None:
                checkpoints = self._of_seed[seed].checkpoints(seed)
                self._note(verify_seed(record, checkpoints, limits, prover, suite), listener)
        for seed, record in self.records.items() if assistance else ():
            assert assistance is not None
            if record.repair is None and worth_repair(record, assistance):
                checkpoints = self._of_seed[seed].checkpoints(seed)
                repaired = repair_seed(record, checkpoints, assistance, limits, prover, suite)
                self._note(repaired, listener)

    def _note(self, record: SeedRecord, listener: Listener) -> None:
        self.records[record.seed] = record
        self.write("running")
        verdict = record.proof_of.verdict
        listener.on_verdict(record, str(verdict))
        if verdict != "missed":
            listener.on_message(describe_seed(record))

    def write(self, status: Status) -> None:
        """``seeds.json``, then ``summary.json``."""
        records = list(self.records.values())
        write_records(self.folder, records)
        spent = [read_summary(each.folder)["elapsed_sec"] for each in self.populations if each.begun]
        table = summarise(
            run_name=self.folder.resolve().name,
            model=self.plan.config,
            train_steps=self.plan.recipe.total_steps,
            seeds=len(records),
            best=best_of(records),
            status=status,
            step=max(record.steps for record in records) - 1,
            elapsed_sec=sum(spent),
            params=count_parameters(self.plan.config),
        )
        counts = {
            "verified": sum(record.verdict is not None for record in records),
            "proved_pure": sum(record.route == "pure" for record in records),
            "proved_assisted": sum(record.route == "assisted" for record in records),
        }
        write_json(self.folder / "summary.json", table | {"counts": counts})


def delete_measurement(folder: Path) -> None:
    """What a rate wrote into its folder; ``config.json``, by which it is known as one, last."""
    try:
        for population in folder.glob("population_[0-9][0-9]*"):
            shutil.rmtree(population)
        for old in (*folder.glob("seed_[0-9]*.json"), folder / "plan.json"):
            old.unlink(missing_ok=True)
        for name in RUN_FILES:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise disk_failure(error, folder, "overwrite the measurement in") from error


class _CostMeter(Listener):
    """Writes a run's processor time so far at every evaluation."""

    def __init__(self, folder: Path, spent: float) -> None:
        self.folder, self.spent = folder, spent
        self.started = time.process_time()

    def on_evaluation(self, evaluation: Evaluation, records: tuple[SeedRecord, ...]) -> None:
        self.note()

    def note(self) -> None:
        seconds = self.spent + time.process_time() - self.started
        write_json(self.folder / COST_FILE, {"core_seconds": seconds})


def _read_cost(folder: Path) -> float:
    data = read_json(folder / COST_FILE)
    seconds = data.get("core_seconds")
    if not isinstance(seconds, float):
        raise Failure(f"{folder / COST_FILE} holds no core_seconds; measure anew")
    return seconds


def describe_seed(record: SeedRecord) -> str:
    """``seed 1003: proved (last weights, smallest margin at least 0.41), 0 published errors``."""
    found, errors = record.proof_of, record.proof_of.published_errors
    kind = f"{record.weights} weights"
    if record.repair is not None:
        count = record.repair.trainings
        kind = f"after {count} training{'' if count == 1 else 's'} on its worst pairs"
    if found.verdict == "no tables":
        text = "cannot be proved: no table form"
    else:
        bound = found.margin_bound
        margin = "" if bound is None else f", smallest margin at least {bound:.3g}"
        text = f"{found.verdict} ({kind}{margin})"
    return f"seed {record.seed}: {text}, {errors or 0:,} published errors"


def rate_of(experiment: RateExperiment, *, engine: str, threads: int) -> RateRecord:
    """The row of an experiment whose seeds all have their verdicts."""
    plan, results = experiment.plan, tuple(experiment.records.values())
    assert all(each.verdict is not None for each in results), "not every seed has its verdict"
    about = [read_json(each.folder / "environment.json") for each in experiment.populations]
    can_prove = why_no_tables(plan.config) is None
    assistance = plan.assistance if can_prove else None
    on_cpu = all(each["device"] == "cpu" for each in about)
    training = sum(each.training_core_seconds or 0.0 for each in results)
    proving = sum(each.proving_core_seconds or 0.0 for each in results)
    repairing = sum(each.repair.core_seconds or 0.0 for each in results if each.repair)
    proved = sum(each.route == "pure" for each in results)
    with_help = sum(each.route is not None for each in results)
    return RateRecord(
        preset=plan.preset,
        parameters=count_parameters(plan.config),
        recipe=plan.recipe_name,
        published=plan.published,
        recipe_settings=schema.to_dict(plan.recipe),
        model_settings=schema.to_dict(plan.config),
        seeds=seed_list(plan.seeds),
        n=len(results),
        steps=plan.recipe.total_steps,
        pure=wilson(proved, len(results)) if can_prove else None,
        assisted=wilson(with_help, len(results)) if assistance else None,
        exact_at_end=_rate(each.succeeded for each in results),
        exact_ever=_rate(each.best_exact >= SUCCESS for each in results),
        published_perfect=_rate(each.published_errors == 0 for each in results),
        median_steps_to_grok=_median(
            [each.grokked_at for each in results if each.grokked_at is not None]
        ),
        median_training_core_seconds=statistics.median(
            each.training_core_seconds or 0.0 for each in results
        ),
        median_proving_core_seconds=_median(
            [each.proving_core_seconds or 0.0 for each in results if each.weights is not None]
        ),
        training_core_seconds=training,
        proving_core_seconds=proving,
        repairing_core_seconds=repairing,
        expected_seconds_on_2_cores=_expected(training + proving, proved) if on_cpu else None,
        expected_assisted_seconds_on_2_cores=_expected(training + proving + repairing, with_help)
        if assistance and on_cpu
        else None,
        limits=plan.limits,
        repair_settings={
            **dataclasses.asdict(RepairSettings(rounds=assistance.rounds)),
            "seed": "the seed's own",
            "from_exact": assistance.exact,
            "from_missing_steps": assistance.missing,
            "seconds_of_a_proof": assistance.seconds,
        }
        if assistance
        else None,
        results=results,
        command=plan.command,
        git_revision=_joined(each["git_revision"] for each in about),
        date=now(),
        machine=_joined(
            each["device_name"] or f"{each['cpu']}, {each['cpu_count']} cores" for each in about
        )
        or "unknown",
        engine=engine,
        threads=threads,
        versions={name: about[-1][name] for name in _VERSIONS if name in about[-1]},
    )


def _rate(outcomes: Iterable[bool]) -> Rate:
    counted = list(outcomes)
    return wilson(sum(counted), len(counted))


def _joined(values: Iterable[str | None]) -> str | None:
    """What differs between the populations, each once; None where nothing is known."""
    return "; ".join(dict.fromkeys(each for each in values if each)) or None


def _median(values: Sequence[float]) -> float | None:
    return float(statistics.median(values)) if values else None


def _expected(core_seconds: float, proved: int) -> float | None:
    """Seconds on ``CORES`` cores for one proved model, the failures' share included."""
    return core_seconds / proved / CORES if proved else None
