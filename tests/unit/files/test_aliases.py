"""Names that files and commands of earlier versions have are read as those of today."""

import pytest

from adderlab.errors import UsageError
from adderlab.files import schema
from adderlab.models.config import ModelConfig
from adderlab.models.zoo import PRESETS
from adderlab.recipes import RECIPES, get_named
from adderlab.training.ingredients import Circle
from adderlab.training.recipe import Recipe


@pytest.mark.parametrize(("old", "new"), schema.RECIPES.items())
def test_an_old_recipe_name_leads_to_one_of_today(old: str, new: str) -> None:
    assert old not in RECIPES and new not in schema.RECIPES
    if new in RECIPES:  # others were named by hand, for a measurement of changed settings
        assert get_named(old) is RECIPES[new]


def test_the_changes_behind_a_recipes_name_stay() -> None:
    assert schema.recipe_name("aimed+lr=0.01") == "prefit+lr=0.01"
    assert schema.recipe_name("r456-54k") == "r456-54k"


def test_a_command_of_an_earlier_version() -> None:
    old = "adderlab rate 62p --recipe spread-62 --name spread-62-one --set recipe.draws=null recipe.lr=1"
    new = "adderlab rate 62p --recipe wide-62 --name wide-62-one --set recipe.restarts=null recipe.lr=1"
    assert schema.command(old.split()) == new.split()
    nested = ["--set", "recipe.spread.signs=false", "recipe.draws.halvings=[1]", "recipe.aim.below=0"]
    assert schema.command(nested)[1:] == [
        "recipe.wide_init.signs=false",
        "recipe.restarts.halve_at=[1]",
        "recipe.prefit.below=0",
    ]


@pytest.mark.parametrize("name", ["prefit-restarts2", "wide-36-anneal", "m10s-86"])
def test_a_recipe_survives_the_names_of_an_earlier_version(name: str) -> None:
    recipe = RECIPES[name].recipe
    old = schema.to_dict(recipe, old_names=True)
    assert {"aim", "spread", "draws", "stop_after_perfect"} <= set(old)
    assert schema.from_dict(Recipe, old) == recipe
    assert schema.from_dict(Recipe, schema.upgraded_recipe(old)) == recipe


def test_a_model_survives_the_names_of_an_earlier_version() -> None:
    config = PRESETS["7p"].config
    old = schema.to_dict(config, old_names=True)
    assert old["query_map"] == "turn" and schema.from_dict(ModelConfig, old) == config


def test_a_setting_that_is_no_more_is_refused_where_it_was_used() -> None:
    assert schema.from_dict(Circle, {"digit_radius": 0.0}) == Circle()
    with pytest.raises(UsageError, match="'digit_radius'"):
        schema.from_dict(Circle, {"digit_radius": 0.5})
