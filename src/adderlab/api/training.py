"""Training through the public API: what is asked for made definite (model, recipe, settings, seeds),
runs, searches for proved models, and what they left.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import operator
import os
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, SupportsIndex, TypeAlias

from adderlab.api.models import Model, ModelLike, load
from adderlab.errors import UsageError
from adderlab.evaluation.exact import SuiteReport, predict
from adderlab.evaluation.suites import Rate, Suite, wilson
from adderlab.files import schema
from adderlab.files.atomic import write_json
from adderlab.models.architecture import Architecture
from adderlab.models.config import ModelConfig
from adderlab.models.describe import count_parameters
from adderlab.models.tables import why_no_tables
from adderlab.models.zoo import PRESETS, Preset, get_preset
from adderlab.reading.file_model import FileModel, read_file
from adderlab.recipes import RECIPES, best_name, named_for, published_name, quick_name
from adderlab.report.describe import describe_seeds
from adderlab.results import Result, html_table
from adderlab.runs.checkpoints import Checkpoint
from adderlab.runs.folder import update_records
from adderlab.runs.metadata import MODEL_FILE, Keep, Kind, kind_of, read_config
from adderlab.runs.records import Metrics, SeedRecord, best_of
from adderlab.runs.stored import StoredRun
from adderlab.runs.stored import open_run as open_stored
from adderlab.study.cluster import Stopped, connected, describe_machines, is_sharded, train_sharded
from adderlab.study.search import SearchPlan, read_search, search_until_proved
from adderlab.study.verdicts import prove_seeds
from adderlab.task.layouts import from_digits
from adderlab.task.sampling import uniform_pairs
from adderlab.training.measure import Listener
from adderlab.training.objective import Compute, open_backend
from adderlab.training.population import check_start
from adderlab.training.recipe import Recipe
from adderlab.training.run import Job, read_job, run

Trainable: TypeAlias = "str | Preset | ModelConfig | FileModel | ModelLike"
"""What can be trained: a preset by its name, a configuration, a Python file by its path (which is run),
or a trained model, whose configuration is trained anew."""

Settings: TypeAlias = "Mapping[str, Any] | Iterable[str]"
"""Changed settings: ``{"recipe.lr": 0.01}`` or ``["recipe.lr=0.01"]``."""

Seeds: TypeAlias = "str | Iterable[int]"
"""``range(64)``, ``[43, 44]`` or ``"0-63"``."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A model and how it is trained."""

    preset: Preset | None
    """None: the model of a user's file."""
    name: str
    """The preset's, or the file's without its ending."""
    config: Architecture
    recipe: Recipe
    recipe_name: str
    """Of the recipe before any change; empty where it has none."""
    changes: tuple[str, ...]
    """What was changed, for example ``("lr=0.01",)``."""

    @property
    def is_published(self) -> bool:
        if self.preset is None:
            return False
        return self.recipe_name == published_name(self.preset) and not self.changes


def define(
    model: Trainable, recipe: str | Recipe, *, steps: int | None = None, settings: Settings = ()
) -> Experiment:
    """Model and recipe with the changes that were asked for. Raises ``UsageError`` for what there is
    not, naming what is close."""
    own_file = file_model(model)
    if own_file is not None:
        return _define_file(own_file, recipe, steps, settings)
    preset = _preset(model)
    config, name = preset.config, ""
    default = isinstance(recipe, str) and recipe in ("published", "best", "quick")
    if isinstance(recipe, str):
        own = {"published": published_name, "best": best_name, "quick": quick_name}
        name = own[recipe](preset) if recipe in own else recipe
        recipe = named_for(preset, recipe).recipe
    changed = parse_settings(settings)
    if steps is not None:
        changed.append(("recipe", "steps", str(steps)))
    recipe = schema.with_settings(recipe, _of(changed, "recipe"), "recipe")
    config = schema.with_settings(config, _of(changed, "model"), "model")
    changes = [f"{k}={v}" if section == "recipe" else f"model.{k}={v}" for section, k, v in changed]
    if config != preset.config:
        if default:
            _check_default(preset, name, config, recipe)
        preset = _preset(config)
    return Experiment(
        preset=preset,
        name=preset.name,
        config=config,
        recipe=recipe,
        recipe_name=name,
        changes=tuple(changes),
    )


