"""The table form says exactly what the readable model says, for every way of sharing weights.

Shapes: S seeds, B pairs, P positions, A answer steps, H heads, V vocabulary.
"""

import dataclasses
import itertools
from typing import Literal

import pytest
import torch
from torch import Tensor

from adderlab.errors import UsageError
from adderlab.models.config import TIE_MODES, ModelConfig, TieQKV
from adderlab.models.mapping import stack_parameters, tables
from adderlab.models.tables import NormForm, Tables
from adderlab.models.transformer import Transformer, build_model
from adderlab.task.digits import to_digits
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


def example(model: Transformer, pairs: int = 5) -> tuple[Tensor, Tensor]:
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


def _norm(form: NormForm, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if form.kind == "layer":
        x = x - x.mean(-1, keepdim=True)
    if form.kind != "none":
        x = x / (x.pow(2).mean(-1, keepdim=True) + form.eps).sqrt()
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def logits_of_tables(t: Tables, tokens_BP: Tensor) -> Tensor:
    """Logits (B, A, V) of the first seed: ``oracle.table_forward``, many times faster."""
    one = {name: tensor[0] for name, tensor in t.items()}
    layout, steps = t.form.layout, []
    for i, last in enumerate(layout.query_positions):
        token_B = tokens_BP[:, last].long()
        seen_BT = tokens_BP[:, : last + 1].long()
        row_T = torch.arange(last + 1)
        query_BHK, key_BTHK = one["query"][i, token_B], one["key"][row_T, seen_BT]
        weight_BTH = torch.einsum("bhk,bthk->bth", query_BHK, key_BTHK).softmax(1)
        mixed_BHE = torch.einsum("bth,bthe->bhe", weight_BTH, one["value"][row_T, seen_BT])
        x_BD = one["residual"][i, token_B] + torch.einsum("bhe,hed->bd", mixed_BHE, one["attn_out"])
        u_BD = _norm(t.form.norm2, x_BD, one.get("norm2_weight"), one.get("norm2_bias"))
        h_BF = u_BD @ one["fc1"] + one.get("fc1_bias", 0.0)
        if t.form.activation == "swiglu":
            h_BF = torch.nn.functional.silu(u_BD @ one["gate"]) * h_BF
        else:
            h_BF = getattr(torch.nn.functional, t.form.activation)(h_BF)
        x_BD = x_BD + h_BF @ one["fc2"] + one.get("fc2_bias", 0.0)
        x_BD = _norm(t.form.norm_f, x_BD, one.get("norm_f_weight"), one.get("norm_f_bias"))
        steps.append(x_BD @ one["unembed"])
    return torch.stack(steps, 1)


def assert_tables_match_model(model: Transformer) -> None:
    """Logits to 1e-9 and the gradient of a random combination of them to 1e-9 relative."""
    tokens_BP, _ = example(model)
    params = {name: p.requires_grad_() for name, p in stack_parameters([model]).items()}
    logits = logits_of_tables(tables(model.config, params), tokens_BP)
    wanted = model.answer_logits(tokens_BP)
    torch.testing.assert_close(logits, wanted, rtol=1e-9, atol=1e-9)
    pull = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (pull * logits).sum().backward()
    (pull * wanted).sum().backward()
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
    pulls = {
        name: torch.randn(tensor.shape, generator=torch.Generator().manual_seed(3))
        for name, tensor in all_tables.items()
    }
    torch.autograd.backward([t for _, t in all_tables.items()], list(pulls.values()))
    for seed in range(num_seeds):
        alone = {
            name: tensor[seed : seed + 1].clone().requires_grad_() for name, tensor in params.items()
        }
        one_table = tables(config, alone)
        for name, tensor in one_table.items():
            assert torch.equal(tensor[0], dict(all_tables.items())[name][seed]), name
        torch.autograd.backward(
            [t for _, t in one_table.items()], [pull[seed : seed + 1] for pull in pulls.values()]
        )
        for name, tensor in alone.items():
            grad = together[name].grad
            assert grad is not None and tensor.grad is not None, name
            assert torch.equal(tensor.grad[0], grad[seed]), name


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
    torch.testing.assert_close(logits_of_tables(made, tokens_BP), slow, rtol=1e-12, atol=1e-12)
