"""The list of runs, with young, dead, published and broken ones among them."""

import json
import os
from pathlib import Path

import pytest

from adderlab.errors import UsageError
from adderlab.models.config import ModelConfig
from adderlab.runs.catalogue import list_runs
from adderlab.runs.folder import RunConfig, RunFolder, Status
from adderlab.runs.metrics import SeedRow

RATE = {"rate": 0.5, "wilson_95": [0.1, 0.9]}


def run(path: Path, status: Status | None) -> RunFolder:
    config = RunConfig(model=ModelConfig(), recipe={"steps": 9}, seeds=(1, 2))
    folder = RunFolder.create(path, config, {})
    if status is not None:
        rows = [SeedRow(seed=1, best_val_exact=0.75), SeedRow(seed=2)]
        folder.write_summary(rows, status=status, step=4, elapsed_sec=1.0, params=848, success=RATE)
    return folder


def test_every_kind_of_folder(tmp_path: Path) -> None:
    for name, status in {"done": "done", "failed": "failed", "dead": "running", "young": None}.items():
        run(tmp_path / name, status).close()  # type: ignore[arg-type]
    alive, waiting = run(tmp_path / "alive", "running"), run(tmp_path / "waiting", None)
    for name, content in {"cut": "{", "lacking": "{}"}.items():
        run(tmp_path / name, "done").close()
        (tmp_path / name / "summary.json").write_text(content)
    run(tmp_path / "lost", None).close()
    (tmp_path / "lost" / "config.json").unlink()
    (tmp_path / "data").mkdir()
    (tmp_path / "notes.txt").write_text("")

    entries = {entry.name: entry for entry in list_runs(tmp_path)}
    assert {name: entry.status for name, entry in entries.items()} == {
        "done": "done",
        "failed": "failed",
        "dead": "interrupted",
        "young": "interrupted",
        "alive": "running",
        "waiting": "started",
        "cut": "broken",
        "lacking": "broken",
        "lost": "broken",
    }
    done = entries["done"]
    assert (done.params, done.best_val_exact, done.step, done.seeds) == (848, 0.75, 4, 2)
    assert (done.success, done.problem, done.path) == (RATE, None, tmp_path / "done")
    assert entries["waiting"].seeds == 2
    for name, word in {"cut": "not JSON", "lacking": "run_name", "lost": "config.json"}.items():
        problem = entries[name].problem or ""
        assert word in problem and "\n" not in problem
    alive.close()
    waiting.close()


def test_published_folder(tmp_path: Path) -> None:
    (tmp_path / "repro").mkdir()
    summary = {
        "run_name": "repro",
        "params": 456,
        "best_val_exact": 0.0,
        "best_step": 0,
        "train_steps": 54_000,
        "elapsed_sec": 1.0,
        "model_config": {},
    }
    (tmp_path / "repro" / "summary.json").write_text(json.dumps(summary))
    (entry,) = list_runs(tmp_path)
    assert (entry.status, entry.params, entry.seeds, entry.step) == ("done", 456, 1, 54_000)


def test_oldest_first(tmp_path: Path) -> None:
    for number, name in enumerate(("b", "c", "a")):
        run(tmp_path / name, "done").close()
        for path in (tmp_path / name).rglob("*"):
            os.utime(path, (1e9 + number, 1e9 + number))
    entries = list_runs(tmp_path)
    assert [entry.name for entry in entries] == ["b", "c", "a"]
    assert entries[0].date == "2001-09-09T01:46:40+00:00"


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder of runs"):
        list_runs(tmp_path / "gone")
    assert list_runs(tmp_path) == []
