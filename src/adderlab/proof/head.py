"""The head over boxes: bounds of the margins, and the verdict right, wrong or open.

The head is everything after the attention, as a program (``proof.enclosure``). On a box {u : |u -
centre| <= radius} the scaled margin of the right token over token t

    g_t = sigma * (logit of the right token - logit of t)

is bounded by g_t(centre) -+ sum_k radius_k max |d g_t / d u_k| (mean-value form with an interval
Jacobian). sigma > 0 is the last norm's scale, where the logits have a common factor, and 1 otherwise:
multiplying by it changes no sign and saves a division by an interval.

Functions that increase strictly, at the very end of a program (a soft cap), change no sign either: the
margins of what they are applied to decide, and true margins follow from those (``Cap``).

A box long enough for the mean-value bound to be weak is cut along its pivot into 4, 16, 64 parts,
unless two parts already lie on different sides of the decision: then only digits can decide.
Float64, with a relative slack far above its rounding.

Shapes: N boxes, R query tokens, K functionals (H heads times bottleneck), P parts, M channels of
``mixed`` or ``row``, V vocabulary, T competing tokens.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adderlab.errors import Failure
from adderlab.models.head_program import Operation
from adderlab.proof.enclosure import BoxValues, Enclosed, Root, Rows
from adderlab.proof.forms import FUNCTIONS, Array, Form, Head, Interval, Scale, sigmoid, softplus

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
NO_NUMBER = "this model computes no number for some pair (an overflow, a division by zero or the like)"

# Bounds of the margins.


@dataclass(frozen=True, kw_only=True)
class MarginBounds:
    """Bounds of the scaled margins against the V - 1 other tokens, and of the true ones."""

    low_NT: Array
    """Lower bound of g_t over the box."""
    high_NT: Array
    middle_NT: Array
    """g_t at the centre."""
    scale_low_N: Array
    scale_high_N: Array
    true_low_N: Array
    """Lower bound of the smallest margin in true logits."""


def competitors(target: int, vocab: int) -> list[int]:
    """The tokens that compete with ``target``, ascending."""
    return [token for token in range(vocab) if token != target]


@dataclass(frozen=True, kw_only=True)
class Cap:
    """What a program does at its very end to each logit alone without changing their order."""

    value: int
    """The value that it is done to."""
    steps: tuple[str | float, ...]
    """Functions that increase strictly, by name, and positive factors, in the order they are applied."""


def cap_of(head: Head) -> Cap:
    """The cap of a program; without any, nothing is done to the logits."""
    value, steps, known = head.logits, [], None
    while value > 1 and not head.affine[value]:
        found = _keeps_order(head, head.operation(value))
        if found is None:
            break
        value, step = found
        steps.insert(0, step)
        if isinstance(step, str):
            known = Cap(value=value, steps=tuple(steps))
    return known or Cap(value=head.logits, steps=())


def _keeps_order(head: Head, operation: Operation) -> tuple[int, str | float] | None:
    """(operand, what is done to it) of an operation that does the same increasing thing to all
    logits."""
    x, *others = operation.operands
    if operation.name in DIFFERENCES and isinstance(x, int):
        return x, operation.name
    if operation.name not in ("multiply", "divide") or len(others) != 1:
        return None
    c = others[0]
    if isinstance(x, str) and operation.name == "multiply":
        x, c = c, x
    if isinstance(x, str) or not isinstance(c, str):
        return None
    array = head.constants[c]
    if head.program.width(x) != operation.width or array.min() != array.max() or not array.min() > 0:
        return None
    return x, float(array.flat[0] if operation.name == "multiply" else 1.0 / array.flat[0])


def _tanh_difference(x: Array, y: Array, gap: Array) -> Array:
    # Numbers this large are ones to float64, and the sign of the gap is what counts then.
    x, y, gap = np.clip(x, -350, 350), np.clip(y, -350, 350), np.clip(gap, -700, 700)
    return np.sinh(gap) / (np.cosh(x) * np.cosh(y))


def _softplus_difference(x: Array, y: Array, gap: Array) -> Array:
    near = np.clip(gap, -30.0, 30.0)
    close = np.log1p(np.expm1(near) * sigmoid(y))
    return np.where(np.abs(gap) < 30.0, close, softplus(x) - softplus(y))


DIFFERENCES: dict[str, Callable[[Array, Array, Array], Array]] = {
    "tanh": _tanh_difference,
    "sigmoid": lambda x, y, gap: 0.5 * _tanh_difference(0.5 * x, 0.5 * y, 0.5 * gap),
    "exp": lambda x, y, gap: np.exp(y) * np.expm1(gap),
    "softplus": _softplus_difference,
}
"""f(x) - f(y) of the functions that increase strictly, from x, y and x - y, without cancellation."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MarginForm:
    """Margins of one right token: (form + sigma * offset) / sigma, before the cap."""

    form: Form
    scale: Scale | None
    """1 / sigma; None: sigma is 1."""
    offset_T: Array
    offset_table_T: Array


