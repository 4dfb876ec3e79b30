"""What a log is written about: everything below some folders, found in a fixed order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adderlab.report.evidence import RunEvidence, flat_settings, is_run, read_run
from adderlab.report.journal import Record, is_record, open_record
from adderlab.report.judgements import CertificateRecord, EvaluationRecord, json_files, read_judgements


@dataclass(frozen=True, kw_only=True)
class Found:
    """Everything below the folders that a log was asked for."""

    records: tuple[Record, ...]
    runs: tuple[RunEvidence, ...]
    evaluations: tuple[EvaluationRecord, ...]
    certificates: tuple[CertificateRecord, ...]
    problems: tuple[str, ...]


def collect(paths: Sequence[Path]) -> Found:
    """Find records of series, run folders, evaluations and certificates, in a fixed order.

    A run that lies in two places (a record of it) is taken once, where it is found first.
    Raises ``Failure`` if a series' own records are damaged.
    """
    records: list[Record] = []
    runs: dict[Any, RunEvidence] = {}
    files: list[Path] = []
    for path in paths:
        for place in [path] if path.is_file() else _walk(path):
            if place.is_file():
                files.append(place)
            elif is_record(place):
                records.append(open_record(place))
            else:
                run = read_run(place)
                seeds = run.config.seeds if run.config else ()
                runs.setdefault((run.name, run.started or str(place), seeds), run)
    for record in records:
        for run in runs_of(record):
            runs.pop((run.name, run.started, run.config.seeds if run.config else ()), None)
    problems: list[str] = []
    evaluations, certificates = read_judgements(files, problems)
    return Found(
        records=tuple(records),
        runs=tuple(runs.values()),
        evaluations=evaluations,
        certificates=certificates,
        problems=tuple(problems),
    )


def _walk(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Records, runs and JSON files below ``folder``; not what lies inside a record or run."""
    if is_record(folder) or is_run(folder):
        yield folder
        return
    real = folder.resolve()
    if real in above:  # a link back to a folder above
        return
    yield from json_files(folder)
    for below in sorted(path for path in folder.iterdir() if path.is_dir()):
        if not below.name.startswith("."):
            yield from _walk(below, (*above, real))


def runs_of(record: Record) -> list[RunEvidence]:
    places = [record.place(step.run) for _, _, step in record.series.steps() if step.run]
    return [read_run(place) for place in dict.fromkeys(places) if is_run(place)]


def groups(runs: Sequence[RunEvidence]) -> list[tuple[str, list[RunEvidence]]]:
    """Runs of the same model and recipe together, each group with a label of its own."""
    members: dict[str, list[RunEvidence]] = {}
    for run in runs:
        key = json.dumps(_comparable(run), sort_keys=True, default=str)
        members.setdefault(key, []).append(run)
    labels = [_label(group[0]) for group in members.values()]
    told = []
    for label, group in zip(labels, members.values(), strict=True):
        alike = [g[0] for other, g in zip(labels, members.values(), strict=True) if other == label]
        told.append((f"{label}{_distinction(group[0], alike)}", group))
    return told


def _comparable(run: RunEvidence) -> dict[str, Any]:
    """Settings that make two runs draws of the same lottery."""
    own = ("recipe.seed", "recipe.run_name", "recipe.run_dir", "recipe.device")
    return {name: value for name, value in flat_settings(run).items() if name not in own}


def _label(run: RunEvidence) -> str:
    if run.config is None:
        return run.name
    recipe, params = run.config.recipe, "" if run.summary is None else f"{run.summary['params']}p, "
    steps = recipe.get("steps", recipe.get("train_steps", "?"))
    text = f"{params}layout {run.config.model.layout}, {steps} steps of {recipe.get('batch_size', '?')}"
    return f"{text}, lr {recipe.get('lr', '?')}"


def _distinction(run: RunEvidence, alike: Sequence[RunEvidence]) -> str:
    """What sets a run apart from others of the same label, up to four settings."""
    tables = [_by_setting(other) for other in alike]
    names = dict.fromkeys(name for table in tables for name in table)
    differing = [n for n in names if any(table.get(n) != tables[0].get(n) for table in tables)]
    own = _by_setting(run)
    words = [f"{name.partition('.')[2]} {own.get(name, 'none')}" for name in differing]
    more = f" and {len(words) - 4} more" if len(words) > 4 else ""
    return f"; {', '.join(words[:4])}{more}" if words else ""


def _by_setting(run: RunEvidence) -> dict[str, str]:
    """Settings as text, a table of settings as "set" or with a checksum of its values."""
    tables: dict[str, dict[str, Any]] = {}
    for name, value in _comparable(run).items():
        setting = ".".join(name.split(".")[:2])
        tables.setdefault(setting, {})[name] = value
    return {setting: _short(setting, inner) for setting, inner in tables.items()}


def _short(setting: str, values: dict[str, Any]) -> str:
    if list(values) == [setting]:
        text = json.dumps(values[setting], default=str).strip('"').replace("null", "none")
    else:
        text = ", ".join(f"{name.rpartition('.')[2]}={value}" for name, value in values.items())
    return text if len(text) <= 40 else f"{text[:37]}..."
