"""Measured success rates as a table: on a terminal, and as docs/rates.md."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence

from adderlab.evaluation.intervals import Rate
from adderlab.format import code_block, duration, seconds
from adderlab.study.rate_record import RateRecord
from adderlab.training.initialise import Restarts

COLUMNS = (
    "preset",
    "recipe",
    "seeds",
    "steps",
    "proved",
    "with repair",
    "99% at end",
    "99% ever",
    "0 of 100,000",
    "steps to 99%",
    "train s",
    "prove s",
    "to a proof",
)
"""The last three: core-seconds of one seed (median), and time from nothing on 2 cores."""


def table_row(record: RateRecord) -> list[str]:
    """A row under ``COLUMNS``."""
    return [
        record.preset,
        record.recipe + (" (published)" if record.published else ""),
        f"{record.seeds} ({record.n})",
        _steps(record),
        share(record.pure),
        share(record.assisted),
        f"{record.exact_at_end.count}/{record.n}",
        f"{record.exact_ever.count}/{record.n}",
        f"{record.published_perfect.count}/{record.n}",
        _or_dash(record.median_steps_to_grok, "{:,.0f}".format),
        seconds(record.median_training_core_seconds),
        _or_dash(record.median_proving_core_seconds, seconds),
        _or_dash(record.expected_seconds_on_2_cores, duration),
    ]


def _steps(record: RateRecord) -> str:
    """``54,000``, or ``40,000 (32 restarts, 242,000 in all)``."""
    settings = (record.recipe_settings or {}).get("restarts")
    if settings is None:
        return f"{record.steps:,}"
    restarts = Restarts(halve_at=tuple(settings["halve_at"]))
    return f"{record.steps:,} ({restarts.count} restarts, {restarts.seed_steps(record.steps):,} in all)"


def share(value: Rate | None) -> str:
    """``12/16 = 75.0% [50.5%, 89.8%]``; ``-`` for what was not or cannot be measured."""
    return "-" if value is None else str(value)


def _or_dash(value: float | None, shown: Callable[[float], str]) -> str:
    """``-`` for what was not measured, or never happens."""
    return "-" if value is None else shown(value)


def describe_rate(record: RateRecord) -> list[str]:
    """A row as sentences."""
    lines = [
        f"{record.preset}, recipe {record.recipe}, {record.n} seeds ({record.seeds}), "
        f"{record.steps:,} steps at most (intervals: Wilson, 95%)"
    ]
    if record.pure is None:
        lines.append("this model has no table form: it cannot be proved")
    else:
        lines.append(f"proved on all 10^20 pairs as trained: {share(record.pure)}")
    if record.assisted is not None:
        lines.append(f"proved as trained or after repair: {share(record.assisted)}")
    lines += [
        f"99% exact match or more at the end: {share(record.exact_at_end)}; at any time: "
        f"{share(record.exact_ever)}",
        f"no error on the 100,000 published pairs: {share(record.published_perfect)}",
        f"median core-seconds of a seed: {seconds(record.median_training_core_seconds)} of training, "
        f"{_or_dash(record.median_proving_core_seconds, seconds)} of proving (where one was tried)",
    ]
    if record.median_steps_to_grok is not None:
        lines.append(f"median step from which a seed stays at 99%: {record.median_steps_to_grok:,.0f}")
    if record.pure is not None:
        expected = record.expected_seconds_on_2_cores
        lines.append(
            "no seed was proved: no expected time to a proved model"
            if expected is None
            else f"expected time from nothing to a proved model on 2 cores: {duration(expected)}"
        )
    return lines


def rates_page(records: Sequence[RateRecord]) -> str:
    """docs/rates.md: the table, then how to measure every row again."""
    lines = [
        "# Measured success rates",
        "",
        "Written by `adderlab rate --markdown` from `records/rates/`. Every seed trains alone, however",
        "many run side by side; each that reached 99% exact match is then decided on all 10^20 pairs.",
        "",
        "- **proved**: right on all 10^20 pairs as trained (last weights, else the best by validation),",
        "  with the 95% Wilson interval of the rate. **with repair**: those, and seeds proved after",
        "  `adderlab repair`'s method was tried on the near misses.",
        "- **steps**: of the model that a seed ends with. With *restarts* a seed begins with several",
        "  starts and goes on with the best: a choice, made on the seed's own validation pairs.",
        "- **99% at end**, **99% ever**: exact match on the seed's own validation pairs.",
        "- **0 of 100,000**: no error on the ten published test sets, which choose nothing.",
        "- **steps to 99%**: median step from which a seed stays at 99%, over those that do.",
        "- **train s**, **prove s**: median core-seconds (processor time) of a seed; proving where it",
        "  was tried.",
        "- **to a proof**: expected time from nothing to a proved model on 2 cores, failures included:",
        "  core-seconds of training and proving of all seeds / seeds proved / 2.",
        "",
    ]
    if not records:
        return "\n".join([*lines, "No rate has been measured yet."])
    lines += [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    lines += [f"| {' | '.join(table_row(record))} |" for record in records]
    lines += ["", "## How each was measured", ""]
    for record in records:
        lines += [*_about(record), ""]
    return "\n".join(lines[:-1])


def _about(record: RateRecord) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    where = f"{record.machine}; {record.engine} engine, {record.threads} threads; {versions}"
    limits = record.limits
    lines = [
        f"### {record.preset}, {record.recipe}",
        "",
        f"{record.date[:10]}, commit {_commit(record.git_revision)}; {where}. A proof took at most "
        f"{limits.cells:,} cells and {limits.seconds:g} s.",
    ]
    if record.repair_settings is not None:
        tried = sum(each.repair is not None for each in record.results)
        expected = _or_dash(record.expected_assisted_seconds_on_2_cores, duration)
        seeds = "1 seed" if tried == 1 else f"{tried} seeds"
        rounds, steps = (record.repair_settings[name] for name in ("rounds", "steps"))
        lines[-1] += (
            f" Repair, at most {rounds} rounds of {steps:,} steps, was tried on {seeds}; expected time "
            f"with it: {expected}."
        )
    return [*lines, "", "```sh", code_block(shlex.join(record.command)), "```"]


def _commit(revision: str | None) -> str:
    if revision is None:
        return "not recorded"
    names = revision.split("; ")
    return ", ".join(
        each[:10] + (" with uncommitted changes" if each.endswith("-dirty") else "") for each in names
    )
