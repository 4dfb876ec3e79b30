"""The kernel for ARM servers and Macs, built by a cross compiler and run under emulation (NEON).

Needs ``apt install g++-aarch64-linux-gnu qemu-user``.
"""

import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from adderlab.engine.native.engine import KERNEL_FLAGS, table_names
from adderlab.engine.native.head import head_source
from adderlab.task.addition import Addition, get_layout
from helpers.paths import ROOT
from oracle import table_forward
from oracle.random_tables import BIASES, random_tables, random_tokens, table_form

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
DRIVER = ROOT / "tests" / "helpers" / "kernel_driver.cpp"
FORMS = {
    "456p's shape": (table_form("P"), ()),
    "two heads, SwiGLU, biases": (
        table_form("S", heads=2, key=4, value=4, width=8, hidden=3, activation="swiglu"),
        BIASES,
    ),
    "base 16, twenty tokens": (table_form(get_layout("P", Addition(columns=3, base=16))), ()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_loss_and_gradient_of_the_arm_build(name: str, tmp_path: Path) -> None:
    for program in (COMPILER, EMULATOR):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}: apt install g++-aarch64-linux-gnu qemu-user")
    without_biases, biases = FORMS[name]
    tables = random_tables(without_biases, 2, biases, 0)
    form = tables.form
    tokens, targets = random_tokens(form, 2, 19, 0)
    kernel, program = tmp_path / "kernel.cpp", tmp_path / "driver"
    kernel.write_text(head_source(form, score=None, sink=False))
    flags = ["-std=c++17", "-O2", "-pthread", "-static", *KERNEL_FLAGS, f'-DKERNEL="{kernel}"']
    subprocess.run([COMPILER, *flags, "-o", program, DRIVER], check=True, timeout=600)

    names = table_names(form)
    request = struct.pack("<5i", 2, 19, len(names), tokens.shape[2], targets.shape[2])
    for table in map(tables.get, names):
        values = b"" if table is None else table.float().contiguous().numpy().tobytes()
        request += struct.pack("<q", len(values) // 4) + values
    request += tokens.contiguous().numpy().tobytes() + targets.contiguous().numpy().tobytes()
    done = subprocess.run([EMULATOR, program], input=request, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr.decode()[-500:]

    found = torch.from_numpy(np.frombuffer(done.stdout, dtype="<f4").copy())
    want_S, exact = table_forward.loss_and_grad(tables, tokens, targets)
    assert torch.allclose(found[:2].double(), want_S, rtol=1e-6)
    there = dict(exact.items())
    sizes = [there[name].numel() for name in names if name in there]
    grads = found[2:].split(sizes)
    for name, grad in zip([name for name in names if name in there], grads, strict=True):
        want = there[name].reshape(2, -1)
        error_S = (grad.reshape(2, -1) - want).abs().amax(1) / want.abs().amax(1)
        assert error_S.max() < 1e-5, (name, error_S)
