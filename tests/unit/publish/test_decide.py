"""Deciding strangers' files: what is proved, what refutes, what is only said to be so."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import adderlab
from adderlab.errors import UsageError
from adderlab.publish import decide as module
from adderlab.publish.decide import Pair, Subject, check_certificate_name, decide
from adderlab.publish.handout import tables, take
from adderlab.publish.inside.reader import Reader
from adderlab.publish.proving import NotComputed, Proved, prove_apart
from adderlab.publish.sandbox import Ended, Limits, Sandbox
from adderlab.publish.verification import Decided
from adderlab.reading.reading import table_logits
from adderlab.reading.running import built, load_file
from helpers.strangers import STRANGERS
from helpers.submissions import HEAD, ReaderInProcess, needs_bubblewrap
from helpers.user_files import variant

LIMITS = Limits(seconds=300, load_seconds=120)
Decide = Callable[..., Decided]


def right(pairs: list[Pair]) -> list[Any]:
    return [a + b for a, b in pairs]


def subject(path: Path, **changes: Any) -> Subject:
    known: dict[str, Any] = {
        "path": path,
        "source": path.read_text(),
        "names": ("build_model", "add"),
        "ours": False,
        "answers": right,
        "pairs_per_second": 10.0,
        "wrong": (),
        "exact": 1.0,
    }
    return Subject(**{**known, **changes})


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    path = tmp_path / "stranger.py"
    path.write_text(STRANGERS["one head, fixed mask, hinges"].source)
    return path


class Remembering(Reader):
    """Reads the same file once for all tests."""

    known: ClassVar[dict[tuple[Any, ...], dict[str, Any]]] = {}

    def read(self, request: dict[str, Any]) -> dict[str, Any]:
        key = Path(self._path).read_text(), self._names
        if key not in self.known:
            message = super().read(request)
            self.known[key] = {"message": message, **vars(self)}
        state = dict(self.known[key])
        message = state.pop("message")
        vars(self).update(state)
        return message


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Decide:
    """Decide without a sandbox: our own files alone."""
    monkeypatch.setattr(module, "Sandbox", ReaderInProcess)
    monkeypatch.setattr(ReaderInProcess, "made", Remembering)
    return lambda about, **more: decide(about, mode="limits", limits=LIMITS, **more)


@pytest.fixture
def believing(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A prover that finds every table right, and what it was asked."""
    asked: list[dict[str, Any]] = []

    def prove(folder: Path, **question: Any) -> Proved:
        asked.append(question)
        message, arrays = question["handed"]
        own = tables(take(message), arrays)
        return Proved(
            verdict="proved",
            failing_pairs=0,
            margin_bound=0.4,
            margin=0.5,
            pair=(5, 6),
            weakest=((5, 6), (7, 8)),
            checked=True,
            reason="",
            logits=table_logits(own, torch.tensor(question["sequences"])).numpy(),
        )

    monkeypatch.setattr(module, "prove_apart", prove)
    return asked


def test_a_proof_is_kept_and_holds_for_the_file(
    stranger: Path, tmp_path: Path, in_process: Decide
) -> None:
    stages: list[str] = []
    certificate = tmp_path / "proof.json"
    found = in_process(
        subject(stranger),
        certificate=certificate,
        progress=lambda stage, done, total: stages.append(stage),
    )
    assert (found.verdict, found.counterexample, found.failing_pairs) == ("proved", None, 0)
    assert found.margin is not None and found.margin > 0.3
    assert "agree within" in found.source and "are right" in found.source
    assert stages[0] == "reading" and "proof: checker" in stages
    assert found.certificate == str(certificate)
    report = adderlab.check(certificate, stranger, fp32=False)
    assert report.accepted and report.margin == pytest.approx(found.margin, rel=1e-2)


def test_functions_of_other_names_are_read(
    stranger: Path, in_process: Decide, believing: list[dict[str, Any]]
) -> None:
    text = stranger.read_text().replace("def build_model", "def make").replace("def add", "def plus")
    stranger.write_text(text)
    found = in_process(subject(stranger, names=("make", "plus")))
    assert found.verdict == "proved", found
    found = in_process(subject(stranger))
    assert found.verdict == "not decided" and "build_model" in str(found.reason)


@pytest.mark.parametrize("which", ["a weak pair", "a pair drawn afterwards"])
def test_a_wrong_sum_is_worth_more_than_a_proof(
    which: str, stranger: Path, in_process: Decide, believing: list[dict[str, Any]]
) -> None:
    asked: list[Pair] = []

    def answers(pairs: list[Pair]) -> list[Any]:
        asked.extend(pairs)
        weak = which == "a weak pair"
        return [a + b + ((a, b) == (7, 8) if weak else len(asked) > 20) for a, b in pairs]

    found = in_process(subject(stranger, answers=answers))
    assert found.verdict == "refuted" and found.counterexample in asked
    assert (found.counterexample == (7, 8)) == (which == "a weak pair")
    assert found.certificate is None and "rounds, or the tables are not" in str(found.reason)


