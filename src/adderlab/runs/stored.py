"""What a run folder of any kind holds, read: its records, its curves, the runs below it.

A run, a search, a rate and a sweep leave the same files (``runs.folder``). Folders of version 0.1 and of
the published program have no ``seeds.json``; their records are read off what they have instead.
"""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from adderlab.errors import Failure, UsageError
from adderlab.files import schema
from adderlab.files.atomic import read_json
from adderlab.runs.metadata import Kind, RunConfig, kind_of, read_config, read_summary
from adderlab.runs.records import (
    SEEDS_FILE,
    TABLE_FILE,
    Metrics,
    Repair,
    SeedRecord,
    SeedStatus,
    from_history,
    read_metrics,
    read_records,
    read_seed_metrics,
)
from adderlab.task.addition import SUM_DIGITS


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """A run folder of any kind."""

    path: Path
    config: RunConfig
    environment: dict[str, Any]
    """Empty where none was recorded."""
    summary: dict[str, Any] | None
    """None before the first evaluation."""
    seeds: tuple[SeedRecord, ...]
    """Of a search, a rate or a sweep those of all its runs; paths in them are relative to ``path``."""

    @property
    def kind(self) -> Kind:
        return self.config.kind

    @property
    def name(self) -> str:
        return self.config.run_name or self.path.resolve().name

    @property
    def status(self) -> str:
        return "started" if self.summary is None else str(self.summary["status"])

    def history(self, record: SeedRecord) -> list[Metrics]:
        """The evaluations of a seed. Raises ``Failure``."""
        return read_history(self.path / record.run, record.seed)

    def children(self) -> tuple[Path, ...]:
        """The ordinary runs below a search, a rate or a sweep, in order; of a run, none."""
        return child_runs(self.path, self.kind)


def open_run(path: Path | str) -> StoredRun:
    """Any run folder. Raises ``UsageError`` if there is none, ``Failure`` if it is damaged."""
    path = Path(path)
    kind = kind_of(path)
    if kind is None:
        raise UsageError(f"there is no run in {path} (no config.json); check the name")
    environment = path / "environment.json"
    summary = path / "summary.json"
    return StoredRun(
        path=path,
        config=read_config(path),
        environment=read_json(environment) if environment.is_file() else {},
        summary=read_summary(path) if summary.is_file() else None,
        seeds=seed_records(path),
    )


def child_runs(path: Path, kind: Kind) -> tuple[Path, ...]:
    """The ordinary runs below a search, a rate or a sweep, in order; of a run, none."""
    patterns: Mapping[Kind, tuple[str, ...]] = {
        "run": (),
        "search": ("seed_[0-9]*", "seeds_[0-9]*"),
        "rate": ("population_[0-9]*",),
        "sweep": ("cells/[0-9]*",),
    }
    found = (folder for pattern in patterns[kind] for folder in sorted(path.glob(pattern)))
    return tuple(folder for folder in found if (folder / "config.json").is_file())


def read_history(folder: Path, seed: int) -> list[Metrics]:
    """The evaluations of one seed of an ordinary run. Raises ``Failure``."""
    if (folder / "seed_metrics.csv").is_file():
        return read_seed_metrics(folder).get(seed, [])
    return read_metrics(folder)


def seed_records(folder: Path) -> tuple[SeedRecord, ...]:
    """The records of a run folder of any kind, from ``seeds.json`` or, where that is not yet there or
    never was, from what older programs left. Raises ``Failure``."""
    if (folder / SEEDS_FILE).is_file():
        return read_records(folder)
    kind = kind_of(folder)
    if kind == "search":
        return _of_old_search(folder)
    if kind == "rate":
        return _of_old_rate(folder)
    if kind == "sweep":
        return tuple(
            record.below(f"cells/{cell.name}")
            for cell in child_runs(folder, "sweep")
            for record in seed_records(cell)
        )
    return _of_tables(folder)


def _of_tables(folder: Path) -> tuple[SeedRecord, ...]:
    """An ordinary run without ``seeds.json``: its tables have all but the margins, ``seeds.csv`` the
    best step that these decided."""
    seeds = read_config(folder).seeds
    histories: Mapping[int, list[Metrics]] = {}
    if (folder / "seed_metrics.csv").is_file():
        histories = read_seed_metrics(folder)
    elif len(seeds) == 1 and (folder / "metrics.csv").is_file():
        histories = {seeds[0]: read_metrics(folder)}  # of a population it holds medians
    known = _seed_rows(folder / TABLE_FILE)
    return tuple(
        dataclasses.replace(
            from_history(seed, histories.get(seed, ())),
            checkpoint=_best_file(folder, seed, alone=len(seeds) == 1),
            **known.get(seed, {}),
        )
        for seed in seeds
    )


def _best_file(folder: Path, seed: int, *, alone: bool) -> str | None:
    """The best checkpoint of a seed, if it was kept: in its own folder, or in that of its run."""
    name = "checkpoints/best.pt" if alone else f"seed_{seed:04d}/checkpoints/best.pt"
    return name if (folder / name).is_file() else None