def margin_form(head: Head, target: int) -> MarginForm:
    if target not in head.margin_forms:
        head.margin_forms[target] = _margin_form(head, target)
    return head.margin_forms[target]


def _margin_form(head: Head, target: int) -> MarginForm:
    V = head.vocab_size
    # The differences are taken before anything is multiplied: nearly equal tokens cancel exactly.
    gap_VT = -np.eye(V)[:, competitors(target, V)]
    gap_VT[target] = 1.0
    form = head.image(cap_of(head).value, gap_VT)
    moving = [term for term in form.terms if term.parts]
    first = {term.scales[:1] for term in moving}
    none_T = np.zeros(V - 1)
    if len(first) != 1 or first == {()} or any(term.scales for term in form.terms if not term.parts):
        return MarginForm(form=form, scale=None, offset_T=none_T, offset_table_T=none_T)
    ((scale,),) = first
    offsets = [term for term in form.terms if not term.parts]
    return MarginForm(
        form=dataclasses.replace(
            form, terms=tuple(dataclasses.replace(term, scales=term.scales[1:]) for term in moving)
        ),
        scale=scale,
        offset_T=none_T + sum(term.bias_T for term in offsets),
        offset_table_T=none_T + sum(term.table_T for term in offsets),
    )


def _one_target(head: Head, boxes: BoxValues, target: int) -> MarginBounds:
    """Bounds for boxes that share the right token."""
    margin = margin_form(head, target)
    beta_T = margin.offset_T
    found = boxes.form(margin.form)
    N = len(found.value_NM)
    table_NT = boxes.table(margin.form)
    scale_N = scale_low_N = scale_high_N = np.ones(N)
    if margin.scale is not None:
        root = boxes.root(margin.scale)
        scale_N, scale_low_N, scale_high_N = root.value_N, root.low_N, root.high_N
        if beta_T.any():
            found = _plus(boxes, found, margin, root)
            table_NT = table_NT + scale_N[:, None] * margin.offset_table_T
    if not boxes.defined_N.all():
        undefined_NT = np.where(boxes.defined_N[:, None], found.value_NM, np.nan)
        found = dataclasses.replace(found, value_NM=undefined_NT)
    middle_NT = found.value_NM
    reach_NT = found.reach_NM
    if margin.form.bounded:
        reach_NT = np.maximum(middle_NT - found.low_NM, found.high_NM - middle_NT)
    slack_NT = np.maximum(SLACK * (found.size_NM + reach_NT), TABLE_SLACK * table_NT)
    bounds = MarginBounds(
        low_NT=found.low_NM - slack_NT,
        high_NT=found.high_NM + slack_NT,
        middle_NT=middle_NT,
        scale_low_N=scale_low_N * (1 - SLACK),
        scale_high_N=scale_high_N * (1 + SLACK),
        true_low_N=np.zeros(N),
    )
    return dataclasses.replace(bounds, true_low_N=_true_low(head, boxes, bounds, target))


