"""What is said about a model when it is published is what was measured, or stands in a certificate."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from adderlab.engine.torch_tables import TorchEngine
from adderlab.errors import Failure, UsageError
from adderlab.models.transformer import build_model
from adderlab.models.zoo import get_preset
from adderlab.proof.certificate import digest
from adderlab.publish.model_card import (
    Evidence,
    ProofStatement,
    accuracy_line,
    ask_prover,
    measure,
    read_certificate,
    success_rate,
)
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint
from helpers.golden import Golden
from helpers.reference import reference_checkpoint


def checkpoint() -> Checkpoint:
    config = get_preset("36p").config
    params = {name: p.detach() for name, p in build_model(config, 0).named_parameters()}
    return Checkpoint(config=config, params=params, recipe={}, step=0, val_exact=0.0)


def document(**changes: Any) -> dict[str, Any]:
    body = {
        "format": "adderlab-certificate",
        "version": 1,
        "weights_sha256": checkpoint().weights_sha256,
        "verdict": "proved",
        "failing_pairs": 0,
        "counterexample": None,
        "margin": {"bound": 0.25, "witness": 0.5, "pair": [1, 2]},
        "steps": None,
    } | changes
    return {**body, "digest": digest(body)}


@pytest.mark.parametrize("packed", [False, True])
def test_a_certificate_of_these_weights_is_read(packed: bool, tmp_path: Path) -> None:
    path = tmp_path / "cert"
    data = json.dumps(document()).encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    statement, stored = read_certificate(path, checkpoint())
    assert stored == path.read_bytes()
    assert statement.verdict == "proved" and statement.pair == (1, 2)


def test_the_failing_pairs_of_a_refutation_are_read(tmp_path: Path) -> None:
    path = tmp_path / "cert"
    margin = {"bound": None, "witness": -0.5, "pair": [1, 2]}
    refuted = document(verdict="refuted", failing_pairs=[5, 7000], counterexample=[3, 4], margin=margin)
    path.write_text(json.dumps(refuted))
    statement, _ = read_certificate(path, checkpoint())
    assert (statement.verdict, statement.failing_pairs) == ("refuted", (5, 7000))
    assert statement.pair == (3, 4), "a counterexample, rather than the pair of the smallest margin"


def test_proofs_are_described(golden: Golden) -> None:
    known: dict[str, Any] = {"margin_witness": 0.5, "pair": (3, 4), "source": "a test"}
    statements = [
        ProofStatement(verdict="proved", failing_pairs=0, margin_bound=0.25, **known),
        ProofStatement(verdict="proved", failing_pairs=0, margin_bound=None, **known),
        ProofStatement(verdict="refuted", failing_pairs=(5, 7000), margin_bound=None, **known),
        ProofStatement(verdict="refuted", failing_pairs=70_000, margin_bound=None, **known),
        ProofStatement(verdict="undecided", failing_pairs=(0, 9), margin_bound=None, **known),
    ]
    sentences = [statement.sentence() for statement in statements]
    golden("publish/proofs.txt", "\n".join([*sentences, *Evidence().lines()]) + "\n")


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (json.dumps(document(weights_sha256="0" * 64)), UsageError, "about other weights"),
        (json.dumps(document() | {"verdict": "refuted"}), Failure, "was altered"),
        (json.dumps(document(margin={})), Failure, "not a whole certificate"),
        (json.dumps(document(counterexample=[1])), Failure, "not a whole certificate"),
        ("{}", Failure, "no certificate"),
        ("[]", Failure, "no certificate"),
        ("nonsense", Failure, "no certificate"),
        ("[" * 100_000, Failure, "no certificate"),
        (b"\x1f\x8bnonsense", Failure, "no certificate"),
    ],
    ids=["other", "altered", "no margin", "half a pair", "empty", "list", "text", "deep", "gzip"],
)
def test_other_certificates_are_refused(
    content: str | bytes, error: type, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "cert"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(error, match=words):
        read_certificate(path, checkpoint())


def test_a_missing_certificate_is_a_wrong_command(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no certificate"):
        read_certificate(tmp_path / "nothing", checkpoint())


def test_accuracy_is_measured() -> None:
    (report,) = measure(checkpoint(), TorchEngine(1), ("fresh:200",))
    assert report.total.n == 200 and report.total.errors > 0
    assert f"{200 - report.total.errors}/200" in accuracy_line(report)
    with pytest.raises(UsageError):
        measure(checkpoint(), None, ("everything",))


@pytest.mark.slow
def test_the_prover_is_asked() -> None:
    statement = ask_prover(load_checkpoint(reference_checkpoint("microadder_67p_s71046.pt")))
    assert statement.verdict == "proved" and statement.failing_pairs == 0
    assert statement.margin_witness == pytest.approx(0.1377, abs=1e-3)
    refuted = ask_prover(load_checkpoint(reference_checkpoint("lowrank_512p_s42.pt")))
    assert refuted.verdict == "refuted"
    assert refuted.failing_pairs == 9_421_238_742_319_500


def run_folder(path: Path, success: Any) -> Path:
    (path / "checkpoints").mkdir(parents=True)
    summary = {
        "run_name": "x",
        "params": 36,
        "best_val_exact": 1.0,
        "best_step": 1,
        "train_steps": 2,
        "elapsed_sec": 1.0,
        "model_config": {},
        "success": success,
    }
    (path / "summary.json").write_text(json.dumps(summary))
    (path / "seeds.csv").write_text("seed\n")
    return path / "checkpoints" / "best.pt"


def test_the_success_rate_is_the_runs_own(tmp_path: Path, golden: Golden) -> None:
    best = run_folder(tmp_path / "run", {"successes": 12, "seeds": 16})
    golden("publish/success_rate.txt", f"{success_rate(best)}\n")
    kept = tmp_path / "run" / "seed_0003" / "checkpoints" / "best.pt"
    assert success_rate(kept) == success_rate(best)
    assert success_rate(run_folder(tmp_path / "old", None)) is None
    assert success_rate(tmp_path / "alone.pt") is None
    assert success_rate(None) is None
