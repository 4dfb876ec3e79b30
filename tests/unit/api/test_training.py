"""Training, searches, rates, sweeps and plans as functions."""

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import adderlab as al
from adderlab.api.experiments import define, parse_open_seeds, parse_seeds, parse_settings
from adderlab.models.zoo import get_preset
from adderlab.training.measure import Listener
from adderlab.training.recipe import Recipe

TINY = Recipe(steps=11, batch_size=16, warmup_steps=4, val_size=20, test_size=20, eval_interval=5)
HERE: dict[str, Any] = {"device": "cpu", "engine": "torch", "threads": 1}


class StopAt(Listener):
    """Asks for a stop, as Ctrl-C does, once so many steps are done."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, seeds: tuple[int, ...], step: int, models: int) -> None:
        if step == self.step:
            signal.raise_signal(signal.SIGINT)


def test_a_run_is_what_its_folder_holds(tmp_path: Path) -> None:
    run = al.train("456p", recipe=TINY, seeds=range(3, 5), folder=tmp_path / "run", keep="all", **HERE)
    assert (run.kind, run.status, run.config) == ("run", "done", get_preset("456p").config)
    assert [record.seed for record in run.seeds] == [3, 4] and run.success.n == 2
    assert run.best.weights_sha256 == al.load(run).weights_sha256
    assert run.best.weights_sha256 == al.load(str(run.folder)).weights_sha256
    with pytest.raises(al.UsageError, match="is a folder"):
        al.load(tmp_path)
    other = next(record for record in run.seeds if record.seed != run.best.seed)
    assert al.load(other).seed == other.seed
    assert [metrics.step for metrics in run.history(3)] == [0, 5, 10]
    rows = run.to_dicts()
    assert rows[0]["seed"] == 3 and rows[0].keys() == rows[1].keys()
    assert run.to_dict()["best_seed"] == run.best.seed and run.spent["seed_steps"] == 22
    assert "<table>" in run._repr_html_()
    again = al.open_run(tmp_path / "run")
    assert again.seeds == run.seeds
    with pytest.raises(al.UsageError, match="no seed 9"):
        run.history(9)


def test_a_stopped_run_is_resumed_to_the_same_bits(tmp_path: Path) -> None:
    whole = al.train("456p", recipe=TINY, seeds=[3], folder=tmp_path / "whole", **HERE)
    stopped = al.train(
        "456p", recipe=TINY, seeds=[3], folder=tmp_path / "parts", listener=StopAt(7), **HERE
    )
    assert stopped.status == "stopped" and stopped.seeds[0].status == "training"
    resumed = al.resume(stopped.folder, **HERE)
    assert resumed.best.weights_sha256 == whole.best.weights_sha256
    unplaced = [dataclasses.replace(run.seeds[0], checkpoint=None) for run in (whole, resumed)]
    assert unplaced[0] == unplaced[1]


def test_a_search_says_how_it_ended_and_is_resumed(tmp_path: Path) -> None:
    found = al.search("456p", recipe=TINY, seeds=[3, 4], folder=tmp_path / "search", **HERE)
    assert (found.kind, found.status, found.proved) == ("search", "seeds used up", ())
    assert [record.run for record in found.seeds] == ["seed_0003", "seed_0004"]
    assert found.best.seed in (3, 4) and found.spent["core_seconds"] > 0
    assert [metrics.step for metrics in found.history(4)] == [0, 5, 10]
    assert al.resume(found.folder, **HERE).status == "seeds used up"
    with pytest.raises(al.UsageError, match="cannot be proved"):
        al.search("6080p", recipe=TINY, seeds=[3], folder=tmp_path / "other", **HERE)


def test_a_rate_is_a_record_and_its_folder_a_run(tmp_path: Path) -> None:
    def measure(**changes: Any) -> Any:
        return al.measure_rate(
            "456p",
            recipe=TINY,
            name="tiny",
            seeds="3-4",
            folder=tmp_path / "runs",
            rows=tmp_path / "rows",
            **HERE,
            **changes,
        )

    with pytest.raises(KeyboardInterrupt):
        measure(listener=StopAt(7))
    record = measure(resume=True)
    assert record.recipe == "tiny" and record.pure.n == 2
    assert [row["verdict"] for row in record.to_dicts()] == ["missed", "missed"]
    run = al.open_run(tmp_path / "runs")
    assert (run.kind, run.status) == ("rate", "done")
    assert {each.run for each in run.seeds} == {"population_00"}
    with pytest.raises(al.UsageError, match="overwrite=True"):
        measure()


def test_a_rate_says_which_part_of_a_recipe_a_short_run_leaves_out(tmp_path: Path) -> None:
    said: list[str] = []
    listener = Listener()
    listener.on_message = said.append  # type: ignore[method-assign]
    small = ["recipe.batch_size=4", "recipe.val_size=10", "recipe.test_size=5", "recipe.eval_interval=2"]
    places = {"folder": tmp_path / "runs", "rows": tmp_path / "rows"}
    al.measure_rate("8p", seeds=[3], steps=3, set=small, listener=listener, **places, **HERE)
    assert any("with 3 steps a seed has one" in each for each in said)


def test_a_sweep_is_a_table_and_its_folder_a_run(tmp_path: Path) -> None:
    space = {
        "preset": "456p",
        "recipe": "published",
        "seeds": [3],
        "steps": 3,
        "set": {"recipe": {"batch_size": 4, "val_size": 10, "test_size": 5, "eval_interval": 2}},
        "grid": {"recipe": {"lr": [0.01, 0.02]}},
    }
    found = al.sweep(space, folder=tmp_path / "sweep", **HERE)
    rows = found.to_dicts()
    assert sorted(row["recipe.lr"] for row in rows) == [0.01, 0.02]
    assert {row["state"] for row in rows} == {"done"} and len(found.describe()) == 2
    run = al.open_run(tmp_path / "sweep")
    assert (run.kind, run.status) == ("sweep", "done")
    assert sorted(record.run for record in run.seeds) == ["cells/0000", "cells/0001"]
    with pytest.raises(al.UsageError, match="already holds a sweep"):
        al.sweep(space, folder=tmp_path / "sweep", **HERE)


def test_what_is_trained_is_a_name_a_configuration_or_a_model(tmp_path: Path) -> None:
    config = get_preset("36p").config
    assert define("36", "best").config == define(config, "best").config == config
    assert define(config, "best").recipe_name == define("36p", "best").recipe_name
    wide = dataclasses.replace(get_preset("456p").config, d_ff=9)
    own = define(wide, "published", settings={"recipe.lr": 0.5})
    assert own.config == wide and own.recipe.lr == 0.5 and own.changes == ("lr=0.5",)
    assert not own.is_published and define(wide, "published").recipe_name == "r456-54k"
    run = al.train("36p", recipe=TINY, seeds=[3], folder=tmp_path / "run", **HERE)
    assert define(run.best, TINY).config == config and define(run.best, TINY).recipe_name == ""


def test_seeds_and_settings_are_read_in_every_form() -> None:
    assert parse_seeds("0-3,43, 2") == (0, 1, 2, 3, 43) and parse_seeds(range(2)) == (0, 1)
    assert parse_open_seeds("100-") == ((100,), True) and parse_open_seeds([5]) == ((5,), False)
    assert parse_settings({"model.d_ff": 9}) == parse_settings(["model.d_ff=9"])
    for wrong in ("1-", "", [], [-1], [True], ["1"]):
        with pytest.raises(al.UsageError):
            parse_seeds(wrong)  # type: ignore[arg-type]
    with pytest.raises(al.UsageError, match=r"recipe\.NAME=VALUE"):
        parse_settings(["lr=1"])


def test_numpy_integers_are_seeds() -> None:
    assert parse_seeds(np.arange(3)) == (0, 1, 2)
    for wrong in ([0.5], [True], [-1]):
        with pytest.raises(al.UsageError, match="numbers from 0 on"):
            parse_seeds(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("seeds", [(3,), (3, 4)])
def test_a_run_whose_losses_are_no_numbers_says_so(seeds: tuple[int, ...], tmp_path: Path) -> None:
    lines: list[str] = []
    listener = Listener()
    listener.on_message = lines.append  # type: ignore[method-assign]
    wild = dataclasses.replace(TINY, lr=1e39, warmup_steps=0)
    run = al.train(
        "456p", recipe=wild, seeds=seeds, folder=tmp_path / "run", prove=True, listener=listener, **HERE
    )
    assert run.status == "diverged" and run.to_dict()["status"] == "diverged"
    assert {record.status for record in run.seeds} == {"diverged"}
    assert any(line.startswith("diverged after") for line in lines)
    assert any(
        "Nothing to prove: the loss of every seed is no longer a number" in line for line in lines
    )
    with pytest.raises(al.Failure, match="is not finite") as refused:
        al.prove(run)
    assert "\n" not in str(refused.value)
    page = al.write_report(run.folder)
    assert "no longer a number" in Path(str(page)).read_text(encoding="utf-8")
    assert al.resume(run.folder, **HERE).status == "diverged"


def test_a_seed_that_diverges_among_others_is_named_and_the_run_is_done(tmp_path: Path) -> None:
    from adderlab.runs.metadata import ended_as
    from adderlab.runs.records import SeedRecord

    fine, lost = SeedRecord(seed=0, status="done"), SeedRecord(seed=1, status="diverged")
    assert (ended_as([fine, lost]), ended_as([lost]), ended_as([fine])) == ("done", "diverged", "done")


def test_seeds_that_are_too_many_or_too_large_are_refused() -> None:
    assert parse_seeds([2**63 - 1]) == (2**63 - 1,)
    for seeds in (range(10**11), range(10**30), "0-99999999999"):
        with pytest.raises(al.UsageError, match="more than 10,000,000 seeds"):
            parse_seeds(seeds)
    for seeds in ([2**63], str(2**64), f"0-{2**63}"):
        with pytest.raises(al.UsageError, match="seeds end at 2\\^63 - 1"):
            parse_seeds(seeds)


def test_an_evaluation_is_on_the_disk_before_it_is_shown(tmp_path: Path) -> None:
    run = al.train("456p", recipe=TINY, seeds=[3], folder=tmp_path / "run", **HERE)
    report = next(iter(run.evaluate("fresh:20", device="cpu", engine="torch")))
    assert json.loads((run.folder / "evaluation.json").read_text())["n"] == report.to_dict()["n"]


@pytest.mark.parametrize("setting", ["recipe.restarts", "recipe.draws"])
def test_a_choice_among_starts_that_was_asked_for_stays_in_a_short_run(setting: str) -> None:
    """By its name of today and by that of version 0.1."""
    key = "halve_at" if setting.endswith("restarts") else "halvings"
    found = define("67p", "best", steps=600, settings=[f'{setting}={{"{key}":[200,400]}}'])
    assert found.recipe.restarts is not None and found.recipe.restarts.halve_at == (200, 400)
    assert not found.note
