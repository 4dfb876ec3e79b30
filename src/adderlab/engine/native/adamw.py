"""A descent step of a population in one call: a few hundred parameters a seed are a microsecond of work,
but twenty PyTorch operations are a hundred.

Shapes: S seeds, N parameters of one model, flat; X and R as in ``engine.stretch``.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

from torch import Tensor, float32

from adderlab.engine.descent import Descending
from adderlab.engine.native.build import NativeUnavailable, load_library
from adderlab.engine.stretch import CONSTANTS, RATES

SOURCE = Path(__file__).with_name("adamw.cpp")
FLAGS = ("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-ftree-vectorize")


class AdamWRequest(ctypes.Structure):
    """Mirrors ``AdamW`` in adamw.hpp."""

    _fields_ = [
        *[(name, ctypes.c_int32) for name in ("seeds", "size")],
        *[(name, ctypes.c_void_p) for name in ("params", "mean", "square", "slow", "average", "grad")],
        *[(name, ctypes.c_void_p) for name in ("rates", "constants", "weight_decay", "lr_scale")],
    ]


@cache
def adamw_library() -> ctypes.CDLL:
    library = load_library(SOURCE, optimise="-O2", extra=FLAGS)
    if library.adderlab_adamw_size() != ctypes.sizeof(AdamWRequest):
        raise NativeUnavailable("its sources changed while this program was running; start it again")
    return library


def native_descent(
    state: Descending,
    grad_SN: Tensor,
    rates_SR: Tensor,
    constants_SX: Tensor,
    lr_scale_SN: Tensor | None = None,
) -> None:
    """``engine.descent.descend`` on contiguous float32 tensors on the CPU; overwrites ``grad_SN``.

    The same operations in the same order. The results may differ from its in the last bit: PyTorch's
    square root is that of MKL, which is not always correctly rounded. Raises ``NativeUnavailable``.
    """
    S, N = state.params_SN.shape
    request = AdamWRequest(seeds=S, size=N)
    point(request, state, (S, N))
    request.grad = floats(grad_SN, (S, N))
    request.rates = floats(rates_SR, (S, len(RATES)))
    request.constants = floats(constants_SX, (S, len(CONSTANTS)))
    request.lr_scale = None if lr_scale_SN is None else floats(lr_scale_SN, (S, N))
    adamw_library().adderlab_descend(ctypes.byref(request))


def point(request: AdamWRequest, state: Descending, shape: tuple[int, int]) -> None:
    """Let a request point at the tensors that a step updates, and at the weight decay."""
    for name in ("params", "mean", "square", "slow", "average"):
        tensor = getattr(state, f"{name}_SN")
        setattr(request, name, None if tensor is None else floats(tensor, shape))
    request.weight_decay = floats(state.weight_decay_S, shape[:1])


def floats(tensor: Tensor, shape: tuple[int, ...]) -> int:
    """Where its numbers lie."""
    assert tensor.shape == shape and tensor.is_contiguous(), (tensor.shape, shape)
    assert tensor.dtype == float32 and tensor.device.type == "cpu", (tensor.dtype, tensor.device)
    return tensor.data_ptr()
