"""Files for numbers of other sizes: written, read again, proved, and verified as a stranger's."""

import sys
from pathlib import Path

import pytest

import adderlab as al
from adderlab.cli.main import main
from adderlab.errors import UsageError
from adderlab.publish import decide, verify
from adderlab.publish.submission import MARK
from adderlab.reading.running import stated_size
from adderlab.runs.checkpoints import Checkpoint, save_checkpoint
from adderlab.task.addition import PUBLISHED, Addition
from helpers.adders import built, checkpoint, nudged
from helpers.submissions import InProcess, ReaderInProcess
from helpers.user_files import written

TASK = Addition(columns=2, base=3)


@pytest.fixture(scope="module")
def right() -> Checkpoint:
    return checkpoint(built("S", TASK))


@pytest.fixture(scope="module")
def ours(right: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``export`` writes of it."""
    path = tmp_path_factory.mktemp("sizes") / "right.py"
    al.export(right, to="adderboard", output=path, author="me", suites=("all",))
    return path


def stranger(path: Path, folder: Path) -> Path:
    """The same without the line by which we know our own files."""
    lines = path.read_text().splitlines()
    return written(
        "\n".join(line for line in lines if not line.startswith(MARK)), folder / "stranger.py"
    )


def test_a_file_is_written_with_a_card_that_names_its_size(ours: Path) -> None:
    card = ours.with_suffix(".md").read_text()
    assert "adds two 2-digit numbers in base 3" in card
    assert "all: 81/81 correct" in card and "all 3^4 pairs are added correctly" in card
    assert "AdderBoard ranks adders of ten-digit numbers, which this is not" in card


def test_a_file_runs_is_read_and_proved(ours: Path, tmp_path: Path) -> None:
    model = al.read(stranger(ours, tmp_path))
    layout = model.config.token_layout
    assert layout.addition == TASK and layout.num_prompt == built("S", TASK).layout.num_prompt
    answer = model.predict(8, 5)
    assert answer.right and answer.answer == "111"
    report = al.evaluate(model, "all")
    assert (report.total.n, report.total.errors) == (81, 0)
    certificate = al.prove(model, check=False).save(tmp_path / "cert.json")
    assert al.check(certificate, model).accepted
    assert main(["prove", str(tmp_path / "stranger.py"), "--exhaustive", "--no-check"]) == 0


@pytest.mark.parametrize(
    "own", [pytest.param(True, marks=pytest.mark.slow, id="as ours"), pytest.param(False, id="stranger")]
)
def test_a_file_is_verified_on_pairs_of_its_own(
    ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    monkeypatch.setattr(verify, "Sandbox", InProcess)
    monkeypatch.setattr(decide, "Sandbox", ReaderInProcess)
    monkeypatch.setattr(decide, "ASKING_SECONDS", 0.1)
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = ours if own else stranger(ours, tmp_path)
    found = al.verify(path, sandbox="limits", certificate=tmp_path / "cert.json")
    assert found.verdict == "qualified" and found.failure is None
    assert [(each.suite, each.total.n, each.total.errors) for each in found.score.reports] == [
        ("all", 81, 0)
    ]
    assert found.score.how.startswith("the model in batches")
    assert found.watched.verdict == "from the model"
    assert any("digit for digit" in finding for finding in found.watched.findings)
    told = "\n".join(found.describe())
    assert "AdderBoard's score does not apply" in told and "two-digit numbers in base 3" in told
    assert "proved: all 3^4 pairs" in told
    assert found.to_dict()["score"]["columns"] == 2
    assert al.check(tmp_path / "cert.json", path).accepted


def test_a_wrong_one_is_refuted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "Sandbox", InProcess)
    wrong = checkpoint(nudged(built("S", TASK), 1))
    path = tmp_path / "wrong.py"
    al.export(wrong, to="adderboard", output=path, prove=False, suites=())
    found = al.verify(path, sandbox="limits")
    assert found.score.reports[0].total.errors > 0
    assert found.decided.verdict == "refuted" and "of 3^4 pairs" in "\n".join(found.describe())


def test_more_pairs_than_can_be_asked_are_drawn() -> None:
    assert verify.suite_for(PUBLISHED, batched=True).name == "adderboard"
    assert verify.suite_for(TASK, batched=False).num_pairs == 81
    for batched, name in ((True, "all"), (False, "uniform")):
        suite = verify.suite_for(Addition(columns=2, base=16), batched=batched)
        assert (suite.name, suite.num_pairs) == (name, 65_536 if batched else 10_010)


def test_what_the_metadata_name_is_the_size() -> None:
    assert stated_size({"columns": 3}) == Addition(columns=3)
    assert stated_size({"columns": 7, "base": 2, "params": 5}) == Addition(columns=7, base=2)
    for nothing in (None, {}, {"base": 10_000.0}, "3"):
        assert stated_size(nothing) == PUBLISHED
    with pytest.raises(UsageError, match="columns must be 1 to 18, not 40"):
        stated_size({"columns": 40})
    with pytest.raises(UsageError, match="its metadata name 'ten' as columns"):
        stated_size({"columns": "ten"})


def test_a_size_that_is_none_is_how_a_file_fails(
    ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "Sandbox", InProcess)
    text = stranger(ours, tmp_path).read_text().replace('"columns": 2', '"columns": 99')
    found = al.verify(written(text, tmp_path / "none.py"), sandbox="limits")
    assert found.verdict == "failed" and "columns must be 1 to 18, not 99" in str(found.failure)


def test_a_layout_is_named_with_its_size(right: Checkpoint, tmp_path: Path) -> None:
    module = right.module()
    assert al.read(module, layout="S@2b3").config.token_layout.addition == TASK
    with pytest.raises(UsageError, match="write a size as P@3"):
        al.read(module, layout="S@two")
    save_checkpoint(tmp_path / "right.pt", right)
    text = (
        "import adderlab\n"
        f"def build_model():\n    return adderlab.load({str(tmp_path / 'right.pt')!r}).module()\n"
        'layout = "S@2b3"\n'
    )
    assert al.read(written(text, tmp_path / "stated.py")).config.token_layout.addition == TASK
