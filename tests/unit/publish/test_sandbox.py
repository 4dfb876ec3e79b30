"""Hostile files in every sandbox that works here. None of them needs torch, so each starts fast.

What must never happen is checked on this side: a file that is still there, a server that nobody
reached, processes that are gone.
"""

import os
import socket
import textwrap
import time
from pathlib import Path

import pytest

from adderlab.publish.sandbox import (
    MODES,
    Ended,
    Limits,
    Mode,
    Sandbox,
    best_mode,
    describe,
    works,
)

WORKING = [mode for mode in MODES if works(mode)]
SMALL = Limits(
    seconds=20,
    load_seconds=10,
    answer_seconds=5,
    memory_mib=400,
    scratch_mib=1,
    output_mib=1,
)
BUILD = "def build_model():\n    return object(), {}\n"


def submission(folder: Path, code: str) -> Path:
    path = folder / "submission.py"
    path.write_text(textwrap.dedent(code))
    return path


def adding(body: str) -> str:
    """A file whose ``add`` runs ``body``."""
    indented = textwrap.indent(textwrap.dedent(body).strip(), "    ")
    return f"{BUILD}def add(model, a, b):\n{indented}\n"


def answers(path: Path, mode: Mode, limits: Limits = SMALL) -> tuple[list, dict[str, str]]:
    """(the answer to 12 + 30, what was tried)."""
    with Sandbox(path, limits, mode) as sandbox:
        loaded = sandbox.ask("load", limits.load_seconds)
        assert "error" not in loaded, loaded
        reply = sandbox.ask("add", limits.answer_seconds, pairs=[(12, 30)])
        return reply["answers"], sandbox.tried


def end(path: Path, mode: Mode, limits: Limits = SMALL) -> str:
    """How a submission that does not survive loading or one addition ended."""
    with Sandbox(path, limits, mode) as sandbox, pytest.raises(Ended) as ended:
        sandbox.ask("load", limits.load_seconds)
        sandbox.ask("add", limits.answer_seconds, pairs=[(12, 30)])
    return str(ended.value)


