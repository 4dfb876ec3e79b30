"""The suites hold the published pairs; strata hold what their names say."""

import random

import pytest
import torch
from scipy.stats import chisquare

from adderlab.errors import UsageError
from adderlab.evaluation.suites import (
    Group,
    Suite,
    adderboard,
    fresh,
    parse_suite,
    published,
    strata,
)
from adderlab.task.addition import carries, from_digits
from adderlab.task.sampling import uniform_pairs
from oracle import sampler_twin

Pair = tuple[torch.Tensor, torch.Tensor]


def values(group: Group) -> list[tuple[int, int]]:
    return list(zip(from_digits(group.a_BJ).tolist(), from_digits(group.b_BJ).tolist(), strict=True))


def test_published_is_the_test_part_of_ten_seeds() -> None:
    suite = published()
    assert suite.num_pairs == 100_000
    names = "41 100 200 300 400 500 999 1234 7777 31415"
    assert " ".join(group.name for group in suite.groups) == names
    for group in (suite.groups[0], suite.groups[-1]):
        assert values(group) == sampler_twin.holdout_pairs(int(group.name), 15_000)[5_000:]


def test_adderboard_is_the_official_check() -> None:
    edge, drawn = adderboard().groups
    assert (edge.num_pairs, drawn.num_pairs) == (10, 10_000)
    assert [a + b for a, b in values(edge)] == [
        0, 1, 9999999999, 10**10, 19999999998, 10**10, 10**10, 11111111100, 19999999998, 10**10,
    ]  # fmt: skip
    generator = random.Random(2025)
    drawn_one_by_one = [generator.randint(0, 9999999999) for _ in range(20_000)]
    assert [x for pair in values(drawn) for x in pair] == drawn_one_by_one


def test_fresh_pairs() -> None:
    suite = fresh(1000, seed=3)
    assert (suite.name, suite.num_pairs) == ("fresh:1000", 1000)
    assert torch.equal(suite.groups[0].a_BJ, uniform_pairs(3, 1000)[0])
    with pytest.raises(UsageError, match="1 to 100000000 pairs, not 0"):
        fresh(0)


def test_parse_suite() -> None:
    assert parse_suite("fresh:12").num_pairs == 12
    assert not torch.equal(
        parse_suite("fresh:5", seed=1).groups[0].a_BJ, parse_suite("fresh:5").groups[0].a_BJ
    )
    assert parse_suite("adderboard").num_pairs == 10_010
    assert parse_suite("published").name == "published"
    assert parse_suite("strata").name == "strata"
    with pytest.raises(UsageError, match=r"no suite 'publishd'; there are published, .* fresh:N"):
        parse_suite("publishd")
    for text in ("fresh:many", "fresh:", "fresh:-1", "fresh:1e5"):
        with pytest.raises(UsageError, match=f"suite={text}: .*number"):
            parse_suite(text)


@pytest.fixture(scope="module")
def groups() -> dict[str, Pair]:
    return {group.name: (group.a_BJ, group.b_BJ) for group in strata(4000, seed=5).groups}


def test_strata_are_reproducible_and_many(groups: dict[str, Pair]) -> None:
    assert len(groups) == 32
    again: Suite = strata(10, seed=5)
    assert all(torch.equal(g.a_BJ, groups[g.name][0][:10]) for g in again.groups)
    for a_BJ, b_BJ in groups.values():
        assert a_BJ.shape == b_BJ.shape == (4000, 10) and a_BJ.dtype == torch.uint8
        assert max(int(a_BJ.max()), int(b_BJ.max())) <= 9
    everything = torch.cat([torch.cat(pair, 1) for pair in groups.values()])
    assert len(torch.unique(everything, dim=0)) > 0.75 * len(everything)


def runs_of(flags_BJ: torch.Tensor) -> list[set[int]]:
    """Lengths of the runs of true columns, row by row."""
    rows = ("".join("x" if f else " " for f in row) for row in flags_BJ.tolist())
    return [{len(run) for run in row.split()} for row in rows]


