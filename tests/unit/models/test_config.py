"""Every combination of components that is accepted makes a model whose tables say what it says."""

from typing import Any

import pytest

from adderlab.errors import UsageError
from adderlab.models.config import ModelConfig
from helpers.models import (
    NEEDS,
    WORDS,
    assert_population_is_bitwise_alone,
    assert_tables_match_model,
    random_config,
    random_model,
)


@pytest.mark.parametrize(
    ("name", "word"), [(name, word) for name, words in WORDS.items() for word in words]
)
def test_every_word_combines_with_the_others(name: str, word: str) -> None:
    for seed in range(2):
        config = random_config(seed, **NEEDS.get((name, word), {}), **{name: word})
        assert_tables_match_model(random_model(config, seed, spread=0.4))
    assert_population_is_bitwise_alone(config, num_seeds=3)


@pytest.mark.parametrize("seed", range(60))
def test_accepted_combinations_have_exact_tables(seed: int) -> None:
    assert_tables_match_model(random_model(random_config(seed), seed, spread=0.4))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"n_layer": 0}, "n_layer must be at least 1, not 0"),
    ({"token_dim": 0}, "token_dim must be at least 1 or left out, not 0"),
    ({"qkv_rank": -1}, "qkv_rank must be 0"),
    ({"norm_eps": 0.0}, "norm_eps must be positive"),
    ({"layout": "Q"}, "no layout 'Q'"),
    ({"position_rows": 20}, "position_rows 20 is less than the 33 positions"),
    ({"positions": "none", "pos_rank": 2}, "leave position_rows and pos_rank out"),
    ({"token_dim": 7}, "token_dim 7 must be less than d_model 7"),
    ({"tokens": "arc"}, "set token_dim to 2"),
    ({"init": "spiral"}, "token table of 3 channels"),
    ({"init": "spiral", "token_dim": 3, "positions": "columns"}, "in 3 channels, not 4"),
    ({"layout": "S", "positions": "columns"}, "two separators, not S"),
    ({"positions": "spiral"}, "3 position channels, not 7"),
    ({"learned_specials": ("top", "top")}, "names a position twice"),
    ({"n_head": 2}, "d_model 7 is not a multiple of n_head 2"),
    (
        {"n_head": 3, "head_dim": 2, "n_kv_head": 2, "tie_qkv": "separate"},
        "not a multiple of n_kv_head 2",
    ),
    ({"qk_input": "positions", "tie_qkv": "separate"}, "qk_input positions needs channels"),
    ({"value_input": "tokens", "tie_qkv": "separate"}, "value_input tokens needs channels"),
    ({"rope_theta": 3.0}, "head_dim must be even, not 7"),
    ({"rope_theta": -1.0}, "rope_theta must be positive"),
    ({"values": "head", "tie_qkv": "qk"}, "set head to projected"),
    ({"norm_weight": False}, "set norm to rms"),
    ({"logit_scale": 0.0}, "logit_scale must be positive, not 0.0"),
    ({"content": 7}, "content 7 must hold the 7 token channels and leave some of the 7"),
    ({"content": 3, "token_dim": 2, "bias": "mlp"}, "bias to none"),
    ({"qk_input": "rest", "tie_qkv": "separate"}, "set content"),
    ({"layout": "M", "token_dim": 3, "positions": "fixed_circle"}, "a circle has 2 position channels"),
    ({"layout": "M", "token_dim": 5, "positions": "fixed_circle"}, "set learned_specials to none"),
    ({"keys": "input", "tie_qkv": "separate", "head_dim": 3}, "as wide as the 7 channels read, not 3"),
    ({"keys": "input"}, "maps of their own"),
    ({"values": "input", "tie_qkv": "separate", "value_input": "last_token"}, "1 channels read, not 7"),
    (
        {"query_map": "scaled_rotation", "tie_qkv": "separate", "attn_out": "query_transpose"},
        "query_map scaled_rotation has no map to transpose",
    ),
    (
        {"values": "head", "head": "projected", "value_input": "tokens", "token_dim": 2, "content": 3},
        "set value_input to tokens and value_dim so that n_head x value_dim is 3, not 7",
    ),
    ({"bias": "all", "attn_out": "last_token"}, "attn_out to map"),
    ({"mirror": "pairs", "d_ff": 3}, "d_ff to an even number"),
    ({"mirror": "pairs", "fc2": "rotated_up_transpose"}, "fc2 to map"),
    ({"values": "head", "tie_qkv": "qk", "head": "projected"}, "set value_input to tokens"),
    ({"tie_qkv": "shareA"}, "qkv_rank must be 1 or more"),
    ({"head_dim": 4}, "set tie_qkv to separate"),
    ({"tie_qkv": "kv", "head_dim": 4, "value_dim": 3}, "values as wide as keys"),
    ({"tie_qkv": "qk", "n_head": 2, "n_kv_head": 1, "head_dim": 4}, "as many key as query heads"),
    ({"query_rotation": True}, "tie_qkv none has none"),
    ({"attn_out": "query_transpose"}, "needs a full query map"),
    ({"attn_out": "query_transpose_tail", "tie_qkv": "kv"}, "all channels but the last"),
    ({"key_rows": "last_scales_first"}, "needs a full key map"),
    ({"qk_norm": "quarter"}, "head_dim must be 4, not 7"),
    ({"gate": "scaled_up"}, "needs activation swiglu"),
    ({"gate": "sparse", "activation": "swiglu", "ffn_rank": 2}, "set ffn_rank to 0"),
    ({"fc2": "up_transpose_carry", "activation": "swiglu"}, "set gate to sparse"),
    ({"fc2": "rotated_up_transpose", "ffn_rank": 2}, "set ffn_rank to 0"),
    ({"fc2": "rotated_up_transpose", "d_ff": 3}, "d_ff must be even, not 3"),
    ({"fc2": "head"}, "set head to projected and d_ff to token_dim"),
    ({"bias": "mlp", "ffn_rank": 2}, "set ffn_rank to 0"),
    ({"bias": "mlp", "activation": "swiglu"}, "two maps of their own"),
    ({"bias": "all", "qkv_rank": 2}, "set tie_qkv to none"),
]


@pytest.mark.parametrize(("settings", "complaint"), REFUSED, ids=[str(s) for s, _ in REFUSED])
def test_impossible_combinations_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        ModelConfig(**settings)
