"""The recipes by name: the published ones as far as they are known, and our own.

Presets name their published recipe; where one name stands for several sizes of a family, each size
has its own entry here. ``notes`` says what could not be confirmed and where we differ. Common to
all: data are our own counter-based stream (nobody's generator but R456's can be replayed), and
validation pairs are the seed's own hold-out, never pairs of a published test set or of AdderBoard's
seed 2025, on which some of the published runs chose checkpoints.
"""

import difflib

from adderlab.errors import UsageError
from adderlab.models.zoo import Preset
from adderlab.recipes.own import OWN_LINE
from adderlab.recipes.published import LOW_RANK_LINE, M10S_LINE, MICROADDER_LINE, MLX_LINE, SPLIT_LINE
from adderlab.training.recipe import NamedRecipe, Recipe
from adderlab.training.start import check_start

RECIPES: dict[str, NamedRecipe] = {
    each.name: each
    for each in (*LOW_RANK_LINE, *SPLIT_LINE, *MICROADDER_LINE, *MLX_LINE, *M10S_LINE, *OWN_LINE)
}

_OF_SIZE = {
    "113p": "m10s-113",
    "101p": "m10s-101",
    "96p": "m10s-96",
    "95p": "m10s-95",
    "86p": "m10s-86",
    "83p": "m10s-83",
    "52p": "vijec-52",
    "44p": "m10s-44",
    "41p": "m10s-41",
    "36p": "m10s-36",
}
"""Sizes whose own entry is more exact than their family's."""


def get_named(name: str) -> NamedRecipe:
    """The recipe of that name with its source; ``UsageError`` lists close names."""
    if name in RECIPES:
        return RECIPES[name]
    close = difflib.get_close_matches(name, RECIPES, n=4, cutoff=0.4) or list(RECIPES)
    raise UsageError(f"no recipe {name!r}; close names: best, quick, published, {', '.join(close)}")


def get_recipe(name: str) -> Recipe:
    """The recipe of that name; ``UsageError`` lists close names."""
    return get_named(name).recipe


def published_name(preset: Preset) -> str:
    """Name of the preset's published recipe; without one that is known, that of the 456p."""
    return _OF_SIZE.get(preset.name) or preset.recipe or "r456-54k"


_BEST = {
    "456p": "aimed",
    "311p": "aimed-sharp-finish",
    "262p": "aimed-sharp-finish",
    "122p": "drawn-122",
    "89p": "spread-89",
    "74p": "drawn-67-finish",
    "67p": "drawn-67-finish",
    "62p": "spread-62-long",
    "57p": "drawn-67-finish",
    "44p": "spread-44-finish",
    "36p": "spread-36-finish",
    "11p": "drawn-7",
    "8p": "drawn-7",
    "7p": "quick-7",
}
"""Measured best (docs/rates.md)."""


def best_name(preset: Preset) -> str:
    """Name of the recipe that is known to train the preset best; where none was measured to be, the
    circle for learned positions of low rank, and otherwise the published recipe."""
    return _BEST.get(preset.name) or _circle_or_published(preset, "circle")


def quick_name(preset: Preset) -> str:
    """Name of the recipe with which fresh seeds come soonest to a proved model, failures included."""
    quick = {**_BEST, "456p": "aimed-13k"}
    return quick.get(preset.name) or _circle_or_published(preset, "circle-13k")


def _circle_or_published(preset: Preset, circle: str) -> str:
    try:
        check_start(preset.config, RECIPES[circle].recipe)
    except UsageError:
        return published_name(preset)
    return circle


def recipe_for(preset: Preset, name: str = "published") -> Recipe:
    """The preset's published, best or quick recipe, or one by its name. Raises ``UsageError``."""
    own = {"published": published_name, "best": best_name, "quick": quick_name}
    return get_recipe(own[name](preset) if name in own else name)
