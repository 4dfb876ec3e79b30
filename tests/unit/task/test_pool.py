"""Finite training sets: drawn once, by counter, the same in every engine."""

import pytest
import torch

from adderlab.engine.device_steps import sample, step_numbers
from adderlab.engine.native.engine import NativeSampler
from adderlab.errors import UsageError
from adderlab.files.schema import from_dict, to_dict
from adderlab.task.addition import Addition, from_digits, get_layout
from adderlab.task.r456 import holdout
from adderlab.task.sampling import (
    MICROADDER_MIX,
    R456_CURRICULUM,
    Curriculum,
    DataConfig,
    Lengths,
    Phase,
    pool_pairs,
    sample_pairs,
)
from adderlab.training.recipe import Recipe
from oracle import sampler_twin

SEEDS = torch.tensor([3, 11])


def pool(size: int, lengths: Lengths = "full") -> DataConfig:
    phases = (Phase(until=None, max_digits=10),)
    return DataConfig(curriculum=Curriculum(phases=phases, lengths=lengths), pool=size)


def pairs(a_BJ: torch.Tensor, b_BJ: torch.Tensor) -> list[tuple[int, ...]]:
    return [tuple(row) for row in torch.cat([a_BJ, b_BJ], 1).tolist()]


@pytest.mark.parametrize("lengths", ["full", "uniform"])
def test_every_row_is_a_pair_of_the_seeds_own_pool_and_all_of_them_come(lengths: Lengths) -> None:
    data = pool(60, lengths)
    own = pool_pairs(data, SEEDS)
    drawn = [sample_pairs(data, SEEDS, step, 100) for step in range(10)]
    for s in range(len(SEEDS)):
        seen = {pair for a_SBJ, b_SBJ in drawn for pair in pairs(a_SBJ[s], b_SBJ[s])}
        assert seen == set(pairs(own[0][s], own[1][s]))
    assert set(pairs(own[0][0], own[1][0])) != set(pairs(own[0][1], own[1][1]))


def test_a_pool_is_drawn_as_the_slow_twin_draws_it() -> None:
    data, step = pool(40, "uniform"), 7
    a_SBJ, b_SBJ = sample_pairs(data, SEEDS, step, 50)
    for s, seed in enumerate(SEEDS.tolist()):
        expected = [sampler_twin.pool_pair(data, seed, step, row) for row in range(50)]
        drawn = zip(from_digits(a_SBJ[s]).tolist(), from_digits(b_SBJ[s]).tolist(), strict=True)
        assert list(drawn) == expected


@pytest.mark.parametrize("columns", [3, 10, 12])
@pytest.mark.parametrize("lengths", ["full", "uniform"])
def test_every_engine_draws_the_same_batches(columns: int, lengths: Lengths) -> None:
    layout, data = get_layout("M", Addition(columns=columns)), pool(50, lengths)
    a_SBJ, b_SBJ = sample_pairs(data, SEEDS, 9, 70, layout.addition)
    expected = layout.encode(a_SBJ, b_SBJ)
    native = NativeSampler(data, layout)(SEEDS, 9, 70)
    on_device = sample(data, layout, SEEDS, step_numbers(data, [9], columns)[0], 70)
    for tokens, targets in (native, on_device):
        assert torch.equal(tokens, expected[0]) and torch.equal(targets, expected[1])


def test_a_smaller_pool_is_the_beginning_of_a_larger_one() -> None:
    small, large, first = (
        torch.stack(pool_pairs(pool(size), SEEDS, most=most))
        for size, most in ((30, None), (90, None), (90, 30))
    )
    assert torch.equal(small, large[:, :, :30]) and torch.equal(first, small)


def test_validation_pairs_are_in_no_pool() -> None:
    task = Addition(columns=2)
    held = holdout(5, 1000, 1000, task)
    a_SNJ, b_SNJ = pool_pairs(pool(3000), torch.tensor([5]), task)
    trained = set(pairs(a_SNJ[0], b_SNJ[0]))
    assert trained & set(pairs(held.val_a_BJ, held.val_b_BJ))  # as drawn, some are
    kept = held.without(a_SNJ[0], b_SNJ[0])
    validation = pairs(kept.val_a_BJ, kept.val_b_BJ)
    assert len(set(validation)) == 1000 and not trained & set(validation)
    with pytest.raises(UsageError, match="take a smaller pool"):
        held.without(*(x[0] for x in pool_pairs(pool(30_000), torch.tensor([5]), task)))


def test_files_without_a_pool_are_what_they_were() -> None:
    plain = DataConfig(curriculum=R456_CURRICULUM)
    assert "pool" not in to_dict(plain) and from_dict(DataConfig, to_dict(plain)) == plain
    assert from_dict(DataConfig, to_dict(pool(7))) == pool(7)


def test_what_a_pool_does_not_go_with_is_refused() -> None:
    with pytest.raises(UsageError, match="must be 1 to"):
        pool(0)
    with pytest.raises(UsageError, match="the curriculum has 3 phases: set also"):
        DataConfig(curriculum=R456_CURRICULUM, pool=5)
    with pytest.raises(UsageError, match="carry_mix=null"):
        DataConfig(curriculum=pool(5).curriculum, carry_mix=MICROADDER_MIX, pool=5)
    with pytest.raises(UsageError, match="goes with sampler counter"):
        Recipe(data=pool(5), sampler="r456")
