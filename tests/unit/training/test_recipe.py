"""Recipes as data: parts, their settings, the strict way to JSON and back."""

import dataclasses
import json

import pytest

from adderlab.errors import UsageError
from adderlab.files import schema
from adderlab.recipes import RECIPES, get_recipe
from adderlab.task.sampling import CarryMix
from adderlab.training.finetune import LBFGS, Targeting
from adderlab.training.ingredients import Average, Grokfast
from adderlab.training.recipe import UNIFORM_PAIRS, Recipe, Stage, learning_rate

STAGED = Recipe(
    steps=100,
    batch_size=64,
    weight_decay=0.02,
    grokfast=Grokfast(),
    stages=(
        Stage(steps=10, lr=1e-3, batch_size=32, average=Average()),
        Stage(lbfgs=LBFGS()),
        Stage(steps=20, lr=1e-4, weight_decay=0.0, data=UNIFORM_PAIRS, targeting=Targeting(most=5)),
    ),
)


def test_parts_follow_each_other_and_fill_what_a_stage_leaves_out() -> None:
    assert STAGED.total_steps == 131
    firsts = [first for first, _ in STAGED.parts]
    assert firsts == [0, 100, 110, 111]
    own, tuned, polished, targeted = (stage for _, stage in STAGED.parts)
    assert [each.batch_size for each in (own, tuned, polished, targeted)] == [64, 32, 64, 64]
    assert [each.weight_decay for each in (own, tuned, targeted)] == [0.02, 0.02, 0.0]
    assert own.grokfast == Grokfast() and tuned.grokfast is None and tuned.beta2 == 0.999
    assert tuned.data == STAGED.data and targeted.data == UNIFORM_PAIRS
    indices = [STAGED.part_index(step) for step in (0, 99, 100, 109, 110, 111, 130, 500)]
    assert indices == [0, 0, 1, 1, 2, 3, 3, 3]


def test_seeds_are_looked_at_regularly_and_at_the_end_of_every_part() -> None:
    recipe = dataclasses.replace(STAGED, eval_interval=50)
    assert [step for step in range(131) if recipe.looks_at(step)] == [0, 50, 99, 100, 109, 110, 130]


def test_learning_rates_of_a_published_chain() -> None:
    recipe = get_recipe("m10s-62")
    rates = [learning_rate(recipe, step) for step in (0, 199_999, 200_000, 249_999, 250_000, 279_999)]
    assert rates == pytest.approx([0.01, 0.001, 1e-3, 1e-3, 3e-4, 3e-4], rel=1e-4)
    assert learning_rate(recipe, 280_000) == pytest.approx(1e-3)
    assert learning_rate(recipe, 305_000) == pytest.approx(5e-4)
    assert learning_rate(recipe, 329_999) == pytest.approx(0.0, abs=1e-9)


def test_a_constant_rate_warms_up_first() -> None:
    recipe = Recipe(schedule="constant", lr=0.1, warmup_steps=4)
    assert [learning_rate(recipe, step) for step in (0, 3, 4, 53_999)] == [0.025, 0.1, 0.1, 0.1]


@pytest.mark.parametrize("recipe", [STAGED, *(each.recipe for each in RECIPES.values())])
def test_recipes_survive_json(recipe: Recipe) -> None:
    text = json.dumps(schema.to_dict(recipe))
    assert schema.from_dict(Recipe, json.loads(text)) == recipe


def test_an_unknown_setting_in_an_ingredient_is_named() -> None:
    data = schema.to_dict(STAGED)
    data["stages"][0]["average"]["speed"] = 1
    with pytest.raises(UsageError, match=r"stages\[0\]\.average has no setting 'speed'"):
        schema.from_dict(Recipe, data)


def test_ingredients_can_be_set_from_the_command_line() -> None:
    recipe = schema.with_settings(STAGED, [("grokfast.strength", "1.5")])
    assert recipe.grokfast == Grokfast(strength=1.5)
    mixed = schema.with_settings(
        recipe, [("data.carry_mix", '{"share": 0.5, "fade_start": 1, "fade_end": 2}')]
    )
    assert mixed.data.carry_mix == CarryMix(share=0.5, fade_start=1, fade_end=2)
    assert schema.with_settings(recipe, [("grokfast", "null")]).grokfast is None


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Recipe(steps=0), r"recipe\.steps must be at least 1, not 0"),
        (lambda: Recipe(lr=float("nan")), r"recipe\.lr must be above 0"),
        (lambda: Recipe(stop_perfect_steps=-1), "stop_perfect_steps"),
        (lambda: Recipe(beta2=1.0), "beta2"),
        (lambda: Stage(steps=0), r"stage\.steps must be at least 1"),
        (lambda: Stage(steps=2, lbfgs=LBFGS()), "lbfgs has steps 1"),
        (lambda: Stage(lbfgs=LBFGS(), average=Average()), "lbfgs has steps 1"),
        (lambda: Recipe(stages=(Stage(batch_size=0),)), "batch_size must be at least 1"),
        (lambda: Recipe(stages=(Stage(weight_decay=-1.0),)), "weight_decay at least 0"),
        (lambda: Recipe(stages=(Stage(beta2=1.5),)), "beta2"),
        (
            lambda: Recipe(batch_size=100, stages=(Stage(targeting=Targeting()),)),
            "most 128 does not fit into a batch of 100",
        ),
        (lambda: Recipe(stages=(Stage(),) * 64), "at most 63 stages"),
        (lambda: Recipe(sampler="r456", stages=(Stage(data=UNIFORM_PAIRS),)), "sampler r456"),
        (lambda: LBFGS(examples=0), r"lbfgs\.examples"),
        (lambda: Targeting(most=0), r"targeting\.most"),
        (lambda: Targeting(per_stratum=-1), r"targeting\.per_stratum"),
    ],
)
def test_impossible_recipes_are_refused(make, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        make()
