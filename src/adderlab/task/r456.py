"""R456's hold-outs and its training data, pair for pair, and the test whether a pair is held out.

The split of a seed decides the published error counts, so it is drawn exactly as R456 draws it:
n = max(2 x (still missing), 4096) values of a, then n of b, from torch's CPU generator; pairs seen
before are skipped; the first ``val_size`` pairs are validation, the next ``test_size`` are test. R456's
own sampler leaves them out of training; the counter-based one meets a given pair of 10^20 never.

Other sizes of the task follow the same rules. Where all pairs are few, the split has half of them at
most, and above a quarter training is not kept from it: there, try every pair (``--suite all``).

A pair is compared by a 64-bit hash first, a * 10^10 + b modulo 2^64, then by both columns: the
number itself does not fit 64 bits.

Shapes: B pairs, J columns (10), units first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from adderlab.errors import UsageError
from adderlab.task.addition import PUBLISHED, Addition, from_digits, to_digits
from adderlab.task.sampling import Phase

MIN_DRAW = 4096
_Values = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Holdout:
    """Validation and test pairs of one seed; uint8 digits on the CPU."""

    val_a_BJ: Tensor
    val_b_BJ: Tensor
    test_a_BJ: Tensor
    test_b_BJ: Tensor
    addition: Addition = PUBLISHED

    @cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """(hash, a, b) of all pairs in the order of the hash; the longest run of equal hashes."""
        values = self.values()
        a = torch.cat([values["val_a"], values["test_a"]]).numpy()
        b = torch.cat([values["val_b"], values["test_b"]]).numpy()
        order = np.argsort(_hash(a, b, self.addition), kind="stable")
        hashes = _hash(a, b, self.addition)[order]
        longest = int(np.unique(hashes, return_counts=True)[1].max(initial=0))
        return hashes, a[order], b[order], longest

    @property
    def spared(self) -> bool:
        """Whether enough pairs are left beside the split for training to do without it."""
        return 4 * (len(self.val_a_BJ) + len(self.test_a_BJ)) <= self.addition.num_pairs

    def without(self, a_NJ: Tensor, b_NJ: Tensor) -> Holdout:
        """The split with other validation pairs in place of those among the given ones, which training
        sees: the first of its test pairs that are not. Raises ``UsageError`` where there are too few."""
        base, values = self.addition.base, self.values()
        seen = _hash(from_digits(a_NJ, base).numpy(), from_digits(b_NJ, base).numpy(), self.addition)
        a, b = (torch.cat([values[f"val_{name}"], values[f"test_{name}"]]).numpy() for name in "ab")
        (unseen,) = np.nonzero(~np.isin(_hash(a, b, self.addition), seen))
        count = len(self.val_a_BJ)
        if len(unseen) < count:
            raise UsageError(
                f"data.pool leaves {len(unseen):,} held-out pairs that training does not see, and "
                f"validation asks for {count:,}: take a smaller pool or recipe.val_size"
            )
        rows = torch.from_numpy(unseen[:count])
        a_BJ = torch.cat([self.val_a_BJ, self.test_a_BJ])
        b_BJ = torch.cat([self.val_b_BJ, self.test_b_BJ])
        return replace(self, val_a_BJ=a_BJ[rows], val_b_BJ=b_BJ[rows])

    def values(self) -> dict[str, Tensor]:
        """The pairs as int64 values under the names of R456's split files."""
        base = self.addition.base
        return {
            "val_a": from_digits(self.val_a_BJ, base),
            "val_b": from_digits(self.val_b_BJ, base),
            "test_a": from_digits(self.test_a_BJ, base),
            "test_b": from_digits(self.test_b_BJ, base),
        }

    def contains(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Which of the pairs, as int64 values, are held out."""
        hashes, held_a, held_b, longest = self._index
        found = np.zeros(a.shape, dtype=bool)
        first = np.searchsorted(hashes, _hash(a, b, self.addition))
        for i in range(longest):
            at = np.minimum(first + i, len(hashes) - 1)
            found |= (held_a[at] == a) & (held_b[at] == b)
        return found


def holdout(
    seed: int, val_size: int = 5000, test_size: int = 10_000, addition: Addition = PUBLISHED
) -> Holdout:
    """The hold-out split of that seed; 5000 and 10000 are the published sizes.

    Where that is more than half of all pairs, both parts are smaller in proportion. Raises
    ``UsageError`` for a negative size.
    """
    if val_size < 0 or test_size < 0:
        raise UsageError(f"a hold-out split needs sizes of 0 or more, not {val_size} and {test_size}")
    wanted, most = val_size + test_size, addition.num_pairs // 2
    if wanted > most:
        val_size, test_size = (-(-size * most // wanted) for size in (val_size, test_size))
    a, b = _first_pairs(seed, val_size + test_size, addition)
    a_BJ, b_BJ = _digits(a, addition), _digits(b, addition)
    return Holdout(
        val_a_BJ=a_BJ[:val_size],
        val_b_BJ=b_BJ[:val_size],
        test_a_BJ=a_BJ[val_size:],
        test_b_BJ=b_BJ[val_size:],
        addition=addition,
    )


def _first_pairs(seed: int, count: int, addition: Addition) -> _Values:
    generator = torch.Generator().manual_seed(seed)
    a = b = np.empty(0, dtype=np.int64)
    while len(a) < count:
        draws = (max(2 * (count - len(a)), MIN_DRAW),)
        new_a = torch.randint(0, addition.limit, draws, generator=generator, dtype=torch.int64)
        new_b = torch.randint(0, addition.limit, draws, generator=generator, dtype=torch.int64)
        a = np.concatenate([a, new_a.numpy()])
        b = np.concatenate([b, new_b.numpy()])
        a, b = without_repeats(a, b, count, addition)
    return a, b


def without_repeats(a: np.ndarray, b: np.ndarray, count: int, addition: Addition = PUBLISHED) -> _Values:
    """The first ``count`` different pairs in order, or all there are."""
    hashes = _hash(a[:count], b[:count], addition)
    if len(np.unique(hashes)) == len(hashes):
        return a[:count], b[:count]
    if addition.limit <= 1 << 32:
        # No two pairs have the same number.
        index = np.sort(np.unique(_hash(a, b, addition), return_index=True)[1])[:count]
        return a[index], b[index]
    first = list(dict.fromkeys(zip(a.tolist(), b.tolist(), strict=True)))[:count]
    values = np.array(first, dtype=np.int64).reshape(-1, 2)
    return values[:, 0], values[:, 1]


def _hash(a: np.ndarray, b: np.ndarray, addition: Addition) -> np.ndarray:
    return a.astype(np.uint64) * np.uint64(addition.limit) + b.astype(np.uint64)


def _digits(values: np.ndarray, addition: Addition) -> Tensor:
    digit_BJ = np.empty((len(values), addition.columns), dtype=np.uint8)
    for j in range(addition.columns):
        values, digit_BJ[:, j] = np.divmod(values, addition.base)
    return torch.from_numpy(digit_BJ)


# R456's training data, number for number, for faithful replays of its published runs.
#
# R456 draws each pair by three one-element calls of ``torch.randint`` from torch's CPU generator
# seeded ``seed + 1337``: a length n in 1 .. max_digits, then a and b below 10^n; a and b are drawn
# again while the pair is held out. That generator is MT19937, and numpy seeds the same one the same
# way, so the raw 32-bit outputs can be had in bulk:
#
#     range below 2^28:   output % range
#     otherwise:          (first output << 32 | second output) % range
#
# (the rule of PyTorch 2.13, held by a test; old versions switched at 2^32, which differs for nine
# digits). Resume needs only the number of outputs used.


SEED_OFFSET = 1337
TWO_OUTPUTS_FROM = 1 << 28
_SKIP = 1 << 20


def _width(limit: int) -> int:
    """32-bit outputs that a number below ``limit`` takes."""
    return 1 if limit < TWO_OUTPUTS_FROM else 2


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
        self,
        seed: int,
        batch_size: int,
        holdout: Holdout | None,
        phases: tuple[Phase, ...],
        addition: Addition = PUBLISHED,
    ) -> None:
        self.batch_size = batch_size
        self.addition = addition
        self._width = [_width(addition.base**n) for n in range(addition.columns + 1)]
        """32-bit outputs that one operand of n digits takes."""
        self._seed = seed + SEED_OFFSET
        self._holdout = holdout if holdout is None or holdout.spared else None
        self._phases = phases
        self._outputs = _Outputs(self._seed)

    def next_pairs(self, step: int) -> tuple[Tensor, Tensor]:
        """The next batch, a_BJ and b_BJ, uint8 digits; ``step`` decides only the operands' length."""
        columns, base = self.addition.columns, self.addition.base
        phase = next(p for p in self._phases if p.until is None or step < p.until)
        a, b = self._batch(phase.columns(columns))
        a_BJ, b_BJ = (to_digits(torch.from_numpy(x), columns, base) for x in (a, b))
        return a_BJ, b_BJ

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
        raw = self._outputs.peek(self.batch_size * (1 + 2 * self._width[max_digits]))
        starts, end = self._starts(raw, max_digits)
        length = (raw[starts] % max_digits).astype(np.int64) + 1
        wide = np.array(self._width)[length] == 2
        limit = np.uint64(self.addition.base) ** length.astype(np.uint64)
        a = _below(raw, starts + 1, wide, limit)
        b = _below(raw, starts + 1 + np.where(wide, 2, 1), wide, limit)
        if self._holdout is not None and self._holdout.contains(a, b).any():
            return self._batch_with_redraws(max_digits)
        self._outputs.use(end)
        return a, b

    def _starts(self, raw: np.ndarray, max_digits: int) -> tuple[np.ndarray, int]:
        """Where each pair's outputs begin, and where the batch's end: a pair takes 3 or 5."""
        if self._width[max_digits] == 1:
            return np.arange(0, 3 * self.batch_size, 3), 3 * self.batch_size
        pair_width = [1 + 2 * width for width in self._width[1 : max_digits + 1]]
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
                limit = self.addition.base**n
                a[i], b[i] = self._next_below(limit), self._next_below(limit)
                if not self._holdout.contains(a[i : i + 1], b[i : i + 1])[0]:
                    break
        return a, b

    def _next_below(self, limit: int) -> int:
        width, value = _width(limit), 0
        for output in self._outputs.peek(width).tolist():
            value = value << 32 | output
        self._outputs.use(width)
        return value % limit


def _below(raw: np.ndarray, at: np.ndarray, wide: np.ndarray, limit: np.ndarray) -> np.ndarray:
    second = raw[np.minimum(at + 1, len(raw) - 1)]
    value = np.where(wide, raw[at] << np.uint64(32) | second, raw[at])
    return (value % limit).astype(np.int64)
