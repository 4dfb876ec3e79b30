"""The learning rate at the steps that decide it."""

import pytest

from adderlab.training.recipe import Recipe, learning_rate


def test_warm_up_peak_middle_and_end() -> None:
    recipe = Recipe()
    assert learning_rate(recipe, 0) == pytest.approx(0.02 / 1350)
    assert learning_rate(recipe, 1349) == pytest.approx(0.02)
    middle = 1350 + (54_000 - 1350) // 2
    assert learning_rate(recipe, middle) == pytest.approx(0.011, abs=1e-6)
    assert learning_rate(recipe, 54_000) == pytest.approx(0.002)


def test_no_warm_up_starts_at_the_peak() -> None:
    recipe = Recipe(warmup_steps=0)
    assert learning_rate(recipe, 0) == pytest.approx(0.02)
