"""Random numbers without state: each is a pure function of (seed, stream, step, row, draw).

The same numbers come out on every device, for a seed alone or in a population, for any batch size
and after a resume, because nothing is carried from one call to the next.

The function, in unsigned 64-bit arithmetic that wraps around (so it is a few lines in any language):

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

and the rest of the word serves for the next one. Ten decimal digits taken this way are uniform but
for a relative bias below 2e-8 (2^59 / 10^10 = 5.8e7 words a ten-digit number, give or take one). Where m
may be above 15 (a digit in base 16, one of 18 columns), the word is first cut to 57 bits, w = word >> 2:

    k = (m * w) >> 57;   word = ((m * w) & (2^57 - 1)) << 2

Numbers of more than ten digits take the columns from the eleventh on from a second word.

A row number below 2^30 is the first 32 bits of a word, times the number of rows, divided by 2^32.

Shapes: S seeds, R rows, N draws; J digits, units first.
"""

from enum import IntEnum

import torch
from torch import Tensor

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
