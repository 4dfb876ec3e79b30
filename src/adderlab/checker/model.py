"""One model as the checker sees it: digits' places, tables as intervals, margins at a pair of numbers.

Shapes: n columns, A steps, P positions, V vocabulary, H heads, K key dimension, E bottleneck, D channels
of what the head starts from (the stream, as a rule), Z query tokens of a step, L = 3n slots (a_0..,
b_0.., s_0..), T digits (10), C constant keys; at a pair, P keys that hold a digit.
Where one token is both digits of a column, T is 100: choice 10 a_j + b_j of slot j is the pair, slot
n + j is no key, and choice t of slot 2n + j is the digit t % 10. In another base, that stands for 10.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adderlab.checker import functions, intervals
from adderlab.checker.head import Head, margins
from adderlab.checker.intervals import (
    Array,
    Interval,
    concatenate,
    matmul,
    reach,
    stack,
)
from adderlab.checker.program import INPUTS, MIXED, ROW, Program, read_program
from adderlab.errors import Failure

FREE = -1
"""Stands for a digit or carry that is not fixed."""
NEGLIGIBLE = 2.0**-900
"""Enclosures of an exact zero reach at most so far."""
ONE_BAND, BAND = 300.0, 200.0
"""Where the largest scores of a row's inputs differ by at most ONE_BAND, one band serves them all;
otherwise bands are at most BAND wide (``Weights``)."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Positions of the digits, units first, and of everything else. The first ``base`` tokens are the
    digits; where one token is both digits of a column, the pairs come next."""

    a_positions: tuple[int, ...]
    b_positions: tuple[int, ...]
    sum_positions: tuple[int, ...]
    query_positions: tuple[int, ...]
    """Of the n + 1 digit steps; step i reads the keys up to and including this position."""
    separators: tuple[tuple[int, int], ...]
    end_token: int | None = None
    """Where the step after the digits is to be decided too: the token that has to follow s_n."""
    base: int = 10

    @property
    def columns(self) -> int:
        return len(self.a_positions)

    @property
    def steps(self) -> int:
        return self.columns + 1 + (self.end_token is not None)

    def query_position(self, i: int) -> int:
        """Of a digit step, or of the end step, which asks from where s_n stands."""
        return self.query_positions[0] + i

    @property
    def pairs(self) -> bool:
        """Whether one token is both digits of a column."""
        return self.a_positions == self.b_positions

    @property
    def choices(self) -> int:
        """T."""
        return self.base**2 if self.pairs else self.base

    def tokens_at(self, position: int) -> range:
        """The tokens that may stand where a digit or pair of the prompt is, or a digit of the answer."""
        if self.pairs and position in self.a_positions:
            return range(self.base, self.base + self.base**2)
        return range(self.base)

    def __post_init__(self) -> None:
        """Refuses a layout for which the leaves below would not describe what a step sees."""
        n = self.columns
        fixed = dict(self.separators)
        right = self.base >= 2 and len(self.b_positions) == n and len(self.query_positions) == n + 1
        right = right and self.query_positions[1:] == self.sum_positions[:n]
        right = right and len(fixed) == len(self.separators)
        operands = self.a_positions if self.pairs else (*self.a_positions, *self.b_positions)
        prompt = sorted((*operands, *fixed))
        right = right and prompt == list(range(self.query_positions[0] + 1))
        right = right and self.query_positions[0] in fixed
        first = self.query_positions[0]
        right = right and self.query_positions == tuple(range(first, first + n + 1))
        end = self.end_token
        if end is not None:
            right = right and end not in range(self.base) and self.sum_positions[n:] == (first + n + 1,)
        if not right:
            raise Failure("the checker does not know this kind of token layout")


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Attention weights exp(score - shift), with one shift for each row and head, of some inputs.

    A row is a query token z, or a split leaf of one. In float64 no shift serves all inputs where scores
    spread over hundreds: the weights of some would underflow. Then inputs are sorted into bands by the
    largest of the lower ends of their keys' scores; the shift is the band's top, and digits above it
    are forbidden. The lower ends are plain numbers, so every input is in exactly one band.
    """

    weight_RHLT: Interval
    """Of digits; the slots s_(i-1).. n - 1 are not keys of this step and hold zeros."""
    constant_RHC: Interval
    """Of separators and the query token itself."""
    allowed_RHLT: NDArray[np.bool_]
    least_RH: Array
    """Where there are several bands: no input of this one has a smaller total weight. Otherwise 0."""

    def take(self, rows: NDArray[np.intp]) -> Weights:
        return Weights(
            weight_RHLT=self.weight_RHLT[rows],
            constant_RHC=self.constant_RHC[rows],
            allowed_RHLT=self.allowed_RHLT[rows],
            least_RH=self.least_RH[rows],
        )


