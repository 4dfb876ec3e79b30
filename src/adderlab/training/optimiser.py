"""What the optimiser remembers of a population between steps, and the settings of its ingredients.

The step itself is ``engine.step_batch.descend``; here are AdamW's moments, Grokfast's slow gradients,
the running average of the weights, weight decay that falls, and parameters that stand still for a while.

Shapes: S seeds, N parameters of one model, flat.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adderlab.errors import UsageError


class AdamW:
    """The moments of every seed's gradient, and how many steps they are of."""

    def __init__(
        self, like_SN: Tensor, *, beta1: float, beta2: float, bias_correction: bool = True
    ) -> None:
        """Without ``bias_correction`` the moments are taken as they are, zero at the start (MLX)."""
        self.mean_SN = torch.zeros_like(like_SN)
        self.square_SN = torch.zeros_like(like_SN)
        self.beta1, self.beta2 = beta1, beta2
        self.bias_correction = bias_correction
        self.steps = 0

    def correction(self, step: int) -> float:
        """Divisor of the rate at the optimiser's ``step``-th step, from 1."""
        return 1.0 - self.beta1**step if self.bias_correction else 1.0

    def scale(self, step: int) -> float:
        """Divisor of the root of the square."""
        return (1.0 - self.beta2**step) ** 0.5 if self.bias_correction else 1.0

    def keep(self, rows: Tensor) -> None:
        """Go on with the seeds in ``rows`` only."""
        self.mean_SN, self.square_SN = self.mean_SN[rows].clone(), self.square_SN[rows].clone()

    def state(self) -> dict[str, Tensor | int]:
        """What a resume needs."""
        return {"mean": self.mean_SN, "square": self.square_SN, "steps": self.steps}

    def load_state(self, state: dict[str, Tensor | int]) -> None:
        """Go on from ``state()``."""
        mean, square, steps = state["mean"], state["square"], state["steps"]
        assert isinstance(mean, Tensor) and isinstance(square, Tensor) and isinstance(steps, int)
        self.mean_SN.copy_(mean)
        self.square_SN.copy_(square)
        self.steps = steps


@dataclass(frozen=True, kw_only=True)
class Grokfast:
    """Grokfast-EMA: the slow part of the gradient, amplified before clipping.

    m <- alpha m + (1 - alpha) g;  g <- g + lambda m (Lee et al., arXiv 2405.20233). The average starts
    at zero, as in the published runs below 60 parameters (tbukic/M10S-Transformer).
    """

    alpha: float = 0.98
    """Decay of the average of gradients, per step."""
    strength: float = 2.0
    """lambda of the paper."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < 1:
            raise UsageError(f"grokfast.alpha must lie in [0, 1), not {self.alpha}")
        if not self.strength >= 0:
            raise UsageError(f"grokfast.strength must be at least 0, not {self.strength}")


class SlowGradients:
    """The running average of every seed's gradient."""

    def __init__(self, settings: Grokfast, like_SN: Tensor) -> None:
        self.settings = settings
        self.mean_SN = torch.zeros_like(like_SN)

    def keep(self, rows: Tensor) -> None:
        """Go on with the seeds in ``rows`` only."""
        self.mean_SN = self.mean_SN[rows].clone()


@dataclass(frozen=True, kw_only=True)
class Average:
    """A running average of the weights, mean <- decay mean + (1 - decay) weights after every step,
    evaluated beside the weights themselves.

    The average lags behind a seed that is learning and is steadier than one that jumps between right
    and wrong at a high learning rate; the better of the two is kept (tbukic/M10S-Transformer, 62p).
    """

    decay: float = 0.999
    """Of the average, each step."""
    """Of the average, per step."""

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise UsageError(f"average.decay must lie in [0, 1), not {self.decay}")


class WeightAverage:
    """The average of every seed; it starts at the weights given."""

    def __init__(self, settings: Average, flat_SN: Tensor) -> None:
        self.settings = settings
        self.mean_SN = flat_SN.clone()

    def keep(self, rows: Tensor) -> None:
        """Go on with the seeds in ``rows`` only."""
        self.mean_SN = self.mean_SN[rows].clone()


