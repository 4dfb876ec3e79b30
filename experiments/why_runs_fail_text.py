"""The generated sections of the failure study's pages, written from its numbers, so that none is typed.

docs/why-runs-fail.md has the summary, docs/lab-notebook.md every table and figure.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adderlab.errors import UsageError
from adderlab.evaluation.suites import wilson
from adderlab.files.atomic import write_text
from adderlab.format import percent

SHOWN_AT = (5000, 10_000, 20_000)
"""Training steps whose predictions are in the table."""


def fill(document: Path, numbers: Mapping[str, Any], figures: Path) -> None:
    """Rewrite the generated sections of ``document``: what lies between ``<!-- NAME: begin -->`` and
    ``<!-- NAME: end -->`` for each name in ``SECTIONS``. Raises ``UsageError`` if it has none."""
    text = document.read_text(encoding="utf-8") if document.is_file() else ""
    folder = os.path.relpath(figures, document.parent)
    found = 0
    for name, write in SECTIONS.items():
        begin, end = marks(name)
        counts = text.count(begin), text.count(end)
        if counts == (0, 0):
            continue
        if counts != (1, 1):
            raise UsageError(f"{document} must have the lines {begin} and {end} once each")
        part = f"{begin}\n{write(numbers, folder)}\n{end}"
        text = re.sub(
            f"{re.escape(begin)}.*{re.escape(end)}", lambda _, part=part: part, text, flags=re.DOTALL
        )
        found += 1
    if not found:
        wanted = " or ".join(marks(name)[0] for name in SECTIONS)
        raise UsageError(f"{document} has no section to write: no line {wanted}")
    write_text(document, text)


def marks(name: str) -> tuple[str, str]:
    """The lines around a generated section."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def summary(numbers: Mapping[str, Any], folder: str) -> str:
    """The main figures. ``folder``: of the figures, as seen from the document."""
    geometry = numbers["geometry"]
    rows = [
        "| answer steps 0-9 at the end | n | attention on their own column | convex-position margin |",
        "|---|---|---|---|",
    ]
    for name, words in _STATES.items():
        own = geometry[name]
        rows.append(
            f"| {words} | {own['answer_steps']} | {_range(own, 'own_column_attention')} | "
            f"{_range(own, 'margin')} |"
        )
    parts = [
        _outcome(numbers, folder),
        "\n".join(rows),
        _figure(folder, "margins", "distribution of the convex-position margins"),
    ]
    return "\n\n".join(parts)


def measured(numbers: Mapping[str, Any], folder: str) -> str:
    """Every table and figure. ``folder``: of the figures, as seen from the document."""
    outcome = "### How many succeed, and how close the others come\n\n" + _outcome(numbers, folder)
    sections = (_steps, _prediction, _giving_up, _attention, _geometry, _films)
    parts = [_about(numbers, folder), outcome, *(each(numbers, folder) for each in sections)]
    return "\n\n".join(part for part in parts if part)


SECTIONS = {"summary": summary, "measured": measured}

_STATES = {
    "learned": "learned (99% or more)",
    "unsettled": "in between",
    "stuck": "stuck (below 90%)",
    "the_only_stuck_step": "stuck, and the only step that its seed has not learned",
}


def _figure(folder: str, name: str, words: str) -> str:
    return f"![{words}]({folder}/why-runs-fail-{name}.svg)"


def _about(numbers: Mapping[str, Any], folder: str) -> str:
    return (
        f"{numbers['outcome']['seeds']} seeds of {numbers['parameters']} parameters, "
        f"{numbers['steps']:,} steps each. All numbers, and the command that computed them: "
        f"[why-runs-fail.json]({folder}/why-runs-fail.json)."
    )


def _outcome(numbers: Mapping[str, Any], folder: str) -> str:
    outcome = numbers["outcome"]
    n, success, ever = outcome["seeds"], outcome["success"], outcome["ever_at_99"]
    failed = n - success["count"]
    lines = [
        f"- {wilson(success['count'], n)} end at 99% exact match or more; "
        f"{wilson(ever['count'], n)} reach it at some point.",
    ]
    if failed:
        near, known = outcome["failed_missing_one_or_two"], outcome["median_steps_learned_of_failed"]
        lines.append(
            f"- Of the {failed} that fail, {near} miss only one or two of the eleven answer steps; the "
            f"median failure has learned {known:g}."
        )
    if outcome["median_grokked_at"]:
        lines.append(f"- 99% is first seen at step {outcome['median_grokked_at']:,.0f} (median).")
    return "\n".join([*lines, "", _figure(folder, "steps-learned", "answer steps learned at the end")])


