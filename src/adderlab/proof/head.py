"""The head over boxes: bounds of the margins, and the verdict right, wrong or open.

The head is everything after the attention. On a box {u : |u - centre| <= radius} its residual
stream is affine, x = residual + sum_k u_k R_k, and the scaled margin of the right token over token t

    g_t = sigma * (logit of the right token - logit of t)

is bounded by g_t(centre) -+ sum_k radius_k max |d g_t / d u_k| (mean-value form with an interval
Jacobian). sigma > 0 is the last norm's scale: multiplying by it changes no sign and saves a division
by an interval. Plain interval arithmetic would forget that all coordinates of x move together with u,
and its bounds would be useless after one matrix product.

A box long enough for the mean-value bound to be weak is cut along its pivot into 4, 16, 64 parts,
unless two parts already lie on different sides of the decision: then only digits can decide.
Float64, with a relative slack far above its rounding.

Shapes: N boxes, K functionals (H heads times bottleneck), P parts, D width, F hidden,
T competing tokens.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from adderlab.errors import Failure
from adderlab.proof.problem import RADIX, Array, Head

Ints = NDArray[np.int64]
SLACK = 1e-11
"""Bounds are moved by this times the sum of absolute terms, thousands of times their rounding."""
TABLE_SLACK = 2.0**-46
"""The same for the numbers of the tables, which are rounded too: 128 units in the last place."""
CHUNK = 1536
RIGHT, WRONG, OPEN = 0, 1, 2
PART_STEPS = (1, 4, 16, 64)
PART_BUDGET = 1 << 16
"""Boxes that a step may be cut into; with more open leaves than that, cutting is no help."""
MAX_BATCH = 1 << 14
TOO_LARGE = "this model's weights are too large for the prover: bounds of its margins overflow"

# Intervals as (middle, radius) arrays, and the exact ranges of the activations over intervals.

SQRT2 = math.sqrt(2.0)
SILU_LEAST = -1.2784645427610738
"""Where silu is smallest: 1 + x (1 - sigmoid(x)) = 0."""
SILU_BEND = 2.3993572805154676
"""Where silu' is largest, and at the negative smallest: x tanh(x / 2) = 2."""


class Interval(NamedTuple):
    """All numbers within ``radius`` of ``middle``, elementwise; float64, not rounded outward."""

    middle: Array
    radius: Array

    @classmethod
    def between(cls, low: Array, high: Array) -> Interval:
        return cls(0.5 * (low + high), 0.5 * (high - low))

    def axis(self, *axes: int) -> Interval:
        """With new axes of length 1."""
        return Interval(np.expand_dims(self.middle, axes), np.expand_dims(self.radius, axes))

    def times(self, other: Interval) -> Interval:
        return Interval(
            self.middle * other.middle,
            np.abs(self.middle) * other.radius + self.radius * (np.abs(other.middle) + other.radius),
        )

    def plus(self, other: Interval) -> Interval:
        return Interval(self.middle + other.middle, self.radius + other.radius)

    def most(self) -> Array:
        """Largest absolute value."""
        return np.abs(self.middle) + self.radius


def _erf(x: Array) -> Array:
    return torch.erf(torch.from_numpy(np.ascontiguousarray(x))).numpy()


def _sigmoid(x: Array) -> Array:
    return torch.sigmoid(torch.from_numpy(np.ascontiguousarray(x))).numpy()


def gelu(x: Array) -> Array:
    """x Phi(x), the exact form."""
    return x * (0.5 + 0.5 * _erf(x / SQRT2))


def gelu_derivative(x: Array) -> Array:
    """Phi(x) + x phi(x)."""
    return 0.5 + 0.5 * _erf(x / SQRT2) + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def silu(x: Array) -> Array:
    return x * _sigmoid(x)


def silu_derivative(x: Array) -> Array:
    s = _sigmoid(x)
    return s * (1.0 + x * (1.0 - s))


def gelu_derivative_range(low: Array, high: Array) -> Interval:
    """GELU'' = (2 - x^2) phi(x): the derivative is least at -sqrt 2 and greatest at sqrt 2."""
    return _range(low, high, gelu_derivative, -SQRT2, SQRT2)


def silu_range(low: Array, high: Array) -> Interval:
    return _range(low, high, silu, SILU_LEAST, None)


def silu_derivative_range(low: Array, high: Array) -> Interval:
    return _range(low, high, silu_derivative, -SILU_BEND, SILU_BEND)


def relu_derivative_range(low: Array, high: Array) -> Interval:
    # Written so that an end that is no number allows both 0 and 1.
    return Interval.between((low > 0).astype(np.float64), (~(high <= 0)).astype(np.float64))