def test_a_wrong_pair_of_the_score_refutes_what_the_prover_finds_right(
    stranger: Path, in_process: Decide, believing: list[dict[str, Any]], tmp_path: Path
) -> None:
    certificate = tmp_path / "none.json"
    found = in_process(subject(stranger, wrong=((1, 2),), exact=0.999), certificate=certificate)
    assert (found.verdict, found.counterexample) == ("refuted", (1, 2))
    assert [list(each["failing"]) for each in believing] == [[(1, 2)]] and not certificate.exists()
    believing.clear()
    found = in_process(subject(stranger, wrong=((3, 4),), exact=0.2))
    assert (found.verdict, found.counterexample) == ("refuted", (3, 4))
    assert believing == [], "a model that is mostly wrong needs no prover"


def test_pairs_cannot_be_foreseen() -> None:
    first, second = (module._unforeseen(10.0) for _ in range(2))
    assert min(len(set(first)), len(set(second))) >= module.FEWEST_PAIRS
    # Uniform pairs come first; strata have pairs of short numbers, of which two draws may share some.
    uniform = len(first) // 2
    assert not set(first[:uniform]) & set(second[:uniform])
    assert set(first[uniform:]) != set(second[uniform:])
    assert module.FEWEST_PAIRS <= len(module._unforeseen(1e-3)) < 60
    assert len(module._unforeseen(1e9)) == pytest.approx(module.MOST_PAIRS, rel=0.1)


class Forger(Remembering):
    """Hands out tables that are not its model's."""

    def numbers(self, request: dict[str, Any]) -> dict[str, Any]:
        self._tables = {name: 1.001 * table for name, table in self._tables.items()}
        return super().numbers(request)


class Liar(Reader):
    """Hands out something else than a reading."""

    replies: ClassVar[dict[str, Any]] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        return self.replies


def test_tables_of_another_model_are_caught_by_the_logits(
    stranger: Path,
    in_process: Decide,
    believing: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ReaderInProcess, "made", Forger)
    found = in_process(subject(stranger))
    assert found.verdict == "not decided"
    assert "not those of its model" in str(found.reason)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ({}, "is no reading"),
        ({"layout": 1}, "is no reading"),
        ({"error": "\x1b[31mit is\nhot" * 100}, "[31mit is hot"),
        ({"no_tables": "two layers"}, "two layers"),
        ({"no_tables": "two layers", "pair": [10**10, 1]}, "two layers"),
        ({"no_tables": "two layers", "pair": "12"}, "two layers"),
    ],
)
def test_whatever_it_says_is_a_reason_in_one_line(
    reply: dict[str, Any],
    reason: str,
    stranger: Path,
    in_process: Decide,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ReaderInProcess, "made", Liar)
    monkeypatch.setattr(Liar, "replies", reply)
    found = in_process(subject(stranger))
    assert (found.verdict, found.margin_pair) == ("not decided", None)
    assert reason in str(found.reason) and len(str(found.reason)) < 400
    assert str(found.reason).isprintable()


