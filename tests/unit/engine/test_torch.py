"""The torch backend against the full-sequence oracle: loss, every gradient, margins, answers."""

import itertools

import pytest
import torch

from adderlab.engine.torch_tables import TorchEngine
from adderlab.models.config import TIE_MODES, ModelConfig
from adderlab.models.tables import stack_parameters, tables
from adderlab.models.transformer import Transformer, build_model
from adderlab.task.addition import get_layout, to_digits
from adderlab.training.objective import OracleObjective, TableObjective

CPU = torch.device("cpu")


def configurations() -> list[ModelConfig]:
    """Every tie mode, both norms, one and two heads, full and low rank where allowed."""
    found = []
    for tie, norm, heads, rank in itertools.product(TIE_MODES, ("layer", "rms"), (1, 2), (0, 3)):
        if rank == 0 and tie.startswith("share"):
            continue
        found.append(
            ModelConfig(
                d_model=6,
                n_head=heads,
                d_ff=5,
                norm="rms" if norm == "rms" else "layer",
                tie_qkv=tie,
                pos_rank=rank,
                qkv_rank=rank,
                attn_out_rank=2 if rank else 0,
                ffn_rank=rank,
            )
        )
    return found


def random_model(config: ModelConfig, seed: int, dtype: torch.dtype) -> Transformer:
    """Weights large enough that attention and norms matter, small enough that it does not saturate
    (there, float32 gradients are differences of nearly equal numbers, the oracle's too)."""
    model = build_model(config, seed).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=dtype)
    return model


def random_tokens(config: ModelConfig, pairs: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randint(0, 10**10, (2, pairs), generator=generator)
    return get_layout(config.layout).encode(to_digits(a), to_digits(b))


def worst_gradient_error(config: ModelConfig, dtype: torch.dtype) -> tuple[float, float]:
    """(relative loss error, worst relative gradient error over tensors) of the table path."""
    models = [random_model(config, seed, dtype) for seed in (1, 2)]
    params = stack_parameters(models)
    tokens, targets = (each.expand(2, -1, -1) for each in random_tokens(config, 33))
    loss_S, grads = TableObjective(config, TorchEngine()).loss_and_grad(params, tokens, targets)
    oracle = OracleObjective(config, CPU)
    oracle.model.to(torch.float64)
    precise = {name: tensor.double() for name, tensor in params.items()}
    want_S, want = oracle.loss_and_grad(precise, tokens, targets)
    loss_error = float(((loss_S - want_S) / want_S).abs().max())
    return loss_error, max(
        float((grads[name] - want[name]).abs().max() / want[name].abs().max()) for name in want
    )


@pytest.mark.parametrize("config", configurations(), ids=repr)
def test_loss_and_gradients_match_the_oracle(config: ModelConfig) -> None:
    loss_error, gradient_error = worst_gradient_error(config, torch.float64)
    assert loss_error < 1e-12
    assert gradient_error < 1e-10
    loss_error, gradient_error = worst_gradient_error(config, torch.float32)
    assert loss_error < 1e-5
    assert gradient_error < 1e-4


@pytest.mark.parametrize("config", configurations()[::7], ids=repr)
def test_margins_and_answers_match_the_oracle(config: ModelConfig) -> None:
    models = [random_model(config, seed, torch.float64) for seed in (3, 4)]
    params = stack_parameters(models)
    tokens, targets = (each[None] for each in random_tokens(config, 20))
    engine, oracle = TorchEngine(), OracleObjective(config, CPU)
    oracle.model.to(torch.float64)
    both = tables(config, params)
    shared = tokens.expand(2, -1, -1), targets.expand(2, -1, -1)
    torch.testing.assert_close(engine.margins(both, tokens, targets), oracle.margins(params, *shared))
    prompt = tokens[..., : get_layout(config.layout).num_prompt]
    answers = engine.decode(both, prompt)
    assert torch.equal(answers, oracle.decode(params, prompt.expand(2, -1, -1)))
    assert answers.dtype == torch.uint8


def test_a_seed_has_the_same_bits_alone_in_a_population_and_with_two_threads() -> None:
    config = ModelConfig(
        pos_rank=3, qkv_rank=3, attn_out_rank=2, ffn_rank=3, norm="rms", tie_qkv="shareA_tieKV"
    )
    params = stack_parameters([random_model(config, seed, torch.float32) for seed in range(5)])
    built = tables(config, params)
    tokens, targets = (
        torch.stack(each)
        for each in zip(*(random_tokens(config, 130, seed) for seed in range(5)), strict=True)
    )
    losses, grads = TorchEngine(1).loss_and_grad(built, tokens, targets)
    threaded, threaded_grads = TorchEngine(2).loss_and_grad(built, tokens, targets)
    assert torch.equal(losses, threaded)
    for (name, one), (_, two) in zip(grads.items(), threaded_grads.items(), strict=True):
        assert torch.equal(one, two), name
    for seed in range(5):
        alone, alone_grads = TorchEngine().loss_and_grad(
            tables(config, {n: t[seed : seed + 1] for n, t in params.items()}),
            tokens[seed : seed + 1],
            targets[seed : seed + 1],
        )
        assert torch.equal(alone[0], losses[seed])
        for (name, one), (_, own) in zip(grads.items(), alone_grads.items(), strict=True):
            assert torch.equal(one[seed], own[0]), name
