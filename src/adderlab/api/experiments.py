"""What is asked for made definite: model, recipe, changed settings, seeds; of a stopped run its file."""

from __future__ import annotations

import contextlib
import json
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias

from adderlab.api.models import ModelLike, load
from adderlab.errors import UsageError
from adderlab.files import schema
from adderlab.format import did_you_mean
from adderlab.models.config import ModelConfig
from adderlab.models.config import changed as with_changes
from adderlab.models.describe import count_parameters
from adderlab.models.zoo import PRESETS, Preset, at_size, get_preset
from adderlab.reading.file_model import FileModel, read_file
from adderlab.recipes import RECIPES, best_name, named_for, published_name, quick_name
from adderlab.recipes.auto import explained
from adderlab.runs.metadata import MODEL_FILE, kind_of, read_config
from adderlab.training.measure import Listener
from adderlab.training.recipe import Recipe
from adderlab.training.start import check_start

if TYPE_CHECKING:
    from adderlab.study.rate import RatePlan

Trainable: TypeAlias = "str | Preset | ModelConfig | FileModel | ModelLike"
"""What can be trained: a preset by its name, a configuration, a Python file by its path (which is run),
or a trained model, whose configuration is trained anew."""

Settings: TypeAlias = "Mapping[str, Any] | Iterable[str]"
"""Changed settings: ``{"recipe.lr": 0.01}`` or ``["recipe.lr=0.01"]``."""

Seeds: TypeAlias = "str | Iterable[int]"
"""``range(64)``, ``[43, 44]`` or ``"0-63"``."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A model and how it is trained."""

    preset: Preset | None
    """None: the model of a user's file."""
    name: str
    """The preset's, or the file's without its ending."""
    config: ModelConfig | FileModel
    recipe: Recipe
    recipe_name: str
    """Of the recipe before any change; empty where it has none."""
    changes: tuple[str, ...]
    """What was changed, for example ``("lr=0.01",)``."""
    note: str = ""
    """What the user should know of it that was not asked for."""

    @property
    def is_published(self) -> bool:
        if self.preset is None:
            return False
        return self.recipe_name == published_name(self.preset) and not self.changes


def define(
    model: Trainable, recipe: str | Recipe, *, steps: int | None = None, settings: Settings = ()
) -> Experiment:
    """Model and recipe with the changes that were asked for. Raises ``UsageError`` for what there is
    not, naming what is close."""
    own_file = file_model(model)
    if own_file is not None:
        return _define_file(own_file, recipe, steps, settings)
    preset, name, changed = _preset(model), "", parse_settings(settings)
    config = with_changes(preset.config, _of(changed, "model"))
    default = isinstance(recipe, str) and recipe in ("published", "best", "quick")
    if isinstance(recipe, str):
        # What is best, or quick, is so for a size.
        sized = at_size(preset, columns=config.columns, base=config.base)
        own = {"published": published_name, "best": best_name, "quick": quick_name}
        name = own[recipe](sized) if recipe in own else recipe
        recipe = named_for(sized, recipe, config=config, steps=steps).recipe
    note = ""
    if steps is not None:
        changed.append(("recipe", "steps", str(steps)))
        own = {schema.setting("Recipe", key.partition(".")[0]) for key, _ in _of(changed, "recipe")}
        # Such a run is there to look at something, not to learn.
        last = recipe.restarts.halve_at[-1] if recipe.restarts else -1
        if default and "restarts" not in own and last >= steps:
            changed.append(("recipe", "restarts", "null"))
            note = (
                f"{name} chooses among starts up to step {last:,}: with {steps:,} steps a seed has one"
            )
    recipe = schema.with_settings(recipe, _of(changed, "recipe"), "recipe")
    changes = [f"{k}={v}" if section == "recipe" else f"model.{k}={v}" for section, k, v in changed]
    if config != preset.config:
        if default:
            _check_default(preset, name, config, recipe)
        preset = _changed_preset(preset, config)
    return Experiment(
        preset=preset,
        name=preset.name,
        config=config,
        recipe=recipe,
        recipe_name=name,
        changes=tuple(changes),
        note=note,
    )


