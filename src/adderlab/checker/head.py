"""Lower bounds of the margin over boxes of the attention output, rounded outward: the head program on
intervals.

On a box low <= u <= high the program starts from what is affine in u, x = x_0 + sum_k u_k R_k (the
stream after the attention, as a rule). Every value is followed in mean value form (``mean_value``):
with s the right digit, t another token, sigma > 0 the last norm's scale (or 1) and any centre c of the
box with radii r, the scaled margin g_t = sigma (logit_s - logit_t) satisfies

    g_t(u) >= g_t(c) - sum_k r_k max over the box |d g_t / d u_k|.

Every slope is enclosed over the whole box. A box on which this is not enough, or on which an operation
has no bound (a quotient whose divisor may be zero), is halved and tried again, so the answer depends on
no cleverness of the prover's.

Shapes: N boxes, K coordinates of a box, D channels that the program starts from, M channels of a value,
Q other tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from adderlab.checker.mean_value import (
    Atom,
    Linear,
    MeanValueForm,
    Scale,
    Value,
    along_last,
    centred,
    concatenated,
    swell,
    total,
    worth,
)
from adderlab.checker.program import Operand, Operation, Program

BOXES_AT_ONCE = 2048
MOST_HALVINGS = 16
MOST_BOXES = 60_000
"""Boxes that halving may make of one batch before it gives up."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """What follows the attention: a program. ``mixed`` are the first ``program.mixed_width`` channels of
    what the boxes are about, ``row`` the others, in which no attention enters."""

    program: Program
    constants: Mapping[str, Interval]

    @property
    def vocab_size(self) -> int:
        return self.program.vocab_size


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


Function = Callable[[Interval], Interval]
POSITIVE = {"rsqrt", "sqrt"}
"""Functions whose operand has to be above zero for their slope to be bounded."""
FUNCTIONS: dict[str, tuple[Function, Function]] = {
    "abs": (functions.absolute, functions.absolute_derivative),
    "square": (Interval.square, lambda x: x * 2.0),
    "sqrt": (Interval.sqrt, lambda x: (x.sqrt() * 2.0).reciprocal()),
    "rsqrt": (lambda x: x.sqrt().reciprocal(), lambda x: -(x * x.sqrt() * 2.0).reciprocal()),
    "reciprocal": (Interval.reciprocal, lambda x: -x.square().reciprocal()),
    "exp": (functions.exp_fast, functions.exp_fast),
    "relu": (functions.relu, functions.relu_derivative),
    "gelu": (functions.gelu, functions.gelu_derivative),
    "gelu_tanh": (functions.gelu_tanh, functions.gelu_tanh_derivative),
    "silu": (functions.silu, functions.silu_derivative),
    "sigmoid": (functions.sigmoid, functions.sigmoid_derivative),
    "tanh": (functions.tanh, functions.tanh_derivative),
    "softplus": (functions.softplus, functions.sigmoid),
}
"""Value, and slopes of all secants, over intervals. ``negate`` is linear."""


class _Run:
    """One program on N boxes."""

    def __init__(self, head: Head, start: Atom, row_NR: Interval, radius_NK: Array) -> None:
        self.head, self.radius_NK = head, radius_NK
        N = len(radius_NK)
        self.lost_N, self.lost_centre_N = np.zeros(N, dtype=bool), np.zeros(N, dtype=bool)
        """Boxes, and centres, on which an operation has no bound: 1 stands for its operand there, and
        what comes out is not used."""
        self.values = [Value.of(start), Value.constant(row_NR)]
        self.known: dict[int, Atom] = {}
        for operation in head.program.operations:
            self.values.append(self._apply(operation))

    def _operand(self, x: Operand) -> Value:
        if isinstance(x, str):
            return Value.constant(self.head.constants[x].reshape(1, -1))
        return self.values[x]

    def _apply(self, operation: Operation) -> Value:
        name, operands, width = operation.name, operation.operands, operation.width
        if name == "concat":
            return concatenated([self._operand(x) for x in operands])
        if name in ("add", "subtract"):
            x, y = map(self._operand, operands)
            return x.plus(y if name == "add" else y.mapped(lambda part: -part, y.width))
        if name in ("multiply", "divide"):
            return self._multiplied(*operands) if name == "multiply" else self._divided(*operands)
        if name in ("minimum", "maximum"):
            return self._chosen(name, *operands)
        (operand, *rest) = operands
        value = self._operand(operand)
        if name == "linear":
            matrix = self.head.constants[str(rest[0])]
            image = value.mapped(lambda part: matmul(part, matrix), width)
            return image.plus(self._operand(rest[1])) if len(rest) > 1 else image
        if name == "take":
            return value.mapped(lambda part: part[..., list(operation.indices)], width)
        if name == "negate":
            return value.mapped(lambda part: -part, width)
        if name == "centre":
            return value.mapped(centred, width)
        if name == "sum":
            return value.mapped(total, width)
        if name == "mean":
            return value.mapped(lambda part: total(part) / float(part.shape[-1]), width)
        if name == "rms":
            assert operation.eps is not None
            return self._rms(operand, operation.eps)
        if name == "clamp":
            low, high = operation.low, operation.high
            return self._smooth(
                self._settled(operand),
                lambda x: functions.clamp(x, low, high),
                lambda x: functions.clamp_derivative(x, low, high),
            )
        atom = self._settled(operand)
        if name in POSITIVE:
            atom = self._kept(atom, lambda x: x.low > 0)
        elif name == "reciprocal":
            atom = self._kept(atom, lambda x: (x.low > 0) | (x.high < 0))
        return self._smooth(atom, *FUNCTIONS[name])

    # Working a value out, and what cannot be.

    def _settled(self, x: Operand) -> Atom:
        """The channels of a value or constant, worked out once."""
        if isinstance(x, str):
            return _worth(self._operand(x), self.radius_NK)
        if x not in self.known:
            self.known[x] = _worth(self.values[x], self.radius_NK)
        return self.known[x]

    def _kept(self, atom: Atom, good: Callable[[Interval], NDArray[np.bool_]]) -> Atom:
        """With 1 in place of the numbers that are not ``good``; their boxes count as lost."""
        bad, bad_centre = ~good(atom.box), ~good(atom.centre)
        self.lost_N |= bad.any(1)
        self.lost_centre_N |= bad_centre.any(1)
        if not (bad.any() or bad_centre.any()):
            return atom
        return Atom(_without(bad_centre, atom.centre), _without(bad, atom.box), atom.slopes)

    # Operations that are not linear.

    def _atom(self, centre: Interval, box: Interval, slopes: Interval | None) -> Value:
        if slopes is None:
            return Value.of(Atom(centre, box, None, True))
        return Value.of(Atom(centre, box.meet(swell(centre, self.radius_NK, slopes)), slopes))

    def _smooth(self, x: Atom, function: Function, slope: Function) -> Value:
        slopes = None if x.slopes is None else _second(slope(x.box)) * x.slopes
        return self._atom(function(x.centre), function(x.box), slopes)

    def _positive_scale(self, atom: Atom, inverted: bool) -> Scale | None:
        """One channel that is above zero on every box, as a scale, or its reciprocal as one."""
        if atom.width != 1 or not ((atom.box.low > 0).all() and (atom.centre.low > 0).all()):
            return None
        N, K = self.radius_NK.shape
        slopes = Interval(np.zeros((N, K, 1))) if atom.slopes is None else atom.slopes
        centre, box = atom.centre, atom.box
        if inverted:
            slopes = -(slopes / _second(box.square()))
            centre, box = centre.reciprocal(), box.reciprocal()
        return Scale(centre[:, 0], box[:, 0], slopes[..., 0])

    def _times_scale(self, value: Value, scale: Scale) -> Value:
        """value / scale."""

        def change(other: Scale | None) -> Scale:
            if other is None:
                return scale
            slopes = other.slopes * along_last(scale.box) + scale.slopes * along_last(other.box)
            return Scale(other.centre * scale.centre, other.box * scale.box, slopes)

        return value.scaled(change)

    def _multiplied(self, x: Operand, y: Operand) -> Value:
        for constant, other in ((x, y), (y, x)):
            if isinstance(constant, str):
                return _times_constant(self._operand(other), self.head.constants[constant])
        if x == y:
            return self._smooth(self._settled(x), *FUNCTIONS["square"])
        a, b = self._settled(x), self._settled(y)
        for scalar, other, wide in ((b, x, a), (a, y, b)):
            if wide.width > 1:
                scale = self._positive_scale(scalar, inverted=True)
                if scale is not None:
                    return self._times_scale(self._operand(other), scale)
        slopes = _sum_of_products((a.slopes, b.box), (b.slopes, a.box))
        return self._atom(a.centre * b.centre, a.box * b.box, slopes)

    def _divided(self, x: Operand, y: Operand) -> Value:
        b = self._kept(self._settled(y), lambda each: (each.low > 0) | (each.high < 0))
        value = self._operand(x)
        if isinstance(y, str):
            return _times_constant(value, b.box[0].reciprocal())
        scale = self._positive_scale(b, inverted=False) if value.width > 1 else None
        if scale is not None:
            return self._times_scale(value, scale)
        a = self._settled(x)
        box = a.box / b.box
        # d (a / b) = (a_k - (a / b) b_k) / b.
        slopes = _sum_of_products((a.slopes, None), (b.slopes, -box))
        slopes = None if slopes is None else slopes / _second(b.box)
        return self._atom(a.centre / b.centre, box, slopes)

    def _chosen(self, name: str, x: Operand, y: Operand) -> Value:
        """The larger or smaller of two, channel by channel: its slopes lie between theirs."""
        a, b = self._settled(x), self._settled(y)
        choose = np.maximum if name == "maximum" else np.minimum
        centre = Interval(choose(a.centre.low, b.centre.low), choose(a.centre.high, b.centre.high))
        box = Interval(choose(a.box.low, b.box.low), choose(a.box.high, b.box.high))
        if a.slopes is None and b.slopes is None:
            return self._atom(centre, box, None)
        N, K = self.radius_NK.shape
        zero = Interval(np.zeros((N, K, 1)))
        of_a, of_b = (zero if each.slopes is None else each.slopes for each in (a, b))
        over, under = (a, b) if name == "maximum" else (b, a)
        is_a, is_b = over.box.low >= under.box.high, under.box.low >= over.box.high
        is_a, is_b = is_a[:, None], is_b[:, None]
        either = of_a.hull(of_b)
        slopes = Interval(
            np.where(is_a, of_a.low, np.where(is_b, of_b.low, either.low)),
            np.where(is_a, of_a.high, np.where(is_b, of_b.high, either.high)),
        )
        return self._atom(centre, box, slopes)

    def _rms(self, x: Operand, eps: Interval) -> Value:
        """x over sigma = sqrt(mean x^2 + eps), not divided yet."""
        value = self._operand(x)
        linear = value.alone()
        atom = self._settled(x)
        if linear is None:
            linear = Linear(((atom, None),), None, atom.width)
        scale = _affine_scale(atom, eps, self.radius_NK) if atom.affine else None
        if scale is None:
            scale = _other_scale(atom, eps, self.radius_NK)
        lost, lost_centre = ~(scale.box.low > 0), ~(scale.centre.low > 0)
        self.lost_N |= lost
        self.lost_centre_N |= lost_centre
        scale = Scale(_without(lost_centre, scale.centre), _without(lost, scale.box), scale.slopes)
        # The slopes of the root: z . S_k / (D sigma), which the two functions leave undivided.
        D = float(atom.width)
        slopes = scale.slopes / (along_last(scale.box) * D)
        box = scale.box
        if not atom.affine:
            box = box.meet(swell(scale.centre, self.radius_NK, slopes))
        return Value({Scale(scale.centre, box, slopes): linear}, value.width)

    # The end.

    def margins(self, right_N: NDArray[np.intp]) -> Margins:
        """Of each box's right token against every other token."""
        (N, K), Q = self.radius_NK.shape, self.head.vocab_size - 1
        scaled_NQ, sigma_N, spread_NK = _empty(N, Q), _empty(N), np.empty((N, K))
        centre_NQ, centre_sigma_N = _empty(N, Q), _empty(N)
        for right in map(int, np.unique(right_N)):
            n = np.flatnonzero(right_N == right)
            found = self._margins_of(right, n)
            for whole, part in (
                (scaled_NQ, found.scaled_NQ),
                (sigma_N, found.sigma_N),
                (centre_NQ, found.centre_NQ),
                (centre_sigma_N, found.centre_sigma_N),
            ):
                whole.low[n], whole.high[n] = part.low, part.high
            spread_NK[n] = found.spread_NK
        return Margins(scaled_NQ, sigma_N, centre_NQ, centre_sigma_N, spread_NK)

    def _margins_of(self, right: int, boxes_n: NDArray[np.intp]) -> Margins:
        """Of token ``right`` against every other token, on some of the boxes."""
        others = [token for token in range(self.head.vocab_size) if token != right]
        radius_NK = self.radius_NK[boxes_n]
        Q, (N, K) = len(others), radius_NK.shape
        gaps = self.values[-1].on(boxes_n).mapped(lambda x: x[..., [right] * Q] - x[..., others], Q)
        scales = [scale for scale in gaps.parts if scale is not None]
        sigma = Interval(np.ones(N)), Interval(np.ones(N))
        if not scales:
            g = _worth(gaps, radius_NK)
            g_centre, g_box, slopes = g.centre, g.box, g.slopes
        else:
            scale = scales[-1]
            sigma = scale.centre, scale.box
            g = worth(gaps.parts[scale], radius_NK)
            g_centre, g_box, slopes = g.centre, g.box, g.slopes
            rest = Value({s: linear for s, linear in gaps.parts.items() if s is not scale}, Q)
            if rest.parts:
                more = _worth(rest, radius_NK)
                if more.box.magnitude().any():
                    by_scale = along_last(scale.slopes) * _second(more.box)
                    slopes = by_scale if slopes is None else slopes + by_scale
                    if more.slopes is not None:
                        slopes = slopes + more.slopes * along_last(_second(scale.box))
                    g_centre = g_centre + along_last(scale.centre) * more.centre
                    g_box = g_box + along_last(scale.box) * more.box
        if slopes is None:
            slopes = Interval(np.zeros((N, K, Q)))
        g_box = g_box.meet(swell(g_centre, radius_NK, slopes))
        worst_N = g_box.low.argmin(1)
        spread_NK = radius_NK * slopes.magnitude()[np.arange(N), :, worst_N]
        lost, lost_centre = self.lost_N[boxes_n], self.lost_centre_N[boxes_n]
        return Margins(
            _nothing(lost, g_box),
            _without(lost, sigma[1]),
            _nothing(lost_centre, g_centre),
            _without(lost_centre, sigma[0]),
            np.where(lost[:, None], radius_NK, spread_NK) if lost.any() else spread_NK,
        )


