"""A checkpoint as the checker's model: enclosed tables, form, and the hashes a certificate names."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from adderlab.models.config import ModelConfig
from adderlab.models.transformer import Transformer, build_model
from adderlab.proof.checker.document import read_document
from adderlab.proof.checker.enclosure import enclose_tables, float64_tables
from adderlab.proof.checker.floating import FloatCheck
from adderlab.proof.checker.intervals import Array
from adderlab.proof.checker.model import Model, model_from_tables
from adderlab.proof.checker.verify import Progress, Report, check


class Weights(Protocol):
    """What the checker needs of a checkpoint: ``adderlab.runs.checkpoints.Checkpoint`` has it."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def params(self) -> Mapping[str, Tensor]: ...

    @property
    def weights_sha256(self) -> str: ...


def tables_sha256(tables: Mapping[str, Array]) -> str:
    """Hash of float64 tables in the order given (docs/proof.md, 3.1)."""
    digest = hashlib.sha256()
    for name, table in tables.items():
        digest.update(name.encode("ascii") + b"\0")
        digest.update(struct.pack(f"<{table.ndim + 1}q", table.ndim, *table.shape))
        digest.update(np.ascontiguousarray(table, dtype="<f8").tobytes())
    return digest.hexdigest()


def read_model(weights: Weights) -> tuple[Model, dict[str, Any], str | None]:
    """The model with enclosed tables, its form as JSON, and the hash of its float64 tables (None
    where a transcendental function makes them depend on the machine).

    Raises ``UsageError`` for models without tables, ``Failure`` for those it cannot enclose.
    """
    form, tables, transcendental = enclose_tables(weights.config, weights.params)
    rounded = None if transcendental else tables_sha256(float64_tables(weights.config, weights.params))
    return model_from_tables(form, tables), dataclasses.asdict(form), rounded


def fp32_module(weights: Weights) -> Transformer:
    """The readable model with the stored weights."""
    module = build_model(weights.config, seed=0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(weights.params[name])
    return module.eval()


def check_file(
    path: Path | str, weights: Weights, progress: Progress | None = None, *, fp32: bool = True
) -> Report:
    """Check the certificate at ``path`` against a checkpoint; with ``fp32``, ask too whether greedy
    decoding in fp32 adds every pair right.

    Raises ``UsageError`` for a missing file or a model without tables, ``Failure`` for a file that is
    no certificate.
    """
    document = read_document(path)
    model, form, tables_hash = read_model(weights)
    return check(
        document,
        model,
        form=form,
        weights_sha256=weights.weights_sha256,
        tables_sha256=tables_hash,
        progress=progress,
        floating=FloatCheck.of(fp32_module(weights), model) if fp32 else None,
    )
