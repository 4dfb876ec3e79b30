"""Training through the public API: runs, searches for proved models, and what they left."""

from __future__ import annotations

import dataclasses
import os
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from adderlab.api.experiments import (
    Experiment,
    Seeds,
    Settings,
    Trainable,
    define,
    explain,
    name_file,
    parse_open_seeds,
    parse_seeds,
)
from adderlab.api.models import Model, ModelLike, load
from adderlab.errors import UsageError
from adderlab.evaluation.exact import SuiteReport, predict
from adderlab.evaluation.suites import Rate, Suite, wilson
from adderlab.files.atomic import write_json
from adderlab.models.config import ModelConfig
from adderlab.models.tables import why_no_tables
from adderlab.models.zoo import PRESETS
from adderlab.reading.file_model import FileModel
from adderlab.recipes.auto import LEAST_STEPS
from adderlab.report.describe import describe_model, describe_seeds
from adderlab.results import Result, html_table
from adderlab.runs.checkpoints import Checkpoint
from adderlab.runs.folder import update_records
from adderlab.runs.metadata import MODEL_FILE, Keep, Kind, kind_of, read_config, start_of
from adderlab.runs.records import Metrics, SeedRecord, best_of
from adderlab.runs.stored import Snapshots, StoredRun, read_snapshots
from adderlab.runs.stored import open_run as open_stored
from adderlab.study.cluster import Stopped, connected, describe_machines, is_sharded, train_sharded
from adderlab.study.forecast import steps_within
from adderlab.study.search import SearchPlan, read_search, search_until_proved
from adderlab.study.verdicts import prove_seeds
from adderlab.task.addition import from_digits
from adderlab.task.sampling import uniform_pairs
from adderlab.training.measure import Listener
from adderlab.training.objective import Compute, open_backend
from adderlab.training.recipe import Recipe, WarmStart
from adderlab.training.run import Job, extended, read_job, run
from adderlab.training.start import OWN_START, check_encloses, check_fits

# Runs and searches.