def _empty(*shape: int) -> Interval:
    """To be filled in."""
    return Interval(np.empty(shape), np.empty(shape))


# Values worked out.


def _worth(value: Value, radius_NK: Array) -> Atom:
    parts = [_undone(scale, linear, radius_NK) for scale, linear in value.parts.items()]
    if len(parts) == 1:
        return parts[0]
    centre, box, slopes = parts[0].centre, parts[0].box, parts[0].slopes
    for part in parts[1:]:
        centre, box = centre + part.centre, box + part.box
        if slopes is None or part.slopes is None:
            slopes = part.slopes if slopes is None else slopes
        else:
            slopes = slopes + part.slopes
    return Atom(centre, swell(centre, radius_NK, slopes).meet(box), slopes)


def _undone(scale: Scale | None, linear: Linear, radius_NK: Array) -> Atom:
    """linear / scale: d (X / sigma) = (X_k - X sigma_k / sigma) / sigma."""
    atom = worth(linear, radius_NK)
    if scale is None:
        return atom
    turn_NK = scale.slopes / along_last(scale.box)
    slopes = -(_second(atom.box) * along_last(turn_NK))
    if atom.slopes is not None:
        slopes = atom.slopes + slopes
    slopes = slopes / along_last(_second(scale.box))
    centre = atom.centre / along_last(scale.centre)
    box = swell(centre, radius_NK, slopes).meet(atom.box / along_last(scale.box))
    return Atom(centre, box, slopes)


