"""What the prover works on: the tables of one model as float64 arrays, sorted by digit column.

A step's keys are *slots*: slot j is the digit a_j, slot n + j the digit b_j, slot 2n + j the answer
digit s_j; the keys that no digit can change (separators and the query itself) are summed once.
The number of columns n is free, so that a small instance can be checked by trying every pair.

Shapes: n columns, A = n + 1 answer steps, P positions, V vocabulary, H heads, K key dimension,
E bottleneck (dimension of y per head), D width, Z query tokens of a step, L = 3n slots, T = 10 digits.
"""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from adderlab.errors import UsageError
from adderlab.models.tables import NormForm, Tables
from adderlab.task.digits import OPERAND_DIGITS, SUM_DIGITS
from adderlab.task.layouts import Layout

Array = NDArray[np.float64]
RADIX = 10


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Where the digits stand, for n columns. Index j = 0 is the units column."""

    a_positions: tuple[int, ...]
    b_positions: tuple[int, ...]
    sum_positions: tuple[int, ...]
    query_positions: tuple[int, ...]
    separators: tuple[tuple[int, int], ...]

    @property
    def columns(self) -> int:
        return len(self.a_positions)

    @property
    def num_pairs(self) -> int:
        return RADIX ** (2 * self.columns)

    @classmethod
    def of(cls, layout: Layout) -> Geometry:
        """The eleven digit steps of a layout; its end-token step is not examined."""
        assert len(layout.a_positions) == OPERAND_DIGITS
        return cls(
            a_positions=layout.a_positions,
            b_positions=layout.b_positions,
            sum_positions=layout.sum_positions,
            query_positions=layout.query_positions[:SUM_DIGITS],
            separators=layout.separators,
        )


@dataclass(frozen=True, kw_only=True)
class Head:
    """Everything after the attention: x -> x + mlp(norm2(x)) -> norm_f -> logits."""

    norm2: NormForm
    norm2_weight: Array
    norm2_bias: Array
    activation: str
    fc1_DF: Array
    fc1_bias: Array
    gate_DF: Array | None
    fc2_FD: Array
    fc2_bias: Array
    norm_f: NormForm
    norm_f_weight: Array
    norm_f_bias: Array
    unembed_DV: Array


@dataclass(frozen=True, kw_only=True)
class Step:
    """One answer step: weights and weighted values of every slot, for each query token z."""

    index: int
    columns: int
    tokens: tuple[int, ...]
    """The Z query tokens: the separator for step 0, otherwise the digits."""
    weight_ZHLT: Array
    """exp(score - shift); zero where the step does not see the slot."""
    mass_ZHLTE: Array
    """Weight times value."""
    weight_ZH: Array
    """Summed weight of the keys that are the same for every input of this z."""
    mass_ZHE: Array
    residual_ZD: Array
    range_HE2: Array
    """Smallest and largest value coordinate among the keys that can occur."""

    def only(self, row: int) -> Step:
        """The step with one query token."""
        rows = slice(row, row + 1)
        return dataclasses.replace(
            self,
            tokens=self.tokens[rows],
            weight_ZHLT=self.weight_ZHLT[rows],
            mass_ZHLTE=self.mass_ZHLTE[rows],
            weight_ZH=self.weight_ZH[rows],
            mass_ZHE=self.mass_ZHE[rows],
            residual_ZD=self.residual_ZD[rows],
        )

    @property
    def leaf_shape(self) -> tuple[int, ...]:
        """(c, a, b of column i - 1, a, b of column i)."""
        i, n = self.index, self.columns
        before = (1, 1, 1) if i == 0 else (1 if i == 1 else 2, RADIX, RADIX)
        here = (1, 1) if i == n else (RADIX, RADIX)
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
    residual_AVD: Array
    attn_out_HED: Array
    head: Head
    tables: Tables | None = None
    """What it was made from; None for one made by hand, which gets no certificate."""

    @property
    def columns(self) -> int:
        return self.geometry.columns

    @property
    def heads(self) -> int:
        return self.attn_out_HED.shape[0]

    @property
    def bottleneck(self) -> int:
        return self.attn_out_HED.shape[1]

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        return tuple(self._step(i) for i in range(self.columns + 1))

    def _step(self, i: int) -> Step:
        geometry, n = self.geometry, self.columns
        fixed = dict(geometry.separators)
        query_position = geometry.query_positions[i]
        tokens = (fixed[query_position],) if i == 0 else tuple(range(RADIX))
        visible_s = geometry.sum_positions[: max(i - 1, 0)]
        slots = (*geometry.a_positions, *geometry.b_positions, *visible_s)

        query_ZHK = self.query_AVHK[i, list(tokens)]
        score_ZPVH = np.einsum("zhk,pvhk->zpvh", query_ZHK, self.key_PVHK[: query_position + 1])
        constant = [(p, token) for p, token in geometry.separators if p != query_position]
        score_ZHLT = score_ZPVH[:, list(slots), :RADIX].transpose(0, 3, 1, 2)
        value_HLTE = self.value_PVHE[list(slots), :RADIX].transpose(2, 0, 1, 3)
        rows = np.arange(len(tokens))
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
        shift_ZH = np.maximum(score_ZHLT.max((2, 3)), score_ZHC.max(2))
        seen_ZHLT = np.exp(score_ZHLT - shift_ZH[:, :, None, None])
        weight_ZHC = np.exp(score_ZHC - shift_ZH[:, :, None])

        shape = (len(tokens), self.heads, 3 * n, RADIX)
        weight_ZHLT = np.zeros(shape)
        weight_ZHLT[:, :, : len(slots)] = seen_ZHLT
        mass_ZHLTE = np.zeros((*shape, self.bottleneck))
        mass_ZHLTE[:, :, : len(slots)] = seen_ZHLT[..., None] * value_HLTE
        low_HE = np.minimum(value_HLTE.min((1, 2)), value_ZCHE.min((0, 1)))
        high_HE = np.maximum(value_HLTE.max((1, 2)), value_ZCHE.max((0, 1)))
        return Step(
            index=i,
            columns=n,
            tokens=tokens,
            weight_ZHLT=weight_ZHLT,
            mass_ZHLTE=mass_ZHLTE,
            weight_ZH=weight_ZHC.sum(-1),
            mass_ZHE=np.einsum("zhc,zche->zhe", weight_ZHC, value_ZCHE),
            residual_ZD=self.residual_AVD[i, list(tokens)],
            range_HE2=np.stack([low_HE, high_HE], -1),
        )


def problem_from_tables(tables: Tables) -> Problem:
    """The problem of one model. Build the tables from parameters in float64 for full precision.

    A value dimension above the width is folded into the output projection (docs/proof.md 4.1).
    Raises ``UsageError`` unless the tables hold exactly one seed.
    """
    if tables.num_seeds != 1:
        raise UsageError(f"a proof is about one model, not {tables.num_seeds}: choose one seed")
    form = tables.form
    arrays = {name: table[0].detach().to(torch.float64).cpu().numpy() for name, table in tables.items()}
    bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if bad:
        raise UsageError(f"the table {bad[0]!r} holds numbers that are not finite: nothing to prove")
    width, hidden = form.width, form.hidden
    value, attn_out = arrays["value"], arrays["attn_out"]
    if form.value_dim > width:
        value = np.einsum("pvhe,hed->pvhd", value, attn_out)
        attn_out = np.broadcast_to(np.eye(width), (form.heads, width, width))
    zero_D, one_D = np.zeros(width), np.ones(width)
    head = Head(
        norm2=form.norm2,
        norm2_weight=arrays.get("norm2_weight", one_D),
        norm2_bias=arrays.get("norm2_bias", zero_D),
        activation=form.activation,
        fc1_DF=arrays["fc1"],
        fc1_bias=arrays.get("fc1_bias", np.zeros(hidden)),
        gate_DF=arrays.get("gate"),
        fc2_FD=arrays["fc2"],
        fc2_bias=arrays.get("fc2_bias", zero_D),
        norm_f=form.norm_f,
        norm_f_weight=arrays.get("norm_f_weight", one_D),
        norm_f_bias=arrays.get("norm_f_bias", zero_D),
        unembed_DV=arrays["unembed"],
    )
    return Problem(
        geometry=Geometry.of(form.layout),
        query_AVHK=arrays["query"],
        key_PVHK=arrays["key"],
        value_PVHE=value,
        residual_AVD=arrays["residual"],
        attn_out_HED=attn_out,
        head=head,
        tables=tables,
    )


def tables_sha256(tables: Tables) -> str:
    """Hash of one model's tables as float64 bytes, as docs/proof.md 3.1 defines it."""
    digest = hashlib.sha256()
    for name, table in tables.items():
        array = np.ascontiguousarray(table[0].detach().to(torch.float64).cpu().numpy(), dtype="<f8")
        digest.update(name.encode("ascii") + b"\0")
        digest.update(struct.pack(f"<{array.ndim + 1}q", array.ndim, *array.shape))
        digest.update(array.tobytes())
    return digest.hexdigest()
