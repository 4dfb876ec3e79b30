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
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from adderlab.engine.native.build import FOLDER, Say, cache_folder, load_library, to_stderr
from adderlab.engine.native.emit import Emitter
from adderlab.runs.atomic import write_text

Function = Callable[..., tuple[Tensor, ...]]


class Program:
    """``function`` of stacked tensors (seed axis first), compiled for the shapes of ``examples``.

    The examples hold one seed; calls may hold any number. Raises ``NativeUnavailable`` where the
    compiler fails.
    """

    def __init__(
        self,
        function: Function,
        examples: Sequence[Tensor],
        threads: int = 1,
        *,
        say: Say = to_stderr,
    ) -> None:
        examples = [example.detach().clone().contiguous() for example in examples]
        assert all(example.dtype == torch.float32 and len(example) == 1 for example in examples)
        function(*examples)  # what it keeps for later calls must not become part of the trace
        emitter = Emitter(make_fx(function)(*examples), examples)
        self.shapes = emitter.output_shapes
        source = emitter.source()
        name = f"program-{hashlib.sha256(source.encode()).hexdigest()[:16]}.cpp"
        path = cache_folder(say) / name
        if not path.is_file():
            write_text(path, source)
        flags = ("-ftree-vectorize", "-w", f"-I{FOLDER}")
        library = load_library(path, optimise="-O2", extra=flags, say=say)
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


def _pointers(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def _strides(tensors: Sequence[Tensor]) -> Any:
    """Numbers from one seed to the next."""
    return (ctypes.c_int64 * len(tensors))(*(tensor.stride(0) for tensor in tensors))
