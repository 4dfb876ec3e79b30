"""Exact match of greedy answers on a suite, with intervals, digit by digit, first failures listed.

A pair counts as right only if all digits of the sum are; the end token counts where decoding
stops at it (``Layout.end_decided``).

Shapes: B pairs, J operand columns (10), I = J + 1 sum columns, A answer steps, T prompt positions,
V vocabulary.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adderlab.engine.base import Engine
from adderlab.evaluation.suites import Rate, Suite, clopper_pearson, operand
from adderlab.format import percent
from adderlab.models.tables import tables, why_not_trained_by_tables
from adderlab.models.transformer import Adder, Architecture, build_model
from adderlab.results import Result, html_lines, html_table, text_table
from adderlab.task.addition import (
    NUMERALS,
    PUBLISHED,
    Addition,
    Layout,
    add,
    from_digits,
    pairs_from_ints,
)

SCHEMA_VERSION = 1
CHUNK = 1 << 16
"""Pairs an engine decodes at once."""
MODULE_CHUNK = 4096
"""Pairs the full model takes at once: it holds logits and scores of every position."""

Decoder = Callable[[Tensor, Tensor], Tensor]
"""Digits a_BJ, b_BJ on the CPU -> the model's greedy answers_BA, uint8 tokens on the CPU."""


def decoder_for(config: Architecture, params: Mapping[str, Tensor], engine: Engine | None) -> Decoder:
    """The fastest decoder for one model: ``params`` with a seed axis of length 1 in front.

    Without an engine, or for a model outside the table form, the full model decodes.
    """
    assert all(tensor.shape[0] == 1 for tensor in params.values())
    if engine is None or why_not_trained_by_tables(config):
        return oracle_decoder(model_of(config, params))
    layout = config.token_layout
    with torch.no_grad():
        form = tables(config, params)

    def decode(a_BJ: Tensor, b_BJ: Tensor) -> Tensor:
        prompt_BT = layout.encode_prompt(a_BJ, b_BJ).to(form.query.device)
        return engine.decode(form, prompt_BT[None])[0].cpu()

    return decode


def oracle_decoder(model: Adder) -> Decoder:
    """Greedy decoding by the full model over the whole sequence; slow, and right by inspection."""
    device = next(model.parameters()).device

    def decode(a_BJ: Tensor, b_BJ: Tensor) -> Tensor:
        prompt_BT = model.layout.encode_prompt(a_BJ, b_BJ).to(device)
        return torch.cat([model.generate(chunk) for chunk in prompt_BT.split(MODULE_CHUNK)]).cpu()

    return decode


