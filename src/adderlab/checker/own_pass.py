"""From the file to the verdict by the readable module's own code.

The prover's certificate speaks in tables, which ``adderlab.models.tables`` makes from the parameters;
prover and checker both use that map. Here it is not trusted but measured. The code of the readable
module (``adderlab.models.transformer``) runs on intervals, for every position and token, and says what
scores, attention outputs and streams are. The tables may differ from that by their rounding and no more;
by how much they do is bounded (``difference``), and the checker's model is widened by it (``widened``):
what is proved of the widened model is true of the module. What follows the attention is then enclosed by
the module's own code on every box of the certificate (``OwnPass``).

Left of the map is a hint: which coordinates the certificate's bounds are written in.

Shapes: N boxes, K coordinates of a box, H heads, E value width, D width, M keys, Q other tokens, V
vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from adderlab.checker import intervals
from adderlab.checker.fp32 import projected, rows_read
from adderlab.checker.head import residual_stream
from adderlab.checker.intervals import Array, Interval, matmul, symmetric, up
from adderlab.checker.mean_value import MeanValueForm
from adderlab.checker.model import Model
from adderlab.checker.rounding import Rounded
from adderlab.checker.steps import LEAST, Batch, Boxes, Examination, settle
from adderlab.checker.tracing import Noisy, Tracing, read_out_after_attention, real_margins
from adderlab.errors import Failure
from adderlab.models.transformer import Transformer


class WrongMap(Failure):
    """The tables are certainly not those of the module: a mistake in the map, here or in PyTorch."""


AGREE = 1e-6
"""Tables further from the module than this, relative to the largest number, are not its tables."""
MOST_HALVINGS = 20
GOOD_SHARE, CLOSER_HALVINGS = 0.25, 1
"""A box is halved so often to reach this share of the margin that the certificate claims; after that any
margin will do."""
EFFORT = 400_000
"""Halves of boxes looked at in all before the question is given up."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far a model's tables are, at most, from the module."""

    score: float
    stream: float
    """After the attention, in every coordinate."""


@np.errstate(all="ignore")
def difference(module: Transformer, model: Model) -> Difference:
    """Compare the tables with the module for every query and key that a step can have.

    Raises ``WrongMap`` where they disagree by more than rounding, another ``Failure`` for an operation
    that the checker cannot follow.
    """
    asked, known = rows_read(model)
    queries, keys = projected(module, asked), projected(module, known)
    for each in (queries.query, keys.key, keys.value, queries.stream):
        _require_known(each)
    score = _Apart()
    root = intervals.widened(math.sqrt(module.config.key_width))
    known_at = {row: number for number, row in enumerate(known)}
    for i, at in enumerate(model.geometry.query_positions):
        before = [row for row in known if row[0] < at]
        for z in model.query_tokens(i):
            a, seen = asked.index((at, z)), [*before, (at, z)]
            chosen = np.array([known_at[row] for row in seen])
            key_HKM = keys.key.known[chosen, :, 0].transpose(1, 2, 0)
            own_HM = matmul(queries.query.known[a, :, 0][:, None], key_HKM)[:, 0] / root
            positions, tokens = (list(part) for part in zip(*seen, strict=True))
            table_HM = model.scores(i, z, at)[:, positions, tokens]
            score.compare(own_HM, table_HM)
    score.require_none("attention scores")

    offset_D, slope_HED = _written(module, keys.value)
    H = module.config.n_head
    stream = 0.0
    for h in range(H):
        apart = _Apart()
        for number, (p, t) in enumerate(known):
            own_D = matmul(keys.value.known[number, h], slope_HED[h])[0]
            table_D = matmul(model.value_PVHE[p, t, h][None], model.out_HED[h])[0]
            apart.compare(own_D, table_D)
        apart.require_none("attention outputs")
        stream += apart.most
    step_of = {at: i for i, at in enumerate(model.geometry.query_positions)}
    own_AD = queries.stream.known[:, 0] + offset_D
    table_AD = intervals.stack([model.residual_AVD[step_of[at], z] for at, z in asked])
    start = _Apart()
    start.compare(own_AD, table_AD)
    start.require_none("streams")
    return Difference(score=score.most, stream=float(up(np.array(1.001 * (stream + start.most)))))


@dataclass(kw_only=True)
class _Apart:
    """How far enclosures of the same numbers are apart: at most, and certainly."""

    most: float = 0.0
    certain: float = 0.0
    largest: float = 0.0

    def compare(self, x: Interval, y: Interval) -> None:
        self.most = max(self.most, float(np.maximum(up(x.high - y.low), up(y.high - x.low)).max()))
        self.certain = max(self.certain, float(np.maximum(x.low - y.high, y.low - x.high).max()))
        self.largest = max(self.largest, float(x.magnitude().max()))

    def require_none(self, what: str) -> None:
        allowed = AGREE * (1.0 + self.largest)
        if self.certain > allowed:
            raise WrongMap(f"the tables are not this module's: {what} differ by {self.certain:.3g}")
        if not self.most <= allowed:
            raise Failure(f"the module's {what} are only known to {self.most:.3g}")


