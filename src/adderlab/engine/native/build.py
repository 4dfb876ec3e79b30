"""What is compiled at first use, into a cache shared by all processes of a user: the C++ sources, and
pure functions of small tensors, and their derivatives, from a trace.

A library's name is a digest of everything that decides its code: the sources, the flags, the
compiler and the processor. It is written beside its final name and renamed, so that processes that
compile at once never see half a file.

The map from parameters to tables is a few hundred tiny PyTorch operations; calling them costs far
more than computing them. ``Program`` traces such a function once, on one seed, and writes every
operation as a plain loop over the very memory layout that PyTorch used, so that a call costs one
call. Seeds run one after another through the same code, spread over threads: their results do not
depend on each other. The shapes must not depend on the values, and everything is float32 on the CPU.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adderlab.engine.base import Function
from adderlab.errors import Failure, UsageError
from adderlab.files.atomic import write_text

if TYPE_CHECKING:
    from torch.fx import GraphModule


FOLDER = Path(__file__).parent
ISA_FLAGS = {
    "native": ("-march=native",),
    "avx2": ("-mavx2", "-mfma"),
    "baseline": (),
}
"""ADDERLAB_ISA: the instruction sets to compile for."""

Log = Callable[[str], None]
"""Gets a line when something takes a while or is not as it should be."""


class NativeUnavailable(Failure):
    """The native engine cannot be had here; the message says why, in one line."""


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


@functools.cache
def _loaded(path: str) -> ctypes.CDLL:
    return ctypes.CDLL(path)


def load_library(
    source: Path,
    defines: Mapping[str, object] | None = None,
    *,
    what: str = "",
    optimise: str = "-O3",
    extra: Sequence[str] = (),
    isa: str | None = None,
    log: Log = to_stderr,
) -> ctypes.CDLL:
    """The shared library of ``source``, compiled with ``-DNAME=VALUE`` unless the cache has it.

    ``what``: what it is, for people; by default its source's name. ``extra``: further flags. ``isa``: a
    key of ``ISA_FLAGS``, by default that of ADDERLAB_ISA. ``log`` gets one line when the compiler runs.
    Raises ``NativeUnavailable``, ``UsageError`` for an unknown ADDERLAB_ISA.
    """
    compiler = find_compiler()
    flags = ["-std=c++17", "-shared", "-fPIC", "-pthread", optimise, *isa_flags(isa), *extra]
    flags += [f"-D{name}={value}" for name, value in (defines or {}).items()]
    name = f"{source.stem}-{_digest(compiler, flags)}.so"
    path = named_cache_folder() / name
    if not path.is_file():  # a filled cache may be read-only
        path = cache_folder(log) / name
    if not path.is_file():
        _compile(compiler, flags, source, path, what or source.name, log)
    try:
        return _loaded(str(path))
    except OSError as error:
        raise NativeUnavailable(
            f"the compiled engine {path} does not load ({error}); delete it and try again"
        ) from error


def isa_flags(isa: str | None = None) -> tuple[str, ...]:
    """The compiler flags of an instruction set, by default that of ADDERLAB_ISA or this machine."""
    isa = isa or os.environ.get("ADDERLAB_ISA") or "native"
    if isa not in ISA_FLAGS:
        raise UsageError(f"ADDERLAB_ISA={isa}: it must be one of {', '.join(ISA_FLAGS)}")
    if platform.machine().lower() in ("x86_64", "amd64"):
        return ISA_FLAGS[isa]
    if isa == "avx2":
        raise UsageError(f"ADDERLAB_ISA=avx2: this processor is {platform.machine()}; use native")
    return ("-mcpu=native",) if isa == "native" else ()


def find_compiler() -> tuple[str, ...]:
    """$CXX, which may have arguments (``ccache g++``), or the first of c++, g++ and clang++ on the PATH.

    Raises ``NativeUnavailable``.
    """
    named = shlex.split(os.environ.get("CXX", ""))
    for name in [named[0]] if named else ["c++", "g++", "clang++"]:
        path = shutil.which(name)
        if path:
            return path, *named[1:]
    missing = (
        f"$CXX names {named[0]}, which is not there" if named else "no c++, g++ or clang++ on the PATH"
    )
    apple = platform.system() == "Darwin"
    remedy = "install Xcode's command line tools: xcode-select --install" if apple else "apt install g++"
    raise NativeUnavailable(f"no C++ compiler: {missing}; install one, for example {remedy}")


def named_cache_folder() -> Path:
    """$ADDERLAB_CACHE, or adderlab below $XDG_CACHE_HOME or ~/.cache, whether it is there or not."""
    if named := os.environ.get("ADDERLAB_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "adderlab"


def cache_folder(log: Log = to_stderr) -> Path:
    """``named_cache_folder``, made if need be; a folder of this process alone, with a line, where that
    cannot be written."""
    folder = named_cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        return _private_folder(folder, str(error.strerror), log)


@functools.cache
def _private_folder(folder: Path, reason: str, log: Log) -> Path:
    log(f"the cache {folder} cannot be written ({reason}): compiling for this process alone")
    holder = tempfile.TemporaryDirectory(prefix="adderlab-")
    _holders.append(holder)
    return Path(holder.name)


_holders: list[tempfile.TemporaryDirectory[str]] = []
"""Private folders, deleted when the process ends."""


@functools.cache
def _version(compiler: tuple[str, ...]) -> str:
    try:
        done = subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NativeUnavailable(f"the compiler {shlex.join(compiler)} does not run ({error})") from error
    return done.stdout


@functools.cache
def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def _digest(compiler: tuple[str, ...], flags: list[str]) -> str:
    digest = hashlib.sha256()
    for path in sorted(FOLDER.glob("*.?pp")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    for text in (shlex.join(compiler), _version(compiler), platform.machine(), _processor(), *flags):
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:24]


def _compile(
    compiler: tuple[str, ...], flags: list[str], source: Path, path: Path, what: str, log: Log
) -> None:
    log(f"compiling {what} for this machine ({platform.machine()}), once (into {path.parent})")
    started = time.monotonic()
    descriptor, temporary = tempfile.mkstemp(prefix=path.stem, suffix=".tmp", dir=path.parent)
    os.close(descriptor)
    try:
        command = [*compiler, *flags, "-o", temporary, str(source)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or [
                done.stderr.strip()
            ]
            raise NativeUnavailable(
                f"the compiler {shlex.join(compiler)} failed on {source.name} (exit {done.returncode}): "
                f"{lines[0][:200]}"
            )
        os.chmod(temporary, 0o755)
        os.replace(temporary, path)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NativeUnavailable(f"compiling {source.name} failed: {error}") from error
    finally:
        Path(temporary).unlink(missing_ok=True)
    log(f"compiled in {time.monotonic() - started:.1f} s")


# Functions compiled from a trace.


class NoCode(Exception):
    """There is no code for an operation of a traced function; the message names it."""


PACKAGES = ("task", "models", "reading", "engine")
"""Whose code may decide what a function computes."""

SHAPES = "// Output shapes: "
"""How a written program begins: on a later run the shapes are read from here, and nothing is traced."""


class Program:
    """``function`` of stacked tensors (seed axis first), compiled for the shapes of ``examples``.

    The examples hold one seed; calls may hold any number. ``key``: a text that decides, together with
    this package's code, what the function computes; a program that was written under it is used again,
    for tracing takes seconds. ``lean``: leave out what no result needs. Raises ``NativeUnavailable``
    where the compiler fails, ``NoCode`` naming an operation for which there is no code.
    """

    def __init__(
        self,
        function: Function,
        examples: Sequence[Tensor],
        threads: int = 1,
        *,
        key: str | None = None,
        lean: bool = False,
        log: Log = to_stderr,
    ) -> None:
        path, self.shapes = _written(function, examples, key, lean, cache_folder(log))
        flags = ("-ftree-vectorize", "-w", f"-I{FOLDER}")
        # Loops of any length in vectors: worth its compile time where the loops are not our own.
        level = "-O3" if lean else "-O2"
        what = "what this model's parameters come to"
        library = load_library(path, what=what, optimise=level, extra=flags, log=log)
        self.threads = threads
        self._run, self.run_seed = library.run, library.run_seed

    def __call__(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The function of every seed: inputs (S, ...) -> outputs (S, ...)."""
        S = len(inputs[0])
        inputs = [tensor if tensor[0].is_contiguous() else tensor.contiguous() for tensor in inputs]
        outputs = [torch.empty((S, *shape)) for shape in self.shapes]
        pointers = (_pointers(inputs), _strides(inputs), _pointers(outputs), _strides(outputs))
        self._run(*pointers, S, self.threads)
        return outputs


