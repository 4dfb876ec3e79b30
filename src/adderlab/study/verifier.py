"""What a trained seed comes to: proved or not, as it ended or with repair; its published errors.

A seed's last weights are tried first, then its best by validation. The published test sets are
looked at once, afterwards, and choose nothing.
"""

from __future__ import annotations

import dataclasses
import math
import time

from adderlab.engine.base import Engine
from adderlab.errors import UsageError
from adderlab.evaluation.exact import decoder_for, evaluate
from adderlab.evaluation.suites import Suite
from adderlab.models.mapping import why_no_tables
from adderlab.proof.prove import Verdict as ProverVerdict
from adderlab.proof.prove import prove_checkpoint
from adderlab.proof.search import Limits
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from adderlab.runs.metrics import LEARNED, Metrics
from adderlab.runs.rates import (
    ProverLimits,
    Repaired,
    SeedOutcome,
    Verdict,
    Weights,
)
from adderlab.study.rate import Assistance, Population, RateExperiment
from adderlab.task.layouts import get_layout
from adderlab.training.repair import RepairSettings, repair
from adderlab.training.tracker import SUCCESS

_QUICK = Limits(cells=0, seconds=15.0, union_seconds=0.0)
"""The leaf pass alone: proves most right models and finds a wrong pair of most wrong ones."""
REPAIRED_FILE = "repaired.pt"


def decide(checkpoint: Checkpoint, limits: ProverLimits) -> ProverVerdict:
    """The prover's verdict; failing pairs of a wrong model are not counted if one is found early."""
    verdict = prove_checkpoint(checkpoint, limits=_QUICK)
    if verdict.verdict != "undecided":
        return verdict
    return prove_checkpoint(checkpoint, limits=Limits(**dataclasses.asdict(limits)))


def judge(
    experiment: RateExperiment, population: Population, seed: int, engine: Engine, published: Suite
) -> SeedOutcome:
    """The outcome of a trained seed, without repair."""
    curve = population.history[seed]
    last, best = curve[-1], max(each.val_exact for each in curve)
    started = time.process_time()
    verdict, weights, found = _verdict(experiment, population, seed, last.val_exact, best)
    proving = time.process_time() - started if found else 0.0
    proved = verdict == "proved"
    return SeedOutcome(
        seed=seed,
        steps=last.step + 1,
        last_exact=last.val_exact,
        best_exact=best,
        grokked_at=grokked_at(curve),
        missing_steps=sum(accuracy < LEARNED for accuracy in last.step_acc),
        verdict=verdict,
        weights=weights,
        margin_bound=found.margin.bound if found and proved else None,
        margin_witness=_finite(found.margin.witness) if found else None,
        published_errors=published_errors(
            load_checkpoint(population.checkpoints(seed) / f"{weights if proved else 'best'}.pt"),
            engine,
            published,
        )
        if best >= SUCCESS
        else None,
        training_core_seconds=population.core_seconds[seed],
        proving_core_seconds=proving,
    )


def _verdict(
    experiment: RateExperiment, population: Population, seed: int, last: float, best: float
) -> tuple[Verdict, Weights | None, ProverVerdict | None]:
    """The best verdict among the weights that reached success; of equals that of the last weights."""
    if best < SUCCESS:
        return "missed", None, None
    if why_no_tables(experiment.plan.config):
        return "no tables", None, None
    tried: list[tuple[Weights, ProverVerdict]] = []
    digests: set[str] = set()
    choices: tuple[tuple[Weights, float], ...] = (("last", last), ("best", best))
    for weights, exact in choices:
        if exact < SUCCESS:
            continue
        checkpoint = load_checkpoint(population.checkpoints(seed) / f"{weights}.pt")
        if checkpoint.weights_sha256 in digests:
            continue
        digests.add(checkpoint.weights_sha256)
        tried.append((weights, decide(checkpoint, experiment.plan.limits)))
        if tried[-1][1].verdict == "proved":
            break
    order = ("proved", "undecided", "refuted")
    weights, found = min(tried, key=lambda each: order.index(each[1].verdict))
    return found.verdict, weights, found


def worth_repair(outcome: SeedOutcome, assistance: Assistance) -> bool:
    """Whether a seed that is not proved is near enough."""
    if outcome.verdict in ("proved", "no tables"):
        return False
    near = max(outcome.last_exact, outcome.best_exact) >= assistance.exact
    return near or (assistance.missing > 0 and outcome.missing_steps <= assistance.missing)


def with_repair(
    experiment: RateExperiment,
    population: Population,
    outcome: SeedOutcome,
    engine: Engine,
    published: Suite,
) -> SeedOutcome:
    """The outcome with what repair made of the seed; its weights become ``repaired.pt``."""
    assistance = experiment.plan.assistance
    if assistance is None:
        raise UsageError("this measurement has no repair; begin it with --assisted")
    folder = population.checkpoints(outcome.seed)
    weights = "last" if outcome.last_exact >= outcome.best_exact else "best"
    started = time.process_time()
    result = repair(
        load_checkpoint(folder / f"{weights}.pt"),
        RepairSettings(rounds=assistance.rounds, seed=outcome.seed),
        limits=Limits(cells=experiment.plan.limits.cells, seconds=assistance.seconds, union_seconds=0.0),
    )
    found: ProverVerdict = result.proof
    if found.verdict == "undecided":
        found = decide(result.checkpoint, experiment.plan.limits)
    seconds = time.process_time() - started
    save_checkpoint(folder / REPAIRED_FILE, result.checkpoint)
    return dataclasses.replace(
        outcome,
        repair=Repaired(
            verdict=found.verdict,
            margin_bound=found.margin.bound if found.verdict == "proved" else None,
            trainings=result.trainings,
            published_errors=published_errors(result.checkpoint, engine, published),
            core_seconds=seconds,
        ),
    )


def grokked_at(curve: list[Metrics]) -> int | None:
    """Step of the first evaluation at success after which none was below."""
    since = None
    for each in curve:
        if each.val_exact < SUCCESS:
            since = None
        elif since is None:
            since = each.step
    return since


def published_errors(checkpoint: Checkpoint, engine: Engine, suite: Suite) -> int:
    """Pairs of the published test sets that a model gets wrong."""
    decoder = decoder_for(checkpoint.config, checkpoint.stacked(), engine)
    return evaluate(decoder, get_layout(checkpoint.config.layout), suite).total.errors


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
