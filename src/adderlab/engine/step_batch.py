"""Consecutive steps of many seeds, each by settings of its own, as one call; and the one step itself,
by AdamW or one of the optimisers beside it.

Seeds of one recipe share their settings, and seeds of several recipes may share a call: it costs the
same however many kinds of seed it holds, and no number of a seed depends on another's.

A step is Grokfast's part of the gradient, AdamW with clipping (or an ``Update`` in its place), and the
running average of the weights.
Every operation is elementwise and correctly rounded, and the gradient norm is summed in a fixed order
(``models.ordered`` says why). Source of AdamW: Loshchilov and Hutter, arXiv 1711.05101; constants and
order of operations as in torch.optim.AdamW. Of the others: ``training.ingredients``.

Beside AdamW there are SGD with momentum, and Muon for the matrices of a model. Both take
``recipe.beta1`` as their momentum and decoupled weight decay as AdamW has it, and share its clipping,
Grokfast and averages. PyTorch has both, but one model at a time: its SGD adds weight decay to the
gradient, its Muon orthogonalises in bfloat16, which leaves a 3 x 4 matrix two digits. Here all seeds
step at once, in float32, with sums in a fixed order, so that a seed's bits do not depend on its
neighbours; the tests compare with PyTorch's. Lion is left out: its steps are of one size for every
number whatever the gradient, and in no published adder, log or recipe is it used.

Shapes: S seeds with N parameters each, flat; C steps; G settings; X = 9 constants; R = 3 rates; a
matrix is (S, R, C)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from adderlab.models import ordered
from adderlab.models.ordered import halving_sum

CONSTANTS = (
    *("beta1_rest", "beta2", "beta2_rest", "eps", "clip"),
    *("slow_keep", "slow_rest", "strength", "average_rest"),
)
"""Of a seed over all steps of a call, in the order of ``Constants`` in adamw.hpp; rest: 1 - it."""

_STATES = ("params_SN", "mean_SN", "square_SN", "slow_SN", "average_SN")

RATES = ("lr", "correction", "scale")
"""Of a seed at one step, in the order of ``Rates`` in adamw.hpp."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the seeds of one recipe are trained with over C steps.

    What the numbers mean stands in ``training.ingredients``.
    """

    lr: Sequence[float]
    """Of each step; C of them."""
    correction: Sequence[float]
    scale: Sequence[float]
    """Divisors that correct the moments of each step."""
    beta1: float
    beta2: float
    eps: float
    clip: float
    """Largest gradient norm of a seed; infinity never clips."""
    lr_scale_N: Tensor | None = None
    """What every parameter's learning rate is multiplied by; None is 1."""
    slow: tuple[float, float] = (0.0, 0.0)
    """Grokfast's (alpha, strength), where there are slow gradients."""
    average: float = 0.0
    """Decay of the running average, where there is one."""

    def constants(self) -> tuple[float, ...]:
        """In the order of ``CONSTANTS``. Differences are taken in double precision, rounded later."""
        alpha, strength = self.slow
        return (
            *(1.0 - self.beta1, self.beta2, 1.0 - self.beta2, self.eps, self.clip),
            *(alpha, 1.0 - alpha, strength, 1.0 - self.average),
        )


@dataclass(frozen=True, kw_only=True)
class StepBatch:
    """C consecutive steps of S seeds. The (S, N) tensors are updated in place."""

    seeds_S: Tensor
    first: int
    """Number of the first step."""
    batch_size: int
    params_SN: Tensor
    mean_SN: Tensor
    square_SN: Tensor
    """Adam's moments."""
    weight_decay_S: Tensor
    settings: tuple[Settings, ...]
    """G of them."""
    setting_S: Tensor
    """Which of the settings are a seed's; int32."""
    slow_SN: Tensor | None = None
    """Grokfast's running mean of the gradient."""
    average_SN: Tensor | None = None
    """The running average of the weights."""

    @property
    def count(self) -> int:
        """C."""
        return len(self.settings[0].lr)

    @property
    def kind(self) -> Hashable:
        """What a call has only once: batches on the same data that are equal in it can be joined."""
        return (
            *(self.first, self.count, self.batch_size, self.params_SN.shape[1]),
            *(self.slow_SN is None, self.average_SN is None),
        )

    def constants_GX(self) -> Tensor:
        """The constants of every settings, on the CPU in the weights' precision."""
        return torch.tensor([own.constants() for own in self.settings], dtype=self.params_SN.dtype)

    def rates_CGR(self, start: int = 0, stop: int | None = None) -> Tensor:
        """The rates of the steps ``start`` to ``stop`` (all by default), on the CPU."""
        dtype, steps = self.params_SN.dtype, slice(start, stop)
        rates = [[getattr(own, name)[steps] for name in RATES] for own in self.settings]
        return torch.tensor(rates, dtype=dtype).permute(2, 0, 1).contiguous()

    def lr_scale_GN(self) -> Tensor | None:
        """None where no settings have any. A learning rate times 1 is that rate to the bit."""
        scales = [own.lr_scale_N for own in self.settings]
        given = next((scale_N for scale_N in scales if scale_N is not None), None)
        if given is None:
            return None
        return torch.stack([torch.ones_like(given) if each is None else each for each in scales])


