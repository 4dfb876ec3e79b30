"""The rate of a finished experiment: counts with intervals, medians, what a proved model costs."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from adderlab.errors import Failure, UsageError
from adderlab.evaluation.intervals import wilson
from adderlab.files import schema
from adderlab.files.atomic import make_folder, read_json, write_json
from adderlab.models.config import ModelConfig
from adderlab.models.describe import count_parameters
from adderlab.models.mapping import why_no_tables
from adderlab.runs.environment import now
from adderlab.runs.folder import STATE_FILE, read_summary, seed_folder
from adderlab.runs.metrics import Metrics, read_metrics, read_seed_metrics
from adderlab.runs.rates import (
    ProverLimits,
    RateRecord,
    SeedOutcome,
    Share,
    seeds_text,
)
from adderlab.training.job import Job, Outcome
from adderlab.training.measure import Evaluation
from adderlab.training.objective import Objective
from adderlab.training.recipe import Recipe
from adderlab.training.repair import RepairSettings
from adderlab.training.run import Listener, run
from adderlab.training.start import check_fits
from adderlab.training.tracker import SUCCESS

# Many seeds of one recipe, trained as a series of ordinary runs: the raw material of a rate.
#
# results/rates/456p_circle_1000-1095/
#     plan.json           what is measured; written once, at the start
#     population_00/      a run folder with every seed kept, and cost.json: its processor time
#     seed_1000.json      a seed's outcome, once it is judged (adderlab.study.verifier)


SCHEMA_VERSION = 1
PLAN_FILE, COST_FILE = "plan.json", "cost.json"


@dataclass(frozen=True, kw_only=True)
class Assistance:
    """Which seeds are repaired, and how hard; the rest is ``adderlab.training.repair``'s default."""

    exact: float = 0.9
    """A seed that is not proved is repaired from this exact match on, of its last or best weights."""
    missing: int = 0
    """A seed is repaired too if it misses at most so many answer steps at the end; 0: none is."""
    rounds: int = 5
    seconds: float = 10.0
    """Wall time of each proof between two trainings."""

    def __post_init__(self) -> None:
        if not 0 <= self.exact <= 1:
            raise UsageError(f"repair needs an exact match from 0 to 1, not {self.exact}")
        if self.missing < 0 or self.rounds < 1 or not self.seconds > 0:
            raise UsageError(
                "repair needs missing at least 0, rounds at least 1 and seconds above 0, not "
                f"{self.missing}, {self.rounds} and {self.seconds}"
            )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A measurement before it is made."""

    preset: str
    recipe_name: str
    """As the row shall name it."""
    published: bool
    config: ModelConfig
    recipe: Recipe
    seeds: tuple[int, ...]
    batch_of_seeds: int
    """Seeds trained side by side at most; a seed's result does not depend on it."""
    limits: ProverLimits
    assistance: Assistance | None
    command: tuple[str, ...]
    schema_version: int = SCHEMA_VERSION

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


def write_plan(folder: Path, plan: Plan) -> None:
    """Make the folder and note the plan in it. Raises ``Failure``."""
    make_folder(folder)
    write_json(folder / PLAN_FILE, schema.to_dict(plan))


def read_plan(folder: Path) -> Plan:
    """The plan of a measurement that was begun. ``UsageError`` if there is none there."""
    path = folder / PLAN_FILE
    if not path.is_file():
        raise UsageError(f"there is no measurement in {folder} (no {PLAN_FILE}); check the name")
    data = read_json(path)
    if data.get("schema_version") != SCHEMA_VERSION:
        raise Failure(f"{path} was written by another version of adderlab; measure anew")
    try:
        return schema.from_dict(Plan, data, str(path))
    except UsageError as error:
        raise Failure(f"{error}; restore the file from a copy, or measure anew") from error


