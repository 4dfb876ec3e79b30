"""The learning rate of a step: linear warm-up, then a cosine to a fraction of the peak, or constant.

Source: the published 456p program (docs/reproducing.md); cosine decay after Loshchilov and Hutter,
arXiv 1608.03983.
"""

import math

from adderlab.training.recipe import Recipe, Stage


def learning_rate(recipe: Recipe, step: int) -> float:
    """Steps count from 0; the peak is reached at step ``warmup_steps - 1`` of each part."""
    return learning_rates(recipe, range(step, step + 1))[0]


def learning_rates(recipe: Recipe, steps: range) -> list[float]:
    """Of consecutive steps within one part."""
    first, stage = recipe.part_at(steps.start)
    return [_at(stage, step - first) for step in steps]


def _at(stage: Stage, step: int) -> float:
    if step < stage.warmup_steps:
        return stage.lr * (step + 1) / stage.warmup_steps
    if stage.schedule == "constant":
        return stage.lr
    progress = min(1.0, (step - stage.warmup_steps) / max(1, stage.steps - stage.warmup_steps))
    low = stage.lr * stage.min_lr_ratio
    return low + (stage.lr - low) * 0.5 * (1.0 + math.cos(math.pi * progress))
