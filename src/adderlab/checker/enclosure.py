"""Tables enclosed: the parameters-to-tables map of ``adderlab.models`` run in interval arithmetic.

Tables in float64 are rounded, so they are not the model. Here the very code that builds them runs on
tensors that carry an interval for every number: each PyTorch operation it performs is looked up below
and done on the intervals, rounded outward. An operation that is not listed is refused, so nothing
inexact can slip through. Constants of the program are enclosed as written and as rounded to float64.

PyTorch and the modules of ``adderlab.models`` are used here and in ``tracing``, ``fp32``, ``recorded``
and ``verify``, nowhere else in the checker.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import numpy as np
import torch
from flint import arb
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from adderlab.checker import functions, intervals
from adderlab.checker.functions import from_arb, to_arb
from adderlab.checker.intervals import Array, Interval
from adderlab.errors import Failure
from adderlab.models.config import ModelConfig
from adderlab.models.tables import TableForm, Tables
from adderlab.models.tables import tables as build_tables
from adderlab.models.transformer import Architecture, skeleton

aten = torch.ops.aten

PYTHON_STEPS = 8
"""Roundings allowed for in a number computed in plain Python, in units of its last place."""
AGREE = 1e-9
"""Enclosures further than this, relative, from the float64 tables would be a mistake in here."""


class _Wide(Tensor):
    """A float64 tensor that stands for every tensor between ``low`` and ``high``."""

    low: Tensor
    high: Tensor

    @staticmethod
    def __new__(cls, low: Tensor, high: Tensor) -> _Wide:
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            low.shape,
            # Strides as below: then what is a view of memory here is one there, and writing works.
            strides=low.stride(),
            storage_offset=low.storage_offset(),
            dtype=torch.float64,
            device=torch.device("cpu"),
        )

    def __init__(self, low: Tensor, high: Tensor) -> None:
        assert low.stride() == high.stride()
        self.low, self.high = low, high

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise AssertionError(f"{func} on an interval outside the scope of _Enclosing")


class _Enclosing(TorchDispatchMode):
    """Every operation in its scope, also on plain tensors, is done on intervals or refused."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing here is compiled. PyTorch's guard against it would load the compiler, which takes a
        second or two."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _interpret(func, args, kwargs or {})


def _wide(x: Interval) -> _Wide:
    return _Wide(torch.from_numpy(np.array(x.low)), torch.from_numpy(np.array(x.high)))


def _interval(x: Any) -> Interval:
    """Of an operand: a wide tensor, a plain tensor (exact) or a number written in the program."""
    if isinstance(x, (int, float)) and math.isinf(x):
        return Interval(x)
    if isinstance(x, _Wide):
        return Interval(x.low.numpy(), x.high.numpy())
    if isinstance(x, Tensor):
        return Interval(x.detach().to(torch.float64).numpy())
    return intervals.widened(x)


def _sum(x: Interval, axes: list[int], keep: bool) -> Interval:
    """Any order of summation encloses the same sum."""
    axes = sorted((axis % x.ndim for axis in axes), reverse=True)
    for axis in axes:
        x = x.sum(axis)
        if keep:
            x = Interval(np.expand_dims(x.low, axis), np.expand_dims(x.high, axis))
    return x


def _pow(x: Interval, exponent: Any) -> Interval:
    if exponent == 0.5:
        return x.sqrt()
    if exponent == -0.5:
        return x.sqrt().reciprocal()
    if isinstance(exponent, (int, float)) and exponent % 1 == 0 and 1 <= abs(exponent) <= 16:
        half, odd = divmod(int(abs(exponent)), 2)
        even = x.square() if half else None
        for _ in range(half - 1):
            assert even is not None
            even = even * x.square()  # both are not negative, so nothing is lost
        found = x if even is None else (even * x if odd else even.nonnegative())
        return found if exponent > 0 else found.reciprocal()
    raise Failure(f"the checker has no enclosure of the power {exponent}; it cannot check this model")


def _add(x: Interval, y: Interval) -> Interval:
    """A sum; minus infinity, the score of a hidden key, stays what it is."""
    total, (left, right) = x + y, (each.high == -np.inf for each in (x, y))
    gone = left | right
    return Interval(np.where(gone, -np.inf, total.low), np.where(gone, -np.inf, total.high))


