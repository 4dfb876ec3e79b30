"""A stranger's submission in a process of its own, shut in as well as this machine allows.

The file is never trusted: not its metadata, not its answers' form, not the size of what it says. The
child gets pairs and sends answers; it never learns the sums. Ways to shut it in, the strongest first:

bubblewrap   no network, only its own processes, all files read-only, a small scratch folder in memory
namespaces   the same, made by ``inside/jail.py`` without any tool
limits       the operating system's limits only

On Linux (x86-64 and ARM64) all three also filter system calls (``inside/seccomp.py``), which with
``limits`` is what forbids sockets, processes and writing.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from adderlab.errors import UsageError
from adderlab.publish.inside import seccomp

Mode = Literal["bubblewrap", "namespaces", "limits"]
MODES: tuple[Mode, ...] = get_args(Mode)
_JAIL = Path(__file__).parent / "inside" / "jail.py"
_LONGEST_REPLY = 8 << 20
_MOST_TOLD = 20
_TAIL = 2000

_WORDS = {
    "bubblewrap": "bubblewrap (no network, no other processes, files read-only)",
    "namespaces": "namespaces (no network, no other processes, files read-only)",
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much a submission may use."""

    seconds: float = 1800.0
    """Of all in all."""
    load_seconds: float = 120.0
    """Until the model is built."""
    answer_seconds: float = 30.0
    """For one answer."""
    memory_mib: int = 4096
    scratch_mib: int = 64
    """Files that it may write, in memory."""
    output_mib: int = 16
    """What it may print."""


class Ended(Exception):
    """The submission is over: it broke a limit, crashed or left. One sentence."""


