"""The evidence of many runs: what lies below some folders, in a fixed order, and equal runs pooled."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adderlab.evaluation.intervals import Rate, wilson
from adderlab.models.describe import count_parameters
from adderlab.report.evidence import (
    CertificateRecord,
    EvaluationRecord,
    json_files,
    read_results,
)
from adderlab.report.history import RunEvidence, flat_settings, is_run, populations, read_run
from adderlab.report.replay import Replay, is_replay, open_replay


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything below some folders."""

    replays: tuple[Replay, ...]
    runs: tuple[RunEvidence, ...]
    evaluations: tuple[EvaluationRecord, ...]
    certificates: tuple[CertificateRecord, ...]
    problems: tuple[str, ...]


def collect(paths: Sequence[Path]) -> Evidence:
    """Find replayed series, run folders, evaluations and certificates, in a fixed order.

    A run that lies in two places (a record of it) is taken once, where it is found first.
    Raises ``Failure`` if a replay's own records are damaged.
    """
    replays: list[Replay] = []
    runs: dict[Any, RunEvidence] = {}
    files: list[Path] = []
    for path in paths:
        for place in [path] if path.is_file() else _walk(path):
            if place.is_file():
                files.append(place)
            elif is_replay(place):
                replays.append(open_replay(place))
            else:
                run = read_run(place)
                seeds = run.config.seeds if run.config else ()
                runs.setdefault((run.name, run.started or str(place), seeds), run)
    for replay in replays:
        for run in runs_of(replay):
            runs.pop((run.name, run.started, run.config.seeds if run.config else ()), None)
    problems: list[str] = []
    evaluations, certificates = read_results(files, problems)
    return Evidence(
        replays=tuple(replays),
        runs=tuple(runs.values()),
        evaluations=evaluations,
        certificates=certificates,
        problems=tuple(problems),
    )


def _walk(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Replays, runs and JSON files below ``folder``; not what lies inside a replay or run."""
    if is_replay(folder) or is_run(folder):
        yield folder
        return
    real = folder.resolve()
    if real in above:  # a link back to a folder above
        return
    yield from json_files(folder)
    for below in sorted(path for path in folder.iterdir() if path.is_dir()):
        if not below.name.startswith("."):
            yield from _walk(below, (*above, real))


def runs_of(replay: Replay) -> list[RunEvidence]:
    """The runs among the records of a replay."""
    places = [replay.locate(step.run) for _, _, step in replay.series.steps() if step.run]
    return [read_run(place) for place in dict.fromkeys(places) if is_run(place)]


def groups(runs: Sequence[RunEvidence]) -> list[tuple[str, list[RunEvidence]]]:
    """Runs of the same kind, model and recipe together, each group with a label of its own; of a sweep,
    its cells."""
    members: dict[str, list[RunEvidence]] = {}
    for run in populations(runs):
        key = json.dumps(_comparable(run), sort_keys=True, default=str)
        members.setdefault(key, []).append(run)
    labels = [_label(group[0]) for group in members.values()]
    labelled = []
    for label, group in zip(labels, members.values(), strict=True):
        alike = [g[0] for other, g in zip(labels, members.values(), strict=True) if other == label]
        labelled.append((f"{label}{_distinction(group[0], alike)}", group))
    return labelled


def _comparable(run: RunEvidence) -> dict[str, Any]:
    """Settings that decide a run's success rate: runs equal in all of these are samples of one rate."""
    own = ("recipe.seed", "recipe.run_name", "recipe.run_dir", "recipe.device")
    settings = {name: value for name, value in flat_settings(run).items() if name not in own}
    # A search gives seeds up early and ends with a success: its rate is not that of a run.
    return settings | ({"recipe.until": "proved"} if run.kind == "search" else {})


def _label(run: RunEvidence) -> str:
    if run.config is None:
        return run.name
    recipe, params = run.config.recipe, count_parameters(run.config.model)
    steps = recipe.get("steps", recipe.get("train_steps", "?"))
    shown = f"{steps:,}" if isinstance(steps, int) else steps
    batch, layout = recipe.get("batch_size", "?"), run.config.model.layout
    text = f"{params}p, layout {layout}, {shown} steps of {batch}"
    until = ", until proved" if run.kind == "search" else ""
    return f"{text}, lr {recipe.get('lr', '?')}{until}"


def _distinction(run: RunEvidence, alike: Sequence[RunEvidence]) -> str:
    """What sets a run apart from others of the same label, up to four settings."""
    tables = [_by_setting(other) for other in alike]
    names = dict.fromkeys(name for table in tables for name in table)
    differing = [n for n in names if any(table.get(n) != tables[0].get(n) for table in tables)]
    own = _by_setting(run)
    parts = [f"{name.partition('.')[2]} {own.get(name, 'none')}" for name in differing]
    more = f" and {len(parts) - 4} more" if len(parts) > 4 else ""
    return f"; {', '.join(parts[:4])}{more}" if parts else ""


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


def pooled_rate(runs: Sequence[RunEvidence]) -> Rate | None:
    """Success rate over the seeds of several runs; None if none was evaluated.

    A seed that was run again and came to the very same numbers is the same sample and counts once.
    """
    samples = {
        (record.seed, record.steps, record.train_loss, record.last_token_accuracy): record
        for run in runs
        for record in run.evaluated
    }
    if not samples:
        return None
    return wilson(sum(record.succeeded for record in samples.values()), len(samples))
