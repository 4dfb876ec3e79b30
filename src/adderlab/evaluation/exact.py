"""Exact match of greedy answers on a suite, with intervals, digit by digit, first failures listed.

A pair counts as right only if all eleven digits of the sum are; the end token does not count.

Shapes: B pairs, J = 10 operand columns, I = 11 sum columns, A answer steps.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adderlab.engine.base import Engine
from adderlab.errors import UsageError
from adderlab.evaluation.intervals import Rate, clopper_pearson
from adderlab.evaluation.suites import Suite
from adderlab.models.config import ModelConfig
from adderlab.models.mapping import tables, why_no_tables
from adderlab.models.transformer import Transformer, build_model
from adderlab.task.digits import OPERAND_LIMIT, SUM_DIGITS, add, from_digits, pairs_from_ints
from adderlab.task.layouts import Layout, get_layout

SCHEMA_VERSION = 1
_CHUNK = 1 << 16

Decoder = Callable[[Tensor, Tensor], Tensor]
"""Digits a_BJ, b_BJ on the CPU -> the model's greedy answers_BA, uint8 tokens on the CPU."""


@dataclass(frozen=True, kw_only=True)
class Miss:
    """A pair that the model gets wrong. ``answer`` is text: a wrong token may be no digit."""

    group: str
    a: int
    b: int
    answer: str
    right_sum: int

    def __str__(self) -> str:
        return f"{self.a} + {self.b} = {self.right_sum}, answered {self.answer}"


@dataclass(frozen=True, kw_only=True)
class Score:
    """Counts over ``n`` pairs."""

    name: str
    n: int
    errors: int
    """Pairs with at least one wrong digit."""
    right_digits: tuple[int, ...]
    """Pairs whose digit s_i is right, i = 0 (units) to 10."""

    @property
    def exact_match(self) -> float:
        return 1 - self.errors / self.n

    @property
    def error_rate(self) -> Rate:
        """With its Clopper-Pearson interval."""
        return clopper_pearson(self.errors, self.n)

    @property
    def digit_accuracy(self) -> tuple[float, ...]:
        """Accuracy of s_0 .. s_10, given the model's own earlier digits."""
        return tuple(count / self.n for count in self.right_digits)

    def to_json(self) -> dict[str, Any]:
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


