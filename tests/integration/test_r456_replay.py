"""The published log's first experiment, as far as a replay can be compared: its first steps.

Expected values: R456 itself, run anew on a CPU (docs/reproducing.md).
"""

import csv

import pytest

from adderlab.cli.main import run_command
from adderlab.cli.r456 import R456Train

COMMAND = [
    "--pos-rank",
    "3",
    "--qkv-rank",
    "3",
    "--attn-out-rank",
    "2",
    "--ffn-rank",
    "3",
    "--use-rmsnorm",
    "--tie-qkv",
    "shareA_tieKV",
    "--device",
    "cpu",
    "--seed",
    "43",
]


def test_first_steps_of_experiment_e1(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    # The schedule's length does not matter before the warm-up ends at step 1350.
    arguments = [*COMMAND, "--train-steps", "201", "--eval-interval", "100", "--run-name", "e1"]
    assert run_command(R456Train, arguments, "python -m src.train") == 0
    with open("results/runs/e1/metrics.csv", newline="") as file:
        rows = {int(row["step"]): row for row in csv.DictReader(file)}
    assert float(rows[0]["train_loss"]) == pytest.approx(2.632636, rel=1e-4)
    assert float(rows[0]["val_token_acc"]) == pytest.approx(0.089982, abs=5e-7)
    assert float(rows[100]["train_loss"]) == pytest.approx(1.896949, rel=1e-4)
    assert 0.59 < float(rows[200]["train_loss"]) < 0.67
    assert '"best_val_exact": 0.0' in capsys.readouterr().out
    assert (tmp_path / "results/data/holdout_v5000_t10000_seed43.pt").is_file()