MOST_TIMES = 10
"""A budget of time gives the recipe auto at most so many times its own steps."""

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
        """started, running, done, diverged (every seed), stopped or failed; of a search proved, budget
        spent, seeds used up or stopped."""
        summary = self.stored.summary or {}
        return str(summary.get("search", self.stored.status))

    @property
    def config(self) -> ModelConfig | FileModel:
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
        """The seeds that are right on all pairs, as trained or after repair."""
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

    def snapshots(self, seed: int | None = None) -> Snapshots:
        """The weights of a seed (default: of the best) at every step that was kept
        (``checkpoint_every``): ``steps`` and ``weights_FN`` (frames, parameters). Raises ``UsageError``
        if none were."""
        seed = best_of(self.stored.seeds).seed if seed is None else seed
        found = read_snapshots(self.folder, seed)
        if found is None:
            raise UsageError(
                f"the {self.kind} in {self.folder} has no snapshots of seed {seed}: train it with "
                "--checkpoint-every N"
            )
        return found

    def evaluate(
        self, suite: str | Suite = "published", *, device: str = "auto", engine: str = "auto"
    ) -> Iterator[SuiteReport]:
        """The best model, or of a search every proved one, on pairs that neither training nor its choice
        has seen. Each report is written beside its model before it is given."""
        models = {self.folder / "evaluation.json": self.best}
        if self.kind == "search":
            paths = [Path(str(record.checkpoint)) for record in self.proved]
            models = {path.with_suffix(".evaluation.json"): load(path) for path in paths}
        for target, model in models.items():
            report = model.evaluate(suite, device=device, engine=engine)
            write_json(target, report.to_dict())
            yield report

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
    checkpoint_every: int | None = None,
    overwrite: bool = False,
    prove: bool = False,
    start: ModelLike | None = None,
    cluster: str | None = None,
    shards: int | None = None,
    store: str | None = None,
    minutes: float | None = None,
    listener: Listener | None = None,
) -> Run:
    """Train a population of seeds of one model.

    ``recipe``: best (as ``zoo`` names it), quick (soonest to a proof), published, another name, or a
    ``Recipe``. ``steps``: optimiser steps of each seed before the recipe's stages. ``set``: changed
    settings. ``folder``: default results/runs/PRESET_TIME. ``threads``: seeds trained at once on
    a CPU; default every core; no effect on any result. ``keep``: seeds that get a folder of their own:
    "all", or those that end at 99% and the best. ``checkpoint_every``: keep all weights every so many
    steps, in one array file (``snapshots``), of which report and explorer make a film. ``prove``:
    afterwards decide all pairs for the seeds that end at 99%, or for the best. ``start``: a trained
    model, of the same configuration or of one that it encloses (``training.start``), from whose
    weights every seed starts; what the recipe has for the start is left out. ``cluster``: train on a
    Ray cluster, in ``shards`` whose state lies in ``store``.
    ``minutes``: of the recipe "auto", which then has as many steps as this machine takes about so long
    for.

    Ctrl-C stops it after the current step: the run's ``status`` is then "stopped", and ``resume`` goes
    on. Raises ``UsageError`` for what cannot be, ``Failure`` if the disk refuses.
    """
    settings, chosen = set if start is None else _without_own_start(set), parse_seeds(seeds)
    wanted = define(model, recipe, steps=steps, settings=settings)
    listener = listener or Listener()
    compute = Compute(device=device, engine=engine, threads=threads)
    if minutes is not None:
        if wanted.recipe_name != "auto" or steps is not None or cluster is not None:
            raise UsageError(
                f"minutes={minutes:g} chooses the steps of the recipe auto on this machine: take "
                "recipe=auto, and leave out steps and cluster"
            )
        steps = _steps_within(minutes, wanted, len(chosen), compute, listener)
        wanted = define(model, recipe, steps=steps, settings=settings)
    source = None if start is None else load(start)
    own_recipe = wanted.recipe
    if source is not None:
        check_encloses(wanted.config, source)
        listener.on_message(f"start: {source}; the recipe's own start is left out")
        named = WarmStart(sha256=source.weights_sha256, start=start_of(source))
        own_recipe = dataclasses.replace(own_recipe, warm_start=named)
    job = Job(
        config=wanted.config,
        recipe=own_recipe,
        seeds=chosen,
        folder=Path(folder) if folder else default_folder(wanted.name),
        run_name=run_name,
        overwrite=overwrite,
        keep=keep,
        source=source,
        checkpoint_every=checkpoint_every,
    )
    if cluster is None and (store or shards):
        raise UsageError("store=URL and shards=N go with cluster=ADDRESS")
    explain(wanted, listener)
    if cluster is not None:
        if job.source is not None:
            raise UsageError("a warm start is trained on this machine: leave out the cluster")
        if wanted.preset is None:
            raise UsageError("the model of a file is trained on this machine: leave out the cluster")
        if checkpoint_every is not None:
            raise UsageError("checkpoint_every keeps weights on this machine: leave out the cluster")
        return _train_on_cluster(job, compute, cluster, listener, prove, shards=shards, store=store)
    return _train(job, compute, listener, prove)


def _without_own_start(settings: Settings) -> Settings:
    """The settings, after those that leave out what a recipe has for the start."""
    nothing: dict[str, Any] = {f"recipe.{name}": None for name in OWN_START}
    if isinstance(settings, Mapping):
        return {**nothing, **settings}
    return [*(f"{name}=null" for name in nothing), *settings]


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
    steps: int | None = None,
    cluster: str | None = None,
    listener: Listener | None = None,
) -> Run:
    """Go on with a stopped run or search, with its own settings; its seeds end in the bits that they
    would have reached without the stop. ``steps``: so many in all, of a run that is done or stopped: a
    last stage is added, from every seed's best weights, with a fresh optimiser, at the rate where the
    recipe ends. ``model``: the Python file whose model it trains, such as the
    run's own ``model.py``, which is run; of presets none. ``proved``, ``minutes``: of a search (see
    ``search``); without ``proved`` it stops at as many as it was last asked for. A rate is gone on with
    by ``measure_rate``, a sweep by ``sweep``.

    Raises ``UsageError`` if there is nothing to go on with, ``Failure`` if it is damaged.
    """
    folder, listener = Path(folder), listener or Listener()
    compute = Compute(device=device, engine=engine, threads=threads)
    kind = kind_of(folder)
    name_file(folder, model)
    if steps is not None and (kind != "run" or is_sharded(folder)):
        raise UsageError(f"steps={steps} extends a run on this machine, not the {kind} in {folder}")
    if kind == "search":
        return _search(folder, compute, listener, proved=proved, minutes=minutes)
    if kind in ("rate", "sweep"):
        raise UsageError(f"{folder} is a {kind}; go on with it by adderlab {kind}")
    job = read_job(folder)
    job = dataclasses.replace(job, keep=keep or job.keep)
    if steps is not None:
        job = extended(job, steps)
    if cluster is not None:
        if not is_sharded(folder):
            raise UsageError(f"the run in {folder} has no shards; go on with it without cluster=ADDRESS")
        return _train_on_cluster(job, compute, cluster, listener, prove, resume=True)
    if is_sharded(folder):
        raise UsageError(
            f"the run in {folder} was sharded; go on with cluster=local, or the cluster's address"
        )
    return _train(job, compute, listener, prove, resume=True)


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
    """Train fresh seeds until ``proved`` of them are proved on all pairs, or ``minutes`` are over.

    ``seeds`` in order; ``"100-"``: from 100 on without end. ``assisted``: repair seeds that end nearly
    right, where a fresh seed takes longer; counted apart from training alone. The other arguments: see
    ``train``.

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
    explain(wanted, listener)
    return _search(plan, compute, listener, proved=proved, minutes=minutes, overwrite=overwrite)


_DIVERGED = "the loss of every seed is no longer a number; train with a smaller recipe.lr"


def run_folder(name: str) -> Path:
    """The folder of a run of that name, below results/runs. Raises ``UsageError`` for a name that leads
    elsewhere."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or path == Path():
        raise UsageError(
            f"run_name={name!r}: its folder must lie below {RUNS}; give a plain name, for example my-run"
        )
    return RUNS / path


