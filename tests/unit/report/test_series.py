"""Declared series: strict reading, only our own commands, expectations checked against files."""

import json
from pathlib import Path

import pytest

from adderlab.errors import UsageError
from adderlab.report.replay import (
    Expectation,
    check,
    read_series,
    split_command,
)
from helpers.paths import ROOT

SERIES = """
schema_version = 1
name = "tiny"
title = "Tiny"
[[experiment]]
name = "A"
title = "first"
[[experiment.step]]
command = "adderlab evaluate x.pt --output e.json"
output = "e.json"
[[experiment.expect]]
file = "e.json"
key = "n"
equals = 5
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "series.toml"
    path.write_text(text)
    return path


def test_the_published_log_is_declared_as_printed() -> None:
    series = read_series(ROOT / "experiments" / "seed-log.toml")
    assert [e.name for e in series.experiment] == ["E1", "E2", "E3", "E4"]
    kind, argv = split_command(series.experiment[0].step[0].command)
    assert kind == "src.train"
    printed = (
        "--run-name repro_456_s43 --pos-rank 3 --qkv-rank 3 --attn-out-rank 2 --ffn-rank 3 "
        "--use-rmsnorm --tie-qkv shareA_tieKV --train-steps 54000 --device auto --seed 43"
    )
    assert " ".join(argv) == printed
    assert all(e.reported and e.expect for e in series.experiment)


@pytest.mark.parametrize(
    ("change", "words_of_it"),
    [
        (("title = ", "titel = "), "titel"),
        (("schema_version = 1", "schema_version = 2"), "schema_version is 2"),
        (('name = "tiny"', 'name = "../tiny"'), "../tiny"),
        (('output = "e.json"', ""), "must name what it writes"),
        (('output = "e.json"', 'output = "e.json"\nrun = "r"'), "one of the two"),
        (("adderlab evaluate x.pt --output e.json", "rm -rf /"), "none of adderlab's"),
        (("adderlab evaluate x.pt --output e.json", "adderlab 'x"), "cannot be read"),
        (("equals = 5", ""), "one of reads, equals"),
        (("equals = 5", "equals = 5\nat_most = 6"), "one of reads, equals"),
        (("equals = 5", 'equals = "five"'), "equals must be float"),
        (("schema_version = 1", "schema_version = "), "not TOML"),
    ],
)
def test_a_wrong_series_is_one_line(tmp_path: Path, change, words_of_it: str) -> None:
    path = write(tmp_path, SERIES.replace(*change))
    with pytest.raises(UsageError) as caught:
        read_series(path)
    assert words_of_it in str(caught.value) and str(path) in str(caught.value)


def test_a_missing_series_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file"):
        read_series(tmp_path / "none.toml")


def test_two_experiments_of_one_name_are_refused(tmp_path: Path) -> None:
    doubled = SERIES + SERIES[SERIES.index("[[experiment]]") :]
    with pytest.raises(UsageError, match="unique"):
        read_series(write(tmp_path, doubled))


@pytest.mark.parametrize(
    ("expectation", "met", "found"),
    [
        (Expectation(file="e.json", key="a.b", equals=5), True, "5"),
        (Expectation(file="e.json", key="a.b", equals=5.001, within=1e-3), True, "5"),
        (Expectation(file="e.json", key="a.b", equals=5.01, within=1e-3), False, "5"),
        (Expectation(file="e.json", key="a.b", at_least=5), True, "5"),
        (Expectation(file="e.json", key="a.b", at_least=5.1), False, "5"),
        (Expectation(file="e.json", key="a.b", at_most=4), False, "5"),
        (Expectation(file="e.json", key="s", reads="done"), True, "done"),
        (Expectation(file="e.json", key="s", reads="stopped"), False, "done"),
        (Expectation(file="e.json", key="s", at_most=4), False, "done"),
        (Expectation(file="e.json", key="t", at_most=4), False, "True"),
        (Expectation(file="e.json", key="a.c", equals=5), None, "no entry a.c"),
        (Expectation(file="none.json", key="a", equals=5), None, "none.json is not there"),
        (Expectation(file="m.csv", key="loss", step=10, equals=2.5), True, "2.5"),
        (Expectation(file="m.csv", key="loss", equals=1.5), True, "1.5"),
        (Expectation(file="m.csv", key="loss", step=11, equals=2.5), None, "no loss at step 11"),
        (Expectation(file="m.csv", key="gain", step=10, equals=2.5), None, "no gain"),
        (Expectation(file="m.csv", key="word", step=10, equals=2.5), None, "no number"),
    ],
    ids=str,
)
def test_expectations(tmp_path: Path, expectation: Expectation, met: bool | None, found: str) -> None:
    (tmp_path / "e.json").write_text(json.dumps({"a": {"b": 5}, "s": "done", "t": True}))
    (tmp_path / "m.csv").write_text("step,loss,word\n10,2.5,x\n20,1.5,y\n")
    checked = check(expectation, lambda name: tmp_path / name)
    assert checked.met is met
    assert found in checked.found
    assert str(checked).startswith({True: "met: ", False: "NOT met: ", None: "cannot be checked: "}[met])