@pytest.mark.parametrize("length", [1, 2, 4, 7, 10])
def test_chains_with_carry(groups: dict[str, Pair], length: int) -> None:
    """Somewhere a carry starts and passes on through nines, ``length`` carries in a row exactly."""
    a_BJ, b_BJ = groups[f"chain {length} with carry"]
    column_BJ, carry_BJ = a_BJ + b_BJ, carries(a_BJ, b_BJ)[:, 1:]
    starts_BJ = (column_BJ >= 10) & (torch.cat([carry_BJ.new_zeros(4000, 1), carry_BJ[:, :9]], 1) == 0)
    found_B = torch.zeros(4000, dtype=torch.bool)
    for start in range(11 - length):
        chain_B = starts_BJ[:, start] & (column_BJ[:, start + 1 : start + length] == 9).all(1)
        ends_B = carry_BJ[:, start + length] == 0 if start + length < 10 else chain_B
        found_B |= chain_B & ends_B
    assert found_B.all()
    if length == 10:
        assert carry_BJ.all()


@pytest.mark.parametrize("length", [1, 2, 4, 7, 10])
def test_chains_without_carry(groups: dict[str, Pair], length: int) -> None:
    a_BJ, b_BJ = groups[f"chain {length} without carry"]
    into_BJ = carries(a_BJ, b_BJ)[:, :10]
    idle_BJ = (a_BJ + b_BJ == 9) & (into_BJ == 0)
    assert all(length in lengths for lengths in runs_of(idle_BJ))


def test_chains_start_anywhere(groups: dict[str, Pair]) -> None:
    a_BJ, b_BJ = groups["chain 7 with carry"]
    nines_BJ = a_BJ + b_BJ == 9
    # Six nines in a row from column 1, 2, 3 or 4, each equally often (others are too rare to matter).
    counts = [int(nines_BJ[:, s + 1 : s + 7].all(1).sum()) for s in range(4)]
    assert chisquare(counts).pvalue > 1e-3


def test_chain_columns_are_drawn_evenly(groups: dict[str, Pair]) -> None:
    """With a chain of ten, the units column is any of the 45 pairs that generate a carry."""
    a_BJ, b_BJ = groups["chain 10 with carry"]
    counts = torch.bincount(a_BJ[:, 0].long() * 10 + b_BJ[:, 0].long(), minlength=100)
    counts = counts[counts > 0]
    assert len(counts) == 45 and chisquare(counts.numpy()).pvalue > 1e-4


def test_patterns(groups: dict[str, Pair]) -> None:
    a_BJ, b_BJ = groups["repdigits"]
    for digit_BJ in (a_BJ, b_BJ):
        for row in digit_BJ[:200].tolist():
            text = "".join(map(str, reversed(row))).lstrip("0")
            assert len(set(text)) <= 1
        assert {int(d) for d in digit_BJ[:, 0]} == set(range(10))
    assert set(torch.cat(groups["digits 0 and 9"]).flatten().tolist()) == {0, 9}
    assert set(torch.cat(groups["digits 4 and 5"]).flatten().tolist()) == {4, 5}
    shares = {
        "sparse": (torch.cat(groups["sparse"]) > 0, 0.2 * 0.9),
        "nines 70%": (torch.cat(groups["nines 70%"]) == 9, 0.7),
        "nines 90%": (torch.cat(groups["nines 90%"]) == 9, 0.9),
    }
    for name, (flags, share) in shares.items():
        assert abs(flags.double().mean().item() - share) < 0.005, name
    others = torch.cat(groups["nines 70%"]).flatten().long()
    assert chisquare(torch.bincount(others[others < 9], minlength=9).numpy()).pvalue > 1e-4

    sums = {name: set((from_digits(a) + from_digits(b)).tolist()) for name, (a, b) in groups.items()}
    assert sums["complements to 9999999999"] == {10**10 - 1}
    assert sums["complements to 10000000000"] == {10**10}
    a_BJ, b_BJ = groups["a = b"]
    assert torch.equal(a_BJ, b_BJ)
    a_BJ, b_BJ = groups["plus zero"]
    zero = torch.stack([(a_BJ == 0).all(1), (b_BJ == 0).all(1)], 1)
    assert zero.any(1).all() and zero[:, 0].any() and zero[:, 1].any()


def test_alternating_carries(groups: dict[str, Pair]) -> None:
    out_BJ = carries(*groups["alternating carries"])[:, 1:]
    assert (out_BJ[:, 1:] != out_BJ[:, :-1]).all()
    assert set(out_BJ[:, 0].tolist()) == {0, 1}


@pytest.mark.parametrize("n", range(1, 11))
def test_lengths(groups: dict[str, Pair], n: int) -> None:
    for digit_BJ in groups[f"length {n}"]:
        value_B = from_digits(digit_BJ)
        assert int(value_B.max()) < 10**n
        assert int(value_B.min()) >= (10 ** (n - 1) if n > 1 else 0)
        assert int(value_B.max()) > 0.85 * 10**n
