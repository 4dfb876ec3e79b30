"""How a table of recipes is written: each entry names its parent and what differs from it.

An entry without a parent differs from ``Recipe``'s own defaults, those of the published 456p program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adderlab.training.recipe import Recipe, Stage


@dataclass(frozen=True, kw_only=True)
class NamedRecipe:
    """A recipe and where it comes from."""

    name: str
    recipe: Recipe
    source: str
    """Repository, or the page of ours, that it is taken from."""
    notes: str = ""
    """What it is for, what could not be confirmed, and where we differ from the source."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A recipe as its differences. What is None is the parent's."""

    parent: str | None
    """Name of another entry; None: the defaults of ``Recipe``."""
    source: str | None
    notes: str | None
    then: tuple[Stage, ...]
    """Stages after the parent's."""
    changes: Mapping[str, Any]
    """Fields of ``Recipe`` with other values than the parent's."""


def entry(
    parent: str | None = None,
    *,
    source: str | None = None,
    notes: str | None = None,
    then: tuple[Stage, ...] = (),
    **changes: Any,
) -> Entry:
    """See ``Entry``."""
    return Entry(parent=parent, source=source, notes=notes, then=then, changes=changes)


def resolve(entries: Mapping[str, Entry]) -> dict[str, NamedRecipe]:
    """Every entry as a whole recipe, in the order of the table; parents may stand anywhere in it."""
    whole: dict[str, NamedRecipe] = {}

    def of(name: str) -> NamedRecipe:
        if name not in whole:
            own = entries[name]
            parent = NamedRecipe(name="", recipe=Recipe(), source="")
            if own.parent is not None:
                parent = of(own.parent)
            recipe = dataclasses.replace(parent.recipe, **own.changes)
            whole[name] = NamedRecipe(
                name=name,
                recipe=dataclasses.replace(recipe, stages=(*recipe.stages, *own.then)),
                source=parent.source if own.source is None else own.source,
                notes=parent.notes if own.notes is None else own.notes,
            )
        return whole[name]

    return {name: of(name) for name in entries}
