"""Whether a recipe can train a model at all, told before anything is written."""

from collections.abc import Sequence

from adderlab.models.config import ModelConfig
from adderlab.models.transformer import skeleton
from adderlab.training.aim import check_aim
from adderlab.training.circle import check_circle
from adderlab.training.freeze import check_names
from adderlab.training.measure import check_validation
from adderlab.training.recipe import Recipe
from adderlab.training.spread import check_spread


def check_start(config: ModelConfig, recipe: Recipe) -> None:
    """Raises ``UsageError`` for an ingredient of the start, or of frozen parameters, that the model
    has nothing for."""
    names = [name for name, _ in skeleton(config).named_parameters()]
    if recipe.spread:
        check_spread(recipe.spread, config, names)
    if recipe.circle:
        check_circle(recipe.circle, config)
    if recipe.aim:
        check_aim(recipe.aim, config, names)
    check_names(recipe.freeze, names)


def check_fits(config: ModelConfig, recipe: Recipe, seeds: Sequence[int]) -> None:
    """Raises ``UsageError`` naming the setting that does not fit the model or the seeds."""
    check_start(config, recipe)
    check_validation(recipe.val_size, seeds)
