"""Optimisers beside AdamW: SGD with momentum, and Muon for the matrices of a model.

Both take ``recipe.beta1`` as their momentum and decoupled weight decay as AdamW has it, and share its
clipping, Grokfast and averages (``engine.step_batch``). PyTorch has both, but one model at a time: its
SGD adds weight decay to the gradient, its Muon orthogonalises in bfloat16, which leaves a 3 x 4 matrix
two digits. Here all seeds step at once, in float32, with sums in a fixed order (``models.ordered``), so
that a seed's bits do not depend on its neighbours; the tests compare with PyTorch's.

Lion is left out: its steps are of one size for every number whatever the gradient, and in no published
adder, log or recipe is it used.

Shapes: S seeds, N parameters of one model, flat; a matrix is (S, R, C).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from adderlab.engine.step_batch import Descending, StepRates, Update, adamw
from adderlab.models import ordered

OptimiserName = Literal["adamw", "muon", "sgd"]

_NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)
_ITERATIONS = 5
_RMS = 0.2


def sgd(state: Descending, grad_SN: Tensor, own_S1: dict[str, Tensor], rates: StepRates) -> Tensor:
    """m <- beta1 m + g; the step is lr m (Sutskever et al., ICML 2013, as in torch.optim.SGD)."""
    mean_SN = state.mean_SN
    mean_SN *= 1.0 - own_S1["beta1_rest"]
    mean_SN += grad_SN
    return rates.lr * mean_SN


class Muon:
    """Matrices step by their orthogonalised momentum, everything else by AdamW.

    The momentum m <- beta1 m + (1 - beta1) g, with Nesterov's look ahead, is brought near the closest
    orthogonal matrix by five Newton-Schulz iterations (Jordan et al. 2024, kellerjordan.github.io/posts/
    muon) and scaled by 0.2 sqrt(max(R, C)), after which its entries are as large as AdamW's, so that one
    learning rate serves both (Liu et al., arXiv 2502.16982; ``match_rms_adamw`` in torch.optim.Muon).
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """``shapes``: of every parameter by name, in flat order."""
        self._matrices: list[tuple[int, int, int]] = []
        start = 0
        for name, shape in shapes.items():
            if is_matrix(name, shape):
                self._matrices.append((start, shape[0], shape[1]))
            start += math.prod(shape)

    def __call__(
        self, state: Descending, grad_SN: Tensor, own_S1: dict[str, Tensor], rates: StepRates
    ) -> Tensor:
        """See the class."""
        step_SN = adamw(state, grad_SN, own_S1, rates)
        ahead_SN = grad_SN + (state.mean_SN - grad_SN) * (1.0 - own_S1["beta1_rest"])
        for start, rows, columns in self._matrices:
            part = slice(start, start + rows * columns)
            turned = orthogonalised(ahead_SN[:, part].unflatten(1, (rows, columns))).flatten(1)
            lr = rates.lr if rates.lr.shape[1] == 1 else rates.lr[:, part]
            step_SN[:, part] = lr * (_RMS * math.sqrt(max(rows, columns))) * turned
        return step_SN


def is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    """Whether Muon steps a parameter: matrices, but not embeddings and heads, whose rows are looked up
    or compared one by one."""
    return len(shape) == 2 and not any("emb" in part or "head" in part for part in name.split("."))


def orthogonalised(x_SRC: Tensor) -> Tensor:
    """Singular values near 1 (0.7 to 1.2), singular vectors as they are."""
    a, b, c = _NEWTON_SCHULZ
    tall = x_SRC.shape[1] > x_SRC.shape[2]
    x = x_SRC.transpose(1, 2) if tall else x_SRC
    norm_S = ordered.product(x.flatten(1)[:, None], x.flatten(1)[:, :, None]).flatten().sqrt()
    x = x / norm_S.clamp(min=1e-7)[:, None, None]
    for _ in range(_ITERATIONS):
        gram = ordered.product(x, x.transpose(1, 2))
        x = a * x + ordered.product(b * gram + c * ordered.product(gram, gram), x)
    return x.transpose(1, 2) if tall else x


def update_for(name: OptimiserName, shapes: Mapping[str, tuple[int, ...]]) -> Update:
    """The rule of that name for a model with these parameters."""
    if name == "muon":
        return Muon(shapes)
    return sgd if name == "sgd" else adamw
