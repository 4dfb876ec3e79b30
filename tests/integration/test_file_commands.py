"""Commands on FILE.py: with its own weights and with a checkpoint's, and what they refuse."""

import json
from pathlib import Path

import pytest

import adderlab as al
from adderlab.cli.main import main
from adderlab.reading import file_model
from helpers.user_files import EXAMPLE, submission, variant

pytest.importorskip("flint")


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return submission("7p", tmp_path_factory.mktemp("files"))[1]


def run(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> tuple[int, str, list[str]]:
    """(exit code, stdout, the lines on stderr)."""
    code = main([str(each) for each in argv])
    shown = capsys.readouterr()
    return code, shown.out, shown.err.splitlines()


def test_prove_and_check(
    right: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    certificate, weights = tmp_path / "cert.json.gz", al.read(right).save(tmp_path / "best.pt")
    code, out, err = run(capsys, "prove", right, "--weights", weights, "-o", certificate)
    assert (code, err) == (0, []) and "PROVED: " in out
    assert f"adderlab check {certificate} {right} --weights {weights}" in out
    code, out, _ = run(
        capsys, "check", certificate, right, "--weights", weights, "--real-only", "--json"
    )
    assert code == 0 and json.loads(out)["accepted"]
    # In a process in which the file was not named:
    monkeypatch.setattr(file_model, "_LIVE", {})
    code, out, err = run(capsys, "check", certificate, weights, "--real-only")
    assert code == 2 and len(err) == 1 and f"--weights {weights}" in err[0]


def test_predict_evaluate_inspect(right: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "predict", right, "123", "456")
    assert code == 0 and "579" in out
    code, out, _ = run(capsys, "evaluate", right, "--suite", "fresh:100", "--engine", "torch", "--json")
    assert code == 0 and json.loads(out)[0]["errors"] == 0
    code, out, _ = run(capsys, "inspect", right)
    assert code == 0 and "a0 is the units" in out and "agreement" in out
    code, out, _ = run(capsys, "inspect", "456p", "--set", "model.d_ff=16", "--json")
    assert code == 0 and json.loads(out)["config"]["d_ff"] == 16


def test_a_model_that_cannot_be_proved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = variant("two layers", tmp_path)
    for command in (("prove",), ("repair", "-o", tmp_path / "out.pt")):
        code, out, err = run(capsys, command[0], path, *command[1:])
        assert (code, out) == (1, "") and len(err) == 1 and "second layer" in err[0]
    code, out, _ = run(capsys, "attack", path, "--pairs", "2", "--starts", "1")
    assert code == 0 and "a failing pair" in out


@pytest.mark.parametrize("name", ["counter", "batch", "dropout", "outside", "drawn"])
def test_a_model_that_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "prove", variant(name, tmp_path))
    assert (code, out) == (1, "") and len(err) == 1, err


def test_wrong_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "prove", tmp_path / "none.py")
    assert code == 2 and len(err) == 1 and "none.py" in err[0]
    code, _, err = run(capsys, "predict", "456p.pt", "1", "2", "--weights", "best.pt")
    assert code == 2 and len(err) == 1 and "--weights" in err[0]
    code, _, err = run(capsys, "inspect", EXAMPLE, "--set", "model.d_ff=3")
    assert code == 2 and len(err) == 1 and "preset" in err[0]
    empty = tmp_path / "empty.py"
    empty.write_text("x = 1\n")
    code, _, err = run(capsys, "prove", empty)
    assert code == 1 and len(err) == 1 and "build_model" in err[0]


def test_export(right: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out_file = tmp_path / "out.py"
    code, out, err = run(
        capsys,
        "export",
        right,
        "--to",
        "adderboard",
        "-o",
        out_file,
        "--no-prove",
        "--suites",
        "fresh:50",
    )
    assert (code, err) == (0, []) and str(out_file) in out
    code, out, _ = run(capsys, "predict", out_file, "99", "1")
    assert code == 0 and "= 100 " in out
