"""Pairs for training and for fresh evaluation: which ones a run asks for, and how they are drawn, by
random numbers without state.

A row's pair depends on (seed, step, row), the data configuration and the task's size alone. It uses
these draws of the counter-based generator, numbers taken from a word in the order named; here for ten
columns of base 10 (in base B, B - 1 stands for 9):

    0, 1   ten digits of a, ten digits of b
    2      n - 1, n uniform in 1 .. max_digits (used when lengths are "uniform")
    3      the row is a carry pattern if this word < floor(share * 2^59)
    4      what else a carry pattern needs: n - 1 below max_digits, the pattern below the number of
           patterns, ``column`` below n, ``first`` below 9, ``second`` below first + 1, ``run`` below
           n - column, ``third`` below 9
    5, 6   of operands with more than ten columns: the digits of a and of b from the eleventh column on

With a pool of N pairs the first word says instead which of them the row's pair is, and pair k of the
pool is made of the words of row k of a stream of its own (``Stream.POOL``, step 0). So a pool is drawn
once, is the same in every engine and after a resume, and stands in no memory.

Curricula and carry mixes are those of yinglunz/A-456-Parameter-Transformer-Solves-10-Digit-Addition
(R456) and evindor/MicroAdder.

The generator: each number is a pure function of (seed, stream, step, row, draw). The same numbers come
out on every device, for a seed alone or in a population, for any batch size and after a resume, because
nothing is carried from one call to the next. The function, in unsigned 64-bit arithmetic that wraps
around (so it is a few lines in any language):

    mix(x):   x ^= x >> 30;  x *= 0xBF58476D1CE4E5B9
              x ^= x >> 27;  x *= 0x94D049BB133111EB
              x ^= x >> 31
    G       = 0x9E3779B97F4A7C15
    site    = mix(mix((stream + 1) * G) + step)
    key     = mix(seed * G + site)
    word    = mix(key + (16 * row + draw + 1) * G) >> 5          59 bits, draw < 16

``mix`` is the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014; constants of Stafford's
variant 13), so for one key the words are the outputs 1, 2, 3, ... of that generator.

A word is a fraction in units of 2^-59. A whole number below m (m <= 15) is taken from it by

    k = (m * word) >> 59;   word = (m * word) & (2^59 - 1)

and the rest of the word serves for the next one. Ten decimal digits taken this way are uniform but for
a relative bias below 2e-8 (2^59 / 10^10 = 5.8e7 words a ten-digit number, give or take one). Where m
may be above 15 (a digit in base 16, one of 18 columns), the word is first cut to 57 bits, w = word >>
2:

    k = (m * w) >> 57;   word = ((m * w) & (2^57 - 1)) << 2

Numbers of more than ten digits take the columns from the eleventh on from a second word.

A row number below 2^30 is the first 32 bits of a word, times the number of rows, divided by 2^32.

Shapes: S seeds, B or R rows, N draws, J columns (10), units first; o = 2 operands; columns in front,
then any further dimensions."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, get_args

import torch
from torch import Tensor

from adderlab.errors import UsageError
from adderlab.files.schema import IMPLIED
from adderlab.task.addition import OPERAND_DIGITS, PUBLISHED, Addition

MOST_POOL = 10_000_000
"""Pairs in a pool: more would be as good as fresh ones, and take memory to be told from validation."""
Lengths = Literal["uniform", "full"]
Pattern = Literal["single", "chain", "place", "boundary", "propagate"]
PATTERNS: tuple[Pattern, ...] = get_args(Pattern)
MICROADDER_PATTERNS: tuple[Pattern, ...] = ("single", "chain", "place", "boundary")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Operands of up to ``max_digits`` digits before step ``until`` (None: to the end).

    Lengths are stated for the published ten columns. Where a model has another number, the phase has the
    same share of them, rounded up: 3 of ten are 1 of three and 5 of fifteen.
    """

    until: int | None
    """First step after the phase; None: to the end."""
    max_digits: int
    """Digits of an operand at most, of ten."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_digits <= OPERAND_DIGITS:
            raise UsageError(f"max_digits must be 1 to {OPERAND_DIGITS}, not {self.max_digits}")
        if self.until is not None and self.until < 1:
            raise UsageError(f"a phase must end at step 1 or later, not {self.until}")

    def columns(self, of: int) -> int:
        """Digits at most where operands have up to ``of`` columns."""
        return -(-self.max_digits * of // OPERAND_DIGITS)


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """Phases in order of their ends; the last one has ``until`` None.

    ``lengths`` "uniform": one length n per pair, uniform from 1 to max_digits, and both operands
    uniform below 10^n, so that only one late pair in ten has ten digits (R456). "full": each operand
    uniform below 10^max_digits (MicroAdder).
    """

    phases: tuple[Phase, ...]
    """In order of their ends."""
    lengths: Lengths
    """How a length is chosen within a phase."""

    def __post_init__(self) -> None:
        if not self.phases or self.phases[-1].until is not None:
            raise UsageError("the last phase of a curriculum must have until = null: it runs to the end")
        ends = [phase.until for phase in self.phases[:-1]]
        for i, end in enumerate(ends):
            if end is None:
                raise UsageError("only the last phase of a curriculum may have until = null")
            before = ends[i - 1] if i else 0
            assert before is not None
            if end <= before:
                raise UsageError(f"phases must end in ascending order: {end} comes after {before}")

    def max_digits(self, step: int, columns: int = OPERAND_DIGITS) -> int:
        """Longest operand at that step, for a task of so many columns."""
        for phase in self.phases:
            if phase.until is None or step < phase.until:
                return phase.columns(columns)
        raise AssertionError("the last phase has no end")


@dataclass(frozen=True, kw_only=True)
class CarryMix:
    """A share of the rows drawn from carry patterns, constant at first, then faded out linearly.

    With n uniform from 1 to the phase's max_digits, columns above n zero, pattern uniform:

    single      one column with both digits 5-9, all others 0-4 (halves of the base)
    chain       a = 10^n - 1, b uniform in 1 .. 10^min(n, 3), or 0 where no operand is so long
    place       a uniform with exactly n digits, b one nonzero digit in a column below n
    boundary    a = 10^n - r with r uniform in 1 .. 10, b uniform in 1 .. 20
    propagate   a generating column g (digits sum to 10 or more), then columns g+1 .. e whose digits
                sum to 9 and pass the carry on; g uniform below n, e uniform in g .. n-1, all other
                columns below n uniform

    The first four are MicroAdder's. As there, b of ``chain`` and ``boundary`` may have one digit more
    than n.
    """

    share: float
    """Of the rows of a batch, at first."""
    fade_start: int
    """Step from which the share falls."""
    fade_end: int
    """Step from which there are none."""
    patterns: tuple[Pattern, ...] = MICROADDER_PATTERNS
    """Of which each row gets one at random."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise UsageError(f"the carry mix's share must be 0 to 1, not {self.share}")
        if not 0 <= self.fade_start <= self.fade_end:
            raise UsageError(
                f"the carry mix must fade from a step to a later one, not {self.fade_start} "
                f"to {self.fade_end}"
            )
        if not self.patterns or len(set(self.patterns)) < len(self.patterns):
            raise UsageError(
                f"the carry mix needs different patterns of {', '.join(PATTERNS)}, not "
                f"{list(self.patterns)}"
            )

    def share_at(self, step: int) -> float:
        """Expected share of carry-pattern rows at that step."""
        if step < self.fade_start:
            return self.share
        if step >= self.fade_end:
            return 0.0
        return self.share * (self.fade_end - step) / (self.fade_end - self.fade_start)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Everything that decides a run's training pairs, but for the seed and the batch size."""

    curriculum: Curriculum
    """How long operands are at which step."""
    carry_mix: CarryMix | None = None
    """A share of pairs with long carries; None: none."""
    pool: int | None = field(default=None, metadata=IMPLIED)
    """Train on so many pairs, drawn once for each seed, and on no others (a pair may be drawn twice);
    every row of a batch is one of them at random. None: fresh pairs at every step."""

    def __post_init__(self) -> None:
        if self.pool is None:
            return
        if not 1 <= self.pool <= MOST_POOL:
            raise UsageError(f"data.pool must be 1 to {MOST_POOL:,}, not {self.pool:,}")
        if len(self.curriculum.phases) > 1:
            raise UsageError(
                f"data.pool={self.pool} is one set of pairs for all steps, and the curriculum has "
                f"{len(self.curriculum.phases)} phases: set also "
                'recipe.data.curriculum.phases=\'[{"until":null,"max_digits":10}]\''
            )
        if self.carry_mix is not None:
            raise UsageError(
                f"data.pool={self.pool} is one set of pairs for all steps, and the share of the carry "
                "mix changes: set also recipe.data.carry_mix=null"
            )