def _define_file(
    config: FileModel, recipe: str | Recipe, steps: int | None, settings: Settings
) -> Experiment:
    """As ``define``, of the model of a user's file."""
    name = ""
    if isinstance(recipe, str):
        name = "auto" if recipe in ("best", "quick") else recipe
        recipe = named_for(None, recipe).recipe
    changed = parse_settings(settings)
    if _of(changed, "model"):
        raise UsageError(f"model settings are a preset's; change what {config.file} says instead")
    if steps is not None:
        changed.append(("recipe", "steps", str(steps)))
    return Experiment(
        preset=None,
        name=Path(config.file).stem,
        config=config,
        recipe=schema.with_settings(recipe, _of(changed, "recipe"), "recipe"),
        recipe_name=name,
        changes=tuple(f"{key}={value}" for _, key, value in changed),
    )


def changed_model(model: Trainable, settings: Settings) -> ModelConfig:
    """The configuration of a preset with changed settings. Raises ``UsageError``."""
    changed = parse_settings(settings)
    if _of(changed, "recipe"):
        raise UsageError("only settings of the model say what it is, for example set model.d_ff=12")
    return schema.with_settings(_preset(model).config, _of(changed, "model"), "model")


def _of(changed: Sequence[tuple[str, str, str]], section: str) -> list[tuple[str, str]]:
    return [(key, value) for own, key, value in changed if own == section]


def _check_default(preset: Preset, name: str, config: ModelConfig, recipe: Recipe) -> None:
    """Raises ``UsageError`` where the preset's own recipe does not fit the changed model."""
    try:
        check_start(config, recipe)
    except UsageError as error:
        others = []
        for other in dict.fromkeys((published_name(preset), "r456-54k", *RECIPES)):
            with contextlib.suppress(UsageError):
                check_start(config, RECIPES[other].recipe)
                others.append(other)
        instead = ", ".join(others[:3])
        raise UsageError(
            f"recipe={name} is the default of {preset.name} and does not fit the changed model: "
            f"{error}; recipes that fit are {instead}"
        ) from error


def file_model(model: Trainable) -> FileModel | None:
    """The model of a Python file, which is run, or that of trained weights of one whose file was named
    in this process; None for everything else."""
    if isinstance(model, FileModel):
        return model
    if isinstance(model, str | os.PathLike):
        return read_file(Path(model))[0] if str(model).endswith(".py") else None
    if isinstance(model, Preset | ModelConfig):
        return None
    config = load(model).config
    return config if isinstance(config, FileModel) else None


def _preset(model: Trainable) -> Preset:
    """The preset of that name or configuration; else one without a published recipe."""
    if isinstance(model, Preset):
        return model
    if isinstance(model, str) and not model.endswith((".pt", ".safetensors", ".npz")):
        return get_preset(model)
    config = model if isinstance(model, ModelConfig) else load(model).config
    known = next((each for each in PRESETS.values() if each.config == config), None)
    return known or Preset(
        name=f"{count_parameters(config)}p",
        config=config,
        source="",
        published="",
        published_rate="",
        recipe=None,
        notes="",
    )


