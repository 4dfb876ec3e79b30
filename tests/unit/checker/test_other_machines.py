"""Certificates travel: made on one machine, accepted on another, refused for another configuration.

Other machines are simulated: PyTorch without its vector kernels, and another number of BLAS threads,
give other last bits.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from adderlab.checker import check_file
from adderlab.checker.document import read_document
from adderlab.proof.prove import prove_checkpoint
from adderlab.runs.checkpoints import load_checkpoint
from helpers.models import config_of
from helpers.paths import ROOT

BEST = ROOT / "records" / "best"
MAIN = "import sys; from adderlab.cli.main import main; sys.exit(main(sys.argv[1:]))"
OTHER_MACHINE = {"ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}


def elsewhere(*command: str) -> dict:
    """What a command prints as JSON in a process that computes differently."""
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *command, "--json"],
        env={**os.environ, **OTHER_MACHINE},
        capture_output=True,
        text=True,
    )
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", ["67p", pytest.param("262p", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_certificate_made_elsewhere_is_accepted_here(name: str, tmp_path: Path) -> None:
    model, cert = BEST / name / "model.pt", tmp_path / "cert.json.gz"
    assert elsewhere("prove", str(model), "--output", str(cert))["verdict"] == "proved"
    assert read_document(cert)["version"] == 2
    assert check_file(cert, load_checkpoint(model), fp32=False).accepted


@pytest.mark.slow
def test_a_kept_certificate_is_accepted_elsewhere() -> None:
    """Of version 1, and with a hash of tables that holds on the machine that made it."""
    folder = BEST / "62p"
    cert = folder / "model.cert.json.gz"
    assert read_document(cert)["version"] == 1
    report = elsewhere("check", str(cert), str(folder / "model.pt"), "--real-only")
    assert report["accepted"], report


@pytest.mark.slow
@pytest.mark.parametrize(
    "cert", sorted(BEST.glob("*/model.cert.json.gz")), ids=lambda path: path.parent.name
)
def test_every_kept_certificate_is_accepted_elsewhere(cert: Path) -> None:
    model = cert.with_name("model.pt")
    assert elsewhere("check", str(cert), str(model), "--real-only")["accepted"]


@pytest.mark.slow
def test_the_same_weights_in_another_configuration_are_refused(tmp_path: Path) -> None:
    """By name where the certificate has one, by mathematics where it has none."""
    folder = BEST / "67p"
    checkpoint = load_checkpoint(folder / "model.pt")
    assert config_of(checkpoint).positions == "fixed_spiral"
    radius, b, c, d = config_of(checkpoint).spiral
    config = dataclasses.replace(config_of(checkpoint), spiral=(1.5 * radius, b, c, d))
    other = dataclasses.replace(checkpoint, config=config)
    assert other.weights_sha256 == checkpoint.weights_sha256
    older = check_file(folder / "model.cert.json.gz", other, fp32=False)
    assert not older.accepted and "is not proved" in (older.reason or "")
    cert = prove_checkpoint(checkpoint).save(tmp_path / "cert.json.gz")
    assert check_file(cert, checkpoint, fp32=False).accepted
    assert "another configuration: spiral is" in (check_file(cert, other, fp32=False).reason or "")
