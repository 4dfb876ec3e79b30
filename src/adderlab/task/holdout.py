"""R456's hold-out splits, pair for pair, and the test whether a pair is held out.

The split of a seed decides the published error counts, so it is drawn exactly as R456 draws it:
n = max(2 x (still missing), 4096) values of a, then n of b, from torch's CPU generator; pairs seen
before are skipped; the first ``val_size`` pairs are validation, the next ``test_size`` are test.

A pair is compared by a 64-bit hash first, a * 10^10 + b modulo 2^64, then by both columns: the
number itself does not fit 64 bits.

Shapes: B pairs, J = 10 columns, units first.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from adderlab.errors import UsageError
from adderlab.task.digits import OPERAND_DIGITS, OPERAND_LIMIT, from_digits

MIN_DRAW = 4096
_Values = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Holdout:
    """Validation and test pairs of one seed; uint8 digits on the CPU."""

    val_a_BJ: Tensor
    val_b_BJ: Tensor
    test_a_BJ: Tensor
    test_b_BJ: Tensor

    @cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """(hash, a, b) of all pairs in the order of the hash; the longest run of equal hashes."""
        values = self.values()
        a = torch.cat([values["val_a"], values["test_a"]]).numpy()
        b = torch.cat([values["val_b"], values["test_b"]]).numpy()
        order = np.argsort(_hash(a, b), kind="stable")
        hashes = _hash(a, b)[order]
        longest = int(np.unique(hashes, return_counts=True)[1].max(initial=0))
        return hashes, a[order], b[order], longest

    def values(self) -> dict[str, Tensor]:
        """The pairs as int64 values under the names of R456's split files."""
        return {
            "val_a": from_digits(self.val_a_BJ),
            "val_b": from_digits(self.val_b_BJ),
            "test_a": from_digits(self.test_a_BJ),
            "test_b": from_digits(self.test_b_BJ),
        }

    def contains(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Which of the pairs, as int64 values, are held out."""
        hashes, held_a, held_b, longest = self._index
        found = np.zeros(a.shape, dtype=bool)
        first = np.searchsorted(hashes, _hash(a, b))
        for i in range(longest):
            at = np.minimum(first + i, len(hashes) - 1)
            found |= (held_a[at] == a) & (held_b[at] == b)
        return found


def holdout(seed: int, val_size: int = 5000, test_size: int = 10_000) -> Holdout:
    """The hold-out split of that seed; 5000 and 10000 are the published sizes.

    Raises ``UsageError`` for a negative size.
    """
    if val_size < 0 or test_size < 0:
        raise UsageError(f"a hold-out split needs sizes of 0 or more, not {val_size} and {test_size}")
    a, b = _first_pairs(seed, val_size + test_size)
    a_BJ, b_BJ = _digits(a), _digits(b)
    return Holdout(
        val_a_BJ=a_BJ[:val_size],
        val_b_BJ=b_BJ[:val_size],
        test_a_BJ=a_BJ[val_size:],
        test_b_BJ=b_BJ[val_size:],
    )


def _first_pairs(seed: int, count: int) -> _Values:
    generator = torch.Generator().manual_seed(seed)
    a = b = np.empty(0, dtype=np.int64)
    while len(a) < count:
        draws = (max(2 * (count - len(a)), MIN_DRAW),)
        new_a = torch.randint(0, OPERAND_LIMIT, draws, generator=generator, dtype=torch.int64)
        new_b = torch.randint(0, OPERAND_LIMIT, draws, generator=generator, dtype=torch.int64)
        a = np.concatenate([a, new_a.numpy()])
        b = np.concatenate([b, new_b.numpy()])
        a, b = without_repeats(a, b, count)
    return a, b


def without_repeats(a: np.ndarray, b: np.ndarray, count: int) -> _Values:
    """The first ``count`` different pairs in order, or all there are."""
    hashes = _hash(a[:count], b[:count])
    if len(np.unique(hashes)) == len(hashes):
        return a[:count], b[:count]
    first = list(dict.fromkeys(zip(a.tolist(), b.tolist(), strict=True)))[:count]
    values = np.array(first, dtype=np.int64).reshape(-1, 2)
    return values[:, 0], values[:, 1]


def _hash(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a.astype(np.uint64) * np.uint64(OPERAND_LIMIT) + b.astype(np.uint64)


def _digits(values: np.ndarray) -> Tensor:
    digit_BJ = np.empty((len(values), OPERAND_DIGITS), dtype=np.uint8)
    for j in range(OPERAND_DIGITS):
        values, digit_BJ[:, j] = np.divmod(values, 10)
    return torch.from_numpy(digit_BJ)
