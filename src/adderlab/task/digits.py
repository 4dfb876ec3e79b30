"""Numbers as digit tensors, units first.

Shapes: J = 10 operand columns, I = 11 sum columns; leading dimensions are free.
Digits are ``uint8``: operands of ten digits fit no 32-bit integer, and digits need no wide
arithmetic on any device.
"""

import torch
from torch import Tensor

OPERAND_DIGITS = 10
SUM_DIGITS = 11
OPERAND_LIMIT = 10**OPERAND_DIGITS
NUM_PAIRS = OPERAND_LIMIT**2


def to_digits(values: Tensor, num_digits: int = OPERAND_DIGITS) -> Tensor:
    """int64 values (...), 0 to 2^53, -> uint8 digits (..., num_digits), units first.

    In float64, where the quotients are exact after rounding down, and several times faster than in
    integers: processors divide no vectors of those.
    """
    rest, digits = values.double(), []
    for _ in range(num_digits):
        higher = (rest / 10).floor_()
        digits.append((rest - higher * 10).to(torch.uint8))
        rest = higher
    return torch.stack(digits, -1)


def from_digits(digits: Tensor) -> Tensor:
    """Digits (..., n), units first -> int64 values (...)."""
    powers = 10 ** torch.arange(digits.shape[-1], dtype=torch.int64, device=digits.device)
    return (digits.to(torch.int64) * powers).sum(-1)


def carries(a_J: Tensor, b_J: Tensor) -> Tensor:
    """Carry into each of the 11 columns (..., 11), uint8; column 0 receives none."""
    carry = torch.zeros_like(a_J[..., 0])
    into = [carry]
    for j in range(OPERAND_DIGITS):
        carry = (a_J[..., j] + b_J[..., j] + carry >= 10).to(torch.uint8)
        into.append(carry)
    return torch.stack(into, -1)


def add(a_J: Tensor, b_J: Tensor) -> Tensor:
    """Digits of a and b (..., 10) -> digits of a + b (..., 11), uint8."""
    carry_I = carries(a_J, b_J)
    column_J = (a_J + b_J + carry_I[..., :OPERAND_DIGITS]) % 10
    return torch.cat([column_J, carry_I[..., OPERAND_DIGITS:]], -1).to(torch.uint8)


def pairs_from_ints(pairs: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Python integer pairs -> digit tensors a_BJ, b_BJ."""
    values = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    return to_digits(values[:, 0]), to_digits(values[:, 1])
