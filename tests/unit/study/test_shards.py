"""Seeds trained in shards, handed from one worker to the next, and merged: the run of one machine."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from adderlab.errors import Failure, UsageError
from adderlab.files import schema
from adderlab.files.atomic import read_json
from adderlab.runs.folder import load_state
from adderlab.study import shards as fleet_shards
from adderlab.study.cluster import (
    FLEET_FILE,
    ShardedRun,
    Stopped,
    differing_machines,
    is_sharded,
    joined,
    train_sharded,
)
from adderlab.study.shards import (
    Store,
    Task,
    packed_step,
    restore,
    split,
    train_shard,
)
from adderlab.training.recipe import Recipe
from adderlab.training.run import Job, Writer
from helpers.fleets import COMPUTE, CONFIG, RECIPE, STAGED, InProcessFleet, table, train_here

pytestmark = pytest.mark.usefixtures("unflushed")

SEEDS = (3, 4, 7)
TIMES = ("elapsed_sec", "updated")


def job(folder: Path, recipe: Recipe = RECIPE, seeds: tuple[int, ...] = SEEDS) -> Job:
    return Job(config=CONFIG, recipe=recipe, seeds=seeds, folder=folder, run_name="same", keep="all")


def same_state(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        keys = [key for key in one if key != "seconds"]
        return list(one) == list(other) and all(same_state(one[key], other[key]) for key in keys)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same_state, one, other))
    return one == other


def assert_same_run(one: Path, other: Path) -> None:
    """But for times, the two folders hold the same."""
    for name in ("seeds.csv", "checkpoints/best.pt", "checkpoints/last.pt", "config.json"):
        left, right = (one / name).read_bytes(), (other / name).read_bytes()
        assert left == right, name
    for name in ("metrics.csv", "seed_metrics.csv"):
        assert table(one / name) == table(other / name), name
    summaries = [read_json(path / "summary.json") for path in (one, other)]
    for summary in summaries:
        for name in TIMES:
            del summary[name]
    assert summaries[0] == summaries[1]
    assert same_state(load_state(one), load_state(other))
    for seed in SEEDS:
        for name in ("best.pt", "last.pt"):
            paths = [path / f"seed_{seed:04d}" / "checkpoints" / name for path in (one, other)]
            assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one machine."""
    folder = tmp_path_factory.mktemp("one") / "whole"
    train_here(job(folder))
    return folder


def test_merged_shards_are_the_run_of_one_machine(tmp_path: Path, whole: Path) -> None:
    outcome = train_sharded(job(tmp_path / "parts"), InProcessFleet())
    assert outcome.status == "done" and outcome.best.path == tmp_path / "parts/checkpoints/best.pt"
    assert_same_run(whole, tmp_path / "parts")
    machines = read_json(tmp_path / "parts/environment.json")["machines"]
    assert [machine["seeds"] for machine in machines] == [[3, 4], [7]]
    assert not is_sharded(tmp_path / "parts") and not (tmp_path / "parts/shards").exists()
    assert differing_machines(tmp_path / "parts") == []


def test_every_ingredient_of_a_recipe_is_merged(tmp_path: Path) -> None:
    """Averages, slow gradients, decay factors, failing pairs: all have a state of their own."""
    train_here(job(tmp_path / "whole", STAGED))
    train_sharded(job(tmp_path / "parts", STAGED), InProcessFleet())
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_pause_leaves_a_run_like_a_stopped_one_and_goes_on_to_the_same_end(
    tmp_path: Path, whole: Path
) -> None:
    fleet = InProcessFleet()
    with ShardedRun.create(job(tmp_path / "parts"), COMPUTE, shards=3, store=None, pauses=(11,)) as run:
        fleet.carry_out(run.tasks(11), lambda done: None)
        paused = run.merge(11)
    assert paused.status == "stopped" and load_state(tmp_path / "parts")["population"]["next_step"] == 11
    assert read_json(tmp_path / "parts/summary.json")["step"] == 10
    with ShardedRun.open(job(tmp_path / "parts"), COMPUTE) as run:
        fleet.carry_out(run.tasks(), lambda done: None)
        run.merge()
    assert_same_run(whole, tmp_path / "parts")


class Killed(BaseException):
    """A worker's sudden end."""


