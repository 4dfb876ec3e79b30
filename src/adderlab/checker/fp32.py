"""The floating-point question: is greedy decoding right as run in fp32?

Rounding moves the fp32 logits of a model away from the real ones: of a configuration's readable model
(``adderlab.models.transformer``), or of a file's recorded operations (``recorded``). Here that is
bounded on every box of a certificate, and compared with the margin that the checker has proved there.
Assumptions and what is not covered: docs/proof.md, "Floating point".

The attention's error is bounded once for each step and query token, over all keys. Two effects are
kept apart. Wrong weights: fp32 mixes the values with weights w_p (1 + eta_p). Such a mix is again an
average of values, only another one, so it moves u by at most

    sum w_p |eta_p| |f.U_p - u| / (1 - max |eta|),

which is small because the keys with weight have values near the mix: the box is widened by it.
Everything else (wrong values, the sums, the output projection) is an error of the stream after it. The
head's error is bounded on each box: first forwards, and where that is too much, backwards
(``rounding``).

Shapes: N boxes, V vocabulary, P positions, H heads, G key and value heads, K key width, E value width,
D width, M keys (position and token) that can occur at a step, Z query tokens, L slots, T digits, C
constant keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from adderlab.checker import primitives, rounding
from adderlab.checker.head import residual_stream
from adderlab.checker.intervals import (
    Array,
    Interval,
    above,
    concatenate,
    down,
    matmul,
    up,
)
from adderlab.checker.mean_value import Real
from adderlab.checker.model import Model, Step
from adderlab.checker.primitives import Primitive
from adderlab.checker.ranges import own_keys
from adderlab.checker.rounding import EXP_ULPS, FP32, Rounded, moved_along_each, moved_by_rounding
from adderlab.checker.steps import LEAST, Batch, Boxes, Examination, settle
from adderlab.checker.tracing import (
    Logits,
    Noisy,
    Tracing,
    logits_after_attention,
    one_by_one,
    others_than,
    read_out_after_attention,
    real_margins,
    value_of,
)
from adderlab.errors import Failure
from adderlab.models.maps import rotary, rotate
from adderlab.models.transformer import Transformer

MOST_HALVINGS = 8
ROWS_AT_ONCE = 1024
EFFORT = 100_000
"""Halves of boxes examined in all before the question is given up: some 25 seconds."""
GOOD_SHARE = 0.5
"""Errors are drawn backwards where adding them forwards leaves less than this share of the margin
that the certificate claims for the step; so the fp32 margin reported means something."""
CLOSER_HALVINGS = 2
"""As often a box is halved also where a small part of that margin is left, for the same reason."""

# The attention's error.


@dataclass(frozen=True, kw_only=True)
class StepError:
    """Of one step: relative errors of the weights, and what else fp32 does before the projection."""

    eta_ZHLT: Array
    eta_ZHC: Array
    mixed: Rounded
    """The average of values that each query token sees, all heads side by side: (Z, H * E)."""


class Arithmetic(Protocol):
    """A model's own operations with their rounding errors. Rows are (position, token)."""

    what: str
    """Whose operations they are."""

    def relies_on(self, primitive: str) -> bool:
        """Whether some operation of the model is this one of ``primitives``."""

    def values(self, rows: Sequence[Row]) -> Rounded:
        """What the attention mixes: (rows, H, 1, E)."""

    def scores(self, query: Row, keys: Sequence[Row]) -> Rounded:
        """(H, M)."""

    def stream(self, step: Step, error: StepError, z_N: NDArray[np.intp], real: Real) -> Rounded:
        """The stream after the attention, (N, D), of rows whose query tokens are ``step.tokens[z_N]``
        and whose real values are known."""

    def read_out(self, step: Step, z_N: NDArray[np.intp], x_ND: Rounded) -> Logits:
        """What the model makes of the stream: (N, V), with the way from where it was cut off."""

    def logits(self, step: Step, z_N: NDArray[np.intp], x_ND: Rounded) -> Rounded:
        """The same with the whole way."""


Row = tuple[int, int]


