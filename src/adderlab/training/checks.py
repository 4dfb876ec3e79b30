"""Whether a recipe can train a model at all, told before anything is written."""

from collections.abc import Sequence

from adderlab.models.config import ModelConfig
from adderlab.models.transformer import skeleton
from adderlab.training.circle import check_circle
from adderlab.training.freeze import check_names
from adderlab.training.measure import check_validation
from adderlab.training.recipe import Recipe


def check_fits(config: ModelConfig, recipe: Recipe, seeds: Sequence[int]) -> None:
    """Raises ``UsageError`` naming the setting that does not fit the model or the seeds."""
    if recipe.circle:
        check_circle(recipe.circle, config)
    check_names(recipe.freeze, [name for name, _ in skeleton(config).named_parameters()])
    check_validation(recipe.val_size, seeds)
