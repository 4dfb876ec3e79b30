"""Two runs or more side by side: success rates, steps to grok, settings that differ.

Every run is compared with the first one named. Methods and their limits: docs/statistics.md.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adderlab.errors import Failure, UsageError
from adderlab.evaluation.suites import Rate, wilson
from adderlab.format import seed_list
from adderlab.report.evidence import RunEvidence, flat_settings, populations
from adderlab.results import Result, html_table, text_table
from adderlab.runs.records import SeedRecord

ENVIRONMENT = ("device", "device_name", "cpu", "torch", "adderlab", "engine")
"""Entries of environment.json that may change a result."""


@dataclass(frozen=True, kw_only=True)
class Grokking:
    """Steps to grok over the seeds of a run: right-censored where a seed did not."""

    reached: tuple[int, ...]
    """First step evaluated at 99% exact match or more, of the seeds that got there, ascending."""
    censored: tuple[int, ...]
    """Last step evaluated, of the others, ascending."""

    @property
    def median(self) -> float | None:
        """Kaplan-Meier median: the step by which half the seeds have grokked; None if never."""
        left, alive = 1.0, len(self.reached) + len(self.censored)
        events = sorted([(s, 0) for s in self.reached] + [(s, 1) for s in self.censored])
        for step, censored in events:
            if not censored:
                left *= 1 - 1 / alive
                if left <= 0.5 + 1e-12:
                    return float(step)
            alive -= 1
        return None


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """One run against the first."""

    difference: float
    """Its success rate minus the first run's."""
    low: float
    high: float
    """95% interval of the difference (Newcombe 1998, method 10, from the Wilson intervals)."""
    fisher_p: float
    """Two-sided Fisher exact test of equal success rates."""
    log_rank_p: float | None
    """Two-sided log-rank test of equal steps to grok; None where ``no_log_rank`` says why not."""
    no_log_rank: str | None
    fisher_holm_p: float
    """``fisher_p`` corrected for the number of runs compared (Holm 1979)."""

    def __str__(self) -> str:
        holm = "" if self.fisher_holm_p == self.fisher_p else f" (Holm {self.fisher_holm_p:.2g})"
        return f"{self.points}, Fisher p {self.fisher_p:.2g}{holm}, {self.log_rank}"

    @property
    def points(self) -> str:
        """The difference in percentage points, with its interval."""
        return f"{100 * self.difference:+.1f} points [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"

    @property
    def log_rank(self) -> str:
        """The log-rank test's p-value as text, or why there is none."""
        return self.no_log_rank or f"log-rank p {self.log_rank_p:.2g}"


