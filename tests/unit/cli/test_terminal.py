"""What a terminal shows: one line for whatever is mistyped, help with examples, tables that fit."""

import io
import shlex
import subprocess
import sys

import pytest

from adderlab.cli.main import COMMANDS, EXAMPLES, command_of, completion, main, make_printable, parse
from adderlab.report.live import LiveView
from adderlab.results import text_table
from adderlab.training.measure import Start

MISTYPED = {
    "trian 456p": "did you mean 'train'?",
    "prov x.pt": "did you mean 'prove'?",
    "explor x.pt": "did you mean 'explore'?",
    "verfy x.py": "did you mean 'verify'?",
    "inspct 456p": "did you mean 'inspect'?",
    "rat 456p": "did you mean 'rate'?",
    "setings": "did you mean 'settings'?",
    "xyzzy": "there are train, plan",
    "train 456p --sedes 0-3": "did you mean '--seeds'?",
    "train 456p --stpes 100": "did you mean '--steps'?",
    "train 456p --recpe circle": "did you mean '--recipe'?",
    "train 456p --run-nam x": "did you mean '--run-name'?",
    "train 456p --untill proved": "did you mean '--until'?",
    "train 456p --devcie cpu": "did you mean '--device'?",
    "prove x.pt --outptu y": "did you mean '--output'?",
    "evaluate x.pt --siute strata": "did you mean '--suite'?",
    "report x --outpt y": "did you mean '--output'?",
    "compare a b --jsn": "did you mean '--json'?",
    "plan 456p --ndoes 3": "did you mean '--nodes'?",
    "export x.pt --ot onnx": "adderlab export",
    "train 457p": "456p",
    "train 456": "",
    "inspect 46p": "close names",
    "rate 74q": "close names",
    "plan 57": "",
    "train 456p --recipe circel": "circle",
    "train 456p --recipe prefitt": "prefit",
    "train 456p --set recipe.lrr=0.1": "did you mean 'lr'?",
    "train 456p --set recipe.warmup_step=1": "did you mean 'warmup_steps'?",
    "train 456p --set recpe.lr=0.1": "did you mean 'recipe'?",
    "train 456p --set modl.d_ff=3": "did you mean 'model'?",
    "train 456p --set model.dff=3": "did you mean 'd_ff'?",
    "train 456p --set recipe.lr": "write recipe.NAME=VALUE",
    "train 456p --set recipe.lr=fast": "recipe.lr",
    "train 456p --seeds 9223372036854775808": "seeds end at 2^63 - 1",
    f"train 456p --seeds {'9' * 5000}": "seeds end at 2^63 - 1",
    "train 456p --until proved --seeds 99999999999999999999-": "seeds end at 2^63 - 1",
    "train 456p --run-name ..": "--run-name '..': its folder must lie below results/runs",
    "train 456p --run-name a/../../../b": "must lie below results/runs",
    "train 456p --run-name /tmp/b": "must lie below results/runs",
    "train 456p --run-name .": "must lie below results/runs",
    "train --set recipe.lrr=0.1 456p": "did you mean 'lr'?",
    "rate --set recipe.lrr=0.1 456p --seeds 0-3": "did you mean 'lr'?",
    "train 456p --seeds 0-99999999999": "more than 10,000,000 seeds",
    "plan 456p --seeds 0-99999999999": "more than 10,000,000 seeds",
    "rate 456p --seeds 7-3": "runs backwards",
    "train 456p --seeds one": "write numbers and ranges",
    "train 456p --device gpu": "there are auto, cpu, cuda, mps",
    "train 456p --engine nativ": "there are auto, native, triton, torch",
    "predict x.pt 1": "",
    "completion fish": "bash and zsh",
    "completion": "takes a shell",
    "help trian": "did you mean 'train'?",
}
ACCEPTED = ("train 456", "plan 57")
"""Names that are understood as they are."""