def _range(
    low: Array, high: Array, function: Callable[[Array], Array], least: float, greatest: float | None
) -> Interval:
    """Exact range of a function that falls to ``least``, rises to ``greatest`` and falls again."""
    at_low, at_high = function(low), function(high)
    bottom, top = np.minimum(at_low, at_high), np.maximum(at_low, at_high)
    bottom = np.where((low < least) & (least < high), function(np.array([least])), bottom)
    if greatest is not None:
        top = np.where((low < greatest) & (greatest < high), function(np.array([greatest])), top)
    return Interval.between(bottom, top)


# Bounds of the margins.


@dataclass(frozen=True, kw_only=True)
class MarginBounds:
    """Bounds of the scaled margins against the V - 1 other tokens, and of the last norm's scale."""

    low_NT: Array
    """Lower bound of g_t over the box."""
    high_NT: Array
    middle_NT: Array
    """g_t at the centre."""
    scale_low_N: Array
    scale_high_N: Array

    def true_low_N(self) -> Array:
        """Lower bound of the smallest margin in true logits."""
        worst_N = self.low_NT.min(1)
        return np.where(worst_N > 0, worst_N / self.scale_high_N, worst_N / self.scale_low_N)


def competitors(target: int, vocab: int) -> list[int]:
    """The tokens that compete with ``target``, ascending."""
    return [token for token in range(vocab) if token != target]


def _project(x: Array, kind: str) -> Array:
    """LayerNorm's subtraction of the mean; a linear map."""
    return x - x.mean(-1, keepdims=True) if kind == "layer" else x


def _scale(x_ND: Array, eps: float) -> Array:
    return np.sqrt((x_ND * x_ND).mean(-1) + eps)


@dataclass(frozen=True, kw_only=True)
class _StreamBoxes:
    """Boxes of the residual stream: x = centre + sum_k (+- radius_k) R_k."""

    x_ND: Array
    R_NKD: Array
    radius_NK: Array


@dataclass(frozen=True, kw_only=True)
class _Linear:
    """norm2(x) @ matrix + bias over boxes: at the centre, Jacobian, reach, and size of its terms."""

    value_NF: Array
    jacobian_NKF: Interval
    reach_NF: Array
    size_NF: Array

    @property
    def low(self) -> Array:
        return self.value_NF - self.reach_NF

    @property
    def high(self) -> Array:
        return self.value_NF + self.reach_NF


def _after_norm2(head: Head, stream: _StreamBoxes, matrix_DF: Array, bias_F: Array) -> _Linear:
    """With X_f affine in u and rho the norm's scale, value_f = X_f / rho + bias_f.

    The norm's weight is folded into the matrix, so that X and rho are all that depends on u.
    """
    kind, eps, D = head.norm2.kind, head.norm2.eps, matrix_DF.shape[0]
    folded_DF = head.norm2_weight[:, None] * matrix_DF
    bias_F = bias_F + head.norm2_bias @ matrix_DF
    x_ND, R_NKD = _project(stream.x_ND, kind), _project(stream.R_NKD, kind)
    radius_NK = stream.radius_NK
    X_NF, R_NKF = x_ND @ folded_DF, R_NKD @ folded_DF
    X_reach_NF = np.einsum("nk,nkf->nf", radius_NK, np.abs(R_NKF))
    size_NF = np.abs(x_ND) @ np.abs(folded_DF)
    if kind == "none":
        return _Linear(
            value_NF=X_NF + bias_F,
            jacobian_NKF=Interval(R_NKF, np.zeros_like(R_NKF)),
            reach_NF=X_reach_NF,
            size_NF=size_NF + np.abs(bias_F),
        )
    rho_N = _scale(x_ND, eps)
    gram_NKK = np.abs(R_NKD @ R_NKD.transpose(0, 2, 1))
    dot_NK = Interval(
        np.einsum("nd,nkd->nk", x_ND, R_NKD) / D, np.einsum("nkl,nl->nk", gram_NKK, radius_NK) / D
    )
    # d rho / d u_k = x . R_k / (D rho), and by Cauchy-Schwarz at most sqrt(R_k . R_k / D).
    crude_N = np.einsum("nk,nkk->n", radius_NK, np.sqrt(gram_NKK)) / math.sqrt(D)
    least_N = np.maximum(rho_N - crude_N, math.sqrt(eps))
    stray_N = np.minimum(crude_N, (dot_NK.most() * radius_NK).sum(1) / least_N)
    rho_low_N, rho_high_N = np.maximum(rho_N - stray_N, math.sqrt(eps)), rho_N + stray_N
    inverse = Interval.between(1.0 / rho_high_N, 1.0 / rho_low_N)
    turn_NK = dot_NK.times(Interval.between(rho_high_N**-2, rho_low_N**-2).axis(1))
    bent = turn_NK.axis(2).times(Interval(X_NF, X_reach_NF).axis(1))
    jacobian_NKF = Interval(R_NKF - bent.middle, bent.radius).times(inverse.axis(1, 2))
    return _Linear(
        value_NF=X_NF / rho_N[:, None] + bias_F,
        jacobian_NKF=jacobian_NKF,
        reach_NF=np.einsum("nk,nkf->nf", radius_NK, jacobian_NKF.most()),
        size_NF=size_NF / rho_N[:, None] + np.abs(bias_F),
    )


