"""Training pairs: equal to the twin, independent of company, within the curriculum."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from adderlab.task.addition import carries, from_digits
from adderlab.task.sampling import (
    MICROADDER_CURRICULUM,
    PATTERNS,
    R456_CURRICULUM,
    CarryMix,
    Curriculum,
    DataConfig,
    Pattern,
    Phase,
    sample_pairs,
    uniform_pairs,
)
from oracle import sampler_twin

HALF_MIX = CarryMix(share=0.5, fade_start=8_000, fade_end=10_000, patterns=PATTERNS)
steps = st.integers(0, 11_000)
configs = st.builds(
    DataConfig,
    curriculum=st.sampled_from([R456_CURRICULUM, MICROADDER_CURRICULUM]),
    carry_mix=st.sampled_from([None, HALF_MIX]),
)


def values(data: DataConfig, seed: int, step: int, batch: int) -> tuple[list[int], list[int]]:
    a_SBJ, b_SBJ = sample_pairs(data, torch.tensor([seed]), step, batch)
    return from_digits(a_SBJ[0]).tolist(), from_digits(b_SBJ[0]).tolist()


@settings(max_examples=40)
@given(configs, st.integers(0, 2**40), steps)
def test_equals_the_twin(data: DataConfig, seed: int, step: int) -> None:
    a, b = values(data, seed, step, 12)
    expected = [sampler_twin.pair(data, seed, step, row) for row in range(12)]
    assert list(zip(a, b, strict=True)) == expected


@settings(max_examples=40)
@given(configs, steps, st.lists(st.integers(0, 99), min_size=2, max_size=5), st.integers(1, 40))
def test_a_seed_is_the_same_alone_and_in_any_batch(
    data: DataConfig, step: int, seeds: list[int], batch: int
) -> None:
    a_SBJ, b_SBJ = sample_pairs(data, torch.tensor(seeds), step, 40)
    assert a_SBJ.dtype == torch.uint8 and a_SBJ.shape == (len(seeds), 40, 10)
    for s, seed in enumerate(seeds):
        a, b = sample_pairs(data, torch.tensor([seed]), step, batch)
        assert torch.equal(a[0], a_SBJ[s, :batch]) and torch.equal(b[0], b_SBJ[s, :batch])


@settings(max_examples=40)
@given(st.sampled_from([R456_CURRICULUM, MICROADDER_CURRICULUM]), steps, st.integers(0, 99))
def test_operands_stay_within_the_phase(curriculum: Curriculum, step: int, seed: int) -> None:
    a, b = values(DataConfig(curriculum=curriculum), seed, step, 200)
    assert max(a + b) < 10 ** curriculum.max_digits(step)


def test_uniform_lengths() -> None:
    """Nine late pairs in ten are shorter than ten digits, and both operands share their length."""
    data = DataConfig(curriculum=R456_CURRICULUM)
    a_SBJ, b_SBJ = sample_pairs(data, torch.tensor([5]), 8_000, 40_000)
    longest_B = ((a_SBJ[0] | b_SBJ[0]) > 0).int().mul(torch.arange(1, 11)).amax(1)
    # A pair of length n shows fewer digits with probability 1/100 per column.
    counts = torch.bincount(longest_B, minlength=11)[1:].float() / 40_000
    assert torch.allclose(counts[1:9], torch.full((8,), 0.1), atol=0.008)
    one_digit = longest_B == 1
    for digit_BJ in (a_SBJ[0], b_SBJ[0]):
        assert chisquare(torch.bincount(digit_BJ[one_digit, 0].long(), minlength=10)).pvalue > 1e-4


def test_full_lengths_are_uniform_below_the_limit() -> None:
    a_SBJ, b_SBJ = sample_pairs(
        DataConfig(curriculum=MICROADDER_CURRICULUM), torch.arange(2), 3_000, 20_000
    )
    for digit_SBJ in (a_SBJ, b_SBJ):
        assert int(digit_SBJ[..., 6:].max()) == 0
        for j in range(6):
            counts = torch.bincount(digit_SBJ[..., j].flatten().long(), minlength=10)
            assert chisquare(counts.numpy()).pvalue > 1e-5


def only(pattern: Pattern, max_digits: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    phases = (Phase(until=None, max_digits=max_digits),)
    mix = CarryMix(share=1.0, fade_start=1, fade_end=1, patterns=(pattern,))
    data = DataConfig(curriculum=Curriculum(phases=phases, lengths="full"), carry_mix=mix)
    a_SBJ, b_SBJ = sample_pairs(data, torch.tensor([9]), 0, 20_000)
    return a_SBJ[0], b_SBJ[0]


def lengths_are_uniform(length_B: torch.Tensor, most: int = 10) -> bool:
    counts = torch.bincount(length_B.long(), minlength=most + 1)[1:]
    return chisquare(counts.numpy()).pvalue > 1e-4


def test_single_carries_exactly_once() -> None:
    a_BJ, b_BJ = only("single")
    high_BJ = (a_BJ >= 5) & (b_BJ >= 5)
    assert high_BJ.sum(1).eq(1).all()
    assert ((a_BJ < 5) == ~high_BJ).all() and ((b_BJ < 5) == ~high_BJ).all()
    assert carries(a_BJ, b_BJ).sum(1).eq(1).all()
    # Column j of n: n uniform, then j uniform below n.
    expected = [20_000 / 10 * sum(1 / n for n in range(j + 1, 11)) for j in range(10)]
    assert chisquare(high_BJ.sum(0).numpy(), expected).pvalue > 1e-4


def test_chain_is_nines_and_a_small_number() -> None:
    a_BJ, b_BJ = only("chain")
    a, b = from_digits(a_BJ), from_digits(b_BJ)
    n = (a_BJ == 9).sum(1)
    assert torch.equal(a, 10**n - 1) and lengths_are_uniform(n)
    top = 10 ** n.clamp(max=3)
    assert bool(((b >= 1) & (b <= top)).all())
    assert all(bool((b[n == k] == 10**k).any()) for k in (1, 2)), "the largest b must occur"
    assert chisquare(torch.bincount(b[n == 1], minlength=11)[1:].numpy()).pvalue > 1e-4


def test_place_has_n_digits_and_one_more() -> None:
    a_BJ, b_BJ = only("place")
    n = (a_BJ > 0).int().mul(torch.arange(1, 11)).amax(1)
    assert lengths_are_uniform(n)
    assert (b_BJ > 0).sum(1).eq(1).all()
    assert bool(((b_BJ > 0).int().argmax(1) < n).all())
    assert chisquare(torch.bincount(b_BJ.amax(1).long(), minlength=10)[1:].numpy()).pvalue > 1e-4
    leading = a_BJ.gather(1, n[:, None] - 1).flatten()
    assert chisquare(torch.bincount(leading.long(), minlength=10)[1:].numpy()).pvalue > 1e-4


def test_boundary_lies_just_below_a_power_of_ten() -> None:
    a_BJ, b_BJ = only("boundary")
    a, b = from_digits(a_BJ).tolist(), from_digits(b_BJ)
    below = [min((10**n - x, n) for n in range(1, 11) if x < 10**n) for x in a]
    assert {r for r, _ in below} == set(range(1, 11))
    assert lengths_are_uniform(torch.tensor([n for _, n in below]))
    assert chisquare(torch.bincount(b, minlength=21)[1:].numpy()).pvalue > 1e-4


def test_propagate_carries_through_nines() -> None:
    """Every row has a generating column; many carries pass through columns that sum to 9."""
    a_BJ, b_BJ = only("propagate")
    column_BJ = a_BJ + b_BJ
    carry_BI = carries(a_BJ, b_BJ)
    assert (column_BJ >= 10).any(1).all()
    passed_BJ = (column_BJ == 9) & (carry_BI[:, :10] > 0)
    runs = passed_BJ.sum(1).float()
    uniform = sample_pairs(
        DataConfig(curriculum=MICROADDER_CURRICULUM), torch.tensor([3]), 9_000, 20_000
    )
    plain = ((uniform[0] + uniform[1] == 9) & (carries(*uniform)[..., :10] > 0))[0].sum(1).float()
    # n, g and e uniform give 1.125 columns a row on average, uniform pairs 0.45.
    assert runs.mean() > 1.1 and plain.mean() < 0.5
    assert bool((runs == 9).any())


def test_patterns_keep_to_the_phase() -> None:
    for pattern in PATTERNS:
        a_BJ, b_BJ = only(pattern, max_digits=4)
        assert int(from_digits(a_BJ).max()) < 10**4
        assert int(from_digits(b_BJ).max()) <= (1000 if pattern == "chain" else 9999)


def test_share_of_patterned_rows_follows_the_fade() -> None:
    mix = CarryMix(share=0.8, fade_start=0, fade_end=100, patterns=("chain",))
    curriculum = Curriculum(phases=(Phase(until=None, max_digits=10),), lengths="full")
    data = DataConfig(curriculum=curriculum, carry_mix=mix)
    for step in (0, 50, 99, 100):
        b = torch.tensor(values(data, 4, step, 20_000)[1])
        assert abs((b <= 1000).float().mean().item() - mix.share_at(step)) < 0.012


def test_uniform_pairs_have_a_stream_of_their_own() -> None:
    a_BJ, b_BJ = uniform_pairs(7, 300_000)
    assert a_BJ.shape == (300_000, 10)
    first_a, first_b = uniform_pairs(7, 10)
    assert torch.equal(first_a, a_BJ[:10]) and torch.equal(first_b, b_BJ[:10])
    assert not torch.equal(uniform_pairs(8, 10)[0], first_a)
    data = DataConfig(curriculum=MICROADDER_CURRICULUM)
    assert not torch.equal(sample_pairs(data, torch.tensor([7]), 0, 10)[0][0], first_a)
    # A row beyond the first chunk is still its own function of (seed, row).
    row = [sampler_twin.ten_digits(sampler_twin.word(7, 1, 0, 299_999, draw)) for draw in (0, 1)]
    assert [a_BJ[-1].tolist(), b_BJ[-1].tolist()] == row
