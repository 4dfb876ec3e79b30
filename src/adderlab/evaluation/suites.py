"""Sets of test pairs: the published ones, fresh ones, and the ones a random sample never meets; and
rates with their 95% confidence intervals, so that no rate is shown without its n.

A model can be right on 100,000 uniform pairs and wrong on 9999999999 + 9999999999; a stratum of
nine-heavy pairs finds such a fault in one batch (docs/proof.md). Every stratum is a pure function of
(seed, stratum, row): twenty uniform digits for the operands, and further digits for choices.

``scipy.stats`` has the intervals too, but takes most of a second to import, which every search for a
proved model would pay; the tests compare.

Shapes: B pairs, J = 10 columns, units first; in a suite pairs come first (a_BJ), while strata are
built columns first (a_JB), with C further random words a row.
"""

from __future__ import annotations

import math
import operator
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, SupportsIndex

import torch
from torch import Tensor

from adderlab.errors import UsageError
from adderlab.format import percent
from adderlab.task import counter
from adderlab.task.counter import Stream
from adderlab.task.layouts import (
    OPERAND_DIGITS,
    OPERAND_LIMIT,
    from_digits,
    pairs_from_ints,
    to_digits,
)
from adderlab.task.r456 import holdout
from adderlab.task.sampling import columns, pick, uniform_pairs

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Rate:
    """``count`` of ``n`` with a two-sided 95% interval [low, high] of the underlying rate.

    Its text form: "12/16 = 75.0% [50.5%, 89.8%]".
    """

    count: int
    n: int
    low: float
    high: float
    kind: Literal["wilson", "clopper-pearson"]

    @property
    def value(self) -> float:
        return self.count / self.n

    def __str__(self) -> str:
        value, low, high = (percent(x) for x in (self.value, self.low, self.high))
        return f"{self.count:,}/{self.n:,} = {value} [{low}, {high}]"


def wilson(successes: int, n: int) -> Rate:
    """Wilson score interval: for success rates over seeds, where n is small.

    ``n`` must be at least 1. Source: Brown, Cai and DasGupta, Statistical Science 2001, equation 4.
    """
    _check(successes, n)
    z2 = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) ** 2
    middle = (successes + z2 / 2) / (n + z2)
    reach = math.sqrt(z2 * (successes * (n - successes) / n + z2 / 4)) / (n + z2)
    low = 0.0 if successes == 0 else middle - reach
    high = 1.0 if successes == n else middle + reach
    return Rate(count=successes, n=n, low=low, high=high, kind="wilson")


def clopper_pearson(errors: int, n: int) -> Rate:
    """Clopper-Pearson ("exact") interval: for error rates, where it must never be too narrow."""
    from scipy.special import betaincinv

    _check(errors, n)
    tail = (1 - CONFIDENCE) / 2
    low = 0.0 if errors == 0 else float(betaincinv(errors, n - errors + 1, tail))
    high = 1.0 if errors == n else float(betaincinv(errors + 1, n - errors, 1 - tail))
    return Rate(count=errors, n=n, low=low, high=high, kind="clopper-pearson")


def _check(count: int, n: int) -> None:
    assert 0 <= count <= n and n >= 1, (count, n)


# Suites.


PUBLISHED_SEEDS = (41, 100, 200, 300, 400, 500, 999, 1234, 7777, 31415)
ADDERBOARD_SEED = 2025
FRESH_SEED = 0
STRATA_PAIRS = 5000
MAX_FRESH = 100_000_000
"""Largest fresh suite: its digits take 2 GB."""

