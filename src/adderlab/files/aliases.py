"""Names that files of earlier versions have, and what stands for them now: the one table of aliases.

Files are upgraded on reading; what is written has the new names only. ``--set recipe.aim...`` and
``--recipe aimed`` are read through the same table, so that commands in notes and papers go on working.
"""

from collections.abc import Mapping
from typing import Any

SETTINGS: Mapping[str, Mapping[str, str]] = {
    "Recipe": {"aim": "prefit", "spread": "wide_init", "draws": "restarts"},
    "Restarts": {"halvings": "halve_at"},
    "Stage": {"polish": "lbfgs"},
}
"""Dataclass -> old setting -> setting."""

RECIPES: Mapping[str, str] = {}
"""Old name of a recipe -> name."""


def setting(kind: str, name: str) -> str:
    """The setting of dataclass ``kind`` that ``name``, new or old, stands for."""
    return SETTINGS.get(kind, {}).get(name, name)


def old_setting(kind: str, name: str) -> str:
    """What files of version 0.1 call the setting ``name`` of dataclass ``kind``."""
    return next((old for old, new in SETTINGS.get(kind, {}).items() if new == name), name)


def upgraded_recipe(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's settings as a file has them, under the names of today."""
    recipe = {setting("Recipe", name): value for name, value in settings.items()}
    if isinstance(recipe.get("restarts"), dict):
        recipe["restarts"] = {setting("Restarts", k): v for k, v in recipe["restarts"].items()}
    if isinstance(recipe.get("stages"), list):
        recipe["stages"] = [
            {setting("Stage", k): v for k, v in each.items()} if isinstance(each, dict) else each
            for each in recipe["stages"]
        ]
    return recipe
