"""Check anybody's AdderBoard submission, safely: correct sums, a true count, sums from the model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from adderlab.cli.options import Switch, arg, emit_json

if TYPE_CHECKING:
    from adderlab.publish.scoring import Progress


@dataclass(frozen=True, kw_only=True)
class Args:
    """A Python file with build_model and add, and how much it may use."""

    submission: Annotated[Path, tyro.conf.Positional, arg(metavar="SUBMISSION.py")]
    """The file. It is run in a sandbox (--sandbox)."""
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
    """Prove it if it is a file that adderlab wrote."""
    sandbox: Literal["bubblewrap", "limits"] = "bubblewrap"
    """limits: no wall, only limits on memory, time and output; for a container of your own."""
    json: Switch = False
    """Print one object instead of text."""


def run(args: Args) -> int:
    """0 if it is qualified, 1 if not."""
    import adderlab

    with _bar() as progress:
        result = adderlab.verify(
            args.submission,
            sandbox=args.sandbox,
            seconds=args.timeout,
            answer_seconds=args.answer_timeout,
            memory_mib=args.memory,
            pairwise=args.pairwise,
            strata=args.strata,
            prove=args.prove,
            progress=progress,
        )
    if args.json:
        emit_json(result.to_dict())
    else:
        print("\n".join(result.describe()))
    return 0 if result.verdict == "qualified" else 1


@contextmanager
def _bar() -> "Iterator[Progress]":
    """A bar on stderr, from the first stage on: a command that is refused prints its line alone."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    bars = Progress(*columns, console=Console(stderr=True), transient=True)
    bar = bars.add_task("loading", total=None)

    def update(stage: str, done: int, total: int) -> None:
        bars.start()
        bars.update(bar, description=stage, completed=done, total=total if total > 1 else None)

    try:
        yield update
    finally:
        if bars.live.is_started:
            bars.stop()
