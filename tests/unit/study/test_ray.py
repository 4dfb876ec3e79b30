"""On a real Ray cluster of three nodes in this machine: nodes die, the run does not.

Needs adderlab[cluster]; where Ray is not installed these tests are skipped and say so.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adderlab.files.atomic import read_json
from helpers.fleets import table
from helpers.paths import HELPERS

pytest.importorskip("ray", reason="Ray is not installed (pip install 'adderlab[cluster]')")

pytestmark = pytest.mark.slow

STEPS = 1441
RUN = [
    *("train", "456p", "--recipe", "published", "--seeds", "0-5", "--steps", str(STEPS)),
    *("--engine", "torch", "--evaluate", "none", "--no-prove", "--keep", "all"),
    *("--set", "recipe.batch_size=32", "recipe.val_size=40", "recipe.eval_interval=10"),
]
SWEEP = """
preset = "456p"
recipe = "published"
seeds = "0-2"
steps = 21
[set]
recipe.batch_size = 16
recipe.val_size = 20
recipe.eval_interval = 5
[grid]
recipe.lr = [0.005, 0.01, 0.02, 0.04]
[halving]
rungs = [5]
"""


class Nodes:
    """A cluster whose nodes can be killed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.address = self._said("address").split()[1]

    def kill(self, node: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"kill {node}\n")
        self._process.stdin.flush()
        self._said("killed")

    def _said(self, word: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(word):
                return line
        raise AssertionError(f"the cluster ended before it said {word!r}")


@pytest.fixture
def cluster() -> Iterator[Nodes]:
    """Three nodes with one processor each."""
    with subprocess.Popen(
        [sys.executable, str(HELPERS / "ray_nodes.py"), "3"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A busy machine takes longer than Ray's 30 s to start a node.
        env=os.environ | {"RAY_raylet_start_wait_time_s": "240"},
    ) as process:
        try:
            yield Nodes(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(60)


def start(folder: Path, *argv: str) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_raylet_start_wait_time_s": "240"}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.Popen(
        [sys.executable, "-m", "adderlab.cli.main", *argv],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=500)
    assert process.returncode == 0, said
    return said


def progress(folder: Path) -> dict[str, int]:
    """Shard -> the step of its state in the store."""
    found = {}
    for path in folder.glob("shards/*/shard_*.json"):
        found[path.stem] = json.loads(path.read_text())["step"]
    return found


def wait_for_progress(process: subprocess.Popen[str], folder: Path) -> None:
    """Until some shards have left a state in mid-run."""
    deadline = time.monotonic() + 240
    while sum(10 < step < STEPS for step in progress(folder).values()) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, progress(folder)
        time.sleep(0.1)


def one_machine(tmp_path: Path) -> Path:
    finish(start(tmp_path, *RUN, "--run-name", "whole", "--device", "cpu", "--threads", "1", "--quiet"))
    return tmp_path / "results/runs/whole"


def assert_same_run(one: Path, other: Path) -> None:
    assert (one / "seeds.csv").read_bytes() == (other / "seeds.csv").read_bytes()
    for name in ("metrics.csv", "seed_metrics.csv"):
        assert table(one / name) == table(other / name)
    for seed in range(6):
        name = f"seed_{seed:04d}/checkpoints/last.pt"
        assert (one / name).read_bytes() == (other / name).read_bytes()
    success = [read_json(path / "summary.json")["success"] for path in (one, other)]
    assert success[0] == success[1]


def test_a_node_dies_and_the_run_is_that_of_one_machine(tmp_path: Path, cluster: Nodes) -> None:
    """Its shards go on elsewhere, from the state that they left."""
    parts = tmp_path / "results/runs/parts"
    started = start(tmp_path, *RUN, "--run-name", "parts", "--cluster", cluster.address, "--shards", "6")
    wait_for_progress(started, parts)
    cluster.kill(1)
    said = finish(started)
    assert "cluster: 3 machines, 3 shards at once" in said
    assert_same_run(one_machine(tmp_path), parts)
    machines = read_json(parts / "environment.json")["machines"]
    again = [machine for machine in machines if machine["from_step"] > 0]
    assert len(machines) > 6 and again, machines
    assert not (parts / "fleet.json").exists() and not (parts / "shards").exists()


def test_a_stopped_run_goes_on_on_another_cluster(tmp_path: Path, cluster: Nodes) -> None:
    """Ctrl-C, then kill -9 of whoever handed out the shards; ``--cluster local`` finishes."""
    parts = tmp_path / "results/runs/parts"
    flags = ("--cluster", cluster.address)
    started = start(tmp_path, *RUN, "--run-name", "parts", *flags, "--shards", "2")
    wait_for_progress(started, parts)
    started.send_signal(signal.SIGINT)
    said, _ = started.communicate(timeout=120)
    assert started.returncode == 130 and "--resume results/runs/parts --cluster" in said, said
    before = progress(parts)
    on = ("train", "--resume", "results/runs/parts", "--keep", "all", "--evaluate", "none", "--no-prove")
    refused = start(tmp_path, *on)
    assert refused.wait(120) == 2 and "--cluster" in refused.communicate()[0]
    again = start(tmp_path, *on, *flags)
    deadline = time.monotonic() + 240
    while progress(parts) == before:
        assert again.poll() is None and time.monotonic() < deadline, again.communicate()
        time.sleep(0.02)
    again.kill()
    again.communicate()
    assert all(progress(parts)[name] >= step for name, step in before.items())
    finish(start(tmp_path, *on, "--cluster", "local"))
    assert_same_run(one_machine(tmp_path), parts)


def test_a_sweep_on_a_cluster_gives_the_table_of_one_machine(tmp_path: Path, cluster: Nodes) -> None:
    file = tmp_path / "sweep.toml"
    file.write_text(SWEEP)
    argv = ("sweep", str(file), "--engine", "torch", "--output")
    parts = start(tmp_path, *argv, "parts", "--cluster", cluster.address, "--store", str(tmp_path / "s"))
    timer = threading.Timer(20, lambda: cluster.kill(2))
    timer.start()
    try:
        finish(parts)
    finally:
        timer.cancel()
    finish(start(tmp_path, *argv, "whole", "--device", "cpu"))
    for name in ("table.csv", "table.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    for more, words in (
        (["--cluster", "127.0.0.1:1"], "no Ray cluster answers"),
        (["--cluster", "local", "--threads", "4000"], "--threads"),
        (["--cluster", "local", "--store", "ftpx://a/b"], "ftpx"),
        (["--store", "x"], "--cluster"),
        (["--shards", "2"], "--cluster"),
    ):
        process = start(tmp_path, *RUN, "--run-name", "wrong", *more)
        said, _ = process.communicate(timeout=200)
        lines = [line for line in said.splitlines() if line.startswith("adderlab: ")]
        assert process.returncode == 2 and len(lines) == 1 and words in lines[0], said
