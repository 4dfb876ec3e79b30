"""The zoo: architectures and recipes by name, with what was measured of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adderlab.files.schema import to_dict
from adderlab.format import percent
from adderlab.models.config import ModelConfig
from adderlab.models.describe import parameter_rows, parameter_table, ties
from adderlab.models.tables import why_no_tables
from adderlab.models.zoo import PRESETS, Preset, get_preset
from adderlab.recipes import best_name, get_recipe, recipe_for
from adderlab.report.describe import share
from adderlab.results import Result, html_table, text_table
from adderlab.study.rate import RateRecord, default_folder, read_rates
from adderlab.training.recipe import Recipe

LONGEST = 36
"""Characters of a cell in the table for people."""
INTRODUCTION = """\
# The zoo

Written by `adderlab zoo --markdown`. Counts are exact and tested; published figures are their
authors'. `adderlab zoo NAME` prints a model's parameter table.

**best recipe**: what `--recipe best`, the default, trains by; **rate**: seeds proved on all
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
            "rate",
            "proved",
            "source",
        )
        lines = [*INTRODUCTION.splitlines(), "", f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
        for p in self.presets:
            cells = (p.name, f"{p.parameters:,}", p.config.layout, _shape(p.config), p.published)
            recipes = (p.published_rate, p.recipe or "none", best_name(p))
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
            f"published: {preset.published}; success rate: {preset.published_rate}",
            f"published recipe: {preset.recipe or 'none'}; best recipe: {best_name(preset)}",
        ]
        lines += [
            f"measured: recipe {each.recipe}, {share(each.pure)} of seeds {each.seeds} proved on all "
            "pairs"
            for each in self.rates
            if each.preset == preset.name and each.pure is not None
        ]
        if preset.notes:
            lines.append(f"note: {preset.notes}")
        if ties(config):
            lines += ["ties:", *(f"  {line}" for line in ties(config))]
        return [*lines, *text_table(parameter_rows(parameter_table(config)))]


def presets(*names: str, records: str | os.PathLike[str] | None = None) -> Zoo:
    """The architectures with these names, all of them without a name: published ones and our own.

    ``records``: a folder of measured rates; default records/rates of the checkout, if there is one.
    Raises ``UsageError`` for a name that there is not, ``Failure`` for a damaged record.
    """
    chosen = tuple(get_preset(name) for name in names) if names else tuple(PRESETS.values())
    folder = default_folder() if records is None else Path(records)
    return Zoo(presets=chosen, rates=tuple(read_rates(folder)) if folder else ())


def preset(name: str) -> Preset:
    """The architecture of that name: its configuration and where it comes from.

    Raises ``UsageError`` that lists close names.
    """
    return get_preset(name)


def recipe(name: str = "best", preset: str | Preset | None = None) -> Recipe:
    """How to train: every setting of a recipe, frozen; ``dataclasses.replace`` changes one.

    ``name``: best (as ``presets`` names it), quick (soonest to a proof) and published are those of a
    ``preset``; any other name needs none. Raises ``UsageError`` that lists close names.
    """
    if preset is None:
        return get_recipe(name)
    return recipe_for(get_preset(preset) if isinstance(preset, str) else preset, name)


def _shape(config: ModelConfig) -> str:
    """Width, heads (query heads / key heads where they differ) and hidden units."""
    heads = f"h{config.n_head}"
    if config.kv_heads != config.n_head:
        heads += f"/{config.kv_heads}"
    shape = f"d{config.d_model} {heads} ff{config.d_ff}"
    return shape if config.n_layer == 1 else f"{config.n_layer} layers {shape}"
