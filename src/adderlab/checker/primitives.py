"""What this machine's PyTorch does, measured before anything is said about it.

The fp32 question rests on assumptions about single operations (docs/proof.md, "Floating point"), and
not every machine keeps them: some vector libraries round a square root to another neighbour than IEEE's
in one case of five. So each operation that a model may rely on is run here: the square root on every
mantissa of fp32, the others on about a million arguments, in long rows as the vector kernels take them
and in strided ones as the scalar kernels do, and compared with float64. Only on a machine where all of
them keep to the assumptions does ``check`` call a model covered. It takes about a second, once in a
process.

References: numpy's and the C library's float64 functions. Their own errors are 2^-20 of what is measured
and less; ``reference_is_right`` compares them with Arb and with exact arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
import torch
from flint import arb
from torch import Tensor

from adderlab.checker.functions import from_arb
from adderlab.checker.intervals import Array
from adderlab.checker.rounding import (
    CIRCLE_ULPS,
    ERF_ERROR,
    EXP_ULPS,
    FP32,
    FP64,
    ROOT_ULPS,
    TANH_ULPS,
    Format,
)

ARGUMENTS = 1 << 19
"""Of each kernel, contiguous and strided; the square root gets every mantissa besides."""
CHUNK = 1 << 20
ROW = 32
"""Numbers in a row of softmax and of a product: about as many as a model has keys."""
SLACK = 1e-3
"""Of a measured error: far above what the references are off by."""


@dataclass(frozen=True, kw_only=True)
class Primitive:
    """One operation: the error assumed of it and the largest one found, in the same unit."""

    name: str
    assumed: float
    worst: float
    unit: str
    argument: float
    """Where the worst was found, with what came out and what should have."""
    computed: float
    exact: float

    @property
    def holds(self) -> bool:
        return self.worst <= self.assumed * (1.0 + SLACK)

    def complaint(self) -> str:
        return (
            f"on this machine {self.name} of {self.argument:.9g} gives {self.computed:.9g}, not "
            f"{self.exact:.9g}: off by {self.worst:.3g} {self.unit}, where {self.assumed:.3g} "
            "are assumed"
        )


@cache
def measured() -> tuple[Primitive, ...]:
    """Every primitive on this machine. Not kept on disk: another PyTorch, another number of threads or
    another instruction set may be another machine."""
    with torch.no_grad(), np.errstate(all="ignore"):
        return (
            _root(),
            _root64(),
            _division(),
            _softmax(),
            _product(),
            _mean(),
            _gelu(),
            _silu(),
            *(_circle(name, format) for name in ("sine", "cosine") for format in (FP32, FP64)),
        )


@cache
def _measured(name: str) -> Primitive:
    return OTHERS[name]()


def of(relied_on: Callable[[str], bool]) -> tuple[Primitive, ...]:
    """All that every readable model may rely on, and of ``OTHERS`` those that this one does."""
    return (*measured(), *(_measured(name) for name in OTHERS if relied_on(name)))


def outside(relied_on: Callable[[str], bool]) -> Primitive | None:
    """The first primitive, of those relied on, that is not what is assumed of it."""
    return next((each for each in of(relied_on) if relied_on(each.name) and not each.holds), None)


def reference_is_right() -> bool:
    """Whether numpy's square root is IEEE's, and float64's exp, erf and sine are those of Arb."""
    rng = np.random.default_rng(0)
    x = np.exp(rng.uniform(-300.0, 300.0, 300))
    for argument, root in zip(x.tolist(), np.sqrt(x).tolist(), strict=True):
        half = Fraction(math.ulp(root)) / 2
        low, high = Fraction(root) - half, Fraction(root) + half
        if not low * low <= Fraction(argument) <= high * high:
            return False
    x = rng.uniform(-30.0, 30.0, 300)
    functions: tuple[tuple[Array, Callable[[arb], arb]], ...] = (
        (np.exp(x), arb.exp),
        (np.array(list(map(math.erf, x.tolist()))), arb.erf),
        (np.sin(x), arb.sin),
        (np.cos(x), arb.cos),
    )
    for values, function in functions:
        for argument, value in zip(x.tolist(), values.tolist(), strict=True):
            low, high = from_arb(function(arb(argument)))
            slack = 2.0**-50 * max(abs(low), abs(high), 2.0**-10)
            if not low - slack <= value <= high + slack:
                return False
    return True


