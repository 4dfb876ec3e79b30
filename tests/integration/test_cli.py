"""The command line as a user meets it: fast help, right exit codes, one clear line for trouble."""

import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import adderlab as al
from adderlab.api.experiments import parse_seeds
from adderlab.cli.main import COMMANDS, command_of, main, parse
from adderlab.errors import UsageError
from helpers.disk import tmpfs
from helpers.machine import ABSENT_DEVICE
from helpers.paths import ROOT
from helpers.reference import proved_path

SMALL = ["--seeds", "0-1", "--steps", "12", "--device", "cpu", "--evaluate", "fresh:50", "--quiet"]
TINY = ["--set", "recipe.batch_size=16", "recipe.val_size=20", "recipe.eval_interval=5"]
TINY += ["recipe.prefit.steps=2"]


def trouble(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    """(exit code, the one line on stderr)."""
    code = main(list(argv))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("adderlab: "), lines
    return code, lines[0]


def test_help_loads_nothing_heavy_and_lists_every_command() -> None:
    """What makes it fast, on any machine: of ours one module, of other people's packages none."""
    program = (
        "import sys; from adderlab.cli.main import main; code = main(['--help']);"
        "loaded = {name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names;"
        "ours = [name for name in sys.modules if name.startswith('adderlab.') and name.count('.') > 1];"
        "print(sorted(loaded & {'torch', 'numpy', 'scipy', 'rich', 'tyro'}), ours, file=sys.stderr);"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0
    assert all(name in done.stdout for name in COMMANDS)
    assert done.stderr == "[] ['adderlab.cli.main']\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    assert "usage:" in shown
    assert "None" not in shown and "(default: )" not in shown, "no default is no word"


@pytest.mark.parametrize(
    ("argv", "call", "option", "argument"),
    [
        (["--threads", "0"], {"threads": 0}, "--threads 0", "threads=0"),
        (
            ["--engine", "native", "--device", ABSENT_DEVICE],
            {"device": ABSENT_DEVICE},
            f"--device {ABSENT_DEVICE}",
            f"device={ABSENT_DEVICE}",
        ),
        (["--seeds", "x"], {"seeds": "x"}, "--seeds 'x'", "seeds='x'"),
        (["--set", "steps=5"], {"set": ["steps=5"]}, "--set 'steps=5'", "set='steps=5'"),
        (["--store", "s"], {"store": "s"}, "--cluster ADDRESS", "cluster=ADDRESS"),
    ],
    ids=["threads", "device", "seeds", "set", "store"],
)
def test_an_error_names_the_option_that_was_typed_and_to_a_caller_the_argument(
    argv: list[str], call: dict[str, object], option: str, argument: str, capsys, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, line = trouble(capsys, "train", "456p", *argv)
    assert code == 2 and option in line and argument not in line
    with pytest.raises(UsageError) as raised:
        al.train("456p", **call)  # type: ignore[arg-type]
    assert argument in str(raised.value) and "--" not in str(raised.value)


def test_settings_end_at_the_next_option() -> None:
    argv = ["456p", "--set", "recipe.lr=0.1", "-o", "folder", "--set=recipe.steps=5", "model.d_ff=3"]
    args = parse(command_of("rate"), argv, "adderlab rate")
    assert args.settings == ("recipe.lr=0.1", "recipe.steps=5", "model.d_ff=3")
    assert (args.preset, args.output) == ("456p", Path("folder"))


def test_set_may_be_given_again(capsys: pytest.CaptureFixture[str]) -> None:
    """Not the last alone: a setting that is silently lost would be measured as if it were there."""
    argv = ["plan", "7p", "--seeds", "1", "--steps", "10000", "--set", "recipe.batch_size=0"]
    assert main([*argv, "--set", "recipe.val_size=20", "--json"]) == 2
    assert "batch_size" in capsys.readouterr().err
    assert main([*argv[:-1], "recipe.val_size=20", "--json", "--set=recipe.batch_size=0"]) == 2
    assert "batch_size" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_the_parser_is_understood_with_and_without_its_frame(
    encoding: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A terminal without Unicode gets the message in another form."""
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    assert main(["train", "456p", "--steps", "many"]) == 2
    assert main(["train", "456p", "--sed", "1"]) == 2
    number, name = capsys.readouterr().err.splitlines()
    assert number == "adderlab: --steps must be INT, not 'many' (see adderlab train --help)"
    assert name.startswith("adderlab: Unrecognized options: --sed")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["fly"], "no command 'fly'"),
        (["train", "456p", "--sed", "1"], "--sed"),
        (["train", "999999p"], "no preset '999999p'"),
        (["train"], "name a preset"),
        (["train", "456p", "--seeds", "5-1"], "5-1"),
        (["train", "456p", "--seeds", "x"], "'x'"),
        (["train", "456p", "--steps", "0"], "steps"),
        (["train", "456p", "--steps", "many"], "--steps must be INT, not 'many'"),
        (["train", "456p", "--until", "dawn"], "('proved')"),
        (["train", "456p", "--set", "recipe.lrr=1"], "lrr"),
        (["train", "456p", "--set", "lr=1"], "recipe.NAME=VALUE"),
        (["train", "456p", "--set", "recipe.lr=fast"], "recipe.lr must be float, not 'fast'"),
        (["train", "456p", "--set", "recipe.data.lr=1"], "recipe has no setting 'data.lr'"),
        (["train", "456p", "--set", "model.d_ff=x"], "model.d_ff must be int"),
        (["train", "456p", "--set", "model.n_head=2"], "n_head"),
        (["train", "456p", "--evaluate", "everything"], "everything"),
        (["train", "456p", "--device", "tpu"], "tpu"),
        (["train", "456p", "--device", ABSENT_DEVICE], ABSENT_DEVICE),
        (["train", "456p", "--engine", "warp"], "warp"),
        (["train", "456p", "--threads", "0"], "--threads"),
        (["train", "--resume", "nowhere"], "nowhere"),
        (["evaluate", "nothing.pt"], "nothing.pt"),
        (["evaluate"], "at least one"),
        (["predict", "nothing.pt", "1", "x"], "x"),
        (["inspect", "45678p"], "there is no file 45678p, and no preset"),
        (["inspect", "nothing.pt"], "there is no checkpoint nothing.pt"),
        (["sweep", "nothing.toml"], "there is no file nothing.toml"),
        (["zoo", "nothing"], "nothing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line_and_exit_2(
    argv: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, line = trouble(capsys, *argv)
    assert code == 2
    assert words in line


def test_damaged_and_hostile_checkpoints_are_one_line_and_exit_1(tmp_path: Path, capsys) -> None:
    class Hostile:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            return os.system, (f"touch {tmp_path / 'pwned'}",)

    hostile = tmp_path / "hostile.pt"
    hostile.write_bytes(pickle.dumps({"model_state": Hostile()}))
    truncated = tmp_path / "truncated.pt"
    truncated.write_bytes(proved_path().read_bytes()[:3000])
    for path in (hostile, truncated):
        code, line = trouble(capsys, "evaluate", str(path))
        assert code == 1
        assert path.name in line
    assert not (tmp_path / "pwned").exists()


def test_train_resume_evaluate_predict_inspect(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "456p", *SMALL, *TINY, "--run-name", "tiny"]) == 0
    assert "Files: results/runs/tiny/" in capsys.readouterr().out
    run = tmp_path / "results/runs/tiny"
    assert json.loads((run / "evaluation.json").read_text())["n"] == 50
    assert json.loads((run / "config.json").read_text())["recipe"]["batch_size"] == 16

    code, line = trouble(capsys, "train", "456p", *SMALL, *TINY, "--run-name", "tiny")
    assert code == 2 and "--overwrite" in line

    best = str(run / "checkpoints/best.pt")
    assert main(["evaluate", best, "--suite", "fresh:30", "--json", "--output", "out.json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "out.json").read_text())
    assert printed[0]["n"] == 30 and printed[0]["parameters"] == 456
    assert main(["predict", best, "12", "34", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sum"] == 46
    assert main(["inspect", best, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 456
    code, line = trouble(capsys, "predict", best, "10000000000", "1")
    assert code == 2 and "10000000000" in line


def test_full_disk_is_one_line_and_exit_1(tmp_path: Path, monkeypatch, capsys) -> None:
    with tmpfs(tmp_path / "small", kib=96) as disk:
        monkeypatch.chdir(disk)
        code, line = trouble(capsys, "train", "456p", *SMALL, *TINY, "--run-name", "full")
        assert code == 1
        assert "full" in line or "space" in line


def test_unwritable_folder_is_one_line_and_exit_1(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").write_text("a file where a folder should be")
    code, line = trouble(capsys, "train", "456p", *SMALL, *TINY)
    assert code == 1
    assert "results" in line
    assert (tmp_path / "results").read_text() == "a file where a folder should be"


def test_zoo_json_has_the_promised_keys(capsys) -> None:
    assert main(["zoo", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert {"name", "parameters", "layout", "published", "rate", "proved"} <= set(entries[0])
    assert {entry["parameters"] for entry in entries} >= {456, 311, 262}


def test_seed_lists() -> None:
    assert parse_seeds("0-3,43, 2") == (0, 1, 2, 3, 43)
    with pytest.raises(UsageError):
        parse_seeds("1-")


def test_the_page_of_the_zoo_is_what_the_command_prints(capsys) -> None:
    assert main(["zoo", "--markdown"]) == 0
    page = ROOT / "docs" / "zoo.md"
    assert page.read_text() == capsys.readouterr().out
