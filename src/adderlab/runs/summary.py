"""``summary.json``: how far a run is, in R456's keys and ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from adderlab.errors import Failure, UsageError
from adderlab.files import schema
from adderlab.files.aliases import upgraded_recipe
from adderlab.files.atomic import read_json, write_json
from adderlab.models.config import ModelConfig
from adderlab.runs import r456
from adderlab.runs.environment import now
from adderlab.runs.metrics import SeedRow

SUMMARY_VERSION = 1

Status = Literal["running", "done", "stopped", "failed"]
STATUSES: tuple[str, ...] = get_args(Status)

_SUMMARY_TYPES: dict[str, tuple[type, ...]] = {
    "run_name": (str,),
    "params": (int,),
    "best_val_exact": (int, float),
    "best_step": (int,),
    "train_steps": (int,),
    "elapsed_sec": (int, float),
    "model_config": (dict,),
}


def read_summary(path: Path | str) -> dict[str, Any]:
    """The ``summary.json`` of a run folder (or that file), R456's or ours.

    R456's keys are there and of the right type; ``status``, ``seeds`` and ``step`` are filled in
    where its own file, written at the end of a run of one seed, lacks them. Raises ``Failure``.
    """
    path = Path(path)
    file = path / "summary.json" if path.is_dir() else path
    data = read_json(file)
    for key, kinds in _SUMMARY_TYPES.items():
        if key not in data:
            raise Failure(f"{file} lacks the entry {key!r}; it is damaged, restore it from a copy")
        if not isinstance(data[key], kinds) or isinstance(data[key], bool):
            shown = repr(data[key])[:60]
            raise Failure(f"{file}: {key} is {shown}; it is damaged, restore it from a copy")
    filled = {"status": "done", "seeds": 1, "step": data["train_steps"]} | data
    if filled["status"] not in STATUSES:
        raise Failure(f"{file}: status is {filled['status']!r}; it must be {', '.join(STATUSES)}")
    return filled


def summarise(
    *,
    run_name: str,
    model: ModelConfig,
    train_steps: int,
    seeds: int,
    rows: Sequence[SeedRow],
    status: Status,
    step: int,
    elapsed_sec: float,
    params: int,
) -> dict[str, Any]:
    """The table of ``summary.json``. Of a population, the run's numbers are its best seed's."""
    best = max(rows, key=lambda row: (row.best_val_exact, -row.best_step, -row.seed))
    return {
        "run_name": run_name,
        "params": params,
        "best_val_exact": best.best_val_exact,
        "best_step": best.best_step,
        "train_steps": train_steps,
        "elapsed_sec": round(elapsed_sec, 3),
        "model_config": r456.model_to_dict(model),
        "schema_version": SUMMARY_VERSION,
        "status": status,
        "step": step,
        "seeds": seeds,
        "best_seed": best.seed,
        "final_val_exact": best.final_val_exact,
        "final_token_acc": best.final_token_acc,
        "steps_learned": best.steps_learned,
        "first_step_100": best.first_step_100,
        "step_acc": list(best.step_acc),
        "updated": now(),
    }


# ``config.json``: what a run was asked to do. Read from R456's folders and ours.


CONFIG_VERSION = 1

Keep = Literal["grokked", "all"]
"""Seeds of a population that get a folder of their own: those at 99% and the best, or all."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A run: which model, trained how, from which seeds."""

    model: ModelConfig
    recipe: dict[str, Any]
    """Plain JSON values; the training room gives them meaning."""
    seeds: tuple[int, ...]
    command: tuple[str, ...] = ()
    """The command line; empty in R456's own folders."""
    run_name: str = ""
    """Empty: the folder's name."""
    keep: Keep = "grokked"

    @property
    def train_steps(self) -> int:
        return int(r456.train_config(self.recipe).get("train_steps", 0))


@dataclass(frozen=True, kw_only=True)
class _Rest:
    """What is neither model nor recipe, for the strict reader."""

    seeds: tuple[int, ...]
    command: tuple[str, ...]
    run_name: str
    keep: Keep


def write_config(folder: Path, config: RunConfig) -> None:
    """Write ``config.json``: R456's ``model`` and ``train``, then ours. Raises ``Failure``."""
    seed = config.seeds[0] if len(config.seeds) == 1 else None
    table = {
        "schema_version": CONFIG_VERSION,
        "model": r456.model_to_dict(config.model),
        "train": r456.train_config(config.recipe, seed),
        "recipe": config.recipe,
        "seeds": list(config.seeds),
        "command": list(config.command),
        "run_name": config.run_name,
        "keep": config.keep,
    }
    write_json(folder / "config.json", table)


def read_config(folder: Path | str) -> RunConfig:
    """The ``config.json`` of a run folder, R456's or ours. Raises ``Failure``."""
    path = Path(folder) / "config.json"
    data = read_json(path)
    version = data.get("schema_version")
    if isinstance(version, int) and version > CONFIG_VERSION:
        raise Failure(
            f"{path} was written by a newer adderlab (schema {version}, this one reads up to "
            f"{CONFIG_VERSION}); upgrade with pip install -U adderlab"
        )
    try:
        model = r456.model_from_dict(data["model"])
        recipe = data["train"] if version is None else data["recipe"]
        if not isinstance(recipe, dict):
            raise UsageError(f"the recipe must be a table of settings, not {recipe!r}")
        recipe = recipe if version is None else upgraded_recipe(recipe)
        seeds = [recipe.get("seed", 0)] if version is None else data["seeds"]
        rest = schema.from_dict(
            _Rest,
            {
                "seeds": seeds,
                "command": data.get("command", []),
                "run_name": data.get("run_name", recipe.get("run_name", "")),
                "keep": data.get("keep", "grokked"),
            },
            "config",
        )
        if not rest.seeds:
            raise UsageError("seeds must name at least one seed")
    except KeyError as error:
        raise Failure(f"{path} lacks the entry {error}; restore it from a copy") from error
    except UsageError as error:
        raise Failure(f"{path} does not fit: {error}; restore it from a copy") from error
    return RunConfig(
        model=model,
        recipe=recipe,
        seeds=rest.seeds,
        command=rest.command,
        run_name=rest.run_name,
        keep=rest.keep,
    )
