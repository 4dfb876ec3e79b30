"""One model as the checker sees it: where the digits stand, and its tables as intervals.

Shapes: n columns, A steps, P positions, V vocabulary, H heads, K key dimension, E bottleneck, D width,
F hidden, Z query tokens of a step, L = 3n slots (a_0.., b_0.., s_0..), T = 10 digits, C constant keys.
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
from adderlab.checker.intervals import (
    Array,
    Interval,
    concatenate,
    matmul,
    stack,
)
from adderlab.errors import Failure
from adderlab.models.head_program import standard_head

RADIX = 10
FREE = -1
"""Stands for a digit or carry that is not fixed."""
ONE_BAND, BAND = 300.0, 200.0
"""Where the largest scores of a row's inputs differ by at most ONE_BAND, one band serves them all;
otherwise bands are at most BAND wide (``Weights``)."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Positions of the digits, units first, and of everything else."""

    a_positions: tuple[int, ...]
    b_positions: tuple[int, ...]
    sum_positions: tuple[int, ...]
    query_positions: tuple[int, ...]
    """Of the n + 1 digit steps; step i reads the keys up to and including this position."""
    separators: tuple[tuple[int, int], ...]

    @property
    def columns(self) -> int:
        return len(self.a_positions)

    def __post_init__(self) -> None:
        """Refuses a layout for which the leaves below would not describe what a step sees."""
        n = self.columns
        fixed = dict(self.separators)
        right = len(self.b_positions) == n and len(self.query_positions) == n + 1
        right = right and self.query_positions[1:] == self.sum_positions[:n]
        right = right and len(fixed) == len(self.separators)
        prompt = sorted((*self.a_positions, *self.b_positions, *fixed))
        right = right and prompt == list(range(self.query_positions[0] + 1))
        right = right and self.query_positions[0] in fixed
        first = self.query_positions[0]
        right = right and self.query_positions == tuple(range(first, first + n + 1))
        if not right:
            raise Failure("the checker does not know this kind of token layout")


@dataclass(frozen=True, kw_only=True)
class Head:
    """What follows the attention. An absent weight is one, an absent bias zero."""

    norm2: str
    norm2_eps: Interval
    norm2_weight: Interval
    norm2_bias: Interval
    activation: str
    fc1: Interval
    fc1_bias: Interval
    gate: Interval | None
    fc2: Interval
    fc2_bias: Interval
    norm_f: str
    norm_f_eps: Interval
    norm_f_weight: Interval
    norm_f_bias: Interval
    unembed: Interval


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

    @property
    def leaf_shape(self) -> tuple[int, ...]:
        """Choices of (c_(i-1), a_(i-1), b_(i-1), a_i, b_i)."""
        i, n = self.index, self.columns
        before = (1, 1, 1) if i == 0 else (1 if i == 1 else 2, RADIX, RADIX)
        return (*before, *((1, 1) if i == n else (RADIX, RADIX)))


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
    """The digit that this step has to produce."""

    def __len__(self) -> int:
        return len(self.carry)


def leaves_of(step: Step) -> Leaves:
    carry, a_before, b_before, a, b = (
        axis.reshape(-1) for axis in np.indices(step.leaf_shape).astype(np.intp)
    )
    total = a_before + b_before + carry
    carry_here = total // RADIX
    return Leaves(
        carry=carry,
        a_before=a_before,
        b_before=b_before,
        a=a,
        b=b,
        row=total % RADIX if step.index else np.zeros_like(total),
        right=(a + b + carry_here) % RADIX,
    )


