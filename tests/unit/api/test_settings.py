"""The settings that are described are those that configurations take."""

import dataclasses
import json

import pytest

import adderlab as al
from adderlab.files.schema import with_settings
from adderlab.models.config import ModelConfig
from adderlab.training.recipe import Recipe


def rows(path: str = "") -> dict[str, dict[str, str | None]]:
    return al.settings(path).to_dict()


@pytest.mark.parametrize(("section", "config"), [("model", ModelConfig()), ("recipe", Recipe())])
def test_every_field_is_listed_with_its_default(section: str, config: ModelConfig | Recipe) -> None:
    found = rows()
    for field in dataclasses.fields(config):
        default = found[f"{section}.{field.name}"]["default"]
        if default not in (None, "{...}"):
            assert with_settings(config, [(field.name, str(default))]) == config


def test_a_part_and_one_setting() -> None:
    assert set(rows("recipe.lr")) == {"recipe.lr"}
    fields = ("", ".halve_at", ".lr_factors", ".widths")
    assert set(rows("recipe.restarts")) == {f"recipe.restarts{name}" for name in fields}
    assert rows("recipe.restarts")["recipe.restarts.halve_at"]["default"] is None
    assert "recipe.data.curriculum.phases[].until" in rows("recipe.data")
    assert not set(rows("model")) & set(rows("recipe"))
    with pytest.raises(al.UsageError, match=r"no setting 'recipe.nothing'; there are model, recipe"):
        al.settings("recipe.nothing")


def test_types_are_what_a_user_writes() -> None:
    found = rows()
    assert found["recipe.schedule"]["type"] == "cosine | linear | constant"
    assert found["model.token_dim"]["type"] == "int | null"
    assert found["model.arc"]["type"] == "[float, float, float]"
    assert found["recipe.bias_correction"]["type"] == "true | false"
    assert found["recipe.stages"]["type"] == "list of Stage"


def test_all_forms() -> None:
    everything = al.settings()
    json.dumps(everything.to_dicts(), allow_nan=False)
    assert "`recipe.lr`" in everything.markdown()
    assert any("recipe.lr" in line for line in everything.describe())
    assert everything._repr_html_().count("<table>") == len(everything.sections)
