"""The table form says exactly what the readable model says, for every way of sharing weights.

Shapes: S seeds, B pairs, P positions, A answer steps, H heads, V vocabulary.
"""

import dataclasses
import itertools
from typing import Literal

import pytest
import torch

from adderlab.errors import UsageError
from adderlab.models.config import TIE_MODES, ModelConfig, TieQKV
from adderlab.models.tables import stack_parameters, tables
from adderlab.models.transformer import build_model
from adderlab.reading.reading import table_logits
from helpers.models import (
    assert_population_is_bitwise_alone,
    assert_tables_match_model,
    example,
    random_model,
)
from oracle import table_forward

Kind = tuple[Literal["rms", "layer"], Literal["gelu", "relu"]]
KINDS: list[Kind] = [("rms", "gelu"), ("layer", "relu")]
SMALL = ModelConfig(d_model=6, d_ff=5)
CONFIGS = [
    dataclasses.replace(
        SMALL,
        tie_qkv=tie,
        norm=norm,
        n_head=heads,
        pos_rank=rank,
        qkv_rank=rank,
        attn_out_rank=out_rank,
        ffn_rank=rank,
        activation=activation,
    )
    for tie, (norm, activation), heads, (rank, out_rank) in itertools.product(
        TIE_MODES, KINDS, (1, 2), ((0, 0), (2, 1), (4, 3))
    )
    if rank or not tie.startswith("share")
]


def _name(config: ModelConfig) -> str:
    return f"{config.tie_qkv}-{config.norm}-h{config.n_head}-r{config.qkv_rank}-o{config.attn_out_rank}"


@pytest.mark.parametrize("config", CONFIGS, ids=_name)
def test_tables_equal_the_model(config: ModelConfig) -> None:
    assert_tables_match_model(random_model(config))


@pytest.mark.parametrize("config", CONFIGS[:: len(CONFIGS) // 12], ids=_name)
def test_a_seed_in_a_population_is_the_seed_alone(config: ModelConfig) -> None:
    assert_population_is_bitwise_alone(config)


@pytest.mark.parametrize("tie", TIE_MODES)
def test_inner_dimensions_fold_to_the_rank(tie: TieQKV) -> None:
    """A rank-2 model of width 6 is attended to in two dimensions, not six."""
    config = dataclasses.replace(SMALL, tie_qkv=tie, qkv_rank=2, attn_out_rank=0)
    form = tables(config, stack_parameters([build_model(config, 0)])).form
    assert (form.key_dim, form.value_dim) == (2, 2)


def test_two_layers_have_no_tables() -> None:
    config = dataclasses.replace(SMALL, n_layer=2)
    with pytest.raises(UsageError, match="2 layers"):
        tables(config, stack_parameters([build_model(config, 0)]))


@pytest.mark.parametrize(
    "config",
    [
        dataclasses.replace(SMALL, n_head=2, bias="all"),
        dataclasses.replace(SMALL, norm="rms", activation="swiglu", tie_qkv="kv"),
        dataclasses.replace(SMALL, layout="S", activation="relu", qkv_rank=2, tie_qkv="shareA"),
    ],
)
def test_the_quick_form_used_here_is_the_slow_twin(config: ModelConfig) -> None:
    model = random_model(config)
    tokens_BP, _ = example(model)
    made = tables(config, stack_parameters([model]))
    slow = table_forward.logits(made, tokens_BP[None])[0]
    torch.testing.assert_close(table_logits(made, tokens_BP), slow, rtol=1e-12, atol=1e-12)
