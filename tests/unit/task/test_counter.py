"""The counter-based generator: equal to its Python twin, and random enough."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from adderlab.task import sampling
from adderlab.task.sampling import Stream
from oracle import sampler_twin

seeds = st.integers(-(2**63), 2**63 - 1)


@given(
    st.lists(seeds, min_size=1, max_size=3),
    st.sampled_from(Stream),
    st.integers(0, 2**40),
    st.integers(0, 2**30),
)
def test_words_equal_the_twin(seed_S: list[int], stream: Stream, step: int, first_row: int) -> None:
    key_S = sampling.keys(torch.tensor(seed_S), stream, step)
    word_NSR = sampling.words(key_S, 2, 16, first_row)
    expected = [
        [[sampler_twin.word(seed, stream, step, first_row + r, n) for r in range(2)] for seed in seed_S]
        for n in range(16)
    ]
    assert word_NSR.tolist() == expected


def test_known_words() -> None:
    """Numbers for a re-implementation to meet; a key of 0 gives SplitMix64's published outputs."""
    outputs = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    assert sampling.words(torch.tensor([0]), 1, 2).flatten().tolist() == [x >> 5 for x in outputs]
    key_S = sampling.keys(torch.tensor([43]), Stream.TRAIN, 100)
    assert sampling.words(key_S, 1, 1).item() == 110758869544222633


@given(st.integers(0, 2**59 - 1), st.lists(st.integers(1, sampling.MAX_BELOW), min_size=1, max_size=6))
def test_take_equals_the_twin(value: int, belows: list[int]) -> None:
    twin, word = sampler_twin.Word(value), torch.tensor([value])
    for below in belows:
        number, word = sampling.take(word, below)
        assert number.item() == twin.take(below) < below
        assert word.item() == twin.value


@given(st.lists(st.integers(0, 2**59 - 1), min_size=1, max_size=5))
def test_digits_equal_the_twin(values: list[int]) -> None:
    digit_JB = sampling.digits(torch.tensor(values))
    assert digit_JB.dtype == torch.uint8
    assert digit_JB.T.tolist() == [sampler_twin.ten_digits(value) for value in values]


def test_digits_are_uniform_and_independent() -> None:
    """Chi-square over each column, neighbouring columns, the two draws, rows and steps."""

    def digits_at(step: int) -> torch.Tensor:
        word_NSR = sampling.words(sampling.keys(torch.tensor([1, 2]), Stream.TRAIN, step), 20_000, 2)
        return sampling.digits(word_NSR).long()

    digit_JNSR = digits_at(0)
    tables = {
        "columns": digit_JNSR,
        "neighbouring columns": digit_JNSR[1:] * 10 + digit_JNSR[:-1],
        "draws": digit_JNSR[:, :1] * 10 + digit_JNSR[:, 1:],
        "seeds": digit_JNSR[:, :, :1] * 10 + digit_JNSR[:, :, 1:],
        "rows": digit_JNSR[..., 1:] * 10 + digit_JNSR[..., :-1],
        "steps": digits_at(1) * 10 + digit_JNSR,
    }
    for name, value_J in tables.items():
        for j, value in enumerate(value_J):
            counts = torch.bincount(value.flatten(), minlength=10 if name == "columns" else 100)
            # 58 tests in all: one below 1e-5 would be a sign of a fault, not of chance.
            assert chisquare(counts.numpy()).pvalue > 1e-5, (name, j)
