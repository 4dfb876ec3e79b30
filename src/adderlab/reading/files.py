"""Running a file that the user named: its module, what ``build_model`` makes, the size it states."""

from __future__ import annotations

import contextlib
import importlib.util
import random
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from adderlab.errors import Failure, UsageError
from adderlab.task.addition import PUBLISHED, Addition


def load_file(path: Path) -> types.ModuleType:
    """Run a Python file that the user named. Raises ``UsageError`` where there is none, ``Failure``
    where it fails."""
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    name = f"adderlab_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # Files beside it can be imported, as when it is run on its own.
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise Failure(f"{path} fails when it is run: {one_line(error)}") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def built(module: types.ModuleType, seed: int | None = None) -> Any:
    """What the file's ``build_model`` makes, its metadata left out; ``seed`` is that of the
    generators, for constructors that draw."""
    return built_with_metadata(module, seed)[0]


def built_with_metadata(module: types.ModuleType, seed: int | None = None) -> tuple[Any, Any]:
    """As ``built``, and the metadata; None where there are none."""
    build = getattr(module, "build_model", None)
    if not callable(build):
        raise Failure(f"{module.__file__} has no function build_model")
    try:
        with _seeded(seed) if seed is not None else contextlib.nullcontext():
            result = build()
    except Exception as error:
        raise Failure(f"build_model fails: {one_line(error)}") from error
    model, *rest = result if isinstance(result, tuple) and result else (result,)
    if isinstance(model, nn.Module) and model.training:
        model.eval()
    return model, rest[0] if rest else None


def stated_size(metadata: Any) -> Addition:
    """The size of the task that a file's metadata name, under ``columns`` and ``base`` (10 unless
    named); without columns that of AdderBoard. Raises ``UsageError`` for what is no size."""
    if not isinstance(metadata, Mapping) or "columns" not in metadata:
        return PUBLISHED
    found = {"columns": metadata["columns"], "base": metadata.get("base", 10)}
    for name, value in found.items():
        if type(value) is not int:
            raise UsageError(f"its metadata name {value!r} as {name}: a whole number says the size")
    return Addition(**found)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """PyTorch's, Python's and numpy's generators at ``seed``; as before afterwards."""
    python, arrays = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)


def one_line(error: Exception) -> str:
    """Its kind and the first line of what it says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
