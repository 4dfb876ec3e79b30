"""Pure functions of small tensors, and their derivatives, compiled from a trace to C++.

The map from parameters to tables is a few hundred tiny PyTorch operations; calling them costs far
more than computing them. ``Program`` traces such a function once, on one seed, and writes every
operation as a plain loop over the very memory layout that PyTorch used, so that a call costs one
call. Seeds run one after another through the same code, spread over threads: their results do not
depend on each other.

The shapes must not depend on the values, and everything is float32 on the CPU.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adderlab.engine.base import Function
from adderlab.engine.native.build import FOLDER, Log, cache_folder, load_library, to_stderr
from adderlab.files.atomic import write_text

if TYPE_CHECKING:
    from torch.fx import GraphModule


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
