"""Files are old or new, never between; every refusal of the disk is one clear line."""

import errno
import json
import math
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from adderlab.errors import Failure
from adderlab.files import atomic
from helpers.disk import FailingCalls, read_only, tmpfs


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def one_line(error: pytest.ExceptionInfo[Failure], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for word in words:
        assert word in text, text


def test_writes_what_it_is_given(tmp_path: Path) -> None:
    atomic.write_bytes(tmp_path / "a", b"\x00\xff")
    atomic.write_text(tmp_path / "b", "ä\n")
    atomic.write_text(str(tmp_path / "b"), "ö\n")
    assert files(tmp_path) == {"a": b"\x00\xff", "b": "ö\n".encode()}


def test_json_is_strict_and_finite(tmp_path: Path) -> None:
    atomic.write_json(tmp_path / "a.json", {"x": math.nan, "y": [1.5, (math.inf, 2)]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": None, "y": [1.5, [None, 2]]}
    assert atomic.read_json(tmp_path / "a.json") == {"x": None, "y": [1.5, [None, 2]]}


def test_equal_torch_payloads_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.pt", "some_other_name.pt"):
        atomic.write_torch(tmp_path / name, {"w": torch.arange(6.0), "step": 3})
    first, second = files(tmp_path).values()
    assert first == second
    assert torch.load(tmp_path / "a.pt", weights_only=True)["step"] == 3


def test_file_mode_is_the_usual_one(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    atomic.write_text(tmp_path / "ours", "")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    atomic.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    atomic.write_text(pipe, "hello")
    assert os.read(reader, 10) == b"hello"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_every_failing_call_leaves_old_or_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    target = tmp_path / "summary.json"
    calls = FailingCalls(monkeypatch)
    failures = 0
    for count in range(100):
        target.write_bytes(b"old")
        calls.fail_after(count, code)
        try:
            atomic.write_bytes(target, b"new")
        except Failure as error:
            failures += 1
            assert str(target) in str(error)
            assert "\n" not in str(error)
            calls.off()
            assert files(tmp_path) in ({"summary.json": b"old"}, {"summary.json": b"new"})
            continue
        assert calls.off(), "the failure was swallowed"
        assert files(tmp_path) == {"summary.json": b"new"}
        break
    assert failures == 6  # open, write, fsync, rename, open the folder, fsync it


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_failed_append_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    target = tmp_path / "metrics.csv"
    calls = FailingCalls(monkeypatch)
    for count in range(100):
        target.write_bytes(b"a,b\n1,2\n")
        calls.fail_after(count, code)
        try:
            atomic.append_text(target, "3,4\n")
        except Failure:
            calls.off()
            assert files(tmp_path) == {"metrics.csv": b"a,b\n1,2\n"}
            continue
        assert calls.off()
        assert files(tmp_path) == {"metrics.csv": b"a,b\n1,2\n3,4\n"}
        break
    assert count == 4  # open, ftruncate, write, fsync


def test_append_cuts_off_an_unfinished_line(tmp_path: Path) -> None:
    target = tmp_path / "metrics.csv"
    target.write_text("a,b\n1,2\n3,")
    atomic.append_text(target, "5,6\n")
    assert target.read_text() == "a,b\n1,2\n5,6\n"
    target.write_text("half a header" * 20_000)
    atomic.append_text(target, "5,6\n")
    assert target.read_text() == "5,6\n"
    target.write_text("a,b\n" + "x" * 200_000)
    atomic.append_text(target, "5,6\n")
    assert target.read_text() == "a,b\n5,6\n"


def test_full_disk(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small", kib=64) as disk:
        atomic.write_bytes(disk / "best.pt", b"a" * 8192)
        atomic.append_text(disk / "metrics.csv", "step\n" * 100)
        before = files(disk)
        with pytest.raises(Failure) as error:
            atomic.write_bytes(disk / "best.pt", b"b" * 100_000)
        one_line(error, "best.pt", "disk is full", "free some space", "is unchanged")
        with pytest.raises(Failure) as error:
            atomic.append_text(disk / "metrics.csv", "1\n" * 50_000)
        one_line(error, "metrics.csv", "disk is full")
        assert files(disk) == before
        atomic.write_bytes(disk / "best.pt", b"c" * 8192)


def test_file_size_limit(tmp_path: Path) -> None:
    target = tmp_path / "best.pt"
    target.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(Failure) as error:
            atomic.write_bytes(target, b"b" * 10_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    one_line(error, "best.pt", "file size limit", "ulimit")
    assert files(tmp_path) == {"best.pt": b"old"}


def test_read_only_disk(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "small", kib=64) as disk:
        (disk / "summary.json").write_text("old")
        with read_only(disk):
            with pytest.raises(Failure) as error:
                atomic.write_text(disk / "summary.json", "new")
            one_line(error, "summary.json", "read-only", "choose a folder", "is unchanged")
            with pytest.raises(Failure) as error:
                atomic.make_folder(disk / "runs" / "new")
            one_line(error, "read-only")
        assert files(disk) == {"summary.json": b"old"}


def test_unusable_paths(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    for path, words in {
        "file/below.json": ("is a file, not a folder", "choose another folder"),
        "gone/a.json": (f"the folder {tmp_path / 'gone'} does not exist", "make it"),
        "folder": ("is a folder", "name a file in it"),
        "x" * 300: ("too long",),
    }.items():
        for write in (atomic.write_text, atomic.append_text):
            with pytest.raises(Failure) as error:
                write(tmp_path / path, "new\n")
            one_line(error, str(tmp_path / path), *words)
    with pytest.raises(Failure) as error:
        atomic.make_folder(tmp_path / "file" / "below")
    one_line(error, "file")
    with pytest.raises(Failure) as error:
        atomic.make_folder(tmp_path / "file")
    one_line(error, "a file has that name")
    assert (tmp_path / "file").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    if os.access(tmp_path, os.W_OK):
        pytest.skip("this user (root) may write everywhere")
    try:
        with pytest.raises(Failure) as error:
            atomic.write_text(tmp_path / "a", "new")
    finally:
        tmp_path.chmod(0o700)
    one_line(error, "permission denied", "choose a folder")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "is empty"),
        (b'{"a": 1', "not JSON"),
        (b"[1]", "no table"),
        (b"\xff\xfe", "not text"),
        (b"[" * 100_000, "damaged"),
    ],
)
def test_damaged_json(tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(Failure) as error:
        atomic.read_json(path)
    one_line(error, str(path), word, "restore it from a copy")
    assert path.read_bytes() == content


def test_missing_json(tmp_path: Path) -> None:
    with pytest.raises(Failure) as error:
        atomic.read_json(tmp_path / "config.json")
    one_line(error, "config.json does not exist")


WRITER = """
import sys
from adderlab.files import atomic
for i in range(10**9):
    atomic.write_text(sys.argv[1], ("ab"[i % 2]) * 50_000)
"""


def test_kill_leaves_a_whole_file(tmp_path: Path) -> None:
    target = tmp_path / "state"
    generator = random.Random(1)
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(target)])
        while not target.exists():
            assert process.poll() is None, "it ended before it wrote anything"
            time.sleep(0.02)
        time.sleep(generator.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL
        assert target.read_text() in ("a" * 50_000, "b" * 50_000)
        atomic.remove_leftovers(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["state"]
        target.unlink()


def test_leftovers_of_others_stay(tmp_path: Path) -> None:
    for name in (".adderlab-0.tmp", "mine.tmp", ".adderlab-notes"):
        (tmp_path / name).write_text("")
    atomic.remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".adderlab-notes", "mine.tmp"]
