"""A folder of submissions in one table: what is kept, what is done again, and how it is shown."""

import json
from pathlib import Path
from typing import Any

import pytest

import adderlab
from adderlab.api import publishing
from adderlab.cli.main import main
from adderlab.errors import Failure, UsageError
from adderlab.evaluation.exact import Miss, Score, SuiteReport
from adderlab.publish import verify as verifications
from adderlab.publish.verification import Counted, Decided, Verification, Watched
from adderlab.publish.verification import Score as Scored
from helpers.pages import Page

GOOD = "def build_model(): ...\ndef add(model, a, b): ...\n"


def report(suite: str, n: int, errors: int) -> SuiteReport:
    group = Score(name="all", n=n, errors=errors, right_digits=(n - errors,) * 11)
    misses = (Miss(group="all", a=1, b=2, answer="4", right_sum=3),) if errors else ()
    return SuiteReport(suite=suite, groups=(group,), failures=misses, seconds=1.0)


def verification(path: Path, **settings: Any) -> Verification:
    """What a file comes to by its name."""
    good = "bad" not in path.name
    decided = Decided(verdict="proved", margin=0.5, margin_pair=(3, 4))
    return Verification(
        file=str(path),
        sandbox="none",
        verdict="qualified" if good else "rejected",
        failure=None,
        rejections=() if good else ("it holds <b>no</b> weights",),
        notes=(),
        metadata={},
        score=Scored(
            reports=(report("adderboard", 10010, not good), report("strata", 32, 0)), complete=True
        ),
        count=Counted(claimed=10, claim="so it is"),
        watched=Watched(verdict="from the model"),
        decided=decided if good else Decided(verdict="refuted", counterexample=(1, 2)),
        seconds=1.25,
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were checked, in place of checking them."""
    names: list[str] = []

    def check(path: Path, **settings: Any) -> Verification:
        names.append(path.name)
        settings["progress"]("loading", 0, 1)
        if "damaged" in path.name:
            raise Failure(f"{path} is not text")
        if "stop" in path.read_text():
            raise KeyboardInterrupt
        return verification(path)

    monkeypatch.setattr(verifications, "verify", check)
    monkeypatch.setattr(publishing, "require", lambda mode: None)
    return names


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two submissions, one of them below, and what is none."""
    made = tmp_path / "board"
    (made / "below").mkdir(parents=True)
    (made / "good.py").write_text(GOOD)
    (made / "below" / "bad.py").write_text(GOOD + "# weights.pt\n")
    (made / "below" / "weights.pt").write_bytes(b"1")
    (made / "helper.py").write_text("x = 1\n")
    (made / ".hidden.py").write_text(GOOD)
    return made


def test_every_file_is_checked_once(folder: Path, tmp_path: Path, asked: list[str]) -> None:
    first = adderlab.verify_folder(folder, output=tmp_path / "out")
    assert asked == ["bad.py", "good.py"]
    assert (first.checked, first.left_out) == (2, ("helper.py",))
    again = adderlab.verify_folder(folder, output=tmp_path / "out")
    assert asked == ["bad.py", "good.py"] and again.checked == 0
    assert again.files == first.files
    (bad, good) = again.files
    assert (bad.file, bad.score, bad.strata, bad.decided, bad.pair) == (
        "below/bad.py", "10009/10010", "32/32", "refuted", (1, 2)
    )  # fmt: skip
    assert (good.verdict, good.decided, good.margin, good.claimed) == ("qualified", "proved", 0.5, "10")
    assert not again.all_qualified


@pytest.mark.parametrize("what", ["the file", "its weights", "a setting", "what is kept"])
def test_what_has_changed_is_checked_again(
    what: str, folder: Path, tmp_path: Path, asked: list[str]
) -> None:
    out = tmp_path / "out"
    adderlab.verify_folder(folder, output=out)
    asked.clear()
    strata = None
    if what == "the file":
        (folder / "below" / "bad.py").write_text(GOOD + "# better now\n")
    elif what == "its weights":
        (folder / "below" / "weights.pt").write_bytes(b"2")
    elif what == "a setting":
        strata = 7
    else:
        (out / "below__bad.py.json").write_text('{"verification": {}}')
    result = adderlab.verify_folder(folder, output=out, strata=strata)
    assert asked == (["bad.py", "good.py"] if what == "a setting" else ["bad.py"])
    assert result.checked == len(asked)


def test_it_goes_on_where_it_was_stopped(folder: Path, tmp_path: Path, asked: list[str]) -> None:
    (folder / "good.py").write_text(GOOD + "# stop\n")
    with pytest.raises(KeyboardInterrupt):
        adderlab.verify_folder(folder, output=tmp_path / "out")
    (folder / "good.py").write_text(GOOD)
    assert adderlab.verify_folder(folder, output=tmp_path / "out").checked == 1
    assert asked == ["bad.py", "good.py", "good.py"]


def test_one_that_cannot_be_read_is_a_row(folder: Path, tmp_path: Path, asked: list[str]) -> None:
    (folder / "damaged.py").write_text(GOOD)
    result = adderlab.verify_folder(folder, output=tmp_path / "out")
    (row,) = (each for each in result.files if each.file == "damaged.py")
    assert row.verdict == "failed" and "is not text" in row.why and row.score == "-"


def test_other_peoples_folders_are_left_alone(folder: Path, tmp_path: Path, asked: list[str]) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match="holds something else"):
        adderlab.verify_folder(folder, output=mine)
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"] and asked == []
    with pytest.raises(UsageError, match="no Python file with build_model"):
        adderlab.verify_folder(mine, output=tmp_path / "out")
    with pytest.raises(UsageError, match="there is no folder"):
        adderlab.verify_folder(tmp_path / "nowhere")


def test_the_page_fits_a_narrow_screen_and_runs_nothing(
    folder: Path, tmp_path: Path, asked: list[str]
) -> None:
    adderlab.verify_folder(folder, output=tmp_path / "out")
    html = (tmp_path / "out" / "index.html").read_text()
    page = Page(html)
    assert "1 of 2" in page.text and "refuted: 1 + 2" in page.text and "helper.py" in page.text
    assert "it holds <b>no</b> weights" in page.text and "<b>" not in html
    assert "<script" not in html and "http" not in html.replace("http-equiv", "")
    assert "prefers-color-scheme: dark" in html and "max-width: 600px" in html
    names = {value for tag, name, value in page.attributes if name == "data-name"}
    assert names == {"file", "claimed", "counted", "verdict", "score", "strata", "decided", "time"}


def test_the_command(
    folder: Path, tmp_path: Path, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    assert main(["verify", str(folder), "-o", out]) == 1, "not all are qualified"
    told = capsys.readouterr()
    assert "2 files, 2 checked now, 0 before" in told.out
    assert told.err.splitlines()[0].startswith("1/2 below/bad.py: rejected, score 10009/10010")
    (folder / "below" / "bad.py").unlink()
    assert main(["verify", str(folder), "-o", out, "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert [each["file"] for each in plain["files"]] == ["good.py"] and plain["checked"] == 0
    assert json.loads((tmp_path / "out" / "table.json").read_text()) == plain
    assert main(["verify", str(folder), "--certificate", "c.json"]) == 2
    assert main(["verify", str(folder / "good.py"), "-o", out]) == 2
    (folder / "good.py").write_text(GOOD + "# stop\n")
    assert main(["verify", str(folder), "-o", out]) == 130
    assert "goes on with the next file" in capsys.readouterr().err
