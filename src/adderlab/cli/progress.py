"""Progress bars on stderr: they move on a terminal, are gone at the end, and print nothing elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from adderlab.proof.prove import Progress as ProofProgress

PHASES = {
    "samples": "the board's pairs and the strata",
    "leaves": "leaves of every step",
    "search": "splitting open leaves",
    "union": "counting each failing pair once",
    "check": "proving every bound again",
}


class Bar:
    """One bar with a note beside it; a context manager."""

    def __init__(self, description: str) -> None:
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
        self._bars.stop()

    def name(self, description: str) -> None:
        """Say what is done now; how long it takes is unknown."""
        self._bars.update(self._bar, description=description)

    def advance(self, done: int, total: int) -> None:
        """``done`` of ``total``."""
        self._bars.update(self._bar, completed=done, total=total)

    def proof(self, progress: ProofProgress) -> None:
        """Where a proof stands; the search ends when nothing is open, so it has no total."""
        note = f"{progress.done:,} cells, {progress.open_inputs / 10**20:.2e} of 10^20 open"
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
