"""What there is to choose from: architectures and recipes by name, with what was measured of them, and
every setting of a model and a recipe.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import os
import textwrap
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from adderlab.errors import UsageError
from adderlab.files import schema
from adderlab.files.schema import to_dict
from adderlab.format import percent
from adderlab.models.config import ModelConfig
from adderlab.models.describe import parameter_rows, parameter_table, ties
from adderlab.models.tables import why_no_tables
from adderlab.models.zoo import PRESETS, Preset, at_size, get_preset
from adderlab.recipes import best_name, get_recipe, recipe_for
from adderlab.report.describe import share
from adderlab.results import Result, html_table, text_table
from adderlab.runs.metadata import kind_of_start
from adderlab.study.rate import RateRecord, default_folder, read_rates
from adderlab.training.recipe import Recipe

LONGEST = 36
"""Characters of a cell in the table for people."""
INTRODUCTION = """\
# The zoo

Written by `adderlab zoo --markdown`. Counts are exact and tested; published figures are their
authors'. `adderlab zoo NAME` prints a model's parameter table.

**best recipe**: what `--recipe best`, the default, trains by; **start**: whether it is *generic*
or *informed* ([statistics.md](statistics.md#generic-and-informed-starts)); **rate**: seeds proved on all
10^20 pairs by it, with the 95% interval ([rates.md](rates.md)); **proved**: whether any
seed was, by any recipe.
"""


@dataclass(frozen=True, kw_only=True, repr=False)
class Zoo(Result):
    """Presets with the rates that were measured of them. Iterating gives the presets."""

    presets: tuple[Preset, ...]
    rates: tuple[RateRecord, ...]
    """Measured rates, of these presets and others."""

    def __iter__(self) -> Iterator[Preset]:
        return iter(self.presets)

    def __len__(self) -> int:
        return len(self.presets)

    def rate(self, preset: Preset) -> RateRecord | None:
        """What was measured of the recipe that "best" names; None where nothing was."""
        wanted = (preset.name, best_name(preset))
        return next((each for each in self.rates if (each.preset, each.recipe) == wanted), None)

    def to_dicts(self) -> list[dict[str, Any]]:
        """A row for every preset; ``rate`` and ``proved`` are None where nothing was measured."""
        return [self._entry(preset) for preset in self.presets]

    def to_dict(self) -> dict[str, Any]:
        """Name -> the preset's row."""
        return {row["name"]: row for row in self.to_dicts()}

    def describe(self) -> list[str]:
        """A table; of a single preset all that is known."""
        if len(self.presets) == 1:
            return self._describe_one(self.presets[0])
        hint = "adderlab zoo NAME prints a model's parameters, ties, recipe and source."
        return [*text_table(self._rows()), hint]

    def markdown(self) -> str:
        """A table of all, then ties and notes of each."""
        names = (
            "name",
            "parameters",
            "layout",
            "shape",
            "published",
            "published rate",
            "published recipe",
            "best recipe",
            "start",
            "rate",
            "proved",
            "source",
        )
        lines = [*INTRODUCTION.splitlines(), "", f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
        for p in self.presets:
            cells = (p.name, f"{p.parameters:,}", p.config.layout, _shape(p.config), p.published)
            recipes = (p.published_rate, p.recipe or "none", best_name(p), _start(p))
            lines.append(f"| {' | '.join((*cells, *recipes, *self._measured(p), p.source))} |")
        for p in self.presets:
            lines += ["", f"## {p.name}", ""]
            lines += [f"- {line}" for line in ties(p.config)] or ["- no ties but the head's"]
            if p.notes:
                lines.append(f"- note: {p.notes}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return html_table(self._rows())

    def _entry(self, preset: Preset) -> dict[str, Any]:
        best = self.rate(preset)
        measured = best.pure if best else None
        _, proved = self._measured(preset)
        return {
            "name": preset.name,
            "parameters": preset.parameters,
            "layout": preset.config.layout,
            "shape": _shape(preset.config),
            "published": preset.published,
            "published_rate": preset.published_rate,
            "recipe": preset.recipe,
            "best_recipe": best_name(preset),
            "start": _start(preset),
            "source": preset.source,
            "notes": preset.notes,
            "table_form": why_no_tables(preset.config) is None,
            "rate": {**to_dict(measured), "recipe": best.recipe} if best and measured else None,
            "proved": {"yes": True, "with repair": True, "no": False}.get(proved),
        }

    def _measured(self, preset: Preset) -> tuple[str, str]:
        """The best recipe's rate; whether any seed of any recipe was proved: yes, with repair or no.
        ``-`` where nothing was measured."""
        best = self.rate(preset)
        rate = "-"
        if best is not None and best.pure is not None:
            pure = best.pure
            rate = f"{pure.count}/{pure.n} [{percent(pure.low)}, {percent(pure.high)}]"
        of_preset = [each for each in self.rates if each.preset == preset.name and each.pure is not None]
        seeds = [seed for record in of_preset for seed in record.results]
        routes = {seed.route for seed in seeds}
        proved = "yes" if "pure" in routes else "with repair" if "assisted" in routes else "no"
        return rate, proved if seeds else "-"

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        for p in self.presets:
            published = p.published if len(p.published) <= LONGEST else p.published[: LONGEST - 1] + "…"
            rate, proved = self._measured(p)
            rows.append(
                {
                    "name": p.name,
                    "parameters": p.parameters,
                    "layout": p.config.layout,
                    "shape": _shape(p.config),
                    "published": published,
                    "rate": rate,
                    "proved": proved,
                }
            )
        return rows

    def _describe_one(self, preset: Preset) -> list[str]:
        config = preset.config
        lines = [
            f"{preset.name}: {preset.parameters:,} parameters, {_shape(config)}, layout {config.layout}",
            f"source: {preset.source}",
        ]
        if preset.published:
            lines += [
                f"published: {preset.published}; success rate: {preset.published_rate}",
                f"published recipe: {preset.recipe or 'none'}; best recipe: {best_name(preset)}, "
                f"start {_start(preset)}",
            ]
        lines += [
            f"measured: recipe {each.recipe}, {share(each.pure)} of seeds {each.seeds} proved on all "
            f"pairs; start {each.start}"
            for each in self.rates
            if each.preset == preset.name and each.pure is not None
        ]
        if preset.notes:
            lines.append(f"note: {preset.notes}")
        if ties(config):
            lines += ["ties:", *(f"  {line}" for line in ties(config))]
        return [*lines, *text_table(parameter_rows(parameter_table(config)))]


def presets(
    *names: str,
    records: str | os.PathLike[str] | None = None,
    columns: int | None = None,
    base: int | None = None,
) -> Zoo:
    """The architectures with these names, all of them without a name: published ones and our own.

    ``records``: a folder of measured rates; default records/rates of the checkout, if there is one.
    ``columns``, ``base``: for numbers of so many digits; default 10 of base 10, as published.
    Raises ``UsageError`` for a name that there is not, ``Failure`` for a damaged record.
    """
    found = tuple(get_preset(name) for name in names) if names else tuple(PRESETS.values())
    chosen = tuple(at_size(each, columns=columns, base=base) for each in found)
    folder = default_folder() if records is None else Path(records)
    return Zoo(presets=chosen, rates=tuple(read_rates(folder)) if folder else ())


def preset(name: str, *, columns: int | None = None, base: int | None = None) -> Preset:
    """The architecture of that name: its configuration and where it comes from; ``columns``, ``base``:
    for numbers of so many digits.

    Raises ``UsageError`` that lists close names.
    """
    return at_size(get_preset(name), columns=columns, base=base)


def recipe(name: str = "best", preset: str | Preset | None = None) -> Recipe:
    """How to train: every setting of a recipe, frozen; ``dataclasses.replace`` changes one.

    ``name``: best (as ``presets`` names it), quick (soonest to a proof) and published are those of a
    ``preset``; any other name needs none. Raises ``UsageError`` that lists close names.
    """
    if preset is None:
        return get_recipe(name)
    return recipe_for(get_preset(preset) if isinstance(preset, str) else preset, name)


def _start(preset: Preset) -> str:
    """Of the recipe that "best" names: generic, or informed and by what."""
    name = best_name(preset)
    if name == "auto":
        return "generic"  # whatever it chooses for the model, which takes a moment
    return kind_of_start(to_dict(get_recipe(name)))


def _shape(config: ModelConfig) -> str:
    """Width, heads (query heads / key heads where they differ) and hidden units."""
    heads = f"h{config.n_head}"
    if config.kv_heads != config.n_head:
        heads += f"/{config.kv_heads}"
    shape = f"d{config.d_model} {heads} ff{config.d_ff}"
    return shape if config.n_layer == 1 else f"{config.n_layer} layers {shape}"


# Every setting of a model and a recipe: its type, its default and what it does.
#
# All of it is read from the dataclasses themselves and from the strings below their fields, so that what
# ``--set`` and ``set=`` accept is what is described.


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
