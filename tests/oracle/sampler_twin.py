"""The data streams, slow and obvious: Python integers, one pair at a time.

Counter-based pairs and carry patterns as integer arithmetic, R456's hold-out split by walking the
pairs, and R456's sampler as one ``torch.randint`` call a number.
"""

import torch

from adderlab.task.sampling import Curriculum, DataConfig

UINT64 = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & UINT64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & UINT64
    return x ^ (x >> 31)


def word(seed: int, stream: int, step: int, row: int, draw: int) -> int:
    site = mix((mix(((stream + 1) * GOLDEN) & UINT64) + step) & UINT64)
    key = mix((seed * GOLDEN + site) & UINT64)
    return mix((key + (16 * row + draw + 1) * GOLDEN) & UINT64) >> 5


class Word:
    """A word from which whole numbers are taken one after the other."""

    def __init__(self, value: int) -> None:
        self.value = value

    def take(self, below: int) -> int:
        product = self.value * below
        self.value = product % 2**59
        return product // 2**59


def ten_digits(value: int) -> list[int]:
    left = Word(value)
    return [left.take(10) for _ in range(10)]


def number(digits: list[int]) -> int:
    return sum(digit * 10**j for j, digit in enumerate(digits))


def pair(data: DataConfig, seed: int, step: int, row: int) -> tuple[int, int]:
    draws = [word(seed, 0, step, row, draw) for draw in range(5)]
    a, b = ten_digits(draws[0]), ten_digits(draws[1])
    max_digits = data.curriculum.max_digits(step)
    mix_config = data.carry_mix
    if mix_config and draws[3] < int(mix_config.share_at(step) * 2**59):
        return carry_pair(mix_config.patterns, a, b, Word(draws[4]), max_digits)
    n = max_digits
    if data.curriculum.lengths == "uniform":
        n = 1 + Word(draws[2]).take(max_digits)
    return number(a) % 10**n, number(b) % 10**n


def pool_pair(data: DataConfig, seed: int, step: int, row: int) -> tuple[int, int]:
    """Of a run on a pool, without a carry mix: stream 3 has its pairs."""
    assert data.pool is not None
    which = (word(seed, 0, step, row, 0) >> 27) * data.pool >> 32
    draws = [word(seed, 3, 0, which, draw) for draw in range(3)]
    n = data.curriculum.max_digits(0)
    if data.curriculum.lengths == "uniform":
        n = 1 + Word(draws[2]).take(n)
    return tuple(number(ten_digits(each)) % 10**n for each in draws[:2])


def carry_pair(
    patterns: tuple[str, ...], a: list[int], b: list[int], left: Word, max_digits: int
) -> tuple[int, int]:
    n = 1 + left.take(max_digits)
    pattern = patterns[left.take(len(patterns))]
    column = left.take(n)
    first = left.take(9)
    second = left.take(first + 1)
    run = left.take(n - column)
    third = left.take(9)
    if pattern == "single":
        low_a, low_b = number([d % 5 for d in a[:n]]), number([d % 5 for d in b[:n]])
        return low_a + 5 * 10**column, low_b + 5 * 10**column
    if pattern == "chain":
        top = 10 ** min(n, 3)
        return 10**n - 1, number(b) % top or top
    if pattern == "place":
        return number(a) % 10 ** (n - 1) + (first + 1) * 10 ** (n - 1), (third + 1) * 10**column
    if pattern == "boundary":
        return 10**n - (10 - a[0]), 1 + b[0] + 10 * (b[1] % 2)
    assert pattern == "propagate"
    a[column], b[column] = first + 1, 9 - second
    for j in range(column + 1, column + run + 1):
        b[j] = 9 - a[j]
    return number(a) % 10**n, number(b) % 10**n


def holdout_pairs(seed: int, count: int) -> list[tuple[int, int]]:
    """The first ``count`` different pairs of R456's hold-out stream."""
    generator = torch.Generator().manual_seed(seed)
    pairs: list[tuple[int, int]] = []
    seen: set[tuple[int, int]] = set()
    while len(pairs) < count:
        n = max(2 * (count - len(pairs)), 4096)
        a = torch.randint(0, 10**10, (n,), generator=generator, dtype=torch.int64)
        b = torch.randint(0, 10**10, (n,), generator=generator, dtype=torch.int64)
        pairs += new_pairs(list(zip(a.tolist(), b.tolist(), strict=True)), seen)
    return pairs[:count]


def new_pairs(pairs: list[tuple[int, int]], seen: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """Those not seen before, in order; ``seen`` grows."""
    new = []
    for one in pairs:
        if one not in seen:
            seen.add(one)
            new.append(one)
    return new


class R456Loop:
    """R456's training sampler as its own program draws: three one-element tensors a pair."""

    def __init__(
        self, seed: int, batch_size: int, reserved: set[tuple[int, int]], curriculum: Curriculum
    ) -> None:
        self.generator = torch.Generator().manual_seed(seed + 1337)
        self.batch_size = batch_size
        self.reserved = reserved
        self.curriculum = curriculum

    def next_pairs(self, step: int) -> list[tuple[int, int]]:
        return [self._pair(self.curriculum.max_digits(step)) for _ in range(self.batch_size)]

    def _pair(self, max_digits: int) -> tuple[int, int]:
        n = int(torch.randint(1, max_digits + 1, (1,), generator=self.generator).item())
        while True:
            a, b = self._operand(n), self._operand(n)
            if (a, b) not in self.reserved:
                return a, b

    def _operand(self, n: int) -> int:
        drawn = torch.randint(0, 10**n, (1,), generator=self.generator, dtype=torch.int64)
        return int(drawn.item())
