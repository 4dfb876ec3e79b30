"""Sweeps: interrupted, killed, resumed, halved, guided, on a fleet: always the same table."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from adderlab.cli.main import main
from adderlab.errors import Failure, UsageError
from adderlab.files.atomic import read_json, write_json
from adderlab.runs.metadata import read_summary
from adderlab.runs.records import METRIC_COLUMNS, SEED_METRIC_COLUMNS
from adderlab.study.cells import SweepPlan, measure, read_sweep
from adderlab.study.cluster import Stopped
from adderlab.study.sweep import (
    ClusterTrainer,
    LocalTrainer,
    OpenSweep,
    check_guided,
    run_cells,
    run_guided,
    value,
)
from adderlab.training.measure import Listener, Start
from helpers.fleets import COMPUTE, InProcessFleet
from helpers.run_files import results

pytestmark = pytest.mark.usefixtures("unflushed")

TINY = """
preset = "456p"
recipe = "published"
seeds = "0-1"
steps = 5
[set]
recipe.batch_size = 4
recipe.val_size = 10
recipe.test_size = 5
recipe.eval_interval = 2
"""
GRID = TINY + "[grid]\nrecipe.lr = [0.01, 0.02]\nrecipe.weight_decay = [0.0, 0.1]\n"
HALVED = GRID + "[halving]\nrungs = [0, 2]\nkeep = 0.5\n"
GUIDED = (
    TINY + "[random]\nsamples = 3\n[random.space]\nrecipe.lr = {low = 0.001, high = 0.1, log = true}\n"
)


def declared(text: str, seeds: tuple[int, ...] = (0, 1)) -> SweepPlan:
    return read_sweep(tomllib.loads(text), seeds)


class Watcher(Listener):
    """Counts steps over all cells; sets ``stop`` at one of them."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop, self.stop_at = threading.Event(), stop_at
        self.seen: list[int] = []
        """The steps heard of, whichever the cell."""
        self.waves: list[list[int]] = []
        """Cells that began before any of them trained."""
        self._begun_at = -1

    def on_start(self, start: Start) -> None:
        if self._begun_at != len(self.seen):
            self.waves.append([])
            self._begun_at = len(self.seen)
        self.waves[-1].append(int(start.folder.name))

    def on_step(self, seeds: tuple[int, ...], step: int, models: int) -> None:
        self.seen.append(step)
        if len(self.seen) == self.stop_at:
            self.stop.set()


def sweep(
    text: str, folder: Path, *, stop_at: int | None = None, resume: bool = False, guided: bool = False
) -> Watcher:
    """Run a sweep here; raises ``Stopped`` if it is stopped."""
    watcher = Watcher(stop_at)
    with OpenSweep(declared(text), folder, watcher, guided=guided, resume=resume) as opened:
        (run_guided if guided else run_cells)(opened, LocalTrainer(compute=COMPUTE, stop=watcher.stop))
    return watcher


def tables(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "table.csv").read_bytes(), (folder / "table.json").read_bytes()


def rows_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "table.csv").read_text().splitlines()))


def interrupted(text: str, folder: Path, stops: tuple[int, ...], guided: bool = False) -> None:
    """A sweep stopped after so many steps each time, then finished."""
    for i, stop_at in enumerate(stops):
        with pytest.raises(Stopped):
            sweep(text, folder, stop_at=stop_at, resume=i > 0, guided=guided)
    sweep(text, folder, resume=True, guided=guided)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that nothing disturbed."""
    folder = tmp_path_factory.mktemp("one") / "whole"
    watcher = sweep(GRID, folder)
    assert watcher.waves == [[0, 1, 2, 3]]
    assert watcher.seen[:5] == [1, 1, 1, 1, 2]
    return folder


def test_cells_side_by_side_are_the_cells_one_by_one(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table byte for byte; of every cell's run all that is not a time."""
    monkeypatch.setattr("adderlab.study.sweep.MOST_CELLS", 1)
    watcher = sweep(GRID, tmp_path / "single")
    assert watcher.waves == [[0], [1], [2], [3]]
    assert watcher.seen[:2] == [1, 2]
    assert tables(whole) == tables(tmp_path / "single")
    for cell in range(4):
        one, other = whole / f"cells/{cell:04d}", tmp_path / f"single/cells/{cell:04d}"
        assert results(one) == results(other)