def _seed_rows(path: Path) -> dict[int, dict[str, Any]]:
    """Status and best evaluation of every seed in a ``seeds.csv``."""
    if not path.is_file():
        return {}
    try:
        return {
            int(row["seed"]): {
                "status": _status(row["status"]),
                "best_exact": float(row["best_val_exact"]),
                "best_step": int(row["best_step"]),
            }
            for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines())
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Failure(f"{path} is no table of seeds ({error}); restore it from a copy") from error


def _status(name: str) -> SeedStatus:
    """A seed's status, as version 0.1 or this one writes it. Raises ``ValueError``."""
    name = {"running": "training"}.get(name, name)
    if name not in get_args(SeedStatus):
        raise ValueError(f"no status {name!r}")
    return cast(SeedStatus, name)


def _of_old_search(folder: Path) -> tuple[SeedRecord, ...]:
    """From the ``summary.json`` of version 0.1, which had them under ``tries``."""
    path = folder / "summary.json"
    if not path.is_file():
        return ()
    try:
        return tuple(
            _of_fate(fate, batch["folder"], folder)
            for batch in read_json(path)["tries"]
            for fate in batch["seeds"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Failure(f"{path} is no summary of a search ({error!r}); begin another") from error


def _of_fate(fate: Mapping[str, Any], run: str, folder: Path) -> SeedRecord:
    """From what the search noted of a seed, added to what the tables of its run know."""
    known = SeedRecord(
        seed=fate["seed"],
        steps=fate["step"] + 1 if fate["step"] or fate["val_exact"] else 0,
        last_exact=fate["val_exact"],
        best_exact=fate["val_exact"],
        best_step=fate["step"],
    )
    if any((folder / run / name).is_file() for name in ("metrics.csv", "seed_metrics.csv")):
        known = from_history(fate["seed"], read_history(folder / run, fate["seed"]))
    proved = fate["state"] == "proved"
    margins: dict[str, Any] = {
        "verdict": "proved" if proved else None,
        "margin_bound": fate["margin_bound"],
        "margin_witness": fate["margin_witness"],
        "worst_pair": tuple(fate["pair"]) or None,
    }
    assisted = fate["route"] == "assisted"
    own = margins | {"weights": "last"} if proved and not assisted else {}
    repair = None
    if assisted:
        repair = Repair(trainings=fate["trainings"], step=fate["step"], **margins)
    return dataclasses.replace(
        known,
        status=fate["state"],
        proofs=fate["proofs"],
        repair=repair,
        run=run,
        checkpoint=f"proved/{Path(fate['checkpoint']).name}" if fate["checkpoint"] else None,
        certificate=f"proved/{Path(fate['certificate']).name}" if fate["certificate"] else None,
        **own,
    )


def _of_old_rate(folder: Path) -> tuple[SeedRecord, ...]:
    """From the files that version 0.1 wrote for every seed that was verified; the others are read off
    the tables of their populations."""
    records: dict[int, SeedRecord] = {}
    for run in child_runs(folder, "rate"):
        own = (record.below(run.name) for record in seed_records(run))
        records |= {record.seed: record for record in own}
    for seed, record in records.items():
        path = folder / f"seed_{seed:04d}.json"
        if path.is_file():
            records[seed] = of_old_outcome(read_json(path), str(path), record)
    return tuple(records.values())


def of_old_outcome(data: Mapping[str, Any], where: str, known: SeedRecord | None = None) -> SeedRecord:
    """What version 0.1 wrote of a seed of a rate, added to what else is ``known`` of it.

    Raises ``Failure``.
    """
    try:
        values = dict(data)
        values["steps_learned"] = SUM_DIGITS - values.pop("missing_steps")
        table = schema.to_dict(known) if known else {"seed": values["seed"], "status": "done"}
        return schema.from_dict(SeedRecord, table | values, where)
    except (KeyError, TypeError, UsageError) as error:
        raise Failure(f"{where} is no record of a seed ({error}); restore it from a copy") from error


def tracker_state(state: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """What ``state.pt`` says of a run's seeds. Version 0.1 wrote less: the tables in ``folder`` have the
    rest."""
    if "tracker" in state:
        return state["tracker"]
    ledger = state["ledger"]
    records = {}
    for seed, row in ledger["rows"].items():
        last_step = ledger["last_step"][seed]
        history = [each for each in read_history(folder, seed) if each.step <= last_step]
        _, accuracy, margin = ledger["score"][seed]
        records[seed] = dataclasses.replace(
            from_history(seed, history),
            status=_status(row["status"]),
            best_exact=row["best_val_exact"],
            best_step=row["best_step"],
            best_step_accuracy=accuracy,
            best_margin=margin if history and math.isfinite(margin) else None,
        )
    kept = {name: ledger[name] for name in ("best", "last", "perfect_since")}
    return {"records": {seed: schema.to_dict(each) for seed, each in records.items()}, **kept}
