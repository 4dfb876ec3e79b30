"""A stranger's submission in a process of its own.

The file is never trusted: not its metadata, not the form of its answers, not the size of what it says.
The child gets pairs and sends answers; it never learns the sums. There are two modes:

bubblewrap   the wall: no network, no files but the libraries Python needs, no other process in sight
limits       the operating system's limits on memory, time and output, and no wall at all

In both, ``inside/worker.py`` sets the limits before it runs any of the stranger's code, and an audit
hook reports what the code tries. The hook is evidence for the verdict, not protection: code can avoid
it (by calling libc through ctypes), but it cannot get past bubblewrap.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from adderlab.errors import UsageError

Mode = Literal["bubblewrap", "limits"]
Program = Literal["worker", "reader"]
Names = tuple[str, str]
"""Of the function that builds the model, and of the one that adds."""
_LONGEST_REPLY = 8 << 20
_MOST_NOTICES = 20
_TAIL = 2000

_BOOTSTRAP = """
import importlib, sys, types
package = types.ModuleType("adderlab_inside")
package.__path__ = [sys.argv[1]]
sys.modules["adderlab_inside"] = package
importlib.import_module(f"adderlab_inside.{sys.argv[2]}").main(sys.argv[3])
"""
"""The worker is imported under a name of its own, and its folder never comes onto the import path of
the submission, which could otherwise import it by accident or the worker a file of the stranger's."""

