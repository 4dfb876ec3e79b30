"""What computes: device, engine and threads as asked for, and what comes of them for one model."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from adderlab.engine.select import choose_device, select_engine
from adderlab.errors import UsageError
from adderlab.models.config import ModelConfig
from adderlab.models.tables import why_no_tables
from adderlab.training.objective import Objective, objective_for


@dataclass(frozen=True, kw_only=True)
class Compute:
    """What to compute with, as asked for. Plain values, so that it can go to another machine."""

    device: str = "auto"
    """auto, cpu, cuda or mps."""
    engine: str = "auto"
    """auto, native, triton or torch."""
    threads: int | None = None
    """Seeds trained at once on a CPU; None: every core. No effect on any seed's results."""

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"--threads must be at least 1, not {self.threads}")

    def options(self) -> list[str]:
        """What a run folder does not say and its last bits depend on, as options of a command."""
        named = [("--device", self.device), ("--engine", self.engine)]
        return [word for name, value in named if value != "auto" for word in (name, value)]


@dataclass(frozen=True, kw_only=True)
class Backend:
    """Device and engine, chosen and ready for one model."""

    objective: Objective
    device: torch.device
    device_reason: str
    """Why this device, in a few words."""
    threads: int

    @property
    def engine(self) -> str:
        return self.objective.engine_name

    @property
    def on_cpu(self) -> bool:
        return self.device.type == "cpu"


def open_backend(
    config: ModelConfig,
    compute: Compute,
    log: Callable[[str], None] = lambda line: None,
    *,
    engine_threads: int | None = None,
) -> Backend:
    """Choose and compile. ``log`` gets a line when something is compiled or is not the fastest.
    ``engine_threads``: threads of the engine, where not all of them are to train one population.

    Raises ``UsageError`` for what this machine does not have.
    """
    torch.set_num_threads(1)  # seeds are spread over threads; a sum is never split among them
    device, why = choose_device(compute.device)
    threads = compute.threads or usable_cores()
    reason = why_no_tables(config)
    if reason:
        log(f"this model has no table form ({reason}): it trains on the full sequence, slowly")
    engine = select_engine(compute.engine, config, device, threads=engine_threads or threads, log=log)
    return Backend(
        objective=objective_for(config, engine, device),
        device=device,
        device_reason=why,
        threads=threads,
    )


cached_backend = functools.lru_cache(maxsize=8)(open_backend)
"""For a worker that is given shard after shard of one run."""


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
