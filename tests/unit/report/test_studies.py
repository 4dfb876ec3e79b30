"""Searches and sweeps in the report, the comparison and the log, beside ordinary runs."""

import json
from pathlib import Path

import pytest

from adderlab.api.reports import compare, write_report
from adderlab.cli.main import main
from adderlab.report.evidence import populations, read_run
from helpers.golden import Golden
from helpers.pages import Page
from helpers.runs import GROKS, NEVER, write_run
from helpers.studies import write_search, write_sweep


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_search(Path("search"))
    write_sweep(Path("sweep"))
    return tmp_path


def test_a_search_is_read_seed_by_seed(lab: Path) -> None:
    run = read_run("search")
    assert run.problems == () and run.kind == "search" and run.status == "proved"
    assert [record.seed for record in run.seeds] == [3, 4, 5]
    assert [history.seed for history in run.histories] == [3, 4, 5]
    assert run.success is not None and run.success.count == 2
    assert run.proved is not None and (run.proved.count, run.proved.n) == (2, 3)
    # A proved model is what the search was for, whatever the scores.
    assert run.best_record is not None and run.best_record.seed == 4
    assert run.checkpoint is not None and run.proof is not None
    assert run.proof.verdict == "proved" and run.proof.margin_bound == 0.25


def test_a_sweep_is_read_cell_by_cell(lab: Path) -> None:
    run = read_run("sweep")
    assert run.problems == () and run.histories == () and len(run.seeds) == 8
    assert [cell.name for cell in run.cells] == ["0001", "0000"]
    assert [cell.settings for cell in run.cells] == [{"recipe.lr": 0.01}, {"recipe.lr": 0.02}]
    rates = [cell.success for cell in run.cells]
    assert [rate and (rate.count, rate.n) for rate in rates] == [(3, 4), (0, 4)]
    assert [each.name for each in populations([run])] == ["sweep/0001", "sweep/0000"]


@pytest.mark.parametrize("name", ["search", "sweep"])
def test_the_page_of_a_study(lab: Path, name: str, golden: Golden) -> None:
    page = Page(write_report(name).read_text())
    assert not [a for a in page.attributes if a[0] in ("script", "link", "iframe", "img")]
    first = "When each answer digit was learned" if name == "search" else "Configuration"
    golden(f"report/page_of_a_{name}.txt", page.above(first))


def test_the_seeds_of_a_search_are_a_table_with_what_became_of_each(lab: Path) -> None:
    text = Page(write_report("search").read_text()).text
    for row in (
        "3 dropped 3,001 0.0% 0.0% 0 0",
        "4 proved 3,001 100.0% 100.0% 2,000 11 2,000 proved 0 0.3",
        "5 proved 3,001 99.50% 99.50% 3,000 11 3,000 proved after repair 0 0.02",
    ):
        assert row in text, row


