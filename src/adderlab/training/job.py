"""What a run is asked for, and how it ended."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from adderlab.errors import UsageError
from adderlab.files import schema
from adderlab.models.config import ModelConfig
from adderlab.runs.checkpoints import Checkpoint
from adderlab.runs.folder import Status, read_config
from adderlab.runs.summary import Keep
from adderlab.training.recipe import Recipe
from adderlab.training.tracker import SeedTracker


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to train and where to write it."""

    config: ModelConfig
    recipe: Recipe
    seeds: tuple[int, ...]
    folder: Path
    run_name: str = ""
    """Empty: the folder's name."""
    overwrite: bool = False
    """Delete a run that is there already."""
    keep: Keep = "grokked"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended."""

    status: Status
    tracker: SeedTracker
    best: Checkpoint
    folder: Path


def read_job(folder: Path) -> Job:
    """The job of a run folder, to resume it. Raises ``UsageError`` if there is none."""
    if not (folder / "config.json").is_file():
        raise UsageError(f"there is no run in {folder} (no config.json); check the name")
    stored = read_config(folder)
    recipe = schema.from_dict(Recipe, stored.recipe, f"{folder / 'config.json'}: recipe")
    return Job(
        config=stored.model,
        recipe=recipe,
        seeds=stored.seeds,
        folder=folder,
        run_name=stored.run_name,
        keep=stored.keep,
    )


def fingerprint(job: Job, *, old_names: bool = False) -> str:
    """SHA-256 over what decides a run's numbers: model, recipe and seeds.

    ``old_names``: as version 0.1 hashed them, under the settings' names of its time.
    """
    model, recipe = (schema.to_dict(each, old_names=old_names) for each in (job.config, job.recipe))
    settings = [model, recipe, list(job.seeds)]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
