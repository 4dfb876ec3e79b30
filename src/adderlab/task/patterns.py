"""Carry patterns: pairs whose sums carry often or far, built from uniform digits and one word.

``curriculum.CarryMix`` says what each pattern is. The word serves, in this order: n - 1 below
max_digits, the pattern below the number of patterns, ``column`` below n, ``first`` below 9,
``second`` below first + 1, ``run`` below n - column, ``third`` below 9.

Shapes: J = 10 columns, units first; o = 2 operands; columns in front, then any further dimensions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from adderlab.task import counter
from adderlab.task.curriculum import Pattern
from adderlab.task.digits import OPERAND_DIGITS

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """What a pattern is built from; numbers are uint8, one per row. Masks are 0 or 1, uint8."""

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
    patterns: tuple[Pattern, ...], digit_Jo: Tensor, word: Tensor, max_digits: int | Tensor
) -> Tensor:
    """A pattern for every row: digits digit_oJ (2, J, ...), uint8.

    ``digit_Jo`` (J, 2, ...): twenty uniform digits a row; ``word`` (...): one 59-bit word a row.
    """
    length, word = counter.take(word, max_digits)
    length = length + 1
    which, word = counter.take(word, len(patterns))
    column, word = counter.take(word, length)
    first, word = counter.take(word, 9)
    second, word = counter.take(word, first + 1)
    run, word = counter.take(word, length - column)
    third, word = counter.take(word, 9)
    column_J, length, column = columns(word), _digit(length), _digit(column)
    parts = _Parts(
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


def columns(like: Tensor) -> Tensor:
    """0 .. 9 as uint8 (J, 1, ...), to stand against a tensor (...) of rows."""
    column_J = torch.arange(OPERAND_DIGITS, dtype=torch.uint8, device=like.device)
    return column_J.reshape(OPERAND_DIGITS, *[1] * like.ndim)


def _digit(number: Tensor) -> Tensor:
    return number.to(torch.uint8)


def _mask(condition: Tensor) -> Tensor:
    return condition.to(torch.uint8)


def _single(p: _Parts) -> Pair:
    lift_J = p.here_J * 5
    return (p.a_J % 5 + lift_J) * p.inside_J, (p.b_J % 5 + lift_J) * p.inside_J


def _chain(p: _Parts) -> Pair:
    k = p.length.clamp(max=3)
    small_J = p.b_J * _mask(p.column_J < k)
    # No digit at all stands for 10^k, so that b is uniform from 1 to 10^k.
    none = _mask((small_J[0] + small_J[1] + small_J[2]) == 0)
    return p.inside_J * 9, small_J + none * _mask(p.column_J == k)


def _place(p: _Parts) -> Pair:
    leading_J = _mask(p.column_J + 1 == p.length)
    return pick(leading_J, p.first + 1, p.a_J * p.inside_J), (p.third + 1) * p.here_J


def _boundary(p: _Parts) -> Pair:
    # 10^n - r: the units digit is 10 - r, any digit; r = 10 leaves the nines above as they are.
    a_J = p.inside_J * 9
    a_J[0] = p.a_J[0]
    small = 1 + p.b_J[0] + 10 * (p.b_J[1] % 2)
    b_J = torch.zeros_like(a_J)
    b_J[0], b_J[1] = small % 10, small // 10
    return a_J, b_J


def _propagate(p: _Parts) -> Pair:
    passing_J = _mask(p.column_J > p.column) * _mask(p.column_J <= p.column + p.run)
    a_J = pick(p.here_J, p.first + 1, p.a_J)
    # 9 - second is at least 10 - (first + 1): the column's digits sum to 10 or more.
    b_J = pick(p.here_J, 9 - p.second, pick(passing_J, 9 - p.a_J, p.b_J))
    return a_J * p.inside_J, b_J * p.inside_J


_BUILDERS: dict[Pattern, Callable[[_Parts], Pair]] = {
    "single": _single,
    "chain": _chain,
    "place": _place,
    "boundary": _boundary,
    "propagate": _propagate,
}
