"""Training one can watch: a live table on a terminal, plain lines elsewhere, JSON lines on request.

Shapes: S seeds that are training, I = 11 answer steps.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from adderlab.runs.metrics import LEARNED
from adderlab.task.digits import SUM_DIGITS
from adderlab.training.tracker import SUCCESS

if TYPE_CHECKING:
    from adderlab.training.measure import Evaluation


# A run as one JSON object a line, for programs that watch: ``--json-lines``.
#
# Every object has ``event``: start, evaluation, proof, note, result, end. Numbers that are not finite
# are null.


def write_event(stream: TextIO, event: str, **values: Any) -> None:
    """One line, flushed, so that a reader sees it at once."""
    stream.write(json.dumps({"event": event, **_finite(values)}, allow_nan=False) + "\n")
    stream.flush()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return value


CELLS = " ▁▂▃▄▅▆▇█"
CHANCE = 0.1
"""Accuracy of a guessed digit: an empty cell."""

_WINDOW = 20.0
"""Seconds over which the rate is measured."""
_MARK_EVERY = 0.05
_LINES_AROUND = 8
"""Lines of the display that are not seeds."""


@dataclass(frozen=True, kw_only=True)
class SeedState:
    """A seed as last seen."""

    seed: int
    val_exact: float
    step_acc: tuple[float, ...]
    train_loss: float
    training: bool
    grokked_at: int | None
    """First step seen at 99% exact match or more."""
    verdict: str = ""
    """proved, refuted or undecided; empty before a proof."""

    @property
    def alive(self) -> bool:
        """Not diverged: its loss is a number."""
        return math.isfinite(self.train_loss)

    @property
    def grokked(self) -> bool:
        return self.val_exact >= SUCCESS

    @property
    def learned(self) -> int:
        """Answer steps of eleven at 99% or more."""
        return sum(accuracy >= LEARNED for accuracy in self.step_acc)

    @property
    def life(self) -> str:
        if not self.alive:
            return "diverged"
        return "training" if self.training else "finished"

    @property
    def rank(self) -> tuple[float, float]:
        """Better seeds have a higher rank."""
        return self.val_exact, sum(self.step_acc)


class PopulationState:
    """All seeds of a run as last seen, from its evaluations."""

    def __init__(self) -> None:
        self.seeds: dict[int, SeedState] = {}
        self.step = -1

    def take(self, evaluation: Evaluation) -> None:
        """Note an evaluation of the seeds that are training; the others keep their last state."""
        self.step = evaluation.step
        states = {
            seed: SeedState(
                seed=seed,
                val_exact=float(evaluation.val_exact_S[s]),
                step_acc=tuple(evaluation.step_acc_SI[s].tolist()),
                train_loss=float(evaluation.train_loss_S[s]),
                training=True,
                grokked_at=self._grokked_at(seed, evaluation.step, float(evaluation.val_exact_S[s])),
                verdict=self.seeds[seed].verdict if seed in self.seeds else "",
            )
            for s, seed in enumerate(evaluation.seeds)
        }
        rest = {s: _changed(state, training=False) for s, state in self.seeds.items() if s not in states}
        self.seeds = rest | states

    def _grokked_at(self, seed: int, step: int, val_exact: float) -> int | None:
        before = self.seeds.get(seed)
        if before is not None and before.grokked_at is not None:
            return before.grokked_at
        return step if val_exact >= SUCCESS else None

    def finish(self) -> None:
        """The run is done: no seed trains any more."""
        self.seeds = {seed: _changed(state, training=False) for seed, state in self.seeds.items()}

    def judge(self, seed: int, verdict: str) -> None:
        """Note a proof's verdict on a seed's checkpoint."""
        if seed in self.seeds:
            self.seeds[seed] = _changed(self.seeds[seed], verdict=verdict)

    @property
    def ranked(self) -> list[SeedState]:
        """Best first."""
        return sorted(self.seeds.values(), key=lambda state: state.rank, reverse=True)

    def in_words(self) -> str:
        """The population in one line."""
        states = self.ranked
        S, best = len(states), states[0]
        learned = sorted(state.learned for state in states)
        text = (
            f"{sum(state.alive for state in states)} of {S} alive; "
            f"{sum(state.grokked for state in states)} grokked; "
            f"best seed {best.seed} {best.val_exact:.2%} exact; answer steps learned: "
            f"median {learned[S // 2]}, most {learned[-1]} of 11; loss {_median_loss(states):.4f}"
        )
        verdicts = [state.verdict for state in states if state.verdict]
        return f"{text}; {verdicts.count('proved')} proved" if verdicts else text


def _changed(state: SeedState, **values: Any) -> SeedState:
    return dataclasses.replace(state, **values)


def _median_loss(states: Sequence[SeedState]) -> float:
    losses = sorted(state.train_loss for state in states if state.alive)
    return losses[len(losses) // 2] if losses else math.nan


class TrainingView:
    """Receives steps and evaluations of a run and shows them. Use as a context manager.

    ``quiet`` shows nothing. ``events`` gets one JSON object a line instead of text for people.
    """

    def __init__(
        self,
        console: Console,
        *,
        steps: int,
        num_seeds: int,
        quiet: bool = False,
        events: TextIO | None = None,
    ) -> None:
        self.console, self.steps, self.num_seeds = console, steps, num_seeds
        self.quiet, self.events = quiet, events
        self.population = PopulationState()
        self._live: Live | None = None
        self._marks: deque[tuple[float, int]] = deque()
        self._active = num_seeds
        self._progress = Progress(
            TextColumn("step {task.completed:>6.0f} of {task.total:.0f}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[eta]}"),
            console=console,
        )
        self._bar = self._progress.add_task("train", total=steps, rate="", eta="")

    def __enter__(self) -> TrainingView:
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
            if self.population.seeds:
                self.console.print(self._seed_table(), self._words())

    def say(self, line: str) -> None:
        """One line that stays."""
        if self.events is not None:
            write_event(self.events, "note", text=line)
        elif not self.quiet:
            self.console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)

    def stepped(self, step: int, active: int) -> None:
        """Called after every step: cheap."""
        now = time.monotonic()
        self._active = active
        if self._marks and now - self._marks[-1][0] < _MARK_EVERY and step < self.steps:
            return
        self._marks.append((now, step))
        while now - self._marks[0][0] > _WINDOW and len(self._marks) > 2:
            self._marks.popleft()
        if self._live:
            self._progress.update(
                self._bar, completed=step, rate=self._rate_text(), eta=self._eta_text()
            )

    def evaluated(self, evaluation: Evaluation) -> None:
        """Called after every evaluation."""
        self.population.take(evaluation)
        if self.events is not None:
            write_event(self.events, "evaluation", **self._as_event(evaluation))
        elif self._live is None:
            figures = [self.population.in_words(), self._rate_text(), self._eta_text()]
            self.say(f"step {evaluation.step:>6}  {'; '.join(text for text in figures if text)}")

    def trained(self) -> None:
        """Called when the last step is done; proofs may follow."""
        self.population.finish()

    def proved(self, seed: int, verdict: str) -> None:
        """Called when a seed's checkpoint has been proved, refuted or left undecided."""
        self.population.judge(seed, verdict)
        if self.events is not None:
            write_event(self.events, "proof", seed=seed, verdict=verdict)

    @property
    def rate(self) -> float | None:
        """Seed-steps per second over the last seconds; None before two marks."""
        pace = self._pace()
        return None if pace is None else pace * self._active

    @property
    def seconds_left(self) -> float | None:
        """Until the last step, if all seeds that train now go on to it; None before two marks."""
        pace = self._pace()
        return None if pace is None else (self.steps - self._marks[-1][1]) / pace

    def _pace(self) -> float | None:
        """Steps per second."""
        if len(self._marks) < 2:
            return None
        (t0, s0), (t1, s1) = self._marks[0], self._marks[-1]
        return (s1 - s0) / (t1 - t0) if s1 > s0 and t1 > t0 else None

    def _rate_text(self) -> str:
        return "" if self.rate is None else f"{self.rate:,.0f} seed-steps/s"

    def _eta_text(self) -> str:
        return "" if self.seconds_left is None else f"about {duration(self.seconds_left)} left"

    def _as_event(self, evaluation: Evaluation) -> dict[str, Any]:
        states = self.population.seeds
        return {
            "step": evaluation.step,
            "steps": self.steps,
            "lr": evaluation.lr,
            "seed_steps_per_second": self.rate,
            "seconds_left": self.seconds_left,
            "alive": sum(state.alive for state in states.values()),
            "grokked": sum(state.grokked for state in states.values()),
            "seeds": [
                {
                    "seed": seed,
                    "state": states[seed].life,
                    "train_loss": states[seed].train_loss,
                    "val_exact": states[seed].val_exact,
                    "steps_learned": states[seed].learned,
                    "step_acc": list(states[seed].step_acc),
                    "grokked_at": states[seed].grokked_at,
                }
                for seed in evaluation.seeds
            ],
        }

    def _render(self) -> Group:
        if not self.population.seeds:
            return Group(self._progress)
        return Group(self._seed_table(), self._words(), self._progress)

    def _words(self) -> Text:
        return Text(self.population.in_words())

    def _seed_table(self) -> Table:
        return seed_table(self.population, max(1, self.console.height - _LINES_AROUND))