def _rows(x: Rounded, z_N: NDArray[np.intp]) -> Rounded:
    err = x.err[z_N]
    return Rounded(x.known[z_N], err, x.format, True, err)


@dataclass(frozen=True)
class _Projected:
    """Of B rows (token, position): what ``Attention.forward`` computes before the scores."""

    query: Rounded
    key: Rounded
    value: Rounded
    stream: Rounded
    """(B, H, 1, K), (B, H, 1, K), (B, H, 1, E) and (B, 1, D), with the way they came."""


def projected(module: Transformer, rows: Sequence[tuple[int, int]]) -> _Projected:
    """``rows`` are (position, token)."""
    config, attention, layout = module.config, module.block(0).attn, module.layout
    V, P, H, G = layout.vocab_size, layout.num_positions, config.n_head, config.kv_heads
    B = len(rows)
    positions, tokens = (list(part) for part in zip(*rows, strict=True))
    tokens_VP = torch.arange(V)[:, None].expand(V, P).contiguous()
    shared = torch.arange(H) // (H // G)
    with torch.no_grad(), Tracing():
        embedded = module._embed(tokens_VP)
    every, index = value_of(embedded), (tokens, positions, np.newaxis)
    stream = Rounded(every.known[index], every.err[index], every.format, True, every.err[index])
    with torch.no_grad(), Tracing():
        x_B1D = Noisy(stream)
        query, key, value = attention._project(module.block(0).ln1(x_B1D))
        q = query.view(B, 1, H, -1).transpose(1, 2)
        k, v = (y.view(B, 1, G, -1).transpose(1, 2) for y in (key, value))
        if config.qk_norm != "none":
            q, k = attention.q_norm(q), attention.k_norm(k)
        if config.rope_theta is not None:
            angles = rotary(positions, config.key_width, config.rope_theta)
            cos, sin = (t.to(x_B1D.dtype)[:, None, None] for t in angles)
            q, k = (rotate(y, cos, sin, config.rope_pairs) for y in (q, k))
        k, v = k[:, shared], v[:, shared]
    return _Projected(value_of(q), value_of(k), value_of(v), stream)


def _score_errors(query: Rounded, key: Rounded) -> Array:
    """How far the roundings behind queries and keys move q . k: (H, queries, keys).

    (q + dq) . (k + dk) - q . k = dq . (k + dk) + q . dk, each drawn back through the operations.
    """
    H = query.shape[1]
    moved = []
    for h in range(H):
        by_key_AB = moved_along_each(key, _axes(key, h), query.known[:, h, 0])
        by_query_BA = moved_along_each(query, _axes(query, h), key.range[:, h, 0])
        moved.append(up(by_key_AB + by_query_BA.T))
    return np.stack(moved)


def _axes(x: Rounded, h: int) -> list[Interval]:
    """One for each channel of head h, of every row: (rows, H, 1, K)."""
    axes = np.zeros((x.shape[3], *x.shape))
    for k, axis in enumerate(axes):
        axis[:, h, 0, k] = 1.0
    return [Interval(axis) for axis in axes]


def weight_error(score_HM: Rounded) -> Array:
    """Bound of |eta| for exp(score - largest score), before normalising: (H, M)."""
    u = FP32.unit
    spread_H1 = up(score_HM.range.high.max(1) - score_HM.range.low.min(1))[:, None]
    exponent = up(up(score_HM.err + 2 * u * spread_H1) + FP32.flush)
    # |e^x - 1| <= x + x^2 for 0 <= x <= 1; beyond, the weights are lost.
    small = (exponent <= 0.1) & (spread_H1 < FP32.limit)
    grown = np.where(small, up(exponent * up(1.0 + exponent)), np.inf)
    rho = 2.0 * EXP_ULPS * u
    return up(up(grown * (1.0 + 2 * rho)) + rho)


