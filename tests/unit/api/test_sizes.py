"""Models of other sizes through the API and the commands: files, options, every pair tried."""

import dataclasses
import json
from pathlib import Path

import pytest

import adderlab as al
from adderlab.api import proofs
from adderlab.cli.main import main
from adderlab.errors import UsageError
from adderlab.runs.checkpoints import save_checkpoint
from adderlab.task.addition import Addition
from helpers.adders import built, checkpoint, nudged

TASK = Addition(columns=2, base=3)


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adder of two columns in base 3, as a file."""
    path = tmp_path_factory.mktemp("sizes") / "right.pt"
    save_checkpoint(path, checkpoint(built("S", TASK)))
    return path


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that fails on a few pairs."""
    path = tmp_path_factory.mktemp("sizes") / "wrong.pt"
    save_checkpoint(path, checkpoint(nudged(built("S", TASK), 1)))
    return path


def test_a_file_says_its_size(right: Path, tmp_path: Path) -> None:
    model = al.load(right)
    assert model.config.token_layout.addition == TASK
    again = al.load(model.save(tmp_path / "again.safetensors"))
    assert again.config == model.config
    answer = model.predict(8, 5)
    assert answer.right and answer.answer == "111"
    assert answer.describe()[0] == "22 + 12 = 111 in base 3: 8 + 5  (right)"
    with pytest.raises(UsageError, match="0 to 8, not 9"):
        model.predict(9, 0)


def test_every_pair_is_evaluated(right: Path, wrong: Path) -> None:
    report = al.evaluate(right, "all")
    assert (report.total.n, report.total.errors) == (81, 0)
    assert "every pair tried (81): greedy decoding in fp32 fails on 0" in "\n".join(report.describe())
    report = al.evaluate(wrong, "all")
    every = report.to_dict()["every_pair"]
    assert every["failing_pairs"] == every["failing_float64"] == report.total.errors > 0
    with pytest.raises(UsageError, match=r"10\^20 pairs; at most"):
        al.evaluate("records/best/7p/model.pt", "all")


def test_prove_tries_every_pair(right: Path, wrong: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prove", str(right), "--exhaustive", "--no-check"]) == 0
    told = capsys.readouterr().out
    assert "adds every one of the 3^4 pairs of two-digit numbers in base 3 right" in told
    assert "prover and trial: THEY AGREE" in told
    assert main(["prove", str(wrong), "--exhaustive", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["agree"] and found["verdict"] == "refuted" and found["base"] == 3
    assert found["failing_pairs"] == found["exhaustive"]["failing_float64"]


def test_a_disagreement_is_exit_code_1(
    right: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = proofs.try_all
    monkeypatch.setattr(
        proofs, "try_all", lambda *args: dataclasses.replace(honest(*args), failing_float64=3)
    )
    assert main(["prove", str(right), "--exhaustive", "--no-check"]) == 1
    assert "pairs: 3 fail by trial in float64, 0 to 0 by proof" in capsys.readouterr().out


def test_too_many_pairs_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prove", "records/best/7p/model.pt", "--exhaustive"]) == 2
    assert "at most 10,000,000 are tried one by one" in capsys.readouterr().err


def test_certificates_are_of_one_size(right: Path, tmp_path: Path) -> None:
    certificate = al.prove(right, check=False).save(tmp_path / "cert.json")
    assert al.check(certificate, right, fp32=True).accepted
    other = tmp_path / "other.pt"
    save_checkpoint(other, checkpoint(built("S", Addition(columns=3, base=3))))
    assert not al.check(certificate, other, fp32=False).accepted


def test_presets_are_shown_at_any_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "456p", "--columns", "3"]) == 0
    assert "456p@3: 393 parameters" in capsys.readouterr().out
    assert main(["inspect", "122p", "--columns", "3", "--base", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 98
    assert main(["inspect", "122p", "--columns", "19"]) == 2
    assert "columns must be 1 to 18, not 19" in capsys.readouterr().err
    assert al.preset("122p", columns=3).name == "122p@3"


def test_a_population_of_another_size_trains_and_is_reported(tmp_path: Path) -> None:
    run = al.train(
        "7p",
        recipe="restarts-7",
        set={"model.columns": 2, "model.base": 3, "recipe.restarts": None, "recipe.prefit": None},
        steps=3,
        seeds=[0, 1],
        folder=tmp_path / "run",
        engine="torch",
        threads=1,
    )
    assert [len(record.step_accuracy) for record in run.seeds] == [3, 3]
    header = (tmp_path / "run" / "seed_metrics.csv").read_text().splitlines()[0]
    assert header.endswith("step_acc_0,step_acc_1,step_acc_2,weight_norm")
    assert al.open_run(tmp_path / "run").history(1)[-1].step_acc == run.history(1)[-1].step_acc
    page = al.write_report(tmp_path / "run", output=tmp_path / "page.html")
    assert "of 3" in Path(str(page)).read_text()
