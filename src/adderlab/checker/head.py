"""Lower bounds of the margin over boxes of the attention output, rounded outward.

On a box low <= u <= high the residual stream is affine, x = x_0 + sum_k u_k R_k. With s the right
digit, t another token and sigma > 0 the last norm's scale, the scaled margin
g_t = sigma (logit_s - logit_t) satisfies, for any centre c of the box with radii r,

    g_t(u) >= g_t(c) - sum_k r_k max over the box |d g_t / d u_k|        (mean value form).

Every derivative is enclosed over the whole box by interval arithmetic. A box on which this is not
enough is halved and tried again, so the answer depends on no cleverness of the prover's.

Shapes: N boxes, K = heads times bottleneck, D width, F hidden, Q other tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adderlab.checker import functions
from adderlab.checker.intervals import (
    Array,
    Interval,
    concatenate,
    down,
    matmul,
    reach,
    symmetric,
    up,
)
from adderlab.checker.mean_value import MeanValueForm
from adderlab.checker.model import Head

BOXES_AT_ONCE = 2048
MOST_HALVINGS = 16
MOST_BOXES = 60_000
"""Boxes that halving may make of one batch before it gives up."""


@dataclass(frozen=True)
class Stream:
    """A quantity that depends on u: enclosed at the centre, over the box, and its derivatives there."""

    centre: Interval
    box: Interval
    jacobian: Interval
    """Derivatives over the box; the axis K stands second."""


@dataclass(frozen=True)
class Margins:
    """Enclosures for N boxes: g_t (N, Q) and sigma (N,), over the box and at its centre."""

    scaled_NQ: Interval
    sigma_N: Interval
    centre_NQ: Interval
    centre_sigma_N: Interval
    spread_NK: Array
    """Which coordinates the bound loses most in: what to halve."""

    def true_low_N(self) -> Array:
        """Lower bound of the smallest margin over the box, in logits."""
        worst_N = self.scaled_NQ.low.min(1)
        divisor = np.where(worst_N >= 0, self.sigma_N.high, self.sigma_N.low)
        return down(worst_N / divisor)

    def each_low_NQ(self) -> Array:
        """Lower bound of the margin over every other token, in logits."""
        divisor = np.where(
            self.scaled_NQ.low >= 0, self.sigma_N.high[:, None], self.sigma_N.low[:, None]
        )
        return down(self.scaled_NQ.low / divisor)

    def true_high_N(self) -> Array:
        """Upper bound, over the box, of the smallest margin at a point, in logits."""
        return _upper(self.scaled_NQ, self.sigma_N)

    def centre_high_N(self) -> Array:
        """The same at the centre alone: no halving can prove more than this."""
        return _upper(self.centre_NQ, self.centre_sigma_N)


def _upper(scaled_NQ: Interval, sigma_N: Interval) -> Array:
    worst_N = scaled_NQ.high.min(1)
    divisor = np.where(worst_N >= 0, sigma_N.low, sigma_N.high)
    return up(worst_N / divisor)


def _swell(centre: Interval, radius_NK: Array, jacobian: Interval) -> Interval:
    """Centre plus everything the derivatives allow: (N, ...), jacobian (N, K, ...)."""
    size = np.moveaxis(jacobian.magnitude(), 1, -1)
    radius = radius_NK.reshape(len(radius_NK), *[1] * (size.ndim - 2), radius_NK.shape[1])
    return centre + symmetric(reach(radius, size))


def _affine(at_centre: Interval, radius_NK: Array, jacobian: Interval) -> Stream:
    return Stream(at_centre, _swell(at_centre, radius_NK, jacobian), jacobian)


def _centred(x: Interval) -> Interval:
    """LayerNorm's subtraction of the mean, along the last axis."""
    mean = x.sum(-1) / float(x.shape[-1])
    return x - Interval(mean.low[..., None], mean.high[..., None])


