"""A seed is the same seed: alone, in a population, with other threads, after a resume."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from adderlab.engine.torch_tables import TorchEngine
from adderlab.evaluation.exact import model_of
from adderlab.models.zoo import get_preset
from adderlab.task.r456 import holdout
from adderlab.task.sampling import R456_CURRICULUM, CarryMix, DataConfig
from adderlab.training.finetune import LBFGS, Targeting
from adderlab.training.ingredients import AdaptiveDecay, Average, Circle, DecayRule, Freeze, Grokfast
from adderlab.training.measure import Evaluation
from adderlab.training.objective import objective_for
from adderlab.training.population import Population
from adderlab.training.recipe import Recipe, Stage
from helpers.states import assert_same_state

CPU = torch.device("cpu")
CONFIG = get_preset("456p").config
RECIPE = Recipe(steps=12, batch_size=32, warmup_steps=4, val_size=40, test_size=20)
EVERYTHING = Recipe(
    steps=6,
    batch_size=16,
    warmup_steps=2,
    val_size=30,
    test_size=20,
    eval_interval=3,
    bias_correction=False,
    weight_decay=0.5,
    # Untrained seeds get 3 to 10% of the digits right: some reach the rule, some do not.
    adaptive_decay=AdaptiveDecay(rules=(DecayRule(factor=0.1, val_exact=0.0, val_token_acc=0.09),)),
    grokfast=Grokfast(),
    average=Average(decay=0.5),
    circle=Circle(),
    freeze=(Freeze(prefix="pos_emb.A", until=0.35, then=0.3),),
    data=DataConfig(curriculum=R456_CURRICULUM, carry_mix=CarryMix(share=0.5, fade_start=2, fade_end=8)),
    stages=(
        Stage(steps=3, lr=1e-2, batch_size=20, grokfast=Grokfast(strength=1.0), average=Average()),
        Stage(lbfgs=LBFGS(examples=40, iterations=3)),
        Stage(steps=3, beta2=0.9, targeting=Targeting(fresh=30, per_stratum=2, most=9)),
        Stage(steps=2, targeting=Targeting(fresh=5, per_stratum=0, most=12)),
    ),
)
LAST = EVERYTHING.total_steps


def population(seeds: tuple[int, ...], recipe: Recipe = RECIPE, threads: int = 1) -> Population:
    return Population(CONFIG, recipe, seeds, objective_for(CONFIG, TorchEngine(threads), CPU), CPU)


def advance(each: Population, steps: int) -> torch.Tensor:
    """So many steps, evaluated where the recipe says so; the last loss."""
    loss_S = torch.empty(0)
    for _ in range(steps):
        loss_S = each.advance()
        if each.recipe.looks_at(each.next_step - 1):
            each.evaluate(loss_S)
    return loss_S


@pytest.mark.parametrize("recipe", [RECIPE, EVERYTHING], ids=["plain", "everything"])
def test_a_seed_trains_alike_alone_and_among_others_with_two_threads(recipe: Recipe) -> None:
    together, alone = population((5, 9, 700), recipe, threads=2), population((9,), recipe)
    loss_S, own_S = (advance(each, recipe.total_steps) for each in (together, alone))
    assert together.done and alone.done
    assert torch.equal(loss_S[1], own_S[0])
    assert torch.equal(together.flat_SN[1], alone.flat_SN[0])
    one, other = together.evaluate(loss_S), alone.evaluate(own_S)
    assert torch.equal(one.step_acc_SI[1], other.step_acc_SI[0])
    assert torch.equal(one.margin_S[1], other.margin_S[0])
    assert torch.equal(one.weights_SN[1], other.weights_SN[0])
    assert one.val_token_acc_S[1] == other.val_token_acc_S[0]


def test_resuming_from_the_state_gives_the_same_bits() -> None:
    for sampler in ("counter", "r456"):
        recipe = dataclasses.replace(RECIPE, sampler=sampler)
        whole, first = population((1, 2), recipe), population((1, 2), recipe)
        advance(whole, 12)
        advance(first, 7)
        second = population((1, 2), recipe)
        second.load_state(first.state())
        advance(second, 5)
        assert torch.equal(whole.flat_SN, second.flat_SN), sampler
        assert second.done and whole.done


@pytest.mark.parametrize("stop", [3, 6, 8, 9, 10, 12], ids=lambda step: f"after_{step}")
def test_resuming_gives_the_same_bits_with_every_ingredient(stop: int) -> None:
    """Stops lie within parts, between them, before and after polishing and targeting."""
    first, second = population((1, 2), EVERYTHING), population((1, 2), EVERYTHING)
    advance(first, stop)
    second.load_state(first.state())
    advance(first, LAST - stop)
    advance(second, LAST - stop)
    assert torch.equal(first.flat_SN, second.flat_SN)
    one, other = (each.evaluate(torch.zeros(2)) for each in (first, second))
    assert torch.equal(one.weights_SN, other.weights_SN)
    assert_same_state(first.state(), second.state())


@pytest.mark.parametrize(
    ("recipe", "stop"), [(RECIPE, 7), (EVERYTHING, 3), (EVERYTHING, 7), (EVERYTHING, 11)]
)
def test_seeds_go_on_alike_after_others_have_stopped(recipe: Recipe, stop: int) -> None:
    whole, fewer = population((1, 2, 3), recipe), population((1, 2, 3), recipe)
    advance(whole, recipe.total_steps)
    advance(fewer, stop)
    fewer.keep([0, 2])
    resumed = population((1, 2, 3), recipe)
    resumed.load_state(fewer.state())
    assert fewer.seeds == resumed.seeds == (1, 3)
    for each in (fewer, resumed):
        advance(each, recipe.total_steps - stop)
        assert torch.equal(whole.flat_SN[[0, 2]], each.flat_SN)
        assert torch.equal(
            whole.evaluate(torch.zeros(3)).margin_S[[0, 2]], each.evaluate(torch.zeros(2)).margin_S
        )
    fewer.keep([])
    assert fewer.done


def test_every_ingredient_of_descent_changes_the_weights() -> None:
    """What has no effect would pass every test of equality."""
    seeds = (1, 2)

    def weights(recipe: Recipe) -> torch.Tensor:
        each = population(seeds, recipe)
        advance(each, recipe.total_steps)
        return each.flat_SN

    base = dataclasses.replace(EVERYTHING, stages=EVERYTHING.stages[:1])
    reference_SN = weights(base)
    plain: dict[str, Any] = {
        "bias_correction": True,
        "adaptive_decay": None,
        "grokfast": None,
        "circle": None,
        "freeze": (),
        "data": DataConfig(curriculum=R456_CURRICULUM),
        "stages": (Stage(steps=3, lr=1e-2, batch_size=20),),
    }
    for name, value in plain.items():
        changed = torch.eq(weights(dataclasses.replace(base, **{name: value})), reference_SN).all(1)
        assert not changed.all(), name


def test_frozen_parameters_stand_still_until_their_time() -> None:
    recipe = dataclasses.replace(
        RECIPE, weight_decay=0.5, freeze=(Freeze(prefix="pos_emb.A", until=0.5, then=0.3),)
    )
    each, free = population((1, 2), recipe), population((1, 2), dataclasses.replace(recipe, freeze=()))
    start = {name: tensor.clone() for name, tensor in each.params().items()}
    advance(each, 6)
    assert torch.equal(each.params()["pos_emb.A"], start["pos_emb.A"])
    moved = [name for name, tensor in each.params().items() if not torch.equal(tensor, start[name])]
    assert set(moved) == set(start) - {"pos_emb.A"}
    advance(each, 1)
    assert not torch.equal(each.params()["pos_emb.A"], start["pos_emb.A"])
    advance(free, 1)
    assert not torch.equal(free.params()["pos_emb.A"], start["pos_emb.A"])


def forced(each: Population, exact_match: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Let ``exact_match`` decide the exact match of each weight vector that is measured."""
    measure = each._validation.measure

    def measured(objective, params):
        flat_SN = torch.cat([tensor.flatten(1) for tensor in params.values()], 1)
        return dataclasses.replace(measure(objective, params), val_exact_S=exact_match(flat_SN))

    each._validation.measure = measured  # type: ignore[method-assign]