@dataclass(frozen=True, kw_only=True)
class Model:
    geometry: Geometry
    query_AVHK: Interval
    key_PVHK: Interval
    value_PVHE: Interval
    residual_AVD: Interval
    out_HED: Interval
    head: Head
    given: tuple[int, ...] = ()
    """For a question about a window of pairs only: the digits that all of them have at a_0 .. a_(n-1),
    b_0 .. b_(n-1), FREE at the open ones. Without any, the question is about all pairs."""
    score_slack: float = 0.0
    """Scores may be this much larger or smaller than the tables say (``own_pass``)."""
    shared: bool = False
    """Whether all heads write in the same coordinates (``in_shared_coordinates``): then out_HED is the
    same for each of them, and the stream moves by the sum of their outputs."""

    @property
    def columns(self) -> int:
        return self.geometry.columns

    @property
    def num_pairs(self) -> int:
        return RADIX ** (self.given.count(FREE) if self.given else 2 * self.columns)

    @property
    def heads(self) -> int:
        return self.out_HED.shape[0]

    @property
    def bottleneck(self) -> int:
        return self.out_HED.shape[1]

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        return tuple(self._step(i) for i in range(self.columns + 1))

    def _step(self, i: int) -> Step:
        geometry, n, H, E = self.geometry, self.columns, self.heads, self.bottleneck
        at = geometry.query_positions[i]
        constant = [(p, token) for p, token in geometry.separators if p < at]
        tokens = (dict(geometry.separators)[at],) if i == 0 else tuple(range(RADIX))
        seen = (*geometry.a_positions, *geometry.b_positions, *geometry.sum_positions[: max(i - 1, 0)])
        if sorted((*seen, *(p for p, _ in constant), at)) != list(range(at + 1)):
            raise Failure(f"step {i} of this layout reads positions the checker cannot place")

        score = [self.scores(i, z, at) for z in tokens]  # each (H, P, V)
        if self.score_slack:
            score = [s + intervals.symmetric(np.array(self.score_slack)) for s in score]
        digits = [s[:, list(seen), :RADIX] for s in score]
        others = [
            stack([s[:, p, token] for p, token in constant] + [s[:, at, z]], 1)
            for s, z in zip(score, tokens, strict=True)
        ]
        value_LTHE = self.value_PVHE[list(seen), :RADIX]
        hidden = 3 * n - len(seen)
        value_LTHE = concatenate([value_LTHE, Interval(np.zeros((hidden, RADIX, H, E)))])
        return Step(
            index=i,
            columns=n,
            tokens=tokens,
            bands=_bands(stack(digits), stack(others), 3 * n),
            value_LTHE=value_LTHE,
            constant_value_ZCHE=stack(
                [stack([self.value_PVHE[p, token] for p, token in (*constant, (at, z))]) for z in tokens]
            ),
            residual_ZD=self.residual_AVD[i, list(tokens)],
            given=self.given or (FREE,) * (2 * n),
        )

    def in_shared_coordinates(self) -> Model:
        """The same model with the heads' outputs in coordinates that all of them share: those of the
        stream where the heads have more numbers than it, otherwise theirs side by side (docs/proof.md,
        4.1)."""
        if self.shared:
            return self
        P, V, H, E = self.value_PVHE.shape
        D = self.out_HED.shape[2]
        if H * E > D:
            flat = matmul(self.value_PVHE.reshape(P * V, H, E).transpose(1, 0, 2), self.out_HED)
            value = flat.transpose(1, 0, 2).reshape(P, V, H, D)
            out = Interval(np.broadcast_to(np.eye(D), (H, D, D)).copy())
        else:
            low, high = np.zeros((2, P, V, H, H, E))
            for h in range(H):
                low[:, :, h, h] = self.value_PVHE.low[:, :, h]
                high[:, :, h, h] = self.value_PVHE.high[:, :, h]
            value = Interval(low, high).reshape(P, V, H, H * E)
            out = stack([self.out_HED.reshape(H * E, D)] * H)
        return dataclasses.replace(self, value_PVHE=value, out_HED=out, shared=True)

    def scores(self, i: int, token: int, at: int) -> Interval:
        """query . key of every position up to ``at``: (H, P, V)."""
        query_HK1 = self.query_AVHK[i, token].reshape(self.heads, -1, 1)
        P, V = at + 1, self.key_PVHK.shape[1]
        key_HMK = self.key_PVHK[:P].reshape(P * V, self.heads, -1).transpose(1, 0, 2)
        return matmul(key_HMK, query_HK1).reshape(self.heads, P, V)


