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
for a relative bias below 2e-8 (2^59 / 10^10 = 5.8e7 words a ten-digit number, give or take one).

Shapes: S seeds, R rows, N draws; J = 10 digits, units first.
"""

from enum import IntEnum

import torch
from torch import Tensor

from adderlab.task.layouts import OPERAND_DIGITS

GOLDEN = 0x9E3779B97F4A7C15
FACTOR_1 = 0xBF58476D1CE4E5B9
FACTOR_2 = 0x94D049BB133111EB
WORD_BITS = 59
WORD_MASK = (1 << WORD_BITS) - 1
DRAWS_PER_ROW = 16
MAX_BELOW = 15
"""Largest m of ``take``: m * 2^59 must stay below 2^63."""

_UINT64 = (1 << 64) - 1


class Stream(IntEnum):
    """What the numbers are for. Streams of one seed share no numbers (but for chance)."""

    TRAIN = 0
    FRESH = 1
    STRATA = 2


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
    assert 1 <= num_draws <= DRAWS_PER_ROW
    device = key_S.device
    row_R = torch.arange(first_row, first_row + num_rows, device=device) * DRAWS_PER_ROW
    draw_N = torch.arange(1, num_draws + 1, device=device)
    offset_NR = (row_R + draw_N[:, None]) * _signed(GOLDEN)
    word_NSR = _mix_(key_S[:, None] + offset_NR[:, None, :])
    return word_NSR.__irshift__(5).__iand__(WORD_MASK)


def take(word: Tensor, below: int | Tensor) -> tuple[Tensor, Tensor]:
    """A uniform integer in 0 .. below - 1 (below <= 15), and the word that is left."""
    product = word * below
    return product >> WORD_BITS, product & WORD_MASK


def digits(word: Tensor, base: int = 10) -> Tensor:
    """Words (...) -> ten uniform digits below ``base`` (J, ...), uint8; the first taken is column 0.

    Columns come first so that every operation runs over long rows.
    """
    assert base <= MAX_BELOW
    word = word.clone()
    digit_J = torch.empty((OPERAND_DIGITS, *word.shape), dtype=torch.uint8, device=word.device)
    for j in range(OPERAND_DIGITS):
        word *= base
        digit_J[j] = word >> WORD_BITS
        word &= WORD_MASK
    return digit_J
