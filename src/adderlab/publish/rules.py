"""How a file asks its model and reads its answers, concluded from traces of ``add``.

From the tokens that each call of the model got, and the token it answered, follows which calls make the
answer's digits, in which order, what the calls around them answer, and, for models that decode greedily
from a fixed prompt, the prompt's rule. Then the model can be driven in batches, without ``add``.

Only what was seen is concluded. An answer of any other form (an end token that is missing or early, a
token that is no digit) has no value here: what it means is for ``add`` to say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adderlab.task.addition import PUBLISHED, SUM_DIGITS, Addition

Pair = tuple[int, int]
Tokens = list[int | None]
_MOST = 0.75


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Each digit of the answer is made by one call of the model; ``token_of`` says how it is written."""

    up: bool
    """Units first."""
    token_of: dict[int, int]
    lengths: tuple[int, ...] = (SUM_DIGITS,)
    """How many digits there were: always the same (eleven of ten columns), with zeros in front, or as
    many as the sum has."""
    before: tuple[int | None, ...] = ()
    """What the calls before the digits answer; None where that varies."""
    after: tuple[int | None, ...] = ()
    """And those after them, for example an end token."""
    addition: Addition = PUBLISHED

    @property
    def padded(self) -> bool:
        """Whether there are zeros in front."""
        return self.lengths == (self.addition.sum_digits,)

    @property
    def num_calls(self) -> int:
        """For one answer, at most."""
        return len(self.before) + max(self.lengths) + len(self.after)

    def tokens(self, answer: int) -> Tokens:
        """What the calls must answer for ``add`` to return ``answer``."""
        task = self.addition
        digits = _digits(answer, task.sum_digits if self.padded else _length(answer, task), task.base)
        order = digits if self.up else digits[::-1]
        return [*self.before, *(self.token_of[digit] for digit in order), *self.after]

    def value(self, tokens: Sequence[int | None]) -> int | None:
        """The number that the answered tokens stand for; None if they have not the form that was seen.

        A token of None is one that was not asked for.
        """
        start, length = len(self.before), self.addition.sum_digits
        if not self.padded:
            stop = self.after[0]
            if stop not in tokens[start:]:
                return None
            length = tokens.index(stop, start) - start
        end = start + length
        digit_of = {token: digit for digit, token in self.token_of.items()}
        digits = [-1 if token is None else digit_of.get(token, -1) for token in tokens[start:end]]
        if length not in self.lengths or len(digits) != length or -1 in digits:
            return None
        if not _same(self.before, tokens[:start]) or not _same(self.after, tokens[end:]):
            return None
        order = digits if self.up else digits[::-1]
        if not self.padded and length > 1 and order[-1] == 0:
            return None
        return sum(digit * self.addition.base**i for i, digit in enumerate(order))


def _same(wanted: tuple[int | None, ...], tokens: Sequence[int | None]) -> bool:
    """Whether the tokens begin with the wanted ones; None is anything."""
    if len(tokens) < len(wanted):
        return False
    return all(a is None or b is None or a == b for a, b in zip(wanted, tokens, strict=False))


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The token at each position: a constant, or a column's digits, ``constant + wa a_j + wb b_j``."""

    module: str
    """The watched function that is called with the tokens alone."""
    library: str
    dtype: str
    rules: tuple[tuple[int, int, int, int], ...]
    """(constant, wa, wb, j) for each position."""
    at_once: bool = False
    """Whether all its answers can be had from one call, as those of a causal model can."""
    skipped: int = 0
    """Calls before the first whose tokens the others go on from."""
    addition: Addition = PUBLISHED

    def tokens(self, a: int, b: int) -> list[int]:
        """The prompt of one pair."""
        x, y = (_digits(n, self.addition.columns, self.addition.base) for n in (a, b))
        return [constant + wa * x[j] + wb * y[j] for constant, wa, wb, j in self.rules]


