"""The readable PyTorch module run with rounding errors instead of rounded numbers.

The code of ``adderlab.models`` runs on tensors that carry a ``Rounded`` array; every PyTorch operation
it performs is looked up below. One that is not listed is refused.

After the attention it runs on boxes. A margin is bounded by the mean value form, centre - sum_k r_k |d
margin / d u_k|. Subtracting derivatives of two logits that were each enclosed on their own loses what
they have in common. So where that is not enough, the derivative of the margin by the stream after the
MLP is drawn backwards through the read-out, and multiplied by the derivatives of that stream, which are
enclosed forwards: what cancels in the read-out cancels before sizes are taken.

Shapes: N boxes, K coordinates of a box, D width, V vocabulary, Q other tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from adderlab.checker import mean_value, rounding
from adderlab.checker.enclosure import COSINE, SINE, written
from adderlab.checker.intervals import Array, Interval, down, reach
from adderlab.checker.mean_value import MeanValueForm
from adderlab.checker.rounding import (
    FP32,
    FP64,
    Format,
    Rounded,
    derivative,
)
from adderlab.errors import Failure
from adderlab.models.transformer import Transformer

aten = torch.ops.aten
_DTYPES = {torch.float32: FP32, torch.float64: FP64}


class Noisy(Tensor):
    """A tensor that stands for everything fp32 arithmetic may make of it."""

    value: Rounded

    @staticmethod
    def __new__(cls, value: Rounded) -> Noisy:
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            value.shape,
            dtype=torch.float32 if value.format is FP32 else torch.float64,
            device=torch.device("cpu"),
        )

    def __init__(self, value: Rounded) -> None:
        self.value = value

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise AssertionError(f"{func} on a noisy tensor outside the scope of Tracing")


class Tracing(TorchDispatchMode):
    """Every operation in its scope is done with its rounding error, or refused."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing here is compiled. PyTorch's guard against it would load the compiler, which takes a
        second or two."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return interpret(func, args, kwargs or {})


def value_of(x: Tensor) -> Rounded:
    """What a result stands for; a plain tensor for its own numbers."""
    return x.value if isinstance(x, Noisy) else rounding.exact(x.double().numpy())


def _rounded(x: Any, format: Format = FP32) -> Rounded:
    if isinstance(x, Noisy):
        return x.value
    if isinstance(x, Tensor):
        if x.dtype not in _DTYPES:
            return rounding.exact(x.to(torch.float64).numpy(), format)
        return rounding.exact(x.detach().to(torch.float64).numpy(), _DTYPES[x.dtype])
    return rounding.constant(float(x), format)


def _both(a: Any, b: Any) -> tuple[Rounded, Rounded]:
    """Two operands; a plain number takes the format of the other."""
    formats = [_DTYPES.get(x.dtype) for x in (a, b) if isinstance(x, Tensor)]
    format = next((each for each in formats if each is not None), FP32)
    return _rounded(a, format), _rounded(b, format)


