"""``config.json``: what a run, a search, a rate or a sweep was asked to do. Read from R456's folders,
from those of version 0.1, and from ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from adderlab.errors import Failure, UsageError
from adderlab.files import schema
from adderlab.files.aliases import upgraded_recipe
from adderlab.files.atomic import read_json, write_json
from adderlab.models.config import ModelConfig
from adderlab.runs import r456

CONFIG_FILE = "config.json"
CONFIG_VERSION = 2

Kind = Literal["run", "search", "rate", "sweep"]
"""``run``: a population of seeds. The other three train several of them, below their own folder."""

Keep = Literal["grokked", "all"]
"""Seeds of a population that get a folder of their own: those at 99% and the best, or all."""

_OLD_FILES: Mapping[str, Kind] = {"until.json": "search", "plan.json": "rate", "sweep.json": "sweep"}
"""What version 0.1 wrote in place of ``config.json``."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What was asked for: which model, trained how, from which seeds."""

    kind: Kind = "run"
    model: ModelConfig
    """Of a sweep, the one that its cells vary."""
    recipe: dict[str, Any]
    """Plain JSON values, which ``training.recipe`` gives their meaning; of a sweep, the one that its
    cells vary."""
    seeds: tuple[int, ...]
    command: tuple[str, ...] = ()
    """The command line; empty in R456's own folders."""
    run_name: str = ""
    """Empty: the folder's name."""
    keep: Keep = "grokked"
    details: dict[str, Any] = field(default_factory=dict)
    """What a search, a rate or a sweep has besides, as plain JSON values; ``study`` gives them their
    meaning."""

    @property
    def train_steps(self) -> int:
        return int(r456.train_config(self.recipe).get("train_steps", 0))


@dataclass(frozen=True, kw_only=True)
class _Rest:
    """What is neither model nor recipe, for the strict reader."""

    kind: Kind
    seeds: tuple[int, ...]
    command: tuple[str, ...]
    run_name: str
    keep: Keep


def write_config(folder: Path, config: RunConfig) -> None:
    """Write ``config.json``: R456's ``model`` and ``train``, then ours. Raises ``Failure``."""
    seed = config.seeds[0] if len(config.seeds) == 1 else None
    table = {
        "schema_version": CONFIG_VERSION,
        "kind": config.kind,
        "model": r456.model_to_dict(config.model),
        "train": r456.train_config(config.recipe, seed),
        "recipe": config.recipe,
        "seeds": list(config.seeds),
        "command": list(config.command),
        "run_name": config.run_name,
        "keep": config.keep,
    }
    write_json(folder / CONFIG_FILE, table | ({config.kind: config.details} if config.details else {}))


def kind_of(folder: Path | str) -> Kind | None:
    """What a folder holds, ours or the published program's; None: no run. Raises ``Failure`` for a
    ``config.json`` that cannot be read."""
    folder = Path(folder)
    if (folder / CONFIG_FILE).is_file():
        kind = read_json(folder / CONFIG_FILE).get("kind", "run")
        return kind if kind in ("search", "rate", "sweep") else "run"
    return next((kind for name, kind in _OLD_FILES.items() if (folder / name).is_file()), None)


def read_config(folder: Path | str) -> RunConfig:
    """What the run, search, rate or sweep in a folder was asked to do. Raises ``Failure``."""
    folder = Path(folder)
    path = folder / CONFIG_FILE
    if not path.is_file():
        path = next((folder / name for name in _OLD_FILES if (folder / name).is_file()), path)
    data = read_json(path)
    version = data.get("schema_version")
    if isinstance(version, int) and version > CONFIG_VERSION:
        raise Failure(
            f"{path} was written by a newer adderlab (schema {version}, this one reads up to "
            f"{CONFIG_VERSION}); upgrade with pip install -U adderlab"
        )
    try:
        if path.name in _OLD_FILES:
            data = _upgraded(_OLD_FILES[path.name], data, folder)
        model = r456.model_from_dict(data["model"])
        recipe = data["train"] if version is None else data["recipe"]
        if not isinstance(recipe, dict):
            raise UsageError(f"the recipe must be a table of settings, not {recipe!r}")
        recipe = recipe if version is None else upgraded_recipe(recipe)
        seeds = [recipe.get("seed", 0)] if version is None else data["seeds"]
        rest = schema.from_dict(
            _Rest,
            {
                "kind": data.get("kind", "run"),
                "seeds": seeds,
                "command": data.get("command", []),
                "run_name": data.get("run_name", recipe.get("run_name", "")),
                "keep": data.get("keep", "grokked"),
            },
            "config",
        )
        if not rest.seeds:
            raise UsageError("seeds must name at least one seed")
        details = data.get(rest.kind, {})
        if not isinstance(details, dict):
            raise UsageError(f"{rest.kind} must be a table of settings, not {details!r}")
    except KeyError as error:
        raise Failure(f"{path} lacks the entry {error}; restore it from a copy") from error
    except UsageError as error:
        raise Failure(f"{path} does not fit: {error}; restore it from a copy") from error
    return RunConfig(model=model, recipe=recipe, details=details, **vars(rest))


def _upgraded(kind: Kind, data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The table of ``config.json`` from what version 0.1 wrote in its place."""
    if kind == "search":
        names = ("onward", "assisted", "together")
        return {**data, "kind": kind, kind: {name: data[name] for name in names}}
    if kind == "rate":
        names = ("preset", "recipe_name", "published", "batch_of_seeds", "limits", "assistance")
        return {
            **data,
            "kind": kind,
            "model": data["config"],
            "keep": "all",
            kind: {name: data[name] for name in names},
        }
    # A sweep's declaration names a preset and settings; its cells have the model and the recipe.
    cell = next(iter(sorted((folder / "cells").glob("[0-9]*/config.json"))), None)
    if cell is None:
        raise Failure(f"the sweep in {folder} has trained no cell: begin it anew in another folder")
    found = {name: data[name] for name in ("guided", "declaration")}
    return {**read_json(cell), "kind": kind, "run_name": "", kind: found}