def _digits(value: int, count: int, base: int) -> list[int]:
    return [value // base**j % base for j in range(count)]


def _length(value: int, addition: Addition) -> int:
    """Digits of a number without zeros in front."""
    return len(addition.numeral(value))


def usual(pairs: list[Pair], traces: list[dict[str, Any]]) -> tuple[list[Pair], list[dict[str, Any]]]:
    """Those traces that have as many calls as most; all where there are not most.

    A file that now and then forgets its end token goes on: what it answers then is of no usual form.
    """
    (number, times), *_ = Counter(len(trace["calls"]) for trace in traces).most_common(1) or [(0, 0)]
    if times < _MOST * len(traces):
        return pairs, traces
    kept = [i for i, trace in enumerate(traces) if len(trace["calls"]) == number]
    return [pairs[i] for i in kept], [traces[i] for i in kept]


def find_reading(traces: list[dict[str, Any]], addition: Addition = PUBLISHED) -> Reading | None:
    """The reading under which every trace's answer is what its calls answered; None without one."""
    answers = [trace["answer"] for trace in traces]
    beyond = addition.base**addition.sum_digits
    if not traces or not all(isinstance(a, int) and 0 <= a < beyond for a in answers):
        return None
    calls = [trace["calls"] for trace in traces]
    if any("next" not in call for each in calls for call in each):
        return None
    answered = [[call["next"] for call in each] for each in calls]
    lengths = [addition.sum_digits] * len(answers)
    if len(set(map(len, answered))) > 1:
        lengths = [_length(answer, addition) for answer in answers]
    around = {len(tokens) - length for tokens, length in zip(answered, lengths, strict=True)}
    if len(around) != 1 or min(around) < 0:
        return None
    (around,) = around
    for first in range(around + 1):
        for up in (True, False):
            token_of = _token_of(answers, answered, lengths, first, up, addition.base)
            if token_of is None:
                continue
            found = Reading(
                up=up,
                token_of=token_of,
                lengths=tuple(sorted(set(lengths))),
                before=_constant([tokens[:first] for tokens in answered]),
                after=_constant([t[first + n :] for t, n in zip(answered, lengths, strict=True)]),
                addition=addition,
            )
            # Without one and the same token at the end nothing says where the digits end.
            if found.padded or (found.after and found.after[0] not in (None, *token_of.values())):
                return found
    return None


def _token_of(
    answers: list[int], answered: list[list[int]], lengths: list[int], first: int, up: bool, base: int
) -> dict[int, int] | None:
    """Digit -> token, if that is one and the same for all traces and distinct for all digits."""
    found: dict[int, int] = {}
    for answer, tokens, length in zip(answers, answered, lengths, strict=True):
        digits = _digits(answer, length, base)
        for digit, token in zip(digits if up else digits[::-1], tokens[first:], strict=False):
            if found.setdefault(digit, token) != token:
                return None
    return found if len(set(found.values())) == len(found) == base else None


def _constant(rows: list[list[int]]) -> tuple[int | None, ...]:
    """For each column its token if that is the same in all rows, else None."""
    return tuple(column[0] if len(set(column)) == 1 else None for column in zip(*rows, strict=True))


def find_prompt(pairs: list[Pair], traces: list[dict[str, Any]], reading: Reading) -> Prompt | None:
    """The rule of the prompt, if each call reads the last one's tokens and its answer; else None."""
    for skipped in range(len(reading.before) + 1):
        chains = [_greedy_prompt(trace["calls"][skipped:]) for trace in traces]
        prompts = [prompt for prompt in chains if prompt is not None]
        if len(prompts) == len(traces) and len(set(map(len, prompts))) == 1:
            break
    else:
        return None
    first = traces[0]["calls"][skipped]
    rules = [
        _rule([prompt[position] for prompt in prompts], pairs, reading.addition)
        for position in range(len(prompts[0]))
    ]
    known = tuple(rule for rule in rules if rule is not None)
    if len(known) != len(rules) or first.get("library") not in ("torch", "numpy", "mlx"):
        return None
    return Prompt(
        module=str(first["module"]),
        library=first["library"],
        dtype=str(first["dtype"]),
        rules=known,
        skipped=skipped,
        addition=reading.addition,
    )


def _greedy_prompt(calls: list[dict[str, Any]]) -> list[int] | None:
    tokens = None
    for call in calls:
        if not call.get("plain") or call["module"] != calls[0]["module"]:
            return None
        seen = call.get("tokens")
        if not (isinstance(seen, list) and len(seen) == 1 and isinstance(seen[0], list)):
            return None
        if tokens is not None and seen[0] != tokens:
            return None
        tokens = [*seen[0], call["next"]]
    return None if tokens is None else tokens[: len(tokens) - len(calls)]


def _rule(tokens: list[int], pairs: list[Pair], addition: Addition) -> tuple[int, int, int, int] | None:
    """The simplest rule that gives this position's token for every pair."""
    base = addition.base
    if len(set(tokens)) == 1:
        return tokens[0], 0, 0, 0
    for wa, wb in ((1, 0), (0, 1), (base, 1), (1, base)):
        for j in range(addition.columns):
            rests = {
                token - wa * (a // base**j % base) - wb * (b // base**j % base)
                for token, (a, b) in zip(tokens, pairs, strict=True)
            }
            if len(rests) == 1:
                return rests.pop(), wa, wb, j
    return None