def _along_last(x: Interval) -> Interval:
    return Interval(x.low[..., None], x.high[..., None])


def _second(x: Interval) -> Interval:
    """A new axis for K."""
    return Interval(x.low[:, None], x.high[:, None])


def _dot(x: Interval, y: Interval) -> Interval:
    return (x * y).sum(-1)


def _positive_sum(x: Interval) -> Interval:
    """Sum along the last axis of numbers that are not negative."""
    return x.sum(-1).nonnegative()


def _scale(norm: Stream, eps: Interval, radius_NK: Array) -> tuple[Stream, Interval]:
    """sigma(u) = sqrt(mean(z^2) + eps) of an affine z as a stream, and z . S_k over the box."""
    D = float(norm.centre.shape[-1])
    centre_N = _positive_sum(norm.centre.square())
    along_NK = _dot(_second(norm.centre), norm.jacobian)
    gram_NKK = matmul(norm.jacobian, norm.jacobian.transpose(0, 2, 1))
    wander_NK = reach(radius_NK[:, None, :], gram_NKK.magnitude())
    along_box_NK = along_NK + symmetric(wander_NK)
    # |c + d|^2 = |c|^2 + 2 c.d + |d|^2, and 0 <= |d|^2 <= sum r_k r_l |S_k . S_l|.
    linear_N = 2.0 * reach(radius_NK, along_NK.magnitude())
    square = (
        centre_N + symmetric(linear_N) + Interval(np.zeros_like(linear_N), reach(radius_NK, wander_NK))
    )
    lower = _positive_sum(_least_size(norm.box).square())
    square = Interval(np.maximum(square.low, lower.low), square.high)
    box_N = (square / D + eps).sqrt()
    at_centre_N = (centre_N / D + eps).sqrt()
    jacobian_NK = along_box_NK / (_along_last(box_N) * D)
    return Stream(at_centre_N, box_N, jacobian_NK), along_box_NK


def _least_size(x: Interval) -> Interval:
    """Smallest absolute value, as exact numbers."""
    return Interval(np.maximum(np.maximum(x.low, -x.high), 0.0))


def _after_norm(
    head: Head, x: Stream, radius_NK: Array, matrix_DF: Interval, bias_F: Interval
) -> Stream:
    """norm2(x) @ matrix + bias."""
    weight = _along_last(head.norm2_weight)
    folded_DF = weight * matrix_DF
    bias = bias_F + matmul(head.norm2_bias.reshape(1, -1), matrix_DF).reshape(-1)
    N, K, D = x.jacobian.shape
    F = folded_DF.shape[1]
    if head.norm2 == "none":
        at_centre = matmul(x.centre, folded_DF) + bias
        jacobian = matmul(x.jacobian.reshape(N * K, D), folded_DF).reshape(N, K, F)
        return _affine(at_centre, radius_NK, jacobian)
    if head.norm2 == "layer":
        x = _affine(_centred(x.centre), radius_NK, _centred(x.jacobian))
    sigma, along_NK = _scale(x, head.norm2_eps, radius_NK)
    inner = matmul(x.centre, folded_DF)
    inner_jacobian = matmul(x.jacobian.reshape(N * K, D), folded_DF).reshape(N, K, F)
    inner_box = _swell(inner, radius_NK, inner_jacobian)
    # d (X / sigma) = (X_k - X (z . S_k) / (D sigma^2)) / sigma.
    turn_NK = along_NK / (_along_last(sigma.box.square()) * float(D))
    jacobian = (inner_jacobian - _second(inner_box) * _along_last(turn_NK)) / _along_last(
        _second(sigma.box)
    )
    at_centre = inner / _along_last(sigma.centre) + bias
    box = _swell(at_centre, radius_NK, jacobian).meet(inner_box / _along_last(sigma.box) + bias)
    return Stream(at_centre, box, jacobian)