def _contrast_columns(contrast: Contrast | None) -> dict[str, float | str | None]:
    """Flat, under names that tell the difference's interval from the rate's."""
    names = {"low": "difference_low", "high": "difference_high"}
    return {
        names.get(field.name, field.name): None if contrast is None else getattr(contrast, field.name)
        for field in dataclasses.fields(Contrast)
    }


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One run of a comparison; ``contrast`` is None for the first."""

    name: str
    rate: Rate
    """Seeds that end at 99% exact match or more."""
    proved: Rate | None
    """Seeds proved on all pairs; None where no proof was asked for."""
    grokking: Grokking
    contrast: Contrast | None

    def row(self) -> dict[str, str]:
        """The run as it is printed: column -> text."""
        return {
            "run": self.name,
            "seeds at 99%, 95% interval": str(self.rate),
            "proved": "-" if self.proved is None else str(self.proved),
            "median steps to grok": self._median(),
            "against the first": "(the first)" if self.contrast is None else str(self.contrast),
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "name": self.name,
            "successes": self.rate.count,
            "seeds": self.rate.n,
            "rate": self.rate.value,
            "wilson_95": [self.rate.low, self.rate.high],
            "proved": None if self.proved is None else dataclasses.asdict(self.proved),
            "steps_to_grok": {
                "reached": list(self.grokking.reached),
                "censored": list(self.grokking.censored),
                "median": self.grokking.median,
            },
            "against_first": None if self.contrast is None else dataclasses.asdict(self.contrast),
        }

    def _median(self) -> str:
        if self.grokking.median is not None:
            return f"{self.grokking.median:,.0f}"
        return f"not within {max((*self.grokking.censored, *self.grokking.reached)):,}"


@dataclass(frozen=True, kw_only=True, repr=False)
class Comparison(Result):
    """Runs side by side; each is compared with the first."""

    runs: tuple[Compared, ...]
    differing: tuple[tuple[str, tuple[Any, ...]], ...]
    """(setting, its value in every run), for those that are not the same everywhere."""
    problems: tuple[str, ...] = ()
    """What of the runs' evidence is missing or damaged."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: ``runs`` and ``differing``."""
        return {
            "runs": [run.to_dict() for run in self.runs],
            "differing": {name: list(values) for name, values in self.differing},
        }

    def to_dicts(self) -> list[dict[str, Any]]:
        """One flat row a run, for pandas or polars."""
        return [
            {
                "name": run.name,
                "successes": run.rate.count,
                "seeds": run.rate.n,
                "rate": run.rate.value,
                "rate_low": run.rate.low,
                "rate_high": run.rate.high,
                "proved": None if run.proved is None else run.proved.count,
                "median_steps_to_grok": run.grokking.median,
                **_contrast_columns(run.contrast),
            }
            for run in self.runs
        ]

    def describe(self) -> list[str]:
        """Rates and tests as a table, then the settings that differ."""
        lines = text_table([run.row() for run in self.runs])
        if not self.differing:
            return [*lines, "No setting differs."]
        return [*lines, "", "Settings that differ", *text_table(self._settings())]

    def _repr_html_(self) -> str:
        parts = [html_table([run.row() for run in self.runs])]
        if self.differing:
            parts.append(html_table(self._settings(), "Settings that differ"))
        return "".join(parts)

    def _settings(self) -> list[dict[str, str]]:
        names = [run.name for run in self.runs]
        return [
            {"setting": setting, **dict(zip(names, map(str, values), strict=True))}
            for setting, values in self.differing
        ]


def compare_runs(runs: Sequence[RunEvidence]) -> Comparison:
    """Compare runs, searches, rates and the cells of sweeps with the first of them. Raises
    ``UsageError`` for fewer than two, ``Failure`` for one without its settings (all would seem to
    differ) or without evaluations."""
    runs = populations(runs)
    if len(runs) < 2:
        raise UsageError("name at least two run folders to compare, or a sweep of several cells")
    for run in runs:
        if run.config is None or not run.evaluated:
            why = run.problems[0] if run.problems else "it has no evaluation"
            raise Failure(f"{run.path} cannot be compared: {why}")
    rates = [_rate(run) for run in runs]
    grokking = [steps_to_grok(run.evaluated) for run in runs]
    first, *others = zip(rates, grokking, strict=True)
    contrasts = [None, *corrected([contrast(first, other) for other in others])]
    columns = zip(unique_names(runs), runs, rates, grokking, contrasts, strict=True)
    return Comparison(
        runs=tuple(
            Compared(name=name, rate=rate, proved=run.proved, grokking=grok, contrast=contrast)
            for name, run, rate, grok, contrast in columns
        ),
        differing=differing_settings(runs),
        problems=tuple(f"{run.path}: {problem}" for run in runs for problem in run.problems),
    )


def _rate(run: RunEvidence) -> Rate:
    assert run.success is not None
    return run.success


def unique_names(runs: Sequence[RunEvidence]) -> list[str]:
    """Names to show: the runs' own, or their paths where two runs share a name."""
    names = [run.name for run in runs]
    return [
        name if names.count(name) == 1 else str(run.path) for name, run in zip(names, runs, strict=True)
    ]