@dataclass(frozen=True, kw_only=True)
class SuiteReport:
    """The result of one model on one suite."""

    suite: str
    groups: tuple[Score, ...]
    failures: tuple[Miss, ...]
    """The first ones in the suite's order."""
    seconds: float

    @property
    def total(self) -> Score:
        digits = zip(*(group.right_digits for group in self.groups), strict=True)
        return Score(
            name="total",
            n=sum(group.n for group in self.groups),
            errors=sum(group.errors for group in self.groups),
            right_digits=tuple(sum(column) for column in digits),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values; intervals are 95% Clopper-Pearson intervals of the error rate."""
        return {
            "schema_version": SCHEMA_VERSION,
            "suite": self.suite,
            "seconds": self.seconds,
            **{key: value for key, value in self.total.to_json().items() if key != "name"},
            "interval": "95% Clopper-Pearson",
            "groups": [group.to_json() for group in self.groups],
            "failures": [
                {"group": m.group, "a": m.a, "b": m.b, "answer": m.answer, "sum": m.right_sum}
                for m in self.failures
            ],
        }


def evaluate(
    decoder: Decoder,
    layout: Layout,
    suite: Suite,
    progress: Callable[[int, int], None] | None = None,
    max_failures: int = 10,
) -> SuiteReport:
    """Run every pair of the suite once. ``progress`` gets (pairs done, pairs in all)."""
    started, done, total = time.perf_counter(), 0, suite.num_pairs
    scores: list[Score] = []
    misses: list[Miss] = []
    for group in suite.groups:
        right_I, errors = torch.zeros(SUM_DIGITS, dtype=torch.int64), 0
        for a_BJ, b_BJ in zip(group.a_BJ.split(_CHUNK), group.b_BJ.split(_CHUNK), strict=True):
            answer_BA, sum_BI = decoder(a_BJ, b_BJ), add(a_BJ, b_BJ)
            assert answer_BA.shape == (len(a_BJ), layout.num_answers), answer_BA.shape
            wrong_BI = answer_BA[:, :SUM_DIGITS] != sum_BI
            wrong = wrong_BI.any(1).nonzero().flatten()
            right_I += len(a_BJ) - wrong_BI[wrong].sum(0)
            errors += len(wrong)
            for row in wrong[: max_failures - len(misses)].tolist():
                misses.append(
                    Miss(
                        group=group.name,
                        a=int(from_digits(a_BJ[row])),
                        b=int(from_digits(b_BJ[row])),
                        answer=layout.answer_text(answer_BA[row]),
                        right_sum=int(from_digits(sum_BI[row])),
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


# How a model answers pairs: through an engine where it has tables, else through the full model.
#
# Shapes: B pairs, J = 10 operand columns, A answer steps.


ORACLE_CHUNK = 4096
"""Pairs the full model takes at once: it holds logits and scores of every position."""


def decoder_for(config: ModelConfig, params: Mapping[str, Tensor], engine: Engine | None) -> Decoder:
    """The fastest decoder for one model: ``params`` with a seed axis of length 1 in front.

    Without an engine, or for a model outside the table form, the full model decodes.
    """
    assert all(tensor.shape[0] == 1 for tensor in params.values())
    if engine is None or why_no_tables(config):
        return oracle_decoder(model_of(config, params))
    layout = get_layout(config.layout)
    with torch.no_grad():
        form = tables(config, params)

    def decode(a_BJ: Tensor, b_BJ: Tensor) -> Tensor:
        prompt_BT = layout.encode_prompt(a_BJ, b_BJ).to(form.query.device)
        return engine.decode(form, prompt_BT[None])[0].cpu()

    return decode


def oracle_decoder(model: Transformer) -> Decoder:
    """Greedy decoding by the full model over the whole sequence; slow, and right by inspection."""
    device = next(model.parameters()).device

    def decode(a_BJ: Tensor, b_BJ: Tensor) -> Tensor:
        prompt_BT = model.layout.encode_prompt(a_BJ, b_BJ).to(device)
        return torch.cat([model.generate(chunk) for chunk in prompt_BT.split(ORACLE_CHUNK)]).cpu()

    return decode


def model_of(config: ModelConfig, params: Mapping[str, Tensor]) -> Transformer:
    """The readable model with these weights (a seed axis of 1 in front), of their type and device."""
    like = next(iter(params.values()))
    model = build_model(config, seed=0).to(device=like.device, dtype=like.dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(params[name][0])
    return model.eval()


# One addition by the full model, with how sure it is of every digit.


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """A greedy answer. Digits and confidences go from s_0 (units) to s_10."""

    a: int
    b: int
    answer: str
    """Most significant digit first, eleven places; a token that is no digit shows as its name."""
    tokens: tuple[int, ...]
    confidences: tuple[float, ...]
    """Softmax probability of each answered token, given the digits answered before it."""
    right_sum: int

    @property
    def right(self) -> bool:
        return self.answer == f"{self.right_sum:0{SUM_DIGITS}d}"


@torch.no_grad()
def predict(model: Transformer, a: int, b: int) -> Prediction:
    """Answer a + b. Raises ``UsageError`` for operands outside 0 .. 9999999999."""
    for operand in (a, b):
        if not 0 <= operand < OPERAND_LIMIT:
            raise UsageError(f"an operand must be 0 to {OPERAND_LIMIT - 1}, not {operand}")
    device = next(model.parameters()).device
    tokens_1T = model.layout.encode_prompt(*pairs_from_ints([(a, b)])).long().to(device)
    confidences = []
    for _ in range(SUM_DIGITS):
        probability_1V = model(tokens_1T)[:, -1].softmax(-1)
        best, token = probability_1V.max(-1, keepdim=True)
        tokens_1T = torch.cat([tokens_1T, token], 1)
        confidences.append(float(best))
    answer = tokens_1T[0, -SUM_DIGITS:]
    return Prediction(
        a=a,
        b=b,
        answer=model.layout.answer_text(answer),
        tokens=tuple(answer.tolist()),
        confidences=tuple(confidences),
        right_sum=a + b,
    )
