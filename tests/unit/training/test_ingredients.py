"""Each ingredient of a recipe against the formula it is named after."""

import math

import pytest
import torch

from adderlab.errors import UsageError
from adderlab.models.tables import stack_parameters
from adderlab.models.transformer import build_model
from adderlab.models.zoo import get_preset
from adderlab.training.ingredients import (
    M10S_DECAY,
    MICROADDER_DECAY,
    Average,
    Circle,
    DecayFactors,
    Freeze,
    Grokfast,
    LearningRates,
    check_names,
    on_circle,
)


def test_microadders_decay_needs_both_accuracies_and_comes_back() -> None:
    factors = DecayFactors(MICROADDER_DECAY, 4)
    factors.update([0.5, 0.02, 0.019, 0.2], [0.69, 0.7, 0.9, 0.7])
    assert factors.factors() == [1.0, 0.1, 1.0, 0.01]
    factors.update([0.0] * 4, [0.9] * 4)
    assert factors.factors() == [1.0] * 4


def test_m10s_decay_lasts() -> None:
    factors = DecayFactors(M10S_DECAY, 3)
    factors.update([0.01, 0.06, 0.0], [0.1] * 3)
    assert factors.factors() == [0.1, 0.001, 1.0]
    factors.update([0.0, 0.0, 0.02], [0.1] * 3)
    assert factors.factors() == [0.1, 0.001, 0.1]
    factors.keep([2, 0])
    factors.update([0.06, 0.0], [0.1] * 2)
    assert factors.factors() == [0.001, 0.1]


def test_frozen_parameters_learn_later_and_slower() -> None:
    sizes = {"pos_emb.A": 2, "pos_emb.B": 1, "head": 3}
    rates = LearningRates((Freeze(prefix="pos_emb.A", until=0.35, then=0.3),), sizes, 100, torch.ones(1))
    for step, expected in ((0, [0, 0, 1, 1, 1, 1]), (34, [0, 0, 1, 1, 1, 1])):
        scale_N = rates.at(step)
        assert scale_N is not None and scale_N.tolist() == expected
    for step in (35, 99, 5000):
        scale_N = rates.at(step)
        assert scale_N is not None
        torch.testing.assert_close(scale_N, torch.tensor([0.3, 0.3, 1, 1, 1, 1]))
    assert LearningRates((), sizes, 100, torch.ones(1)).at(0) is None
    full = LearningRates((Freeze(prefix="pos", until=0.5),), sizes, 100, torch.ones(1))
    assert full.at(49) is not None and full.at(50) is None


def test_a_prefix_nothing_has_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'pos\.A'.*pos_emb\.A"):
        check_names((Freeze(prefix="pos.A", until=0.5),), ["pos_emb.A", "head"])


@pytest.mark.parametrize("name", ["456p", "311p", "262p"])
def test_columns_start_on_a_circle_around_the_models_own_draw(name: str) -> None:
    config = get_preset(name).config
    drawn = stack_parameters([build_model(config, seed) for seed in range(40)])
    moved = on_circle(Circle(), config, drawn)
    shift_SPR = moved["pos_emb.A"] - drawn["pos_emb.A"]
    layout = config.token_layout
    for p in range(layout.num_positions):
        columns = [j for j in range(10) if p in (layout.a_positions[j], layout.b_positions[j])]
        columns += [j for j in range(11) if p == layout.query_positions[j]]
        expected = torch.zeros(config.pos_rank)
        if columns:
            (j,) = columns
            expected[:2] = torch.tensor([math.cos(2 * math.pi * j / 11), math.sin(2 * math.pi * j / 11)])
        torch.testing.assert_close(
            shift_SPR[:, p], expected.expand(40, -1), atol=1e-6, rtol=0, msg=f"position {p}"
        )
    assert (moved["pos_emb.A"] - drawn["pos_emb.A"]).abs()[:, 10].max() == 0  # the plus sign
    assert float(moved["pos_emb.B"].std()) == pytest.approx(0.5, rel=0.1)
    assert float(drawn["pos_emb.A"].std()) == pytest.approx(0.02, rel=0.1)
    same = [key for key in drawn if torch.equal(drawn[key], moved[key])]
    assert set(drawn) - set(same) == {"pos_emb.A", "pos_emb.B"}


@pytest.mark.parametrize("name", ["57p", "777p", "122p"])
def test_models_without_a_low_rank_table_of_positions_have_no_circle(name: str) -> None:
    config = get_preset(name).config
    with pytest.raises(UsageError, match="rank 2 or more"):
        on_circle(Circle(), config, {})


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Grokfast(alpha=1.0), "alpha"),
        (lambda: Grokfast(strength=-1.0), "strength"),
        (lambda: Average(decay=1.0), "decay"),
        (lambda: Circle(period=2), "period"),
        (lambda: Circle(spread=float("nan")), "spread"),
        (lambda: Freeze(prefix="a", until=1.5), "until"),
        (lambda: Freeze(prefix="", until=0.5), "beginning"),
        (lambda: Freeze(prefix="a", until=0.5, then=-1.0), "then"),
    ],
)
def test_impossible_settings_are_refused(make, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        make()