def steps_to_grok(records: Sequence[SeedRecord]) -> Grokking:
    """When each seed first reached 99%, or the last step at which it had not.

    A seed that was too poor for the recipe's last stages has not grokked at their end either. Taken as
    unknown from where it stopped, it would leave the good seeds among themselves.
    """
    last = max((each.steps for each in records if each.status == "done"), default=0)
    reached, censored = [], []
    for each in records:
        if each.first_success_step is not None:
            reached.append(each.first_success_step)
        else:
            censored.append((last if each.status == "done" else each.steps) - 1)
    return Grokking(reached=tuple(sorted(reached)), censored=tuple(sorted(censored)))


def contrast(first: tuple[Rate, Grokking], second: tuple[Rate, Grokking]) -> Contrast:
    """The second against the first, alone: where there are several, see ``corrected``."""
    (rate, grok), (other_rate, other_grok) = first, second
    low, high = newcombe(rate, other_rate)
    p, log_rank_p = fisher(rate, other_rate), log_rank(grok, other_grok)
    return Contrast(
        difference=other_rate.value - rate.value,
        low=low,
        high=high,
        fisher_p=p,
        log_rank_p=log_rank_p,
        no_log_rank=None if log_rank_p is not None else _why_no_log_rank(grok, other_grok),
        fisher_holm_p=p,
    )


def corrected(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """The same, ``fisher_holm_p`` corrected for their number."""
    p_values = holm([each.fisher_p for each in contrasts])
    return [
        dataclasses.replace(each, fisher_holm_p=p) for each, p in zip(contrasts, p_values, strict=True)
    ]


def fisher(first: Rate, second: Rate) -> float:
    """Two-sided p-value of Fisher's exact test (R. A. Fisher, 1935)."""
    from scipy.stats import fisher_exact

    table = [[rate.count, rate.n - rate.count] for rate in (first, second)]
    return float(fisher_exact(table).pvalue)  # type: ignore[attr-defined]


def log_rank(first: Grokking, second: Grokking) -> float | None:
    """Two-sided p-value of the log-rank test (Mantel 1966); None if no seed of either grokked, or none
    while there were seeds of both that could have and did not."""
    from scipy.stats import CensoredData, logrank

    if not first.reached and not second.reached:
        return None
    samples = [
        CensoredData(uncensored=np.array(g.reached), right=np.array(g.censored)) for g in (first, second)
    ]
    with np.errstate(invalid="ignore"):  # 0 / 0 where all events come after one group is gone
        p = float(logrank(samples[0], samples[1]).pvalue)
    return p if math.isfinite(p) else None


def _why_no_log_rank(first: Grokking, second: Grokking) -> str:
    """In words, where ``log_rank`` gives none."""
    steps = {*first.reached, *second.reached}
    if not steps:
        return "no seed grokked"
    if len(steps) == 1 and not first.censored and not second.censored:
        return "every seed grokked at the same step"
    return "no log-rank test: no seed grokked while seeds of both runs were still watched"


def newcombe(first: Rate, second: Rate) -> tuple[float, float]:
    """95% interval of the second rate minus the first, from their Wilson intervals.

    Newcombe, Statistics in Medicine 17 (1998), 873-890, method 10.
    """
    a, b = (wilson(rate.count, rate.n) for rate in (first, second))
    difference = b.value - a.value
    down = math.hypot(b.value - b.low, a.high - a.value)
    up = math.hypot(b.high - b.value, a.value - a.low)
    return difference - down, difference + up


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in the order given (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda k: p_values[k])
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, k in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[k]))
        corrected[k] = highest
    return corrected


def differing_settings(runs: Sequence[RunEvidence]) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    """Settings of model, recipe, seeds and environment that are not the same in every run."""
    tables = [
        {"kind": run.kind}
        | flat_settings(run)
        | {"seeds": _seeds(run)}
        | {f"environment.{key}": run.environment.get(key) for key in ENVIRONMENT}
        for run in runs
    ]
    names = dict.fromkeys(name for table in tables for name in table)
    rows = [(name, tuple(table.get(name) for table in tables)) for name in names]
    return tuple(row for row in rows if any(value != row[1][0] for value in row[1]))


def _seeds(run: RunEvidence) -> str:
    """Those that were begun: a search is given where to start, not where to end."""
    return seed_list([record.seed for record in run.seeds])