_DESCRIPTIONS = {
    "bubblewrap": "bubblewrap (no network, no other processes, no files but Python's libraries)",
    "limits": "limits only (memory, time, output; network, files and processes are NOT protected)",
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much a submission may use."""

    seconds: float = 1800.0
    """For the whole check."""
    load_seconds: float = 120.0
    """Until the model is built."""
    answer_seconds: float = 30.0
    """For one answer."""
    memory_mib: int = 4096
    """Address space beyond what Python and PyTorch take to start."""
    scratch_mib: int = 64
    """Files that it may write, in memory (bubblewrap only; with ``limits`` it may write nothing)."""
    output_mib: int = 16
    """What it may print."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise UsageError(f"a limit must be above 0, but {name.replace('_', ' ')} is {value}")


class Ended(Exception):
    """The submission is over: it broke a limit, crashed or left. One sentence."""


def require(mode: Mode) -> None:
    """Raises ``UsageError``, with the remedy, if the mode cannot be had on this machine."""
    if sys.platform == "win32":
        raise UsageError(
            "strangers' files are run only where the system can confine them, which Windows cannot; use "
            "WSL (wsl --install), and adderlab in it"
        )
    trouble = bubblewrap_trouble() if mode == "bubblewrap" else None
    if trouble is not None:
        raise UsageError(
            f"{trouble}; a stranger's file is run only inside it: apt-get install bubblewrap (0.8 or "
            "newer), or use a container or virtual machine of your own and add sandbox=limits"
        )


def describe(mode: Mode) -> str:
    """What the mode protects from, in one line."""
    return _DESCRIPTIONS[mode]


class Sandbox:
    """One submission, started; ``ask`` it things. Use as a context manager: nothing is left behind."""

    def __init__(
        self,
        submission: Path,
        limits: Limits,
        mode: Mode,
        program: Program = "worker",
        names: Names = ("build_model", "add"),
    ) -> None:
        """``program``: what runs beside the file, one of ``inside``."""
        self.limits = limits
        self.tried: dict[str, str] = {}
        """What the audit hook saw it try: kind -> how."""
        self.started = time.monotonic()
        """From which on ``limits.seconds`` count."""
        self._printed, self._tail, self._unread = 0, b"", b""
        self._files = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None
        walled = mode == "bubblewrap"
        folder = Path(self._files.enter_context(tempfile.TemporaryDirectory(prefix="adderlab-verify-")))
        shown = folder / "submission"
        self.alone = copy_with_its_folder(submission, shown)
        """Why it sees nothing of what lies beside it; None if it sees that."""
        (folder / "scratch").mkdir()
        scratch = "/scratch" if walled else str(folder / "scratch")
        inner_requests, self._requests = os.pipe()
        self._replies, inner_replies = os.pipe()
        self._noise, inner_noise = os.pipe()
        settings = {
            "submission": str(Path("/submission" if walled else shown, submission.name)),
            "model": names[0],
            "add": names[1],
            "scratch": scratch,
            "packages": packages(),
            "memory": limits.memory_mib << 20,
            "file_bytes": limits.scratch_mib << 20 if walled else 0,
            "seconds": int(limits.seconds) + 60,
            "requests": inner_requests,
            "replies": inner_replies,
        }
        reads = program == "reader"
        if reads:
            settings["adderlab"] = _READING if walled else str(PACKAGE.parent)
        wall = wall_around(shown, limits.scratch_mib << 20, reads=reads) if walled else []
        inside = "/inside" if walled else str(INSIDE)
        try:
            self._process = subprocess.Popen(
                [*wall, *python_command(_BOOTSTRAP, inside, program, json.dumps(settings))],
                stdin=subprocess.DEVNULL,
                stdout=inner_noise,
                stderr=inner_noise,
                pass_fds=(inner_requests, inner_replies),
                env=child_environment(scratch),
                cwd=None if walled else scratch,
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
        # With bubblewrap this ends its first process, and the kernel then ends all that it holds.
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
    def pid(self) -> int | None:
        """Of the process that was started: bubblewrap's, or the file's own. None once it is closed."""
        return None if self._process is None else self._process.pid

    @property
    def seconds_left(self) -> float:
        return self.limits.seconds - (time.monotonic() - self.started)

    @property
    def printed(self) -> str:
        """The end of what it printed."""
        return self._tail.decode(errors="replace")

    def ask(self, do: str, seconds: float, **request: Any) -> dict[str, Any]:
        """Send one request and wait for its reply. Raises ``Ended`` if the submission is over."""
        if self.closed:
            raise Ended("it is over")
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
            raise Ended(f"it ended itself ({str(reply.get('error'))[:300]})")
        return reply

    def _exchange(self, message: bytes, deadline: float) -> dict[str, Any]:
        notices = 0
        while True:
            line, end, rest = self._unread.partition(b"\n")
            if end:
                self._unread = rest
                reply = _reply(line)
                if "tried" not in reply:
                    return reply
                notices += 1
                if notices > _MOST_NOTICES:
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
        # NaN and the infinities, which strict JSON does not know, become texts.
        reply = json.loads(line, parse_constant=str)
    except (ValueError, RecursionError):
        reply = None
    if not isinstance(reply, dict):
        raise Ended("it wrote something that is no answer into the channel of its answers")
    return reply


# What lies beside a stranger's file, and is his as well: weights, a module or two.


_HIDDEN = ("__pycache__", "node_modules")
_MOST_BYTES, _MOST_FILES = 256 << 20, 5000


def copy_with_its_folder(submission: Path, target: Path) -> str | None:
    """Copy the file and what lies beside and below it to a new folder.

    A copy, because a file may be readable to its owner alone, and root's children run as nobody. Hidden
    files are left out, and links that lead elsewhere. Where the folder is not the submission's own (a
    home, or too large), the file is copied alone: returns why, else None.
    """
    folder = submission.absolute().parent
    alone, files = None, []
    if Path.home().resolve().is_relative_to(folder.resolve()) or folder == Path(tempfile.gettempdir()):
        alone = f"it lies in {folder}"
    else:
        files = list(itertools.islice(_files_below(folder), _MOST_FILES + 1))
        if len(files) > _MOST_FILES or sum(size for _, size in files) > _MOST_BYTES:
            alone = f"{folder} holds more than {_MOST_FILES:,} files or {_MOST_BYTES >> 20} MiB"
    target.mkdir()
    target.chmod(0o755)
    for path, _ in files if alone is None else []:
        copy = target / path.relative_to(folder)
        for above in reversed(copy.relative_to(target).parents[:-1]):
            (target / above).mkdir(exist_ok=True)
            (target / above).chmod(0o755)
        # What cannot be read is not shown.
        with contextlib.suppress(OSError):
            shutil.copyfile(path, copy)
            copy.chmod(0o644)
    copy = target / submission.name
    shutil.copyfile(submission, copy)
    copy.chmod(0o644)
    return alone


def _files_below(folder: Path) -> Iterator[tuple[Path, int]]:
    """(file, bytes) of every file of a folder that is shown."""
    home = folder.resolve()
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != "." and name not in _HIDDEN)
        for name in sorted(names):
            path = Path(place, name)
            with contextlib.suppress(OSError):
                if name[0] != "." and path.is_file() and path.resolve().is_relative_to(home):
                    yield path, path.stat().st_size


# The wall around a stranger's file: what bubblewrap shows it, and as whom it runs.
#
# Shown are the system's libraries, this Python and its packages, the worker's programs and a copy of
# the file's folder, all of it read-only, and a small scratch folder in memory. There is no network, no
# other process, no device beyond ``/dev/null`` and its like, no program to start, and nothing else of
# any user.


INSIDE = Path(__file__).parent / "inside"
"""The programs that run beside the file."""
_LIBRARIES = (
    *("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib"),
    *("/etc/ld.so.cache", "/etc/alternatives"),
)
"""All that is shown of the system: no /usr/bin, so nothing to start; no /etc and no /home."""
_JAIL = "/jail"
PACKAGE = Path(__file__).parents[1]
"""This package, which the reader alone sees, in the folder ``_READING``."""
_READING = "/reading"
_NOBODY = 65534


@functools.cache
def bubblewrap_trouble() -> str | None:
    """What is wrong with bubblewrap here; None if it works. Tried with everything a submission gets."""
    if sys.platform != "linux" or shutil.which("bwrap") is None:
        return "bubblewrap is not installed"
    command = [*wall_around(INSIDE, 1 << 20), *python_command("pass")]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=20, env=child_environment("/")
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap does not work here ({error})"
    if done.returncode == 0:
        return None
    last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
    return f"bubblewrap does not work here ({last})"


def python_command(program: str, *arguments: str) -> list[str]:
    """This Python without the user's settings and packages; the worker sets its import path itself.

    By its real path: a virtual environment's link would need the environment's folder inside.
    """
    return [os.path.realpath(sys.executable), "-I", "-S", "-B", "-c", program, *arguments]


def packages() -> list[str]:
    """Where packages are imported from. A checkout on the import path is left out: no stranger shall
    read it, and the worker needs nothing of it."""
    names = ("site-packages", "dist-packages")
    return [path for path in sys.path if Path(path).name in names and os.path.isdir(path)]


def child_environment(scratch: str) -> dict[str, str]:
    """Nothing of the user's: no tokens, no settings. One thread, no accelerator."""
    one = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": scratch,
        "TMPDIR": scratch,
        "LANG": "C.UTF-8",
        "CUDA_VISIBLE_DEVICES": "",
        "MLX_DISABLE_COMPILE": "1",  # its compiler on a CPU starts the system's
        "USER": "nobody",
        **dict.fromkeys(one, "1"),
    }