def _both_kernels(function: Callable[[Tensor], Tensor], x: Array, dtype: torch.dtype) -> Array:
    """float64 results of a contiguous run on the first half of x and a strided one on the second."""
    half = len(x) // 2
    whole = torch.from_numpy(x).to(dtype)
    strided = torch.empty(2 * (len(x) - half), dtype=dtype)[::2]
    strided.copy_(whole[half:])
    return torch.cat([function(whole[:half].contiguous()), function(strided)]).double().numpy()


def _worst(
    name: str, assumed: float, unit: str, argument: Array, computed: Array, exact: Array, error: Array
) -> Primitive:
    """``error``, in the unit assumed; what is no number is the worst."""
    row = int(np.where(np.isnan(error), np.inf, error).argmax())
    return Primitive(
        name=name,
        assumed=assumed,
        worst=float(np.inf if np.isnan(error[row]) else error[row]),
        unit=unit,
        argument=float(argument[row]),
        computed=float(computed[row]),
        exact=float(exact[row]),
    )


def _floats(rng: np.random.Generator, low: float, high: float) -> Array:
    """fp32 numbers, evenly spread."""
    return rng.uniform(low, high, 2 * ARGUMENTS).astype(np.float32).astype(np.float64)


def _spread_out(rng: np.random.Generator, exponents: float) -> Array:
    """Positive fp32 numbers of all sizes from 2^-exponents to 2^exponents."""
    return (
        np.exp2(rng.uniform(-exponents, exponents, 2 * ARGUMENTS)).astype(np.float32).astype(np.float64)
    )


def _ulps(computed: Array, exact: Array, format: Format) -> Array:
    """In units of the last place of the exact result."""
    last = np.exp2(np.floor(np.log2(np.abs(exact)))) * 2.0 * format.unit
    return np.abs(computed - exact) / last


def _root() -> Primitive:
    found = []
    # Every mantissa, with an even and an odd exponent: results from 1 to 2.
    for start in range(0x3F800000, 0x40800000, CHUNK):
        bits = np.arange(start, start + CHUNK, dtype=np.int32)
        x = bits.view(np.float32)
        computed, exact = (
            torch.sqrt(torch.from_numpy(x)).numpy().astype(np.float64),
            np.sqrt(x, dtype=float),
        )
        error = np.abs(computed - exact) * 2.0**23
        found.append(
            _worst(
                "sqrt",
                ROOT_ULPS,
                "units of the last place",
                x.astype(np.float64),
                computed,
                exact,
                error,
            )
        )
    x = _spread_out(np.random.default_rng(1), 126.0)
    computed, exact = _both_kernels(torch.sqrt, x, torch.float32), np.sqrt(x)
    error = _ulps(computed, exact, FP32)
    found.append(_worst("sqrt", ROOT_ULPS, "units of the last place", x, computed, exact, error))
    return max(found, key=lambda each: each.worst)


def _root64() -> Primitive:
    x = np.exp2(np.random.default_rng(2).uniform(-1000.0, 1000.0, 2 * ARGUMENTS))
    computed, exact = _both_kernels(torch.sqrt, x, torch.float64), np.sqrt(x)
    # The reference is rounded too: half a unit more than what is seen.
    error = _ulps(computed, exact, FP64) + 0.5
    return _worst("float64 sqrt", ROOT_ULPS, "units of the last place", x, computed, exact, error)


def _division() -> Primitive:
    rng = np.random.default_rng(3)
    top, bottom = _spread_out(rng, 60.0) * rng.choice([-1.0, 1.0], 2 * ARGUMENTS), _spread_out(rng, 60.0)
    quotients = []
    for stride in (1, 2):
        a, b = (torch.from_numpy(x).float().repeat_interleave(stride)[::stride] for x in (top, bottom))
        quotients.append((a / b).double().numpy())
    error = np.maximum(*(_ulps(q, top / bottom, FP32) for q in quotients))
    worst = np.where(_ulps(quotients[0], top / bottom, FP32) >= error, quotients[0], quotients[1])
    return _worst("a quotient", 0.5, "units of the last place", top, worst, top / bottom, error)


