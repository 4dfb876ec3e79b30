"""The log is written from evidence: the same twice, honest about what is missing, remarks kept."""

import gzip
import json
import shutil
from pathlib import Path

import pytest

from adderlab.cli.main import main
from adderlab.report.describe import as_typed, environment_text, typed
from helpers.evidence import CERTIFICATE, EVALUATION
from helpers.paths import ROOT
from helpers.runs import ENVIRONMENT, GROKS, LATE, NEVER, write_run


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two runs and an evaluation outside them."""
    monkeypatch.chdir(tmp_path)
    write_run(Path("results/runs/first"), {0: GROKS, 1: LATE, 2: NEVER})
    write_run(
        Path("results/runs/second"),
        {3: NEVER, 4: NEVER},
        environment={"started": "2026-11-21T10:00:00+00:00"},
    )
    Path("results/loose.json").write_text(json.dumps([EVALUATION]))
    return tmp_path


def written() -> str:
    assert main(["log"]) == 0
    return Path("EXPERIMENTS.md").read_text()


def test_the_log_of_runs(lab: Path) -> None:
    text = written()
    assert text.index("## 2026-11-20") < text.index("### Run first") < text.index("## 2026-11-21")
    assert "2 of 3 seeds learned to add: success rate 2/3" in text
    assert "adderlab train 456p --seeds 0-3" in text
    assert "device cpu (A Processor, 2 cores)" in text
    assert "`x/best.pt`): 12 of 100,000 pairs wrong" in text
    # Same model and recipe: pooled at the end.
    assert "| 2 | 5 | 2/5 = 40.0%" in text


def test_writing_twice_changes_nothing(lab: Path) -> None:
    first = written()
    assert written() == first
    # Nor does another order in which the disk hands the folders out.
    shutil.move("results/runs/first", "results/runs/tmp")
    shutil.move("results/runs/tmp", "results/runs/first")
    assert written() == first


def test_remarks_survive_and_are_never_written(lab: Path) -> None:
    notes = Path("results/runs/first/notes.md")
    assert f"Remarks: none (`{notes}`)" in written()
    assert not notes.exists()
    notes.write_text("Seed 2 was unlucky.\n\nSo it goes.\n")
    text = written()
    assert "> Seed 2 was unlucky.\n>\n> So it goes." in text
    assert written() == text
    assert notes.read_text() == "Seed 2 was unlucky.\n\nSo it goes.\n"


@pytest.mark.parametrize("name", ["seed_metrics.csv", "summary.json", "environment.json"])
def test_deleted_evidence_is_said_and_not_invented(lab: Path, name: str) -> None:
    Path("results/runs/first", name).unlink()
    text = written()
    start = text.index("### Run first")
    section = text[start : text.index("\n## ", start)]
    assert name in section
    if name == "seed_metrics.csv":
        assert "No finding" in section and "2 of 3" not in text
        # The other run still counts; the first one's seeds count nowhere.
        assert "0/2 = 0.0%" in text


def test_certificates_are_told_and_counted(lab: Path) -> None:
    certificate = Path("results/runs/first/certificate.json.gz")
    certificate.write_bytes(gzip.compress(json.dumps(CERTIFICATE).encode()))
    text = written()
    assert "Finding: On all pairs: 1/3 = 33.3% [6.1%, 79.2%] of the seeds are proved" in text
    assert "2/5 = 40.0% [11.8%, 76.9%] | 1 |" in text


def test_a_copy_of_a_run_counts_once(lab: Path) -> None:
    shutil.copytree("results/runs/first", "records/first")
    text = written()
    assert text.count("### Run first") == 1
    assert "(records/first)" in text
    assert "2/5 = 40.0%" in text


def test_a_log_of_named_folders_says_so(lab: Path) -> None:
    assert main(["log", "results/runs/second", "--output", "second.md"]) == 0
    text = Path("second.md").read_text()
    assert "`adderlab log results/runs/second --output second.md`" in text
    assert "first" not in text.replace("first said", "")


def test_wrong_folders_are_one_line(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["log"]) == 2
    assert "no folder records or results" in capsys.readouterr().err
    assert main(["log", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_the_projects_own_log_is_what_its_records_say(monkeypatch, tmp_path: Path) -> None:
    """After a change of records or wording: adderlab log records."""
    monkeypatch.chdir(ROOT)
    assert main(["log", "records", "--output", str(tmp_path / "log.md")]) == 0
    anew = (tmp_path / "log.md").read_text().replace(f" --output {tmp_path / 'log.md'}", "")
    assert anew == Path("EXPERIMENTS.md").read_text()


def test_commands_as_typed() -> None:
    assert as_typed(["/x/.venv/bin/adderlab", "train"]) == ["adderlab", "train"]
    assert as_typed(["/x/src/train.py", "--seed", "1"]) == ["python", "-m", "src.train", "--seed", "1"]
    assert as_typed(["/x/adderlab/cli/main.py", "zoo"]) == ["adderlab", "zoo"]
    assert as_typed(["other.py", "zoo"]) == ["other.py", "zoo"]
    long = "adderlab train 456p " + " ".join(f"--flag-{k} value" for k in range(12))
    assert typed(long).count(" \\\n  --") >= 1
    assert typed(long).replace(" \\\n ", "") == long
    assert typed("a \\\n  b") == "a \\\n  b"


def test_environments_in_words() -> None:
    assert environment_text({}) == "not recorded"
    text = environment_text({**ENVIRONMENT, "git_revision": "abcdef0123456-dirty", "engine": "native"})
    assert "revision abcdef0123 with uncommitted changes" in text and "engine native" in text


def test_recipes_that_differ_are_told_apart(lab: Path) -> None:
    write_run(Path("results/runs/third"), {0: GROKS, 1: GROKS}, changes={"data": {"mix": 2}})
    text = written()
    table = text[text.index("## Over all runs") :]
    assert "lr 0.02; data mix=1 | 2 | 5 | 2/5" in table
    assert "lr 0.02; data mix=2 | 1 | 2 | 2/2" in table


def test_a_link_to_a_folder_above_is_no_trap(lab: Path) -> None:
    first = written()
    Path("results/again").symlink_to(Path("results").resolve())
    assert written() == first


def test_a_run_of_the_published_program(tmp_path: Path, monkeypatch) -> None:
    """Its own files only: no environment, no answer steps, no seeds table."""
    monkeypatch.chdir(tmp_path)
    path = write_run(Path("results/runs/theirs"), {43: GROKS})
    config = json.loads((path / "config.json").read_text())
    train = {"seed": 43, "train_steps": 3000, "batch_size": 512, "lr": 0.02, "run_name": "theirs"}
    (path / "config.json").write_text(json.dumps({"model": config["model"], "train": train}))
    rows = [line.split(",")[:6] for line in (path / "metrics.csv").read_text().splitlines()]
    (path / "metrics.csv").write_text("".join(",".join(row) + "\n" for row in rows))
    for name in ("environment.json", "seeds.csv"):
        (path / name).unlink()
    text = written()
    assert "Environment: not recorded" in text
    assert "Learned to add: 100.0% exact match" in text
    assert "tables do not tell the answer steps apart" in text
    assert main(["report", str(path)]) == 0
    assert "Did it grok?" in (path / "report.html").read_text()
