"""The record of a seed: from evaluation to evaluation, flat for tables, on the disk and back."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from adderlab.errors import Failure
from adderlab.runs.records import (
    STEP_COLUMNS,
    TABLE_COLUMNS,
    Repair,
    SeedRecord,
    best_of,
    from_history,
    read_records,
    write_records,
    write_table,
)
from helpers.runs import metrics

REPAIRED = SeedRecord(
    seed=4,
    status="done",
    steps=101,
    step_accuracy=(0.5,) * 11,
    verdict="refuted",
    weights="best",
    margin_witness=-0.25,
    worst_pair=(9_999_999_999, 1),
    repair=Repair(verdict="proved", margin_bound=0.5, trainings=2, worst_pair=(3, 4)),
)


def test_a_record_follows_its_evaluations() -> None:
    record = from_history(4, [metrics(0, 0.1), metrics(100, 1.0), metrics(200, 1.0)])
    assert (record.best_step, record.first_perfect_step, record.grokked_at) == (100, 100, 100)
    record = record.after(metrics(300, 0.9))
    assert (record.steps, record.last_exact, record.best_exact) == (301, 0.9, 1.0)
    assert (record.first_perfect_step, record.first_success_step, record.grokked_at) == (100, 100, None)
    assert record.after(metrics(400, 0.995)).grokked_at == 400


def test_the_margin_decides_between_evaluations_that_are_equal_in_all_else() -> None:
    first = SeedRecord(seed=1).after(metrics(0, 1.0), (1.0, 1.0, 0.1))
    second = first.after(metrics(100, 1.0), (1.0, 1.0, 0.3))
    third = second.after(metrics(200, 1.0), (1.0, 1.0, 0.2))
    assert (third.best_step, third.best_margin) == (100, 0.3)
    other = SeedRecord(seed=0).after(metrics(0, 1.0), (1.0, 1.0, 0.25))
    assert best_of([other, third]).seed == 1
    assert best_of([SeedRecord(seed=7), SeedRecord(seed=5)]).seed == 7


def test_a_diverged_seed_is_known_as_such_and_written(tmp_path: Path) -> None:
    record = SeedRecord(seed=1).after(metrics(0, 0.0, loss=math.nan), (0.0, 0.0, math.nan))
    assert (record.status, record.train_loss, record.best_margin) == ("diverged", None, None)
    write_records(tmp_path, [record])
    assert read_records(tmp_path) == (record,)


def test_records_come_back_in_their_order(tmp_path: Path) -> None:
    records = (REPAIRED, SeedRecord(seed=0).after(metrics(0, 0.5)), SeedRecord(seed=9))
    write_records(tmp_path, records)
    assert read_records(tmp_path) == records
    assert len((tmp_path / "seeds.json").read_text().splitlines()) == 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": 99}, "upgrade"),
        ({"seeds": {}}, "list of seeds"),
        ({"seeds": [{"seed": 1, "colour": "red"}]}, "colour"),
        ({"seeds": [{"seed": 1, "status": "happy"}]}, "happy"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(tmp_path: Path, change: dict, words: str) -> None:
    (tmp_path / "seeds.json").write_text(json.dumps({"schema_version": 1, "seeds": []} | change))
    with pytest.raises(Failure) as refused:
        read_records(tmp_path)
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_the_route_is_that_of_the_proof() -> None:
    pure = dataclasses.replace(REPAIRED, verdict="proved", repair=None, margin_bound=0.1)
    assert (pure.route, pure.proof_of.margin_bound) == ("pure", 0.1)
    assert (REPAIRED.route, REPAIRED.proof_of.margin_bound) == ("assisted", 0.5)
    assert SeedRecord(seed=1).route is None


def test_a_row_is_flat() -> None:
    row = REPAIRED.to_dict()
    assert all(isinstance(value, (int, float, str, bool, type(None))) for value in row.values())
    assert (row["step_accuracy_10"], row["worst_a"], row["worst_b"]) == (0.5, 9_999_999_999, 1)
    assert (row["repair_trainings"], row["repair_worst_b"], row["route"]) == (2, 4, "assisted")
    assert row.keys() == SeedRecord(seed=1, step_accuracy=(0.0,) * 11).to_dict().keys()


def test_the_table_has_the_published_columns(tmp_path: Path) -> None:
    write_table(tmp_path, [REPAIRED, SeedRecord(seed=2).after(metrics(0, 1.0))])
    header, first, second = (tmp_path / "seeds.csv").read_text().splitlines()
    assert tuple(header.split(",")) == TABLE_COLUMNS and set(STEP_COLUMNS) <= set(TABLE_COLUMNS)
    assert first.startswith("2,1,0,1,1,11,0,") and first.endswith(",training")
    assert second.startswith("4,") and second.endswith(",done")
