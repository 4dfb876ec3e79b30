"""Dashboards get a copy of the figures; none is imported unasked; none can end a training."""

import importlib.util
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from adderlab.errors import UsageError
from adderlab.report.live import open_sinks
from helpers.paths import ROOT
from helpers.sinks import dashboards, feed


def installed(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed (pip install 'adderlab[{name}]')")


def test_figures_of_a_population() -> None:
    class Notes:
        def __init__(self) -> None:
            self.logged: list[tuple[int, dict[str, float]]] = []
            self.closed = False

        def log(self, values: dict[str, float], step: int) -> None:
            self.logged.append((step, values))

        def close(self) -> None:
            self.closed = True

    notes = Notes()
    feed(dashboards({"notes": notes}, print))
    assert notes.closed
    (first, _), (second, values) = notes.logged
    assert (first, second) == (100, 200)
    assert values["val_exact/best"] == 1.0 and values["population/grokked"] == 1.0
    assert values["seed_0001/val_exact"] == pytest.approx(0.2)
    assert values["steps_learned/most"] == 11


def test_a_sink_that_fails_is_dropped_and_the_training_goes_on() -> None:
    class Broken:
        def log(self, values: dict[str, float], step: int) -> None:
            raise RuntimeError("no network")

        def close(self) -> None:
            raise AssertionError("a dropped sink is not closed")

    messages: list[str] = []
    feed(dashboards({"broken": Broken()}, messages.append))
    assert messages == ["sink broken dropped: RuntimeError: no network"]


def test_a_missing_package_is_one_line_with_the_remedy(monkeypatch, tmp_path: Path) -> None:
    for name in ("wandb", "trackio", "tensorboard", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("wandb", "trackio", "tensorboard"):
        with pytest.raises(UsageError, match=rf"pip install 'adderlab\[{name}\]'"):
            open_sinks([name], run_name="r", folder=tmp_path, settings={})
    with pytest.raises(UsageError, match="no sink 'aim'"):
        open_sinks(["aim"], run_name="r", folder=tmp_path, settings={})


def test_nothing_is_imported_unasked() -> None:
    code = (
        "import sys, adderlab.api.training, adderlab.report.live as s\n"
        "s.open_sinks([], run_name='r', folder=None, settings={})\n"
        "assert not {'wandb', 'trackio', 'tensorboard'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_wandb_and_trackio_are_called_as_their_documents_say(monkeypatch, tmp_path: Path) -> None:
    calls: list[tuple[str, Any]] = []

    class Run:
        def log(self, values: dict[str, float], step: int) -> None:
            calls.append(("wandb.log", step))

        def finish(self) -> None:
            calls.append(("wandb.finish", None))

    def wandb_init(**settings: Any) -> Run:
        calls.append(("wandb.init", settings))
        return Run()

    trackio = types.SimpleNamespace(
        init=lambda **settings: calls.append(("trackio.init", settings)),
        log=lambda values, step: calls.append(("trackio.log", step)),
        finish=lambda: calls.append(("trackio.finish", None)),
    )
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=wandb_init))
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    sinks = open_sinks(["wandb", "trackio"], run_name="r", folder=tmp_path, settings={"seeds": [0]})
    assert calls == []  # nothing starts before the run has a folder
    feed(dashboards(sinks, print))
    names = [name for name, _ in calls]
    assert names.count("wandb.init") == names.count("trackio.init") == 1
    assert names.count("wandb.log") == names.count("trackio.log") == 2
    assert names[-2:] == ["wandb.finish", "trackio.finish"]
    settings = dict(calls)["wandb.init"]
    assert settings["dir"] == str(tmp_path) and settings["config"] == {"seeds": [0]}


SCRIPT = """
import sys
sys.path.insert(0, "tests")
from pathlib import Path
from helpers.sinks import dashboards, feed
from adderlab.report.live import open_sinks

def fail(line):
    raise AssertionError(line)

name, folder = sys.argv[1], Path(sys.argv[2])
feed(dashboards(open_sinks([name], run_name="r", folder=folder, settings={"lr": 0.02}), fail))
"""


def test_tensorboard_writes_event_files(tmp_path: Path) -> None:
    installed("tensorboard")
    check = """
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(str(folder / "tensorboard"))
events.Reload()
assert [e.step for e in events.Scalars("val_exact/best")] == [100, 200]
"""
    in_another_process(SCRIPT + check, "tensorboard", tmp_path)


def test_wandb_offline(tmp_path: Path) -> None:
    installed("wandb")
    in_another_process(SCRIPT, "wandb", tmp_path, WANDB_MODE="offline", WANDB_SILENT="true")
    runs = list((tmp_path / "wandb").glob("offline-run-*"))
    assert len(runs) == 1 and list(runs[0].glob("*.wandb"))


def test_trackio_writes_its_database(tmp_path: Path) -> None:
    installed("trackio")
    in_another_process(SCRIPT, "trackio", tmp_path, TRACKIO_DIR=str(tmp_path / "trackio"))
    assert list((tmp_path / "trackio").glob("*adderlab*"))


def in_another_process(code: str, name: str, folder: Path, **environment: str) -> None:
    """These packages start threads and warn as they like: not in the process of the tests."""
    done = subprocess.run(
        [sys.executable, "-c", code, name, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env=os.environ | {"HOME": str(folder)} | environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
