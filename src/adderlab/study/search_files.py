"""The files of a search for proved models: its plan, and what came of it so far."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adderlab.errors import Failure, UsageError
from adderlab.files import schema
from adderlab.files.atomic import (
    disk_failure,
    make_folder,
    read_json,
    write_json,
)
from adderlab.models.config import ModelConfig
from adderlab.models.describe import count_parameters
from adderlab.runs import r456
from adderlab.runs.environment import collect_environment, now
from adderlab.runs.folder import RUN_FILES
from adderlab.study.search_verifier import Fate
from adderlab.training.recipe import Recipe

SCHEMA_VERSION = 1
PLAN_FILE, SUMMARY_FILE = "until.json", "summary.json"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a search tries. Where it stops is told when it is run."""

    config: ModelConfig
    recipe: Recipe
    seeds: tuple[int, ...]
    """In this order."""
    onward: bool = False
    """After the listed seeds, go on with the numbers above them."""
    folder: Path
    assisted: bool = True
    """Repair seeds that end nearly right."""
    together: int = 1
    """Seeds of a try."""

    def __post_init__(self) -> None:
        assert self.seeds and self.together >= 1


@dataclass(frozen=True, kw_only=True)
class Try:
    """Seeds trained together, and what became of each."""

    folder: Path
    fates: tuple[Fate, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(fate.seed for fate in self.fates)

    @property
    def unfinished(self) -> bool:
        return any(fate.state == "training" for fate in self.fates)


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Everything the search took, failures included."""

    seed_steps: int = 0
    wall_seconds: float = 0.0
    core_seconds: float = 0.0
    """Processor time of the whole process: training, evaluations, proofs, repairs, files."""

    def plus(self, other: Spent) -> Spent:
        return Spent(
            seed_steps=self.seed_steps + other.seed_steps,
            wall_seconds=self.wall_seconds + other.wall_seconds,
            core_seconds=self.core_seconds + other.core_seconds,
        )


@dataclass(kw_only=True)
class Summary:
    """A search so far."""

    plan: Plan
    tries: list[Try] = field(default_factory=list)
    spent: Spent = Spent()
    wanted: int = 1
    status: str = "running"
    """running; proved (as many as wanted), budget spent, seeds used up, stopped."""

    @property
    def fates(self) -> list[Fate]:
        return [fate for each in self.tries for fate in each.fates]

    @property
    def proved(self) -> list[Fate]:
        return [fate for fate in self.fates if fate.state == "proved"]

    def count(self, state: str) -> int:
        return sum(fate.state == state for fate in self.fates)


def create(plan: Plan, *, overwrite: bool) -> None:
    """Write the plan into a new folder. Raises ``UsageError`` where a search or a run is already."""
    folder = plan.folder
    if any((folder / name).exists() for name in (PLAN_FILE, *RUN_FILES)):
        if not overwrite:
            raise UsageError(
                f"{folder} already holds a run; pass --overwrite to delete it, --resume {folder} to go "
                "on, or another --run-name"
            )
        if not (folder / PLAN_FILE).is_file():
            raise UsageError(f"{folder} holds a run of another kind; choose another --run-name")
        _delete(folder)
    make_folder(folder)
    environment = collect_environment("cpu")
    write_json(
        folder / PLAN_FILE,
        {
            "schema_version": SCHEMA_VERSION,
            "model": r456.model_to_dict(plan.config),
            "recipe": schema.to_dict(plan.recipe),
            "seeds": list(plan.seeds),
            "onward": plan.onward,
            "assisted": plan.assisted,
            "together": plan.together,
            "command": list(environment["command"]),
        },
    )


def is_search(folder: Path) -> bool:
    """Whether the folder is that of a search."""
    return (folder / PLAN_FILE).is_file()


def reopen(folder: Path) -> tuple[Plan, Summary]:
    """The plan of a search's folder and what came of it. Raises ``Failure`` for damaged files."""
    path = folder / PLAN_FILE
    data = read_json(path)
    try:
        plan = Plan(
            config=r456.model_from_dict(data["model"]),
            recipe=schema.from_dict(Recipe, data["recipe"], "recipe"),
            seeds=tuple(data["seeds"]),
            onward=data["onward"],
            folder=folder,
            assisted=data["assisted"],
            together=data["together"],
        )
        summary = Summary(plan=plan)
        path = folder / SUMMARY_FILE
        if path.is_file():
            data = read_json(path)
            summary.spent = schema.from_dict(Spent, data["spent"], "spent")
            summary.tries = [
                Try(
                    folder=folder / each["folder"],
                    fates=tuple(schema.from_dict(Fate, fate, "seed") for fate in each["seeds"]),
                )
                for each in data["tries"]
            ]
    except (KeyError, TypeError, UsageError) as error:
        raise Failure(f"{path} does not fit ({error}); restore it from a copy") from error
    return plan, summary


def write_summary(summary: Summary) -> None:
    """Replace ``summary.json``: first what every run's summary says, of the best seed."""
    plan, fates = summary.plan, summary.fates
    best = max(fates, key=lambda fate: (fate.state == "proved", fate.val_exact), default=Fate(seed=0))
    states = ("proved", "dropped", "unproved")
    table: dict[str, Any] = {
        "run_name": plan.folder.resolve().name,
        "params": count_parameters(plan.config),
        "best_val_exact": best.val_exact,
        "best_step": best.step,
        "train_steps": plan.recipe.total_steps,
        "elapsed_sec": round(summary.spent.wall_seconds, 3),
        "model_config": r456.model_to_dict(plan.config),
        "schema_version": SCHEMA_VERSION,
        "status": {"proved": "done", "running": "running"}.get(summary.status, "stopped"),
        "search": summary.status,
        "updated": now(),
        "seeds": len(fates),
        "wanted": summary.wanted,
        "counts": {
            **{state: summary.count(state) for state in states},
            "proved_pure": sum(fate.route == "pure" for fate in fates),
            "proved_assisted": sum(fate.route == "assisted" for fate in fates),
            "unfinished": summary.count("training"),
        },
        "spent": schema.to_dict(summary.spent),
        "proofs": sum(fate.proofs for fate in fates),
        "repair_trainings": sum(fate.trainings for fate in fates),
        "proved": [schema.to_dict(fate) for fate in summary.proved],
        "tries": [
            {"folder": each.folder.name, "seeds": [schema.to_dict(fate) for fate in each.fates]}
            for each in summary.tries
        ],
    }
    write_json(plan.folder / SUMMARY_FILE, table)


def _delete(folder: Path) -> None:
    """What a search wrote there."""
    try:
        for path in (*folder.glob("seed_[0-9]*"), *folder.glob("seeds_[0-9]*"), folder / "proved"):
            if path.is_dir():
                shutil.rmtree(path)
        for name in (SUMMARY_FILE, PLAN_FILE):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise disk_failure(error, folder, "overwrite the search in") from error
