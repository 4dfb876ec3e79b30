"""The study of auto's ingredients: an arm changes what it names; the table shows what was measured."""

import dataclasses
import shlex
import shutil
from math import comb
from pathlib import Path

import ingredients
import pytest

from adderlab.api.studies import plan_rate
from adderlab.models.zoo import get_preset
from adderlab.recipes import recipe_for
from helpers.paths import ROOT


@pytest.mark.parametrize("command", list(ingredients.commands()))
def test_an_arm_changes_one_setting(command: str) -> None:
    words = shlex.split(command)
    assert words[:2] == ["adderlab", "rate"]
    preset, options = words[2], dict(zip(words[3::2], words[4::2], strict=True))
    changes = [options["--set"]] if "--set" in options else []
    plan = plan_rate(
        preset, seeds=options["--seeds"], recipe="auto", set=changes, name=options.get("--name")
    )
    control = recipe_for(get_preset(preset), "auto")
    names = [field.name for field in dataclasses.fields(control)]
    changed = {name for name in names if getattr(plan.recipe, name) != getattr(control, name)}
    assert changed == {change.split("=")[0].split(".")[1] for change in changes}
    assert len(plan.seeds) == 48


@pytest.mark.parametrize(("preset", "arm"), sorted(ingredients.SAME))
def test_what_is_not_measured_is_the_control(preset: str, arm: str) -> None:
    plan = plan_rate(preset, seeds="0", recipe="auto", set=[ingredients.ARMS[arm]], name=arm)
    assert plan.recipe == recipe_for(get_preset(preset), "auto")


def test_the_table_shows_what_was_measured(tmp_path: Path) -> None:
    shutil.copy(ROOT / "records" / "rates" / "456p_auto.json", tmp_path)
    rows = ingredients.table(tmp_path).splitlines()
    assert rows[2] == "| auto | 3/48 = 6.2% [2.1%, 16.8%] (3) | - | - | - | - |"
    assert rows[5] == "| auto-no-scale | - | - | - | - | as auto |"


def test_an_arm_is_tested_against_its_control(tmp_path: Path) -> None:
    for name in ("122p_auto", "122p_auto-one-start", "122p_auto-no-anneal", "7p_auto-no-wide"):
        shutil.copy(ROOT / "records" / "rates" / f"{name}.json", tmp_path)
    one, none = ingredients.differences(tmp_path).splitlines()[2:]
    # All 19 failures in one arm, as likely as all in the other.
    p = 2 * comb(48, 19) / comb(96, 19)
    difference = f"48 to 29 | -40 [-54, -25] | {p:.2g} ({2 * p:.2g}) | 48 to 30"
    assert one.startswith(f"| 122p | auto-one-start | {difference} |")
    assert one.endswith("| 2,500 to 21,500 | 3.4e-25 |")
    assert none.startswith("| 122p | auto-no-anneal | 48 to 48 | +0 [-7, +7] | 1 (1) | 48 to 48 |")
