"""Models as the public API sees them: loaded from a file, read, asked, measured and saved."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from adderlab.engine.base import choose_device, select_engine, single_threaded
from adderlab.errors import UsageError
from adderlab.evaluation import exact
from adderlab.evaluation.exact import Prediction, SuiteReport
from adderlab.evaluation.suites import Suite, of_pairs, parse_suite
from adderlab.files import schema
from adderlab.models.config import ModelConfig
from adderlab.models.describe import ParameterRow, parameter_rows, parameter_table
from adderlab.models.tables import Tables, why_no_tables
from adderlab.models.transformer import Architecture
from adderlab.models.zoo import get_preset
from adderlab.proof.prove import exact_tables
from adderlab.proof.trials import try_all
from adderlab.reading.file_model import FileModel, read_file, read_module, reading_lines
from adderlab.results import Result, html_table, text_table
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint, save_checkpoint, save_safetensors
from adderlab.runs.metadata import kind_of, start_of


class HasBest(Protocol):
    """Anything with a best model: a run, a search."""

    @property
    def best(self) -> Checkpoint: ...


class HasCheckpoint(Protocol):
    """Anything that names a checkpoint: a seed's record, a repair."""

    @property
    def checkpoint(self) -> Checkpoint | Path | str | None: ...


ModelLike: TypeAlias = "str | os.PathLike[str] | Checkpoint | HasBest | HasCheckpoint"
"""Wherever a model is expected: a checkpoint file's path, a model, a run or its folder (its best model),
a seed's record or a repair (its checkpoint), or a Python file, which is run (``read``)."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Model(Checkpoint):
    """One trained model: a checkpoint that can be read, asked, measured and saved.

    Frozen; its weights are a copy, float32 on the CPU.
    """

    def tables(self) -> Tables:
        """The model's table form in float64, with a seed axis of length 1 in front.

        Raises ``UsageError`` for models outside the table form. Source: docs/architecture.md.
        """
        return exact_tables(self)

    @single_threaded()
    def predict(self, a: int, b: int) -> Prediction:
        """The greedy answer to a + b in fp32, digit by digit, with how sure the model is of each.

        Raises ``UsageError`` for operands outside 0 .. 9999999999, or as far as the model's columns go.
        """
        return exact.predict(self.module(), a, b)

    @single_threaded()
    def evaluate(
        self,
        suite: str | Suite | Sequence[tuple[int, int]] = "published",
        *,
        device: str = "auto",
        engine: str = "auto",
        progress: Callable[[int, int], None] | None = None,
        log: Callable[[str], None] = lambda line: None,
    ) -> SuiteReport:
        """Exact match on a suite of pairs, with 95% intervals and the first failures.

        ``suite``: "published" (10 x 10,000 pairs), "adderboard" (10,010), "strata", "fresh:N", pairs
        of numbers, or "all": every pair of a small task, by the module itself in fp32 and float64.
        ``device``: auto, cpu, cuda or mps; ``engine``: auto, native, triton or torch.
        ``progress`` gets (pairs done, pairs in all), ``log`` a line on the device and the engine.

        Raises ``UsageError`` for a name that does not exist or cannot be had here. Source:
        docs/statistics.md.
        """
        self.need_code()
        task = self.config.token_layout.addition
        if isinstance(suite, str):
            suite = parse_suite(suite, addition=task)
        elif not isinstance(suite, Suite):
            suite = of_pairs(suite, task)
        where, why = choose_device(device)
        if device == "auto":
            log(f"device: {where} ({why})")
        chosen = select_engine(engine, self.config, where, threads=1, log=log)
        params = {name: tensor.to(where) for name, tensor in self.stacked().items()}
        decoder = exact.decoder_for(self.config, params, chosen)
        report = exact.evaluate(decoder, self.config.token_layout, suite, progress)
        return dataclasses.replace(
            report,
            every_pair=try_all(self.module(), progress) if suite.name == "all" else None,
            checkpoint=None if self.path is None else str(self.path),
            weights_sha256=self.weights_sha256,
            parameters=self.num_parameters,
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the model, atomically: ``.pt`` (R456's program reads it too) or ``.safetensors``.

        Returns the path. Raises ``UsageError`` for another ending, ``Failure`` if it cannot be written.
        """
        path = Path(path)
        check_model_name(path)
        (save_checkpoint if path.suffix == ".pt" else save_safetensors)(path, self)
        return path

    def __repr__(self) -> str:
        seed = "" if self.seed is None else f", seed {self.seed}"
        where = "" if self.path is None else f", {self.path}"
        return f"Model({self.num_parameters} parameters{seed}, step {self.step}{where})"

    def _repr_html_(self) -> str:
        about = {
            "parameters": self.num_parameters,
            "layout": self.config.layout,
            "seed": self.seed,
            "step": self.step,
            "trained by": self.origin,
            "weights": self.weights_sha256[:12],
        }
        return html_table([about], str(self.path or ""))