def model_of(config: Architecture, params: Mapping[str, Tensor]) -> Adder:
    """The readable model with these weights (a seed axis of 1 in front), of their type and device."""
    like = next(iter(params.values()))
    model = build_model(config, seed=0).to(device=like.device, dtype=like.dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(params[name][0])
    return model.eval()


@dataclass(frozen=True, kw_only=True)
class Miss:
    """A pair that the model gets wrong."""

    group: str
    a: int
    b: int
    answer: str
    """Text, most significant digit first: a wrong token may be no digit."""
    right_sum: int
    addition: Addition = PUBLISHED

    def __str__(self) -> str:
        a, b, right_sum = map(self.addition.numeral, (self.a, self.b, self.right_sum))
        return f"{a} + {b} = {right_sum}, answered {self.answer}"


@dataclass(frozen=True, kw_only=True)
class Score:
    """Counts over ``n`` pairs."""

    name: str
    n: int
    errors: int
    """Pairs with at least one wrong digit."""
    right_digits: tuple[int, ...]
    """Pairs whose digit s_i is right, i = 0 (units) to 10, the number of columns."""

    @property
    def exact_match(self) -> float:
        """Share of the pairs whose digits are all right."""
        return 1 - self.errors / self.n

    @property
    def error_rate(self) -> Rate:
        """With its Clopper-Pearson interval."""
        return clopper_pearson(self.errors, self.n)

    @property
    def digit_accuracy(self) -> tuple[float, ...]:
        """Accuracy of s_0 .. s_10, given the model's own earlier digits."""
        return tuple(count / self.n for count in self.right_digits)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; intervals are 95% Clopper-Pearson intervals of the error rate."""
        rate = self.error_rate
        return {
            "name": self.name,
            "n": self.n,
            "errors": self.errors,
            "exact_match": self.exact_match,
            "error_rate": rate.value,
            "error_rate_interval": [rate.low, rate.high],
            "digit_accuracy": list(self.digit_accuracy),
        }


@dataclass(frozen=True, kw_only=True, repr=False)
class SuiteReport(Result):
    """The result of one model on one suite of pairs."""

    suite: str
    groups: tuple[Score, ...]
    failures: tuple[Miss, ...]
    """The first ones in the suite's order."""
    seconds: float
    checkpoint: str | None = None
    """Path of the model's file; None where it has none."""
    weights_sha256: str | None = None
    parameters: int | None = None
    every_pair: Result | None = None
    """Of the suite of all pairs: what the module itself answers, in fp32 and float64."""

    @property
    def total(self) -> Score:
        """All groups together."""
        digits = zip(*(group.right_digits for group in self.groups), strict=True)
        return Score(
            name="total",
            n=sum(group.n for group in self.groups),
            errors=sum(group.errors for group in self.groups),
            right_digits=tuple(sum(column) for column in digits),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: what was measured, the total, then every group."""
        measured = {
            "checkpoint": self.checkpoint,
            "weights_sha256": self.weights_sha256,
            "parameters": self.parameters,
        }
        return {
            **(measured if self.weights_sha256 else {}),
            "schema_version": SCHEMA_VERSION,
            "suite": self.suite,
            "seconds": self.seconds,
            **{key: value for key, value in self.total.to_dict().items() if key != "name"},
            "interval": "95% Clopper-Pearson",
            **({"every_pair": self.every_pair.to_dict()} if self.every_pair else {}),
            "groups": [group.to_dict() for group in self.groups],
            "failures": [
                {"group": m.group, "a": m.a, "b": m.b, "answer": m.answer, "sum": m.right_sum}
                for m in self.failures
            ],
        }

    def to_dicts(self) -> list[dict[str, Any]]:
        """A row for every group."""
        return [group.to_dict() for group in self.groups]

    def describe(self) -> list[str]:
        """Groups as a table if there are several, the total, the first failures."""
        lines = text_table(self._rows()) if len(self.groups) > 1 else []
        return [*lines, *self._conclusion()]

    def _repr_html_(self) -> str:
        table = html_table(self._rows()) if len(self.groups) > 1 else ""
        return html_lines(self._conclusion()) + table

    def _rows(self) -> list[dict[str, str | int]]:
        return [
            {"group": g.name, "pairs": g.n, "errors": g.errors, "exact match": percent(g.exact_match)}
            for g in self.groups
        ]

    def _conclusion(self) -> list[str]:
        total, rate = self.total, self.total.error_rate
        if self.suite == "all":
            bound = "every pair there is"
        elif total.errors == 0:
            bound = f"error rate below {rate.high:.1e}, 95%"
        else:
            bound = f"error rate {rate.value:.3e} [{rate.low:.1e}, {rate.high:.1e}], 95%"
        lines = [
            f"{self.suite}: {total.n - total.errors}/{total.n} right, {total.errors:,} errors of "
            f"{total.n:,} pairs ({bound}), {self.seconds:.2f} s"
        ]
        if total.errors:
            weak = [(i, share) for i, share in enumerate(total.digit_accuracy) if share < 1]
            digits = ", ".join(f"s_{i} {percent(share)}" for i, share in weak)
            lines.append(f"digits that fail (units first): {digits}")
            lines += [f"  {miss}" for miss in self.failures]
        return [*lines, *(self.every_pair.describe() if self.every_pair else [])]


def evaluate(
    decoder: Decoder,
    layout: Layout,
    suite: Suite,
    progress: Callable[[int, int], None] | None = None,
    max_failures: int = 10,
) -> SuiteReport:
    """Decode every pair of the suite once and compare with the sum.

    ``progress`` gets (pairs done, pairs in all); ``max_failures`` pairs that fail are kept.
    """
    started, done, total = time.perf_counter(), 0, suite.num_pairs
    scores: list[Score] = []
    misses: list[Miss] = []
    task, digits = layout.addition, layout.sum_digits
    for group in suite.groups:
        right_I, errors = torch.zeros(digits, dtype=torch.int64), 0
        for a_BJ, b_BJ in zip(group.a_BJ.split(CHUNK), group.b_BJ.split(CHUNK), strict=True):
            answer_BA, sum_BI = decoder(a_BJ, b_BJ), add(a_BJ, b_BJ, task.base)
            assert answer_BA.shape == (len(a_BJ), layout.num_answers), answer_BA.shape
            wrong_BI = answer_BA[:, :digits] != sum_BI
            wrong_B = wrong_BI.any(1)
            if layout.num_decided > digits:
                wrong_B |= answer_BA[:, digits] != layout.end_token
            wrong = wrong_B.nonzero().flatten()
            right_I += len(a_BJ) - wrong_BI[wrong].sum(0)
            errors += len(wrong)
            for row in wrong[: max_failures - len(misses)].tolist():
                misses.append(
                    Miss(
                        group=group.name,
                        a=int(from_digits(a_BJ[row], task.base)),
                        b=int(from_digits(b_BJ[row], task.base)),
                        answer=layout.answer_text(answer_BA[row]),
                        right_sum=int(from_digits(sum_BI[row], task.base)),
                        addition=task,
                    )
                )
            done += len(a_BJ)
            if progress:
                progress(done, total)
        scores.append(
            Score(
                name=group.name, n=group.num_pairs, errors=errors, right_digits=tuple(right_I.tolist())
            )
        )
    return SuiteReport(
        suite=suite.name,
        groups=tuple(scores),
        failures=tuple(misses),
        seconds=time.perf_counter() - started,
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class Prediction(Result):
    """A greedy answer to one addition. Digits and confidences go from s_0 (units) to s_10, the top."""

    a: int
    b: int
    answer: str
    """Most significant digit first, a place for every digit of the sum; a token that is no digit shows
    as its name."""
    tokens: tuple[int, ...]
    confidences: tuple[float, ...]
    """Softmax probability of each answered token, given the digits answered before it."""
    right_sum: int
    ended: bool = True
    """Whether the end token follows, where decoding stops at it."""
    addition: Addition = PUBLISHED

    @property
    def right(self) -> bool:
        """Whether all digits are those of the sum, and the answer ends there."""
        text = self.addition.numeral(self.right_sum, self.addition.sum_digits)
        return self.answer == text and self.ended

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "a": self.a,
            "b": self.b,
            "answer": self.answer,
            "sum": self.right_sum,
            "right": self.right,
            "confidences": list(self.confidences),
        }

    def describe(self) -> list[str]:
        """The answer, then every digit with its confidence, most significant first."""
        # Names of tokens that are no digits, such as <EOS>, are one symbol each.
        symbols = re.findall(r"<\w+>|.", self.answer)
        lines = [self._sentence(), "digit       s_i  confidence"]
        for place, symbol in zip(reversed(range(len(self.confidences))), symbols, strict=True):
            lines.append(
                f"{self.addition.base}^{place:<2}     {symbol:>6}  {self.confidences[place]:.4f}"
            )
        return lines

    def _repr_html_(self) -> str:
        return html_lines([f"{self._sentence()}, each digit {min(self.confidences):.1%} sure or more"])

    def _sentence(self) -> str:
        a, b, right_sum = map(self.addition.numeral, (self.a, self.b, self.right_sum))
        numeral = set(self.answer) <= set(NUMERALS)
        text = self.answer.lstrip("0") or "0" if numeral else self.answer
        text += "" if self.ended else " without an end"
        verdict = "right" if self.right else f"wrong, it is {right_sum}"
        base = self.addition.base
        where = "" if base == 10 else f" in base {base}: {self.a} + {self.b}"
        return f"{a} + {b} = {text}{where}  ({verdict})"


@torch.no_grad()
def predict(model: Adder, a: int, b: int) -> Prediction:
    """The full model's greedy answer to a + b, on the model's device.

    Raises ``UsageError`` for operands out of range, 0 .. 9999999999 for ten columns.
    """
    device, layout, task = next(model.parameters()).device, model.layout, model.layout.addition
    a, b = operand(a, task), operand(b, task)
    tokens_1T = layout.encode_prompt(*pairs_from_ints([(a, b)], task)).long().to(device)
    confidences = []
    for _ in range(task.sum_digits):
        probability_1V = model.next_logits(tokens_1T).softmax(-1)
        best, token = probability_1V.max(-1, keepdim=True)
        tokens_1T = torch.cat([tokens_1T, token], 1)
        confidences.append(float(best))
    answer, ended = tokens_1T[0, -task.sum_digits :], True
    if layout.num_decided > task.sum_digits:
        ended = int(model.next_logits(tokens_1T)[0].argmax()) == layout.end_token
    return Prediction(
        a=a,
        b=b,
        answer=layout.answer_text(answer),
        tokens=tuple(answer.tolist()),
        confidences=tuple(confidences),
        right_sum=a + b,
        ended=ended,
        addition=task,
    )