def test_a_shard_goes_on_from_the_state_its_dead_worker_left(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after any push, with or without a later step; the successor starts where it was."""
    monkeypatch.setattr(fleet_shards, "PUSH_SECONDS", 0.0)
    monkeypatch.setattr(Writer, "PAUSE", 0.0)
    begun: list[int] = []
    real = fleet_shards._Work._push

    def killing(self: Any, name: str, step: int) -> None:
        real(self, name, step)
        if len(begun) < 4:
            begun.append(step)
            raise Killed

    monkeypatch.setattr(fleet_shards._Work, "_push", killing)
    done: list[dict[str, Any]] = []
    with ShardedRun.create(job(tmp_path / "parts"), COMPUTE, shards=1, store=None) as run:
        (task,) = run.tasks()
        for _ in range(20):
            try:
                done.append(train_shard(schema.to_dict(task)))
                break
            except Killed:
                continue
        run.merge()
    assert len(begun) == 4 and begun == sorted(set(begun)) and begun[0] > 0
    # What the last one began from had been left by the one before, after an evaluation.
    assert done[0]["from_step"] in (6, 11, 16, 21)
    assert len(read_json(tmp_path / "parts/environment.json")["machines"]) == 5
    assert_same_run(whole, tmp_path / "parts")


def test_a_stopped_run_goes_on_from_any_fsspec_store(tmp_path: Path, whole: Path) -> None:
    def stop_at_second(task: Task) -> None:
        if "0001" in task.name:
            raise Stopped

    store = "memory://somewhere/deep"
    with pytest.raises(Stopped):
        train_sharded(job(tmp_path / "parts"), InProcessFleet(stop_at_second), store=store)
    assert is_sharded(tmp_path / "parts") and not (tmp_path / "parts/shards").exists()
    assert len(fsspec.filesystem("memory").glob("/somewhere/deep/*/shard_0000.at-21.zip")) == 1
    with pytest.raises(UsageError, match="resume it"):
        train_sharded(job(tmp_path / "parts"), InProcessFleet())
    train_sharded(job(tmp_path / "parts"), InProcessFleet(), resume=True)
    assert_same_run(whole, tmp_path / "parts")
    assert not fsspec.filesystem("memory").find("/somewhere")
    machines = read_json(tmp_path / "parts/environment.json")["machines"]
    assert len(machines) == 2  # the shard that was done was not trained again


def test_overwriting_an_unfinished_run_removes_its_shards(tmp_path: Path) -> None:
    def stop(task: Task) -> None:
        if "0001" in task.name:
            raise Stopped

    store = str(tmp_path / "store")
    with pytest.raises(Stopped):
        train_sharded(job(tmp_path / "run"), InProcessFleet(stop), store=store)
    assert len(list((tmp_path / "store").rglob("*.zip"))) == 1
    again = dataclasses.replace(job(tmp_path / "run", seeds=(3,)), overwrite=True)
    train_sharded(again, InProcessFleet(), store=store)
    assert not list((tmp_path / "store").rglob("*")) and not (tmp_path / "run" / FLEET_FILE).exists()


def test_a_store_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="ftpx"):
        Store("ftpx://host/place")


def test_a_worker_that_sees_another_store_or_runs_another_version_refuses(tmp_path: Path) -> None:
    with ShardedRun.create(job(tmp_path / "run"), COMPUTE, shards=1, store=None) as run:
        (task,) = run.tasks()
    elsewhere = dataclasses.replace(task, store=str(tmp_path / "elsewhere"))
    with pytest.raises(Failure, match="same store"):
        train_shard(schema.to_dict(elsewhere))
    with pytest.raises(Failure, match="same version"):
        train_shard(schema.to_dict(dataclasses.replace(task, version="0.0.0")))


def test_the_furthest_state_counts_and_damage_is_named(tmp_path: Path) -> None:
    with ShardedRun.create(job(tmp_path / "run"), COMPUTE, shards=1, store=None, pauses=(6,)) as run:
        paused, (task,) = run.tasks(6)[0], run.tasks()
        train_shard(schema.to_dict(paused))
        store = run.store
        state = store.must_read(task.final(6))
        assert packed_step(state) == 6
        assert not any("seed_0" in name for name in zipfile.ZipFile(io.BytesIO(state)).namelist())
        # A worker that was given up for dead leaves an older state after its successor's.
        store.write(task.running, pack_at_0(tmp_path))
        assert restore(store, task, tmp_path / "scratch" / "run") == 6
        store.write(task.running, state[:100])
        with pytest.raises(Failure, match="damaged"):
            restore(store, task, tmp_path / "again" / "run")


def pack_at_0(folder: Path) -> bytes:
    (folder / "empty").mkdir()
    return fleet_shards.pack(folder / "empty")


def test_split_keeps_order_and_differs_by_one() -> None:
    assert split(range(7), 3) == [(0, 1, 2), (3, 4), (5, 6)]
    assert split((5, 2), 4) == [(5,), (2,)]


def test_joined_refuses_what_differs() -> None:
    assert joined([{"a": 1, "b": [1]}, {"a": 1, "b": [2, 3]}], [1, 2]) == {"a": 1, "b": [1, 2, 3]}
    with pytest.raises(AssertionError):
        joined([{"steps": 3}, {"steps": 4}], [1, 1])
