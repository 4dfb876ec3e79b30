"""Sets of test pairs: the published ones, fresh ones, and the ones a random sample never meets.

Shapes: B pairs, J = 10 columns, units first.
"""

import random
from dataclasses import dataclass

from torch import Tensor

from adderlab.errors import UsageError
from adderlab.evaluation.strata import strata_groups
from adderlab.task.digits import OPERAND_LIMIT, pairs_from_ints
from adderlab.task.holdout import holdout
from adderlab.task.sampling import uniform_pairs

PUBLISHED_SEEDS = (41, 100, 200, 300, 400, 500, 999, 1234, 7777, 31415)
ADDERBOARD_SEED = 2025
FRESH_SEED = 0
STRATA_PAIRS = 5000
MAX_FRESH = 100_000_000
"""Largest fresh suite: its digits take 2 GB."""

_EDGES = (
    (0, 0),
    (0, 1),
    (9999999999, 0),
    (9999999999, 1),
    (9999999999, 9999999999),
    (5000000000, 5000000000),
    (1111111111, 8888888889),
    (1234567890, 9876543210),
    (9999999999, 9999999999),
    (1, 9999999999),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Pairs that are reported together; uint8 digits on the CPU."""

    name: str
    a_BJ: Tensor
    b_BJ: Tensor

    @property
    def num_pairs(self) -> int:
        return self.a_BJ.shape[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Suite:
    """A named list of groups."""

    name: str
    groups: tuple[Group, ...]

    @property
    def num_pairs(self) -> int:
        return sum(group.num_pairs for group in self.groups)


def published() -> Suite:
    """R456's protocol: the test parts of ten hold-out splits, 10 x 10,000 pairs; a group a seed."""
    splits = {seed: holdout(seed) for seed in PUBLISHED_SEEDS}
    groups = tuple(
        Group(name=str(seed), a_BJ=split.test_a_BJ, b_BJ=split.test_b_BJ)
        for seed, split in splits.items()
    )
    return Suite(name="published", groups=groups)


def adderboard() -> Suite:
    """The 10,010 pairs of AdderBoard's check: ten edge cases (one of them twice), 10,000 random."""
    generator = random.Random(ADDERBOARD_SEED)
    limit = OPERAND_LIMIT - 1
    drawn = [(generator.randint(0, limit), generator.randint(0, limit)) for _ in range(10_000)]
    edges, rest = pairs_from_ints(list(_EDGES)), pairs_from_ints(drawn)
    return Suite(
        name="adderboard",
        groups=(
            Group(name="edge", a_BJ=edges[0], b_BJ=edges[1]),
            Group(name="random", a_BJ=rest[0], b_BJ=rest[1]),
        ),
    )


def fresh(n: int, seed: int = FRESH_SEED) -> Suite:
    """``n`` uniform pairs that no training, validation or published set draws from."""
    if not 1 <= n <= MAX_FRESH:
        raise UsageError(f"a fresh suite takes 1 to {MAX_FRESH} pairs, not {n}")
    a_BJ, b_BJ = uniform_pairs(seed, n)
    return Suite(name=f"fresh:{n}", groups=(Group(name="fresh", a_BJ=a_BJ, b_BJ=b_BJ),))


def strata(n_per_stratum: int = STRATA_PAIRS, seed: int = FRESH_SEED) -> Suite:
    """Groups by carry chain, digit pattern and operand length (``adderlab.evaluation.strata``)."""
    groups = strata_groups(n_per_stratum, seed)
    return Suite(name="strata", groups=tuple(Group(name=n, a_BJ=a, b_BJ=b) for n, a, b in groups))


def parse_suite(text: str, seed: int = FRESH_SEED) -> Suite:
    """The suite that ``--suite`` names; ``seed`` serves fresh and strata. Raises ``UsageError``."""
    kind, colon, count = text.partition(":")
    if kind == "fresh" and colon:
        if not (count.isascii() and count.isdigit()):
            raise UsageError(f"--suite {text}: fresh:N needs a number of pairs, such as fresh:100000")
        return fresh(int(count), seed)
    if text == "published":
        return published()
    if text == "adderboard":
        return adderboard()
    if text == "strata":
        return strata(seed=seed)
    raise UsageError(f"no suite {text!r}; there are published, adderboard, strata, fresh:N")
