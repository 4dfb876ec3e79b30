"""A model with attention too sharp for plain float64 weights: proved, and checked, all the same."""

import dataclasses
import json

import pytest
import torch

from adderlab.checker.intervals import Interval
from adderlab.checker.model import model_from_tables
from adderlab.checker.verify import Report, check, plain_config
from adderlab.models.config import ModelConfig
from adderlab.models.tables import Tables, plain_form
from adderlab.proof.certificate import certificate
from adderlab.proof.problem import problem_from_tables
from adderlab.proof.prove import Proof, exact_tables, prove_problem
from adderlab.proof.search import Limits
from adderlab.runs.checkpoints import load_checkpoint
from helpers.paths import ROOT
from oracle.random_tables import with_value_dim

WEIGHTS = "a" * 64


def with_second_head(value: float) -> Tables:
    """The 67p record, and a head with scores of 10^5 on nines whose values are ``value``, 0 on a 9."""
    right = exact_tables(load_checkpoint(ROOT / "records" / "best" / "67p" / "model.pt"))
    query, key = torch.zeros_like(right.query), torch.zeros_like(right.key)
    query[..., 0], key[:, :, 9, :, 0] = 1.0, 1e5
    values = torch.full_like(right.value, value)
    values[:, :, 9] = 0.0
    out = right.head["attn_out"][:, None]
    return dataclasses.replace(
        with_value_dim(right, torch.cat([right.value, values], 3), torch.cat([out, out], 1)),
        query=torch.cat([right.query, query], 3),
        key=torch.cat([right.key, key], 3),
    )


def checked(tables: Tables, **limits: int) -> tuple[Proof, Report]:
    config = plain_config(ModelConfig())
    problem = problem_from_tables(tables)
    proof = prove_problem(problem, weights_sha256=WEIGHTS, config=config, limits=Limits(**limits))
    enclosed = {name: Interval(table[0].numpy()) for name, table in tables.items()}
    report = check(
        json.loads(json.dumps(certificate(proof))),
        model_from_tables(tables.form, enclosed),
        form=plain_form(tables.form),
        weights_sha256=WEIGHTS,
        config=config,
    )
    return proof, report


@pytest.mark.slow
def test_a_sharp_head_that_changes_nothing_is_accepted() -> None:
    proof, report = checked(with_second_head(0.0))
    assert proof.verdict == "proved" and report.accepted and report.reason is None
    assert report.margin == pytest.approx(proof.margin.bound, rel=0.02)


def test_a_sharp_head_that_spoils_every_pair_without_a_nine_is_refuted() -> None:
    """All weights of those pairs underflow beside a 9's; a prover that lost them would prove this."""
    tables = with_second_head(30.0)
    proof, report = checked(tables, cells=0)
    assert proof.verdict == "refuted" and proof.counterexample is not None
    assert "9" not in str(proof.counterexample)
    assert report.counterexample_confirmed and not report.accepted


@pytest.mark.slow
def test_a_proof_of_the_harmless_head_does_not_serve_the_other() -> None:
    proof, _ = checked(with_second_head(0.0))
    wrong = with_second_head(30.0)
    report = check(
        json.loads(json.dumps(certificate(proof))),
        model_from_tables(wrong.form, {name: Interval(t[0].numpy()) for name, t in wrong.items()}),
        form=plain_form(wrong.form),
        weights_sha256=WEIGHTS,
        config=plain_config(ModelConfig()),
    )
    assert not report.accepted and "is not proved" in (report.reason or "")
