"""Files and locks without what only Unix has: an interpreter that is made to look like Windows."""

import subprocess
import sys
from pathlib import Path

LIKE_WINDOWS = """
import asyncio, json, os, pathlib, socket, subprocess, sys, tempfile, types
for name in ("O_CLOEXEC", "register_at_fork", "pread", "pwrite", "fork"):
    delattr(os, name)
sys.modules["fcntl"] = sys.modules["resource"] = None
real_open, held = os.open, {}

def open_file(path, *args, **kwargs):
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    return real_open(path, *args, **kwargs)

def locking(descriptor, mode, length):
    assert mode == 2 and length == 1
    file, byte = os.fstat(descriptor).st_ino, os.lseek(descriptor, 0, os.SEEK_CUR)
    owner = held.setdefault((file, byte), descriptor)
    if owner != descriptor:
        raise PermissionError(13, "Permission denied")

real_close = os.close
def close(descriptor):
    for key in [key for key, owner in held.items() if owner == descriptor]:
        del held[key]
    real_close(descriptor)

os.open, os.close = open_file, close
sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_NBLCK=2)
sys.platform = "win32"

from adderlab.errors import Failure
from adderlab.files.atomic import RunLock, append_text, lock_owner, make_folder, read_json
from adderlab.files.atomic import write_json

folder = pathlib.Path(sys.argv[1]) / "run"
make_folder(folder)
write_json(folder / "a.json", {"a": 1})
assert read_json(folder / "a.json") == {"a": 1}
append_text(folder / "t.csv", "1,2\\n")
with open(folder / "t.csv", "a") as file:
    file.write("3,")
append_text(folder / "t.csv", "5,6\\n")
assert (folder / "t.csv").read_text() == "1,2\\n5,6\\n"
assert lock_owner(folder) is None
with RunLock(folder) as lock:
    lock.check()
    assert f"process {os.getpid()} on host" in lock_owner(folder)
    try:
        RunLock(folder)
    except Failure as error:
        assert "is in use by process" in str(error)
    else:
        raise AssertionError("two locks at once")
assert lock_owner(folder) is None
RunLock(folder).release()
print("fine")
"""


def test_files_are_written_and_folders_locked_where_there_is_no_fcntl(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIKE_WINDOWS, str(tmp_path)], capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("fine\n", "")
