"""A fleet without a cluster, and small jobs for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from adderlab.engine.torch_tables import TorchEngine
from adderlab.files import schema
from adderlab.models.zoo import get_preset
from adderlab.study.cluster import Done
from adderlab.study.shards import Task, train_shard
from adderlab.training.finetune import Targeting
from adderlab.training.ingredients import MICROADDER_DECAY, Average, Grokfast
from adderlab.training.objective import Compute, objective_for
from adderlab.training.recipe import Recipe, Stage
from adderlab.training.run import Job, RunResult, run

CPU = torch.device("cpu")
COMPUTE = Compute(device="cpu", engine="torch", threads=1)
CONFIG = get_preset("456p").config
RECIPE = Recipe(steps=21, batch_size=16, warmup_steps=4, val_size=30, test_size=20, eval_interval=5)
STAGED = dataclasses.replace(
    RECIPE,
    steps=6,
    eval_interval=4,
    grokfast=Grokfast(),
    adaptive_decay=MICROADDER_DECAY,
    stages=(
        Stage(steps=3, average=Average()),
        Stage(steps=3, targeting=Targeting(fresh=10, per_stratum=0, most=5)),
    ),
)


class InProcessFleet:
    """Carries out every task at once, in this process."""

    compute = COMPUTE
    slots = 2

    def __init__(self, fail: Callable[[Task], None] = lambda task: None) -> None:
        self._before = fail

    def carry_out(self, tasks: Sequence[Task], finished: Callable[[Done], None]) -> None:
        for task in tasks:
            self._before(task)
            finished(Done(task=task, machine=train_shard(schema.to_dict(task))))


def train_here(job: Job) -> RunResult:
    """The run on one machine."""
    return run(job, objective_for(job.config, TorchEngine(), CPU), CPU)


def table(path: Path) -> list[list[str]]:
    """A CSV table without its times."""
    rows = [line.split(",") for line in path.read_text().splitlines()]
    timed = rows[0].index("elapsed_sec") if "elapsed_sec" in rows[0] else None
    return [[cell for i, cell in enumerate(row) if i != timed] for row in rows]
