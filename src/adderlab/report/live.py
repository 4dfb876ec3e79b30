"""Training, searches, rates and sweeps one can watch: a live table on a terminal, plain lines elsewhere,
one JSON object a line on request; and copies of the figures for other people's dashboards.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from adderlab.errors import UsageError
from adderlab.evaluation.suites import wilson
from adderlab.files import schema
from adderlab.format import duration
from adderlab.proof.prove import claim
from adderlab.results import text_table
from adderlab.runs.metadata import read_config
from adderlab.runs.records import LEARNED, SeedRecord
from adderlab.task.addition import SUM_DIGITS
from adderlab.training.measure import Listener, Start

if TYPE_CHECKING:
    from adderlab.study.cells import CellRow
    from adderlab.training.measure import Evaluation

CELLS = " ▁▂▃▄▅▆▇█"
CHANCE = 0.1
"""Accuracy of a guessed digit: an empty cell."""
LINE_EVERY = 5.0
"""Seconds between plain lines where seeds start and end at different times."""

_WINDOW = 20.0
"""Seconds over which the speed is measured."""
_MARK_EVERY = 0.05
_LINES_AROUND = 8
"""Lines of the display that are not seeds."""
_FREE = 3
"""Columns at the right that stay free: the ^C that a terminal shows must not begin a line, or what is
cleared afterwards is one line short and the head of the table stands twice."""


def write_event(stream: TextIO, event: str, **values: Any) -> None:
    """One JSON object on a line, for programs that watch; flushed, so that a reader sees it at once.

    ``event`` is start, evaluation, activity, verdict, note, result or end. Numbers that are not finite
    are null.
    """
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


class LiveView(Listener):
    """Shows what it hears of. Use as a context manager.

    ``quiet`` shows nothing. ``events`` gets JSON lines instead of text for people. ``budget``: seconds
    after which a search gives up; its seeds start and end one by one, and are shown as that.
    """

    def __init__(
        self,
        console: Console,
        *,
        quiet: bool = False,
        events: TextIO | None = None,
        budget: float | None = None,
    ) -> None:
        self.console, self.quiet, self.events, self.budget = console, quiet, events, budget
        self.records: dict[int, SeedRecord] = {}
        self._steps: dict[int, int] = {}
        """Of every seed, now."""
        self._doing: dict[int, str] = {}
        """Of seeds that do something else than training."""
        self._total, self._label = 1, ""
        self._halvings: tuple[int, ...] = ()
        self._seed_steps = 0
        self._marks: deque[tuple[float, int, int]] = deque()
        """(time, seed-steps so far, step), to measure the speed."""
        self._started = self._line_at = time.monotonic()
        self._live: Live | None = None
        self._progress = Progress(
            TextColumn("{task.description}"),
            TextColumn("step {task.completed:>6,.0f} of {task.total:,.0f}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[about]}"),
            console=console,
        )
        self._bar = self._progress.add_task("", total=1, about="")

    def __enter__(self) -> LiveView:
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
            if self._evaluated:
                self.console.print(self._table(), describe_population(self.records.values()))

    def on_start(self, start: Start) -> None:
        for seed in start.seeds:
            self.records.setdefault(seed, SeedRecord(seed=seed))
            self._steps.setdefault(seed, 0)
        if start.steps != self._total:
            self._marks.clear()
        self._total, self._label = start.steps, start.label
        self._halvings = start.halvings
        self._progress.update(self._bar, total=start.steps, description=start.label)
        if self.events is not None:
            write_event(
                self.events,
                "start",
                run=str(start.folder),
                seeds=list(start.seeds),
                steps=start.steps,
                resumed=start.resumed,
                device=start.device,
                engine=start.engine,
            )

    def on_step(self, seeds: tuple[int, ...], step: int, models: int) -> None:
        before = self._steps.get(seeds[0], 0) if seeds else step
        self._seed_steps += max(0, step - before) * models
        self._steps |= dict.fromkeys(seeds, step)
        for seed in seeds:
            self._doing.pop(seed, None)
        now = time.monotonic()
        if self._marks and now - self._marks[-1][0] < _MARK_EVERY and step < self._total:
            return
        self._marks.append((now, self._seed_steps, step))
        while now - self._marks[0][0] > _WINDOW and len(self._marks) > 2:
            self._marks.popleft()
        if self._live:
            about = "  ".join(text for text in (self._speed_text(), self._eta_text()) if text)
            self._progress.update(self._bar, completed=step, about=about)

    def on_evaluation(self, evaluation: Evaluation, records: tuple[SeedRecord, ...]) -> None:
        self.records |= {record.seed: record for record in records}
        now = time.monotonic()
        if self.events is not None:
            self._write_evaluation(evaluation, records)
        elif self._live is None and self.budget is None:
            figures = [describe_population(self.records.values()), self._speed_text(), self._eta_text()]
            line = "; ".join(text for text in figures if text)
            self.on_message(f"step {evaluation.step:>6}  {line}")
        elif self._live is None and now - self._line_at >= LINE_EVERY:
            self._line_at = now
            known = self.records.values()
            training = [each for each in known if each.status == "training" or each.seed in self._doing]
            self.on_message(f"{self._clock()}  {'; '.join(map(self._brief, training))}")

    def on_activity(self, seed: int, doing: str) -> None:
        self._doing[seed] = doing
        if self.events is not None:
            write_event(self.events, "activity", seed=seed, step=self._steps.get(seed, 0), doing=doing)
        elif self._live is None and doing == "repairing":  # it takes a while, and nothing else is heard
            self.on_message(f"{self._clock()}  {self._brief(self.records[seed])}")

    def on_verdict(self, record: SeedRecord, verdict: str) -> None:
        self.records[record.seed] = record
        self._doing.pop(record.seed, None)
        if self.events is not None:
            about = {"route": record.route, "val_exact": record.last_exact}
            about["steps_learned"] = record.steps_learned
            write_event(
                self.events, "verdict", seed=record.seed, step=record.steps, verdict=verdict, **about
            )
        elif self.budget is not None and (self._live is None or record.status != "training"):
            what = describe_verdict(record, verdict)
            self.on_message(f"{self._clock()}  seed {record.seed} step {record.steps:,}: {what}")

    def on_end(self, folder: Path, records: tuple[SeedRecord, ...], status: str) -> None:
        self.records |= {record.seed: record for record in records}
        if self.events is not None:
            success = None
            if records:
                rate = wilson(sum(record.succeeded for record in records), len(records))
                success = {"count": rate.count, "n": rate.n, "wilson_95": [rate.low, rate.high]}
            write_event(self.events, "end", status=status, run=str(folder), success=success)

    def on_message(self, text: str) -> None:
        if self.events is not None:
            write_event(self.events, "note", text=text)
        elif not self.quiet:
            self.console.print(text, highlight=False, markup=False, emoji=False, soft_wrap=True)

    @property
    def speed(self) -> float | None:
        """Seed-steps per second over the last seconds; None before two marks, and of cells side by side,
        whose seeds have the same numbers."""
        if len(self._marks) < 2 or self._label:
            return None
        (t0, taken0, _), (t1, taken1, _) = self._marks[0], self._marks[-1]
        return (taken1 - taken0) / (t1 - t0) if taken1 > taken0 and t1 > t0 else None

    @property
    def seconds_left(self) -> float | None:
        """Of a search, until it gives up; else until the last step, if all seeds that train now go on to
        it (None before two marks)."""
        if self.budget is not None:
            return max(0.0, self.budget - (time.monotonic() - self._started))
        if len(self._marks) < 2:
            return None
        (t0, _, step0), (t1, _, step1) = self._marks[0], self._marks[-1]
        done = self._work(step1) - self._work(step0)
        left = self._work(self._total) - self._work(step1)
        return left * (t1 - t0) / done if done > 0 else None

    def _work(self, step: int) -> float:
        """What has been done after so many steps, in steps of the starts that are left at the end:
        before a halving there are twice as many."""
        ends = [min(step, halving) for halving in self._halvings]
        return step + sum(end * 2.0 ** (len(ends) - i - 1) for i, end in enumerate(ends))

    def _speed_text(self) -> str:
        return "" if self.speed is None else f"{self.speed:,.0f} seed-steps/s"

    def _eta_text(self) -> str:
        left = self.seconds_left
        return "" if left is None else f"about {duration(round(left))} left"

    def _clock(self) -> str:
        return f"{time.monotonic() - self._started:6.1f} s"

    def _brief(self, record: SeedRecord) -> str:
        step = self._steps.get(record.seed, record.steps)
        doing = f", {self._doing[record.seed]}" if record.seed in self._doing else ""
        return (
            f"seed {record.seed} step {step:,}{doing}: {record.steps_learned} of {record.sum_digits}, "
            f"{record.last_exact:.1%} exact"
        )

    def _write_evaluation(self, evaluation: Evaluation, records: tuple[SeedRecord, ...]) -> None:
        assert self.events is not None
        known = self.records.values()
        write_event(
            self.events,
            "evaluation",
            step=evaluation.step,
            steps=self._total,
            lr=evaluation.lr,
            seed_steps_per_second=self.speed,
            seconds_left=self.seconds_left,
            alive=sum(record.status != "diverged" for record in known),
            grokked=sum(record.succeeded for record in known),
            seeds=[
                {
                    "seed": record.seed,
                    "state": record.status,
                    "train_loss": record.train_loss,
                    "val_exact": record.last_exact,
                    **({} if record.train_exact is None else {"train_exact": record.train_exact}),
                    "steps_learned": record.steps_learned,
                    "step_acc": list(record.step_accuracy),
                    "grokked_at": record.grokked_at,
                }
                for record in records
            ],
        )

    def _render(self) -> Padding:
        return Padding(self._parts(), (0, _FREE, 0, 0))

    def _parts(self) -> Group:
        if not self._evaluated:
            return Group(self._progress)
        line = describe_population(self.records.values())
        if self.budget is None:
            return Group(self._table(), Text(line), self._progress)
        return Group(self._table(), Text(f"{line}; {self._clock().strip()}, {self._eta_text()}"))

    @property
    def _evaluated(self) -> bool:
        return any(record.steps for record in self.records.values())

    def _table(self) -> Table:
        rows, width = self.console.height - _LINES_AROUND, self.console.width - _FREE
        return seed_table(self.records.values(), self._steps, max(1, rows), width, self._doing)


def ranked(records: Iterable[SeedRecord]) -> list[SeedRecord]:
    """Best first; seeds that were given up last."""
    given_up = ("dropped", "unproved", "diverged")
    return sorted(
        records,
        key=lambda each: (each.status not in given_up, each.last_exact, sum(each.step_accuracy)),
        reverse=True,
    )


def describe_population(records: Iterable[SeedRecord]) -> str:
    """All seeds in one line."""
    order = ranked(records)
    S, best = len(order), order[0]
    learned = sorted(record.steps_learned for record in order)
    losses = sorted(each.train_loss for each in order if each.train_loss is not None)
    text = (
        f"{sum(each.status != 'diverged' for each in order)} of {S} alive; "
        f"{sum(each.succeeded for each in order)} grokked; "
        f"best seed {best.seed} {best.last_exact:.2%} exact; answer steps learned: "
        f"median {learned[S // 2]}, most {learned[-1]} of {best.sum_digits}"
    )
    text += f"; loss {losses[len(losses) // 2]:.4f}" if losses else ""
    known = sorted(record.train_exact for record in order if record.train_exact is not None)
    text += f"; training pairs: median {known[len(known) // 2]:.2%} exact" if known else ""
    proved = sum(record.route is not None for record in order)
    return f"{text}; {proved} proved" if any(record.verdict for record in order) else text


def describe_verdict(record: SeedRecord, verdict: str) -> str:
    """What a proof, or a search without one, has decided about a seed."""
    if verdict == "proved":
        route = "repaired" if record.route == "assisted" else "by training alone"
        found = record.proof_of
        margin = f"smallest margin {found.margin_witness or 0.0:.3f}"
        return f"{claim(found.checked)} on all pairs ({route}), {margin}"
    return {
        "dropped": f"dropped: {record.steps_learned} of {record.sum_digits} answer steps learned, "
        "and no more coming",
        "unproved": f"ends unproved, {record.last_exact:.2%} exact",
        "refuted": "refuted on all pairs",
        "undecided": "left undecided by the proof",
    }.get(verdict, verdict)


def print_cells(rows: Sequence[CellRow], folder: Path) -> None:
    """The cells of a sweep as a table, and where its files are."""
    settings = list(dict.fromkeys(path for row in rows for path in row.cell.settings))
    leaves = {path: path.rpartition(".")[2] for path in settings}
    unique = len(set(leaves.values())) == len(leaves)
    names = {path: leaves[path] if unique else path for path in settings}
    table = []
    for row in rows:
        found = row.measured
        assert found is not None
        grok = "" if found.median_grok_step is None else f"{found.median_grok_step:,.0f}"
        ended = "" if row.state == "done" else f"{row.state} at step {found.step:,}"
        values = {name: str(row.cell.settings.get(path, "")) for path, name in names.items()}
        measured = {"seeds at 99%, 95% interval": str(found.rate), "median steps to grok": grok}
        table.append({"cell": row.cell.name, **values, **measured, "": ended})
    print(*text_table(table), f"Files: {folder}/ (table.csv, table.json, cells/NNNN/)", sep="\n")


def step_cells(accuracy_I: Sequence[float]) -> str:
    """Eleven cells, one per answer step, units first: full is learned, empty is chance (10%)."""
    return "".join(_cell(accuracy) for accuracy in accuracy_I)


def _cell(accuracy: float) -> str:
    if accuracy >= LEARNED:
        return CELLS[8]
    return CELLS[max(0, min(7, int(8 * (accuracy - CHANCE) / (1 - CHANCE))))]


DROPPED_FIRST = ("loss", "step", "grokked at", "proof", "training pairs", "state")
"""Columns that a narrow terminal goes without, in this order."""


def seed_table(
    records: Iterable[SeedRecord],
    steps: dict[int, int],
    rows: int,
    width: int | None = None,
    doing: Mapping[int, str] | None = None,
) -> Table:
    """The best ``rows`` seeds, best first; ``steps``: how far each is; ``doing``: what some do besides
    training. Where ``width`` is too small for all columns some are left out, which a line below the
    table says."""
    order = ranked(records)
    digits = order[0].sum_digits if order else SUM_DIGITS
    cells = [
        _seed_cells(record, steps.get(record.seed, 0), digits, (doing or {}).get(record.seed))
        for record in order[:rows]
    ]
    names = list(cells[0]) if cells else ["seed"]
    if not any(own["training pairs"] for own in cells):
        names = [name for name in names if name != "training pairs"]
    heads = {"learned": f"steps 0-{digits - 1} learned", "of": ""}
    left_out: list[str] = []

    def needed() -> int:
        widest = [max(len(heads.get(n, n)), *(len(own[n]) for own in cells)) for n in names]
        return sum(widest) + 2 * len(names)

    for name in DROPPED_FIRST if width is not None and cells else ():
        if width is not None and needed() > width:
            heads["learned"] = f"0-{digits - 1} learned"
            names.remove(name)
            left_out.append(name)
    caption = f"too narrow for: {', '.join(left_out)}" if left_out else None
    table = Table(box=None, pad_edge=False, caption=caption, caption_justify="left")
    for name in names:
        justify: Literal["left", "right"] = "left" if name in ("state", "learned", "proof") else "right"
        table.add_column(heads.get(name, name), justify=justify, no_wrap=True)
    for record, own in zip(order, cells, strict=False):
        given_up = record.status in ("dropped", "unproved", "diverged")
        style = "green" if record.succeeded else "dim" if given_up else ""
        table.add_row(*(Text(own[name]) for name in names), style=style)
    if len(order) > rows:
        more = f"... {len(order) - rows} more"
        table.add_row(*(more if name == "learned" else "" for name in names))
    return table


def _seed_cells(record: SeedRecord, step: int, digits: int, doing: str | None) -> dict[str, str]:
    """A row by column."""
    repaired = ", repaired" if record.route == "assisted" else ""
    return {
        "seed": str(record.seed),
        "step": f"{max(step, record.steps):,}",
        "state": doing or record.status,
        "learned": f"[{step_cells(record.step_accuracy) or ' ' * digits}]",
        "of": f"{record.steps_learned:>2}/{record.sum_digits}",
        "exact": f"{record.last_exact:.2%}",
        "training pairs": "" if record.train_exact is None else f"{record.train_exact:.2%}",
        "grokked at": "" if record.grokked_at is None else f"{record.grokked_at:,}",
        "proof": f"{record.proof_of.verdict or ''}{repaired}",
        "loss": "" if record.train_loss is None else f"{record.train_loss:.4f}",
    }


# Other people's dashboards, off by default: TensorBoard, trackio, wandb (``--sink NAME``).
#
# The run folder stays the record; a sink gets a copy of the figures. None of these packages is
# imported unless it is asked for. A sink that fails while training is dropped with one line: no
# dashboard is worth a run.


SinkName = Literal["tensorboard", "trackio", "wandb"]

SINGLE_SEEDS = 16
"""Populations up to this size also send every seed's own exact match."""

