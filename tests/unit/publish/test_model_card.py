"""A model in words: right figures, nothing that only concerns somebody's disk."""

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


def checkpoint(**changes: Any) -> Checkpoint:
    config = get_preset("36p").config
    params = {name: p.detach() for name, p in build_model(config, 0).named_parameters()}
    plain = Checkpoint(config=config, params=params, recipe={}, step=0, val_exact=math.nan)
    return dataclasses.replace(plain, **changes)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_described(name: str) -> None:
    config = PRESETS[name].config
    assert PRESETS[preset_of(config) or ""].config == config
    assert f"d_model {config.d_model}," in architecture(config)
    assert tricks(config)


def test_the_shape_and_the_savings() -> None:
    config = get_preset("456p").config
    assert architecture(config) == (
        "decoder-only transformer, 1 layer, d_model 7, 1 head of width 7, GELU MLP of 14, "
        "pre-RMSNorm, 14 tokens, 33 positions"
    )
    assert "attention output of rank 2" in tricks(config)
    assert "B_K = B_V" in tricks(config)
    assert "2 heads (1 for keys and values)" in architecture(get_preset("137p").config)


def test_titles() -> None:
    assert title(get_preset("67p").config) == "67p"
    other = ModelConfig(d_ff=15)
    assert title(other) == f"{count_parameters(other)}p"


def test_recipes_say_what_is_known() -> None:
    settings = {"lr": 0.02, "steps": 100, "seed": 7, "run_name": "x", "best_ckpt_out": "out/best.pt"}
    lines = recipe(checkpoint(recipe=settings | {"mix": {"share": 0.5}}, seed=7, step=1200))
    assert lines == ["trained by adderlab, seed 7, 1,200 steps", "lr 0.02, steps 100, mix.share 0.5"]
    assert recipe(checkpoint(origin="mlx"))[1] == "the checkpoint does not say with which settings"
