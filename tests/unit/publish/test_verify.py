"""The verdicts on other people's files: honest ones, cheats and crashes."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from adderlab.cli.main import main
from adderlab.errors import Failure, UsageError
from adderlab.evaluation import suites
from adderlab.evaluation.exact import Miss, Score, SuiteReport
from adderlab.publish import sandbox as sandboxes
from adderlab.publish import verify as module
from adderlab.publish.counting import Counts, Literals
from adderlab.publish.decide import Subject
from adderlab.publish.model_card import Credits
from adderlab.publish.sandbox import Limits, Mode, describe
from adderlab.publish.submission import submission_source
from adderlab.publish.verification import Counted, Decided, Disagreement, Verification, Watched
from adderlab.publish.verification import Score as Scored
from adderlab.publish.verify import verify
from adderlab.runs.checkpoints import load_checkpoint
from helpers.golden import Golden
from helpers.models import config_of
from helpers.reference import proved_model, reference_checkpoint
from helpers.submissions import (
    AT_ONCE,
    PYTHON_ADDER,
    SHOW,
    InProcess,
    calculator,
    needs_bubblewrap,
    write,
)

QUICK = Limits(seconds=60, load_seconds=30, answer_seconds=10, memory_mib=2000, output_mib=1)


@pytest.fixture(autouse=True)
def few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The edge cases and a few random pairs instead of 10,010; submissions leave no trace."""
    board = suites.adderboard()
    short = suites.Group(name="random", a_BJ=board.groups[1].a_BJ[:40], b_BJ=board.groups[1].b_BJ[:40])
    suite = suites.Suite(name="adderboard", groups=(board.groups[0], short))
    monkeypatch.setattr(module, "adderboard", lambda: suite)
    monkeypatch.setattr(module, "_COMPARED", 12)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def verify_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Verification]:
    """Verify code without a process of its own."""
    monkeypatch.setattr(module, "Sandbox", InProcess)

    def run(code: str, **settings) -> Verification:  # type: ignore[no-untyped-def]
        return verify(write(tmp_path, code), sandbox="limits", strata_pairs=2, prove=False, **settings)

    return run


def exported(name: str) -> str:
    checkpoint = load_checkpoint(reference_checkpoint(name)) if "." in name else proved_model(name)
    return submission_source(config_of(checkpoint), checkpoint.params, Credits(name="67p", author="me"))


@pytest.mark.parametrize("up", [True, False])
def test_an_honest_submission_is_qualified(verify_code: Callable[..., Verification], up: bool) -> None:
    result = verify_code(calculator(up=up))
    assert (result.verdict, result.rejections) == ("qualified", ())
    assert result.score.how.startswith("the model in batches")
    assert [report.total.errors for report in result.score.reports] == [0, 0]
    assert result.score.reports[0].total.n == 50 and result.score.reports[1].total.n == 64
    assert any("digit for digit" in finding for finding in result.watched.findings)
    assert result.count.counts is not None and result.count.counts.parameters == 10
    assert result.decided.verdict == "not decided" and "not asked" in str(result.decided.reason)


def test_one_pair_at_a_time_gives_the_same(verify_code: Callable[..., Verification]) -> None:
    result = verify_code(calculator(), pairwise=True)
    assert result.verdict == "qualified"
    assert result.score.how.startswith("add, one pair at a time")


def test_wrong_sums_are_not_qualified_and_are_named(verify_code: Callable[..., Verification]) -> None:
    worse = calculator().replace("% 10\n", "% 9\n", 1)
    result = verify_code(worse)
    assert result.verdict == "not qualified"
    assert result.score.reports[0].total.errors > 0
    miss = result.score.reports[0].failures[0]
    assert miss.right_sum == miss.a + miss.b and miss.answer != str(miss.right_sum)
    assert not any("overwritten" in note for note in result.notes), "there is nothing to explain"


@pytest.mark.parametrize(
    ("code", "reasons"),
    [
        (PYTHON_ADDER, ["every weight is overwritten"]),
        (
            SHOW,
            ["what its model answers is replaced", "every weight is overwritten"],
        ),
        (calculator(fixed=True), ["every weight is overwritten"]),
        (AT_ONCE, ["called 1 times"]),
        (calculator(params=6), ["6 parameters"]),
    ],
    ids=["adds in Python", "calls for show", "forward adds", "at once", "lies"],
)
def test_cheats_are_rejected_although_every_sum_is_right(
    verify_code: Callable[..., Verification], code: str, reasons: list[str]
) -> None:
    result = verify_code(code)
    assert result.score.reports[0].total.errors == 0
    assert result.verdict == "rejected"
    for reason in reasons:
        assert any(reason in each for each in result.rejections), (reason, result.rejections)
    assert len(result.rejections) == len(reasons), result.rejections