def _hidden(head: Head, stream: _StreamBoxes) -> tuple[Array, Interval, Array]:
    """Hidden units at the centre, the interval of their derivative, and the size of their terms."""
    first = _after_norm2(head, stream, head.fc1_DF, head.fc1_bias)
    if head.activation == "relu":
        derivative = relu_derivative_range(first.low, first.high)
        return (
            np.maximum(first.value_NF, 0.0),
            first.jacobian_NKF.times(derivative.axis(1)),
            first.size_NF,
        )
    if head.activation == "gelu":
        derivative = gelu_derivative_range(first.low, first.high)
        return gelu(first.value_NF), first.jacobian_NKF.times(derivative.axis(1)), first.size_NF
    assert head.activation == "swiglu" and head.gate_DF is not None, head.activation
    gate = _after_norm2(head, stream, head.gate_DF, np.zeros(head.gate_DF.shape[1]))
    turned = silu_derivative_range(gate.low, gate.high).times(Interval(first.value_NF, first.reach_NF))
    jacobian_NKF = gate.jacobian_NKF.times(turned.axis(1)).plus(
        first.jacobian_NKF.times(silu_range(gate.low, gate.high).axis(1))
    )
    size_NF = (1.0 + gate.size_NF) * (1.0 + first.size_NF)
    return silu(gate.value_NF) * first.value_NF, jacobian_NKF, size_NF


def _one_target(head: Head, stream: _StreamBoxes, target: int) -> MarginBounds:
    """Bounds for boxes that share the right token."""
    D, V = head.unembed_DV.shape
    gap_DT = head.unembed_DV[:, [target]] - head.unembed_DV[:, competitors(target, V)]
    # Rows of nearly equal tokens cancel in the gap, their own rounding does not.
    rows_DT = np.abs(head.unembed_DV[:, [target]]) + np.abs(head.unembed_DV[:, competitors(target, V)])
    beta_T = head.norm_f_bias @ gap_DT
    kind, eps = head.norm_f.kind, head.norm_f.eps
    d_DT = head.norm_f_weight[:, None] * gap_DT
    if kind == "layer":
        d_DT = d_DT - d_DT.mean(0)

    hidden_NF, hidden_jacobian, hidden_size_NF = _hidden(head, stream)
    x2_ND = stream.x_ND + hidden_NF @ head.fc2_FD + head.fc2_bias
    size_ND = np.abs(stream.x_ND) + hidden_size_NF @ np.abs(head.fc2_FD) + np.abs(head.fc2_bias)
    # fc2 @ d is formed before absolute values are taken, or the hidden units could not cancel.
    out_FT = head.fc2_FD @ d_DT
    middle_NT, size_NT = x2_ND @ d_DT, size_ND @ np.abs(d_DT)
    jacobian_NKT = Interval(
        stream.R_NKD @ d_DT + hidden_jacobian.middle @ out_FT, hidden_jacobian.radius @ np.abs(out_FT)
    )

    scale_N = scale_low_N = scale_high_N = np.ones(len(x2_ND))
    if kind != "none":
        # The stream after the MLP, and how far it moves over the box.
        flow_stray_NKD = hidden_jacobian.radius @ np.abs(head.fc2_FD)
        if kind == "layer":
            flow_stray_NKD = flow_stray_NKD + flow_stray_NKD.mean(-1, keepdims=True)
        flow = Interval(
            _project(stream.R_NKD + hidden_jacobian.middle @ head.fc2_FD, kind), flow_stray_NKD
        )
        x2_NKD = Interval(_project(x2_ND, kind), np.einsum("nk,nkd->nd", stream.radius_NK, flow.most()))
        scale_N, stray_N = _scale(x2_NKD.middle, eps), _scale(x2_NKD.radius, 0.0)
        scale_low_N, scale_high_N = np.maximum(scale_N - stray_N, math.sqrt(eps)), scale_N + stray_N
        if beta_T.any():
            # d scale / d u_k = x2 . flow_k / (D scale).
            along = x2_NKD.axis(1).times(flow)
            turn = Interval(along.middle.sum(-1) / D, along.radius.sum(-1) / D).times(
                Interval.between(1.0 / scale_high_N, 1.0 / scale_low_N).axis(1)
            )
            jacobian_NKT = jacobian_NKT.plus(
                Interval(turn.middle[:, :, None] * beta_T, turn.radius[:, :, None] * np.abs(beta_T))
            )
    if beta_T.any():
        middle_NT = middle_NT + scale_N[:, None] * beta_T
        size_NT = size_NT + scale_N[:, None] * np.abs(beta_T)
    reach_NT = np.einsum("nk,nkt->nt", stream.radius_NK, jacobian_NKT.most())
    table_NT = size_ND @ (np.abs(head.norm_f_weight)[:, None] * rows_DT)
    if beta_T.any():
        table_NT = table_NT + scale_N[:, None] * (np.abs(head.norm_f_bias) @ rows_DT)
    slack_NT = np.maximum(SLACK * (size_NT + reach_NT), TABLE_SLACK * table_NT)
    return MarginBounds(
        low_NT=middle_NT - reach_NT - slack_NT,
        high_NT=middle_NT + reach_NT + slack_NT,
        middle_NT=middle_NT,
        scale_low_N=scale_low_N * (1 - SLACK),
        scale_high_N=scale_high_N * (1 + SLACK),
    )


