"""Which tokens, and whether the parameters, every number of a trace may depend on: exactly, bit by bit.

Beside every tensor stands a tensor of integers of the same shape and strides: bit p is set if that
number may depend on the token at position p, bit ``PARAMETER`` if it may depend on the parameters. What
moves numbers about moves their bits; elementwise operations unite them; sums unite them along their
axis. Two exceptions make it sharp: minus infinity plus anything is minus infinity, and zero times
anything is zero, where both are fixed, whatever tokens and parameters are (a causal mask, and the
weights of the keys that it hides). An operation that is not listed here is refused by its name, never
guessed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adderlab.errors import Failure
from adderlab.reading.trace import Node, Ref, Trace, laid_out, rebuild, writes

aten = torch.ops.aten
PARAMETER = 62
"""The bit of the parameters; positions have the bits below it."""
LONGEST = PARAMETER

MOVES = {
    getattr(aten, name).default if isinstance(overload, str) and overload == "" else
    getattr(getattr(aten, name), overload)
    for name, overload in (
        ("view", "default"), ("_unsafe_view", "default"), ("permute", "default"), ("transpose", "int"),
        ("t", "default"), ("expand", "default"), ("unsqueeze", "default"), ("squeeze", "dim"),
        ("squeeze", "dims"), ("squeeze", "default"), ("slice", "Tensor"), ("select", "int"),
        ("split", "Tensor"), ("split_with_sizes", "default"), ("unbind", "int"), ("cat", "default"),
        ("stack", "default"), ("clone", "default"), ("detach", "default"), ("alias", "default"),
        ("flip", "default"), ("roll", "default"), ("repeat", "default"), ("index_select", "default"),
        ("tril", "default"), ("triu", "default"), ("diagonal", "default"), ("unfold", "default"),
        ("as_strided", "default"), ("reshape", "default"), ("contiguous", "default"),
        ("movedim", "int"), ("lift_fresh", "default"), ("chunk", "default"), ("narrow", "default"),
        ("repeat_interleave", "self_int"), ("expand_as", "default"), ("flatten", "using_ints"),
        ("unsafe_split", "Tensor"), ("broadcast_to", "default"), ("view_as", "default"),
        ("matrix_H", "default"), ("numpy_T", "default"),
    )
    if hasattr(aten, name) and hasattr(getattr(aten, name), overload)
}  # fmt: skip
"""Operations that only move numbers about, or put zeros in their place."""
CASTS = {aten._to_copy.default, aten.to.dtype}
CREATORS = {
    "arange", "zeros", "ones", "full", "eye", "empty", "new_zeros", "new_ones", "new_full", "new_empty",
    "zeros_like", "ones_like", "full_like", "empty_like", "scalar_tensor", "linspace", "tril_indices",
    "triu_indices", "new_empty_strided", "empty_strided",
}  # fmt: skip
"""Operations that make numbers from sizes alone."""
POINTWISE = {
    "add", "sub", "rsub", "mul", "div", "neg", "abs", "sqrt", "rsqrt", "reciprocal", "exp", "exp2",
    "log",
    "log2", "log1p", "expm1", "sin", "cos", "tanh", "sigmoid", "relu", "gelu", "silu", "softplus",
    "square",
    "pow", "clamp", "clamp_min", "clamp_max", "hardtanh", "minimum", "maximum", "where", "masked_fill",
    "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_not", "bitwise_and",
    "bitwise_or", "bitwise_not", "bitwise_xor", "remainder", "fmod", "floor", "ceil", "round", "trunc",
    "floor_divide", "sign", "erf", "leaky_relu", "elu", "relu6", "hardswish", "hardsigmoid", "mish",
    "log_sigmoid_forward", "addcmul", "addcdiv", "lerp", "isinf", "isnan", "copy", "fill", "threshold",
    "nan_to_num", "cosh", "sinh", "atan", "tan", "logaddexp", "selu", "celu", "isfinite",
}  # fmt: skip
REDUCTIONS = {"sum", "mean", "amax", "amin", "max", "min", "var", "std", "prod", "any", "all",
              "logsumexp", "linalg_vector_norm", "norm", "var_mean", "argmax", "argmin"}  # fmt: skip
PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "dot", "mv", "addmv", "matmul"}
RANDOM = {"bernoulli", "bernoulli_", "native_dropout", "rand", "randn", "randint", "rand_like",
"randn_like",
          "normal", "normal_", "uniform_", "multinomial", "dropout", "randperm", "randint_like",
          "exponential_", "random_"}  # fmt: skip
DECISIONS = {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "unique",
             "_unique2", "unique_consecutive"}  # fmt: skip


class Dependence:
    """The bits of every tensor of a trace, and the values of those that nothing decides."""

    def __init__(self, trace: Trace, parameters: dict[str, Tensor]) -> None:
        """Raises ``Failure`` naming the first operation that is not known, or not allowed."""
        if trace.length > LONGEST:
            raise Failure(f"it reads {trace.length} tokens at once; the reading goes up to {LONGEST}")
        self.trace = trace
        self.bits: dict[int, Tensor] = {}
        self.fixed: dict[int, Tensor] = {}
        """Every tensor as one real run made it: true of all runs where its bits are 0."""
        length = trace.length
        tokens = torch.ones(length, dtype=torch.int64) << torch.arange(length)
        self.bits[0] = tokens.expand(trace.tokens.shape).clone()
        self.fixed[0] = trace.tokens
        for number, name in trace.parameters.items():
            tensor = parameters[name].detach().double()
            self._put(number, torch.full(tensor.shape, 1 << PARAMETER), tensor)
        for number, tensor in trace.constants.items():
            tensor = tensor.double() if tensor.is_floating_point() else tensor
            self._put(number, torch.zeros(tensor.shape, dtype=torch.int64), tensor.clone())
        self._leaves = {*trace.parameters, *trace.constants, 0}
        self._memory = {self.bits[number].untyped_storage().data_ptr() for number in self._leaves}
        for node in trace.nodes:
            self._node(node)

    def positions(self, number: int) -> Tensor:
        """The bits of tokens alone."""
        return self.bits[number] & ((1 << PARAMETER) - 1)

    def _put(self, number: int, bits: Tensor, value: Tensor) -> None:
        """Keep both with the strides that the traced tensor had, so that its views are views here."""
        shape, strides = self.trace.shapes[number]
        for kept, tensor in ((self.bits, bits), (self.fixed, value)):
            kept[number] = laid_out(tensor, shape, strides)

    # One operation --------------------------------------------------------------------------------

    def _node(self, node: Node) -> None:
        name = node.name.removeprefix("aten.")
        if name in RANDOM or name.rstrip("_") in RANDOM:
            raise Failure(
                f"it draws random numbers ({node.name}): put the model in eval mode, or leave "
                f"dropout out"
            )
        if name in DECISIONS:
            self._decision(node, name)
            return
        values = self._values(node)
        if writes(node):
            self._written(node, name)
            return
        bits = self._bits(node, name, values)
        for ref, own, value in zip(node.outputs, bits, values, strict=True):
            if ref is not None:
                self._keep(node, ref, own, value)

    def _keep(self, node: Node, ref: Ref, bits: Tensor, value: Any) -> None:
        if node.function in MOVES or node.name == "aten.detach":
            self.bits[ref.number], self.fixed[ref.number] = bits, value
        else:
            self._put(ref.number, bits, value)

    def _values(self, node: Node) -> list[Any]:
        if writes(node):
            return []
        args, kwargs = rebuild(node, lambda ref: self.fixed[ref.number])
        if kwargs.get("dtype") in (torch.float16, torch.bfloat16, torch.float32):
            kwargs = {**kwargs, "dtype": torch.float64}
        if node.function in CASTS and args[0].is_floating_point():
            result = args[0].clone()
        else:
            try:
                result = node.function(*args, **kwargs)
                if isinstance(result, Tensor) and result.is_floating_point():
                    result = result.double()
            except (RuntimeError, NotImplementedError) as error:
                raise Failure(f"{node.name} cannot be run again: {error}") from error
        return [result] if node.single else list(result)

    def _decision(self, node: Node, name: str) -> None:
        bits = [self.bits[ref.number] for ref in node.inputs()]
        if any(bool(each.any()) for each in bits):
            raise Failure(
                f"what it computes depends on numbers that it decides on in Python ({name}): such "
                f"control "
                "flow cannot be read"
            )
        for ref in node.outputs:
            if ref is not None:
                args, kwargs = rebuild(node, lambda ref: self.fixed[ref.number])
                value = node.function(*args, **kwargs)
                self._put(ref.number, torch.zeros(value.shape, dtype=torch.int64), value)

    def _written(self, node: Node, name: str) -> None:
        """Writing into a tensor: bits and values are written in the same way, through the same views."""
        target = node.args[0]
        assert isinstance(target, Ref), node.name
        if self.bits[target.number].untyped_storage().data_ptr() in self._memory:
            raise Failure(
                f"it writes into its own parameters or buffers ({node.name}): its state changes "
                f"between calls"
            )
        args, kwargs = rebuild(node, lambda ref: self.fixed[ref.number])
        before = self.fixed[target.number].clone()
        node.function(*args, **kwargs)
        plain = name.rstrip("_")
        if plain in ("copy", "fill", "zero") or plain in POINTWISE:
            operands = [before, *args[1:]]
            own = [self.bits[target.number].clone(), *map(self._own, node.args[1:])]
            if plain in ("copy", "fill", "zero"):
                new = own[1] if plain == "copy" else torch.zeros((), dtype=torch.int64)
            else:
                new = self._pointwise(plain, own, operands, self.fixed[target.number])
            self.bits[target.number].copy_(new)
        elif plain in ("index_put", "scatter"):
            self._scattered(node, plain)
        else:
            raise Failure(f"the operation {node.name} is not in the reading's table")

    def _scattered(self, node: Node, name: str) -> None:
        target = self.bits[node.args[0].number]
        if name == "index_put":
            indices = [None if i is None else self.fixed[i.number] for i in node.args[1]]
            if any(i is not None and bool(self.bits[i.number].any()) for i in node.args[1]):
                raise Failure(f"it writes to places that depend on the tokens ({node.name})")
            target.index_put_(
                indices,
                self._own(node.args[2]).expand(())
                if not isinstance(node.args[2], Ref)
                else self._own(node.args[2]),
            )
            return
        raise Failure(f"the operation {node.name} is not in the reading's table")

    def _own(self, x: Any) -> Tensor:
        """The bits of an argument; none of a number."""
        return self.bits[x.number] if isinstance(x, Ref) else torch.zeros((), dtype=torch.int64)

    def _bits(self, node: Node, name: str, values: Sequence[Any]) -> list[Tensor]:
        first = node.args[0] if node.args else None
        if node.function in MOVES:
            return self._moved(node)
        if node.function in CASTS:
            return [self._own(first)]
        if name in CREATORS:
            return [torch.zeros(values[0].shape, dtype=torch.int64)]
        if name in POINTWISE:
            operands = [x for x in node.args if not isinstance(x, (str, torch.dtype))]
            plain = [self.fixed[x.number] if isinstance(x, Ref) else x for x in operands]
            return [self._pointwise(name, list(map(self._own, operands)), plain, values[0])]
        if name in REDUCTIONS:
            return [self._reduced(self._own(first), node, value) for value in values]
        if name in PRODUCTS:
            return [self._product(node, name)]
        if name in ("_softmax", "_safe_softmax", "_log_softmax"):
            return [self._softmax(self._own(first), self.fixed[first.number], int(node.args[1]))]
        if name == "embedding":
            rows, index = (self._own(x) for x in node.args[:2])
            return [index[..., None] | united(rows, list(range(rows.ndim - 1)))]
        if name == "index":
            return [self._indexed(node)]
        if name == "gather":
            source, index = self._own(first), self._own(node.args[2])
            dim = int(node.args[1])
            if bool(index.any()):
                return [index | united(source, [dim], keep=True)]
            return [torch.gather(source, dim, self.fixed[node.args[2].number])]
        if name == "constant_pad_nd":
            return [torch.constant_pad_nd(self._own(first), node.args[1])]
        if name == "scatter":
            return [self._scatter(node)]
        if name in ("native_layer_norm", "_fused_rms_norm"):
            return self._normed(node, values)
        if name in ("cumsum", "cumprod", "logcumsumexp"):
            bits, dim = self._own(first).clone(), int(node.args[1])
            for i in range(1, bits.shape[dim]):
                bits.select(dim, i).bitwise_or_(bits.select(dim, i - 1))
            return [bits]
        if name in ("native_batch_norm", "_native_batch_norm_legit", "_batch_norm_impl_index",
                    "_native_batch_norm_legit_no_training", "batch_norm"):  # fmt: skip
            raise Failure("it has a batch norm: its numbers belong to a batch, not to one sequence")
        if name == "sort" or name == "topk":
            return [united(self._own(first), [-1], keep=True).expand(value.shape) for value in values]
        raise Failure(f"the operation {node.name} is not in the reading's table")

    def _moved(self, node: Node) -> list[Tensor]:
        """The same move on the bits. What it moves them by must be fixed."""
        head, *rest = node.args
        for x in rest:
            if isinstance(x, Ref) and bool(self.bits[x.number].any()):
                raise Failure(
                    f"where {node.name} moves numbers to depends on the tokens or the parameters"
                )
        args, kwargs = rebuild(node, lambda ref: self.fixed[ref.number])
        if isinstance(head, (list, tuple)):
            sources = [self._own(x) for x in head]
            result = node.function(sources, *args[1:], **kwargs)
        else:
            own = self._own(head)
            try:
                result = node.function(own, *args[1:], **_without_types(kwargs))
            except RuntimeError as error:
                raise Failure(f"{node.name} cannot be followed: {error}") from error
        return [result] if node.single else list(result)

    def _pointwise(self, name: str, bits: list[Tensor], plain: list[Any], value: Tensor) -> Tensor:
        shape = value.shape
        out = torch.zeros(shape, dtype=torch.int64)
        for each in bits:
            out = out | each.expand(np.broadcast_shapes(each.shape, shape))
        if name in ("where", "masked_fill"):
            source, condition = (0, 1) if name == "masked_fill" else (1, 0)
            chosen = _fixed(bits[condition], plain[condition], bool).expand(shape)
            other = bits[2].expand(shape)
            taken, left = (other, bits[0]) if name == "masked_fill" else (bits[1], bits[2])
            yes = chosen & torch.as_tensor(plain[condition]).bool().expand(shape)
            no = chosen & ~torch.as_tensor(plain[condition]).bool().expand(shape)
            out = torch.where(yes, taken.expand(shape), out)
            return torch.where(no, left.expand(shape), out)
        if name in ("mul", "logical_and", "bitwise_and"):
            for own, x in zip(bits[:2], plain[:2], strict=True):
                nothing = (own == 0) & (torch.as_tensor(x) == 0)
                out = torch.where(nothing.expand(shape), 0, out)
        if name == "div":
            nothing = (bits[0] == 0) & (torch.as_tensor(plain[0]) == 0)
            out = torch.where(nothing.expand(shape), 0, out)
        if name in ("add", "sub"):
            for own, x in zip(bits[:2], plain[:2], strict=True):
                bottom = torch.as_tensor(x)
                if bottom.is_floating_point():
                    bottom = torch.isinf(bottom) & (own == 0)
                    out = torch.where(bottom.expand(shape), 0, out)
        return out

    def _reduced(self, bits: Tensor, node: Node, value: Tensor) -> Tensor:
        dims = next((x for x in node.args[1:] if isinstance(x, (list, tuple))), None)
        if dims is None:
            dims = [x for x in node.args[1:2] if isinstance(x, int) and not isinstance(x, bool)]
        if node.name in ("aten.linalg_vector_norm", "aten.norm") and len(node.args) > 2:
            dims = node.args[2] or []
        dims = [d % bits.ndim for d in dims] or list(range(bits.ndim))
        keep = value.ndim == bits.ndim
        return united(bits, dims, keep=keep)

    def _product(self, node: Node, name: str) -> Tensor:
        args = list(node.args)
        extra = args.pop(0) if name in ("addmm", "baddbmm", "addmv") else None
        (a, b), (x, y) = map(self._own, args[:2]), (self.fixed[r.number] for r in args[:2])
        if name in ("dot", "mv", "addmv"):
            b, y = b[..., None], y[..., None]
        if name == "dot":
            a, x = a[None], x[None]
        # A factor that is always zero leaves nothing of the other.
        left = torch.where((b == 0) & (y == 0), 0, -1)
        right = torch.where((a == 0) & (x == 0), 0, -1)
        terms = (a[..., :, :, None] & left[..., None, :, :]) | (
            b[..., None, :, :] & right[..., :, :, None]
        )
        out = united(terms, [terms.ndim - 2])
        if name in ("dot", "mv", "addmv"):
            out = out[..., 0]
        if name == "dot":
            out = out[0]
        return out if extra is None else out | self._own(extra).expand(out.shape)

    def _softmax(self, bits: Tensor, value: Tensor, dim: int) -> Tensor:
        hidden = (bits == 0) & torch.isinf(value) & (value < 0)
        whole = united(bits, [dim % bits.ndim], keep=True).expand(bits.shape)
        return torch.where(hidden, 0, whole)

    def _indexed(self, node: Node) -> Tensor:
        source = self._own(node.args[0])
        indices = [None if i is None else i for i in node.args[1]]
        plain = [None if i is None else self.fixed[i.number] for i in indices]
        moving = [i for i in indices if i is not None and bool(self.bits[i.number].any())]
        if not moving:
            return torch.ops.aten.index.Tensor(source, plain)
        places = [d for d, i in enumerate(indices) if i is not None]
        if places != list(range(len(places))):
            raise Failure(
                "it looks tokens up along an inner axis: the reading knows the first axes only"
            )
        rows = united(source, places)
        index = torch.zeros((), dtype=torch.int64)
        for i in indices:
            if i is not None:
                index = index | self.bits[i.number]
        return index.reshape(*index.shape, *[1] * rows.ndim) | rows

    def _scatter(self, node: Node) -> Tensor:
        target, dim, index, source = node.args[:4]
        if not bool(self._own(index).any()) and isinstance(source, Ref):
            return torch.scatter(
                self._own(target), int(dim), self.fixed[index.number], self._own(source)
            )
        own = united(self._own(index) | self._own(source), [int(dim) % self._own(index).ndim], keep=True)
        return self._own(target) | own

    def _normed(self, node: Node, values: Sequence[Any]) -> list[Tensor]:
        x = self._own(node.args[0])
        dims = list(range(x.ndim - len(node.args[1]), x.ndim))
        whole = united(x, dims, keep=True)
        out = whole.expand(x.shape)
        for weight in node.args[2:4]:
            if isinstance(weight, Ref):
                out = out | self._own(weight)
        return [out, *(whole.expand(np.broadcast_shapes(whole.shape, v.shape)) for v in values[1:])]


def united(bits: Tensor, dims: list[int], keep: bool = False) -> Tensor:
    """Or along these axes."""
    for d in sorted((d % bits.ndim for d in dims), reverse=True):
        parts = bits.unbind(d)
        out = parts[0].clone() if parts else torch.zeros(bits.select(d, 0).shape, dtype=torch.int64)
        for part in parts[1:]:
            out |= part
        bits = out.unsqueeze(d) if keep else out
    return bits


def _fixed(bits: Tensor, value: Any, kind: Callable[[Any], Any]) -> Tensor:
    return bits == 0


def _without_types(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in kwargs.items() if k not in ("dtype", "layout", "device", "pin_memory")}


def single_position(bits: int) -> int | None:
    """The position of the only bit that is set; None where there are none or several."""
    return int(math.log2(bits)) if bits and bits & (bits - 1) == 0 else None