def _plus(boxes: BoxValues, found: Enclosed, margin: MarginForm, root: Root) -> Enclosed:
    """Plus sigma * offset."""
    beta_T, slope_NK, scale_N = margin.offset_T, root.slope_NK, root.value_N
    jacobian = found.jacobian_NKM.plus(
        Interval(slope_NK.middle[:, :, None] * beta_T, slope_NK.radius[:, :, None] * np.abs(beta_T))
    )
    value_NT = found.value_NM + scale_N[:, None] * beta_T

    def size() -> Array:
        return found.size_NM + scale_N[:, None] * np.abs(beta_T)

    total = boxes.enclosed(value_NT, size, jacobian)
    if not margin.form.bounded:
        return total
    ends = root.low_N[:, None] * beta_T, root.high_N[:, None] * beta_T
    low_NT = np.fmax(total.low_NM, found.low_NM + np.minimum(*ends))
    high_NT = np.fmin(total.high_NM, found.high_NM + np.maximum(*ends))
    return boxes.enclosed(value_NT, size, jacobian, lambda: (low_NT, high_NT))


def _true_low(head: Head, boxes: BoxValues, bounds: MarginBounds, target: int) -> Array:
    """Lower bound of the smallest margin in true logits."""
    cap = cap_of(head)
    if not cap.steps:
        worst_N = bounds.low_NT.min(1)
        return np.where(worst_N > 0, worst_N / bounds.scale_high_N, worst_N / bounds.scale_low_N)
    low_NT = bounds.low_NT
    low_NT = np.where(
        low_NT > 0, low_NT / bounds.scale_high_N[:, None], low_NT / bounds.scale_low_N[:, None]
    )
    logits = boxes.value(cap.value)
    others = competitors(target, head.vocab_size)
    slack_NV = SLACK * (logits.size_NM + logits.high_NM - logits.low_NM)
    below_NV, above_NV = logits.low_NM - slack_NV, logits.high_NM + slack_NV
    for step in cap.steps:
        if not isinstance(step, str):
            low_NT, below_NV, above_NV = step * low_NT, step * below_NV, step * above_NV
            continue
        # The mean slope between two logits lies between the slopes that occur on the way.
        slope = FUNCTIONS[step].slope(
            np.minimum(below_NV[:, [target]], below_NV[:, others]),
            np.maximum(above_NV[:, [target]], above_NV[:, others]),
        )
        least = np.maximum(slope.middle - slope.radius, 0.0)
        low_NT = low_NT * np.where(low_NT > 0, least, slope.middle + slope.radius)
        below_NV, above_NV = FUNCTIONS[step].range(below_NV, above_NV)
        direct_NT = below_NV[:, [target]] - above_NV[:, others]
        rounding_NT = SLACK * (np.abs(below_NV[:, [target]]) + np.abs(above_NV[:, others]))
        low_NT = np.fmax(low_NT, direct_NT - rounding_NT)
    return low_NT.min(1) - SLACK * np.abs(low_NT).max(1)


@np.errstate(all="ignore")  # what is no number is found below
def margin_bounds(
    head: Head,
    row_RM: Array,
    mixed_RKM: Array,
    row_N: Ints,
    low_NK: Array,
    high_NK: Array,
    target_N: Ints,
) -> MarginBounds:
    """Bounds of the scaled margins over N boxes low <= u <= high, where ``mixed`` is u @ mixed_RKM of
    the box's query token, and ``row`` row_RM."""
    N, T = len(low_NK), head.vocab_size - 1
    centre_NK, radius_NK = Interval.between(low_NK, high_NK)
    # The middle is rounded: the radius must still reach both ends.
    radius_NK = radius_NK + np.finfo(float).eps * np.maximum(np.abs(low_NK), np.abs(high_NK))
    result = MarginBounds(
        low_NT=np.empty((N, T)),
        high_NT=np.empty((N, T)),
        middle_NT=np.empty((N, T)),
        scale_low_N=np.empty(N),
        scale_high_N=np.empty(N),
        true_low_N=np.empty(N),
    )
    query_tokens = Rows(head, mixed_RKM, row_RM)
    for target in np.unique(target_N).tolist():
        of_target = np.flatnonzero(target_N == target)
        for start in range(0, len(of_target), CHUNK):
            rows = of_target[start : start + CHUNK]
            boxes = BoxValues(query_tokens, row_N[rows], centre_NK[rows], radius_NK[rows])
            part = _one_target(head, boxes, target)
            for name, whole in vars(result).items():
                whole[rows] = getattr(part, name)
    return _in_numbers(head, result)


