"""The recipes by name: the published ones as far as they are known, and our own.

Presets name their published recipe; where one name stands for several sizes of a family, each size
has its own entry here. ``notes`` says what could not be confirmed and where we differ. Common to
all: data are our own counter-based stream (nobody's generator but R456's can be replayed), and
validation pairs are the seed's own hold-out, never pairs of a published test set or of AdderBoard's
seed 2025, on which some of the published runs chose checkpoints.
"""

from __future__ import annotations

import difflib

from adderlab.errors import UsageError
from adderlab.files import schema
from adderlab.models.transformer import Architecture
from adderlab.models.zoo import Preset
from adderlab.recipes.auto import SOURCE, auto
from adderlab.recipes.entries import NamedRecipe, resolve
from adderlab.recipes.own import OWN
from adderlab.recipes.published import PUBLISHED
from adderlab.training.recipe import Recipe
from adderlab.training.start import check_start

RECIPES: dict[str, NamedRecipe] = resolve({**PUBLISHED, **OWN})

_BEST = {
    "456p": "prefit-restarts2-anneal",
    "335p": "prefit-scale20-anneal",
    "311p": "prefit-scale20-anneal",
    "305p": "prefit-scale20-anneal",
    "275p": "prefit-scale20-anneal",
    "274p": "prefit-scale20-anneal",
    "262p": "prefit-scale20-anneal",
    "113p": "generic-89-64",
    "101p": "generic-89-64",
    "89p": "wide-89",
    "86p": "generic-89-64",
    "83p": "generic-89-64",
    "74p": "restarts-67-anneal",
    "67p": "restarts-67-anneal",
    "62p": "wide-62-long",
    "58p": "wide-44-anneal",
    "57p": "restarts-57",
    "55p": "wide-44-anneal",
    "52p": "generic-89",
    "45p": "wide-44-anneal",
    "44p": "wide-44-anneal3",
    "36p": "wide-36-anneal",
    "11p": "generic-8",
    "8p": "generic-8",
    "7p": "generic-7",
}
"""Measured (docs/rates.md): the highest share of proved seeds, or a generic recipe within ten points of
it."""


def get_named(name: str) -> NamedRecipe:
    """The recipe of that name, today's or an old one, with its source; ``UsageError`` lists close
    names."""
    name = schema.recipe_name(name)
    if name == "auto":
        raise UsageError(
            "the recipe auto is chosen for a model: name that too, for example recipe('auto', '67p')"
        )
    if name in RECIPES:
        return RECIPES[name]
    close = difflib.get_close_matches(name, RECIPES, n=4, cutoff=0.4) or list(RECIPES)
    raise UsageError(
        f"no recipe {name!r}; close names: best, quick, published, auto, {', '.join(close)}"
    )


def get_recipe(name: str) -> Recipe:
    """The recipe of that name; ``UsageError`` lists close names."""
    return get_named(name).recipe


def published_name(preset: Preset) -> str:
    """Name of the preset's published recipe; without one that is known, that of the 456p."""
    return preset.recipe or "r456-54k"


def best_name(preset: Preset) -> str:
    """Name of the recipe to train a preset by, which ``adderlab zoo`` names with its measured rate.
    Where none was measured: the circle for learned positions of low rank, otherwise auto."""
    if _short(preset):
        return "short"
    return _BEST.get(_architecture(preset)) or _circle_or_auto(preset, "circle")


def quick_name(preset: Preset) -> str:
    """Name of the recipe with which fresh seeds come soonest to a proved model, failures included."""
    if _short(preset):
        return "short"
    quick = {**_BEST, "456p": "prefit-9k-anneal-3k", "44p": "wide-44-anneal"}
    return quick.get(_architecture(preset)) or _circle_or_auto(preset, "circle-13k")


FEW_COLUMNS = 5


def _short(preset: Preset) -> bool:
    """Whether the recipe of short numbers serves this preset."""
    if preset.config.columns > FEW_COLUMNS:
        return False
    try:
        check_start(preset.config, RECIPES["short"].recipe)
    except UsageError:
        return False
    return True


def _architecture(preset: Preset) -> str:
    """The preset's name without a size: what is best for ten columns is tried first for others."""
    return preset.name.partition("@")[0]


def _circle_or_auto(preset: Preset, circle: str) -> str:
    try:
        check_start(preset.config, RECIPES[circle].recipe)
    except UsageError:
        return "auto"
    return circle


def named_for(
    model: Preset | Architecture,
    name: str,
    *,
    config: Architecture | None = None,
    steps: int | None = None,
) -> NamedRecipe:
    """The preset's "published", "best" or "quick" recipe, or one by its name; of a user's file "best"
    and "quick" are "auto". ``config``: the preset with changed settings. ``steps``: how many "auto" has,
    which is chosen for the model. Raises ``UsageError``."""
    if isinstance(model, Preset):
        own = {"published": published_name, "best": best_name, "quick": quick_name}
        name, config = own[name](model) if name in own else name, config or model.config
    else:
        if name == "published":
            raise UsageError(
                "a file's model has no published recipe: take --recipe auto, or another name"
            )
        name, config = "auto" if name in ("best", "quick") else name, model
    if name != "auto":
        return get_named(name)
    return NamedRecipe(name=name, recipe=auto(config, steps), source=SOURCE)


def recipe_for(
    model: Preset | Architecture, name: str = "published", *, config: Architecture | None = None
) -> Recipe:
    """See ``named_for``."""
    return named_for(model, name, config=config).recipe