def test_a_search_and_the_cells_of_a_sweep_are_compared_with_a_run(lab: Path, capsys) -> None:
    write_run(Path("run"), {s: (GROKS, NEVER)[s % 2] for s in range(8)})
    comparison = compare(["run", "search", "sweep"])
    rows = comparison.to_dicts()
    assert [row["name"] for row in rows] == ["run", "search", "sweep/0001", "sweep/0000"]
    assert [(row["successes"], row["seeds"]) for row in rows] == [(4, 8), (2, 3), (3, 4), (0, 4)]
    assert [row["proved"] for row in rows] == [None, 2, None, None]
    assert all(row["rate_low"] <= row["rate"] <= row["rate_high"] for row in rows)
    assert rows[0]["fisher_p"] is None and rows[1]["fisher_p"] == pytest.approx(1.0)
    assert dict(comparison.differing)["recipe.lr"] == (0.02, 0.02, 0.01, 0.02)
    assert "4/8 = 50.0%" in comparison._repr_html_()
    assert main(["compare", "run", "search", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["runs"][1]["proved"]["count"] == 2
    assert dict(compare(["run", "search"]).differing)["kind"] == ("run", "search")


def test_a_page_of_several_kinds_lists_the_cells(lab: Path) -> None:
    write_run(Path("run"), {0: GROKS, 1: NEVER})
    page = Page(write_report(["run", "search", "sweep"], "all.html").read_text())
    top = page.above("Grokking")
    for name in ("3 runs", "search", "sweep/0001", "sweep/0000", "Fisher p"):
        assert name in top, name


@pytest.mark.parametrize("name", ["summary.json", "seeds.json", "environment.json", "config.json"])
def test_damaged_files_of_a_search_are_problems(lab: Path, name: str) -> None:
    Path("search", name).write_text("{")
    run = read_run("search")
    assert any(name in problem for problem in run.problems)
    assert "Missing or damaged" in Page(write_report("search").read_text()).text


@pytest.mark.parametrize("text", ["{", '{"cells": [1]}', "{}"])
def test_a_damaged_table_of_a_sweep_is_a_problem(lab: Path, text: str) -> None:
    Path("sweep/table.json").write_text(text)
    run = read_run("sweep")
    assert any("table.json" in problem for problem in run.problems)
    assert [cell.name for cell in run.cells] == ["0000", "0001"]


def test_the_log_of_a_search_and_a_sweep(lab: Path, golden: Golden) -> None:
    assert main(["log", ".", "--output", "log.md"]) == 0
    golden("report/log_of_studies.md", Path("log.md").read_text())


def test_a_search_of_version_0_1_is_read(lab: Path) -> None:
    """Its plan was in until.json, its seeds under ``tries`` of summary.json."""
    config = json.loads(Path("search/config.json").read_text())
    summary = json.loads(Path("search/summary.json").read_text())
    fate = {"proofs": 1, "trainings": 0, "margin_bound": None, "margin_witness": None, "pair": []}
    lost = {**fate, "seed": 3, "state": "dropped", "route": "", "step": 3000, "val_exact": 0.0}
    won = {**fate, "seed": 4, "state": "proved", "route": "pure", "step": 3000, "val_exact": 1.0}
    won |= {"margin_bound": 0.25, "margin_witness": 0.3, "pair": [1, 2]}
    files = {"checkpoint": "elsewhere/proved/seed_0004.pt", "certificate": ""}
    none = {"checkpoint": "", "certificate": ""}
    summary["tries"] = [
        {"folder": "seed_0003", "seeds": [lost | none]},
        {"folder": "seeds_0004-0005", "seeds": [won | files]},
    ]
    plan = {"schema_version": 1, "model": config["model"], "recipe": config["recipe"], "seeds": [3]}
    plan |= {**config["search"], "command": config["command"]}
    for name in ("config.json", "seeds.json"):
        Path("search", name).unlink()
    Path("search/until.json").write_text(json.dumps(plan))
    Path("search/summary.json").write_text(json.dumps(summary))
    run = read_run("search")
    assert run.kind == "search" and [record.status for record in run.seeds] == ["dropped", "proved"]
    assert run.proved is not None and run.proved.count == 1
    assert run.seeds[1].first_success_step == 2000 and run.seeds[1].steps_learned == 11
    assert "How many seeds?" in Page(write_report("search").read_text()).text


@pytest.mark.parametrize("name", ["sweep", "search", "run"])
def test_what_was_stopped_before_its_first_evaluation_is_told_in_words(lab: Path, name: str) -> None:
    write_run(Path("run"), {0: GROKS, 1: NEVER})
    for file in Path(name).rglob("*"):
        if file.suffix == ".csv" and "metrics" in file.name:
            file.write_text(file.read_text().splitlines(keepends=True)[0])
        elif file.is_file() and file.name not in ("config.json", "environment.json"):
            file.unlink()
    run = read_run(name)
    assert run.problems == () and run.status == "not evaluated yet"
    what = "2 cells have begun to train, and none has" if name == "sweep" else f"the {name} has begun"
    page = Page(write_report(name).read_text()).text
    assert f"Not evaluated yet: {what}" in page and "Missing or damaged" not in page
    assert main(["log", name, "--output", "log.md"]) == 0
    assert f"- Not evaluated yet: {what}" in Path("log.md").read_text()