def _in_numbers(head: Head, bounds: MarginBounds) -> MarginBounds:
    """A comparison with a number that is none is false, which would read as "not wrong" further on.

    Where an operation is not defined everywhere, such a bound says nothing; where all are, weights
    are too large."""
    if all(np.isfinite(whole).all() for whole in vars(bounds).values()):
        return bounds
    if not head.partial:
        raise Failure(TOO_LARGE)
    fine_N = np.isfinite(bounds.true_low_N) & np.isfinite(bounds.low_NT + bounds.high_NT).all(1)
    fine_N &= np.isfinite(bounds.middle_NT).all(1)
    bounds.low_NT[~fine_N], bounds.high_NT[~fine_N] = -np.inf, np.inf
    bounds.middle_NT[~fine_N], bounds.true_low_N[~fine_N] = 0.0, -np.inf
    return bounds


@np.errstate(all="ignore")
def margins_at(
    head: Head, row_RM: Array, mixed_RKM: Array, row_N: Ints, y_NK: Array, target_N: Ints
) -> Array:
    """True margins in logits against the other tokens at points: (N, V - 1).

    Raises ``Failure`` where they are no numbers."""
    point = margin_bounds(head, row_RM, mixed_RKM, row_N, y_NK, y_NK, target_N)
    scale_N = 0.5 * (point.scale_low_N + point.scale_high_N)
    margin_NT, cap = point.middle_NT / scale_N[:, None], cap_of(head)
    if not (np.isfinite(point.true_low_N).all() and np.isfinite(margin_NT).all()):
        raise Failure(NO_NUMBER)
    if cap.steps:
        boxes = BoxValues(Rows(head, mixed_RKM, row_RM), row_N, y_NK, np.zeros_like(y_NK))
        logits_NV = boxes.value(cap.value).value_NM
        others = np.array([competitors(t, head.vocab_size) for t in range(head.vocab_size)])
        right_NT = np.take_along_axis(logits_NV, target_N[:, None], 1)
        other_NT = np.take_along_axis(logits_NV, others[target_N], 1)
        for step in cap.steps:
            if isinstance(step, str):
                margin_NT = DIFFERENCES[step](right_NT, other_NT, margin_NT)
                right_NT, other_NT = (FUNCTIONS[step].value(each) for each in (right_NT, other_NT))
            else:
                margin_NT, right_NT, other_NT = step * margin_NT, step * right_NT, step * other_NT
    return margin_NT


# The verdict on boxes, cut into parts where that helps.


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """N boxes low <= u <= high with the right token of each; ``mixed`` is u @ mixed_KM.

    Rows of ``row`` and ``mixed`` are picked by ``row_N``: many boxes share them.
    """

    low_NK: Array
    high_NK: Array
    row_RM: Array
    mixed_RKM: Array
    pivot_RH: Ints
    """Which of the K functionals is the pivot of each head."""
    row_N: Ints
    target_N: Ints

    def take(self, rows: NDArray) -> Boxes:
        return Boxes(
            low_NK=self.low_NK[rows],
            high_NK=self.high_NK[rows],
            row_RM=self.row_RM,
            mixed_RKM=self.mixed_RKM,
            pivot_RH=self.pivot_RH,
            row_N=self.row_N[rows],
            target_N=self.target_N[rows],
        )

    def margins(self, head: Head) -> MarginBounds:
        return margin_bounds(
            head,
            self.row_RM,
            self.mixed_RKM,
            self.row_N,
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
            row_RM=self.row_RM,
            mixed_RKM=self.mixed_RKM,
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
            margin_N[some] = np.maximum(margin_N[some], bounds.true_low_N.reshape(shape).min(1))
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
            low_N = boxes.take(some).cut(parts).margins(head).true_low_N
            new_N = low_N.reshape(len(some), -1).min(1)
            better = new_N > margin_N[some]
            margin_N[some] = np.where(better, new_N, margin_N[some])
            parts_N[some] = np.where(better, parts, parts_N[some])
    return Decision(status_N=decision.status_N, margin_N=margin_N, parts_N=parts_N)