def mix_error(value: Rounded, chosen: np.ndarray, terms: int) -> tuple[Interval, Array]:
    """softmax(score) @ value in fp32, apart from wrong weights: a range of the result, and a bound of
    the error, (H, E). ``terms`` is the number of keys mixed, one for each position; those behind the
    query have weight zero and add nothing, exactly. A weight below 2^-126 may be lost; the largest
    before normalising is 1."""
    u = FP32.unit
    size, worst = value.range[chosen, :, 0].magnitude().max(0), value.err[chosen, :, 0].max(0)
    # The sum of the weights, the division and the sum of the products: 2 terms + 6 roundings.
    kappa = (2 * terms + 6) * u * (1.0 + 4.0 * terms * u)
    lost = 8 * terms * FP32.flush
    error = up(up(worst * (1.0 + kappa)) + up(up(size * (kappa + lost)) + lost))
    error = np.where(2.0 * terms * size < FP32.limit, error, np.inf)
    real = value.known[chosen, :, 0]
    return Interval(real.low.min(0), real.high.max(0)), error


def rows_read(model: Model) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(position, token) of every query and of every key that a step can have."""
    geometry, fixed = model.geometry, dict(model.geometry.separators)
    at = geometry.query_positions

    def rows(positions: Iterable[int]) -> list[tuple[int, int]]:
        tokens_at = {p: [fixed[p]] if p in fixed else geometry.tokens_at(p) for p in positions}
        return [(p, t) for p, tokens in tokens_at.items() for t in tokens]

    return rows(at), rows(range(at[-1] + 1))


def attention_errors(arithmetic: Arithmetic, model: Model) -> list[StepError]:
    """For every step of the model that ``arithmetic`` computes in fp32."""
    if any(len(step.bands) > 1 for step in model.steps):
        raise Failure("scores spread so far that fp32 may lose every attention weight that counts")
    geometry, n, H = model.geometry, model.columns, model.heads
    fixed = dict(geometry.separators)
    slot_of = {} if geometry.pairs else {p: n + j for j, p in enumerate(geometry.b_positions)}
    slot_of |= {p: j for j, p in enumerate(geometry.a_positions)}
    slot_of |= {p: 2 * n + j for j, p in enumerate(geometry.sum_positions)}
    _, known = rows_read(model)
    values = arithmetic.values(known)
    key_of = {row: number for number, row in enumerate(known)}

    found = []
    for step in model.steps:
        at = geometry.query_positions[step.index]
        constant = [(p, t) for p, t in geometry.separators if p < at]
        seen = [row for row in known if row[0] < at and row[0] not in fixed]
        slots = np.array([slot_of[p] for p, _ in seen], dtype=np.intp)
        places = np.array([t - geometry.tokens_at(p)[0] for p, t in seen], dtype=np.intp)
        eta_ZHLT = np.zeros((len(step.tokens), H, 3 * n, geometry.choices))
        eta_ZHC = np.zeros((len(step.tokens), H, len(constant) + 1))
        ranges, errors = [], []
        for row, z in enumerate(step.tokens):
            keys = [*seen, *constant, (at, z)]
            eta_HM = weight_error(arithmetic.scores((at, z), keys))
            eta_ZHLT[row, :, slots, places] = eta_HM[:, : len(seen)].T
            eta_ZHC[row] = eta_HM[:, len(seen) :]
            real, error = mix_error(values, np.array([key_of[each] for each in keys]), at + 1)
            ranges.append(Interval(real.low.reshape(1, -1), real.high.reshape(1, -1)))
            errors.append(error.reshape(1, -1))
        mixed = Rounded(concatenate(ranges), np.concatenate(errors))
        found.append(StepError(eta_ZHLT=eta_ZHLT, eta_ZHC=eta_ZHC, mixed=mixed))
    return found


class ReadableArithmetic:
    """Of a configuration: the code of the readable module."""

    what = "the readable model"

    def __init__(self, module: Transformer, model: Model) -> None:
        self.module = module
        asked, known = rows_read(model)
        self._asked = {row: number for number, row in enumerate(asked)}
        self._known = {row: number for number, row in enumerate(known)}
        self._at = model.geometry.query_positions
        self._queries, self._keys = projected(module, asked), projected(module, known)
        self._moved_HAB = _score_errors(self._queries.query, self._keys.key)

    def relies_on(self, primitive: str) -> bool:
        """All but the activations that the model does not have."""
        own = {"gelu": "gelu", "swiglu": "silu"}.get(self.module.config.activation)
        return primitive == own or primitive not in ("gelu", "silu", *primitives.OTHERS)

    def values(self, rows: Sequence[Row]) -> Rounded:
        """See ``Arithmetic``."""
        chosen, value = [self._known[row] for row in rows], self._keys.value
        return Rounded(value.known[chosen], value.err[chosen], value.format)

    def scores(self, query: Row, keys: Sequence[Row]) -> Rounded:
        """q . k / sqrt(K)."""

        def product(q_HK: Array, k_MHK: Array) -> Array:
            return np.einsum("hk,mhk->hm", q_HK, k_MHK)

        a, chosen = self._asked[query], np.array([self._known[row] for row in keys])
        query_AH1K, key_BH1K = self._queries.query, self._keys.key
        K = query_AH1K.shape[3]
        key_HKM = key_BH1K.known[chosen, :, 0].transpose(1, 2, 0)
        real = matmul(query_AH1K.known[a, :, 0][:, None], key_HKM)[:, 0]
        size = product(query_AH1K.range[a, :, 0].magnitude(), key_BH1K.range[chosen, :, 0].magnitude())
        size = above(size, K)
        own = up(K * FP32.unit * (1.0 + 2.0 * K * FP32.unit) * size + K * FP32.flush)
        own = np.where(size < FP32.limit, own, np.inf)
        dot = Rounded(real, up(self._moved_HAB[:, a, chosen] + own))
        return rounding.divide(dot, rounding.constant(math.sqrt(self.module.config.key_width), FP32))

    def stream(self, step: Step, error: StepError, z_N: NDArray[np.intp], real: Real) -> Rounded:
        """What is wrong before the projection can be drawn back through it."""
        at, stream = self._at[step.index], self._queries.stream
        asking = np.array([self._asked[at, z] for z in step.tokens])[z_N]
        mixed = _rows(error.mixed, z_N)
        start = _rows(Rounded(stream.known[:, 0], stream.err[:, 0]), asking)
        with torch.no_grad(), Tracing():
            after = value_of(Noisy(start) + self.module.block(0).attn.written(Noisy(mixed)))
        return Rounded(real, after.err, after.format, True, after.local, after.parents)

    def read_out(self, step: Step, z_N: NDArray[np.intp], x_ND: Rounded) -> Logits:
        """Cut off after the MLP."""
        return read_out_after_attention(self.module, x_ND)

    def logits(self, step: Step, z_N: NDArray[np.intp], x_ND: Rounded) -> Rounded:
        """See ``Arithmetic``."""
        return logits_after_attention(self.module, x_ND)


def drift(batch: Batch, error: StepError) -> Array:
    """How far wrong weights move u on each box: (N, K). Infinite where the weights are lost.

    The average of eta |f.U - u| is at most the sum with all free digits at their worst over the least
    sum of weights, and at most the largest single term.
    """
    step, parts, leaf = batch.step, batch.parts, batch.leaves
    (band,) = parts.bands
    row, z = batch.directions[1], batch.residual[1]
    N, H, E = len(row), *parts.projected_RHELT.shape[1:3]
    if batch.heads_NHE2 is None:
        low_NHE, high_NHE = batch.low_NK.reshape(N, H, E), batch.high_NK.reshape(N, H, E)
    else:
        low_NHE, high_NHE = batch.heads_NHE2[..., 0], batch.heads_NHE2[..., 1]
    moved, most, least = np.zeros((N, H, E)), np.zeros((N, H, E)), np.zeros((N, H))
    most_eta = np.maximum(error.eta_ZHLT.max((2, 3)), error.eta_ZHC.max(2))[z]

    def include(weight: Interval, eta: Array, projected: Interval) -> None:
        nonlocal moved, most, least
        distance = np.maximum(up(projected.high - low_NHE), up(high_NHE - projected.low))
        each = up(eta[:, :, None] * np.maximum(distance, 0.0))
        moved, most = up(moved + up(weight.high[:, :, None] * each)), np.maximum(most, each)
        least = down(least + weight.low)

    own = own_keys(step, leaf)
    for slot, digit in own:
        include(
            band.weight_RHLT[row, :, slot, digit],
            error.eta_ZHLT[z, :, slot, digit],
            parts.projected_RHELT[row, :, :, slot, digit],
        )
    for c in range(band.constant_RHC.shape[-1]):
        include(band.constant_RHC[row, :, c], error.eta_ZHC[z, :, c], parts.constant_RHEC[row, :, :, c])
    free_RHE, most_RHE, least_RH = _free_part(batch, error, {slot for slot, _ in own})
    moved, least = up(moved + free_RHE[row]), down(least + least_RH[row])
    most = np.maximum(most, most_RHE[row])
    share = np.fmin(np.where(least[:, :, None] > 0, up(moved / least[:, :, None]), np.inf), most)
    drifted = up(share / down(1.0 - most_eta)[:, :, None])
    lost = ~(most_eta < 0.5)[:, :, None] | ~(drifted >= 0)
    drifted = np.where(lost, np.inf, drifted)
    if batch.heads_NHE2 is None:
        return drifted.reshape(N, H * E)
    total_NE = drifted[:, 0]
    for h in range(1, H):
        total_NE = up(total_NE + drifted[:, h])
    return total_NE


def _free_part(batch: Batch, error: StepError, own: set[int]) -> tuple[Array, Array, Array]:
    """Of the slots that a leaf leaves free, for each row: the sum with each digit at its worst, the
    largest eta |f.U - u|, and the least sum of weights. u is an average of f.U, so it is no further
    from one of them than they are from each other."""
    step, parts = batch.step, batch.parts
    i, n = step.index, step.columns
    operands = range(n if step.pairs else 2 * n)
    free = [s for s in operands if s not in own] + [2 * n + j for j in range(max(i - 1, 0))]
    (band,) = parts.bands
    z_R = _row_tokens(batch.directions[1], batch.residual[1], len(band.least_RH))
    weight, projected = band.weight_RHLT[:, :, free], parts.projected_RHELT[:, :, :, free]
    seen = [*free, *own]
    highest = parts.projected_RHELT.high[:, :, :, seen].max((3, 4))
    lowest = parts.projected_RHELT.low[:, :, :, seen].min((3, 4))
    highest = np.maximum(highest, parts.constant_RHEC.high.max(3))[..., None, None]
    lowest = np.minimum(lowest, parts.constant_RHEC.low.min(3))[..., None, None]
    distance = np.maximum(up(projected.high - lowest), up(highest - projected.low))
    each = up(error.eta_ZHLT[z_R][:, :, free][:, :, None] * distance)
    worst = up(weight.high[:, :, None] * each).max(4)
    R, H, E = worst.shape[:3]
    moved, least = np.zeros((R, H, E)), np.zeros((R, H))
    for s in range(len(free)):
        moved = up(moved + worst[..., s])
        least = down(least + weight.low[:, :, s].min(2))
    return moved, each.max((3, 4), initial=0.0), np.maximum(least, 0.0)


def _row_tokens(row_N: NDArray[np.intp], z_N: NDArray[np.intp], rows: int) -> NDArray[np.intp]:
    """The query token of each row of the frame."""
    out = np.zeros(rows, dtype=np.intp)
    out[row_N] = z_N
    return out


# The head's error, and the answer.


NOT_COVERED = ("fp16", "bf16", "TF32", "fast-math kernels", "quantised weights")
"""Arithmetic that no check speaks of."""


@dataclass(frozen=True, kw_only=True)
class FloatReport:
    """What is proved about greedy decoding in fp32: by a configuration's readable model, or by the
    operations that a file's model performs (``recorded``)."""

    covered: bool
    """Whether every one of the pairs is added right in fp32 too."""
    left: int
    """Leaves and cells for which that could not be shown."""
    margin: float | None
    """Where covered: no fp32 margin is smaller, in logits."""
    reason: str | None = None
    """Why the question could not be asked at all."""
    primitives: tuple[Primitive, ...] = ()
    """What this machine's PyTorch was measured to do."""
    what: str = "the readable model"
    """Whose operations were followed."""

    def describe(self) -> list[str]:
        """The floating-point question, answered."""
        if self.covered:
            answer = (
                f"fp32: COVERED: greedy decoding by {self.what} in IEEE fp32 adds every pair right "
                f"too, with margins of at least {self.margin:.3g} logits, under the assumptions "
                'of docs/proof.md ("Floating point").'
            )
        elif self.reason is not None:
            answer = f"fp32: NOT COVERED: {self.reason}."
        else:
            answer = f"fp32: NOT COVERED: rounding may matter on {self.left:,} leaves and cells."
        lines = [answer]
        if self.primitives:
            shares = ", ".join(
                f"{each.name} {each.worst / each.assumed:.0%}" for each in self.primitives
            )
            lines.append(f"Measured here, in per cent of the error assumed: {shares}.")
        return [*lines, f"Not covered either: {', '.join(NOT_COVERED)}."]


