"""Weights of any size: one clear line or a correct verdict, and JSON that every reader accepts."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from adderlab.checker import check_file
from adderlab.errors import Failure
from adderlab.proof.prove import prove_checkpoint
from adderlab.proof.search import Limits
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint
from helpers.paths import ROOT


def record(name: str) -> Path:
    return ROOT / "records" / "best" / name / "model.pt"


def changed(name: str, factor: float, only: str = "") -> Checkpoint:
    """A record with every tensor, or those whose name holds ``only``, times ``factor``."""
    checkpoint = load_checkpoint(record(name))
    params = {n: p * factor if only in n else p for n, p in checkpoint.params.items()}
    return dataclasses.replace(checkpoint, params=params)


def with_stride(name: str, stride: float) -> Checkpoint:
    checkpoint = load_checkpoint(record(name))
    params = {
        n: torch.full_like(p, stride) if "stride" in n else p for n, p in checkpoint.params.items()
    }
    return dataclasses.replace(checkpoint, params=params)


CASES = {
    "456p, all x 1e30": lambda: changed("456p", 1e30),
    "456p, all x 1e20": lambda: changed("456p", 1e20),
    "456p, all x 1e-40": lambda: changed("456p", 1e-40),
    "122p, all x 1e30": lambda: changed("122p", 1e30),
    "57p, all x 1e30": lambda: changed("57p", 1e30),
    "57p, all x 1e-20": lambda: changed("57p", 1e-20),
    "57p, all x 0": lambda: changed("57p", 0.0),
    "456p, queries x 1e30": lambda: changed("456p", 1e30, "attn.q"),
    "456p, queries x 1e6": lambda: changed("456p", 1e6, "qkv_Bq"),
    "57p, stride 1e30": lambda: with_stride("57p", 1e30),
    "57p, stride 1e10": lambda: with_stride("57p", 1e10),
    "7p, stride 1e10": lambda: with_stride("7p", 1e10),
}
LONG = (
    "456p, queries x 1e6",
    "456p, all x 1e20",
    "122p, all x 1e30",
    "57p, all x 1e-20",
    "57p, all x 0",
    "57p, stride 1e30",
    "57p, stride 1e10",
)
"""Cases of which another record has the like: in the slow tests."""


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] * (case in LONG)) for case in CASES]
)
@pytest.mark.slow
def test_a_clear_line_or_a_verdict(case: str, tmp_path: Path) -> None:
    checkpoint = CASES[case]()
    try:
        proof = prove_checkpoint(checkpoint, limits=Limits(cells=0, union_seconds=0.5))
    except Failure as failure:
        assert "too large for the prover" in str(failure) and "\n" not in str(failure)
        return
    assert proof.verdict in ("refuted", "undecided")
    text = json.dumps(proof.to_dict(), allow_nan=False)
    assert json.loads(text)["verdict"] == proof.verdict and proof.describe()
    proof.save(tmp_path / "cert.json.gz")
    try:
        report = check_file(tmp_path / "cert.json.gz", checkpoint)
    except Failure as failure:
        assert "cannot be enclosed" in str(failure)
        return
    json.dumps(report.to_dict(), allow_nan=False)
    assert not report.accepted and report.describe()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.slow
def test_a_certificate_of_the_record_says_nothing_about_extreme_weights(case: str) -> None:
    """With the hash forged: the checker itself finds that nothing is proved."""

    class Forged:
        config = CASES[case]().config
        params = CASES[case]().params
        weights_sha256 = load_checkpoint(record(case.split(",")[0])).weights_sha256

    path = record(case.split(",")[0]).with_suffix(".cert.json.gz")
    try:
        report = check_file(path, Forged())
    except Failure as failure:
        assert "cannot be enclosed" in str(failure)
        return
    assert not report.accepted and "is not proved" in (report.reason or "")