@dataclass(frozen=True, kw_only=True)
class Population:
    """One of a experiment's runs."""

    folder: Path
    seeds: tuple[int, ...]

    @property
    def done(self) -> bool:
        """Trained to the end, with every seed's weights on the disk."""
        if not (self.folder / "summary.json").is_file():
            return False
        return read_summary(self.folder)["status"] == "done" and all(
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

    @cached_property
    def history(self) -> dict[int, list[Metrics]]:
        """All evaluations of every seed, once it is done. Raises ``Failure``."""
        if len(self.seeds) == 1:
            return {self.seeds[0]: read_metrics(self.folder)}
        return read_seed_metrics(self.folder)

    @cached_property
    def core_seconds(self) -> dict[int, float]:
        """Every seed's part of the run's processor time: a step costs every seed the same."""
        steps = {seed: curve[-1].step + 1 for seed, curve in self.history.items()}
        total = _read_cost(self.folder)
        return {seed: total * steps[seed] / sum(steps.values()) for seed in self.seeds}


@dataclass(frozen=True, kw_only=True)
class RateExperiment:
    """A plan and the folder that it fills."""

    plan: Plan
    folder: Path

    def populations(self) -> list[Population]:
        return [
            Population(folder=self.folder / f"population_{i:02d}", seeds=seeds)
            for i, seeds in enumerate(self.plan.batches)
        ]

    def train(
        self, population: Population, objective: Objective, device: torch.device, listener: Listener
    ) -> Outcome:
        """Train one population, from where it was stopped if it was; notes its processor time.

        What is lost to a kill, back to the last evaluation, is not counted: the result is the same.
        """
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
        spent = _read_cost(population.folder) if known else 0.0
        meter = _Meter(population.folder, spent, listener)
        outcome = run(job, objective, device, meter, resume=begun)
        meter.note()
        return outcome

    def outcome_path(self, seed: int) -> Path:
        return self.folder / f"seed_{seed:04d}.json"

    def outcome(self, seed: int) -> SeedOutcome | None:
        """The seed's outcome if it is judged. Raises ``Failure`` if its file is damaged."""
        path = self.outcome_path(seed)
        if not path.is_file():
            return None
        try:
            return schema.from_dict(SeedOutcome, read_json(path), str(path))
        except UsageError as error:
            raise Failure(f"{error}; delete the file to judge the seed again") from error

    def note(self, outcome: SeedOutcome) -> None:
        """Write a seed's outcome. Raises ``Failure``."""
        write_json(self.outcome_path(outcome.seed), schema.to_dict(outcome))

    def judged(self) -> Iterator[SeedOutcome]:
        """The outcomes so far, in the plan's order."""
        for seed in self.plan.seeds:
            outcome = self.outcome(seed)
            if outcome is not None:
                yield outcome


class _Meter:
    """Passes a run's events on and writes the processor time so far at every evaluation."""

    def __init__(self, folder: Path, spent: float, listener: Listener) -> None:
        self.folder, self.spent, self.listener = folder, spent, listener
        self.started = time.process_time()

    def stepped(self, step: int, active: int) -> None:
        self.listener.stepped(step, active)

    def evaluated(self, evaluation: Evaluation) -> None:
        self.listener.evaluated(evaluation)
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


CORES = 2
"""Of the machine that expected times are for."""


_VERSIONS = ("adderlab", "python", "torch", "numpy")


def record_of(experiment: RateExperiment, *, engine: str, threads: int) -> RateRecord:
    """The row of a experiment whose seeds are all judged."""
    plan, results = experiment.plan, tuple(experiment.judged())
    assert len(results) == len(plan.seeds), "not every seed is judged"
    about = [read_json(each.folder / "environment.json") for each in experiment.populations()]
    can_prove = why_no_tables(plan.config) is None
    assistance = plan.assistance if can_prove else None
    on_cpu = all(each["device"] == "cpu" for each in about)
    training = sum(each.training_core_seconds for each in results)
    proving = sum(each.proving_core_seconds for each in results)
    repairing = sum(each.repair.core_seconds for each in results if each.repair)
    proved = sum(each.proved for each in results)
    with_help = sum(each.proved_with_help for each in results)
    return RateRecord(
        preset=plan.preset,
        parameters=count_parameters(plan.config),
        recipe=plan.recipe_name,
        published=plan.published,
        recipe_settings=schema.to_dict(plan.recipe),
        model_settings=schema.to_dict(plan.config),
        seeds=seeds_text(plan.seeds),
        n=len(results),
        steps=plan.recipe.total_steps,
        pure=_share(proved, results) if can_prove else None,
        assisted=_share(with_help, results) if assistance else None,
        exact_at_end=_share(sum(each.last_exact >= SUCCESS for each in results), results),
        exact_ever=_share(sum(each.best_exact >= SUCCESS for each in results), results),
        published_perfect=_share(sum(each.published_errors == 0 for each in results), results),
        median_steps_to_grok=_median(
            [each.grokked_at for each in results if each.grokked_at is not None]
        ),
        median_training_core_seconds=statistics.median(each.training_core_seconds for each in results),
        median_proving_core_seconds=_median(
            [each.proving_core_seconds for each in results if each.weights is not None]
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


def _share(count: int, results: Sequence[SeedOutcome]) -> Share:
    rate = wilson(count, len(results))
    return Share(count=count, n=len(results), low=rate.low, high=rate.high)


def _joined(values: Iterable[str | None]) -> str | None:
    """What differs between the populations, each once; None where nothing is known."""
    return "; ".join(dict.fromkeys(each for each in values if each)) or None


def _median(values: Sequence[float]) -> float | None:
    return float(statistics.median(values)) if values else None


def _expected(core_seconds: float, proved: int) -> float | None:
    """Seconds on ``CORES`` cores for one proved model, the failures' share included."""
    return core_seconds / proved / CORES if proved else None
