"""A run's report as one HTML file: no script, nothing fetched, readable in light and dark.

The top answers what a reader asks first: did it grok, how many seeds, since when, proved?
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from html import escape
from typing import Any

from adderlab.evaluation.intervals import percent
from adderlab.report import charts
from adderlab.report.comparison import Comparison, compare, seeds_text, unique_names
from adderlab.report.evidence import RunEvidence, flat_settings
from adderlab.report.findings import count_text, run_finding, success_rate
from adderlab.report.page_parts import (
    RAMP,
    Subject,
    figure,
    inside,
    judgements,
    key,
    paragraph,
    table,
)
from adderlab.report.style import STYLE
from adderlab.report.svg import tag, thousands
from adderlab.report.wording import as_typed, environment_text
from adderlab.runs.environment import now
from adderlab.task.digits import SUM_DIGITS


def report_html(subjects: Sequence[Subject]) -> str:
    """The whole file."""
    assert subjects
    names = unique_names([subject.run for subject in subjects])
    title = names[0] if len(names) == 1 else f"{len(names)} runs"
    parts = []
    if len(subjects) > 1:
        parts.append(_overview(subjects, names))
    for number, (subject, name) in enumerate(zip(subjects, names, strict=True)):
        parts.append(_section(subject, name, number, alone=len(subjects) == 1))
    parts.append(paragraph(f"Written by adderlab report, {now()}.", class_="muted"))
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)} - adderlab report</title><style>{STYLE}</style>"
    )
    body = "\n".join(parts)
    page = f"<head>{head}</head>\n<body><main>\n{body}\n</main></body>"
    return f'<!DOCTYPE html>\n<html lang="en">{page}</html>\n'


# The top


def _section(subject: Subject, name: str, number: int, *, alone: bool) -> str:
    run = subject.run
    heading = tag("h1" if alone else "h2", escape(name), id=f"run-{number}")
    parts = [
        heading,
        paragraph(_what(run), class_="muted"),
        paragraph(run_finding(run), class_="lead"),
        _tiles(subject),
    ]
    parts += [paragraph(f"Missing or damaged: {problem}.", class_="no") for problem in run.problems]
    if run.stories:
        parts.append(_curves(subject))
        parts.append(_digits(subject))
    if subject.anatomy is not None:
        parts.append(inside(subject, subject.anatomy))
    parts.append(judgements(subject))
    if run.notes:
        parts += [tag("h2", "Remarks"), tag("pre", escape(run.notes))]
    parts.append(_settings(run))
    return "\n".join(parts)


def _what(run: RunEvidence) -> str:
    pieces = []
    if run.summary is not None:
        pieces.append(f"{run.summary['params']} parameters")
    if run.config is not None:
        seeds = run.config.seeds
        word = "seeds" if len(seeds) > 1 else "seed"
        pieces.append(f"{len(seeds)} {word} ({seeds_text(seeds)}), {run.config.train_steps:,} steps")
    pieces.append(f"status: {run.status}")
    if run.started:
        pieces.append(f"started {run.started}")
    pieces.append(environment_text(run.environment))
    return " | ".join(pieces)


def _tile(ask: str, answer: str, more: str, mood: str) -> str:
    return tag(
        "div",
        tag("div", escape(ask), class_="ask"),
        tag("div", escape(answer), class_=f"answer {mood}"),
        tag("div", escape(more), class_="more"),
        class_="tile",
    )


def _tiles(subject: Subject) -> str:
    """Did it grok, how many, since when, proved?"""
    run, rate = subject.run, success_rate(subject.run)
    unknown = ("not known", "the metric tables are missing")
    tiles = []
    if rate is None:
        tiles += [
            _tile(ask, *unknown, "open") for ask in ("Did it grok?", "How many seeds?", "Since when?")
        ]
    else:
        best = run.best
        assert best is not None
        if rate.count:
            more = f"best seed {best.seed}: {percent(best.best.val_exact)} on its validation pairs"
            more += "".join(
                f"; {e.errors:,} of {e.n:,} pairs wrong ({e.suite})" for e in subject.evaluations
            )
            tiles.append(_tile("Did it grok?", "Yes", more, "yes"))
        else:
            learned = (
                f"{sum(best.learned)} of 11 answer steps" if best.learned else "answer steps unknown"
            )
            more = f"best seed {best.seed}: {percent(best.best.val_exact)} exact, {learned}"
            tiles.append(_tile("Did it grok?", "No", more, "no"))
        interval = (
            f"rate {percent(rate.value)}, 95% interval {percent(rate.low)} to {percent(rate.high)}"
        )
        tiles.append(
            _tile(
                "How many seeds?", f"{rate.count} of {rate.n}", interval, "yes" if rate.count else "no"
            )
        )
        tiles.append(_since(run))
    tiles.append(_proved(subject))
    return tag("div", *tiles, class_="tiles")


def _since(run: RunEvidence) -> str:
    reached = sorted(s.grokked_at for s in run.stories if s.grokked_at is not None)
    if not reached:
        last = max(story.last.step for story in run.stories)
        return _tile("Since when?", "never", f"watched until step {last:,}", "no")
    more = "first evaluation at 99% or more"
    if len(reached) > 1:
        more += f"; median of those {len(reached)} seeds: step {reached[len(reached) // 2]:,}"
    return _tile("Since when?", f"step {reached[0]:,}", more, "yes")


def _proved(subject: Subject) -> str:
    certificate = subject.run.proof
    if certificate is None:
        where = subject.run.path / "checkpoints" / "best.pt"
        return _tile("Proved?", "not tried", f"adderlab prove {where}", "open")
    others = subject.run.num_proved - (certificate.verdict == "proved")
    also = f"; {others} more of its models proved" if others > 0 else ""
    if certificate.verdict == "proved":
        bound = certificate.margin_bound
        margin = "" if bound is None else f", every margin at least {bound:.3g}"
        return _tile("Proved?", "Yes", f"all 10^20 pairs{margin}{also}", "yes")
    if certificate.verdict == "refuted":
        return _tile(
            "Proved?",
            "Refuted",
            f"{count_text(certificate.failing_pairs)} of 10^20 pairs fail{also}",
            "no",
        )
    return _tile(
        "Proved?", "Undecided", f"{count_text(certificate.failing_pairs)} pairs may fail{also}", "open"
    )


# What happened


def _curves(subject: Subject) -> str:
    stories, best = subject.run.stories, subject.run.best
    several = len(stories) > 1
    legend = key("best", f"best seed {best.seed}") if best else ""
    if several:
        legend += key("median", "median") + key("band", "middle 80% of the seeds")
        legend += key("seed", "every seed") if len(stories) <= charts.MOST_LINES else ""
    figures = [
        figure(
            "Grokking",
            charts.grokking(stories, best),
            f"Exact match on each seed's own validation pairs. {legend}",
        )
    ]
    if several:
        caption = f"A seed counts while it is at 99% or more. {key('band', '95% Wilson interval')}"
        figures.append(figure("Success rate", charts.success(stories), caption))
    if several and any(story.last.step_acc for story in stories):
        caption = f"Of eleven; a step is learned at 99%. {legend}"
        figures.append(figure("Answer steps learned", charts.learned(stories, best), caption))
    figures.append(figure("Loss", charts.losses(stories, best), f"Of one training batch. {legend}"))
    return tag("div", *figures, class_="figures")


def _digits(subject: Subject) -> str:
    """Which answer digit locked in when."""
    stories = [s for s in subject.run.stories if s.last.step_acc]
    if not stories:
        return paragraph(
            "The metric tables do not tell the answer steps apart (the published program's form)."
        )
    best, figures = subject.run.best, []
    if best is not None and best.last.step_acc:
        locked = [(i, best.locked_in(i)) for i in range(SUM_DIGITS)]
        known = ", ".join(f"s_{i} {thousands(step)}" for i, step in locked if step is not None)
        never = ", ".join(f"s_{i}" for i, step in locked if step is None)
        caption = f"Accuracy given the right earlier digits: {RAMP}"
        caption += escape(f"Learned (99%) for good since step: {known or 'none'}.")
        caption += escape(f" Not learned: {never}." if never else "")
        figures.append(
            figure(f"Answer steps over time: seed {best.seed}", charts.step_heat(best), caption)
        )
    if len(stories) > 1:
        caption = f"Share of the seeds that have learned (99%) each step: {RAMP}"
        figures.append(
            figure("Answer steps over time: all seeds", charts.learned_heat(stories), caption)
        )
        caption = f"Accuracy of each answer step at the last evaluation: {RAMP}"
        figures.append(figure("Where every seed ended", charts.final_heat(stories), caption, wide=True))
    return tag("h2", "Which answer digit locked in when") + tag("div", *figures, class_="figures")


# The end


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


def _overview(subjects: Sequence[Subject], names: Sequence[str]) -> str:
    """Several runs at a glance."""
    rows = []
    for subject, name in zip(subjects, names, strict=True):
        rate = success_rate(subject.run)
        certificate = subject.run.proof
        reached = [s.grokked_at for s in subject.run.stories if s.grokked_at is not None]
        rows.append(
            [
                name,
                "no evaluation" if rate is None else str(rate),
                f"step {min(reached):,}" if reached else "never",
                "not tried" if certificate is None else certificate.verdict,
            ]
        )
    head = ("run", "seeds at 99%, 95% Wilson interval", "first at", "best checkpoint proved?")
    parts = [tag("h1", f"{len(subjects)} runs"), table(head, rows)]
    if all(subject.run.stories for subject in subjects):
        parts.append(_contrasts(compare([subject.run for subject in subjects])))
    return "\n".join(parts)


def _contrasts(comparison: Comparison) -> str:
    rows = []
    for run in comparison.runs:
        c = run.contrast
        if c is not None:
            log_rank = "no seed grokked" if c.log_rank_p is None else f"{c.log_rank_p:.2g}"
            difference = f"{100 * c.difference:+.1f} points [{100 * c.low:+.1f}, {100 * c.high:+.1f}]"
            rows.append([run.name, difference, f"{c.fisher_p:.2g}", f"{c.fisher_holm_p:.2g}", log_rank])
    first = comparison.runs[0].name
    head = ("run", f"success rate against {first}", "Fisher p", "Holm", "log-rank p (steps to grok)")
    parts = [table(head, rows)]
    if comparison.differing:
        names = ["setting", *(run.name for run in comparison.runs)]
        settings = [[name, *map(_plain, values)] for name, values in comparison.differing]
        parts.append(tag("details", tag("summary", "Settings that differ"), table(names, settings)))
    return "\n".join(parts)
