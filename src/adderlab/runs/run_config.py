"""``config.json``: what a run was asked to do. Read from R456's folders and ours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from adderlab import schema
from adderlab.errors import Failure, UsageError
from adderlab.models.config import ModelConfig
from adderlab.runs import r456
from adderlab.runs.atomic import read_json, write_json

SCHEMA_VERSION = 1

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
        "schema_version": SCHEMA_VERSION,
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
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise Failure(
            f"{path} was written by a newer adderlab (schema {version}, this one reads up to "
            f"{SCHEMA_VERSION}); upgrade with pip install -U adderlab"
        )
    try:
        model = r456.model_from_dict(data["model"])
        recipe = data["train"] if version is None else data["recipe"]
        if not isinstance(recipe, dict):
            raise UsageError(f"the recipe must be a table of settings, not {recipe!r}")
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
