"""What a model computes, recorded: the list of PyTorch operations of one real call.

The model is run once on one sequence, and every operation it performs is written down, with the tensors
it took and made. Nothing is known of how the model is written: it may be a module, a plain class, or a
function. What decides in Python (a loop, an ``if`` on a configuration) is already decided in the list;
what decides on numbers (``.item()``, ``if x.any()``) is found in it.

A trace holds for one length. It can be run again on other tokens and other parameters, in float64 too:
changes of type between floating-point formats are then left out, for what is meant are real numbers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from adderlab.errors import Failure

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

    def inputs(self) -> list[Ref]:
        """Every tensor it took, in order."""
        return [leaf for leaf in tree_flatten((self.args, self.kwargs))[0] if isinstance(leaf, Ref)]


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One call of a model on ``length`` tokens. Tensors are numbered: 0 is the tokens."""

    nodes: tuple[Node, ...]
    parameters: Mapping[int, str]
    """Tensors that are parameters, by the name under which they are given to ``run``."""
    constants: Mapping[int, Tensor]
    """Other tensors that no operation made: buffers, and numbers written in the program."""
    tokens: Tensor
    """What the call got: (1, length) or (length,)."""
    output: Ref
    """The logits."""
    shapes: Mapping[int, tuple[tuple[int, ...], tuple[int, ...]]]
    """Of every tensor: (size, strides)."""

    @property
    def length(self) -> int:
        return self.tokens.shape[-1]


class _Recorder(TorchDispatchMode):
    """Keeps every operation in its scope, with all tensors alive so that no address is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
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
    try:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), torch.no_grad():
            yield
    finally:
        vars(torch)["inference_mode"] = inference
        vars(torch.nn.functional)["one_hot"] = one_hot
        torch.backends.mha.set_fastpath_enabled(fast)


def _one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    if num_classes < 0:
        raise Failure("one_hot without a number of classes makes shapes that depend on the tokens")
    return (tensor[..., None] == torch.arange(num_classes)).long()


class _no_grad(torch.no_grad):
    def __init__(self, mode: Any = True) -> None:
        super().__init__()

    def __new__(cls, mode: Any = True) -> Any:
        return torch.no_grad()(mode) if callable(mode) else super().__new__(cls)


def record(model: Callable[[Tensor], Any], tokens: Tensor, parameters: Mapping[str, Tensor]) -> Trace:
    """Run ``model`` on ``tokens`` and write down what it does.

    ``parameters`` are the tensors by which it may differ from seed to seed. Raises ``Failure`` for what
    is no trace of tensor operations alone.
    """
    with plain_arithmetic(), _Recorder() as recorder:
        result = model(tokens)
    numbers: dict[int, int] = {id(tokens): 0}
    alive: list[Any] = [tokens]
    constants: dict[int, Tensor] = {}
    found: dict[int, str] = {}
    shapes: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    by_memory = {_memory(tensor): (name, tensor) for name, tensor in parameters.items()}

    def number_of(tensor: Tensor) -> int:
        if id(tensor) not in numbers:
            numbers[id(tensor)] = len(alive)
            alive.append(tensor)
            shapes[numbers[id(tensor)]] = tuple(tensor.shape), tuple(tensor.stride())
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
            else:
                constants[number] = x.detach()
        return Ref(number)

    shapes[0] = tuple(tokens.shape), tuple(tokens.stride())
    nodes = []
    for func, args, kwargs, out in recorder.calls:
        inputs = tree_map(argument, args), tree_map(argument, kwargs)
        if func in (aten._local_scalar_dense.default, aten.item.default, aten.is_nonzero.default):
            outputs: tuple[Ref | None, ...] = (None,)
        elif isinstance(out, Tensor):
            outputs = (Ref(number_of(out)),)
        elif isinstance(out, (tuple, list)):
            outputs = tuple(Ref(number_of(x)) if isinstance(x, Tensor) else None for x in out)
        else:
            outputs = (None,)
        nodes.append(
            Node(
                function=func,
                args=inputs[0],
                kwargs=inputs[1],
                outputs=outputs,
                single=not isinstance(out, (tuple, list)),
            )
        )
    logits = first_logits(result)
    if logits is None or id(logits) not in numbers:
        raise Failure("the model's result is no tensor that its operations made: nothing can be read")
    return Trace(
        nodes=tuple(nodes),
        parameters=found,
        constants=constants,
        tokens=tokens,
        output=Ref(numbers[id(logits)]),
        shapes=shapes,
    )


def first_logits(result: Any) -> Tensor | None:
    """The first tensor of real numbers in what a model returned: a tensor, a tuple, or an object with
    ``logits``."""
    if isinstance(result, Tensor):
        return result if result.is_floating_point() else None
    if isinstance(result, (tuple, list)):
        return next((found for x in result if (found := first_logits(x)) is not None), None)
    if isinstance(result, Mapping):
        return first_logits(result.get("logits"))
    return first_logits(getattr(result, "logits", None))


def _memory(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype


# Running a trace again.

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_CASTS = (aten._to_copy.default, aten.to.dtype)


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
    ``torch.vmap`` unless the model writes into tensors.
    """
    dtype = next((x.dtype for x in parameters.values()), torch.float64)
    values: dict[int, Any] = {0: tokens}
    for number, name in trace.parameters.items():
        values[number] = parameters[name]
    for number, tensor in trace.constants.items():
        values[number] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    values |= override or {}
    needed = _needed(trace, wanted, set(override or ()))

    def value(x: Any) -> Any:
        return values[x.number] if isinstance(x, Ref) else x

    for node, use in zip(trace.nodes, needed, strict=True):
        if not use:
            continue
        args, kwargs = tree_map(value, node.args), tree_map(value, node.kwargs)
        results = _perform(node.function, args, kwargs, dtype)
        for ref, result in zip(node.outputs, results if not node.single else (results,), strict=True):
            if ref is not None and ref.number not in (override or ()):
                values[ref.number] = result
    return {number: values[number] for number in wanted}


