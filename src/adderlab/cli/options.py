"""What several subcommands share: options that are read alike, what is shown meanwhile, and output."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import tyro

from adderlab.errors import Failure

if TYPE_CHECKING:
    from adderlab.api.models import ModelLike
    from adderlab.proof.prove import Progress as ProofProgress
    from adderlab.training.measure import Listener


def arg(metavar: str | None = None, aliases: list[str] | None = None, name: str | None = None) -> Any:
    """An argument's value and name in the help, which shows a default only where there is something to
    show."""
    return tyro.conf.arg(metavar=metavar, aliases=aliases, name=name, help_behavior_hint=_default_shown)


def _default_shown(default: str) -> str:
    return "" if default in ("", "None", "False") else f"(default: {default})"


def is_file(name: str | None) -> bool:
    """Whether a command's model is a Python file of the user's, and no preset."""
    return name is not None and name.endswith(".py")


Switch: TypeAlias = Annotated[bool, tyro.conf.FlagCreatePairsOff, arg()]
"""A flag without a --no- form."""


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Where to compute."""

    device: Annotated[str, arg(metavar="{auto,cpu,cuda,mps}")] = "auto"
    """Where to compute."""
    engine: Annotated[str, arg(metavar="{auto,native,triton,torch}")] = "auto"
    """What computes; every one gives the same answers."""


@dataclass(frozen=True, kw_only=True)
class WeightsOptions:
    """What a file of weights belongs to."""

    weights: Annotated[Path | None, arg(metavar="CKPT")] = None
    """With FILE.py: its checkpoint or state dict; else the parameters that its build_model makes."""
    as_preset: Annotated[str | None, arg(metavar="PRESET", name="as")] = None
    """With a file of weights alone (a bare state dict): the preset that they are of."""

    def model(self, name: Path | str) -> ModelLike:
        """The model that the command is about, as the API takes it: its name, with --weights the model
        of the Python file, which is then run, and with --as the preset's with those weights."""
        import adderlab

        if self.as_preset is not None:
            if self.weights is not None or Path(name).suffix == ".py":
                raise adderlab.UsageError("--as names a preset for a file of weights, not for a FILE.py")
            return adderlab.load(str(name), preset=self.as_preset)
        if self.weights is None:
            return name
        if Path(name).suffix != ".py":
            raise adderlab.UsageError(f"--weights goes with a Python file, and {name} is none")
        return adderlab.read(name, weights=self.weights)


@dataclass(frozen=True, kw_only=True)
class ComputeOptions(DeviceOptions):
    """Where to train."""

    threads: Annotated[int | None, arg(metavar="N")] = None
    """Seeds trained at once on a CPU; default: every core. No effect on any seed's results."""

    @property
    def compute(self) -> dict[str, Any]:
        """As the functions of the API take it."""
        return {"device": self.device, "engine": self.engine, "threads": self.threads}

    @property
    def compute_words(self) -> list[str]:
        """What a run folder does not say of it, as options of the command that goes on."""
        from adderlab.training.objective import Compute

        return Compute(device=self.device, engine=self.engine).options()


@dataclass(frozen=True, kw_only=True)
class SizeOptions:
    """The size of the task."""

    columns: Annotated[int | None, arg(metavar="N")] = None
    """Digits of each number, 1 to 18; default: the preset's 10."""
    base: Annotated[int | None, arg(metavar="B")] = None
    """Of the numbers, 2 to 16; default: the preset's 10."""

    @property
    def size(self) -> dict[str, int | None]:
        """As functions of the API take it."""
        return {"columns": self.columns, "base": self.base}


@dataclass(frozen=True, kw_only=True)
class SetOptions(SizeOptions):
    """Changed settings."""

    set: Annotated[
        tuple[tuple[str, ...], ...],
        tyro.conf.UseAppendAction,
        arg(metavar="SECTION.NAME=VALUE ..."),
    ] = ()
    """Changed settings, for example --set recipe.lr=0.01 model.d_ff=12 (adderlab settings). It may be
    given again."""

    @property
    def settings(self) -> tuple[str, ...]:
        """The size as settings, then those of every ``--set``, in order."""
        size = [f"model.{name}={value}" for name, value in self.size.items() if value is not None]
        return (*size, *(setting for group in self.set for setting in group))


@dataclass(frozen=True, kw_only=True)
class ChangeOptions(SetOptions):
    """What differs from the recipe and the preset."""

    steps: Annotated[int | None, arg(metavar="N")] = None
    """Optimiser steps of each seed before the recipe's stages; default: its own."""


