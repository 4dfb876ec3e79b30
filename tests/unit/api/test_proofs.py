"""Deciding all pairs through the API: every way to name the model, results as data, errors as told."""

import json
import sys
from pathlib import Path

import pytest

import adderlab as al
from helpers.paths import ROOT

SEVEN = ROOT / "records" / "best" / "7p" / "model.pt"


@pytest.fixture(scope="module")
def seven() -> al.Model:
    return al.load(SEVEN)


def test_a_proof_its_certificate_and_its_check(seven: al.Model, tmp_path: Path) -> None:
    phases: list[str] = []
    proof = al.prove(seven, progress=lambda progress: phases.append(progress.phase))
    assert (proof.verdict, proof.failing_pairs, proof.counterexample) == ("proved", 0, None)
    assert "leaves" in phases and proof.weights_sha256 == seven.weights_sha256
    assert proof.summary == proof.summary and type(proof.summary) is not type(proof)
    path = proof.save(tmp_path / "seven.json.gz")
    counts: list[tuple[int, int]] = []
    report = al.check(path, SEVEN, fp32=False, progress=lambda done, total: counts.append((done, total)))
    assert report.accepted and counts[-1][0] == counts[-1][1] and report.fp32 is None
    other = al.check(path, ROOT / "records" / "best" / "8p" / "model.pt", fp32=False)
    assert not other.accepted and "other weights" in str(other.reason)
    for result in (proof, report, other):
        json.dumps(result.to_dict(), allow_nan=False)
        assert repr(result) == "\n".join(result.describe())


def test_a_check_in_several_processes_says_the_same() -> None:
    certificate = SEVEN.with_name("model.cert.json.gz")
    alone, shared = ({**al.check(certificate, SEVEN, threads=n).to_dict()} for n in (1, 3))
    alone.pop("seconds"), shared.pop("seconds")
    assert alone == shared and alone["accepted"] and alone["fp32"]["covered"]


def test_without_python_flint_the_remedy_is_named(
    seven: al.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("adderlab.checker")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(sys.modules["adderlab"], "checker", raising=False)
    monkeypatch.setitem(sys.modules, "flint", None)
    with pytest.raises(al.Failure, match="pip install python-flint"):
        al.check(tmp_path / "none.json", seven)


def test_an_attack_finds_nothing_on_a_proved_model(seven: al.Model) -> None:
    tried: list[str] = []
    found = al.attack(seven, pairs=3, starts=1, progress=tried.append)
    assert found.counterexample is None and found.no_witnesses is None
    assert tried[0] == "uniform" and tried[-1] == "the prover's witnesses"
    assert found.to_dict()["checked"] == sum(attempt.n for attempt in found.attempts)
    assert found.describe()[-1].startswith("no failing pair found")


def test_a_repair_of_a_proved_model_trains_nothing(seven: al.Model) -> None:
    rounds = []
    repaired = al.repair(seven, on_round=rounds.append)
    assert repaired.proved and repaired.trainings == 0 and len(rounds) == 1
    assert al.load(repaired).weights_sha256 == seven.weights_sha256
    assert isinstance(repaired.checkpoint, al.Model)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda model: al.prove(model, cells=-1), "cells must be 0 or more, not -1"),
        (lambda model: al.prove(model, seconds=0), "seconds must be above 0, not 0"),
        (lambda model: al.attack(model, pairs=0), "pairs must be 1 or more, not 0"),
        (lambda model: al.repair(model, rounds=0), "rounds must be at least 1, not 0"),
        (lambda model: al.check("nowhere.json", model), r"nowhere\.json"),
    ],
)
def test_wrong_arguments_are_usage_errors(call, words: str, seven: al.Model) -> None:
    with pytest.raises(al.UsageError, match=words):
        call(seven)
