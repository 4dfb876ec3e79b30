"""Hostile files in both modes. Hardly any of them needs torch, so each starts fast.

What must never happen is checked on this side: a file that is still there, a server that nobody
reached, processes that are gone. ``limits`` promises only limits, so only those are tested with it.
"""

import os
import shutil
import socket
import subprocess
import sys
import textwrap
import time
import uuid
from pathlib import Path

import pytest

import adderlab
from adderlab.errors import UsageError
from adderlab.publish import sandbox as sandboxes
from adderlab.publish.sandbox import Ended, Limits, Mode, Sandbox, require
from helpers.submissions import needs_bubblewrap

in_both_modes = pytest.mark.parametrize(
    "mode", [pytest.param("bubblewrap", marks=needs_bubblewrap), "limits"]
)
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
    """A file under a name that no other process has in its command line."""
    path = folder / f"submission_{uuid.uuid4().hex}.py"
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
    """Processes that have the file's name in their command and are not dead."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if os.fsencode(path.name) in process.read_bytes():
                found.append(process.parent.name)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("found", [None, "/bin/false"], ids=["absent", "broken"])
def test_without_bubblewrap_the_remedy_is_named(
    found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: found)
    sandboxes.bubblewrap_trouble.cache_clear()
    try:
        with pytest.raises(UsageError, match=r"apt-get install bubblewrap .* sandbox=limits"):
            require("bubblewrap")
        require("limits")
    finally:
        sandboxes.bubblewrap_trouble.cache_clear()


@in_both_modes
def test_an_honest_file_answers(mode: Mode, tmp_path: Path) -> None:
    path = submission(tmp_path, adding("return a + b"))
    assert answers(path, mode) == ([42], {})


@in_both_modes
def test_a_file_that_loops_is_stopped_and_leaves_no_process(mode: Mode, tmp_path: Path) -> None:
    path = submission(tmp_path, "while True: pass")
    with Sandbox(path, SMALL, mode) as sandbox:
        sandbox.ask("literals", 5)
        assert running(path), "its process can be found"
        with pytest.raises(Ended, match="it did not answer in time"):
            sandbox.ask("load", 0.5)
    assert not running(path)


@needs_bubblewrap
def test_it_does_not_outlive_the_program_that_checks_it(tmp_path: Path) -> None:
    path = submission(tmp_path, "while True: pass")
    program = f"""
from pathlib import Path
from adderlab.publish.sandbox import Limits, Sandbox
with Sandbox(Path({str(path)!r}), Limits(), "bubblewrap") as sandbox:
    sandbox.ask("literals", 60)
    print("started", flush=True)
    sandbox.ask("load", 60)