def _chosen(choose: Callable[..., Array], x: Interval, y: Interval) -> Interval:
    return Interval(choose(x.low, y.low), choose(x.high, y.high))


def _clamp(x: Interval, low: Any = None, high: Any = None) -> Interval:
    return functions.clamp(x, *(None if end is None else _interval(end) for end in (low, high)))


def _softmax(x: Interval, axis: int) -> Interval:
    """e^x_i / (e^x_i + the others), each of the two at its ends."""
    top = x.high.max(axis, keepdims=True)
    hidden = x.high == -np.inf
    safe = Interval(np.where(hidden, 0.0, x.low), np.where(hidden, 0.0, x.high))
    weight = functions.exp(safe - Interval(top), ~hidden)
    ends = []
    for mine, others in ((weight.low, weight.high), (weight.high, weight.low)):
        whole = Interval(np.stack([others] * x.shape[axis], 0))
        each = np.moveaxis(np.arange(x.shape[axis]).reshape(-1, *[1] * (x.ndim - 1)), 0, axis)
        own = np.stack([each == i for i in range(x.shape[axis])], 0)
        rest = Interval(np.where(own, 0.0, whole.low)).sum(axis % x.ndim + 1)
        rest = Interval(np.moveaxis(rest.low, 0, axis), np.moveaxis(rest.high, 0, axis))
        ends.append(Interval(mine) / (Interval(mine) + rest))
    low, high = np.maximum(ends[0].low, 0.0), np.minimum(ends[1].high, 1.0)
    return Interval(np.where(hidden, 0.0, low), np.where(hidden, 0.0, high))


def _layer_norm(x: Interval, shape: Any, weight: Any, bias: Any, eps: float) -> Interval:
    axes = list(range(x.ndim - len(shape), x.ndim))
    size = float(math.prod(shape))
    centred = x - _sum(x, axes, True) / size
    variance = _sum(centred.square(), axes, True).nonnegative() / size
    out = centred / (variance + _interval(eps)).sqrt()
    out = out if weight is None else out * _interval(weight)
    return out if bias is None else out + _interval(bias)


def _variance(x: Interval, axes: Any, correction: Any, keep: bool) -> tuple[Interval, Interval]:
    axes = list(range(x.ndim)) if axes is None else list(axes)
    size = math.prod(x.shape[axis] for axis in axes)
    mean = _sum(x, axes, True) / float(size)
    total = _sum((x - mean).square(), axes, keep).nonnegative()
    return total / float(size - (1 if correction is None else correction)), _sum(x, axes, keep) / float(
        size
    )


def _by_arb(function: Callable[[arb], arb]) -> Callable[[Interval], Interval]:
    def apply(x: Interval) -> Interval:
        low, high = np.empty(x.shape), np.empty(x.shape)
        for index in np.ndindex(*x.shape):
            low[index], high[index] = from_arb(function(to_arb(x.low[index], x.high[index])))
        return Interval(low, high)

    return apply


