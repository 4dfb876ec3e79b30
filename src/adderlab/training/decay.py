"""Weight decay that falls once a seed begins to answer right, seed by seed.

Weight decay pushes a seed towards simple solutions before it has one and away from a right one
afterwards. Sources: evindor/MicroAdder (74p) and tbukic/M10S-Transformer (36p to 45p).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adderlab.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class DecayRule:
    """From these accuracies of the validation pairs on, weight decay is ``factor`` x its setting."""

    factor: float
    val_exact: float
    val_token_acc: float = 0.0

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
    """Rules from the weakest to the strictest; the last one that holds decides."""

    rules: tuple[DecayRule, ...]
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
M10S_DECAY = AdaptiveDecay(
    rules=(DecayRule(factor=0.1, val_exact=0.01), DecayRule(factor=0.001, val_exact=0.05))
)
"""x 0.1 at 1% exact match, x 0.01 more at 5%."""


class DecayFactors:
    """How many rules each seed has reached."""

    def __init__(self, settings: AdaptiveDecay, num_seeds: int) -> None:
        self.settings = settings
        self.reached = [0] * num_seeds

    def heed(self, val_exact: Sequence[float], val_token_acc: Sequence[float]) -> None:
        """One evaluation, a value per seed."""
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
