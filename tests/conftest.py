"""What holds for every test, and the list of skipped tests at the end of a run.

One thread for PyTorch: the suite's numbers must not depend on the machine's cores. Triton decides when
it is first imported whether kernels are compiled or interpreted; whatever test imports it first, without
a CUDA device they are interpreted. Hypothesis has no deadline: on a busy machine it measures the others.
"""

import os
from collections import Counter
from collections.abc import Iterator

import hypothesis
import pytest
import torch

from helpers.golden import Golden

torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--refresh-golden", action="store_true", help="write the files in tests/golden again"
    )


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    """How many tests were skipped and for want of what: a green run says what it did not look at."""
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", ()):
        _, _, reason = report.longrepr
        reasons[reason.removeprefix("Skipped: ")] += 1
    if reasons:
        terminalreporter.section(f"{reasons.total()} skipped")
        for reason, count in reasons.most_common():
            terminalreporter.line(f"{count:5} {reason}")


@pytest.fixture(scope="session")
def golden(pytestconfig: pytest.Config) -> Golden:
    """Compares a text with a file in tests/golden (helpers/golden.py)."""
    return Golden(refresh=pytestconfig.getoption("--refresh-golden"))


@pytest.fixture(scope="module")
def unflushed() -> Iterator[None]:
    """Nobody waits for the disk, which takes half the time of many small runs; what is written is
    written all the same, and only a power cut would tell. Not for tests of the writing itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
