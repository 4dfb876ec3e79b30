"""Other people's dashboards, off by default: TensorBoard, trackio, wandb (``--sink NAME``).

The run folder stays the record; a sink gets a copy of the figures. None of these packages is
imported unless it is asked for. A sink that fails while training is dropped with one line: no
dashboard is worth a run.

Shapes: S seeds that are training.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from adderlab.errors import UsageError
from adderlab.files import schema
from adderlab.report.live import ranked
from adderlab.runs.metadata import read_config
from adderlab.runs.records import SeedRecord
from adderlab.training.measure import Listener, Start

if TYPE_CHECKING:
    from adderlab.training.measure import Evaluation

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
    """As its own settings say; ``WANDB_MODE=offline`` keeps everything in RUN/wandb."""

    def __init__(self, run_name: str, folder: Path, settings: dict[str, Any]) -> None:
        self._wandb = _package_of("wandb")
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