def test_a_stage_starts_from_the_best_weights_and_a_fresh_optimiser() -> None:
    recipe = dataclasses.replace(RECIPE, steps=6, eval_interval=2, stages=(Stage(steps=2, lr=1e-9),))
    each, seen = population((1, 2), recipe), []
    scores = iter(([0.1, 0.3], [0.5, 0.2], [0.2, 0.2], [0.4, 0.1], [0.0, 0.0]))

    def exact_match(flat_SN: torch.Tensor) -> torch.Tensor:
        seen.append(flat_SN.clone())
        return torch.tensor(next(scores), dtype=torch.float64)

    forced(each, exact_match)
    advance(each, 7)
    # Looked at after steps 0, 2, 4 and 5; the second was best for seed 1, the first for seed 2.
    expected_SN = torch.stack([seen[1][0], seen[0][1]])
    torch.testing.assert_close(each.flat_SN, expected_SN, atol=1e-7, rtol=0)
    assert each.optimizer.steps == 1
    assert not torch.equal(seen[3], expected_SN)


def test_the_better_of_weights_and_average_speaks_for_a_seed() -> None:
    recipe = dataclasses.replace(RECIPE, average=Average(decay=0.9))
    each = population((1, 2), recipe)
    expected_SN = each.flat_SN.clone()
    for _ in range(3):
        loss_S = each.advance()
        expected_SN = 0.9 * expected_SN + 0.1 * each.flat_SN
    assert each._average is not None
    mean_SN = each._average.mean_SN.clone()
    torch.testing.assert_close(mean_SN, expected_SN)
    calls = iter(([0.5, 0.5], [0.6, 0.4]))
    forced(each, lambda flat_SN: torch.tensor(next(calls), dtype=torch.float64))
    evaluation: Evaluation = each.evaluate(loss_S)
    assert evaluation.averaged_S.tolist() == [True, False]
    assert torch.equal(evaluation.weights_SN[0], mean_SN[0])
    assert torch.equal(evaluation.weights_SN[1], each.flat_SN[1])
    assert evaluation.val_exact_S.tolist() == [0.6, 0.5]
    assert torch.equal(each.state()["best"], evaluation.weights_SN)