_BINARY: dict[Any, Callable[[Rounded, Rounded], Rounded]] = {
    aten.add.Tensor: rounding.add,
    aten.add.Scalar: rounding.add,
    aten.sub.Tensor: rounding.subtract,
    aten.sub.Scalar: rounding.subtract,
    aten.rsub.Scalar: lambda a, b: rounding.subtract(b, a),
    aten.mul.Tensor: rounding.multiply,
    aten.mul.Scalar: rounding.multiply,
    aten.div.Tensor: rounding.divide,
    aten.div.Scalar: rounding.divide,
    aten.maximum.default: rounding.maximum,
    aten.minimum.default: rounding.minimum,
    aten.mm.default: rounding.product,
    aten.bmm.default: rounding.product,
}
_UNARY: dict[Any, Callable[[Rounded], Rounded]] = {
    aten.abs.default: rounding.absolute,
    aten.square.default: rounding.square,
    aten.reciprocal.default: rounding.reciprocal,
    aten.rsqrt.default: rounding.inverse_root,
    aten.exp.default: rounding.exp,
    aten.sigmoid.default: rounding.sigmoid,
    aten.tanh.default: rounding.tanh,
    aten.softplus.default: rounding.softplus,
    aten.neg.default: rounding.negate,
    aten.sqrt.default: rounding.root,
    aten.gelu.default: rounding.gelu,
    aten.silu.default: rounding.silu,
    aten.relu.default: rounding.relu,
    aten.cos.default: lambda a: rounding.circle(a, COSINE(a.known)),
    aten.sin.default: lambda a: rounding.circle(a, SINE(a.known)),
}
_MOVES = {
    aten.view.default,
    aten._unsafe_view.default,
    aten.transpose.int,
    aten.permute.default,
    aten.t.default,
    aten.expand.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.squeeze.default,
    aten.index_select.default,
    aten.repeat.default,
    aten.flip.default,
    aten.diagonal.default,
    aten.slice.Tensor,
    aten.select.int,
    aten.clone.default,
    aten.detach.default,
    aten.alias.default,
    aten.index.Tensor,
    aten.embedding.default,
    aten.narrow.default,
    aten.constant_pad_nd.default,
}
_SPLITS = {aten.split.Tensor, aten.split_with_sizes.default, aten.unbind.int}
_POWERS: dict[Any, Callable[[Rounded], Rounded]] = {
    2: rounding.square,
    0.5: rounding.root,
    -0.5: rounding.inverse_root,
    -1: rounding.reciprocal,
}
_CLAMPS: dict[Any, Callable[..., tuple[float | None, float | None]]] = {
    aten.clamp.default: lambda min=None, max=None: (min, max),
    aten.clamp_min.default: lambda min: (min, None),
    aten.clamp_max.default: lambda max: (None, max),
    aten.hardtanh.default: lambda min_val=-1.0, max_val=1.0: (min_val, max_val),
}
_CHOOSING: dict[Any, Callable[..., tuple[Any, Any, Any]]] = {
    aten.where.self: lambda mask, x, y: (mask, x, y),
    aten.where.ScalarOther: lambda mask, x, y: (mask, x, y),
    aten.where.ScalarSelf: lambda mask, x, y: (mask, x, y),
    aten.masked_fill.Scalar: lambda x, mask, y: (mask, y, x),
    aten.masked_fill.Tensor: lambda x, mask, y: (mask, y, x),
}
_WHOLE = {
    aten.arange.default,
    aten.arange.start,
    aten.arange.start_step,
    aten.zeros.default,
    aten.ones.default,
    aten.new_zeros.default,
}


