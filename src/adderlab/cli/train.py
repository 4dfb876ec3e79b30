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
    recipe: Annotated[str, tyro.conf.arg(metavar="NAME")] = "published"
    """The preset's published recipe, or another one by name, for example circle."""
    seeds: str = "0-7"
    """Seeds, for example 0-63 or 43,44."""
    steps: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Optimiser steps of each seed before any restart; default: the recipe's."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    engine: str = "auto"
    """auto, native or torch."""
    threads: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Seeds trained at once on a CPU; default: every core. Results do not depend on it."""
    run_name: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Folder below results/runs; default: the preset and the time."""
    overwrite: Annotated[bool, Switch] = False
    """Delete a run of that name first."""
    resume: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Go on with a stopped run; give its folder and no preset."""
    keep: Literal["grokked", "all"] = "grokked"
    """Seeds that get a folder of their own: those that end at 99% and the best, or all."""
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
    sink: tuple[Literal["tensorboard", "trackio", "wandb"], ...] = ()
    """Dashboards that get a copy of the figures; each needs its extra (adderlab[wandb])."""


def run(args: Args) -> int:
    """Train, evaluate, report."""
    from adderlab.cli.main import INTERRUPTED
    from adderlab.cli.training import run_in_terminal
    from adderlab.evaluation.suites import parse_suite

    # A wrong name is told before training, not after.
    suite = None if args.evaluate == "none" else parse_suite(args.evaluate)
    job = _job(args)
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
    if outcome.status == "stopped":
        return INTERRUPTED
    if suite is not None:
        _evaluate_best(outcome.best, suite, args)
    if not args.json_lines:
        print(f"Files: {job.folder}/ (summary.json, seeds.csv, metrics.csv, checkpoints/best.pt)")
    return 0


def _evaluate_best(best, suite, args: Args) -> None:  # type: ignore[no-untyped-def]
    """The best seed on pairs that neither training nor the choice of the checkpoint has seen."""
    import sys

    from rich.console import Console

    from adderlab.cli.evaluating import evaluate_checkpoint, print_report, report_entry
    from adderlab.report.events import write_event
    from adderlab.runs.atomic import write_json

    report = evaluate_checkpoint(
        best, suite, device=args.device, engine=args.engine, say=lambda line: None
    )
    if args.json_lines:
        write_event(sys.stdout, "result", **report_entry(best, report))
    else:
        print_report(Console(), report)
    write_json(best.path.parent.parent / "evaluation.json", report_entry(best, report))


def _job(args: Args):  # type: ignore[no-untyped-def]
    import dataclasses

    from adderlab.cli.options import parse_seeds, parse_settings
    from adderlab.cli.training import default_folder
    from adderlab.errors import UsageError
    from adderlab.models.presets import get_preset
    from adderlab.schema import with_setting
    from adderlab.training.recipes import recipe_for
    from adderlab.training.run import Job, read_job

    if args.resume is not None:
        changed = args.recipe != "published" or args.steps or args.set
        if args.preset or changed or args.run_name or args.overwrite:
            raise UsageError(
                "--resume takes the run's own settings: give no preset, --recipe, --steps or --set"
            )
        return dataclasses.replace(read_job(args.resume), keep=args.keep)
    if args.preset is None:
        raise UsageError("name a preset to train, for example 456p (adderlab zoo lists them)")
    preset = get_preset(args.preset)
    config, recipe = preset.config, recipe_for(preset, args.recipe)
    for room, key, value in parse_settings(args.set):
        if room == "recipe":
            recipe = with_setting(recipe, key, value)
        else:
            config = with_setting(config, key, value)
    if args.steps is not None:
        recipe = with_setting(recipe, "steps", str(args.steps))
    return Job(
        config=config,
        recipe=recipe,
        seeds=parse_seeds(args.seeds),
        folder=default_folder(args.run_name, preset.name),
        overwrite=args.overwrite,
        keep=args.keep,
    )