def running(path: Path) -> list[str]:
    """Processes that have the file in their command and are not dead."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if os.fsencode(path) in process.read_bytes():
                found.append(process.parent.name)
        except OSError:
            continue
    return found


def test_there_is_a_way_here_and_it_says_which() -> None:
    assert best_mode() == WORKING[0]
    assert all(describe(mode) for mode in MODES)


@pytest.mark.parametrize("mode", WORKING)
def test_an_honest_file_answers(mode: Mode, tmp_path: Path) -> None:
    path = submission(tmp_path, adding("return a + b"))
    assert answers(path, mode) == ([42], {})


@pytest.mark.parametrize("mode", WORKING)
def test_a_file_that_loops_is_stopped_and_leaves_no_process(mode: Mode, tmp_path: Path) -> None:
    path = submission(tmp_path, "while True: pass")
    short = Limits(seconds=20, load_seconds=0.5)
    started = time.monotonic()
    assert end(path, mode, short) == "it did not answer in time"
    assert time.monotonic() - started < 3
    assert not running(path)


def test_all_in_all_there_is_a_limit(tmp_path: Path) -> None:
    path = submission(tmp_path, adding("import time; time.sleep(5)"))
    assert end(path, best_mode(), Limits(seconds=0.7)) == "it was not done after 0.7 s"


@pytest.mark.parametrize("mode", WORKING)
@pytest.mark.parametrize(
    "body",
    [
        "held = []\nwhile True: held.append(bytearray(10 << 20))",
        "bytearray(10 ** 13)",
        "import mmap; held = []\nwhile True: held.append(mmap.mmap(-1, 1 << 33))",
    ],
    ids=["little by little", "at once", "shared mappings"],
)
def test_a_file_that_eats_memory_is_stopped(mode: Mode, body: str, tmp_path: Path) -> None:
    path = submission(tmp_path, adding(body))
    if "mmap" in body:
        (answer,), _ = answers(path, mode)
        assert "OSError" in answer
    else:
        assert end(path, mode) == "it used more memory than 400 MiB"


@pytest.mark.parametrize("mode", WORKING)
def test_nothing_outside_can_be_written(mode: Mode, tmp_path: Path) -> None:
    victim, made = tmp_path / "victim", tmp_path / "made"
    victim.write_text("precious")
    path = submission(
        tmp_path,
        adding(f"""
        import ctypes, os
        libc, victim, made = ctypes.CDLL(None), {str(victim)!r}, {str(made)!r}
        tries = [
            lambda: open(victim, "w").write("gone"),
            lambda: open(made, "w").write("here"),
            lambda: os.remove(victim),
            lambda: os.rename(victim, made),
            lambda: os.mkdir(made),
            lambda: os.chmod(victim, 0),
            lambda: os.truncate(victim, 0),
            lambda: os.symlink(victim, made),
            lambda: os.utime(victim, (0, 0)),
            lambda: libc.unlink(victim.encode()),
            lambda: libc.open(victim.encode(), os.O_WRONLY | os.O_TRUNC),
            lambda: libc.creat(made.encode(), 0o600),
            lambda: libc.rename(victim.encode(), made.encode()),
            lambda: libc.mount(b"tmpfs", {str(tmp_path)!r}.encode(), b"tmpfs", 0, None),
            lambda: libc.umount2({str(tmp_path)!r}.encode(), 2),
            lambda: libc.mount(None, b"/", None, 32 | 4096 | 16384, None),
        ]
        for attempt in tries:
            try:
                attempt()
            except OSError:
                pass
        return a + b
        """),
    )
    before = victim.stat()
    answer, tried = answers(path, mode)
    assert answer == [42]
    assert "victim" in tried["file"]
    after = victim.stat()
    assert victim.read_text() == "precious" and not made.exists()
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)


@pytest.mark.parametrize("mode", [mode for mode in WORKING if mode != "limits"])
def test_the_scratch_folder_is_small_and_is_gone_afterwards(mode: Mode, tmp_path: Path) -> None:
    path = submission(
        tmp_path,
        adding("""
        import os, tempfile
        small = tempfile.NamedTemporaryFile(delete=False)
        small.write(b"x" * 1000)
        small.close()
        try:
            for i in range(100):
                open(f"file{i}", "wb").write(bytes(1 << 20))
        except OSError as error:
            return f"{os.path.getsize(small.name)} {error.strerror} {os.getcwd()}"
        """),
    )
    with Sandbox(path, SMALL, mode) as sandbox:
        sandbox.ask("load", 5)
        (answer,) = sandbox.ask("add", 5, pairs=[(1, 2)])["answers"]
        assert sandbox.tried == {}
    assert answer == "add returned a str, not an int"

    told = submission(tmp_path, path.read_text().replace("return f", "raise ValueError(f") + ")")
    with Sandbox(told, SMALL, mode) as sandbox:
        sandbox.ask("load", 5)
        (answer,) = sandbox.ask("add", 5, pairs=[(1, 2)])["answers"]
    assert answer.startswith("ValueError: 1000 No space left on device ")
    assert not Path(answer.split()[-1]).exists()


@pytest.mark.parametrize("mode", WORKING)
def test_no_socket_can_be_opened(mode: Mode, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        path = submission(
            tmp_path,
            adding(f"""
            import ctypes, os, socket
            try:
                socket.create_connection(("127.0.0.1", {port}), timeout=1).send(b"secret")
            except OSError:
                pass
            libc = ctypes.CDLL(None)
            s = libc.socket(2, 1, 0)
            port = ({port}).to_bytes(2, "big")
            libc.connect(s, (2).to_bytes(2, "little") + port + bytes([127, 0, 0, 1]) + bytes(8), 16)
            return a + b
            """),
        )
        answer, tried = answers(path, mode)
        with pytest.raises(TimeoutError):
            server.accept()
    assert answer == [42]
    assert set(tried) == {"network"} and "socket." in tried["network"]


@pytest.mark.parametrize("mode", WORKING)
def test_no_process_can_be_started(mode: Mode, tmp_path: Path) -> None:
    path = submission(
        tmp_path,
        adding("""
        import ctypes, os, subprocess, time
        libc = ctypes.CDLL(None)
        children = 0
        spawn = lambda: os.posix_spawn("/bin/true", ["true"], {})
        for attempt in (os.fork, libc.fork, libc.vfork, spawn):
            for _ in range(3):
                try:
                    child = attempt()
                except OSError:
                    continue
                if child == 0:
                    time.sleep(60)
                    os._exit(0)
                children += child > 0
        try:
            subprocess.run(["sleep", "60"])
        except OSError:
            pass
        return children
        """),
    )
    answer, tried = answers(path, mode)
    assert answer == [0]
    assert set(tried) == {"process"}
    assert not running(path)


@pytest.mark.parametrize("mode", WORKING)
def test_other_processes_cannot_be_signalled_or_read(mode: Mode, tmp_path: Path) -> None:
    # Signal 0 asks only whether one may: if the sandbox failed, nothing would be hurt.
    path = submission(
        tmp_path,
        adding(f"""
        import ctypes, os
        libc = ctypes.CDLL(None)
        allowed = libc.kill({os.getpid()}, 0) == 0 or libc.kill(-1, 0) == 0 or libc.kill(0, 0) == 0
        allowed = allowed or libc.ptrace(16, {os.getpid()}, 0, 0) == 0
        try:
            open("/proc/{os.getpid()}/mem", "rb")
            allowed = True
        except OSError:
            pass
        return int(allowed)
        """),
    )
    if mode == "limits":
        # There the memory of one's own user's processes may be opened for reading, as by any program.
        path.write_text(path.read_text().replace("/mem", "/no-such-file"))
    answer, _ = answers(path, mode)
    assert answer == [0]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("import os; os._exit(0)", "it ended its process (exit code 0)"),
        ("import os; os._exit(7)", "it ended its process (exit code 7)"),
        ("import sys; sys.exit()", "it ended itself (SystemExit: )"),
        ("import ctypes; ctypes.string_at(0)", "its process was killed by SIGSEGV"),
        ("import os; os.kill(os.getpid(), 9)", "its process was killed by SIGKILL"),
        ("import os; os.closerange(3, 256)", "it"),
        ("while True: print('x' * 100_000)", "it printed more than 1 MiB"),
        ("import os\n    while True: os.write(2, bytes(100_000))", "it printed more than 1 MiB"),
    ],
    ids=["exit 0", "exit 7", "sys.exit", "crash", "kill", "close", "print", "stderr"],
)
@pytest.mark.parametrize("mode", WORKING)
def test_a_file_that_ends_or_floods(mode: Mode, body: str, words: str, tmp_path: Path) -> None:
    path = submission(tmp_path, f"{BUILD}def add(model, a, b):\n    {body}\n")
    assert end(path, mode).startswith(words)
    assert not running(path)


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ('b"nonsense\\n"', "something that is no answer"),
        ('b"[" * 100_000 + b"\\n"', "something that is no answer"),
        ('b"9" * 100_000 + b"\\n"', "something that is no answer"),
        ('b"\\xff\\n"', "something that is no answer"),
        ('b"x" * (9 << 20)', "floods the channel"),
        ('b\'{"tried": "file"}\\n\' * 1000', "floods the channel"),
    ],
    ids=["nonsense", "deep", "number", "bytes", "long line", "many notices"],
)
def test_rubbish_in_the_channel_of_answers(written: str, words: str, tmp_path: Path) -> None:
    path = submission(
        tmp_path,
        adding(f"""
        import os
        for descriptor in range(3, 200):
            try:
                rest = {written}
                while rest:
                    rest = rest[os.write(descriptor, rest):]
            except OSError:
                pass
        return 0
        """),
    )
    assert words in end(path, best_mode())


def test_what_it_printed_last_is_kept_and_bounded(tmp_path: Path) -> None:
    path = submission(tmp_path, "print('x' * 10_000)\nprint('the end', flush=True)\n" + BUILD)
    with Sandbox(path, SMALL, best_mode()) as sandbox:
        assert sandbox.ask("load", 5)["error"] == "it has no function add"
        assert sandbox.printed.endswith("the end\n") and len(sandbox.printed) <= 2000


def test_it_sees_none_of_our_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hush")
    path = submission(tmp_path, adding("import os; raise ValueError(sorted(os.environ))"))
    (answer,), _ = answers(path, best_mode())
    assert "HOME" in answer and "SECRET_TOKEN" not in answer
