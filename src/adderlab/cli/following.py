"""What the commands that train show meanwhile, and how they say how to go on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console

from adderlab.errors import Failure
from adderlab.report.live import Dashboards, LiveView
from adderlab.training.measure import Listener, Listeners
from adderlab.training.run import RunFailed


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
        self._resume_command = resume_command
        self._aloud = quiet and not json_lines
        events = sys.stdout if json_lines else None
        self.view = LiveView(Console(), quiet=quiet, events=events, budget=budget)
        self.dashboards = Dashboards(sinks, self.view.on_message) if sinks else None

    def __enter__(self) -> Listener:
        self.view.__enter__()
        return Listeners((self.view, self.dashboards)) if self.dashboards else self.view

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
