"""Rate records made up."""

from typing import Any

from adderlab.evaluation.suites import Rate
from adderlab.format import seed_list
from adderlab.proof.search import Limits
from adderlab.runs.records import Repair, SeedRecord
from adderlab.study.rate import RateRecord


def outcome(seed: int, last_exact: float, verdict: Any, **more: Any) -> SeedRecord:
    proved = verdict == "proved"
    values: dict[str, Any] = {
        "seed": seed,
        "status": "done",
        "steps": 1000,
        "last_exact": last_exact,
        "best_exact": last_exact,
        "grokked_at": 500 if last_exact >= 0.99 else None,
        "steps_learned": 11 if last_exact >= 0.99 else 7,
        "verdict": verdict,
        "weights": None if verdict in ("missed", "no tables") else "last",
        "margin_bound": 0.4 if proved else None,
        "margin_witness": 0.5 if proved else None,
        "published_errors": 0 if proved else None,
        "training_core_seconds": 2.0,
        "proving_core_seconds": 1.0,
    }
    return SeedRecord(**values | more)


def share(count: int, n: int) -> Rate:
    return Rate(count=count, n=n, low=0.1, high=0.9, kind="wilson")


def record(
    preset: str = "456p", recipe: str = "circle", proved: int = 1, n: int = 2, **more: Any
) -> RateRecord:
    results = tuple(
        outcome(1000 + i, 1.0 if i < proved else 0.2, "proved" if i < proved else "missed")
        for i in range(n)
    )
    values: dict[str, Any] = {
        "preset": preset,
        "parameters": int(preset[:-1]),
        "recipe": recipe,
        "published": False,
        "recipe_settings": {"steps": 1000, "data": {"mix": 1}},
        "model_settings": {"layout": "P"},
        "seeds": seed_list([each.seed for each in results]),
        "n": n,
        "steps": 1000,
        "pure": share(proved, n),
        "assisted": None,
        "exact_at_end": share(proved, n),
        "exact_ever": share(proved, n),
        "published_perfect": share(proved, n),
        "median_steps_to_grok": 500.0 if proved else None,
        "median_training_core_seconds": 2.0,
        "median_proving_core_seconds": 1.0 if proved else None,
        "training_core_seconds": 2.0 * n,
        "proving_core_seconds": 1.0 * proved,
        "repairing_core_seconds": 0.0,
        "expected_seconds_on_2_cores": 12.5 if proved else None,
        "expected_assisted_seconds_on_2_cores": None,
        "limits": Limits(cells=3000000, seconds=60.0, union_seconds=1.0),
        "repair_settings": None,
        "results": results,
        "command": ("adderlab", "rate", preset, "--recipe", recipe),
        "git_revision": "0123456789abcdef",
        "date": "2026-11-24T10:00:00+00:00",
        "machine": "A Processor, 2 cores",
        "engine": "native",
        "threads": 2,
        "versions": {"adderlab": "0.1.0", "torch": "2.13.0"},
    }
    return RateRecord(**values | more)


def with_repair() -> RateRecord:
    repaired = Repair(
        verdict="proved", margin_bound=0.1, trainings=2, published_errors=0, core_seconds=9.0
    )
    first, second = record().results
    near = outcome(second.seed, 0.995, "refuted", repair=repaired)
    return record(
        results=(first, near), assisted=share(2, 2), repair_settings={"rounds": 5, "steps": 1000}
    )
