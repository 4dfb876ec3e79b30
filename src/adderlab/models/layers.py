"""The layers of a block: norms, causal self-attention and the MLP.

What attention shares between query, key and value is said here by name; how a tied map computes stands
in ``models.maps``.

Shapes: S seeds, B batch, T positions, R chosen positions, V tokens, D width, F hidden units, H query
heads, G key and value heads, K width of a key, E of a value, r rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from adderlab.models import ordered
from adderlab.models.config import ModelConfig
from adderlab.models.maps import (
    CarryDown,
    Identity,
    InputRotated,
    LastScalesFirst,
    Linear,
    LowRankLinear,
    Map,
    MirroredDown,
    MirroredUp,
    OneChannel,
    QuarterNorm,
    QueryTransposeTail,
    Rotated,
    Scaled,
    ScaledRotation,
    SparseGate,
    Stacked,
    Transposed,
    linear,
    low_rank_factor,
    padded,
    rotary,
    rotate,
    rotate_fixed,
    scope,
)

KEY_ANGLE = 0.1
"""Where the angle of K = rotation of Q starts (M10S); that of a rotated query starts at 0."""

DOWN_ANGLE = 0.1
"""Where the angle of a rotated down = up^T starts (M10S)."""


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich, arXiv 1910.07467); no bias."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight

    def dense(self, params: Stacked) -> Tensor:
        """The weight (S, D)."""
        return params["weight"]


class PlainRMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps): no parameters."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)


def norm(config: ModelConfig) -> RMSNorm | PlainRMSNorm | nn.LayerNorm:
    """A norm of the whole width."""
    if not config.norm_weight:
        return PlainRMSNorm(config.eps)
    if config.norm == "rms":
        return RMSNorm(config.d_model, config.eps)
    return nn.LayerNorm(config.d_model, eps=config.eps)


class _DenseRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight_SK: Tensor, x_SMK: Tensor, eps: float) -> Tensor:
        root_SM1 = torch.sqrt(ordered.fold(x_SMK * x_SMK, 2) / x_SMK.shape[2] + eps)[:, :, None]
        unit_SMK = x_SMK / root_SM1
        ctx.save_for_backward(weight_SK, unit_SMK, root_SM1)
        return unit_SMK * weight_SK[:, None]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad_SMK,) = grads
        weight_SK, unit_SMK, root_SM1 = ctx.saved_tensors
        grad_weight_SK = ordered.fold(grad_SMK * unit_SMK, 1)
        inner_SMK = grad_SMK * weight_SK[:, None]
        along_SM1 = (ordered.fold(inner_SMK * unit_SMK, 2) / unit_SMK.shape[2])[:, :, None]
        return grad_weight_SK, (inner_SMK - unit_SMK * along_SM1) / root_SM1, None


def dense_rms_norm(weight_SK: Tensor, x_SMK: Tensor, eps: float) -> Tensor:
    """RMS norm of S models applied to x_SMK."""
    return _DenseRMSNorm.apply(weight_SK, x_SMK, eps)


SHARED_MAPS: dict[str, tuple[str, str, str]] = {
    "separate": ("q_proj", "k_proj", "v_proj"),
    "all": ("qkv_shared", "qkv_shared", "qkv_shared"),
    "qk": ("qk_shared", "qk_shared", "v_proj"),
    "kv": ("q_proj", "kv_shared", "kv_shared"),
}
"""Modes that tie whole maps: the module used for query, key and value."""

SHARED_FACTORS: dict[str, tuple[tuple[str, str], ...]] = {
    "shareA": (("qkv_A", "qkv_Bq"), ("qkv_A", "qkv_Bk"), ("qkv_A", "qkv_Bv")),
    "shareB": (("qkv_Aq", "qkv_B"), ("qkv_Ak", "qkv_B"), ("qkv_Av", "qkv_B")),
    "shareB_tieQK": (("qkv_Aqk", "qkv_B"), ("qkv_Aqk", "qkv_B"), ("qkv_Av", "qkv_B")),
    "shareB_tieKV": (("qkv_Aq", "qkv_B"), ("qkv_Akv", "qkv_B"), ("qkv_Akv", "qkv_B")),
    "shareA_tieKV": (("qkv_A", "qkv_Bq"), ("qkv_A", "qkv_Bkv"), ("qkv_A", "qkv_Bkv")),
    "shareA_tieQK": (("qkv_A", "qkv_Bqk"), ("qkv_A", "qkv_Bqk"), ("qkv_A", "qkv_Bv")),
}
"""Modes that tie low-rank factors: the (A, B) used for query, key and value."""


class Attention(nn.Module):
    """softmax(q k^T / sqrt(K)) v, projected back to the width; causal."""

    def __init__(self, config: ModelConfig, head: Map | None) -> None:
        """``head``: the output head's map where the model has one."""
        super().__init__()
        self.config = config
        D, H, r, tie = config.d_model, config.n_head, config.qkv_rank, config.tie_qkv
        K, E, bias = config.key_width, config.value_width, config.bias == "all"
        self.qk_channels = config.channels(config.qk_input)
        self.value_channels = config.channels(config.value_input)
        self.map_names: tuple[str, str, str] | None = None
        if tie == "none":
            self.qkv = linear(D, 3 * D, r, bias=bias)
        elif tie in SHARED_MAPS:
            self._make_maps(head)
        else:
            factors = SHARED_FACTORS[tie]
            for name in dict.fromkeys(first for first, _ in factors):
                setattr(self, name, low_rank_factor(D, r))
            for name in dict.fromkeys(second for _, second in factors):
                setattr(self, name, low_rank_factor(r, D))
        if config.attn_out == "last_token":
            W = config.token_width
            self.proj: Map = OneChannel(H * E, W - 1, config.content_width - W)
        elif config.attn_out == "map":
            self.proj = linear(H * E, config.content_width, config.attn_out_rank, bias=bias)
        else:
            tail = config.attn_out == "query_transpose_tail"
            query = getattr(self, SHARED_MAPS[tie][0])
            self.proj = QueryTransposeTail(query) if tail else Transposed(query)
        if config.qk_norm != "none":
            quarter, own = config.qk_norm == "quarter", config.qk_norm == "own"
            self.q_norm = QuarterNorm(config.eps) if quarter else RMSNorm(K, config.eps)
            self.k_norm = RMSNorm(K, config.eps) if own else self.q_norm

    def _make_maps(self, head: Map | None) -> None:
        """Whole maps, shared as the tie says, then what rotates or scales them."""
        config = self.config
        G, K = config.kv_heads, config.key_width
        query, key, value = SHARED_MAPS[config.tie_qkv]
        sizes = {value: G * config.value_width, key: G * K, query: config.n_head * K}
        for name in dict.fromkeys((query, key, value)):
            channels = self.qk_channels if name in (query, key) else self.value_channels
            if name == value and config.values == "head":
                setattr(self, name, Transposed(cast(Map, head)))
            elif name == key and config.key_rows == "last_scales_first":
                setattr(self, name, LastScalesFirst(len(channels), sizes[name]))
            elif (name == key and config.keys == "input") or (
                name == value and config.values == "input"
            ):
                setattr(self, name, Identity(len(channels)))
            elif name == query and config.query_map == "scaled_rotation":
                setattr(self, name, ScaledRotation(len(channels)))
            else:
                setattr(self, name, linear(len(channels), sizes[name], config.qkv_rank))
        if config.query_rotation:
            self.query = Rotated(getattr(self, query), K, 0.0)
            query = "query"
        if config.key_transform != "none":
            source = getattr(self, SHARED_MAPS[config.tie_qkv][1])
            rotated = config.key_transform == "rotate"
            self.key = Rotated(source, K, KEY_ANGLE) if rotated else Scaled(source)
            key = "key"
        self.map_names = (query, key, value)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, _ = x_BTD.shape
        config = self.config
        query, key, value = self._project(x_BTD)
        q_BHTK = query.view(B, T, config.n_head, -1).transpose(1, 2)
        k_BGTK, v_BGTE = (y.view(B, T, config.kv_heads, -1).transpose(1, 2) for y in (key, value))
        if config.qk_norm != "none":
            q_BHTK, k_BGTK = self.q_norm(q_BHTK), self.k_norm(k_BGTK)
        if config.rope_theta is not None:
            cos, sin = (t.to(x_BTD) for t in rotary(list(range(T)), config.key_width, config.rope_theta))
            q_BHTK, k_BGTK = (rotate(y, cos, sin, config.rope_pairs) for y in (q_BHTK, k_BGTK))
        k_BHTK, v_BHTE = (
            y.repeat_interleave(config.n_head // config.kv_heads, 1) for y in (k_BGTK, v_BGTE)
        )
        score_BHTT = q_BHTK @ k_BHTK.transpose(-2, -1) / math.sqrt(config.key_width)
        causal_TT = torch.ones(T, T, dtype=torch.bool, device=x_BTD.device).tril()
        weight_BHTT = score_BHTT.masked_fill(~causal_TT, float("-inf")).softmax(-1)
        return self.written((weight_BHTT @ v_BHTE).transpose(1, 2).reshape(B, T, -1))

    def written(self, mixed: Tensor) -> Tensor:
        """What is added to the stream: (..., H * E) -> (..., D)."""
        rest = self.config.d_model - self.config.content_width
        return padded(self.proj(mixed), -1, after=rest)

    def _project(self, x_BTD: Tensor) -> tuple[Tensor, ...]:
        tie = self.config.tie_qkv
        if tie == "none":
            return self.qkv(x_BTD).chunk(3, -1)
        if self.map_names is None:
            return tuple(x_BTD @ getattr(self, A) @ getattr(self, B) for A, B in SHARED_FACTORS[tie])
        qk, value = _take(x_BTD, self.qk_channels), _take(x_BTD, self.value_channels)
        return tuple(
            getattr(self, name)(part) for name, part in zip(self.map_names, (qk, qk, value), strict=True)
        )

    def dense(self, params: Stacked) -> AttentionWeights:
        """The dense weights. Where a map's inner dimension is less than the head's, scores and
        values live in it: q . k = (x A_q B_q B_k^T) . (x A_k), and so for values and the output."""
        config = self.config
        H, G, K, E = config.n_head, config.kv_heads, config.key_width, config.value_width
        query, key, value = self._dense_factors(params)

        if key.rank < K and not self._acts_on_scores and config.bias != "all":
            cross_SHrr = matmul_heads(
                by_head_columns(query.second, H), grouped(key.second, G, H).transpose(2, 3)
            )
            query_SHDK = matmul_heads(every_head(query.first, H), cross_SHrr)
            key_SHDK = every_head(key.first, H)
        else:
            query_SHDK = by_head_columns(query.product(), H)
            key_SHDK = grouped(key.product(), G, H)

        out_params = scope(params, "proj")
        low_rank_out = isinstance(self.proj, LowRankLinear)
        if low_rank_out and config.attn_out_rank < min(E, value.rank + 1):
            inner_SHEr = by_head_rows(out_params["A"], H)
            value_SHDE = matmul_heads(grouped(value.product(), G, H), inner_SHEr)
            out_SHED = every_head(out_params["B"], H)
        elif value.rank < E and config.bias != "all":
            value_SHDE = every_head(value.first, H)
            out_SHCD = by_head_rows(self.proj.dense(out_params), H)
            out_SHED = matmul_heads(grouped(value.second, G, H), out_SHCD)
        else:
            value_SHDE = grouped(value.product(), G, H)
            out_SHED = by_head_rows(self.proj.dense(out_params), H)
        return AttentionWeights(
            query_SHDK=self._widen(query_SHDK, self.qk_channels),
            key_SHDK=self._widen(key_SHDK, self.qk_channels),
            value_SHDE=self._widen(value_SHDE, self.value_channels),
            out_SHED=padded(out_SHED, 3, after=config.d_model - config.content_width),
            **self._dense_biases(params),
        )

    def _dense_biases(self, params: Stacked) -> dict[str, Tensor]:
        if self.config.bias != "all":
            return {}
        H, K = self.config.n_head, self.config.key_width
        query, key, value = (b.unflatten(1, (H, K)) for b in params["qkv.bias"].chunk(3, 1))
        return {
            "query_bias_SHK": query,
            "key_bias_SHK": key,
            "value_bias_SHE": value,
            "out_bias_SD": params["proj.bias"],
        }

    @property
    def _acts_on_scores(self) -> bool:
        """Whether queries and keys go through more than linear maps."""
        return self.config.qk_norm != "none" or self.config.rope_theta is not None

    def finish_query(self, params: Stacked, query_SRVHK: Tensor, positions: list[int]) -> Tensor:
        """What happens to projected queries before they meet keys, the scale included."""
        done = self._finish(params, "q_norm", query_SRVHK, positions)
        return done / math.sqrt(self.config.key_width)

    def finish_key(self, params: Stacked, key_SRVHK: Tensor, positions: list[int]) -> Tensor:
        """What happens to projected keys before they meet queries."""
        return self._finish(params, "k_norm", key_SRVHK, positions)

    def _finish(self, params: Stacked, norm: str, x_SRVHK: Tensor, positions: list[int]) -> Tensor:
        config = self.config
        S, K = x_SRVHK.shape[0], x_SRVHK.shape[4]
        if config.qk_norm != "none":
            weight_SK = getattr(self, norm).dense(scope(params, norm))
            normed = dense_rms_norm(weight_SK, x_SRVHK.reshape(S, -1, K), config.eps)
            x_SRVHK = normed.reshape(x_SRVHK.shape)
        if x_SRVHK.shape[1] != len(positions):
            x_SRVHK = ordered.expand(x_SRVHK[:, 0], 1, len(positions))
        if config.rope_theta is None:
            return x_SRVHK
        cos, sin = (t.to(x_SRVHK)[None, :, None, None] for t in rotary(positions, K, config.rope_theta))
        return rotate_fixed(x_SRVHK, cos, sin, config.rope_pairs)

    def _widen(self, w_SHCN: Tensor, channels: range) -> Tensor:
        """Rows of the channels read -> rows of all D channels, zero elsewhere."""
        after = self.config.d_model - channels.stop
        return padded(w_SHCN, 2, before=channels.start, after=after)

    def _dense_factors(self, params: Stacked) -> tuple[Factors, ...]:
        tie, D = self.config.tie_qkv, self.config.d_model
        if tie in SHARED_FACTORS:
            return tuple(Factors(params[A], params[B]) for A, B in SHARED_FACTORS[tie])
        like = next(iter(params.values()))
        if self.map_names is not None:
            maps = {
                name: Factors.of(getattr(self, name), scope(params, name), like)
                for name in dict.fromkeys(self.map_names)
            }
            return tuple(maps[name] for name in self.map_names)
        fused = Factors.of(self.qkv, scope(params, "qkv"), like)
        return tuple(Factors(fused.first_or_none, second) for second in fused.second.split(D, 2))


def _take(x_BTD: Tensor, channels: range) -> Tensor:
    return x_BTD[..., channels.start : channels.stop]


# Dense weights of attention: projections as factors, split by head.


@dataclass(frozen=True, kw_only=True)
class AttentionWeights:
    """Dense attention of S models, reading all channels of the normed stream.

    Inner dimensions are folded to the smallest that are exact, biases are None without.
    """

    query_SHDK: Tensor
    key_SHDK: Tensor
    value_SHDE: Tensor
    out_SHED: Tensor
    query_bias_SHK: Tensor | None = None
    key_bias_SHK: Tensor | None = None
    value_bias_SHE: Tensor | None = None
    out_bias_SD: Tensor | None = None


class Factors:
    """A projection as first @ second; a full matrix has no first factor (None is the identity)."""

    def __init__(self, first: Tensor | None, second: Tensor) -> None:
        self.first_or_none, self.second = first, second

    @classmethod
    def of(cls, module: Map, params: Stacked, like: Tensor) -> Factors:
        """The factors of a low-rank map; any other map as one dense factor. ``like``: a parameter of the
        same seeds, for maps that have none."""
        if isinstance(module, LowRankLinear):
            return cls(params["A"], params["B"])
        return cls(None, module.dense(params).to(like).expand(len(like), -1, -1))

    @property
    def rank(self) -> int:
        """Inner dimension; that of a full matrix is the number of channels it reads."""
        return self.second.shape[1]

    @property
    def first(self) -> Tensor:
        """(S, in, r)."""
        if self.first_or_none is None:
            S, C, _ = self.second.shape
            return torch.eye(C, dtype=self.second.dtype, device=self.second.device).expand(S, C, C)
        return self.first_or_none

    def product(self) -> Tensor:
        """(S, in, out)."""
        if self.first_or_none is None:
            return self.second
        return ordered.matmul(self.first_or_none, self.second)


def by_head_columns(w_SMD: Tensor, H: int) -> Tensor:
    """(S, M, H * C) -> (S, H, M, C)."""
    S, M, D = w_SMD.shape
    return w_SMD.reshape(S, M, H, D // H).transpose(1, 2)


def grouped(w_SMD: Tensor, G: int, H: int) -> Tensor:
    """(S, M, G * C) -> (S, H, M, C): each of the G heads serves H / G query heads."""
    w_SGMC = by_head_columns(w_SMD, G)
    return w_SGMC if G == H else ordered.expand(w_SGMC, 2, H // G).flatten(1, 2)


def by_head_rows(w_SDN: Tensor, H: int) -> Tensor:
    """(S, H * C, N) -> (S, H, C, N)."""
    S, D, N = w_SDN.shape
    return w_SDN.reshape(S, H, D // H, N)


def every_head(w_SMN: Tensor, H: int) -> Tensor:
    """(S, M, N) -> (S, H, M, N), the same for every head."""
    return ordered.expand(w_SMN, 1, H)


def matmul_heads(x_SHMK: Tensor, w_SHKN: Tensor) -> Tensor:
    """Head by head: (S, H, M, K) @ (S, H, K, N)."""
    S, H, M, K = x_SHMK.shape
    N = w_SHKN.shape[3]
    flat = ordered.matmul(x_SHMK.reshape(S * H, M, K), w_SHKN.reshape(S * H, K, N))
    return flat.reshape(S, H, M, N)


# The second half of a block: fc2(act(fc1(x))), or SwiGLU: fc2(silu(gate(x)) * fc1(x)).


class MLP(nn.Module):
    """GELU (exact), ReLU or SwiGLU (arXiv 2002.05202), with its maps own or shared."""

    def __init__(self, config: ModelConfig, head: Map | None) -> None:
        """``head``: the output head's map where the model has one."""
        super().__init__()
        D, F, r, bias = config.content_width, config.d_ff, config.ffn_rank, config.bias != "none"
        self.activation = config.activation
        self.content, self.rest = D, config.d_model - D
        self.fc1: Map
        if config.mirror == "none":
            self.fc1 = linear(D, F, r, bias=bias)
        else:
            self.fc1 = MirroredUp(D, F, unit=config.mirror != "pairs")
        if config.activation == "swiglu":
            self.gate = _gate(config, self.fc1)
        if config.mirror != "none":
            self.fc2: Map = MirroredDown(F, D, even=config.mirror == "even_pairs")
        elif config.fc2 == "map":
            self.fc2 = linear(F, D, r, bias=bias)
        elif config.fc2 == "head":
            self.fc2 = Transposed(cast(Linear, head))
        elif config.fc2 == "rotated_up_transpose":
            self.fc2 = InputRotated(Transposed(self.fc1), DOWN_ANGLE)
        else:
            self.fc2 = CarryDown(cast(Linear, self.fc1), cast(SparseGate, self.gate))

    def forward(self, x: Tensor) -> Tensor:
        return padded(self._of_content(x[..., : self.content]), -1, after=self.rest)

    def _of_content(self, x: Tensor) -> Tensor:
        if self.activation == "swiglu":
            return self.fc2(nn.functional.silu(self.gate(x)) * self.fc1(x))
        act = nn.functional.gelu if self.activation == "gelu" else nn.functional.relu
        return self.fc2(act(self.fc1(x)))

    def dense(self, params: Stacked) -> dict[str, Tensor]:
        """The tables fc1_SDF, fc2_SFD and, where the model has them, gate_SDF and the biases."""
        result = {
            "fc1": padded(self.fc1.dense(scope(params, "fc1")), 1, after=self.rest),
            "fc2": padded(self.fc2.dense(scope(params, "fc2")), 2, after=self.rest),
        }
        if self.activation == "swiglu":
            result["gate"] = padded(self.gate.dense(scope(params, "gate")), 1, after=self.rest)
        for name in ("fc1", "fc2"):
            if f"{name}.bias" in params:
                result[f"{name}_bias"] = params[f"{name}.bias"]
        return result


def _gate(config: ModelConfig, up: Map) -> Map:
    if config.gate == "scaled_up":
        return Scaled(up)
    if config.gate == "sparse":
        return SparseGate(config.content_width, config.d_ff)
    return linear(config.content_width, config.d_ff, config.ffn_rank)