@functools.cache
def works(mode: Mode) -> bool:
    """Whether this way of shutting in can be had on this machine."""
    if mode == "limits":
        return os.name == "posix"
    if sys.platform != "linux" or (mode == "bubblewrap" and shutil.which("bwrap") is None):
        return False
    with _scratch() as scratch:
        command = _command(mode, scratch, {"attempt": True, "scratch_bytes": 1 << 20})
        try:
            done = subprocess.run(command, capture_output=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return False
    return done.returncode == 0


def best_mode() -> Mode:
    """The strongest way that works here. Raises ``UsageError`` where there is none."""
    for mode in MODES:
        if works(mode):
            return mode
    raise UsageError("strangers' files cannot be run safely on this system; use Linux or macOS")


def describe(mode: Mode) -> str:
    """What the mode protects from, in words."""
    filtered = seccomp.available()
    if mode == "limits" and not filtered:
        return "limits only (memory, time, no writing; network, processes and reading are NOT shut off)"
    if mode == "limits":
        return "limits and a filter of system calls (no network, no processes, no writing; it can read)"
    return _WORDS[mode] + (" and a filter of system calls" if filtered else "")


class Sandbox:
    """One submission, started; ``ask`` it things. Use as a context manager: nothing is left behind."""

    def __init__(self, submission: Path, limits: Limits, mode: Mode) -> None:
        self.limits, self.mode = limits, mode
        self.tried: dict[str, str] = {}
        """What it tried and was refused: kind -> how."""
        self._started = time.monotonic()
        self._printed, self._tail, self._unread = 0, b"", b""
        self._files = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        scratch = self._files.enter_context(_scratch())
        inner_requests, self._requests = os.pipe()
        self._replies, inner_replies = os.pipe()
        self._noise, inner_noise = os.pipe()
        settings = {
            "memory": limits.memory_mib << 20,
            "scratch_bytes": limits.scratch_mib << 20,
            "seconds": int(limits.seconds) + 60,
            "submission": str(submission.resolve()),
            "requests": inner_requests,
            "replies": inner_replies,
        }
        try:
            self._process = subprocess.Popen(
                _command(mode, scratch, settings),
                stdin=subprocess.DEVNULL,
                stdout=inner_noise,
                stderr=inner_noise,
                pass_fds=(inner_requests, inner_replies),
                env=_environment(scratch),
                start_new_session=True,
            )
        finally:
            for descriptor in (inner_requests, inner_replies, inner_noise):
                os.close(descriptor)
        for descriptor in (self._requests, self._replies, self._noise):
            os.set_blocking(descriptor, False)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill whatever runs. May be called twice."""
        process, self._process = self._process, None
        if process is None:
            return
        # The whole group; in the other modes the kernel ends the process namespace with its first.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._wait_for_the_last()
        for descriptor in (self._requests, self._replies, self._noise):
            os.close(descriptor)
        self._files.close()

    def _wait_for_the_last(self) -> None:
        """Killed processes hold the pipes until the kernel has cleared them away."""
        deadline = time.monotonic() + 2.0
        while (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select([self._noise], [], [], left)
            if ready and not os.read(self._noise, 1 << 20):
                return

    @property
    def closed(self) -> bool:
        return self._process is None

    @property
    def seconds_left(self) -> float:
        return self.limits.seconds - (time.monotonic() - self._started)

    @property
    def printed(self) -> str:
        """The end of what it printed."""
        return self._tail.decode(errors="replace")

    def ask(self, do: str, seconds: float, **request: Any) -> dict[str, Any]:
        """Send one request and wait for its reply. Raises ``Ended`` if the submission is over."""
        deadline = time.monotonic() + min(seconds, max(self.seconds_left, 0.0))
        message = json.dumps({"do": do, **request}).encode() + b"\n"
        try:
            reply = self._exchange(message, deadline)
        except Ended:
            self.close()
            raise
        if reply.get("memory"):
            self.close()
            raise Ended(f"it used more memory than {self.limits.memory_mib} MiB")
        if reply.get("exit"):
            self.close()
            raise Ended(f"it ended itself ({reply['error']})")
        return reply

    def _exchange(self, message: bytes, deadline: float) -> dict[str, Any]:
        told = 0
        while True:
            line, end, rest = self._unread.partition(b"\n")
            if end:
                self._unread = rest
                reply = _reply(line)
                if "tried" not in reply:
                    return reply
                told += 1
                if told > _MOST_TOLD:
                    raise Ended("it floods the channel of its answers")
                if len(self.tried) < 10:
                    self.tried.setdefault(str(reply["tried"])[:20], str(reply.get("how"))[:300])
                continue
            message = self._move(message, deadline)

    def _move(self, message: bytes, deadline: float) -> bytes:
        """Write what can be written, read what can be read; the rest of the message."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise Ended(self._too_slow())
        with selectors.DefaultSelector() as selector:
            selector.register(self._replies, selectors.EVENT_READ)
            selector.register(self._noise, selectors.EVENT_READ)
            if message:
                selector.register(self._requests, selectors.EVENT_WRITE)
            ready = {key.fd for key, _ in selector.select(min(left, 1.0))}
        if self._noise in ready:
            self._listen()
        if self._requests in ready:
            try:
                message = message[os.write(self._requests, message[: 1 << 16]) :]
            except BrokenPipeError:
                message = b""
        if self._replies in ready:
            data = os.read(self._replies, 1 << 20)
            if not data:
                raise Ended(self._how_it_ended())
            self._unread += data
            if len(self._unread) > _LONGEST_REPLY:
                raise Ended("it floods the channel of its answers")
        return message

    def _listen(self) -> None:
        data = os.read(self._noise, 1 << 16)
        self._printed += len(data)
        self._tail = (self._tail + data)[-_TAIL:]
        if self._printed > self.limits.output_mib << 20:
            raise Ended(f"it printed more than {self.limits.output_mib} MiB")
        if not data:
            # It closed its output; do not wake up for that again.
            time.sleep(0.01)

    def _too_slow(self) -> str:
        if self.seconds_left <= 0:
            return f"it was not done after {self.limits.seconds:g} s"
        return "it did not answer in time"

    def _how_it_ended(self) -> str:
        assert self._process is not None
        try:
            code = self._process.wait(10)
        except subprocess.TimeoutExpired:
            return "it closed the channel of its answers"
        number = -code if code < 0 else code - 128
        if number > 0:
            try:
                name = signal.Signals(number).name
            except ValueError:
                return f"it ended its process (exit code {code})"
            return f"its process was killed by {name}"
        return f"it ended its process (exit code {code})"


def _reply(line: bytes) -> dict[str, Any]:
    try:
        reply = json.loads(line)
    except (ValueError, RecursionError):
        reply = None
    if not isinstance(reply, dict):
        raise Ended("it wrote something that is no answer into the channel of its answers")
    return reply


def _command(mode: Mode, scratch: str, settings: dict[str, Any]) -> list[str]:
    settings = {"mode": mode, "scratch": scratch, **settings}
    inner = [sys.executable, "-I", "-B", str(_JAIL), json.dumps(settings)]
    if mode != "bubblewrap":
        return inner
    outer = [_bwrap(), "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    outer += ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    if "--size" in _bwrap_help():
        outer += ["--size", str(settings["scratch_bytes"])]
    return [*outer, "--tmpfs", scratch, "--chdir", scratch, *inner]


def _bwrap() -> str:
    return shutil.which("bwrap") or "bwrap"


@functools.cache
def _bwrap_help() -> str:
    return subprocess.run([_bwrap(), "--help"], capture_output=True, text=True, timeout=20).stdout


def _environment(scratch: str) -> dict[str, str]:
    """Nothing of the user's: no tokens, no settings. One thread, no accelerator."""
    one = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": scratch,
        "TMPDIR": scratch,
        "LANG": "C.UTF-8",
        "CUDA_VISIBLE_DEVICES": "",
        "USER": "nobody",
        **dict.fromkeys(one, "1"),
    }


@contextlib.contextmanager
def _scratch() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="adderlab-verify-") as folder:
        yield folder
