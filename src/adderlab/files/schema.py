"""Frozen configuration dataclasses to and from JSON, strictly; and the one table of aliases, names that
files of earlier versions have, and what stands for them now.

A file with an unknown key, a missing version or a value of the wrong type is refused with one line
that names the place: a silently ignored setting is how published commands stopped working.

Files are upgraded on reading; what is written has the new names only. ``--set recipe.aim...`` and
``--recipe aimed`` are read through the same table, so that commands in notes and papers go on working.
"""

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from adderlab.errors import UsageError
from adderlab.format import did_you_mean

T = TypeVar("T")
IMPLIED = {"implied": True}
"""Metadata of a field that is left out of JSON while it has its default: what was written, and hashed,
before there was such a field stays the same."""


def to_dict(config: Any, *, old_names: bool = False) -> dict[str, Any]:
    """A (nested) dataclass as plain JSON values; tuples become lists.

    ``old_names``: under the names that version 0.1 wrote, to recognise what it hashed.
    """
    assert dataclasses.is_dataclass(config)
    plain = {
        field.name: _plain(getattr(config, field.name), old_names)
        for field in dataclasses.fields(config)
        if not (field.metadata.get("implied") and getattr(config, field.name) == field.default)
    }
    return downgraded(type(config).__name__, plain) if old_names else plain


def _plain(value: Any, old_names: bool) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value, old_names=old_names)
    if isinstance(value, tuple):
        return [_plain(item, old_names) for item in value]
    return value


def _no_setting(where: str, name: str, names: Iterable[str]) -> str:
    """Of a name without a like, all that there are."""
    return f"{where} has no setting {name!r}{did_you_mean(name, names, otherwise='it has')}"


def from_dict(kind: type[T], data: Any, where: str = "") -> T:
    """Build dataclass ``kind`` from JSON values; fields left out take their defaults.

    Raises ``UsageError`` naming the key for unknown keys, missing required keys and wrong types.
    """
    where = where or kind.__name__
    if not isinstance(data, Mapping):
        raise UsageError(f"{where} must be a table of settings, not {data!r}")
    data = upgraded(kind.__name__, data)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = [key for key in data if key not in fields]
    if unknown:
        raise UsageError(_no_setting(where, unknown[0], fields))
    hints = _hints(kind)
    values = {key: _convert(hints[key], value, f"{where}.{key}") for key, value in data.items()}
    required = [
        name
        for name, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in values]
    if missing:
        raise UsageError(f"{where} lacks the setting {missing[0]!r}")
    return kind(**values)


_hints = functools.cache(typing.get_type_hints)
"""Evaluating what is written beside the fields takes longer than reading a file of rates."""


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        kinds = [arg for arg in args if arg is not type(None)]
        return _convert(_kind_of(kinds, value), value, where)
    if origin is Literal:
        if value not in args:
            raise UsageError(f"{where} must be one of {', '.join(map(str, args))}, not {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise UsageError(f"{where} must be a list, not {value!r}")
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(kinds) != len(value):
            raise UsageError(f"{where} must have {len(kinds)} entries, not {len(value)}")
        return tuple(
            _convert(kind, item, f"{where}[{i}]")
            for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
        )
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UsageError(f"{where} must be {hint.__name__}, not {value!r}")
    return value


def _kind_of(kinds: list[Any], value: Any) -> Any:
    """Of several dataclasses the one that has every setting of a table; the first if none has."""
    if len(kinds) > 1 and isinstance(value, Mapping):
        for kind in kinds:
            names = {field.name for field in dataclasses.fields(kind)}
            if set(upgraded(kind.__name__, value)) <= names:
                return kind
    return kinds[0]


def with_settings(config: T, settings: Iterable[tuple[str, str]], where: str = "") -> T:
    """``config`` with the setting at each dotted path replaced by its text, read as JSON or a word.

    ``with_settings(recipe, [("lr", "0.01")], "recipe")``. ``where``: what the user calls ``config``;
    default its class. All are put in place and then checked once, in whatever order they come: a
    setting may need another. Raises ``UsageError`` naming an unknown key.
    """
    where = where or type(config).__name__
    data = to_dict(config)
    given: list[dict[str, Any]] = []
    for path, text in settings:
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        node = data
        (*parents, leaf), holder = _new_names(type(config), path.split("."))
        for key in parents:
            if not isinstance(node.get(key), dict):
                raise UsageError(_no_setting(where, key, node))
            node = node[key]
        # A table that was itself given need not name what has a default.
        implied = leaf in _implied(holder)
        if leaf not in node and not implied and not any(node is table for table in given):
            raise UsageError(_no_setting(where, path, node))
        node[leaf] = value
        if isinstance(value, dict):
            given.append(value)
    return from_dict(type(config), data, where)


def _implied(kind: Any) -> set[str]:
    """Fields of a dataclass that JSON may leave out."""
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    return {field.name for field in fields if field.metadata.get("implied")}


def _new_names(kind: Any, path: list[str]) -> tuple[list[str], Any]:
    """``["aim", "below"]`` of a recipe -> ``["prefit", "below"]``, and the class that has the last."""
    names, holder = [], kind
    for name in path:
        name = setting(getattr(kind, "__name__", ""), name)
        names.append(name)
        holder = kind
        hint = typing.get_type_hints(kind).get(name) if dataclasses.is_dataclass(kind) else None
        kind = next((arg for arg in (hint, *get_args(hint)) if dataclasses.is_dataclass(arg)), None)
    return names, holder


# Aliases.


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
