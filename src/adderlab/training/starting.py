"""Where a population starts: each seed's own draw, moved by the recipe's ingredients for the start."""

import torch
from torch import Tensor

from adderlab.models.config import ModelConfig
from adderlab.models.mapping import stack_parameters
from adderlab.models.transformer import build_model
from adderlab.training.aim import aimed
from adderlab.training.circle import on_circle
from adderlab.training.recipe import UNIFORM_PAIRS, Recipe


def start(config: ModelConfig, recipe: Recipe, seeds: tuple[int, ...]) -> dict[str, Tensor]:
    """Parameters at step 0, stacked over the seeds; a seed's do not depend on the others."""
    stacked = stack_parameters([build_model(config, seed) for seed in seeds])
    if recipe.circle:
        stacked = on_circle(recipe.circle, config, stacked)
    if recipe.aim is None:
        return stacked
    each = [
        aimed(
            recipe.aim, config, UNIFORM_PAIRS, seed, {name: t[s : s + 1] for name, t in stacked.items()}
        )
        for s, seed in enumerate(seeds)
    ]
    return {name: torch.cat([params[name] for params in each]) for name in stacked}