def _define_file(
    config: FileModel, recipe: str | Recipe, steps: int | None, settings: Settings
) -> Experiment:
    """As ``define``, of the model of a user's file."""
    name = ""
    if isinstance(recipe, str):
        name = "auto" if recipe in ("best", "quick") else recipe
        recipe = named_for(config, recipe, steps=steps).recipe
    changed = parse_settings(settings)
    if _of(changed, "model"):
        raise UsageError(
            f"model settings and sizes are a preset's; change what {config.file} says instead"
        )
    if steps is not None:
        changed.append(("recipe", "steps", str(steps)))
    return Experiment(
        preset=None,
        name=Path(config.file).stem,
        config=config,
        recipe=schema.with_settings(recipe, _of(changed, "recipe"), "recipe"),
        recipe_name=name,
        changes=tuple(f"{key}={value}" for _, key, value in changed),
    )


def explain(wanted: Experiment | RatePlan, listener: Listener) -> None:
    """What its recipe does that was not asked for, and of "auto" (also ``auto+lr=0.01``) what it is for
    this model and why."""
    if wanted.note:
        listener.on_message(wanted.note)
    if wanted.recipe_name.partition("+")[0] == "auto":
        for reason in explained(wanted.config, wanted.recipe):
            listener.on_message(f"auto: {reason}")


def short_name(model: str, settings: Settings = ()) -> str:
    """What folders are named after: a preset, the count of one with other settings, or a file, which is
    not run. Raises ``UsageError``."""
    if model.endswith(".py"):
        return Path(model).stem
    preset = get_preset(model)
    return _changed_preset(
        preset, with_changes(preset.config, _of(parse_settings(settings), "model"))
    ).name


def changed_model(model: Trainable, settings: Settings) -> ModelConfig:
    """The configuration of a preset with changed settings. Raises ``UsageError``."""
    changed = parse_settings(settings)
    if _of(changed, "recipe"):
        raise UsageError("only settings of the model say what it is, for example set model.d_ff=12")
    return with_changes(_preset(model).config, _of(changed, "model"))


def _of(changed: Sequence[tuple[str, str, str]], section: str) -> list[tuple[str, str]]:
    return [(key, value) for own, key, value in changed if own == section]


def _check_default(preset: Preset, name: str, config: ModelConfig, recipe: Recipe) -> None:
    """Raises ``UsageError`` where the preset's own recipe does not fit the changed model."""
    try:
        check_start(config, recipe)
    except UsageError as error:
        others = []
        for other in dict.fromkeys((published_name(preset), "r456-54k", *RECIPES)):
            with contextlib.suppress(UsageError):
                check_start(config, RECIPES[other].recipe)
                others.append(other)
        instead = ", ".join(others[:3])
        raise UsageError(
            f"recipe={name} is the default of {preset.name} and does not fit the changed model: "
            f"{error}; recipes that fit are {instead}"
        ) from error


def file_model(model: Trainable) -> FileModel | None:
    """The model of a Python file, which is run, or that of trained weights of one whose file was named
    in this process; None for everything else."""
    if isinstance(model, FileModel):
        return model
    if isinstance(model, str | os.PathLike):
        return read_file(Path(model))[0] if str(model).endswith(".py") else None
    if isinstance(model, Preset | ModelConfig):
        return None
    config = load(model).config
    return config if isinstance(config, FileModel) else None


def _preset(model: Trainable) -> Preset:
    """The preset of that name or configuration; else one without a published recipe."""
    if isinstance(model, Preset):
        return model
    if isinstance(model, str) and not model.endswith((".pt", ".safetensors", ".npz")):
        return get_preset(model)
    config = model if isinstance(model, ModelConfig | FileModel) else load(model).config
    if isinstance(config, FileModel):
        raise UsageError(f"model settings are a preset's; change what {config.file} says instead")
    known = next((each for each in PRESETS.values() if each.config == config), None)
    return known or Preset(
        name=f"{count_parameters(config)}p",
        config=config,
        source="",
        published="",
        published_rate="",
        recipe=None,
        notes="",
    )


def _changed_preset(preset: Preset, config: ModelConfig) -> Preset:
    """What the preset is called with this configuration: of another size, or by its count."""
    resized = at_size(preset, columns=config.columns, base=config.base)
    return resized if config == resized.config else _preset(config)