def print_note(line: str) -> None:
    """A line on stderr: what a reader wants to know and a program that reads the output does not."""
    print(line, file=sys.stderr)


def emit_json(value: Any, output: Path | None = None) -> None:
    """One JSON object to stdout, or to a file, atomically."""
    text = json.dumps(value, indent=2)
    if output is None:
        print(text)
    else:
        from adderlab.files.atomic import write_text

        write_text(output, text + "\n")


def going_on(folder: Path, kind: str, words: Sequence[str]) -> Callable[[], str | None]:
    """For ``Following``: the command of these words, once there is such a thing to go on with."""
    from adderlab.runs.metadata import kind_of

    return lambda: shlex.join(["adderlab", *words]) if kind_of(folder) == kind else None


class Following:
    """A live view and dashboards around one call of the API.

    A ``with`` block gives the listener. Where it is left by Ctrl-C or a failure of the disk, the command
    that goes on is named.
    """

    def __init__(
        self,
        resume_command: Callable[[], str | None],
        *,
        quiet: bool = False,
        json_lines: bool = False,
        budget: float | None = None,
        sinks: Sequence[str] = (),
    ) -> None:
        """``resume_command``: what to type to go on; None where there is nothing to go on with.
        ``budget``: seconds after which a search gives up. Raises ``UsageError`` for a sink that is not
        installed."""
        from rich.console import Console

        from adderlab.report.live import Dashboards, LiveView

        self._resume_command = resume_command
        self._aloud = quiet and not json_lines
        events = sys.stdout if json_lines else None
        self.view = LiveView(Console(), quiet=quiet, events=events, budget=budget)
        self.dashboards = Dashboards(sinks, self.view.on_message) if sinks else None

    def __enter__(self) -> Listener:
        from adderlab.training.measure import Listeners

        self.view.__enter__()
        return Listeners((self.view, self.dashboards)) if self.dashboards else self.view

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from adderlab.training.run import RunFailed

        self.view.__exit__()
        if self.dashboards:
            self.dashboards.close()
        if isinstance(error, RunFailed):
            raise Failure(f"{error}; then go on: {self._resume_command()}") from error
        if isinstance(error, KeyboardInterrupt):
            self.tell_how_to_go_on()

    def tell_how_to_go_on(self) -> None:
        """After a stop. What was spent must not be lost for want of a line, however quiet."""
        command = self._resume_command()
        if command is None:
            return
        text = f"Stopped. To go on: {command}"
        if self._aloud:
            print(text, file=sys.stderr)
        else:
            self.view.on_message(text)


PHASES = {
    "samples": "the board's pairs and the strata",
    "leaves": "leaves of every step",
    "search": "splitting open leaves",
    "union": "counting each failing pair once",
    "check": "proving every bound again",
    "training": "training on the worst pairs",
}


class Bar:
    """One bar with a note beside it; a context manager."""

    def __init__(self, description: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,  # else it leaves an empty line in a log
        )
        self._bar = self._bars.add_task(description, total=None, note="")

    def __enter__(self) -> Bar:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars.live.is_started:  # rich before 14.3 ends even a disabled bar with an empty line
            self._bars.stop()

    def name(self, description: str) -> None:
        """Say what is done now; how long it takes is unknown."""
        self._bars.update(self._bar, description=description)

    def advance(self, done: int, total: int) -> None:
        """``done`` of ``total``."""
        self._bars.update(self._bar, completed=done, total=total)

    def trial(self, done: int, total: int) -> None:
        """``done`` of ``total`` pairs tried."""
        self._bars.update(
            self._bar, description="every pair", completed=done, total=total, note=f"{done:,} pairs"
        )

    def proof(self, progress: ProofProgress) -> None:
        """Where a proof stands; the search ends when nothing is open, so it has no total."""
        task = progress.addition
        of_all = f"{progress.open_inputs / task.num_pairs:.2e} of {task.pairs_text}"
        note = f"{progress.done:,} cells, {of_all} open"
        refuted = ""
        if progress.refuted_by is not None:
            a, b = progress.refuted_by
            refuted = f"refuted by {a} + {b}; counting: "
        self._bars.update(
            self._bar,
            description=PHASES[progress.phase],
            completed=progress.done,
            total=progress.total if progress.phase in ("leaves", "check") else None,
            note=refuted + (note if progress.phase == "search" else ""),
        )