_ELEMENTWISE: dict[Any, Callable[..., Interval]] = {
    aten.add.Tensor: _add,
    aten.add.Scalar: _add,
    aten.sub.Tensor: lambda x, y: _add(x, -y),
    aten.sub.Scalar: lambda x, y: _add(x, -y),
    aten.rsub.Scalar: lambda x, y: y - x,
    aten.mul.Tensor: lambda x, y: x * y,
    aten.mul.Scalar: lambda x, y: x * y,
    aten.div.Tensor: lambda x, y: x / y,
    aten.div.Scalar: lambda x, y: x / y,
    aten.neg.default: lambda x: -x,
    aten.sqrt.default: lambda x: x.sqrt(),
    aten.rsqrt.default: lambda x: x.sqrt().reciprocal(),
    aten.reciprocal.default: lambda x: x.reciprocal(),
    aten.mm.default: intervals.matmul,
    aten.bmm.default: intervals.matmul,
    aten.mv.default: lambda x, y: intervals.matmul(x, y.reshape(-1, 1))[:, 0],
    aten.dot.default: lambda x, y: intervals.matmul(x.reshape(1, -1), y.reshape(-1, 1))[0, 0],
    aten.addmm.default: lambda z, x, y: z + intervals.matmul(x, y),
    aten.baddbmm.default: lambda z, x, y: z + intervals.matmul(x, y),
    aten.maximum.default: lambda x, y: _chosen(np.maximum, x, y),
    aten.minimum.default: lambda x, y: _chosen(np.minimum, x, y),
    aten.abs.default: functions.absolute,
    aten.square.default: lambda x: x.square(),
    aten.relu.default: functions.relu,
    aten.silu.default: functions.silu,
    aten.sigmoid.default: functions.sigmoid,
    aten.clone.default: lambda x: x,
}
_WITH_NUMBERS: dict[Any, Callable[..., Interval]] = {
    aten.clamp.default: _clamp,
    aten.clamp.Tensor: _clamp,
    aten.clamp_min.default: _clamp,
    aten.clamp_max.default: lambda x, high: _clamp(x, None, high),
    aten._softmax.default: lambda x, axis, half: _softmax(x, axis),
    aten.amax.default: lambda x, axes=(), keep=False: _extreme(np.max, x, axes, keep),
    aten.amin.default: lambda x, axes=(), keep=False: _extreme(np.min, x, axes, keep),
    aten.pow.Tensor_Scalar: _pow,
}
"""Operations whose other arguments are numbers that set them."""


def _extreme(reduce: Callable[..., Array], x: Interval, axes: Any, keep: bool) -> Interval:
    chosen = tuple(axes) or None
    return Interval(
        reduce(x.low, axis=chosen, keepdims=keep), reduce(x.high, axis=chosen, keepdims=keep)
    )


_IN_PLACE: dict[Any, Any] = {
    aten.add_.Tensor: aten.add.Tensor,
    aten.sub_.Tensor: aten.sub.Tensor,
    aten.mul_.Tensor: aten.mul.Tensor,
    aten.div_.Tensor: aten.div.Tensor,
}
SINE, COSINE = _by_arb(arb.sin), _by_arb(arb.cos)
_TRANSCENDENTAL: dict[Any, Callable[[Interval], Interval]] = {
    aten.sin.default: SINE,
    aten.cos.default: COSINE,
    aten.exp.default: _by_arb(arb.exp),
    aten.tanh.default: _by_arb(arb.tanh),
    aten.log.default: _by_arb(arb.log),
    aten.log1p.default: _by_arb(arb.log1p),
    aten.expm1.default: _by_arb(arb.expm1),
    aten.erf.default: _by_arb(arb.erf),
}
_REARRANGING = {
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.transpose.int,
    aten.permute.default,
    aten.t.default,
    aten.expand.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.slice.Tensor,
    aten.narrow.default,
    aten.select.int,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.unbind.int,
    aten.cat.default,
    aten.stack.default,
    aten.index.Tensor,
    aten.index_select.default,
    aten.clone.default,
    aten.detach.default,
    aten.alias.default,
    aten.flip.default,
    aten.roll.default,
    aten.repeat.default,
    aten.squeeze.default,
    aten.movedim.int,
    aten.gather.default,
    aten.embedding.default,
    aten.tril.default,
    aten.triu.default,
    aten.diagonal.default,
    aten.as_strided.default,
    aten._reshape_alias.default,
    aten.contiguous.default,
    aten.split.sizes,
    aten.chunk.default,
    aten.where.self,
    aten.constant_pad_nd.default,
}
"""Operations that only move numbers about, or put whole ones beside them: done on both ends alike."""
_EXACT = {
    aten.arange.default,
    aten.arange.start,
    aten.arange.start_step,
    aten.eye.default,
    aten.eye.m,
    aten.zeros.default,
    aten.ones.default,
    aten.new_zeros.default,
    aten.new_ones.default,
}
"""Operations that make whole numbers: exact as PyTorch does them."""
_COMPARING: dict[Any, Callable[..., Any]] = {
    aten.eq: np.equal,
    aten.ne: np.not_equal,
    aten.lt: np.less,
    aten.le: np.less_equal,
    aten.gt: np.greater,
    aten.ge: np.greater_equal,
    aten.isinf: np.isinf,
    aten.isnan: np.isnan,
    aten.isneginf: np.isneginf,
}
"""Questions with a plain answer, where it is the same for all numbers of an interval."""
_FILLING = {
    aten.full.default: 1,
    aten.full_like.default: 1,
    aten.new_full.default: 2,
    aten.scalar_tensor.default: 0,
}
"""Operations that write one number everywhere, and where it stands among their arguments."""
_WHERE = {aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar}
_MASKED = {aten.masked_fill.Scalar, aten.masked_fill.Tensor}