def _perform(function: Any, args: Any, kwargs: dict[str, Any], dtype: torch.dtype) -> Any:
    if function in _CASTS and args[0].is_floating_point():
        target = kwargs.get("dtype") or next((a for a in args[1:] if isinstance(a, torch.dtype)), None)
        if target is None or target in _FLOATS:
            return args[0].clone() if function is aten._to_copy.default else args[0]
    if kwargs.get("dtype") in _FLOATS:
        kwargs = {**kwargs, "dtype": dtype}
    result = function(*args, **kwargs)
    if isinstance(result, Tensor) and result.is_floating_point() and result.dtype != dtype:
        return result.to(dtype)  # made from sizes alone, in PyTorch's default type
    return result


def laid_out(tensor: Tensor, shape: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    """A copy with these strides, so that what is a view of the one is a view of the other."""
    overlaps = any(step == 0 and size > 1 for size, step in zip(shape, strides, strict=True))
    copy = (
        torch.empty(shape, dtype=tensor.dtype)
        if overlaps
        else torch.empty_strided(shape, strides, dtype=tensor.dtype)
    )
    return copy.copy_(tensor.expand(shape))


def writes(node: Node) -> bool:
    """Whether an operation changes a tensor that it took."""
    return bool(getattr(node.function, "_schema", None) and node.function._schema.is_mutable)


def _needed(trace: Trace, wanted: set[int], given: set[int]) -> list[bool]:
    """Which operations the wanted tensors depend on; where some write into tensors, all of them."""
    if any(map(writes, trace.nodes)):
        return [True] * len(trace.nodes)
    open_ends, needed = set(wanted), []
    for node in reversed(trace.nodes):
        use = any(ref is not None and ref.number in open_ends - given for ref in node.outputs)
        if use:
            open_ends.update(ref.number for ref in node.inputs())
        needed.append(use)
    return needed[::-1]


def rebuild(node: Node, replace: Callable[[Ref], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The node's arguments with every reference replaced."""
    leaves, spec = tree_flatten((node.args, node.kwargs))
    return tree_unflatten([replace(x) if isinstance(x, Ref) else x for x in leaves], spec)
