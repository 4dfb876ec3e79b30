"""Models as the public API sees them: loaded from a file, read, asked, measured and saved.

Shapes: S = 1 seed in front of every table.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from torch import Tensor

from adderlab.errors import UsageError
from adderlab.models.tables import Tables
from adderlab.models.transformer import Transformer
from adderlab.proof.prove import exact_tables
from adderlab.results import html_table
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint, save_checkpoint, save_safetensors


class HasBest(Protocol):
    """Anything with a best model: a run, a search."""

    @property
    def best(self) -> Checkpoint: ...


class HasCheckpoint(Protocol):
    """Anything that names a checkpoint: a seed's record, a repair."""

    @property
    def checkpoint(self) -> Checkpoint | Path | str | None: ...


ModelLike: TypeAlias = "str | os.PathLike[str] | Checkpoint | HasBest | HasCheckpoint"
"""Wherever a model is expected: a checkpoint file's path, a model, a run (its best model), or a seed's
record or a repair (its checkpoint)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Model(Checkpoint):
    """One trained model: a checkpoint that can be read, asked, measured and saved.

    Frozen; its weights are a copy, float32 on the CPU.
    """

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """Name -> stored tensor, float32; tied parameters once, under the first of their names."""
        return self.params

    def module(self) -> Transformer:
        """The readable PyTorch model: tokens (B, T) -> logits (B, T, V). A new one for each call."""
        return self.model()

    def tables(self) -> Tables:
        """The model's table form in float64, with a seed axis of length 1 in front.

        Raises ``UsageError`` for models outside the table form. Source: docs/architecture.md.
        """
        return exact_tables(self)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the model, atomically: ``.pt`` (R456's program reads it too) or ``.safetensors``.

        Returns the path. Raises ``UsageError`` for another ending, ``Failure`` if it cannot be written.
        """
        path = Path(path)
        writers = {".pt": save_checkpoint, ".safetensors": save_safetensors}
        if path.suffix not in writers:
            raise UsageError(f"{path}: a model is saved as .pt or .safetensors, not {path.suffix!r}")
        writers[path.suffix](path, self)
        return path

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


def load(model: ModelLike) -> Model:
    """The model in a checkpoint file: ours, R456's or MicroAdder's ``.pt``, an MLX-named ``.npz``, a
    ``.safetensors``. A run gives its best model, a seed's record or a repair its checkpoint.

    Raises ``UsageError`` if there is no such file, ``Failure`` for a file that is damaged, holds code
    or does not fit its own settings.
    """
    found: Any = model
    if not isinstance(found, str | os.PathLike | Checkpoint):
        found = getattr(found, "best", None) or getattr(found, "checkpoint", None)
        if found is None:
            raise UsageError(f"{model!r} has no checkpoint; name a checkpoint file or a model")
    if isinstance(found, Model):
        return found
    checkpoint = found if isinstance(found, Checkpoint) else load_checkpoint(Path(found))
    fields = {field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(Checkpoint)}
    return Model(**fields)