@dataclass(frozen=True, kw_only=True)
class DecayRule:
    """From these accuracies of the validation pairs on, weight decay is ``factor`` x its setting."""

    factor: float
    """Multiple of the weight decay."""
    val_exact: float
    """Exact match from which the rule holds."""
    val_token_acc: float = 0.0
    """Accuracy of single answer tokens from which it holds; both must be reached."""

    def __post_init__(self) -> None:
        if not self.factor >= 0:
            raise UsageError(f"adaptive_decay's factor must be at least 0, not {self.factor}")
        for name in ("val_exact", "val_token_acc"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(
                    f"adaptive_decay's {name} is a share from 0 to 1, not {getattr(self, name)}"
                )


@dataclass(frozen=True, kw_only=True)
class AdaptiveDecay:
    """Weight decay that falls once a seed begins to answer right, seed by seed.

    Weight decay pushes a seed towards simple solutions before it has one and away from a right one
    afterwards. Sources: evindor/MicroAdder (74p) and tbukic/M10S-Transformer (36p to 45p).
    """

    rules: tuple[DecayRule, ...]
    """From the weakest to the strictest; the last one that holds decides."""
    """From the weakest to the strictest."""
    lasting: bool = True
    """A rule that held once holds from then on; if not, the last evaluation alone decides."""

    def __post_init__(self) -> None:
        if not self.rules:
            raise UsageError("adaptive_decay needs at least one rule; leave it out for none")


MICROADDER_DECAY = AdaptiveDecay(
    rules=(
        DecayRule(factor=0.1, val_exact=0.02, val_token_acc=0.7),
        DecayRule(factor=0.01, val_exact=0.2, val_token_acc=0.7),
    ),
    lasting=False,
)
"""x 0.1 at 2% exact match, x 0.01 at 20%, while 70% of the digits are right."""

M10S_DECAY = AdaptiveDecay(
    rules=(DecayRule(factor=0.1, val_exact=0.01), DecayRule(factor=0.001, val_exact=0.05))
)
"""x 0.1 at 1% exact match, x 0.01 more at 5%."""


class DecayFactors:
    """How many rules each seed has reached."""

    def __init__(self, settings: AdaptiveDecay, num_seeds: int) -> None:
        self.settings = settings
        self.reached = [0] * num_seeds

    def update(self, val_exact: Sequence[float], val_token_acc: Sequence[float]) -> None:
        """Note one evaluation, a value per seed."""
        rules = self.settings.rules
        for s, (exact, tokens) in enumerate(zip(val_exact, val_token_acc, strict=True)):
            holding = [
                number
                for number, rule in enumerate(rules, 1)
                if exact >= rule.val_exact and tokens >= rule.val_token_acc
            ]
            now = max(holding, default=0)
            self.reached[s] = max(now, self.reached[s]) if self.settings.lasting else now

    def factors(self) -> list[float]:
        """What the weight decay of each seed is multiplied by."""
        factors = (1.0, *(rule.factor for rule in self.settings.rules))
        return [factors[number] for number in self.reached]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with the seeds in ``rows`` only."""
        self.reached = [self.reached[row] for row in rows]


@dataclass(frozen=True, kw_only=True)
class Freeze:
    """Parameters that stand still for a part of the run and learn at a rate of their own afterwards.

    Standing still is a learning rate of 0: gradients and Adam's moments go on, so the release is smooth.
    """

    prefix: str
    """Beginning of the parameters' names."""
    until: float
    """Fraction of ``recipe.steps``; before it they stand still."""
    then: float = 1.0
    """Their learning rate from there on (later stages included), as a multiple of the others'."""

    def __post_init__(self) -> None:
        if not self.prefix:
            raise UsageError("freeze needs the beginning of a parameter's name, such as pos_emb.A")
        if not 0 <= self.until <= 1:
            raise UsageError(f"freeze.until is a fraction of the run from 0 to 1, not {self.until}")
        if not self.then >= 0:
            raise UsageError(f"freeze.then must be at least 0, not {self.then}")

    def multiplier(self, step: int, steps: int) -> float:
        """Of the learning rate at that step of a run of ``steps``."""
        return 0.0 if step < self.until * steps else self.then


def check_names(freezes: Sequence[Freeze], names: Sequence[str]) -> None:
    """Raises ``UsageError`` for a prefix that no parameter has."""
    for freeze in freezes:
        if not any(name.startswith(freeze.prefix) for name in names):
            raise UsageError(
                f"freeze: no parameter's name begins with {freeze.prefix!r}; there are "
                f"{', '.join(names)}"
            )


class LearningRates:
    """The multiple of the learning rate at which every parameter learns."""

    def __init__(
        self, freezes: Sequence[Freeze], sizes: Mapping[str, int], steps: int, like: Tensor
    ) -> None:
        """``sizes``: numbers of every parameter, in flat order. ``like``: dtype and device."""
        self.freezes, self.sizes, self.steps, self.like = freezes, sizes, steps, like
        self._multipliers: tuple[float, ...] | None = None
        self._scale_N: Tensor | None = None

    def at(self, step: int) -> Tensor | None:
        """scale_N, or None where every parameter learns at the full rate."""
        multipliers = tuple(freeze.multiplier(step, self.steps) for freeze in self.freezes)
        if multipliers != self._multipliers:
            self._multipliers, self._scale_N = multipliers, self._build(multipliers)
        return self._scale_N

    def same_until(self, step: int) -> int | None:
        """The next step at which some rate changes; None: never again."""
        changes = [math.ceil(freeze.until * self.steps) for freeze in self.freezes]
        return min((change for change in changes if change > step), default=None)

    def _build(self, multipliers: Sequence[float]) -> Tensor | None:
        values: list[float] = []
        for name, size in self.sizes.items():
            own = 1.0
            for freeze, multiplier in zip(self.freezes, multipliers, strict=True):
                if name.startswith(freeze.prefix):
                    own *= multiplier
            values += [own] * size
        if all(value == 1.0 for value in values):
            return None
        return torch.tensor(values, dtype=self.like.dtype, device=self.like.device)
