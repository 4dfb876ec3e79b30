"""The published log's first experiment, as far as a replay can be compared: its first steps.

Expected values: R456 itself, run anew on a CPU (docs/reproducing.md).
"""

import csv
import os

import pytest

from adderlab.cli.main import run_command
from adderlab.cli.r456 import R456Train
from adderlab.runs.checkpoints import load_checkpoint

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


def test_models_side_by_side_are_those_trained_alone(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    quick = ["--train-steps", "11", "--eval-interval", "10", "--batch-size", "16", "--val-size", "50"]
    several = [*COMMAND, *quick, "--num-models", "2", "--run-name", "two", "--no-wandb"]
    assert run_command(R456Train, several, "python -m src.train") == 0
    alone = [*COMMAND, *quick, "--run-name", "one"]
    alone[alone.index("43")] = "44"
    assert run_command(R456Train, alone, "python -m src.train") == 0
    runs = tmp_path / "results/runs"
    both = [load_checkpoint(runs / f"{at}/checkpoints/last.pt") for at in ("two/seed_0044", "one")]
    assert both[0].weights_sha256 == both[1].weights_sha256
    assert load_checkpoint(runs / "two/seed_0043/checkpoints/best.pt").seed == 43
    assert (tmp_path / "results/data/holdout_v50_t10000_seed44.pt").is_file()
    assert run_command(R456Train, [*COMMAND, "--num-models", "0"], "python -m src.train") == 2


def test_wandb_is_a_sink(monkeypatch) -> None:
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.setenv(name, "before")
    assert R456Train()._sinks() == ()
    assert R456Train(wandb=True, wandb_mode="disabled")._sinks() == ()
    assert os.environ["WANDB_PROJECT"] == "before"
    command = R456Train(wandb=True, wandb_mode="offline", wandb_project="us/adders")
    assert command._sinks() == ("wandb",)
    assert os.environ["WANDB_MODE"] == "offline"
    assert (os.environ["WANDB_ENTITY"], os.environ["WANDB_PROJECT"]) == ("us", "adders")
