"""Generic and informed starts, told from the recipe alone."""

import pytest

from adderlab.files.schema import to_dict, with_settings
from adderlab.models.zoo import get_preset
from adderlab.recipes import RECIPES
from adderlab.recipes.auto import auto
from adderlab.runs.checkpoints import load_checkpoint
from adderlab.runs.metadata import informed_by, kind_of_start, start_of
from adderlab.study.rate import read_rates
from adderlab.training.recipe import Recipe
from helpers.paths import ROOT


@pytest.mark.parametrize(
    ("setting", "value", "name"),
    [
        ("circle", "{}", "circle"),
        ("prefit", '{"parameters": ["q"]}', "attention prefit"),
        ("warm_start", '{"sha256": "0", "start": "not recorded"}', "warm start"),
        ("wide_init", '{"arc": [2.0, -0.45, 0.1]}', "short arc"),
        (
            "data",
            '{"curriculum": {"phases": [{"until": null, "max_digits": 10}], "lengths": "full"}, '
            '"carry_mix": {"share": 0.5, "fade_start": 0, "fade_end": 9}}',
            "carry mix",
        ),
    ],
)
def test_each_ingredient_that_knows_the_task_is_named(setting: str, value: str, name: str) -> None:
    recipe = with_settings(Recipe(), [(setting, value)])
    assert recipe.informed_by == (name,)
    assert kind_of_start(to_dict(recipe)) == f"informed ({name})"


def test_a_carry_mix_of_a_later_stage_counts() -> None:
    mixed = to_dict(RECIPES["microadder-60k"].recipe)["data"]
    assert informed_by({**to_dict(Recipe()), "stages": [{"data": mixed}]}) == ("carry mix",)


def test_what_any_model_could_be_trained_by_is_generic() -> None:
    for name in (
        "r456-54k",
        "restarts-122",
        "m10s-62",
        "m10s-58",
        "generic-89",
        "generic-89-64",
        "generic-8",
        "generic-7",
    ):
        assert RECIPES[name].recipe.informed_by == (), name
    assert auto(get_preset("67p").config).informed_by == ()
    wide = with_settings(Recipe(), [("wide_init", "{}"), ("restarts", '{"halve_at": [100]}')])
    assert kind_of_start(to_dict(wide)) == "generic"
    assert kind_of_start({}) == "not recorded"


def test_several_are_named_in_one_order() -> None:
    assert RECIPES["prefit"].recipe.informed_by == ("circle", "attention prefit")
    assert RECIPES["wide-62-long"].recipe.informed_by == ("attention prefit", "short arc")


def test_rows_and_models_of_earlier_versions_are_told_apart_too() -> None:
    rows = {(each.preset, each.recipe): each.start for each in read_rates(ROOT / "records" / "rates")}
    assert rows["456p", "r456-54k"] == rows["122p", "restarts-122"] == "generic"
    assert rows["456p", "prefit-restarts2"] == "informed (circle, attention prefit)"
    assert rows["67p", "microadder-60k"] == "informed (carry mix)"
    kept = {
        name: start_of(load_checkpoint(ROOT / "records" / "best" / name / "model.pt"))
        for name in ("122p", "36p")
    }
    assert kept == {"122p": "generic", "36p": "informed (attention prefit, short arc)"}
