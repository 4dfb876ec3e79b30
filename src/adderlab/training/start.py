"""Where a population starts: each seed's own draw, moved by the recipe's ingredients for the start."""

from collections.abc import Sequence

import torch
from torch import Tensor

from adderlab.models.config import ModelConfig
from adderlab.models.tables import stack_parameters
from adderlab.models.transformer import build_model, skeleton
from adderlab.training.initialise import (
    check_circle,
    check_prefit,
    check_wide_init,
    drawn_as,
    on_circle,
    prefit_attention,
    restart_seeds,
    with_signs,
)
from adderlab.training.measure import check_validation
from adderlab.training.optimiser import check_names
from adderlab.training.recipe import UNIFORM_PAIRS, Recipe


def start(config: ModelConfig, recipe: Recipe, seeds: tuple[int, ...]) -> dict[str, Tensor]:
    """Parameters at step 0, stacked over all draws of the first seed, then of the next; a seed's do not
    depend on the others."""
    count = recipe.restarts_after(-1)
    drawn = [own for seed in seeds for own in restart_seeds(seed, count)]
    spread = recipe.wide_init
    as_drawn = drawn_as(spread, config) if spread else config
    stacked = stack_parameters([build_model(as_drawn, own) for own in drawn])
    if spread and spread.signs:
        stacked = with_signs(stacked, drawn)
    if recipe.circle:
        stacked = on_circle(recipe.circle, config, stacked)
    if recipe.prefit is None:
        return stacked
    each = []
    for first, seed in zip(range(0, len(drawn), count), seeds, strict=True):
        params = {name: tensor[first : first + count] for name, tensor in stacked.items()}
        each.append(prefit_attention(recipe.prefit, config, UNIFORM_PAIRS, seed, params))
    return {name: torch.cat([params[name] for params in each]) for name in stacked}


# Whether a recipe can train a model at all, told before anything is written.


def check_start(config: ModelConfig, recipe: Recipe) -> None:
    """Raises ``UsageError`` for an ingredient of the start, or of frozen parameters, that the model
    has nothing for."""
    names = [name for name, _ in skeleton(config).named_parameters()]
    if recipe.wide_init:
        check_wide_init(recipe.wide_init, config, names)
    if recipe.circle:
        check_circle(recipe.circle, config)
    if recipe.prefit:
        check_prefit(recipe.prefit, config, names)
    check_names(recipe.freeze, names)


def check_fits(config: ModelConfig, recipe: Recipe, seeds: Sequence[int]) -> None:
    """Raises ``UsageError`` naming the setting that does not fit the model or the seeds."""
    check_start(config, recipe)
    check_validation(recipe.val_size, seeds)
