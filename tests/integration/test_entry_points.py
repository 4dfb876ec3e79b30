"""The published log's commands, as printed, on the published checkpoints."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.paths import ROOT
from helpers.reference import reference_checkpoint

KEYS = {"model", "checkpoint", "parameters", "config", "training", "multi_seed_validation"}


@pytest.mark.parametrize(
    ("name", "parameters", "errors"),
    [
        ("lowrank_456p_s43.pt", 456, 0),
        pytest.param("lowrank_512p_s42.pt", 512, 12, marks=pytest.mark.slow),
    ],
)
def test_evaluate_checkpoints_as_printed(
    name: str, parameters: int, errors: int, tmp_path: Path
) -> None:
    output = tmp_path / "eval.json"
    command = [sys.executable, "evaluate_checkpoints.py", str(reference_checkpoint(name))]
    done = subprocess.run(
        [*command, "--device", "cpu", "--output", str(output)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    assert set(report) == KEYS
    assert report["parameters"] == parameters
    validation = report["multi_seed_validation"]
    assert set(validation) == {
        "total_examples",
        "num_test_sets",
        "aggregate_exact_match",
        "aggregate_errors",
        "per_seed",
    }
    assert validation["total_examples"] == 100_000 and validation["num_test_sets"] == 10
    assert validation["aggregate_errors"] == errors
    assert validation["aggregate_exact_match"] == pytest.approx(1 - errors / 100_000)
    assert sum(each["errors"] for each in validation["per_seed"].values()) == errors


def test_train_as_printed_from_the_repository_root(tmp_path: Path) -> None:
    flags = (
        "--pos-rank 3 --qkv-rank 3 --attn-out-rank 2 --ffn-rank 3 --use-rmsnorm --tie-qkv shareA_tieKV"
    )
    command = [sys.executable, "-m", "src.train", "--run-name", "door", *flags.split()]
    command += ["--total-steps", "3", "--device", "cpu", "--seed", "43"]
    command += ["--run-dir", str(tmp_path / "door"), "--split-dir", str(tmp_path / "data")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "door/summary.json").read_text())
    assert summary["params"] == 456 and summary["train_steps"] == 3
    assert (tmp_path / "door/checkpoints/best.pt").is_file()
    assert (tmp_path / "door/checkpoints/last.pt").is_file()


def test_a_missing_device_is_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "src.train", "--device", "mps"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "--device cpu" in done.stderr