def test_cells_of_other_shapes_and_too_many_seeds_train_in_waves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of two sizes cannot take their steps in one batch; six seeds hold three cells of two."""
    monkeypatch.setattr("adderlab.study.sweep.SEEDS_PER_THREAD", 6)
    text = TINY.replace("steps = 5", "steps = 1").replace("recipe.batch_size = 4\n", "")
    grid = "[grid]\nrecipe.lr = [0.01, 0.02, 0.03, 0.04]\nrecipe.batch_size = [4, 8]\n"
    assert sweep(text + grid, tmp_path / "sweep").waves == [[0, 2, 4], [6], [1, 3, 5], [7]]
    assert [row["state"] for row in rows_of(tmp_path / "sweep")] == ["done"] * 8


def test_an_interrupted_sweep_gives_the_same_table(tmp_path: Path, whole: Path) -> None:
    """Stopped on the way, and at the very last step; a step is heard of once from each of four cells."""
    interrupted(GRID, tmp_path / "parts", (3, 14))
    assert tables(whole) == tables(tmp_path / "parts")
    rows = rows_of(tmp_path / "parts")
    assert [row["state"] for row in rows] == ["done"] * 4 and {row["seeds"] for row in rows} == {"2"}
    assert {(row["recipe.lr"], row["recipe.weight_decay"]) for row in rows} == {
        ("0.01", "0"),
        ("0.01", "0.1"),
        ("0.02", "0"),
        ("0.02", "0.1"),
    }
    for cell in range(4):
        summary = read_summary(tmp_path / f"parts/cells/{cell:04d}")
        assert summary["status"] == "done" and summary["step"] == 4


def test_halving_trains_the_better_half_further_and_can_be_interrupted(tmp_path: Path) -> None:
    sweep(HALVED, tmp_path / "whole")
    # Stopped at the end of the first rung, within the second, and at the end of the last.
    interrupted(HALVED, tmp_path / "parts", (2, 1, 4))
    assert tables(tmp_path / "whole") == tables(tmp_path / "parts")
    table = read_json(tmp_path / "whole/table.json")["cells"]
    states = {row["cell"]: (row["state"], row["step"]) for row in table}
    assert sorted(states.values()) == [("abandoned", 0)] * 2 + [("abandoned", 2), ("done", 4)]
    folder = tmp_path / "parts/cells"
    scores = {cell: measure(folder / cell, 0).score for cell in states}  # type: ignore[union-attr]
    kept = sorted(cell for cell, (_, step) in states.items() if step > 0)
    dropped = [cell for cell in states if cell not in kept]
    assert min(scores[cell] for cell in kept) >= max(scores[cell] for cell in dropped)


def test_a_fleet_gives_the_same_table_and_goes_on_after_a_stop(tmp_path: Path) -> None:
    sweep(HALVED, tmp_path / "whole")
    tasks: list[Any] = []

    def stop_at_third(task: Any) -> None:
        tasks.append(task)
        if len(tasks) in (3, 7):
            raise Stopped

    for i in range(3):
        watcher = Watcher()
        trainer = ClusterTrainer(fleet=InProcessFleet(stop_at_third), store=str(tmp_path / "store"))
        with OpenSweep(
            declared(HALVED), tmp_path / "parts", watcher, guided=False, resume=i > 0
        ) as opened:
            if i < 2:
                with pytest.raises(Stopped):
                    run_cells(opened, trainer)
            else:
                run_cells(opened, trainer)
    assert tables(tmp_path / "whole") == tables(tmp_path / "parts")
    assert len(tasks) > 7, "it was stopped twice on the way"


def test_a_guided_search_is_replayed_and_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="guided search needs adderlab[sweep]")
    whole = sweep(GUIDED, tmp_path / "whole", guided=True)
    interrupted(GUIDED, tmp_path / "parts", (7,), guided=True)
    assert tables(tmp_path / "whole") == tables(tmp_path / "parts")
    assert whole.waves == [[0], [1], [2]]
    with pytest.raises(UsageError, match="optuna=True"):
        sweep(GUIDED, tmp_path / "parts", resume=True)
    with pytest.raises(UsageError, match="halving"):
        check_guided(declared(GUIDED + "[halving]\nrungs = [2]\n"))
    with pytest.raises(UsageError, match=r"random\.space"):
        check_guided(declared(GRID))


def test_more_samples_and_nothing_else_may_be_asked_for_later(tmp_path: Path) -> None:
    text = GUIDED.replace("samples = 3", "samples = 1")
    sweep(text, tmp_path / "sweep")
    more = sweep(text.replace("samples = 1", "samples = 2"), tmp_path / "sweep", resume=True)
    assert more.waves == [[1]]
    for changed in (
        text,
        GUIDED.replace("0.1, log", "0.2, log"),
        GUIDED.replace("steps = 5", "steps = 6"),
    ):
        with pytest.raises(UsageError, match="was begun with"):
            sweep(changed, tmp_path / "sweep", resume=True)
    with pytest.raises(UsageError, match="resume=True"):
        sweep(text, tmp_path / "sweep")
    with pytest.raises(UsageError, match="no sweep"):
        sweep(text, tmp_path / "nothing", resume=True)


def test_a_cell_of_another_recipe_is_not_gone_on_with(tmp_path: Path) -> None:
    """A named recipe may change between versions; its old cells must not be mixed with new ones."""
    with pytest.raises(Stopped):
        sweep(GRID, tmp_path / "sweep", stop_at=3)
    path = tmp_path / "sweep/cells/0000/config.json"
    config = read_json(path)
    config["recipe"]["lr"] = 0.5
    write_json(path, config)
    with pytest.raises(Failure, match="another model or recipe"):
        sweep(GRID, tmp_path / "sweep", resume=True)


def lines(folder: Path, seeds: dict[int, list[float]]) -> None:
    """Tables of a run whose seeds had these exact matches at steps 0, 10, ..."""
    folder.mkdir()
    (folder / "metrics.csv").write_text(",".join(METRIC_COLUMNS) + "\n")
    rows = [
        f"{seed},{10 * i},1,{exact},{exact},0.1,1," + ",".join([*[str(exact)] * 11, "1"])
        for seed, history in seeds.items()
        for i, exact in enumerate(history)
    ]
    (folder / "seed_metrics.csv").write_text("\n".join([",".join(SEED_METRIC_COLUMNS), *rows]) + "\n")


def test_what_is_measured_is_what_stood_there_at_the_step(tmp_path: Path) -> None:
    """A seed that grokked and lost it is no success; one that stopped early keeps its last row."""
    lines(tmp_path / "run", {0: [0, 0.995, 0.2, 0.1], 1: [0, 0, 0, 1.0], 2: [1.0, 1.0], 3: [0, 0, 0, 0]})
    found = measure(tmp_path / "run")
    assert found is not None and (found.rate.count, found.rate.n, found.step) == (2, 4, 30)
    assert found.grokked == 3 and found.median_grok_step == 10
    assert found.mean_exact == (0.1 + 1 + 1 + 0) / 4 and found.mean_steps_learned == 5.5
    assert value(found) == pytest.approx(0.5 + 0.525 / 8)
    early = measure(tmp_path / "run", 10)
    assert early is not None and (early.rate.count, early.step, early.grokked) == (2, 10, 2)
    assert measure(tmp_path / "nothing") is None


def command(file: Path, folder: Path, *more: str) -> list[str]:
    fixed = ["--device", "cpu", "--engine", "torch", "--threads", "1"]
    return [
        *(sys.executable, "-m", "adderlab.cli.main", "sweep", str(file), "--output", str(folder)),
        *(*fixed, *more),
    ]


def killed(argv: list[str], folder: Path, cells: int, number: signal.Signals) -> int:
    """The exit code of a sweep that gets a signal once ``cells`` cells have begun."""
    done = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while len(list(folder.glob("cells/*/metrics.csv"))) < cells and done.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    done.send_signal(number)
    return done.wait(120)


@pytest.mark.slow
def test_ctrl_c_stops_and_resume_goes_on(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "lr.toml"
    file.write_text(GRID)
    assert killed(command(file, tmp_path / "parts"), tmp_path / "parts", 2, signal.SIGINT) == 130
    argv = [*command(file, tmp_path / "parts")[3:], "--resume"]
    assert main([*argv, "--json"]) == 0
    assert capsys.readouterr().out.encode() == (tmp_path / "parts/table.json").read_bytes()
    assert tables(whole) == tables(tmp_path / "parts")
    assert main(argv) == 0
    text = capsys.readouterr().out
    assert "0/2 = 0.0% [0.0%, 65.8%]" in text and "weight_decay" in text
    assert tables(whole) == tables(tmp_path / "parts")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("preset = ", "not TOML"),
        ('preset = "456p"\nseeds = 3', "seeds"),
        ('preset = "456p"\nseeds = "x"', "'x'"),
        ('preset = "456p"\nseeds = [1, -1]', "seeds"),
        ('preset = "999999p"', "999999p"),
    ],
)
def test_wrong_files_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(text)
    assert main(["sweep", str(file)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and words in said[0]


def test_flags_that_do_not_go_together_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(GRID)
    for more, words in (
        (["--store", "s3://x"], "--cluster"),
        (["--threads", "0"], "--threads"),
        (["--optuna"], "random.space"),
    ):
        assert main(["sweep", str(file), "--output", str(tmp_path / "out"), *more]) == 2
        assert words in capsys.readouterr().err


def test_what_is_not_installed_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ray", "optuna"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "sweep.toml"
    file.write_text(GUIDED)
    out = ["--output", str(tmp_path / "out")]
    for argv, extra in (
        (["sweep", str(file), *out, "--optuna"], "adderlab[sweep]"),
        (["sweep", str(file), *out, "--cluster", "local"], "adderlab[cluster]"),
        (["train", "456p", "--run-name", "run", "--cluster", "local"], "adderlab[cluster]"),
    ):
        assert main(argv) == 2
        assert extra in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_sweep_of_64_cells_is_stopped_killed_and_resumed(tmp_path: Path) -> None:
    grid = "[grid]\nrecipe.lr = [0.005, 0.01, 0.02, 0.04]\nrecipe.weight_decay = [0.0, 0.01, 0.1, 1.0]\n"
    file = tmp_path / "many.toml"
    tiny = TINY.replace('seeds = "0-1"', "seeds = [5]").replace("steps = 5", "steps = 3")
    file.write_text(tiny + grid + "recipe.warmup_steps = [0, 1, 2, 3]\n")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command(file, whole), check=True, env=environment, stdout=subprocess.DEVNULL)
    # The first 32 train side by side: stopped while these begin, killed and stopped while the others do.
    assert killed(command(file, parts), parts, 9, signal.SIGINT) == 130
    assert killed(command(file, parts, "--resume"), parts, 40, signal.SIGKILL) == -signal.SIGKILL
    assert killed(command(file, parts, "--resume"), parts, 51, signal.SIGTERM) == 130
    subprocess.run(
        command(file, parts, "--resume"), check=True, env=environment, stdout=subprocess.DEVNULL
    )
    assert len(rows_of(parts)) == 64
    assert tables(whole) == tables(parts)
