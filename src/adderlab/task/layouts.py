"""Numbers as digits, units first, and digits as tokens: where each of a, b and s = a + b stands in the
sequence.

Digits are ``uint8``: operands of ten digits fit no 32-bit integer, and digits need no wide arithmetic
on any device.

A layout is data. The sequence is a prompt that holds a and b, followed by the answer; answer step
i reads the sequence up to position ``query_positions[i]`` and predicts the next token. The model
never reads the last target, so it has ``num_positions`` input positions.

Shapes: B pairs, J = 10 operand columns, I = 11 sum columns, P input positions, A answer steps; leading
dimensions of digits are free.
Sources: facts of the repositories named in ``source``; see docs/reproducing.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from adderlab.errors import UsageError

OPERAND_DIGITS = 10
SUM_DIGITS = 11
OPERAND_LIMIT = 10**OPERAND_DIGITS


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


# Layouts.


DIGIT_TOKENS = tuple("0123456789")
PAIR_TOKEN = 10
"""The token of the digit pair (0, 0)."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way to write an addition as tokens. Column j = 0 is the units column everywhere."""

    name: str
    source: str
    vocabulary: tuple[str, ...]
    a_positions: tuple[int, ...]
    b_positions: tuple[int, ...]
    num_prompt: int
    separators: tuple[tuple[int, int], ...]
    """(position, token) of every prompt position that holds no digit of a or b."""
    end_token: int | None
    """Token predicted after the eleventh answer digit, or None if the sequence ends there."""
    end_decided: bool = False
    """Whether an answer is wrong without the end token. (Published programs do not look at it.)"""
    top_zeros: tuple[int, ...] = ()
    """Separators that are column 10 of a and b: operands written with a leading zero."""
    pairs: bool = False
    """One token for both digits of a column, 10 + 10 a_j + b_j; a and b share their positions."""

    @property
    def vocab_size(self) -> int:
        return len(self.vocabulary)

    @property
    def num_answers(self) -> int:
        """A: answer steps, eleven digits and the end token where there is one."""
        return SUM_DIGITS + (self.end_token is not None)

    @property
    def num_decided(self) -> int:
        """Answer steps that make an answer right or wrong: the digits, perhaps the end token."""
        return SUM_DIGITS + (self.end_token is not None and self.end_decided)

    @property
    def num_positions(self) -> int:
        """P: positions the model reads (the last target is never an input)."""
        return self.num_prompt + self.num_answers - 1

    @property
    def sum_positions(self) -> tuple[int, ...]:
        """Positions of s_0 .. s_10. The last may equal P: then s_10 is never read."""
        return tuple(range(self.num_prompt, self.num_prompt + SUM_DIGITS))

    @property
    def query_positions(self) -> tuple[int, ...]:
        """Position whose output predicts answer step i, and the last one that step i reads."""
        return tuple(range(self.num_prompt - 1, self.num_prompt - 1 + self.num_answers))

    def encode(self, a_BJ: Tensor, b_BJ: Tensor) -> tuple[Tensor, Tensor]:
        """Digits -> (tokens_BP, targets_BA), both uint8; leading dimensions are kept."""
        full = a_BJ.new_empty((*a_BJ.shape[:-1], self.num_positions + 1))
        self._write_prompt(full, a_BJ, b_BJ)
        full[..., self.num_prompt : self.num_prompt + SUM_DIGITS] = add(a_BJ, b_BJ)
        if self.end_token is not None:
            full[..., -1] = self.end_token
        return full[..., :-1], full[..., self.num_prompt :]

    def encode_prompt(self, a_BJ: Tensor, b_BJ: Tensor) -> Tensor:
        """Digits -> prompt_BT, uint8, T = num_prompt."""
        prompt_BT = a_BJ.new_empty((*a_BJ.shape[:-1], self.num_prompt))
        self._write_prompt(prompt_BT, a_BJ, b_BJ)
        return prompt_BT

    def _write_prompt(self, tokens: Tensor, a_BJ: Tensor, b_BJ: Tensor) -> None:
        for position, token in self.separators:
            tokens[..., position] = token
        if self.pairs:
            tokens[..., list(self.a_positions)] = PAIR_TOKEN + 10 * a_BJ + b_BJ
            return
        # Column by column: a copy through a list of positions takes six times as long.
        for positions, digit_BJ in ((self.a_positions, a_BJ), (self.b_positions, b_BJ)):
            for j, position in enumerate(positions):
                tokens[..., position] = digit_BJ[..., j]

    def decode(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Full or input tokens (..., >= num_prompt) -> digits of a and b (..., 10)."""
        if self.pairs:
            pair_BJ = tokens[..., list(self.a_positions)] - PAIR_TOKEN
            return pair_BJ // 10, pair_BJ % 10
        return tokens[..., list(self.a_positions)], tokens[..., list(self.b_positions)]

    def answer_text(self, answer: Tensor) -> str:
        """One answer (A,) as text, most significant digit first; non-digits show as names."""
        return "".join(self.vocabulary[int(t)] for t in reversed(answer[:SUM_DIGITS].tolist()))


_UP = tuple(range(OPERAND_DIGITS))


def _operands_msd(name: str, source: str, vocabulary: tuple[str, ...]) -> Layout:
    """``aaaaaaaaaa+bbbbbbbbbb=``, most significant digit first, then the sum units first."""
    end = vocabulary.index("<EOS>")
    return Layout(
        name=name,
        source=source,
        vocabulary=vocabulary,
        a_positions=tuple(9 - j for j in _UP),
        b_positions=tuple(20 - j for j in _UP),
        num_prompt=22,
        separators=((10, vocabulary.index("+")), (21, vocabulary.index("="))),
        end_token=end,
    )


def _operands_lsd(
    name: str, source: str, vocabulary: tuple[str, ...], plus: int, equals: int, end: int
) -> Layout:
    """X0..X9 PLUS Y0..Y9 EQ Z0..Z10 EOS, everything units first."""
    return Layout(
        name=name,
        source=source,
        vocabulary=vocabulary,
        a_positions=_UP,
        b_positions=tuple(11 + j for j in _UP),
        num_prompt=22,
        separators=((10, plus), (21, equals)),
        end_token=end,
    )


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        _operands_msd(
            "P",
            "yinglunz/A-456-Parameter-Transformer-Solves-10-Digit-Addition",
            (*DIGIT_TOKENS, "+", "=", "<PAD>", "<EOS>"),
        ),
        _operands_msd("P13", "h3nock (305p): layout P without PAD", (*DIGIT_TOKENS, "+", "=", "<EOS>")),
        Layout(
            name="S",
            source="staghado/minimal-ten-digit-addition, tbukic: digits only, 0 separates",
            vocabulary=DIGIT_TOKENS,
            a_positions=tuple(1 + j for j in _UP),
            b_positions=tuple(13 + j for j in _UP),
            num_prompt=24,
            separators=((0, 0), (11, 0), (12, 0), (23, 0)),
            end_token=None,
        ),
        _operands_lsd("M", "evindor/MicroAdder: every special is token 0", DIGIT_TOKENS, 0, 0, 0),
        Layout(
            name="C",
            source="adderlab: digits only, units first, operands of eleven digits as their sum is, "
            "each between zeros",
            vocabulary=DIGIT_TOKENS,
            a_positions=tuple(1 + j for j in _UP),
            b_positions=tuple(13 + j for j in _UP),
            num_prompt=25,
            separators=((0, 0), (11, 0), (12, 0), (23, 0), (24, 0)),
            end_token=None,
            top_zeros=(11, 23),
        ),
        _operands_lsd(
            "M14",
            "JackCai (234p, 242p, 260p)",
            (*DIGIT_TOKENS, "+", "=", "<PAD>", "<EOS>"),
            10,
            11,
            13,
        ),
        _operands_lsd(
            "M13", "h3nock (239p): layout M without PAD", (*DIGIT_TOKENS, "+", "=", "<EOS>"), 10, 11, 12
        ),
        Layout(
            name="B",
            source="Claude Code (6080p): layout P after a begin token",
            vocabulary=(*DIGIT_TOKENS, "+", "=", "<PAD>", "<BOS>", "<EOS>"),
            a_positions=tuple(10 - j for j in _UP),
            b_positions=tuple(21 - j for j in _UP),
            num_prompt=23,
            separators=((0, 13), (11, 10), (22, 11)),
            end_token=14,
        ),
        Layout(
            name="pairs",
            source="Codex (1644p): a token for each column of a and b, units first",
            vocabulary=(
                *DIGIT_TOKENS,
                *(f"P{a}{b}" for a in DIGIT_TOKENS for b in DIGIT_TOKENS),
                *("=", "<BOS>", "<EOS>", "<PAD>"),
            ),
            a_positions=tuple(1 + j for j in _UP),
            b_positions=tuple(1 + j for j in _UP),
            num_prompt=12,
            separators=((0, 111), (11, 110)),
            end_token=112,
            pairs=True,
        ),
    )
}


def get_layout(name: str) -> Layout:
    """The layout of that name; ``UsageError`` names the ones there are."""
    if name not in LAYOUTS:
        raise UsageError(f"no layout {name!r}; there are {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def answers_correct(answers_BA: Tensor, targets_BA: Tensor) -> Tensor:
    """Which of the eleven digits are right: bool (B, 11). The end token does not count."""
    return torch.eq(answers_BA[..., :SUM_DIGITS], targets_BA[..., :SUM_DIGITS])
