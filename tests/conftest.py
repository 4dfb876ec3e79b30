"""One thread for PyTorch: the suite's numbers must not depend on the machine's cores.

Triton decides when it is first imported whether kernels are compiled or interpreted; whatever test
imports it first, without a CUDA device they are interpreted.
"""

import os
from collections.abc import Iterator

import pytest
import torch

from helpers.golden import Golden

torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--refresh-golden", action="store_true", help="write the files in tests/golden again"
    )


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
