"""A report as one HTML file: no script, nothing fetched, readable in light and dark.

The top answers what a reader asks first: did it grok, how many seeds, since when, proved?
"""

from __future__ import annotations

import json
import shlex
import statistics
from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any

from adderlab.evaluation.intervals import Rate
from adderlab.format import as_typed, duration, percent, seed_list
from adderlab.report import sections
from adderlab.report.anatomy import dissect
from adderlab.report.comparison import Comparison, compare_runs, unique_names
from adderlab.report.describe import (
    count_or_bounds,
    describe_environment,
    describe_model,
    describe_recipe,
    describe_run,
)
from adderlab.report.history import RunEvidence, flat_settings, populations
from adderlab.report.html import page, paragraph, table, tag, tile
from adderlab.runs.metadata import now


def report_page(runs: Sequence[RunEvidence]) -> str:
    """The whole file. Looks into every best checkpoint: some seconds of one core for each."""
    assert runs
    names = unique_names(runs)
    alone = len(runs) == 1
    parts = [] if alone else [_overview(runs)]
    parts += [
        _run(run, name, number, alone=alone)
        for number, (run, name) in enumerate(zip(runs, names, strict=True))
    ]
    parts.append(paragraph(f"Written by adderlab report, {now()}.", class_="muted"))
    title = names[0] if alone else f"{len(names)} runs"
    return page(f"{title} - adderlab report", "\n".join(parts))


def _run(run: RunEvidence, name: str, number: int, *, alone: bool) -> str:
    """Everything about one run."""
    parts = [
        tag("h1" if alone else "h2", escape(name), id=f"run-{number}"),
        *(paragraph(line, class_="muted") for line in _about(run)),
        paragraph(describe_run(run), class_="lead"),
        _tiles(run),
    ]
    parts += [paragraph(f"Missing or damaged: {problem}.", class_="no") for problem in run.problems]
    if run.kind == "sweep":
        parts.append(sections.cells(run))
    else:
        parts += _population(run)
    if run.notes:
        parts += [tag("h2", "Remarks"), tag("pre", escape(run.notes))]
    parts.append(_settings(run))
    return "\n".join(parts)


def _population(run: RunEvidence) -> list[str]:
    """The sections on seeds of one model and recipe: of a run, a search or a rate."""
    parts = [sections.curves(run), sections.digits(run)] if run.histories else []
    if len(run.seeds) > 1 or run.kind != "run":
        parts.append(sections.seeds(run))
    if run.checkpoint is not None:
        parts.append(sections.inside(run, dissect(run.checkpoint)))
    return [*parts, sections.results(run)]


def _about(run: RunEvidence) -> list[str]:
    """Model, recipe, seeds, date; then how far it is, and where it ran."""
    date = run.started[:10] or "not recorded"
    # A search is given where to start, not where to end; the cells of a sweep share their seeds.
    seeds = list(dict.fromkeys(record.seed for record in run.seeds))
    count = f"{len(seeds)} seed{'s' if len(seeds) != 1 else ''}"
    what = [f"{count}: {seed_list(seeds)}", f"date: {date}"]
    if run.config is not None:
        recipe = f"{describe_recipe(run.config.recipe)}, {run.config.train_steps:,} steps"
        what = [f"model: {describe_model(run.config.model)}", f"recipe: {recipe}", *what]
    what = [run.kind, *what] if run.kind != "run" else what
    return [" | ".join(what), f"status: {run.status} | {describe_environment(run.environment)}"]


def _tiles(run: RunEvidence) -> str:
    """Did it grok, how many, since when, proved? Of a sweep, which cell is best."""
    if run.kind == "sweep":
        return tag("div", *_sweep_tiles(run), class_="tiles")
    return tag("div", *_success_tiles(run), _proved(run), *_cost(run), class_="tiles")


def _sweep_tiles(sweep: RunEvidence) -> list[str]:
    best = sweep.cells[0] if sweep.cells else None
    counts = Counter(cell.status for cell in sweep.cells)
    states = ", ".join(f"{n} {status}" for status, n in counts.items())
    tiles = [tile("How many cells?", str(len(sweep.cells)), states, "open")]
    if best is None or best.success is None:
        return [*tiles, tile("Which is best?", "not known", "no cell has been evaluated", "open")]
    mood = "yes" if best.success.count else "no"
    settings = ", ".join(f"{name} {_plain(value)}" for name, value in best.settings.items())
    rate = f"{best.success.count} of {best.success.n}"
    return [
        *tiles,
        tile("Which is best?", best.name, settings, mood),
        tile("How many of its seeds?", rate, _interval(best.success), mood),
    ]


def _interval(rate: Rate) -> str:
    return f"rate {percent(rate.value)}, 95% interval {percent(rate.low)} to {percent(rate.high)}"