def _require_known(x: Rounded) -> None:
    """Where a root or quotient has no bound, its enclosure says nothing and its error is infinite
    (``rounding``): so no number is used here whose error is."""
    if not np.isfinite(x.err).all():
        raise Failure("the module's numbers have no bound, in fp32 at least")


def _written(module: Transformer, value: Rounded) -> tuple[Interval, Interval]:
    """What the output projection adds to the stream for a mix y of values: offset_D + y . slope_HED.

    It is a linear map if its derivative is the same everywhere; enclosed over all mixes of values there
    are, the derivative is an interval that every difference quotient lies in, which is as good.
    """
    size_HE = value.known.magnitude().max((0, 2))
    H, E = size_HE.shape
    radius_K = size_HE.reshape(-1)
    eye = np.eye(len(radius_K))
    mix = MeanValueForm(
        Interval(np.zeros((1, len(radius_K)))),
        symmetric(radius_K[None]),
        tuple(Interval(eye[[k]]) for k in range(len(radius_K))),
        tuple(radius_K[[k]] for k in range(len(radius_K))),
    )
    with torch.no_grad(), Tracing():
        out = module.block(0).attn.written(Noisy(Rounded(mix, np.zeros(mix.shape))))
    assert isinstance(out, Noisy) and isinstance(out.value.real, MeanValueForm)
    _require_known(out.value)
    form = out.value.real
    slope_KD = intervals.concatenate(list(form.gradients))
    return form.centre[0], slope_KD.reshape(H, E, -1)


def widened(model: Model, by: Difference) -> Model:
    """A model that holds both the tables' and the module's attention."""
    residual = model.residual_AVD + symmetric(np.full(model.residual_AVD.shape, by.stream))
    return dataclasses.replace(model, residual_AVD=residual, score_slack=by.score)


@dataclass(kw_only=True)
class OwnPass(Examination):
    """Encloses the margins on proved boxes again, by the module's own code. It leaves none open: on the
    first that it cannot follow it gives up."""

    module: Transformer
    effort: int = EFFORT

    def too_much(self, where: str) -> str:
        return f"the module's own code takes more than the effort of {self.effort:,} halves {where}"

    def take(self, batch: Batch, known: float | None = None) -> None:
        """Prove that the right digit wins on all boxes of a batch; ``known``: by how much, if that has
        been shown already by the module's own code (``FloatCheck.take``). Raises ``WrongMap`` where it
        loses on a whole box on which the tables let it win."""
        if known is not None:
            self.margin = min(self.margin, known)
        elif self.reason is None:
            try:
                with np.errstate(all="ignore"):
                    self._take(batch)
            except WrongMap:
                raise
            except Failure as error:
                self.reason = str(error)

    def _take(self, batch: Batch) -> None:
        def enough(halving: int) -> float:
            return max(GOOD_SHARE * batch.claimed if halving < CLOSER_HALVINGS else 0.0, LEAST)

        def spend(boxes: int) -> None:
            self.halves += boxes
            if self.halves > self.effort:
                raise self._given_up(batch)

        every = (np.arange(len(batch.low_NK)), batch.low_NK, batch.high_NK)
        least, left = settle(
            batch,
            every,
            lambda boxes, wanted: self._margins(batch, boxes, wanted),
            enough,
            MOST_HALVINGS,
            spend,
        )
        if len(left):
            raise self._given_up(batch)
        self.margin = min(self.margin, least)

    def _given_up(self, batch: Batch) -> Failure:
        return Failure(
            f"the module's own code could not be enclosed closely enough on a box of step "
            f"{batch.step.index}"
        )

    def _margins(self, batch: Batch, boxes: Boxes, wanted: float) -> tuple[Array, NDArray[np.intp]]:
        """For each box a lower bound of the margin (not a number where there is none), and the
        coordinate to halve it in."""
        rows, low_NK, high_NK = boxes
        try:
            real = residual_stream(*batch.stream(rows), low_NK, high_NK)
            stream = Rounded(real, np.zeros(real.shape))
            logits = read_out_after_attention(self.module, stream)
            found = real_margins(logits, batch.right_N[rows], wanted)
        except ArithmeticError:
            if len(rows) == 1:
                return np.array([np.nan]), (high_NK - low_NK).argmax(1)
            parts = (slice(None, len(rows) // 2), slice(len(rows) // 2, None))
            tried = [self._margins(batch, (rows[p], low_NK[p], high_NK[p]), wanted) for p in parts]
            least_N, axis_N = (np.concatenate(each) for each in zip(*tried, strict=True))
            return least_N, axis_N
        if (found.high_NQ < 0).any():
            raise WrongMap("the tables are not this module's: it answers otherwise on a whole box")
        spread_NK = np.where(np.isfinite(found.spread_NK), found.spread_NK, high_NK - low_NK)
        return found.low_NQ.min(1), spread_NK.argmax(1)
