"""Drawings that stand alone: well-formed, without anything that only the report's page has."""

import xml.dom.minidom
from pathlib import Path

import pytest

import adderlab as al
from helpers.paths import ROOT

RECORDED = ROOT / "records" / "2026-11-23_seed-log" / "repro_456_s43"


@pytest.fixture(scope="module")
def drawn() -> dict[str, al.Figure]:
    return al.figures(RECORDED)


def test_a_run_and_its_best_model(drawn: dict[str, al.Figure]) -> None:
    names = ["grokking", "loss", "digits", "attention", "tokens", "positions", "margins"]
    assert list(drawn) == names


def test_every_figure_is_a_document_without_variables(drawn: dict[str, al.Figure]) -> None:
    for figure in drawn.values():
        root = xml.dom.minidom.parseString(figure._repr_svg_()).documentElement
        assert root is not None and root.tagName == "svg"
        assert int(root.getAttribute("width")) > 100 and int(root.getAttribute("height")) > 50
        assert "var(" not in figure.svg and figure.title in repr(figure)


def test_figures_of_a_model_alone(drawn: dict[str, al.Figure], tmp_path: Path) -> None:
    found = al.figures(RECORDED / "checkpoints" / "best.pt")
    assert {name: figure.svg for name, figure in found.items()} == {
        name: figure.svg for name, figure in drawn.items() if name in found
    }
    path = found["tokens"].save(tmp_path / "tokens.svg")
    assert path.read_text() == found["tokens"].svg


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(al.UsageError):
        al.figures(tmp_path)