@pytest.mark.parametrize("typed", [typed for typed in MISTYPED if typed not in ACCEPTED])
def test_what_is_mistyped_gives_one_line(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(typed)) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.err.startswith("adderlab: ")
    assert MISTYPED[typed] in captured.err and "Traceback" not in captured.err
    assert not captured.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_two_examples_that_parse(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(EXAMPLES[name]) == 2
    for example in EXAMPLES[name]:
        program, command, *rest = shlex.split(example)
        assert (program, command) == ("adderlab", name)
        parse(command_of(name), rest, f"adderlab {name}")
    with pytest.raises(SystemExit):
        main(["help", name])
    out = capsys.readouterr().out
    assert all(example in out for example in EXAMPLES[name])
    assert "(default: None)" not in out and "default: None" not in out


def test_help_is_a_command_and_the_package_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help"]) == 0
    told = capsys.readouterr().out
    done = subprocess.run([sys.executable, "-m", "adderlab", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == told


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_completes_commands_and_options(shell: str) -> None:
    text = completion(shell, {name: command_of(name) for name in COMMANDS})
    ask = "COMP_WORDS=(adderlab {}); COMP_CWORD={}; _adderlab; echo ${{COMPREPLY[@]}}\n"
    if shell == "zsh":
        assert text.startswith("autoload")
        return
    script = f"{text}\n{ask.format('tr', 1)}{ask.format('plan --se', 2)}{ask.format('help ex', 2)}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["train", "--set --seeds"]


def test_a_table_that_is_too_wide_becomes_records() -> None:
    rows = [
        {"cell": "0000", "rate": "12/16 = 75.0% [50.5%, 89.8%]", "": ""},
        {"cell": "0001", "rate": "-", "": "x"},
    ]
    assert text_table(rows, width=80)[0].split() == ["cell", "rate"]
    assert text_table(rows, width=30) == [
        "cell 0000",
        "  rate  12/16 = 75.0% [50.5%, 89.8%]",
        "cell 0001",
        "  rate  -",
        "        x",
    ]


def test_the_time_left_knows_of_restarts(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """Four starts until step 100, two until 200, then one: the first hundred steps take four seconds,
    the next two, and the last eight hundred eight."""
    from rich.console import Console

    view = LiveView(Console(quiet=True))
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    view.on_start(
        Start(
            folder=tmp_path, seeds=(0,), steps=1000, resumed=False, device="cpu", engine="torch",
            halvings=(100, 200),
        )
    )  # fmt: skip
    for step, now in ((0, 0.0), (50, 2.0)):
        clock[0] = now
        view.on_step((0,), step, 4)
    assert view.seconds_left == pytest.approx(2 + 2 + 8)
    clock[0] = 6.0
    view.on_step((0,), 200, 2)
    assert view.seconds_left == pytest.approx(8)


@pytest.mark.parametrize(("width", "dropped"), [(120, []), (60, ["loss", "step", "grokked at"])])
def test_a_narrow_live_table_keeps_the_figures_that_matter(width: int, dropped: list[str]) -> None:
    import io

    from rich.console import Console

    from adderlab.report.live import seed_table
    from adderlab.runs.records import SeedRecord
    from helpers.runs import metrics

    records = [SeedRecord(seed=seed).after(metrics(12_000, 1.0)) for seed in (7000, 7001)]
    stream = io.StringIO()
    Console(file=stream, width=width).print(seed_table(records, {}, 10, width))
    text = stream.getvalue()
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    assert all(each in text for each in ("7000", "[███████████]", "11/11", "100.00%", "training"))
    assert ("too narrow for" in text) == bool(dropped)
    head = text.splitlines()[0]
    assert all(name not in head for name in dropped)
    assert all(name in text for name in dropped)


def test_a_model_may_follow_the_settings() -> None:
    args = parse(
        command_of("train"),
        ["--set", "recipe.lr=0.01", "model.d_ff=3", "my adder.py", "--seeds", "0-3"],
        "adderlab train",
    )
    assert args.preset == "my adder.py" and args.seeds == "0-3"
    assert args.settings == ("recipe.lr=0.01", "model.d_ff=3")


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [
        ("latin-1", "× é > -> ... <= - ## ?".encode("latin-1")),
        ("ascii", b"x e > -> ... <= - ## ?"),
        ("utf-8", "× é > → … ≤ – ██ 中".encode()),
    ],
)
def test_what_an_encoding_lacks_is_printed_in_ascii(encoding: str, printed: bytes) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    make_printable(stream)
    stream.write("× é > → … ≤ – ██ 中")
    stream.flush()
    assert stream.buffer.getvalue() == printed  # type: ignore[attr-defined]


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_a_table_is_printed_whatever_the_encoding(
    encoding: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """``zoo`` cuts long cells with an ellipsis, which neither encoding has."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["zoo"]) == 0
    stream.flush()
    assert b"456p" in stream.buffer.getvalue()  # type: ignore[attr-defined]
    assert capfd.readouterr().err == ""
