"""C++ for a traced graph of tensor operations: every operation a loop over known strides.

The graph is run once on its examples. Where an operation's result shares memory with an earlier
tensor it is a view and needs no code; what no input influences is a constant; the rest becomes
loops over buffers whose places in one scratch array are given out by how long they are needed.
Numbers are float32, truth values among them; sums are taken in a fixed order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from adderlab.engine.native.build import NoCode
from adderlab.engine.native.formulas import HELPED, HELPERS, VECTORS, formula, product

BINARY = {"mul": "*", "add": "+", "sub": "-", "div": "/"}
COPIES = (
    "clone", "_to_copy", "lift_fresh_copy", "detach", "alias", "view", "_unsafe_view", "expand",
    "contiguous", "reshape",
)  # fmt: skip
ZEROS = ("new_zeros", "zeros_like", "zeros", "new_empty", "empty_like")
SUMS = ("sum", "mean", "amax", "amin", "max", "min")
PRODUCTS = ("mm", "bmm", "mv", "dot", "addmm", "baddbmm", "addmv")
MOVED = ("index", "index_select", "embedding", "gather", "repeat", "flip", "roll")
"""Numbers taken from places that no number decides."""
ROWS_ONE_BY_ONE = 64
"""Up to so many rows of an index are copied by a loop each."""
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


Place = tuple[_Buffer, int]
"""Where a tensor begins: in which allocation, and how far into it."""


class Emitter(Interpreter):
    """Runs the graph on the examples and notes code; ``source`` gives it out.

    What is noted is nearly free of C++; ``engine.javascript`` writes it in another language.
    """

    def __init__(self, graph: GraphModule, examples: Sequence[Tensor]) -> None:
        super().__init__(graph)
        self._buffers: dict[int, _Buffer] = {}
        self._alive: list[Any] = []  # keeps every storage, so that no address is used twice
        self._scratch: list[_Buffer] = []
        self.lines: list[tuple[str, list[Place]]] = []
        """A loop each; ``@0``, ``@1``, ... in its text stand for pointers to the places beside it."""
        self.constants: dict[str, list[float]] = {}
        self._unwritten: dict[str, Tensor] = {}
        self.tables: dict[str, str] = {}
        """Whole numbers with commas -> the name of their array."""
        self._helped = self._vectors = False
        """Whether the code calls what ``formulas`` writes for it."""
        self._num_inputs = len(examples)
        for i, example in enumerate(examples):
            self._buffers[_key(example)] = _Buffer("input", example.numel(), f"x[{i}]")
        try:
            results = self.run(*examples)
        except NoCode as error:
            # Torch adds the whole graph to the message.
            raise NoCode(str(error).partition("\n")[0]) from None
        self.output_shapes = [tuple(tensor.shape[1:]) for tensor in results]
        self.output_sizes = [tensor.numel() for tensor in results]
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
        result = n.target(*args, **kwargs)  # type: ignore[operator]
        self._alive.append(result)
        for tensor in _tensors(result):
            self._note(n.target, args, kwargs, tensor)
        return result

    def _note(self, target: Any, args: Any, kwargs: Any, out: Tensor) -> None:
        name = getattr(target, "__name__", "").split(".")[0]
        known = _key(out) in self._buffers
        if name.endswith("_") and name not in ("view_",):
            self._in_place(name[:-1], args, out)
        elif known:
            return  # a view
        elif self._is_constant(args) and name not in ("new_zeros", "zeros_like", "new_empty"):
            self._constant(out)
        else:
            self._buffer(out)
            self._compute(name, target, args, kwargs, out)

    def _is_constant(self, args: Any) -> bool:
        return all(self._buffers[_key(t)].kind == "constant" for t in _tensors(args))

    # Memory --------------------------------------------------------------------------------------

    def _buffer(self, tensor: Tensor) -> _Buffer:
        buffer = _Buffer("scratch", tensor.untyped_storage().nbytes() // tensor.element_size())
        self._scratch.append(buffer)
        self._buffers[_key(tensor)] = buffer
        return buffer

    def _constant(self, tensor: Tensor) -> None:
        if _key(tensor) in self._buffers:
            return
        storage = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
        name = f"c{len(self.constants)}"
        self.constants[name] = storage.double().tolist() if storage.is_floating_point() else []
        self._buffers[_key(tensor)] = _Buffer("constant", len(storage), name)
        if not storage.is_floating_point():
            # Most are indices, which no code reads.
            self._unwritten[name] = storage

    def _place(self, tensor: Tensor) -> Place:
        """Where a tensor that code reads or writes begins."""
        buffer = self._buffers[_key(tensor)]
        if buffer.base in self._unwritten:
            self.constants[buffer.base] = self._unwritten.pop(buffer.base).double().tolist()
        return buffer, int(tensor.storage_offset())

    def _emit(self, line: str, places: list[Place]) -> None:
        for buffer, _ in places:
            buffer.last = len(self.lines)
            if buffer.first < 0:
                buffer.first = buffer.last
        self.lines.append((line, places))

    # Operations ----------------------------------------------------------------------------------

    def _compute(self, name: str, target: Any, args: Any, kwargs: Any, out: Tensor) -> None:
        found = formula(name, args, kwargs)
        if found is not None:
            text, operands = found
            self._elementwise(out, text, operands)
        elif name in COPIES:
            self._elementwise(out, _cast(args[0], out), args[:1])
        elif name == "copy":
            self._elementwise(out, "{}", args[1:2])
        elif name in ZEROS:
            self._elementwise(out, "0.0f", ())
        elif name in ("ones_like", "new_ones"):
            self._elementwise(out, "1.0f", ())
        elif name in ("full_like", "new_full"):
            self._elementwise(out, "{}", (args[-1],))
        elif name in ("cat", "stack"):
            dim = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.ndim
            self._join(out, args[0], dim, stacked=name == "stack")
        elif name in ("select_backward", "slice_backward", "diagonal_backward"):
            self._elementwise(out, "0.0f", ())
            self._elementwise(_part(name, out, args), "{}", args[:1])
        elif name == "constant_pad_nd":
            self._elementwise(out, "0.0f", ())
            target, source = _padded(out, *args)
            self._elementwise(target, "{}", (source,))
        elif name in ("select_scatter", "slice_scatter"):
            self._elementwise(out, "{}", args[:1])
            part = getattr(torch.ops.aten, name.split("_")[0])
            self._elementwise(part(out, *args[2:]), "{}", args[1:2])
        elif name in ("tril", "triu"):
            kept = target(torch.ones(out.shape), *args[1:])
            self._alive.append(kept)
            self._constant(kept)
            self._elementwise(out, "({1} != 0.0f ? {0} : 0.0f)", (args[0], kept))
        elif name in SUMS:
            self._reduce(name, out, args, kwargs)
        elif name in PRODUCTS:
            self._multiply(name, out, args, kwargs)
        elif name == "index" and _is_one_row_after_another(args[1]):
            (dim,) = (d for d, index in enumerate(args[1]) if index is not None)
            for i, row in enumerate(args[1][dim].tolist()):
                self._elementwise(out.select(dim, i), "{}", (args[0].select(dim, row),))
        elif name in MOVED:
            self._need_constants(name, args[1:])
            places = _places(args[0])
            moved = places[args[1]] if name == "embedding" else target(places, *args[1:], **kwargs)
            self._by_table("@0[{0}] = @1[{1}];", out, args[0], moved)
        elif name in ("index_put", "embedding_dense_backward", "index_add", "scatter_add"):
            self._scatter(name, out, args, kwargs)
        else:
            raise NoCode(f"no code for the operation {name}")

    def _need_constants(self, name: str, args: Any) -> None:
        """Raises ``NoCode`` for places that numbers decide."""
        if not self._is_constant(args):
            raise NoCode(f"no code for the operation {name} with places that depend on numbers")

    def _scatter(self, name: str, out: Tensor, args: Any, kwargs: Any) -> None:
        """Numbers added to, or put into, places that no number decides."""
        places, add = _places(out), True
        if name == "embedding_dense_backward":
            grad, index, _, padding, by_frequency = args
            if by_frequency or bool((index == padding).any()):
                raise NoCode("no code for an embedding with padding or scaled by frequency")
            start, targets, values = None, places[index], grad
        elif name == "index_put":
            add = bool(args[3] if len(args) > 3 else kwargs.get("accumulate", False))
            index = args[1]
            start, targets = args[0], torch.ops.aten.index.Tensor(places, index)
            values = args[2]
        elif name == "index_add":
            (start, dim, index, values), targets = args[:4], None
            if kwargs.get("alpha", 1) != 1:
                raise NoCode("no code for index_add with a factor")
            targets = places.index_select(dim, index)
        else:
            start, dim, index, values = args[:4]
            targets = places.gather(dim, index)
            values = values[tuple(slice(size) for size in index.shape)]
        self._need_constants(name, index)
        self._elementwise(out, "0.0f" if start is None else "{}", () if start is None else (start,))
        sign = "+=" if add else "="
        self._by_table(f"@1[{{1}}] {sign} @0[{{0}}];", values.expand(targets.shape), out, targets)

    def _by_table(self, text: str, strided: Tensor, addressed: Tensor, places: Tensor) -> None:
        """A loop over ``strided`` and the numbers of ``addressed`` at ``places`` in its memory."""
        assert strided.shape == places.shape
        if places.numel() == 0:
            return
        size = places.shape[-1] if places.ndim else 1
        together = places.ndim > 0 and size > 1 and bool((places.diff(dim=-1) == 1).all())
        if together:
            places, outer = places[..., 0], strided[..., 0]
            last, step = f"for (int j = 0; j < {size}; j++) ", strided.stride(-1)
        else:
            outer, last, step = strided, "", 0
        places = places.contiguous()
        axes = _axes([outer, places])
        where, row = _index(axes, 0), self._table(places)
        text = text.format(
            f"{where} + j * {step}" if together else where,
            f"{row}[{_index(axes, 1)}]" + (" + j" if together else ""),
        )
        base = self._place(addressed)[0]
        self._emit(f"{_loops(axes)}{last}{text}", [self._place(strided), (base, 0)])

    def _table(self, places: Tensor) -> str:
        numbers = ",".join(map(str, places.flatten().tolist()))
        return self.tables.setdefault(numbers, f"t{len(self.tables)}")

    def _reduce(self, name: str, out: Tensor, args: Any, kwargs: Any) -> None:
        """Sums, means and extremes along axes."""
        x = args[0]
        dims = args[1] if len(args) > 1 else kwargs.get("dim")
        dims = [dims] if isinstance(dims, int) else dims
        dims = sorted(d % x.ndim for d in dims) if dims else list(range(x.ndim))
        if name in ("max", "min") and len(args) > 1:
            raise NoCode(f"no code for the operation {name} along one axis")
        target = out
        if out.ndim < x.ndim:
            for d in dims:
                target = target.unsqueeze(d)
        axes = _axes([target.expand(x.shape), x])
        kept = [axis for axis in axes if axis[1][0]]
        gone = [axis for axis in axes if not axis[1][0]]
        step, first = "{} + {}", "0.0f"
        if name.removeprefix("a") in ("max", "min"):
            step = "larger({}, {})" if "max" in name else "smaller({}, {})"
            first = "-INFINITY" if "max" in name else "INFINITY"
            self._helped = True
        scale = f" / {float(x.numel() // max(1, out.numel()))!r}f" if name == "mean" else ""
        places = [self._place(out), self._place(x)]
        if axes and axes[-1][1][0]:
            both = [*gone, *kept]
            cell, inner = f"@0[{_index(kept, 0)}]", f"@0[{_index(both, 0)}]"
            value = f"@1[{_index(both, 1)}]"
            self._emit(f"{_loops(kept)}{cell} = {first};", places)
            self._emit(f"{_loops(both)}{inner} = {step.format(inner, value)};", places)
            if scale:
                self._emit(f"{_loops(kept)}{cell} = {cell}{scale};", places)
            return
        order = [*kept, *gone]
        self._emit(
            f"{_loops(kept)}{{ float s = {first}; "
            f"{_loops(order, start=len(kept))}s = {step.format('s', f'@1[{_index(order, 1)}]')}; "
            f"@0[{_index(kept, 0)}] = s{scale}; }}",
            places,
        )

    def _multiply(self, name: str, out: Tensor, args: Any, kwargs: Any) -> None:
        found = self._product(name, out, args, kwargs)
        if found is None:
            return
        added, target, a, b = found
        text = product(
            (target.shape[0], a.shape[1], a.shape[2], b.shape[2]),
            (target.stride(), a.stride(), b.stride()),
            add=added,
        )
        self._emit(text, [self._place(target), self._place(a), self._place(b)])
        self._vectors = True

    def _product(
        self, name: str, out: Tensor, args: Any, kwargs: Any
    ) -> tuple[bool, Tensor, Tensor, Tensor] | None:
        """(Whether the result already holds what is added, result, a, b) of a product of matrices a @ b,
        each with an axis in front; None where it has no numbers."""
        start, (a, b) = (args[0], args[1:3]) if name.startswith(("add", "badd")) else (None, args[:2])
        alpha, beta = kwargs.get("alpha", 1), kwargs.get("beta", 1)
        if alpha != 1 or beta != 1:
            raise NoCode(f"no code for {name} with factors")
        target = out
        if name in ("mv", "addmv", "dot"):
            a, b = a if a.ndim == 2 else a[None], b[:, None]
            target = out.reshape(-1)[:, None] if name == "dot" else out[:, None]
        if target.ndim == 2:
            target, a, b = target[None], a[None], b[None]
        if target.numel() == 0:
            return None
        if start is not None:
            self._elementwise(out, "{}", (start,))
        return start is not None, target, a, b

    def _in_place(self, name: str, args: Any, out: Tensor) -> None:
        constant = self._buffers[_key(out)]
        assert constant.kind in ("scratch", "constant"), "a function must not write to its inputs"
        if constant.base in self._unwritten and self._is_constant(args):
            return  # done already, to the very numbers that are written down when they are needed
        if constant.kind == "constant":
            copy = self._buffer(out)
            whole = f"for (int i0 = 0; i0 < {copy.size}; i0++) @0[i0] = @1[i0];"
            self._emit(whole, [(copy, 0), (constant, 0)])
        if name == "copy":
            self._elementwise(out, "{}", (args[1],))
        elif name == "zero":
            self._elementwise(out, "0.0f", ())
        elif name in BINARY:
            self._elementwise(out, f"{{}} {BINARY[name]} {{}}", args[:2])
        else:
            found = formula(name, args, {})
            if found is None:
                raise NoCode(f"no code for the operation {name}_")
            self._elementwise(out, *found)

    def _join(self, out: Tensor, parts: Sequence[Tensor], dim: int, stacked: bool) -> None:
        start = 0
        for i, part in enumerate(parts):
            size = 1 if stacked else part.shape[dim]
            target = out.select(dim, i) if stacked else out.narrow(dim, start, size)
            self._elementwise(target, "{}", (part,))
            start += size

    def _elementwise(self, out: Tensor, text: str, args: Sequence[Any]) -> None:
        """out = text(args) with broadcasting, one loop per axis that is longer than 1."""
        if out.numel() == 0:
            return
        operands = [a.expand(out.shape) if isinstance(a, Tensor) else a for a in args]
        tensors = [out, *(a for a in operands if isinstance(a, Tensor))]
        axes = _axes(tensors)
        places = [self._place(t) for t in tensors]
        number = itertools.count(1)
        terms = [
            f"@{next(number)}[{_index(axes, position)}]" if isinstance(a, Tensor) else _literal(a)
            for position, a in zip(_positions(operands), operands, strict=True)
        ]
        self._helped |= any(call in text for call in HELPED)
        self._emit(f"{_loops(axes)}@0[{_index(axes, 0)}] = {text.format(*terms)};", places)

    # Source --------------------------------------------------------------------------------------

    def give_places(self) -> int:
        """A place in scratch memory for everything that needs one; how many numbers it holds."""
        return _give_places(self._scratch)

    def source(self) -> str:
        """The whole C++ file; its entry point is ``run``."""
        scratch = self.give_places()
        arguments = "const float* const* x, float* const* y, float* __restrict w"
        functions, calls = [], []
        for start in range(0, len(self.lines), OPERATIONS_PER_FUNCTION):
            name, chosen = f"part{len(calls)}", self.lines[start : start + OPERATIONS_PER_FUNCTION]
            body = "\n".join(f"    {_fill(line, places)}" for line, places in chosen)
            functions.append(f"static __attribute__((noinline)) void {name}({arguments}) {{\n{body}\n}}")
            calls.append(f"{name}(x, y, w);")
        footer = FOOTER.format(
            scratch=max(scratch, 1),
            inputs=self._num_inputs,
            outputs=len(self.output_shapes),
            calls="\n    ".join(calls),
        )
        tables = [f"static const int {name}[] = {{{text}}};" for text, name in self.tables.items()]
        helpers = [HELPERS] if self._helped else []
        vectors = [VECTORS] if self._vectors else []
        constants = [_array(name, numbers) for name, numbers in self.constants.items()]
        return "\n".join([HEADER, *helpers, *vectors, *constants, *tables, *functions, footer])


def _array(name: str, numbers: Sequence[float]) -> str:
    text = ",".join(_exact(float(number)) for number in numbers)
    return f"static const float {name}[] = {{{text or '0'}}};"


def _exact(number: float) -> str:
    return number.hex() + "f" if math.isfinite(number) else _literal(number)


def _literal(number: Any) -> str:
    """A scalar as C++ writes it."""
    number = float(number)
    if math.isnan(number):
        return "NAN"
    return f"{number!r}f" if math.isfinite(number) else "-INFINITY" if number < 0 else "INFINITY"


def _cast(source: Tensor, out: Tensor) -> str:
    """How a number changes its type."""
    if not source.is_floating_point() or out.is_floating_point():
        return "{}"
    return "({} != 0.0f ? 1.0f : 0.0f)" if out.dtype == torch.bool else "std::trunc({})"


def _part(name: str, out: Tensor, args: Any) -> Tensor:
    """Where in the result the first argument goes; zeros lie around it."""
    if name == "select_backward":
        return out.select(args[2], args[3])
    if name == "slice_backward":
        return torch.ops.aten.slice.Tensor(out, *args[2:])
    return torch.ops.aten.diagonal.default(out, *args[2:])


def _padded(
    out: Tensor, source: Tensor, pads: Sequence[int], value: float = 0.0
) -> tuple[Tensor, Tensor]:
    """What of the source goes where in the result; a negative width cuts off."""
    if value:
        raise NoCode("no code for padding with other numbers than zero")
    for d in range(len(pads) // 2):
        dim, (before, after) = out.ndim - 1 - d, pads[2 * d : 2 * d + 2]
        cut, cut_after = max(0, -before), max(0, -after)
        source = source.narrow(dim, cut, source.shape[dim] - cut - cut_after)
        out = out.narrow(dim, max(0, before), source.shape[dim])
    return out, source


def _is_one_row_after_another(indices: Sequence[Tensor | None]) -> bool:
    given = [index for index in indices if index is not None]
    return len(given) == 1 and given[0].ndim == 1 and len(given[0]) <= ROWS_ONE_BY_ONE


def _places(tensor: Tensor) -> Tensor:
    """Where in its memory each of its numbers lies."""
    size = tensor.untyped_storage().nbytes() // tensor.element_size()
    return torch.arange(size).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _loops(axes: Sequence[tuple[int, list[int]]], start: int = 0) -> str:
    return "".join(
        f"for (int i{k} = 0; i{k} < {size}; i{k}++) " for k, (size, _) in enumerate(axes) if k >= start
    )


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


def _fill(line: str, places: Sequence[Place]) -> str:
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
