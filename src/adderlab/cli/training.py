"""Training from a terminal: what ``adderlab train`` and the published log's command share."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from adderlab.cli.proving import prove_outcome
from adderlab.engine.base import choose_device
from adderlab.engine.select import select_engine
from adderlab.errors import Failure, UsageError
from adderlab.files import schema
from adderlab.models.mapping import why_no_tables
from adderlab.report.describe import describe
from adderlab.report.live import TrainingView, write_event
from adderlab.report.sinks import Audience, open_sinks
from adderlab.runs.folder import resume_command
from adderlab.training.job import Job, Outcome
from adderlab.training.objective import objective_for
from adderlab.training.run import RunFailed, run


def run_in_terminal(
    job: Job,
    *,
    device: str,
    engine: str = "auto",
    threads: int | None = None,
    resume: bool = False,
    quiet: bool = False,
    json_lines: bool = False,
    sinks: Sequence[str] = (),
    prove: bool = False,
) -> Outcome:
    """Train ``job`` with a live display; say in plain words what came of it.

    ``json_lines``: events on stdout instead. ``sinks``: dashboards that get a copy of the figures.
    ``prove``: decide all pairs for the seeds that succeeded (``adderlab.cli.proving``).
    """
    where, why = choose_device(device)
    threads = usable_cores() if threads is None else threads
    if threads < 1:
        raise UsageError(f"--threads must be at least 1, not {threads}")
    torch.set_num_threads(1)  # seeds are spread over threads; a sum is never split among them
    events = sys.stdout if json_lines else None
    view = TrainingView(
        Console(), steps=job.recipe.steps, num_seeds=len(job.seeds), quiet=quiet, events=events
    )
    settings = {"model": schema.to_dict(job.config), "recipe": schema.to_dict(job.recipe)}
    opened = open_sinks(
        sinks,
        run_name=job.run_name or job.folder.name,
        folder=job.folder,
        settings=settings | {"seeds": list(job.seeds)},
    )
    audience = Audience(view, opened, view.say)
    view.say(f"device: {where} ({why}); {threads} thread{'s' if threads > 1 else ''}")
    reason = why_no_tables(job.config)
    if reason:
        view.say(f"this model has no table form ({reason}): it trains on the full sequence, slowly")
    chosen = select_engine(engine, job.config, where, threads=threads, say=view.say)
    view.say(f"engine: {chosen.name}; {len(job.seeds)} seeds, {job.recipe.steps} steps -> {job.folder}")
    if events is not None:
        about = {"device": str(where), "engine": chosen.name, "steps": job.recipe.steps}
        write_event(events, "start", run=str(job.folder), seeds=list(job.seeds), **about)
    again = resume_command(job.folder, _same_machine(device, engine, prove))
    tell = (lambda line: print(line, file=sys.stderr)) if quiet and events is None else view.say
    started = time.monotonic()
    objective = objective_for(job.config, chosen, where)
    try:
        with view:
            outcome = run(job, objective, where, audience, resume=resume)
            seconds = time.monotonic() - started
            verdicts: list[str] = []
            if outcome.status == "done":
                view.trained()
                if prove:
                    prove_outcome(outcome, say=verdicts.append, told=view.proved)
    except RunFailed as error:
        raise Failure(f"{error}; then go on: {again}") from error
    except KeyboardInterrupt:
        if (job.folder / "config.json").is_file():
            tell(f"To go on: {again}")
        raise
    finally:
        audience.close()
    if events is not None:
        rate = outcome.tracker.successes()
        success = {"count": rate.count, "n": rate.n, "wilson_95": [rate.low, rate.high]}
        write_event(events, "end", status=outcome.status, run=str(job.folder), success=success)
    view.say(f"{outcome.status} after {seconds:.1f} s")
    if outcome.status == "stopped":
        tell(f"To go on: {again}")
    for line in (*describe(outcome), *verdicts):
        view.say(line)
    return outcome


def _same_machine(device: str, engine: str, prove: bool) -> list[str]:
    """What a run folder does not say and its last bits depend on, as options."""
    named = [("--device", device), ("--engine", engine)]
    options = [word for name, value in named if value != "auto" for word in (name, value)]
    return options if prove else [*options, "--no-prove"]


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_folder(run_name: str | None, preset: str) -> Path:
    """results/runs/NAME; without a name, one of the preset and the time."""
    return Path("results/runs") / (run_name or f"{preset}_{time.strftime('%Y%m%d_%H%M%S')}")
