"""A tiny run on a finite training set that keeps its weights."""

from pathlib import Path

import torch

from adderlab.engine.torch_tables import TorchEngine
from adderlab.models.config import resized
from adderlab.models.zoo import get_preset
from adderlab.task.sampling import Curriculum, DataConfig, Phase
from adderlab.training.measure import Listener
from adderlab.training.objective import objective_for
from adderlab.training.recipe import Recipe, Stage
from adderlab.training.run import Job, RunResult, read_job, run

CONFIG = resized(get_preset("122p").config, columns=2)
POOL = DataConfig(
    curriculum=Curriculum(phases=(Phase(until=None, max_digits=10),), lengths="full"), pool=12
)
RECIPE = Recipe(
    steps=21,
    batch_size=16,
    warmup_steps=2,
    val_size=30,
    test_size=20,
    eval_interval=5,
    data=POOL,
    stages=(Stage(steps=4, logit_scale=2.0),),
)


def train(
    folder: Path,
    listener: Listener | None = None,
    *,
    resume: bool = False,
    seeds: tuple[int, ...] = (3, 4),
    every: int | None = 4,
) -> RunResult:
    """Evaluated at steps 0, 5, 10, 15, 20 and 24, kept at 0, 4, ..., 24."""
    device = torch.device("cpu")
    job = Job(
        config=CONFIG, recipe=RECIPE, seeds=seeds, folder=folder, keep="all", checkpoint_every=every
    )
    job = read_job(folder) if resume else job
    objective = objective_for(CONFIG, TorchEngine(), device)
    return run(job, objective, device, listener or Listener(), resume=resume)