def test_weight_decay_falls_for_the_seed_that_has_earned_it() -> None:
    """One seed reaches the rule: it goes on as without weight decay, the other as with it."""
    rules = (DecayRule(factor=0.0, val_exact=0.5),)
    recipe = dataclasses.replace(RECIPE, weight_decay=1.0, eval_interval=4)
    adaptive = dataclasses.replace(recipe, adaptive_decay=AdaptiveDecay(rules=rules))
    each = population((1, 2), adaptive)
    forced(each, lambda flat_SN: torch.tensor([0.5, 0.4], dtype=torch.float64))
    advance(each, 1)
    decayed, free = population((1, 2), recipe), population((1, 2), recipe)
    for other, weight_decay in ((decayed, 1.0), (free, 0.0)):
        advance(other, 1)
        other.recipe = dataclasses.replace(recipe, weight_decay=weight_decay)
    for other in (each, decayed, free):
        advance(other, 2)
    assert torch.equal(each.flat_SN[0], free.flat_SN[0])
    assert torch.equal(each.flat_SN[1], decayed.flat_SN[1])
    assert not torch.equal(each.flat_SN[0], decayed.flat_SN[0])


def test_polishing_lowers_the_loss_of_its_examples() -> None:
    recipe = dataclasses.replace(
        RECIPE, steps=40, stages=(Stage(lbfgs=LBFGS(examples=64, iterations=5)), Stage())
    )
    each = population((1, 2), recipe)
    advance(each, 40)
    before_SN = each.state()["best"].clone()
    before_S = advance(each, 1)
    assert not torch.equal(each.flat_SN, before_SN)
    alone = population((2,), recipe)
    assert torch.equal(advance(alone, 41), before_S[1:])
    assert torch.equal(alone.flat_SN[0], each.flat_SN[1])
    tokens, targets = each.layout.encode(*each._pairs(40))
    assert before_S.shape == (2,) and tokens.shape[:2] == (2, 32)
    # The first 32 of the 64 examples are the batch of that step.
    old_S, _ = each.objective.loss_and_grad(each.params(before_SN), tokens, targets)
    new_S, _ = each.objective.loss_and_grad(each.params(), tokens, targets)
    assert (new_S < old_S).all()


