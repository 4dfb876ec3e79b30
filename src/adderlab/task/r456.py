"""R456's training data, number for number, for faithful replays of its published runs.

R456 draws each pair by three one-element calls of ``torch.randint`` from torch's CPU generator
seeded ``seed + 1337``: a length n in 1 .. max_digits, then a and b below 10^n; a and b are drawn
again while the pair is held out. That generator is MT19937, and numpy seeds the same one the same
way, so the raw 32-bit outputs can be had in bulk:

    range below 2^28:   output % range
    otherwise:          (first output << 32 | second output) % range

(the rule of PyTorch 2.13, held by a test; old versions switched at 2^32, which differs for nine digits).
Resume needs only the number of outputs used.

Shapes: B pairs, J = 10 columns, units first.
"""

import numpy as np
import torch
from torch import Tensor

from adderlab.task.digits import OPERAND_DIGITS, to_digits
from adderlab.task.holdout import Holdout
from adderlab.task.sampling import Phase

SEED_OFFSET = 1337
TWO_OUTPUTS_FROM = 1 << 28
_WIDTH = [1 if 10**n < TWO_OUTPUTS_FROM else 2 for n in range(OPERAND_DIGITS + 1)]
"""32-bit outputs that one operand of n digits takes."""
_SKIP = 1 << 20


class _Outputs:
    """MT19937's 32-bit outputs in order, kept until they are used."""

    def __init__(self, seed: int) -> None:
        self._engine = np.random.RandomState(seed & 0xFFFFFFFF)
        self._ahead = np.empty(0, dtype=np.uint64)
        self.used = 0

    def peek(self, count: int) -> np.ndarray:
        """The next ``count`` outputs, as uint64, without using them."""
        missing = count - len(self._ahead)
        if missing > 0:
            new = self._engine.randint(0, 1 << 32, missing, dtype=np.uint32)
            self._ahead = np.concatenate([self._ahead, new.astype(np.uint64)])
        return self._ahead[:count]

    def use(self, count: int) -> None:
        self.peek(count)
        self._ahead = self._ahead[count:]
        self.used += count


class R456Sampler:
    """The batches of one R456 run, in order.

    ``holdout``: pairs never drawn (None: no rejection); ``phases``: as in ``Curriculum.phases``.
    """

    def __init__(
        self, seed: int, batch_size: int, holdout: Holdout | None, phases: tuple[Phase, ...]
    ) -> None:
        self.batch_size = batch_size
        self._seed = seed + SEED_OFFSET
        self._holdout = holdout
        self._phases = phases
        self._outputs = _Outputs(self._seed)

    def next_pairs(self, step: int) -> tuple[Tensor, Tensor]:
        """The next batch, a_BJ and b_BJ, uint8 digits; ``step`` decides only the operands' length."""
        max_digits = next(p.max_digits for p in self._phases if p.until is None or step < p.until)
        a, b = self._batch(max_digits)
        return to_digits(torch.from_numpy(a)), to_digits(torch.from_numpy(b))

    def get_state(self) -> dict[str, int]:
        """All that a resume needs, as plain integers."""
        return {"outputs_used": self._outputs.used}

    def set_state(self, state: dict[str, int]) -> None:
        """Continue where ``get_state`` was taken (a sampler of the same seed)."""
        self._outputs = _Outputs(self._seed)
        left = state["outputs_used"]
        while left:
            self._outputs.use(min(left, _SKIP))
            left -= min(left, _SKIP)

    def _batch(self, max_digits: int) -> tuple[np.ndarray, np.ndarray]:
        raw = self._outputs.peek(self.batch_size * (1 + 2 * _WIDTH[max_digits]))
        starts, end = self._starts(raw, max_digits)
        length = (raw[starts] % max_digits).astype(np.int64) + 1
        wide = np.array(_WIDTH)[length] == 2
        limit = 10 ** length.astype(np.uint64)
        a = _below(raw, starts + 1, wide, limit)
        b = _below(raw, starts + 1 + np.where(wide, 2, 1), wide, limit)
        if self._holdout is not None and self._holdout.contains(a, b).any():
            return self._batch_with_redraws(max_digits)
        self._outputs.use(end)
        return a, b

    def _starts(self, raw: np.ndarray, max_digits: int) -> tuple[np.ndarray, int]:
        """Where each pair's outputs begin, and where the batch's end: a pair takes 3 or 5."""
        if _WIDTH[max_digits] == 1:
            return np.arange(0, 3 * self.batch_size, 3), 3 * self.batch_size
        pair_width = [1 + 2 * width for width in _WIDTH[1 : max_digits + 1]]
        widths = np.array(pair_width)[(raw % max_digits).astype(np.int64)].tolist()
        starts, at = [], 0
        for _ in range(self.batch_size):
            starts.append(at)
            at += widths[at]
        return np.array(starts), at

    def _batch_with_redraws(self, max_digits: int) -> tuple[np.ndarray, np.ndarray]:
        """One pair at a time, for the rare batch that meets a held-out pair."""
        assert self._holdout is not None
        a = np.empty(self.batch_size, dtype=np.int64)
        b = np.empty_like(a)
        for i in range(self.batch_size):
            n = 1 + self._next_below(max_digits)
            while True:
                a[i], b[i] = self._next_below(10**n), self._next_below(10**n)
                if not self._holdout.contains(a[i : i + 1], b[i : i + 1])[0]:
                    break
        return a, b

    def _next_below(self, limit: int) -> int:
        width = 1 if limit < TWO_OUTPUTS_FROM else 2
        value = 0
        for output in self._outputs.peek(width).tolist():
            value = value << 32 | output
        self._outputs.use(width)
        return value % limit


def _below(raw: np.ndarray, at: np.ndarray, wide: np.ndarray, limit: np.ndarray) -> np.ndarray:
    second = raw[np.minimum(at + 1, len(raw) - 1)]
    value = np.where(wide, raw[at] << np.uint64(32) | second, raw[at])
    return (value % limit).astype(np.int64)
