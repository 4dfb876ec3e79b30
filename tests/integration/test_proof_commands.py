"""``adderlab prove`` and ``adderlab attack`` as a user meets them."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from adderlab.cli.main import run_command
from adderlab.cli.proofs import Attack, Prove, Repair
from adderlab.models.config import ModelConfig
from adderlab.models.transformer import build_model
from adderlab.proof.prove import Margin, Verdict
from adderlab.runs.checkpoints import Checkpoint, save_checkpoint
from helpers.reference import disturbed, proved_model, proved_path


@pytest.fixture(scope="module")
def two_layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = ModelConfig(n_layer=2)
    params = {name: p.detach() for name, p in build_model(config, seed=0).named_parameters()}
    path = tmp_path_factory.mktemp("two") / "two.pt"
    save_checkpoint(path, Checkpoint(config=config, params=params, recipe={}, step=0, val_exact=0.0))
    return path


def test_prove_prints_the_verdict_and_writes_a_certificate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, cert = proved_path("67p"), tmp_path / "cert.json.gz"
    assert run_command(Prove, [str(path), "--output", str(cert)], "adderlab prove") == 0
    out = capsys.readouterr().out
    assert "67 parameters" in out and "PROVED" in out and "1.4267 logits at" in out
    assert f"adderlab check {cert} {path}" in out
    assert cert.read_bytes()[:2] == b"\x1f\x8b"


def test_prove_a_window(capsys: pytest.CaptureFixture[str]) -> None:
    path = proved_path("67p")
    assert run_command(Prove, [str(path), "--window", "1", "--json"], "adderlab prove") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["pairs"] == 100 and value["agree"] and value["checker"]["accepted"]
    assert value["prover"]["verdict"] == "proved" and value["float32"]["failing_pairs"] == 0


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fails on some pairs in a thousand."""
    path = tmp_path_factory.mktemp("wrong") / "wrong.pt"
    save_checkpoint(path, disturbed(proved_model()))
    return path


def test_prove_as_json(wrong: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = wrong
    assert run_command(Prove, [str(path), "--json", "--cells", "3000"], "adderlab prove") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["verdict"] == "refuted"
    low, high = value["failing_pairs"]
    assert 10**17 < low < high < 10**18
    a, b = value["counterexample"]
    assert value["answer"] != a + b
    assert set(value["margin"]) == {"bound", "witness", "pair"}
    assert value["margin"]["bound"] <= value["margin"]["witness"] < 0 < value["seconds"]


def verdict(**values: object) -> Verdict:
    base = Verdict(
        verdict="undecided",
        failing_pairs=(0, 12345),
        failing_by_step=(0, (0, 12345)),
        counterexample=None,
        answer=None,
        margin=Margin(bound=None, witness=0.25, pair=(1, 2), step=1),
        reason="12345 cases (pair and step) were still open when the search stopped.",
        seconds=1.0,
        leaves=170300,
        cells=10,
        split_leaves=1,
    )
    return dataclasses.replace(base, **values)  # type: ignore[arg-type]


def test_every_verdict_is_described() -> None:
    words = "\n".join(verdict().describe())
    assert "UNDECIDED" in words and "0 to 12,345" in words and "still open" in words
    assert "no bound is known" in words and "1 split into 10 cells" in words
    words = "\n".join(
        verdict(verdict="refuted", failing_pairs=10**18, counterexample=(5, 6), answer=-1).describe()
    )
    assert "REFUTED: 1,000,000,000,000,000,000 (1.0000e-02) of" in words
    assert "5 + 6 = 11; the model, run in fp32, answers no number" in words


def test_proving_does_not_load_the_compiler() -> None:
    """torch._dynamo and sympy take as long to load as the proof takes."""
    path = proved_path("67p")
    program = (
        "import sys; from adderlab.cli.main import main; code = main(sys.argv[1:]); "
        "sys.exit(code or 'torch._dynamo' in sys.modules)"
    )
    command = [sys.executable, "-c", program, "prove", str(path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verdict"] == "proved"


def test_models_outside_the_table_form_are_refused_and_attacked(
    two_layers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(Prove, [str(two_layers)], "adderlab prove") == 2
    line = capsys.readouterr().err.strip()
    assert "cannot be proved" in line and "2 layers" in line and "adderlab attack" in line
    assert (
        run_command(Attack, [str(two_layers), "--pairs", "3", "--starts", "1"], "adderlab attack") == 0
    )
    out = capsys.readouterr().out
    assert "local search, digit s_10" in out and "2 layers" in out and "a failing pair: " in out


def test_attack_as_json(wrong: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = wrong
    assert run_command(Attack, [str(path), "--pairs", "5", "--json"], "adderlab attack") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["attempts"][-1]["name"] == "the prover's witnesses"
    a, b = value["counterexample"]
    assert value["margin"]["pair"] == [a, b] and value["margin"]["witness"] < -0.4


@pytest.mark.parametrize(
    ("module", "argv", "words"),
    [
        (Prove, ["missing.pt"], "missing.pt"),
        (Prove, ["CKPT", "--cells", "-1"], "cells must be 0 or more"),
        (Prove, ["CKPT", "--seconds", "0"], "seconds must be above 0"),
        (Prove, ["CKPT", "--window", "4"], "a window has 1 to 3 columns, not 4"),
        (Prove, ["CKPT", "--window", "1", "--output", "x.json"], "a window has no certificate"),
        (Attack, ["missing.pt", "--pairs", "0"], "pairs must be 1 or more"),
        (Attack, ["missing.pt", "--starts", "0"], "starts must be 1 or more"),
        # Before the work, not after it: the model is not even looked for.
        (Repair, ["missing.pt", "--output", "out.txt"], "saved as .pt or .safetensors"),
    ],
)
def test_wrong_usage_is_one_line(
    module, argv, words, two_layers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [str(two_layers) if word == "CKPT" else word for word in argv]
    assert run_command(module, argv, "adderlab") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
