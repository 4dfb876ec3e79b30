"""Fresh failures: really failures, of every kind, and of no test set."""

import torch

from adderlab.engine.torch_tables import TorchEngine
from adderlab.evaluation.suites import adderboard, fresh, strata_groups
from adderlab.models.tables import stack_parameters
from adderlab.models.transformer import build_model
from adderlab.models.zoo import get_preset
from adderlab.task.addition import add, from_digits
from adderlab.training.finetune import (
    FailingPairs,
    Targeting,
    _taking_turns,
    candidates,
    find_failures,
    targeting_seed,
)
from adderlab.training.objective import objective_for

CPU = torch.device("cpu")
CONFIG = get_preset("67p").config
SETTINGS = Targeting(fresh=50, per_stratum=3, most=40)


def as_ints(a_BJ: torch.Tensor, b_BJ: torch.Tensor) -> list[tuple[int, int]]:
    return list(zip(from_digits(a_BJ).tolist(), from_digits(b_BJ).tolist(), strict=True))


def pairs(seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    a_BJ, b_BJ = candidates(seed, 0, Targeting(fresh=count, per_stratum=0))[0]
    return a_BJ, b_BJ


class OnlyEvenUnits:
    """A decoder that is right exactly where the units digit of the sum is even."""

    def decode(self, params, prompt_SBT):
        layout = CONFIG.token_layout
        a_SBJ, b_SBJ = layout.decode(prompt_SBT)
        sum_SBI = add(a_SBJ, b_SBJ)
        wrong_SB1 = sum_SBI[..., :1] % 2
        answers_SBI = torch.cat([(sum_SBI[..., :1] + wrong_SB1) % 10, sum_SBI[..., 1:]], 2)
        return torch.cat([answers_SBI, torch.zeros_like(wrong_SB1)], 2)


def test_failures_are_exactly_the_wrong_ones_and_all_groups_take_turns() -> None:
    layout, params = CONFIG.token_layout, {"any": torch.zeros(2, 1)}
    many = Targeting(fresh=50, per_stratum=3, most=10_000)
    found = find_failures(OnlyEvenUnits(), layout, params, (4, 9), 1, many)  # type: ignore[arg-type]
    forbidden = {pair for group in adderboard().groups for pair in as_ints(group.a_BJ, group.b_BJ)}
    for seed, (a_MJ, b_MJ) in zip((4, 9), found, strict=True):
        every = [pair for group in candidates(seed, 1, many) for pair in as_ints(*group)]
        expected = [(a, b) for a, b in every if (a + b) % 2 and (a, b) not in forbidden]
        assert sorted(as_ints(a_MJ, b_MJ)) == sorted(expected)
    few = find_failures(OnlyEvenUnits(), layout, params, (4, 9), 1, SETTINGS)  # type: ignore[arg-type]
    assert [len(a) for a, _ in few] == [40, 40]
    fresh_pairs = set(as_ints(*candidates(4, 1, SETTINGS)[0]))
    from_fresh = [pair for pair in as_ints(*few[0]) if pair in fresh_pairs]
    assert 0 < len(from_fresh) < 10


def test_groups_take_turns() -> None:
    wrong_B = torch.tensor([1, 1, 1, 0, 0, 1, 1, 0, 1], dtype=torch.bool)
    assert _taking_turns(wrong_B, [4, 2, 3]) == [0, 5, 6, 1, 8, 2]


def test_a_real_models_failures_are_failures() -> None:
    seeds = (1, 2)
    models = [build_model(CONFIG, seed) for seed in seeds]
    objective = objective_for(CONFIG, TorchEngine(), CPU)
    found = find_failures(objective, CONFIG.token_layout, stack_parameters(models), seeds, 0, SETTINGS)
    for model, (a_MJ, b_MJ) in zip(models, found, strict=True):
        answers_MA = model.generate(CONFIG.token_layout.encode_prompt(a_MJ, b_MJ))
        assert len(a_MJ) == 40
        assert (answers_MA[:, :11] != add(a_MJ, b_MJ)).any(1).all()


def test_adderboards_pairs_are_left_out() -> None:
    """A stratum of one-digit numbers meets (0, 1), which AdderBoard tests."""
    layout, params = CONFIG.token_layout, {"any": torch.zeros(1, 1)}
    wide = Targeting(fresh=1, per_stratum=600, most=100_000)
    met = {pair for group in candidates(0, 0, wide) for pair in as_ints(*group)}
    found = find_failures(OnlyEvenUnits(), layout, params, (0,), 0, wide)  # type: ignore[arg-type]
    assert (0, 1) in met and (0, 1) not in as_ints(*found[0])
    assert (1, 2) in as_ints(*found[0])


def test_streams_are_those_of_no_suite_and_of_no_other_seed_or_round() -> None:
    streams = [targeting_seed(seed, number) for seed in range(50) for number in range(64)]
    assert max(streams) < 0 and len(set(streams)) == len(streams)
    looked_through = set()
    for seed in (0, 1, 41):
        for a_BJ, b_BJ in candidates(seed, 0, Targeting(fresh=2000, per_stratum=0)):
            looked_through |= set(as_ints(a_BJ, b_BJ))
    for seed in (0, 1, 2, 41):
        group = fresh(2000, seed).groups[0]
        assert not looked_through & set(as_ints(group.a_BJ, group.b_BJ))
    (_, own_a, _), *_ = strata_groups(100, targeting_seed(0, 0))
    (_, suite_a, _), *_ = strata_groups(100, 0)
    assert not set(from_digits(own_a).tolist()) & set(from_digits(suite_a).tolist())


def test_failing_pairs_take_the_first_rows_of_their_own_seed() -> None:
    first, second = pairs(1, 3), pairs(2, 5)
    failing = FailingPairs([first, second], 4, CPU)
    a_SBJ, b_SBJ = torch.full((2, 6, 10), 7, dtype=torch.uint8), torch.ones(2, 6, 10, dtype=torch.uint8)
    new_a, new_b = failing.mix_into(a_SBJ, b_SBJ)
    assert torch.equal(new_a[0, :3], first[0]) and torch.equal(new_b[1, :4], second[1][:4])
    assert (new_a[0, 3:] == 7).all() and (new_a[1, 4:] == 7).all() and (new_b[1, 4:] == 1).all()
    assert (a_SBJ == 7).all(), "the training pairs themselves must stay"
    kept_a, _ = failing.keep([1]).mix_into(a_SBJ[1:], b_SBJ[1:])
    assert torch.equal(kept_a[0], new_a[1])


def test_a_seed_without_failures_trains_on_its_usual_pairs() -> None:
    none = tuple(digits_BJ[:0] for digits_BJ in pairs(1, 1))
    a_SBJ, b_SBJ = (digits_BJ[None] for digits_BJ in pairs(3, 6))
    new_a, new_b = FailingPairs([none], 4, CPU).mix_into(a_SBJ, b_SBJ)  # type: ignore[list-item]
    assert torch.equal(new_a, a_SBJ) and torch.equal(new_b, b_SBJ)


def test_earlier_failures_stay_where_there_is_room() -> None:
    (a, b), (more_a, more_b) = pairs(1, 3), pairs(2, 4)
    joined = FailingPairs([(a, b)], 5, CPU).joined(FailingPairs([(more_a, more_b)], 5, CPU))
    assert as_ints(*joined.pairs[0]) == as_ints(a, b) + as_ints(more_a, more_b)[:2]
    assert as_ints(*FailingPairs([(a, b)], 5, CPU).joined(None).pairs[0]) == as_ints(a, b)