def _second(x: Interval) -> Interval:
    """A new axis for K."""
    return Interval(x.low[:, None], x.high[:, None])


def _times_constant(value: Value, number_M: Interval) -> Value:
    width = max(value.width, number_M.shape[0])
    return value.widened(width).mapped(lambda x: x * number_M, width)


def _sum_of_products(*pairs: tuple[Interval | None, Interval | None]) -> Interval | None:
    """Sum of slopes times numbers (None: 1) that have them."""
    found = None
    for slopes, number in pairs:
        if slopes is not None:
            each = slopes if number is None else slopes * _second(number)
            found = each if found is None else found + each
    return found


def _without(lost: NDArray[np.bool_], x: Interval) -> Interval:
    if not lost.any():
        return x
    return Interval(np.where(lost, 1.0, x.low), np.where(lost, 1.0, x.high))


def _nothing(lost_N: NDArray[np.bool_], x: Interval) -> Interval:
    """Lost rows say nothing."""
    if not lost_N.any():
        return x
    return Interval(np.where(lost_N[:, None], -np.inf, x.low), np.where(lost_N[:, None], np.inf, x.high))


# The scale of a norm. Its slopes are left as z . S_k, still to be divided by D sigma.


def _dot(x: Interval, y: Interval) -> Interval:
    return (x * y).sum(-1)


