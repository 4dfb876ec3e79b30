"""AdamW for a population in one call: a few hundred parameters a seed are a microsecond of work, but
twenty PyTorch operations are a hundred.

Shapes: S seeds, N parameters of one model, flat.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

from torch import Tensor, float32

from adderlab.engine.native.build import load_library

SOURCE = Path(__file__).with_name("adamw.cpp")
FLAGS = ("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-ftree-vectorize")


class AdamWRequest(ctypes.Structure):
    """Mirrors ``AdamW`` in adamw.hpp."""

    _fields_ = [
        *[(name, ctypes.c_int32) for name in ("seeds", "size")],
        *[(name, ctypes.c_float) for name in ("beta1_rest", "beta2", "beta2_rest", "eps")],
        *[(name, ctypes.c_float) for name in ("correction", "scale")],
        *[(name, ctypes.c_void_p) for name in ("params", "mean", "square", "grad")],
        *[(name, ctypes.c_void_p) for name in ("lr", "weight_decay", "clip", "lr_scale")],
    ]


@cache
def adamw_library() -> ctypes.CDLL:
    return load_library(SOURCE, optimise="-O2", extra=FLAGS)


def adamw_step(
    params_SN: Tensor,
    mean_SN: Tensor,
    square_SN: Tensor,
    grad_SN: Tensor,
    *,
    lr_S: Tensor,
    weight_decay_S: Tensor,
    clip_S: Tensor,
    lr_scale_N: Tensor | None = None,
    beta1: float,
    beta2: float,
    eps: float,
    correction: float = 1.0,
    scale: float = 1.0,
) -> None:
    """One step in place, of contiguous float32 tensors on the CPU.

    The operations of ``training.optimizer.AdamW`` in the same order. The results may differ from its
    in the last bit: PyTorch's square root is that of MKL, which is not always correctly rounded.

    ``clip_S``: largest gradient norm of each seed; infinity never clips. ``lr_scale_N``: what every
    parameter's learning rate is multiplied by. ``correction`` = 1 - beta1^t and ``scale`` =
    sqrt(1 - beta2^t) correct the moments of step t; 1 leaves them. Raises ``NativeUnavailable``.
    """
    S, N = params_SN.shape
    tensors = {
        "params": (params_SN, (S, N)),
        "mean": (mean_SN, (S, N)),
        "square": (square_SN, (S, N)),
        "grad": (grad_SN, (S, N)),
        "lr": (lr_S, (S,)),
        "weight_decay": (weight_decay_S, (S,)),
        "clip": (clip_S, (S,)),
    }
    if lr_scale_N is not None:
        tensors["lr_scale"] = (lr_scale_N, (N,))
    request = AdamWRequest(
        seeds=S,
        size=N,
        beta1_rest=1.0 - beta1,
        beta2=beta2,
        beta2_rest=1.0 - beta2,
        eps=eps,
        correction=correction,
        scale=scale,
    )
    for name, (tensor, shape) in tensors.items():
        assert tensor.shape == shape and tensor.is_contiguous(), (name, tensor.shape, shape)
        assert tensor.dtype == float32 and tensor.device.type == "cpu", (
            name,
            tensor.dtype,
            tensor.device,
        )
        setattr(request, name, tensor.data_ptr())
    adamw_library().adderlab_adamw(ctypes.byref(request))
