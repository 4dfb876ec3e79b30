"""Measured rates as people read them: the table, docs/rates.md, the zoo's columns."""

import json
from pathlib import Path

import pytest

from adderlab.cli.main import FAILURE, USAGE, main
from adderlab.evaluation.suites import Rate
from adderlab.files.schema import to_dict
from adderlab.models.zoo import PRESETS
from adderlab.recipes import best_name
from adderlab.report.describe import (
    COLUMNS,
    describe_rate,
    rates_page,
    table_row,
)
from adderlab.study.rate import write_rate
from helpers.golden import Golden
from helpers.paths import ROOT
from helpers.rates import record, with_repair


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for row in (
        record("456p", "circle", proved=1),
        record("456p", "r456-54k", proved=0, published=True),
        record("57p", "microadder-60k", proved=0),
    ):
        write_rate(tmp_path, row)
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(list(argv)) == 0
    return capsys.readouterr().out


def test_the_page_of_rates_is_what_the_command_prints(capsys) -> None:
    page = (ROOT / "docs" / "rates.md").read_text()
    assert page == printed(capsys, "rate", "--markdown"), "adderlab rate --markdown > docs/rates.md"


def test_a_row_shows_what_was_counted() -> None:
    row = record(pure=Rate(count=1, n=2, low=0.1, high=0.9, kind="wilson"))
    shown = dict(zip(COLUMNS, table_row(row), strict=True))
    assert shown["proved"] == "1/2 = 50.0% [10.0%, 90.0%]" and shown["with repair"] == "-"
    assert shown["seeds"] == "1000-1001 (2)" and shown["to a proof"] == "12.5 s"
    assert shown["steps to 99%"] == "500" and shown["train s"] == "2"
    failed = dict(zip(COLUMNS, table_row(record(proved=0, published=True)), strict=True))
    assert failed["to a proof"] == failed["steps to 99%"] == failed["prove s"] == "-"
    assert failed["recipe"] == "circle (published)"


def test_rates_are_described(golden: Golden) -> None:
    lines = [line for each in (record(proved=0), with_repair()) for line in describe_rate(each)]
    golden("report/describe_rates.txt", "\n".join(lines) + "\n")


def test_the_page_shows_how_to_measure_again(golden: Golden) -> None:
    golden("report/rates_page.md", rates_page([record("456p", proved=0), with_repair()]))
    assert "No rate has been measured" in rates_page([])


def test_the_table_has_every_row(folder: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = printed(capsys, "rate", "--table", "-o", str(folder))
    assert shown.splitlines()[0].split() == " ".join(COLUMNS).split(), "a header is cut"
    assert shown.index("circle") < shown.index("r456-54k (published)") < shown.index("microadder")
    listed = json.loads(printed(capsys, "rate", "--json", "-o", str(folder)))
    assert [each["preset"] for each in listed] == ["456p", "456p", "57p"]
    assert listed[0] == json.loads(json.dumps(to_dict(record("456p", "circle", proved=1))))


def test_a_damaged_row_is_one_line(folder: Path, capsys) -> None:
    (folder / "456p_circle.json").write_text("{")
    for command in (["rate", "--table", "-o", str(folder)], ["zoo", "--records", str(folder)]):
        assert main(command) == FAILURE
        assert "456p_circle.json" in capsys.readouterr().err
    assert main(["rate", "456p", "--markdown"]) == USAGE


def test_the_zoo_shows_the_rate_of_the_recipe_that_best_names(folder: Path, capsys, monkeypatch) -> None:
    write_rate(folder, record("456p", "circle", proved=2))
    write_rate(folder, record("456p", best_name(PRESETS["456p"]), proved=1))
    write_rate(folder, record("57p", best_name(PRESETS["57p"]), proved=0))
    entries = {
        each["name"]: each
        for each in json.loads(printed(capsys, "zoo", "--json", "--records", str(folder)))
    }
    assert entries["456p"]["rate"] == {
        "count": 1,
        "n": 2,
        "low": 0.1,
        "high": 0.9,
        "kind": "wilson",
        "recipe": best_name(PRESETS["456p"]),
    }
    assert entries["456p"]["proved"] is True and entries["57p"]["proved"] is False
    assert entries["57p"]["rate"]["count"] == 0
    assert entries["36p"]["rate"] is None and entries["36p"]["proved"] is None
    monkeypatch.setenv("COLUMNS", "160")
    lines = printed(capsys, "zoo", "--records", str(folder)).splitlines()
    ends = {line.split()[0]: line.split() for line in lines if line and line.split()[0] in PRESETS}
    assert ends["456p"][-4:] == ["1/2", "[10.0%,", "90.0%]", "yes"]
    assert ends["57p"][-1] == "no" and ends["36p"][-2:] == ["-", "-"]
    assert "measured: recipe r456-54k, 0/2" in printed(capsys, "zoo", "456p", "--records", str(folder))


def test_repair_alone_is_named_as_such(tmp_path: Path, capsys, monkeypatch) -> None:
    first, second = with_repair().results
    rows = with_repair()
    helped = record(
        "456p",
        "prefit-restarts2-anneal",
        results=(second,),
        n=1,
        seeds="1001",
        pure=Rate(count=0, n=1, low=0.0, high=0.8, kind="wilson"),
    )
    assert first.route == "pure" and rows.assisted is not None
    write_rate(tmp_path, helped)
    page = printed(capsys, "zoo", "456", "--markdown", "--records", str(tmp_path))
    assert "| 0/1 [0.0%, 80.0%] | with repair |" in page


def test_of_equal_rates_the_first_row_is_the_best_of_its_kind() -> None:
    rows = [record("122p", name, proved=48, n=48) for name in ("auto", "auto-no-wide")]
    assert "\n| 122p | auto | 48/48" in rates_page(rows).split("## The best of either kind")[1]
