"""Which addition is asked, how many columns, in which base; numbers as digits, units first; and digits
as tokens: where each of a, b and s = a + b stands in the sequence.

Everything that depends on the size of the task (layouts, sampling, hold-outs, suites, leaves, counts)
takes it from an ``Addition``. Ten columns in base 10, the published task, is what is meant where none
is given. Digits are ``uint8``: operands of ten digits fit no 32-bit integer, and digits need no wide
arithmetic on any device.

A layout is data, made for one ``Addition``. The sequence is a prompt that holds a and b, followed by
the answer; answer step i reads the sequence up to position ``query_positions[i]`` and predicts the next
token. The model never reads the last target, so it has ``num_positions`` input positions.

Shapes: B pairs, J operand columns (10), I = J + 1 sum columns, P input positions, A answer steps;
leading dimensions of digits are free.
Sources of layouts: facts of the repositories named in ``source``; see docs/reproducing.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from adderlab.errors import UsageError
from adderlab.files.schema import IMPLIED

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


# Digits as tokens.


DIGIT_TOKENS = tuple(NUMERALS[:10])
PAIR_TOKEN = 10
"""The token of the digit pair (0, 0) in base 10, where one token is both digits of a column."""
MAX_VOCABULARY = 256
"""Tokens are bytes."""


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
    """Token predicted after the sum's last digit, or None if the sequence ends there."""
    end_decided: bool = False
    """Whether an answer is wrong without the end token. (Published programs do not look at it.)"""
    top_zeros: tuple[int, ...] = ()
    """Separators that stand above the operands' top columns: operands written with a leading zero."""
    pairs: bool = False
    """One token for both digits of a column, base + base a_j + b_j; a and b share their positions."""
    base: int = field(default=10, metadata=IMPLIED)
    """The first so many tokens are the digits."""

    @property
    def columns(self) -> int:
        """J: digits of an operand."""
        return len(self.a_positions)

    @property
    def addition(self) -> Addition:
        """The task that the layout writes down."""
        return Addition(columns=self.columns, base=self.base)

    @property
    def sum_digits(self) -> int:
        """I: digits of a sum."""
        return self.columns + 1

    @property
    def pair_token(self) -> int:
        """The token of the digit pair (0, 0), where one token is both digits of a column."""
        return self.base

    @property
    def vocab_size(self) -> int:
        return len(self.vocabulary)

    @property
    def num_answers(self) -> int:
        """A: answer steps, the sum's digits and the end token where there is one."""
        return self.sum_digits + (self.end_token is not None)

    @property
    def num_decided(self) -> int:
        """Answer steps that make an answer right or wrong: the digits, perhaps the end token."""
        return self.sum_digits + (self.end_token is not None and self.end_decided)

    @property
    def num_positions(self) -> int:
        """P: positions the model reads (the last target is never an input)."""
        return self.num_prompt + self.num_answers - 1

    @property
    def sum_positions(self) -> tuple[int, ...]:
        """Positions of s_0 .. s_J. The last may equal P: then s_J is never read."""
        return tuple(range(self.num_prompt, self.num_prompt + self.sum_digits))

    @property
    def query_positions(self) -> tuple[int, ...]:
        """Position whose output predicts answer step i, and the last one that step i reads."""
        return tuple(range(self.num_prompt - 1, self.num_prompt - 1 + self.num_answers))

    def encode(self, a_BJ: Tensor, b_BJ: Tensor) -> tuple[Tensor, Tensor]:
        """Digits -> (tokens_BP, targets_BA), both uint8; leading dimensions are kept."""
        full = a_BJ.new_empty((*a_BJ.shape[:-1], self.num_positions + 1))
        self._write_prompt(full, a_BJ, b_BJ)
        full[..., self.num_prompt : self.num_prompt + self.sum_digits] = add(a_BJ, b_BJ, self.base)
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
            tokens[..., list(self.a_positions)] = self.pair_token + self.base * a_BJ + b_BJ
            return
        # Column by column: a copy through a list of positions takes six times as long.
        for positions, digit_BJ in ((self.a_positions, a_BJ), (self.b_positions, b_BJ)):
            for j, position in enumerate(positions):
                tokens[..., position] = digit_BJ[..., j]

    def decode(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Full or input tokens (..., >= num_prompt) -> digits of a and b (..., J)."""
        if self.pairs:
            pair_BJ = tokens[..., list(self.a_positions)] - self.pair_token
            return pair_BJ // self.base, pair_BJ % self.base
        return tokens[..., list(self.a_positions)], tokens[..., list(self.b_positions)]

    def answer_text(self, answer: Tensor) -> str:
        """One answer (A,) as text, most significant digit first; non-digits show as names."""
        return "".join(self.vocabulary[int(t)] for t in reversed(answer[: self.sum_digits].tolist()))


def _digit_tokens(addition: Addition) -> tuple[str, ...]:
    return tuple(NUMERALS[: addition.base])


def _operands_msd(
    name: str, source: str, specials: tuple[str, ...], addition: Addition, *, begin: bool = False
) -> Layout:
    """``aaaaaaaaaa+bbbbbbbbbb=``, most significant digit first, perhaps after a begin token; then the
    sum units first."""
    vocabulary, n = (*_digit_tokens(addition), *specials), addition.columns
    first = int(begin)
    fixed = {first + n: "+", first + 2 * n + 1: "="} | ({0: "<BOS>"} if begin else {})
    return Layout(
        name=name,
        source=source,
        vocabulary=vocabulary,
        a_positions=tuple(first + n - 1 - j for j in range(n)),
        b_positions=tuple(first + 2 * n - j for j in range(n)),
        num_prompt=first + 2 * n + 2,
        separators=tuple((p, vocabulary.index(token)) for p, token in sorted(fixed.items())),
        end_token=vocabulary.index("<EOS>"),
        base=addition.base,
    )


def _operands_lsd(name: str, source: str, specials: tuple[str, ...], addition: Addition) -> Layout:
    """X0..X9 PLUS Y0..Y9 EQ Z0..Z10 EOS, everything units first; without specials these are token 0."""
    vocabulary, n = (*_digit_tokens(addition), *specials), addition.columns
    plus, equals, end = (vocabulary.index(x) if specials else 0 for x in ("+", "=", "<EOS>"))
    return Layout(
        name=name,
        source=source,
        vocabulary=vocabulary,
        a_positions=tuple(range(n)),
        b_positions=tuple(n + 1 + j for j in range(n)),
        num_prompt=2 * n + 2,
        separators=((n, plus), (2 * n + 1, equals)),
        end_token=end,
        base=addition.base,
    )


def _digits_only(name: str, source: str, addition: Addition, *, wide: bool) -> Layout:
    """0 X0..X9 0 0 Y0..Y9 0, units first, with zeros to separate; ``wide``: operands have a leading
    zero, as if they were as long as their sum, and one zero more comes before the sum."""
    n = addition.columns
    zeros = (0, n + 1, n + 2, 2 * n + 3, *((2 * n + 4,) if wide else ()))
    return Layout(
        name=name,
        source=source,
        vocabulary=_digit_tokens(addition),
        a_positions=tuple(1 + j for j in range(n)),
        b_positions=tuple(n + 3 + j for j in range(n)),
        num_prompt=2 * n + 4 + wide,
        separators=tuple((p, 0) for p in zeros),
        end_token=None,
        top_zeros=(n + 1, 2 * n + 3) if wide else (),
        base=addition.base,
    )


def _pair_tokens(name: str, source: str, addition: Addition) -> Layout:
    """<BOS> P0..P9 = and the sum, units first: a token for each column of a and b."""
    digits, n = _digit_tokens(addition), addition.columns
    pairs = tuple(f"P{a}{b}" for a in digits for b in digits)
    vocabulary = (*digits, *pairs, "=", "<BOS>", "<EOS>", "<PAD>")
    if len(vocabulary) > MAX_VOCABULARY:
        raise UsageError(
            f"layout {name} has {len(vocabulary)} tokens in base {addition.base}, more than "
            f"{MAX_VOCABULARY}: set base to 15 or less"
        )
    return Layout(
        name=name,
        source=source,
        vocabulary=vocabulary,
        a_positions=tuple(1 + j for j in range(n)),
        b_positions=tuple(1 + j for j in range(n)),
        num_prompt=n + 2,
        separators=((0, vocabulary.index("<BOS>")), (n + 1, vocabulary.index("="))),
        end_token=vocabulary.index("<EOS>"),
        pairs=True,
        base=addition.base,
    )


_SPECIALS = ("+", "=", "<PAD>", "<EOS>")
_WITHOUT_PAD = ("+", "=", "<EOS>")

_BUILDERS: dict[str, Callable[[str, Addition], Layout]] = {
    "P": lambda name, task: _operands_msd(
        name, "yinglunz/A-456-Parameter-Transformer-Solves-10-Digit-Addition", _SPECIALS, task
    ),
    "P13": lambda name, task: _operands_msd(
        name, "h3nock (305p): layout P without PAD", _WITHOUT_PAD, task
    ),
    "S": lambda name, task: _digits_only(
        name,
        "staghado/minimal-ten-digit-addition, tbukic: digits only, 0 separates",
        task,
        wide=False,
    ),
    "M": lambda name, task: _operands_lsd(
        name, "evindor/MicroAdder: every special is token 0", (), task
    ),
    "C": lambda name, task: _digits_only(
        name,
        "adderlab: digits only, units first, operands of eleven digits as their sum is, "
        "each between zeros",
        task,
        wide=True,
    ),
    "M14": lambda name, task: _operands_lsd(name, "JackCai (234p, 242p, 260p)", _SPECIALS, task),
    "M13": lambda name, task: _operands_lsd(
        name, "h3nock (239p): layout M without PAD", _WITHOUT_PAD, task
    ),
    "B": lambda name, task: _operands_msd(
        name,
        "Claude Code (6080p): layout P after a begin token",
        ("+", "=", "<PAD>", "<BOS>", "<EOS>"),
        task,
        begin=True,
    ),
    "pairs": lambda name, task: _pair_tokens(
        name, "Codex (1644p): a token for each column of a and b, units first", task
    ),
}


@cache
def get_layout(name: str, addition: Addition = PUBLISHED) -> Layout:
    """The layout of that name, for operands of any width and base; ``UsageError`` names the ones there
    are."""
    if name not in _BUILDERS:
        raise UsageError(f"no layout {name!r}; there are {', '.join(_BUILDERS)}")
    return _BUILDERS[name](name, addition)


def named_layout(text: str, addition: Addition = PUBLISHED) -> Layout:
    """A layout as people name it: ``P``, or with a size ``P@3``, ``P@7b2`` (seven columns of base 2);
    without one, of ``addition``. Raises ``UsageError``."""
    name, at, size = text.partition("@")
    if not at:
        return get_layout(name, addition)
    columns, b, base = size.partition("b")
    if not (columns.isdecimal() and (base.isdecimal() or not b)):
        raise UsageError(f"layout {text!r}: write a size as P@3, or P@7b2 for seven columns of base 2")
    return get_layout(name, Addition(columns=int(columns), base=int(base or 10)))


LAYOUTS: dict[str, Layout] = {name: get_layout(name) for name in _BUILDERS}
"""Those of the published task, by name."""


def answers_correct(answers_BA: Tensor, targets_BA: Tensor, layout: Layout) -> Tensor:
    """Which of the sum's digits are right: bool (B, I). The end token does not count."""
    digits = layout.sum_digits
    return torch.eq(answers_BA[..., :digits], targets_BA[..., :digits])
