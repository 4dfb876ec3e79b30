"""What the emitter knows of PyTorch's operations: C++ formulas of those that compute every number from
the numbers at its place, and PyTorch's compound operations taken apart into simpler ones.

Truth values are numbers here, 0 and 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

FORMULAS = {
    "mul": "{} * {}",
    "add": "{} + {}",
    "sub": "{} - {}",
    "rsub": "{1} - {0}",
    "div": "{} / {}",
    "minimum": "smaller({}, {})",
    "maximum": "larger({}, {})",
    "sqrt": "std::sqrt({})",
    "cos": "std::cos({})",
    "sin": "std::sin({})",
    "tan": "std::tan({})",
    "atan": "std::atan({})",
    "neg": "-({})",
    "exp": "std::exp({})",
    "exp2": "std::exp2({})",
    "expm1": "std::expm1({})",
    "log": "std::log({})",
    "log2": "std::log2({})",
    "log1p": "std::log1p({})",
    "erf": "std::erf({})",
    "cosh": "std::cosh({})",
    "sinh": "std::sinh({})",
    "tanh": "std::tanh({})",
    "abs": "std::fabs({})",
    "sign": "sign({})",
    "sgn": "sign({})",
    "floor": "std::floor({})",
    "ceil": "std::ceil({})",
    "round": "std::nearbyint({})",
    "trunc": "std::trunc({})",
    "reciprocal": "1.0f / {}",
    "rsqrt": "1.0f / std::sqrt({})",
    "square": "{0} * {0}",
    "relu": "larger({}, 0.0f)",
    "sigmoid": "sigmoid({})",
    "silu": "{0} * sigmoid({0})",
    "isinf": "(std::isinf({}) ? 1.0f : 0.0f)",
    "isnan": "(std::isnan({}) ? 1.0f : 0.0f)",
    "isfinite": "(std::isfinite({}) ? 1.0f : 0.0f)",
    "eq": "({} == {} ? 1.0f : 0.0f)",
    "ne": "({} != {} ? 1.0f : 0.0f)",
    "lt": "({} < {} ? 1.0f : 0.0f)",
    "le": "({} <= {} ? 1.0f : 0.0f)",
    "gt": "({} > {} ? 1.0f : 0.0f)",
    "ge": "({} >= {} ? 1.0f : 0.0f)",
    "logical_and": "({} != 0.0f && {} != 0.0f ? 1.0f : 0.0f)",
    "bitwise_and": "({} != 0.0f && {} != 0.0f ? 1.0f : 0.0f)",
    "logical_or": "({} != 0.0f || {} != 0.0f ? 1.0f : 0.0f)",
    "bitwise_or": "({} != 0.0f || {} != 0.0f ? 1.0f : 0.0f)",
    "logical_not": "({} == 0.0f ? 1.0f : 0.0f)",
    "bitwise_not": "({} == 0.0f ? 1.0f : 0.0f)",
    "where": "({} != 0.0f ? {} : {})",
    "masked_fill": "({1} != 0.0f ? {2} : {0})",
    "sigmoid_backward": "{0} * ({1} * (1.0f - {1}))",
    "tanh_backward": "{0} * (1.0f - {1} * {1})",
    "silu_backward": "{0} * silu_slope({1})",
    "threshold_backward": "({1} <= {2} ? 0.0f : {0})",
    "lerp": "{0} + {2} * ({1} - {0})",
}
"""Their operands in order; all broadcast."""

HELPERS = """
static inline float larger(float a, float b) { return a > b || a != a ? a : b; }
static inline float smaller(float a, float b) { return a < b || a != a ? a : b; }
static inline float sign(float x) { return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : 0.0f; }
static inline float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }
static inline float silu_slope(float x) {
    float s = sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
}
static inline float softplus(float x, float beta, float threshold) {
    return x * beta > threshold ? x : std::log1p(std::exp(x * beta)) / beta;
}
static inline float gelu(float x) { return 0.5f * x * (1.0f + std::erf(x * 0.70710678f)); }
static inline float gelu_slope(float x) {
    return 0.5f * (1.0f + std::erf(x * 0.70710678f)) + x * std::exp(-0.5f * x * x) * 0.39894228f;
}
static inline float gelu_tanh(float x) {
    return 0.5f * x * (1.0f + std::tanh(0.79788456f * (x + 0.044715f * x * x * x)));
}
static inline float gelu_tanh_slope(float x) {
    float t = std::tanh(0.79788456f * (x + 0.044715f * x * x * x));
    return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * 0.79788456f * (1.0f + 0.134145f * x * x);
}
"""
"""What the formulas call, written into a source that calls any of it."""
HELPED = ("larger(", "smaller(", "sign(", "sigmoid(", "silu_slope(", "softplus(", "gelu")


def formula(name: str, args: Any, kwargs: dict[str, Any]) -> tuple[str, tuple[Any, ...]] | None:
    """(C++ of one number, its operands) of an operation on numbers at one place; None if it is none."""
    if name in ("add", "sub", "rsub") and kwargs.get("alpha", 1) != 1:
        signs = {"add": "{0} + {2} * {1}", "sub": "{0} - {2} * {1}", "rsub": "{1} - {2} * {0}"}
        return signs[name], (*args[:2], kwargs["alpha"])
    if name in FORMULAS:
        text = FORMULAS[name]
        if name == "div" and (kwargs.get("rounding_mode") or len(args) > 2):
            return None
        return text, tuple(args)
    if name == "pow":
        return _power(*args)
    if name in ("clamp", "clamp_min", "clamp_max", "hardtanh"):
        low, high = _bounds(name, args, kwargs)
        text = "{0}" if low is None else "larger({0}, {1})"
        operands = (args[0],) if low is None else (args[0], low)
        if high is not None:
            text = f"smaller({text}, {{{len(operands)}}})"
            operands = (*operands, high)
        return text, operands
    if name in ("gelu", "gelu_backward"):
        kind = "gelu_tanh" if kwargs.get("approximate", "none") == "tanh" else "gelu"
        if name == "gelu":
            return f"{kind}({{}})", args[:1]
        return f"{{}} * {kind}_slope({{}})", args[:2]
    if name == "softplus":
        return "softplus({}, {}, {})", (*args, *(1.0, 20.0)[len(args) - 1 :])
    if name == "softplus_backward":
        return "({1} * {2} > {3} ? {0} : {0} * sigmoid({1} * {2}))", tuple(args)
    if name in ("addcmul", "addcdiv"):
        value, sign = kwargs.get("value", 1), "*" if name == "addcmul" else "/"
        return f"{{0}} + {{3}} * ({{1}} {sign} {{2}})", (*args[:3], value)
    if name == "leaky_relu":
        return "({0} > 0.0f ? {0} : {0} * {1})", (args[0], args[1] if len(args) > 1 else 0.01)
    if name == "leaky_relu_backward":
        return "({1} > 0.0f ? {0} : {0} * {2})", args[:3]
    if name == "hardtanh_backward":
        return "({1} <= {2} || {1} >= {3} ? 0.0f : {0})", tuple(args)
    if name == "fill":
        return "{}", args[1:2]
    return None


def _power(base: Any, exponent: Any) -> tuple[str, tuple[Any, ...]]:
    known = {
        2.0: "{0} * {0}", 3.0: "{0} * {0} * {0}", 1.0: "{0}", 0.0: "1.0f", 0.5: "std::sqrt({0})",
        -0.5: "1.0f / std::sqrt({0})", -1.0: "1.0f / {0}", -2.0: "1.0f / ({0} * {0})",
    }  # fmt: skip
    if not isinstance(exponent, Tensor) and float(exponent) in known:
        return known[float(exponent)], (base,)
    return "std::pow({}, {})", (base, exponent)


def _bounds(name: str, args: Any, kwargs: dict[str, Any]) -> tuple[Any, Any]:
    if name == "clamp_min":
        return args[1], None
    if name == "clamp_max":
        return None, args[1]
    low, high = (None, None) if name == "clamp" else (-1.0, 1.0)
    low = args[1] if len(args) > 1 else kwargs.get("min", low)
    return low, args[2] if len(args) > 2 else kwargs.get("max", high)


# Products of matrices.

VECTORS = """
typedef float v4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef float v8 __attribute__((vector_size(32), aligned(4), may_alias));
"""
ACCUMULATORS = 8
"""Vectors of sums that are kept in registers."""


def product(
    size: tuple[int, int, int, int],
    strides: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
    *,
    add: bool,
) -> str:
    """Code for @0 = @1 @ @2, or @0 += it with ``add``: (B, M, N) from (B, M, K) and (B, K, N), each
    with its strides.

    Rows of the second factor become vectors, copied beside one another where they do not lie so; a few
    rows of the result are summed at once. Every number is a sum over K in its order.
    """
    B, M, K, N = size
    out, left, right = strides
    lanes = 4 if N <= 4 else 8
    width = -(-N // lanes) * lanes
    packed = width != N or right[2] != 1
    shared = B == 1 or right[0] == 0
    lines = ["{"]
    row = f"@2 + b * {right[0]} + k * {right[1]}"
    pack = ""
    if packed:
        row = f"p + k * {width}"
        lines.append(f"alignas(64) float p[{K * width}] = {{}};")
        source = f"@2[{'' if shared else f'b * {right[0]} + '}k * {right[1]} + j * {right[2]}]"
        pack = (
            f"for (int k = 0; k < {K}; k++) for (int j = 0; j < {N}; j++) p[k * {width} + j] = {source};"
        )
    if pack and shared:
        lines.append(pack)
    lines.append(f"for (int b = 0; b < {B}; b++) {{")
    if pack and not shared:
        lines.append(pack)
    count = width // lanes
    for start in range(0, count, ACCUMULATORS):
        columns = range(start, min(start + ACCUMULATORS, count))
        block = min(max(1, ACCUMULATORS // len(columns)), 4, M)
        for first, last, rows in _blocks(M, block):
            lines.append(f"for (int i = {first}; i < {last}; i += {rows}) {{")
            lines += _block(rows, columns, lanes, row, N, K, out, left, add)
            lines.append("}")
    return " ".join([*lines, "} }"])


def _blocks(M: int, block: int) -> list[tuple[int, int, int]]:
    """(first, end, rows at once): all rows, the rest last."""
    whole = M // block * block
    parts = [(0, whole, block), (whole, M, M - whole)]
    return [part for part in parts if part[0] < part[1]]


def _block(
    rows: int,
    columns: range,
    lanes: int,
    row: str,
    N: int,
    K: int,
    out: tuple[int, ...],
    left: tuple[int, ...],
    add: bool,
) -> list[str]:
    v = f"v{lanes}"
    lines = [f"{v} {', '.join(f's{r}_{c} = {{}}' for r in range(rows) for c in columns)};"]
    lines.append(f"for (int k = 0; k < {K}; k++) {{")
    lines += [f"const {v} w{c} = *(const {v}*)({row} + {c * lanes});" for c in columns]
    for r in range(rows):
        lines.append(f"const float a{r} = @1[b * {left[0]} + (i + {r}) * {left[1]} + k * {left[2]}];")
        lines += [f"s{r}_{c} += a{r} * w{c};" for c in columns]
    lines.append("}")
    sign = "+=" if add else "="
    for r in range(rows):
        for c in columns:
            place = f"b * {out[0]} + (i + {r}) * {out[1]} + {c * lanes * out[2]}"
            count = min(lanes, N - c * lanes)
            if count == lanes and out[2] == 1:
                lines.append(f"*({v}*)(@0 + {place}) {sign} s{r}_{c};")
            else:
                lines += [f"@0[{place} + {j * out[2]}] {sign} s{r}_{c}[{j}];" for j in range(count)]
    return lines


# Compound operations, taken apart before anything is emitted.


def _layer_norm(
    x: Tensor, shape: list[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    axes = list(range(-len(shape), 0))
    mean = x.mean(axes, keepdim=True)
    centred = x - mean
    scale = ((centred * centred).mean(axes, keepdim=True) + eps).rsqrt()
    y = centred * scale
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias, mean, scale


def _layer_norm_backward(
    grad: Tensor,
    x: Tensor,
    shape: list[int],
    mean: Tensor,
    scale: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    wanted: list[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    axes, batch = list(range(-len(shape), 0)), list(range(x.ndim - len(shape)))
    y = (x - mean) * scale
    inner = grad if weight is None else grad * weight
    from_x = None
    if wanted[0]:
        along = (inner * y).mean(axes, keepdim=True)
        from_x = (inner - inner.mean(axes, keepdim=True) - y * along) * scale
    from_weight = (grad * y).sum(batch) if wanted[1] and batch else grad * y
    from_bias = grad.sum(batch) if wanted[2] and batch else grad
    return from_x, from_weight if wanted[1] else None, from_bias if wanted[2] else None


def _softmax(x: Tensor, dim: int, half_to_float: bool) -> Tensor:
    e = (x - x.amax(dim, keepdim=True)).exp()
    return e / e.sum(dim, keepdim=True)


def _log_softmax(x: Tensor, dim: int, half_to_float: bool) -> Tensor:
    shifted = x - x.amax(dim, keepdim=True)
    return shifted - shifted.exp().sum(dim, keepdim=True).log()


def _softmax_backward(grad: Tensor, y: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    return y * (grad - (grad * y).sum(dim, keepdim=True))


def _log_softmax_backward(grad: Tensor, y: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    return grad - y.exp() * grad.sum(dim, keepdim=True)


def _variance_and_mean(
    x: Tensor, dim: list[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    dim = list(range(x.ndim)) if not dim else list(dim)
    count = 1
    for d in dim:
        count *= x.shape[d]
    mean = x.mean(dim, keepdim=True)
    squares = ((x - mean) * (x - mean)).sum(dim, keepdim=keepdim)
    mean = mean if keepdim else x.mean(dim)
    return squares / max(0.0, count - (1.0 if correction is None else correction)), mean


def _variance(x: Tensor, dim: list[int] | None = None, **how: Any) -> Tensor:
    return _variance_and_mean(x, dim, **how)[0]


def _deviation(x: Tensor, dim: list[int] | None = None, **how: Any) -> Tensor:
    return _variance_and_mean(x, dim, **how)[0].sqrt()


def _length(
    x: Tensor,
    order: float = 2,
    dim: list[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: Any = None,
) -> Tensor:
    if order != 2:
        return NotImplemented
    return (x * x).sum(list(range(x.ndim)) if dim is None else dim, keepdim=keepdim).sqrt()


COMPOUND: dict[Any, Callable[..., Any]] = {
    aten.native_layer_norm.default: _layer_norm,
    aten.native_layer_norm_backward.default: _layer_norm_backward,
    aten._softmax.default: _softmax,
    aten._softmax_backward_data.default: _softmax_backward,
    aten._log_softmax.default: _log_softmax,
    aten._log_softmax_backward_data.default: _log_softmax_backward,
    aten.var_mean.correction: _variance_and_mean,
    aten.var.correction: _variance,
    aten.std.correction: _deviation,
    aten.linalg_vector_norm.default: _length,
}
"""Operation -> the same in simpler ones."""