def margin_bounds(
    head: Head,
    residual_ND: Array,
    out_NKD: Array,
    low_NK: Array,
    high_NK: Array,
    target_N: NDArray[np.int64],
) -> MarginBounds:
    """Bounds of the scaled margins over N boxes low <= u <= high, x = residual + u @ out."""
    N = len(low_NK)
    T = head.unembed_DV.shape[1] - 1
    centre_NK, radius_NK = Interval.between(low_NK, high_NK)
    # The middle is rounded: the radius must still reach both ends.
    radius_NK = radius_NK + np.finfo(float).eps * np.maximum(np.abs(low_NK), np.abs(high_NK))
    result = MarginBounds(
        low_NT=np.empty((N, T)),
        high_NT=np.empty((N, T)),
        middle_NT=np.empty((N, T)),
        scale_low_N=np.empty(N),
        scale_high_N=np.empty(N),
    )
    for target in range(RADIX):
        of_target = np.flatnonzero(target_N == target)
        for start in range(0, len(of_target), CHUNK):
            rows = of_target[start : start + CHUNK]
            R_NKD = out_NKD[rows]
            x_ND = residual_ND[rows] + np.einsum("nk,nkd->nd", centre_NK[rows], R_NKD)
            stream = _StreamBoxes(x_ND=x_ND, R_NKD=R_NKD, radius_NK=radius_NK[rows])
            part = _one_target(head, stream, target)
            for name, whole in vars(result).items():
                whole[rows] = getattr(part, name)
    # A comparison with a number that is none is false, which would read as "not wrong" further on.
    if not all(np.isfinite(whole).all() for whole in vars(result).values()):
        raise Failure(TOO_LARGE)
    return result


def margins_at(
    head: Head, residual_ND: Array, out_NKD: Array, y_NK: Array, target_N: NDArray[np.int64]
) -> Array:
    """True margins in logits against the other tokens at points: (N, V - 1)."""
    point = margin_bounds(head, residual_ND, out_NKD, y_NK, y_NK, target_N)
    scale_N = 0.5 * (point.scale_low_N + point.scale_high_N)
    return point.middle_NT / scale_N[:, None]


