"""Run a declared series of experiments in order, go on where it stopped, check it, log it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

if TYPE_CHECKING:
    from adderlab.report.series import Experiment, Record, SeriesStep, StepStatus

Switch = tyro.conf.FlagCreatePairsOff


@dataclass(frozen=True, kw_only=True)
class Args:
    """Which series, and where its records and its log go."""

    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.toml")]
    """A series, for example experiments/seed-log.toml."""
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME")] = ()
    """Run these experiments only, for example --only E4."""
    again: Annotated[bool, Switch] = False
    """Start anew although this series has been run, or begun, here."""
    records: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("records")
    """Folder of records; the series gets one of its own in it."""
    log: Annotated[Path, tyro.conf.arg(metavar="F")] = Path("EXPERIMENTS.md")
    """The log, written from the folder of records after every experiment."""


def run(args: Args) -> int:
    """0 if everything ran and met its expectations, 1 if not, 130 if interrupted."""
    from adderlab.cli import log as log_command
    from adderlab.cli.main import FAILURE, INTERRUPTED
    from adderlab.report.series import find_record, new_record, read_series
    from adderlab.runs.environment import now

    series = read_series(args.file)
    for _, _, step in series.steps():
        _parsed(step.command)  # a wrong flag is told before anything runs
    chosen = _chosen(series.experiment, args.only)
    record = None if args.again else find_record(args.records, args.file)
    if record is None:
        record = new_record(args.records, args.file, now())
    elif all(record.is_done(e, n) for e in chosen for n in range(len(e.step))):
        print(f"Already run: {record.path} (started {record.journal.started}); --again runs it anew")
    good = True
    for experiment in chosen:
        print(f"{experiment.name}: {experiment.title}", flush=True)
        status = _run_experiment(record, experiment)
        paths = (args.records,)
        log_command.write(paths, args.log, f"adderlab log {args.records}")
        if status == "interrupted":
            print(f"To go on: adderlab replay {args.file}")
            return INTERRUPTED
        for checked in record.check(experiment):
            print(f"  {checked}")
            good = good and checked.met is True
        good = good and status == "done"
    print(f"Records: {record.path}; log: {args.log}")
    return 0 if good else FAILURE


def _chosen(experiments: tuple[Experiment, ...], only: tuple[str, ...]) -> list[Experiment]:
    from adderlab.errors import UsageError

    names = [experiment.name for experiment in experiments]
    for name in only:
        if name not in names:
            raise UsageError(f"--only {name}: the series has the experiments {', '.join(names)}")
    return [experiment for experiment in experiments if not only or experiment.name in only]


def _run_experiment(record: Record, experiment: Experiment) -> StepStatus:
    """All steps that are not done yet; stops at the first that does not end well."""
    for number, step in enumerate(experiment.step):
        if record.is_done(experiment, number):
            print(f"  done before: {_short(step.command)}", flush=True)
            continue
        status = _run_step(record, experiment, number, step)
        if status != "done":
            return status
    return "done"


def _run_step(record: Record, experiment: Experiment, number: int, step: SeriesStep) -> StepStatus:
    import time

    from adderlab.report.series import Entry
    from adderlab.runs.environment import collect_environment, now

    started, clock = now(), time.monotonic()
    absent = [name for name in step.needs if not Path(name).exists()]
    print(f"  {_short(step.command)}", flush=True)
    record.forget(step)
    status: StepStatus
    sha256, message = None, ""
    if absent:
        status, message = "absent", f"{absent[0]} is not here"
        print(f"  not run: {message}", flush=True)
    else:
        status, message = _outcome(step)
        if status in ("done", "interrupted") and Path(step.product).exists():
            sha256 = record.keep(step)
    record.note(
        Entry(
            experiment=experiment.name,
            number=number,
            command=step.command.strip(),
            status=status,
            started=started,
            seconds=round(time.monotonic() - clock, 3),
            environment=record.environment(collect_environment(_device(step))),
            sha256=sha256,
            message=message,
        )
    )
    return status


def _short(command: str) -> str:
    return " ".join(command.replace("\\\n", " ").split())


def _outcome(step: SeriesStep) -> tuple[StepStatus, str]:
    """Run one command in this process; (how it ended, why if not well)."""
    from adderlab.cli.main import INTERRUPTED

    module, args, argv = _parsed(step.command)
    try:
        with _command_line(argv):
            resumable = step.run is not None and _is_stopped(Path(step.run), argv)
            code = _resume(args, Path(step.run or "")) if resumable else module.run(args)
    except KeyboardInterrupt:
        return "interrupted", "stopped by hand"
    except (ValueError, OSError) as error:
        print(f"  failed: {error}", flush=True)
        return "failed", " ".join(str(error).split())
    if step.run is not None and _status_of(Path(step.run)) in ("running", "stopped"):
        return "interrupted", "stopped by hand"
    if code == INTERRUPTED:
        return "interrupted", "stopped by hand"
    if not Path(step.product).exists():
        return "failed", f"it left no {step.product}"
    return "done", ""


def _parsed(command: str) -> tuple[Any, Any, list[str]]:
    """(module of the command, its arguments, the command line as the run will record it)."""
    import importlib

    from adderlab.cli.main import COMMANDS, parse
    from adderlab.errors import UsageError
    from adderlab.report.series import words

    kind, rest = words(command)
    if kind == "adderlab":
        name = rest[0]
        if name not in COMMANDS or name == "replay":
            raise UsageError(f"{command!r}: a series cannot run adderlab {name}")
        module, rest = importlib.import_module(f"adderlab.cli.{name}"), rest[1:]
        argv, prog = ["adderlab", name, *rest], f"adderlab {name}"
    elif kind == "train door":
        from adderlab.cli import r456_train as module

        argv, prog = ["src/train.py", *rest], "python -m src.train"
    else:
        from adderlab.cli import r456_evaluate as module

        argv, prog = ["evaluate_checkpoints.py", *rest], "python evaluate_checkpoints.py"
    return module, parse(module.Args, rest, prog, module.__doc__), argv


@contextlib.contextmanager
def _command_line(argv: list[str]) -> Iterator[None]:
    """What a run records as its command is the series' command, not ``adderlab replay``."""
    before = sys.argv
    sys.argv = argv
    try:
        yield
    finally:
        sys.argv = before


def _status_of(run: Path) -> str | None:
    from adderlab.errors import Failure
    from adderlab.runs.folder import read_summary

    try:
        return str(read_summary(run)["status"])
    except Failure:
        return None


def _is_stopped(run: Path, argv: list[str]) -> bool:
    """Whether the folder holds a run of this very command that was stopped or killed."""
    from adderlab.errors import Failure
    from adderlab.runs.folder import STATE_FILE, read_config

    if _status_of(run) not in ("running", "stopped") or not (run / STATE_FILE).is_file():
        return False
    try:
        return list(read_config(run).command) == argv
    except Failure:
        return False


def _resume(args: Any, run: Path) -> int:
    """Go on with a training; the flags that say where to compute are the command's own."""
    from adderlab.cli import train

    shared = ("device", "engine", "threads", "evaluate", "prove", "keep", "quiet")
    given = {name: getattr(args, name) for name in shared if hasattr(args, name)}
    if not isinstance(args, train.Args):
        given["evaluate"] = "none"  # the log's command does not evaluate
    return train.run(train.Args(resume=run, **given))


def _device(step: SeriesStep) -> str:
    from adderlab.engine.base import choose_device

    _, args, _ = _parsed(step.command)
    return str(choose_device(getattr(args, "device", "cpu"))[0])
