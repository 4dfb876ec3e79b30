"""What a sweep tries: cells of settings, declared as data (TOML), the same ones every time it is read.

preset = "456p"                     # or a list: then it is varied like a setting
recipe = "published"                # or a list; default: best
seeds = "0-7"                       # of every cell
steps = 20000                       # optional, as --steps
output = "results/sweeps/lr"        # optional

[set]                               # changed in every cell, as --set
recipe.batch_size = 256

[grid]                              # every combination
recipe.lr = [0.01, 0.02]

[random]                            # samples drawn for every combination
samples = 20
seed = 0
[random.space]
recipe.weight_decay = {low = 0.001, high = 0.1, log = true}
recipe.warmup_steps = {low = 0, high = 2000, integer = true}
recipe.beta2 = {values = [0.99, 0.999]}

[halving]                           # optional: who is behind at a rung goes no further
rungs = [2000, 8000]                # steps after which to compare
keep = 0.5
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import itertools
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from adderlab.errors import UsageError
from adderlab.evaluation.suites import Rate, wilson
from adderlab.files import schema
from adderlab.files.atomic import write_json, write_text
from adderlab.models.config import ModelConfig
from adderlab.models.config import changed as with_changes
from adderlab.models.zoo import Preset, get_preset
from adderlab.reading.file_model import FileModel, read_file
from adderlab.recipes import named_for, recipe_for
from adderlab.runs.records import LEARNED, SUCCESS, Metrics, read_metrics, read_seed_metrics
from adderlab.training.recipe import Recipe
from adderlab.training.start import check_fits

_ENTRIES = ("preset", "recipe", "seeds", "steps", "output", "set", "grid", "random", "halving")
_SECTIONS = ("recipe", "model")


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A setting that varies: over listed values, or over a range."""

    path: str
    """``recipe.NAME`` or ``model.NAME``, or just ``preset`` or ``recipe``: which one by name."""
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    """The logarithm is uniform, not the value."""
    integer: bool = False
    """Whole numbers from ``low`` to ``high``, both included."""

    def at(self, fraction: float) -> Any:
        """The value at ``fraction``, in [0, 1), of the way. Ranges give six significant digits, so that
        what the table shows is what was trained."""
        if self.values:
            return self.values[int(fraction * len(self.values))]
        high = self.high + 1 if self.integer else self.high
        if self.log:
            value = self.low * (high / self.low) ** fraction
        else:
            value = self.low + (high - self.low) * fraction
        return min(math.floor(value), int(self.high)) if self.integer else float(f"{value:.6g}")


