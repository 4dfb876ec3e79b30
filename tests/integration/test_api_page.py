"""docs/api.md is a session that runs, in a folder of its own; docs/settings.md is what the code says."""

import doctest
from pathlib import Path

import pytest

import adderlab as al
from adderlab.cli.main import main
from helpers.paths import ROOT

PAGES = ROOT / "docs"


@pytest.mark.slow
def test_the_tour_prints_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("records", "examples"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    (tmp_path / "results").mkdir()
    monkeypatch.chdir(tmp_path)
    outcome = doctest.testfile(str(PAGES / "api.md"), module_relative=False)
    assert outcome.attempted > 50 and outcome.failed == 0


def test_the_tour_names_every_public_function() -> None:
    text = (PAGES / "api.md").read_text()
    functions = [name for name in al.__all__ if name.islower() and not name.startswith("_")]
    assert [name for name in functions if f"{name}(" not in text and f"al.{name}" not in text] == []


def test_the_settings_page_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "--markdown"]) == 0
    assert capsys.readouterr().out == (PAGES / "settings.md").read_text(), (
        "write it again: adderlab settings --markdown > docs/settings.md"
    )


def test_every_setting_is_explained() -> None:
    assert [row["path"] for row in al.settings().to_dicts() if not row["meaning"]] == []
