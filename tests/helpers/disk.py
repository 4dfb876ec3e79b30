"""Disks that refuse, for tests: a full one, a read-only one, and calls that fail on demand."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def tmpfs(folder: Path, kib: int) -> Iterator[Path]:
    """A file system of ``kib`` KiB mounted at ``folder``; skips the test where mounting is barred."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no mount command here: {error}")
    if done.returncode != 0:
        pytest.skip(f"a small tmpfs cannot be mounted here: {done.stderr.splitlines()[0]}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """``folder``, a tmpfs, may not be written to meanwhile."""
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)


def fill(disk: Path) -> None:
    """Leave no room on a small disk."""
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass


class FailingCalls:
    """Makes the n-th call of the functions of ``os`` that change a disk fail with an error code."""

    names = ("open", "write", "fsync", "replace", "ftruncate")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        self.code = 0
        for name in self.names:
            monkeypatch.setattr(os, name, self._wrap(getattr(os, name)))

    def _wrap(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if self.left is not None:
                self.left -= 1
                if self.left < 0:
                    self.left = None
                    raise OSError(self.code, os.strerror(self.code))
            return call(*arguments, **options)

        return wrapped

    def fail_after(self, calls: int, code: int) -> None:
        """Let ``calls`` calls pass, fail the next one, then pass again."""
        self.left, self.code = calls, code

    def off(self) -> bool:
        """Stop failing; whether the failure was still to come."""
        pending, self.left = self.left is not None, None
        return pending
