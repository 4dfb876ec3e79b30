"""Names that files of earlier versions have, and what stands for them now: the one table of aliases.

Files are upgraded on reading; what is written has the new names only. ``--set recipe.aim...`` and
``--recipe aimed`` are read through the same table, so that commands in notes and papers go on working.
"""

from collections.abc import Mapping, Sequence
from typing import Any

SETTINGS: Mapping[str, Mapping[str, str]] = {
    "Recipe": {"aim": "prefit", "spread": "wide_init", "draws": "restarts"},
    "Restarts": {"halvings": "halve_at"},
    "Stage": {"polish": "lbfgs"},
}
"""Dataclass -> old setting -> setting."""

VALUES: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "ModelConfig": {"query_map": {"turn": "scaled_rotation"}},
}
"""Dataclass -> setting -> old value -> value."""

REMOVED: Mapping[str, Mapping[str, Any]] = {
    "Circle": {"digit_radius": 0.0},
    "Recipe": {"stop_after_perfect": 0},
    "WideInit": {"maps": "xavier"},
}
"""Dataclass -> setting that is no more -> the only value that any recipe gave it."""

RECIPES: Mapping[str, str] = {
    "aimed": "prefit",
    "aimed-13k": "prefit-13k",
    "aimed-two": "prefit-restarts2",
    "aimed-sharp": "prefit-scale20",
    "aimed-sharper": "prefit-scale100",
    "aimed-sharp-finish": "prefit-scale20-anneal",
    "drawn-122": "restarts-122",
    "drawn-rotary": "restarts-rotary",
    "drawn-67": "restarts-67",
    "drawn-67-finish": "restarts-67-anneal",
    "drawn-7": "restarts-7",
    "quick-7": "restarts-7-8k",
    "spread-89": "wide-89",
    "spread-62": "wide-62",
    "spread-62-long": "wide-62-long",
    "spread-44": "wide-44",
    "spread-44-finish": "wide-44-anneal",
    "spread-36": "wide-36",
    "spread-36-finish": "wide-36-anneal",
    # Controls in records/rates, named by hand when they were measured.
    "aimed-13k-free": "prefit-13k-no-freeze",
    "aimed-13k-no-circle": "prefit-13k-no-circle",
    "aimed-13k-not-aimed": "prefit-13k-no-prefit",
    "drawn-67-longer": "restarts-67-longer",
    "drawn-7-even": "restarts-7-even",
    "spread-62-40k": "wide-62-40k",
    "spread-62-one": "wide-62-one",
    "spread-62-one-unaimed": "wide-62-one-no-prefit",
    "spread-62-one-unscaled": "wide-62-one-no-scale",
    "spread-62-one-unsigned": "wide-62-one-no-signs",
}
"""Old name of a recipe -> name."""


def recipe_name(name: str) -> str:
    """The name of today of a recipe, by its old name or by its new one; what follows a ``+`` (settings
    changed by hand) stays as it is."""
    head, plus, changes = name.partition("+")
    return RECIPES.get(head, head) + plus + changes


def command(words: Sequence[str]) -> list[str]:
    """A command of an earlier version under the names of today: its recipes and ``--set`` paths."""
    renamed: list[str] = []
    for word in words:
        flag = renamed[-1] if renamed else ""
        if flag in ("--recipe", "--name"):
            word = recipe_name(word)
        elif word.startswith("recipe.") and "=" in word:
            path, _, value = word.partition("=")
            _, first, *rest = path.split(".")
            rest = [setting("Restarts", each) for each in rest] if first == "draws" else rest
            word = ".".join(["recipe", setting("Recipe", first), *rest]) + f"={value}"
        renamed.append(word)
    return renamed


def setting(kind: str, name: str) -> str:
    """The setting of dataclass ``kind`` that ``name``, new or old, stands for."""
    return SETTINGS.get(kind, {}).get(name, name)


def upgraded(kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of dataclass ``kind`` as a file has them, under the names and values of today.

    A setting that is no more is left out where it had its only value; otherwise it stays, for the
    schema to refuse it by its name.
    """
    removed, values = REMOVED.get(kind, {}), VALUES.get(kind, {})
    result = {}
    for old, value in settings.items():
        name = setting(kind, old)
        if name in removed and value == removed[name]:
            continue
        if isinstance(value, str):
            value = values.get(name, {}).get(value, value)
        result[name] = value
    return result


def downgraded(kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of ``upgraded``: as version 0.1 wrote them, to recognise what it hashed."""
    names = {new: old for old, new in SETTINGS.get(kind, {}).items()}
    result = {}
    for name, value in settings.items():
        if isinstance(value, str):
            values = {new: old for old, new in VALUES.get(kind, {}).get(name, {}).items()}
            value = values.get(value, value)
        result[names.get(name, name)] = value
    return {**result, **REMOVED.get(kind, {})}


def upgraded_recipe(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's settings as a file has them, and those of its parts, under the names of today."""
    recipe = upgraded("Recipe", settings)
    for name, kind in (("restarts", "Restarts"), ("circle", "Circle"), ("wide_init", "WideInit")):
        if isinstance(recipe.get(name), dict):
            recipe[name] = upgraded(kind, recipe[name])
    if isinstance(recipe.get("stages"), list):
        recipe["stages"] = [
            upgraded("Stage", each) if isinstance(each, dict) else each for each in recipe["stages"]
        ]
    return recipe