def _interpret(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if func in _REARRANGING or func in _EXACT:
        leaves, spec = tree_flatten((args, kwargs))
        makes = func in _EXACT or func is aten.constant_pad_nd.default
        if makes and any(isinstance(leaf, float) and leaf % 1 for leaf in leaves):
            raise Failure(f"the checker has no enclosure of {func} with a fraction")
        if not any(isinstance(leaf, _Wide) for leaf in leaves):
            return func(*args, **kwargs)
        if func in _EXACT:
            low = [leaf.low if isinstance(leaf, _Wide) else leaf for leaf in leaves]
            low_args, low_kwargs = tree_unflatten(low, spec)
            return func(*low_args, **low_kwargs)
        return _both_ends(func, leaves, spec)
    if func.overloadpacket in _COMPARING:
        return _compared(func, args)
    if func in _FILLING:
        return _filled(func, args, kwargs)
    if func in _WHERE or func in _MASKED:
        mask = args[0] if func in _WHERE else args[1]
        first, second = args[1:] if func in _WHERE else (args[2], args[0])
        if isinstance(mask, _Wide):
            raise Failure(f"the checker has no enclosure of {func} with a mask that is not plain")
        x, y = _interval(first), _interval(second)
        mask = mask.numpy()
        return _wide(Interval(np.where(mask, x.low, y.low), np.where(mask, x.high, y.high)))
    plain = not any(isinstance(leaf, _Wide) for leaf in tree_flatten((args, kwargs))[0])
    if plain and _is_whole(args):
        out = func(*args, **kwargs)
        if not (out.dtype.is_floating_point if isinstance(out, Tensor) else isinstance(out, float)):
            return out  # integers and truth values are exact
    if func is aten.lift_fresh.default:
        return _wide(written(args[0])) if args[0].dtype.is_floating_point else args[0]
    if func in (aten._to_copy.default, aten.to.dtype):
        return _copy(func, args, kwargs)
    if func in (aten.zeros_like.default, aten.ones_like.default):
        value = 0.0 if func is aten.zeros_like.default else 1.0
        return torch.full(tuple(args[0].shape), value, dtype=torch.float64)
    if func in (aten.sum.dim_IntList, aten.mean.dim):
        x, axes = _interval(args[0]), list(args[1])
        total = _sum(x, axes, bool(args[2]) if len(args) > 2 else False)
        if func is aten.mean.dim:
            total = total / math.prod(x.shape[axis] for axis in axes)
        return _wide(total)
    if func in (aten.sum.default, aten.mean.default):
        x = _interval(args[0])
        total = _sum(x, list(range(x.ndim)), False)
        return _wide(total / float(x.low.size) if func is aten.mean.default else total)
    if func in _WITH_NUMBERS and not kwargs:
        return _wide(_WITH_NUMBERS[func](_interval(args[0]), *args[1:]))
    if func is aten.gelu.default:
        tanh = kwargs.get("approximate", args[1] if len(args) > 1 else "none") == "tanh"
        return _wide((functions.gelu_tanh if tanh else functions.gelu)(_interval(args[0])))
    if func is aten.softplus.default and len(args) == 1 and not kwargs:
        return _wide(functions.softplus(_interval(args[0])))
    if func is aten.native_layer_norm.default:
        return _wide(_layer_norm(_interval(args[0]), *args[1:])), None, None
    if func in (aten.var.correction, aten.var_mean.correction):
        axes = args[1] if len(args) > 1 else kwargs.get("dim")
        keep = bool(kwargs.get("keepdim", False))
        both = _variance(_interval(args[0]), axes, kwargs.get("correction"), keep)
        return _wide(both[0]) if func is aten.var.correction else tuple(map(_wide, both))
    if func is aten.constant_pad_nd.default and not (args[2] if len(args) > 2 else 0):
        leaves, spec = tree_flatten((args, kwargs))
        return _both_ends(func, leaves, spec)
    if set(kwargs) == {"alpha"} and func in (aten.add.Tensor, aten.sub.Tensor):
        return _interpret(func, (args[0], _wide(_interval(args[1]) * _interval(kwargs["alpha"]))), {})
    if func in _IN_PLACE and isinstance(args[0], _Wide):
        out = _interpret(_IN_PLACE[func], args, kwargs)
        args[0].low.copy_(out.low)
        args[0].high.copy_(out.high)
        return args[0]
    if func in _TRANSCENDENTAL:
        return _wide(_TRANSCENDENTAL[func](_interval(args[0])))
    if func in _ELEMENTWISE and not kwargs and _is_real(args):
        return _wide(_ELEMENTWISE[func](*map(_interval, args)))
    raise Failure(
        f"the checker has no enclosure of the operation {func}; it cannot check this kind of model"
    )


def _compared(func: Any, args: tuple[Any, ...]) -> Tensor:
    compare, pairs = _COMPARING[func.overloadpacket], [_interval(x) for x in args]
    if any(np.isnan(end).any() for x in pairs for end in (x.low, x.high)):
        raise Failure("the model compares numbers of which the checker knows nothing")
    answers = [compare(*ends) for ends in product(*((x.low, x.high) for x in pairs))]
    # Where two numbers may be equal or not, their ends tell only if they do not overlap.
    if compare in (np.equal, np.not_equal):
        x, y = pairs
        point = (x.low == x.high) & (y.low == y.high)
        if not (point | (x.high < y.low) | (x.low > y.high)).all():
            raise Failure(
                "the model asks whether two numbers are equal that the checker cannot tell apart"
            )
    if any((each != answers[0]).any() for each in answers):
        raise Failure("the model asks of numbers what the checker cannot answer for all they may be")
    return torch.as_tensor(answers[0])


def _filled(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    where = _FILLING[func]
    number = args[where]
    plain = [torch.empty(tuple(x.shape)) if isinstance(x, _Wide) else x for x in args]
    if not isinstance(number, float) or number % 1 == 0 or math.isinf(number):
        out = func(*plain, **kwargs)
        return out.to(torch.float64) if out.dtype.is_floating_point else out
    shape = tuple(func(*plain, **kwargs).shape)
    enclosed = intervals.widened(number)
    return _wide(Interval(np.full(shape, enclosed.low), np.full(shape, enclosed.high)))


def _is_whole(args: tuple[Any, ...]) -> bool:
    """Whether all tensors hold integers or truth values, and no number is a fraction."""
    leaves = tree_flatten(args)[0]
    return not any(
        isinstance(leaf, float) or (isinstance(leaf, Tensor) and leaf.dtype.is_floating_point)
        for leaf in leaves
    )


def written(x: Tensor) -> Interval:
    """Numbers that the program writes down or computes in plain Python (the angles of rotary
    positions): a few steps to both sides make up for their rounding."""
    exact = x.to(torch.float64).numpy()
    infinite = np.isinf(exact)
    number = intervals.widened(np.where(infinite, 0.0, exact))
    for _ in range(PYTHON_STEPS - 1):
        number = intervals.widened(number.low).hull(intervals.widened(number.high))
    return Interval(np.where(infinite, exact, number.low), np.where(infinite, exact, number.high))


def _is_real(args: tuple[Any, ...]) -> bool:
    """Whether PyTorch would do this operation on real numbers; integer division is another thing."""
    return any(
        isinstance(arg, float) or (isinstance(arg, Tensor) and arg.dtype.is_floating_point)
        for arg in args
    )


def _both_ends(func: Any, leaves: list[Any], spec: Any) -> Any:
    ends = []
    for end in ("low", "high"):
        plain = [getattr(leaf, end) if isinstance(leaf, _Wide) else _as_float64(leaf) for leaf in leaves]
        plain_args, plain_kwargs = tree_unflatten(plain, spec)
        ends.append(func(*plain_args, **plain_kwargs))
    low, high = ends
    if isinstance(low, Tensor):
        return _Wide(low, high)
    return type(low)(_Wide(*pair) for pair in zip(low, high, strict=True))


def _as_float64(x: Any) -> Any:
    return x.to(torch.float64) if isinstance(x, Tensor) and x.dtype.is_floating_point else x


def _copy(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A change of type. Wide tensors stay what they are; plain ones may only become wider."""
    (x, *_), target = (
        args,
        kwargs.get("dtype") or next((arg for arg in args[1:] if isinstance(arg, torch.dtype)), None),
    )
    if isinstance(x, _Wide):
        return _Wide(x.low, x.high)
    out = func(*args, **kwargs)
    if target is not None and x.dtype.is_floating_point:
        same = torch.equal(out.to(torch.float64), x.to(torch.float64))
        if not same:
            raise Failure("the model rounds its constants on the way; the checker cannot follow that")
    return out


def enclose(
    function: Callable[[dict[str, Tensor]], Mapping[str, Tensor]], params: Mapping[str, Interval]
) -> dict[str, Interval]:
    """What a function of tensors makes of all parameters between the ends given, number by number.

    Minus infinity may be among it, the score of a hidden key. Raises ``Failure`` for an operation that
    the checker cannot enclose.
    """
    wide: dict[str, Tensor] = {name: _wide(x) for name, x in params.items()}
    try:
        with torch.no_grad(), np.errstate(all="ignore"), _Enclosing():
            found = function(wide)
    except ArithmeticError as error:
        raise Failure(
            f"this model's tables cannot be enclosed: {error}; are its weights huge?"
        ) from error
    enclosed = {name: _interval(tensor) for name, tensor in found.items()}
    for name, x in enclosed.items():
        sound = (x.low <= x.high) & (x.high < np.inf) & ((x.low > -np.inf) | (x.high == -np.inf))
        if not sound.all():
            raise Failure(f"the table {name!r} cannot be enclosed: a number in it is not finite")
    return enclosed


def tables_of_intervals(
    config: Architecture, params: Mapping[str, Interval]
) -> tuple[TableForm, dict[str, Interval]]:
    """The form of one model and an enclosure of each of its tables (without the seed axis).

    The enclosures hold for all parameters between the ends given. Raises ``UsageError`` for models
    without tables, ``Failure`` for an operation it cannot enclose.
    """
    forms = []

    def build(stacked: dict[str, Tensor]) -> dict[str, Tensor]:
        tables = _build(config, stacked)
        forms.append(tables.form)
        return dict(tables.items())

    if isinstance(config, ModelConfig):
        skeleton(config)  # made outside the scope, which knows no drawing of numbers
    found = enclose(build, {name: Interval(x.low[None], x.high[None]) for name, x in params.items()})
    return forms[0], {name: table[0] for name, table in found.items()}


def _build(config: Architecture, params: Mapping[str, Tensor]) -> Tables:
    """A model read from a file makes its own tables."""
    if isinstance(config, ModelConfig):
        return build_tables(config, params)
    return config.tables(params, exact=True)


def enclose_tables(
    config: Architecture, params: Mapping[str, Tensor]
) -> tuple[TableForm, dict[str, Interval]]:
    """``tables_of_intervals`` of stored weights (no seed axis), whose values count exactly."""
    exact = {name: Interval(x.detach().to("cpu", torch.float64).numpy()) for name, x in params.items()}
    form, found = tables_of_intervals(config, exact)
    rounded = float64_tables(config, params)
    for name, table in found.items():
        hidden = table.high == -np.inf
        if not (hidden == np.isneginf(rounded[name])).all():
            raise Failure(f"the enclosure of the table {name!r} contradicts the table: a bug; report it")
        table, rounded[name] = table[~hidden], rounded[name][~hidden]
        middle, radius = table.mid_rad()
        distance = np.abs(middle - rounded[name])
        if not (distance <= radius + AGREE * (1.0 + np.abs(rounded[name]))).all():
            raise Failure(f"the enclosure of the table {name!r} contradicts the table: a bug; report it")
    return form, found


def float64_tables(config: Architecture, params: Mapping[str, Tensor]) -> dict[str, Array]:
    """The rounded tables, to compare enclosures with: (name, table without seed axis)."""
    stacked = {name: tensor.detach().to("cpu", torch.float64)[None] for name, tensor in params.items()}
    with torch.no_grad():
        tables = _build(config, stacked)
    return {name: table[0].numpy() for name, table in tables.items()}
