"""Where a population starts: each seed's own draw, moved by the recipe's ingredients for the start."""

import torch
from torch import Tensor

from adderlab.models.config import ModelConfig
from adderlab.models.mapping import stack_parameters
from adderlab.models.transformer import build_model
from adderlab.training.aim import aimed
from adderlab.training.circle import on_circle
from adderlab.training.draws import draw_seeds
from adderlab.training.recipe import UNIFORM_PAIRS, Recipe
from adderlab.training.spread import drawn_as, with_signs


def start(config: ModelConfig, recipe: Recipe, seeds: tuple[int, ...]) -> dict[str, Tensor]:
    """Parameters at step 0, stacked over all draws of the first seed, then of the next; a seed's do not
    depend on the others."""
    count = recipe.draws_after(-1)
    drawn = [own for seed in seeds for own in draw_seeds(seed, count)]
    spread = recipe.spread
    as_drawn = drawn_as(spread, config) if spread else config
    stacked = stack_parameters([build_model(as_drawn, own) for own in drawn])
    if spread and spread.signs:
        stacked = with_signs(stacked, drawn)
    if recipe.circle:
        stacked = on_circle(recipe.circle, config, stacked)
    if recipe.aim is None:
        return stacked
    each = []
    for first, seed in zip(range(0, len(drawn), count), seeds, strict=True):
        params = {name: tensor[first : first + count] for name, tensor in stacked.items()}
        each.append(aimed(recipe.aim, config, UNIFORM_PAIRS, seed, params))
    return {name: torch.cat([params[name] for params in each]) for name in stacked}