def step_cells(accuracy_I: Sequence[float]) -> str:
    """Eleven cells, one per answer step, units first: full is learned, empty is chance (10%)."""
    return "".join(_cell(accuracy) for accuracy in accuracy_I)


def _cell(accuracy: float) -> str:
    if accuracy >= LEARNED:
        return CELLS[8]
    return CELLS[max(0, min(7, int(8 * (accuracy - CHANCE) / (1 - CHANCE))))]


def seed_table(population: PopulationState, rows: int) -> Table:
    """The best ``rows`` seeds of the population, best first."""
    table = Table(box=None, pad_edge=False)
    for column in ("seed", "state", "steps 0-10 learned", "", "exact", "grokked at", "proof", "loss"):
        left = column in ("state", "steps 0-10 learned", "proof")
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    ranked = population.ranked
    for state in ranked[:rows]:
        style = "green" if state.grokked else "dim" if not state.alive else ""
        table.add_row(
            str(state.seed),
            state.life,
            Text(f"[{step_cells(state.step_acc)}]"),
            f"{state.learned:>2}/{SUM_DIGITS}",
            f"{state.val_exact:.2%}",
            "" if state.grokked_at is None else f"{state.grokked_at:,}",
            state.verdict,
            f"{state.train_loss:.4f}",
            style=style,
        )
    if len(ranked) > rows:
        table.add_row("", f"... {len(ranked) - rows} more")
    return table


def duration(seconds: float) -> str:
    """12 s, 3 min 05 s, 2 h 10 min."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
