"""Which engine computes, chosen once and said in one line."""

from __future__ import annotations

from collections.abc import Callable

import torch

from adderlab.engine.base import Engine
from adderlab.engine.torch_tables import TorchEngine
from adderlab.errors import Failure, UsageError
from adderlab.models.config import ModelConfig
from adderlab.models.mapping import stack_parameters, tables, why_no_tables
from adderlab.models.transformer import build_model

ENGINES = ("auto", "native", "torch")


def select_engine(
    name: str,
    config: ModelConfig,
    device: torch.device,
    *,
    threads: int,
    say: Callable[[str], None],
) -> Engine:
    """The engine for ``--engine name``; ``say`` gets a line when it compiles or is not the fastest.

    Raises ``UsageError`` for an unknown name, or for ``native`` where it cannot be had.
    """
    if name not in ENGINES:
        raise UsageError(f"no engine {name!r}; there are {', '.join(ENGINES)}")
    if name == "torch":
        return TorchEngine(threads)
    try:
        return _native(config, device, threads, say)
    except Failure as error:
        if name == "native":
            raise UsageError(f"--engine native: {error}") from error
        say(f"the native engine is not used: {error}; computing with PyTorch")
        return TorchEngine(threads)


def _native(
    config: ModelConfig, device: torch.device, threads: int, say: Callable[[str], None]
) -> Engine:
    """The native engine, compiled for this model. Raises ``Failure`` saying why it cannot be had."""
    from adderlab.engine.native import NativeEngine, why_not

    if device.type != "cpu":
        raise Failure(f"it computes on the CPU, not on {device.type}")
    reason = why_no_tables(config)
    if reason:
        raise Failure(f"this model has no table form: {reason}")
    with torch.no_grad():
        example = tables(config, stack_parameters([build_model(config, 0)]))
    reason = why_not(example.form)
    if reason:
        raise Failure(reason)
    engine = NativeEngine(threads, say=say)
    engine.prepare(example)
    return engine