"""
    command = [sys.executable, "-c", program]
    # Its own folder for temporary files: a killed program leaves them behind.
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as checking:
        assert checking.stdout is not None and checking.stdout.readline() == "started\n"
        assert running(path)
        checking.kill()
    for _ in range(600):  # the kernel ends them one after the other
        if not running(path):
            return
        time.sleep(0.1)
    pytest.fail(f"still running: {running(path)}")


@in_both_modes
def test_all_in_all_there_is_a_limit(mode: Mode, tmp_path: Path) -> None:
    path = submission(tmp_path, adding("import time; time.sleep(3600)"))
    assert end(path, mode, Limits(seconds=0.7)) == "it was not done after 0.7 s"


@in_both_modes
@pytest.mark.parametrize(
    "body",
    [
        "held = []\nwhile True: held.append(bytearray(10 << 20))",
        "bytearray(10 ** 13)",
        "import mmap; held = []\nwhile True: held.append(mmap.mmap(-1, 1 << 28))",
    ],
    ids=["little by little", "at once", "shared mappings"],
)
def test_a_file_that_eats_memory_is_stopped(mode: Mode, body: str, tmp_path: Path) -> None:
    if "mmap" in body:
        body = f"{body.replace('while True', 'for i in range(3)')}\nreturn len(held)"
        (answer,), _ = answers(submission(tmp_path, adding(body)), mode)
        assert answer == "OSError: [Errno 12] Cannot allocate memory", "two of 256 MiB are too many"
    else:
        assert end(submission(tmp_path, adding(body)), mode) == "it used more memory than 400 MiB"


@needs_bubblewrap
def test_files_without_a_name_hold_little(tmp_path: Path) -> None:
    path = submission(
        tmp_path,
        adding("""
        import os
        made = []
        try:
            while True:
                made.append(os.memfd_create("x"))
                os.truncate(made[-1], 1 << 20)
        except OSError:
            pass
        try:
            os.truncate(made[0], 2 << 20)
        except OSError:
            return len(made)
        """),
    )
    (answer,), _ = answers(path, "bubblewrap")
    assert isinstance(answer, int) and 10 <= answer < 64, "as many as files may be open"


@needs_bubblewrap
def test_nothing_outside_can_be_written(tmp_path: Path) -> None:
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
    answer, tried = answers(path, "bubblewrap")
    assert answer == [42]
    assert "victim" in tried["file"]
    after = victim.stat()
    assert victim.read_text() == "precious" and not made.exists()
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)


@needs_bubblewrap
def test_only_the_scratch_folder_can_be_written(tmp_path: Path) -> None:
    path = submission(
        tmp_path,
        adding("""
        import os
        writable = []
        for folder, names, _ in os.walk("/"):
            # Of processes only its own, of libraries the outermost folders.
            names[:] = [] if folder.startswith("/proc") or folder.count("/") > 3 else names
            try:
                os.close(os.open(os.path.join(folder, "new"), os.O_CREAT | os.O_WRONLY))
                writable.append(folder)
            except OSError:
                pass
        for file in (__file__, "/inside/worker.py"):
            if os.access(file, os.W_OK):
                writable.append(file)
        raise ValueError(writable)
        """),
    )
    (answer,), _ = answers(path, "bubblewrap")
    assert answer == "ValueError: ['/scratch']"


@needs_bubblewrap
def test_the_scratch_folder_is_small(tmp_path: Path) -> None:
    path = submission(
        tmp_path,
        adding("""
        import os, tempfile
        small = tempfile.NamedTemporaryFile(delete=False)
        small.write(b"x" * 1000)
        small.close()
        try:
            for i in range(100):
                open(f"{tempfile.gettempdir()}/file{i}", "wb").write(bytes(1 << 18))
        except OSError as error:
            raise ValueError(f"{os.path.getsize(small.name)} {error.strerror} {small.name[:9]}")
        """),
    )
    (answer,), tried = answers(path, "bubblewrap")
    assert answer == "ValueError: 1000 No space left on device /scratch/"
    assert tried == {}, "it may write there"
    assert not Path("/scratch").exists()


@needs_bubblewrap
def test_nothing_of_the_users_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hush")
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / ".hidden").write_text("hush")
    (folder / "link").symlink_to(secret)
    monkeypatch.setenv("SECRET_TOKEN", "hush")
    here = [str(secret), str(Path.home() / ".ssh"), str(Path.home() / ".bashrc"), __file__]
    here += ["/etc/passwd", "/etc/hostname", "/run", "/var", "/bin/sh", "/usr/bin/env"]
    source = Path(adderlab.__file__)
    if source.parents[1].name != "site-packages":
        here.append(str(source))
    path = submission(
        folder,
        adding(f"""
        import os
        seen = [path for path in {here!r} if os.path.exists(path)]
        seen += [name for name in os.listdir(os.path.dirname(__file__)) if name not in __file__]
        seen += [name for name in os.environ if "SECRET" in name]
        raise ValueError(seen)
        """),
    )
    (answer,), _ = answers(path, "bubblewrap")
    assert answer == "ValueError: []"


@in_both_modes
def test_it_sees_none_of_our_environment(
    mode: Mode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hush")
    path = submission(tmp_path, adding("import os; raise ValueError(sorted(os.environ))"))
    (answer,), _ = answers(path, mode)
    assert "HOME" in answer and "SECRET_TOKEN" not in answer


@needs_bubblewrap
def test_nobody_outside_can_be_reached(tmp_path: Path) -> None:
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
            return len(socket.if_nameindex())
            """),
        )
        answer, tried = answers(path, "bubblewrap")
        with pytest.raises(TimeoutError):
            server.accept()
    assert answer == [1], "a loopback interface of its own and no other"
    assert set(tried) == {"network"} and "socket." in tried["network"]


@needs_bubblewrap
def test_no_process_can_be_started(tmp_path: Path) -> None:
    path = submission(
        tmp_path,
        adding("""
        import ctypes, os, subprocess, sys, threading, time
        libc = ctypes.CDLL(None)
        children = 0
        spawn = lambda: os.posix_spawn(sys.executable, ["python"], {})
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
        try:
            threading.Thread(target=time.sleep, args=(60,)).start()
            children += 1
        except RuntimeError:
            pass
        return children
        """),
    )
    answer, tried = answers(path, "bubblewrap")
    assert answer == [0]
    assert set(tried) == {"process"}
    assert not running(path)


