"""Published checkpoints, proved by the prover and checked without it; and the command line."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from adderlab.checker import FloatReport, check_file
from adderlab.checker.document import read_document
from adderlab.checker.model import margin_by_step
from adderlab.checker.verify import plain_config, read_model
from adderlab.cli.proofs import Check
from adderlab.errors import Failure, UsageError
from adderlab.models.tables import tables
from adderlab.proof.problem import problem_from_tables
from adderlab.proof.prove import prove_problem
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from helpers.reference import reference_checkpoint


def proved(checkpoint: Checkpoint, path: Path) -> Path:
    """The certificate of what the prover finds."""
    form = tables(checkpoint.config, {k: v.double() for k, v in checkpoint.stacked().items()})
    proof = prove_problem(
        problem_from_tables(form),
        weights_sha256=checkpoint.weights_sha256,
        config=plain_config(checkpoint.config),
    )
    proof.save(path)
    return path


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(certificate, checkpoint) of 456p seed 43."""
    path = reference_checkpoint("lowrank_456p_s43.pt")
    return proved(load_checkpoint(path), tmp_path_factory.mktemp("cert") / "456.json.gz"), path


@pytest.mark.slow
def test_456p_is_accepted(known: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    cert, path = known
    args = Check(certificate=cert, checkpoint=path, json=True, real_only=True)
    assert args.run() == 0
    report = json.loads(capsys.readouterr().out)
    assert report["accepted"] and report["reason"] is None and report["verdict"] == "proved"
    assert report["leaves"] == 170_300 and report["pairs_per_step"] == 10**20
    assert 0.33 <= report["margin"] <= 0.51
    low, high = report["witness"]
    assert 0.5099 < low <= high < 0.51
    assert report["fp32"] is None and "TF32" in report["not_covered"]


def test_other_weights_under_the_same_name_are_refused(known: tuple[Path, Path]) -> None:
    """One weight, one step of fp32: another hash. With the hash forged, mathematics objects to 1%."""
    cert, path = known
    checkpoint = load_checkpoint(path)
    name = "token_emb.weight"
    changed = checkpoint.params[name].clone()
    changed[3, 2] = torch.nextafter(changed[3, 2], torch.tensor(9.0))
    other = dataclasses.replace(checkpoint, params={**checkpoint.params, name: changed})
    assert "other weights" in (check_file(cert, other).reason or "")

    class Forged:
        config = checkpoint.config
        params: Any = None
        weights_sha256 = checkpoint.weights_sha256

    generator = torch.Generator().manual_seed(0)
    for seed in range(2):
        forged = Forged()
        forged.params = {
            k: v * (1 + 0.01 * torch.randn(v.shape, generator=generator))
            for k, v in checkpoint.params.items()
        }
        assert "is not proved" in (check_file(cert, forged).reason or ""), seed


def test_margins_at_pairs_agree_with_the_readable_model(known: tuple[Path, Path]) -> None:
    """The enclosures at a pair hold the float64 margins of the plain module, step by step."""
    checkpoint = load_checkpoint(known[1])
    model, _ = read_model(checkpoint)
    plain = checkpoint.module().double()
    for a, b in ((9021820000, 2778180000), (9999999999, 9999999999), (0, 0), (1234567890, 9876543210)):
        digits = torch.tensor([[n // 10**j % 10 for j in range(10)] for n in (a, b)], dtype=torch.uint8)
        tokens, targets = plain.layout.encode(digits[:1], digits[1:])
        with torch.no_grad():
            logits = plain.answer_logits(tokens)[0]
        for i, (low, high) in enumerate(margin_by_step(model, a, b)):
            right = int(targets[0, i])
            others = torch.cat([logits[i, :right], logits[i, right + 1 :]])
            margin = float(logits[i, right] - others.max())
            assert low - 1e-9 <= margin <= high + 1e-9 and high - low < 1e-7


def test_a_damaged_certificate_is_rejected_with_its_reason(
    known: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    cert, path = known
    document = read_document(cert)
    document["adderlab"] = "other"
    broken = cert.with_name("broken.json")
    broken.write_text(json.dumps(document))
    assert Check(certificate=broken, checkpoint=path).run() == 1
    out = capsys.readouterr().out
    assert "REJECTED" in out and "digest" in out
    with pytest.raises(UsageError):
        Check(certificate=cert.with_name("none.json"), checkpoint=path).run()
    with pytest.raises(Failure):
        Check(certificate=path, checkpoint=path).run()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "least", "least_fp32"),
    [
        ("lowrank_456p_s43.pt", 0.33, 0.25),
        ("microadder_67p_s71046.pt", 0.137, 0.07),
        ("qwen3_122p_lbfgs.npz", 2.31, 1.1),
    ],
)
def test_the_published_proofs_hold_in_fp32_too(
    name: str, least: float, least_fp32: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Accepted, and rounding covered on every leaf."""
    path = reference_checkpoint(name)
    cert = proved(load_checkpoint(path), tmp_path / "cert.json.gz")
    report = check_file(cert, load_checkpoint(path))
    assert report.accepted and report.margin is not None and report.margin >= least
    assert report.fp32 is not None and report.fp32.covered and report.fp32.left == 0
    assert report.fp32.margin is not None and least_fp32 <= report.fp32.margin < report.margin
    assert Check(certificate=cert, checkpoint=path).run() == 0
    out = capsys.readouterr().out
    assert "fp32: COVERED" in out and "bf16" in out


def test_fp32_described() -> None:
    """What people read where rounding may matter."""
    left = FloatReport(covered=False, left=5, margin=None)
    assert "NOT COVERED" in left.describe()[0] and "5 leaves" in left.describe()[0]
    unknown = FloatReport(covered=False, left=0, margin=None, reason="no rounding known for softplus")
    assert "softplus" in unknown.describe()[0]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_fp32_runs_of_456p_agree_with_the_proof(seed: int) -> None:
    """20,000 random pairs, half of them of zeros and nines, decoded in fp32: no error."""
    module = load_checkpoint(reference_checkpoint("lowrank_456p_s43.pt")).module()
    generator = torch.Generator().manual_seed(seed)
    for batch in range(10):
        digits = torch.randint(0, 10, (2, 2000, 10), generator=generator)
        if batch % 2:
            digits = torch.where(digits < 5, 0, 9)
        a, b = digits.to(torch.uint8)
        _, targets = module.layout.encode(a, b)
        answers = module.generate(module.layout.encode_prompt(a, b))
        assert torch.equal(answers[:, :11], targets[:, :11])


@pytest.mark.slow
def test_a_refuted_model_is_not_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = reference_checkpoint("qwen3_122p.npz")
    cert = proved(load_checkpoint(path), tmp_path / "cert.json.gz")
    assert Check(certificate=cert, checkpoint=path).run() == 1
    out = capsys.readouterr().out
    assert "NOT A PROOF" in out and "certainly fails" in out and "failing_pairs" in out


@pytest.mark.slow
def test_jittered_weights_are_never_accepted(tmp_path: Path) -> None:
    """456p with every weight changed by about 1%: refuted, and the counterexample certainly fails."""
    checkpoint = load_checkpoint(reference_checkpoint("lowrank_456p_s43.pt"))
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        params = {
            k: v * (1 + 0.01 * torch.randn(v.shape, generator=generator))
            for k, v in checkpoint.params.items()
        }
        jittered = dataclasses.replace(checkpoint, params=params)
        save_checkpoint(tmp_path / "jittered.pt", jittered)
        report = check_file(proved(jittered, tmp_path / "cert.json"), jittered)
        assert not report.accepted and report.counterexample_confirmed, seed
