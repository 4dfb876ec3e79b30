"""The rate of a finished campaign: counts with intervals, medians, what a proved model costs."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Sequence

from adderlab import schema
from adderlab.evaluation.intervals import wilson
from adderlab.models.count import count_parameters
from adderlab.models.mapping import why_no_tables
from adderlab.runs.atomic import read_json
from adderlab.runs.environment import now
from adderlab.runs.rates import RateRecord, SeedOutcome, Share, seeds_text
from adderlab.training.campaign import Campaign
from adderlab.training.ledger import SUCCESS
from adderlab.training.repair import RepairSettings

CORES = 2
"""Of the machine that expected times are for."""


_VERSIONS = ("adderlab", "python", "torch", "numpy")


def record_of(campaign: Campaign, *, engine: str, threads: int) -> RateRecord:
    """The row of a campaign whose seeds are all judged."""
    plan, results = campaign.plan, tuple(campaign.judged())
    assert len(results) == len(plan.seeds), "not every seed is judged"
    about = [read_json(each.folder / "environment.json") for each in campaign.populations()]
    can_prove = why_no_tables(plan.config) is None
    assistance = plan.assistance if can_prove else None
    on_cpu = all(each["device"] == "cpu" for each in about)
    training = sum(each.training_core_seconds for each in results)
    proving = sum(each.proving_core_seconds for each in results)
    repairing = sum(each.repair.core_seconds for each in results if each.repair)
    proved = sum(each.proved for each in results)
    with_help = sum(each.proved_with_help for each in results)
    return RateRecord(
        preset=plan.preset,
        parameters=count_parameters(plan.config),
        recipe=plan.recipe_name,
        published=plan.published,
        recipe_settings=schema.to_dict(plan.recipe),
        model_settings=schema.to_dict(plan.config),
        seeds=seeds_text(plan.seeds),
        n=len(results),
        steps=plan.recipe.total_steps,
        pure=_share(proved, results) if can_prove else None,
        assisted=_share(with_help, results) if assistance else None,
        exact_at_end=_share(sum(each.last_exact >= SUCCESS for each in results), results),
        exact_ever=_share(sum(each.best_exact >= SUCCESS for each in results), results),
        published_perfect=_share(sum(each.published_errors == 0 for each in results), results),
        median_steps_to_grok=_median(
            [each.grokked_at for each in results if each.grokked_at is not None]
        ),
        median_training_core_seconds=statistics.median(each.training_core_seconds for each in results),
        median_proving_core_seconds=_median(
            [each.proving_core_seconds for each in results if each.weights is not None]
        ),
        training_core_seconds=training,
        proving_core_seconds=proving,
        repairing_core_seconds=repairing,
        expected_seconds_on_2_cores=_expected(training + proving, proved) if on_cpu else None,
        expected_assisted_seconds_on_2_cores=_expected(training + proving + repairing, with_help)
        if assistance and on_cpu
        else None,
        limits=plan.limits,
        repair_settings={
            **dataclasses.asdict(RepairSettings(rounds=assistance.rounds)),
            "seed": "the seed's own",
            "from_exact": assistance.exact,
            "from_missing_steps": assistance.missing,
            "seconds_of_a_proof": assistance.seconds,
        }
        if assistance
        else None,
        results=results,
        command=plan.command,
        git_revision=_joined(each["git_revision"] for each in about),
        date=now(),
        machine=_joined(
            each["device_name"] or f"{each['cpu']}, {each['cpu_count']} cores" for each in about
        )
        or "unknown",
        engine=engine,
        threads=threads,
        versions={name: about[-1][name] for name in _VERSIONS if name in about[-1]},
    )


def _share(count: int, results: Sequence[SeedOutcome]) -> Share:
    rate = wilson(count, len(results))
    return Share(count=count, n=len(results), low=rate.low, high=rate.high)


def _joined(values: Iterable[str | None]) -> str | None:
    """What differs between the populations, each once; None where nothing is known."""
    return "; ".join(dict.fromkeys(each for each in values if each)) or None


def _median(values: Sequence[float]) -> float | None:
    return float(statistics.median(values)) if values else None


def _expected(core_seconds: float, proved: int) -> float | None:
    """Seconds on ``CORES`` cores for one proved model, the failures' share included."""
    return core_seconds / proved / CORES if proved else None
