"""One thread for PyTorch: the suite's numbers must not depend on the machine's cores.

Triton decides when it is first imported whether kernels are compiled or interpreted; whatever test
imports it first, without a CUDA device they are interpreted.
"""

import os
from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="module")
def unflushed() -> Iterator[None]:
    """Nobody waits for the disk, which takes half the time of many small runs; what is written is
    written all the same, and only a power cut would tell. Not for tests of the writing itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
