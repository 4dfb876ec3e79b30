"""A population with every ingredient, and what crosses between host and device."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adderlab.engine.device_steps import DeviceStepper, _Buffers
from adderlab.engine.step_batch import Settings, StepBatch
from adderlab.engine.torch_tables import TorchEngine
from adderlab.models.zoo import get_preset
from adderlab.task.addition import get_layout
from adderlab.task.sampling import (
    MICROADDER_CURRICULUM,
    PATTERNS,
    CarryMix,
    Curriculum,
    DataConfig,
    Phase,
)
from adderlab.training.ingredients import Average, Freeze, Grokfast
from adderlab.training.objective import objective_for
from adderlab.training.population import Population
from adderlab.training.recipe import UNIFORM_LENGTHS, Recipe

GROWING = DataConfig(
    curriculum=Curriculum(
        phases=(Phase(until=5, max_digits=3), Phase(until=None, max_digits=10)), lengths="uniform"
    )
)

CPU, META = torch.device("cpu"), torch.device("meta")


MIXED = DataConfig(
    curriculum=MICROADDER_CURRICULUM,
    carry_mix=CarryMix(share=0.8, fade_start=3, fade_end=9, patterns=PATTERNS),
)


POOL = replace(UNIFORM_LENGTHS, pool=40)


PLAIN = Recipe(steps=14, batch_size=16, warmup_steps=4, val_size=20, test_size=20, data=GROWING)


RICH = replace(
    PLAIN,
    data=MIXED,
    grokfast=Grokfast(),
    average=Average(decay=0.9),
    grad_clip=0,
    freeze=(Freeze(prefix="blocks.0.mlp", until=0.3, then=0.5),),
)


def population(name: str, recipe: Recipe, engine: TorchEngine, device: torch.device = CPU) -> Population:
    config = get_preset(name).config
    return Population(config, recipe, (3, 4, 90), objective_for(config, engine, device), device)


class HostTraffic(TorchDispatchMode):
    """Notes every operation on, or from, a tensor of the host, or that asks for a number."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        if any(each.device.type == "cpu" for each in given) or "_local_scalar_dense" in str(func):
            self.found.append(str(func))
        result = func(*args, **kwargs)
        made = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
        if any(each.device.type == "cpu" for each in made):
            self.found.append(f"{func} on the host")
        return result


def meta_step_batch(num_parameters: int, recipe: Recipe) -> StepBatch:
    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, device=META)

    S, N = 2, num_parameters
    settings = Settings(
        lr=[0.1],
        correction=[1.0],
        scale=[1.0],
        beta1=0.9,
        beta2=0.99,
        eps=1e-8,
        clip=1.0,
        lr_scale_N=zeros(N),
    )
    return StepBatch(
        seeds_S=torch.zeros(S, dtype=torch.int64, device=META),
        first=0,
        batch_size=8,
        params_SN=zeros(S, N),
        mean_SN=zeros(S, N),
        square_SN=zeros(S, N),
        weight_decay_S=zeros(S),
        settings=(settings, replace(settings, lr=[0.2])),
        setting_S=torch.zeros(S, dtype=torch.int32, device=META),
        slow_SN=zeros(S, N) if recipe.grokfast else None,
        average_SN=zeros(S, N) if recipe.average else None,
    )


def host_traffic_of_a_step(name: str, recipe: Recipe, engine: Any) -> list[str]:
    config = get_preset(name).config
    objective = objective_for(config, engine, CPU)
    stepper = objective.stepper(recipe.data, get_layout(config.layout))
    assert isinstance(stepper, DeviceStepper)
    with torch.no_grad():
        size = sum(t.numel() for t in population(name, recipe, TorchEngine()).params().values()) // 3
    step_batch = meta_step_batch(size, recipe)
    buffers = _Buffers(step_batch)
    stepper.prepare(len(step_batch.params_SN), META)
    with HostTraffic() as traffic:
        stepper.step(buffers)
    return traffic.found
