"""Files that are either the old ones or the new ones, never between, and one writer per folder.

A file is written under another name in the same folder, flushed to the disk and renamed; then the
folder is flushed. A full disk, a lost permission or a kill leaves the previous file as it was.
Rows are appended by ``append_text``, which takes a failed append back. ``RunLock`` keeps a second
process out of a run folder.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import secrets
import socket
import stat
import sys
import time
import weakref
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from adderlab.errors import Failure

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_PRIVATE = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
"""Open files are not handed on to other programs (Unix), and newlines stay what they are (Windows)."""

_PREFIX, _SUFFIX = ".adderlab-", ".tmp"

_REASONS: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("the disk is full", "free some space and run again"),
    errno.EDQUOT: ("the disk quota is used up", "free some space and run again"),
    errno.EFBIG: ("it exceeds the file size limit", "raise the limit (ulimit -f) and run again"),
    errno.EACCES: ("permission denied", "choose a folder you may write to"),
    errno.EPERM: ("permission denied", "choose a folder you may write to"),
    errno.EROFS: ("the file system is read-only", "choose a folder you may write to"),
    errno.ENOTDIR: ("part of that path is a file, not a folder", "choose another folder"),
    errno.EISDIR: ("it is a folder", "name a file in it"),
    errno.EIO: ("the disk reports an input/output error", "check the disk, or use another one"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one"),
}


def disk_failure(error: OSError, path: Path | str, action: str) -> Failure:
    """The one line for an ``OSError`` met while doing ``action`` ("write", "read") to ``path``."""
    code = error.errno or 0
    if code == errno.ENOENT:
        parent = Path(path).parent
        gone = path if parent.is_dir() else f"the folder {parent}"
        reason, remedy = f"{gone} does not exist", "make it, or check the path"
    else:
        reason, remedy = _REASONS.get(code, (error.strerror or str(error), "choose another folder"))
    kept = "; the file that was there is unchanged" if "write" in action and _is_file(path) else ""
    return Failure(f"cannot {action} {path}: {reason}; {remedy}{kept}")


def write_bytes(path: Path | str, data: bytes) -> None:
    """Replace the file at ``path`` by ``data``, all or nothing.

    A symbolic link is followed; a device or pipe (``/dev/stdout``) is written to, not replaced.
    Raises ``Failure``.
    """
    target = Path(os.path.realpath(path))
    try:
        if _is_special(target):
            target.write_bytes(data)
            return
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder")
        temporary = target.with_name(f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}")
        try:
            _write_new(temporary, data)
            os.replace(temporary, target)
        finally:
            # After the rename there is nothing left to remove.
            temporary.unlink(missing_ok=True)
        sync_folder(target.parent)
    except OSError as error:
        raise disk_failure(error, path, "write") from error


def write_text(path: Path | str, text: str) -> None:
    """``write_bytes`` of UTF-8 text."""
    write_bytes(path, text.encode())


def write_json(path: Path | str, data: Any) -> None:
    """``write_text`` of JSON with a final newline; numbers that are not finite become null."""
    write_text(path, json.dumps(_finite(data), indent=2, allow_nan=False) + "\n")


def write_torch(path: Path | str, payload: Any) -> None:
    """``write_bytes`` of what ``torch.save`` makes of ``payload``; equal payloads, equal bytes."""
    import torch  # not above: commands that only write text start faster without it

    buffer = io.BytesIO()
    torch.save(payload, buffer)
    write_bytes(path, buffer.getvalue())


def append_text(path: Path | str, text: str) -> None:
    """Append whole lines. A line that a killed writer left unfinished is cut off first; an append
    that fails is taken back. Raises ``Failure``."""
    assert text.endswith("\n")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _PRIVATE, 0o666)
        try:
            end = _end_of_last_line(descriptor)
            os.ftruncate(descriptor, end)
            os.lseek(descriptor, end, os.SEEK_SET)
            try:
                _write_all(descriptor, text.encode())
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)
    except OSError as error:
        raise disk_failure(error, path, "append to") from error


def read_json(path: Path | str) -> dict[str, Any]:
    """The JSON table in a file. Raises ``Failure`` if it is missing, cut short or no table."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise disk_failure(error, path, "read") from error
    except UnicodeDecodeError as error:
        raise Failure(f"{path} is not text; it is damaged, restore it from a copy") from error
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        what = "is empty" if not text.strip() else f"is not JSON ({error})"
        raise Failure(f"{path} {what}; it is damaged, restore it from a copy") from error
    if not isinstance(data, dict):
        raise Failure(f"{path} holds no table of settings; it is damaged, restore it from a copy")
    return data


def make_folder(path: Path | str) -> None:
    """Make a folder and those above it; it may exist. Raises ``Failure``."""
    path = Path(path)
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            sync_folder(folder.parent)
    except FileExistsError as error:
        raise Failure(f"cannot make the folder {path}: a file has that name; choose another") from error
    except OSError as error:
        raise disk_failure(error, path, "make the folder") from error


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of writers that were killed. Only while holding the run's lock."""
    for path in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise disk_failure(error, path, "remove") from error


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, where the system can."""
    if sys.platform == "win32":
        return  # which opens no folders
    descriptor = os.open(folder, os.O_RDONLY | _PRIVATE)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _write_new(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _PRIVATE, 0o666)
    try:
        _write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _end_of_last_line(descriptor: int) -> int:
    """Bytes up to and including the last newline."""
    end, block = os.lseek(descriptor, 0, os.SEEK_END), 65536
    while end > 0:
        start = max(0, end - block)
        os.lseek(descriptor, start, os.SEEK_SET)
        newline = os.read(descriptor, end - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _is_file(path: Path | str) -> bool:
    try:
        return Path(path).is_file()
    except OSError:
        return False


def _is_special(path: Path) -> bool:
    """An existing path that is neither a regular file nor a folder."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _finite(data: Any) -> Any:
    if isinstance(data, float) and not math.isfinite(data):
        return None
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return data


# One writer per run folder.
#
# The lock is the kernel's (``flock`` on the file ``.lock``, on Windows ``msvcrt.locking``): it ends with
# the process that holds it, however that process ends, so a dead owner holds nothing. The file's text
# only says who holds it.


LOCK_NAME = ".lock"
_LOCKED_BYTE = 1 << 30
"""Windows keeps others from reading what is locked: a byte far behind the owner's name."""

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
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _PRIVATE, 0o666)
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
            os.lseek(descriptor, 0, os.SEEK_SET)
            _write_all(descriptor, (json.dumps(owner) + "\n").encode())
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
                _lock(descriptor)
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
            "wait for it, stop it, or choose another folder"
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
                "made anew; choose another folder"
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
        descriptor = os.open(Path(folder) / LOCK_NAME, os.O_RDONLY | _PRIVATE)
    except OSError:
        return None
    try:
        _lock(descriptor, shared=True)
    except BlockingIOError:
        return _owner_text(descriptor)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None


def _lock(descriptor: int, *, shared: bool = False) -> None:
    """Lock an open file until it is closed. Raises ``BlockingIOError`` if another holds it."""
    if sys.platform == "win32":
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(errno.EWOULDBLOCK, "it is locked") from error
        return
    fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def _owner_text(descriptor: int) -> str:
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        owner = json.loads(os.read(descriptor, 4096))
        return f"process {owner['pid']} on host {owner['host']} since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _drop_in_child() -> None:
    """A forked worker must not keep the lock alive after its parent is killed."""
    for lock in list(_held):
        lock.release()


if sys.platform != "win32":  # where nothing forks
    os.register_at_fork(after_in_child=_drop_in_child)
