"""The named recipes: every preset has one that fits, with the published numbers."""

import pytest

from adderlab.errors import UsageError
from adderlab.evaluation.suites import (
    ADDERBOARD_SEED,
    PUBLISHED_SEEDS,
    adderboard,
    published,
)
from adderlab.models.zoo import PRESETS, get_preset
from adderlab.recipes import (
    RECIPES,
    get_recipe,
    published_name,
    recipe_for,
)
from adderlab.task.addition import from_digits
from adderlab.task.r456 import holdout
from adderlab.training.ingredients import MICROADDER_DECAY
from adderlab.training.recipe import Recipe
from adderlab.training.start import check_fits


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_a_recipe_that_fits(name: str) -> None:
    preset = get_preset(name)
    assert preset.recipe is None or preset.recipe in RECIPES
    for route in ("published", "best", "quick"):
        check_fits(preset.config, recipe_for(preset, route), (0, 41))


def test_every_recipe_says_where_it_comes_from() -> None:
    assert [name for name, each in RECIPES.items() if not each.source] == []


def test_the_circle_is_for_presets_with_low_rank_positions() -> None:
    circle = get_recipe("circle")
    fitting = set()
    for name, preset in PRESETS.items():
        try:
            check_fits(preset.config, circle, (0,))
        except UsageError:
            continue
        fitting.add(name)
    assert fitting == {*("582p", "512p", "491p", "456p", "335p", "311p", "305p", "275p", "274p", "262p")}


def test_an_unknown_name_is_refused_with_close_ones() -> None:
    with pytest.raises(UsageError, match="m10s-36"):
        get_recipe("m10s-37")
    assert recipe_for(get_preset("57p"), "circle") == get_recipe("circle")


def test_sizes_have_their_own_entry_where_the_family_has_one_name() -> None:
    assert published_name(get_preset("36p")) == "m10s-36"
    assert published_name(get_preset("57p")) == published_name(get_preset("67p")) == "microadder-60k"
    assert published_name(get_preset("6080p")) == "r456-54k"


def of(name: str) -> Recipe:
    return recipe_for(get_preset(name))


def test_published_numbers() -> None:
    """Spot checks of what the sources say; docs of each recipe name them."""
    micro = of("57p")
    assert (micro.lr, micro.warmup_steps, micro.steps, micro.min_lr_ratio) == (0.02, 1000, 60_000, 0.1)
    assert (micro.batch_size, micro.weight_decay, micro.grad_clip) == (256, 0.01, 1.0)
    assert micro.stop_perfect_steps == 10_000 and micro.data.curriculum.lengths == "full"
    mix = micro.data.carry_mix
    assert mix is not None and [mix.share_at(s) for s in (14_999, 30_000, 45_000)] == [0.8, 0.4, 0.0]
    assert [micro.data.curriculum.max_digits(s) for s in (1999, 6999, 7000)] == [3, 6, 10]
    longer = of("74p")
    assert longer.steps == 120_000 and longer.adaptive_decay == MICROADDER_DECAY
    mix = longer.data.carry_mix
    assert mix is not None and (mix.fade_start, mix.fade_end) == (10_000, 80_000)
    mlx = of("122p")
    assert (mlx.lr, mlx.schedule, mlx.batch_size, mlx.steps) == (0.02, "constant", 128, 45_000)
    assert not mlx.bias_correction and mlx.data.curriculum.max_digits(0) == 10
    assert of("146p").lr == 5e-3 and of("137p").lr == 0.01 and of("228p").steps == 35_000
    assert [s.steps for s in of("311p").stages] == [100_000, 50_000, 30_000]
    assert of("311p").total_steps == 342_000 and of("262p").steps == 500_000
    assert of("777p").lr == 0.02 and of("973p").lr == 0.01 and of("777p").steps == 27_000
    sub = of("36p")
    assert sub.grokfast is not None and sub.grokfast.strength == 3.0 and sub.steps == 100_000
    grokfast = of("44p").grokfast
    assert grokfast is not None and grokfast.strength == 1.0
    assert [s.average is not None for s in of("62p").stages] == [True, True, False]
    assert of("62p").stages[-1].weight_decay == 0.0
    assert of("456p").steps == 54_000 and of("512p").steps == 27_000


def test_the_quick_recipe_has_the_one_anneal_stage_that_was_measured() -> None:
    """docs/lab-notebook.md, A shorter run for searches: in place of its parent's, not after it."""
    (stage,) = get_recipe("prefit-9k-anneal-3k").stages
    assert (stage.steps, stage.lr, stage.from_exact) == (3000, 0.006, 0.9)


def test_the_circle_recipe() -> None:
    circle = get_recipe("circle")
    (freeze,) = circle.freeze
    assert (freeze.prefix, freeze.until, freeze.then) == ("pos_emb.A", 0.35, 0.3)
    assert circle.steps == 54_000 and circle.beta2 == 0.999 and circle.stages == ()


def test_validation_never_meets_a_published_test_pair() -> None:
    def pairs(a_BJ, b_BJ) -> set[tuple[int, int]]:
        return set(zip(from_digits(a_BJ).tolist(), from_digits(b_BJ).tolist(), strict=True))

    tests = set()
    for suite in (published(), adderboard()):
        for group in suite.groups:
            tests |= pairs(group.a_BJ, group.b_BJ)
    for seed in (*PUBLISHED_SEEDS, ADDERBOARD_SEED, 0, 43):
        held = holdout(seed)
        assert not pairs(held.val_a_BJ, held.val_b_BJ) & tests, seed
    assert all(each.recipe.val_size <= 5000 for each in RECIPES.values())


def test_validation_sets_that_would_are_refused() -> None:
    config = get_preset("456p").config
    recipe = Recipe(val_size=6000)
    check_fits(config, recipe, (0, 1))
    with pytest.raises(UsageError, match="published test set of seed 300"):
        check_fits(config, recipe, (0, 300))