def check_model_name(path: Path) -> None:
    """Raises ``UsageError`` for a name that ``Model.save`` refuses: before long work, not after."""
    if path.suffix not in (".pt", ".safetensors"):
        raise UsageError(f"{path}: a model is saved as .pt or .safetensors, not {path.suffix!r}")


def load(model: ModelLike, *, preset: str | None = None) -> Model:
    """The model in a checkpoint file: ours, R456's or MicroAdder's ``.pt``, an MLX-named ``.npz``, a
    ``.safetensors``. A run, or its folder, gives its best model (of a search the proved one), a seed's
    record or a repair its checkpoint. A Python file is read and run (``read``).

    ``preset``: of what model a file is that holds weights alone (a bare state dict, under adderlab's,
    R456's, MicroAdder's or MLX's names).

    Raises ``UsageError`` if there is no such file, or a model is named for a file that says itself that
    it is another; ``Failure`` for a file that is damaged, holds code, or does not fit its own settings
    or the preset.
    """
    if preset is not None:
        if not isinstance(model, str | os.PathLike):
            raise UsageError("preset goes with a file of weights alone")
        return _model(load_checkpoint(Path(model), get_preset(preset).config))
    found: Any = model
    if not isinstance(found, str | os.PathLike | Checkpoint):
        found = getattr(found, "best", None) or getattr(found, "checkpoint", None)
        if found is None:
            raise UsageError(f"{model!r} has no checkpoint; name a checkpoint file or a model")
    if isinstance(found, Model):
        return found
    if isinstance(found, str | os.PathLike) and Path(found).is_dir() and kind_of(Path(found)):
        from adderlab.api.training import open_run  # which itself loads models

        return open_run(found).best
    if isinstance(found, str | os.PathLike) and Path(found).suffix == ".py":
        return read(found)
    return _model(found if isinstance(found, Checkpoint) else load_checkpoint(Path(found)))


def _model(checkpoint: Checkpoint) -> Model:
    fields = {field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(Checkpoint)}
    return Model(**fields)


@single_threaded()
def read(
    source: str | os.PathLike[str] | Any,
    layout: str | None = None,
    *,
    weights: ModelLike | None = None,
) -> Model:
    """The model of a Python file of your own, or a module in memory: anybody's PyTorch decoder.

    ``source``: a file with ``build_model()`` and ``add(model, a, b)`` (AdderBoard's form), or with
    ``build_model()`` and the name of a ``layout``; its code is run. Or a module that maps the tokens of
    ``layout`` (1, T) to logits (1, T, V); "P@3" is layout P for three columns, "P@7b2" for seven of base
    2. A file with ``add`` names another size than ten digits in its metadata. ``weights``: a checkpoint
    of that file; otherwise the parameters are those that ``build_model`` makes, with the random
    generators at 0.

    How the model is asked is learned from the calls of ``add``; what it computes is read off the
    operations of one call, and compared with the model, in float64 where it runs so. Raises
    ``UsageError`` for a missing file or weights of another, ``Failure`` with one line for what cannot
    be read. A model that is read but has no table form (``inspect`` says why) can be asked and attacked,
    not proved. Source: docs/your-own-model.md.
    """
    if isinstance(source, str | os.PathLike):
        path: Path | None = Path(source)
        config, params = read_file(Path(source), layout)
    else:
        if layout is None:
            raise UsageError('a module needs the name of its layout, such as layout="P"')
        path = None
        config, params = read_module(source, layout)
    if weights is None:
        return Model(
            config=config,
            params=params,
            recipe={},
            step=0,
            val_exact=math.nan,
            origin=config.file,
            path=path,
        )
    found = _weights_of(weights, config)
    if found.config != config:
        raise UsageError(_foreign_weights(found, config))
    return found


def _weights_of(weights: ModelLike, config: FileModel) -> Model:
    """The model in ``weights``; of a file of weights alone, as a model of ``config``."""
    if isinstance(weights, str | os.PathLike) and Path(weights).is_file():
        return _model(load_checkpoint(Path(weights), config, must_agree=False))
    return load(weights)


def _fewer(model: Model) -> str:
    """Why a model has more numbers than were trained."""
    return (
        f"{model.trained} numbers; parts of it that adderlab does not have are written out as plain "
        f"tables and maps, {model.num_parameters} numbers in all"
    )


