"""What a training run will take, from a few measured seconds, and how many seeds it needs.

Shapes: S seeds side by side.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from adderlab.errors import UsageError
from adderlab.evaluation.suites import Rate, wilson
from adderlab.format import duration
from adderlab.models.config import ModelConfig
from adderlab.models.tables import why_no_tables
from adderlab.reading.file_model import FileModel
from adderlab.results import Result
from adderlab.runs.folder import RunFolder
from adderlab.runs.metadata import RunConfig
from adderlab.study.rate import RateRecord
from adderlab.training.measure import SeedTracker
from adderlab.training.objective import Backend, Objective
from adderlab.training.population import Population
from adderlab.training.recipe import Recipe
from adderlab.training.run import Job, Writer
from adderlab.workers import usable_cores

CONFIDENCE = 0.95
"""Wanted chance of at least one success."""
MEASURED_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What was measured here."""

    seeds: int
    """Trained side by side while measuring."""
    width: int
    """Seeds that take no longer than one: the threads of a CPU; on a GPU as many as were measured."""
    seed_steps_per_second: float
    """All seeds together, in training alone."""
    evaluation_seconds: float
    """One evaluation of one seed, while all are evaluated."""
    writing_seconds: float
    """Putting one evaluation of all seeds into a run folder on this machine's temporary disk."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """A run of ``seeds`` seeds shared out to ``nodes`` machines as fast as this one."""

    seeds: int
    nodes: int
    seeds_per_node: int
    """Of the fullest node."""
    steps: int
    """Optimiser steps of one seed, restarts included."""
    evaluations: int
    """Of one seed."""
    training_seconds: float
    evaluating_seconds: float
    """With writing."""
    not_counted: tuple[str, ...]
    """What the recipe asks for and the measurement leaves out."""

    @property
    def seconds(self) -> float:
        """Wall time until the fullest node is done."""
        return self.training_seconds + self.evaluating_seconds

    @property
    def node_hours(self) -> float:
        return self.nodes * self.seconds / 3600

    @property
    def seed_steps_per_second(self) -> float:
        """Of all nodes, evaluations included."""
        return self.seeds * self.steps / self.seconds


@dataclass(frozen=True, kw_only=True)
class KnownRate:
    """How often a seed succeeds, and how that is known."""

    rate: Rate
    criterion: str
    """For example "proved on all 10^20 pairs as trained"."""
    source: str
    steps: int | None
    """At which it was measured; None: not said."""


def measure_speed(
    config: ModelConfig | FileModel,
    recipe: Recipe,
    seeds_per_node: int,
    objective: Objective,
    device: torch.device,
    *,
    threads: int,
    seconds: float = MEASURED_SECONDS,
) -> Speed:
    """Train for ``seconds``, evaluate and write once. Nothing is kept. Raises ``Failure`` if the
    temporary disk refuses."""
    S = min(seeds_per_node, _most_seeds(config, device))
    # The first part of the recipe, made long enough to measure; its speed does not depend on the step,
    # and draws cost what seeds cost.
    long = dataclasses.replace(recipe, steps=max(recipe.steps, 1_000_000), stages=(), restarts=None)
    population = Population(config, long, tuple(range(S)), objective, device)
    population.advance()  # the first step and evaluation allocate and compile
    loss_S = population.advance()
    population.evaluate(loss_S)
    first, taken, chunk = population.next_step, 0.0, 1
    while taken < seconds:
        started = time.perf_counter()
        loss_S = population.advance(chunk)
        _finish(device)
        spent = time.perf_counter() - started
        taken += spent
        chunk = 2 * chunk if spent < seconds / 8 else chunk
    steps = population.next_step - first
    started = time.perf_counter()
    evaluation = population.evaluate(loss_S)
    evaluating = time.perf_counter() - started
    with tempfile.TemporaryDirectory(prefix="adderlab-plan-") as place:
        job = Job(config=config, recipe=long, seeds=population.seeds, folder=Path(place) / "run")
        settings = RunConfig(model=config, recipe={}, seeds=job.seeds)
        with RunFolder.create(job.folder, settings, {}) as folder:
            first_SN = population.first_SN.cpu()
            tracker = SeedTracker(config, long, job.seeds, first_SN)
            writer = Writer(job, folder, population, tracker)
            for _ in range(2):  # the second time nothing is made for the first time
                started = time.perf_counter()
                writer.take(evaluation)
                writer.write("running")
                writing = time.perf_counter() - started
    return Speed(
        seeds=S,
        width=threads if device.type == "cpu" else S,
        seed_steps_per_second=S * steps / taken,
        evaluation_seconds=evaluating / S,
        writing_seconds=writing,
    )


def _most_seeds(config: ModelConfig | FileModel, device: torch.device) -> int:
    """Beyond these a step takes longer in proportion, and measuring too."""
    if why_no_tables(config):
        return 2
    return 64 if device.type == "cpu" else 4096


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forecast(speed: Speed, recipe: Recipe, seeds: int, nodes: int) -> Forecast:
    """The run's wall time. Raises ``UsageError`` for counts below 1."""
    for name, value in (("seeds", seeds), ("nodes", nodes)):
        if value < 1:
            raise UsageError(f"{name} must be at least 1, not {value}")
    nodes = min(nodes, seeds)
    per_node = -(-seeds // nodes)
    # A step costs in proportion to its batch; a seed's draws are so many seeds.
    parts = [stage for _, stage in recipe.parts[1:] if not stage.lbfgs]
    restarts = sum(stage.steps * (stage.batch_size or 0) for stage in parts) / recipe.batch_size
    training = restarts * _seconds_per_step(speed, per_node)
    halve_at = recipe.restarts.halve_at if recipe.restarts else ()
    for first, last in itertools.pairwise((0, *halve_at, recipe.steps)):
        rows = per_node * recipe.restarts_after(first)
        training += (last - first) * _seconds_per_step(speed, rows)
    evaluations = num_evaluations(recipe)
    measured = sum(recipe.restarts_after(step - 1) for step in _looks(recipe))
    evaluating = measured * per_node * speed.evaluation_seconds
    writings = min(evaluations, 1 + (training + evaluating) / Writer.PAUSE)
    not_counted = ["its L-BFGS stage"] if any(each.lbfgs for _, each in recipe.parts) else []
    if recipe.stop_perfect_steps:
        not_counted.append("seeds that stop early once they are perfect")
    return Forecast(
        seeds=seeds,
        nodes=nodes,
        seeds_per_node=per_node,
        steps=recipe.total_steps,
        evaluations=evaluations,
        training_seconds=training,
        evaluating_seconds=evaluating + writings * speed.writing_seconds,
        not_counted=tuple(not_counted),
    )


def steps_within(
    seconds: float,
    config: ModelConfig | FileModel,
    recipe: Recipe,
    seeds: int,
    backend: Backend,
    *,
    least: int,
    most: int,
) -> int:
    """Steps with which a recipe whose halvings and stages grow with its steps trains so many seeds in
    about ``seconds`` on this machine, between ``least`` and ``most``. Trains for a moment to measure."""
    speed = measure_speed(
        config,
        recipe,
        seeds,
        backend.objective,
        backend.device,
        threads=backend.threads,
        seconds=MEASURED_SECONDS / 2,
    )
    whole = forecast(speed, recipe, seeds, 1)
    left = max(0.0, seconds - whole.evaluating_seconds)
    return min(most, max(least, round(recipe.steps * left / whole.training_seconds)))


def _seconds_per_step(speed: Speed, seeds: int) -> float:
    """One step of so many seeds: the machine takes ``width`` of them at a time."""
    measured = speed.seeds / speed.seed_steps_per_second
    return measured * -(-seeds // speed.width) / -(-speed.seeds // speed.width)


def num_evaluations(recipe: Recipe) -> int:
    """Of one seed that trains to the end."""
    return len(_looks(recipe))


def _looks(recipe: Recipe) -> set[int]:
    """The steps after which a seed that trains to the end is evaluated."""
    regular = set(range(0, recipe.total_steps, recipe.eval_interval))
    return regular | {first + stage.steps - 1 for first, stage in recipe.parts}


def chance(rate: float, seeds: int) -> float:
    """Of at least one success in so many independent seeds."""
    return 1.0 if rate >= 1 else -math.expm1(seeds * math.log1p(-rate))


def seeds_needed(rate: float, wanted: float = CONFIDENCE) -> int | None:
    """Fewest seeds whose chance of at least one success is ``wanted`` or more; None: no number is."""
    if rate <= 0:
        return None
    if rate >= 1:
        return 1
    return math.ceil(math.log1p(-wanted) / math.log1p(-rate) - 1e-12)


def given_rate(text: str) -> KnownRate:
    """``12/48``. Raises ``UsageError``."""
    count, slash, n = text.partition("/")
    if not (slash and count.isdigit() and n.isdigit() and int(n) > 0 and int(count) <= int(n)):
        raise UsageError(f"rate={text!r}: write successes/seeds, for example 12/48")
    return KnownRate(
        rate=wilson(int(count), int(n)), criterion="as you count", source="--rate", steps=None
    )


def recorded_rate(records: Iterable[RateRecord], preset: str, recipe: str) -> KnownRate | None:
    """The measured rate of the preset by the recipe of that name; None: nobody has measured it."""
    for record in records:
        if (record.preset, record.recipe) == (preset, recipe):
            rate, criterion = record.pure, "proved on all 10^20 pairs as trained"
            if rate is None:
                rate, criterion = record.exact_at_end, "at 99% exact match or more at the end"
            return KnownRate(
                rate=rate,
                criterion=criterion,
                source=f"records/rates/{record.file_name}, seeds {record.seeds}",
                steps=record.steps,
            )
    return None


@dataclass(frozen=True, kw_only=True)
class Plan(Result):
    """A forecast with what it rests on, and the seeds that a success takes."""

    preset: str
    recipe: str
    machine: str
    """Device, engine and threads."""
    busy: str
    """A line if other programs took what was measured; else empty."""
    speed: Speed
    forecast: Forecast
    nodes: int
    """Asked for; more than there are seeds stay idle."""
    price_per_hour: float | None
    known: KnownRate | None
    """None: no rate is known for these settings."""
    steps_per_seed: int
    enough: Forecast | None
    """Of as many seeds as give a 95% chance of one success; None: no number does, or none is known."""

    @property
    def cost(self) -> float | None:
        """None without a price."""
        return None if self.price_per_hour is None else self.forecast.node_hours * self.price_per_hour

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "preset": self.preset,
            "recipe": self.recipe,
            "machine": self.machine,
            "measured": dataclasses.asdict(self.speed),
            "forecast": dataclasses.asdict(self.forecast)
            | {
                "seconds": self.forecast.seconds,
                "node_hours": self.forecast.node_hours,
                "seed_steps_per_second": self.forecast.seed_steps_per_second,
                "cost": self.cost,
            },
            "success": self._success(),
        }

    def _success(self) -> dict[str, Any] | None:
        if self.known is None:
            return None
        rate, seeds = self.known.rate, self.forecast.seeds
        values = (rate.value, rate.low, rate.high)
        return {
            "criterion": self.known.criterion,
            "source": self.known.source,
            "measured_at_steps": self.known.steps,
            "count": rate.count,
            "n": rate.n,
            "wilson_95": [rate.low, rate.high],
            "chance_of_one": [chance(value, seeds) for value in values],
            "seeds_for_95": [seeds_needed(value) for value in values],
            "seconds_for_95": None if self.enough is None else self.enough.seconds,
        }

    def describe(self) -> list[str]:
        """Line by line."""
        speed, predicted = self.speed, self.forecast
        share = predicted.evaluating_seconds / predicted.seconds
        nodes = "this machine" if predicted.nodes == 1 else f"{predicted.nodes} machines like this one"
        lines = [
            f"machine: {self.machine}",
            f"measured with {speed.seeds} seeds side by side: {speed.seed_steps_per_second:,.0f} "
            f"seed-steps/s in training; {speed.evaluation_seconds * 1000:.2f} ms to evaluate a seed",
            *([self.busy] if self.busy else []),
            f"{predicted.seeds} seeds x {predicted.steps:,} steps on {nodes}: "
            f"{duration(predicted.seconds)} ({share:.0%} of it {predicted.evaluations} "
            f"evaluations), {predicted.seed_steps_per_second:,.0f} seed-steps/s in all",
        ]
        if predicted.nodes > 1:
            lines[-1] += f"; {predicted.seeds_per_node} seeds on the fullest"
        if predicted.nodes < self.nodes:
            idle = self.nodes - predicted.nodes
            lines.append(f"{idle} of the {self.nodes} machines would have no seed")
        if predicted.not_counted:
            lines.append(f"not counted: {' and '.join(predicted.not_counted)}")
        if self.cost is not None:
            lines.append(f"cost: {self.cost:,.2f} ({predicted.node_hours:.3g} machine-hours)")
        return lines + self._describe_success()

    def _describe_success(self) -> list[str]:
        known, seeds = self.known, self.forecast.seeds
        if known is None:
            return [
                "No success rate is known for these settings: measure one (adderlab rate) or give one "
                "(--rate 12/48), and the seeds you need are counted."
            ]
        rate = known.rate
        low, high = (f"{chance(value, seeds):.1%}" for value in (rate.low, rate.high))
        lines = [
            f"success rate, {known.criterion}: {rate} ({known.source})",
            f"at least one success in {seeds} seeds: {chance(rate.value, seeds):.1%} [{low}, {high}]",
        ]
        if known.steps is not None and known.steps != self.steps_per_seed:
            lines.insert(
                1,
                f"that was measured at {known.steps:,} steps, not {self.steps_per_seed:,}: another rate",
            )
        needed = [seeds_needed(value) for value in (rate.value, rate.high, rate.low)]
        middle, fewest, most = ("no number" if each is None else f"{each:,}" for each in needed)
        lines.append(f"seeds for a {CONFIDENCE:.0%} chance of one: {middle} [{fewest} to {most}]")
        if self.enough is not None:
            lines[-1] += f", about {duration(self.enough.seconds)}"
            if self.price_per_hour is not None:
                lines[-1] += f", cost {self.enough.node_hours * self.price_per_hour:,.2f}"
        return lines


def make_plan(
    config: ModelConfig | FileModel,
    recipe: Recipe,
    backend: Backend,
    *,
    preset: str,
    recipe_name: str,
    seeds: int,
    nodes: int,
    price_per_hour: float | None,
    known: KnownRate | None,
) -> Plan:
    """Measure for a few seconds; forecast. Raises ``UsageError`` for counts below 1."""
    busy = _busy()
    per_node = -(-seeds // min(nodes, seeds))
    speed = measure_speed(
        config, recipe, per_node, backend.objective, backend.device, threads=backend.threads
    )
    needed = None if known is None else seeds_needed(known.rate.value)
    threads = f"{backend.threads} thread{'s' if backend.threads > 1 else ''}"
    return Plan(
        preset=preset,
        recipe=recipe_name,
        machine=f"{backend.device} ({backend.device_reason}), engine {backend.engine}, {threads}",
        busy=busy,
        speed=speed,
        forecast=forecast(speed, recipe, seeds, nodes),
        nodes=nodes,
        price_per_hour=price_per_hour,
        known=known,
        steps_per_seed=recipe.total_steps,
        enough=None if needed is None else forecast(speed, recipe, needed, nodes),
    )


def _busy() -> str:
    """A line if other programs take what is measured; else nothing."""
    load, cores = os.getloadavg()[0], usable_cores()
    if load < cores / 2:
        return ""
    return f"other programs are running here (load {load:.1f} on {cores} cores): alone it is faster"
