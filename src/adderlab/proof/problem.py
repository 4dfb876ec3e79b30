"""What the prover works on: the tables of one model as float64 arrays, sorted by digit column.

A step's keys are *slots*: slot j is the digit a_j, slot n + j the digit b_j, slot 2n + j the answer
digit s_j; the keys that no digit can change (separators and the query itself) are summed once. Where
one token is both digits of a column (``Geometry.pairs``), slot j holds the pair, T is 100 with choice
10 a_j + b_j, slot n + j has no weight, and a choice of slot 2n + j is the digit of its last place.
The number of columns n and the base are free: a small instance can be checked by trying every pair.

Shapes: n columns, A answer steps (n + 1, and one more where the end token counts), P positions, V
vocabulary, H heads, K key dimension, E bottleneck (dimension of y per head), R width of the program's
``row``, Z query tokens of a step, L = 3n slots, C constant keys, T choices of a slot: the
digits, or their pairs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from adderlab.errors import UsageError
from adderlab.models.head_program import MIXED, HeadProgram
from adderlab.models.tables import Tables
from adderlab.proof.forms import Array, Head
from adderlab.task.addition import Addition, Layout

FREE = -1
"""Stands for a digit or carry that nothing fixes."""
UNIT = 2.0**-53
SCORE_ROUNDINGS = 4.0
"""Roundings of a score for each of its terms, those of the table entries included."""
ONE_BAND, BAND, FLUSH = 300.0, 200.0, 600.0
"""In units of score. Where largest scores differ by no more than ONE_BAND, one band serves all inputs;
otherwise bands are at most BAND wide and weights e^-FLUSH below a band's top count as 0."""
LEAST_SUM = math.exp(-300.0)
"""Between the least total weight of a band, e^-BAND, and what FLUSH leaves out, 34 e^-FLUSH: a sum below
it says less than e^-100 about an input of the band, and an input that makes a larger sum has its
weights to a relative e^-299."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Where the digits stand, for n columns. Index j = 0 is the units column. The first ``base`` tokens
    are the digits; those of their pairs follow."""

    a_positions: tuple[int, ...]
    b_positions: tuple[int, ...]
    sum_positions: tuple[int, ...]
    query_positions: tuple[int, ...]
    separators: tuple[tuple[int, int], ...]
    end_token: int | None = None
    """Where it counts whether the end token follows the sum's top digit: then that is step n + 1."""
    base: int = 10

    @property
    def num_steps(self) -> int:
        """Decided steps: the n + 1 digits of the sum, and perhaps the end token."""
        return self.columns + 1 + (self.end_token is not None)

    @property
    def columns(self) -> int:
        return len(self.a_positions)

    @property
    def pairs(self) -> bool:
        """Whether one token is both digits of a column."""
        return self.a_positions == self.b_positions

    @property
    def addition(self) -> Addition:
        return Addition(columns=self.columns, base=self.base)

    @property
    def num_pairs(self) -> int:
        return self.addition.num_pairs

    @classmethod
    def of(cls, layout: Layout) -> Geometry:
        """The steps of a layout that count: the sum's digits, and the end token where
        ``end_decided`` says so."""
        end_token = layout.end_token if layout.end_decided else None
        return cls(
            a_positions=layout.a_positions,
            b_positions=layout.b_positions,
            sum_positions=layout.sum_positions,
            query_positions=layout.query_positions[: layout.sum_digits + (end_token is not None)],
            separators=layout.separators,
            end_token=end_token,
            base=layout.base,
        )


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Attention weights exp(score - shift) of the inputs whose largest score lies in one *band*.

    Softmax divides by the total weight, so every (z, h) may choose its shift; but no shift serves all
    inputs where attention is sharp. With the largest score that any key *could* have as the shift, the
    weights of an input whose own keys all lie 745 below it underflow to 0, so does their total, and
    every bound holds for it trivially. So inputs are sorted by their largest score into bands at most
    ``BAND`` wide. A band's shift is its top; digits with a higher score are forbidden in it; its inputs
    have a total weight of at least e^-BAND. Bounds of a cell are the widest over the bands, and each
    input is in one of them. Trained models need one band: that of all inputs.
    """

    weight_ZHLT: Array
    """Zero where the step does not see the slot, or where the digit is forbidden."""
    mass_ZHLTE: Array
    """Weight times value."""
    weight_ZH: Array
    """Summed weight of the keys that are the same for every input of this z."""
    mass_ZHE: Array
    allowed_ZHLT: NDArray[np.bool_]
    least_ZH: Array
    """Sums S(tau) up to this, times the size of f.U, count as not positive: inputs below the band, whose
    weights may have underflowed, cannot exceed it, and inputs of the band cannot hide below it."""

    @cached_property
    def forbids(self) -> bool:
        """Whether any digit is forbidden; where none is, nobody need look."""
        return not self.allowed_ZHLT.all()

    def only(self, row: int) -> Weights:
        fields = [field.name for field in dataclasses.fields(self)]
        return Weights(**{name: getattr(self, name)[row : row + 1] for name in fields})


@dataclass(frozen=True, kw_only=True)
class Step:
    """One answer step: weights and weighted values of every slot, for each query token z."""

    index: int
    columns: int
    tokens: tuple[int, ...]
    """The Z query tokens: the separator for step 0, 0 and 1 (a carry) for the end token, otherwise the
    digits."""
    bands: tuple[Weights, ...]
    """By rising largest score; the last one forbids no digit."""
    row_ZR: Array
    range_HE2: Array
    """Smallest and largest value coordinate among the keys that can occur."""
    given: tuple[int, ...]
    """``Problem.given``."""
    end_token: int | None
    """The right answer of the step behind the sum's digits; None at all other steps."""
    doubt_ZH: Array
    """Bound of the relative error of a weight: scores far from zero are rounded coarsely."""
    summed: bool = False
    """``Problem.summed``."""
    pairs: bool = False
    """``Geometry.pairs``."""
    base: int = 10

    def only(self, row: int) -> Step:
        """The step with one query token."""
        rows = slice(row, row + 1)
        return dataclasses.replace(
            self,
            tokens=self.tokens[rows],
            bands=tuple(band.only(row) for band in self.bands),
            row_ZR=self.row_ZR[rows],
            doubt_ZH=self.doubt_ZH[rows],
        )

    @property
    def leaf_shape(self) -> tuple[int, ...]:
        """(c, a, b of column i - 1, a, b of column i), where there are such columns."""
        i, n, base = self.index, self.columns, self.base
        if self.end_token is not None:
            return (2, 1, 1, 1, 1)
        before = (1, 1, 1) if i == 0 else (1 if i == 1 else 2, base, base)
        here = (1, 1) if i == n else (base, base)
        return (*before, *here)

    @property
    def num_leaves(self) -> int:
        return int(np.prod(self.leaf_shape))


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One model of one attention layer, ready to be decided."""

    geometry: Geometry
    query_AVHK: Array
    key_PVHK: Array
    value_PVHE: Array
    row_AVR: Array
    head: Head
    score_AVHPV: Array | None = None
    """What scores are besides query times key; minus infinity hides a key."""
    sink_AVH: Array | None = None
    """Score of one key more, of value 0."""
    tables: Tables | None = None
    """What it was made from; None for one made by hand, which gets no certificate."""
    given: tuple[int, ...] = ()
    """For a *window* (``proof.trials``): the digits that all its pairs have at a_0 .. a_(n-1), b_0 ..
    b_(n-1), FREE at the open ones. Without any, the problem is about all pairs."""
    summed: bool = False
    """Whether the heads share their E coordinates (``coordinates``): the program's ``mixed`` is the sum
    of their outputs y. Otherwise it is their outputs side by side."""

    @property
    def columns(self) -> int:
        return self.geometry.columns

    @property
    def num_pairs(self) -> int:
        base = self.geometry.base
        return base ** self.given.count(FREE) if self.given else self.geometry.num_pairs

    @property
    def heads(self) -> int:
        return self.value_PVHE.shape[2]

    @property
    def bottleneck(self) -> int:
        return self.value_PVHE.shape[3]

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        return tuple(self._step(i) for i in range(self.geometry.num_steps))

    def _step(self, i: int) -> Step:
        geometry, n, base = self.geometry, self.columns, self.geometry.base
        fixed = dict(geometry.separators)
        query_position = geometry.query_positions[i]
        digits = range(base) if i <= n else range(2)
        tokens = (fixed[query_position],) if i == 0 else tuple(digits)
        visible_s = geometry.sum_positions[: max(i - 1, 0)]
        if geometry.pairs:
            positions = (*geometry.a_positions, *visible_s)
            slots = [*range(n), *range(2 * n, 2 * n + len(visible_s))]
            choice_T = np.arange(base**2)
            token_ST = np.stack([base + choice_T] * n + [choice_T % base] * len(visible_s))
        else:
            positions = (*geometry.a_positions, *geometry.b_positions, *visible_s)
            slots = list(range(len(positions)))
            token_ST = np.broadcast_to(np.arange(base), (len(slots), base))
        position_S1 = np.array(positions)[:, np.newaxis]

        rows = np.arange(len(tokens))
        query_ZHK = self.query_AVHK[i, list(tokens)]
        key_PVHK = self.key_PVHK[: query_position + 1]
        score_ZPVH = np.einsum("zhk,pvhk->zpvh", query_ZHK, key_PVHK)
        size_ZH = np.einsum("zhk,pvhk->zpvh", np.abs(query_ZHK), np.abs(key_PVHK)).max((1, 2))
        if self.score_AVHPV is not None:
            more_ZPVH = self.score_AVHPV[i, list(tokens), :, : query_position + 1].transpose(0, 2, 3, 1)
            score_ZPVH = score_ZPVH + more_ZPVH
            size_ZH = size_ZH + np.abs(np.where(np.isfinite(more_ZPVH), more_ZPVH, 0.0)).max((1, 2))
        score_ZHST = score_ZPVH[:, position_S1, token_ST].transpose(0, 3, 1, 2)
        value_HSTE = self.value_PVHE[position_S1, token_ST].transpose(2, 0, 1, 3)
        # Keys that every input of this z has: separators before the query, and the query itself.
        constant = [(p, token) for p, token in geometry.separators if p < query_position]
        score_ZHC = np.stack(
            [score_ZPVH[:, p, token] for p, token in constant]
            + [score_ZPVH[rows, query_position, list(tokens)]],
            -1,
        )
        constant_value_CHE = (
            np.stack([self.value_PVHE[p, token] for p, token in constant])
            if constant
            else np.zeros((0, self.heads, self.bottleneck))
        )
        query_value_ZHE = self.value_PVHE[query_position, list(tokens)]
        value_ZCHE = np.concatenate(
            [
                np.broadcast_to(constant_value_CHE, (len(tokens), *constant_value_CHE.shape)),
                query_value_ZHE[:, None],
            ],
            1,
        )
        if self.sink_AVH is not None:
            score_ZHC = np.concatenate([score_ZHC, self.sink_AVH[i, list(tokens)][..., None]], -1)
            size_ZH = np.maximum(size_ZH, np.abs(np.nan_to_num(score_ZHC[..., -1], neginf=0.0)))
            value_ZCHE = np.concatenate([value_ZCHE, np.zeros_like(value_ZCHE[:, :1])], 1)
        _some_key(i, score_ZHST, score_ZHC)
        range_HE2 = _value_range(score_ZHST, value_HSTE, score_ZHC, value_ZCHE)
        return Step(
            index=i,
            columns=n,
            tokens=tokens,
            bands=tuple(
                _weights(
                    shift_ZH,
                    least_ZH,
                    slots,
                    score_ZHST,
                    value_HSTE,
                    score_ZHC,
                    value_ZCHE,
                    self._allowed_LT(),
                )
                for shift_ZH, least_ZH in _bands(score_ZHST, score_ZHC)
            ),
            row_ZR=self.row_AVR[i, list(tokens)],
            range_HE2=range_HE2,
            given=self.given,
            end_token=geometry.end_token if i > n else None,
            summed=self.summed,
            pairs=geometry.pairs,
            base=base,
            doubt_ZH=SCORE_ROUNDINGS * (query_ZHK.shape[-1] + 4) * UNIT * size_ZH,
        )

    def _allowed_LT(self) -> NDArray[np.bool_]:
        """Which digits the slots may hold: all, but for those that a window gives."""
        n, pairs, base = self.columns, self.geometry.pairs, self.geometry.base
        choice_T = np.arange(base**2 if pairs else base)
        allowed_LT = np.ones((3 * n, len(choice_T)), dtype=bool)
        for slot, digit in enumerate(self.given):
            if digit != FREE and pairs:
                allowed_LT[slot % n] &= (choice_T // base if slot < n else choice_T % base) == digit
            elif digit != FREE:
                allowed_LT[slot] = choice_T == digit
        return allowed_LT


def _some_key(i: int, score_ZHST: Array, score_ZHC: Array) -> None:
    """Refuse a step of which an input might see no key at all: its average would be no number."""
    least_ZH = np.maximum(score_ZHST.min(3).max(2), score_ZHC.max(2))
    if not np.isfinite(least_ZH).all():
        raise UsageError(f"answer step {i} may see no key at all, so that attention has no weights")


def _value_range(score_ZHST: Array, value_HSTE: Array, score_ZHC: Array, value_ZCHE: Array) -> Array:
    """Smallest and largest value coordinate among the keys that are not hidden: (H, E, 2)."""
    seen_HST1 = np.any(score_ZHST > -np.inf, axis=0)[..., None]
    seen_ZCH1 = (score_ZHC > -np.inf).transpose(0, 2, 1)[..., None]
    if seen_HST1.all() and seen_ZCH1.all():
        low_HE = np.minimum(value_HSTE.min((1, 2)), value_ZCHE.min((0, 1)))
        high_HE = np.maximum(value_HSTE.max((1, 2)), value_ZCHE.max((0, 1)))
    else:
        low_HE = np.minimum(
            np.where(seen_HST1, value_HSTE, np.inf).min((1, 2)),
            np.where(seen_ZCH1, value_ZCHE, np.inf).min((0, 1)),
        )
        high_HE = np.maximum(
            np.where(seen_HST1, value_HSTE, -np.inf).max((1, 2)),
            np.where(seen_ZCH1, value_ZCHE, -np.inf).max((0, 1)),
        )
    return np.stack([low_HE, high_HE], -1)


def _bands(score_ZHST: Array, score_ZHC: Array) -> Iterator[tuple[Array, Array]]:
    """(shift_ZH, least_ZH) of every band of a step, the lowest first.

    The largest score of an input is no smaller than ``floor``: it has all constant keys, and of every
    slot one digit. So the band from there up to the largest score of all holds every input.
    """
    top_ZH = np.maximum(score_ZHST.max((2, 3)), score_ZHC.max(2))
    floor_ZH = np.maximum(score_ZHST.min(3).max(2), score_ZHC.max(2))
    tops_of = {}
    for z, h in np.ndindex(top_ZH.shape):
        tops_of[z, h] = [float(top_ZH[z, h])]
        if top_ZH[z, h] - floor_ZH[z, h] > ONE_BAND:
            scores = np.unique(np.append(score_ZHST[z, h], floor_ZH[z, h]))
            scores = scores[scores >= floor_ZH[z, h]]
            tops = []
            while len(scores):
                tops.append(float(scores[scores <= scores[0] + BAND][-1]))
                scores = scores[scores > tops[-1]]
            tops_of[z, h] = tops
    for b in range(max(map(len, tops_of.values()))):
        shift_ZH, least_ZH = np.empty_like(top_ZH), np.zeros_like(top_ZH)
        for (z, h), tops in tops_of.items():
            # A (z, h) with fewer bands repeats its last one, which changes no maximum.
            shift_ZH[z, h] = tops[min(b, len(tops) - 1)]
            least_ZH[z, h] = LEAST_SUM if len(tops) > 1 else 0.0
        yield shift_ZH, least_ZH


def _weights(
    shift_ZH: Array,
    least_ZH: Array,
    slots: list[int],
    score_ZHST: Array,
    value_HSTE: Array,
    score_ZHC: Array,
    value_ZCHE: Array,
    allowed_LT: NDArray[np.bool_],
) -> Weights:
    """Weights of the S slots seen, and zeros for the others."""
    Z, H, _, T = score_ZHST.shape
    L, E = len(allowed_LT), value_HSTE.shape[-1]
    above_ZHST = score_ZHST - shift_ZH[:, :, None, None]
    seen_ZHST = np.exp(np.minimum(above_ZHST, 0.0))
    weight_ZHC = np.exp(score_ZHC - shift_ZH[:, :, None])
    banded_ZH = least_ZH > 0
    if banded_ZH.any():
        # Weights of a few significant bits would be no weights: beside a band's own they are nothing.
        lost_ZHST = (above_ZHST > 0) | (above_ZHST < -FLUSH)
        seen_ZHST[lost_ZHST & banded_ZH[:, :, None, None]] = 0.0
        weight_ZHC[(score_ZHC - shift_ZH[:, :, None] < -FLUSH) & banded_ZH[:, :, None]] = 0.0
    weight_ZHLT = np.zeros((Z, H, L, T))
    weight_ZHLT[:, :, slots] = seen_ZHST
    mass_ZHLTE = np.zeros((Z, H, L, T, E))
    mass_ZHLTE[:, :, slots] = seen_ZHST[..., None] * value_HSTE
    allowed_ZHLT = np.broadcast_to(allowed_LT, (Z, H, L, T)).copy()
    allowed_ZHLT[:, :, slots] &= above_ZHST <= 0
    return Weights(
        weight_ZHLT=weight_ZHLT,
        mass_ZHLTE=mass_ZHLTE,
        weight_ZH=weight_ZHC.sum(-1),
        mass_ZHE=np.einsum("zhc,zche->zhe", weight_ZHC, value_ZCHE),
        allowed_ZHLT=allowed_ZHLT,
        least_ZH=least_ZH,
    )


def problem_from_tables(tables: Tables) -> Problem:
    """The problem of one model. Build the tables from parameters in float64 for full precision.

    Several heads share their coordinates; values are folded where that makes them fewer
    (``coordinates``; docs/proof.md 4.1). Raises ``UsageError`` unless the tables hold exactly one seed.
    """
    if tables.num_seeds != 1:
        raise UsageError(f"a proof is about one model, not {tables.num_seeds}: choose one seed")
    form = tables.form
    arrays = {name: table[0].detach().to(torch.float64).cpu().numpy() for name, table in tables.items()}
    for name, array in arrays.items():
        fine = np.isfinite(array)
        if name in ("score", "sink"):
            fine |= np.isneginf(array)
        if not fine.all():
            raise UsageError(f"the table {name!r} holds numbers that are not finite: nothing to prove")
    head = Head(program=form.program, constants={name: arrays[name] for name in form.program.shapes})
    value_PVHE, head = coordinates(arrays["value"], head)
    return Problem(
        geometry=Geometry.of(form.layout),
        query_AVHK=arrays["query"],
        key_PVHK=arrays["key"],
        value_PVHE=value_PVHE,
        row_AVR=arrays["residual"],
        head=head,
        score_AVHPV=arrays.get("score"),
        sink_AVH=arrays.get("sink"),
        tables=tables,
        summed=form.heads > 1,
    )


def coordinates(value_PVHE: Array, head: Head) -> tuple[Array, Head]:
    """Values in the J coordinates of ``mixed`` that all heads share, and the program that reads them
    (docs/proof.md 4.1): (P, V, H, J) and a head with a ``mixed`` of width J, the sum over the heads.

    Where one linear operation is all that reads ``mixed``, and has fewer columns with any number but 0
    than ``mixed`` has channels, the coordinates are those columns: values are multiplied by the matrix.
    Otherwise they are the heads' outputs side by side, each head leaving those of the others zero. The
    first also keeps boxes thin where a head's output projection nearly loses a dimension: in its outputs
    the box would be fat, and the projection of a fat box forgets that the projected set is thin.
    """
    program, (P, V, H, E) = head.program, value_PVHE.shape
    matrix = _only_reader(program)
    columns = np.arange(0) if matrix is None else np.flatnonzero(head.constants[matrix].any(0))
    if matrix is None or max(1, len(columns)) >= H * E:
        value_PVHJ = np.zeros((P, V, H, H * E))
        for h in range(H):
            value_PVHJ[:, :, h, h * E : (h + 1) * E] = value_PVHE[:, :, h]
        return value_PVHJ, head
    out_MD = head.constants[matrix]
    columns = columns if len(columns) else np.arange(1)
    J, D = len(columns), out_MD.shape[1]
    value_PVHJ = np.einsum("pvhe,hej->pvhj", value_PVHE, out_MD[:, columns].reshape(H, E, J))
    shapes = {**program.shapes, matrix: (J, D)}
    narrow = dataclasses.replace(program, mixed_width=J, constants=tuple(shapes.items()))
    return value_PVHJ, Head(program=narrow, constants={**head.constants, matrix: np.eye(D)[columns]})


def _only_reader(program: HeadProgram) -> str | None:
    """The matrix of the linear operation that alone reads ``mixed``; None if something else does, or if
    the matrix serves twice."""
    readers = [operation for operation in program.operations if MIXED in operation.operands]
    if len(readers) != 1 or readers[0].name != "linear":
        return None
    matrix = str(readers[0].operands[1])
    uses = [x for operation in program.operations for x in operation.operands if x == matrix]
    return matrix if len(uses) == 1 else None


def tables_sha256(tables: Tables) -> str:
    """Hash of one model's tables as float64 bytes, as docs/proof.md 3.1 defines it."""
    digest = hashlib.sha256()
    for name, table in tables.items():
        array = np.ascontiguousarray(table[0].detach().to(torch.float64).cpu().numpy(), dtype="<f8")
        digest.update(name.encode("ascii") + b"\0")
        digest.update(struct.pack(f"<{array.ndim + 1}q", array.ndim, *array.shape))
        digest.update(array.tobytes())
    return digest.hexdigest()