_EDGES = (
    (0, 0),
    (0, 1),
    (9999999999, 0),
    (9999999999, 1),
    (9999999999, 9999999999),
    (5000000000, 5000000000),
    (1111111111, 8888888889),
    (1234567890, 9876543210),
    (9999999999, 9999999999),
    (1, 9999999999),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Pairs that are reported together; uint8 digits on the CPU."""

    name: str
    a_BJ: Tensor
    b_BJ: Tensor

    @property
    def num_pairs(self) -> int:
        return self.a_BJ.shape[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Suite:
    """A named list of groups."""

    name: str
    groups: tuple[Group, ...]

    @property
    def num_pairs(self) -> int:
        return sum(group.num_pairs for group in self.groups)


def published() -> Suite:
    """R456's protocol: the test parts of ten hold-out splits, 10 x 10,000 pairs; a group a seed."""
    splits = {seed: holdout(seed) for seed in PUBLISHED_SEEDS}
    groups = tuple(
        Group(name=str(seed), a_BJ=split.test_a_BJ, b_BJ=split.test_b_BJ)
        for seed, split in splits.items()
    )
    return Suite(name="published", groups=groups)


def adderboard() -> Suite:
    """The 10,010 pairs of AdderBoard's check: ten edge cases (one of them twice), 10,000 random."""
    generator = random.Random(ADDERBOARD_SEED)
    limit = OPERAND_LIMIT - 1
    drawn = [(generator.randint(0, limit), generator.randint(0, limit)) for _ in range(10_000)]
    edges, rest = pairs_from_ints(list(_EDGES)), pairs_from_ints(drawn)
    return Suite(
        name="adderboard",
        groups=(
            Group(name="edge", a_BJ=edges[0], b_BJ=edges[1]),
            Group(name="random", a_BJ=rest[0], b_BJ=rest[1]),
        ),
    )


def fresh(n: int, seed: int = FRESH_SEED) -> Suite:
    """``n`` uniform pairs that no training, validation or published set draws from."""
    if not 1 <= n <= MAX_FRESH:
        raise UsageError(f"a fresh suite takes 1 to {MAX_FRESH} pairs, not {n}")
    a_BJ, b_BJ = uniform_pairs(seed, n)
    return Suite(name=f"fresh:{n}", groups=(Group(name="fresh", a_BJ=a_BJ, b_BJ=b_BJ),))


def strata(n_per_stratum: int = STRATA_PAIRS, seed: int = FRESH_SEED) -> Suite:
    """Groups by carry chain, digit pattern and operand length, ``n_per_stratum`` pairs each."""
    groups = strata_groups(n_per_stratum, seed)
    return Suite(name="strata", groups=tuple(Group(name=n, a_BJ=a, b_BJ=b) for n, a, b in groups))


def operand(number: SupportsIndex) -> int:
    """A number to add, NumPy's included. Raises ``UsageError`` for one out of range, or what is no whole
    number."""
    if not isinstance(number, SupportsIndex) or not 0 <= operator.index(number) < OPERAND_LIMIT:
        raise UsageError(f"an operand must be 0 to {OPERAND_LIMIT - 1}, not {number!r}")
    return operator.index(number)


def of_pairs(pairs: Sequence[tuple[int, int]]) -> Suite:
    """The reader's own pairs of numbers. Raises ``UsageError`` for none, what is no pair, or a number
    out of range."""
    if not pairs:
        raise UsageError("a suite needs at least one pair")
    for pair in pairs:
        if not isinstance(pair, Sequence) or len(pair) != 2:
            raise UsageError(f"{pair!r} is no pair of numbers; give pairs such as (12, 99988)")
    a_BJ, b_BJ = pairs_from_ints([(operand(a), operand(b)) for a, b in pairs])
    return Suite(name="pairs", groups=(Group(name="pairs", a_BJ=a_BJ, b_BJ=b_BJ),))


def parse_suite(text: str, seed: int = FRESH_SEED) -> Suite:
    """The suite that ``--suite`` names; ``seed`` serves fresh and strata. Raises ``UsageError``."""
    kind, colon, count = text.partition(":")
    if kind == "fresh" and colon:
        if not (count.isascii() and count.isdigit()):
            raise UsageError(f"suite={text}: fresh:N needs a number of pairs, such as fresh:100000")
        return fresh(int(count), seed)
    if text == "published":
        return published()
    if text == "adderboard":
        return adderboard()
    if text == "strata":
        return strata(seed=seed)
    raise UsageError(f"no suite {text!r}; there are published, adderboard, strata, fresh:N")


CHAIN_LENGTHS = (1, 2, 4, 7, 10)
_WORDS = 7
"""Per row: a, b and five further ones."""

Pair = tuple[Tensor, Tensor]
Builder = Callable[["_Rows"], Pair]

_GENERATING = torch.tensor(
    [(a, b) for a in range(10) for b in range(10) if a + b >= 10], dtype=torch.uint8
)
_ENDING = torch.tensor([(a, b) for a in range(10) for b in range(10) if a + b <= 8], dtype=torch.uint8)
"""Digits of a column that no carry leaves, whatever enters it. 45 pairs, as of the others."""


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """What a group is built from: uniform digits of a and b, and words for choices."""

    a_JB: Tensor
    b_JB: Tensor
    word_CB: Tensor

    @property
    def column_J1(self) -> Tensor:
        return columns(self.word_CB[0])

    def below(self, *limits: int) -> tuple[Tensor, ...]:
        """A uniform number below each limit (at most 15) for each row, uint8."""
        numbers, word_B = [], self.word_CB[0]
        for limit in limits:
            number, word_B = counter.take(word_B, limit)
            numbers.append(number.to(torch.uint8))
        return tuple(numbers)

    def columns_below(self, c: int, limit: int) -> Tensor:
        """A uniform number below the limit (at most 15) for each column, uint8, from word c."""
        return counter.digits(self.word_CB[c], limit)

    def columns_of(self, table_N2: Tensor, c: int) -> Pair:
        """One of 45 digit pairs for each column, all equally likely, from words c and c + 1."""
        index_JB = self.columns_below(c, 15).long() * 3 + self.columns_below(c + 1, 3)
        return table_N2[index_JB, 0], table_N2[index_JB, 1]


def strata_groups(n: int, seed: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, a_BJ, b_BJ) of every group, ``n`` pairs each."""
    seeds_S = torch.tensor([seed])
    for index, (name, build) in enumerate(_BUILDERS.items()):
        word_NB = counter.words(counter.keys(seeds_S, Stream.STRATA, index), n, _WORDS)[:, 0]
        a_JB, b_JB = counter.digits(word_NB[0]), counter.digits(word_NB[1])
        a_JB, b_JB = build(_Rows(a_JB=a_JB, b_JB=b_JB, word_CB=word_NB[2:]))
        yield name, a_JB.T.contiguous(), b_JB.T.contiguous()


def _uniform(rows: _Rows) -> Pair:
    return rows.a_JB, rows.b_JB


def _chain(length: int, generate: bool) -> Builder:
    """A run of exactly ``length`` columns at any place.

    With ``generate`` the lowest column sums to 10 or more and the others to 9: ``length`` carries in
    a row. Without, all sum to 9 and no carry enters. The columns next to the run sum to 8 or less.
    """

    def build(rows: _Rows) -> Pair:
        (start_B,) = rows.below(OPERAND_DIGITS - length + 1)
        column_J1 = rows.column_J1
        run_JB = ((column_J1 >= start_B) & (column_J1 < start_B + length)).to(torch.uint8)
        next_to_JB = ((column_J1 + 1 == start_B) | (column_J1 == start_B + length)).to(torch.uint8)
        lowest_JB = (column_J1 == start_B).to(torch.uint8) * int(generate)
        a_JB, b_JB = rows.a_JB, pick(run_JB, 9 - rows.a_JB, rows.b_JB)
        for mask_JB, (x_JB, y_JB) in (
            (next_to_JB, rows.columns_of(_ENDING, 1)),
            (lowest_JB, rows.columns_of(_GENERATING, 3)),
        ):
            a_JB, b_JB = pick(mask_JB, x_JB, a_JB), pick(mask_JB, y_JB, b_JB)
        return a_JB, b_JB

    return build


def _repdigits(rows: _Rows) -> Pair:
    """One digit repeated, each operand of its own digit and length."""
    digit_a, digit_b, length_a, length_b = rows.below(10, 10, OPERAND_DIGITS, OPERAND_DIGITS)
    column_J1 = rows.column_J1
    return digit_a * (column_J1 <= length_a), digit_b * (column_J1 <= length_b)


def _zeros_and_nines(rows: _Rows) -> Pair:
    return rows.a_JB % 2 * 9, rows.b_JB % 2 * 9


def _fours_and_fives(rows: _Rows) -> Pair:
    return 4 + rows.a_JB % 2, 4 + rows.b_JB % 2


def _sparse(rows: _Rows) -> Pair:
    """A column of an operand is kept with probability 1/5, else 0."""
    return rows.a_JB * (rows.columns_below(1, 5) == 0), rows.b_JB * (rows.columns_below(2, 5) == 0)


def _nines(tenths: int) -> Builder:
    """Each digit is 9 with probability ``tenths`` / 10, else 0 to 8."""

    def build(rows: _Rows) -> Pair:
        nine_JB = torch.full_like(rows.a_JB, 9)

        def operand(c: int) -> Tensor:
            is_nine_JB = (rows.columns_below(c, 10) < tenths).to(torch.uint8)
            return pick(is_nine_JB, nine_JB, rows.columns_below(c + 1, 9))

        return operand(1), operand(3)

    return build


def _complements(rows: _Rows) -> Pair:
    """a + b = 9999999999: ten columns that sum to 9, no carry."""
    return rows.a_JB, 9 - rows.a_JB


def _complements_to_the_power(rows: _Rows) -> Pair:
    """a + b = 10^10 (a = 0 gives 0 + 0)."""
    value_B = from_digits(rows.a_JB.T)
    return rows.a_JB, to_digits((OPERAND_LIMIT - value_B) % OPERAND_LIMIT).T


def _doubled(rows: _Rows) -> Pair:
    return rows.a_JB, rows.a_JB


def _plus_zero(rows: _Rows) -> Pair:
    """a + 0 or 0 + a."""
    (side_B,) = rows.below(2)
    return rows.a_JB * side_B, rows.a_JB * (1 - side_B)


def _alternating_carries(rows: _Rows) -> Pair:
    """Every second column generates a carry, the ones between end it."""
    (phase_B,) = rows.below(2)
    generating_JB = (rows.column_J1 + phase_B) % 2
    high_a, high_b = rows.columns_of(_GENERATING, 1)
    low_a, low_b = rows.columns_of(_ENDING, 3)
    return pick(generating_JB, high_a, low_a), pick(generating_JB, high_b, low_b)


def _length(n: int) -> Builder:
    """Both operands of exactly n digits; 0 counts as a one-digit number."""

    def build(rows: _Rows) -> Pair:
        inside_J1 = rows.column_J1 < n
        a_JB, b_JB = rows.a_JB * inside_J1, rows.b_JB * inside_J1
        if n > 1:
            a_JB[n - 1], b_JB[n - 1] = (digit_B + 1 for digit_B in rows.below(9, 9))
        return a_JB, b_JB

    return build


_BUILDERS: dict[str, Builder] = {
    "uniform": _uniform,
    **{f"chain {length} with carry": _chain(length, True) for length in CHAIN_LENGTHS},
    **{f"chain {length} without carry": _chain(length, False) for length in CHAIN_LENGTHS},
    "repdigits": _repdigits,
    "digits 0 and 9": _zeros_and_nines,
    "digits 4 and 5": _fours_and_fives,
    "sparse": _sparse,
    "nines 70%": _nines(7),
    "nines 90%": _nines(9),
    "complements to 9999999999": _complements,
    "complements to 10000000000": _complements_to_the_power,
    "a = b": _doubled,
    "plus zero": _plus_zero,
    "alternating carries": _alternating_carries,
    **{f"length {n}": _length(n) for n in range(1, OPERAND_DIGITS + 1)},
}
