"""A preset with other settings: checked as a whole, and called by what it is."""

from pathlib import Path

import pytest

import adderlab as al
from adderlab.api.experiments import define, short_name
from adderlab.cli.main import main
from adderlab.errors import UsageError
from adderlab.report.describe import describe_model

ARC = ("model.tokens=arc", "model.token_dim=2")
SMALL = ("recipe.batch_size=2", "recipe.val_size=2", "recipe.test_size=2", "recipe.eval_interval=2")


def test_settings_are_applied_whole_in_any_order() -> None:
    found = [define("456p", "published", settings=settings) for settings in (ARC, ARC[::-1])]
    assert found[0].config == found[1].config
    assert {each.name for each in found} == {"355p"} and not found[0].is_published
    with pytest.raises(UsageError, match="set token_dim to 2"):
        define("456p", "published", settings=ARC[:1])


@pytest.mark.usefixtures("unflushed")
def test_a_changed_model_is_called_by_its_count_and_what_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = (
        "train 456p --recipe published --seeds 0 --steps 2 --engine torch --evaluate none --no-prove"
    )
    assert main([*command.split(), "--set", *ARC, *SMALL]) == 0
    what = "355 parameters: 456p with model.tokens=arc, model.token_dim=2"
    assert f"model: {what}" in capsys.readouterr().out.splitlines()
    (folder,) = (tmp_path / "results" / "runs").iterdir()
    assert folder.name.startswith("355p_")
    assert describe_model(al.open_run(folder).config) == what  # as reports have it
    assert main(["inspect", "456p", "--set", *ARC]) == 0
    assert "355" in capsys.readouterr().out
    # Settings of the recipe change no model.
    assert short_name("456p", SMALL) == "456p" and short_name("my_adder.py", SMALL) == "my_adder"


@pytest.mark.parametrize("setting", ["model.tie_qkv=separate", "model.layout=pairs", "model.n_layer=2"])
def test_a_default_recipe_that_does_not_fit_says_what_does(setting: str) -> None:
    with pytest.raises(
        UsageError, match=r"prefit-restarts2-anneal is the default of 456p .* recipes that fit are "
    ) as found:
        define("456p", "best", settings=(setting,))
    fit = str(found.value).rpartition("recipes that fit are ")[2].split(", ")
    assert len(fit) == 3
    for recipe in fit:
        assert define("456p", recipe, settings=(setting,)).recipe_name == recipe


def test_a_short_run_of_a_default_recipe_has_no_choice_among_starts_and_says_so() -> None:
    whole, short = define("456p", "best"), define("456p", "best", steps=60)
    assert whole.recipe.restarts and not whole.note and not whole.changes
    assert short.recipe.restarts is None and short.changes == ("steps=60", "restarts=null")
    assert "with 60 steps a seed has one" in short.note
    with pytest.raises(UsageError, match="last halving"):
        define("456p", "prefit-restarts2-anneal", steps=60)  # what is asked for by name is not changed
