"""The wall around a stranger's file: what bubblewrap shows it, and as whom it runs.

Shown are the system's libraries, this Python and its packages, the worker's programs and the file, all
of it read-only, and a small scratch folder in memory. There is no network, no other process, no device
beyond ``/dev/null`` and its like, no program to start, and nothing of any user.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

INSIDE = Path(__file__).parent / "inside"
"""The programs that run beside the file."""
_LIBRARIES = (
    *("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib"),
    *("/etc/ld.so.cache", "/etc/alternatives"),
)
"""All that is shown of the system: no /usr/bin, so nothing to start; no /etc and no /home."""
_JAIL = "/jail"
_NOBODY = 65534


@functools.cache
def trouble() -> str | None:
    """What is wrong with bubblewrap here; None if it works. Tried with everything a submission gets."""
    if sys.platform != "linux" or shutil.which("bwrap") is None:
        return "bubblewrap is not installed"
    command = [*wall(INSIDE / "worker.py", 1 << 20), *python("pass")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, env=environment("/"))
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap does not work here ({error})"
    if done.returncode == 0:
        return None
    last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
    return f"bubblewrap does not work here ({last})"


def python(program: str, *arguments: str) -> list[str]:
    """This Python without the user's settings and packages; the worker sets its import path itself.

    By its real path: a virtual environment's link would need the environment's folder inside.
    """
    return [os.path.realpath(sys.executable), "-I", "-S", "-B", "-c", program, *arguments]


def packages() -> list[str]:
    """Where packages are imported from. A checkout on the import path is left out: no stranger shall
    read it, and the worker needs nothing of it."""
    names = ("site-packages", "dist-packages")
    return [path for path in sys.path if Path(path).name in names and os.path.isdir(path)]


def environment(scratch: str) -> dict[str, str]:
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


def wall(submission: Path, scratch_bytes: int) -> list[str]:
    """The start of a command; what follows it (``python(...)``) runs behind the wall.

    The file is at ``/submission`` there, the worker's programs at ``/inside``, and ``/scratch`` can be
    written. Root is a special case. Bubblewrap would map it to the root of a user namespace, and the
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
    inner = f"{root}/submission/{submission.name}"
    command += ["--ro-bind", str(INSIDE), f"{root}/inside"]
    command += [*_folders_above(inner), "--ro-bind", str(submission), inner]
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
