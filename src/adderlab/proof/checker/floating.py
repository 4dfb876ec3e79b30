"""The floating-point question: is greedy decoding right as run in fp32?

Rounding moves the fp32 logits of the readable model (``adderlab.models.transformer``) away from the
real ones. Here that is bounded on every box of a certificate, and compared with the margin that the
checker has proved there. Assumptions and what is not covered: docs/proof.md, "Floating point".

The attention's error is bounded once for each step and query token, over all keys; the head's on each
box: first by adding errors up forwards, and where that is too much, backwards (``sensitivity``).

Shapes: N boxes, V vocabulary, P positions, H heads, G key and value heads, K key width, E value width,
D width, M keys (position and token) that can occur at a step, Z query tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adderlab.errors import Failure
from adderlab.models.transformer import Transformer
from adderlab.proof.checker.head import BOXES_AT_ONCE, margins, residual_stream
from adderlab.proof.checker.intervals import Array, Interval, down, up
from adderlab.proof.checker.mixing import StepError, attention_errors, drift
from adderlab.proof.checker.model import Model
from adderlab.proof.checker.rounding import Rounded
from adderlab.proof.checker.sensitivity import moved_by_rounding
from adderlab.proof.checker.steps import Batch
from adderlab.proof.checker.tracing import Noisy, Tracing

MOST_HALVINGS = 8
ROWS_AT_ONCE = 512
EFFORT = 100_000
"""Halves of boxes examined in all before the question is given up: some 25 seconds."""
GOOD_SHARE = 0.5
"""Errors are drawn backwards where adding them forwards leaves less than this share of the margin
that the certificate claims for the step; so the fp32 margin reported means something."""
CLOSER_HALVINGS = 2
"""As often a box is halved also where a small part of that margin is left, for the same reason."""


@dataclass(frozen=True, kw_only=True)
class FloatReport:
    """What is proved about greedy decoding by the readable model in fp32."""

    covered: bool
    """Whether every one of the pairs is added right in fp32 too."""
    left: int
    """Leaves and cells for which that could not be shown."""
    margin: float | None
    """Where covered: no fp32 margin is smaller, in logits."""
    reason: str | None = None
    """Why the question could not be asked at all."""


def logits_after_attention(module: Transformer, x_ND: Rounded) -> Rounded:
    """What ``Transformer.forward`` does to the stream after attention: logits (N, V)."""
    block = module.block(0)
    with torch.no_grad(), Tracing():
        x: Tensor = Noisy(x_ND)
        x = x + block.mlp(block.ln2(x))
        logits = module.read_out(x)
    assert isinstance(logits, Noisy)
    return logits.value


Boxes = tuple[NDArray[np.intp], Array, Array]
"""Rows of a batch, and the ends (N, K) of a box for each."""


@dataclass(kw_only=True)
class FloatCheck:
    """Collects batches of proved boxes and finds out whether fp32 decides them alike."""

    module: Transformer
    errors: list[StepError]
    effort: int = EFFORT
    halves: int = 0
    left: set[tuple[int, bool, int]] = field(default_factory=set)
    margin: float = math.inf
    reason: str | None = None

    @classmethod
    def of(cls, module: Transformer, model: Model) -> FloatCheck:
        """``model`` is what ``module`` computes, in real arithmetic."""
        try:
            with np.errstate(all="ignore"):
                return cls(module=module, errors=attention_errors(module, model))
        except (Failure, ArithmeticError) as error:
            return cls(module=module, errors=[], reason=str(error))

    def take(self, batch: Batch) -> None:
        """Decide the boxes of one batch."""
        if self.reason is None:
            try:
                with np.errstate(all="ignore"):
                    self._take(batch)
            except Failure as error:
                self.reason = str(error)

    def _take(self, batch: Batch) -> None:
        # Wrong weights are another average of values: they widen the box.
        drift_NK = drift(batch, self.errors[batch.step.index])
        low_NK, high_NK = down(batch.low_NK - drift_NK), up(batch.high_NK + drift_NK)
        bounded_N = np.isfinite(drift_NK).all(1)
        self._leave(batch, np.flatnonzero(~bounded_N))
        asked, good = np.flatnonzero(bounded_N), GOOD_SHARE * GOOD_SHARE * max(batch.claimed, 0.0)
        for start in range(0, len(asked), BOXES_AT_ONCE):
            part = asked[start : start + BOXES_AT_ONCE]
            boxes = (part, low_NK[part], high_NK[part])
            for halving in range(MOST_HALVINGS + 1):
                after_N, axis_N = self._try(batch, boxes)
                enough = good if halving < CLOSER_HALVINGS else 0.0
                open_N = ~(after_N > enough)
                self.margin = min(self.margin, float(after_N[~open_N].min(initial=np.inf)))
                boxes = (boxes[0][open_N], boxes[1][open_N], boxes[2][open_N])
                if not open_N.any() or halving == MOST_HALVINGS:
                    break
                boxes = _halved(boxes, axis_N[open_N])
                self._spend(len(boxes[0]), batch)
            self._leave(batch, boxes[0])

    def _leave(self, batch: Batch, rows: NDArray[np.intp]) -> None:
        for owner in np.unique(batch.owner_N[rows]):
            self.left.add((batch.step.index, batch.cells, int(owner)))

    def _spend(self, boxes: int, batch: Batch) -> None:
        self.halves += boxes
        if self.halves > self.effort:
            raise Failure(
                f"rounding may matter on so many boxes that the effort of {self.effort:,} halves was "
                f"used up at step {batch.step.index} of {batch.step.columns}"
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
        (residual, z), (directions, r), right = batch.residual, batch.directions, batch.right
        z_N, x0_ND, R_NKD = z[rows], residual[z[rows]], directions[r[rows]]
        found = margins(batch.head, right, x0_ND, R_NKD, low_NK, high_NK)
        margin_NQ = found.each_low_NQ()
        others = np.array([t for t in range(batch.head.unembed.shape[1]) if t != right])

        def logits(chosen: Any) -> Rounded:
            stream = residual_stream(x0_ND[chosen], R_NKD[chosen], low_NK[chosen], high_NK[chosen])
            error = self.errors[batch.step.index]
            return logits_after_attention(self.module, error.stream(self.module, z_N[chosen], stream))

        forward = logits(slice(None)).err
        error_NQ = up(forward[:, [right]] + forward[:, others])
        wanted = GOOD_SHARE * max(batch.claimed, 0.0)
        unsure_NQ = ~(down(margin_NQ - error_NQ) > wanted)
        unsure = np.flatnonzero(unsure_NQ.any(1))
        for start in range(0, len(unsure), ROWS_AT_ONCE):
            n = unsure[start : start + ROWS_AT_ONCE]
            again = logits(n)
            for q in np.flatnonzero(unsure_NQ[n].any(0)):
                direction = np.zeros(again.shape)
                direction[:, right], direction[:, others[q]] = 1.0, -1.0
                moved = moved_by_rounding(again, Interval(direction))
                error_NQ[n, q] = np.fmin(moved, error_NQ[n, q])
        after_N = down(margin_NQ - error_NQ).min(1)
        spread_NK = np.where(np.isfinite(found.spread_NK), found.spread_NK, high_NK - low_NK)
        return after_N, spread_NK.argmax(1)

    def report(self) -> FloatReport:
        """After all batches of an accepted certificate."""
        covered = not self.left and self.reason is None
        return FloatReport(
            covered=covered,
            left=len(self.left),
            margin=self.margin if covered else None,
            reason=self.reason,
        )


def _halved(boxes: Boxes, axis_N: NDArray[np.intp]) -> Boxes:
    rows, low_NK, high_NK = boxes
    each = np.arange(len(rows))
    cut = low_NK[each, axis_N] + 0.5 * (high_NK[each, axis_N] - low_NK[each, axis_N])
    left_high, right_low = high_NK.copy(), low_NK.copy()
    left_high[each, axis_N] = right_low[each, axis_N] = cut
    return (
        np.concatenate([rows, rows]),
        np.concatenate([low_NK, right_low]),
        np.concatenate([left_high, high_NK]),
    )
