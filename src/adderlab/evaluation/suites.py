"""Sets of test pairs: the published ones, fresh ones, and the ones a random sample never meets; and
rates with their 95% confidence intervals, so that no rate is shown without its n.

A model can be right on 100,000 uniform pairs and wrong on 9999999999 + 9999999999; a stratum of
nine-heavy pairs finds such a fault in one batch (docs/proof.md). Every stratum is a pure function of
(seed, stratum, row): uniform digits for the operands, and further digits for choices. In base B the nine
of a stratum is B - 1.

``scipy.stats`` has the intervals too, but takes most of a second to import, which every search for a
proved model would pay; the tests compare.

Shapes: B pairs, J columns (10), units first; in a suite pairs come first (a_BJ), while strata are
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
from adderlab.task import sampling
from adderlab.task.addition import (
    NUMERALS,
    PUBLISHED,
    Addition,
    from_digits,
    pairs_from_ints,
    to_digits,
)
from adderlab.task.r456 import holdout
from adderlab.task.sampling import Stream, columns, pick, uniform_pairs

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
    _check(errors, n)
    tail = (1 - CONFIDENCE) / 2
    if errors == 0:
        # (1 - high)^n = tail: nothing to load scipy for, which takes a fifth of a second.
        low, high = 0.0, -math.expm1(math.log(tail) / n)
    else:
        from scipy.special import betaincinv

        low = float(betaincinv(errors, n - errors + 1, tail))
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

MAX_PAIRS = 10_000_000
"""Pairs of a task that are all tried: beyond, a proof is the only way."""


def edge_cases(addition: Addition = PUBLISHED) -> list[tuple[int, int]]:
    """The ten edge cases of AdderBoard's check, one of them twice; of other sizes those like them."""
    n, base, top = addition.columns, addition.base, addition.limit - 1
    ones = top // (base - 1)
    rising = sum((j + 1) % base * base ** (n - 1 - j) for j in range(n))
    falling = sum((-1 - j) % base * base ** (n - 1 - j) for j in range(n))
    half = base // 2 * base ** (n - 1)
    return [
        (0, 0),
        (0, 1),
        (top, 0),
        (top, 1),
        (top, top),
        (half, half),
        (ones, addition.limit - ones),
        (rising, falling),
        (top, top),
        (1, top),
    ]


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


def published(addition: Addition = PUBLISHED) -> Suite:
    """R456's protocol: the test parts of ten hold-out splits, 10 x 10,000 pairs; a group a seed."""
    splits = {seed: holdout(seed, addition=addition) for seed in PUBLISHED_SEEDS}
    groups = tuple(
        Group(name=str(seed), a_BJ=split.test_a_BJ, b_BJ=split.test_b_BJ)
        for seed, split in splits.items()
    )
    return Suite(name="published", groups=groups)


def adderboard(addition: Addition = PUBLISHED) -> Suite:
    """The 10,010 pairs of AdderBoard's check: ten edge cases (one of them twice), 10,000 random."""
    generator = random.Random(ADDERBOARD_SEED)
    limit = addition.limit - 1
    drawn = [(generator.randint(0, limit), generator.randint(0, limit)) for _ in range(10_000)]
    edges, rest = (pairs_from_ints(pairs, addition) for pairs in (edge_cases(addition), drawn))
    return Suite(
        name="adderboard",
        groups=(
            Group(name="edge", a_BJ=edges[0], b_BJ=edges[1]),
            Group(name="random", a_BJ=rest[0], b_BJ=rest[1]),
        ),
    )


def fresh(n: int, seed: int = FRESH_SEED, addition: Addition = PUBLISHED) -> Suite:
    """``n`` uniform pairs that no training, validation or published set draws from."""
    if not 1 <= n <= MAX_FRESH:
        raise UsageError(f"a fresh suite takes 1 to {MAX_FRESH} pairs, not {n}")
    a_BJ, b_BJ = uniform_pairs(seed, n, addition)
    return Suite(name=f"fresh:{n}", groups=(Group(name="fresh", a_BJ=a_BJ, b_BJ=b_BJ),))