@pytest.mark.parametrize(
    "seconds",
    [pytest.param(1e9, marks=pytest.mark.slow), 1e-9],
    ids=["by a search", "in no time"],
)
def test_what_cannot_be_read_is_attacked(
    seconds: float, tmp_path: Path, in_process: Decide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ATTACK_SECONDS", seconds)
    monkeypatch.setattr("adderlab.publish.inside.reader._NEAR", 1)
    path = variant("two layers", tmp_path)
    found = in_process(subject(path))
    assert found.verdict == "not decided" and "second" in str(found.reason)
    pair = found.margin_pair
    assert pair is not None
    found = in_process(subject(path, answers=lambda pairs: [0] * len(pairs)))
    assert found.verdict == "refuted" and found.counterexample is not None
    assert found.source == "an attack" and "second" in str(found.reason)


def test_an_end_and_a_stop_are_reasons(
    stranger: Path,
    in_process: Decide,
    believing: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def ends(pairs: list[Pair]) -> list[Any]:
        raise Ended("it ended its process (exit code 1)")

    found = in_process(subject(stranger, answers=ends))
    assert (found.verdict, found.certificate) == ("not decided", None)
    assert "exit code 1" in str(found.reason)

    def stops(folder: Path, **question: Any) -> Proved:
        raise NotComputed("the prover was not done in 1 s")

    monkeypatch.setattr(module, "prove_apart", stops)
    assert "not done in 1 s" in str(in_process(subject(stranger)).reason)


def test_a_certificate_is_written_over_nothing_else(tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.json"
    thesis.write_text("{}")
    with pytest.raises(UsageError, match="is no certificate"):
        check_certificate_name(thesis)
    check_certificate_name(tmp_path / "new.json")


def read_of(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    reader = Reader(str(path))
    message = reader.answer({"do": "read"})
    return message, {name: table.numpy() for name, table in reader._tables.items()}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["huge", "tiny", "zeros", "alike", "hidden", "no time"])
def test_numbers_that_fit_and_mean_harm_end_without_a_proof(
    what: str, stranger: Path, tmp_path: Path
) -> None:
    message, arrays = read_of(stranger)
    change: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "huge": lambda x: np.full(x.shape, 1e300),
        "tiny": lambda x: np.full(x.shape, 5e-324),
        "zeros": np.zeros_like,
        "alike": np.ones_like,
        "hidden": lambda x: x,
        "no time": lambda x: x,
    }
    forged = {name: change[what](array) for name, array in arrays.items()}
    if what == "hidden":
        forged["score"] = np.full_like(forged["score"], -np.inf)
    folder = tmp_path / "apart"
    folder.mkdir()
    try:
        found = prove_apart(
            folder,
            seconds=0.5 if what == "no time" else 240,
            failing=[],
            handed=(message, forged),
            source="",
            sha256="0" * 64,
            on_progress=lambda *_: None,
        )
    except NotComputed as stopped:
        assert "Traceback" not in str(stopped) and len(str(stopped)) < 300
        return
    assert found.verdict in ("refuted", "undecided")


@pytest.mark.slow
def test_constants_may_have_the_names_of_arguments(stranger: Path, tmp_path: Path) -> None:
    message, arrays = read_of(stranger)
    names = {"c0": "file", "c1": "allow_pickle", "c2": "args"}
    text = json.dumps(message)
    for old, new in names.items():
        text = text.replace(f'"{old}"', f'"{new}"')
    found = prove_apart(
        tmp_path,
        seconds=240,
        failing=[],
        handed=(json.loads(text), {names.get(name, name): array for name, array in arrays.items()}),
        source="",
        sha256="0" * 64,
        on_progress=lambda *_: None,
    )
    assert found.verdict == "proved" and found.checked


@needs_bubblewrap
@pytest.mark.slow
@pytest.mark.parametrize("name", STRANGERS)
def test_structures_of_published_submissions_are_decided(name: str, tmp_path: Path) -> None:
    stranger, path = STRANGERS[name], tmp_path / "stranger.py"
    path.write_text(stranger.source)
    result = adderlab.verify(path, seconds=600, strata=20)
    decided = result.decided
    assert result.failure is None and result.rejections == ()
    assert decided.verdict == stranger.verdict, decided
    if decided.verdict == "refuted":
        assert decided.counterexample is not None
        file = load_file(path)
        with torch.no_grad():
            answer = file.add(built(file), *decided.counterexample)
        torch.set_default_dtype(torch.float32)
        assert answer != sum(decided.counterexample)


FORGED = (
    HEAD
    + """
import sys

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))
        inside = sys.modules.get("adderlab_inside.reader")
        if inside is not None:
            inside.Reader.answer = lambda self, request: {reply}

def build_model():
    return Model(), metadata(1)

def add(model, a, b):
    return a + b
"""
)


@needs_bubblewrap
@pytest.mark.slow
@pytest.mark.parametrize(
    "reply",
    [
        "{}",
        "{'exit': 1}",
        "{'memory': [0]}",
        "{'tried': {'x': 1}, 'how': []}",
        "{'error': {'x': '\\x1b[2J'}}",
        "{'x': 'a' * (9 << 20)}",
        "[1] * 5",
        "float('nan')",
        "sys.exit(3)",
        "[[[]]] * 100_000",
    ],
)
def test_a_file_that_takes_the_reader_over_proves_nothing(reply: str, tmp_path: Path) -> None:
    path = tmp_path / "forged.py"
    path.write_text(FORGED.replace("{reply}", reply))
    found = decide(subject(path), mode="bubblewrap", limits=Limits(load_seconds=20))
    assert (found.verdict, found.certificate) == ("not decided", None)
    assert found.reason


@needs_bubblewrap
@pytest.mark.slow
def test_the_reader_sees_this_package_and_nothing_else_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "looks.py"
    here = [str(Path.home() / ".ssh"), __file__, str(tmp_path), "/etc/passwd", "/bin/sh"]
    path.write_text(f"import os\nraise ValueError([p for p in {here!r} if os.path.exists(p)])\n")
    with Sandbox(path, LIMITS, "bubblewrap", "reader") as box:
        assert "ValueError: []" in box.ask("read", 60)["error"]
