"""The recipes by name: the published ones as far as they are known, and our own.

Presets name their published recipe; where one name stands for several sizes of a family, each size
has its own entry here. ``notes`` says what could not be confirmed and where we differ. Common to
all: data are our own counter-based stream (nobody's generator but R456's can be replayed), and
validation pairs are the seed's own hold-out, never pairs of a published test set or of AdderBoard's
seed 2025, on which some of the published runs chose checkpoints.
"""

import dataclasses
import difflib

from adderlab.errors import UsageError
from adderlab.models.preset import Preset
from adderlab.task.curriculum import Phase
from adderlab.training.aim import Aim
from adderlab.training.checks import check_start
from adderlab.training.circle import Circle
from adderlab.training.draws import Draws
from adderlab.training.freeze import Freeze
from adderlab.training.recipe import PUBLISHED_456, UNIFORM_LENGTHS, UNIFORM_PAIRS, NamedRecipe, Recipe
from adderlab.training.recipes_columns import LOW_RANK_LINE, MICROADDER_LINE, SPLIT_LINE
from adderlab.training.recipes_rotary import M10S_LINE, MLX_LINE


def _circle(steps: int, release: float) -> Recipe:
    """The published recipe, from positions on a circle that are released at a fraction of the run."""
    return dataclasses.replace(
        PUBLISHED_456,
        steps=steps,
        circle=Circle(),
        freeze=(Freeze(prefix="pos_emb.A", until=release, then=0.3),),
    )


def _aimed(steps: int) -> Recipe:
    """The circle, with queries that look at their columns and pairs of all lengths from the first step:
    what the digits' phases were for is there already."""
    return dataclasses.replace(
        _circle(steps, 0.2),
        aim=Aim(parameters=("blocks.0.attn.qkv_Bq",), steps=200, lr=0.02, pairs=32),
        data=UNIFORM_LENGTHS,
        warmup_steps=700,
        min_lr_ratio=0.0,
        eval_interval=500,
    )


_THIRTY_TWO = Draws(halvings=(4000, 7000, 10_000, 13_000, 16_000))


_DRAWN_67 = Recipe(
    steps=40_000,
    batch_size=256,
    warmup_steps=1000,
    min_lr_ratio=0.0,
    data=UNIFORM_LENGTHS,
    aim=Aim(parameters=("pos_emb", "blocks.0.attn.qk_shared", "blocks.0.attn.query")),
    draws=_THIRTY_TWO,
)
_ROTARY = Recipe(
    steps=60_000,
    batch_size=128,
    lr=0.01,
    warmup_steps=0,
    min_lr_ratio=0.0,
    data=UNIFORM_LENGTHS,
    draws=_THIRTY_TWO,
)


_DRAWN_7 = Recipe(
    steps=40_000,
    batch_size=256,
    lr=0.04,
    warmup_steps=1000,
    min_lr_ratio=0.0,
    weight_decay=0.0,
    data=UNIFORM_PAIRS,
    aim=Aim(parameters=("blocks.0.attn.q_proj",), steps=200, lr=0.2),
    draws=Draws(halvings=(2000, 3000, 4000, 6000, 8000)),
)


def _quick_circle() -> Recipe:
    recipe = _circle(13_500, 0.5)
    phases = (
        Phase(until=1000, max_digits=3),
        Phase(until=3500, max_digits=6),
        Phase(until=None, max_digits=10),
    )
    curriculum = dataclasses.replace(recipe.data.curriculum, phases=phases)
    return dataclasses.replace(
        recipe,
        warmup_steps=700,
        data=dataclasses.replace(recipe.data, curriculum=curriculum),
        eval_interval=500,
    )


