"""The parameter table of a model, checked by hand on the 456p model and against the module."""

import dataclasses

import pytest

from adderlab.models.config import TIE_MODES, ModelConfig, TieQKV
from adderlab.models.describe import count_parameters, parameter_table
from adderlab.models.transformer import build_model
from adderlab.models.zoo import get_preset


def test_table_of_456p_is_the_published_sum() -> None:
    rows = parameter_table(get_preset("456p").config)
    published = [98, 99, 21, 7, 21, 21, 21, 14, 14, 7, 21, 42, 42, 21, 7]
    assert [row.count for row in rows if row.counted] == published
    (head,) = [row for row in rows if not row.counted]
    assert (head.name, head.tied_to, head.shape) == ("lm_head.weight", "token_emb.weight", (14, 7))


D, R = 6, 2
STORED = {
    "none": D * R + R * 3 * D,
    "separate": 6 * D * R,
    "all": 2 * D * R,
    "qk": 4 * D * R,
    "kv": 4 * D * R,
    "shareA": 4 * D * R,
    "shareB": 4 * D * R,
    "shareB_tieQK": 3 * D * R,
    "shareB_tieKV": 3 * D * R,
    "shareA_tieKV": 3 * D * R,
    "shareA_tieQK": 3 * D * R,
}
"""By hand: a low-rank map is a pair of factors, a shared factor one of 6 x 2."""


@pytest.mark.parametrize("tie", STORED)
def test_tie_modes_store_what_they_say(tie: TieQKV) -> None:
    rows = parameter_table(ModelConfig(d_model=D, d_ff=5, qkv_rank=R, tie_qkv=tie))
    attention = [row for row in rows if ".attn." in row.name and ".proj." not in row.name]
    assert sum(row.count for row in attention) == STORED[tie]


def test_every_tie_mode_is_counted_by_hand() -> None:
    assert set(STORED) == set(TIE_MODES)


@pytest.mark.parametrize("tie", TIE_MODES)
def test_count_is_that_of_the_module(tie: TieQKV) -> None:
    config = dataclasses.replace(get_preset("456p").config, tie_qkv=tie)
    assert count_parameters(config) == sum(p.numel() for p in build_model(config, 0).parameters())