def strata(
    n_per_stratum: int = STRATA_PAIRS, seed: int = FRESH_SEED, addition: Addition = PUBLISHED
) -> Suite:
    """Groups by carry chain, digit pattern and operand length, ``n_per_stratum`` pairs each."""
    groups = strata_groups(n_per_stratum, seed, addition)
    return Suite(name="strata", groups=tuple(Group(name=n, a_BJ=a, b_BJ=b) for n, a, b in groups))


def check_few(addition: Addition) -> None:
    """Raises ``UsageError`` where all pairs are too many to be tried."""
    if addition.num_pairs > MAX_PAIRS:
        raise UsageError(
            f"{addition.columns} columns in base {addition.base} have {addition.pairs_text} pairs; at "
            f"most {MAX_PAIRS:,} are tried one by one: use fewer columns, or adderlab prove"
        )


def pairs_between(start: int, stop: int, addition: Addition) -> tuple[Tensor, Tensor]:
    """Pairs number ``start`` to ``stop`` - 1 of all, a_BJ and b_BJ; pair number i is (i // limit, i %
    limit)."""
    number_B = torch.arange(start, stop)
    a_BJ, b_BJ = (
        to_digits(values, addition.columns, addition.base)
        for values in (number_B // addition.limit, number_B % addition.limit)
    )
    return a_BJ, b_BJ


def every_pair(addition: Addition = PUBLISHED) -> Suite:
    """All pairs of a small task. Raises ``UsageError`` for more than ten million."""
    check_few(addition)
    a_BJ, b_BJ = pairs_between(0, addition.num_pairs, addition)
    return Suite(name="all", groups=(Group(name="all", a_BJ=a_BJ, b_BJ=b_BJ),))


def operand(number: SupportsIndex, addition: Addition = PUBLISHED) -> int:
    """A number to add, NumPy's included. Raises ``UsageError`` for one out of range, or what is no whole
    number."""
    if not isinstance(number, SupportsIndex) or not 0 <= operator.index(number) < addition.limit:
        raise UsageError(f"an operand must be 0 to {addition.limit - 1}, not {number!r}")
    return operator.index(number)


def of_pairs(pairs: Sequence[tuple[int, int]], addition: Addition = PUBLISHED) -> Suite:
    """The reader's own pairs of numbers. Raises ``UsageError`` for none, what is no pair, or a number
    out of range."""
    if not pairs:
        raise UsageError("a suite needs at least one pair")
    for pair in pairs:
        if not isinstance(pair, Sequence) or len(pair) != 2:
            raise UsageError(f"{pair!r} is no pair of numbers; give pairs such as (12, 99988)")
    numbers = [(operand(a, addition), operand(b, addition)) for a, b in pairs]
    a_BJ, b_BJ = pairs_from_ints(numbers, addition)
    return Suite(name="pairs", groups=(Group(name="pairs", a_BJ=a_BJ, b_BJ=b_BJ),))


def check_suite(text: str, addition: Addition | None = None) -> None:
    """Raises ``UsageError`` for what names no suite, or none of that task, before anything is drawn."""
    kind, colon, count = text.partition(":")
    if kind == "fresh" and colon:
        if not (count.isascii() and count.isdigit()):
            raise UsageError(f"suite={text}: fresh:N needs a number of pairs, such as fresh:100000")
    elif text not in ("published", "adderboard", "strata", "all"):
        raise UsageError(f"no suite {text!r}; there are published, adderboard, strata, all, fresh:N")
    if text == "all" and addition is not None:
        check_few(addition)


def parse_suite(text: str, seed: int = FRESH_SEED, addition: Addition = PUBLISHED) -> Suite:
    """The suite that ``--suite`` names; ``seed`` serves fresh and strata. Raises ``UsageError``."""
    check_suite(text)
    if text == "published":
        return published(addition)
    if text == "adderboard":
        return adderboard(addition)
    if text == "strata":
        return strata(seed=seed, addition=addition)
    if text == "all":
        return every_pair(addition)
    return fresh(int(text.partition(":")[2]), seed, addition)


CHAIN_LENGTHS = (1, 2, 4, 7, 10)
"""And all columns."""
_WORDS = 7
"""Per row: a, b and five further ones. With more than ten columns there are as many again, for the
digits of the columns from the eleventh on."""

Pair = tuple[Tensor, Tensor]
Builder = Callable[["_Rows"], Pair]


def _generating(base: int) -> Tensor:
    """Digits (N, 2) of a column that a carry leaves, whatever enters it."""
    return torch.tensor([(a, b) for a in range(base) for b in range(base) if a + b >= base])


def _ending(base: int) -> Tensor:
    """Digits (N, 2) of a column that no carry leaves, whatever enters it. As many as of the others."""
    return torch.tensor([(a, b) for a in range(base) for b in range(base) if a + b <= base - 2])


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """What a group is built from: uniform digits of a and b, and words for choices."""

    addition: Addition
    a_JB: Tensor
    b_JB: Tensor
    word_CB: Tensor
    more_CB: Tensor | None

    @property
    def top(self) -> int:
        """The largest digit."""
        return self.addition.base - 1

    @property
    def column_J1(self) -> Tensor:
        return columns(self.word_CB[0], self.addition.columns)

    def below(self, *limits: int) -> tuple[Tensor, ...]:
        """A uniform number below each limit for each row, uint8."""
        numbers, word_B = [], self.word_CB[0]
        for limit in limits:
            number, word_B = sampling.take(word_B, limit)
            numbers.append(number.to(torch.uint8))
        return tuple(numbers)

    def columns_below(self, c: int, limit: int) -> Tensor:
        """A uniform number below the limit for each column, uint8, from word c."""
        word = self.word_CB[c]
        if self.more_CB is not None:
            word = torch.stack([word, self.more_CB[c]])
        return sampling.digits(word, limit, self.addition.columns)

    def columns_of(self, table_N2: Tensor, c: int) -> Pair:
        """One of the digit pairs for each column, all equally likely, from words c and c + 1."""
        pair_N2 = table_N2.to(torch.uint8)
        # 45 of them are 15 times 3: both numbers are small enough for a word.
        first = max(m for m in range(1, sampling.MAX_BELOW + 1) if len(pair_N2) % m == 0)
        second = len(pair_N2) // first
        index_JB = self.columns_below(c, first).long() * second + self.columns_below(c + 1, second)
        return pair_N2[index_JB, 0], pair_N2[index_JB, 1]


def strata_groups(
    n: int, seed: int, addition: Addition = PUBLISHED
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, a_BJ, b_BJ) of every group, ``n`` pairs each."""
    seeds_S, J, base = torch.tensor([seed]), addition.columns, addition.base
    wide = sampling.DIGITS_PER_WORD < J
    for index, (name, build) in enumerate(_builders(addition).items()):
        key_S = sampling.keys(seeds_S, Stream.STRATA, index)
        word_NB = sampling.words(key_S, n, 2 * _WORDS if wide else _WORDS)[:, 0]
        first_NB, more_NB = word_NB[:_WORDS], word_NB[_WORDS:]
        word_oB = torch.stack([first_NB[:2], more_NB[:2]]) if wide else first_NB[:2]
        digit_JoB = sampling.digits(word_oB, base, J)
        rows = _Rows(
            addition=addition,
            a_JB=digit_JoB[:, 0],
            b_JB=digit_JoB[:, 1],
            word_CB=first_NB[2:],
            more_CB=more_NB[2:] if wide else None,
        )
        a_JB, b_JB = build(rows)
        yield name, a_JB.T.contiguous(), b_JB.T.contiguous()


def _uniform(rows: _Rows) -> Pair:
    return rows.a_JB, rows.b_JB


def _chain(length: int, generate: bool) -> Builder:
    """A run of exactly ``length`` columns at any place.

    With ``generate`` the lowest column sums to 10 or more and the others to 9: ``length`` carries in
    a row. Without, all sum to 9 and no carry enters. The columns next to the run sum to 8 or less.
    """

    def build(rows: _Rows) -> Pair:
        (start_B,) = rows.below(rows.addition.columns - length + 1)
        column_J1 = rows.column_J1
        run_JB = ((column_J1 >= start_B) & (column_J1 < start_B + length)).to(torch.uint8)
        next_to_JB = ((column_J1 + 1 == start_B) | (column_J1 == start_B + length)).to(torch.uint8)
        lowest_JB = (column_J1 == start_B).to(torch.uint8) * int(generate)
        a_JB, b_JB = rows.a_JB, pick(run_JB, rows.top - rows.a_JB, rows.b_JB)
        base = rows.addition.base
        for mask_JB, (x_JB, y_JB) in (
            (next_to_JB, rows.columns_of(_ending(base), 1)),
            (lowest_JB, rows.columns_of(_generating(base), 3)),
        ):
            a_JB, b_JB = pick(mask_JB, x_JB, a_JB), pick(mask_JB, y_JB, b_JB)
        return a_JB, b_JB

    return build


def _repdigits(rows: _Rows) -> Pair:
    """One digit repeated, each operand of its own digit and length."""
    J, base = rows.addition.columns, rows.addition.base
    digit_a, digit_b, length_a, length_b = rows.below(base, base, J, J)
    column_J1 = rows.column_J1
    return digit_a * (column_J1 <= length_a), digit_b * (column_J1 <= length_b)


def _zeros_and_nines(rows: _Rows) -> Pair:
    return rows.a_JB % 2 * rows.top, rows.b_JB % 2 * rows.top


def _fours_and_fives(rows: _Rows) -> Pair:
    low = rows.addition.base // 2 - 1
    return low + rows.a_JB % 2, low + rows.b_JB % 2


def _sparse(rows: _Rows) -> Pair:
    """A column of an operand is kept with probability 1/5, else 0."""
    return rows.a_JB * (rows.columns_below(1, 5) == 0), rows.b_JB * (rows.columns_below(2, 5) == 0)


def _nines(tenths: int) -> Builder:
    """Each digit is 9 with probability ``tenths`` / 10, else 0 to 8."""

    def build(rows: _Rows) -> Pair:
        nine_JB = torch.full_like(rows.a_JB, rows.top)

        def operand(c: int) -> Tensor:
            is_nine_JB = (rows.columns_below(c, 10) < tenths).to(torch.uint8)
            return pick(is_nine_JB, nine_JB, rows.columns_below(c + 1, rows.top))

        return operand(1), operand(3)

    return build


def _complements(rows: _Rows) -> Pair:
    """a + b = 9999999999: all columns sum to 9, no carry."""
    return rows.a_JB, rows.top - rows.a_JB


def _complements_to_the_power(rows: _Rows) -> Pair:
    """a + b = 10^10 (a = 0 gives 0 + 0)."""
    limit, J, base = rows.addition.limit, rows.addition.columns, rows.addition.base
    value_B = from_digits(rows.a_JB.T, base)
    return rows.a_JB, to_digits((limit - value_B) % limit, J, base).T


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
    high_a, high_b = rows.columns_of(_generating(rows.addition.base), 1)
    low_a, low_b = rows.columns_of(_ending(rows.addition.base), 3)
    return pick(generating_JB, high_a, low_a), pick(generating_JB, high_b, low_b)


def _length(n: int) -> Builder:
    """Both operands of exactly n digits; 0 counts as a one-digit number."""

    def build(rows: _Rows) -> Pair:
        inside_J1 = rows.column_J1 < n
        a_JB, b_JB = rows.a_JB * inside_J1, rows.b_JB * inside_J1
        if n > 1:
            a_JB[n - 1], b_JB[n - 1] = (digit_B + 1 for digit_B in rows.below(rows.top, rows.top))
        return a_JB, b_JB

    return build


def _builders(addition: Addition) -> dict[str, Builder]:
    """The groups of a task by name, in the order of their streams."""
    n, base = addition.columns, addition.base
    top, half = NUMERALS[base - 1], base // 2
    nines = "nines" if base == 10 else f"{top}s"
    lengths = (*(length for length in CHAIN_LENGTHS if length < n), n)
    return {
        "uniform": _uniform,
        **{f"chain {length} with carry": _chain(length, True) for length in lengths},
        **{f"chain {length} without carry": _chain(length, False) for length in lengths},
        "repdigits": _repdigits,
        f"digits 0 and {top}": _zeros_and_nines,
        f"digits {NUMERALS[half - 1]} and {NUMERALS[half]}": _fours_and_fives,
        "sparse": _sparse,
        f"{nines} 70%": _nines(7),
        f"{nines} 90%": _nines(9),
        f"complements to {top * n}": _complements,
        f"complements to 1{'0' * n}": _complements_to_the_power,
        "a = b": _doubled,
        "plus zero": _plus_zero,
        "alternating carries": _alternating_carries,
        **{f"length {length}": _length(length) for length in range(1, n + 1)},
    }