def test_numbers_outside_the_count_are_named(verify_code: Callable[..., Verification]) -> None:
    code = calculator() + "\nHIDDEN = torch.rand(30)\nTABLE = [0.5, 0.25, 1.5, 2.5] * 1\n"
    init = "super().__init__()"
    result = verify_code(code.replace(init, f"{init}; self.b = nn.Buffer(torch.rand(7))"))
    assert result.count.counts is not None
    named = result.count.counts.named()
    assert named["unique parameters"] == 10
    assert named["with buffers"] == 17
    assert named["with tensors held elsewhere"] == 47
    for words in ("7 numbers in buffers", "30 numbers in tensors"):
        assert any(words in note for note in result.count.notes)


def test_ours_is_known_by_its_text_and_an_altered_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Sandbox", InProcess)
    asked: list[Subject] = []
    answer = Decided(verdict="proved", margin=0.1)
    monkeypatch.setattr(module, "decide", lambda subject, **_: asked.append(subject) or answer)
    code = exported("67p")
    result = verify(write(tmp_path, code), sandbox="limits", strata_pairs=2)
    assert result.verdict == "qualified" and result.decided == answer

    lying = code.replace('"params": sum(p.numel() for p in model.parameters())', '"params": 10')
    result = verify(write(tmp_path, lying), sandbox="limits", strata_pairs=2)
    assert result.verdict == "rejected"
    (reason,) = result.rejections
    assert "10 parameters" in reason and "67" in reason
    assert any("not the code" in note for note in result.notes)
    assert [(each.ours, each.wrong, each.exact) for each in asked] == [(True, (), 1), (False, (), 1)]


def test_a_model_that_answers_otherwise_in_batches_is_asked_one_by_one(
    verify_code: Callable[..., Verification],
) -> None:
    moody = calculator().replace(
        "return logits[:, None]",
        "logits = logits * (1 if len(tokens) < 2 else -1)\n        return logits[:, None]",
    )
    result = verify_code(moody)
    assert result.verdict == "qualified"
    assert result.score.how.startswith("add, one pair at a time")
    a, b, batched, by_add = vars(result.score.disagreements[0]).values()
    assert (a, b, batched, by_add) == (0, 0, "no number", "0")
    assert any("0 + 0: no number in batches, 0 through add" in line for line in result.describe())


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        ("def add(:", "SyntaxError"),
        ("x = 1\0", "read as Python"),
        ("import no_such_package", "ModuleNotFoundError"),
        ("raise ImportError(\"No module named 'mlx'\")", "pip install 'adderlab[mlx]'"),
        ("def add(model, a, b): return a + b", "no function build_model"),
        ("def build_model(): return 1\ndef add(m, a, b): return 1", "(model, metadata)"),
        ("def build_model(): return 1, 2\ndef add(m, a, b): return 1", "metadata"),
        ("def build_model(): 1 / 0\ndef add(m, a, b): return 1", "ZeroDivisionError"),
    ],
)
def test_files_that_do_not_load_fail(
    verify_code: Callable[..., Verification], code: str, failure: str
) -> None:
    result = verify_code(code)
    assert result.verdict == "failed"
    assert result.failure is not None and failure in result.failure


BUILD = "def build_model():\n    return object(), {'params': 1}\n"


@needs_bubblewrap
@pytest.mark.parametrize(
    ("body", "verdict", "words"),
    [
        ("while True: pass", "failed", "in time"),
        ("import os; os._exit(0)", "failed", "exit code 0"),
        ("while True: print('x' * 100_000)", "failed", "1 MiB"),
        ("bytearray(10 ** 13)", "failed", "2000 MiB"),
        ("import socket; socket.create_connection(('127.0.0.1', 9))", "rejected", "use the network"),
        ("import os; os.fork()", "rejected", "start a process"),
        ("open('/tmp/adderlab-was-here', 'w')", "rejected", "change files"),
        ("return '3'", "not qualified", ""),
    ],
    ids=["loops", "exits", "floods", "eats memory", "network", "forks", "writes", "says text"],
)
def test_hostile_files_get_the_right_verdict(
    tmp_path: Path, body: str, verdict: str, words: str
) -> None:
    path = write(tmp_path, f"{BUILD}def add(model, a, b):\n    {body}\n")
    limits = Limits(seconds=20, answer_seconds=1, memory_mib=2000, output_mib=1)
    result = verify(path, limits=limits, strata_pairs=1)
    assert result.verdict == verdict
    assert words in "\n".join([result.failure or "", *result.rejections])
    assert not Path("/tmp/adderlab-was-here").exists()