def joined(step_batches: Sequence[StepBatch]) -> StepBatch:
    """One call for all seeds of step_batches of one kind; the only one as it is, several as a copy."""
    first, *others = step_batches
    if not others:
        return first
    assert all(other.kind == first.kind for other in others)
    offsets, settings = [], []
    for each in step_batches:
        offsets.append(each.setting_S + len(settings))
        settings += each.settings
    together: dict[str, Any] = {}
    for name in ("seeds_S", "weight_decay_S", *_STATES):
        tensors = [getattr(each, name) for each in step_batches]
        together[name] = None if tensors[0] is None else torch.cat(tensors)
    return replace(first, settings=tuple(settings), setting_S=torch.cat(offsets), **together)


def scatter(together: StepBatch, step_batches: Sequence[StepBatch]) -> None:
    """What the steps of ``joined(step_batches)`` came to, into the tensors it was made of."""
    if together is step_batches[0]:
        return
    counts = [len(each.params_SN) for each in step_batches]
    for name in _STATES:
        tensor = getattr(together, name)
        if tensor is not None:
            for each, part in zip(step_batches, tensor.split(counts), strict=True):
                getattr(each, name).copy_(part)


class Descending(Protocol):
    """What a step updates in place, and the numbers that no schedule decides."""

    @property
    def params_SN(self) -> Tensor: ...
    @property
    def mean_SN(self) -> Tensor: ...
    @property
    def square_SN(self) -> Tensor: ...
    @property
    def slow_SN(self) -> Tensor | None: ...
    @property
    def average_SN(self) -> Tensor | None: ...
    @property
    def weight_decay_S(self) -> Tensor: ...


class Update(Protocol):
    """The rule that turns gradients into a step."""

    def __call__(
        self, state: Descending, grad_SN: Tensor, own_S1: dict[str, Tensor], rates: StepRates
    ) -> Tensor:
        """What to take from the weights, (S, N). ``grad_SN`` is clipped; the state's moments are
        updated; ``own_S1`` are the settings' constants."""
        ...


@dataclass(frozen=True)
class StepRates:
    """What a step's length is made of."""

    lr: Tensor
    """(S, 1), or (S, N) where parameters have rates of their own."""
    corrected: Tensor
    """``lr`` over Adam's correction of the mean."""
    scale_S1: Tensor
    """Divisor of the root of Adam's square."""


def adamw(state: Descending, grad_SN: Tensor, own_S1: dict[str, Tensor], rates: StepRates) -> Tensor:
    """See the module's head."""
    mean_SN, square_SN = state.mean_SN, state.square_SN
    mean_SN += (grad_SN - mean_SN) * own_S1["beta1_rest"]
    square_SN *= own_S1["beta2"]
    square_SN += grad_SN * grad_SN * own_S1["beta2_rest"]
    return rates.corrected * (mean_SN / (square_SN.sqrt() / rates.scale_S1 + own_S1["eps"]))


def descend(
    state: Descending,
    grad_SN: Tensor,
    rates_SR: Tensor,
    constants_SX: Tensor,
    lr_scale_SN: Tensor | None = None,
    update: Update = adamw,
) -> None:
    """One step of every seed; ``rates_SR`` and ``constants_SX`` are the settings' rates of this step and
    their constants, a row for each seed. ``grad_SN`` may be overwritten by a faster twin."""
    columns = constants_SX.split(1, 1)
    own_S1 = dict(zip(CONSTANTS, columns, strict=True))
    lr_S1, correction_S1, scale_S1 = rates_SR.split(1, 1)
    params_SN, slow_SN, average_SN = state.params_SN, state.slow_SN, state.average_SN
    if slow_SN is not None:
        slow_SN *= own_S1["slow_keep"]
        slow_SN += grad_SN * own_S1["slow_rest"]
        grad_SN = grad_SN + slow_SN * own_S1["strength"]
    norm_S1 = torch.sqrt(halving_sum(grad_SN * grad_SN, 1))[:, None]
    grad_SN = grad_SN * (own_S1["clip"] / (norm_S1 + 1e-6)).clamp(max=1.0)
    decay_SN, lr_SN, corrected_SN = lr_S1 * state.weight_decay_S[:, None], lr_S1, lr_S1 / correction_S1
    if lr_scale_SN is not None:
        decay_SN, lr_SN = decay_SN * lr_scale_SN, lr_SN * lr_scale_SN
        corrected_SN = corrected_SN * lr_scale_SN
    params_SN *= 1.0 - decay_SN
    params_SN -= update(state, grad_SN, own_S1, StepRates(lr_SN, corrected_SN, scale_S1))
    if average_SN is not None:
        # Written as a step towards the weights: elementwise, and exact where they stand still.
        average_SN += (params_SN - average_SN) * own_S1["average_rest"]


# Optimisers beside AdamW.


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
