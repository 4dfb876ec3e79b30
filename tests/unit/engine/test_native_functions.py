"""The C++ functions of one channel against PyTorch in float64: values, slopes, ends, NaN."""

import ctypes
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from adderlab.engine.native.build import FOLDER, load_library
from adderlab.engine.native.engine import KERNEL_FLAGS
from adderlab.models.head_program import FUNCTIONS
from helpers.machine import ISAS

Apply = Callable[[str, Tensor], tuple[Tensor, Tensor]]

SLOPED = [name for name in FUNCTIONS if name not in ("negate", "gelu")]
"""GELU works in a unit of its own, and the minus sign needs no slope."""

SOURCE = """
#include "functions.hpp"

#define APPLY(NAME) \\
    extern "C" void apply_##NAME(int count, const float* x, float* value, float* slope) { \\
        for (int i = 0; i < count; i += W) { \\
            vf in, y, s; \\
            std::memcpy(&in, x + i, sizeof in); \\
            NAME##_value_and_slope(in, y, s); \\
            std::memcpy(value + i, &y, sizeof y); \\
            std::memcpy(slope + i, &s, sizeof s); \\
        } \\
    }
"""


@pytest.fixture(scope="module", params=ISAS)
def apply(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Apply:
    """(name, x) -> (value, slope), float32."""
    path: Path = tmp_path_factory.mktemp("functions") / "functions.cpp"
    path.write_text(SOURCE + "\n".join(f"APPLY({name})" for name in SLOPED))
    flags = [flag for flag in KERNEL_FLAGS if flag != "-fvisibility=hidden"]
    library = load_library(path, optimise="-O1", extra=[*flags, f"-I{FOLDER}"], isa=request.param)

    def run(name: str, x: Tensor) -> tuple[Tensor, Tensor]:
        padded = torch.ones(-(-len(x) // 16) * 16)
        padded[: len(x)] = x
        value, slope = torch.empty_like(padded), torch.empty_like(padded)
        pointers = [ctypes.c_void_p(t.data_ptr()) for t in (padded, value, slope)]
        getattr(library, f"apply_{name}")(len(padded), *pointers)
        return value[: len(x)], slope[: len(x)]

    return run


def wanted(name: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """Value and slope in float64."""
    x = x.double().requires_grad_()
    y = FUNCTIONS[name](x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    return y.detach(), slope


@pytest.mark.parametrize("name", SLOPED)
def test_values_and_slopes(name: str, apply: Apply) -> None:
    """To 4e-7 of the value, or of 1 where that is smaller, also far out and close to 0."""
    size = torch.cat([torch.linspace(0.01, 20, 4000), torch.logspace(-6, math.log10(80.0), 1000)])
    x = size if name in ("sqrt", "rsqrt") else torch.cat([size, -size])
    if name in ("softplus", "exp"):
        x = x[x.abs() < 80]
    for got, want in zip(apply(name, x), wanted(name, x), strict=True):
        error = (got - want).abs() / want.abs().clamp(min=1)
        assert error.max() < 4e-7, (name, float(x[error.argmax()]), float(error.max()))


@pytest.mark.parametrize("name", ["tanh", "silu", "gelu_tanh", "abs", "square", "relu", "sqrt", "exp"])
def test_small_values_keep_their_digits(name: str, apply: Apply) -> None:
    """Where what is left after a cancellation would be noise: relative to the value itself."""
    x = torch.cat([torch.logspace(-9, -0.2, 2000), torch.linspace(0.3, 0.9, 1000)])
    value, _ = apply(name, x)
    want, _ = wanted(name, x)
    assert ((value - want).abs() / want.abs()).max() < 4e-7


def test_exponential_at_its_ends(apply: Apply) -> None:
    value, _ = apply("exp", torch.tensor([89.0, 1000.0, -200.0, -1e9, 0.0, 88.0, -80.0]))
    assert value[:2].isinf().all() and (value[2:4] == 0).all() and value[4] == 1
    exact = torch.tensor([88.0, -80.0], dtype=torch.float64).exp()
    assert torch.allclose(value[5:].double(), exact, rtol=4e-7)


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "softplus", "silu", "gelu_tanh", "relu"])
def test_far_out_is_what_it_tends_to(name: str, apply: Apply) -> None:
    """But for what 2^-126, where the exponential ends, leaves of a polynomial in x."""
    x = torch.tensor([1e4, -1e4, 300.0, -300.0])
    for got, want in zip(apply(name, x), wanted(name, x), strict=True):
        assert torch.allclose(got.double(), want, atol=1e-27)


@pytest.mark.parametrize("name", SLOPED)
def test_what_is_no_number_stays_none(name: str, apply: Apply) -> None:
    value, _ = apply(name, torch.tensor([math.nan, 1.0]))
    assert value[0].isnan() and value[1].isfinite()


def test_slopes_at_corners(apply: Apply) -> None:
    """As PyTorch has them."""
    zero = torch.zeros(1)
    for name in ("relu", "abs"):
        assert torch.equal(apply(name, zero)[1].double(), wanted(name, zero)[1])
