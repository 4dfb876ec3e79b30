"""Which addition is asked: how many columns, in which base; and numbers as digits, units first.

Everything that depends on the size of the task (layouts, sampling, hold-outs, suites, leaves, counts)
takes it from an ``Addition``. Ten columns in base 10, the published task, is what is meant where none is
given.

Digits are ``uint8``: operands of ten digits fit no 32-bit integer, and digits need no wide arithmetic
on any device.

Shapes: B pairs, J operand columns (10), I = J + 1 sum columns; leading dimensions of digits are free.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from adderlab.errors import UsageError

OPERAND_DIGITS = 10
SUM_DIGITS = 11
OPERAND_LIMIT = 10**OPERAND_DIGITS
"""Of the published task."""
MAX_COLUMNS, MAX_BASE = 18, 16
MAX_LIMIT = 1 << 62
"""Sums of two operands below it fit 64-bit integers."""
NUMERALS = "0123456789ABCDEF"
EXACT_IN_FLOAT64 = 1 << 53
_NUMBER_WORDS = (
    *("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve"),
)


def number_word(number: int) -> str:
    """``eleven``; digits from thirteen on."""
    return _NUMBER_WORDS[number] if number < len(_NUMBER_WORDS) else str(number)


@dataclass(frozen=True, kw_only=True)
class Addition:
    """Adding two numbers of ``columns`` digits in base ``base``.

    Raises ``UsageError`` for more than 18 columns, a base above 16, or operands beyond 2^62.
    """

    columns: int = OPERAND_DIGITS
    """Digits of an operand; the sum has one more."""
    base: int = 10

    def __post_init__(self) -> None:
        if not 1 <= self.columns <= MAX_COLUMNS:
            raise UsageError(f"columns must be 1 to {MAX_COLUMNS}, not {self.columns}")
        if not 2 <= self.base <= MAX_BASE:
            raise UsageError(f"base must be 2 to {MAX_BASE}, not {self.base}")
        if self.limit > MAX_LIMIT:
            most = next(n for n in range(MAX_COLUMNS, 0, -1) if self.base**n <= MAX_LIMIT)
            raise UsageError(
                f"operands of {self.columns} digits in base {self.base} are wider than 64-bit integers: "
                f"set columns to {most} or fewer"
            )

    @property
    def sum_digits(self) -> int:
        """Digits of a sum."""
        return self.columns + 1

    @property
    def limit(self) -> int:
        """Operands are below it."""
        return self.base**self.columns

    @property
    def num_pairs(self) -> int:
        """Pairs of operands."""
        return self.limit**2

    @property
    def pairs_text(self) -> str:
        """The number of pairs as a power: 10^20."""
        return f"{self.base}^{2 * self.columns}"

    @property
    def operands_text(self) -> str:
        """What is added: "ten-digit numbers", "three-digit numbers in base 2"."""
        where = "" if self.base == 10 else f" in base {self.base}"
        return f"{number_word(self.columns)}-digit numbers{where}"

    def numeral(self, number: int, digits: int = 1) -> str:
        """A number in this base, with leading zeros up to ``digits`` places."""
        if self.base == 10:
            return f"{number:0{digits}d}"
        text = ""
        while number or len(text) < digits:
            number, digit = divmod(number, self.base)
            text = NUMERALS[digit] + text
        return text


PUBLISHED = Addition()
"""The published task: ten columns in base 10."""


def to_digits(values: Tensor, num_digits: int = OPERAND_DIGITS, base: int = 10) -> Tensor:
    """int64 values (...), 0 to 2^62, -> uint8 digits (..., num_digits), units first.

    In float64 where the quotients are exact after rounding down, and several times faster than in
    integers: processors divide no vectors of those.
    """
    digits = []
    if base**num_digits > EXACT_IN_FLOAT64:
        for _ in range(num_digits):
            digits.append((values % base).to(torch.uint8))
            values = values.div(base, rounding_mode="floor")
        return torch.stack(digits, -1)
    rest = values.double()
    for _ in range(num_digits):
        higher = (rest / base).floor_()
        digits.append((rest - higher * base).to(torch.uint8))
        rest = higher
    return torch.stack(digits, -1)


def from_digits(digits: Tensor, base: int = 10) -> Tensor:
    """Digits (..., n), units first -> int64 values (...)."""
    powers = base ** torch.arange(digits.shape[-1], dtype=torch.int64, device=digits.device)
    return (digits.to(torch.int64) * powers).sum(-1)


def carries(a_J: Tensor, b_J: Tensor, base: int = 10) -> Tensor:
    """Carry into each of the J + 1 columns of the sum (..., I), uint8; column 0 receives none."""
    carry = torch.zeros_like(a_J[..., 0])
    into = [carry]
    for j in range(a_J.shape[-1]):
        carry = (a_J[..., j] + b_J[..., j] + carry >= base).to(torch.uint8)
        into.append(carry)
    return torch.stack(into, -1)


def add(a_J: Tensor, b_J: Tensor, base: int = 10) -> Tensor:
    """Digits of a and b (..., J) -> digits of a + b (..., J + 1), uint8."""
    carry_I = carries(a_J, b_J, base)
    column_J = (a_J + b_J + carry_I[..., :-1]) % base
    return torch.cat([column_J, carry_I[..., -1:]], -1).to(torch.uint8)


def pairs_from_ints(
    pairs: list[tuple[int, int]], addition: Addition = PUBLISHED
) -> tuple[Tensor, Tensor]:
    """Python integer pairs -> digit tensors a_BJ, b_BJ."""
    values = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    a_BJ, b_BJ = (to_digits(values[:, i], addition.columns, addition.base) for i in (0, 1))
    return a_BJ, b_BJ
