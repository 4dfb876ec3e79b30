"""Every setting of a model and a recipe: its type, its default and what it does.

All of it is read from the dataclasses themselves and from the strings below their fields, so that what
``--set`` and ``set=`` accept is what is described.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import textwrap
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from adderlab.errors import UsageError
from adderlab.files import schema
from adderlab.models.config import ModelConfig
from adderlab.results import Result, html_table
from adderlab.training.recipe import Recipe

ROOTS: dict[str, type] = {"model": ModelConfig, "recipe": Recipe}
LONGEST_DEFAULT = 60
"""Characters; a longer default has its own section to be read in."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One field of a configuration."""

    path: str
    """As ``--set`` takes it, for example recipe.prefit.below."""
    type: str
    default: str | None
    """JSON; None where the setting has no default."""
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """The settings of one dataclass, where it is met first."""

    path: str
    kind: str
    about: str
    settings: tuple[Setting, ...]


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings(Result):
    """All settings below a path."""

    sections: tuple[Section, ...]

    def to_dicts(self) -> list[dict[str, Any]]:
        """A row for every setting: path, type, default, meaning."""
        return [dataclasses.asdict(row) for section in self.sections for row in section.settings]

    def to_dict(self) -> dict[str, Any]:
        """Path -> type, default and meaning."""
        return {row.pop("path"): row for row in self.to_dicts()}

    def describe(self) -> list[str]:
        """Three lines a setting at most, in the order of the sections."""
        lines = []
        for section in self.sections:
            lines += [f"{section.path}: {section.about}", ""]
            for row in section.settings:
                default = "required" if row.default is None else f"default {row.default}"
                lines.append(f"  {row.path}  ({row.type}; {default})")
                lines += textwrap.wrap(row.meaning, 100, initial_indent="    ", subsequent_indent="    ")
            lines.append("")
        return lines[:-1]

    def markdown(self) -> str:
        """The same as a table for each section."""
        lines = []
        for section in self.sections:
            lines += [f"## {section.path}", "", f"`{section.kind}`: {section.about}", ""]
            lines += ["| setting | type | default | what it does |", "|---|---|---|---|"]
            for row in section.settings:
                cells = (row.path, row.type, "required" if row.default is None else row.default)
                code = " | ".join(f"`{cell}`".replace("|", "\\|") for cell in cells)
                lines.append(f"| {code} | {row.meaning.replace('|', chr(92) + '|')} |")
            lines.append("")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return "".join(
            html_table([dataclasses.asdict(row) for row in section.settings], section.path)
            for section in self.sections
        )


def settings(path: str = "") -> Settings:
    """The settings at and below ``path``: "model", "recipe", "recipe.prefit", "recipe.lr"; "": all.

    Raises ``UsageError`` for a path that there is not.
    """
    sections: list[Section] = []
    for name, kind in ROOTS.items():
        _collect(kind, name, sections)
    if not path:
        return Settings(sections=tuple(sections))
    chosen = []
    for section in sections:
        rows = section.settings
        if not _below(section.path, path):
            rows = tuple(row for row in rows if row.path == path)
        if rows:
            chosen.append(dataclasses.replace(section, settings=rows))
    if not chosen:
        known = ", ".join(section.path for section in sections)
        raise UsageError(f"no setting {path!r}; there are {known}, and what is in them")
    return Settings(sections=tuple(chosen))


def _below(path: str, above: str) -> bool:
    return path == above or path.startswith((f"{above}.", f"{above}["))


def _collect(kind: type, path: str, sections: list[Section]) -> None:
    """Append the section of ``kind`` and of every dataclass that it holds, each once."""
    if any(section.kind == kind.__name__ for section in sections):
        return
    hints, meanings = typing.get_type_hints(kind), field_docstrings(kind)
    fields = dataclasses.fields(kind)
    rows = tuple(
        Setting(
            path=f"{path}.{field.name}",
            type=_type_text(hints[field.name]),
            default=_default_text(field),
            meaning=meanings.get(field.name, ""),
        )
        for field in fields
    )
    about = _one_line((kind.__doc__ or "").partition("\n\n")[0])
    sections.append(Section(path=path, kind=kind.__name__, about=about, settings=rows))
    for field in fields:
        for inner, suffix in _held(hints[field.name]):
            _collect(inner, f"{path}.{field.name}{suffix}", sections)


def _held(hint: Any) -> list[tuple[type, str]]:
    """Dataclasses that a field holds; those of a list under NAME[]."""
    if dataclasses.is_dataclass(hint):
        return [(typing.cast(type, hint), "")]
    suffix = "[]" if get_origin(hint) is tuple else ""
    return [(kind, f"{suffix}{more}") for arg in get_args(hint) for kind, more in _held(arg)]


def field_docstrings(kind: type) -> dict[str, str]:
    """Field -> the string below it in the class's source, as one line."""
    (body,) = (
        node.body
        for node in ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        if isinstance(node, ast.ClassDef)
    )
    found = {}
    for field, text in itertools.pairwise(body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            found[field.target.id] = _one_line(str(text.value.value))
    return found


def _one_line(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def _type_text(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " | ".join("null" if arg is type(None) else _type_text(arg) for arg in args)
    if origin is Literal:
        return " | ".join(map(str, args))
    if origin is tuple and args[-1] is Ellipsis:
        return f"list of {_type_text(args[0])}"
    if origin is tuple:
        return f"[{', '.join(map(_type_text, args))}]"
    return {bool: "true | false", str: "text"}.get(hint, hint.__name__)


def _default_text(field: dataclasses.Field[Any]) -> str | None:
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING:
        return None
    if dataclasses.is_dataclass(value):
        value = schema.to_dict(value)
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= LONGEST_DEFAULT else "{...}"