def _bands(digit_ZHST: Interval, constant_ZHC: Interval, slots: int) -> tuple[Weights, ...]:
    """Scores of the digits seen and of the constant keys, as weights of each band."""
    Z, H, S, T = digit_ZHST.shape
    tops_of = {}
    for z, h in np.ndindex(Z, H):
        digit_ST, constant_C = digit_ZHST.low[z, h], constant_ZHC.low[z, h]
        # An input has all constant keys, and one digit of every slot.
        floor = max(float(constant_C.max()), float(digit_ST.min(1).max(initial=-np.inf)))
        scores = np.unique(np.append(digit_ST, floor))
        scores, tops = scores[scores >= floor], []
        width = ONE_BAND if scores[-1] - floor <= ONE_BAND else BAND
        while len(scores):
            tops.append((float(scores[0]), float(scores[scores <= scores[0] + width][-1])))
            scores = scores[scores > tops[-1][1]]
        tops_of[z, h] = tops
    found = []
    for number in range(max(map(len, tops_of.values()))):
        weight_ZHLT, constant = np.zeros((2, Z, H, slots, T)), np.zeros((2, *constant_ZHC.shape))
        allowed_ZHLT, least_ZH = np.ones((Z, H, slots, T), dtype=bool), np.zeros((Z, H))
        for (z, h), tops in tops_of.items():
            # A row with fewer bands repeats its last.
            bottom, top = tops[min(number, len(tops) - 1)]
            allowed = digit_ZHST.low[z, h] <= top
            highest = np.where(allowed, digit_ZHST.high[z, h], -np.inf).max(initial=-np.inf)
            shift = max(float(highest), float(constant_ZHC.high[z, h].max()))
            weight = functions.exp(digit_ZHST[z, h] - shift, allowed)
            weight_ZHLT[0, z, h, :S], weight_ZHLT[1, z, h, :S] = weight.low, weight.high
            weight = functions.exp(constant_ZHC[z, h] - shift)
            constant[0, z, h], constant[1, z, h] = weight.low, weight.high
            allowed_ZHLT[z, h, :S] = allowed
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
    """From enclosed tables and their ``TableForm``.

    A value dimension above the width is folded into the output projection (docs/proof.md, 4.1).
    """
    layout, n = form.layout, len(form.layout.a_positions)
    standard = standard_head(form.program)
    if standard is None:
        raise Failure("the checker knows heads of one pre-norm MLP only")
    width, hidden = form.width, standard.hidden
    ones, zeros = Interval(np.ones(width)), Interval(np.zeros(width))
    value = tables["value"]
    out = tables["attn_out"].reshape(form.heads, form.value_dim, width)
    if form.value_dim > width:
        P, V, H, E = value.shape
        flat = matmul(value.reshape(P * V, H, E).transpose(1, 0, 2), out)
        value = flat.transpose(1, 0, 2).reshape(P, V, H, width)
        out = Interval(np.broadcast_to(np.eye(width), (H, width, width)).copy())
    norms: dict[str, Any] = {}
    for name, norm in (("norm2", standard.norm2), ("norm_f", standard.norm_f)):
        if norm.kind not in ("none", "rms", "layer"):
            raise Failure(f"the checker does not know the norm {norm.kind!r}")
        norms[name] = norm.kind
        norms[f"{name}_eps"] = intervals.widened(norm.eps)
        norms[f"{name}_weight"] = tables.get(f"{name}_weight", ones)
        norms[f"{name}_bias"] = tables.get(f"{name}_bias", zeros)
    return Model(
        geometry=Geometry(
            a_positions=tuple(layout.a_positions),
            b_positions=tuple(layout.b_positions),
            sum_positions=tuple(layout.sum_positions),
            query_positions=tuple(layout.query_positions)[: n + 1],
            separators=tuple(layout.separators),
        ),
        query_AVHK=tables["query"],
        key_PVHK=tables["key"],
        value_PVHE=value,
        residual_AVD=tables["residual"],
        out_HED=out,
        head=Head(
            activation=standard.activation,
            fc1=tables["fc1"],
            fc1_bias=tables.get("fc1_bias", Interval(np.zeros(hidden))),
            gate=tables.get("gate"),
            fc2=tables["fc2"],
            fc2_bias=tables.get("fc2_bias", zeros),
            unembed=tables["unembed"],
            **norms,
        ),
    )


def digits_of(number: int, count: int) -> list[int]:
    """Units first."""
    return [number // RADIX**j % RADIX for j in range(count)]
