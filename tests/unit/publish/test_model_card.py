"""A model described: right figures, nothing that only concerns somebody's disk."""

import dataclasses
import math
from typing import Any

import pytest

from adderlab.models.config import ModelConfig
from adderlab.models.describe import count_parameters
from adderlab.models.transformer import build_model
from adderlab.models.zoo import PRESETS, get_preset
from adderlab.publish.model_card import architecture, preset_of, recipe, title, tricks
from adderlab.runs.checkpoints import Checkpoint
from helpers.golden import Golden


def checkpoint(**changes: Any) -> Checkpoint:
    config = get_preset("36p").config
    params = {name: p.detach() for name, p in build_model(config, 0).named_parameters()}
    plain = Checkpoint(config=config, params=params, recipe={}, step=0, val_exact=math.nan)
    return dataclasses.replace(plain, **changes)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_found_by_its_configuration(name: str) -> None:
    config = PRESETS[name].config
    preset = preset_of(config)
    assert preset is not None and preset.config == config
    assert f"d_model {config.d_model}," in architecture(config)


def test_the_shape_and_the_savings(golden: Golden) -> None:
    described = [
        line
        for name in ("456p", "137p", "36p")
        for line in (f"{name}: {architecture(PRESETS[name].config)}", *tricks(PRESETS[name].config))
    ]
    golden("publish/architectures.txt", "\n".join(described) + "\n")


def test_titles() -> None:
    assert title(get_preset("67p").config) == "67p"
    other = ModelConfig(d_ff=15)
    assert title(other) == f"{count_parameters(other)}p"


def test_what_is_known_of_the_training(golden: Golden) -> None:
    settings = {"lr": 0.02, "steps": 100, "seed": 7, "run_name": "x", "best_ckpt_out": "out/best.pt"}
    known = recipe(checkpoint(recipe=settings | {"mix": {"share": 0.5}}, seed=7, step=1200))
    assert not any("best.pt" in line for line in known), "where the files of a run lay does not matter"
    golden("publish/training.txt", "\n".join([*known, *recipe(checkpoint(origin="mlx"))]) + "\n")
