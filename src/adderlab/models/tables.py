"""The table form: everything a one-layer decoder computes, as a few small dense tensors, and how they
come from a model's parameters.

Before the softmax, every quantity in a one-layer decoder depends only on (position, token). So a
model of any parametrisation is fully described by these tables; training, evaluation and proof
share them and nothing else (docs/architecture.md).

One answer step i, holding the token z at its query position, head h:

    score[p]  = query[i, z, h] . key[p, t_p, h] (+ score[i, z, h, p, t_p])    for p <= query_positions[i]
              = score_scale[i, h] * f(query . key) + score   (soft caps: ``TableForm.score_function``)
    mixed[h]  = sum_p softmax(score)[p] * value[p, t_p, h]
    logits    = program(mixed, residual[i, z], head)

The program is what follows the attention, as a list of operations (``models.head_program``), and
``head`` holds its weights. Every preset has the same one, but for kinds of norm and activation:

    x         = residual[i, z] + mixed @ attn_out
    u         = norm2(x)
    x         = x + act(u @ fc1 + fc1_bias) @ fc2 + fc2_bias        (GELU, ReLU)
              = x + (silu(u @ gate) * (u @ fc1)) @ fc2 + fc2_bias   (SwiGLU)
    logits    = norm_f(x) @ unembed

The attention scale is folded into ``query``, the first norm into query, key and value, an output
bias of the attention into ``residual``.

Parameters are a mapping name -> tensor with the seed axis first, names as in the module's state
dict, tied parameters once. The map from them to tables is differentiable, and sums in a fixed order
(``models.ordered``): a seed's tables do not depend on the seeds beside it.

Shapes: S seeds, A answer steps, P input positions, R chosen positions, V vocabulary, H heads, K key
dimension, E value dimension, D width, W channels of the token or position embedding, F hidden units of
the MLP, N outputs of projections side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from adderlab.errors import UsageError
from adderlab.files.schema import to_dict
from adderlab.models import ordered
from adderlab.models.config import ModelConfig
from adderlab.models.head_program import (
    ROLES,
    Function,
    HeadProgram,
    NormForm,
    standard_head,
    standard_program,
)
from adderlab.models.layers import AttentionWeights
from adderlab.models.maps import Stacked, padded, scope
from adderlab.models.transformer import Adder, Architecture, skeleton
from adderlab.task.addition import PUBLISHED, Layout


@dataclass(frozen=True, kw_only=True)
class TableForm:
    """What the numbers in a set of tables mean: sizes and operations, no weights. Hashable."""

    layout: Layout
    heads: int
    key_dim: int
    """Of ``query`` and ``key``; 0 where ``score`` says it all."""
    value_dim: int
    program: HeadProgram
    score_function: Function | None = None
    """What queries times keys go through before they are scores (a soft cap's tanh). Only training and
    evaluation know it; for proofs such scores are a table."""

    @property
    def width(self) -> int:
        """Channels of ``residual``."""
        return self.program.row_width

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each table without the seed axis, in the order of ``Tables.items``.

        Those that not every model has are listed too; ``score`` as if both tokens mattered.
        """
        layout = self.layout
        A, P, V = layout.num_answers, layout.num_positions, layout.vocab_size
        H, K, E = self.heads, self.key_dim, self.value_dim
        return {
            "query": (A, V, H, K),
            "key": (P, V, H, K),
            "score": (A, V, H, P, V),
            "value": (P, V, H, E),
            "residual": (A, V, self.width),
            "sink": (A, V, H),
            "score_scale": (A, H),
            **self.program.shapes,
        }


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The tables of S models of one form; every tensor has the seed axis first.

    A score is ``query`` times ``key``, plus ``score`` where there is one: the part that is no such
    product (a relative bias, say), minus infinity where a key is hidden. Its axis of query tokens, or
    of key tokens, has length 1 where those tokens do not matter. ``sink`` is the score of one key
    more, which has no value and takes weight from the others. ``score_scale`` multiplies the results
    of ``form.score_function``, and is there with it.
    """

    form: TableForm
    query: Tensor
    key: Tensor
    score: Tensor | None = None
    value: Tensor
    residual: Tensor
    sink: Tensor | None = None
    score_scale: Tensor | None = None
    head: Mapping[str, Tensor]
    """The constants of ``form.program``, all of them, in its order."""

    def __post_init__(self) -> None:
        shapes = self.form.shapes()
        for name, tensor in self.items():
            wanted = shapes[name]
            if name == "score":
                A, V, H, P, _ = wanted
                allowed = [(A, Z, H, P, T) for Z in (1, V) for T in (1, V)]
                assert tensor.shape[1:] in allowed, (name, tensor.shape, wanted)
            else:
                assert tensor.shape[1:] == wanted, (name, tensor.shape, wanted)
        assert (self.score_scale is None) == (self.form.score_function is None)
        assert tuple(self.head) == tuple(self.form.program.shapes), tuple(self.head)

    @property
    def num_seeds(self) -> int:
        """S."""
        return self.value.shape[0]

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) of every table that is present, those of the head last."""
        for name in ATTENTION:
            tensor = getattr(self, name)
            if tensor is not None:
                yield name, tensor
        yield from self.head.items()

    def get(self, name: str) -> Tensor | None:
        """A table by its name; None if there is none."""
        return getattr(self, name) if name in ATTENTION else self.head.get(name)

    def map(self, function: Callable[[Tensor], Tensor]) -> Tables:
        """The same form with ``function`` applied to every table that is present."""
        return tables_of(self.form, {name: function(tensor) for name, tensor in self.items()})

    def detach(self) -> Tables:
        """Without a derivative."""
        return self.map(Tensor.detach)

    def seeds(self, start: int, stop: int) -> Tables:
        """The tables of seeds start..stop-1 (views)."""
        return self.map(lambda tensor: tensor[start:stop])

    def to(
        self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Tables:
        """As ``Tensor.to`` on every table."""
        return self.map(lambda tensor: tensor.to(dtype=dtype, device=device))


ATTENTION = ("query", "key", "score", "value", "residual", "sink", "score_scale")
"""Tables that are not the head's, in their order."""


def tables_of(form: TableForm, named: Mapping[str, Tensor]) -> Tables:
    """Tables from their names and tensors, as ``Tables.items`` gives them out."""
    head = {name: named[name] for name in form.program.shapes}
    return Tables(form=form, **{name: named[name] for name in ATTENTION if name in named}, head=head)


def plain_form(form: TableForm) -> dict[str, Any]:
    """A form as JSON values, as certificates name it."""
    sizes: dict[str, Any] = {
        "heads": form.heads,
        "key_dim": form.key_dim,
        "value_dim": form.value_dim,
    }
    task = form.layout.addition
    if task != PUBLISHED:
        sizes |= {"columns": task.columns, "base": task.base}
    head = standard_head(form.program)
    if head is None or any(role != name for role, name in head.names):
        return {**sizes, "layout": to_dict(form.layout), "program": to_dict(form.program)}
    return {
        **sizes,
        "layout_name": form.layout.name,
        "width": form.width,
        "hidden": head.hidden,
        "norm2": to_dict(head.norm2),
        "norm_f": to_dict(head.norm_f),
        "activation": head.activation,
    }


def in_roles(form: TableForm, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tables of a form with a standard head, with the head's constants called by their roles."""
    head = standard_head(form.program)
    assert head is not None, form
    role_of = {name: role for role, name in head.names}
    return {role_of.get(name, name): tensor for name, tensor in named.items()}


# From parameters to tables.

TensorFunction = Callable[..., tuple[Tensor, ...]]


def why_no_tables(config: Architecture) -> str | None:
    """None if the model has a table form, otherwise the reason in a few words."""
    if not isinstance(config, ModelConfig):
        return config.why_no_tables()
    if config.n_layer > 1:
        return f"it has {config.n_layer} layers; tables describe one"
    if config.repeat_mix:
        return "it applies its block twice; tables describe one pass"
    return None


def why_not_trained_by_tables(config: Architecture) -> str | None:
    """None if training, and evaluation in volume, compute a model through its tables; otherwise why they
    run the module on the whole sequence."""
    if config.token_layout.pairs:
        return "its tokens are pairs of digits, whose tables are larger than the model"
    return why_no_tables(config)


def stack_parameters(models: Sequence[Adder]) -> dict[str, Tensor]:
    """Parameters of S models of one configuration, stacked; tied parameters once."""
    named = [dict(model.named_parameters()) for model in models]
    return {name: torch.stack([each[name].detach() for each in named]) for name in named[0]}


def tables(config: Architecture, params: Stacked) -> Tables:
    """The table form of S models. Raises ``UsageError`` for models outside the form."""
    reason = why_no_tables(config)
    if reason:
        raise UsageError(f"this model has no table form: {reason}")
    if not isinstance(config, ModelConfig):
        return config.tables(params)
    layout, block = config.token_layout, skeleton(config).block(0)
    P, A = layout.num_positions, layout.num_answers
    params = {name: params[first] for name, first in _first_names(config)}
    attention_params = scope(params, "blocks.0.attn")
    attention = block.attn.dense(attention_params)

    token_SVW, token_SVD, position_SPD = _embeddings(config, params)
    asked = slice(layout.query_positions[0], layout.query_positions[-1] + 1)
    query, key, value = _project(config, params, token_SVD, position_SPD, attention, asked)
    asked_SAD = None if position_SPD is None else position_SPD[:, asked]
    residual = _add_everywhere(_rows(_stream(token_SVD, asked_SAD), A), attention.out_bias_SD)
    norm2, norm_f = (_norm(config, params, name, token_SVD) for name in ("blocks.0.ln2", "ln_f"))
    # The order of these lines is that of the compiled program, where a compiler may join a product and
    # a sum of neighbouring lines: another order trains the 36p to other last bits.
    query = block.attn.finish_query(attention_params, query, list(layout.query_positions))
    key = block.attn.finish_key(attention_params, key, list(range(P)))
    value = _rows(value, P)
    named = {
        "attn_out": attention.out_SHED.flatten(1, 2),
        "norm2_weight": norm2["weight"],
        "norm2_bias": norm2.get("bias"),
        "norm_f_weight": norm_f["weight"],
        "norm_f_bias": norm_f.get("bias"),
        "unembed": _unembed(config, params, token_SVW),
        **block.mlp.dense(scope(params, "blocks.0.mlp")),
    }
    head = {name: tensor for name in ROLES if (tensor := named.get(name)) is not None}
    return Tables(
        form=_form(config, attention.key_SHDK.shape[3], attention.value_SHDE.shape[3], head),
        query=query,
        key=key,
        value=value,
        residual=residual,
        head=head,
    )


def vjp(function: TensorFunction, num_inputs: int) -> TensorFunction:
    """(inputs, a cotangent for every output) -> the gradient of every input: a vector-Jacobian product,
    as a function that can be compiled."""

    def gradients(*tensors: Tensor) -> tuple[Tensor, ...]:
        inputs = [tensor.detach().requires_grad_() for tensor in tensors[:num_inputs]]
        results = zip(function(*inputs), tensors[num_inputs:], strict=True)
        # A table may be a constant of the model.
        moved = [(result, cotangent) for result, cotangent in results if result.requires_grad]
        outputs, cotangents = zip(*moved, strict=True)
        grads = torch.autograd.grad(
            outputs, inputs, cotangents, allow_unused=True, materialize_grads=True
        )
        return tuple(grads)

    return gradients


@cache
def _first_names(config: ModelConfig) -> tuple[tuple[str, str], ...]:
    """Every parameter name of the module tree -> the name its tied tensor is stored under."""
    model = skeleton(config)
    first = {id(parameter): name for name, parameter in model.named_parameters()}
    every = model.named_parameters(remove_duplicate=False)
    return tuple((name, first[id(parameter)]) for name, parameter in every)


def _embeddings(config: ModelConfig, params: Stacked) -> tuple[Tensor, Tensor, Tensor | None]:
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


def _project(
    config: ModelConfig,
    params: Stacked,
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
    results = _project_normed(config, norm1, token_SVD, position_SPD, side_by_side_SDN, pieces)
    return tuple(
        _add_everywhere(y_SRVM.unflatten(3, (config.n_head, -1)), bias)
        for y_SRVM, bias in zip(results, biases, strict=True)
    )


def _norm(config: ModelConfig, params: Stacked, name: str, like: Tensor) -> dict[str, Tensor]:
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


def _rows(x: Tensor, count: int) -> Tensor:
    """The same for every row where all rows are alike (no positions)."""
    return x if x.shape[1] == count else ordered.expand(x[:, 0], 1, count)


def _unembed(config: ModelConfig, params: Stacked, token_SVW: Tensor) -> Tensor:
    """(S, D, V)."""
    read_SCV = token_SVW.transpose(1, 2)
    if config.logit_scale != 1.0:
        read_SCV = read_SCV * config.logit_scale
    head = skeleton(config).head_proj
    if head is not None:
        head_SCW = head.dense(scope(params, "head_proj")).to(token_SVW)
        read_SCV = ordered.matmul(head_SCW.expand(len(token_SVW), -1, -1), read_SCV)
    return padded(read_SCV, 1, after=config.d_model - read_SCV.shape[1])


def _form(config: ModelConfig, key_dim: int, value_dim: int, head: Collection[str]) -> TableForm:
    norm = NormForm(kind=config.norm, eps=config.eps)
    return TableForm(
        layout=config.token_layout,
        heads=config.n_head,
        key_dim=key_dim,
        value_dim=value_dim,
        program=standard_program(
            mixed=config.n_head * value_dim,
            width=config.d_model,
            hidden=config.d_ff,
            vocab=config.token_layout.vocab_size,
            norm2=norm,
            norm_f=norm,
            activation=config.activation,
            biases=tuple(name for name in head if name.endswith("_bias")),
        ),
    )


# The first norm and the projections behind it, on sums of token and position.

_Piece = tuple[slice, int]
"""(positions, number of outputs) of one projection."""


def _project_normed(
    config: ModelConfig,
    params: Stacked,
    token_SVD: Tensor,
    position_SPD: Tensor | None,
    weight_SDN: Tensor,
    pieces: Sequence[_Piece],
) -> tuple[Tensor, ...]:
    """norm(token + position) @ weight, at every (position, token).

    ``params`` are those of the norm. ``weight_SDN`` holds several projections side by side, and of
    each ``pieces`` says at which positions it is wanted and how many columns it has. Returned:
    (S, R, V, n) for each; without positions all rows are alike and R is 1.
    """
    if config.norm == "layer":
        token_SVD = _Centred.apply(token_SVD)
        position_SPD = None if position_SPD is None else _Centred.apply(position_SPD)
    scaled_SDN = weight_SDN * ordered.expand(params["weight"], 2, weight_SDN.shape[2])
    offset_SN = None
    if "bias" in params:
        offset_SN = ordered.matmul(params["bias"][:, None], weight_SDN)[:, 0]
    return _ProjectNormed.apply(token_SVD, position_SPD, scaled_SDN, offset_SN, config.eps, pieces)


class _Centred(torch.autograd.Function):
    """x minus its mean over the width. A projection, so the derivative is the same."""

    @staticmethod
    def forward(ctx: Any, x_SMD: Tensor) -> Tensor:
        return x_SMD - (ordered.halving_sum(x_SMD, 2) / x_SMD.shape[2])[:, :, None]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _Centred.apply(grads[0])


class _ProjectNormed(torch.autograd.Function):
    """y = (t @ w + p @ w) / rms(t + p) + offset, which is norm(t + p) @ w without ever forming a
    tensor of the size P x V x D x N. Long axes are kept last inside."""

    @staticmethod
    def forward(
        ctx: Any,
        token_SVD: Tensor,
        position_SPD: Tensor | None,
        weight_SDN: Tensor,
        offset_SN: Tensor | None,
        eps: float,
        pieces: Sequence[_Piece],
    ) -> tuple[Tensor, ...]:
        weight_SND = weight_SDN.transpose(1, 2).contiguous()
        token_SDV = token_SVD.transpose(1, 2).contiguous()
        x_SDPV = token_SDV[:, :, None]
        z_SNPV = ordered.product(weight_SND, token_SDV)[:, :, None]
        position_SDP = None
        if position_SPD is not None:
            position_SDP = position_SPD.transpose(1, 2).contiguous()
            x_SDPV = x_SDPV + position_SDP[..., None]
            z_SNPV = z_SNPV + ordered.product(weight_SND, position_SDP)[..., None]
        D = token_SDV.shape[1]
        root_SPV = torch.sqrt(ordered.fold(x_SDPV * x_SDPV, 1) / D + eps)
        y_SNPV = z_SNPV / root_SPV[:, None]
        ctx.pieces, ctx.has_offset = pieces, offset_SN is not None
        ctx.save_for_backward(token_SDV, position_SDP, weight_SND, x_SDPV, root_SPV, y_SNPV)
        if offset_SN is not None:
            y_SNPV = y_SNPV + offset_SN[:, :, None, None]
        results, start = [], 0
        for rows, n in pieces:
            chosen = y_SNPV[:, start : start + n]
            chosen = chosen if position_SPD is None else chosen[:, :, rows]
            results.append(chosen.permute(0, 2, 3, 1).contiguous())
            start += n
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        token_SDV, position_SDP, weight_SND, x_SDPV, root_SPV, y_SNPV = ctx.saved_tensors
        grad_SNPV, start = torch.zeros_like(y_SNPV), 0
        for (rows, n), grad_SRVn in zip(ctx.pieces, grads, strict=True):
            wanted = grad_SNPV[:, start : start + n]
            wanted = wanted if position_SDP is None else wanted[:, :, rows]
            wanted.copy_(grad_SRVn.permute(0, 3, 1, 2))
            start += n
        gz_SNPV = grad_SNPV / root_SPV[:, None]
        radial_SPV = ordered.fold(gz_SNPV * y_SNPV, 1) / (root_SPV * -token_SDV.shape[1])
        both_SMPV = torch.cat([gz_SNPV, x_SDPV * radial_SPV[:, None]], 1)
        weight_SDN = weight_SND.transpose(1, 2)

        def along(both_SMR: Tensor, x_SDR: Tensor) -> tuple[Tensor, Tensor]:
            """Gradients of one addend of the stream (S, R, D), and of the weight through it."""
            gz_SNR, gx_SDR = both_SMR.split([weight_SDN.shape[2], weight_SDN.shape[1]], 1)
            grad_SDR = ordered.product(weight_SDN, gz_SNR) + gx_SDR
            return grad_SDR.transpose(1, 2), ordered.product(x_SDR, gz_SNR.transpose(1, 2))

        grad_position = more = None
        if position_SDP is not None:
            grad_position, more = along(ordered.halving_sum(both_SMPV, 3), position_SDP)
        grad_token, grad_weight = along(ordered.fold(both_SMPV, 2), token_SDV)
        if more is not None:
            grad_weight = grad_weight + more
        grad_offset = None
        if ctx.has_offset:
            grad_offset = ordered.fold(ordered.halving_sum(grad_SNPV, 2), 2)
        return grad_token, grad_position, grad_weight, grad_offset, None, None


def _stream(token_SVD: Tensor, position_SPD: Tensor | None) -> Tensor:
    """token + position at every (position, token): (S, P, V, D), P = 1 without positions."""
    if position_SPD is None:
        return token_SVD[:, None]
    P, V = position_SPD.shape[1], token_SVD.shape[1]
    return ordered.expand(position_SPD, 2, V) + ordered.expand(token_SVD, 1, P)