@dataclass(frozen=True, kw_only=True)
class Step:
    """Everything step i needs."""

    index: int
    columns: int
    tokens: tuple[int, ...]
    bands: tuple[Weights, ...]
    """Weights of each row z; from the lowest band to the highest, which forbids nothing."""
    value_LTHE: Interval
    constant_value_ZCHE: Interval
    """Separators and the query token itself."""
    residual_ZD: Interval
    given: tuple[int, ...]
    """``Model.given``."""
    pairs: bool = False
    """``Geometry.pairs``."""
    end_token: int | None = None
    """The right token, if this is the end step."""
    base: int = 10
    """``Geometry.base``."""

    @property
    def leaf_shape(self) -> tuple[int, ...]:
        """Choices of (c_(i-1), a_(i-1), b_(i-1), a_i, b_i)."""
        i, n = self.index, self.columns
        if i > n:
            return (2, 1, 1, 1, 1)  # the carry out of the top column, which is s_n
        before = (1, 1, 1) if i == 0 else (1 if i == 1 else 2, self.base, self.base)
        return (*before, *((1, 1) if i == n else (self.base, self.base)))


@dataclass(frozen=True, kw_only=True)
class Leaves:
    """The leaves of one step in canonical order. Absent columns count as digit 0."""

    carry: NDArray[np.intp]
    """c_(i-1), the carry into column i - 1."""
    a_before: NDArray[np.intp]
    b_before: NDArray[np.intp]
    a: NDArray[np.intp]
    b: NDArray[np.intp]
    row: NDArray[np.intp]
    """Index of the query token."""
    right: NDArray[np.intp]
    """The digit that this step has to produce, or the end token."""

    def __len__(self) -> int:
        return len(self.carry)


def leaves_of(step: Step) -> Leaves:
    carry, a_before, b_before, a, b = (
        axis.reshape(-1) for axis in np.indices(step.leaf_shape).astype(np.intp)
    )
    total = a_before + b_before + carry
    carry_here = total // step.base
    right = (a + b + carry_here) % step.base
    if step.end_token is not None:
        right = np.full_like(right, step.end_token)
    return Leaves(
        carry=carry,
        a_before=a_before,
        b_before=b_before,
        a=a,
        b=b,
        row=total % step.base if step.index else np.zeros_like(total),
        right=right,
    )