def wall_around(folder: Path, scratch_bytes: int, *, reads: bool = False) -> list[str]:
    """The start of a command; what follows it (``python_command(...)``) runs behind the wall.

    The folder is ``/submission`` there, the worker's programs are in ``/inside``, and ``/scratch`` can
    be written. Root is a special case. Bubblewrap would map it to the root of a user namespace, and the
    kernel exempts root from the limit on processes. So no user namespace is made for root: the view is
    built below a folder, and ``chroot`` goes there as nobody. From a changed root the kernel makes no
    user namespace either; for other users ``--disable-userns`` sees to that. Without it a file could
    mount memory that no limit counts, and reach much more of the kernel.
    """
    as_root = os.geteuid() == 0
    root = _JAIL if as_root else ""
    command = [shutil.which("bwrap") or "bwrap", "--die-with-parent", "--new-session"]
    if as_root:
        command += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
        command += ["--unshare-cgroup-try", "--cap-drop", "ALL"]
        for capability in ("CAP_SYS_CHROOT", "CAP_SETUID", "CAP_SETGID"):
            command += ["--cap-add", capability]
        command += _shown(_LIBRARIES, "")
    else:
        command += ["--unshare-all", "--unshare-user", "--disable-userns", "--cap-drop", "ALL"]
    command += _shown([*_LIBRARIES, *_python_files(), *packages()], root)
    command += ["--ro-bind", str(INSIDE), f"{root}/inside"]
    if reads:
        shown = f"{root}{_READING}/{PACKAGE.name}"
        command += [*_folders_above(shown), "--ro-bind", str(PACKAGE), shown]
    command += ["--ro-bind", str(folder), f"{root}/submission"]
    command += ["--dev", f"{root}/dev", "--proc", f"{root}/proc"]
    command += ["--perms", "0777", "--size", str(scratch_bytes), "--tmpfs", f"{root}/scratch"]
    enter = []
    if as_root:
        chroot = shutil.which("chroot", path="/usr/sbin:/usr/bin:/sbin:/bin") or "chroot"
        command += _shown([chroot], "")
        enter = [chroot, f"--userspec={_NOBODY}:{_NOBODY}", "--groups=", root]
    # The folders that bubblewrap made are in memory, and nothing limits how much: read-only, at the end.
    return [*command, "--remount-ro", f"{root}/dev", "--remount-ro", "/", *enter]


def _python_files() -> list[str]:
    """The standard library, what libraries lie beside it, and the interpreter itself."""
    folders = [os.path.join(sys.base_prefix, name) for name in ("lib", sys.platlibdir)]
    return [*folders, os.path.realpath(sys.executable)]


def _shown(paths: Iterable[str], root: str) -> list[str]:
    """Arguments that show the paths that there are, read-only, each once; ``/lib`` stays a link."""
    arguments: list[str] = []
    shown: list[Path] = []
    for path in map(Path, paths):
        if not path.exists() or any(path.is_relative_to(other) for other in shown):
            continue
        shown.append(path)
        arguments += _folders_above(f"{root}{path}")
        if path.is_symlink() and path.parent == Path("/"):
            arguments += ["--symlink", os.readlink(path), f"{root}{path}"]
        else:
            arguments += ["--ro-bind", str(path), f"{root}{path}"]
    return arguments


def _folders_above(path: str) -> list[str]:
    """Bubblewrap makes missing folders itself, but readable by root alone where root starts it."""
    above = [str(folder) for folder in reversed(Path(path).parents) if folder != Path("/")]
    return [part for folder in above for part in ("--perms", "0755", "--dir", folder)]
