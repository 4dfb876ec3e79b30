"""What fp32 may make of a model at one pair: runs with every operation disturbed, and the bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from adderlab.checker.fp32 import Arithmetic, StepError, drift
from adderlab.checker.head import margins, residual_stream
from adderlab.checker.intervals import Array, Interval
from adderlab.checker.model import Leaves, Model, digits_of, mix_at
from adderlab.checker.ranges import project
from adderlab.checker.rounding import FP32, moved_by_rounding
from adderlab.checker.steps import Batch

aten = torch.ops.aten


class Perturbed(TorchDispatchMode):
    """float64 arithmetic in which every operation is off by up to an fp32 rounding, at random or all
    to one side, sums by what the worst order may lose."""

    LINEAR = (aten.mm.default, aten.bmm.default)
    SUMS = (aten.mean.dim, aten.sum.dim_IntList)
    OTHERS = (
        aten.add.Tensor,
        aten.sub.Tensor,
        aten.mul.Tensor,
        aten.div.Tensor,
        aten.sqrt.default,
        aten.pow.Tensor_Scalar,
        aten.gelu.default,
        aten.silu.default,
        aten._softmax.default,
    )

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = torch.Generator().manual_seed(seed)
        self.one_sided = seed % 3 == 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        u = FP32.unit
        if func in self.LINEAR:
            return out + self._noise(out) * args[0].shape[-1] * u * (args[0].abs() @ args[1].abs())
        if func in self.SUMS:
            size = func(args[0].abs(), *args[1:], **(kwargs or {}))
            return out + self._noise(out) * args[0].shape[-1] * u * size
        if func is aten.addmm.default:
            size = args[1].abs() @ args[2].abs()
            return out + self._noise(out) * args[1].shape[-1] * u * size + self._noise(out) * u * out
        if func is aten.native_layer_norm.default:
            normed, mean, rstd = out
            return normed + self._noise(normed) * 4 * u * normed, mean, rstd
        if func in self.OTHERS and isinstance(out, Tensor) and out.dtype == torch.float64:
            return out + self._noise(out) * u * out
        return out

    def _noise(self, like: Tensor) -> Tensor:
        if self.one_sided:
            return torch.ones(like.shape, dtype=torch.float64)
        sign = torch.rand(like.shape, generator=self.rng, dtype=torch.float64) < 0.5
        return sign * 2.0 - 1.0


def point_batch(model: Model, step_index: int, a: int, b: int) -> Batch:
    """The one box that holds a pair's own mix, in the axes of y."""
    step = model.steps[step_index]
    row, right, y_HE = mix_at(model, step, a, b)
    H, E = y_HE.shape
    n, i = model.columns, step_index
    x, y = digits_of(a, n), digits_of(b, n)
    carry = int(a % 10 ** (i - 1) + b % 10 ** (i - 1) >= 10 ** (i - 1)) if i > 1 else 0
    values = {
        "carry": carry,
        "a_before": x[i - 1] if i else 0,
        "b_before": y[i - 1] if i else 0,
        "a": x[i] if i < n else 0,
        "b": y[i] if i < n else 0,
        "row": row,
        "right": right,
    }
    zero = np.zeros(1, dtype=np.intp)
    return Batch(
        step=step,
        cells=False,
        owner_N=zero,
        head=model.head,
        leaves=Leaves(**{k: np.array([v], dtype=np.intp) for k, v in values.items()}),
        parts=project(step, np.array([row]), Interval(np.broadcast_to(np.eye(E), (1, H, E, E)))),
        residual=(step.residual_ZD, np.array([row])),
        directions=(model.out_HED.reshape(1, H * E, -1), zero),
        low_NK=y_HE.low.reshape(1, H * E),
        high_NK=y_HE.high.reshape(1, H * E),
        heads_NHE2=None,
        claimed=0.0,
    )


def allowed(
    model: Model, arithmetic: Arithmetic, errors: list[StepError], batch: Batch
) -> tuple[Array, Array]:
    """[low, high] of fp32 margins over each other token, at the pair of ``batch``."""
    right = int(batch.right_N[0])
    with np.errstate(all="ignore"):
        widen = drift(batch, errors[batch.step.index])
        low, high = batch.low_NK - widen, batch.high_NK + widen
        x0, R = batch.residual[0][batch.residual[1]], batch.directions[0]
        found = margins(model.head, batch.right_N, x0, R, low, high)
        stream = residual_stream(x0, R, low, high)
        z_N, error = batch.residual[1], errors[batch.step.index]
        x = arithmetic.stream(batch.step, error, z_N, stream)
        logits = arithmetic.logits(batch.step, z_N, x)
        others = [t for t in range(logits.shape[1]) if t != right]
        moved = []
        for t in others:
            direction = np.zeros(logits.shape)
            direction[0, right], direction[0, t] = 1.0, -1.0
            moved.append(moved_by_rounding(logits, Interval(direction))[0])
    sigma = found.sigma_N
    ends = [found.scaled_NQ.low[0], found.scaled_NQ.high[0]]
    divided = [end / s for end in ends for s in (sigma.low[0], sigma.high[0])]
    return np.min(divided, 0) - np.array(moved), np.max(divided, 0) + np.array(moved)
