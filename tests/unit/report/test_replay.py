"""A declared series, run for real on a tiny scale: in order, resumable, checked, logged."""

import json
import signal
from pathlib import Path

import pytest

from adderlab.cli.main import CommandLine, main
from adderlab.report.replay import find_replay, open_replay
from adderlab.training import run as writer

TRAIN = (
    "adderlab train 456p --seeds 0-1 --steps 12 --run-name tiny --device cpu --engine torch "
    "--threads 1 --evaluate fresh:20 --set recipe.batch_size=8 recipe.val_size=20 recipe.prefit.steps=2 "
    "recipe.eval_interval=3"
)
SERIES = f'''
schema_version = 1
name = "tiny"
title = "A tiny series"
reported_by = "the paper"

[[experiment]]
name = "A"
title = "train"
reported = "It did not learn."
[[experiment.step]]
command = """{TRAIN}"""
run = "results/runs/tiny"
[[experiment.expect]]
file = "results/runs/tiny/summary.json"
key = "status"
reads = "done"

[[experiment]]
name = "B"
title = "evaluate"
[[experiment.step]]
command = """
adderlab evaluate results/runs/tiny/checkpoints/best.pt
  --suite fresh:30 --device cpu --output results/e.json"""
output = "results/e.json"
needs = ["results/runs/tiny/checkpoints/best.pt"]
'''
PUBLISHED = """
[[experiment]]
name = "C"
title = "published"
[[experiment.step]]
command = "python evaluate_checkpoints.py elsewhere/best.pt --output results/c.json"
output = "results/c.json"
needs = ["elsewhere/best.pt"]
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("s.toml").write_text(SERIES)
    return tmp_path


def record_path() -> Path:
    (path,) = Path("records").iterdir()
    return path


def test_a_series_runs_is_checked_logged_and_not_run_twice(lab: Path, monkeypatch, capsys) -> None:
    assert main(["replay", "s.toml"]) == 0
    log = Path("EXPERIMENTS.md").read_text()
    assert log.index("beside what the paper reported") < log.index("#### Experiment A")
    assert "It did not learn." in log and "0 of 2 seeds learned to add" in log
    assert "20 of 20 pairs wrong on suite fresh:20" in log
    assert "met: status is done; found done" in log
    # The records alone are enough for the log, and the run knows its own command.
    record = open_replay(record_path())
    config = json.loads(record.locate("results/runs/tiny/config.json").read_text())
    assert config["command"] == TRAIN.split()
    assert not (record_path() / "tiny" / "state.pt").exists()

    def never(*_: object) -> None:
        raise AssertionError("a finished step ran again")

    monkeypatch.setattr(CommandLine, "run", never)
    capsys.readouterr()
    assert main(["replay", "s.toml"]) == 0
    assert "Already run" in capsys.readouterr().out
    assert Path("EXPERIMENTS.md").read_text() == log
    assert main(["log", "records"]) == 0
    assert Path("EXPERIMENTS.md").read_text() == log


def test_a_stopped_series_goes_on_where_it_stopped(lab: Path, monkeypatch, capsys) -> None:
    evaluations = 0
    take = writer.Writer.take

    def stopping(self, *given) -> None:  # type: ignore[no-untyped-def]
        nonlocal evaluations
        take(self, *given)
        evaluations += 1
        if evaluations == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(writer.Writer, "take", stopping)
    assert main(["replay", "s.toml"]) == 130
    assert "To go on: adderlab replay s.toml" in capsys.readouterr().out
    text = Path("EXPERIMENTS.md").read_text()
    assert "Interrupted" in text and "Not finished (stopped" in text and "Not run yet" in text
    (record_path() / "notes").mkdir()
    (record_path() / "notes" / "A.md").write_text("The power went.\n")

    assert main(["replay", "s.toml"]) == 0
    text = Path("EXPERIMENTS.md").read_text()
    assert "Interrupted" not in text and "> The power went." in text
    # 12 steps, evaluated at 0, 3, 6, 9, 11; two before the stop, none of them twice.
    rows = (record_path() / "tiny" / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["0", "3", "6", "9", "11"]
    assert evaluations == 5

    # Stopped or not, the same bits.
    stopped = (record_path() / "tiny" / "seeds.csv").read_text()
    assert main(["replay", "s.toml", "--again", "--only", "A"]) == 1  # the run is there already
    Path("results/runs/tiny").rename("results/runs/moved")
    assert main(["replay", "s.toml", "--again", "--only", "A"]) == 0
    newest = sorted(Path("records").iterdir())[-1]
    assert (newest / "tiny" / "seeds.csv").read_text() == stopped


def test_an_absent_checkpoint_is_named(lab: Path, capsys) -> None:
    Path("s.toml").write_text(SERIES.split("[[experiment]]")[0] + PUBLISHED)
    assert main(["replay", "s.toml"]) == 1
    assert "not run: elsewhere/best.pt is not here" in capsys.readouterr().out
    assert "- Not run: elsewhere/best.pt is not here." in Path("EXPERIMENTS.md").read_text()
    # It is tried again once it is there.
    record = find_replay(Path("records"), Path("s.toml"))
    assert record is not None and not record.is_done(record.series.experiment[0], 0)


def test_a_failing_command_fails_the_series_in_one_line(lab: Path, capsys) -> None:
    Path("elsewhere").mkdir()
    Path("elsewhere/best.pt").write_bytes(b"damaged")
    Path("s.toml").write_text(SERIES.split("[[experiment]]")[0] + PUBLISHED)
    assert main(["replay", "s.toml"]) == 1
    assert "failed: " in capsys.readouterr().out
    assert "- Failed: " in Path("EXPERIMENTS.md").read_text()


def test_wrong_use_is_one_line(lab: Path, capsys) -> None:
    assert main(["replay", "s.toml", "--only", "Z"]) == 2
    assert "A, B" in capsys.readouterr().err
    Path("s.toml").write_text(SERIES.replace("adderlab evaluate", "adderlab replay"))
    assert main(["replay", "s.toml", "--only", "A"]) == 2
    assert "cannot run adderlab replay" in capsys.readouterr().err
    Path("s.toml").write_text(SERIES.replace("--suite fresh:30", "--sweet fresh:30"))
    assert main(["replay", "s.toml", "--only", "A"]) == 2
    assert "--sweet" in capsys.readouterr().err
    assert not Path("results").exists()