def _softmax() -> Primitive:
    """Weights e^(score - largest) over their sum, relative to themselves but for what may be flushed."""
    rng = np.random.default_rng(4)
    score = _floats(rng, -103.0, 0.0).reshape(-1, ROW)
    score[:, 0] = 0.0
    # Most weight on a few keys, as trained models have it, in half of the rows.
    score[::2, 1:5] *= 0.05
    score = score.astype(np.float32).astype(np.float64)
    weight = np.exp(score)
    exact = (weight / weight.sum(1, keepdims=True)).reshape(-1)
    rows = torch.from_numpy(score).float()
    strided = torch.empty(len(rows), 2 * ROW)[:, ::2]
    strided.copy_(rows)
    found = []
    for x in (rows, strided):
        computed = torch.softmax(x, -1).double().numpy().reshape(-1)
        off = np.maximum(np.abs(computed - exact) - FP32.flush, 0.0)
        error = off / (2.0 * FP32.unit * exact)
        found.append(
            _worst("softmax", EXP_ULPS, "units of the last place", score.ravel(), computed, exact, error)
        )
    return max(found, key=lambda each: each.worst)


def _product() -> Primitive:
    """Products of matrices, relative to the assumed gamma_n |x| |y|: half precision inside shows."""
    rng, found = np.random.default_rng(5), []
    for inner in (2, 3, 7, 14, 33, 64):
        x, y = (
            rng.normal(size=shape).astype(np.float32).astype(np.float64)
            for shape in ((64, 40, inner), (inner, 20))
        )
        exact, size = (x @ y).ravel(), (np.abs(x) @ np.abs(y)).ravel()
        a, b = torch.from_numpy(x).float(), torch.from_numpy(y).float()
        for computed in (
            a @ b,
            torch.bmm(a, b.expand(len(a), -1, -1)),
            torch.nn.functional.linear(a, b.T),
        ):
            out = computed.double().numpy().ravel()
            error = np.abs(out - exact) / (inner * FP32.unit * size)
            found.append(_worst("a product", 1.0, "times gamma_n", exact, out, exact, error))
    return max(found, key=lambda each: each.worst)


