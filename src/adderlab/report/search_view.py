"""A search for proved models one can watch: a live table on a terminal, plain lines elsewhere, JSON
lines on request."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from adderlab.report.live import duration, step_cells, write_event
from adderlab.runs.metrics import LEARNED
from adderlab.task.digits import SUM_DIGITS

if TYPE_CHECKING:
    from adderlab.study.search_verifier import Fate
    from adderlab.training.measure import Evaluation

LINE_EVERY = 5.0
"""Seconds between plain lines about seeds in training."""
_LINES_AROUND = 5
"""Lines of the display that are not seeds."""


class _Row:
    """A seed as last seen."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.step = 0
        self.exact = 0.0
        self.step_acc: tuple[float, ...] = ()
        self.note = "training"

    @property
    def learned(self) -> int:
        return sum(accuracy >= LEARNED for accuracy in self.step_acc)

    @property
    def text(self) -> str:
        return f"seed {self.seed} step {self.step:,}: {self.learned} of 11, {self.exact:.1%} exact"


class SearchView:
    """Receives what a search does (``training.until.Watcher``). Use as a context manager."""

    def __init__(
        self,
        console: Console,
        *,
        steps: int,
        seconds: float,
        quiet: bool = False,
        events: TextIO | None = None,
    ) -> None:
        """``steps`` of one seed; ``seconds`` until the search gives up."""
        self.console, self.steps, self.seconds = console, steps, seconds
        self.quiet, self.events = quiet, events
        self.rows: dict[int, _Row] = {}
        self._started = self._line_at = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> SearchView:
        self._started = self._line_at = time.monotonic()
        if self.console.is_terminal and not self.quiet and self.events is None:
            self._live = Live(
                console=self.console, get_renderable=self._render, refresh_per_second=4, transient=True
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()
            self._live = None
            self.console.print(self._table(len(self.rows)))

    def say(self, line: str) -> None:
        """One line that stays."""
        if self.events is not None:
            write_event(self.events, "note", text=line)
        elif not self.quiet:
            self.console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def began(self, seeds: tuple[int, ...], resumed: bool) -> None:
        """Called when seeds start, or go on."""
        for seed in seeds:
            self.rows.setdefault(seed, _Row(seed)).note = "training"
        if self.events is not None:
            write_event(self.events, "seeds", seeds=list(seeds), resumed=resumed)

    def stepped(self, seeds: tuple[int, ...], step: int) -> None:
        """Called every few steps: cheap."""
        for seed in seeds:
            if self.rows[seed].note == "training":
                self.rows[seed].step = step

    def evaluated(self, evaluation: Evaluation) -> None:
        """Called after every evaluation of a try."""
        for s, seed in enumerate(evaluation.seeds):
            row = self.rows[seed]
            row.exact = float(evaluation.val_exact_S[s])
            row.step_acc = tuple(evaluation.step_acc_SI[s].tolist())
            if self.events is not None:
                self._event("evaluation", row, step=evaluation.step, step_acc=list(row.step_acc))
        now = time.monotonic()
        if self._live is None and self.events is None and now - self._line_at >= LINE_EVERY:
            self._line_at = now
            training = [row.text for row in self.rows.values() if row.note == "training"]
            self.say(f"{self._clock()}  {'; '.join(training)}")

    def judged(self, fate: Fate, verdict: str) -> None:
        """Called with every proof's verdict and when a seed is given up."""
        row = self.rows[fate.seed]
        if fate.state != "training":
            row.note = fate.state if fate.route != "assisted" else "proved, repaired"
        what = {
            "dropped": f"dropped: {row.learned} of 11 answer steps learned, and no more coming",
            "unproved": f"ends unproved, {fate.val_exact:.2%} exact",
            "refuted": "refuted on all pairs",
            "undecided": "left undecided by the proof",
        }.get(verdict, "")
        if verdict == "proved":
            route = "repaired" if fate.route == "assisted" else "by training alone"
            what = f"PROVED on all 10^20 pairs ({route}), smallest margin {fate.margin_witness:.3f}"
        if self.events is not None:
            self._event("judged", row, step=fate.step, verdict=verdict, route=fate.route)
        elif self._live is None or fate.state != "training":
            self.say(f"{self._clock()}  seed {fate.seed} step {fate.step:,}: {what}")

    def _event(self, event: str, row: _Row, **values: Any) -> None:
        assert self.events is not None
        own = {"seed": row.seed, "val_exact": row.exact, "steps_learned": row.learned}
        write_event(self.events, event, **own, **values)

    def _clock(self) -> str:
        return f"{time.monotonic() - self._started:6.1f} s"

    def _render(self) -> Group:
        left = max(0.0, self.seconds - (time.monotonic() - self._started))
        tried = f"{len(self.rows)} seed{'s' if len(self.rows) != 1 else ''} so far"
        line = f"{self._clock().strip()}; {tried}; {duration(left)} of the budget left"
        return Group(self._table(max(1, self.console.height - _LINES_AROUND)), Text(line))

    def _table(self, most: int) -> Table:
        """The last ``most`` seeds."""
        table = Table(box=None, pad_edge=False)
        for column in ("seed", "step", "steps 0-10 learned", "", "exact", "state"):
            left = column in ("steps 0-10 learned", "state")
            table.add_column(column, justify="left" if left else "right", no_wrap=True)
        for row in list(self.rows.values())[-most:]:
            style = {"dropped": "dim", "unproved": "dim", "training": ""}.get(row.note, "green")
            table.add_row(
                str(row.seed),
                f"{row.step:,} of {self.steps:,}",
                Text(f"[{step_cells(row.step_acc) or ' ' * SUM_DIGITS}]"),
                f"{row.learned:>2}/{SUM_DIGITS}",
                f"{row.exact:.2%}",
                row.note,
                style=style,
            )
        return table