def test_targeting_trains_on_the_failures_of_each_seed() -> None:
    recipe = dataclasses.replace(
        RECIPE,
        steps=1,
        stages=(
            Stage(targeting=Targeting(fresh=20, per_stratum=0, most=5)),
            Stage(targeting=Targeting(fresh=3, per_stratum=0, most=7)),
            Stage(),
        ),
    )
    each = population((1, 2), recipe)
    descend, batches = each.objective.loss_and_grad, []

    def watched(params, tokens_SBP, targets_SBA):
        batches.append(each.layout.decode(tokens_SBP))
        return descend(params, tokens_SBP, targets_SBA)

    each.objective.loss_and_grad = watched  # type: ignore[method-assign]
    assert each.state()["failing"] is None
    advance(each, 2)
    first = each.state()["failing"]
    assert [len(a) for a, _ in first] == [5, 5]
    usual, trained = each._pairs(1), batches[-1]
    for operand in (0, 1):
        for s in (0, 1):
            assert torch.equal(trained[operand][s, :5], first[s][operand])
            assert torch.equal(trained[operand][s, 5:], usual[operand][s, 5:])
    assert not torch.equal(first[0][0], first[1][0])
    advance(each, 1)
    second = each.state()["failing"]
    # An untrained model fails everywhere: three new pairs leave room for four of the earlier five.
    for (new_a, _), (old_a, _) in zip(second, first, strict=True):
        assert len(new_a) == 7 and torch.equal(new_a[3:], old_a[:4])
    advance(each, 1)
    assert each.state()["failing"] is None


def test_training_lowers_the_loss() -> None:
    recipe = dataclasses.replace(RECIPE, steps=150, warmup_steps=20)
    each = population((0, 1), recipe)
    first_S = advance(each, 1)
    last_S = advance(each, 120)
    assert (last_S < first_S - 0.5).all()


def test_an_evaluation_is_that_of_the_readable_model_on_the_held_out_pairs() -> None:
    """Greedy answers and teacher-forced logits of the module, against the engine's measurement."""
    each = population((3,))
    evaluation = each.evaluate(advance(each, 2))
    model = model_of(CONFIG, each.params())
    split = holdout(3, RECIPE.val_size, RECIPE.test_size)
    tokens_BP, targets_BA = model.layout.encode(split.val_a_BJ, split.val_b_BJ)
    target_BI = targets_BA[:, :11].long()
    answers_BA = model.generate(model.layout.encode_prompt(split.val_a_BJ, split.val_b_BJ))
    right_BI = (answers_BA[:, :11] == target_BI).double()
    assert float(evaluation.val_token_acc_S[0]) == pytest.approx(float(right_BI.mean()))
    assert float(evaluation.val_exact_S[0]) == pytest.approx(float(right_BI.amin(1).mean()))
    # Step by step with the right digits before it, as in training.
    logits_BIV = model.answer_logits(tokens_BP).detach()[:, :11]
    taught_BI = (logits_BIV.argmax(2) == target_BI).double()
    assert evaluation.step_acc_SI[0].tolist() == pytest.approx(taught_BI.mean(0).tolist())
    right_logit_BI = logits_BIV.gather(2, target_BI[..., None])[..., 0]
    others_BI = logits_BIV.scatter(2, target_BI[..., None], -torch.inf).amax(2)
    smallest = float((right_logit_BI - others_BI).min())
    assert float(evaluation.margin_S[0]) == pytest.approx(smallest, abs=1e-5) and smallest < 0
    assert 0.0 < float(taught_BI.mean()) < 0.5