def _hidden(head: Head, x: Stream, radius_NK: Array) -> tuple[Interval, Interval]:
    """Hidden units at the centre (N, F) and their derivatives over the box (N, K, F)."""
    first = _after_norm(head, x, radius_NK, head.fc1, head.fc1_bias)
    if head.activation == "relu":
        return functions.relu(first.centre), _second(
            functions.relu_derivative(first.box)
        ) * first.jacobian
    if head.activation == "gelu":
        return functions.gelu(first.centre), _second(
            functions.gelu_derivative(first.box)
        ) * first.jacobian
    assert head.activation == "swiglu" and head.gate is not None
    gate = _after_norm(head, x, radius_NK, head.gate, Interval(np.zeros(head.gate.shape[1])))
    jacobian = _second(functions.silu_derivative(gate.box) * first.box) * gate.jacobian
    jacobian = jacobian + _second(functions.silu(gate.box)) * first.jacobian
    return functions.silu(gate.centre) * first.centre, jacobian


def margins(head: Head, right: int, x0_ND: Interval, R_NKD: Interval, low_NK: Array, high_NK: Array):
    """``Margins`` of token ``right`` against every other token on N boxes."""
    D, V = head.unembed.shape
    N, K, _ = R_NKD.shape
    F = head.fc2.shape[0]
    others = [token for token in range(V) if token != right]
    gap_DQ = head.unembed[:, [right]] - head.unembed[:, others]
    d_DQ = _along_last(head.norm_f_weight) * gap_DQ

    middle_NK, radius_NK = Interval(low_NK, high_NK).mid_rad()
    moved = (Interval(middle_NK[..., None]) * R_NKD).sum(1)
    x = _affine(x0_ND + moved, radius_NK, R_NKD)
    hidden_NF, hidden_NKF = _hidden(head, x, radius_NK)
    x2_ND = x.centre + matmul(hidden_NF, head.fc2) + head.fc2_bias
    x2_NKD = R_NKD + matmul(hidden_NKF.reshape(N * K, F), head.fc2).reshape(N, K, D)
    if head.norm_f == "layer":
        # (x - mean x) . d = x . (d - mean d).
        d_DQ = _centred(d_DQ.transpose(1, 0)).transpose(1, 0)
    g_NQ = matmul(x2_ND, d_DQ)
    # The products with fc2 @ d are formed before sizes are taken: they cancel.
    through_FQ = matmul(head.fc2, d_DQ)
    jacobian_NKQ = matmul(R_NKD.reshape(N * K, D), d_DQ) + matmul(
        hidden_NKF.reshape(N * K, F), through_FQ
    )
    jacobian_NKQ = jacobian_NKQ.reshape(N, K, V - 1)

    if head.norm_f == "none":
        one = Interval(np.ones(N))
        sigma = Stream(one, one, Interval(np.zeros((N, K))))
    else:
        z = Stream(x2_ND, x2_ND, x2_NKD)
        if head.norm_f == "layer":
            z = Stream(_centred(x2_ND), x2_ND, _centred(x2_NKD))
        z = _affine(z.centre, radius_NK, z.jacobian)
        sigma = _last_scale(z, head.norm_f_eps, radius_NK)
    beta_Q = matmul(head.norm_f_bias.reshape(1, -1), gap_DQ).reshape(-1)
    if beta_Q.magnitude().any():
        g_NQ = g_NQ + _along_last(sigma.centre) * beta_Q
        jacobian_NKQ = jacobian_NKQ + _along_last(sigma.jacobian) * beta_Q
    size_NKQ = jacobian_NKQ.magnitude()
    g_box = _swell(g_NQ, radius_NK, jacobian_NKQ)
    worst_N = g_box.low.argmin(1)
    spread_NK = radius_NK * size_NKQ[np.arange(N), :, worst_N]
    return Margins(g_box, sigma.box, g_NQ, sigma.centre, spread_NK)


