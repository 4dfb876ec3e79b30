"""Train a population of seeds of one architecture, evaluate the best, say what was learned."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

Switch = tyro.conf.FlagCreatePairsOff


@dataclass(frozen=True, kw_only=True)
class Args:
    """What to train, for how long, and where to."""

    preset: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[PRESET]")] = None
    """A published architecture, for example 456p (adderlab zoo lists them)."""
    until: Literal["proved"] | None = None
    """Go on with fresh seeds until one is proved on all pairs: hopeless ones are dropped."""
    proved: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """With --until proved: stop at so many proved seeds."""
    budget: Annotated[float, tyro.conf.arg(metavar="MINUTES")] = 10.0
    """With --until proved: give up after so many minutes (exit code 1)."""
    assisted: bool = True
    """With --until proved: repair seeds that end nearly right; counted apart from training alone."""
    recipe: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """best (default), quick (default with --until proved: soonest to a proof), published, or a name."""
    seeds: Annotated[str | None, tyro.conf.arg(metavar="SEEDS")] = None
    """Seeds, for example 0-63 or 43,44; with --until proved also from one on, 100-. Default: 0-7;
    with --until proved 0-."""
    steps: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Optimiser steps of each seed before any restart; default: the recipe's."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    engine: str = "auto"
    """auto, native, triton or torch."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Seeds trained at once on a CPU; default: every core. No effect on any seed's results."""
    run_name: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Folder below results/runs; default: the preset and the time."""
    overwrite: Annotated[bool, Switch] = False
    """Delete a run of that name first."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Go on with a stopped run; give its folder and no preset."""
    keep: Annotated[Literal["grokked", "all"] | None, tyro.conf.arg(metavar="{grokked,all}")] = None
    """Seeds that get a folder: all, or (default) those that end at 99% and the best."""
    evaluate: str = "published"
    """Suite for the best seed afterwards: published, adderboard, strata, fresh:N, or none."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ROOM.NAME=VALUE")] = ()
    """Changed settings, for example --set recipe.lr=0.01 model.d_ff=12."""
    prove: bool = True
    """Afterwards, decide all 10^20 pairs for every seed at 99% or more, or else for the best."""
    quiet: Annotated[bool, Switch] = False
    """Print only the evaluation at the end."""
    json_lines: Annotated[bool, Switch] = False
    """Print one JSON object a line, for programs, instead of text."""
    cluster: Annotated[str | None, tyro.conf.arg(metavar="ADDRESS")] = None
    """Train on a Ray cluster: local, auto, or ray://HOST:10001 (needs adderlab[cluster])."""
    store: Annotated[str | None, tyro.conf.arg(metavar="URL")] = None
    """With --cluster: where the machines keep their state, a folder they share or s3://, gs://;
    default: the run's own folder."""
    shards: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """With --cluster: in how many parts the seeds are trained; default: as many as fit at once."""
    sink: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ()
    """Dashboards that get a copy of the figures; each needs its extra (adderlab[wandb])."""


def run(args: Args) -> int:
    """Train, evaluate, report."""
    if args.until:
        return _search(args)
    return _train(args)


def _train(args: Args) -> int:
    from adderlab.cli.main import INTERRUPTED
    from adderlab.cli.training import run_in_terminal
    from adderlab.errors import UsageError
    from adderlab.evaluation.suites import parse_suite

    if (args.proved, args.budget, args.assisted) != (1, 10.0, True):
        raise UsageError("--proved, --budget and --no-assisted go with --until proved")
    # A wrong name is told before training, not after.
    suite = None if args.evaluate == "none" else parse_suite(args.evaluate)
    job = _job(args)
    if args.cluster:
        outcome = _on_cluster(job, args)
    else:
        _refuse_shards(job, args)
        outcome = run_in_terminal(
            job,
            device=args.device,
            engine=args.engine,
            threads=args.threads,
            resume=args.resume is not None,
            quiet=args.quiet,
            json_lines=args.json_lines,
            sinks=args.sink,
            prove=args.prove,
        )
    if outcome is None or outcome.status == "stopped":
        return INTERRUPTED
    if suite is not None:
        _evaluate(outcome.best, suite, args, job.folder / "evaluation.json")
    if not args.json_lines:
        print(f"Files: {job.folder}/ (summary.json, seeds.csv, metrics.csv, checkpoints/best.pt)")
    return 0


def _on_cluster(job, args: Args):  # type: ignore[no-untyped-def]
    """--cluster."""
    from adderlab.cli.clustering import train_on_cluster
    from adderlab.errors import UsageError

    if args.sink:
        raise UsageError("--sink follows a run on this machine; leave it out with --cluster")
    if args.resume is not None and (args.store or args.shards):
        raise UsageError("a resumed run keeps its shards and its store: give no --shards and --store")
    assert args.cluster is not None
    return train_on_cluster(
        job,
        args.cluster,
        shards=args.shards,
        store=args.store,
        device=args.device,
        engine=args.engine,
        threads=args.threads,
        resume=args.resume is not None,
        quiet=args.quiet,
        json_lines=args.json_lines,
        prove=args.prove,
    )