_OWN = (
    NamedRecipe(
        name="aimed",
        recipe=_aimed(36_000),
        source="adderlab (docs/why-runs-fail.md)",
        notes="for presets with learned low-rank positions and a query factor of its own: positions "
        "start on a circle, the query factor is fitted to look at its column before the first step, "
        "pairs have all lengths from the start, the positions stand still for 20% of the run",
    ),
    NamedRecipe(
        name="aimed-13k",
        recipe=dataclasses.replace(
            _aimed(13_500), min_lr_ratio=0.1, aim=Aim(parameters=("blocks.0.attn.qkv_Bq",))
        ),
        source="adderlab (docs/why-runs-fail.md)",
        notes="aimed in fewer steps: the first proof comes sooner",
    ),
    NamedRecipe(
        name="aimed-two",
        recipe=dataclasses.replace(_aimed(36_000), draws=Draws(halvings=(18_000,))),
        source="adderlab (docs/why-runs-fail.md)",
        notes="aimed, from two draws a seed, of which the better goes on at half of the run: 54,000 "
        "steps in all",
    ),
    NamedRecipe(
        name="drawn-122",
        recipe=_ROTARY,
        source="adderlab (docs/why-runs-fail.md)",
        notes="for the rotary line: its first stage, with pairs of all lengths and the best of 32 draws",
    ),
    NamedRecipe(
        name="drawn-rotary",
        recipe=dataclasses.replace(_ROTARY, aim=Aim(parameters=("blocks.0.attn.q", "blocks.0.attn.k"))),
        source="adderlab (docs/why-runs-fail.md)",
        notes="for the rotary line below 122 parameters: drawn-122 with attention fitted to look at its "
        "column",
    ),
    NamedRecipe(
        name="drawn-67",
        recipe=_DRAWN_67,
        source="adderlab (docs/why-runs-fail.md)",
        notes="for MicroAdder's line: 32 draws a seed, of which the best half goes on at 4,000, 7,000, "
        "10,000, 13,000 and 16,000 steps; attention fitted to look at its column; pairs of all lengths",
    ),
    NamedRecipe(
        name="quick-7",
        recipe=dataclasses.replace(
            _DRAWN_7,
            steps=8000,
            warmup_steps=250,
            eval_interval=250,
            aim=Aim(parameters=("blocks.0.attn.q_proj",), steps=60, lr=0.5, pairs=2),
            draws=Draws(halvings=(250, 500, 750, 1000, 1250, 1500, 2000)),
        ),
        source="adderlab (docs/smallest.md)",
        notes="drawn-7 for the 7p, which learns within some hundred steps or never: 128 draws, a "
        "fifth of the steps",
    ),
    NamedRecipe(
        name="drawn-7",
        recipe=_DRAWN_7,
        source="adderlab (docs/smallest.md)",
        notes="for our own line of 11 parameters and fewer: uniform pairs from the first step, queries "
        "fitted to look at their column, the best of 32 draws",
    ),
    NamedRecipe(
        name="circle",
        recipe=_circle(54_000, 0.35),
        source="adderlab (docs/why-runs-fail.md)",
        notes="for presets with learned low-rank positions: they start on a circle, stand still for "
        "35% of the run and learn at 0.3 x the rate afterwards",
    ),
    NamedRecipe(
        name="circle-27k",
        recipe=dataclasses.replace(_circle(27_000, 0.5), eval_interval=500),
        source="adderlab (docs/why-runs-fail.md)",
        notes="circle in half the steps, released at 50%",
    ),
    NamedRecipe(
        name="circle-13k",
        recipe=_quick_circle(),
        source="adderlab (docs/why-runs-fail.md)",
        notes="circle in a quarter of the steps, data phases and warm-up halved, released at 50%: fewer "
        "seeds succeed, but the first proof comes sooner",
    ),
)

RECIPES: dict[str, NamedRecipe] = {
    each.name: each
    for each in (*LOW_RANK_LINE, *SPLIT_LINE, *MICROADDER_LINE, *MLX_LINE, *M10S_LINE, *_OWN)
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
    "122p": "drawn-122",
    "67p": "drawn-67",
    "57p": "drawn-67",
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
