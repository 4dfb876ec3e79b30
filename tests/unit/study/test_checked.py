"""PROVED means checked: the prover alone "decides", and what the checker rejects is undecided."""

import builtins
from typing import Any

import pytest

from adderlab.checker import verify
from adderlab.checker.verify import Report
from adderlab.proof.prove import Progress, Proof, prove_checkpoint
from adderlab.proof.search import Limits
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint
from adderlab.study.verdicts import RUN_LIMITS, checked, decide
from helpers.paths import ROOT


@pytest.fixture(scope="module")
def record() -> Checkpoint:
    return load_checkpoint(ROOT / "records" / "best" / "7p" / "model.pt")


@pytest.fixture(scope="module")
def proof(record: Checkpoint) -> Proof:
    return prove_checkpoint(record)


def test_the_prover_alone_decides_and_the_checker_proves(record: Checkpoint, proof: Proof) -> None:
    assert proof.verdict == "proved" and proof.checked is None
    assert proof.describe()[0].startswith("DECIDED (float64)")
    seen: list[Progress] = []
    found = checked(proof, record, seen.append)
    assert found.checked is True and found.verdict == "proved"
    assert found.describe()[0].startswith("PROVED") and found.to_dict()["checked"] is True
    assert {each.phase for each in seen} == {"check"} and seen[-1].done == seen[-1].total
    assert found.seconds > proof.seconds and found.margin == proof.margin
    assert decide(record, RUN_LIMITS).checked


def test_what_the_checker_rejects_is_undecided(
    record: Checkpoint, proof: Proof, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reject(*_: Any, **__: Any) -> Report:
        return Report(
            accepted=False, verdict="proved", reason="step 3: the bound of leaf 5 is not proved"
        )

    monkeypatch.setattr(verify, "check_document", reject)
    found = checked(proof, record)
    assert found.verdict == "undecided" and found.checked is False
    assert found.failing_pairs == (0, 10**20)
    assert "does not accept" in found.reason and "leaf 5" in found.reason
    assert not any("PROVED" in line or "DECIDED (" in line for line in found.describe())


def test_without_flint_nothing_is_called_proved(
    record: Checkpoint, proof: Proof, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "adderlab.checker.verify":
            raise ModuleNotFoundError("No module named 'flint'", name="flint")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    found = checked(proof, record)
    assert found is proof and "pip install python-flint" in found.describe()[1]


def test_a_refuted_model_needs_no_checker(record: Checkpoint) -> None:
    params = {name: 0 * p for name, p in record.params.items()}
    wrong = prove_checkpoint(
        Checkpoint(config=record.config, params=params, recipe={}, step=0, val_exact=0.0),
        limits=Limits(cells=0, union_seconds=0.0),
    )
    assert wrong.verdict != "proved" and checked(wrong, record) is wrong
