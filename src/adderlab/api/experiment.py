"""What the functions that train are asked for, made definite: model, recipe, settings, seeds."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, SupportsIndex, TypeAlias

from adderlab.api.models import ModelLike, load
from adderlab.errors import UsageError
from adderlab.files import schema
from adderlab.models.config import ModelConfig
from adderlab.models.describe import count_parameters
from adderlab.models.zoo import PRESETS, Preset, get_preset
from adderlab.recipes import best_name, named_for, published_name, quick_name
from adderlab.training.recipe import Recipe

Trainable: TypeAlias = "str | Preset | ModelConfig | ModelLike"
"""What can be trained: a preset by its name, a configuration, or a trained model, whose configuration is
trained anew."""

Settings: TypeAlias = "Mapping[str, Any] | Iterable[str]"
"""Changed settings: ``{"recipe.lr": 0.01}`` or ``["recipe.lr=0.01"]``."""

Seeds: TypeAlias = "str | Iterable[int]"
"""``range(64)``, ``[43, 44]`` or ``"0-63"``."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A model and how it is trained."""

    preset: Preset
    config: ModelConfig
    recipe: Recipe
    recipe_name: str
    """Of the recipe before any change; empty where it has none."""
    changes: tuple[str, ...]
    """What was changed, for example ``("lr=0.01",)``."""

    @property
    def is_published(self) -> bool:
        return self.recipe_name == published_name(self.preset) and not self.changes


def define(
    model: Trainable, recipe: str | Recipe, *, steps: int | None = None, settings: Settings = ()
) -> Experiment:
    """Model and recipe with the changes that were asked for. Raises ``UsageError`` for what there is
    not, naming what is close."""
    preset = _preset(model)
    config, name = preset.config, ""
    if isinstance(recipe, str):
        own = {"published": published_name, "best": best_name, "quick": quick_name}
        name = own[recipe](preset) if recipe in own else recipe
        recipe = named_for(preset, recipe).recipe
    changed = parse_settings(settings)
    if steps is not None:
        changed.append(("recipe", "steps", str(steps)))
    changes = []
    for section, key, value in changed:
        if section == "recipe":
            recipe = schema.with_setting(recipe, key, value, section)
        else:
            config = schema.with_setting(config, key, value, section)
        changes.append(f"{key}={value}" if section == "recipe" else f"model.{key}={value}")
    return Experiment(
        preset=preset, config=config, recipe=recipe, recipe_name=name, changes=tuple(changes)
    )


def _preset(model: Trainable) -> Preset:
    """The preset of that name or configuration; else one without a published recipe."""
    if isinstance(model, Preset):
        return model
    if isinstance(model, str) and not model.endswith((".pt", ".safetensors", ".npz")):
        return get_preset(model)
    config = model if isinstance(model, ModelConfig) else load(model).config
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
                f"--set {setting!r}: write recipe.NAME=VALUE or model.NAME=VALUE, "
                "for example recipe.lr=0.01"
            )
        parsed.append((section, key, value))
    return parsed


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def parse_seeds(seeds: Seeds) -> tuple[int, ...]:
    """``"0-63"``, ``"43"``, ``"0-3,43,100-101"`` or numbers -> seeds in that order, without repeats."""
    if not isinstance(seeds, str):
        if not isinstance(seeds, Iterable):
            raise UsageError(f"seeds {seeds!r}: give several, for example range({seeds!r}), or '0-63'")
        given = list(seeds)
        # NumPy's integers are numbers too; True and False are not.
        whole = [
            seed for seed in given if isinstance(seed, SupportsIndex) and not isinstance(seed, bool)
        ]
        numbers = tuple(dict.fromkeys(operator.index(seed) for seed in whole))
        if not numbers or len(whole) < len(given) or min(numbers) < 0:
            raise UsageError(f"seeds must be numbers from 0 on, at least one, not {given!r}")
        return numbers
    found: list[int] = []
    for part in seeds.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise UsageError(f"--seeds {seeds!r}: write numbers and ranges, for example 0-63 or 43,44")
        stop = int(last) if dash else int(first)
        if stop < int(first):
            raise UsageError(f"--seeds {seeds!r}: the range {part.strip()} runs backwards")
        found += range(int(first), stop + 1)
    return tuple(dict.fromkeys(found))


def parse_open_seeds(seeds: Seeds) -> tuple[tuple[int, ...], bool]:
    """``"100-"`` -> ((100,), True): from there on without end; else as ``parse_seeds``, False."""
    if isinstance(seeds, str):
        first = seeds.removesuffix("-")
        if seeds.endswith("-") and first.isdigit():
            return (int(first),), True
    return parse_seeds(seeds), False
