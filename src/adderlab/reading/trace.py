"""What a model computes, recorded: the list of PyTorch operations of one real call.

The model is run once on one sequence, and every operation it performs is written down, with the tensors
it took and made. Nothing is known of how the model is written: it may be a module, a plain class, or a
function. What decides in Python (a loop, an ``if`` on a configuration) is already decided in the list;
what decides on numbers (``.item()``, ``if x.any()``) is found in it.

Writing into tensors is turned into making new ones (``torch.func.functionalize``): each tensor of a
trace has one value, whatever is later written in its place. Under it the tokens hold no numbers that
Python could read unseen. Operations that are others put together are written down as those
(``Rewriting``).

A trace holds for one length. It can be run again on other tokens and other parameters, in float64 too:
changes of type between floating-point formats are then left out, for what is meant are real numbers.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from adderlab.errors import Failure, UsageError
from adderlab.reading.running import first_logits, plain_rms_norm

aten = torch.ops.aten


@dataclass(frozen=True)
class Ref:
    """A tensor of the trace, by its number."""

    number: int


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operation: arguments as it got them, tensors replaced by references."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Ref | None, ...]
    """One for each tensor that it returned; None where it returned something else."""
    single: bool
    """Whether it returned one tensor and no sequence of them."""

    @property
    def name(self) -> str:
        """As PyTorch prints it, without the overload: ``aten.softmax``."""
        return ".".join(str(self.function).split(".")[:2])

    @property
    def operation(self) -> str:
        """Its name among PyTorch's own operations, ``softmax``; of others the whole name."""
        return self.name.removeprefix("aten.")

    @cached_property
    def named(self) -> dict[str, Any]:
        """Every argument by its name in the operation's schema, defaults included."""
        schema = self.function._schema
        given = {argument.name: x for argument, x in zip(schema.arguments, self.args, strict=False)}
        defaults = {argument.name: argument.default_value for argument in schema.arguments}
        return {**defaults, **given, **self.kwargs}

    @property
    def writes(self) -> bool:
        """Whether it changes a tensor that was there before the call: the model's own state."""
        return self.function._schema.is_mutable

    def inputs(self) -> list[Ref]:
        """Every tensor it took, in order."""
        return [leaf for leaf in tree_flatten((self.args, self.kwargs))[0] if isinstance(leaf, Ref)]


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One call of a model on ``length`` tokens, or one for each of several beginnings of them. Tensors
    are numbered: 0 is the tokens."""

    nodes: tuple[Node, ...]
    parameters: Mapping[int, str]
    """Tensors that are parameters, by the name under which they are given to ``run``."""
    constants: Mapping[int, Tensor]
    """Other tensors that no operation made: buffers, and numbers written in the program."""
    tokens: Tensor
    """What the call got: (1, length) or (length,)."""
    outputs: tuple[Ref, ...]
    """The logits of every call."""
    shapes: Mapping[int, tuple[int, ...]]
    """Of every tensor."""

    @property
    def length(self) -> int:
        return self.tokens.shape[-1]


_MOVES_IN_PLACE = {
    aten.squeeze_.default: aten.squeeze.default,
    aten.squeeze_.dim: aten.squeeze.dim,
    aten.squeeze_.dims: aten.squeeze.dims,
    aten.unsqueeze_.default: aten.unsqueeze.default,
    aten.t_.default: aten.t.default,
    aten.transpose_.default: aten.transpose.int,
}
"""What PyTorch does in place with the shapes of its own intermediate results."""


class _Recorder(TorchDispatchMode):
    """Keeps every operation in its scope, with all tensors alive so that no address is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any, list[tuple[int, ...]]]] = []
        """(operation, arguments, named ones, results, their shapes)."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.namespace == "profiler":
            return out  # a note of when it ran
        shapes = [tuple(x.shape) for x in tree_flatten(out)[0] if isinstance(x, Tensor)]
        self.calls.append((func, args, kwargs or {}, out, shapes))
        return out


@contextlib.contextmanager
def plain_arithmetic() -> Iterator[None]:
    """Fused kernels off, so that attention and encoder layers show the operations they consist of."""
    fast = torch.backends.mha.get_fastpath_enabled()
    inference = torch.inference_mode
    torch.backends.mha.set_fastpath_enabled(False)
    # Under inference mode operations are recorded whole, before they fall into their parts.
    vars(torch)["inference_mode"] = _no_grad
    # It looks at its tokens in Python, to check them.
    one_hot = torch.nn.functional.one_hot
    vars(torch.nn.functional)["one_hot"] = _one_hot
    seen = {name: getattr(Tensor, name) for name in ("tolist", "numpy", "__array__", "data_ptr")}
    for name, function in seen.items():
        setattr(Tensor, name, _refusing(function))
    weight_norm = vars(torch)["_weight_norm"]
    vars(torch)["_weight_norm"] = _weight_norm
    attention = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    try:
        with attention, plain_rms_norm(), torch.no_grad():
            yield
    finally:
        vars(torch)["inference_mode"] = inference
        vars(torch)["_weight_norm"] = weight_norm
        vars(torch.nn.functional)["one_hot"] = one_hot
        for name, function in seen.items():
            setattr(Tensor, name, function)
        torch.backends.mha.set_fastpath_enabled(fast)


def _refusing(function: Callable[..., Any]) -> Callable[..., Any]:
    """A method that reads a tensor's numbers past PyTorch, for tensors that have any."""

    @functools.wraps(function)
    def refusing(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        if torch._is_functional_tensor(self):
            raise Failure(
                f"it reads tensors as Python or numpy numbers ({function.__name__}): what it computes "
                "from them cannot be followed"
            )
        return function(self, *args, **kwargs)

    return refusing


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    others = [d for d in range(v.ndim) if dim == -1 or d != dim % v.ndim]
    return v * (g / v.square().sum(others, keepdim=True).sqrt())


def _one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    if num_classes < 0:
        raise Failure("one_hot without a number of classes makes shapes that depend on the tokens")
    return (tensor[..., None] == torch.arange(num_classes)).long()


class _no_grad(torch.no_grad):
    def __init__(self, mode: Any = True) -> None:
        super().__init__()

    def __new__(cls, mode: Any = True) -> Any:
        return torch.no_grad()(mode) if callable(mode) else super().__new__(cls)


def record(
    model: Callable[[Tensor], Any],
    tokens: Tensor,
    parameters: Mapping[str, Tensor],
    lengths: Sequence[int] | None = None,
) -> Trace:
    """Run ``model`` on ``tokens``, or on so many of the first ones for each of ``lengths``, and write
    down what it does.

    ``parameters`` are the tensors by which it may differ from seed to seed. Raises ``Failure`` for what
    is no trace of tensor operations alone.
    """

    def called(own: Tensor) -> tuple[Any, ...]:
        parts = [own] if lengths is None else [own[..., :length] for length in lengths]
        return tuple(first_logits(model(part)) for part in parts)

    with plain_arithmetic(), _Recorder() as recorder:
        try:
            results = torch.func.functionalize(called)(tokens)
        except (Failure, UsageError):
            raise
        except Exception as error:
            raise Failure(_why_not_recorded(error)) from error
    numbers: dict[int, int] = {id(tokens): 0}
    alive: list[Any] = [tokens]
    constants: dict[int, Tensor] = {}
    found: dict[int, str] = {}
    shapes: dict[int, tuple[int, ...]] = {0: tuple(tokens.shape)}
    by_memory = {_memory(tensor): (name, tensor) for name, tensor in parameters.items()}
    storages = {_storage(tensor): name for name, tensor in parameters.items() if tensor.numel()}

    def number_of(tensor: Tensor, shape: tuple[int, ...] | None = None) -> int:
        if id(tensor) not in numbers:
            numbers[id(tensor)] = len(alive)
            alive.append(tensor)
            shapes[numbers[id(tensor)]] = tuple(tensor.shape) if shape is None else shape
        return numbers[id(tensor)]

    def argument(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        new = id(x) not in numbers
        number = number_of(x)
        if new:
            name, _ = by_memory.get(_memory(x), (None, None))
            if name is not None:
                found[number] = name
                return Ref(number)
            shared = storages.get(_storage(x)) if x.numel() else None
            if shared is not None:
                raise Failure(
                    f"it holds a view of its parameter {shared}, made before it is called: the call "
                    "must use the parameter itself"
                )
            constants[number] = x.detach().clone()
        return Ref(number)

    nodes, made = [], set()
    for func, args, kwargs, out, sizes in recorder.calls:
        inputs = tree_map(argument, args), tree_map(argument, kwargs)
        if func in _MOVES_IN_PLACE and numbers[id(out)] in made:
            # The same tensor object, seen otherwise: a tensor of its own in the trace.
            func = _MOVES_IN_PLACE[func]
            del numbers[id(out)]
        refs = iter(sizes)
        if func in (aten._local_scalar_dense.default, aten.item.default, aten.is_nonzero.default):
            outputs: tuple[Ref | None, ...] = (None,)
        elif isinstance(out, Tensor):
            outputs = (Ref(number_of(out, next(refs))),)
        elif isinstance(out, (tuple, list)):
            outputs = tuple(
                Ref(number_of(x, next(refs))) if isinstance(x, Tensor) else None for x in out
            )
        else:
            outputs = (None,)
        made.update(ref.number for ref in outputs if ref is not None)
        nodes.append(
            Node(
                function=func,
                args=inputs[0],
                kwargs=inputs[1],
                outputs=outputs,
                single=not isinstance(out, (tuple, list)),
            )
        )
    if any(result is None or id(result) not in numbers for result in results):
        raise Failure("the model's result is no tensor that its operations made: nothing can be read")
    complex_ones = {i for i, tensor in enumerate(alive) if tensor.is_complex()}
    for number in complex_ones.intersection(constants):
        constants[number] = as_pair(constants[number])
        shapes[number] = tuple(constants[number].shape)
    rewriting = Rewriting(shapes, complex_ones)
    for node in nodes:
        rewriting.add(node)
    return Trace(
        nodes=tuple(rewriting.nodes),
        parameters=found,
        constants=constants,
        tokens=tokens,
        outputs=tuple(Ref(numbers[id(result)]) for result in results),
        shapes=shapes,
    )


def _why_not_recorded(error: Exception) -> str:
    text = (str(error).splitlines() or [""])[0]
    if "mutating a non-functional tensor" in str(error):
        return "it writes what it computes into its own tensors: its state changes between calls"
    return f"it fails when it is recorded: {type(error).__name__}: {text}"


def _memory(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


# Running a trace again.

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_CASTS = (aten._to_copy.default, aten.to.dtype)
VIEWS = (aten.view.default, aten._unsafe_view.default)


def run(
    trace: Trace,
    parameters: Mapping[str, Tensor],
    tokens: Tensor,
    wanted: set[int],
    override: Mapping[int, Tensor] | None = None,
) -> dict[int, Tensor]:
    """The tensors ``wanted`` of the trace, with these parameters and tokens of the traced shape, and
    with those of ``override`` in the place of what operations make.

    All floating-point numbers have the parameters' type. Differentiable, and can be batched by
    ``torch.vmap``.
    """
    dtype = next((x.dtype for x in parameters.values()), torch.float64)
    values: dict[int, Any] = {0: tokens}
    for number, name in trace.parameters.items():
        values[number] = parameters[name]
    for number, tensor in trace.constants.items():
        values[number] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    values |= override or {}
    needed = needed_nodes(trace, wanted, set(override or ()))

    def value(x: Any) -> Any:
        return values[x.number] if isinstance(x, Ref) else x

    for node, use in zip(trace.nodes, needed, strict=True):
        if not use:
            continue
        args, kwargs = tree_map(value, node.args), tree_map(value, node.kwargs)
        results = perform(node.function, args, kwargs, dtype)
        for ref, result in zip(node.outputs, results if not node.single else (results,), strict=True):
            if ref is not None and ref.number not in (override or ()):
                values[ref.number] = result
    return {number: values[number] for number in wanted}


def perform(function: Any, args: Any, kwargs: dict[str, Any], dtype: torch.dtype) -> Any:
    """One operation of a trace again, its floating-point numbers in this type."""
    if function in _CASTS and args[0].is_floating_point():
        target = kwargs.get("dtype") or next((a for a in args[1:] if isinstance(a, torch.dtype)), None)
        if target is None or target in _FLOATS:
            return args[0]
    if function in VIEWS:
        return args[0].reshape(args[1])  # a batched tensor may lie in memory in another way
    if function is aten.copy.default and args[1].dtype == args[0].dtype:
        return args[1].expand(args[0].shape)  # as those below, it cannot be batched
    if function in (aten.slice_scatter.default, aten.select_scatter.default):
        return _pasted(function is aten.select_scatter.default, *args)
    if function is aten.diag_embed.default and len(args) == 1:
        diagonal = torch.eye(args[0].shape[-1], dtype=torch.bool)
        return torch.where(diagonal, args[0][..., None], 0)
    if kwargs.get("dtype") in _FLOATS:
        kwargs = {**kwargs, "dtype": dtype}
    result = function(*args, **kwargs)
    if isinstance(result, Tensor) and result.is_floating_point() and result.dtype != dtype:
        return _in_type(function, args, kwargs, result, dtype)
    return result


def _in_type(
    function: Any, args: Any, kwargs: dict[str, Any], result: Tensor, dtype: torch.dtype
) -> Tensor:
    """``result`` was made of sizes and whole numbers, in PyTorch's default type: made again in this one,
    for 0.1 in float32 is another number."""
    whole = [x for x in args if isinstance(x, Tensor) and not x.is_floating_point()]
    if not whole and any(argument.name == "dtype" for argument in function._schema.arguments):
        return function(*args, **{**kwargs, "dtype": dtype})
    if function in _CHOOSING:
        condition, *chosen = args
        return aten.where.self(condition, *(torch.as_tensor(x).to(dtype) for x in chosen))
    if function in _ARITHMETIC:
        return function(*(x.to(dtype) if isinstance(x, Tensor) else x for x in args), **kwargs)
    if any(x.dtype != torch.bool for x in whole):
        return function(
            *(x.to(dtype) if isinstance(x, Tensor) and x.dtype != torch.bool else x for x in args),
            **kwargs,
        )
    return result.to(dtype)


_ARITHMETIC = (
    aten.mul.Tensor, aten.mul.Scalar, aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor,
    aten.sub.Scalar, aten.rsub.Scalar, aten.div.Tensor, aten.div.Scalar,
)  # fmt: skip
"""Also of truth values: 0.3 where a position is the last."""
_CHOOSING = (aten.where.Scalar, aten.where.ScalarSelf, aten.where.ScalarOther)


def _pasted(
    one: bool, x: Tensor, source: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Tensor:
    """``x`` with parts along ``dim`` replaced: one of them (at ``start``), or a slice."""
    parts, dim = list(x.unbind(dim)), dim % x.ndim
    if one:
        parts[start] = source.to(x.dtype)
    else:
        places = range(len(parts))[slice(start, end, step)]
        for place, part in zip(places, source.to(x.dtype).unbind(dim), strict=True):
            parts[place] = part
    return torch.stack(parts, dim)


def needed_nodes(trace: Trace, wanted: set[int], given: Set[int] = frozenset()) -> list[bool]:
    """Which operations the wanted tensors depend on, beyond those that are given."""
    open_ends, needed = set(wanted), []
    for node in reversed(trace.nodes):
        use = any(ref is not None and ref.number in open_ends - given for ref in node.outputs)
        if use:
            open_ends.update(ref.number for ref in node.inputs())
        needed.append(use)
    return needed[::-1]


def keeps_numbers(node: Node) -> bool:
    """Whether a change of type is one between floating-point formats."""
    dtype = node.named.get("dtype")
    return dtype is None or dtype in _FLOATS


def rebuild(node: Node, replace: Callable[[Ref], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The node's arguments with every reference replaced."""
    leaves, spec = tree_flatten((node.args, node.kwargs))
    return tree_unflatten([replace(x) if isinstance(x, Ref) else x for x in leaves], spec)


# Recorded operations that are others put together are taken apart: sums with products, complex numbers.

_WITH_SUM = {
    aten.addmm.default: aten.mm.default,
    aten.baddbmm.default: aten.bmm.default,
    aten.addmv.default: aten.mv.default,
}

_SUMS_OF_TWO = {
    aten.addcmul.default: aten.mul.Tensor,
    aten.addcdiv.default: aten.div.Tensor,
    aten.lerp.Tensor: aten.mul.Tensor,
    aten.lerp.Scalar: aten.mul.Scalar,
}


class Rewriting:
    """Nodes of a trace, rewritten one by one. New tensors get numbers after those that there are."""

    def __init__(self, shapes: dict[int, tuple[int, ...]], complex_ones: Collection[int]) -> None:
        self.nodes: list[Node] = []
        self._shapes, self._complex = shapes, set(complex_ones)

    def add(self, node: Node) -> None:
        """Raises ``Failure`` for an operation on complex numbers that is not known."""
        numbers = [ref.number for ref in (*node.inputs(), *node.outputs) if ref is not None]
        if self._complex.intersection(numbers):
            self._on_complex(node)
        elif node.function in _WITH_SUM:
            self._with_sum(node)
        elif node.function in _SUMS_OF_TWO:
            self._sum_of_two(node)
        else:
            self.nodes.append(node)

    def _put(self, function: Any, *args: Any, shape: Sequence[int], out: Ref | None = None) -> Ref:
        out = out or Ref(max(self._shapes) + 1)
        self._shapes[out.number] = tuple(shape)
        self.nodes.append(Node(function=function, args=args, kwargs={}, outputs=(out,), single=True))
        return out

    def _with_sum(self, node: Node) -> None:
        """beta * x + alpha * (a @ b)."""
        alpha, beta = node.named["alpha"], node.named["beta"]
        if node.operation == "addmm" and alpha == beta == 1:
            self.nodes.append(node)  # as it is known
            return
        x, a, b = node.args[:3]
        (out,) = node.outputs
        assert out is not None
        shape = self._shapes[out.number]
        scaled, added = alpha != 1, beta != 0
        y = self._put(_WITH_SUM[node.function], a, b, shape=shape, out=None if scaled or added else out)
        if scaled:
            y = self._put(aten.mul.Scalar, y, alpha, shape=shape, out=None if added else out)
        if added:
            x = x if beta == 1 else self._put(aten.mul.Scalar, x, beta, shape=self._shapes[x.number])
            self._put(aten.add.Tensor, x, y, shape=shape, out=out)

    def _sum_of_two(self, node: Node) -> None:
        """x + value * (a times or by b); x + weight * (y - x)."""
        (out,) = node.outputs
        assert out is not None
        x, a, b = (*node.args, *node.kwargs.values())[:3]
        if node.operation == "lerp":
            y = self._put(aten.sub.Tensor, a, x, shape=self._together(a, x))
            y = self._put(_SUMS_OF_TWO[node.function], y, b, shape=self._together(y, b))
        else:
            y = self._put(_SUMS_OF_TWO[node.function], a, b, shape=self._together(a, b))
            value = node.named["value"]
            if value != 1:
                y = self._put(aten.mul.Scalar, y, value, shape=self._shapes[y.number])
        self._put(aten.add.Tensor, x, y, shape=self._shapes[out.number], out=out)

    def _together(self, *operands: Any) -> tuple[int, ...]:
        shapes = [self._shapes[x.number] for x in operands if isinstance(x, Ref)]
        return tuple(np.broadcast_shapes(*shapes))

    # Complex numbers ------------------------------------------------------------------------------

    def _on_complex(self, node: Node) -> None:
        (out,) = node.outputs if len(node.outputs) == 1 else (None,)
        rule = _COMPLEX.get(node.operation)
        if rule is None or out is None:
            raise Failure(f"the operation {node.name} on complex numbers is not in the reading's table")
        rule(self, node, out)

    def _alias(self, node: Node, out: Ref) -> None:
        x = node.args[0]
        self._put(aten.alias.default, x, shape=self._shapes[x.number], out=out)

    def _pair(self, real: Ref, imaginary: Ref, out: Ref, shape: Sequence[int]) -> None:
        self._put(aten.stack.default, [real, imaginary], -1, shape=(*shape, 2), out=out)

    def _parts(self, x: Ref) -> tuple[Ref, Ref]:
        shape = self._shapes[x.number][:-1]
        return (
            self._put(aten.select.int, x, -1, 0, shape=shape),
            self._put(aten.select.int, x, -1, 1, shape=shape),
        )

    def _polar(self, node: Node, out: Ref) -> None:
        size, angle = node.args
        shape = self._shapes[out.number]
        parts = []
        for function in (aten.cos.default, aten.sin.default):
            turned = self._put(function, angle, shape=self._shapes[angle.number])
            parts.append(self._put(aten.mul.Tensor, turned, size, shape=shape))
        self._pair(parts[0], parts[1], out, shape)

    def _of_parts(self, node: Node, out: Ref) -> None:
        real, imaginary = node.args
        self._pair(real, imaginary, out, self._shapes[out.number])

    def _multiply(self, node: Node, out: Ref) -> None:
        x, y = node.args
        # Tensors with their second axis have it in the table of shapes; the result has not yet.
        shape = self._shapes[out.number]
        if not all(isinstance(z, Ref) and z.number in self._complex for z in (x, y)):
            if isinstance(x, Ref) and x.number not in self._complex:
                x, y = y, x
            if isinstance(y, complex):
                raise Failure(f"{node.name} by a complex number is not in the reading's table")
            if isinstance(y, Ref):
                y = self._put(aten.unsqueeze.default, y, -1, shape=(*self._shapes[y.number], 1))
            self._put(aten.mul.Tensor, x, y, shape=(*shape, 2), out=out)
            return
        (a, b), (c, d) = self._parts(x), self._parts(y)

        def times(u: Ref, v: Ref) -> Ref:
            return self._put(aten.mul.Tensor, u, v, shape=shape)

        real = self._put(aten.sub.Tensor, times(a, c), times(b, d), shape=shape)
        self._pair(real, self._put(aten.add.Tensor, times(a, d), times(b, c), shape=shape), out, shape)

    def _moved(self, node: Node, out: Ref) -> None:
        """The same move, the last axis staying where it is."""
        x, *rest = node.args
        dims = len(self._shapes[x.number]) - 1
        name = node.operation
        if name in ("view", "_unsafe_view", "expand"):
            rest[0] = [*rest[0], 2]
        elif name in ("slice", "select", "unsqueeze"):
            axes = dims + 1 if name == "unsqueeze" else dims
            rest = [(rest[0] if rest else 0) % axes, *rest[1:]]
        elif name == "transpose":
            rest = [each % dims for each in rest]
        elif name == "permute":
            rest[0] = [*(each % dims for each in rest[0]), dims]
        self._put(node.function, x, *rest, shape=(*self._shapes[out.number], 2), out=out)


_COMPLEX: dict[str, Callable[[Rewriting, Node, Ref], None]] = {
    "view_as_complex": Rewriting._alias,
    "view_as_real": Rewriting._alias,
    "polar": Rewriting._polar,
    "complex": Rewriting._of_parts,
    "mul": Rewriting._multiply,
    **dict.fromkeys(
        (
            "view", "_unsafe_view", "expand", "slice", "select", "unsqueeze", "transpose", "permute",
            "clone", "alias", "detach",
        ),
        Rewriting._moved,
    ),
}  # fmt: skip


def as_pair(tensor: Tensor) -> Tensor:
    """A complex constant as a real one."""
    return torch.view_as_real(tensor.resolve_conj()).clone()