def _written(
    function: Function, examples: Sequence[Tensor], key: str | None, lean: bool, folder: Path
) -> tuple[Path, list[tuple[int, ...]]]:
    """The program's source file and the shapes of its outputs, from the cache or traced now."""
    path = None
    if key is not None:
        shapes = [tuple(example.shape) for example in examples]
        digest = hashlib.sha256(f"{_code()} {torch.__version__} {shapes} {key}{' lean' * lean}".encode())
        path = folder / f"program-{digest.hexdigest()[:16]}.cpp"
        known = _output_shapes(path)
        if known is not None:
            return path, known
    source = _trace(function, examples, lean)
    if path is None:
        path = folder / f"program-{hashlib.sha256(source.encode()).hexdigest()[:16]}.cpp"
    write_text(path, source)
    known = _output_shapes(path)
    assert known is not None
    return path, known


def traced(function: Function, examples: Sequence[Tensor], *, lean: bool) -> GraphModule:
    """The operations of one call. ``lean``: without what no result needs."""
    # Importing what traces takes a second, and is needed once per model and machine.
    from torch.fx.experimental.proxy_tensor import make_fx

    from adderlab.engine.native.formulas import COMPOUND

    function(*examples)  # what it keeps for later calls must not become part of the trace
    graph = make_fx(function, COMPOUND)(*examples)
    if lean:
        graph.graph.eliminate_dead_code()
    return graph


def _trace(function: Function, examples: Sequence[Tensor], lean: bool = False) -> str:
    from adderlab.engine.native.emit import Emitter

    examples = [example.detach().clone().contiguous() for example in examples]
    assert all(example.dtype == torch.float32 and len(example) == 1 for example in examples)
    emitter = Emitter(traced(function, examples, lean=lean), examples)
    return f"{SHAPES}{json.dumps(emitter.output_shapes)}\n{emitter.source()}"


def _output_shapes(path: Path) -> list[tuple[int, ...]] | None:
    """As the source file names them; None if there is none."""
    try:
        with path.open(encoding="utf-8") as file:
            first = file.readline()
    except OSError:
        return None
    if not first.startswith(SHAPES):
        return None
    return [tuple(shape) for shape in json.loads(first.removeprefix(SHAPES))]


@functools.cache
def _code() -> str:
    """Digest of all code that may decide what a function computes."""
    digest = hashlib.sha256()
    package = FOLDER.parents[1]
    for path in sorted(path for name in PACKAGES for path in (package / name).rglob("*.py")):
        digest.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _pointers(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def _strides(tensors: Sequence[Tensor]) -> Any:
    """Numbers from one seed to the next."""
    return (ctypes.c_int64 * len(tensors))(*(tensor.stride(0) for tensor in tensors))
