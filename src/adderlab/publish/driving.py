"""How a submission turns pairs into tokens and tokens into sums, found out by watching it.

From traces of ``add`` (the tokens each call of the model got, and the token it answered) follows:
which calls make the answer's digits, in which order, and, for models that decode greedily from a
fixed prompt, the prompt's rule. Then the model can be driven in batches, without ``add``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from adderlab.task.digits import OPERAND_DIGITS, SUM_DIGITS

Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Digit ``i`` of the answer (0: units) is made by one call; ``token_of`` says how it is written."""

    first_call: int
    up: bool
    """Units first."""
    token_of: dict[int, int]

    def tokens(self, answer: int) -> list[int | None]:
        """What the calls must answer for ``add`` to return ``answer``."""
        digits = _digits(answer, SUM_DIGITS)
        order = digits if self.up else digits[::-1]
        return [None] * self.first_call + [self.token_of[digit] for digit in order]

    def value(self, tokens: list[int]) -> int:
        """The number that eleven answered tokens stand for; -1 if one is no digit."""
        digit_of = {token: digit for digit, token in self.token_of.items()}
        digits = [digit_of.get(token, -1) for token in tokens]
        if len(digits) != SUM_DIGITS or -1 in digits:
            return -1
        order = digits if self.up else digits[::-1]
        return sum(digit * 10**i for i, digit in enumerate(order))


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The token at each position: a constant, or a column's digits, ``constant + wa a_j + wb b_j``."""

    module: str
    dtype: str
    rules: tuple[tuple[int, int, int, int], ...]
    """(constant, wa, wb, j) for each position."""

    def tokens(self, a: int, b: int) -> list[int]:
        x, y = _digits(a, OPERAND_DIGITS), _digits(b, OPERAND_DIGITS)
        return [constant + wa * x[j] + wb * y[j] for constant, wa, wb, j in self.rules]


def _digits(value: int, count: int) -> list[int]:
    return [value // 10**j % 10 for j in range(count)]


def find_reading(pairs: list[Pair], traces: list[dict[str, Any]]) -> Reading | None:
    """The reading under which every trace's answer is what its calls answered; None without one."""
    counts = {len(trace["calls"]) for trace in traces}
    if len(counts) != 1 or not pairs or not all(isinstance(t["answer"], int) for t in traces):
        return None
    (calls,) = counts
    if any("next" not in call for trace in traces for call in trace["calls"]):
        return None
    for first in range(calls - SUM_DIGITS + 1):
        for up in (True, False):
            token_of = _token_of(traces, first, up)
            if token_of is not None:
                return Reading(first_call=first, up=up, token_of=token_of)
    return None


def _token_of(traces: list[dict[str, Any]], first: int, up: bool) -> dict[int, int] | None:
    """Digit -> token, if that is one and the same for all traces and distinct for all digits."""
    found: dict[int, int] = {}
    for trace in traces:
        if not 0 <= trace["answer"] < 10**SUM_DIGITS:
            return None
        digits = _digits(trace["answer"], SUM_DIGITS)
        calls = trace["calls"][first : first + SUM_DIGITS]
        for digit, call in zip(digits if up else digits[::-1], calls, strict=True):
            if found.setdefault(digit, call["next"]) != call["next"]:
                return None
    return found if len(set(found.values())) == len(found) == 10 else None


def find_prompt(pairs: list[Pair], traces: list[dict[str, Any]], reading: Reading) -> Prompt | None:
    """The rule of the prompt, if each call reads the last one's tokens and its answer; else None."""
    prompts = []
    for trace in traces:
        calls = trace["calls"][reading.first_call : reading.first_call + SUM_DIGITS]
        prompt = _greedy_prompt(calls)
        if prompt is None:
            return None
        prompts.append(prompt)
    first = traces[0]["calls"][reading.first_call]
    if len({len(prompt) for prompt in prompts}) != 1:
        return None
    rules = [
        _rule([prompt[position] for prompt in prompts], pairs) for position in range(len(prompts[0]))
    ]
    known = tuple(rule for rule in rules if rule is not None)
    if len(known) != len(rules):
        return None
    return Prompt(module=str(first["module"]), dtype=str(first["dtype"]), rules=known)


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
    assert tokens is not None
    return tokens[: len(tokens) - len(calls)]


def _rule(tokens: list[int], pairs: list[Pair]) -> tuple[int, int, int, int] | None:
    """The simplest rule that gives this position's token for every pair."""
    if len(set(tokens)) == 1:
        return tokens[0], 0, 0, 0
    for weights in ((1, 0), (0, 1), (10, 1), (1, 10)):
        for j in range(OPERAND_DIGITS):
            wa, wb = weights
            rests = {
                token - wa * (a // 10**j % 10) - wb * (b // 10**j % 10)
                for token, (a, b) in zip(tokens, pairs, strict=True)
            }
            if len(rests) == 1:
                return rests.pop(), wa, wb, j
    return None
