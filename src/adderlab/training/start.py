"""Where a population starts, and whether a recipe can train a model from there at all.

Each seed's parameters are its own draw, moved by the recipe's ingredients for the start
(``training.initialise``). What does not fit the model is said before anything is written.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adderlab.errors import UsageError
from adderlab.models.config import ModelConfig
from adderlab.models.tables import stack_parameters
from adderlab.models.transformer import Architecture, build_model, skeleton
from adderlab.runs.checkpoints import Checkpoint
from adderlab.training.initialise import (
    check_circle,
    check_prefit,
    check_wide_init,
    drawn_as,
    on_circle,
    prefit_attention,
    restart_seeds,
    widened,
    with_signs,
)
from adderlab.training.measure import check_validation
from adderlab.training.objective import stacked_float32
from adderlab.training.optimiser import check_names
from adderlab.training.recipe import UNIFORM_PAIRS, Recipe
from adderlab.training.warm_start import OWN_START, check_encloses


def start(config: Architecture, recipe: Recipe, seeds: tuple[int, ...]) -> dict[str, Tensor]:
    """Parameters at step 0, stacked over all draws of the first seed, then of the next; a seed's do not
    depend on the others."""
    count = recipe.restarts_after(-1)
    drawn = [own for seed in seeds for own in restart_seeds(seed, count)]
    spread = recipe.wide_init
    if not isinstance(config, ModelConfig):
        stacked = stacked_float32([build_model(config, own) for own in drawn])
        stacked = widened(stacked, drawn, signs=spread.signs) if spread else stacked
        return _at_widths(recipe, stacked, drawn)
    as_drawn = drawn_as(spread, config) if spread else config
    stacked = stack_parameters([build_model(as_drawn, own) for own in drawn])
    if spread and spread.signs:
        stacked = with_signs(stacked, drawn)
    stacked = _at_widths(recipe, stacked, drawn)
    if recipe.circle:
        stacked = on_circle(recipe.circle, config, stacked)
    if recipe.prefit is None:
        return stacked
    each = []
    for first, seed in zip(range(0, len(drawn), count), seeds, strict=True):
        params = {name: tensor[first : first + count] for name, tensor in stacked.items()}
        each.append(prefit_attention(recipe.prefit, config, UNIFORM_PAIRS, seed, params))
    return {name: torch.cat([params[name] for params in each]) for name in stacked}


def _at_widths(recipe: Recipe, stacked: dict[str, Tensor], drawn: list[int]) -> dict[str, Tensor]:
    """The starts, each as wide as ``recipe.restarts`` deals out."""
    restarts = recipe.restarts
    if restarts is None or not restarts.widths:
        return stacked
    widths = [restarts.width(i % restarts.count) for i in range(len(drawn))]
    return widened(stacked, drawn, signs=True, widths=widths)


def check_file_start(recipe: Recipe) -> None:
    """Raises ``UsageError`` for an ingredient of the start that only presets have something for."""
    for name in ("circle", "prefit"):
        if getattr(recipe, name):
            raise UsageError(
                f"recipe.{name} names parts of a preset; a file's model trains without: set "
                f"recipe.{name}=null, or take --recipe auto"
            )
    if recipe.wide_init and recipe.wide_init.arc is not None:
        raise UsageError(
            "wide_init.arc moves digits of a preset; a file's model trains without: set "
            "recipe.wide_init.arc=null"
        )


def check_start(config: Architecture, recipe: Recipe) -> None:
    """Raises ``UsageError`` for an ingredient of the start, or of frozen parameters, that the model
    has nothing for."""
    if not isinstance(config, ModelConfig):
        check_file_start(recipe)
        check_names(recipe.freeze, list(config.parameter_shapes()))
        return
    names = [name for name, _ in skeleton(config).named_parameters()]
    if recipe.wide_init:
        check_wide_init(recipe.wide_init, config, names)
    if recipe.circle:
        check_circle(recipe.circle, config)
    if recipe.prefit:
        check_prefit(recipe.prefit, config, names)
    check_names(recipe.freeze, names)


def check_fits(
    config: Architecture, recipe: Recipe, seeds: Sequence[int], source: Checkpoint | None = None
) -> None:
    """Raises ``UsageError`` naming the setting that does not fit the model, the seeds, or the trained
    model that they start from."""
    named = recipe.warm_start and recipe.warm_start.sha256
    if named != (source and source.weights_sha256):
        raise UsageError("recipe.warm_start goes with the weights that it names: set it by --from")
    if source is not None:
        check_encloses(config, source)
        for name in OWN_START:
            if getattr(recipe, name) is not None:
                raise UsageError(f"a warm start has no other start: set recipe.{name}=null")
    check_start(config, recipe)
    check_validation(recipe.val_size, seeds)
