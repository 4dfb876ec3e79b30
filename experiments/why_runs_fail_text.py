"""The measured part of docs/why-runs-fail.md, written from the numbers, so that none is typed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adderlab.errors import UsageError
from adderlab.evaluation.intervals import percent, wilson
from adderlab.runs.atomic import write_text

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
SHOWN_AT = (5000, 10_000, 20_000)
"""Training steps whose predictions stand in the table."""


def fill(document: Path, numbers: Mapping[str, Any], figures: Path) -> None:
    """Replace what stands between the two marks of ``document``. Raises ``UsageError`` without them."""
    text = document.read_text(encoding="utf-8") if document.is_file() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise UsageError(f"{document} must have the lines {BEGIN} and {END} once each")
    folder = os.path.relpath(figures, document.parent)
    part = f"{BEGIN}\n{measured(numbers, folder)}\n{END}"
    pattern = f"{re.escape(BEGIN)}.*{re.escape(END)}"
    write_text(document, re.sub(pattern, lambda _: part, text, flags=re.DOTALL))


def measured(numbers: Mapping[str, Any], folder: str) -> str:
    """The section: tables and figures. ``folder``: of the figures, as seen from the document."""
    sections = (_about, _outcome, _steps, _prediction, _giving_up, _attention, _geometry, _films)
    return "\n\n".join(part for part in (each(numbers, folder) for each in sections) if part)


def _figure(folder: str, name: str, words: str) -> str:
    return f"![{words}]({folder}/why-runs-fail-{name}.svg)"


def _about(numbers: Mapping[str, Any], folder: str) -> str:
    return (
        f"{numbers['outcome']['seeds']} seeds of {numbers['parameters']} parameters, "
        f"{numbers['steps']:,} steps each. Written by `{numbers['command']}`; all numbers: "
        f"[why-runs-fail.json]({folder}/why-runs-fail.json)."
    )


def _outcome(numbers: Mapping[str, Any], folder: str) -> str:
    outcome = numbers["outcome"]
    n, success, ever = outcome["seeds"], outcome["success"], outcome["ever_at_99"]
    failed = n - success["count"]
    lines = [
        "### How many succeed, and how far the others come",
        "",
        f"- End at 99% exact match or more: {wilson(success['count'], n)}; reach it at some time: "
        f"{wilson(ever['count'], n)}.",
    ]
    if failed:
        near, known = outcome["failed_missing_one_or_two"], outcome["median_steps_learned_of_failed"]
        lines.append(
            f"- Of the {failed} that fail, {near} miss one or two of the eleven answer steps; they know "
            f"{known:g} (median)."
        )
    if outcome["median_grokked_at"]:
        lines.append(f"- Median step at which 99% is first seen: {outcome['median_grokked_at']:,.0f}.")
    return "\n".join([*lines, "", _figure(folder, "steps-learned", "answer steps learned at the end")])


def _steps(numbers: Mapping[str, Any], folder: str) -> str:
    rows = [
        "### Which answer steps stick, and when the others are learned",
        "",
        "| answer step | learned at the end | stuck (below 90%) | of these guessing | ever learned, "
        "then lost | median step first learned |",
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
        _figure(folder, "learned-when", "share of seeds that know each answer step, over time"),
        _figure(folder, "learning", "answer steps learned over time"),
    ]
    return "\n".join([*rows, "", "\n\n".join(drawn)])


def _prediction(numbers: Mapping[str, Any], folder: str) -> str:
    shown = [row for row in numbers["prediction"] if row["step"] in SHOWN_AT and row["auc"] is not None]
    rows = [
        "### Does the early state predict the end?",
        "",
        "AUC: the probability that a seed that succeeds is ahead of one that fails at that step (0.5 is "
        "a coin), with its 95% bootstrap interval.",
        "",
        "| at step | by | AUC |",
        "|---|---|---|",
    ]
    rows += [
        f"| {row['step']:,} | {row['of']} | {row['auc']:.2f} [{row['low']:.2f}, {row['high']:.2f}] |"
        for row in shown
    ]
    return "\n".join([*rows, "", _figure(folder, "prediction", "AUC over the step of the look")])


def _giving_up(numbers: Mapping[str, Any], folder: str) -> str:
    rule, n = numbers["giving_up"], numbers["outcome"]["seeds"]
    return (
        f"The rule by which `--until proved` gives seeds up (below) would have dropped "
        f"{rule['dropped']} of the {n}, {rule['dropped_that_succeed']} of which succeed in the end, and "
        f"saved {percent(rule['seed_steps_saved'])} of the seed-steps."
    )


def _attention(numbers: Mapping[str, Any], folder: str) -> str:
    geometry = numbers["geometry"]
    rows = ["### Where attention looks", "", "| answer steps 0-9 | n | attention to the own column |"]
    rows.append("|---|---|---|")
    for name in ("learned", "unsettled", "stuck"):
        own = geometry[name]
        rows.append(f"| {name} | {own['answer_steps']} | {_range(own, 'own_column_attention')} |")
    return "\n".join(
        [
            *rows,
            "",
            "Mean over all learned answer steps, and over all stuck ones (row: answer step; column: the "
            "column of both operands that it reads):",
            "",
            _figure(folder, "attention-learned", "attention of learned answer steps"),
            "",
            _figure(folder, "attention-stuck", "attention of stuck answer steps"),
        ]
    )


def _geometry(numbers: Mapping[str, Any], folder: str) -> str:
    geometry = numbers["geometry"]
    rows = [
        "### Can the column be reached at all?",
        "",
        "| answer steps 0-9 | n | convex-position margin, median [middle 80%] | inside the hull |",
        "|---|---|---|---|",
    ]
    names = {name: name for name in ("learned", "unsettled", "stuck")} | {
        "the_only_stuck_step": "stuck, the only one of its seed"
    }
    for name, words in names.items():
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
            f"Seed {seed}, trained again ({same} at the end). Answer step {i} at step {t0:,}: "
            f"{a0:.1%} right, {w0:.1%} of its attention on its column, margin {m0:.2f}; at step {t1:,}: "
            f"{a1:.1%}, {w1:.1%}, {m1:.2f}.\n\n"
            + "\n\n".join(
                _figure(folder, f"film-{seed}-{name}", words)
                for name, words in (
                    ("accuracy", f"accuracy of each answer step of seed {seed} over time"),
                    ("attention", f"attention of each answer step to its column, seed {seed}"),
                    ("before", f"attention of seed {seed} at step {t0}"),
                    ("after", f"attention of seed {seed} at step {t1}"),
                )
            )
        )
    return "\n\n".join(["### Single seeds over time", *parts]) if parts else ""


def _range(values: Mapping[str, Any], name: str) -> str:
    if values[f"{name}_median"] is None:
        return "-"
    low, high = values[f"{name}_middle_80"]
    return f"{values[f'{name}_median']:.2f} [{low:.2f}, {high:.2f}]"