def _refuse_shards(job, args: Args) -> None:  # type: ignore[no-untyped-def]
    from adderlab.errors import UsageError

    if args.store or args.shards:
        raise UsageError("--store and --shards go with --cluster")
    if args.resume is None:
        return
    from adderlab.study.cluster.merge import is_sharded

    if is_sharded(job.folder):
        raise UsageError(
            f"the run in {job.folder} was sharded; go on with --cluster local, or the cluster's address"
        )


def _search(args: Args) -> int:
    """--until proved."""
    from adderlab.cli.main import INTERRUPTED
    from adderlab.cli.searching import open_seeds, search_in_terminal
    from adderlab.errors import UsageError
    from adderlab.evaluation.suites import parse_suite
    from adderlab.runs.checkpoints import load_checkpoint
    from adderlab.study.search_files import Plan, is_search

    if args.sink or args.keep or not args.prove or args.cluster:
        raise UsageError("--sink, --keep, --no-prove and --cluster do not go with --until proved")
    suite = None if args.evaluate == "none" else parse_suite(args.evaluate)
    if args.resume is not None:
        _refuse_new_settings(args)
        if not is_search(args.resume):
            raise UsageError(f"{args.resume} is no search; resume it without --until")
        plan = args.resume
    else:
        preset, config, recipe = _preset(args)
        seeds, onward = open_seeds(args.seeds or "0-")
        plan = Plan(
            config=config,
            recipe=recipe,
            seeds=seeds,
            onward=onward,
            folder=_folder(args, preset),
            assisted=args.assisted,
        )
    summary = search_in_terminal(
        plan,
        wanted=args.proved,
        minutes=args.budget,
        device=args.device,
        engine=args.engine,
        threads=args.threads,
        overwrite=args.overwrite,
        quiet=args.quiet,
        json_lines=args.json_lines,
    )
    if summary.status == "stopped":
        return INTERRUPTED
    for fate in summary.proved if suite else ():
        checkpoint = load_checkpoint(fate.checkpoint)
        target = Path(fate.checkpoint).with_suffix(".evaluation.json")
        _evaluate(checkpoint, suite, args, target)
    return 0


def _evaluate(checkpoint, suite, args: Args, target: Path) -> None:  # type: ignore[no-untyped-def]
    """A checkpoint on pairs that neither training nor its choice has seen."""
    import sys

    import adderlab
    from adderlab.files.atomic import write_json
    from adderlab.report.live import write_event

    report = adderlab.evaluate(checkpoint, suite, device=args.device, engine=args.engine)
    if args.json_lines:
        write_event(sys.stdout, "result", **report.to_dict())
    else:
        print(*report.describe(), sep="\n")
    write_json(target, report.to_dict())


def _job(args: Args):  # type: ignore[no-untyped-def]
    import dataclasses

    from adderlab.cli.options import parse_seeds
    from adderlab.errors import UsageError
    from adderlab.study.search_files import is_search
    from adderlab.training.job import Job, read_job

    if args.resume is not None:
        _refuse_new_settings(args)
        if is_search(args.resume):
            raise UsageError(f"{args.resume} is a search; go on with it by --until proved --resume")
        job = read_job(args.resume)
        return dataclasses.replace(job, keep=args.keep or job.keep)
    preset, config, recipe = _preset(args)
    return Job(
        config=config,
        recipe=recipe,
        seeds=parse_seeds(args.seeds or "0-7"),
        folder=_folder(args, preset),
        overwrite=args.overwrite,
        keep=args.keep or "grokked",
    )


def _preset(args: Args):  # type: ignore[no-untyped-def]
    """(preset, model config, recipe), changed as asked for."""
    from adderlab.cli.options import parse_settings
    from adderlab.errors import UsageError
    from adderlab.files.schema import with_setting
    from adderlab.models.zoo import get_preset
    from adderlab.recipes import recipe_for

    if args.preset is None:
        raise UsageError("name a preset to train, for example 456p (adderlab zoo lists them)")
    preset = get_preset(args.preset)
    config, recipe = (
        preset.config,
        recipe_for(preset, args.recipe or ("quick" if args.until else "best")),
    )
    for room, key, value in parse_settings(args.set):
        if room == "recipe":
            recipe = with_setting(recipe, key, value)
        else:
            config = with_setting(config, key, value)
    if args.steps is not None:
        recipe = with_setting(recipe, "steps", str(args.steps))
    return preset, config, recipe


def _folder(args: Args, preset) -> Path:  # type: ignore[no-untyped-def]
    from adderlab.cli.training import default_folder

    return default_folder(args.run_name, preset.name)


def _refuse_new_settings(args: Args) -> None:
    """A resumed run takes its own."""
    from adderlab.errors import UsageError

    changed = args.recipe or args.steps or args.set or not args.assisted
    if args.preset or changed or args.seeds or args.run_name or args.overwrite:
        raise UsageError(
            "--resume takes the run's own settings: give no preset, --recipe, --seeds, --steps, --set "
            "or --no-assisted"
        )