def parse_settings(settings: Settings) -> list[tuple[str, str, str]]:
    """``recipe.lr=0.01`` -> ("recipe", "lr", "0.01"); only recipe and model have settings."""
    if isinstance(settings, Mapping):
        settings = [f"{path}={_as_text(value)}" for path, value in settings.items()]
    parsed = []
    for setting in settings:
        path, equals, value = setting.partition("=")
        section, dot, key = path.partition(".")
        if not equals or not dot or section not in ("recipe", "model"):
            raise UsageError(
                f"set={setting!r}: write recipe.NAME=VALUE or model.NAME=VALUE, "
                "for example recipe.lr=0.01"
            )
        parsed.append((section, key, value))
    return parsed


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def parse_seeds(seeds: Seeds) -> tuple[int, ...]:
    """``"0-63"``, ``"43"``, ``"0-3,43,100-101"`` or numbers -> seeds in that order, without repeats."""
    if not isinstance(seeds, str):
        if not isinstance(seeds, Iterable):
            raise UsageError(f"seeds {seeds!r}: give several, for example range({seeds!r}), or '0-63'")
        given = list(seeds)
        # NumPy's integers are numbers too; True and False are not.
        whole = [
            seed for seed in given if isinstance(seed, SupportsIndex) and not isinstance(seed, bool)
        ]
        numbers = tuple(dict.fromkeys(operator.index(seed) for seed in whole))
        if not numbers or len(whole) < len(given) or min(numbers) < 0:
            raise UsageError(f"seeds must be numbers from 0 on, at least one, not {given!r}")
        return numbers
    found: list[int] = []
    for part in seeds.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise UsageError(f"seeds={seeds!r}: write numbers and ranges, for example 0-63 or 43,44")
        stop = int(last) if dash else int(first)
        if stop < int(first):
            raise UsageError(f"seeds={seeds!r}: the range {part.strip()} runs backwards")
        found += range(int(first), stop + 1)
    return tuple(dict.fromkeys(found))


def parse_open_seeds(seeds: Seeds) -> tuple[tuple[int, ...], bool]:
    """``"100-"`` -> ((100,), True): from there on without end; else as ``parse_seeds``, False."""
    if isinstance(seeds, str):
        first = seeds.removesuffix("-")
        if seeds.endswith("-") and first.isdigit():
            return (int(first),), True
    return parse_seeds(seeds), False


# Runs and searches.


