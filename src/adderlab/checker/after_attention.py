"""The readable module's own code after the attention, on boxes: logits, and the margins between them.

A margin is bounded by the mean value form, centre - sum_k r_k |d margin / d u_k|. Subtracting
derivatives of two logits that were each enclosed on their own loses what they have in common. So where
that is not enough, the derivative of the margin by the stream after the MLP is drawn backwards through
the read-out, and multiplied by the derivatives of that stream, which are enclosed forwards: what cancels
in the read-out cancels before sizes are taken.

Shapes: N boxes, K coordinates of a box, D width, V vocabulary, Q other tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adderlab.checker import mean_value
from adderlab.checker.intervals import Array, Interval, down, reach
from adderlab.checker.mean_value import MeanValueForm
from adderlab.checker.rounding import Rounded, derivative
from adderlab.checker.tracing import Noisy, Tracing
from adderlab.models.transformer import Transformer


@dataclass(frozen=True, kw_only=True)
class Logits:
    """What the stream after the attention comes to."""

    stream: Rounded
    """After the MLP: (N, D). The way to it is cut off; its whole error counts as arising here."""
    logits: Rounded
    """(N, V), with the way from ``stream``."""


def _after_mlp(module: Transformer, x_ND: Rounded) -> Rounded:
    block = module.block(0)
    x: Tensor = Noisy(x_ND)
    x = x + block.mlp(block.ln2(x))
    assert isinstance(x, Noisy)
    return x.value


def _read_out(module: Transformer, x_ND: Rounded) -> Rounded:
    logits = module.read_out(Noisy(x_ND))
    assert isinstance(logits, Noisy)
    return logits.value


def logits_after_attention(module: Transformer, x_ND: Rounded) -> Rounded:
    """What ``Transformer.forward`` does to the stream after the attention, with the whole way there."""
    with torch.no_grad(), Tracing():
        return _read_out(module, _after_mlp(module, x_ND))


def read_out_after_attention(module: Transformer, x_ND: Rounded) -> Logits:
    """The same with the way from the stream after the MLP only."""
    with torch.no_grad(), Tracing():
        after = _after_mlp(module, x_ND)
        stream = Rounded(after.real, after.err, after.format, True, after.err)
        return Logits(stream=stream, logits=_read_out(module, stream))


def others_than(right_N: NDArray[np.intp], tokens: int) -> NDArray[np.intp]:
    """All tokens but the right one of each row, ascending: (N, Q)."""
    other_Q = np.arange(tokens - 1)
    return other_Q + (other_Q >= right_N[:, np.newaxis])


def one_by_one(
    short_NQ: NDArray[np.bool_], right_N: NDArray[np.intp], tokens: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], Interval]]:
    """Of every row one short margin after the other: the rows n that have one left, their tokens q, and
    for all rows the direction (N, V) whose product with the logits is a margin."""
    count_N, order_NQ = short_NQ.sum(1), np.argsort(~short_NQ, 1, kind="stable")
    others_NQ, each_N = others_than(right_N, tokens), np.arange(len(right_N))
    for turn in range(int(count_N.max(initial=0))):
        q_N = order_NQ[:, turn]
        direction = np.zeros((len(right_N), tokens))
        direction[each_N, right_N], direction[each_N, others_NQ[each_N, q_N]] = 1.0, -1.0
        n = np.flatnonzero(count_N > turn)
        yield n, q_N[n], Interval(direction)


def gaps(logits: Rounded, right_N: NDArray[np.intp]) -> MeanValueForm:
    """Logit of each row's right token minus that of each other one: (N, Q)."""
    others_NQ = others_than(right_N, logits.shape[1])

    def chosen(index_NQ: NDArray[np.intp]) -> mean_value.Real:
        def choose(x: Interval) -> Interval:
            return Interval(*(np.take_along_axis(end, index_NQ, 1) for end in (x.low, x.high)))

        return mean_value.rearranged(logits.real, choose)

    right_NQ = np.broadcast_to(right_N[:, np.newaxis], others_NQ.shape)
    form = mean_value.subtract(chosen(right_NQ), chosen(others_NQ))
    assert isinstance(form, MeanValueForm)
    return form


@dataclass(frozen=True, kw_only=True)
class RealMargins:
    """In real arithmetic; where an enclosure says nothing (``unknown_N``), not a number."""

    low_NQ: Array
    high_NQ: Array
    spread_NK: Array
    """What the worst margin's bound loses by each coordinate."""
    unknown_N: NDArray[np.bool_]


def real_margins(found: Logits, right_N: NDArray[np.intp], wanted: Array | float) -> RealMargins:
    """Bounds of the right token's margins over the boxes, closer where they are less than ``wanted``."""
    logits, stream = found.logits, found.stream
    form, each_N = gaps(logits, right_N), np.arange(len(right_N))
    low_NQ, worst_N = form.low.copy(), form.low.argmin(1)
    radius_NK = np.stack(form.radii, 1)
    size_NK = np.stack([g.magnitude()[each_N, worst_N] for g in form.gradients], 1)
    # Where a root or quotient has no bound its error is infinite, and the enclosure a stand-in.
    unknown_N: NDArray[np.bool_] = np.any(~np.isfinite(logits.err), axis=1)
    short_NQ = ~(low_NQ >= wanted) & ~unknown_N[:, np.newaxis]
    assert isinstance(stream.real, MeanValueForm)
    rows = np.flatnonzero(short_NQ.any(1))
    least_N = np.full(len(right_N), np.inf)
    least_N[rows] = np.where(short_NQ, np.inf, low_NQ).min(1)[rows]
    for n, q_n, direction in one_by_one(short_NQ, right_N, logits.shape[1]):
        slope_nD = derivative(logits, stream, direction)[n]
        each_k = [(slope_nD * gradient[n]).sum(1).magnitude() for gradient in stream.real.gradients]
        bound_n = down(form.centre.low[n, q_n] - reach(radius_NK[n], np.stack(each_k, 1)))
        low_NQ[n, q_n] = np.fmax(low_NQ[n, q_n], bound_n)
        worse = low_NQ[n, q_n] < least_N[n]
        least_N[n] = np.where(worse, low_NQ[n, q_n], least_N[n])
        size_NK[n[worse]] = np.stack(each_k, 1)[worse]
    return RealMargins(
        low_NQ=np.where(unknown_N[:, np.newaxis], np.nan, low_NQ),
        high_NQ=np.where(unknown_N[:, np.newaxis], np.nan, form.high),
        spread_NK=radius_NK * size_NK,
        unknown_N=unknown_N,
    )
