"""The Triton kernels compiled for NVIDIA GPUs, which needs none: Triton brings NVIDIA's assembler."""

import os
import platform
import subprocess
import sys

import pytest

from helpers.paths import HELPERS, TESTS

pytest.importorskip(
    "triton", reason="Triton is not installed: pip install -c constraints.txt -e '.[gpu]'"
)


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="NVIDIA's assembler comes for x86-64")
@pytest.mark.parametrize("size", ["small", "large"])
def test_the_kernels_compile_for_ampere_and_hopper(size: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, HELPERS / "triton_for_cuda.py", size, "80", "90"],
        env=environment | {"PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 12, done.stdout
