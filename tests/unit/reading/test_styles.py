"""Files of other styles of code: read as their modules compute, or refused in one line."""

from pathlib import Path

import pytest

from adderlab.errors import Failure
from adderlab.reading.file_model import read_file
from helpers.paths import ROOT
from helpers.user_files import EXAMPLE, written

STYLES = ROOT / "tests" / "helpers" / "styles"
READ = sorted(path.stem for path in (STYLES / "read").glob("*.py"))
REFUSED = {
    "arrays": "numpy",
    "digit_sums": "second layer|outside the attention",
    "fixed_window": "one length, padded",
    "in_constants": "holds no tensors",
    "kv_cache": "cache",
    "left_padded": "neither fixed nor one digit",
    "numbers": "holds no tensors",
    "parts": "one function or module",
    "sampled": "not return what its model answers|largest logit|differently each time",
}
"""Each with words of the line that says why."""


LONG = "causal_lm", "encoder", "last_query"
"""Read again on command."""


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=pytest.mark.slow) if each in LONG else each for each in READ]
)
def test_files_are_read(name: str) -> None:
    config, params = read_file(STYLES / "read" / f"{name}.py")
    assert config.no_tables is None, config.no_tables
    agreement = config.live.agreement
    assert agreement is not None and agreement.precision.startswith("float64")
    assert agreement.difference <= 1e-10 * agreement.scale
    assert params


MODEL = "    model = MyAdder()\n"
CHOICE = "int(model(torch.tensor([tokens]))[0, -1].argmax())"
CHANGED = {
    "weight norm": (MODEL, f"{MODEL}    nn.utils.parametrizations.weight_norm(model.query)\n"),
    "wrapped": (MODEL, "    model = nn.DataParallel(MyAdder())\n"),
}
"""Changes of the example: (text, its replacement)."""


@pytest.mark.parametrize("name", CHANGED)
def test_the_example_written_otherwise_is_read(name: str, tmp_path: Path) -> None:
    config, _ = read_file(changed(CHANGED[name], tmp_path))
    assert config.no_tables is None, config.no_tables


WRONG = {
    "drawn": (CHOICE, CHOICE.replace("argmax()", "div(0.05).softmax(-1).multinomial(1)")),
    "biased": (CHOICE, CHOICE.replace("argmax", "add(torch.arange(12.0)).argmax")),
    "by a threshold": (
        CHOICE,
        CHOICE.replace("int(", "int(0 if model(torch.tensor([tokens])).max() < 0 else "),
    ),
    "of nines": ("reversed(tokens[-11:])", "[(9 - t) % 10 for t in reversed(tokens[-11:])]"),
}
"""Ways to answer that are no greedy decoding."""


@pytest.mark.parametrize("name", WRONG)
def test_an_answer_that_is_not_greedy_is_refused(name: str, tmp_path: Path) -> None:
    assert "not return what its model answers" in reason(changed(WRONG[name], tmp_path))


def test_coarse_formats_are_named(tmp_path: Path) -> None:
    line = reason(changed((MODEL, MODEL.replace("()", "().to(torch.bfloat16)")), tmp_path))
    assert "computes in bfloat16" in line


def test_errors_of_many_lines_are_told_in_one(tmp_path: Path) -> None:
    line = reason(changed((MODEL, "    raise ValueError('\\none\\ntwo')\n"), tmp_path))
    assert line == "build_model fails: ValueError: one"


def changed(change: tuple[str, str], folder: Path) -> Path:
    text, (old, new) = EXAMPLE.read_text(), change
    assert old in text, old
    return written(text.replace(old, new), folder / "changed.py")


def reason(path: Path) -> str:
    """Why a file is refused, or has no tables; nothing where it is read."""
    try:
        return read_file(path)[0].no_tables or ""
    except Failure as failure:
        return str(failure)


@pytest.mark.parametrize("name", REFUSED)
def test_files_are_refused_in_one_line(name: str) -> None:
    line = reason(STYLES / "refused" / f"{name}.py")
    assert line and "\n" not in line
    assert any(words in line for words in REFUSED[name].split("|")), line


def test_every_refused_file_is_tried() -> None:
    assert {path.stem for path in (STYLES / "refused").glob("*.py")} == set(REFUSED)