def interpret(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if func in _WHOLE:
        plain = [torch.empty(tuple(x.shape)) if isinstance(x, Noisy) else x for x in args]
        return func(*plain, **kwargs)
    if func is aten.lift_fresh.default:
        return args[0] if isinstance(args[0], Noisy) else _lifted(args[0])
    if func in (aten.zeros_like.default, aten.ones_like.default):
        value = 0.0 if func is aten.zeros_like.default else 1.0
        return torch.full(tuple(args[0].shape), value, dtype=args[0].dtype)
    if func in _BINARY and set(kwargs) <= {"alpha"} and kwargs.get("alpha", 1) == 1:
        return Noisy(_BINARY[func](*_both(*args[:2])))
    if func in _UNARY:
        if len(args) > 1:
            raise Failure(f"the checker knows how {func} rounds with its usual settings only")
        if func is aten.gelu.default and kwargs.get("approximate", "none") != "none":
            return Noisy(rounding.gelu_tanh(_rounded(args[0])))
        return Noisy(_UNARY[func](_rounded(args[0])))
    if func in _CHOOSING:
        mask, x, y = _CHOOSING[func](*args)
        if isinstance(mask, Noisy):
            raise Failure(f"the checker does not follow {func} where rounding may decide")
        return Noisy(rounding.choose(mask.numpy(), *_both(x, y)))
    if func is aten.mv.default:
        a, b = _both(*args)
        column = b.moved(lambda x: x[:, np.newaxis])
        return Noisy(rounding.product(a, column).moved(lambda x: x[:, 0]))
    if func in _MOVES:
        return _move(func, args, kwargs)
    if func in _SPLITS:
        count = len(func(_numbers(args[0]), *args[1:], **kwargs))
        return [
            _apply_move(args[0], lambda x, i=i: func(x, *args[1:], **kwargs)[i]) for i in range(count)
        ]
    if func in (aten.cat.default, aten.stack.default):
        dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
        numpy_put = np.concatenate if func is aten.cat.default else np.stack
        return Noisy(rounding.join([_rounded(x) for x in args[0]], lambda xs: numpy_put(xs, dim)))
    if func is aten.pow.Tensor_Scalar and args[1] in _POWERS:
        return Noisy(_POWERS[args[1]](_rounded(args[0])))
    if func in _CLAMPS:
        low, high = _CLAMPS[func](*args[1:], **kwargs)
        return Noisy(rounding.clamp(_rounded(args[0]), low, high))
    if func in (aten.mean.dim, aten.sum.dim_IntList):
        x, axes = _rounded(args[0]), tuple(args[1])
        count = int(np.prod([x.shape[axis] for axis in axes])) if func is aten.mean.dim else 1
        return Noisy(rounding.total(x, axes, bool(args[2]) if len(args) > 2 else False, count))
    if func in (aten.addmm.default, aten.baddbmm.default) and not kwargs:
        bias, a, b = (_rounded(x) for x in args)
        return Noisy(rounding.add(bias, rounding.product(a, b)))
    if func is aten.native_layer_norm.default:
        x, shape, weight, bias, eps = args
        assert len(shape) == 1
        weight, bias = (None if each is None else _rounded(each) for each in (weight, bias))
        out = Noisy(rounding.layer_norm(_rounded(x), weight, bias, eps))
        return out, None, None
    if func in (aten._to_copy.default, aten.to.dtype):
        target = kwargs.get("dtype") or next((a for a in args[1:] if isinstance(a, torch.dtype)), None)
        if not isinstance(args[0], Noisy) and not args[0].dtype.is_floating_point:
            return func(*args, **kwargs)
        if target in _DTYPES or target is None:
            x = _rounded(args[0])
            return Noisy(rounding.narrowed(x, x.format if target is None else _DTYPES[target]))
    raise Failure(f"the checker does not know how {func} rounds; fp32 is not covered for this model")


def _numbers(x: Tensor) -> Tensor:
    """As many distinct numbers in the same shape, to follow a move with."""
    return torch.arange(x.numel(), dtype=torch.float64).reshape(tuple(x.shape))


def _move(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not any(isinstance(x, Noisy) for x in args):
        return func(*args, **kwargs)
    if func is aten.constant_pad_nd.default and isinstance(args[0], Noisy) and not any(args[2:]):
        return Noisy(_padded(args[0].value, args[1]))
    if func is aten.constant_pad_nd.default or any(isinstance(x, Noisy) for x in args[1:]):
        raise Failure(f"the checker does not know how {func} rounds; fp32 is not covered for this model")
    if func in (aten.view.default, aten._unsafe_view.default):
        func = aten.reshape.default  # arrays here need not lie in memory as PyTorch's would
    return _apply_move(args[0], lambda x: func(x, *args[1:], **kwargs))


def _padded(x: Rounded, widths: Sequence[int]) -> Rounded:
    """Zeros before and after, of the last axis first."""
    for number, (before, after) in enumerate(zip(widths[::2], widths[1::2], strict=True)):
        axis = len(x.shape) - 1 - number
        sizes = [(*x.shape[:axis], width, *x.shape[axis + 1 :]) for width in (before, after)]
        zeros = [rounding.exact(np.zeros(size), x.format) for size in sizes]
        parts = [zeros[0], x, zeros[1]]
        x = rounding.join(parts, lambda each, axis=axis: np.concatenate(each, axis))
    return x


def _apply_move(x: Tensor, move: Callable[[Tensor], Tensor]) -> Noisy:
    def on_arrays(array: Array) -> Array:
        moved = move(torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64)))
        return moved.contiguous().numpy()

    return Noisy(_rounded(x).moved(on_arrays))


def _lifted(x: Tensor) -> Tensor:
    """Numbers written down, or computed in plain Python."""
    if not x.dtype.is_floating_point:
        return x
    error = np.abs(x.to(torch.float64).numpy()) * 2.0**-48  # twice what ``written`` allows
    return Noisy(Rounded(written(x), error, _DTYPES[x.dtype]))


# After the attention, on boxes: logits, and the margins between them.


@dataclass(frozen=True, kw_only=True)
class Logits:
    """What the stream after the attention comes to."""

    stream: Rounded
    """After the MLP: (N, D). The way to it is cut off; its whole error counts as arising here."""
    logits: Rounded
    """(N, V), with the way from ``stream``."""


def _after_mlp(module: Transformer, x_ND: Rounded) -> Rounded:
    block = module.block(0)
    x: Tensor = Noisy(x_ND)
    x = x + block.mlp(block.ln2(x))
    assert isinstance(x, Noisy)
    return x.value


def _read_out(module: Transformer, x_ND: Rounded) -> Rounded:
    logits = module.read_out(Noisy(x_ND))
    assert isinstance(logits, Noisy)
    return logits.value


def logits_after_attention(module: Transformer, x_ND: Rounded) -> Rounded:
    """What ``Transformer.forward`` does to the stream after the attention, with the whole way there."""
    with torch.no_grad(), Tracing():
        return _read_out(module, _after_mlp(module, x_ND))


