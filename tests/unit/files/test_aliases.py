"""Names that files and commands of earlier versions have are read as those of today."""

import pytest

from adderlab.files import aliases
from adderlab.recipes import RECIPES, get_named


@pytest.mark.parametrize(("old", "new"), aliases.RECIPES.items())
def test_an_old_recipe_name_leads_to_one_of_today(old: str, new: str) -> None:
    assert old not in RECIPES and new not in aliases.RECIPES
    if new in RECIPES:  # others were named by hand, for a measurement of changed settings
        assert get_named(old) is RECIPES[new]


def test_the_changes_behind_a_recipes_name_stay() -> None:
    assert aliases.recipe_name("aimed+lr=0.01") == "prefit+lr=0.01"
    assert aliases.recipe_name("r456-54k") == "r456-54k"


def test_a_command_of_an_earlier_version() -> None:
    old = "adderlab rate 62p --recipe spread-62 --name spread-62-one --set recipe.draws=null recipe.lr=1"
    new = "adderlab rate 62p --recipe wide-62 --name wide-62-one --set recipe.restarts=null recipe.lr=1"
    assert aliases.command(old.split()) == new.split()
    nested = ["--set", "recipe.spread.signs=false", "recipe.draws.halvings=[1]", "recipe.aim.below=0"]
    assert aliases.command(nested)[1:] == [
        "recipe.wide_init.signs=false",
        "recipe.restarts.halve_at=[1]",
        "recipe.prefit.below=0",
    ]