def _positive_sum(x: Interval) -> Interval:
    """Sum along the last axis of numbers that are not negative."""
    return x.sum(-1).nonnegative()


def _affine_scale(z: Atom, eps: Interval, radius_NK: Array) -> Scale:
    """sigma(u) = sqrt(mean(z^2) + eps) of an affine z."""
    D, slopes = float(z.width), z.slopes
    if slopes is None:
        slopes = Interval(np.zeros((*radius_NK.shape, z.width)))
    centre_N = _positive_sum(z.centre.square())
    along_NK = _dot(_second(z.centre), slopes)
    gram_NKK = matmul(slopes, slopes.transpose(0, 2, 1))
    wander_NK = reach(radius_NK[:, None, :], gram_NKK.magnitude())
    along_box_NK = along_NK + symmetric(wander_NK)
    # |c + d|^2 = |c|^2 + 2 c.d + |d|^2, and 0 <= |d|^2 <= sum r_k r_l |S_k . S_l|.
    linear_N = 2.0 * reach(radius_NK, along_NK.magnitude())
    square = (
        centre_N + symmetric(linear_N) + Interval(np.zeros_like(linear_N), reach(radius_NK, wander_NK))
    )
    lower = _positive_sum(_least_size(z.box).square())
    square = Interval(np.maximum(square.low, lower.low), square.high)
    box_N = (square / D + eps).nonnegative().sqrt()
    at_centre_N = (centre_N / D + eps).nonnegative().sqrt()
    return Scale(at_centre_N, box_N, along_box_NK)