@dataclass(frozen=True, kw_only=True)
class Model:
    geometry: Geometry
    query_AVHK: Interval
    key_PVHK: Interval
    value_PVHE: Interval
    residual_AVD: Interval
    out_HED: Interval
    """The head starts from residual + y @ out."""
    head: Head
    score_AVHPV: Interval | None = None
    """What is added to query . key; zero where hidden."""
    hidden_AVHPV: NDArray[np.bool_] | None = None
    """Keys that a query does not see: their weight is exactly zero."""
    sink_AVH: Interval | None = None
    """The score of one key more, whose value is zero."""
    given: tuple[int, ...] = ()
    """For a question about a window of pairs only: the digits that all of them have at a_0 .. a_(n-1),
    b_0 .. b_(n-1), FREE at the open ones. Without any, the question is about all pairs."""
    score_slack: float = 0.0
    """Scores may be this much larger or smaller than the tables say (``own_pass``)."""
    shared: bool = False
    """Whether all heads write in the same coordinates (``in_coordinates``): then out_HED is the
    same for each of them, and the stream moves by the sum of their outputs."""

    @property
    def columns(self) -> int:
        return self.geometry.columns

    @property
    def num_pairs(self) -> int:
        return self.geometry.base ** (self.given.count(FREE) if self.given else 2 * self.columns)

    @property
    def heads(self) -> int:
        return self.out_HED.shape[0]

    @property
    def bottleneck(self) -> int:
        return self.out_HED.shape[1]

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        return tuple(self._step(i) for i in range(self.geometry.steps))

    def query_tokens(self, i: int) -> tuple[int, ...]:
        """Of step i: the tokens that its query can have."""
        if i == 0:
            return (dict(self.geometry.separators)[self.geometry.query_position(i)],)
        return tuple(range(self.geometry.base)) if i <= self.columns else (0, 1)  # s_n is a carry

    def _step(self, i: int) -> Step:
        geometry, n, H, E = self.geometry, self.columns, self.heads, self.bottleneck
        at = geometry.query_position(i)
        constant = [(p, token) for p, token in geometry.separators if p < at]
        tokens = self.query_tokens(i)
        answers = geometry.sum_positions[: max(i - 1, 0)]
        operands = (*geometry.a_positions, *(() if geometry.pairs else geometry.b_positions))
        seen = (*operands, *answers)
        slots = [*range(len(operands)), *range(2 * n, 2 * n + len(answers))]
        T = geometry.choices
        tokens_S = [geometry.tokens_at(p) for p in seen]
        token_ST = np.array([[each[t % len(each)] for t in range(T)] for each in tokens_S])
        rows = (np.array(seen)[:, np.newaxis], token_ST)
        if sorted((*seen, *(p for p, _ in constant), at)) != list(range(at + 1)):
            raise Failure(f"step {i} of this layout reads positions the checker cannot place")

        digits, others, hidden_digits, hidden_others = [], [], [], []
        for z in tokens:
            score, hidden = self.scores(i, z, at), self.hidden(i, z, at)  # each (H, P, V)
            own = [(p, token) for p, token in constant] + [(at, z)]
            places = tuple(list(each) for each in zip(*own, strict=True))
            other, hidden_other = score[:, *places], hidden[:, *places]
            if self.sink_AVH is not None:
                other = concatenate([other, self.sink_AVH[i, z].reshape(H, 1)], 1)
                hidden_other = np.pad(hidden_other, ((0, 0), (0, 1)))
            digits.append(score[:, *rows])
            hidden_digits.append(hidden[:, *rows])
            others.append(other)
            hidden_others.append(hidden_other)
        slack = intervals.symmetric(np.array(self.score_slack))
        digit, other = (stack(x) + slack if self.score_slack else stack(x) for x in (digits, others))
        low, high = np.zeros((2, 3 * n, T, H, E))
        low[slots], high[slots] = self.value_PVHE.low[rows], self.value_PVHE.high[rows]
        value_LTHE = Interval(low, high)
        sink = [] if self.sink_AVH is None else [Interval(np.zeros((H, E)))]
        return Step(
            index=i,
            columns=n,
            tokens=tokens,
            bands=_bands(digit, other, np.stack(hidden_digits), np.stack(hidden_others), slots, 3 * n),
            value_LTHE=value_LTHE,
            constant_value_ZCHE=stack(
                [
                    stack([*(self.value_PVHE[p, token] for p, token in (*constant, (at, z))), *sink])
                    for z in tokens
                ]
            ),
            residual_ZD=self.residual_AVD[i, list(tokens)],
            given=self.given or (FREE,) * (2 * n),
            end_token=geometry.end_token if i > n else None,
            pairs=geometry.pairs,
            base=geometry.base,
        )

    def in_coordinates(self, number: int, shared: bool) -> Model:
        """The same model with so many coordinates for y, which all heads share if ``shared``: the heads'
        outputs as they are (side by side, if shared), or what they are in the channels that ``out_HED``
        reaches (docs/proof.md, 4.1). Where neither is so many, the model as it is."""
        P, V, H, E = self.value_PVHE.shape
        D, size_HED = self.out_HED.shape[2], self.out_HED.magnitude()
        reached = np.flatnonzero((size_HED > NEGLIGIBLE).any((0, 1)))
        reached = reached if len(reached) else np.arange(1)
        if self.shared or (not shared and number == E):
            return self
        if shared and number == H * E:
            low, high = np.zeros((2, P, V, H, H, E))
            for h in range(H):
                low[:, :, h, h] = self.value_PVHE.low[:, :, h]
                high[:, :, h, h] = self.value_PVHE.high[:, :, h]
            value = Interval(low, high).reshape(P, V, H, H * E)
            out = stack([self.out_HED.reshape(H * E, D)] * H)
            return dataclasses.replace(self, value_PVHE=value, out_HED=out, shared=True)
        if number not in (len(reached), D):
            return self
        columns = reached if number == len(reached) else np.arange(D)
        flat = matmul(
            self.value_PVHE.reshape(P * V, H, E).transpose(1, 0, 2), self.out_HED[:, :, columns]
        )
        out = np.zeros((H, number, D))
        out[:, np.arange(number), columns] = 1.0
        # The other channels get next to nothing, but not always exactly nothing.
        stray_D = reach(
            self.value_PVHE.magnitude().max((0, 1)).reshape(-1), size_HED.reshape(H * E, D).T
        )
        stray_D[columns] = 0.0
        residual = self.residual_AVD
        if stray_D[size_HED.any((0, 1))].any():
            residual = residual + intervals.symmetric(stray_D)
        return dataclasses.replace(
            self,
            value_PVHE=flat.transpose(1, 0, 2).reshape(P, V, H, number),
            out_HED=Interval(out),
            residual_AVD=residual,
            shared=shared,
        )

    def scores(self, i: int, token: int, at: int) -> Interval:
        """Scores of every position up to ``at``: (H, P, V); of hidden keys they mean nothing."""
        query_HK1 = self.query_AVHK[i, token].reshape(self.heads, -1, 1)
        P, V = at + 1, self.key_PVHK.shape[1]
        key_HMK = self.key_PVHK[:P].reshape(P * V, self.heads, -1).transpose(1, 0, 2)
        found = matmul(key_HMK, query_HK1).reshape(self.heads, P, V)
        return found if self.score_AVHPV is None else found + self.score_AVHPV[i, token, :, :P]

    def hidden(self, i: int, token: int, at: int) -> NDArray[np.bool_]:
        """Which of them no weight goes to: (H, P, V)."""
        if self.hidden_AVHPV is None:
            return np.zeros((self.heads, at + 1, self.key_PVHK.shape[1]), dtype=bool)
        return self.hidden_AVHPV[i, token, :, : at + 1]


