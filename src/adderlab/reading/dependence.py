"""Which tokens, and whether the parameters, every number of a trace may depend on: exactly, bit by bit.

Beside every tensor stands a tensor of integers of the same shape: bit p is set if that number may depend
on the token at position p, bit ``PARAMETER`` if it may depend on the parameters. What moves numbers
about moves their bits; elementwise operations unite them; sums unite them along their axis. Two
exceptions make it sharp: minus infinity plus anything is minus infinity, and zero times anything is
zero, where both are fixed, whatever tokens and parameters are (a causal mask, and the weights of the
keys that it hides). An operation that is not listed here is refused by its name, never guessed.

Masks are also written with large negative numbers. Their keys' weights are exactly zero as long as the
scores are not as large; ``buried`` lists the softmaxes for which that is left to be shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adderlab.errors import Failure
from adderlab.reading.trace import VIEWS, Node, Ref, Trace, perform, rebuild

aten = torch.ops.aten
PARAMETER = 62
"""The bit of the parameters."""
UNWRITTEN = 61
"""The bit of memory that nothing was written to."""
LONGEST = UNWRITTEN
"""Positions have the bits below."""
BURIED = -1e3
"""Fixed scores up to here hide a key, if the others are larger by enough."""

MOVES = {
    getattr(getattr(aten, name), overload)
    for name, overload in (
        ("view", "default"), ("_unsafe_view", "default"), ("permute", "default"), ("transpose", "int"),
        ("t", "default"), ("expand", "default"), ("unsqueeze", "default"), ("squeeze", "dim"),
        ("squeeze", "dims"), ("squeeze", "default"), ("slice", "Tensor"), ("select", "int"),
        ("split", "Tensor"), ("split_with_sizes", "default"), ("unbind", "int"), ("cat", "default"),
        ("stack", "default"), ("clone", "default"), ("detach", "default"), ("alias", "default"),
        ("flip", "default"), ("roll", "default"), ("repeat", "default"), ("index_select", "default"),
        ("tril", "default"), ("triu", "default"), ("diagonal", "default"), ("unfold", "default"),
        ("lift_fresh", "default"), ("unsafe_split", "Tensor"), ("slice_scatter", "default"),
        ("select_scatter", "default"), ("diagonal_scatter", "default"), ("diag_embed", "default"),
    )
}  # fmt: skip
"""Operations that only move numbers about, or put zeros in their place."""
ZEROING = {"tril", "triu", "diag_embed"}
"""Those that put zeros in their place."""
CASTS = {aten._to_copy.default, aten.to.dtype}
CREATORS = {
    "arange", "zeros", "ones", "full", "eye", "new_zeros", "new_ones", "new_full", "zeros_like",
    "ones_like", "full_like", "scalar_tensor", "linspace", "tril_indices", "triu_indices",
}  # fmt: skip
"""Operations that make numbers from sizes alone."""
UNFILLED = {"empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided"}
POINTWISE = {
    "add", "sub", "rsub", "mul", "div", "neg", "abs", "sqrt", "rsqrt", "reciprocal", "exp", "exp2",
    "log", "log2", "log1p", "expm1", "sin", "cos", "tanh", "sigmoid", "relu", "gelu", "silu",
    "softplus", "square", "pow", "clamp", "clamp_min", "clamp_max", "hardtanh", "minimum", "maximum",
    "where", "masked_fill", "eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or",
    "logical_not", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_not", "bitwise_xor",
    "remainder", "fmod", "floor", "ceil", "round", "trunc", "floor_divide", "sign", "erf", "leaky_relu",
    "elu", "relu6", "hardswish", "hardsigmoid", "mish", "addcmul", "addcdiv", "lerp", "isinf", "isnan",
    "isfinite", "copy", "fill", "zero", "threshold", "nan_to_num", "cosh", "sinh", "atan", "tan",
    "logaddexp", "log_sigmoid_forward",
}  # fmt: skip
REDUCTIONS = {
    "sum", "mean", "amax", "amin", "max", "min", "var", "std", "prod", "any", "all", "logsumexp",
    "linalg_vector_norm", "norm", "var_mean", "argmax", "argmin", "sort", "topk",
}  # fmt: skip
PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "dot", "mv", "addmv"}
RANDOM = {
    "bernoulli", "native_dropout", "rand", "randn", "randint", "rand_like", "randn_like", "normal",
    "normal_functional", "uniform", "multinomial", "dropout", "randperm", "randint_like", "exponential",
    "random",
}  # fmt: skip
DECISIONS = {
    "_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "unique",
    "_unique2", "unique_consecutive",
}  # fmt: skip
"""What gives Python a number or a size that depends on numbers."""
DIVISIONS = {"div", "reciprocal", "rsqrt", "pow"}


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
        self.buried: set[int] = set()
        """Softmaxes, by the tensor of scores that they take, some of whose keys are hidden by large
        negative numbers and not by minus infinity."""
        self._low: dict[int, Tensor] = {}
        self.made_by = {
            ref.number: i
            for i, node in enumerate(trace.nodes)
            for ref in node.outputs
            if ref is not None
        }
        """The node that made a tensor."""
        length = trace.length
        tokens = torch.ones(length, dtype=torch.int64) << torch.arange(length)
        self.bits[0] = tokens.expand(trace.tokens.shape).clone()
        self.fixed[0] = trace.tokens
        for number, name in trace.parameters.items():
            tensor = parameters[name].detach().double()
            self._put(number, torch.full(tensor.shape, 1 << PARAMETER), tensor)
        for number, tensor in trace.constants.items():
            tensor = tensor.double() if tensor.is_floating_point() else tensor
            self._put(number, _none(tensor.shape), tensor)
        for node in trace.nodes:
            self._node(node)
        if any(bool((self.bits[ref.number] & (1 << UNWRITTEN)).any()) for ref in trace.outputs):
            raise Failure("its logits depend on memory that it never wrote to (torch.empty)")

    def positions(self, number: int) -> Tensor:
        """The bits without that of the parameters."""
        return self.bits[number] & ~(1 << PARAMETER)

    def is_fixed(self, number: int) -> bool:
        """Whether neither tokens nor parameters decide anything of a tensor."""
        return not bool(self.bits[number].any())

    def _put(self, number: int, bits: Tensor, value: Tensor) -> None:
        self.bits[number], self.fixed[number] = bits, value

    # One operation --------------------------------------------------------------------------------

    def _node(self, node: Node) -> None:
        name = node.operation
        if name.rstrip("_") in RANDOM:
            raise Failure(
                f"it draws random numbers ({node.name}): put the model in eval mode, or leave dropout "
                "out"
            )
        if node.writes:
            raise Failure(
                f"it writes into its own parameters or buffers ({node.name}): its state changes between "
                "calls"
            )
        if name in DECISIONS:
            self._decide(node, name)
            return
        known = (
            node.function in MOVES | CASTS
            or name in CREATORS | UNFILLED | POINTWISE | REDUCTIONS | PRODUCTS
            or name in RULES
        )
        if not known:
            raise Failure(_unknown(node))
        values = self._values(node)
        bits = self._bits(node, name, values)
        for ref, own, value in zip(node.outputs, bits, values, strict=True):
            if ref is not None:
                self._put(ref.number, own.expand(value.shape), value)

    def _values(self, node: Node) -> list[Any]:
        args, kwargs = rebuild(node, lambda ref: self.fixed[ref.number])
        try:
            result = perform(node.function, args, kwargs, torch.float64)
        # What PyTorch raises where an operation has no float64 form, or is indexed beyond its size.
        except (RuntimeError, NotImplementedError, IndexError) as error:
            raise Failure(f"{node.name} cannot be run again: {error}") from error
        return [result] if node.single else list(result)

    def _decide(self, node: Node, name: str) -> None:
        """A decision in Python is in the trace; it holds if what it decides on is fixed."""
        if not all(self.is_fixed(ref.number) for ref in node.inputs()):
            raise Failure(
                f"what it computes depends on numbers that it decides on in Python ({name}): such "
                "control flow cannot be read"
            )
        for ref, value in zip(node.outputs, self._values(node), strict=True):
            if ref is not None:
                self._put(ref.number, _none(value.shape), value)

    def _own(self, x: Any) -> Tensor:
        """The bits of an argument; none of a number."""
        return self.bits[x.number] if isinstance(x, Ref) else _none(())

    def _value(self, x: Any) -> Tensor:
        return self.fixed[x.number] if isinstance(x, Ref) else torch.as_tensor(x)

    def _bits(self, node: Node, name: str, values: Sequence[Any]) -> list[Tensor]:
        if node.function in MOVES:
            return self._moved(node)
        if node.function in CASTS:
            return [self._own(node.args[0])]
        if name in CREATORS:
            return [_none(values[0].shape)]
        if name in UNFILLED:
            return [torch.full(values[0].shape, 1 << UNWRITTEN)]
        if name in POINTWISE:
            return [self._pointwise(node, name, value) for value in values]
        if name in REDUCTIONS:
            return [self._reduced(node, value) for value in values]
        if name in PRODUCTS:
            return [self._product(node, name)]
        return RULES[name](self, node, values)

    def _moved(self, node: Node) -> list[Tensor]:
        """The same move on the bits. What it moves them by must be fixed."""
        if node.operation == "index_select" and not self.is_fixed(node.named["index"].number):
            raise Failure(
                f"where {node.name} takes numbers from depends on the tokens or the parameters"
            )

        def moved(ref: Ref) -> Tensor:
            return self.fixed[ref.number] if ref is node.named.get("index") else self.bits[ref.number]

        return move(node, moved)

    def _pointwise(self, node: Node, name: str, value: Tensor) -> Tensor:
        shape = value.shape
        out = _none(shape)
        for ref in node.inputs():
            own = self.bits[ref.number]
            # (numpy's function: PyTorch's loads a large package first.)
            if tuple(shape) != np.broadcast_shapes(own.shape, shape):
                # A result of another shape, such as a buffer for the gradient.
                own = united(own, list(range(own.ndim)))
            out = out | own
        named = node.named
        if name == "where":
            return self._picked(out, named["condition"], named["self"], named["other"])
        if name == "masked_fill":
            return self._picked(out, named["mask"], named["value"], named["self"])
        if name == "copy":
            return self._own(named["src"]).expand(shape)
        if name == "zero":
            return _none(shape)
        if name == "fill":
            return self._own(named["value"]).expand(shape)
        if name in ("mul", "logical_and", "bitwise_and", "add", "sub", "div"):
            pair = node.args[:2]
            for x in pair[:1] if name == "div" else pair:
                own, number = self._own(x), self._value(x)
                if name in ("add", "sub"):
                    if number.is_floating_point():
                        out = _kept(out, (own == 0) & torch.isinf(number))
                else:
                    out = _kept(out, (own == 0) & (number == 0))
        if name in DIVISIONS and bool((torch.isinf(value) & (out == 0)).any()):
            # Whether it is plus or minus infinity depends on the sign of a zero.
            raise Failure(f"it divides by zero ({node.name})")
        return out

    def _picked(self, out: Tensor, condition: Any, yes: Any, no: Any) -> Tensor:
        chosen, decided = self._value(condition).bool(), self._own(condition) == 0
        out = torch.where(decided & chosen, self._own(yes), out)
        return torch.where(decided & ~chosen, self._own(no), out)

    def _reduced(self, node: Node, value: Tensor) -> Tensor:
        if len(node.inputs()) != 1:
            raise Failure(_unknown(node))
        bits = self._own(node.args[0])
        dims = node.named.get("dim")
        dims = [dims] if isinstance(dims, int) else list(dims or ())
        whole = united(bits, dims or list(range(bits.ndim)), keep=True)
        if value.ndim == bits.ndim:
            return whole  # with its axes, or, sorted, in full
        kept = [d for d in range(bits.ndim) if d not in [x % bits.ndim for x in dims]] if dims else []
        return whole.reshape([bits.shape[d] for d in kept])

    def _product(self, node: Node, name: str) -> Tensor:
        args = list(node.args)
        extra = args.pop(0) if name in ("addmm", "baddbmm", "addmv") else None
        (a, b), (x, y) = map(self._own, args[:2]), (self.fixed[r.number] for r in args[:2])
        if name in ("dot", "mv", "addmv"):
            b, y = b[..., None], y[..., None]
        if name == "dot":
            a, x = a[None], x[None]
        # A factor that is always zero leaves nothing of the other, but of memory that may hold NaN.
        unwritten = 1 << UNWRITTEN
        left = torch.where((b == 0) & (y == 0), unwritten, -1)
        right = torch.where((a == 0) & (x == 0), unwritten, -1)
        terms = (a[..., :, :, None] & left[..., None, :, :]) | (
            b[..., None, :, :] & right[..., :, :, None]
        )
        out = united(terms, [terms.ndim - 2])
        if name in ("dot", "mv", "addmv"):
            out = out[..., 0]
        if name == "dot":
            out = out[0]
        return out if extra is None else out | self._own(extra)

    # Softmax and its masks ------------------------------------------------------------------------

    def _softmax(self, node: Node, values: Sequence[Any]) -> list[Tensor]:
        number = node.args[0].number
        bits, value = self.bits[number], self.fixed[number]
        hidden = (bits == 0) & torch.isinf(value) & (value < 0)
        dim = int(node.args[1])
        low = self.low(number) & ~hidden & (values[0] == 0)
        low &= ~(low | hidden).all(dim, keepdim=True)  # beside nothing larger, they hide nothing
        if bool(low.any()) and node.operation != "_log_softmax":
            self.buried.add(number)
            hidden = hidden | low
        whole = united(torch.where(hidden, 0, bits), [dim], keep=True)
        return [torch.where(hidden, 0, whole)]

    def low(self, number: int) -> Tensor:
        """Where a score is a fixed number up to ``BURIED``, or has one added to it."""
        if number not in self._low:
            made = self.made_by.get(number)
            node = None if made is None else self.trace.nodes[made]
            self._low[number] = self._found_low(number, node)
        return self._low[number]

    def _found_low(self, number: int, node: Node | None) -> Tensor:
        value = self.fixed[number]
        if not value.is_floating_point():
            return torch.zeros(value.shape, dtype=torch.bool)
        own = (self.bits[number] == 0) & (value <= BURIED)
        if node is None or self.is_fixed(number):
            return own
        name, named = node.operation, node.named

        def of(x: Any) -> Tensor:
            if isinstance(x, Ref):
                return self.low(x.number)
            return torch.as_tensor(isinstance(x, (int, float)) and x <= BURIED)

        if node.function in CASTS:
            return of(node.args[0]) | own
        if node.function in MOVES and name not in ZEROING | {"index_select"}:
            places = move(node, lambda ref: self.low(ref.number))
            return next(
                low
                for ref, low in zip(node.outputs, places, strict=True)
                if ref and ref.number == number
            )
        if name == "add" and named.get("alpha") == 1:
            return (of(named["self"]) | of(named["other"]) | own).expand(value.shape)
        if name in ("where", "masked_fill"):
            condition = named["condition" if name == "where" else "mask"]
            yes, no = (
                (named["self"], named["other"]) if name == "where" else (named["value"], named["self"])
            )
            chosen, decided = self._value(condition).bool(), self._own(condition) == 0
            return own | (decided & torch.where(chosen, of(yes), of(no)))
        return own

    # Looking up -----------------------------------------------------------------------------------

    def _embedding(self, node: Node, values: Sequence[Any]) -> list[Tensor]:
        rows, index = (self._own(x) for x in node.args[:2])
        return [index[..., None] | united(rows, list(range(rows.ndim - 1)))]

    def _index(self, node: Node, values: Sequence[Any]) -> list[Tensor]:
        source = self._own(node.args[0])
        indices = list(node.args[1])
        moving = [i for i in indices if i is not None and not self.is_fixed(i.number)]
        if not moving:
            return [aten.index.Tensor(source, self._plain(indices))]
        if any(self.fixed[i.number].dtype in (torch.bool, torch.uint8) for i in moving):
            raise Failure("it chooses by numbers how many to take (a mask as an index)")
        places = [d for d, i in enumerate(indices) if i is not None]
        if places != list(range(len(places))):
            raise Failure(
                "it looks tokens up along an inner axis: the reading knows the first axes only"
            )
        rows = united(source, places)
        index = _none(())
        for i in indices:
            if i is not None:
                index = index | self.bits[i.number]
        return [index.reshape(*index.shape, *[1] * rows.ndim) | rows]

    def _plain(self, indices: Sequence[Any]) -> list[Any]:
        return [None if i is None else self.fixed[i.number] for i in indices]

    def _gather(self, node: Node, values: Sequence[Any]) -> list[Tensor]:
        source, dim, ref = self._own(node.args[0]), int(node.args[1]), node.args[2]
        if self.is_fixed(ref.number):
            return [torch.gather(source, dim, self.fixed[ref.number])]
        index = self._own(ref)
        return [index | _cut(united(source, [dim], keep=True), index.shape, dim)]

    def _scatter(self, node: Node, values: Sequence[Any]) -> list[Tensor]:
        if "reduce" in node.named:
            raise Failure(_unknown(node))
        target, dim, ref = self._own(node.args[0]), int(node.args[1]), node.args[2]
        source, index = self._own(node.args[3]), self._own(ref)
        source = _cut(source, index.shape) if source.ndim else source.expand(index.shape)
        places = self.fixed[ref.number]
        once = torch.zeros(target.shape, dtype=torch.int64)
        once = once.scatter_add(dim, places, torch.ones_like(index))
        if self.is_fixed(ref.number) and int(once.max()) <= 1:
            return [target.scatter(dim, places, source)]
        line = united(index | source, [dim], keep=True)
        wide = list(target.shape)
        wide[dim % target.ndim] = 1
        spread = _none(wide)
        spread[tuple(slice(n) for n in line.shape)] = line
        return [target | spread]

    def _index_put(self, node: Node, values: Sequence[Any]) -> list[Tensor]:
        target, indices, source = self._own(node.args[0]), list(node.args[1]), self._own(node.args[2])
        used = [i for i in indices if i is not None]
        anything = united(source, list(range(source.ndim)))
        if not all(self.is_fixed(i.number) for i in used):
            for i in used:
                own = self.bits[i.number]
                anything = anything | united(own, list(range(own.ndim)))
            return [target | anything]
        plain = self._plain(indices)
        once = torch.zeros(target.shape, dtype=torch.int64)
        once = aten.index_put(once, plain, torch.ones((), dtype=torch.int64), True)
        if node.named["accumulate"] or int(once.max()) > 1:
            return [torch.where(once > 0, target | anything, target)]
        return [aten.index_put(target, plain, source)]

    # The rest -------------------------------------------------------------------------------------

    def _constant_pad_nd(self, node: Node, values: Sequence[Any]) -> list[Tensor]:
        return [torch.constant_pad_nd(self._own(node.args[0]), node.args[1])]

    def _normed(self, node: Node, values: Sequence[Any]) -> list[Tensor]:
        x = self._own(node.args[0])
        dims = list(range(x.ndim - len(node.args[1]), x.ndim))
        whole = united(x, dims, keep=True)
        out = whole
        for ref in node.inputs()[1:]:
            out = out | self.bits[ref.number]
        return [out, *[whole] * (len(values) - 1)]

    def _accumulated(self, node: Node, values: Sequence[Any]) -> list[Tensor]:
        bits, dim = self._own(node.args[0]).clone(), int(node.args[1])
        for i in range(1, bits.shape[dim] if bits.ndim else 0):
            bits.select(dim, i).bitwise_or_(bits.select(dim, i - 1))
        return [bits] * len(values)

    def _batch_normed(self, node: Node, values: Sequence[Any]) -> list[Tensor]:
        raise Failure("it has a batch norm: its numbers belong to a batch, not to one sequence")


_Rule = Callable[[Dependence, Node, Sequence[Any]], list[Tensor]]
RULES: dict[str, _Rule] = {
    **dict.fromkeys(("_softmax", "_safe_softmax", "_log_softmax"), Dependence._softmax),
    **dict.fromkeys(("native_layer_norm", "_fused_rms_norm"), Dependence._normed),
    **dict.fromkeys(
        ("cumsum", "cumprod", "logcumsumexp", "cummax", "cummin"), Dependence._accumulated
    ),
    **dict.fromkeys(
        (
            "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
            "_native_batch_norm_legit_functional", "_batch_norm_with_update",
            "_batch_norm_no_update", "_batch_norm_with_update_functional",
        ),
        Dependence._batch_normed,
    ),
    "embedding": Dependence._embedding,
    "index": Dependence._index,
    "gather": Dependence._gather,
    "scatter": Dependence._scatter,
    "index_put": Dependence._index_put,
    "constant_pad_nd": Dependence._constant_pad_nd,
}  # fmt: skip
"""Operations with a rule of their own."""


def move(node: Node, replace: Any) -> list[Tensor]:
    """An operation of ``MOVES`` on what ``replace`` gives for its tensors, whatever their type."""
    args, kwargs = rebuild(node, replace)
    if node.function in VIEWS:
        return [args[0].reshape(args[1])]
    kwargs = {k: v for k, v in kwargs.items() if k not in ("dtype", "layout", "device", "pin_memory")}
    try:
        result = node.function(*args, **kwargs)
    except RuntimeError as error:
        raise Failure(f"{node.name} cannot be followed: {error}") from error
    return [result] if node.single else list(result)


def united(bits: Tensor, dims: Sequence[int], keep: bool = False) -> Tensor:
    """Or along these axes."""
    for d in sorted((d % bits.ndim for d in dims if bits.ndim), reverse=True):
        parts = bits.unbind(d)
        out = parts[0].clone() if parts else _none(bits.select(d, 0).shape)
        for part in parts[1:]:
            out |= part
        bits = out.unsqueeze(d) if keep else out
    return bits


def _none(shape: Sequence[int]) -> Tensor:
    return torch.zeros(tuple(shape), dtype=torch.int64)


def _kept(out: Tensor, nothing: Tensor) -> Tensor:
    """Bits where one operand fixes the result: none, but of memory that may hold NaN."""
    return torch.where(nothing, out & (1 << UNWRITTEN), out)


def _cut(bits: Tensor, shape: Sequence[int], dim: int | None = None) -> Tensor:
    """The first part along every axis, as ``gather`` and ``scatter`` use it; ``dim`` stays whole."""
    own = None if dim is None else dim % bits.ndim
    return bits[tuple(slice(None) if d == own else slice(n) for d, n in enumerate(shape))]


def _unknown(node: Node) -> str:
    return f"the operation {node.name} is not in the reading's table"
