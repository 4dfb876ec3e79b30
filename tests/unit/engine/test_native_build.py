"""Compiling at first use: what is cached, and what happens where that is impossible."""

import os
import platform
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from adderlab.engine.native import NativeEngine, build
from adderlab.engine.native.build import NativeUnavailable, isa_flags, load_library
from adderlab.errors import UsageError
from helpers.paths import ROOT
from oracle.random_tables import random_tables, table_form


@pytest.fixture
def answer(tmp_path: Path) -> Path:
    """A source whose function returns the macro ANSWER."""
    path = tmp_path / "answer.cpp"
    path.write_text('extern "C" int answer() { return ANSWER; }\n')
    return path


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache" / "deep"
    monkeypatch.setenv("ADDERLAB_CACHE", str(folder))
    return folder


def program(folder: Path, name: str, body: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_compiles_once_with_a_message(answer: Path, cache: Path) -> None:
    messages: list[str] = []
    assert load_library(answer, {"ANSWER": 42}, log=messages.append).answer() == 42
    assert any("compiling" in line for line in messages)
    files = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    assert [path.suffix for path in files] == [".so"]

    build._loaded.cache_clear()
    messages.clear()
    assert load_library(answer, {"ANSWER": 42}, log=messages.append).answer() == 42
    assert messages == []
    assert {path: path.stat().st_mtime_ns for path in cache.iterdir()} == files


def test_a_filled_cache_may_be_read_only(
    answer: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_library(answer, {"ANSWER": 5})
    build._loaded.cache_clear()
    monkeypatch.setattr(build, "cache_folder", lambda log: pytest.fail("nothing is to be written"))
    assert load_library(answer, {"ANSWER": 5}).answer() == 5


def test_the_cache_may_be_named_below_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ADDERLAB_CACHE", "~/programs")
    assert build.cache_folder() == tmp_path / "programs"


def test_a_compiler_may_be_called_by_another_program(
    answer: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = tmp_path / "calls"
    wrapper = program(tmp_path, "cached", f'echo "$1" >> {calls}; exec "$@"')
    compiler = build.find_compiler()[0]
    monkeypatch.setenv("CXX", f"{wrapper} {compiler}")
    assert load_library(answer, {"ANSWER": 6}).answer() == 6
    assert calls.read_text().splitlines() == [compiler, compiler], "its version, then the program"


def test_other_constants_flags_and_instruction_sets_are_other_libraries(
    answer: Path, cache: Path
) -> None:
    assert load_library(answer, {"ANSWER": 1}).answer() == 1
    assert load_library(answer, {"ANSWER": 2}).answer() == 2
    assert load_library(answer, {"ANSWER": 2}, extra=["-fno-math-errno"]).answer() == 2
    assert load_library(answer, {"ANSWER": 2}, isa="baseline").answer() == 2
    assert len(list(cache.iterdir())) == 4


def test_a_changed_compiler_is_another_library(
    answer: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shlex.join(build.find_compiler())
    load_library(answer, {"ANSWER": 3})
    wrapper = program(tmp_path, "newer", f'[ "$1" = --version ] && echo newer 99 || exec {real} "$@"')
    monkeypatch.setenv("CXX", str(wrapper))
    assert load_library(answer, {"ANSWER": 3}).answer() == 3
    assert len(list(cache.iterdir())) == 2


def test_no_compiler(answer: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NativeUnavailable, match=r"no C\+\+ compiler.*install one") as caught:
        NativeEngine(1).prepare(random_tables(table_form("P"), 1))
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("CXX", "missing-c++")
    with pytest.raises(NativeUnavailable, match=r"missing-c\+\+"):
        load_library(answer, {"ANSWER": 4})


def test_a_failing_compiler(
    answer: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = program(tmp_path, "broken-c++", "echo 'fatal error: out of paper' >&2; exit 3")
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(NativeUnavailable, match=r"broken-c.*exit 3.*out of paper") as caught:
        load_library(answer, {"ANSWER": 5})
    assert "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []


def test_a_compiler_that_does_not_start(
    answer: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", str(program(tmp_path, "odd-c++", "").rename(tmp_path / "odd")))
    (tmp_path / "odd").write_text("#!/no/such/interpreter\n")
    with pytest.raises(NativeUnavailable, match="does not run"):
        load_library(answer, {"ANSWER": 6})


def test_an_unwritable_cache(answer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ADDERLAB_CACHE", str(tmp_path / "file" / "cache"))
    messages: list[str] = []
    assert load_library(answer, {"ANSWER": 7}, log=messages.append).answer() == 7
    assert "cannot be written" in messages[0] and str(tmp_path / "file") in messages[0]


def test_a_damaged_library_is_named(
    answer: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    body = '[ "$1" = --version ] || { while [ "$1" != -o ]; do shift; done; echo junk > "$2"; }'
    monkeypatch.setenv("CXX", str(program(tmp_path, "junk-c++", body)))
    with pytest.raises(NativeUnavailable, match=r"does not load.*delete it"):
        load_library(answer, {"ANSWER": 8})


def test_two_processes_compile_at_once(answer: Path, cache: Path, tmp_path: Path) -> None:
    """Both start before either ends (the compiler waits for the other), and both get the library."""
    body = (
        f'[ "$1" = --version ] && exec {shlex.join(build.find_compiler())} --version\n'
        f"touch {tmp_path}/started-$$\n"
        f"for i in $(seq 600); do [ $(ls {tmp_path} | grep -c started) = 2 ] && break; sleep 0.1; done\n"
        f'exec {shlex.join(build.find_compiler())} "$@"'
    )
    code = (
        "import pathlib, sys\n"
        "from adderlab.engine.native.build import load_library\n"
        "print(load_library(pathlib.Path(sys.argv[1]), {'ANSWER': 9}).answer())\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "src"),
        "CXX": str(program(tmp_path, "slow-c++", body)),
    }
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(answer)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    outcomes = [process.communicate(timeout=120) for process in running]
    assert [out for out, _ in outcomes] == ["9\n", "9\n"], outcomes
    assert len(list(tmp_path.glob("started-*"))) == 2
    assert [path.suffix for path in cache.iterdir()] == [".so"]


def test_instruction_sets_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("ADDERLAB_ISA", "avx2")
    assert isa_flags() == ("-mavx2", "-mfma")
    assert isa_flags("native") == ("-march=native",)
    monkeypatch.delenv("ADDERLAB_ISA")
    assert isa_flags() == ("-march=native",)
    monkeypatch.setattr(build.platform, "machine", lambda: "arm64")
    assert isa_flags() == ("-mcpu=native",)
    with pytest.raises(UsageError, match="arm64"):
        isa_flags("avx2")
    with pytest.raises(UsageError, match="ADDERLAB_ISA=sse9"):
        isa_flags("sse9")


@pytest.mark.slow
def test_what_is_compiled_for_whom_is_told_on_one_stream(cache: Path, tmp_path: Path) -> None:
    settings = ["recipe.steps=3", "recipe.restarts=null", "recipe.prefit=null", "recipe.val_size=20"]
    command = [sys.executable, "-m", "adderlab.cli.main", "train", "8p", "--seeds", "0", "--no-prove"]
    done = subprocess.run(
        [*command, "--evaluate", "none", "--engine", "native", "--set", *settings],
        cwd=tmp_path,
        env={**os.environ, "ADDERLAB_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if "compiling" in line]
    assert all(f"for this machine ({platform.machine()})" in line for line in told)
    things = ("kernel of this model (layout C)", "parameters come to", "sampler", "step", "loop over")
    assert all(any(thing in line for line in told) for thing in things), told
    assert "compil" not in done.stderr