def _least_size(x: Interval) -> Interval:
    """Smallest absolute value, as exact numbers."""
    return Interval(np.maximum(np.maximum(x.low, -x.high), 0.0))


def _other_scale(z: Atom, eps: Interval, radius_NK: Array) -> Scale:
    """The same when z's slopes are only known as intervals."""
    D, slopes = float(z.width), z.slopes
    assert slopes is not None, "what nothing changes is affine"
    at_centre_N = (_positive_sum(z.centre.square()) / D + eps).nonnegative().sqrt()
    # sigma is the length of a vector over sqrt D: it cannot change by more than that vector does.
    step_ND = reach(radius_NK[:, None, :], slopes.magnitude().transpose(0, 2, 1))
    change_N = (_positive_sum(Interval(step_ND).square()) / D).nonnegative().sqrt().high
    floor_N = eps.nonnegative().sqrt().low
    box_N = at_centre_N + symmetric(change_N)
    box_N = Interval(np.maximum(box_N.low, floor_N), box_N.high)
    return Scale(at_centre_N, box_N, _dot(_second(z.box), slopes))


def margins(
    head: Head,
    right_N: NDArray[np.intp],
    x0_ND: Interval,
    R_NKD: Interval,
    low_NK: Array,
    high_NK: Array,
) -> Margins:
    """``Margins`` of each box's right token against every other token on N boxes."""
    own = slice(head.program.mixed_width)
    middle_NK, radius_NK = Interval(low_NK, high_NK).mid_rad()
    moved = (Interval(middle_NK[..., None]) * R_NKD[..., own]).sum(1)
    centre, slopes = x0_ND[:, own] + moved, R_NKD[..., own]
    start = Atom(centre, swell(centre, radius_NK, slopes), slopes, True)
    row_NR = x0_ND[:, head.program.mixed_width :]
    with np.errstate(all="ignore"):
        return _Run(head, start, row_NR, radius_NK).margins(right_N)