@needs_bubblewrap
def test_other_processes_cannot_be_seen_signalled_or_read(tmp_path: Path) -> None:
    # Signal 0 asks only whether one may: if the sandbox failed, nothing would be hurt.
    path = submission(
        tmp_path,
        adding(f"""
        import ctypes, os
        libc = ctypes.CDLL(None)
        others = [name for name in os.listdir("/proc") if name.isdigit() and int(name) > 2]
        allowed = others != [] or os.getpid() != 2
        allowed = allowed or libc.kill({os.getpid()}, 0) == 0 or os.getpgrp() != os.getsid(0)
        allowed = allowed or libc.ptrace(16, {os.getpid()}, 0, 0) == 0
        try:
            open("/proc/{os.getpid()}/mem", "rb")
            allowed = True
        except OSError:
            pass
        return int(allowed)
        """),
    )
    answer, _ = answers(path, "bubblewrap")
    assert answer == [0]


@needs_bubblewrap
def test_it_has_no_privilege_and_gets_none(tmp_path: Path) -> None:
    path = submission(
        tmp_path,
        adding("""
        import ctypes, os
        libc = ctypes.CDLL(None)
        status = open("/proc/self/status").read().splitlines()
        # Not CapInh: where no new privileges are to be had, what may be inherited is nothing.
        held = [line for line in status if line.startswith(("CapEff", "CapPrm", "CapAmb"))]
        gained = [line for line in held if int(line.split()[1], 16)]
        gained += [line for line in status if line.startswith("NoNewPrivs") and line.split()[1] != "1"]
        for namespace in (0x10000000, 0x00020000, 0x40000000):
            if libc.unshare(namespace) == 0:
                gained.append(hex(namespace))
        if os.getuid() == 0:
            gained.append("root")
        raise ValueError(gained)
        """),
    )
    (answer,), _ = answers(path, "bubblewrap")
    assert answer == "ValueError: []"


@in_both_modes
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("network", "import socket; socket.socket().connect(('127.0.0.1', 9))"),
        ("process", "import subprocess; subprocess.run(['/no/such/program'])"),
        ("file", "open('/no/such/folder/file', 'w')"),
        ("file", "import os; os.remove('../no-such-file')"),
    ],
    ids=["network", "process", "file", "file beside"],
)
def test_what_it_tries_is_noticed(mode: Mode, kind: str, body: str, tmp_path: Path) -> None:
    _, tried = answers(submission(tmp_path, adding(body)), mode)
    assert set(tried) == {kind}


@in_both_modes
def test_what_pytorch_does_on_its_own_import_is_not_held_against_a_file(
    mode: Mode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CUDA build starts ldconfig when it is imported, and maps more than any limit allows."""
    torch = tmp_path / "site-packages" / "torch" / "__init__.py"
    torch.parent.mkdir(parents=True)
    torch.write_text(
        "import mmap, subprocess\n"
        "try:\n    subprocess.run(['/sbin/ldconfig', '-V'], stdout=subprocess.DEVNULL)\n"
        "except OSError:\n    pass\n"
        "held = mmap.mmap(-1, 1 << 30)\n"
        "class nn:\n    Module = Tensor = type('None', (), {})\n"
        "Tensor = nn.Tensor\n"
        "def set_num_threads(count):\n    assert count == 1, 'no thread can be started'\n"
    )
    monkeypatch.setattr(sandboxes, "packages", lambda: [str(tmp_path / "site-packages")])
    path = submission(
        tmp_path, "import torch\n" + adding("torch.set_num_threads(4); return len(torch.held) >> 20")
    )
    assert answers(path, mode) == ([1024], {})


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
@in_both_modes
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
@in_both_modes
def test_rubbish_in_the_channel_of_answers(mode: Mode, written: str, words: str, tmp_path: Path) -> None:
    path = submission(
        tmp_path,
        adding(f"""
        import os
        for descriptor in range(3, 64):
            try:
                rest = {written}
                while rest:
                    rest = rest[os.write(descriptor, rest):]
            except OSError:
                pass
        return 0
        """),
    )
    assert words in end(path, mode)


@in_both_modes
def test_what_it_printed_last_is_kept_and_bounded(mode: Mode, tmp_path: Path) -> None:
    path = submission(tmp_path, "print('x' * 10_000)\nprint('the end', flush=True)\n" + BUILD)
    with Sandbox(path, SMALL, mode) as sandbox:
        assert sandbox.ask("load", 5)["error"] == "it has no function add"
        assert sandbox.printed.endswith("the end\n") and len(sandbox.printed) <= 2000


@in_both_modes
def test_its_metadata_is_strict_json(mode: Mode, tmp_path: Path) -> None:
    path = submission(
        tmp_path, "import math\n" + adding("return a").replace("{}", "{'params': math.nan}")
    )
    with Sandbox(path, SMALL, mode) as sandbox:
        assert sandbox.ask("load", 5)["metadata"] == {"params": "NaN"}
