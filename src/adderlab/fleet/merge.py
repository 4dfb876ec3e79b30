"""Shards of one run put together, as if one machine had trained all seeds.

Everything a run folder holds is a function of what is kept of every seed, so the shards' states are
joined along the seed axis and written by the same writer that a run on one machine uses. Only times
differ: steps were timed where they were taken.

Shapes: S seeds still training, N parameters of one model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adderlab.errors import Failure
from adderlab.models.config import ModelConfig
from adderlab.runs.fitting import parameter_shapes
from adderlab.runs.folder import RunFolder
from adderlab.runs.metrics import Metrics, read_metrics, read_seed_metrics
from adderlab.runs.resume import drop_rows_after, load_state
from adderlab.runs.run_config import read_config
from adderlab.training.job import Job, Outcome
from adderlab.training.ledger import Ledger
from adderlab.training.writer import Writer


def merge(job: Job, folder: RunFolder, shards: Sequence[Path]) -> Outcome:
    """Write the run of ``job`` to ``folder`` (open, and of this job) from the shards' run folders, in
    the order of their seeds; the shards have all reached the same goal.

    Ends as "done" if every shard is at its end, else as "stopped", ready to be resumed.
    Raises ``Failure`` if a shard is damaged or belongs to another run.
    """
    states = [load_state(path) for path in shards]
    seeds = [read_config(path).seeds for path in shards]
    if tuple(seed for own in seeds for seed in own) != job.seeds:
        raise Failure(f"the shards of {job.folder} hold other seeds than the run; train it anew")
    population = _Joined(job.config, [state["population"] for state in states])
    ledger = Ledger(job.seeds, torch.zeros(len(job.seeds), population.num_parameters))
    ledger.load_state(joined([state["ledger"] for state in states], [len(own) for own in seeds]))
    drop_rows_after(job.folder, -1)
    for evaluations in _by_step(job.seeds, shards):
        folder.record(evaluations)
    done = not population.seeds or population.next_step >= job.recipe.total_steps
    return Writer(job, folder, population, ledger).finish("done" if done else "stopped")


def joined(parts: Sequence[Any], sizes: Sequence[int]) -> Any:
    """Values that belong to the shards, as one value of the whole run.

    Tensors and lists with an entry for each of a shard's ``sizes`` seeds are put behind one another,
    tables by seed united, other tables joined entry by entry. Anything else is the same in all shards.
    """
    first = parts[0]
    if isinstance(first, dict):
        if all(isinstance(key, int) for key in first):
            return {seed: value for part in parts for seed, value in part.items()}
        return {key: joined([part[key] for part in parts], sizes) for key in first}
    if isinstance(first, Tensor):
        assert all(len(part) == size for part, size in zip(parts, sizes, strict=True))
        return torch.cat(list(parts))
    if isinstance(first, list):
        per_seed = all(len(part) == size for part, size in zip(parts, sizes, strict=True))
        assert per_seed or not any(parts), parts
        return [value for part in parts for value in part]
    assert all(part == first for part in parts), parts
    return first


class _Joined:
    """What the writer asks of a population, from the shards' last states."""

    def __init__(self, config: ModelConfig, states: Sequence[dict[str, Any]]) -> None:
        self._shapes = parameter_shapes(config)
        # Shards whose seeds have all stopped early ended at an earlier step, with nothing to join.
        active = [state for state in states if state["seeds"]]
        furthest = max(states, key=lambda state: state["next_step"])
        self.next_step: int = furthest["next_step"]
        self.seconds: float = max(state["seconds"] for state in states)
        same: dict[str, Any] = {"next_step": self.next_step, "seconds": self.seconds}
        sizes = [len(state["seeds"]) for state in active]
        self._state: dict[str, Any] = (
            joined([state | same for state in active], sizes) if active else furthest | same
        )
        self.seeds = tuple(self._state["seeds"])

    @property
    def num_parameters(self) -> int:
        return self._state["params"].shape[1]

    def params(self, flat_SN: Tensor) -> dict[str, Tensor]:
        sizes = [torch.Size(shape).numel() for shape in self._shapes.values()]
        columns = zip(self._shapes.items(), flat_SN.split(sizes, 1), strict=True)
        return {name: part.reshape(len(part), *shape) for (name, shape), part in columns}

    def keep(self, rows: list[int]) -> None:
        raise AssertionError("the training is over")

    def state(self) -> dict[str, Any]:
        return self._state


def _by_step(seeds: tuple[int, ...], shards: Sequence[Path]) -> list[dict[int, Metrics]]:
    """The evaluations of every step, by seed, as they would have been recorded together."""
    history: dict[int, list[Metrics]] = {}
    for path in shards:
        own = read_config(path).seeds
        history |= read_seed_metrics(path) if len(own) > 1 else {own[0]: read_metrics(path)}
    steps: dict[int, dict[int, Metrics]] = {}
    for seed in seeds:
        for metrics in history.get(seed, []):
            steps.setdefault(metrics.step, {})[seed] = metrics
    return [steps[step] for step in sorted(steps)]
