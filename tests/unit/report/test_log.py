"""The log is written from evidence: the same twice, honest about what is missing, remarks kept."""

import gzip
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from adderlab.cli.main import main
from adderlab.errors import UsageError
from adderlab.report.evidence import read_run
from adderlab.report.log import MARK, pooled_rate, write_log
from helpers.evidence import CERTIFICATE, EVALUATION
from helpers.golden import Golden
from helpers.paths import ROOT
from helpers.runs import GROKS, LATE, NEVER, write_run


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


def test_the_log_of_runs(lab: Path, golden: Golden) -> None:
    golden("report/log_of_runs.md", written())


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
def test_deleted_evidence_is_named_and_not_invented(lab: Path, name: str) -> None:
    Path("results/runs/first", name).unlink()
    text = written()
    start = text.index("### Run first")
    section = text[start : text.index("\n## ", start)]
    assert name in section
    # The records of the seeds still know what came of them.
    assert "2 of 3 seeds learned to add" in section


def test_evidence_of_nothing_is_no_finding(lab: Path) -> None:
    for name in ("seed_metrics.csv", "seeds.json", "seeds.csv"):
        Path("results/runs/first", name).unlink()
    text = written()
    assert "No finding" in text and "2 of 3" not in text
    # The other run still counts; the first one's seeds count nowhere.
    assert "0/2 = 0.0%" in text


def test_certificates_are_described_and_counted(lab: Path) -> None:
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


def test_a_log_of_named_folders_gives_its_command(lab: Path) -> None:
    assert main(["log", "results/runs/second", "--output", "second.md"]) == 0
    text = Path("second.md").read_text()
    assert "`adderlab log results/runs/second --output second.md`" in text
    assert "results/runs/first" not in text


def test_a_users_own_file_is_never_overwritten(lab: Path, capsys) -> None:
    mine = "# Experiments Log\n\nWritten by me, over many evenings.\n"
    Path("EXPERIMENTS.md").write_text(mine)
    assert main(["log"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "EXPERIMENTS.md" in message and "another file" in message
    assert Path("EXPERIMENTS.md").read_text() == mine
    # The remedy that the message names.
    Path("EXPERIMENTS.md").write_text(f"{MARK}\n{mine}")
    assert "over many evenings" not in written()


def test_logs_of_version_0_1_and_empty_files_are_replaced(lab: Path) -> None:
    for before in ("# Experiments Log\n\nWritten by `adderlab log records` from run", "", "\n"):
        Path("EXPERIMENTS.md").write_text(before)
        assert written().startswith("<!-- adderlab log, sha256 ")


def test_a_log_that_was_edited_is_the_users_own(lab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written()
    written()  # as it was written it is replaced
    with Path("EXPERIMENTS.md").open("a") as file:
        file.write("\nSeed 2 was unlucky, I think.\n")
    edited = Path("EXPERIMENTS.md").read_text()
    assert main(["log"]) == 2
    assert "was edited since" in (said := capsys.readouterr().err) and "-o FILE" in said
    assert Path("EXPERIMENTS.md").read_text() == edited
    assert main(["log", "-o", "other.md"]) == 0
    # Line ends that git or an editor changed are no edit.
    Path("other.md").write_bytes(Path("other.md").read_bytes().replace(b"\n", b"\r\n"))
    assert main(["log", "-o", "other.md"]) == 0


def test_in_a_clone_the_tracked_log_is_written_from_the_records_alone(lab: Path) -> None:
    shutil.copytree("results/runs/first", "records/first")
    written()
    for command in (["init", "-q"], ["add", "EXPERIMENTS.md"]):
        subprocess.run(["git", *command], check=True)
    tracked = Path("EXPERIMENTS.md").read_text()
    assert main(["log"]) == main(["log", "results"]) == main(["log", "results/runs/second"]) == 0
    assert Path("EXPERIMENTS.md").read_text() == tracked
    assert "### Run second" in Path("results/EXPERIMENTS.md").read_text()
    assert main(["log", "records"]) == 0
    assert "### Run second" not in Path("EXPERIMENTS.md").read_text()


def test_two_equal_runs_count_once(lab: Path) -> None:
    for name, day in (("once", 22), ("again", 23)):
        started = {"started": f"2026-11-{day}T10:00:00+00:00"}
        path = write_run(Path("results/runs") / name, {0: GROKS, 1: LATE}, environment=started)
        own = {"weights_sha256": str(read_run(path).checkpoint.weights_sha256)}  # type: ignore
        certificate = gzip.compress(json.dumps({**CERTIFICATE, **own}).encode())
        (path / "certificate.json.gz").write_bytes(certificate)
    text = written()
    (row,) = [line for line in text.splitlines() if line.startswith("| 456p")]
    # Seeds 0 and 1 of the first run are the same two again.
    assert "| 4 | 5 | 2/5 = 40.0%" in row and row.endswith("| 1 |")


def test_a_foreign_log_stops_a_replay_before_anything_runs(lab: Path, capsys) -> None:
    Path("EXPERIMENTS.md").write_text("mine\n")
    shutil.copy(ROOT / "experiments" / "seed-log.toml", "s.toml")
    assert main(["replay", "s.toml", "--records", "new"]) == 2
    assert "was not written by adderlab log" in capsys.readouterr().err
    assert not Path("new").exists() and Path("EXPERIMENTS.md").read_text() == "mine\n"


def test_a_log_that_cannot_be_read_is_a_log_no_more(lab: Path) -> None:
    Path("binary.md").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"binary\.md"):
        write_log([Path("results")], Path("binary.md"), "adderlab log")


def test_pooled_rate_counts_the_seeds_of_all_runs(tmp_path: Path) -> None:
    first = read_run(write_run(tmp_path / "a", {0: GROKS, 1: NEVER}))
    second = read_run(write_run(tmp_path / "b", {2: NEVER}))
    rate = pooled_rate([first, second])
    assert rate is not None and (rate.count, rate.n) == (1, 3)
    assert pooled_rate([]) is None
    # The same seed with the same numbers is the same sample; with other numbers it is another one.
    again = read_run(write_run(tmp_path / "c", {0: GROKS, 1: LATE}))
    rate = pooled_rate([first, again])
    assert rate is not None and (rate.count, rate.n) == (2, 3)


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
    _, _, anew = (tmp_path / "log.md").read_text().partition("\n")
    _, _, committed = Path("EXPERIMENTS.md").read_text().partition("\n")
    assert anew.replace(f" --output {tmp_path / 'log.md'}", "") == committed


def test_recipes_that_differ_are_kept_apart(lab: Path) -> None:
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
    for name in ("environment.json", "seeds.csv", "seeds.json"):
        (path / name).unlink()
    text = written()
    assert "Environment: not recorded" in text
    assert "Learned to add: 100.0% exact match" in text
    assert "tables do not hold the answer steps one by one" in text
    assert main(["report", str(path)]) == 0
    assert "Did it grok?" in (path / "report.html").read_text()
