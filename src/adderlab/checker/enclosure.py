"""Tables enclosed: the parameters-to-tables map of ``adderlab.models`` run in interval arithmetic.

Tables in float64 are rounded, so they are not the model. Here the very code that builds them runs on
tensors that carry an interval for every number: each PyTorch operation it performs is looked up below
and done on the intervals, rounded outward. An operation that is not listed is refused, so nothing
inexact can slip through. Constants of the program are enclosed as written and as rounded to float64.

PyTorch and the modules of ``adderlab.models`` are used here and in ``tracing``, ``fp32``
and ``verify``, nowhere else in the checker.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from flint import arb
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from adderlab.checker import intervals
from adderlab.checker.functions import from_arb, to_arb
from adderlab.checker.intervals import Array, Interval
from adderlab.errors import Failure
from adderlab.models.config import ModelConfig
from adderlab.models.tables import TableForm
from adderlab.models.tables import tables as build_tables
from adderlab.models.transformer import skeleton

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
    if exponent == 2:
        return x.square()
    if exponent == 0.5:
        return x.sqrt()
    if exponent == -1:
        return x.reciprocal()
    raise Failure(f"the checker has no enclosure of the power {exponent}; it cannot check this model")


def _by_arb(function: Callable[[arb], arb]) -> Callable[[Interval], Interval]:
    def apply(x: Interval) -> Interval:
        low, high = np.empty(x.shape), np.empty(x.shape)
        for index in np.ndindex(*x.shape):
            low[index], high[index] = from_arb(function(to_arb(x.low[index], x.high[index])))
        return Interval(low, high)

    return apply


_ELEMENTWISE: dict[Any, Callable[..., Interval]] = {
    aten.add.Tensor: lambda x, y: x + y,
    aten.add.Scalar: lambda x, y: x + y,
    aten.sub.Tensor: lambda x, y: x - y,
    aten.sub.Scalar: lambda x, y: x - y,
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
}
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
}
"""Operations that only move numbers about: done on both ends alike."""
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


def _interpret(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if func in _REARRANGING or func in _EXACT:
        leaves, spec = tree_flatten((args, kwargs))
        if func in _EXACT and any(isinstance(leaf, float) and leaf % 1 for leaf in leaves):
            raise Failure(f"the checker has no enclosure of {func} with a fraction")
        if not any(isinstance(leaf, _Wide) for leaf in leaves):
            return func(*args, **kwargs)
        if func in _EXACT:
            low = [leaf.low if isinstance(leaf, _Wide) else leaf for leaf in leaves]
            low_args, low_kwargs = tree_unflatten(low, spec)
            return func(*low_args, **low_kwargs)
        return _both_ends(func, leaves, spec)
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
    if func is aten.pow.Tensor_Scalar:
        return _wide(_pow(_interval(args[0]), args[1]))
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


def written(x: Tensor) -> Interval:
    """Numbers that the program writes down or computes in plain Python (the angles of rotary
    positions): a few steps to both sides make up for their rounding."""
    number = intervals.widened(x.to(torch.float64).numpy())
    for _ in range(PYTHON_STEPS - 1):
        number = intervals.widened(number.low).hull(intervals.widened(number.high))
    return number


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


def tables_of_intervals(
    config: ModelConfig, params: Mapping[str, Interval]
) -> tuple[TableForm, dict[str, Interval]]:
    """The form of one model and an enclosure of each of its tables (without the seed axis).

    The enclosures hold for all parameters between the ends given. Raises ``UsageError`` for models
    without tables, ``Failure`` for an operation it cannot enclose.
    """
    skeleton(config)  # made outside the scope below, which knows no drawing of numbers
    stacked = {name: _wide(Interval(x.low[None], x.high[None])) for name, x in params.items()}
    try:
        with torch.no_grad(), np.errstate(all="ignore"), _Enclosing():
            tables = build_tables(config, stacked)
    except ArithmeticError as error:
        raise Failure(
            f"this model's tables cannot be enclosed: {error}; are its weights huge?"
        ) from error
    found = {name: _interval(table)[0] for name, table in tables.items()}
    for name, table in found.items():
        if not table.is_sound():
            raise Failure(f"the table {name!r} cannot be enclosed: a number in it is not finite")
    return tables.form, found


def enclose_tables(
    config: ModelConfig, params: Mapping[str, Tensor]
) -> tuple[TableForm, dict[str, Interval]]:
    """``tables_of_intervals`` of stored weights (no seed axis), whose values count exactly."""
    exact = {name: Interval(x.detach().to("cpu", torch.float64).numpy()) for name, x in params.items()}
    form, found = tables_of_intervals(config, exact)
    rounded = float64_tables(config, params)
    for name, table in found.items():
        middle, radius = table.mid_rad()
        distance = np.abs(middle - rounded[name])
        if not (distance <= radius + AGREE * (1.0 + np.abs(rounded[name]))).all():
            raise Failure(f"the enclosure of the table {name!r} contradicts the table: a bug; report it")
    return form, found


def float64_tables(config: ModelConfig, params: Mapping[str, Tensor]) -> dict[str, Array]:
    """The rounded tables, to compare enclosures with: (name, table without seed axis)."""
    stacked = {name: tensor.detach().to("cpu", torch.float64)[None] for name, tensor in params.items()}
    with torch.no_grad():
        tables = build_tables(config, stacked)
    return {name: table[0].numpy() for name, table in tables.items()}