@dataclass(kw_only=True)
class FloatCheck(Examination):
    """Collects batches of proved boxes and finds out whether fp32 decides them alike."""

    arithmetic: Arithmetic | None
    errors: list[StepError]
    effort: int = EFFORT

    @classmethod
    def of(cls, module: Transformer, model: Model) -> FloatCheck:
        """``model`` is what ``module`` computes, in real arithmetic."""
        return cls.asking(lambda: ReadableArithmetic(module, model), model)

    @classmethod
    def asking(cls, make: Callable[[], Arithmetic], model: Model) -> FloatCheck:
        """``model`` is what the arithmetic that ``make`` makes computes, in real numbers."""
        try:
            with np.errstate(all="ignore"):
                arithmetic = make()
                bad = primitives.outside(arithmetic.relies_on)
                if bad is not None:
                    return cls(arithmetic=None, errors=[], reason=bad.complaint())
                errors = attention_errors(arithmetic, model)
                return cls(arithmetic=arithmetic, errors=errors)
        except (Failure, ArithmeticError) as error:
            return cls(arithmetic=None, errors=[], reason=str(error))

    def take(self, batch: Batch) -> float | None:
        """Decide the boxes of one batch. Where all are decided: no margin on them is smaller in fp32,
        nor then in real arithmetic, by the module's own code."""
        if self.reason is None:
            try:
                with np.errstate(all="ignore"):
                    return self._take(batch)
            except Failure as error:
                self.reason = str(error)
        return None

    def _take(self, batch: Batch) -> float | None:
        # Wrong weights are another average of values: they widen the box.
        drift_NK = drift(batch, self.errors[batch.step.index])
        low_NK, high_NK = down(batch.low_NK - drift_NK), up(batch.high_NK + drift_NK)
        bounded_N = np.isfinite(drift_NK).all(1)
        self._leave(batch, np.flatnonzero(~bounded_N))
        asked, good = np.flatnonzero(bounded_N), GOOD_SHARE * GOOD_SHARE * max(batch.claimed, 0.0)
        least, left = settle(
            batch,
            (asked, low_NK[asked], high_NK[asked]),
            lambda boxes, _: self._try(batch, boxes),
            lambda halving: max(good if halving < CLOSER_HALVINGS else 0.0, LEAST),
            MOST_HALVINGS,
            lambda boxes: self._spend(boxes, batch),
        )
        self.margin = min(self.margin, least)
        self._leave(batch, left)
        return least if bounded_N.all() and not len(left) else None

    def _leave(self, batch: Batch, rows: NDArray[np.intp]) -> None:
        for owner in np.unique(batch.owner_N[rows]):
            self.left.add((batch.step.index, batch.cells, int(owner)))

    def _spend(self, boxes: int, batch: Batch) -> None:
        self.halves += boxes
        if self.halves > self.effort:
            raise Failure(self.too_much(f"at step {batch.step.index} of {batch.step.columns}"))

    def too_much(self, where: str) -> str:
        return (
            f"rounding may matter on so many boxes that the effort of {self.effort:,} halves was used "
            f"up {where}"
        )

    def _try(self, batch: Batch, boxes: Boxes) -> tuple[Array, NDArray[np.intp]]:
        """For each box a lower bound of the fp32 margin (not a number where there is none), and the
        coordinate to halve it in. A box on which the arithmetic breaks down harms no other."""
        try:
            return self._decide(batch, boxes)
        except ArithmeticError:
            rows, low_NK, high_NK = boxes
            if len(rows) == 1:
                return np.array([np.nan]), (high_NK - low_NK).argmax(1)
            self._spend(len(rows), batch)
            halves = (slice(None, len(rows) // 2), slice(len(rows) // 2, None))
            tried = [self._try(batch, (rows[h], low_NK[h], high_NK[h])) for h in halves]
            after_N, axis_N = (np.concatenate(each) for each in zip(*tried, strict=True))
            return after_N, axis_N

    def _decide(self, batch: Batch, boxes: Boxes) -> tuple[Array, NDArray[np.intp]]:
        rows, low_NK, high_NK = boxes
        (x0_ND, R_NKD), z_N, right_N = batch.stream(rows), batch.residual[1][rows], batch.right_N[rows]
        step, error, arithmetic = batch.step, self.errors[batch.step.index], self.arithmetic
        assert arithmetic is not None

        def stream(n: Any) -> Rounded:
            real = residual_stream(x0_ND[n], R_NKD[n], low_NK[n], high_NK[n])
            return arithmetic.stream(step, error, z_N[n], real)

        found = arithmetic.read_out(step, z_N, stream(slice(None)))
        err_NV, tokens = found.logits.err, found.logits.shape[1]
        error_NQ = np.take_along_axis(err_NV, others_than(right_N, tokens), 1)
        error_NQ = up(error_NQ + np.take_along_axis(err_NV, right_N[:, np.newaxis], 1))
        wanted = GOOD_SHARE * max(batch.claimed, 0.0)
        real = real_margins(found, right_N, up(error_NQ + wanted))
        margin_NQ = real.low_NQ

        def unsure_NQ() -> NDArray[np.bool_]:
            # Where nothing is known of the margin, no closer error says more.
            return ~(down(margin_NQ - error_NQ) > wanted) & ~real.unknown_N[:, np.newaxis]

        for n, q_n, direction in one_by_one(unsure_NQ(), right_N, tokens):
            moved_n = moved_by_rounding(found.logits, direction)[n]
            error_NQ[n, q_n] = np.fmin(moved_n, error_NQ[n, q_n])
        # Rows with as many unsure margins together.
        count_N = unsure_NQ().sum(1)
        unsure = np.argsort(-count_N, kind="stable")[: np.count_nonzero(count_N)]
        for start in range(0, len(unsure), ROWS_AT_ONCE):
            rows_n = unsure[start : start + ROWS_AT_ONCE]
            logits = arithmetic.logits(step, z_N[rows_n], stream(rows_n))
            for m, q_m, direction in one_by_one(unsure_NQ()[rows_n], right_N[rows_n], tokens):
                moved_m = moved_by_rounding(logits, direction)[m]
                error_NQ[rows_n[m], q_m] = np.fmin(moved_m, error_NQ[rows_n[m], q_m])
        after_N = down(margin_NQ - error_NQ).min(1)
        spread_NK = np.where(np.isfinite(real.spread_NK), real.spread_NK, high_NK - low_NK)
        return after_N, spread_NK.argmax(1)

    def report(self) -> FloatReport:
        """After all batches of an accepted certificate."""
        covered, arithmetic = not self.left and self.reason is None, self.arithmetic
        if arithmetic is None:
            return FloatReport(
                covered=False, left=0, margin=None, reason=self.reason, primitives=primitives.measured()
            )
        return FloatReport(
            covered=covered,
            left=len(self.left),
            margin=self.margin if covered else None,
            reason=self.reason,
            primitives=primitives.of(arithmetic.relies_on),
            what=arithmetic.what,
        )
