"""One writer per run folder.

The lock is the kernel's (``flock`` on the file ``.lock``): it ends with the process that holds it,
however that process ends, so a dead owner holds nothing. The file's text only says who holds it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
import weakref
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from adderlab.errors import Failure
from adderlab.files.atomic import disk_failure

LOCK_NAME = ".lock"

_held: weakref.WeakSet[RunLock] = weakref.WeakSet()


class RunLock:
    """The right to write in a run folder. Taken at construction; given back by ``release``.

    Raises ``Failure`` naming the owner if another process (or another lock in this one) holds it.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._descriptor: int | None = None
        path = self.folder / LOCK_NAME
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise disk_failure(error, path, "write") from error
        try:
            self._take(descriptor)
            owner = {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "since": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, (json.dumps(owner) + "\n").encode(), 0)
        except OSError as error:
            os.close(descriptor)
            raise disk_failure(error, path, "lock") from error
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        _held.add(self)

    def _take(self, descriptor: int) -> None:
        # ``lock_owner`` holds a lock for an instant when it looks: give it time to let go.
        for wait in (0.02, 0.05, 0.1, 0.0):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(wait)
            except OSError as error:
                if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
                    raise Failure(
                        f"the file system of {self.folder} has no locks, so two runs could overwrite "
                        "each other; choose a folder on another disk"
                    ) from error
                raise
        raise Failure(
            f"run folder {self.folder} is in use by {_owner_text(descriptor)}; "
            "wait for it, stop it, or choose another --run-name"
        )

    def check(self) -> None:
        """Raises ``Failure`` if the folder is no longer the one that was locked: deleted, moved, or
        made anew by another process, whose run must not be written over."""
        assert self._descriptor is not None
        path = self.folder / LOCK_NAME
        try:
            same = os.path.samestat(os.fstat(self._descriptor), path.stat())
        except OSError as error:
            raise disk_failure(error, path, "go on writing beside") from error
        if not same:
            raise Failure(
                f"run folder {self.folder} is no longer the one this run began in: it was deleted and "
                "made anew; choose another --run-name"
            )

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __del__(self) -> None:
        # A lock whose owner object is gone must not outlive it in a long session.
        if getattr(self, "_descriptor", None) is not None:
            self.release()


def lock_owner(folder: Path | str) -> str | None:
    """Who is writing in a run folder now ("process 12 on host h since ..."), or None."""
    try:
        descriptor = os.open(Path(folder) / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _owner_text(descriptor)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None


def _owner_text(descriptor: int) -> str:
    try:
        owner = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {owner['pid']} on host {owner['host']} since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _drop_in_child() -> None:
    """A forked worker must not keep the lock alive after its parent is killed."""
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_drop_in_child)