def _bands(
    digit_ZHST: Interval,
    constant_ZHC: Interval,
    hidden_ZHST: NDArray[np.bool_],
    hidden_ZHC: NDArray[np.bool_],
    slots: list[int],
    L: int,
) -> tuple[Weights, ...]:
    """Scores of the digits in the slots seen and of the constant keys, as weights of each band. Hidden
    keys have no score and the weight zero."""
    Z, H, _, T = digit_ZHST.shape
    least_ZHST = np.where(hidden_ZHST, -np.inf, digit_ZHST.low)
    least_ZHC = np.where(hidden_ZHC, -np.inf, constant_ZHC.low)
    tops_of = {}
    for z, h in np.ndindex(Z, H):
        digit_ST, constant_C = least_ZHST[z, h], least_ZHC[z, h]
        # An input has all constant keys, and one digit of every slot.
        floor = max(float(constant_C.max()), float(digit_ST.min(1).max(initial=-np.inf)))
        if not np.isfinite(floor):
            raise Failure("a query of this model may see no key at all, or only hidden ones")
        scores = np.unique(np.append(digit_ST, floor))
        scores, tops = scores[scores >= floor], []
        width = ONE_BAND if scores[-1] - floor <= ONE_BAND else BAND
        while len(scores):
            tops.append((float(scores[0]), float(scores[scores <= scores[0] + width][-1])))
            scores = scores[scores > tops[-1][1]]
        tops_of[z, h] = tops
    found = []
    for number in range(max(map(len, tops_of.values()))):
        weight_ZHLT, constant = np.zeros((2, Z, H, L, T)), np.zeros((2, *constant_ZHC.shape))
        allowed_ZHLT, least_ZH = np.ones((Z, H, L, T), dtype=bool), np.zeros((Z, H))
        for (z, h), tops in tops_of.items():
            # A row with fewer bands repeats its last.
            bottom, top = tops[min(number, len(tops) - 1)]
            allowed = least_ZHST[z, h] <= top
            counted, counted_C = allowed & ~hidden_ZHST[z, h], ~hidden_ZHC[z, h]
            highest = np.where(counted, digit_ZHST.high[z, h], -np.inf).max(initial=-np.inf)
            highest_C = np.where(counted_C, constant_ZHC.high[z, h], -np.inf).max()
            shift = max(float(highest), float(highest_C))
            weight = functions.exp(digit_ZHST[z, h] - shift, counted)
            weight_ZHLT[0, z, h, slots], weight_ZHLT[1, z, h, slots] = weight.low, weight.high
            weight = functions.exp(constant_ZHC[z, h] - shift, counted_C)
            constant[0, z, h], constant[1, z, h] = weight.low, weight.high
            allowed_ZHLT[z, h, slots] = allowed
            if len(tops) > 1:
                # The key with the largest score alone weighs this much.
                least_ZH[z, h] = functions.exp(Interval(np.array(bottom)) - shift).low
        found.append(
            Weights(
                weight_RHLT=Interval(*weight_ZHLT),
                constant_RHC=Interval(*constant),
                allowed_RHLT=allowed_ZHLT,
                least_RH=least_ZH,
            )
        )
    return tuple(found)


