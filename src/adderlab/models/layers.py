"""RMS and layer norm: the modules, and the first norm of S models on sums of token and position.

Shapes: S seeds, V tokens, P positions, R chosen positions, D width, N outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from adderlab.models import ordered
from adderlab.models.config import ModelConfig
from adderlab.models.maps import (
    CarryDown,
    InputRotated,
    Linear,
    Map,
    MirroredDown,
    MirroredUp,
    Scaled,
    SparseGate,
    Stacked,
    Transposed,
    linear,
    padded,
    scope,
)


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


Piece = tuple[slice, int]
"""(positions, number of outputs) of one projection."""


def project_normed(
    config: ModelConfig,
    params: Stacked,
    token_SVD: Tensor,
    position_SPD: Tensor | None,
    weight_SDN: Tensor,
    pieces: Sequence[Piece],
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
        pieces: Sequence[Piece],
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
        slope_SPV = ordered.fold(gz_SNPV * y_SNPV, 1) / (root_SPV * -token_SDV.shape[1])
        both_SMPV = torch.cat([gz_SNPV, x_SDPV * slope_SPV[:, None]], 1)
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


def stream(token_SVD: Tensor, position_SPD: Tensor | None) -> Tensor:
    """token + position at every (position, token): (S, P, V, D), P = 1 without positions."""
    if position_SPD is None:
        return token_SVD[:, None]
    P, V = position_SPD.shape[1], token_SVD.shape[1]
    return ordered.expand(position_SPD, 2, V) + ordered.expand(token_SVD, 1, P)


# The second half of a block: fc2(act(fc1(x))), or SwiGLU: fc2(silu(gate(x)) * fc1(x)).
#
# Shapes: S seeds, D width, F hidden units.


DOWN_ANGLE = 0.1
"""Where the angle of a rotated down = up^T starts (M10S)."""


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
        elif config.fc2 == "up_transpose":
            self.fc2 = Transposed(self.fc1)
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