@dataclass(frozen=True, kw_only=True)
class Halving:
    """Successive halving: after each rung the best ``keep`` of the cells go on."""

    rungs: tuple[int, ...]
    """Steps; every cell is evaluated at them."""
    keep: float = 0.5

    def __post_init__(self) -> None:
        ascending = all(a < b for a, b in itertools.pairwise(self.rungs))
        if not self.rungs or not ascending or self.rungs[0] < 0:
            raise UsageError(f"halving.rungs must be ascending steps, not {list(self.rungs)}")
        if not 0 < self.keep < 1:
            raise UsageError(f"halving.keep must lie between 0 and 1, not {self.keep}")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One combination of settings: trained as one population, written as one run."""

    index: int
    settings: dict[str, Any]
    """Setting -> value, in the order of the declaration."""
    config: ModelConfig | FileModel
    recipe: Recipe

    @property
    def name(self) -> str:
        return f"{self.index:04d}"

    @property
    def text(self) -> str:
        """The settings in one line."""
        return ", ".join(f"{path}={value}" for path, value in self.settings.items()) or "as declared"


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """A declaration, checked: every cell that it names can be trained."""

    preset: str
    recipe: str
    seeds: tuple[int, ...]
    steps: int | None
    output: str | None
    fixed: dict[str, Any]
    grid: tuple[Axis, ...]
    space: tuple[Axis, ...]
    """What is drawn; without one, ``samples`` is 1."""
    samples: int
    random_seed: int
    halving: Halving | None
    declaration: dict[str, Any]
    """What it was read from, as plain JSON values."""

    @property
    def axes(self) -> tuple[Axis, ...]:
        return (*self.grid, *self.space)

    def cells(self) -> list[Cell]:
        """Every cell. More samples come after the ones that were there."""
        points = list(itertools.product(*(axis.values for axis in self.grid)))
        cells = []
        for sample in range(self.samples):
            fractions = _fractions(self.random_seed, sample, len(self.space))
            drawn = {axis.path: axis.at(u) for axis, u in zip(self.space, fractions, strict=True)}
            for point in points:
                fixed = {axis.path: value for axis, value in zip(self.grid, point, strict=True)}
                cells.append(self.cell(len(cells), fixed | drawn))
        return cells

    def cell(self, index: int, settings: dict[str, Any]) -> Cell:
        """The cell with these settings. Raises ``UsageError`` if they fit no model or recipe."""
        name = str(settings.get("preset", self.preset))
        preset, config = _subject(name)
        if preset is None and any(key.startswith("model.") for key in self.fixed | settings):
            raise UsageError(f"model settings are a preset's; change what {name} says instead")
        changed: dict[str, list[tuple[str, str]]] = {"recipe": [], "model": []}
        if self.steps is not None:
            changed["recipe"].append(("steps", str(self.steps)))
        for path, value in (self.fixed | settings).items():
            section, _, key = path.partition(".")
            if key:
                changed["recipe" if section == "recipe" else "model"].append((key, json.dumps(value)))
        if changed["model"]:
            config = with_changes(config, changed["model"])
        named = named_for(
            preset or config,
            str(settings.get("recipe", self.recipe)),
            config=config,
            steps=self.steps,
        )
        recipe = schema.with_settings(named.recipe, changed["recipe"], "recipe")
        check_fits(config, recipe, self.seeds)
        if self.halving:
            _check_rungs(self.halving, recipe)
        return Cell(index=index, settings=settings, config=config, recipe=recipe)


def _subject(name: str) -> tuple[Preset | None, Any]:
    """The preset of that name, or None, and the architecture: of a Python file, which is run, that of
    its model."""
    if name.endswith(".py"):
        path = Path(name)
        return None, _read(path, path.stat().st_mtime_ns if path.is_file() else 0)
    preset = get_preset(name)
    return preset, preset.config


@functools.lru_cache(maxsize=8)
def _read(path: Path, changed: int) -> Any:
    """Once for all cells, and again after a change."""
    return read_file(path)[0]


def read_sweep(table: Mapping[str, Any], seeds: tuple[int, ...]) -> SweepPlan:
    """The sweep that a TOML table declares, for ``seeds`` (the table's own, already read).

    Raises ``UsageError`` naming the entry that is wrong.
    """
    unknown = [key for key in table if key not in _ENTRIES]
    if unknown:
        raise UsageError(f"a sweep has no entry {unknown[0]!r}; it has {', '.join(_ENTRIES)}")
    if "preset" not in table:
        raise UsageError('a sweep lacks the entry preset, for example preset = "456p"')
    named = {"preset": table["preset"], "recipe": table.get("recipe", "best")}
    grid = [Axis(path=key, values=_listed(key, value)) for key, value in named.items() if _many(value)]
    first = {key: value[0] if _many(value) else value for key, value in named.items()}
    for key, value in first.items():
        _typed(key, value, str)
    preset, config = _subject(first["preset"])
    base = {
        "model": schema.to_dict(config),
        "recipe": schema.to_dict(recipe_for(preset or config, first["recipe"])),
    }
    random = _table(table, "random")
    _only(random, "random", ("samples", "seed", "space"))
    for path, values in _settings(_table(table, "grid"), base, "grid"):
        grid.append(Axis(path=path, values=_listed(f"grid.{path}", values)))
    space = [_range(*entry) for entry in _settings(_table(random, "space"), base, "random.space")]
    _no_setting_twice([*grid, *space])
    if bool(space) != ("samples" in random):
        raise UsageError("random needs both samples (how many) and a space (of which settings)")
    halving = _table(table, "halving")
    sweep = SweepPlan(
        preset=first["preset"],
        recipe=first["recipe"],
        seeds=seeds,
        steps=_typed("steps", table.get("steps"), int) if "steps" in table else None,
        output=_typed("output", table.get("output"), str) if "output" in table else None,
        fixed=dict(_settings(_table(table, "set"), base, "set")),
        grid=tuple(grid),
        space=tuple(space),
        samples=_at_least("random.samples", random.get("samples", 1), 1),
        random_seed=_at_least("random.seed", random.get("seed", 0), 0),
        halving=schema.from_dict(Halving, halving, "halving") if halving else None,
        declaration=_json(table),
    )
    sweep.cells()
    return sweep


def _fractions(seed: int, sample: int, count: int) -> list[float]:
    """Numbers in [0, 1): a pure function of (seed, sample, which), from the words of NumPy's Philox,
    whose stream is fixed for good (NEP 19)."""
    generator = np.random.Philox(key=np.array([seed, sample], dtype=np.uint64))
    return [float(generator.random_raw() >> 11) * 2.0**-53 for _ in range(count)]


def _settings(table: Mapping[str, Any], base: Mapping[str, Any], where: str) -> list[tuple[str, Any]]:
    """(dotted path, value) of every setting: tables are walked as long as the recipe or model has a
    table of settings there; what lies below is a value."""
    found = []
    for key, value in table.items():
        inner: Any = base
        for part in key.split("."):
            inner = inner.get(part) if isinstance(inner, Mapping) else None
        if isinstance(value, Mapping) and isinstance(inner, Mapping):
            below = _settings(value, inner, f"{where}.{key}")
            found += [(f"{key}.{path}", each) for path, each in below]
        else:
            found.append((key, value))
    if base.keys() == set(_SECTIONS):
        wrong = [path for path, _ in found if path.split(".")[0] not in _SECTIONS or "." not in path]
        if wrong:
            raise UsageError(
                f"{where}: {wrong[0]!r} is no setting; write recipe.NAME or model.NAME, for example "
                "recipe.lr"
            )
    return found


def _range(path: str, value: Any) -> Axis:
    where = f"random.space.{path}"
    if not isinstance(value, Mapping):
        raise UsageError(f"{where} must be {{low, high}} or {{values}}, not {value!r}")
    _only(value, where, ("low", "high", "log", "integer", "values"))
    if "values" in value:
        if len(value) > 1:
            raise UsageError(f"{where} has values and a range; leave one out")
        return Axis(path=path, values=_listed(where, value["values"]))
    axis = schema.from_dict(Axis, {"path": path, **value}, where)
    if "low" not in value or not axis.low < axis.high:
        raise UsageError(f"{where} needs low < high, not {dict(value)}")
    if axis.log and axis.low <= 0:
        raise UsageError(f"{where}: with log, low must be above 0, not {axis.low:g}")
    if axis.integer and not (axis.low.is_integer() and axis.high.is_integer()):
        raise UsageError(f"{where}: with integer, low and high must be whole numbers")
    return axis


def _check_rungs(halving: Halving, recipe: Recipe) -> None:
    for rung in halving.rungs:
        if rung < recipe.total_steps and not recipe.looks_at(rung):
            raise UsageError(
                f"halving.rungs: no evaluation takes place at step {rung}; use multiples of "
                f"recipe.eval_interval ({recipe.eval_interval})"
            )


def _no_setting_twice(axes: Sequence[Axis]) -> None:
    paths = [axis.path for axis in axes]
    twice = [path for path in paths if paths.count(path) > 1]
    if twice:
        raise UsageError(f"{twice[0]} is varied twice; name it in grid or in random.space, not in both")


def _many(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def _listed(where: str, value: Any) -> tuple[Any, ...]:
    if not _many(value):
        raise UsageError(f"{where} must be a list of values to try, not {value!r}")
    return tuple(value)


def _table(table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return _typed(key, table.get(key, {}), Mapping)


def _only(table: Mapping[str, Any], where: str, keys: tuple[str, ...]) -> None:
    unknown = [key for key in table if key not in keys]
    if unknown:
        raise UsageError(f"{where} has no entry {unknown[0]!r}; it has {', '.join(keys)}")


def _typed(where: str, value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = {str: "a text", int: "a whole number"}.get(kind, "a table")
        raise UsageError(f"{where} must be {wanted}, not {value!r}")
    return value


def _at_least(where: str, value: Any, least: int) -> int:
    if _typed(where, value, int) < least:
        raise UsageError(f"{where} must be at least {least}, not {value}")
    return value


def _json(table: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(table))
    except TypeError as error:
        raise UsageError(f"a sweep holds numbers, texts, lists and tables only ({error})") from error


# How the cells stand, and the table that compares them.
#
# A pure function of their run folders, without times, so that a sweep that was interrupted gives the
# same bytes as one that was not.


TABLE_VERSION = 1

State = Literal["done", "abandoned", "training", "waiting"]

COLUMNS = (
    "cell",
    "state",
    "step",
    "seeds",
    "successes",
    "rate",
    "wilson_low",
    "wilson_high",
    "grokked",
    "median_grok_step",
    "mean_exact",
    "mean_token_acc",
    "mean_steps_learned",
)


@dataclass(frozen=True, kw_only=True)
class CellScore:
    """How the seeds of a cell stand at one step."""

    step: int
    """The last one evaluated."""
    rate: Rate
    """Seeds whose last evaluation is at 99% or more."""
    grokked: int
    """Seeds that were ever evaluated at 99% or more."""
    median_grok_step: float | None
    """The median, over these seeds, of the first such step."""
    mean_exact: float
    mean_token_acc: float
    mean_steps_learned: float
    """Means over seeds of their last evaluation."""

    @property
    def score(self) -> tuple[float, float, float]:
        """What makes a cell better, the first difference deciding: successes, then how many answer
        steps are learned and how many digits right, in the mean."""
        return (self.rate.count, self.mean_steps_learned, self.mean_token_acc)


@dataclass(frozen=True, kw_only=True)
class CellRow:
    """A cell in the table. ``measured`` is None before its first evaluation."""

    cell: Cell
    state: State
    measured: CellScore | None

    @property
    def rank(self) -> tuple[Any, ...]:
        """The best first: by success rate, then the earlier grokking, then by score, then by number."""
        if self.measured is None:
            return (1, self.cell.index)
        successes, *rest = self.measured.score
        grok = self.measured.median_grok_step
        early = float("inf") if grok is None else grok
        return (0, -successes, early, *(-value for value in rest), self.cell.index)

    def describe(self) -> str:
        """One line."""
        found, name = self.measured, f"cell {self.cell.name} ({self.cell.text})"
        if found is None:
            return f"{name}: {self.state}"
        text = f"{name}: {found.rate} at step {found.step:,}"
        if found.median_grok_step is not None:
            text += f", median step to grok {found.median_grok_step:,.0f}"
        return text

    def entry(self) -> dict[str, Any]:
        """The cell as plain JSON values, under ``COLUMNS`` and ``settings``."""
        about = {"cell": self.cell.name, "state": self.state}
        if self.measured is None:
            return about | {"settings": self.cell.settings}
        values = dataclasses.asdict(self.measured)
        rate = self.measured.rate
        numbers = {
            "seeds": rate.n,
            "successes": rate.count,
            "rate": rate.value,
            "wilson_low": rate.low,
            "wilson_high": rate.high,
        }
        merged = (
            about
            | numbers
            | {name: values[name] for name in COLUMNS if name in values and name != "rate"}
        )
        return {name: merged[name] for name in COLUMNS} | {"settings": self.cell.settings}


def measure(folder: Path, limit: int | None = None) -> CellScore | None:
    """The seeds of a run folder at its end, or as they stood at step ``limit``. Raises ``Failure``."""
    if not (folder / "metrics.csv").is_file():
        return None
    if (folder / "seed_metrics.csv").is_file():
        history = list(read_seed_metrics(folder).values())
    else:
        history = [read_metrics(folder)]
    histories = [[each for each in own if limit is None or each.step <= limit] for own in history]
    histories = [own for own in histories if own]
    if not histories:
        return None
    last = [own[-1] for own in histories]
    grokked = [step for step in map(_grokked_at, histories) if step is not None]
    return CellScore(
        step=max(each.step for each in last),
        rate=wilson(sum(each.val_exact >= SUCCESS for each in last), len(last)),
        grokked=len(grokked),
        median_grok_step=float(statistics.median(grokked)) if grokked else None,
        mean_exact=_mean([each.val_exact for each in last]),
        mean_token_acc=_mean([each.val_token_acc for each in last]),
        mean_steps_learned=_mean([sum(acc >= LEARNED for acc in each.step_acc) for each in last]),
    )


def write_table(folder: Path, rows: Sequence[CellRow], about: Mapping[str, Any]) -> list[CellRow]:
    """``table.csv`` and ``table.json``, the best cell first; the rows in that order."""
    rows = sorted(rows, key=lambda row: row.rank)
    settings = list(dict.fromkeys(path for row in rows for path in row.cell.settings))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*settings, *COLUMNS])
    for row in rows:
        entry = row.entry()
        cells = [_cell(row.cell.settings.get(path)) for path in settings]
        writer.writerow([*cells, *(_cell(entry.get(name)) for name in COLUMNS)])
    write_text(folder / "table.csv", buffer.getvalue())
    table = {"schema_version": TABLE_VERSION, **about, "cells": [row.entry() for row in rows]}
    write_json(folder / "table.json", table)
    return rows


def _grokked_at(history: Sequence[Metrics]) -> int | None:
    return next((each.step for each in history if each.val_exact >= SUCCESS), None)


def _mean(values: Sequence[float]) -> float:
    """Independent of the order of the seeds (fsum is exact before it rounds)."""
    return statistics.fmean(values)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.9g}"
    return value if isinstance(value, str) else json.dumps(value)