def parse_settings(settings: Settings) -> list[tuple[str, str, str]]:
    """``recipe.lr=0.01`` -> ("recipe", "lr", "0.01"); only recipe and model have settings."""
    if isinstance(settings, Mapping):
        settings = [f"{path}={_as_text(value)}" for path, value in settings.items()]
    parsed = []
    for setting in settings:
        path, equals, value = setting.partition("=")
        section, dot, key = path.partition(".")
        if not equals or not dot or section not in ("recipe", "model"):
            raise UsageError(
                f"set={setting!r}: write recipe.NAME=VALUE or model.NAME=VALUE, "
                f"for example recipe.lr=0.01{did_you_mean(section, ('recipe', 'model')) if dot else ''}"
            )
        parsed.append((section, key, value))
    return parsed


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


MOST_SEEDS = 10_000_000
"""Of one command: their numbers alone take 80 MB."""
LARGEST_SEED = 2**63 - 1
"""Seeds are signed 64-bit numbers to the samplers of every device."""


def parse_seeds(seeds: Seeds) -> tuple[int, ...]:
    """``"0-63"``, ``"43"``, ``"0-3,43,100-101"`` or numbers -> seeds in that order, without repeats."""
    if not isinstance(seeds, str):
        if not isinstance(seeds, Iterable):
            raise UsageError(f"seeds {seeds!r}: give several, for example range({seeds!r}), or '0-63'")
        if isinstance(seeds, range) and (seeds.stop - seeds.start) // seeds.step > MOST_SEEDS:
            raise UsageError(f"seeds {seeds!r}: that is more than {MOST_SEEDS:,} seeds; name fewer")
        given = list(seeds)
        # NumPy's integers are numbers too; True and False are not.
        whole = [
            seed for seed in given if isinstance(seed, SupportsIndex) and not isinstance(seed, bool)
        ]
        numbers = tuple(dict.fromkeys(operator.index(seed) for seed in whole))
        if not numbers or len(whole) < len(given) or min(numbers) < 0:
            raise UsageError(f"seeds must be numbers from 0 on, at least one, not {given!r}")
        _check_largest(max(numbers))
        return numbers
    found: list[int] = []
    for part in seeds.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise UsageError(f"seeds={seeds!r}: write numbers and ranges, for example 0-63 or 43,44")
        _check_largest(first)
        _check_largest(last or first)
        stop = int(last) if dash else int(first)
        if stop < int(first):
            raise UsageError(f"seeds={seeds!r}: the range {part.strip()} runs backwards")
        if stop - int(first) + len(found) >= MOST_SEEDS:
            raise UsageError(f"seeds={seeds!r}: that is more than {MOST_SEEDS:,} seeds; name fewer")
        found += range(int(first), stop + 1)
    return tuple(dict.fromkeys(found))


def _check_largest(seed: int | str) -> None:
    # Python reads no more than some thousand digits, with an error of its own.
    if len(str(seed).lstrip("0")) > 19 or int(seed) > LARGEST_SEED:
        shown = f"{seed}"[:24] + ("..." if len(str(seed)) > 24 else "")
        raise UsageError(f"seed {shown} is too large: seeds end at 2^63 - 1 = {LARGEST_SEED}")


def parse_open_seeds(seeds: Seeds) -> tuple[tuple[int, ...], bool]:
    """``"100-"`` -> ((100,), True): from there on without end; else as ``parse_seeds``, False."""
    if isinstance(seeds, str):
        first = seeds.removesuffix("-")
        if seeds.endswith("-") and first.isdigit():
            _check_largest(first)
            return (int(first),), True
    return parse_seeds(seeds), False


def name_file(folder: Path, model: str | os.PathLike[str] | None) -> None:
    """Run the file whose model a stopped run trains. Raises ``UsageError`` where the run is of a file
    and none is named, or another."""
    config = read_config(folder).model if kind_of(folder) else None
    if not isinstance(config, FileModel):
        if model is not None and kind_of(folder):
            raise UsageError(f"{folder} trains no file's model: it goes on without {model}")
        return
    if model is None:
        if config.at_hand:
            return
        raise UsageError(
            f"{folder} trains the model of {config.file}, which is run only when it is named: name it, "
            f"or the run's copy {folder / MODEL_FILE}"
        )
    if read_file(Path(model))[0] != config:
        raise UsageError(
            f"{model} is not the file that {folder} trains (sha256 {config.sha256[:12]}...); its copy "
            f"is {folder / MODEL_FILE}"
        )
