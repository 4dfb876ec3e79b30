"""Rows of rates: written, read back strictly, refused in one line, ranked."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from adderlab.errors import Failure
from adderlab.files import schema
from adderlab.study import rate as rates
from adderlab.study.rate import (
    RateRecord,
    default_folder,
    file_name,
    read_rate,
    read_rates,
    write_rate,
)
from helpers.rates import record, with_repair


@pytest.mark.parametrize("row", [record(), with_repair(), record(proved=0), record(pure=None)])
def test_what_is_written_is_read(tmp_path: Path, row: RateRecord) -> None:
    if row.pure is None:
        row = dataclasses.replace(
            row, results=tuple(dataclasses.replace(e, verdict="no tables") for e in row.results)
        )
    path = write_rate(tmp_path / "records" / "rates", row)
    assert path.name == "456p_circle.json"
    assert read_rate(path) == row


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": None}, "no schema_version"),
        ({"schema_version": 99}, "upgrade"),
        ({"colour": "red"}, "colour"),
        ({"n": "two"}, "n must be int"),
        ({"n": 3}, "n is 3, but its seeds come to 2"),
        ({"seeds": "1-2"}, "seeds is 1-2"),
        ({"pure": {"count": 2, "n": 2, "low": 0.1, "high": 1.0, "kind": "wilson"}}, "pure is 2"),
        ({"assisted": {"count": 2, "n": 2, "low": 0.1, "high": 1.0, "kind": "wilson"}}, "assisted is 2"),
        ({"limits": {"cells": "many"}}, "limits.cells must be int"),
        ({"results": [{}]}, "results[0] lacks"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_row_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    path = tmp_path / "row.json"
    path.write_text(json.dumps(schema.to_dict(record()) | change))
    with pytest.raises(Failure) as refused:
        read_rate(path)
    assert words in str(refused.value) and "row.json" in str(refused.value)


def test_a_row_without_an_entry_or_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "row.json"
    data = schema.to_dict(record())
    del data["pure"]
    path.write_text(json.dumps(data))
    with pytest.raises(Failure, match="lacks the setting 'pure'"):
        read_rate(path)
    path.write_text(json.dumps(data)[:100])
    with pytest.raises(Failure, match="is not JSON"):
        read_rate(path)
    with pytest.raises(Failure, match="nowhere"):
        read_rates(tmp_path / "nowhere")


def test_rows_are_ordered_and_the_best_is_known(tmp_path: Path) -> None:
    for row in (
        record("57p", "a"),
        record("456p", "bad", proved=0),
        record("456p", "good", proved=2),
        record("456p", "small", proved=1),
    ):
        write_rate(tmp_path, row)
    (tmp_path / "README.md").write_text("not a row")
    rows = read_rates(tmp_path)
    assert [(row.preset, row.recipe) for row in rows] == [
        ("456p", "good"),
        ("456p", "small"),
        ("456p", "bad"),
        ("57p", "a"),
    ]


def test_file_names_survive_any_setting() -> None:
    name = file_name("456p", 'circle+data={"a": [1/2]}')
    assert name == "456p_circle+data=--a----1-2--.json"


def test_the_default_folder_is_the_checkouts_or_the_current_one(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(rates, "__file__", str(tmp_path / "site" / "a" / "b" / "c" / "rates.py"))
    monkeypatch.chdir(tmp_path)
    assert default_folder() is None
    (tmp_path / "records" / "rates").mkdir(parents=True)
    assert default_folder() == tmp_path / "records" / "rates"
    checkout = tmp_path / "checkout"
    (checkout / "records" / "rates").mkdir(parents=True)
    (checkout / "pyproject.toml").touch()
    monkeypatch.setattr(rates, "__file__", str(checkout / "src" / "adderlab" / "runs" / "rates.py"))
    assert default_folder() == checkout / "records" / "rates"


def test_a_row_of_an_earlier_version_has_todays_names(tmp_path: Path) -> None:
    written = schema.to_dict(record("456p", "aimed-two", proved=1)) | {
        "recipe_settings": {"steps": 7, "aim": None, "draws": {"halvings": [3]}},
        "command": ["adderlab", "rate", "456p", "--recipe", "aimed-two"],
    }
    path = tmp_path / "456p_aimed-two.json"
    path.write_text(json.dumps(written))
    row = read_rate(path)
    assert row.recipe == row.command[-1] == "prefit-restarts2"
    assert row.recipe_settings == {"steps": 7, "prefit": None, "restarts": {"halve_at": [3]}}
