"""One writer per folder; a dead owner holds nothing."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adderlab.errors import Failure
from adderlab.files.atomic import LOCK_NAME, RunLock, lock_owner

HOLDER = """
import os, sys, time
from adderlab.files.atomic import RunLock
lock = RunLock(sys.argv[1])
if sys.argv[2] == "fork":
    child = os.fork()
    if child:
        print(child, flush=True)
else:
    print("locked", flush=True)
time.sleep(60)
"""


def holder(folder: Path, kind: str = "plain") -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), kind], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    process, _ = holder(tmp_path)
    try:
        with pytest.raises(Failure) as error:
            RunLock(tmp_path)
        text = str(error.value)
        assert f"process {process.pid} on host {socket.gethostname()}" in text
        assert str(tmp_path) in text and "another folder" in text and "\n" not in text
        assert str(process.pid) in (lock_owner(tmp_path) or "")
    finally:
        end(process)
    assert lock_owner(tmp_path) is None
    with RunLock(tmp_path):
        assert f"process {os.getpid()} " in (lock_owner(tmp_path) or "")
    assert lock_owner(tmp_path) is None


def test_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    process, child = holder(tmp_path, "fork")
    try:
        assert int(child) > 0
        with pytest.raises(Failure):
            RunLock(tmp_path)
        end(process)
        os.kill(int(child), 0)
        RunLock(tmp_path).release()
    finally:
        os.kill(int(child), signal.SIGKILL)


def test_second_lock_in_the_same_process_is_refused(tmp_path: Path) -> None:
    with RunLock(tmp_path) as lock:
        with pytest.raises(Failure, match="in use by process"):
            RunLock(tmp_path)
        lock.release()
        RunLock(tmp_path).release()
        lock.release()


def test_forgotten_lock_is_given_back(tmp_path: Path) -> None:
    RunLock(tmp_path)
    RunLock(tmp_path).release()


def test_looking_for_an_owner_blocks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that only looks holds a shared lock for an instant, during which a writer waits."""
    descriptor = os.open(tmp_path / LOCK_NAME, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    waits: list[float] = []

    def let_go_while_the_writer_waits(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            os.close(descriptor)

    monkeypatch.setattr(time, "sleep", let_go_while_the_writer_waits)
    RunLock(tmp_path).release()
    assert len(waits) == 2


def test_folder_without_lock(tmp_path: Path) -> None:
    assert lock_owner(tmp_path) is None
    assert lock_owner(tmp_path / "gone") is None
    assert list(tmp_path.iterdir()) == []


def test_unreadable_owner(tmp_path: Path) -> None:
    with RunLock(tmp_path):
        (tmp_path / LOCK_NAME).write_text("garbage")
        assert lock_owner(tmp_path) == "another process"


def test_folder_gone(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="does not exist"):
        RunLock(tmp_path / "gone")
    (tmp_path / "file").write_text("")
    with pytest.raises(Failure, match="is a file, not a folder"):
        RunLock(tmp_path / "file")


def test_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(Failure, match="has no locks"):
        RunLock(tmp_path)
    assert lock_owner(tmp_path) is None
