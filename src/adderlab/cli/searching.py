"""``adderlab train --until proved`` in a terminal."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import torch
from rich.console import Console

from adderlab.cli.options import parse_seeds
from adderlab.cli.training import usable_cores
from adderlab.engine.base import choose_device
from adderlab.engine.select import select_engine
from adderlab.errors import Failure, UsageError
from adderlab.report.live import write_event
from adderlab.report.search_view import SearchView
from adderlab.study.search import until_proved
from adderlab.study.search_files import (
    SUMMARY_FILE,
    Plan,
    Summary,
    reopen,
)
from adderlab.training.objective import objective_for

SEEDS_ON_A_GPU = 32
"""Seeds of one try where they run side by side."""


def open_seeds(text: str) -> tuple[tuple[int, ...], bool]:
    """``"100-"`` -> ((100,), True): from there on without end; else as ``parse_seeds``, False."""
    first = text.removesuffix("-")
    if text.endswith("-") and first.isdigit():
        return (int(first),), True
    return parse_seeds(text), False


def search_in_terminal(
    plan: Plan | Path,
    *,
    wanted: int,
    minutes: float,
    device: str,
    engine: str,
    threads: int | None,
    overwrite: bool,
    quiet: bool,
    json_lines: bool,
) -> Summary:
    """Search with a live display, from a plan or on in the folder of a search; say what came of it.

    Raises ``Failure`` where the search ended without the models wanted, other than by Ctrl-C.
    """
    where, why = choose_device(device)
    threads = usable_cores() if threads is None else threads
    if threads < 1:
        raise UsageError(f"--threads must be at least 1, not {threads}")
    torch.set_num_threads(1)
    on_cpu = where.type == "cpu"
    settings = plan if isinstance(plan, Plan) else reopen(plan)[0]
    if isinstance(plan, Plan) and not on_cpu:
        plan = dataclasses.replace(plan, together=SEEDS_ON_A_GPU)
    events = sys.stdout if json_lines else None
    seconds = 60 * minutes
    view = SearchView(
        Console(), steps=settings.recipe.total_steps, seconds=seconds, quiet=quiet, events=events
    )
    lanes = threads if on_cpu else 1
    chosen = select_engine(engine, settings.config, where, threads=1, say=view.say)
    view.say(
        f"device: {where} ({why}); engine: {chosen.name}; {lanes} seed{'s' if lanes > 1 else ''} at a "
        f"time, {settings.recipe.total_steps} steps each -> {settings.folder}"
    )
    # One for all lanes: it holds no state of a run, and compiling it takes a second.
    objective = objective_for(settings.config, chosen, where)
    with view:
        summary = until_proved(
            plan,
            lambda: objective,
            where,
            view,
            wanted=wanted,
            seconds=seconds,
            lanes=lanes,
            overwrite=overwrite,
        )
    if events is not None:
        write_event(events, "end", status=summary.status, run=str(settings.folder))
    for line in in_words(summary):
        view.say(line)
    if summary.status not in ("proved", "stopped"):
        raise Failure(_without_success(summary, minutes))
    return summary


def in_words(summary: Summary) -> list[str]:
    """What was found and what it took."""
    lines = []
    for fate in summary.proved:
        route = f"after {fate.trainings} repair(s)" if fate.route == "assisted" else "by training alone"
        bound = "" if fate.margin_bound is None else f", at least {fate.margin_bound:.4f} everywhere"
        lines.append(
            f"Seed {fate.seed} is PROVED on all 10^20 pairs {route}, at step {fate.step:,}: smallest "
            f"margin {fate.margin_witness:.4f} logits{bound}."
        )
        lines.append(f"  {fate.checkpoint}, certificate {fate.certificate}")
    spent, tried = summary.spent, len(summary.fates)
    others = [
        f"{summary.count(state)} {word}"
        for state, word in (("dropped", "dropped"), ("unproved", "unproved"), ("training", "unfinished"))
        if summary.count(state)
    ]
    lines.append(
        f"Spent: {tried} seed{'s' if tried != 1 else ''} ({summary.count('proved')} proved"
        f"{''.join(', ' + other for other in others)}), {spent.seed_steps:,} seed-steps, "
        f"{spent.core_seconds:.1f} core-seconds, {spent.wall_seconds:.1f} s. "
        f"{summary.plan.folder / SUMMARY_FILE}"
    )
    if summary.status == "stopped":
        lines.append(f"To go on: adderlab train --until proved --resume {summary.plan.folder}")
    return lines


def _without_success(summary: Summary, minutes: float) -> str:
    found, folder = summary.count("proved"), summary.plan.folder
    what = f"{found} of {summary.wanted} models are proved" if found else "no model is proved"
    if summary.status == "seeds used up":
        return f"{what}: all {len(summary.fates)} seeds are tried; give more, for example --seeds 0-"
    return (
        f"{what} within {minutes:g} minutes ({len(summary.fates)} seeds tried); to go on: "
        f"adderlab train --until proved --resume {folder} --budget {minutes:g}"
    )
