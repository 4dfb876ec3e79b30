"""Exact match counts planted mistakes, and the published error counts come out."""

import json

import pytest
import torch
from torch import Tensor

from adderlab.engine.torch_tables import TorchEngine
from adderlab.evaluation.exact import SuiteReport, decoder_for, evaluate, oracle_decoder
from adderlab.evaluation.suites import (
    Group,
    Suite,
    adderboard,
    fresh,
    published,
    strata,
)
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint
from adderlab.task.addition import add, get_layout, pairs_from_ints
from helpers.reference import disturbed, proved_model, reference_checkpoint
from oracle import greedy_twin

LAYOUT = get_layout("P")


def right_answers(a_BJ: Tensor, b_BJ: Tensor) -> Tensor:
    end = torch.full((len(a_BJ), 1), 13, dtype=torch.uint8)
    return torch.cat([add(a_BJ, b_BJ), end], 1)


def small_suite() -> Suite:
    first = pairs_from_ints([(i, 10 * i) for i in range(5)])
    second = pairs_from_ints([(9999999999, i) for i in range(7)])
    return Suite(
        name="small",
        groups=(
            Group(name="first", a_BJ=first[0], b_BJ=first[1]),
            Group(name="second", a_BJ=second[0], b_BJ=second[1]),
        ),
    )


def wrong_where_a_is_large(a_BJ: Tensor, b_BJ: Tensor) -> Tensor:
    """s_0 wrong where b is 3 or more in the second group, s_10 a non-digit where b is 5 or more."""
    answer_BA = right_answers(a_BJ, b_BJ)
    large_B = a_BJ[:, 9] == 9
    wrong_B = large_B & (b_BJ[:, 0] >= 3)
    answer_BA[wrong_B, 0] = (answer_BA[wrong_B, 0] + 1) % 10
    answer_BA[large_B & (b_BJ[:, 0] >= 5), 10] = 12
    return answer_BA


def test_planted_mistakes_are_counted() -> None:
    report = evaluate(wrong_where_a_is_large, LAYOUT, small_suite(), max_failures=3)
    first, second = report.groups
    assert (first.n, first.errors, first.exact_match) == (5, 0, 1.0)
    assert (second.n, second.errors) == (7, 4)
    assert second.digit_accuracy == (3 / 7, *[1.0] * 9, 5 / 7)
    total = report.total
    assert (total.n, total.errors) == (12, 4)
    assert total.right_digits == (8, *[12] * 9, 10)
    assert total.error_rate.low < 4 / 12 < total.error_rate.high
    assert [(m.group, m.a, m.b) for m in report.failures] == [
        ("second", 9999999999, i) for i in (3, 4, 5)
    ]
    assert [m.answer for m in report.failures] == ["10000000003", "10000000004", "<PAD>0000000005"]
    assert str(report.failures[0]) == "9999999999 + 3 = 10000000002, answered 10000000003"


def test_a_wrong_end_token_does_not_count() -> None:
    def no_end(a_BJ: Tensor, b_BJ: Tensor) -> Tensor:
        answer_BA = right_answers(a_BJ, b_BJ)
        answer_BA[:, 11] = 0
        return answer_BA

    assert evaluate(no_end, LAYOUT, small_suite()).total.errors == 0


def test_progress_and_chunks_cover_every_pair_once() -> None:
    seen, steps = [], []

    def watched(a_BJ: Tensor, b_BJ: Tensor) -> Tensor:
        seen.append(len(a_BJ))
        return right_answers(a_BJ, b_BJ)

    report = evaluate(watched, LAYOUT, fresh(150_000), lambda done, total: steps.append((done, total)))
    assert sum(seen) == report.total.n == 150_000 and len(seen) > 1
    assert steps[-1] == (150_000, 150_000) and [d for d, _ in steps] == sorted({d for d, _ in steps})
    assert report.total.errors == 0 and report.total.digit_accuracy == (1.0,) * 11


def test_json_has_every_figure() -> None:
    report = evaluate(wrong_where_a_is_large, LAYOUT, small_suite())
    data = json.loads(json.dumps(report.to_dict()))
    assert (data["schema_version"], data["suite"], data["n"], data["errors"]) == (1, "small", 12, 4)
    assert data["error_rate_interval"] == [report.total.error_rate.low, report.total.error_rate.high]
    assert [group["name"] for group in data["groups"]] == ["first", "second"]
    assert data["groups"][1]["digit_accuracy"][10] == 5 / 7
    assert data["failures"][0] == {
        "group": "second", "a": 9999999999, "b": 3, "answer": "10000000003", "sum": 10000000002,
    }  # fmt: skip


def run(checkpoint: Checkpoint, suite: Suite, oracle: bool = False) -> SuiteReport:
    if oracle:
        return evaluate(oracle_decoder(checkpoint.module()), LAYOUT, suite)
    decoder = decoder_for(checkpoint.config, checkpoint.stacked(), TorchEngine(1))
    return evaluate(decoder, LAYOUT, suite)


@pytest.mark.parametrize(("name", "errors"), [("lowrank_456p_s43.pt", 0), ("lowrank_512p_s42.pt", 12)])
def test_published_error_counts(name: str, errors: int) -> None:
    report = run(load_checkpoint(reference_checkpoint(name)), published())
    assert (report.total.n, report.total.errors, len(report.failures)) == (
        100_000,
        errors,
        min(errors, 10),
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "errors"), [("lowrank_456p_s43.pt", 0), ("lowrank_512p_s42.pt", 12)])
def test_published_error_counts_by_the_oracle(name: str, errors: int) -> None:
    assert (
        run(load_checkpoint(reference_checkpoint(name)), published(), oracle=True).total.errors == errors
    )


def test_456p_passes_the_adderboard_check() -> None:
    total = run(proved_model(), adderboard()).total
    assert (total.n, total.errors) == (10_010, 0)


def test_marks_equal_the_twin() -> None:
    """Digit by digit on pairs that a disturbed model partly fails, one pair at a time."""
    checkpoint = disturbed(proved_model(), 0.01)
    group = next(g for g in strata(60).groups if g.name == "complements to 10000000000")
    report = run(checkpoint, Suite(name="one", groups=(group,)))
    model = checkpoint.module()
    right = [
        greedy_twin.right_digits(greedy_twin.greedy_answer(model, m, 10**10 - m), m, 10**10 - m)
        for m in (int("".join(map(str, reversed(row)))) for row in group.a_BJ.tolist())
    ]
    assert report.total.right_digits == tuple(map(sum, zip(*right, strict=True)))
    assert 0 < report.total.errors == sum(not all(row) for row in right)
