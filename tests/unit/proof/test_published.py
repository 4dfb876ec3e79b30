"""Known answers: the published checkpoints, decided over all 10^20 pairs."""

import dataclasses

import pytest
import torch

from adderlab.evaluation.exact import decoder_for, evaluate
from adderlab.evaluation.suites import clopper_pearson, fresh
from adderlab.proof.problem import problem_from_tables
from adderlab.proof.prove import Verdict, exact_tables, greedy_answer, prove_checkpoint
from adderlab.proof.search import Limits
from adderlab.proof.witnesses import pair_margins, to_digits
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint
from adderlab.task.addition import get_layout
from helpers.reference import reference_checkpoint

LEAVES = 170_300


def decided(name: str, limits: Limits | None = None) -> tuple[Checkpoint, Verdict]:
    checkpoint = load_checkpoint(reference_checkpoint(name))
    return checkpoint, prove_checkpoint(checkpoint, limits=limits)


def margin_of(checkpoint: Checkpoint, step: int, a: int, b: int) -> float:
    problem = problem_from_tables(exact_tables(checkpoint))
    digits = (to_digits([value], 10) for value in (a, b))
    return float(pair_margins(problem, problem.steps[step], *digits)[0])


@pytest.mark.parametrize(
    ("name", "pair", "margin", "share"),
    [
        ("lowrank_456p_s43.pt", (9021820000, 2778180000), 0.5099, 0.99),
        ("microadder_67p_s71046.pt", (9900000100, 9999999900), 0.1377, 0.999),
        ("microadder_75p.pt", (9600100000, 9999900000), 0.5891, 0.99),
        ("qwen3_122p_lbfgs.npz", None, 2.4275, 0.98),
    ],
)
@pytest.mark.slow
def test_right_on_every_pair(name, pair, margin, share) -> None:
    checkpoint, verdict = decided(name)
    assert verdict.verdict == "proved" and verdict.failing_pairs == 0
    assert verdict.failing_by_step == (0,) * 11
    assert verdict.counterexample is None and verdict.leaves == LEAVES
    assert verdict.margin.witness == pytest.approx(margin, abs=5e-5)
    assert verdict.margin.bound is not None
    assert share * margin <= verdict.margin.bound <= verdict.margin.witness
    a, b = verdict.margin.pair
    assert greedy_answer(checkpoint.module())(a, b) == a + b
    if pair:
        assert margin_of(checkpoint, 9, *pair) == pytest.approx(margin, abs=5e-5)


@pytest.mark.slow
def test_the_512p_file_fails_on_a_known_number_of_pairs() -> None:
    checkpoint, verdict = decided("lowrank_512p_s42.pt")
    assert verdict.verdict == "refuted" and verdict.reason == ""
    # Steps 8 and 10 agree to the last digit with an independent search that is not kept here.
    by_step = verdict.failing_by_step
    assert [i for i, count in enumerate(by_step) if count] == [1, 2, 3, 8, 10]
    assert by_step[1:4] == (2 * 10**15, 1755 * 10**12, 1188 * 10**12)
    assert by_step[8] == 2_945_002_388_000_000 and by_step[10] == 1_533_400_100_000_000
    assert verdict.failing_pairs == 9_421_238_742_319_500
    assert max(by_step) < verdict.failing_pairs < sum(by_step) <= 9.42141e15  # type: ignore[type-var]
    assert verdict.counterexample is not None
    a, b = verdict.counterexample
    assert verdict.answer == greedy_answer(checkpoint.module())(a, b) != a + b
    assert verdict.margin.witness == pytest.approx(-0.4071, abs=5e-5)


def jittered(checkpoint: Checkpoint, seed: int, size: float = 0.01) -> Checkpoint:
    """The checkpoint with every weight off by a factor 1 + size * N(0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    params = {
        name: tensor * (1 + size * torch.randn(tensor.shape, generator=generator))
        for name, tensor in checkpoint.params.items()
    }
    return dataclasses.replace(checkpoint, params=params)


def check_jittered(seed: int) -> None:
    checkpoint = jittered(load_checkpoint(reference_checkpoint("lowrank_456p_s43.pt")), seed)
    verdict = prove_checkpoint(checkpoint, limits=Limits(cells=1000, union_seconds=0.1))
    assert verdict.verdict == "refuted"
    assert verdict.counterexample is not None
    a, b = verdict.counterexample
    assert verdict.answer == greedy_answer(checkpoint.module())(a, b) != a + b


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.slow
def test_weights_off_by_a_percent_are_refuted(seed: int) -> None:
    check_jittered(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 20))
def test_more_weights_off_by_a_percent_are_refuted(seed: int) -> None:
    check_jittered(seed)


@pytest.mark.slow
def test_the_122p_file_fails_at_nine_steps() -> None:
    _, verdict = decided("qwen3_122p.npz")
    assert verdict.verdict == "refuted"
    low = sum(c[0] if isinstance(c, tuple) else c for c in verdict.failing_by_step)
    high = sum(c[1] if isinstance(c, tuple) else c for c in verdict.failing_by_step)
    assert 8.45e16 <= low <= high <= 8.56e16
    assert sum(count != 0 for count in verdict.failing_by_step) == 9
    assert isinstance(verdict.failing_pairs, tuple) and verdict.reason
    assert 8.4e16 < verdict.failing_pairs[0] < verdict.failing_pairs[1] <= 8.56e16


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("lowrank_512p_s42.pt", 9.421238742e-5, 9.421238743e-5),
        ("qwen3_122p.npz", 8.457e-4, 8.549e-4),
        ("lowrank_456p_s43.pt", 0.0, 0.0),
    ],
)
def test_two_million_random_pairs_agree_with_the_counts(name, low, high) -> None:
    """Greedy decoding in fp32 by an engine, which the prover never uses."""
    from adderlab.engine.base import choose_device, select_engine

    checkpoint = load_checkpoint(reference_checkpoint(name))
    engine = select_engine("auto", checkpoint.config, choose_device("cpu")[0], threads=1, log=print)
    decoder = decoder_for(checkpoint.config, checkpoint.stacked(), engine)
    errors = 0
    for seed in range(4):
        report = evaluate(decoder, get_layout(checkpoint.config.layout), fresh(500_000, 10 + seed))
        errors += report.total.errors
    rate = clopper_pearson(errors, 2_000_000)
    assert rate.low <= high and low <= rate.high, (errors, rate)
