"""The published program's flat settings, there and back."""

import dataclasses
from typing import Any, get_args

import pytest

from adderlab.errors import UsageError
from adderlab.files import schema
from adderlab.models.config import ModelConfig
from adderlab.runs import foreign

PUBLISHED_456 = {
    "n_layer": 1,
    "d_model": 7,
    "n_head": 1,
    "d_ff": 14,
    "dropout": 0.0,
    "max_seq_len": 33,
    "vocab_size": 14,
    "pos_rank": 3,
    "qkv_rank": 3,
    "attn_out_rank": 2,
    "ffn_rank": 3,
    "use_rmsnorm": True,
    "tie_qkv": "shareA_tieKV",
}


def test_published_settings_come_back_as_they_were() -> None:
    config = foreign.from_r456(PUBLISHED_456)
    assert config == ModelConfig(
        pos_rank=3, qkv_rank=3, attn_out_rank=2, ffn_rank=3, norm="rms", tie_qkv="shareA_tieKV"
    )
    flat = foreign.model_to_dict(config)
    assert flat == foreign.to_r456(config) == PUBLISHED_456
    assert list(flat) == list(PUBLISHED_456)
    assert [type(value) for value in flat.values()] == [type(v) for v in PUBLISHED_456.values()]


def test_missing_keys_take_the_published_defaults() -> None:
    assert foreign.from_r456({}) == ModelConfig()
    assert foreign.to_r456(ModelConfig()) == PUBLISHED_456 | {
        "pos_rank": 0,
        "qkv_rank": 0,
        "attn_out_rank": 0,
        "ffn_rank": 0,
        "use_rmsnorm": False,
        "tie_qkv": "none",
    }


@pytest.mark.parametrize("tie", get_args(foreign.Tie))
@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_every_member_of_the_family_comes_back(tie: foreign.Tie, norm: Any) -> None:
    config = ModelConfig(
        n_layer=2, d_model=8, n_head=2, d_ff=5, qkv_rank=3, ffn_rank=1, norm=norm, tie_qkv=tie
    )
    flat = foreign.to_r456(config)
    assert flat is not None
    assert foreign.from_r456(flat) == config


def test_more_positions_than_the_layout_reads() -> None:
    config = foreign.from_r456({"max_seq_len": 40})
    assert config.position_rows == 40
    assert foreign.to_r456(config) == foreign.to_r456(ModelConfig()) | {"max_seq_len": 40}  # type: ignore[operator]
    assert foreign.to_r456(ModelConfig(position_rows=33)) == foreign.to_r456(ModelConfig())


@pytest.mark.parametrize(
    "change", [{"layout": "M"}, {"layout": "P13"}, {"layout": "S"}, {"activation": "relu"}]
)
def test_models_outside_the_family(change: dict[str, Any]) -> None:
    config = dataclasses.replace(ModelConfig(), **change)
    assert foreign.to_r456(config) is None
    stored = foreign.model_to_dict(config)
    assert stored == schema.to_dict(config)
    assert foreign.model_from_dict(stored) == config


@pytest.mark.parametrize(
    ("flat", "word"),
    [
        ({"n_heads": 1}, "'n_heads'"),
        ({"d_model": "7"}, "d_model"),
        ({"d_model": 7.0}, "d_model"),
        ({"use_rmsnorm": 1}, "use_rmsnorm"),
        ({"tie_qkv": "shareC"}, "tie_qkv"),
        ({"tie_qkv": "shareA"}, "qkv_rank"),
        ({"vocab_size": 13}, "vocab_size"),
        ({"max_seq_len": 32}, "max_seq_len"),
        ({"n_layer": 0}, "n_layer"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": -1}, "dropout"),
        ({"layout": "Q"}, "'Q'"),
        ([("n_layer", 1)], "table"),
    ],
)
def test_impossible_settings_are_named(flat: Any, word: str) -> None:
    with pytest.raises(UsageError) as error:
        foreign.model_from_dict(flat)
    assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_train_config_speaks_their_names() -> None:
    ours = {"steps": 54_000, "lr": 0.02, "beta2": 0.99, "data": {"mix": 0.5}}
    assert foreign.train_config(ours, 43) == {"seed": 43, "train_steps": 54_000, "lr": 0.02}
    theirs = {"seed": 43, "train_steps": 54_000, "eval_batch_size": 512}
    assert foreign.train_config(theirs) == theirs
    assert foreign.train_config(theirs, 44) == theirs | {"seed": 44}
