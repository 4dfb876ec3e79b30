"""A search and a sweep run for real, then reported, compared and logged."""

from pathlib import Path

import pytest

import adderlab as al
from helpers.pages import Page

SWEEP = """
preset = "67p"
recipe = "microadder-60k"
seeds = "0-1"
steps = 40
[set]
recipe.val_size = 50
recipe.batch_size = 16
[grid]
recipe.lr = [0.02, 0.01]
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    (folder / "lr.toml").write_text(SWEEP)
    al.sweep(folder / "lr.toml", folder=folder / "sweep", device="cpu", threads=1)
    few = al.preset("122p", columns=3)
    found = al.search(few, seeds=[0], minutes=5, folder=folder / "search", device="cpu", threads=1)
    assert [record.status for record in found.seeds] == ["proved"]
    return folder


def test_pages(lab: Path) -> None:
    text = Page(al.write_report(lab / "search").read_text()).text
    assert "The search ended: proved." in text and "Proved? Yes all 10^6 pairs" in text
    assert "model: 122 parameters: 122p with model.columns=3" in text and "What did it take?" in text
    text = Page(al.write_report(lab / "sweep").read_text()).text
    assert "How many cells? 2 2 done" in text and "recipe.lr" in text


def test_comparison(lab: Path) -> None:
    rows = al.compare([lab / "search", lab / "sweep"]).to_dicts()
    assert [(row["successes"], row["seeds"], row["proved"]) for row in rows] == [
        (1, 1, 1),
        (0, 2, None),
        (0, 2, None),
    ]


def test_log(lab: Path, tmp_path: Path) -> None:
    text = al.write_log([lab], tmp_path / "log.md").read_text()
    assert "### Search search" in text and "### Sweep sweep" in text
    assert text.count("### ") == 2, "the runs below them are not listed again"