@needs_bubblewrap
def test_in_the_real_sandbox_with_torch(tmp_path: Path) -> None:
    stages: list[str] = []
    result = verify(
        write(tmp_path, calculator()),
        limits=QUICK,
        strata_pairs=2,
        prove=False,
        progress=lambda stage, done, total: stages.append(stage),
    )
    assert (result.verdict, result.failure, result.rejections) == ("qualified", None, ())
    assert list(dict.fromkeys(stages))[:4] == ["loading", "watching", "adderboard", "strata"]
    plain = json.loads(json.dumps(result.to_dict()))
    assert plain["verdict"] == "qualified" and plain["count"]["counts"]["unique parameters"] == 10
    assert plain["score"]["suites"][0]["n"] == 50


def test_a_verdict_as_text_html_and_json(golden: Golden) -> None:
    counts = Counts(
        parameters=10,
        trainable=9,
        with_buffers=17,
        with_others=47,
        with_literals=51,
        distinct=8,
        nonzero=9,
        masks=1156,
        whole=0,
        literals=Literals(in_code=(0.5,), in_tables=50, packed=0),
    )
    group = Score(name="all", n=10010, errors=1, right_digits=(10009,) * 11)
    miss = Miss(group="all", a=1, b=2, answer="\x1b[2J", right_sum=3)
    report = SuiteReport(suite="adderboard", groups=(group,), failures=(miss,), seconds=1.0)
    result = Verification(
        file="submission.py",
        sandbox=describe("bubblewrap"),
        verdict="rejected",
        failure=None,
        rejections=(
            "it tried to use the network (socket.connect)",
            "it says 6 parameters, but holds 10",
        ),
        notes=("its metadata lacks tricks",),
        metadata={"params": 6},
        score=Scored(
            reports=(report,),
            complete=True,
            how="the model driven in batches, in agreement with add on a sample",
            disagreements=(Disagreement(a=1, b=2, batched="3", by_add="4"),),
        ),
        count=Counted(
            counts=counts, claimed=6, claim="it says 6 parameters, but holds 10", confirmed=False
        ),
        watched=Watched(verdict="from the model", findings=("its sums follow its model's answers",)),
        decided=Decided(
            verdict="refuted", counterexample=(1, 2), failing_pairs=(3, 40), source="a test"
        ),
        seconds=12.34,
    )
    golden("publish/verification.txt", "\n".join(result.describe()) + "\n")
    golden("publish/verification.html", result._repr_html_() + "\n")
    golden("publish/verification.json", json.dumps(result.to_dict(), indent=1) + "\n")
    golden("publish/sandboxes.txt", "".join(f"{describe(mode)}\n" for mode in get_args(Mode)))


@needs_bubblewrap
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["lowrank_456p_s43.pt", "microadder_67p_s71046.pt", "qwen3_122p_lbfgs.npz"]
)
def test_ours_in_full(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "adderboard", suites.adderboard)
    result = verify(write(tmp_path, exported(name)), strata_pairs=200)
    assert (result.verdict, result.rejections) == ("qualified", ())
    assert [report.total.n for report in result.score.reports] == [10010, 32 * 200]
    assert all(report.total.errors == 0 for report in result.score.reports)
    assert result.decided.verdict == "proved"


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> int:
        return main(["verify", *arguments])

    path = write(tmp_path, "raise ValueError('\\x1b[31m no')\n")
    assert run(str(path), "--sandbox", "limits") == 1
    out = capsys.readouterr().out
    assert f"{path}: FAILED" in out and "ValueError: ?[31m no" in out
    assert run(str(path), "--json", "--sandbox", "limits") == 1
    plain = json.loads(capsys.readouterr().out)
    assert plain["verdict"] == "failed" and plain["sandbox"].startswith("limits")
    assert run(str(tmp_path / "nothing.py")) == 2
    assert run(str(path), "--timeout", "0") == 2
    assert run(str(path), "--strata", "9999") == 2
    assert run(str(path), "--sandbox", "prison") == 2


def test_without_bubblewrap_it_refuses_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sandboxes, "bubblewrap_trouble", lambda: "bubblewrap is not installed")
    path = write(tmp_path, f"open({str(tmp_path / 'made')!r}, 'w')\n")
    assert main(["verify", str(path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "bubblewrap is not installed" in line and "apt-get install bubblewrap" in line
    assert "--sandbox limits" in line
    assert not (tmp_path / "made").exists(), "nothing was run"


def test_a_missing_or_binary_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        verify(tmp_path / "nothing.py")
    (tmp_path / "text.md").write_text("# Results")
    with pytest.raises(UsageError, match=r"text\.md is no Python file"):
        verify(tmp_path / "text.md")
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Failure, match="is not text"):
        verify(tmp_path / "binary.py")
