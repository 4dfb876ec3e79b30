"""What a run folder says about the whole: ``config.json``, what a run, a search, a rate or a sweep was
asked to do; ``environment.json``, what it ran on; ``summary.json``, how far it is. And whether a
training began with knowledge of addition, told from its recipe.

Settings and summaries are read from R456's folders, from those of version 0.1, and from ours.

A **generic** recipe could train any classifier of sequences: random draws of any width, restarts chosen
by validation accuracy, learning rates and other schedules, batches, stages, the size of the logits in
the loss, failures found in fresh pairs. An **informed** one has an ingredient that was made for columns
and digits:

- ``circle``: positions start where the columns of a sum are in convex position;
- ``attention prefit``: before the first step, queries are fitted to look at their own column;
- ``short arc``: digits start on an arc that was chosen for them;
- ``carry mix``: a share of the training pairs is built to have long carries;
- ``warm start``: from the weights of a model whose own training was informed, or is not recorded.

What a model's own constructor draws, and how long operands are at which step, belong to neither: the
first is the architecture, the second needs only the numbers' lengths.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch

from adderlab import __version__
from adderlab.errors import Failure, UsageError
from adderlab.files import schema
from adderlab.files.atomic import read_json, write_json, write_text
from adderlab.files.schema import upgraded_recipe
from adderlab.models.config import ModelConfig
from adderlab.reading.file_model import FileModel
from adderlab.runs import foreign
from adderlab.runs.checkpoints import Checkpoint
from adderlab.runs.records import SeedRecord

CONFIG_FILE = "config.json"
MODEL_FILE = "model.py"
"""The user's file whose model was trained, as it was then. Never run unless it is named."""
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
    model: ModelConfig | FileModel
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
    checkpoint_every: int | None = None
    """Steps from one snapshot of all weights to the next (``runs.stored``); None: there are none."""
    details: dict[str, Any] = field(default_factory=dict)
    """What a search, a rate or a sweep has besides, as plain JSON values; ``study`` gives them their
    meaning."""

    @property
    def train_steps(self) -> int:
        return int(foreign.train_config(self.recipe).get("train_steps", 0))


def has_pool(recipe: Mapping[str, Any]) -> bool:
    """Whether a stored recipe trains on a finite set of pairs, in any of its stages."""
    stages = [recipe, *(recipe.get("stages") or ())]
    return any((each.get("data") or {}).get("pool") for each in stages)


@dataclass(frozen=True, kw_only=True)
class _Rest:
    """What is neither model nor recipe, for the strict reader."""

    kind: Kind
    seeds: tuple[int, ...]
    command: tuple[str, ...]
    run_name: str
    keep: Keep
    checkpoint_every: int | None


def write_config(folder: Path, config: RunConfig) -> None:
    """Write ``config.json``: R456's ``model`` and ``train``, then ours; of a user's file its source
    beside it. Raises ``Failure``."""
    if isinstance(config.model, FileModel) and config.model.live.source is not None:
        _write_source(folder / MODEL_FILE, config.model.live.source)
    seed = config.seeds[0] if len(config.seeds) == 1 else None
    table = {
        "schema_version": CONFIG_VERSION,
        "kind": config.kind,
        "model": foreign.model_to_dict(config.model),
        "train": foreign.train_config(config.recipe, seed),
        "recipe": config.recipe,
        "seeds": list(config.seeds),
        "command": list(config.command),
        "run_name": config.run_name,
        "keep": config.keep,
    }
    if config.checkpoint_every is not None:
        table["checkpoint_every"] = config.checkpoint_every
    write_json(folder / CONFIG_FILE, table | ({config.kind: config.details} if config.details else {}))


def _write_source(path: Path, source: str) -> None:
    if path.is_file() and path.read_text() != source:
        raise UsageError(f"{path} is another file than the one to be trained; choose another folder")
    write_text(path, source)


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
        model = foreign.model_from_dict(data["model"])
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
                "checkpoint_every": data.get("checkpoint_every"),
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


# ``environment.json``: enough to see later whether two runs can be compared.


ENVIRONMENT_VERSION = 1


def collect_environment(device: str, command: Sequence[str] | None = None) -> dict[str, Any]:
    """The table written to ``environment.json``. ``command`` is ``sys.argv`` unless given."""
    return {
        "schema_version": ENVIRONMENT_VERSION,
        "adderlab": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cpu_count": os.cpu_count(),
        "device": device,
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "command": list(sys.argv if command is None else command),
        "git_revision": git_revision(),
        "started": now(),
    }


