"""Finite training sets in a run, and the weights that it keeps every so many steps."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from adderlab.errors import Failure, UsageError
from adderlab.evaluation.exact import predict
from adderlab.runs.checkpoints import load_checkpoint
from adderlab.runs.records import read_metrics, read_records, read_seed_metrics
from adderlab.runs.stored import SNAPSHOTS_FILE, SnapshotFile, read_snapshots, snapshots_size
from adderlab.task.addition import from_digits
from adderlab.task.sampling import pool_pairs
from adderlab.training.measure import Evaluation, Listener
from helpers.snapshots import CONFIG, POOL, train


class Watcher(Listener):
    """Notes the weights of every evaluation; asks for a stop after a given step."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.weights: dict[int, torch.Tensor] = {}
        self.train_exact: dict[int, list[float]] = {}
        self.stop_at = stop_at

    def on_step(self, seeds: tuple[int, ...], step: int, models: int) -> None:
        if step == self.stop_at:
            import signal

            signal.raise_signal(signal.SIGINT)

    def on_evaluation(self, evaluation: Evaluation, records: object) -> None:
        assert evaluation.train_exact_S is not None
        self.weights[evaluation.step] = evaluation.weights_SN
        self.train_exact[evaluation.step] = evaluation.train_exact_S.tolist()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Watcher]:
    folder, watcher = tmp_path_factory.mktemp("snapshots") / "run", Watcher()
    train(folder, watcher)
    return folder, watcher


def test_one_array_file_has_the_weights_of_every_fourth_step(whole: tuple[Path, Watcher]) -> None:
    folder, watcher = whole
    weights_FSN = np.load(folder / SNAPSHOTS_FILE)
    assert weights_FSN.shape == (7, 2, sum(p.numel() for p in watcher.weights[0][:1]))
    for step in (0, 20, 24):  # evaluated too: the end of a part, or a multiple of both
        assert np.array_equal(weights_FSN[step // 4], watcher.weights[step].numpy())
    kept = read_snapshots(folder, 4)
    assert kept is not None and kept.steps == (0, 4, 8, 12, 16, 20, 24)
    assert torch.equal(kept.weights_FN, torch.from_numpy(weights_FSN[:, 1]))
    last = load_checkpoint(folder / "seed_0004" / "checkpoints" / "last.pt")
    model = kept.checkpoint(6)
    assert model.step == last.step == 24 and model.weights_sha256 == last.weights_sha256
    assert kept.thinned(3).steps == (0, 12, 24)


def test_a_kept_seed_has_its_own(whole: tuple[Path, Watcher]) -> None:
    folder, _ = whole
    own, all_ = read_snapshots(folder / "seed_0003", 3), read_snapshots(folder, 3)
    assert own is not None and all_ is not None
    assert own.steps == all_.steps and torch.equal(own.weights_FN, all_.weights_FN)
    assert read_snapshots(folder, 5) is None


def test_snapshots_change_no_bit_of_the_run(whole: tuple[Path, Watcher], tmp_path: Path) -> None:
    folder, _ = whole
    train(tmp_path / "run", every=None)
    assert not (tmp_path / "run" / SNAPSHOTS_FILE).exists()
    for name in ("checkpoints/best.pt", "checkpoints/last.pt", "seeds.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize("stop_at", [1, 10, 14])
def test_a_stopped_run_goes_on_to_the_same_pairs_and_snapshots(
    whole: tuple[Path, Watcher], tmp_path: Path, stop_at: int
) -> None:
    folder, _ = whole
    stopped = train(tmp_path / "run", Watcher(stop_at))
    assert stopped.status == "stopped" and stopped.steps == stop_at
    # What a kill may leave: a frame of a step that the state does not know.
    SnapshotFile(tmp_path / "run", 4, (3, 4), stopped.best.num_parameters).append(
        16, (3,), torch.ones(1, stopped.best.num_parameters)
    )
    assert train(tmp_path / "run", resume=True).status == "done"
    assert (tmp_path / "run" / SNAPSHOTS_FILE).read_bytes() == (folder / SNAPSHOTS_FILE).read_bytes()
    same = (read_seed_metrics(path) for path in (tmp_path / "run", folder))
    first, second = ({s: [_numbers(m) for m in own] for s, own in each.items()} for each in same)
    assert first == second


def _numbers(metrics: object) -> object:
    return dataclasses.replace(metrics, elapsed_sec=0.0)  # type: ignore[type-var]


def test_train_accuracy_is_that_of_the_pairs_that_it_trains_on(whole: tuple[Path, Watcher]) -> None:
    folder, watcher = whole
    model = load_checkpoint(folder / "seed_0004" / "checkpoints" / "last.pt").module()
    a_SNJ, b_SNJ = pool_pairs(POOL, torch.tensor([4]), CONFIG.token_layout.addition)
    values = zip(from_digits(a_SNJ[0]).tolist(), from_digits(b_SNJ[0]).tolist(), strict=True)
    right = [predict(model, a, b).right for a, b in values]
    assert watcher.train_exact[24][1] == sum(right) / 12
    (record,) = read_records(folder / "seed_0004")
    assert record.train_exact == read_metrics(folder / "seed_0004")[-1].train_exact == sum(right) / 12


def test_weight_norms_are_in_the_tables(whole: tuple[Path, Watcher]) -> None:
    folder, watcher = whole
    for row in read_seed_metrics(folder)[3]:
        assert row.weight_norm == pytest.approx(float(watcher.weights[row.step][0].double().norm()))


def test_tables_of_an_earlier_version_go_on_with_their_own_columns(tmp_path: Path) -> None:
    train(tmp_path / "run", Watcher(12))
    for name in ("metrics.csv", "seed_metrics.csv"):
        path = tmp_path / "run" / name
        with path.open() as file:
            rows = [row[:-2] for row in csv.reader(file)]
        path.write_text("".join(",".join(row) + "\n" for row in rows))
    train(tmp_path / "run", resume=True)
    rows = read_seed_metrics(tmp_path / "run")[3]
    assert rows[-1].step == 24 and rows[-1].weight_norm is None and len(rows[-1].step_acc) == 3


def test_a_lost_file_goes_on_without_its_frames(tmp_path: Path) -> None:
    train(tmp_path / "run", Watcher(10))
    (tmp_path / "run" / SNAPSHOTS_FILE).unlink()
    train(tmp_path / "run", resume=True)
    kept = read_snapshots(tmp_path / "run", 3)
    assert kept is not None and kept.steps == (12, 16, 20, 24)


def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 1 step"):
        train(tmp_path / "run", every=0)
    with pytest.raises(UsageError, match="373 GiB; take at least 94 steps"):
        snapshots_size(1_000_000, 1, 100, 1000)
    assert not (tmp_path / "run").exists()


def test_a_damaged_file_is_named(whole: tuple[Path, Watcher], tmp_path: Path) -> None:
    folder, _ = whole
    for name in ("config.json", str(SNAPSHOTS_FILE)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / SNAPSHOTS_FILE).write_bytes((folder / SNAPSHOTS_FILE).read_bytes()[:200])
    with pytest.raises(Failure, match="does not fit the run"):
        read_snapshots(tmp_path, 3)
