"""A run's folder: R456's form and more, for one seed and for many; finished runs are safe."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adderlab.errors import Failure, UsageError
from adderlab.models.config import ModelConfig
from adderlab.models.tables import stack_parameters
from adderlab.models.transformer import build_model
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint
from adderlab.runs.folder import RunFolder
from adderlab.runs.metadata import RunConfig, collect_environment, read_config, read_summary
from adderlab.runs.records import (
    Metrics,
    SeedRecord,
    best_of,
    read_metrics,
    read_records,
    read_seed_metrics,
)
from helpers.disk import FailingCalls, fill, tmpfs
from oracle.r456_loader import PublishedConfig, load_as_published

MODEL = ModelConfig(d_model=3, d_ff=2)
RECIPE = {"steps": 300, "lr": 0.02, "data": {"mix": [1, 2]}}
ENVIRONMENT = collect_environment("cpu", ["adderlab", "train"])
STEPS = (1.0,) * 10 + (0.1,)


def config(*seeds: int, **changes: Any) -> RunConfig:
    values: dict[str, Any] = {"model": MODEL, "recipe": RECIPE, "command": ("adderlab", "train")}
    return RunConfig(seeds=seeds, **values | changes)


def metrics(step: int, val_exact: float, loss: float = 0.5) -> Metrics:
    return Metrics(
        step=step,
        train_loss=loss,
        val_exact=val_exact,
        val_token_acc=0.9,
        lr=0.01,
        elapsed_sec=step / 10,
        step_acc=STEPS,
    )


def checkpoint(seed: int, step: int) -> Checkpoint:
    params = {name: t[0] for name, t in stack_parameters([build_model(MODEL, seed)]).items()}
    return Checkpoint(config=MODEL, params=params, recipe=RECIPE, step=step, val_exact=0.5, seed=seed)


def evaluate(folder: RunFolder, step: int, exact: dict[int, float], rows: dict[int, SeedRecord]) -> None:
    """One evaluation, as the training room writes it."""
    taken = {seed: metrics(step, value, loss=1.0 + seed) for seed, value in exact.items()}
    for seed, each in taken.items():
        rows[seed] = rows[seed].after(each)
    best = best_of(rows.values())
    folder.record(taken)
    folder.save_best(checkpoint(best.seed, best.best_step))
    folder.save_last(checkpoint(best.seed, step))
    folder.write_seeds(list(rows.values()))
    folder.write_summary(
        list(rows.values()),
        status="running",
        step=step,
        elapsed_sec=step / 10,
        params=checkpoint(0, 0).num_parameters,
    )


def finish(folder: RunFolder, rows: dict[int, SeedRecord], **changes: Any) -> None:
    values: dict[str, Any] = {"status": "done", "step": 299, "elapsed_sec": 30.0, "params": 155}
    folder.write_summary(list(rows.values()), **values | changes)


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def one_seed_run(path: Path) -> None:
    rows = {43: SeedRecord(seed=43)}
    with RunFolder.create(path, config(43), ENVIRONMENT) as folder:
        evaluate(folder, 0, {43: 0.25}, rows)
        evaluate(folder, 100, {43: 1.0}, rows)
        evaluate(folder, 200, {43: 0.5}, rows)
        finish(folder, rows)


def test_one_seed_in_the_published_form(tmp_path: Path) -> None:
    path = tmp_path / "results" / "runs" / "repro_456_s43"
    one_seed_run(path)
    assert sorted(tree(path)) == [
        ".lock",
        "checkpoints/best.pt",
        "checkpoints/last.pt",
        "config.json",
        "environment.json",
        "metrics.csv",
        "seeds.csv",
        "seeds.json",
        "summary.json",
    ]
    summary = json.loads((path / "summary.json").read_text())
    assert list(summary)[:7] == [
        "run_name",
        "params",
        "best_val_exact",
        "best_step",
        "train_steps",
        "elapsed_sec",
        "model_config",
    ]
    assert summary["run_name"] == "repro_456_s43"
    assert (summary["best_val_exact"], summary["best_step"]) == (1.0, 100)
    assert (summary["train_steps"], summary["status"], summary["seeds"]) == (300, "done", 1)
    assert (summary["steps_learned"], summary["final_val_exact"]) == (10, 0.5)
    PublishedConfig(**summary["model_config"])
    stored = json.loads((path / "config.json").read_text())
    assert stored["train"] == {"seed": 43, "train_steps": 300, "lr": 0.02}
    PublishedConfig(**stored["model"])
    assert stored["recipe"] == RECIPE
    with (path / "metrics.csv").open() as file:
        steps = [row["step"] for row in csv.DictReader(file)]
    assert steps == ["0", "100", "200"]
    assert load_as_published(path / "checkpoints" / "best.pt")["step"] == 100
    assert load_checkpoint(path / "checkpoints" / "last.pt").step == 200
    assert json.loads((path / "environment.json").read_text()) == ENVIRONMENT


def test_config_comes_back(tmp_path: Path) -> None:
    for number, asked in enumerate(
        (config(43), config(0, 1, 2, run_name="mine"), config(5, model=ModelConfig(layout="M")))
    ):
        path = tmp_path / str(number)
        RunFolder.create(path, asked, ENVIRONMENT).close()
        assert read_config(path) == asked
        with RunFolder.open(path) as folder:
            assert folder.config == asked
            assert folder.name == (asked.run_name or str(number))


def test_population(tmp_path: Path) -> None:
    path = tmp_path / "many"
    rows = {seed: SeedRecord(seed=seed) for seed in (12, 3, 10_043)}
    with RunFolder.create(path, config(12, 3, 10_043), ENVIRONMENT) as folder:
        evaluate(folder, 0, {12: 0.0, 3: 0.0, 10_043: 0.0}, rows)
        evaluate(folder, 100, {12: 0.2, 3: 1.0, 10_043: 0.6}, rows)
        evaluate(folder, 200, {12: 1.0, 3: 0.9, 10_043: 0.7}, rows)
        assert read_summary(path)["status"] == "running"
        kept = {seed: (checkpoint(seed, 100), checkpoint(seed, 200)) for seed in (3, 10_043)}
        folder.keep_seeds(kept, list(rows.values()), step=299)
        rate = {"rate": 2 / 3, "wilson_95": [0.2, 0.9]}
        finish(folder, rows, success=rate, extra={"note": "x"})
    summary = read_summary(path)
    assert (summary["success"], summary["note"]) == (rate, "x")
    # Of equals the first of the run: the one in best.pt.
    best = load_checkpoint(path / "checkpoints" / "best.pt")
    assert (best.seed, best.step) == (summary["best_seed"], summary["best_step"]) == (12, 200)
    assert summary["seeds"] == 3
    table = [line.split(",") for line in (path / "seeds.csv").read_text().splitlines()[1:]]
    assert [row[0] for row in table] == ["3", "12", "10043"] and table[0][6] == "100"
    assert [record.seed for record in read_records(path)] == [12, 3, 10_043]
    assert [row.val_exact for row in read_metrics(path)] == [0.0, 0.6, 0.9]
    history = read_seed_metrics(path)
    assert {seed: len(each) for seed, each in history.items()} == {12: 3, 3: 3, 10_043: 3}
    assert "seed" not in json.loads((path / "config.json").read_text())["train"]

    alone = path / "seed_0003"
    kept_names = sorted(p.name for p in path.glob("seed_*") if p.is_dir())
    assert kept_names == ["seed_0003", "seed_10043"]
    assert read_config(alone) == config(3)
    assert [row.val_exact for row in read_metrics(alone)] == [0.0, 1.0, 0.9]
    found = read_summary(alone)
    assert (found["run_name"], found["best_step"], found["step"]) == ("seed_0003", 100, 200)
    assert json.loads((alone / "config.json").read_text())["train"]["seed"] == 3
    assert load_as_published(alone / "checkpoints" / "best.pt")["train_config"]["seed"] == 3


def test_seeds_that_stopped_are_not_in_later_rows(tmp_path: Path) -> None:
    rows = {seed: SeedRecord(seed=seed) for seed in (1, 2)}
    with RunFolder.create(tmp_path / "r", config(1, 2), ENVIRONMENT) as folder:
        evaluate(folder, 0, {1: 0.0, 2: 1.0}, rows)
        evaluate(folder, 100, {1: 0.5}, rows)
    assert [row.val_exact for row in read_metrics(tmp_path / "r")] == [0.5, 0.5]
    assert [len(each) for each in read_seed_metrics(tmp_path / "r").values()] == [2, 1]


def test_run_with_results_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "r"
    one_seed_run(path)
    before = tree(path)
    with pytest.raises(UsageError) as error:
        RunFolder.create(path, config(44), ENVIRONMENT)
    text = str(error.value)
    assert str(path) in text and "overwrite=True" in text and "another folder" in text
    assert "(done, step 299)" in text and "\n" not in text
    after = tree(path)
    assert before.pop(".lock") and after.pop(".lock")
    assert after == before


@pytest.mark.parametrize("broken", ["", "{", None])
def test_run_whose_summary_is_broken_is_not_overwritten(tmp_path: Path, broken: str | None) -> None:
    one_seed_run(tmp_path)
    summary = tmp_path / "summary.json"
    summary.unlink() if broken is None else summary.write_text(broken)
    with pytest.raises(UsageError, match="without a readable summary"):
        RunFolder.create(tmp_path, config(44), ENVIRONMENT)
    RunFolder.create(tmp_path, config(44), ENVIRONMENT, overwrite=True).close()
    assert read_config(tmp_path).seeds == (44,)


def test_run_without_an_evaluation_is_started_anew(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, config(1), ENVIRONMENT).close()
    (tmp_path / ".adderlab-12.tmp").write_text("left by a kill")
    RunFolder.create(tmp_path, config(2), ENVIRONMENT).close()
    assert read_config(tmp_path).seeds == (2,)
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob(".*.tmp"))


def test_overwrite_deletes_the_run_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "r"
    rows = {seed: SeedRecord(seed=seed) for seed in (1, 2)}
    with RunFolder.create(path, config(1, 2), ENVIRONMENT) as folder:
        evaluate(folder, 0, {1: 0.0, 2: 1.0}, rows)
        kept = {seed: (checkpoint(seed, 0), checkpoint(seed, 0)) for seed in (1, 2)}
        folder.keep_seeds(kept, list(rows.values()), step=0)
    (path / "state.pt").write_text("old state")
    mine = ("notes.txt", "checkpoints/favourite.pt", "seed_0001/plot.png", "seed_9999/data.bin")
    for name in mine:
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text("mine")
    RunFolder.create(path, config(7), ENVIRONMENT, overwrite=True).close()
    ours = (".lock", "config.json", "environment.json", "metrics.csv")
    assert sorted(tree(path)) == sorted([*ours, *mine])
    assert read_metrics(path) == []


def test_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "best_456p_s43.pt").write_text("published")
    RunFolder.create(tmp_path, config(1), ENVIRONMENT).close()
    assert (tmp_path / "checkpoints" / "best_456p_s43.pt").read_text() == "published"

    for name in ("config.json", "checkpoints/best.pt", "metrics.csv"):
        other = tmp_path / f"other_{name.replace('/', '_')}"
        (other / name).parent.mkdir(parents=True)
        (other / name).write_text('{"project": "mine"}')
        for overwrite in (False, True):
            with pytest.raises(UsageError, match="another kind"):
                RunFolder.create(other, config(1), ENVIRONMENT, overwrite=overwrite)
        assert (other / name).read_text() == '{"project": "mine"}'


def test_published_folder_is_read(tmp_path: Path) -> None:
    model = {"n_layer": 1, "d_model": 7, "n_head": 1, "d_ff": 14, "dropout": 0.0, "pos_rank": 3}
    train = {"seed": 43, "train_steps": 54_000, "run_name": "repro_456_s43"}
    (tmp_path / "config.json").write_text(json.dumps({"model": model, "train": train}))
    summary = {
        "run_name": "repro_456_s43",
        "params": 456,
        "best_val_exact": 0.0,
        "best_step": 0,
        "train_steps": 54_000,
        "elapsed_sec": 1872.5,
        "model_config": model,
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert read_summary(tmp_path) == summary | {"status": "done", "seeds": 1, "step": 54_000}
    stored = read_config(tmp_path)
    assert (stored.model, stored.seeds) == (ModelConfig(pos_rank=3), (43,))
    assert (stored.recipe, stored.train_steps) == (train, 54_000)
    assert stored.run_name == "repro_456_s43"


def test_second_writer_is_refused(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, config(1), ENVIRONMENT):
        for attempt in (
            lambda: RunFolder.open(tmp_path),
            lambda: RunFolder.create(tmp_path, config(2), ENVIRONMENT, overwrite=True),
        ):
            with pytest.raises(Failure, match="in use by process"):
                attempt()
        assert read_config(tmp_path).seeds == (1,)
    RunFolder.open(tmp_path).close()


def test_lock_is_given_back_after_a_refusal(tmp_path: Path) -> None:
    one_seed_run(tmp_path)
    for _ in range(2):
        with pytest.raises(UsageError):
            RunFolder.create(tmp_path, config(1), ENVIRONMENT)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(Failure, match="not JSON"):
        RunFolder.open(tmp_path)
    with pytest.raises(Failure, match="not JSON"):
        RunFolder.open(tmp_path)


def test_nothing_to_open(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no run in"):
        RunFolder.open(tmp_path / "gone")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"schema_version": 3}, "newer adderlab"),
        ({"model": {"d_modell": 3}}, "'d_modell'"),
        ({"model": 3}, "model_config must be a table"),
        ({"recipe": 3}, "the recipe must be a table"),
        ({"seeds": []}, "at least one seed"),
        ({"seeds": ["1"]}, "config.seeds[0]"),
        ({"seeds": 5}, "config.seeds"),
        ({"command": "train"}, "config.command"),
    ],
)
def test_broken_config_is_named(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    RunFolder.create(tmp_path, config(1), ENVIRONMENT).close()
    path = tmp_path / "config.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | change))
    with pytest.raises(Failure) as error:
        read_config(tmp_path)
    assert word in str(error.value) and str(path) in str(error.value)
    (key,) = change
    if key not in ("schema_version", "command"):
        del stored[key]
        path.write_text(json.dumps(stored))
        with pytest.raises(Failure, match=key):
            read_config(tmp_path)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"status": "great"}, "status"),
        ({"params": "456"}, "params"),
        ({"params": True}, "params"),
        ({"best_val_exact": None}, "best_val_exact"),
        ({"model_config": []}, "model_config"),
    ],
)
def test_broken_summary_is_named(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    one_seed_run(tmp_path)
    path = tmp_path / "summary.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | change))
    with pytest.raises(Failure, match=word):
        read_summary(tmp_path)
    if word != "status":
        del stored[word]
        path.write_text(json.dumps(stored))
        with pytest.raises(Failure, match=f"lacks the entry '{word}'"):
            read_summary(path)


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    rows = {1: SeedRecord(seed=1)}
    with RunFolder.create(tmp_path, config(1), ENVIRONMENT) as folder:
        folder.record({1: metrics(0, 0.0, loss=math.nan)})
        finish(folder, rows, extra={"loss": math.inf})
    assert math.isnan(read_metrics(tmp_path)[0].train_loss)
    assert read_summary(tmp_path)["loss"] is None


def test_full_disk_keeps_the_last_good_state(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small", kib=128) as disk:
        rows = {1: SeedRecord(seed=1), 2: SeedRecord(seed=2)}
        path = disk / "run"
        with RunFolder.create(path, config(1, 2), ENVIRONMENT) as folder:
            evaluate(folder, 0, {1: 0.0, 2: 0.5}, rows)
            fill(disk)
            before = tree(path)
            some, kept = list(rows.values()), {1: (checkpoint(1, 7), checkpoint(1, 7))}
            writers: list[Callable[[], object]] = [
                lambda: [folder.record({s: metrics(i, 0.5) for s in (1, 2)}) for i in range(1, 99)],
                lambda: folder.save_best(checkpoint(1, 7)),
                lambda: folder.save_last(checkpoint(1, 7)),
                lambda: folder.write_seeds(some),
                lambda: finish(folder, rows),
                lambda: folder.keep_seeds(kept, some, step=7),
            ]
            for write in writers:
                with pytest.raises(Failure, match="the disk is full; free some space") as error:
                    write()
                assert "\n" not in str(error.value)
        after = tree(path)
        for name, content in before.items():
            if name.endswith("metrics.csv"):
                assert after[name].startswith(content) and after[name].endswith(b"\n")
            else:
                assert after[name] == content
        assert read_summary(path)["status"] == "running"
        assert load_checkpoint(path / "checkpoints" / "best.pt").step == 0
        with pytest.raises(Failure, match="disk is full"):
            RunFolder.create(disk / "another", config(3), ENVIRONMENT)


def test_unusable_places(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(Failure) as error:
            RunFolder.create(path, config(1), ENVIRONMENT)
        assert "\n" not in str(error.value) and str(path) in str(error.value)
    assert (tmp_path / "file").read_text() == "kept"


def test_failure_while_starting_leaves_a_folder_to_start_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = FailingCalls(monkeypatch)
    for count in range(200):
        calls.fail_after(count, 28)
        try:
            RunFolder.create(tmp_path / "run", config(1, 2), ENVIRONMENT).close()
        except (Failure, UsageError):
            calls.off()
            continue
        if calls.off():
            break
    assert count > 10
    assert read_config(tmp_path / "run").seeds == (1, 2)


def test_folder_that_vanishes(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", config(1), ENVIRONMENT) as folder:
        (tmp_path / "run").rename(tmp_path / "moved")
        for write in (
            lambda: folder.record({1: metrics(0, 0.5)}),
            lambda: folder.save_best(checkpoint(1, 0)),
            lambda: finish(folder, {1: SeedRecord(seed=1)}),
        ):
            with pytest.raises(Failure, match="does not exist"):
                write()