def read_out_after_attention(module: Transformer, x_ND: Rounded) -> Logits:
    """The same with the way from the stream after the MLP only."""
    with torch.no_grad(), Tracing():
        after = _after_mlp(module, x_ND)
        stream = Rounded(after.real, after.err, after.format, True, after.err)
        return Logits(stream=stream, logits=_read_out(module, stream))


def others_than(right_N: NDArray[np.intp], tokens: int) -> NDArray[np.intp]:
    """All tokens but the right one of each row, ascending: (N, Q)."""
    other_Q = np.arange(tokens - 1)
    return other_Q + (other_Q >= right_N[:, np.newaxis])


def one_by_one(
    short_NQ: NDArray[np.bool_], right_N: NDArray[np.intp], tokens: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], Interval]]:
    """Of every row one short margin after the other: the rows n that have one left, their tokens q, and
    for all rows the direction (N, V) whose product with the logits is a margin."""
    count_N, order_NQ = short_NQ.sum(1), np.argsort(~short_NQ, 1, kind="stable")
    others_NQ, each_N = others_than(right_N, tokens), np.arange(len(right_N))
    for turn in range(int(count_N.max(initial=0))):
        q_N = order_NQ[:, turn]
        direction = np.zeros((len(right_N), tokens))
        direction[each_N, right_N], direction[each_N, others_NQ[each_N, q_N]] = 1.0, -1.0
        n = np.flatnonzero(count_N > turn)
        yield n, q_N[n], Interval(direction)


def gaps(logits: Rounded, right_N: NDArray[np.intp]) -> MeanValueForm:
    """Logit of each row's right token minus that of each other one: (N, Q)."""
    others_NQ = others_than(right_N, logits.shape[1])

    def chosen(index_NQ: NDArray[np.intp]) -> mean_value.Real:
        def choose(x: Interval) -> Interval:
            return Interval(*(np.take_along_axis(end, index_NQ, 1) for end in (x.low, x.high)))

        return mean_value.rearranged(logits.real, choose)

    right_NQ = np.broadcast_to(right_N[:, np.newaxis], others_NQ.shape)
    form = mean_value.subtract(chosen(right_NQ), chosen(others_NQ))
    assert isinstance(form, MeanValueForm)
    return form


@dataclass(frozen=True, kw_only=True)
class RealMargins:
    """In real arithmetic; where an enclosure says nothing (``unknown_N``), not a number."""

    low_NQ: Array
    high_NQ: Array
    spread_NK: Array
    """What the worst margin's bound loses by each coordinate."""
    unknown_N: NDArray[np.bool_]


def real_margins(found: Logits, right_N: NDArray[np.intp], wanted: Array | float) -> RealMargins:
    """Bounds of the right token's margins over the boxes, closer where they are less than ``wanted``."""
    logits, stream = found.logits, found.stream
    form, each_N = gaps(logits, right_N), np.arange(len(right_N))
    low_NQ, worst_N = form.low.copy(), form.low.argmin(1)
    radius_NK = np.stack(form.radii, 1)
    size_NK = np.stack([g.magnitude()[each_N, worst_N] for g in form.gradients], 1)
    # Where a root or quotient has no bound its error is infinite, and the enclosure a stand-in.
    unknown_N: NDArray[np.bool_] = np.any(~np.isfinite(logits.err), axis=1)
    short_NQ = ~(low_NQ >= wanted) & ~unknown_N[:, np.newaxis]
    assert isinstance(stream.real, MeanValueForm)
    rows = np.flatnonzero(short_NQ.any(1))
    least_N = np.full(len(right_N), np.inf)
    least_N[rows] = np.where(short_NQ, np.inf, low_NQ).min(1)[rows]
    for n, q_n, direction in one_by_one(short_NQ, right_N, logits.shape[1]):
        slope_nD = derivative(logits, stream, direction)[n]
        each_k = [(slope_nD * gradient[n]).sum(1).magnitude() for gradient in stream.real.gradients]
        bound_n = down(form.centre.low[n, q_n] - reach(radius_NK[n], np.stack(each_k, 1)))
        low_NQ[n, q_n] = np.fmax(low_NQ[n, q_n], bound_n)
        worse = low_NQ[n, q_n] < least_N[n]
        least_N[n] = np.where(worse, low_NQ[n, q_n], least_N[n])
        size_NK[n[worse]] = np.stack(each_k, 1)[worse]
    return RealMargins(
        low_NQ=np.where(unknown_N[:, np.newaxis], np.nan, low_NQ),
        high_NQ=np.where(unknown_N[:, np.newaxis], np.nan, form.high),
        spread_NK=radius_NK * size_NK,
        unknown_N=unknown_N,
    )
