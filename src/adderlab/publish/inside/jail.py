"""Shuts this process in, then runs the worker: ``python -I -B jail.py SETTINGS``.

SETTINGS is a JSON object: ``mode``, ``scratch`` (a folder of its own), ``memory`` and ``scratch_bytes``
(bytes), ``seconds`` (of computing), ``submission``, ``requests`` and ``replies`` (descriptors), or
``attempt`` (true: only find out whether the mode works here; exit 0 if so).

Modes, the strongest first:

bubblewrap   started by ``bwrap``, which has already made the namespaces.
namespaces   makes them itself: no network, only its own processes, every file read-only, no devices,
             one small scratch folder in memory.
limits       nothing but the limits of the operating system, and on Linux the filter of system calls.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

_NEW_USER, _NEW_OTHERS = 0x10000000, 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x60000000
"""Namespaces: users; mounts, control groups, host name, IPC, processes and network."""
_DIE_WITH_PARENT, _DROP_BOUND, _AMBIENT = 1, 24, 47
_MS_NOSUID_NODEV_NOEXEC, _MS_PRIVATE_ALL, _MS_BIND, _MS_MOVE = 2 | 4 | 8, 0x4000 | 0x40000, 4096, 8192
_MOUNT_SETATTR, _RECURSIVE, _HERE = 442, 0x8000, -100
_READ_ONLY_NOSUID, _NODEV = 1 | 2, 4
_DEVICES = ("null", "zero", "random", "urandom")
_MORE_ADDRESSES = 16 << 30
"""Bytes of address space beyond the memory limit: libraries are mapped, not held in memory."""


def main() -> NoReturn:
    settings = json.loads(sys.argv[1])
    mode = settings["mode"]
    if mode == "namespaces":
        _enter_namespaces(settings)
    elif mode == "limits" and sys.platform == "linux":
        _die_with_parent()
        _drop_privileges()
    if settings.get("attempt"):
        os._exit(0)
    os.chdir(settings["scratch"])
    _set_limits(settings, files=mode != "limits")
    seccomp = _inside("seccomp")
    worker = _inside("worker")
    if seccomp.available():
        seccomp.install(files=mode == "limits")
    worker.serve(settings["submission"], settings["scratch"], settings["requests"], settings["replies"])
    os._exit(0)


def _inside(name: str) -> ModuleType:
    """A neighbour, imported by a name that is not on the submission's import path."""
    package = sys.modules.setdefault("adderlab_inside", ModuleType("adderlab_inside"))
    package.__path__ = [str(Path(__file__).parent)]
    return importlib.import_module(f"adderlab_inside.{name}")


def _set_limits(settings: dict[str, Any], *, files: bool) -> None:
    """``files``: whether any may be written; where they may, they lie in memory."""
    memory, seconds = settings["memory"], settings["seconds"]
    _limit("RLIMIT_DATA", memory)
    _limit("RLIMIT_AS", memory + _MORE_ADDRESSES)
    _limit("RLIMIT_CPU", seconds)
    _limit("RLIMIT_FSIZE", settings["scratch_bytes"] if files else 0)
    _limit("RLIMIT_NOFILE", 256)
    _limit("RLIMIT_CORE", 0)
    # Writing beyond the limit is an error to the program, not its death.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def _limit(name: str, value: int) -> None:
    kind = getattr(resource, name, None)
    if kind is None:
        return
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    # macOS knows some of these limits and refuses to set them.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (value, value))


def _enter_namespaces(settings: dict[str, Any]) -> None:
    """Returns in the process that shall run the worker; those above it only wait for it."""
    user, group = os.getuid(), os.getgid()
    _die_with_parent()
    _checked("unshare", _libc().unshare(_NEW_USER | _NEW_OTHERS))
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    _wait_for_child()  # the first process of the new process namespace is the child
    _die_with_parent()
    _close_files(settings)
    _wait_for_child()  # that first process ignores signals and so only waits for the next
    _die_with_parent()
    _drop_privileges()


def _wait_for_child() -> None:
    """Fork: the child returns, the parent passes its end on."""
    child = os.fork()
    if child == 0:
        return
    _, status = os.waitpid(child, 0)
    os._exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))


def _close_files(settings: dict[str, Any]) -> None:
    """Everything read-only and without devices; the scratch folder in memory, of limited size."""
    scratch = settings["scratch"]
    _mount(None, "/", None, _MS_PRIVATE_ALL)
    # A /dev of four harmless devices, made in the scratch folder and moved to its place.
    _mount("tmpfs", scratch, "tmpfs", _MS_NOSUID_NODEV_NOEXEC, "size=64k,mode=755")
    for name in _DEVICES:
        Path(scratch, name).touch()
        _mount(f"/dev/{name}", f"{scratch}/{name}", None, _MS_BIND)
    _mount(scratch, "/dev", None, _MS_MOVE)
    _set_attributes("/", _READ_ONLY_NOSUID | _NODEV, 0)
    for name in _DEVICES:
        _set_attributes(f"/dev/{name}", 0, _NODEV)
    size = f"size={settings['scratch_bytes']},mode=700"
    _mount("tmpfs", scratch, "tmpfs", _MS_NOSUID_NODEV_NOEXEC, size)
    # Only its own processes to be seen. Some containers forbid it; then they are seen, not touched.
    with contextlib.suppress(OSError):
        _mount("proc", "/proc", "proc", _MS_NOSUID_NODEV_NOEXEC)


def _mount(
    source: str | None, target: str, kind: str | None, flags: int, options: str | None = None
) -> None:
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    done = _libc().mount(texts[0], texts[1], texts[2], flags, texts[3])
    _checked(f"mounting {target}", done)


def _set_attributes(path: str, on: int, off: int) -> None:
    """Of a mount and all below it."""
    attributes = (ctypes.c_uint64 * 4)(on, off, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    done = _libc().syscall(
        _MOUNT_SETATTR, _HERE, os.fsencode(path), _RECURSIVE, ctypes.byref(attributes), size
    )
    _checked("mount_setattr", done)


def _drop_privileges() -> None:
    """The rights over the new namespaces, which would allow mounting again."""
    libc = _libc()
    capability = 0
    while libc.prctl(_DROP_BOUND, capability, 0, 0, 0) == 0:
        capability += 1
    clear_all = 4
    libc.prctl(_AMBIENT, clear_all, 0, 0, 0)
    head, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    _checked("capset", libc.capset(ctypes.byref(head), ctypes.byref(none)))


def _die_with_parent() -> None:
    if sys.platform == "linux":
        _libc().prctl(_DIE_WITH_PARENT, int(signal.SIGKILL), 0, 0, 0)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(name: str, result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{name} was refused")


if __name__ == "__main__":
    main()