def _foreign_weights(found: Model, config: FileModel) -> str:
    """Why these weights are not the file's."""
    path, own = found.path or "these weights", found.config
    if not isinstance(own, FileModel):
        return f"{path} holds a model of {found.num_parameters} parameters that is not of {config.file}"
    if own.sha256 != config.sha256:
        return (
            f"{path} belongs to another version of {own.file} (sha256 {own.sha256[:12]}..., "
            f"{config.file} has {config.sha256[:12]}...): name the file that it was trained with"
        )
    return f"{path} belongs to {own.file} as it is asked in another way: read it with the same layout"


def evaluate(
    model: ModelLike,
    suite: str | Suite | Sequence[tuple[int, int]] = "published",
    *,
    device: str = "auto",
    engine: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    log: Callable[[str], None] = lambda line: None,
) -> SuiteReport:
    """Exact match of a model on a suite of pairs: ``Model.evaluate`` of whatever ``load`` reads."""
    return load(model).evaluate(suite, device=device, engine=engine, progress=progress, log=log)


def predict(model: ModelLike, a: int, b: int) -> Prediction:
    """One addition by a model: ``Model.predict`` of whatever ``load`` reads."""
    return load(model).predict(a, b)


@dataclass(frozen=True, kw_only=True, repr=False)
class Inspection(Result):
    """What a model stores: every tensor, which are tied, and how many numbers count."""

    config: Architecture
    rows: tuple[ParameterRow, ...]
    """Every tensor in the order of the state dict."""
    no_tables: str | None
    """Why there is no table form, so no fast training and no proof; None if there is one."""
    origin: dict[str, Any]
    """Of a trained model: its file, the program that trained it, its step, whether its start was generic
    or informed, its weights' SHA-256."""
    reading: tuple[str, ...] = ()
    """Of a file's model, what was read of it, line by line."""

    @property
    def parameters(self) -> int:
        """Trained numbers, tied ones once."""
        return sum(row.count for row in self.rows if row.counted)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            **self.origin,
            "config": schema.to_dict(self.config),
            "parameters": self.parameters,
            "table_form": self.no_tables is None,
            **({"reading": list(self.reading)} if self.reading else {}),
            "table": self.to_dicts(),
        }

    def to_dicts(self) -> list[dict[str, Any]]:
        """A row for every tensor."""
        return [schema.to_dict(row) for row in self.rows]

    def describe(self) -> list[str]:
        """Where the model comes from, its parameter table, and whether it has a table form."""
        form = "yes" if self.no_tables is None else f"no, {self.no_tables}"
        return [
            *(f"{key}: {value}" for key, value in self.origin.items()),
            *text_table(parameter_rows(self.rows)),
            *self.reading,
            f"table form (fast training, proof): {form}",
        ]

    def _repr_html_(self) -> str:
        return html_table(parameter_rows(self.rows), str(self.origin.get("checkpoint", "")))


def inspect(
    model: ModelLike | ModelConfig, *, set: Mapping[str, Any] | Iterable[str] = ()
) -> Inspection:
    """The parameter table of a model, a preset's name or a configuration; of a Python file's model also
    how it is asked, its heads, the operations after them, and how well what was read agrees with it.

    Text is a preset's name unless it looks like a path. ``set``: changed settings of a preset or a
    configuration, ``{"model.d_ff": 12}`` or ``["model.d_ff=12"]``. Raises as ``load`` and ``preset`` do.
    """
    if isinstance(model, str) and not (Path(model).exists() or "/" in model or "." in model):
        try:
            model = get_preset(model).config
        except UsageError as error:
            raise UsageError(f"there is no file {model}, and {error}") from None
    if set:
        if not isinstance(model, ModelConfig):
            raise UsageError("set changes a preset; a trained model or a file is what it is")
        from adderlab.api.experiments import changed_model  # which itself loads models

        model = changed_model(model, set)
    if isinstance(model, ModelConfig):
        config: Architecture = model
        origin: dict[str, Any] = {}
    else:
        found = load(model)
        config = found.config
        origin = {
            "checkpoint": None if found.path is None else str(found.path),
            "origin": found.origin,
            "step": found.step,
            "start": start_of(found),
            "weights_sha256": found.weights_sha256,
        }
        if found.trained is not None:
            origin["trained by its own program"] = _fewer(found)
    return Inspection(
        config=config,
        rows=parameter_table(config),
        no_tables=why_no_tables(config),
        origin=origin,
        reading=reading_lines(config) if isinstance(config, FileModel) else (),
    )