_GROWING = (
    Phase(until=2000, max_digits=3),
    Phase(until=7000, max_digits=6),
    Phase(until=None, max_digits=10),
)
R456_CURRICULUM = Curriculum(phases=_GROWING, lengths="uniform")
MICROADDER_CURRICULUM = Curriculum(phases=_GROWING, lengths="full")
MICROADDER_MIX = CarryMix(share=0.8, fade_start=15_000, fade_end=45_000)
"""The mix of the 57p and 67p recipes."""


Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """What a pattern is built from; numbers are uint8, one per row. Masks are 0 or 1, uint8."""

    base: int

    a_J: Tensor
    b_J: Tensor
    column_J: Tensor
    inside_J: Tensor
    here_J: Tensor
    length: Tensor
    column: Tensor
    first: Tensor
    second: Tensor
    run: Tensor
    third: Tensor


def carry_pairs(
    patterns: tuple[Pattern, ...],
    digit_Jo: Tensor,
    word: Tensor,
    max_digits: int | Tensor,
    base: int = 10,
) -> Tensor:
    """A pattern for every row: digits digit_oJ (2, J, ...), uint8.

    ``digit_Jo`` (J, 2, ...): uniform digits below ``base``; ``word`` (...): one 59-bit word a row.
    """
    J, top = len(digit_Jo), base - 1
    length, word = take(word, max_digits, J)
    length = length + 1
    which, word = take(word, len(patterns))
    column, word = take(word, length, J)
    first, word = take(word, top)
    second, word = take(word, first + 1)
    run, word = take(word, length - column, J)
    third, word = take(word, top)
    column_J, length, column = columns(word, J), _digit(length), _digit(column)
    parts = _Parts(
        base=base,
        a_J=digit_Jo[:, 0],
        b_J=digit_Jo[:, 1],
        column_J=column_J,
        inside_J=_mask(column_J < length),
        here_J=_mask(column_J == column),
        length=length,
        column=column,
        first=_digit(first),
        second=_digit(second),
        run=_digit(run),
        third=_digit(third),
    )
    built_oJ = torch.stack(_BUILDERS[patterns[0]](parts))
    for index, name in enumerate(patterns[1:], 1):
        built_oJ = pick(_mask(which == index), torch.stack(_BUILDERS[name](parts)), built_oJ)
    return built_oJ


