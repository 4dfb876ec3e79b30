"""The attack finds known faults, with and without the prover's witnesses."""

import dataclasses

import pytest
import torch

from adderlab.evaluation.suites import Suite, strata
from adderlab.models.config import ModelConfig
from adderlab.models.transformer import build_model
from adderlab.proof.problem import problem_from_tables
from adderlab.proof.prove import exact_tables, greedy_answer
from adderlab.proof.trials import _neighbours, attack
from adderlab.proof.witnesses import model_margins
from adderlab.runs.checkpoints import load_checkpoint
from adderlab.task.addition import pairs_from_ints
from helpers.reference import reference_checkpoint


@pytest.fixture(scope="module")
def small_suite() -> Suite:
    """Five strata of 40 pairs."""
    whole = strata(40)
    return dataclasses.replace(whole, groups=whole.groups[:5])


def test_margins_are_negative_exactly_where_greedy_decoding_fails() -> None:
    model = load_checkpoint(reference_checkpoint("lowrank_512p_s42.pt")).module()
    pairs = [(2001000, 827999000), (9021820000, 2778180000), (5, 5), (9999999999, 1)]
    margin_BI = model_margins(model, *pairs_from_ints(pairs))
    answer = greedy_answer(model)
    assert [bool(x < 0) for x in margin_BI.min(1).values] == [answer(a, b) != a + b for a, b in pairs]
    assert margin_BI[0].min() == pytest.approx(-0.407, abs=1e-3) and int(margin_BI[0].argmin()) == 8


def test_witnesses_find_what_a_few_strata_miss(small_suite: Suite) -> None:
    checkpoint = load_checkpoint(reference_checkpoint("lowrank_512p_s42.pt"))
    model, problem = checkpoint.module(), problem_from_tables(exact_tables(checkpoint))
    result = attack(model, small_suite, problem)
    *groups, witnesses = result.attempts
    assert sum(attempt.failures for attempt in groups) == 0
    assert witnesses.failures > 10 and witnesses.margin == pytest.approx(-0.407, abs=1e-3)
    assert result.counterexample is not None
    a, b = result.counterexample
    assert greedy_answer(model)(a, b) != a + b


def test_local_search_goes_below_its_starts(small_suite: Suite) -> None:
    model = load_checkpoint(reference_checkpoint("lowrank_512p_s42.pt")).module()
    seen: list[str] = []
    result = attack(model, small_suite, None, starts=3, progress=seen.append)
    groups, searches = result.attempts[:5], result.attempts[5:]
    assert len(searches) == 11 and len(seen) == 16
    assert result.worst in searches
    assert min(s.margin for s in searches) < min(g.margin for g in groups) - 0.1
    assert all(s.n > 3 * 180 for s in searches)


def test_models_without_tables_can_be_attacked(small_suite: Suite) -> None:
    model = build_model(ModelConfig(n_layer=2), seed=0)
    result = attack(model, small_suite, None, starts=1)
    assert result.counterexample is not None and result.worst.margin < 0


def test_neighbours_are_all_changes_of_one_digit() -> None:
    a, b = pairs_from_ints([(1234567890, 987654321), (0, 9999999999)])
    near_a, near_b = _neighbours(a, b, 10)
    near = torch.cat([near_a, near_b], 2)
    changed = (near != torch.cat([a, b], 1)[:, None]).sum(2)
    assert near.shape == (2, 180, 20) and (changed == 1).all() and near.max() == 9
    assert len({tuple(row) for row in near[0].tolist()}) == 180
