"""Commands of adderlab in processes of their own, quickly, to be killed or to meet a failing disk.

A parent that has imported everything forks a child for each command, so that a kill is a real kill and
a start costs nothing. The parent runs under ``faults.cpp``, which makes calls on files below a folder
fail on demand.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import dataclasses
import errno
import functools
import importlib
import io
import itertools
import json
import mmap
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from adderlab.engine.native.build import NativeUnavailable, find_compiler
from helpers.paths import TESTS

SOURCE = Path(__file__).with_name("faults.cpp")
# Two cells of one seed, three steps long.
SWEEP = """
preset = "456p"
recipe = "published"
seeds = "0"
steps = 3
set.recipe = {batch_size = 2, val_size = 4, test_size = 2, eval_interval = 2}
grid.recipe.lr = [0.01, 0.02]
"""
KINDS = {"writes": 1, "reads": 2}
ACTIONS = {"once": 0, "forever": 1, "half": 2, "kill": 3, "half, kill": 4}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens at the ``at``-th (from 0) call that writes to, or reads from, a file below the
    folder of the command: see ``Action`` in faults.cpp."""

    at: int
    kind: Literal["writes", "reads"] = "writes"
    action: Literal["once", "forever", "half", "kill", "half, kill"] = "once"
    code: int = errno.ENOSPC


NO_FAULT = Fault(at=1 << 40)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended."""

    code: int
    """Exit code, or minus the number of the signal that ended it."""
    calls: int
    """Calls of the fault's kind that it made; 0 if it was killed."""
    seconds: float
    out: str
    err: str

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL


class CommandRunner:
    """Starts commands one after another."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(
        self,
        folder: Path,
        *argv: str | Path,
        fault: Fault = NO_FAULT,
        signal_after: float | None = None,
        signal_when: Path | None = None,
        number: int = signal.SIGKILL,
        pause: float = 0.0,
    ) -> Ended:
        """``adderlab ARGV`` in ``folder``; after so many seconds, or so many after a file is there, it
        gets the signal ``number``. ``pause``: seconds between two writings of a run's files."""
        request = {
            "folder": str(folder),
            "argv": [str(each) for each in argv],
            "fault": dataclasses.asdict(fault),
            "signal_after": signal_after,
            "signal_when": None if signal_when is None else str(folder / signal_when),
            "number": int(number),
            "pause": pause,
        }
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the process that starts commands has ended"
        return Ended(**json.loads(answer))


@functools.cache
def command_runner() -> CommandRunner:
    """One for all tests of a session; skips the test where nothing can compile the faults."""
    opened = contextlib.ExitStack()
    atexit.register(opened.close)
    folder = opened.enter_context(tempfile.TemporaryDirectory())
    return opened.enter_context(_start_runner(Path(folder) / "faults.so"))


@contextmanager
def _start_runner(shim: Path) -> Iterator[CommandRunner]:
    try:
        compiler = find_compiler()
    except NativeUnavailable as error:
        pytest.skip(str(error))
    if sys.platform != "linux":
        pytest.skip("faults are preloaded, which is for Linux")
    command = [*compiler, "-O1", "-shared", "-fPIC", "-std=c++17", str(SOURCE), "-o", str(shim), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    environment = os.environ | {
        "LD_PRELOAD": str(shim),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")])),
    }
    process = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdin and process.stdout
    try:
        assert process.stdout.readline() == "ready\n"
        yield CommandRunner(process)
    finally:
        process.stdin.close()
        process.wait(timeout=60)
        process.stdout.close()


def sample_evenly(count: int, calls: int, seed: int = 0) -> list[int]:
    """``count`` of the numbers below ``calls``: one from each of as many equal parts; or all."""
    if count >= calls:
        return list(range(calls))
    generator = random.Random(seed)
    edges = [round(i * calls / count) for i in range(count + 1)]
    return [generator.randrange(low, high) for low, high in itertools.pairwise(edges)]


def _serve() -> None:
    """The parent: one request a line, one answer a line."""
    from adderlab.cli.main import main

    _import_everything(main)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(_raise(main, json.loads(line))), flush=True)


def _import_everything(main: Any) -> None:
    """What a run imports on its way, so that no child has to."""
    importlib.import_module("adderlab.engine.native.engine")
    command = (
        "train 456p --recipe published --seeds 0-1 --steps 2 --engine torch --evaluate none --quiet"
    )
    small = ["--set", "recipe.batch_size=2", "recipe.val_size=2", "recipe.test_size=2"]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        os.chdir(folder)
        assert main([*command.split(), *small]) == 0
        os.chdir("/")


def _raise(main: Any, request: dict[str, Any]) -> dict[str, Any]:
    shared = mmap.mmap(-1, 8)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.perf_counter()
        child = os.fork()
        if child == 0:
            _be_child(main, request, shared, out.fileno(), err.fileno())
        status = _await(child, request)
        seconds = time.perf_counter() - started
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return {
        "code": os.waitstatus_to_exitcode(status),
        "calls": int.from_bytes(shared[:8], "little"),
        "seconds": seconds,
        "out": texts[0],
        "err": texts[1],
    }


def _be_child(main: Any, request: dict[str, Any], shared: mmap.mmap, out: int, err: int) -> None:
    """Run the command; never returns."""
    code = 99
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.chdir(request["folder"])
        fault, shim = request["fault"], ctypes.CDLL(None)
        shim.fault_arm(
            os.path.realpath(request["folder"]).encode() + b"/",
            KINDS[fault["kind"]],
            ctypes.c_long(fault["at"]),
            ACTIONS[fault["action"]],
            fault["code"],
        )
        shim.fault_seen.restype = ctypes.c_long
        sys.argv = ["adderlab", *request["argv"]]
        importlib.import_module("adderlab.training.run").Writer.PAUSE = request["pause"]
        try:
            code = main(request["argv"])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 98
        shared[:8] = shim.fault_seen().to_bytes(8, "little")
        sys.stdout.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _await(child: int, request: dict[str, Any]) -> int:
    """Wait for the child; it stays a zombie until then, so the signal cannot hit anybody else."""
    when, after = request["signal_when"], request["signal_after"]
    since = None if when else time.perf_counter()
    while after is not None:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        if since is None and Path(when).exists():
            since = time.perf_counter()
        if since is not None and time.perf_counter() - since >= after:
            os.kill(child, request["number"])
            break
        time.sleep(0.0005)
    return os.waitpid(child, 0)[1]


if __name__ == "__main__":
    _serve()
