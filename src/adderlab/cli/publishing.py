"""The commands that publish a model and check anybody's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from adderlab.cli.options import Switch, WeightsOptions, arg, emit_json, print_note

if TYPE_CHECKING:
    from adderlab.publish.scoring import Progress


@dataclass(frozen=True, kw_only=True)
class Export(WeightsOptions):
    """Publish a checkpoint: a one-file AdderBoard submission, weights, a hub folder, or an ONNX
    graph."""

    checkpoint: Annotated[Path, tyro.conf.Positional, arg(metavar="CKPT|FILE.py")]
    """A checkpoint file, the folder of a run (its best model), or a Python file, which is run."""
    to: Literal["adderboard", "safetensors", "hub-folder", "onnx"]
    """adderboard: one Python file (of FILE.py itself, weights in it), and the text of the board's form.
    safetensors, onnx: one file and a model card. hub-folder: all of a model page."""
    output: Annotated[Path, arg(aliases=["-o"], metavar="OUT")]
    """File to write, or the folder for hub-folder."""
    name: Annotated[str | None, arg(metavar="NAME")] = None
    """Name of the model; else the zoo's, or the parameter count."""
    author: Annotated[str | None, arg(metavar="NAME")] = None
    """Name of the author; else that of git's settings."""
    certificate: Annotated[Path | None, arg(metavar="F")] = None
    """A certificate of adderlab prove for these weights."""
    prove: bool = True
    """Without a certificate, ask the prover (up to a minute)."""
    suites: tuple[str, ...] = ("adderboard", "published", "strata")
    """Pairs to measure the accuracy on, as for adderlab evaluate."""
    json: Switch = False
    """Print one object instead of text."""

    def run(self) -> int:
        """Measure, prove, write, and say what was written."""
        import adderlab

        exported = adderlab.export(
            self.model(self.checkpoint),
            to=self.to,
            output=self.output,
            name=self.name,
            author=self.author,
            certificate=self.certificate,
            prove=self.prove,
            suites=self.suites,
        )
        if self.json:
            emit_json(exported.to_dict())
        else:
            print("\n".join(exported.describe()))
        return 0


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Check anybody's AdderBoard submission, or a folder of them, safely: correct sums, a true count,
    sums from the model, all 10^20 pairs."""

    submission: Annotated[Path, tyro.conf.Positional, arg(metavar="SUBMISSION.py|DIR")]
    """The file, run in a sandbox (--sandbox); or a folder, whose files make one table."""
    output: Annotated[Path | None, arg(aliases=["-o"], metavar="OUT")] = None
    """Of a folder: where results go, and a second call finds them; else results/verified/DIR."""
    model: Annotated[str, arg(metavar="NAME")] = "build_model"
    """What builds the model there: a function, a class, or the model itself."""
    add: Annotated[str, arg(metavar="NAME")] = "add"
    """What adds: a function of model, a, b or of a, b alone, or a method of the model."""
    timeout: float = 1800.0
    """Seconds for everything."""
    answer_timeout: float = 30.0
    """Seconds for one answer."""
    memory: int = 4096
    """MiB it may use."""
    pairwise: Switch = False
    """Ask every pair through add, also where the model can be driven in batches."""
    strata: Annotated[int | None, arg(metavar="N")] = None
    """Pairs of each stratum; else 1000 in batches, 10 through add."""
    prove: bool = True
    """Decide all 10^20 pairs: proved, refuted with a pair, or why not."""
    certificate: Annotated[Path | None, arg(metavar="OUT")] = None
    """Write the certificate of a proof here; a name ending in .gz compresses it."""
    sandbox: Literal["bubblewrap", "limits"] = "bubblewrap"
    """limits: no wall, only limits on memory, time and output; for a container of your own."""
    json: Switch = False
    """Print one object instead of text."""

    def run(self) -> int:
        """0 if it is qualified, 1 if not; of a folder, 0 if all are."""
        import adderlab

        settings = {
            "model": self.model,
            "add": self.add,
            "sandbox": self.sandbox,
            "seconds": self.timeout,
            "answer_seconds": self.answer_timeout,
            "memory_mib": self.memory,
            "pairwise": self.pairwise,
            "strata": self.strata,
            "prove": self.prove,
        }
        if self.submission.is_dir():
            return self._folder(settings)
        if self.output is not None:
            raise adderlab.UsageError("--output is where the results of a folder go; name a folder")
        with _bar() as (_, progress):
            result = adderlab.verify(
                self.submission, **settings, certificate=self.certificate, progress=progress
            )
        if self.json:
            emit_json(result.to_dict())
        else:
            print("\n".join(result.describe()))
        return 0 if result.verdict == "qualified" else 1

    def _folder(self, settings: dict[str, Any]) -> int:
        import adderlab

        if self.certificate is not None:
            raise adderlab.UsageError("--certificate is of one file; name the file")
        try:
            with _bar() as (log, progress):
                result = adderlab.verify_folder(
                    self.submission,
                    output=self.output,
                    **settings,
                    on_result=lambda which, total, each: log(f"{which}/{total} {each.line()}"),
                    progress=progress,
                )
        except KeyboardInterrupt:
            print_note("Stopped. The same command goes on with the next file.")
            raise
        if self.json:
            emit_json(result.to_dict())
        else:
            print("\n".join(result.describe()))
        return 0 if result.all_qualified else 1


@contextmanager
def _bar() -> "Iterator[tuple[Callable[[str], None], Progress]]":
    """A bar on stderr, from the first stage on: a command that is refused prints its line alone. With
    it, a function that prints a line above it."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    bars = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    bar = bars.add_task("loading", total=None)

    def update(stage: str, done: int, total: int) -> None:
        bars.start()
        bars.update(bar, description=escape(stage), completed=done, total=total if total > 1 else None)

    def log(line: str) -> None:
        if console.is_terminal:
            bars.console.print(escape(line), highlight=False)
        else:
            print_note(line)

    try:
        yield log, update
    finally:
        if bars.live.is_started:
            bars.stop()
