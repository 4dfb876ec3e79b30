"""The C++ sampler against the Python one: the same tokens, bit for bit."""

import pytest
import torch

from adderlab.engine.native.engine import NativeSampler
from adderlab.task.addition import get_layout
from adderlab.task.sampling import (
    MICROADDER_CURRICULUM,
    PATTERNS,
    R456_CURRICULUM,
    CarryMix,
    DataConfig,
    sample_pairs,
)

PLAIN = DataConfig(curriculum=R456_CURRICULUM)
MIXED = DataConfig(
    curriculum=MICROADDER_CURRICULUM,
    carry_mix=CarryMix(share=0.8, fade_start=10, fade_end=20_000, patterns=PATTERNS),
)


@pytest.mark.parametrize("layout", ["P", "S", "M", "M14"])
@pytest.mark.parametrize("data", [PLAIN, MIXED], ids=["plain", "mixed"])
def test_batches_equal_the_python_sampler_bit_for_bit(data: DataConfig, layout: str) -> None:
    chosen = get_layout(layout)
    sample = NativeSampler(data, chosen)
    seeds_S = torch.tensor([0, 5, 2**40 + 3])
    for step in (0, 5, 1999, 2000, 7001, 15_000, 30_000):
        want_tokens, want_targets = chosen.encode(*sample_pairs(data, seeds_S, step, 300))
        tokens, targets = sample(seeds_S, step, 300)
        assert torch.equal(tokens, want_tokens), step
        assert torch.equal(targets, want_targets), step
