"""FILE.py where a preset stands: rate, plan, sweep and search, and what looks at their results."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from adderlab.cli.main import main
from helpers.user_files import EXAMPLE, submission

pytest.importorskip("flint")

TINY = ("recipe.batch_size=4", "recipe.val_size=4", "recipe.test_size=4", "recipe.eval_interval=2")
PLAIN = ("recipe.restarts=null", "recipe.warmup_steps=1", *TINY)
CPU = ("--device", "cpu", "--engine", "torch", "--threads", "1")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unflushed: None) -> Iterator[Path]:
    """Commands run in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(EXAMPLE.read_text())
    yield tmp_path
    os.chdir("/")


@pytest.mark.slow
def test_rate_and_plan(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    how = ("--steps", "2", "--seeds", "0-1", "--quiet", "--set", *PLAIN)
    assert main(["rate", "mine.py", *CPU, *how]) == 0
    shown = capsys.readouterr()
    assert "proved on all 10^20 pairs as trained: 0/2" in shown.out and shown.err == ""
    (record,) = (folder / "records" / "rates").iterdir()
    row = json.loads(record.read_text())
    assert row["preset"] == "mine" and record.name.startswith("mine_auto+")
    assert (
        main(["plan", "mine.py", *CPU, "--steps", "50", "--rate", "1/4", "--json", "--set", *PLAIN]) == 0
    )
    plan = json.loads(capsys.readouterr().out)
    assert plan["preset"] == "mine"
    # A study that was begun goes on where the file is named, and says so where it is not.
    assert main(["rate", "mine.py", *CPU, *how]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_sweep_report_and_compare(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = "\n".join(TINY)
    (folder / "space.toml").write_text(
        f'preset = "mine.py"\nrecipe = "r456-54k"\nseeds = "0"\nsteps = 2\n[set]\n{settings}\n'
        "[grid]\nrecipe.lr = [0.01, 0.02]\n"
    )
    assert main(["sweep", "space.toml", *CPU, "--output", "results/sweeps/s"]) == 0
    capsys.readouterr()
    cells = sorted((folder / "results" / "sweeps" / "s" / "cells").rglob("config.json"))
    assert len(cells) == 2
    assert main(["report", "results/sweeps/s"]) == 0
    assert main(["compare", *(str(cell.parent) for cell in cells)]) == 0
    assert "recipe.lr  0.01  0.02" in capsys.readouterr().out
    assert "mine.py" in (folder / "results" / "sweeps" / "s" / "report.html").read_text()


@pytest.mark.slow
def test_a_search_ends_with_a_proved_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A submission begins with its own weights, which are right."""
    _, right = submission("7p", folder)
    how = ("--steps", "2", "--seeds", "0-", "--quiet", "--run-name", "s", "--evaluate", "none")
    small = ("recipe.lr=1e-9", "recipe.val_size=50", *PLAIN)
    assert main(["train", str(right), "--until", "proved", *CPU, *how, "--set", *small]) == 0
    found = folder / "results" / "runs" / "s"
    assert json.loads((found / "summary.json").read_text())["search"] == "proved"
    capsys.readouterr()
    assert (found / "model.py").read_bytes() == right.read_bytes()
    assert (
        main(["evaluate", str(found / "model.py"), "--weights", str(found), "--suite", "fresh:50"]) == 0
    )
    assert "50/50 right" in capsys.readouterr().out
    board = folder / "board.py"
    words = [
        "export",
        str(found / "model.py"),
        "--weights",
        str(found),
        "--to",
        "adderboard",
        "-o",
        str(board),
    ]
    assert main([*words, "--no-prove", "--suites", "fresh:50"]) == 0
    capsys.readouterr()
    assert main(["predict", str(board), "99", "1"]) == 0
    assert "= 100 " in capsys.readouterr().out
