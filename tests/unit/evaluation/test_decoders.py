"""Every decoder gives the answers of one full pass per token."""

import pytest
import torch
from torch import Tensor

from adderlab.engine.torch_tables import TorchEngine
from adderlab.evaluation.exact import (
    MODULE_CHUNK,
    decoder_for,
    model_of,
    oracle_decoder,
)
from adderlab.models.config import ModelConfig
from adderlab.models.tables import Tables, stack_parameters
from adderlab.models.transformer import Transformer, build_model
from adderlab.task.addition import from_digits
from adderlab.task.sampling import uniform_pairs
from oracle import greedy_twin

CONFIGS = [
    ModelConfig(),
    ModelConfig(layout="S", d_model=6, n_head=2, norm="rms"),
    ModelConfig(layout="M", d_model=8, activation="relu", pos_rank=3),
    ModelConfig(layout="M14", n_layer=2),
]


def lively_model(config: ModelConfig, seed: int = 9) -> Transformer:
    """Random weights large enough that answers vary from pair to pair; float64, so no near ties."""
    model = build_model(config, seed).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.layout}{config.n_layer}")
def test_decoders_equal_the_twin(config: ModelConfig) -> None:
    model = lively_model(config)
    a_BJ, b_BJ = uniform_pairs(1, 20)
    expected = [
        greedy_twin.greedy_answer(model, a, b)
        for a, b in zip(from_digits(a_BJ).tolist(), from_digits(b_BJ).tolist(), strict=True)
    ]
    assert len({tuple(answer) for answer in expected}) > 5, "the answers must differ to test anything"
    params = stack_parameters([model])
    for decoder in (
        oracle_decoder(model),
        decoder_for(config, params, None),
        decoder_for(config, params, TorchEngine(1)),
    ):
        answer_BA = decoder(a_BJ, b_BJ)
        assert answer_BA.dtype == torch.uint8
        assert answer_BA.tolist() == expected


class CountingEngine(TorchEngine):
    """Counts how often it decodes."""

    calls = 0

    def decode(self, tables: Tables, prompt_SBT: Tensor) -> Tensor:
        self.calls += 1
        return super().decode(tables, prompt_SBT)


def test_engine_is_used_where_there_are_tables() -> None:
    for config in CONFIGS:
        engine = CountingEngine(1)
        decoder_for(config, stack_parameters([build_model(config, 0)]), engine)(*uniform_pairs(1, 3))
        assert engine.calls == (config.n_layer == 1)


def test_oracle_chunks_join_in_order() -> None:
    model = lively_model(ModelConfig(layout="S", d_model=2, d_ff=2))
    a_BJ, b_BJ = uniform_pairs(2, MODULE_CHUNK + 5)
    answer_BA = oracle_decoder(model)(a_BJ, b_BJ)
    tail = oracle_decoder(model)(a_BJ[-10:], b_BJ[-10:])
    assert torch.equal(answer_BA[-10:], tail)


def test_model_of_restores_the_model() -> None:
    model = lively_model(CONFIGS[2])
    restored = model_of(CONFIGS[2], stack_parameters([model]))
    tokens_BP = torch.randint(0, 10, (3, 33), generator=torch.Generator().manual_seed(0))
    assert torch.equal(restored(tokens_BP), model(tokens_BP))