def _mean() -> Primitive:
    """Sums of squares over a row, as the norms form them, relative to the assumed gamma_n |x|."""
    rng, found = np.random.default_rng(10), []
    for width in (2, 3, 7, 16, 64):
        x = rng.normal(size=(ARGUMENTS // width, width)).astype(np.float32).astype(np.float64)
        exact = (x * x).mean(1)
        computed = torch.from_numpy(x).float().pow(2).mean(-1, keepdim=True).double().numpy()[:, 0]
        error = np.abs(computed - exact) / ((width + 2) * FP32.unit * exact)
        found.append(_worst("a mean of squares", 1.0, "times gamma_n", exact, computed, exact, error))
    return max(found, key=lambda each: each.worst)


def _gelu() -> Primitive:
    x = np.concatenate(
        [_floats(np.random.default_rng(6), -8.0, 8.0), _floats(np.random.default_rng(7), -100.0, 100.0)]
    )
    x = x[x != 0][::2]
    exact = 0.5 * x * (1.0 + np.array(list(map(math.erf, (x * math.sqrt(0.5)).tolist()))))
    computed = _both_kernels(torch.nn.functional.gelu, x, torch.float32)
    error = np.maximum(np.abs(computed - exact) - 4.0 * FP32.flush, 0.0) / np.abs(x)
    assumed = 0.5 * ERF_ERROR + 6.0 * FP32.unit
    return _worst("gelu", assumed, "of the argument", x, computed, exact, error)


def _silu() -> Primitive:
    x = _floats(np.random.default_rng(8), -100.0, 100.0)
    x = x[x != 0]
    exact = x / (1.0 + np.exp(-x))
    computed = _both_kernels(torch.nn.functional.silu, x, torch.float32)
    off = np.maximum(np.abs(computed - exact) - (np.abs(x) + 4.0) * FP32.flush, 0.0)
    error = off / (2.0 * FP32.unit * np.abs(exact))
    return _worst("silu", EXP_ULPS + 3.0, "units of the last place", x, computed, exact, error)


def _exp() -> Primitive:
    x = _floats(np.random.default_rng(11), -80.0, 80.0)
    computed, exact = _both_kernels(torch.exp, x, torch.float32), np.exp(x)
    error = np.abs(computed - exact) / (2.0 * FP32.unit * exact)
    return _worst("exp", EXP_ULPS, "units of the last place", x, computed, exact, error)


def _sigmoid() -> Primitive:
    x = _floats(np.random.default_rng(12), -80.0, 80.0)
    computed, exact = _both_kernels(torch.sigmoid, x, torch.float32), 1.0 / (1.0 + np.exp(-x))
    error = np.abs(computed - exact) / (2.0 * FP32.unit * exact)
    return _worst("sigmoid", EXP_ULPS + 3.0, "units of the last place", x, computed, exact, error)


def _tanh() -> Primitive:
    x = np.concatenate([_floats(np.random.default_rng(13), end, -end) for end in (-12.0, -1.0)])[::2]
    computed, exact = _both_kernels(torch.tanh, x, torch.float32), np.tanh(x)
    error = np.abs(computed - exact) / (2.0 * FP32.unit)
    return _worst("tanh", TANH_ULPS, "units of the last place of 1", x, computed, exact, error)


def _inverse_root() -> Primitive:
    x = _spread_out(np.random.default_rng(16), 60.0)
    computed, exact = _both_kernels(torch.rsqrt, x, torch.float32), 1.0 / np.sqrt(x)
    error = np.abs(computed - exact) / exact
    assumed = (2.0 * ROOT_ULPS + 1.0) * FP32.unit
    return _worst("rsqrt", assumed, "of the result", x, computed, exact, error)


def _softplus() -> Primitive:
    x = _floats(np.random.default_rng(14), -80.0, 80.0)
    computed, exact = _both_kernels(torch.nn.functional.softplus, x, torch.float32), np.logaddexp(0.0, x)
    exact = np.where(x > 20.0, x, exact)
    error = np.abs(computed - exact) / (2.0 * FP32.unit * exact)
    return _worst("softplus", 2.0 * EXP_ULPS, "units of the last place", x, computed, exact, error)


def _gelu_tanh() -> Primitive:
    rng = np.random.default_rng(15)
    x = np.concatenate([_floats(rng, -8.0, 8.0), _floats(rng, -100.0, 100.0)])
    x = x[x != 0][::2]
    inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)
    exact = 0.5 * x * (1.0 + np.tanh(inner))
    computed = _both_kernels(lambda t: torch.nn.functional.gelu(t, approximate="tanh"), x, torch.float32)
    error = np.maximum(np.abs(computed - exact) - 4.0 * FP32.flush, 0.0) / np.abs(x)
    assumed = (TANH_ULPS + 10.0) * FP32.unit
    return _worst("gelu by tanh", assumed, "of the argument", x, computed, exact, error)


OTHERS: dict[str, Callable[[], Primitive]] = {
    "exp": _exp,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "softplus": _softplus,
    "rsqrt": _inverse_root,
    "gelu by tanh": _gelu_tanh,
}
"""Operations that only models read from files have; measured where one of those has them."""


def _circle(name: str, format: Format) -> Primitive:
    rng, narrow = np.random.default_rng(9), format is FP32
    torch_function, function = (torch.sin, np.sin) if name == "sine" else (torch.cos, np.cos)
    x = np.concatenate([_floats(rng, -8.0, 8.0), _floats(rng, -10_000.0, 10_000.0)])[::2]
    computed = _both_kernels(torch_function, x, torch.float32 if narrow else torch.float64)
    error = np.abs(computed - function(x)) / (2.0 * format.unit)
    if not narrow:
        error += 1.0  # the reference's own
    unit = "units of the last place of 1"
    return _worst(
        name if narrow else f"float64 {name}", CIRCLE_ULPS, unit, x, computed, function(x), error
    )