def pick(mask: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    """``chosen`` where the mask is 1, all uint8. PyTorch's ``where`` is ten times slower on bytes."""
    return other + mask * (chosen - other)


def columns(like: Tensor, count: int = OPERAND_DIGITS) -> Tensor:
    """0 .. J - 1 as uint8 (J, 1, ...), to stand against a tensor (...) of rows."""
    column_J = torch.arange(count, dtype=torch.uint8, device=like.device)
    return column_J.reshape(count, *[1] * like.ndim)


def _digit(number: Tensor) -> Tensor:
    return number.to(torch.uint8)


def _mask(condition: Tensor) -> Tensor:
    return condition.to(torch.uint8)


def _single(p: _Parts) -> Pair:
    # Two digits of the upper half make a carry, two of the lower half none.
    half = (p.base + 1) // 2
    a_J, b_J = (pick(p.here_J, half + x % (p.base - half), x % half) for x in (p.a_J, p.b_J))
    return a_J * p.inside_J, b_J * p.inside_J


def _chain(p: _Parts) -> Pair:
    k = p.length.clamp(max=3)
    small_J = p.b_J * _mask(p.column_J < k)
    # No digit at all stands for 10^k, so that b is uniform from 1 to 10^k.
    none = _mask(small_J[:3].sum(0) == 0)
    return p.inside_J * (p.base - 1), small_J + none * _mask(p.column_J == k)


def _place(p: _Parts) -> Pair:
    leading_J = _mask(p.column_J + 1 == p.length)
    return pick(leading_J, p.first + 1, p.a_J * p.inside_J), (p.third + 1) * p.here_J


def _boundary(p: _Parts) -> Pair:
    # 10^n - r: the units digit is 10 - r, any digit; r = 10 leaves the nines above as they are.
    a_J = p.inside_J * (p.base - 1)
    a_J[0] = p.a_J[0]
    tens = p.b_J[1] % 2 if len(p.b_J) > 1 else 0
    small = 1 + p.b_J[0] + p.base * tens
    b_J = torch.zeros_like(a_J)
    for j in range(min(3, len(b_J))):  # 2 B is 20, but 100 in base 2
        b_J[j], small = small % p.base, small // p.base
    return a_J, b_J


def _propagate(p: _Parts) -> Pair:
    top = p.base - 1
    passing_J = _mask(p.column_J > p.column) * _mask(p.column_J <= p.column + p.run)
    a_J = pick(p.here_J, p.first + 1, p.a_J)
    # 9 - second is at least 10 - (first + 1): the column's digits sum to 10 or more.
    b_J = pick(p.here_J, top - p.second, pick(passing_J, top - p.a_J, p.b_J))
    return a_J * p.inside_J, b_J * p.inside_J


_BUILDERS: dict[Pattern, Callable[[_Parts], Pair]] = {
    "single": _single,
    "chain": _chain,
    "place": _place,
    "boundary": _boundary,
    "propagate": _propagate,
}


_CHUNK = 1 << 18


def num_draws(columns: int, *, mixed: bool, uniform_lengths: bool) -> int:
    """Words that a row's pair is made of."""
    if columns > DIGITS_PER_WORD:
        return 7
    return 5 if mixed else 3 if uniform_lengths else 2


def operand_digits(word_N: Tensor, addition: Addition) -> Tensor:
    """The uniform digits of a and b (J, 2, ...), uint8, from the words of a row (N, ...)."""
    word_o = word_N[:2]
    if addition.columns > DIGITS_PER_WORD:
        word_o = torch.stack([word_N[:2], word_N[5:7]])
    return digits(word_o, addition.base, addition.columns)


def sample_pairs(
    data: DataConfig, seeds_S: Tensor, step: int, batch_size: int, addition: Addition = PUBLISHED
) -> tuple[Tensor, Tensor]:
    """The training pairs of one step: a_SBJ, b_SBJ, uint8 digits on the seeds' device.

    Row r of seed s is the same whatever other seeds, rows or devices take part.
    """
    mix = data.carry_mix
    share = mix.share_at(step) if mix else 0.0
    max_digits = data.curriculum.max_digits(step, addition.columns)
    uniform_lengths = data.curriculum.lengths == "uniform"
    key_S = keys(seeds_S, Stream.TRAIN, step)
    draws = num_draws(addition.columns, mixed=share > 0, uniform_lengths=uniform_lengths)
    word_NSB = row_words(data, seeds_S, key_S, batch_size, draws)

    digit_JoSB = operand_digits(word_NSB, addition)
    plain_JoSB = _shortened(data, digit_JoSB, word_NSB, max_digits)
    if mix is None or share == 0.0:
        return _pairs(plain_JoSB.transpose(0, 1))

    threshold = int(share * (1 << WORD_BITS))
    patterned_oJSB = carry_pairs(mix.patterns, digit_JoSB, word_NSB[4], max_digits, addition.base)
    mixed_SB = (word_NSB[3] < threshold).to(torch.uint8)
    return _pairs(pick(mixed_SB, patterned_oJSB, plain_JoSB.transpose(0, 1)))


def row_words(data: DataConfig, seeds_S: Tensor, key_S: Tensor, batch_size: int, draws: int) -> Tensor:
    """word_NSB of the rows of a step, whose key is given: its own words, or those of the pool's pairs
    that it trains on."""
    if data.pool is None:
        return words(key_S, batch_size, draws)
    row_SB = row_below(words(key_S, batch_size, 1)[0], data.pool)
    return words_of(pool_keys(seeds_S), row_SB, draws)


def pool_keys(seeds_S: Tensor) -> Tensor:
    """key_S of the pairs in each seed's pool."""
    return keys(seeds_S, Stream.POOL, 0)


def pool_pairs(
    data: DataConfig, seeds_S: Tensor, addition: Addition = PUBLISHED, most: int | None = None
) -> tuple[Tensor, Tensor]:
    """The pool of every seed, or its first ``most`` pairs: a_SNJ, b_SNJ, uint8 digits on the seeds'
    device."""
    assert data.pool is not None
    count = data.pool if most is None else min(most, data.pool)
    uniform_lengths = data.curriculum.lengths == "uniform"
    draws = num_draws(addition.columns, mixed=False, uniform_lengths=uniform_lengths)
    word_NSR = words(pool_keys(seeds_S), count, draws)
    digit_JoSR = operand_digits(word_NSR, addition)
    max_digits = data.curriculum.max_digits(0, addition.columns)
    return _pairs(_shortened(data, digit_JoSR, word_NSR, max_digits).transpose(0, 1))


def _shortened(data: DataConfig, digit_JoSB: Tensor, word_NSB: Tensor, max_digits: int) -> Tensor:
    """Operands of the curriculum's lengths: the columns above are zero."""
    J = len(digit_JoSB)
    if data.curriculum.lengths == "uniform":
        length_SB = take(word_NSB[2], max_digits, J)[0] + 1
        return digit_JoSB * (columns(length_SB, J) < length_SB)[:, None]
    plain_JoSB = digit_JoSB.clone()
    plain_JoSB[max_digits:] = 0
    return plain_JoSB


def uniform_pairs(seed: int, count: int, addition: Addition = PUBLISHED) -> tuple[Tensor, Tensor]:
    """``count`` uniform pairs a_BJ, b_BJ on the CPU, a stream of their own.

    The first pairs do not depend on ``count``.
    """
    digit_oBJ = torch.empty((2, count, addition.columns), dtype=torch.uint8)
    key_S = keys(torch.tensor([seed]), Stream.FRESH, 0)
    draws = num_draws(addition.columns, mixed=False, uniform_lengths=False)
    for start in range(0, count, _CHUNK):
        rows = min(_CHUNK, count - start)
        word_NB = words(key_S, rows, draws, first_row=start)[:, 0]
        digit_oBJ[:, start : start + rows] = operand_digits(word_NB, addition).movedim(0, -1)
    return digit_oBJ[0], digit_oBJ[1]


def _pairs(digit_oJSB: Tensor) -> tuple[Tensor, Tensor]:
    digit_oSBJ = digit_oJSB.movedim(1, -1).contiguous()
    return digit_oSBJ[0], digit_oSBJ[1]


# The generator.


GOLDEN = 0x9E3779B97F4A7C15
FACTOR_1 = 0xBF58476D1CE4E5B9
FACTOR_2 = 0x94D049BB133111EB
WORD_BITS = 59
WORD_MASK = (1 << WORD_BITS) - 1
DRAWS_PER_ROW = 16
MAX_BELOW = 15
"""Largest m that a whole word serves for: m * 2^59 must stay below 2^63."""
CUT = 2
"""Bits cut off where m may be larger: up to 63."""
DIGITS_PER_WORD = 10
ROW_BITS = 32
MOST_ROWS = 1 << 30
"""Rows of which one can be chosen by a word."""

_UINT64 = (1 << 64) - 1


class Stream(IntEnum):
    """What the numbers are for. Streams of one seed share no numbers (but for chance)."""

    TRAIN = 0
    FRESH = 1
    STRATA = 2
    POOL = 3


def _signed(value: int) -> int:
    """The int64 with the same 64 bits as ``value``."""
    value &= _UINT64
    return value - (1 << 64) if value >> 63 else value


def _mix_int(x: int) -> int:
    x = ((x ^ (x >> 30)) * FACTOR_1) & _UINT64
    x = ((x ^ (x >> 27)) * FACTOR_2) & _UINT64
    return x ^ (x >> 31)


def _mix_(x: Tensor) -> Tensor:
    """``mix`` in place on int64; PyTorch shifts copy the sign, so the upper bits are masked off."""
    for shift, factor in ((30, FACTOR_1), (27, FACTOR_2)):
        x ^= (x >> shift) & ((1 << (64 - shift)) - 1)
        x *= _signed(factor)
    x ^= (x >> 31) & ((1 << 33) - 1)
    return x


def site(stream: Stream, step: int) -> int:
    """``site`` as an int64. ``step`` may be any non-negative integer."""
    assert step >= 0
    return _signed(_mix_int((_mix_int(((stream + 1) * GOLDEN) & _UINT64) + step) & _UINT64))


def keys_at(seeds_S: Tensor, site: int | Tensor) -> Tensor:
    """int64 seeds -> key_S, on the same device; ``site`` may be a number in its memory."""
    assert seeds_S.dtype == torch.int64
    return _mix_(seeds_S * _signed(GOLDEN) + site)


def keys(seeds_S: Tensor, stream: Stream, step: int) -> Tensor:
    """int64 seeds -> key_S, on the same device."""
    return keys_at(seeds_S, site(stream, step))


def words(key_S: Tensor, num_rows: int, num_draws: int, first_row: int = 0) -> Tensor:
    """59-bit words word_NSR of rows first_row .. first_row + num_rows - 1, int64."""
    row_1R = torch.arange(first_row, first_row + num_rows, device=key_S.device)[None]
    return words_of(key_S, row_1R, num_draws)


def words_of(key_S: Tensor, row_SR: Tensor, num_draws: int) -> Tensor:
    """59-bit words word_NSR of the given rows of every seed (or, (1, R), of all seeds), int64."""
    assert 1 <= num_draws <= DRAWS_PER_ROW
    draw_N = torch.arange(1, num_draws + 1, device=key_S.device)
    offset_NSR = (row_SR * DRAWS_PER_ROW + draw_N[:, None, None]) * _signed(GOLDEN)
    word_NSR = _mix_(key_S[:, None] + offset_NSR)
    return word_NSR.__irshift__(5).__iand__(WORD_MASK)


def row_below(word: Tensor, rows: int) -> Tensor:
    """A row number in 0 .. rows - 1 from every word; one in 2^32 / rows is a little likelier."""
    assert 1 <= rows <= MOST_ROWS
    return ((word >> (WORD_BITS - ROW_BITS)) * rows) >> ROW_BITS


def take(word: Tensor, below: int | Tensor, most: int | None = None) -> tuple[Tensor, Tensor]:
    """A uniform integer in 0 .. below - 1, and the word that is left. ``most``: the largest that
    ``below`` may be, itself unless given; it may not be given as a tensor alone beyond 15."""
    if most is None:
        most = below if isinstance(below, int) else MAX_BELOW
    if most <= MAX_BELOW:
        product = word * below
        return product >> WORD_BITS, product & WORD_MASK
    bits = WORD_BITS - CUT
    product = (word >> CUT) * below
    return product >> bits, (product & ((1 << bits) - 1)) << CUT


def digits(word: Tensor, base: int = 10, count: int = DIGITS_PER_WORD) -> Tensor:
    """Words (...) -> ``count`` uniform digits below ``base`` (count, ...), uint8; the first taken is
    column 0. One word has up to ten; for more there are two, in front: (2, ...).

    Columns come first so that every operation runs over long rows.
    """
    if count > DIGITS_PER_WORD:
        lower, upper = word
        return torch.cat([digits(lower, base), digits(upper, base, count - DIGITS_PER_WORD)])
    digit_J = torch.empty((count, *word.shape), dtype=torch.uint8, device=word.device)
    if base > MAX_BELOW:
        for j in range(count):
            digit_J[j], word = take(word, base)
        return digit_J
    word = word.clone()
    for j in range(count):
        word *= base
        digit_J[j] = word >> WORD_BITS
        word &= WORD_MASK
    return digit_J