def residual_stream(x0_ND: Interval, R_NKD: Interval, low_NK: Array, high_NK: Array) -> MeanValueForm:
    """x over boxes, coordinate by coordinate: (N, D)."""
    middle_NK, radius_NK = Interval(low_NK, high_NK).mid_rad()
    centre_ND = x0_ND + (Interval(middle_NK[..., None]) * R_NKD).sum(1)
    box = swell(centre_ND, radius_NK, R_NKD)
    K = range(radius_NK.shape[1])
    return MeanValueForm(
        centre_ND, box, tuple(R_NKD[:, k] for k in K), tuple(radius_NK[:, k] for k in K)
    )


Rows = tuple[Interval, NDArray[np.intp]]
"""A table and, for every box, the row of it that belongs to the box."""


def proved_margins(
    head: Head,
    right_N: NDArray[np.intp],
    x0: Rows,
    directions: Rows,
    low_NK: Array,
    high_NK: Array,
    wanted: float,
) -> Array:
    """A lower bound of the true margin on each box, (N,); boxes are halved until it reaches ``wanted``
    or halving is given up: then it is not a number, which means that nothing is proved."""
    out_N = np.full(len(low_NK), np.nan)
    for start in range(0, len(low_NK), BOXES_AT_ONCE):
        n = slice(start, start + BOXES_AT_ONCE)
        own_ND, own_NKD = (table[row[n]] for table, row in (x0, directions))
        out_N[n] = _halving(head, right_N[n], own_ND, own_NKD, low_NK[n], high_NK[n], wanted)
        if np.isnan(out_N[n]).any():
            break
    return out_N


def _halving(
    head: Head,
    right: NDArray[np.intp],
    x0: Interval,
    R: Interval,
    low: Array,
    high: Array,
    wanted: float,
) -> Array:
    proved = np.full(len(low), np.inf)
    owner, tried = np.arange(len(low)), 0
    for _ in range(MOST_HALVINGS):
        found = margins(head, right, x0, R, low, high)
        best = found.true_low_N()
        good = best >= wanted
        np.minimum.at(proved, owner[good], best[good])
        bad = ~good
        owner, right, x0, R = owner[bad], right[bad], x0[bad], R[bad]
        low, high = low[bad], high[bad]
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
        owner, right = np.concatenate([owner, owner]), np.concatenate([right, right])
        x0, R = concatenate([x0, x0]), concatenate([R, R])
    proved[owner] = np.nan
    return proved
