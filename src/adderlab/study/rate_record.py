"""``records/rates/*.json``: how often one recipe gives a right adder, measured over seeds.

One file is one row of docs/rates.md: a preset trained by one recipe from many seeds, every seed that
reached 99% exact match then decided on all 10^20 pairs. A row is written only when every seed has its
verdict.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adderlab.errors import Failure, UsageError
from adderlab.evaluation.intervals import Rate
from adderlab.files import aliases, schema
from adderlab.files.atomic import (
    disk_failure,
    make_folder,
    read_json,
    write_json,
)
from adderlab.format import seed_list
from adderlab.proof.search import Limits
from adderlab.runs.records import SeedRecord
from adderlab.runs.stored import of_old_outcome

SCHEMA_VERSION = 2
FOLDER = Path("records") / "rates"
_RATES = ("pure", "assisted", "exact_at_end", "exact_ever", "published_perfect")


@dataclass(frozen=True, kw_only=True)
class RateRecord:
    """A row: one preset, one recipe, many seeds."""

    preset: str
    parameters: int
    recipe: str
    """Its name, and settings changed by hand after a +."""
    published: bool
    """Whether this is the preset's published recipe, unchanged."""
    recipe_settings: dict
    """The whole recipe, as ``config.json`` of a run has it."""
    model_settings: dict
    seeds: str
    """For example 1000-1095."""
    n: int
    steps: int
    """Optimiser steps of one seed at most."""
    pure: Rate | None
    """Proved on all 10^20 pairs as trained; None where the model has no table form."""
    assisted: Rate | None
    """Proved as trained or after repair; None where no repair was tried."""
    exact_at_end: Rate
    """At 99% exact match or more at the end."""
    exact_ever: Rate
    """At 99% exact match or more at any evaluation."""
    published_perfect: Rate
    """Without an error on the 100,000 published pairs."""
    median_steps_to_grok: float | None
    """Over the seeds that have one; None: no seed has."""
    median_training_core_seconds: float
    """Processor time of one seed, of the host where an accelerator trained it; proving is apart."""
    median_proving_core_seconds: float | None
    """Over the seeds with a proof; None: there was none."""
    training_core_seconds: float
    """All seeds together."""
    proving_core_seconds: float
    repairing_core_seconds: float
    expected_seconds_on_2_cores: float | None
    """From nothing to a proved model: training and proving of all seeds / seeds proved / 2 cores;
    None: no seed was proved, or an accelerator trained them."""
    expected_assisted_seconds_on_2_cores: float | None
    """The same with repair."""
    limits: Limits
    repair_settings: dict | None
    """How repair was done and which seeds it was tried on; None: not tried."""
    results: tuple[SeedRecord, ...]
    """Of every seed."""
    command: tuple[str, ...]
    """As typed."""
    git_revision: str | None
    date: str
    """UTC, to the second."""
    machine: str
    engine: str
    threads: int
    versions: dict
    """adderlab, python, torch, numpy."""
    schema_version: int = SCHEMA_VERSION

    @property
    def file_name(self) -> str:
        return file_name(self.preset, self.recipe)

    def to_dicts(self) -> list[dict[str, Any]]:
        """A flat row for every seed, for pandas or polars."""
        return [record.to_dict() for record in self.results]


def file_name(preset: str, recipe: str) -> str:
    """``456p_circle.json``; signs that a file system may refuse become ``-``."""
    return re.sub(r"[^A-Za-z0-9._=+-]", "-", f"{preset}_{recipe}") + ".json"


def write_rate(folder: Path, record: RateRecord) -> Path:
    """Write the row into ``folder``; its path. Raises ``Failure``."""
    make_folder(folder)
    path = folder / record.file_name
    write_json(path, schema.to_dict(record))
    return path


def read_rate(path: Path | str) -> RateRecord:
    """The row in a file. Raises ``Failure`` naming what is wrong with it."""
    data = read_json(path)
    version = data.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise Failure(f"{path} has no schema_version; it is no rate, take it out of the folder")
    if version > SCHEMA_VERSION:
        raise Failure(
            f"{path} was written by a newer adderlab (schema {version}, this one reads up to "
            f"{SCHEMA_VERSION}); upgrade with pip install -U adderlab"
        )
    try:
        data = _upgraded(data, path)
        record = schema.from_dict(RateRecord, data, str(path))
    except UsageError as error:
        raise Failure(f"{error}; restore the file from a copy") from error
    _check(record, path)
    return record


def _upgraded(data: dict[str, Any], path: Path | str) -> dict[str, Any]:
    """A row of an earlier version under the names of today. What is no such thing stays as it is: the
    schema refuses it."""
    upgraded = dict(data)
    if isinstance(data.get("recipe_settings"), dict):
        upgraded["recipe_settings"] = aliases.upgraded_recipe(data["recipe_settings"])
    if isinstance(data.get("recipe"), str):
        upgraded["recipe"] = aliases.recipe_name(data["recipe"])
    words = data.get("command")
    if isinstance(words, list) and all(isinstance(word, str) for word in words):
        upgraded["command"] = aliases.command(words)
    if data.get("schema_version") == 1:
        # Rates did not say what their intervals are, and a seed had an entry of its own kind.
        for name in _RATES:
            if isinstance(data.get(name), dict):
                upgraded[name] = {"kind": "wilson"} | data[name]
        if isinstance(data.get("results"), list):
            upgraded["results"] = [
                schema.to_dict(of_old_outcome(each, f"{path}: results[{i}]"))
                for i, each in enumerate(data["results"])
            ]
        upgraded["schema_version"] = SCHEMA_VERSION
    return upgraded


def read_rates(folder: Path | str) -> list[RateRecord]:
    """All rows of a folder: the largest model first, then the highest rate. Raises ``Failure``."""
    folder = Path(folder)
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".json")
    except OSError as error:
        raise disk_failure(error, folder, "read") from error
    return sorted((read_rate(path) for path in paths), key=_order)


def default_folder() -> Path | None:
    """``records/rates`` of the source checkout, or below the current folder; None: there is none."""
    checkout = Path(__file__).resolve().parents[3]
    places = [Path.cwd()] if not (checkout / "pyproject.toml").is_file() else [checkout, Path.cwd()]
    return next((place / FOLDER for place in places if (place / FOLDER).is_dir()), None)


def _merit(record: RateRecord) -> tuple[float, float, float, int]:
    pure, assisted = record.pure, record.assisted
    return (
        pure.value if pure else -1.0,
        assisted.value if assisted else -1.0,
        record.exact_at_end.value,
        record.n,
    )


def _order(record: RateRecord) -> tuple[Any, ...]:
    return (-record.parameters, record.preset, *(-part for part in _merit(record)), record.recipe)


def _check(record: RateRecord, path: Path | str) -> None:
    """What the schema alone cannot see: the counts are those of the seeds listed."""
    counted = {
        "n": (record.n, len(record.results)),
        "seeds": (record.seeds, seed_list([each.seed for each in record.results])),
        "pure": (
            record.pure and record.pure.count,
            sum(each.route == "pure" for each in record.results),
        ),
        "assisted": (
            record.assisted and record.assisted.count,
            sum(each.route is not None for each in record.results),
        ),
    }
    for name, (said, found) in counted.items():
        if said is not None and said != found:
            raise Failure(
                f"{path}: {name} is {said}, but its seeds come to {found}; it was changed by hand, "
                "restore it from a copy"
            )