def model_from_tables(form: Any, tables: Mapping[str, Interval]) -> Model:
    """From enclosed tables and their ``TableForm``; in ``score``, minus infinity means hidden.

    The head starts behind the output projection, if that is all that reads the mixture.
    """
    layout, n = form.layout, len(form.layout.a_positions)
    program = read_program(form.program, tables)
    if program.vocab_size != layout.vocab_size:
        raise Failure(f"the head makes {program.vocab_size} logits, not {layout.vocab_size}")
    head, out, residual = _start(program, tables, form.heads, form.value_dim)
    score, hidden = tables.get("score"), None
    if score is not None:
        hidden = score.high == -np.inf
        if not (np.isfinite(score.low[~hidden]).all() and np.isfinite(score.high[~hidden]).all()):
            raise Failure("a key of this model has a score that may be infinite")
        score = Interval(np.where(hidden, 0.0, score.low), np.where(hidden, 0.0, score.high))
    return Model(
        geometry=Geometry(
            a_positions=tuple(layout.a_positions),
            b_positions=tuple(layout.b_positions),
            sum_positions=tuple(layout.sum_positions),
            query_positions=tuple(layout.query_positions)[: n + 1],
            separators=tuple(layout.separators),
            end_token=layout.end_token if getattr(layout, "end_decided", False) else None,
            base=layout.base,
        ),
        query_AVHK=tables["query"],
        key_PVHK=tables["key"],
        value_PVHE=tables["value"],
        residual_AVD=residual,
        out_HED=out,
        head=head,
        score_AVHPV=score,
        hidden_AVHPV=hidden,
        sink_AVH=tables.get("sink"),
    )


def _start(
    program: Program, tables: Mapping[str, Interval], H: int, E: int
) -> tuple[Head, Interval, Interval]:
    """The head, and what it starts from as residual + y @ out: out (H, E, D) and residual (A, V, D).

    Where one linear map is all that reads the mixture, it is taken into ``out``; where its result only
    joins ``row``, which nothing else reads, the head starts from their sum.
    """
    constants = {name: tables[name] for name in _names(program)}
    row_AVR = tables["residual"]
    A, V, R = row_AVR.shape

    def padded(x: Interval, before: int, after: int) -> Interval:
        zeros = [Interval(np.zeros((*x.shape[:-1], n))) for n in (before, after)]
        return concatenate([zeros[0], x, zeros[1]], -1)

    readers = program.uses(MIXED)
    first = program.operations[readers[0]] if len(readers) == 1 else None
    if first is None or first.name != "linear":
        out = padded(Interval(np.eye(H * E)), 0, R)
        head = Head(program=program, constants=constants)
        return head, out.reshape(H, E, H * E + R), padded(row_AVR, H * E, 0)
    image, width = INPUTS + readers[0], first.width
    out = constants[str(first.operands[1])]
    offset = constants[str(first.operands[2])] if len(first.operands) > 2 else None
    joins = program.uses(image)
    sums = len(joins) == 1 and program.uses(ROW) == joins
    if sums and program.operations[joins[0]].name == "add" and width == R:
        residual = row_AVR if offset is None else row_AVR + offset
        made = {MIXED: MIXED, ROW: ROW, image: MIXED, INPUTS + joins[0]: MIXED}
        head = Head(program=program.without(made, width, 0), constants=constants)
        return head, out.reshape(H, E, width), residual
    zeros = np.zeros((A, V, width))
    start = Interval(zeros) if offset is None else Interval(zeros) + offset
    rest = program.without({MIXED: MIXED, ROW: ROW, image: MIXED}, width, R)
    head = Head(program=rest, constants=constants)
    return head, padded(out, 0, R).reshape(H, E, width + R), concatenate([start, row_AVR], -1)