def _cost(run: RunEvidence) -> list[str]:
    """What a search took; nothing for others."""
    spent = (run.summary or {}).get("spent")
    if not isinstance(spent, dict):
        return []
    more = f"{spent['core_seconds']:,.1f} core-seconds, {spent['seed_steps']:,} seed-steps"
    return [tile("What did it take?", duration(spent["wall_seconds"]), more, "open")]


def _success_tiles(run: RunEvidence) -> list[str]:
    asks = ("Did it grok?", "How many seeds?", "Since when?")
    rate, best = run.success, run.best_record
    if rate is None or best is None:
        return [tile(ask, "not known", "no seed has an evaluation on record", "open") for ask in asks]
    mood = "yes" if rate.count else "no"
    more = f"best seed {best.seed}: {percent(best.best_exact)}"
    if rate.count:
        more += " on its validation pairs"
        measured = run.evaluations_of_best
        more += "".join(f"; {e.errors:,} of {e.n:,} pairs wrong ({e.suite})" for e in measured)
    else:
        known = bool(best.step_accuracy)
        steps = f"{best.steps_learned} of 11 answer steps" if known else "answer steps unknown"
        more += f" exact, {steps}"
    return [
        tile(asks[0], "Yes" if rate.count else "No", more, mood),
        tile(asks[1], f"{rate.count} of {rate.n}", _interval(rate), mood),
        _since(run),
    ]


def _since(run: RunEvidence) -> str:
    reached = [each.first_success_step for each in run.seeds if each.first_success_step is not None]
    if not reached:
        last = max(record.steps for record in run.evaluated) - 1
        return tile("Since when?", "never", f"watched until step {last:,}", "no")
    more = "first evaluation at 99% or more"
    if len(reached) > 1:
        more += f"; median of those {len(reached)} seeds: step {statistics.median(reached):,.0f}"
    return tile("Since when?", f"step {min(reached):,}", more, "yes")


def _proved(run: RunEvidence) -> str:
    certificate = run.proof
    if certificate is None:
        return tile("Proved?", "not tried", f"adderlab prove {sections.best_file(run)}", "open")
    several = run.proved is not None and run.proved.n > 1
    also = f"; {run.proved.count} of {run.proved.n} seeds proved" if several and run.proved else ""
    failing = count_or_bounds(certificate.failing_pairs)
    if certificate.verdict == "proved":
        bound = certificate.margin_bound
        margin = "" if bound is None else f", every margin at least {bound:.3g}"
        return tile("Proved?", "Yes", f"all 10^20 pairs{margin}{also}", "yes")
    if certificate.verdict == "refuted":
        return tile("Proved?", "Refuted", f"{failing} of 10^20 pairs fail{also}", "no")
    return tile("Proved?", "Undecided", f"{failing} pairs may fail{also}", "open")


def _settings(run: RunEvidence) -> str:
    parts = [tag("h2", "Configuration")]
    if run.config is not None and run.config.command:
        parts.append(tag("pre", escape(shlex.join(as_typed(run.config.command)))))
    rows = [[name, _plain(value)] for name, value in flat_settings(run).items()]
    rows += [[f"environment.{name}", _plain(value)] for name, value in run.environment.items()]
    settings = table(("setting", "value"), rows)
    summary = tag("summary", "All settings and the environment")
    return "\n".join([*parts, tag("details", summary, settings)])


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _overview(runs: Sequence[RunEvidence]) -> str:
    """Several runs, or cells of sweeps, at a glance."""
    rows = []
    shown = populations(runs)
    for run, name in zip(shown, unique_names(shown), strict=True):
        reached = [each.first_success_step for each in run.seeds if each.first_success_step is not None]
        rows.append(
            [
                name,
                "no evaluation" if run.success is None else str(run.success),
                f"step {min(reached):,}" if reached else "never",
                "not tried" if run.proof is None else run.proof.verdict,
            ]
        )
    head = ("run", "seeds at 99%, 95% Wilson interval", "first at", "best checkpoint proved?")
    parts = [tag("h1", f"{len(runs)} runs"), table(head, rows)]
    if len(shown) > 1 and all(run.config and run.evaluated for run in shown):
        parts.append(_contrasts(compare_runs(runs)))
    return "\n".join(parts)


def _contrasts(comparison: Comparison) -> str:
    rows = [
        [run.name, c.points, f"{c.fisher_p:.2g}", f"{c.fisher_holm_p:.2g}", c.log_rank]
        for run in comparison.runs
        if (c := run.contrast) is not None
    ]
    first = comparison.runs[0].name
    head = ("run", f"success rate against {first}", "Fisher p", "Holm", "steps to grok")
    parts = [table(head, rows)]
    if comparison.differing:
        names = ["setting", *(run.name for run in comparison.runs)]
        settings = [[name, *map(_plain, values)] for name, values in comparison.differing]
        parts.append(tag("details", tag("summary", "Settings that differ"), table(names, settings)))
    return "\n".join(parts)