def _last_scale(z: Stream, eps: Interval, radius_NK: Array) -> Stream:
    """sigma over the box when z's derivatives are only known as intervals."""
    D = float(z.centre.shape[-1])
    at_centre_N = (_positive_sum(z.centre.square()) / D + eps).sqrt()
    # sigma is the length of a vector over sqrt D: it cannot change by more than that vector does.
    step_ND = reach(radius_NK[:, None, :], z.jacobian.magnitude().transpose(0, 2, 1))
    change_N = (_positive_sum(Interval(step_ND).square()) / D).nonnegative().sqrt().high
    floor_N = eps.sqrt().low
    box_N = at_centre_N + symmetric(change_N)
    box_N = Interval(np.maximum(box_N.low, floor_N), box_N.high)
    along_NK = _dot(_second(z.box), z.jacobian)
    jacobian_NK = along_NK / (_along_last(box_N) * D)
    closer = _swell(at_centre_N, radius_NK, jacobian_NK)
    box_N = Interval(np.maximum(box_N.low, closer.low), np.minimum(box_N.high, closer.high))
    return Stream(at_centre_N, box_N, jacobian_NK)


def residual_stream(x0_ND: Interval, R_NKD: Interval, low_NK: Array, high_NK: Array) -> MeanValueForm:
    """x over boxes, coordinate by coordinate: (N, D)."""
    middle_NK, radius_NK = Interval(low_NK, high_NK).mid_rad()
    centre_ND = x0_ND + (Interval(middle_NK[..., None]) * R_NKD).sum(1)
    box = _affine(centre_ND, radius_NK, R_NKD).box
    K = range(radius_NK.shape[1])
    return MeanValueForm(
        centre_ND, box, tuple(R_NKD[:, k] for k in K), tuple(radius_NK[:, k] for k in K)
    )


Rows = tuple[Interval, NDArray[np.intp]]
"""A table and, for every box, the row of it that belongs to the box."""


def proved_margins(
    head: Head, right: int, x0: Rows, directions: Rows, low_NK: Array, high_NK: Array, wanted: float
) -> Array:
    """A lower bound of the true margin on each box, (N,); boxes are halved until it reaches ``wanted``
    or halving is given up: then it is not a number, which means that nothing is proved."""
    out_N = np.full(len(low_NK), np.nan)
    for start in range(0, len(low_NK), BOXES_AT_ONCE):
        part = slice(start, start + BOXES_AT_ONCE)
        own_ND, own_NKD = (table[row[part]] for table, row in (x0, directions))
        out_N[part] = _halving(head, right, own_ND, own_NKD, low_NK[part], high_NK[part], wanted)
        if np.isnan(out_N[part]).any():
            break
    return out_N


def _halving(
    head: Head, right: int, x0: Interval, R: Interval, low: Array, high: Array, wanted: float
) -> Array:
    proved = np.full(len(low), np.inf)
    owner, tried = np.arange(len(low)), 0
    for _ in range(MOST_HALVINGS):
        found = margins(head, right, x0, R, low, high)
        best = found.true_low_N()
        good = best >= wanted
        np.minimum.at(proved, owner[good], best[good])
        bad = ~good
        owner, x0, R, low, high = owner[bad], x0[bad], R[bad], low[bad], high[bad]
        tried += 2 * len(owner)
        if not len(owner):
            return proved
        if tried > MOST_BOXES or not (found.centre_high_N()[bad] >= wanted).all():
            break
        spread = found.spread_NK[bad]
        rows, axis = np.arange(len(owner)), np.where(np.isfinite(spread), spread, 0.0).argmax(1)
        cut = low[rows, axis] + 0.5 * (high[rows, axis] - low[rows, axis])
        left_high, right_low = high.copy(), low.copy()
        left_high[rows, axis] = right_low[rows, axis] = cut
        low, high = np.concatenate([low, right_low]), np.concatenate([left_high, high])
        owner = np.concatenate([owner, owner])
        x0, R = concatenate([x0, x0]), concatenate([R, R])
    proved[owner] = np.nan
    return proved
