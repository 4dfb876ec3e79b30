"""What pairs a run is trained on, as data: digit lengths by step and a share of carry-heavy pairs.

Sources: yinglunz/A-456-Parameter-Transformer-Solves-10-Digit-Addition (R456) and evindor/MicroAdder.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from adderlab.errors import UsageError
from adderlab.task.digits import OPERAND_DIGITS

Lengths = Literal["uniform", "full"]
Pattern = Literal["single", "chain", "place", "boundary", "propagate"]
PATTERNS: tuple[Pattern, ...] = get_args(Pattern)
MICROADDER_PATTERNS: tuple[Pattern, ...] = ("single", "chain", "place", "boundary")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Operands of up to ``max_digits`` digits before step ``until`` (None: to the end)."""

    until: int | None
    max_digits: int

    def __post_init__(self) -> None:
        if not 1 <= self.max_digits <= OPERAND_DIGITS:
            raise UsageError(f"max_digits must be 1 to {OPERAND_DIGITS}, not {self.max_digits}")
        if self.until is not None and self.until < 1:
            raise UsageError(f"a phase must end at step 1 or later, not {self.until}")


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """Phases in order of their ends; the last one has ``until`` None.

    ``lengths`` "uniform": one length n per pair, uniform from 1 to max_digits, and both operands
    uniform below 10^n, so that only one late pair in ten has ten digits (R456). "full": each operand
    uniform below 10^max_digits (MicroAdder).
    """

    phases: tuple[Phase, ...]
    lengths: Lengths

    def __post_init__(self) -> None:
        if not self.phases or self.phases[-1].until is not None:
            raise UsageError("the last phase of a curriculum must have until = null: it runs to the end")
        ends = [phase.until for phase in self.phases[:-1]]
        for i, end in enumerate(ends):
            if end is None:
                raise UsageError("only the last phase of a curriculum may have until = null")
            before = ends[i - 1] if i else 0
            assert before is not None
            if end <= before:
                raise UsageError(f"phases must end in ascending order: {end} comes after {before}")

    def max_digits(self, step: int) -> int:
        """Longest operand at that step."""
        for phase in self.phases:
            if phase.until is None or step < phase.until:
                return phase.max_digits
        raise AssertionError("the last phase has no end")


@dataclass(frozen=True, kw_only=True)
class CarryMix:
    """A share of the rows drawn from carry patterns, constant at first, then faded out linearly.

    With n uniform from 1 to the phase's max_digits, columns above n zero, pattern uniform:

    single      one column with both digits 5-9, all others 0-4
    chain       a = 10^n - 1, b uniform in 1 .. 10^min(n, 3)
    place       a uniform with exactly n digits, b one nonzero digit in a column below n
    boundary    a = 10^n - r with r uniform in 1 .. 10, b uniform in 1 .. 20
    propagate   a generating column g (digits sum to 10 or more), then columns g+1 .. e whose digits
                sum to 9 and pass the carry on; g uniform below n, e uniform in g .. n-1, all other
                columns below n uniform

    The first four are MicroAdder's. As there, b of ``chain`` and ``boundary`` may have one digit more
    than n.
    """

    share: float
    fade_start: int
    fade_end: int
    patterns: tuple[Pattern, ...] = MICROADDER_PATTERNS

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise UsageError(f"the carry mix's share must be 0 to 1, not {self.share}")
        if not 0 <= self.fade_start <= self.fade_end:
            raise UsageError(
                f"the carry mix must fade from a step to a later one, not {self.fade_start} "
                f"to {self.fade_end}"
            )
        if not self.patterns or len(set(self.patterns)) < len(self.patterns):
            raise UsageError(
                f"the carry mix needs different patterns of {', '.join(PATTERNS)}, not "
                f"{list(self.patterns)}"
            )

    def share_at(self, step: int) -> float:
        """Expected share of carry-pattern rows at that step."""
        if step < self.fade_start:
            return self.share
        if step >= self.fade_end:
            return 0.0
        return self.share * (self.fade_end - step) / (self.fade_end - self.fade_start)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Everything that decides a run's training pairs, but for the seed and the batch size."""

    curriculum: Curriculum
    carry_mix: CarryMix | None = None


_GROWING = (
    Phase(until=2000, max_digits=3),
    Phase(until=7000, max_digits=6),
    Phase(until=None, max_digits=10),
)
R456_CURRICULUM = Curriculum(phases=_GROWING, lengths="uniform")
MICROADDER_CURRICULUM = Curriculum(phases=_GROWING, lengths="full")
MICROADDER_MIX = CarryMix(share=0.8, fade_start=15_000, fade_end=45_000)
"""The mix of the 57p and 67p recipes."""