def _names(program: Program) -> set[str]:
    return {x for operation in program.operations for x in operation.operands if isinstance(x, str)}


def digits_of(number: int, count: int, base: int = 10) -> list[int]:
    """Units first."""
    return [number // base**j % base for j in range(count)]


# The margins at one pair of numbers, enclosed: for witnesses and counterexamples.


def mix_at(model: Model, step: Step, a: int, b: int) -> tuple[int, int, Interval]:
    """At one pair: row of the query token, right digit, and y (H, E), enclosed."""
    n, i, base = model.columns, step.index, step.base
    answer = digits_of(a + b, n + 1, base)
    row = answer[i - 1] if i else 0
    digits_a, digits_b = digits_of(a, n, base), digits_of(b, n, base)
    if step.pairs:
        seen = [(j, base * digits_a[j] + digits_b[j]) for j in range(n)]
    else:
        seen = [(j, digit) for j, digit in enumerate(digits_a)]
        seen += [(n + j, digit) for j, digit in enumerate(digits_b)]
    seen += [(2 * n + j, answer[j]) for j in range(i - 1)]
    slots, digits = (list(part) for part in zip(*seen, strict=True))
    value_HPE = step.value_LTHE[slots, digits].transpose(1, 0, 2)
    constant_HCE = step.constant_value_ZCHE[row].transpose(1, 0, 2)
    mixed: list[Interval] = []
    for h in range(model.heads):
        # The lowest band that forbids none of the digits is the pair's own: there nothing underflows.
        band = next(b for b in step.bands if b.allowed_RHLT[row, h, slots, digits].all())
        weight_P, constant_C = band.weight_RHLT[row, h][slots, digits], band.constant_RHC[row, h]
        total = weight_P.sum(0) + constant_C.sum(0)
        sum_E = (_last(weight_P) * value_HPE[h]).sum(0) + (_last(constant_C) * constant_HCE[h]).sum(0)
        mixed.append(sum_E / total)
    right = answer[i] if step.end_token is None else step.end_token
    return row, right, stack(mixed)


def margin_by_step(model: Model, a: int, b: int) -> list[tuple[float, float]]:
    """[low, high] of the margin, in logits, of the right token at each of the steps.

    Teacher-forced: every step reads the right digits before it. Below zero at some step means that
    greedy decoding fails on the pair, because the first such step reads only right digits.
    """
    out, (H, E, D) = [], model.out_HED.shape
    for step in model.steps:
        row, right, y_HE = mix_at(model, step, a, b)
        found = margins(
            model.head,
            np.array([right]),
            step.residual_ZD[[row]],
            model.out_HED.reshape(1, H * E, D),
            y_HE.low.reshape(1, H * E),
            y_HE.high.reshape(1, H * E),
        )
        out.append((float(found.true_low_N()[0]), float(found.true_high_N()[0])))
    return out


def smallest_margin(model: Model, a: int, b: int) -> tuple[float, float]:
    """[low, high] of the smallest margin over the steps."""
    by_step = margin_by_step(model, a, b)
    return min(low for low, _ in by_step), min(high for _, high in by_step)


def _last(x: Interval) -> Interval:
    return Interval(x.low[..., None], x.high[..., None])