# The verdict on boxes, cut into parts where that helps.


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """N boxes low <= u <= high with the stream x = residual + u @ out and the right token of each.

    Rows of ``residual`` and ``out`` are picked by ``row_N``: many boxes share them.
    """

    low_NK: Array
    high_NK: Array
    residual_RD: Array
    out_RKD: Array
    pivot_RH: Ints
    """Which of the K functionals is the pivot of each head."""
    row_N: Ints
    target_N: Ints

    def take(self, rows: NDArray) -> Boxes:
        return Boxes(
            low_NK=self.low_NK[rows],
            high_NK=self.high_NK[rows],
            residual_RD=self.residual_RD,
            out_RKD=self.out_RKD,
            pivot_RH=self.pivot_RH,
            row_N=self.row_N[rows],
            target_N=self.target_N[rows],
        )

    def margins(self, head: Head) -> MarginBounds:
        return margin_bounds(
            head,
            self.residual_RD[self.row_N],
            self.out_RKD[self.row_N],
            self.low_NK,
            self.high_NK,
            self.target_N,
        )

    def cut(self, parts: int) -> Boxes:
        """Every box cut into ``parts`` equal parts along each head's pivot: N * parts^H boxes."""
        N, H = len(self.low_NK), self.pivot_RH.shape[1]
        cuts = np.array(list(itertools.product(range(parts), repeat=H)))
        rows = np.repeat(np.arange(N), len(cuts))
        part = np.tile(cuts, (N, 1))
        low, high = self.low_NK[rows], self.high_NK[rows]
        each = np.arange(len(rows))
        for h in range(H):
            pivot = self.pivot_RH[self.row_N[rows], h]
            start, size = low[each, pivot], high[each, pivot] - low[each, pivot]
            low[each, pivot] = start + size * part[:, h] / parts
            last = part[:, h] == parts - 1
            high[each, pivot] = np.where(
                last, high[each, pivot], start + size * (part[:, h] + 1) / parts
            )
        return Boxes(
            low_NK=low,
            high_NK=high,
            residual_RD=self.residual_RD,
            out_RKD=self.out_RKD,
            pivot_RH=self.pivot_RH,
            row_N=self.row_N[rows],
            target_N=self.target_N[rows],
        )


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Verdict per box, its smallest true margin (a lower bound), and the parts it was cut into."""

    status_N: NDArray[np.int8]
    margin_N: Array
    parts_N: Ints


def classify(bounds: MarginBounds) -> NDArray[np.int8]:
    """RIGHT where every margin is positive, WRONG where one is negative everywhere, else OPEN."""
    status = np.full(len(bounds.low_NT), OPEN, dtype=np.int8)
    status[(bounds.low_NT > 0).all(1)] = RIGHT
    status[(bounds.high_NT < 0).any(1)] = WRONG
    return status


def decide(head: Head, boxes: Boxes, max_parts: int = PART_STEPS[-1]) -> Decision:
    """Verdicts of N boxes; ``max_parts`` limits the cuts along each pivot."""
    N, H = len(boxes.low_NK), boxes.pivot_RH.shape[1]
    status_N = np.full(N, OPEN, dtype=np.int8)
    margin_N = np.full(N, -np.inf)
    parts_N = np.ones(N, dtype=np.int64)
    rows = np.arange(N)
    for parts in PART_STEPS:
        if not len(rows) or parts > max_parts:
            break
        if parts > 1 and (parts**H > PART_STEPS[-1] or len(rows) * parts**H > PART_BUDGET):
            break
        mixed = np.zeros(len(rows), dtype=bool)
        step = max(1, MAX_BATCH // parts**H)
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            bounds = (boxes.take(some) if parts == 1 else boxes.take(some).cut(parts)).margins(head)
            shape = (len(some), parts**H)
            each = classify(bounds).reshape(shape)
            # Centres on both sides of the decision: more cuts cannot make this box one thing.
            right_at = (bounds.middle_NT > 0).all(1).reshape(shape)
            status_N[some] = np.where(
                (each == RIGHT).all(1), RIGHT, np.where((each == WRONG).all(1), WRONG, OPEN)
            )
            margin_N[some] = np.maximum(margin_N[some], bounds.true_low_N().reshape(shape).min(1))
            parts_N[some] = parts
            mixed[start : start + step] = np.any(right_at, 1) & ~np.all(right_at, 1)
        rows = rows[(status_N[rows] == OPEN) & ~mixed]
    return Decision(status_N=status_N, margin_N=margin_N, parts_N=parts_N)


def raise_margins(head: Head, boxes: Boxes, decision: Decision, goal: float) -> Decision:
    """Cut boxes whose margin bound is below ``goal`` into more parts, for a sharper bound."""
    margin_N, parts_N = decision.margin_N.copy(), decision.parts_N.copy()
    H = boxes.pivot_RH.shape[1]
    for parts in PART_STEPS[1:]:
        rows = np.flatnonzero((margin_N < goal) & (parts_N < parts))
        if not len(rows) or parts**H > PART_STEPS[-1] or len(rows) * parts**H > PART_BUDGET:
            break
        step = max(1, MAX_BATCH // parts**H)
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            low_N = boxes.take(some).cut(parts).margins(head).true_low_N()
            new_N = low_N.reshape(len(some), -1).min(1)
            better = new_N > margin_N[some]
            margin_N[some] = np.where(better, new_N, margin_N[some])
            parts_N[some] = np.where(better, parts, parts_N[some])
    return Decision(status_N=decision.status_N, margin_N=margin_N, parts_N=parts_N)
