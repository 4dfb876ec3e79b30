"""Run folders of every kind, of this version and of 0.1, read in one form."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from adderlab.errors import Failure, UsageError
from adderlab.files import schema
from adderlab.runs.metadata import RunConfig, kind_of, read_config, write_config
from adderlab.runs.records import write_records
from adderlab.runs.stored import child_runs, open_run, seed_records
from helpers.runs import GROKS, LOST, MODEL, NEVER, recipe, write_run


def test_a_run_is_read_whole(tmp_path: Path) -> None:
    run = open_run(write_run(tmp_path / "run", {3: GROKS, 4: LOST}))
    assert (run.kind, run.name, run.status, run.config.seeds) == ("run", "run", "done", (3, 4))
    assert [record.grokked_at for record in run.seeds] == [2000, None]
    assert [record.first_success_step for record in run.seeds] == [2000, 1000]
    assert [each.val_exact for each in run.history(run.seeds[1])] == LOST
    assert run.children() == () and run.environment["cpu"] == "A Processor"


def test_without_seeds_json_the_tables_tell_the_same_but_for_margins(tmp_path: Path) -> None:
    """As version 0.1 left a run."""
    path = write_run(tmp_path / "run", {3: GROKS, 4: NEVER})
    known = seed_records(path)
    (path / "seeds.json").unlink()
    old = seed_records(path)
    assert [dataclasses.replace(each, checkpoint=None) for each in old] == [
        dataclasses.replace(each, checkpoint=None) for each in known
    ]
    assert (old[0].best_step, old[0].status) == (2000, "training")


def test_a_search_has_its_runs_below(tmp_path: Path) -> None:
    details = {"onward": True, "assisted": True, "together": 1}
    config = RunConfig(kind="search", model=MODEL, recipe=recipe(), seeds=(3,), details=details)
    write_config(tmp_path, config)
    run = write_run(tmp_path / "seed_0003", {3: GROKS})
    write_records(tmp_path, [record.below("seed_0003") for record in seed_records(run)])
    search = open_run(tmp_path)
    assert search.config == config and search.status == "started"
    assert search.children() == (run,)
    assert [each.val_exact for each in search.history(search.seeds[0])] == GROKS


OLD_SEARCH = {
    "schema_version": 1,
    "model": schema.to_dict(MODEL),
    "recipe": recipe(),
    "seeds": [3],
    "onward": False,
    "assisted": True,
    "together": 1,
    "command": ["adderlab", "train"],
}
OLD_RATE = {
    "schema_version": 1,
    "preset": "456p",
    "recipe_name": "circle",
    "published": False,
    "config": schema.to_dict(MODEL),
    "recipe": recipe(),
    "seeds": [3],
    "batch_of_seeds": 48,
    "limits": {"cells": 10, "seconds": 1.0, "union_seconds": 1.0},
    "assistance": None,
    "command": ["adderlab", "rate"],
}
OLD_OUTCOME = {
    "seed": 3,
    "steps": 3001,
    "last_exact": 1.0,
    "best_exact": 1.0,
    "grokked_at": 2000,
    "missing_steps": 0,
    "verdict": "proved",
    "weights": "last",
    "margin_bound": 0.5,
    "margin_witness": 0.6,
    "published_errors": 0,
    "training_core_seconds": 4.0,
    "proving_core_seconds": 1.0,
    "repair": None,
}


@pytest.mark.parametrize(
    ("file", "content", "kind", "details"),
    [
        ("until.json", OLD_SEARCH, "search", {"onward": False, "assisted": True, "together": 1}),
        ("plan.json", OLD_RATE, "rate", {k: OLD_RATE[k] for k in list(OLD_RATE) if k in (
            "preset", "recipe_name", "published", "batch_of_seeds", "limits", "assistance")}),
        ("sweep.json", {"schema_version": 1, "guided": False, "declaration": {"preset": "456p"}},
         "sweep", {"guided": False, "declaration": {"preset": "456p"}}),
    ],
)  # fmt: skip
def test_what_version_0_1_wrote_for_config_json_is_read(
    tmp_path: Path, file: str, content: dict[str, Any], kind: str, details: dict[str, Any]
) -> None:
    (tmp_path / file).write_text(json.dumps(content))
    write_run(tmp_path / "cells" / "0000", {3: GROKS})
    config = read_config(tmp_path)
    assert (kind_of(tmp_path), config.kind, config.seeds) == (kind, kind, (3,))
    assert config.model == MODEL and config.recipe["steps"] == 3000
    assert config.details == details


def test_an_old_rate_has_its_verdicts_and_its_curves(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps(OLD_RATE))
    write_run(tmp_path / "population_00", {3: GROKS})
    (tmp_path / "population_00" / "seeds.json").unlink()
    (tmp_path / "seed_0003.json").write_text(json.dumps(OLD_OUTCOME))
    (record,) = open_run(tmp_path).seeds
    assert (record.verdict, record.route, record.missing_steps) == ("proved", "pure", 0)
    assert (record.run, record.first_perfect_step) == ("population_00", 2000)
    assert record.checkpoint == "population_00/checkpoints/best.pt"
    (tmp_path / "seed_0003.json").write_text("{}")
    with pytest.raises(Failure, match=r"seed_0003\.json"):
        open_run(tmp_path)


def test_an_old_sweep_without_a_cell_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "sweep.json").write_text('{"schema_version": 1, "guided": false, "declaration": {}}')
    with pytest.raises(Failure, match="trained no cell"):
        open_run(tmp_path)
    assert child_runs(tmp_path, "sweep") == ()


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run"):
        open_run(tmp_path)
    write_run(tmp_path / "run", {3: NEVER})
    (tmp_path / "run" / "seeds.json").write_text("[]")
    with pytest.raises(Failure, match=r"seeds\.json"):
        open_run(tmp_path / "run")
