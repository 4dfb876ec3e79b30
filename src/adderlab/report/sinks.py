"""Other people's dashboards, off by default: TensorBoard, trackio, wandb (``--sink NAME``).

The run folder stays the record; a sink gets a copy of the figures. None of these packages is
imported unless it is asked for. A sink that fails while training is dropped with one line: no
dashboard is worth a run.

Shapes: S seeds that are training.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from adderlab.errors import UsageError
from adderlab.report.live import PopulationState

if TYPE_CHECKING:
    from adderlab.training.measure import Evaluation

SinkName = Literal["tensorboard", "trackio", "wandb"]

SINGLE_SEEDS = 16
"""Populations up to this size also send every seed's own exact match."""

PROJECT = "adderlab"


class Listener(Protocol):
    """Whoever watches a run (``adderlab.training.run.Listener``)."""

    def stepped(self, step: int, active: int) -> None: ...

    def evaluated(self, evaluation: Evaluation) -> None: ...


class Sink(Protocol):
    """Where figures go."""

    def log(self, values: dict[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class Audience:
    """One listener that is several: the view first, then the sinks."""

    def __init__(self, view: Listener, sinks: dict[str, Sink], say: Callable[[str], None]) -> None:
        self.view, self.sinks, self.say = view, sinks, say
        self._population = PopulationState()

    def stepped(self, step: int, active: int) -> None:
        self.view.stepped(step, active)

    def evaluated(self, evaluation: Evaluation) -> None:
        self.view.evaluated(evaluation)
        if not self.sinks:
            return
        self._population.take(evaluation)
        values = figures(self._population, evaluation)
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
            self.say(f"sink {name} dropped: {type(error).__name__}: {error}")
            del self.sinks[name]


def figures(population: PopulationState, evaluation: Evaluation) -> dict[str, float]:
    """What a dashboard shows of a population at one evaluation."""
    states = population.ranked
    values = {
        "val_exact/best": states[0].val_exact,
        "val_exact/median": states[len(states) // 2].val_exact,
        "population/alive": float(sum(state.alive for state in states)),
        "population/grokked": float(sum(state.grokked for state in states)),
        "steps_learned/most": float(max(state.learned for state in states)),
        "train_loss/median": float(evaluation.train_loss_S.median()),
        "lr": float(evaluation.lr),
    }
    if len(states) <= SINGLE_SEEDS:
        values |= {f"seed_{state.seed:04d}/val_exact": state.val_exact for state in states}
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
    unknown = [name for name in names if name not in makers]
    if unknown:
        raise UsageError(f"no sink {unknown[0]!r}; there are {', '.join(makers)}")
    return {name: makers[name]() for name in dict.fromkeys(names)}


def _package(name: str, module: str | None = None) -> ModuleType:
    try:
        return importlib.import_module(module or name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        raise UsageError(
            f"--sink {name}: the package {missing or name} is not installed; "
            f"pip install 'adderlab[{name}]'"
        ) from error


class _TensorBoard:
    """Event files in RUN/tensorboard: ``tensorboard --logdir results/runs``."""

    def __init__(self, folder: Path) -> None:
        self._module, self._folder = _package("tensorboard", "torch.utils.tensorboard"), folder
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
        self._trackio, self._settings = _package("trackio"), settings
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
    """As its own settings say; ``WANDB_MODE=offline`` keeps everything in RUN/wandb."""

    def __init__(self, run_name: str, folder: Path, settings: dict[str, Any]) -> None:
        self._wandb = _package("wandb")
        self._run_name, self._folder, self._settings = run_name, folder, settings
        self._run: Any = None

    def log(self, values: dict[str, float], step: int) -> None:
        if self._run is None:
            self._run = self._wandb.init(
                project=PROJECT, name=self._run_name, dir=str(self._folder), config=self._settings
            )
        self._run.log(values, step=step)

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