def default_folder(preset: str) -> Path:
    """results/runs/PRESET_TIME."""
    return RUNS / f"{preset}_{time.strftime('%Y%m%d_%H%M%S')}"


def _steps_within(
    minutes: float, wanted: Experiment, seeds: int, compute: Compute, listener: Listener
) -> int:
    """Steps of the recipe auto for a budget of time."""
    if not minutes > 0:
        raise UsageError(f"minutes={minutes:g}: it must be above 0")
    check_fits(wanted.config, wanted.recipe, (0,))
    backend = open_backend(wanted.config, compute, listener.on_message)
    config, recipe = wanted.config, wanted.recipe
    most = MOST_TIMES * recipe.steps
    steps = steps_within(60 * minutes, config, recipe, seeds, backend, least=LEAST_STEPS, most=most)
    if steps == LEAST_STEPS:
        listener.on_message(
            f"auto: {minutes:g} minutes are too few on this machine: it takes its least, {steps} steps"
        )
    return steps


def _announce(config: ModelConfig | FileModel, listener: Listener) -> None:
    """A model that no preset's name stands for is described."""
    if all(preset.config != config for preset in PRESETS.values()):
        listener.on_message(f"model: {describe_model(config)}")


def _train(job: Job, compute: Compute, listener: Listener, prove: bool, *, resume: bool = False) -> Run:
    _announce(job.config, listener)
    backend = open_backend(job.config, compute, listener.on_message)
    threads = f"{backend.threads} thread{'s' if backend.threads > 1 else ''}"
    listener.on_message(f"device: {backend.device} ({backend.device_reason}); {threads}")
    steps = job.recipe.total_steps
    listener.on_message(
        f"engine: {backend.engine}; {len(job.seeds)} seeds, {steps} steps -> {job.folder}"
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
    _announce(job.config, listener)
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
    if status == "diverged":
        verdicts = [f"Nothing to prove: {_DIVERGED}."]
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
    pairs = best.config.token_layout.addition.pairs_text
    lines = [f"All {pairs} pairs, for the best checkpoint ({place}):"]
    lines += [f"  {line}" for line in verdicts[seed].describe()]
    proved = sorted(each.seed for each in found.values() if each.verdict == "proved")
    if len(records) > 1:
        named = f": seeds {', '.join(map(str, proved))}" if proved else ""
        rate = wilson(len(proved), len(records))
        lines.append(f"{len(proved)} of {len(records)} seeds are proved on all pairs, {rate}{named}.")
    return found, lines


def _refute(checkpoint: Checkpoint) -> str:
    """A pair that the real model, run in fp32, gets wrong."""
    model, task = checkpoint.module(), checkpoint.config.token_layout.addition
    drawn = (from_digits(digits, task.base).tolist() for digits in uniform_pairs(0, 1000, task))
    for a, b in zip(*drawn, strict=True):
        answer = predict(model, a, b)
        if not answer.right:
            text = " + ".join(map(task.numeral, (a, b)))
            return (
                f"REFUTED on all pairs by one: {text} = {task.numeral(a + b)}, it answers "
                f"{answer.answer}."
            )
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
    _announce(settings.config, listener)
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
