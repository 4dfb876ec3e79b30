"""Files of other styles of code: read as their modules compute, or refused in one line."""

import time
from pathlib import Path

import pytest

from adderlab.errors import Failure
from adderlab.reading.file_model import read_file
from helpers.paths import ROOT

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


LONG = "causal_lm", "encoder"
"""Read again on command."""


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=pytest.mark.slow) if each in LONG else each for each in READ]
)
def test_files_are_read(name: str) -> None:
    start = time.process_time()
    config, params = read_file(STYLES / "read" / f"{name}.py")
    seconds = time.process_time() - start
    assert config.no_tables is None, config.no_tables
    agreement = config.live.agreement
    assert agreement is not None and agreement.precision.startswith("float64")
    assert agreement.difference <= 1e-10 * agreement.scale
    assert params and seconds < 10


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