PROJECT = "adderlab"


class Sink(Protocol):
    """Where figures go."""

    def log(self, values: dict[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class Dashboards(Listener):
    """The sinks of a run; they are opened when it starts."""

    def __init__(self, names: Sequence[str], log: Callable[[str], None]) -> None:
        """Raises ``UsageError`` for a package that is not installed, naming the extra to install."""
        for name in names:
            _package_of(name)
        self.names, self.log = names, log
        self.sinks: dict[str, Sink] = {}
        self._records: dict[int, SeedRecord] = {}

    def on_start(self, start: Start) -> None:
        config = read_config(start.folder)
        settings = {
            "model": schema.to_dict(config.model),
            "recipe": config.recipe,
            "seeds": list(config.seeds),
        }
        name = config.run_name or start.folder.name
        self.sinks = open_sinks(self.names, run_name=name, folder=start.folder, settings=settings)

    def on_evaluation(self, evaluation: Evaluation, records: tuple[SeedRecord, ...]) -> None:
        self._records |= {record.seed: record for record in records}
        values = figures(self._records.values(), evaluation)
        for name in list(self.sinks):
            self._guarded(name, lambda sink: sink.log(values, evaluation.step))

    def close(self) -> None:
        """End every sink's own run."""
        for name in list(self.sinks):
            self._guarded(name, lambda sink: sink.close())

    def _guarded(self, name: str, act: Callable[[Sink], None]) -> None:
        try:
            act(self.sinks[name])
        except Exception as error:  # whatever a foreign package raises must not end the training
            self.log(f"sink {name} dropped: {type(error).__name__}: {error}")
            del self.sinks[name]


def figures(records: Iterable[SeedRecord], evaluation: Evaluation) -> dict[str, float]:
    """What a dashboard shows of a population at one evaluation."""
    order = ranked(records)
    values = {
        "val_exact/best": order[0].last_exact,
        "val_exact/median": order[len(order) // 2].last_exact,
        "population/alive": float(sum(record.status != "diverged" for record in order)),
        "population/grokked": float(sum(record.succeeded for record in order)),
        "steps_learned/most": float(max(record.steps_learned for record in order)),
        "train_loss/median": float(evaluation.train_loss_S.median()),
        "lr": float(evaluation.lr),
    }
    if len(order) <= SINGLE_SEEDS:
        values |= {f"seed_{record.seed:04d}/val_exact": record.last_exact for record in order}
    if evaluation.train_exact_S is not None:
        values["train_exact/median"] = float(evaluation.train_exact_S.median())
    return values


def open_sinks(
    names: Sequence[str], *, run_name: str, folder: Path, settings: dict[str, Any]
) -> dict[str, Sink]:
    """The named sinks. ``settings`` is what they show as the run's configuration. Each starts at the
    first evaluation: by then the run has its folder.

    Raises ``UsageError`` for a package that is not installed, naming the extra to install.
    """
    makers: dict[str, Callable[[], Sink]] = {
        "tensorboard": lambda: _TensorBoard(folder),
        "trackio": lambda: _Trackio(run_name, settings),
        "wandb": lambda: _Wandb(run_name, folder, settings),
    }
    for name in names:
        _package_of(name)
    return {name: makers[name]() for name in dict.fromkeys(names)}


_PACKAGES = {"tensorboard": "torch.utils.tensorboard", "trackio": "trackio", "wandb": "wandb"}


def _package_of(name: str) -> ModuleType:
    """Raises ``UsageError`` if there is no such sink, or its package is not installed."""
    if name not in _PACKAGES:
        raise UsageError(f"no sink {name!r}; there are {', '.join(_PACKAGES)}")
    try:
        return importlib.import_module(_PACKAGES[name])
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        raise UsageError(
            f"--sink {name}: the package {missing or name} is not installed; "
            f"pip install 'adderlab[{name}]'"
        ) from error


class _TensorBoard:
    """Event files in RUN/tensorboard: ``tensorboard --logdir results/runs``."""

    def __init__(self, folder: Path) -> None:
        self._module, self._folder = _package_of("tensorboard"), folder
        self._writer: Any = None

    def log(self, values: dict[str, float], step: int) -> None:
        if self._writer is None:
            self._writer = self._module.SummaryWriter(log_dir=str(self._folder / "tensorboard"))
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class _Trackio:
    """A local database (``TRACKIO_DIR`` says where): ``trackio show --project adderlab``."""

    def __init__(self, run_name: str, settings: dict[str, Any]) -> None:
        self._trackio, self._settings = _package_of("trackio"), settings
        self._run_name, self._started = run_name, False

    def log(self, values: dict[str, float], step: int) -> None:
        if not self._started:
            self._trackio.init(project=PROJECT, name=self._run_name, config=self._settings)
            self._started = True
        self._trackio.log(values, step=step)

    def close(self) -> None:
        if self._started:
            self._trackio.finish()


class _Wandb:
    """As its own settings say; ``WANDB_MODE=offline`` keeps everything in RUN/wandb, ``WANDB_PROJECT``
    names another project than adderlab."""

    def __init__(self, run_name: str, folder: Path, settings: dict[str, Any]) -> None:
        self._wandb = _package_of("wandb")
        self._run_name, self._folder, self._settings = run_name, folder, settings
        self._run: Any = None

    def log(self, values: dict[str, float], step: int) -> None:
        if self._run is None:
            self._run = self._wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=self._run_name,
                dir=str(self._folder),
                config=self._settings,
            )
        self._run.log(values, step=step)

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
