"""Random models and configurations, and which presets have a table form."""

import random
import typing
from typing import Any

import torch
from torch import Tensor

from adderlab.errors import UsageError
from adderlab.models.config import SPECIALS, ModelConfig
from adderlab.models.tables import stack_parameters, tables, why_not_trained_by_tables
from adderlab.models.transformer import Adder, Transformer, build_model
from adderlab.models.zoo import PRESETS
from adderlab.reading.reading import table_logits
from adderlab.runs.checkpoints import Checkpoint
from adderlab.task.addition import to_digits


def config_of(checkpoint: Checkpoint) -> ModelConfig:
    """Of a model that is no user's file."""
    assert isinstance(checkpoint.config, ModelConfig)
    return checkpoint.config


def example(model: Adder, pairs: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randint(0, 10**10, (2, pairs), generator=generator)
    return model.layout.encode(to_digits(a), to_digits(b))


def random_model(config: ModelConfig, seed: int = 0, spread: float = 0.5) -> Transformer:
    """A float64 model away from its start, where sharing mistakes would show."""
    model = build_model(config, seed).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += spread * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def assert_tables_match_model(model: Transformer) -> None:
    """Logits to 1e-9 and the gradient of a random combination of them to 1e-9 relative."""
    tokens_BP, _ = example(model)
    params = {name: p.requires_grad_() for name, p in stack_parameters([model]).items()}
    logits = table_logits(tables(model.config, params), tokens_BP)
    wanted = model.answer_logits(tokens_BP)
    torch.testing.assert_close(logits, wanted, rtol=1e-9, atol=1e-9)
    cotangent = torch.randn(
        wanted.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    (cotangent * logits).sum().backward()
    (cotangent * wanted).sum().backward()
    for name, parameter in model.named_parameters():
        grad, wanted_grad = params[name].grad, parameter.grad
        assert grad is not None and wanted_grad is not None, name
        scale = max(1.0, wanted_grad.abs().max().item())
        assert (grad[0] - wanted_grad).abs().max().item() <= 1e-9 * scale, name


def assert_population_is_bitwise_alone(config: ModelConfig, num_seeds: int = 5) -> None:
    """Tables and parameter gradients of a seed are the same bits alone and in a population."""
    models = [build_model(config, seed) for seed in range(num_seeds)]
    params = stack_parameters(models)
    together = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
    all_tables = tables(config, together)
    cotangents = {
        name: torch.randn(tensor.shape, generator=torch.Generator().manual_seed(3))
        for name, tensor in all_tables.items()
    }
    torch.autograd.backward([t for _, t in all_tables.items()], list(cotangents.values()))
    for seed in range(num_seeds):
        alone = {
            name: tensor[seed : seed + 1].clone().requires_grad_() for name, tensor in params.items()
        }
        one_table = tables(config, alone)
        for name, tensor in one_table.items():
            assert torch.equal(tensor[0], dict(all_tables.items())[name][seed]), name
        torch.autograd.backward(
            [t for _, t in one_table.items()],
            [cotangent[seed : seed + 1] for cotangent in cotangents.values()],
        )
        for name, tensor in alone.items():
            grad = together[name].grad
            assert grad is not None and tensor.grad is not None, name
            assert torch.equal(tensor.grad[0], grad[seed]), name


CHOICES: dict[str, list[Any]] = {
    "layout": ["P", "P13", "S", "M", "M14", "B", "C"],
    "d_model": [3, 4, 5, 6],
    "n_head": [1, 1, 2],
    "d_ff": [1, 2, 4, 5],
    "pos_rank": [0, 0, 2],
    "qkv_rank": [0, 0, 2],
    "attn_out_rank": [0, 0, 1, 3],
    "ffn_rank": [0, 0, 2],
    "token_dim": [None, 2, 3],
    "learned_specials": [(), ("equals", "top"), SPECIALS],
    "spiral": [(3.5, 0.2, 0.15, 0.1), (1.0, 0.0, 1 / 9, 0.0)],
    "n_kv_head": [None, None, 1],
    "head_dim": [None, 3, 4],
    "value_dim": [None, None, 3, 5],
    "rope_theta": [None, 3.0, 100.0],
    "norm_eps": [None, 1e-3],
    "position_rows": [None, None, 40],
    "query_rotation": [False, True],
    "content": [None, None, 2, 3],
    "norm_weight": [True, True, False],
    "logit_scale": [1.0, 1.0, 3.0],
    "arc": [(2.5, -1.2, 0.29), (1.0, 0.2, 0.1)],
}
"""Values tried per field; fields with a fixed list of words are tried with every word."""


HINTS = typing.get_type_hints(ModelConfig)


WORDS = {
    name: [word for word in typing.get_args(hint) if isinstance(word, str)]
    for name, hint in HINTS.items()
}


NEEDS: dict[tuple[str, str], dict[str, Any]] = {
    ("attn_out", "query_transpose_tail"): {"qk_input": "tokens", "d_model": 4, "token_dim": 3},
    ("values", "head"): {"head": "projected", "value_input": "tokens", "n_head": 1},
    ("fc2", "head"): {"head": "projected"},
    ("fc2", "up_transpose_carry"): {"gate": "sparse"},
}
"""Words that go with few others, which random draws would seldom meet."""


def random_config(seed: int, **fixed: Any) -> ModelConfig:
    """The first accepted one of a stream of random combinations, most fields at their default."""
    draw = random.Random(seed)
    while True:
        settings: dict[str, Any] = {}
        for name in HINTS:
            options = CHOICES.get(name, WORDS[name])
            if options and draw.random() < 0.4:
                settings[name] = draw.choice(options)
        try:
            config = ModelConfig(**(settings | fixed))
        except UsageError:
            continue
        if why_not_trained_by_tables(config) is None:
            return config


WITHOUT_TABLES = {"6080p": "2 layers", "39p": "twice"}


OFF_TABLES = {**WITHOUT_TABLES, "1644p": "pairs of digits"}
"""Those that training and evaluation run on the full sequence."""
WITH_TABLES = [name for name in PRESETS if name not in WITHOUT_TABLES]
