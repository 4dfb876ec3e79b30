"""Certificates about the sum of several heads (version 3), and those that bound each (version 2)."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
import torch

from adderlab.checker.intervals import Interval
from adderlab.checker.model import model_from_tables
from adderlab.checker.verify import Report, check, check_document, plain_config
from adderlab.models.config import ModelConfig
from adderlab.models.tables import Tables, plain_form
from adderlab.proof.certificate import certificate
from adderlab.proof.forms import Head
from adderlab.proof.problem import Problem, problem_from_tables
from adderlab.proof.prove import Proof, exact_tables, prove_problem
from adderlab.runs.checkpoints import load_checkpoint
from helpers.checker_cases import packed, sealed, unpacked
from helpers.paths import ROOT
from oracle.random_tables import with_value_dim

WEIGHTS = "a" * 64
CONFIG = plain_config(ModelConfig())


def opposed_heads(share: float = 3.0) -> Tables:
    """The 67p record with a second head that takes a share of the first one's output back, and a first
    one that gives as much more: each moves far, and their sum is the record's."""
    right = exact_tables(load_checkpoint(ROOT / "records" / "best" / "67p" / "model.pt"))
    query, key, value = (torch.cat([each] * 2, 3) for each in (right.query, right.key, right.value))
    out = right.head["attn_out"][:, None]
    both = with_value_dim(right, value, torch.cat([(1 + share) * out, -share * out], 1))
    return dataclasses.replace(both, query=query, key=key)


def bounded_apart(tables: Tables) -> Problem:
    """As certificates of version 2 have it: each head in coordinates of its own."""
    problem = problem_from_tables(tables)
    head = Head(
        program=tables.form.program,
        constants={name: table[0].numpy() for name, table in tables.head.items()},
    )
    return dataclasses.replace(problem, value_PVHE=tables.value[0].numpy(), head=head, summed=False)


def answer(document: dict[str, Any], tables: Tables) -> Report:
    return check(
        json.loads(json.dumps(document)),
        model_from_tables(tables.form, {name: Interval(t[0].numpy()) for name, t in tables.items()}),
        form=plain_form(tables.form),
        weights_sha256=WEIGHTS,
        config=CONFIG,
    )


@pytest.fixture(scope="module")
def proof() -> Proof:
    return prove_problem(problem_from_tables(opposed_heads()), weights_sha256=WEIGHTS, config=CONFIG)


@pytest.fixture(scope="module")
def document(proof: Proof) -> dict[str, Any]:
    return certificate(proof)


def test_heads_that_oppose_each_other_are_proved_together(
    proof: Proof, document: dict[str, Any]
) -> None:
    assert proof.verdict == "proved" and document["version"] == 3
    report = answer(document, opposed_heads())
    assert report.accepted and report.reason is None
    assert report.margin is not None and proof.margin.bound is not None
    assert proof.margin.bound <= report.margin <= proof.margin.witness
    # Bounds of each head, added, would not do: somewhere the certificate needs more than that.
    together = 0
    for step in document["steps"]:
        apart = unpacked(step["bounds"]).astype(np.float64).sum(1)
        joint = unpacked(step["joint"])
        width, alone = joint[..., 1] - joint[..., 0], apart[..., 1] - apart[..., 0]
        together += int((width < 0.5 * alone).any(1).sum())
    assert together > 0


@pytest.mark.parametrize("key", ["bounds", "joint"])
def test_no_narrower_bound_is_accepted(key: str, document: dict[str, Any]) -> None:
    steps = [dict(step) for step in document["steps"]]
    bounds = unpacked(steps[4][key])
    row = int((bounds[..., 1] - bounds[..., 0]).reshape(len(bounds), -1).max(1).argmax())
    bounds[row] = 0.5 * bounds[row] + 0.25 * bounds[row].sum(-1, keepdims=True)
    steps[4][key] = packed(bounds, "<f4")
    changed = sealed({k: v for k, v in document.items() if k != "digest"} | {"steps": steps})
    report = answer(changed, opposed_heads())
    assert not report.accepted and f"leaf {row} is not proved" in (report.reason or "")


def test_the_sum_of_other_heads_is_not_proved(document: dict[str, Any]) -> None:
    other = opposed_heads()
    other = dataclasses.replace(other, value=other.value * torch.tensor([1.0, 0.99])[:, None])
    report = answer(document, other)
    assert not report.accepted and "is not proved" in (report.reason or "")


@pytest.mark.slow
def test_bounds_of_each_head_are_still_read(document: dict[str, Any]) -> None:
    tables = opposed_heads(0.0)
    proof = prove_problem(bounded_apart(tables), weights_sha256=WEIGHTS, config=CONFIG)
    old = certificate(proof)
    assert proof.verdict == "proved" and old["version"] == 2 and "joint" not in old["steps"][0]
    assert answer(old, tables).accepted
    for swapped, version in ((old, 3), (document, 2)):
        changed = sealed({k: v for k, v in swapped.items() if k != "digest"} | {"version": version})
        assert not answer(changed, opposed_heads()).accepted


def test_one_head_has_no_certificate_about_a_sum() -> None:
    tables = exact_tables(load_checkpoint(ROOT / "records" / "best" / "67p" / "model.pt"))
    proof = prove_problem(problem_from_tables(tables), weights_sha256=WEIGHTS, config=CONFIG)
    found = certificate(proof)
    assert found["version"] == 2 and "joint" not in found["steps"][0]
    changed = sealed({k: v for k, v in found.items() if k != "digest"} | {"version": 3})
    report = answer(changed, tables)
    assert not report.accepted and "this model has one" in (report.reason or "")


@pytest.mark.slow
def test_the_two_head_record_is_proved_and_covered_as_its_file_says() -> None:
    from adderlab.checker.verify import check_file
    from adderlab.proof.prove import prove_checkpoint

    folder = ROOT / "records" / "best" / "228p"
    checkpoint = load_checkpoint(folder / "model.pt")
    stored = check_file(folder / "model.cert.json.gz", checkpoint, fp32=False)
    proof = prove_checkpoint(checkpoint)
    report = check_document(certificate(proof), checkpoint)
    assert stored.accepted and report.accepted
    assert stored.margin is not None and report.margin is not None
    assert report.margin == pytest.approx(stored.margin, rel=1e-6)
    apart = prove_problem(
        bounded_apart(exact_tables(checkpoint)),
        weights_sha256=checkpoint.weights_sha256,
        config=plain_config(checkpoint.config),
    )
    before = check_document(certificate(apart), checkpoint, fp32=False)
    assert before.accepted and before.margin is not None
    assert report.margin > before.margin  # one box for the sum is narrower than one for each head
    assert report.module_margin is not None and report.fp32 is not None and report.fp32.covered
