"""Polishing one model with L-BFGS in double precision on fixed examples.

AdamW at a constant rate ends near a saddle of the loss, not at a minimum; a few hundred steps of a
quasi-Newton method on a fixed set of examples go on from there. Source: staghado/
minimal-ten-digit-addition-transformer (SciPy's L-BFGS-B, 8 x 256 examples, at most 500 iterations),
which reports 10010 of 10010 after it for models that AdamW left at 9973 to 10008.

Shapes: S = 1 seed in front of parameters and tokens; B pairs, J = 10 columns, N parameters, flat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adderlab.engine.torch_tables import TorchEngine
from adderlab.errors import UsageError
from adderlab.models.config import ModelConfig
from adderlab.models.mapping import why_no_tables
from adderlab.task.layouts import get_layout
from adderlab.training.objective import Objective, OracleObjective, TableObjective

CHUNK = 256
"""Pairs per evaluation of the loss: their intermediate results stay in a core's cache."""


@dataclass(frozen=True, kw_only=True)
class Polish:
    """How much work."""

    examples: int = 2048
    """Fixed pairs, drawn as the recipe's training pairs are."""
    iterations: int = 500

    def __post_init__(self) -> None:
        for name in ("examples", "iterations"):
            if getattr(self, name) < 1:
                raise UsageError(f"polish.{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Polished:
    """The model afterwards, and what it took."""

    params: dict[str, Tensor]
    """In the dtype and on the device they came in."""
    loss_before: float
    loss_after: float
    """Mean cross-entropy of the fixed examples, in double precision."""
    iterations: int


def polish(
    config: ModelConfig,
    params: Mapping[str, Tensor],
    a_BJ: Tensor,
    b_BJ: Tensor,
    settings: Polish | None = None,
) -> Polished:
    """One model (``params`` without a seed axis) on the given pairs; a pure function of all four.

    Computes on the CPU, through the tables where the model has them. A search that ends in no
    better loss leaves the weights as they are.
    """
    from scipy.optimize import minimize  # loading it takes a second, and few runs polish

    settings = settings or Polish()
    objective = _double_objective(config)
    tokens_BP, targets_BA = get_layout(config.layout).encode(a_BJ.cpu(), b_BJ.cpu())
    start_N = torch.cat([tensor.detach().flatten() for tensor in params.values()]).cpu().double()

    def loss_and_slope(weights_N: np.ndarray) -> tuple[float, np.ndarray]:
        named = _named(torch.from_numpy(weights_N), params)
        return _loss_and_slope(objective, named, tokens_BP, targets_BA)

    result = minimize(
        loss_and_slope,
        start_N.numpy(),
        jac=True,
        method="L-BFGS-B",
        # The first is staghado's; the line search needs a few evaluations per iteration.
        options={
            "maxiter": settings.iterations,
            "maxfun": 3 * settings.iterations,
            "ftol": 1e-12,
            "gtol": 1e-8,
        },
    )
    before, after = loss_and_slope(start_N.numpy())[0], float(result.fun)
    better = after < before and bool(np.isfinite(result.x).all())
    best_N = torch.from_numpy(result.x) if better else start_N
    named = {name: tensor[0].to(params[name]) for name, tensor in _named(best_N, params).items()}
    return Polished(
        params=named,
        loss_before=before,
        loss_after=after if better else before,
        iterations=int(result.nit),
    )


def _double_objective(config: ModelConfig) -> Objective:
    if why_no_tables(config) is None:
        return TableObjective(config, TorchEngine())
    oracle = OracleObjective(config, torch.device("cpu"))
    oracle.model.double()
    return oracle


def _named(weights_N: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Flat weights as parameters with one seed in front."""
    parts = weights_N.split([tensor.numel() for tensor in like.values()])
    return {name: part.reshape(1, *like[name].shape) for name, part in zip(like, parts, strict=True)}


def _loss_and_slope(
    objective: Objective, params: Mapping[str, Tensor], tokens_BP: Tensor, targets_BA: Tensor
) -> tuple[float, np.ndarray]:
    """Mean over all pairs, chunk by chunk."""
    B = len(tokens_BP)
    loss, slope_N = 0.0, np.zeros(sum(tensor.numel() for tensor in params.values()))
    for tokens, targets in zip(tokens_BP.split(CHUNK), targets_BA.split(CHUNK), strict=True):
        share = len(tokens) / B
        loss_S, grads = objective.loss_and_grad(params, tokens[None], targets[None])
        loss += share * float(loss_S[0])
        slope_N += share * torch.cat([grads[name].flatten() for name in params]).numpy()
    return loss, slope_N
