"""From parameters to tables, for S models at once, differentiably.

Parameters are a mapping name -> tensor with the seed axis first, names as in the module's state
dict, tied parameters once.

Shapes: S seeds, P positions, V vocabulary, A answer steps, H heads, D width, W channels of the
token or position embedding.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor

from adderlab.errors import UsageError
from adderlab.models import ordered
from adderlab.models.attention import AttentionWeights
from adderlab.models.config import ModelConfig
from adderlab.models.layers import project_normed, stream
from adderlab.models.maps import padded, scope
from adderlab.models.tables import NormForm, TableForm, Tables
from adderlab.models.transformer import Transformer, skeleton

TensorFunction = Callable[..., tuple[Tensor, ...]]


def why_no_tables(config: ModelConfig) -> str | None:
    """None if the model has a table form, otherwise the reason in a few words."""
    if config.n_layer > 1:
        return f"it has {config.n_layer} layers; tables describe one"
    if config.repeat_mix:
        return "it applies its block twice; tables describe one pass"
    if config.token_layout.pairs:
        return "its tokens are pairs of digits; tables are for one digit a token"
    return None


def tables(config: ModelConfig, params: Mapping[str, Tensor]) -> Tables:
    """The table form of S models. Raises ``UsageError`` for models outside the form."""
    reason = why_no_tables(config)
    if reason:
        raise UsageError(f"this model has no table form: {reason}")
    layout, block = config.token_layout, skeleton(config).block(0)
    P, A = layout.num_positions, layout.num_answers
    params = {name: params[first] for name, first in _first_names(config)}
    attention_params = scope(params, "blocks.0.attn")
    attention = block.attn.dense(attention_params)

    token_SVW, token_SVD, position_SPD = _embeddings(config, params)
    asked = slice(layout.query_positions[0], layout.query_positions[-1] + 1)
    query, key, value = _project(config, params, token_SVD, position_SPD, attention, asked)
    asked_SAD = None if position_SPD is None else position_SPD[:, asked]
    residual = _add_everywhere(_rows(stream(token_SVD, asked_SAD), A), attention.out_bias_SD)
    norm2, norm_f = (_norm(config, params, name, token_SVD) for name in ("blocks.0.ln2", "ln_f"))
    return Tables(
        form=_form(config, attention.key_SHDK.shape[3], attention.value_SHDE.shape[3]),
        query=block.attn.finish_query(attention_params, query, list(layout.query_positions)),
        key=block.attn.finish_key(attention_params, key, list(range(P))),
        value=_rows(value, P),
        residual=residual,
        attn_out=attention.out_SHED,
        norm2_weight=norm2["weight"],
        norm2_bias=norm2.get("bias"),
        norm_f_weight=norm_f["weight"],
        norm_f_bias=norm_f.get("bias"),
        unembed=_unembed(config, params, token_SVW),
        **block.mlp.dense(scope(params, "blocks.0.mlp")),
    )


def _project(
    config: ModelConfig,
    params: Mapping[str, Tensor],
    token_SVD: Tensor,
    position_SPD: Tensor | None,
    attention: AttentionWeights,
    asked: slice,
) -> tuple[Tensor, ...]:
    """Queries at the asked positions, keys and values at all: (S, R, V, H, K)."""
    weights = (attention.query_SHDK, attention.key_SHDK, attention.value_SHDE)
    biases = (attention.query_bias_SHK, attention.key_bias_SHK, attention.value_bias_SHE)
    everywhere = slice(0, config.token_layout.num_positions)
    pieces = [
        (rows, w.shape[1] * w.shape[3])
        for rows, w in zip((asked, everywhere, everywhere), weights, strict=True)
    ]
    side_by_side_SDN = torch.cat([w.transpose(1, 2).flatten(2) for w in weights], 2)
    norm1 = _norm(config, params, "blocks.0.ln1", token_SVD)
    results = project_normed(config, norm1, token_SVD, position_SPD, side_by_side_SDN, pieces)
    return tuple(
        _add_everywhere(y_SRVM.unflatten(3, (config.n_head, -1)), bias)
        for y_SRVM, bias in zip(results, biases, strict=True)
    )


def _norm(
    config: ModelConfig, params: Mapping[str, Tensor], name: str, like: Tensor
) -> dict[str, Tensor]:
    """The norm's parameters; without, its weight is 1: written as a function of the parameters, for
    what learns from the tables asks each of them for its derivative."""
    if config.norm_weight:
        return scope(params, name)
    return {"weight": like[:, 0] * 0.0 + 1.0}


def _add_everywhere(x_SRV: Tensor, bias_S: Tensor | None) -> Tensor:
    """x (S, R, V, ...) + bias (S, ...)."""
    if bias_S is None:
        return x_SRV
    return x_SRV + ordered.expand(ordered.expand(bias_S, 1, x_SRV.shape[2]), 1, x_SRV.shape[1])


def _embeddings(
    config: ModelConfig, params: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor | None]:
    """(token table_SVW, its part of the stream_SVD, the positions' part_SPD): the stream is a sum,
    a concatenation being one of padded parts."""
    model, P = skeleton(config), config.token_layout.num_positions
    token_SVW = model.token_emb.dense(scope(params, "token_emb"))
    S, _, W = token_SVW.shape
    rest = config.d_model - W
    token_SVD = padded(token_SVW, 2, after=rest)
    if model.pos_emb is None:
        return token_SVW, token_SVD, None
    position_SPW = model.pos_emb.dense(scope(params, "pos_emb"), P).to(token_SVW).expand(S, -1, -1)
    if rest:
        position_SPW = padded(position_SPW, 2, before=W)
    return token_SVW, token_SVD, position_SPW


def _unembed(config: ModelConfig, params: Mapping[str, Tensor], token_SVW: Tensor) -> Tensor:
    """(S, D, V)."""
    read_SCV = token_SVW.transpose(1, 2)
    if config.logit_scale != 1.0:
        read_SCV = read_SCV * config.logit_scale
    head = skeleton(config).head_proj
    if head is not None:
        head_SCW = head.dense(scope(params, "head_proj")).to(token_SVW)
        read_SCV = ordered.matmul(head_SCW.expand(len(token_SVW), -1, -1), read_SCV)
    return padded(read_SCV, 1, after=config.d_model - read_SCV.shape[1])


def _rows(x: Tensor, count: int) -> Tensor:
    """The same for every row where all rows are alike (no positions)."""
    return x if x.shape[1] == count else ordered.expand(x[:, 0], 1, count)


@cache
def _first_names(config: ModelConfig) -> tuple[tuple[str, str], ...]:
    """Every parameter name of the module tree -> the name its tied tensor is stored under."""
    model = skeleton(config)
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    every = model.named_parameters(remove_duplicate=False)
    return tuple((name, first[id(parameter)]) for name, parameter in every)


def _form(config: ModelConfig, key_dim: int, value_dim: int) -> TableForm:
    norm = NormForm(kind=config.norm, eps=config.eps)
    return TableForm(
        layout_name=config.layout,
        heads=config.n_head,
        key_dim=key_dim,
        value_dim=value_dim,
        width=config.d_model,
        hidden=config.d_ff,
        norm2=norm,
        norm_f=norm,
        activation=config.activation,
    )


def stack_parameters(models: Sequence[Transformer]) -> dict[str, Tensor]:
    """Parameters of S models of one configuration, stacked; tied parameters once."""
    named = [dict(model.named_parameters()) for model in models]
    return {name: torch.stack([each[name].detach() for each in named]) for name in named[0]}


def derivative(function: TensorFunction, num_inputs: int) -> TensorFunction:
    """(inputs, a pull for every output) -> the gradient of every input, as a function to compile."""

    def pull_back(*tensors: Tensor) -> tuple[Tensor, ...]:
        inputs = [tensor.detach().requires_grad_() for tensor in tensors[:num_inputs]]
        grads = torch.autograd.grad(
            function(*inputs), inputs, tensors[num_inputs:], allow_unused=True, materialize_grads=True
        )
        return tuple(grads)

    return pull_back
