"""Measuring a rate from a terminal: populations with a live display, then verdicts seed by seed."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console

from adderlab.cli.training import usable_cores
from adderlab.engine.base import Engine, choose_device
from adderlab.engine.select import select_engine
from adderlab.errors import Failure, UsageError
from adderlab.evaluation.suites import published
from adderlab.files.atomic import disk_failure, make_folder
from adderlab.files.lock import RunLock
from adderlab.report.live import TrainingView
from adderlab.runs.rates import RateRecord, SeedOutcome
from adderlab.study.rate import (
    PLAN_FILE,
    Plan,
    RateExperiment,
    record_of,
    write_plan,
)
from adderlab.study.verifier import judge, with_repair, worth_repair
from adderlab.training.objective import Objective, objective_for
from adderlab.training.run import RunFailed

Say = Callable[[str], None]


def measure(
    plan: Plan,
    folder: Path,
    *,
    resume: bool,
    overwrite: bool,
    device: str,
    engine: str,
    threads: int | None,
    quiet: bool,
    again: str,
) -> RateRecord | None:
    """Train, judge and, if planned, repair every seed; None if training was stopped.

    What is in ``folder`` already is kept with ``resume`` and deleted with ``overwrite``; ``again`` is
    the command that goes on. Raises ``UsageError`` if it holds a measurement and neither is set.
    """
    where, _ = choose_device(device)
    threads = usable_cores() if threads is None else threads
    if threads < 1:
        raise UsageError(f"--threads must be at least 1, not {threads}")
    torch.set_num_threads(1)
    console = Console(quiet=quiet)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)

    # What was spent must not be lost for want of a line, however quiet.
    tell = (lambda line: print(line, file=sys.stderr)) if quiet else say
    make_folder(folder)
    lock = RunLock(folder)
    try:
        _prepare(folder, resume=resume, overwrite=overwrite)
        write_plan(folder, plan)
        experiment = RateExperiment(plan=plan, folder=folder)
        chosen = select_engine(engine, plan.config, where, threads=threads, say=say)
        objective = objective_for(plan.config, chosen, where)
        if not _train(experiment, objective, where, say, quiet):
            tell(f"Stopped. To go on: {again}")
            return None
        # Proofs and the published pairs are one model at a time: on the CPU, whatever trained them.
        on_cpu = select_engine("auto", plan.config, torch.device("cpu"), threads=1, say=say)
        _judge(experiment, on_cpu, say)
        return record_of(experiment, engine=chosen.name, threads=threads)
    except RunFailed as error:
        raise Failure(f"{error}; then go on: {again}") from error
    except KeyboardInterrupt:
        if (folder / PLAN_FILE).is_file():
            tell(f"Stopped. To go on: {again}")
        raise
    finally:
        lock.release()


def _prepare(folder: Path, *, resume: bool, overwrite: bool) -> None:
    if resume or not (folder / PLAN_FILE).exists():
        return
    if not overwrite:
        raise UsageError(
            f"{folder} holds a measurement: go on with adderlab rate --resume {folder}, or pass "
            "--overwrite to measure anew"
        )
    try:
        for population in folder.glob("population_[0-9][0-9]*"):
            shutil.rmtree(population)
        for outcome in folder.glob("seed_[0-9]*.json"):
            outcome.unlink()
    except OSError as error:
        raise disk_failure(error, folder, "overwrite the measurement in") from error


def _train(
    experiment: RateExperiment, objective: Objective, device: torch.device, say: Say, quiet: bool
) -> bool:
    """Whether every population is trained to the end."""
    populations = experiment.populations()
    for i, population in enumerate(populations, start=1):
        label = f"population {i} of {len(populations)}, {len(population.seeds)} seeds"
        if population.done:
            say(f"{label}: done before")
            continue
        say(f"{label} -> {population.folder}")
        view = TrainingView(
            Console(quiet=quiet),
            steps=experiment.plan.recipe.total_steps,
            num_seeds=len(population.seeds),
            quiet=quiet,
        )
        with view:
            outcome = experiment.train(population, objective, device, view)
        if outcome.status != "done":
            return False
    return True


def _judge(experiment: RateExperiment, engine: Engine, say: Say) -> None:
    """Verdicts of all seeds that have none yet, then repairs."""
    suite = published()
    for population in experiment.populations():
        for seed in population.seeds:
            if experiment.outcome(seed) is None:
                outcome = judge(experiment, population, seed, engine, suite)
                experiment.note(outcome)
                if outcome.verdict != "missed":
                    say(_in_words(outcome))
    assistance = experiment.plan.assistance
    if assistance is None:
        return
    for population in experiment.populations():
        for seed in population.seeds:
            outcome = experiment.outcome(seed)
            assert outcome is not None
            if outcome.repair is None and worth_repair(outcome, assistance):
                outcome = with_repair(experiment, population, outcome, engine, suite)
                experiment.note(outcome)
                say(_in_words(outcome))


def _in_words(outcome: SeedOutcome) -> str:
    """``seed 1003: proved (last weights, smallest margin at least 0.41), 0 published errors``."""
    verdict, bound, kind = outcome.verdict, outcome.margin_bound, f"{outcome.weights} weights"
    errors = outcome.published_errors
    if outcome.repair is not None:
        verdict, bound = outcome.repair.verdict, outcome.repair.margin_bound
        count = outcome.repair.trainings
        kind = f"after {count} training{'' if count == 1 else 's'} on its worst pairs"
        errors = outcome.repair.published_errors
    if verdict == "no tables":
        text = "cannot be proved: no table form"
    else:
        margin = "" if bound is None else f", smallest margin at least {bound:.3g}"
        text = f"{verdict} ({kind}{margin})"
    return f"seed {outcome.seed}: {text}, {errors:,} published errors"
