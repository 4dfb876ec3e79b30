"""The trained architectures, published ones and our own, with their exact parameter counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from adderlab.models.zoo import Preset
    from adderlab.study.rate_record import RateRecord


@dataclass(frozen=True, kw_only=True)
class Args:
    """Which architecture to show; all of them in one table without a name."""

    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = None
    """A preset, for example 456p: its parameter table, ties, recipe and source."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print a list of objects instead of a table."""
    markdown: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print docs/zoo.md."""
    records: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of measured rates; default: records/rates of the checkout, if there is one."""


def run(args: Args) -> int:
    """Print the table, or one preset."""
    from adderlab.cli.options import emit_json
    from adderlab.models.zoo import PRESETS, get_preset

    chosen = list(PRESETS.values()) if args.name is None else [get_preset(args.name)]
    measured = _measured(args.records)
    if args.json:
        emit_json([_entry(preset, measured) for preset in chosen], None)
    elif args.markdown:
        print(as_markdown(chosen, measured))
    elif args.name is None:
        _print_all(chosen, measured)
    else:
        _print_one(chosen[0], measured)
    return 0


def _measured(folder: Path | None) -> list[RateRecord]:
    """The rates in a folder, or in the default one; none where there is no such folder."""
    from adderlab.study.rate_record import default_folder, read_rates

    folder = folder or default_folder()
    return [] if folder is None else read_rates(folder)


def _entry(preset: Preset, measured: Sequence[RateRecord]) -> dict[str, Any]:
    """A preset as JSON. ``rate`` and ``proved`` are null until a rate is measured."""
    from adderlab.files.schema import to_dict
    from adderlab.models.tables import why_no_tables
    from adderlab.recipes import best_name

    best = _of_best_recipe(preset, measured)
    share = best.pure if best else None
    return {
        "name": preset.name,
        "parameters": preset.parameters,
        "layout": preset.config.layout,
        "shape": _shape(preset),
        "published": preset.published,
        "published_rate": preset.published_rate,
        "recipe": preset.recipe,
        "best_recipe": best_name(preset),
        "source": preset.source,
        "notes": preset.notes,
        "table_form": why_no_tables(preset.config) is None,
        "rate": {**to_dict(share), "recipe": best.recipe} if best and share else None,
        "proved": {"yes": True, "with repair": True, "no": False}.get(_proved(preset, measured)),
    }


def _of_best_recipe(preset: Preset, measured: Sequence[RateRecord]) -> RateRecord | None:
    """The measured rate of the recipe that ``--recipe best`` trains the preset by."""
    from adderlab.recipes import best_name

    wanted = (preset.name, best_name(preset))
    return next((each for each in measured if (each.preset, each.recipe) == wanted), None)


def _rate(preset: Preset, measured: Sequence[RateRecord]) -> str:
    """Seeds proved on all pairs by ``--recipe best``; ``-`` where that was not measured."""
    from adderlab.format import percent

    best = _of_best_recipe(preset, measured)
    if best is None or best.pure is None:
        return "-"
    pure = best.pure
    return f"{pure.count}/{pure.n} [{percent(pure.low)}, {percent(pure.high)}]"


def _proved(preset: Preset, measured: Sequence[RateRecord]) -> str:
    """Whether any seed measured was proved: yes, with repair, no; ``-`` where none was measured."""
    results = [
        each
        for record in measured
        if record.preset == preset.name and record.pure is not None
        for each in record.results
    ]
    if not results:
        return "-"
    if any(each.route == "pure" for each in results):
        return "yes"
    return "with repair" if any(each.route for each in results) else "no"


def _shape(preset: Preset) -> str:
    config = preset.config
    heads = (
        f"h{config.n_head}"
        if config.kv_heads == config.n_head
        else f"h{config.n_head}/{config.kv_heads}"
    )
    shape = f"d{config.d_model} {heads} ff{config.d_ff}"
    return shape if config.n_layer == 1 else f"{config.n_layer} layers {shape}"


def _print_all(presets: Sequence[Preset], measured: Sequence[RateRecord]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("name", min_width=5)
    table.add_column("parameters", min_width=10, justify="right")
    table.add_column("layout", min_width=6)
    table.add_column("shape", min_width=12)
    table.add_column("published")
    table.add_column("rate")
    table.add_column("proved", min_width=6)
    for p in presets:
        published = p.published if len(p.published) <= 36 else p.published[:35] + "\u2026"
        cells = (p.name, f"{p.parameters:,}", p.config.layout, _shape(p), published)
        table.add_row(*cells, _rate(p, measured), _proved(p, measured))
    Console().print(table)
    print("adderlab zoo NAME tells a model's parameters, ties, recipe and source.")


def _print_one(preset: Preset, measured: Sequence[RateRecord]) -> None:
    import adderlab
    from adderlab.api.models import parameter_rows
    from adderlab.models.describe import ties
    from adderlab.recipes import best_name
    from adderlab.report.rates import share
    from adderlab.results import text_table

    layout = preset.config.layout
    print(f"{preset.name}: {preset.parameters:,} parameters, {_shape(preset)}, layout {layout}")
    print(f"source: {preset.source}")
    print(f"published: {preset.published}; success rate: {preset.published_rate}")
    print(f"published recipe: {preset.recipe or 'none'}; best recipe: {best_name(preset)}")
    for record in measured:
        if record.preset == preset.name and record.pure is not None:
            print(
                f"measured: recipe {record.recipe}, {share(record.pure)} of seeds {record.seeds} proved "
                "on all pairs"
            )
    if preset.notes:
        print(f"note: {preset.notes}")
    lines = ties(preset.config)
    if lines:
        print("ties:")
        for line in lines:
            print(f"  {line}")
    print(*text_table(parameter_rows(adderlab.inspect(preset.config).rows)), sep="\n")


def as_markdown(presets: Sequence[Preset], measured: Sequence[RateRecord]) -> str:
    """docs/zoo.md: a table of all, then ties and notes of each."""
    from adderlab.models.describe import ties
    from adderlab.recipes import best_name

    lines = [
        "# The zoo",
        "",
        "Written by `adderlab zoo --markdown`. Counts are exact and tested; published figures are their",
        "authors'. `adderlab zoo NAME` prints a model's parameter table.",
        "",
        "**best recipe**: what `--recipe best`, the default, trains by; **rate**: seeds proved on all",
        "10^20 pairs by it, with the 95% interval ([rates.md](rates.md)); **proved**: whether any",
        "seed was, by any recipe.",
        "",
        "| name | parameters | layout | shape | published | published rate | published recipe "
        "| best recipe | rate | proved | source |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for p in presets:
        cells = (p.name, f"{p.parameters:,}", p.config.layout, _shape(p), p.published)
        rate = (_rate(p, measured), _proved(p, measured))
        more = (p.published_rate, p.recipe or "none", best_name(p), *rate, p.source)
        lines.append(f"| {' | '.join((*cells, *more))} |")
    for p in presets:
        lines += ["", f"## {p.name}", ""]
        lines += [f"- {line}" for line in ties(p.config)] or ["- no ties but the head's"]
        if p.notes:
            lines.append(f"- note: {p.notes}")
    return "\n".join(lines)