RUNS = Path("results/runs")
"""Where runs go that are given no folder."""
SEEDS_ON_A_GPU = 32
"""Seeds of a search that train together where they run side by side."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Run(Result):
    """What training left: a run, or the runs of a search, a rate or a sweep. Read from its folder."""

    folder: Path
    stored: StoredRun

    @property
    def kind(self) -> Kind:
        """run, search, rate or sweep."""
        return self.stored.kind

    @property
    def status(self) -> str:
        """started, running, done, stopped or failed; of a search proved, budget spent, seeds used up or
        stopped."""
        summary = self.stored.summary or {}
        return str(summary.get("search", self.stored.status))

    @property
    def config(self) -> Architecture:
        """The model; of a sweep, that of its first cell."""
        return self.stored.config.model

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe's settings, as ``config.json`` has them."""
        return self.stored.config.recipe

    @cached_property
    def seeds(self) -> tuple[SeedRecord, ...]:
        """What became of every seed. Their checkpoints and certificates are paths that can be opened."""
        return tuple(
            dataclasses.replace(
                record,
                checkpoint=record.checkpoint and str(self.folder / record.checkpoint),
                certificate=record.certificate and str(self.folder / record.certificate),
            )
            for record in self.stored.seeds
        )

    @property
    def proved(self) -> tuple[SeedRecord, ...]:
        """The seeds that are right on all 10^20 pairs, as trained or after repair."""
        return tuple(record for record in self.seeds if record.route is not None)

    @cached_property
    def best(self) -> Model:
        """The best model: of a run its best checkpoint, otherwise a proved one if there is one. Raises
        ``UsageError`` if nothing was kept."""
        if self.kind == "run":
            return load(self.folder / "checkpoints" / "best.pt")
        kept = [record for record in self.seeds if record.checkpoint]
        if not kept:
            raise UsageError(f"the {self.kind} in {self.folder} has kept no model yet; go on with it")
        return load(max(kept, key=lambda each: (each.route is not None, each.best_score)))

    @property
    def success(self) -> Rate:
        """Seeds that end at 99% exact match or more, with a 95% Wilson interval."""
        return wilson(sum(record.succeeded for record in self.seeds), len(self.seeds))

    @property
    def spent(self) -> dict[str, float]:
        """``seed_steps`` and ``wall_seconds``; of a search ``core_seconds`` too."""
        summary = self.stored.summary or {}
        steps = sum(record.steps for record in self.seeds)
        counted = {"seed_steps": steps, "wall_seconds": summary.get("elapsed_sec", 0.0)}
        return counted | summary.get("spent", {})

    def history(self, seed: int) -> list[Metrics]:
        """The evaluations of a seed. Raises ``UsageError`` if it is not one of the run's."""
        for record in self.stored.seeds:
            if record.seed == seed:
                return self.stored.history(record)
        raise UsageError(f"the {self.kind} in {self.folder} has no seed {seed}")

    def evaluate(
        self, suite: str | Suite = "published", *, device: str = "auto", engine: str = "auto"
    ) -> Iterator[SuiteReport]:
        """The best model, or of a search every proved one, on pairs that neither training nor its choice
        has seen. Each report is written beside the model once the next is asked for."""
        models = {self.folder / "evaluation.json": self.best}
        if self.kind == "search":
            paths = [Path(str(record.checkpoint)) for record in self.proved]
            models = {path.with_suffix(".evaluation.json"): load(path) for path in paths}
        for target, model in models.items():
            report = model.evaluate(suite, device=device, engine=engine)
            yield report
            write_json(target, report.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """The summary, as ``summary.json`` has it."""
        return dict(self.stored.summary or {"run_name": self.stored.name, "status": self.status})

    def to_dicts(self) -> list[dict[str, Any]]:
        """A flat row for every seed, for pandas or polars."""
        return [record.to_dict() for record in self.seeds]

    def describe(self) -> list[str]:
        """What came of it, in sentences."""
        begun = [record for record in self.seeds if record.steps]
        return describe_seeds(begun) if begun else [f"{self.folder}: no seed has been evaluated yet."]

    def _repr_html_(self) -> str:
        shown = ("seed", "status", "steps", "last_exact", "steps_learned", "grokked_at", "verdict")
        rows = [{name: row[name] for name in shown} for row in self.to_dicts()]
        return html_table(rows, f"{self.folder}: {self.status}")


def open_run(folder: str | os.PathLike[str]) -> Run:
    """A run folder of any kind, ours (of version 0.1 too) or the published program's.

    Raises ``UsageError`` if there is none, ``Failure`` if it is damaged.
    """
    return Run(folder=Path(folder), stored=open_stored(Path(folder)))


def train(
    model: Trainable,
    *,
    recipe: str | Recipe = "best",
    seeds: Seeds = range(8),
    steps: int | None = None,
    set: Settings = (),
    folder: str | os.PathLike[str] | None = None,
    run_name: str = "",
    device: str = "auto",
    engine: str = "auto",
    threads: int | None = None,
    keep: Keep = "grokked",
    overwrite: bool = False,
    prove: bool = False,
    cluster: str | None = None,
    shards: int | None = None,
    store: str | None = None,
    listener: Listener | None = None,
) -> Run:
    """Train a population of seeds of one model.

    ``recipe``: best (as ``zoo`` names it), quick (soonest to a proof), published, another name, or a
    ``Recipe``. ``steps``: optimiser steps of each seed before any restart, unless the recipe's. ``set``:
    changed settings. ``folder``: default results/runs/PRESET_TIME. ``threads``: seeds trained at once on
    a CPU; default every core; no effect on any result. ``keep``: seeds that get a folder of their own:
    "all", or those that end at 99% and the best. ``prove``: afterwards decide all 10^20 pairs for these.
    ``cluster``: train on a Ray cluster, in ``shards`` whose state lies in ``store``.

    Ctrl-C stops it after the current step: the run's ``status`` is then "stopped", and ``resume`` goes
    on. Raises ``UsageError`` for what cannot be, ``Failure`` if the disk refuses.
    """
    wanted = define(model, recipe, steps=steps, settings=set)
    job = Job(
        config=wanted.config,
        recipe=wanted.recipe,
        seeds=parse_seeds(seeds),
        folder=Path(folder) if folder else default_folder(wanted.name),
        run_name=run_name,
        overwrite=overwrite,
        keep=keep,
    )
    compute = Compute(device=device, engine=engine, threads=threads)
    if cluster is None and (store or shards):
        raise UsageError("store=URL and shards=N go with cluster=ADDRESS")
    listener = listener or Listener()
    if cluster is not None:
        if wanted.preset is None:
            raise UsageError("the model of a file is trained on this machine: leave out the cluster")
        return _train_on_cluster(job, compute, cluster, listener, prove, shards=shards, store=store)
    return _train(job, compute, listener, prove)


def resume(
    folder: str | os.PathLike[str],
    model: str | os.PathLike[str] | None = None,
    *,
    device: str = "auto",
    engine: str = "auto",
    threads: int | None = None,
    keep: Keep | None = None,
    prove: bool = False,
    proved: int | None = None,
    minutes: float = 10.0,
    cluster: str | None = None,
    listener: Listener | None = None,
) -> Run:
    """Go on with a stopped run or search, with its own settings; its seeds end in the bits that they
    would have reached without the stop. ``model``: the Python file whose model it trains, such as the
    run's own ``model.py``, which is run; of presets none. ``proved``, ``minutes``: of a search (see
    ``search``); without ``proved`` it stops at as many as it was last asked for. A rate is gone on with
    by ``measure_rate``, a sweep by ``sweep``.

    Raises ``UsageError`` if there is nothing to go on with, ``Failure`` if it is damaged.
    """
    folder, listener = Path(folder), listener or Listener()
    compute = Compute(device=device, engine=engine, threads=threads)
    kind = kind_of(folder)
    name_file(folder, model)
    if kind == "search":
        return _search(folder, compute, listener, proved=proved, minutes=minutes)
    if kind in ("rate", "sweep"):
        raise UsageError(f"{folder} is a {kind}; go on with it by adderlab {kind}")
    job = read_job(folder)
    job = dataclasses.replace(job, keep=keep or job.keep)
    if cluster is not None:
        if not is_sharded(folder):
            raise UsageError(f"the run in {folder} has no shards; go on with it without cluster=ADDRESS")
        return _train_on_cluster(job, compute, cluster, listener, prove, resume=True)
    if is_sharded(folder):
        raise UsageError(
            f"the run in {folder} was sharded; go on with cluster=local, or the cluster's address"
        )
    return _train(job, compute, listener, prove, resume=True)


def name_file(folder: Path, model: str | os.PathLike[str] | None) -> None:
    """Run the file whose model a stopped run trains. Raises ``UsageError`` where the run is of a file
    and none is named, or another."""
    config = read_config(folder).model if kind_of(folder) else None
    if not isinstance(config, FileModel):
        if model is not None and kind_of(folder):
            raise UsageError(f"{folder} trains no file's model: it goes on without {model}")
        return
    if model is None:
        if config.at_hand:
            return
        raise UsageError(
            f"{folder} trains the model of {config.file}, which is run only when it is named: name it, "
            f"or the run's copy {folder / MODEL_FILE}"
        )
    if read_file(Path(model))[0] != config:
        raise UsageError(
            f"{model} is not the file that {folder} trains (sha256 {config.sha256[:12]}...); its copy "
            f"is {folder / MODEL_FILE}"
        )


def search(
    model: Trainable,
    *,
    proved: int = 1,
    minutes: float = 10.0,
    recipe: str | Recipe = "quick",
    seeds: Seeds = "0-",
    assisted: bool = True,
    steps: int | None = None,
    set: Settings = (),
    folder: str | os.PathLike[str] | None = None,
    device: str = "auto",
    engine: str = "auto",
    threads: int | None = None,
    overwrite: bool = False,
    listener: Listener | None = None,
) -> Run:
    """Train fresh seeds until ``proved`` of them are proved on all 10^20 pairs, or ``minutes`` are over.

    ``seeds`` in order; ``"100-"``: from 100 on without end. ``assisted``: repair seeds that end nearly
    right, counted apart from training alone. The other arguments: see ``train``.

    The result's ``proved`` are the seeds with their files, its ``status`` says how it ended; ``resume``
    goes on with it. Raises ``UsageError`` for a model that cannot be proved.
    """
    wanted = define(model, recipe, steps=steps, settings=set)
    first, onward = parse_open_seeds(seeds)
    plan = SearchPlan(
        config=wanted.config,
        recipe=wanted.recipe,
        seeds=first,
        onward=onward,
        folder=Path(folder) if folder else default_folder(wanted.name),
        assisted=assisted,
    )
    compute = Compute(device=device, engine=engine, threads=threads)
    listener = listener or Listener()
    return _search(plan, compute, listener, proved=proved, minutes=minutes, overwrite=overwrite)


def default_folder(preset: str) -> Path:
    """results/runs/PRESET_TIME."""
    return RUNS / f"{preset}_{time.strftime('%Y%m%d_%H%M%S')}"


def _train(job: Job, compute: Compute, listener: Listener, prove: bool, *, resume: bool = False) -> Run:
    backend = open_backend(job.config, compute, listener.on_message)
    threads = f"{backend.threads} thread{'s' if backend.threads > 1 else ''}"
    listener.on_message(f"device: {backend.device} ({backend.device_reason}); {threads}")
    listener.on_message(
        f"engine: {backend.engine}; {len(job.seeds)} seeds, {job.recipe.steps} steps -> {job.folder}"
    )
    started = time.monotonic()
    result = run(job, backend.objective, backend.device, listener, resume=resume)
    seconds = time.monotonic() - started
    return _conclude(result.folder, result.records, result.status, seconds, listener, prove)


def _train_on_cluster(
    job: Job,
    compute: Compute,
    address: str,
    listener: Listener,
    prove: bool,
    *,
    shards: int | None = None,
    store: str | None = None,
    resume: bool = False,
) -> Run:
    if shards is not None and shards < 1:
        raise UsageError(f"shards={shards}: it must be at least 1")
    started = time.monotonic()
    try:
        with connected(address, compute, listener.on_message) as fleet:
            listener.on_message(
                f"{len(job.seeds)} seeds, {job.recipe.total_steps} steps -> {job.folder}"
            )
            result = train_sharded(job, fleet, shards=shards, store=store, resume=resume)
    except Stopped:
        raise KeyboardInterrupt from None
    for line in describe_machines([job.folder]):
        listener.on_message(line)
    seconds = time.monotonic() - started
    return _conclude(result.folder, result.records, result.status, seconds, listener, prove)


def _conclude(
    folder: Path,
    records: tuple[SeedRecord, ...],
    status: str,
    seconds: float,
    listener: Listener,
    prove: bool,
) -> Run:
    """Prove what a run came to, if that is wanted, and say so."""
    verdicts: list[str] = []
    if prove and status == "done":
        found, verdicts = _prove(folder, records, listener)
        records = tuple(found.get(record.seed, record) for record in records)
        update_records(folder, found)
    listener.on_end(folder, records, status)
    for line in (f"{status} after {seconds:.1f} s", *describe_seeds(records), *verdicts):
        listener.on_message(line)
    return open_run(folder)


def _prove(
    folder: Path, records: Sequence[SeedRecord], listener: Listener
) -> tuple[dict[int, SeedRecord], list[str]]:
    """Decide all pairs for the seeds that succeeded; proofs.json, and what to say of it. A best seed far
    from success is refuted by one pair that it gets wrong."""
    best = load(folder / "checkpoints" / "best.pt")
    reason = why_no_tables(best.config)
    if reason:
        return {}, [f"No proof: {reason}."]
    found, verdicts = prove_seeds(
        folder, records, lambda record, verdict: listener.on_verdict(record, verdict.verdict)
    )
    if not verdicts:
        return {}, [_refute(best)]
    write_json(folder / "proofs.json", {str(seed): each.to_dict() for seed, each in verdicts.items()})
    seed = best_of(records).seed
    place = folder / (found[seed].checkpoint or "checkpoints/best.pt")
    lines = [f"All 10^20 pairs, for the best checkpoint ({place}):"]
    lines += [f"  {line}" for line in verdicts[seed].describe()]
    proved = sorted(each.seed for each in found.values() if each.verdict == "proved")
    if len(records) > 1:
        named = f": seeds {', '.join(map(str, proved))}" if proved else ""
        rate = wilson(len(proved), len(records))
        lines.append(f"{len(proved)} of {len(records)} seeds are proved on all pairs, {rate}{named}.")
    return found, lines


def _refute(checkpoint: Checkpoint) -> str:
    """A pair that the real model, run in fp32, gets wrong."""
    model = checkpoint.module()
    for a, b in zip(*(from_digits(digits).tolist() for digits in uniform_pairs(0, 1000)), strict=True):
        answer = predict(model, a, b)
        if not answer.right:
            return f"REFUTED on all pairs by one: {a} + {b} = {a + b}, it answers {answer.answer}."
    return "No proof: the best checkpoint is far from success, yet 1,000 pairs did not refute it."


def _search(
    plan: SearchPlan | Path,
    compute: Compute,
    listener: Listener,
    *,
    proved: int | None,
    minutes: float,
    overwrite: bool = False,
) -> Run:
    settings = plan if isinstance(plan, SearchPlan) else read_search(plan).plan
    # Every worker trains a population of its own: the engine itself needs one thread.
    backend = open_backend(settings.config, compute, listener.on_message, engine_threads=1)
    workers = backend.threads if backend.on_cpu else 1
    if isinstance(plan, SearchPlan) and not backend.on_cpu:
        plan = dataclasses.replace(plan, together=SEEDS_ON_A_GPU)
    listener.on_message(
        f"device: {backend.device} ({backend.device_reason}); engine: {backend.engine}; {workers} "
        f"seed{'s' if workers > 1 else ''} at a time, {settings.recipe.total_steps} steps each -> "
        f"{settings.folder}"
    )
    result = search_until_proved(
        plan,
        backend.objective,
        backend.device,
        listener,
        wanted=proved,
        seconds=60 * minutes,
        workers=workers,
        overwrite=overwrite,
    )
    listener.on_end(settings.folder, tuple(result.records.values()), result.status)
    for line in result.describe():
        listener.on_message(line)
    return open_run(settings.folder)


def resume_command(run: Run | str | os.PathLike[str], options: Sequence[str] = ()) -> str:
    """What to type to go on with a run or a search."""
    folder = run.folder if isinstance(run, Run) else Path(run)
    file = [str(folder / MODEL_FILE)] if _is_of_a_file(folder) else []
    until = ["--until", "proved"] if kind_of(folder) == "search" else []
    return shlex.join(["adderlab", "train", *file, *until, "--resume", str(folder), *options])


def _is_of_a_file(folder: Path) -> bool:
    return kind_of(folder) is not None and isinstance(read_config(folder).model, FileModel)


def without_success(run: Run, minutes: float, options: Sequence[str] = ()) -> str:
    """Why a search ended without the models that were wanted, and how to go on. ``options``: of the
    command that goes on, besides its budget."""
    count, tried = len(run.proved), len(run.seeds)
    what = f"{count} of {run.to_dict()['wanted']} models are proved" if count else "no model is proved"
    if run.status == "seeds used up":
        return f"{what}: all {tried} seeds are tried; give more, for example --seeds 0-"
    again = resume_command(run, [*options, "--budget", f"{minutes:g}"])
    return f"{what} within {minutes:g} minutes ({tried} seeds tried); to go on: {again}"