def _steps(numbers: Mapping[str, Any], folder: str) -> str:
    rows = [
        "### Which answer steps get stuck, and when the others are learned",
        "",
        "| answer step | learned at the end | stuck (below 90%) | of these, at chance | learned once, "
        "then lost | first learned at step (median) |",
        "|---|---|---|---|---|---|",
    ]
    for i, row in enumerate(numbers["outcome"]["per_answer_step"]):
        when = row["median_first_learned_at"]
        rows.append(
            f"| s_{i} | {row['learned']} | {row['stuck']} | {row['at_chance']} | {row['lost_again']} | "
            f"{'-' if when is None else f'{when:,.0f}'} |"
        )
    drawn = [
        _figure(folder, "stuck-steps", "stuck answer steps"),
        _figure(folder, "learned-when", "share of seeds that have learned each answer step, over time"),
        _figure(folder, "learning", "answer steps learned over time"),
    ]
    return "\n".join([*rows, "", "\n\n".join(drawn)])


def _prediction(numbers: Mapping[str, Any], folder: str) -> str:
    shown = [row for row in numbers["prediction"] if row["step"] in SHOWN_AT and row["auc"] is not None]
    rows = [
        "### Does the early state predict the outcome?",
        "",
        "AUC: the probability that a seed that will succeed ranks above one that will fail (0.5 is "
        "chance), with a 95% bootstrap interval over seeds.",
        "",
        "| at step | ranked by | AUC |",
        "|---|---|---|",
    ]
    rows += [
        f"| {row['step']:,} | {row['of']} | {row['auc']:.2f} [{row['low']:.2f}, {row['high']:.2f}] |"
        for row in shown
    ]
    return "\n".join([*rows, "", _figure(folder, "prediction", "AUC over the training step")])


def _giving_up(numbers: Mapping[str, Any], folder: str) -> str:
    rule, n = numbers["giving_up"], numbers["outcome"]["seeds"]
    return (
        f"The early-stopping rule of `--until proved` would have dropped {rule['dropped']} of the {n} "
        f"seeds, {rule['dropped_that_succeed']} of which succeed in the end, and saved "
        f"{percent(rule['seed_steps_saved'])} of the seed-steps."
    )


def _attention(numbers: Mapping[str, Any], folder: str) -> str:
    geometry = numbers["geometry"]
    rows = ["### Where attention goes", "", "| answer steps 0-9 | n | attention on their own column |"]
    rows.append("|---|---|---|")
    for name in ("learned", "unsettled", "stuck"):
        own = geometry[name]
        rows.append(
            f"| {_STATES[name]} | {own['answer_steps']} | {_range(own, 'own_column_attention')} |"
        )
    return "\n".join(
        [
            *rows,
            "",
            "The mean over all learned answer steps, and over all stuck ones (row: answer step; column: "
            "the column of the two operands that it attends to):",
            "",
            _figure(folder, "attention-learned", "attention of learned answer steps"),
            "",
            _figure(folder, "attention-stuck", "attention of stuck answer steps"),
        ]
    )


def _geometry(numbers: Mapping[str, Any], folder: str) -> str:
    geometry = numbers["geometry"]
    rows = [
        "### Can a query single the column out at all?",
        "",
        "| answer steps 0-9 | n | convex-position margin, median [middle 80%] | inside the hull |",
        "|---|---|---|---|",
    ]
    for name, words in _STATES.items():
        own = geometry[name]
        rows.append(
            f"| {words} | {own['answer_steps']} | {_range(own, 'margin')} | {own['in_the_hull']} |"
        )
    drawn = _figure(folder, "margins", "distribution of the convex-position margins")
    return "\n".join([*rows, "", drawn])


def _films(numbers: Mapping[str, Any], folder: str) -> str:
    parts = []
    for film in numbers.get("films", []):
        (t0, t1), (a0, a1) = film["steps"], film["accuracy"]
        (w0, w1), (m0, m1) = film["own_column_attention"], film["margin"]
        seed, i = film["seed"], film["answer_step"]
        same = (
            "the same bits" if film["ends_in_the_same_bits"] else "other bits: another engine or machine"
        )
        parts.append(
            f"Seed {seed}, trained again (ending in {same}). Answer step {i} at step {t0:,}: "
            f"accuracy {a0:.1%}, {w0:.1%} of its attention on its own column, margin {m0:.2f}; at step "
            f"{t1:,}: {a1:.1%}, {w1:.1%}, {m1:.2f}.\n\n"
            + "\n\n".join(
                _figure(folder, f"film-{seed}-{name}", words)
                for name, words in (
                    ("accuracy", f"accuracy of each answer step of seed {seed} over time"),
                    ("attention", f"attention of each answer step to its own column, seed {seed}"),
                    ("before", f"attention of seed {seed} at step {t0}"),
                    ("after", f"attention of seed {seed} at step {t1}"),
                )
            )
        )
    return "\n\n".join(["### Single seeds over time", *parts]) if parts else ""


def _range(values: Mapping[str, Any], name: str) -> str:
    if values.get(f"{name}_median") is None:  # nothing in this state, or not measured for it
        return "-"
    low, high = values[f"{name}_middle_80"]
    return f"{values[f'{name}_median']:.2f} [{low:.2f}, {high:.2f}]"
