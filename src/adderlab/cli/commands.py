"""The commands of a declared series, run in this process as if they had been typed."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adderlab.report.replay import SeriesStep, StepStatus

INTERRUPTED = ("interrupted", "stopped by hand")


class CommandLine:
    """Runs steps (``adderlab.report.replay.Runner``)."""

    def check(self, command: str) -> None:
        """Raises ``UsageError`` for a command with wrong arguments, without running it."""
        _parsed(command)

    def device(self, command: str) -> str:
        """Where the command will compute."""
        from adderlab.engine.select import choose_device

        _, args, _ = _parsed(command)
        return str(choose_device(getattr(args, "device", "cpu"))[0])

    def run(self, step: SeriesStep) -> tuple[StepStatus, str]:
        """Run a step, or go on with its run if that was stopped; (how it ended, why if not well)."""
        module, args, argv = _parsed(step.command)
        run = None if step.run is None else Path(step.run)
        try:
            with _command_line(argv):
                go_on = run is not None and _is_stopped(run, argv)
                code = _resume(args, run) if go_on and run is not None else module.run(args)
        except KeyboardInterrupt:
            return INTERRUPTED
        except (ValueError, OSError) as error:
            return "failed", " ".join(str(error).split())
        from adderlab.cli.main import INTERRUPTED as INTERRUPTED_CODE

        if code == INTERRUPTED_CODE or (run is not None and _status(run) in ("running", "stopped")):
            return INTERRUPTED
        if not Path(step.product).exists():
            return "failed", f"it left no {step.product}"
        return "done", ""


def _parsed(command: str) -> tuple[Any, Any, list[str]]:
    """(module of the command, its arguments, the command line as the run will record it)."""
    from adderlab.cli.main import COMMANDS, parse
    from adderlab.errors import UsageError
    from adderlab.report.replay import split_command

    entry, rest = split_command(command)
    if entry == "adderlab":
        name = rest[0]
        if name not in COMMANDS or name == "replay":
            raise UsageError(f"{command!r}: a series cannot run adderlab {name}")
        module, rest = importlib.import_module(f"adderlab.cli.{name}"), rest[1:]
        argv, program = ["adderlab", name, *rest], f"adderlab {name}"
    elif entry == "src.train":
        from adderlab.cli import r456_train as module

        argv, program = ["src/train.py", *rest], "python -m src.train"
    else:
        from adderlab.cli import r456_evaluate as module

        argv, program = ["evaluate_checkpoints.py", *rest], "python evaluate_checkpoints.py"
    return module, parse(module.Args, rest, program, module.__doc__), argv


@contextlib.contextmanager
def _command_line(argv: list[str]) -> Iterator[None]:
    """What a run records as its command is the series' command, not ``adderlab replay``."""
    before = sys.argv
    sys.argv = argv
    try:
        yield
    finally:
        sys.argv = before


def _status(run: Path) -> str | None:
    from adderlab.errors import Failure
    from adderlab.runs.metadata import read_summary

    try:
        return str(read_summary(run)["status"])
    except Failure:
        return None


def _is_stopped(run: Path, argv: list[str]) -> bool:
    """Whether the folder holds a run of this very command that was stopped or killed."""
    from adderlab.errors import Failure
    from adderlab.runs.folder import STATE_FILE
    from adderlab.runs.metadata import read_config

    if _status(run) not in ("running", "stopped") or not (run / STATE_FILE).is_file():
        return False
    try:
        return list(read_config(run).command) == argv
    except Failure:
        return False


def _resume(args: Any, run: Path) -> int:
    """Go on with a training; the flags that choose where to compute are the command's own."""
    from adderlab.cli import train

    shared = ("device", "engine", "threads", "evaluate", "prove", "keep", "quiet")
    given = {name: getattr(args, name) for name in shared if hasattr(args, name)}
    if not isinstance(args, train.Args):
        given["evaluate"] = "none"  # the published program does not evaluate after training
    return train.run(train.Args(resume=run, **given))