def now() -> str:
    """The time as files write it: UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def git_revision() -> str | None:
    """The commit this source is at, with ``-dirty`` after it if tracked files were changed.

    None if the package is not part of a git checkout (an installed wheel that merely lies below
    somebody's repository is not) or git is absent.
    """
    here = Path(__file__).resolve()
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None
    revision = _git(here.parent, "rev-parse", "HEAD")
    if revision is None:
        return None
    changed = _git(here.parent, "status", "--porcelain", "--untracked-files=no")
    return revision + ("-dirty" if changed else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def cpu_model() -> str:
    """The processor's name as its maker gives it, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    if sys.platform == "darwin":
        try:
            asked = subprocess.run(
                ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, timeout=5
            )
            if asked.returncode == 0:
                return asked.stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            pass
    return platform.processor() or platform.machine()


def device_name(device: str) -> str | None:
    """The accelerator's name; None for the CPU."""
    if device.startswith("cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name(device)
    return None


# ``summary.json``: in R456's keys and ours.


SUMMARY_VERSION = 1

Status = Literal["running", "done", "diverged", "stopped", "failed"]
STATUSES: tuple[str, ...] = get_args(Status)
ENDED: tuple[Status, ...] = ("done", "diverged")
"""Trained to the end. ``diverged``: there the loss of every seed is no number."""

_SUMMARY_TYPES: dict[str, tuple[type, ...]] = {
    "run_name": (str,),
    "params": (int,),
    "best_val_exact": (int, float),
    "best_step": (int,),
    "train_steps": (int,),
    "elapsed_sec": (int, float),
    "model_config": (dict,),
}
_OWN_TABLES: dict[str, tuple[str, ...]] = {
    "success": (),
    "spent": ("seed_steps", "wall_seconds", "core_seconds"),
}
"""Tables that only our runs and searches write, with numbers that they must hold."""


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
    for key, names in _OWN_TABLES.items():
        table = data.get(key, dict.fromkeys(names, 0))
        if not isinstance(table, dict) or not all(
            isinstance(table.get(name), int | float) for name in names
        ):
            shown = repr(table)[:60]
            raise Failure(f"{file}: {key} is {shown}; it is damaged, restore it from a copy")
    filled = {"status": "done", "seeds": 1, "step": data["train_steps"]} | data
    if filled["status"] not in STATUSES:
        raise Failure(f"{file}: status is {filled['status']!r}; it must be {', '.join(STATUSES)}")
    return filled


def ended_as(records: Iterable[SeedRecord]) -> Status:
    """The status of a run that trained these seeds to the end."""
    return "diverged" if all(record.status == "diverged" for record in records) else "done"


def summarise(
    *,
    run_name: str,
    model: ModelConfig | FileModel,
    train_steps: int,
    seeds: int,
    best: SeedRecord,
    status: Status,
    step: int,
    elapsed_sec: float,
    params: int,
) -> dict[str, Any]:
    """The table of ``summary.json``. The run's numbers are those of the seed whose checkpoint is the
    ``best``: the one in ``checkpoints/best.pt``."""
    return {
        "run_name": run_name,
        "params": params,
        "best_val_exact": best.best_exact,
        "best_step": best.best_step,
        "train_steps": train_steps,
        "elapsed_sec": round(elapsed_sec, 3),
        "model_config": foreign.model_to_dict(model),
        "schema_version": SUMMARY_VERSION,
        "status": status,
        "step": step,
        "seeds": seeds,
        "best_seed": best.seed,
        "final_val_exact": best.last_exact,
        **({} if best.train_exact is None else {"final_train_exact": best.train_exact}),
        "final_token_acc": best.last_token_accuracy,
        "steps_learned": best.steps_learned,
        "first_step_100": best.first_perfect_step,
        "step_acc": list(best.step_accuracy),
        "updated": now(),
    }


# Whether a training began with knowledge of addition.


def informed_by(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The ingredients that know of columns or digits in a recipe's settings, as JSON has them under the
    names of today; none where it is generic."""
    stages = [each for each in settings.get("stages") or () if isinstance(each, Mapping)]
    pairs = [_part(each, "data") for each in (settings, *stages)]
    has = {
        "circle": settings.get("circle") is not None,
        "attention prefit": settings.get("prefit") is not None,
        "short arc": _part(settings, "wide_init").get("arc") is not None,
        "warm start": _part(settings, "warm_start").get("start", "generic") != "generic",
        "carry mix": any(each.get("carry_mix") is not None for each in pairs),
    }
    return tuple(name for name, there in has.items() if there)


def kind_of_start(settings: Mapping[str, Any]) -> str:
    """``generic`` or ``informed (circle, attention prefit)``; ``not recorded`` where there are no
    settings."""
    if not settings:
        return "not recorded"
    names = informed_by(settings)
    return f"informed ({', '.join(names)})" if names else "generic"


def start_of(checkpoint: Checkpoint) -> str:
    """The kind of start of a trained model's recipe; of other programs' files it is not recorded."""
    return kind_of_start(checkpoint.recipe if checkpoint.origin == "adderlab" else {})


def _part(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = settings.get(name)
    return part if isinstance(part, Mapping) else {}
