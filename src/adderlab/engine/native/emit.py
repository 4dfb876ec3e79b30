"""C++ for a traced graph of tensor operations: every operation a loop over known strides.

The graph is run once on its examples. Where an operation's result shares memory with an earlier
tensor it is a view and needs no code; what no input influences is a constant; the rest becomes
loops over buffers whose places in one scratch array are given out by how long they are needed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

BINARY = {"mul": "*", "add": "+", "sub": "-", "div": "/"}
UNARY = {"sqrt": "std::sqrt", "cos": "std::cos", "sin": "std::sin", "neg": "-", "exp": "std::exp"}
COPIES = ("clone", "_to_copy", "lift_fresh_copy", "copy", "detach", "alias", "view", "_unsafe_view")
OPERATIONS_PER_FUNCTION = 24

HEADER = """// Written by adderlab.engine.native.emit.
#include <cmath>
#include <cstdint>
#include <cstring>
#include "pool.hpp"
"""

FOOTER = """
extern "C" void run_seed(const float* const* x, float* const* y) {{
    alignas(64) static thread_local float w[{scratch}];
    {calls}
}}

extern "C" void run(const float* const* in, const int64_t* in_stride, float* const* out,
                    const int64_t* out_stride, int seeds, int threads) {{
    Pool::get().run(threads, seeds, [&](int64_t seed, int) {{
        const float* x[{inputs}];
        float* y[{outputs}];
        for (int i = 0; i < {inputs}; i++) x[i] = in[i] + seed * in_stride[i];
        for (int i = 0; i < {outputs}; i++) y[i] = out[i] + seed * out_stride[i];
        run_seed(x, y);
    }});
}}
"""


class _Buffer:
    """One allocation: an input, an output, a constant, or a stretch of scratch.

    ``base`` is what the code calls it; ``first`` and ``last`` are the operations that need it.
    """

    def __init__(self, kind: str, size: int, base: str = "") -> None:
        self.kind, self.size, self.base = kind, size, base
        self.first = self.last = -1


class Emitter(Interpreter):
    """Runs the graph on the examples and notes code; ``source`` gives it out."""

    def __init__(self, graph: GraphModule, examples: Sequence[Tensor]) -> None:
        super().__init__(graph)
        self._buffers: dict[int, _Buffer] = {}
        self._alive: list[Any] = []  # keeps every storage, so that no address is used twice
        self._scratch: list[_Buffer] = []
        self._lines: list[tuple[str, list[tuple[_Buffer, int]]]] = []
        self._constants: list[str] = []
        self._num_inputs = len(examples)
        for i, example in enumerate(examples):
            self._buffers[_key(example)] = _Buffer("input", example.numel(), f"x[{i}]")
        results = self.run(*examples)
        self.output_shapes = [tuple(tensor.shape[1:]) for tensor in results]
        for i, result in enumerate(results):
            output = torch.empty_like(result, memory_format=torch.contiguous_format)
            self._alive.append(output)
            self._buffers[_key(output)] = _Buffer("output", output.numel(), f"y[{i}]")
            self._elementwise(output, "{}", (result,))

    # Interpreter ---------------------------------------------------------------------------------

    def run_node(self, n: Node) -> Any:
        if n.op == "get_attr":
            value = super().run_node(n)
            self._alive.append(value)
            self._constant(value)
            return value
        if n.op != "call_function":
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        name = getattr(n.target, "__name__", "").split(".")[0]
        result = n.target(*args, **kwargs)  # type: ignore[operator]
        self._alive.append(result)
        if isinstance(result, Tensor):
            self._note(name, args, kwargs, result)
        return result

    def _note(self, name: str, args: Any, kwargs: Any, out: Tensor) -> None:
        known = _key(out) in self._buffers
        if name.endswith("_") and name not in ("view_",):
            self._in_place(name[:-1], args, out)
        elif known:
            return  # a view
        elif self._is_constant(args) and name not in ("new_zeros", "zeros_like", "new_empty"):
            self._constant(out)
        else:
            self._buffer(out)
            self._compute(name, args, kwargs, out)

    def _is_constant(self, args: Any) -> bool:
        return all(self._buffers[_key(t)].kind == "constant" for t in _tensors(args))

    # Memory --------------------------------------------------------------------------------------

    def _buffer(self, tensor: Tensor) -> _Buffer:
        buffer = _Buffer("scratch", tensor.untyped_storage().nbytes() // 4)
        self._scratch.append(buffer)
        self._buffers[_key(tensor)] = buffer
        return buffer

    def _constant(self, tensor: Tensor) -> None:
        if _key(tensor) in self._buffers:
            return
        storage = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
        values = storage.float().tolist() if tensor.dtype.is_floating_point else []
        name = f"c{len(self._constants)}"
        text = ",".join(float(value).hex() + "f" for value in values)
        self._constants.append(f"static const float {name}[] = {{{text or '0'}}};")
        self._buffers[_key(tensor)] = _Buffer("constant", len(values), name)

    def _emit(self, line: str, places: list[tuple[_Buffer, int]]) -> None:
        """``@0``, ``@1``, ... in ``line`` stand for pointers to the places (buffer, offset)."""
        for buffer, _ in places:
            buffer.last = len(self._lines)
            if buffer.first < 0:
                buffer.first = buffer.last
        self._lines.append((line, places))

    # Operations ----------------------------------------------------------------------------------

    def _compute(self, name: str, args: Any, kwargs: Any, out: Tensor) -> None:
        if name in BINARY:
            assert kwargs.get("alpha", 1) == 1
            self._elementwise(out, f"{{}} {BINARY[name]} {{}}", args[:2])
        elif name in UNARY:
            self._elementwise(out, f"{UNARY[name]}({{}})", args[:1])
        elif name in COPIES:
            self._elementwise(out, "{}", args[:1])
        elif name in ("new_zeros", "zeros_like", "zeros", "new_empty", "empty_like"):
            self._elementwise(out, "0.0f", ())
        elif name in ("ones_like", "new_ones"):
            self._elementwise(out, "1.0f", ())
        elif name in ("cat", "stack"):
            dim = (args[1] if len(args) > 1 else 0) % out.ndim
            self._join(out, args[0], dim, stacked=name == "stack")
        elif name == "select_backward":
            self._elementwise(out, "0.0f", ())
            self._elementwise(out.select(args[2], args[3]), "{}", args[:1])
        elif name == "slice_backward":
            self._elementwise(out, "0.0f", ())
            part = torch.ops.aten.slice.Tensor(out, *args[2:])
            self._elementwise(part, "{}", args[:1])
        elif name == "index":
            (dim,) = (d for d, index in enumerate(args[1]) if index is not None)
            for i, row in enumerate(args[1][dim].tolist()):
                self._elementwise(out.select(dim, i), "{}", (args[0].select(dim, row),))
        else:
            raise AssertionError(f"no code for the operation {name}")

    def _in_place(self, name: str, args: Any, out: Tensor) -> None:
        constant = self._buffers[_key(out)]
        assert constant.kind in ("scratch", "constant"), "a function must not write to its inputs"
        if constant.kind == "constant":
            copy = self._buffer(out)
            self._emit(f"std::memcpy(@0, @1, {4 * copy.size});", [(copy, 0), (constant, 0)])
        if name == "copy":
            self._elementwise(out, "{}", (args[1],))
        elif name == "zero":
            self._elementwise(out, "0.0f", ())
        elif name in BINARY:
            self._elementwise(out, f"{{}} {BINARY[name]} {{}}", args[:2])
        else:
            raise AssertionError(f"no code for the operation {name}_")

    def _join(self, out: Tensor, parts: Sequence[Tensor], dim: int, stacked: bool) -> None:
        start = 0
        for i, part in enumerate(parts):
            size = 1 if stacked else part.shape[dim]
            target = out.select(dim, i) if stacked else out.narrow(dim, start, size)
            self._elementwise(target, "{}", (part,))
            start += size

    def _elementwise(self, out: Tensor, formula: str, args: Sequence[Any]) -> None:
        """out = formula(args) with broadcasting, one loop per axis that is longer than 1."""
        if out.numel() == 0:
            return
        operands = [a.expand(out.shape) if isinstance(a, Tensor) else a for a in args]
        tensors = [out, *(a for a in operands if isinstance(a, Tensor))]
        axes = _axes(tensors)
        places = [(self._buffers[_key(t)], int(t.storage_offset())) for t in tensors]
        number = itertools.count(1)
        terms = [
            f"@{next(number)}[{_index(axes, position)}]" if isinstance(a, Tensor) else f"{float(a)!r}f"
            for position, a in zip(_positions(operands), operands, strict=True)
        ]
        loops = "".join(
            f"for (int i{k} = 0; i{k} < {size}; i{k}++) " for k, (size, _) in enumerate(axes)
        )
        self._emit(f"{loops}@0[{_index(axes, 0)}] = {formula.format(*terms)};", places)

    # Source --------------------------------------------------------------------------------------

    def source(self) -> str:
        """The whole C++ file; its entry point is ``run``."""
        scratch = _give_places(self._scratch)
        arguments = "const float* const* x, float* const* y, float* __restrict w"
        functions, calls = [], []
        for start in range(0, len(self._lines), OPERATIONS_PER_FUNCTION):
            name, chosen = f"part{len(calls)}", self._lines[start : start + OPERATIONS_PER_FUNCTION]
            body = "\n".join(f"    {_fill(line, places)}" for line, places in chosen)
            functions.append(f"static __attribute__((noinline)) void {name}({arguments}) {{\n{body}\n}}")
            calls.append(f"{name}(x, y, w);")
        footer = FOOTER.format(
            scratch=max(scratch, 1),
            inputs=self._num_inputs,
            outputs=len(self.output_shapes),
            calls="\n    ".join(calls),
        )
        return "\n".join([HEADER, *self._constants, *functions, footer])


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def _positions(operands: Sequence[Any]) -> list[int]:
    """For each operand its place among the tensors, the result being the first."""
    places, seen = [], 0
    for operand in operands:
        seen += isinstance(operand, Tensor)
        places.append(seen)
    return places


def _axes(tensors: Sequence[Tensor]) -> list[tuple[int, list[int]]]:
    """(length, stride of every tensor) per axis, neighbours joined where all strides allow it."""
    axes: list[tuple[int, list[int]]] = []
    for d in range(tensors[0].ndim):
        size, strides = tensors[0].shape[d], [tensor.stride(d) for tensor in tensors]
        if size == 1:
            continue
        if axes and all(a == b * size for a, b in zip(axes[-1][1], strides, strict=True)):
            axes[-1] = (axes[-1][0] * size, strides)
        else:
            axes.append((size, strides))
    return axes


def _index(axes: Sequence[tuple[int, list[int]]], tensor: int) -> str:
    terms = [
        f"i{k}" if strides[tensor] == 1 else f"i{k} * {strides[tensor]}"
        for k, (_, strides) in enumerate(axes)
        if strides[tensor]
    ]
    return " + ".join(terms) or "0"


def _fill(line: str, places: Sequence[tuple[_Buffer, int]]) -> str:
    for i, (buffer, offset) in enumerate(places):
        line = line.replace(f"@{i}", f"({buffer.base} + {offset})")
    return line


def _give_places(buffers: Sequence[_Buffer]) -> int:
    """Places in one scratch array; buffers that are never needed together may share one."""
    placed: list[tuple[int, int, _Buffer]] = []
    total = 0
    for buffer in sorted(buffers, key=lambda b: (b.first, -b.size)):
        busy = sorted((a, z) for a, z, other in placed if other.last >= buffer.first)
        size = -(-buffer.size // 16) * 16
        start = 0
        for a, z in busy:
            if a - start >= size:
                break
            start = max(start, z)
        placed.append((start, start + size, buffer))
        buffer.base = f"w + {start}"
        total = max(total, start + size)
    return total
