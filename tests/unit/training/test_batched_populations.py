"""Populations of several recipes in one batch of steps: every seed ends in the bits it has when its own
recipe is trained alone, and the batches are shared indeed."""

import dataclasses
import itertools
import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from adderlab.engine.base import Compiled, Engine, Stepper
from adderlab.engine.native import NativeEngine
from adderlab.engine.step_batch import StepBatch
from adderlab.engine.torch_tables import TorchEngine
from adderlab.models.tables import Tables
from adderlab.models.zoo import get_preset
from adderlab.task.addition import Layout
from adderlab.task.sampling import CarryMix, DataConfig
from adderlab.training.finetune import LBFGS, Targeting
from adderlab.training.ingredients import AdaptiveDecay, Average, Circle, DecayRule, Freeze, Grokfast
from adderlab.training.objective import Objective, objective_for
from adderlab.training.population import Population, advance, batch_shape, furthest_behind
from adderlab.training.recipe import Recipe, Stage
from helpers.states import assert_same_state

CPU = torch.device("cpu")
CONFIG = get_preset("456p").config
BASE = Recipe(steps=12, batch_size=16, warmup_steps=4, val_size=20, test_size=20, eval_interval=5)
CHANGES: dict[str, dict[str, Any]] = {
    "lr": {"lr": 0.003},
    "warm-up": {"warmup_steps": 0},
    "constant": {"schedule": "constant"},
    "low": {"min_lr_ratio": 0.5},
    "beta1": {"beta1": 0.5},
    "beta2": {"beta2": 0.9},
    "eps": {"eps": 1e-2},
    "no correction": {"bias_correction": False},
    "decay": {"weight_decay": 2.0},
    "adaptive": {"adaptive_decay": AdaptiveDecay(rules=(DecayRule(factor=0.0, val_exact=0.0),))},
    "clip": {"grad_clip": 0.01},
    "unclipped": {"grad_clip": 0.0},
    "circle": {"circle": Circle()},
    "freeze": {"freeze": (Freeze(prefix="pos_emb.A", until=0.4, then=0.3),)},
    "steps": {"steps": 9},
    "looks": {"eval_interval": 4},
}
RECIPES = [BASE, *(dataclasses.replace(BASE, **change) for change in CHANGES.values())]
RUNNING = [
    dataclasses.replace(
        BASE, grokfast=Grokfast(alpha=alpha, strength=strength), average=Average(decay=d)
    )
    for alpha, strength, d in ((0.98, 2.0, 0.9), (0.5, 2.0, 0.9), (0.98, 0.1, 0.9), (0.98, 2.0, 0.1))
]
"""Alike but for one number each."""


def populations(recipes: Sequence[Recipe], objective: Objective) -> list[Population]:
    """One for each recipe, some with seeds that others have too."""
    seeds = ((4, 8), (8,), (4, 15, 16))
    return [
        Population(CONFIG, recipe, seeds[i % len(seeds)], objective, CPU)
        for i, recipe in enumerate(recipes)
    ]


def look(each: Population, loss_S: Tensor) -> list[Tensor]:
    """What is seen after a step: the loss, and the evaluation where there is one."""
    if not each.recipe.looks_at(each.next_step - 1):
        return []
    seen = dataclasses.asdict(each.evaluate(loss_S))
    return [loss_S, *(value for value in seen.values() if isinstance(value, Tensor))]


def trained_alone(each: Population, most: int) -> list[Tensor]:
    seen = []
    while not each.done:
        seen += look(each, each.advance(most))
    return seen


def trained_together(all_of_them: Sequence[Population], most: int) -> list[list[Tensor]]:
    seen: list[list[Tensor]] = [[] for _ in all_of_them]
    while training := [each for each in all_of_them if not each.done]:
        together, ahead = furthest_behind(training)
        limit = most if ahead is None else min(most, ahead - together[0].next_step)
        for each, loss_S in zip(together, advance(together, limit), strict=True):
            seen[all_of_them.index(each)] += look(each, loss_S)
    return seen


def assert_alike(recipes: Sequence[Recipe], engine: Engine, lone: Engine, most: int = 100) -> None:
    """Together on one engine, alone on another of the same bits."""
    together = populations(recipes, objective_for(CONFIG, engine, CPU))
    alone = populations(recipes, objective_for(CONFIG, lone, CPU))
    seen = trained_together(together, most)
    for i, each in enumerate(alone):
        assert_same_state(trained_alone(each, most), seen[i])
        assert_same_state(each.state(), together[i].state())


@pytest.mark.parametrize("recipes", [RECIPES, RUNNING], ids=["plain", "running"])
@pytest.mark.parametrize("threads", [1, 2])
def test_native_seeds_end_in_the_bits_they_have_alone(recipes: list[Recipe], threads: int) -> None:
    assert_alike(recipes, NativeEngine(threads), NativeEngine(1))


class OneByOne(NativeEngine):
    """The native engine without its way to take many steps in one call."""

    def stepper(
        self, map: Compiled, vjp: Compiled, form: Tables, data: DataConfig, layout: Layout
    ) -> Stepper | None:
        return None


@pytest.mark.parametrize("recipes", [RECIPES, RUNNING], ids=["plain", "running"])
def test_native_single_steps_are_shared_too(recipes: list[Recipe]) -> None:
    assert_alike(recipes, OneByOne(2), NativeEngine(1))


def few(*recipes: Recipe) -> list[Recipe]:
    return [dataclasses.replace(recipe, steps=7, batch_size=8) for recipe in recipes]


MIXED: dict[str, Any] = {
    "lr": 0.005,
    "beta2": 0.9,
    "grad_clip": 0.1,
    "freeze": CHANGES["freeze"]["freeze"],
}


@pytest.mark.parametrize(
    ("recipes", "whole"),
    [
        (few(RECIPES[0], RECIPES[7], RECIPES[14]), False),
        (few(RUNNING[1], dataclasses.replace(RUNNING[2], **MIXED)), False),
        (few(RUNNING[1], dataclasses.replace(RUNNING[2], **MIXED)), True),
    ],
    ids=["plain", "running", "running, whole steps"],
)
def test_torch_seeds_end_in_the_bits_they_have_alone(recipes: list[Recipe], whole: bool) -> None:
    assert_alike(recipes, TorchEngine(whole_steps=whole), TorchEngine(), most=5)


def test_every_change_changes_the_weights() -> None:
    """What has no effect would pass every test of equality."""
    objective = objective_for(CONFIG, NativeEngine(1), CPU)
    for recipes in (RECIPES[:-1], RUNNING):
        weights = []
        for recipe in recipes:
            each = Population(CONFIG, recipe, (4,), objective, CPU)
            trained_alone(each, 100)
            average = each._average
            weights.append(torch.cat([each.flat_SN, average.mean_SN if average else each.flat_SN], 1))
        for i, one_SN in enumerate(weights):
            assert not any(torch.equal(one_SN, other_SN) for other_SN in weights[:i]), i


STAGED = [
    dataclasses.replace(
        BASE,
        lr=lr,
        steps=steps,
        grokfast=Grokfast(),
        stages=(
            Stage(steps=3, lr=lr / 2, beta2=0.9, average=Average()),
            Stage(lbfgs=LBFGS(examples=20, iterations=2), logit_scale=3.0),
            Stage(steps=3, logit_scale=2.0),
            Stage(steps=3, targeting=Targeting(fresh=10, per_stratum=0, most=most)),
        ),
    )
    for lr, steps, most in ((0.02, 6, 5), (0.01, 6, 9), (0.02, 8, 5))
]


@pytest.mark.slow
def test_stages_polishing_and_targeting_are_each_cells_own() -> None:
    """The third recipe's parts begin later: batches are shared as far as they can be."""
    assert_alike(STAGED, NativeEngine(2), NativeEngine(1))


def test_the_published_generator_is_each_cells_own() -> None:
    recipes = [dataclasses.replace(BASE, steps=4, sampler="r456", lr=lr) for lr in (0.02, 0.01)]
    assert_alike(recipes, NativeEngine(1), NativeEngine(1))


class Counting:
    """An engine whose calls of many steps are counted, each with its number of seeds."""

    def __init__(self, objective: Objective) -> None:
        self.calls: list[tuple[int, int]] = []
        make = objective.stepper

        def counted(data: DataConfig, layout: Layout) -> Stepper:
            stepper = make(data, layout)
            assert stepper is not None

            def take(step_batch: StepBatch) -> Tensor:
                self.calls.append((len(step_batch.params_SN), step_batch.count))
                return stepper(step_batch)

            return take

        objective.stepper = counted  # type: ignore[method-assign]


def test_one_call_takes_the_steps_of_all_populations() -> None:
    objective = objective_for(CONFIG, NativeEngine(1), CPU)
    counting = Counting(objective)
    recipes = [dataclasses.replace(BASE, lr=lr) for lr in (0.01, 0.02, 0.03)]
    trained_together(populations(recipes, objective), 100)
    # Looked at after steps 0, 5, 10 and 11.
    assert counting.calls == [(6, 1), (6, 5), (6, 5), (6, 1)]


def test_populations_at_different_steps_catch_up_and_go_on_together() -> None:
    objective = objective_for(CONFIG, NativeEngine(1), CPU)
    counting = Counting(objective)
    recipes = [dataclasses.replace(BASE, lr=lr, eval_interval=12) for lr in (0.01, 0.02, 0.03)]
    ahead, middle, behind = together = populations(recipes, objective)
    for each, steps in ((ahead, 7), (middle, 4), (behind, 4)):
        while each.next_step < steps:
            look(each, each.advance(steps - each.next_step))
    counting.calls.clear()
    trained_together(together, 100)
    assert counting.calls == [(4, 3), (6, 5)]
    for each, recipe in zip(together, recipes, strict=True):
        alone = Population(CONFIG, recipe, each.seeds, objective, CPU)
        trained_alone(alone, 100)
        assert_same_state(alone.state(), each.state())


def test_what_a_batch_has_only_once_keeps_populations_apart() -> None:
    """Batches of another size, other data, another factor on the logits, another ingredient."""
    mix = dataclasses.replace(BASE.data, carry_mix=CarryMix(share=0.5, fade_start=2, fade_end=8))
    others = [
        dataclasses.replace(BASE, batch_size=8),
        dataclasses.replace(BASE, data=mix),
        dataclasses.replace(BASE, logit_scale=2.0),
        dataclasses.replace(BASE, grokfast=Grokfast()),
        dataclasses.replace(BASE, average=Average()),
        dataclasses.replace(BASE, stages=(Stage(),)),
        dataclasses.replace(BASE, sampler="r456"),
    ]
    shapes = [batch_shape(recipe) for recipe in (BASE, *others)]
    assert len(set(shapes)) == len(shapes)
    assert {batch_shape(recipe) for recipe in RECIPES} == {batch_shape(BASE)}
    assert_alike([BASE, *others[:5]], NativeEngine(1), NativeEngine(1))


def test_seconds_of_a_batch_are_divided_among_its_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that is a second further whenever it is read: each is prepared in one second of its
    own, and the one second of the batch is shared by its three seeds."""
    one, other = populations([BASE, BASE], objective_for(CONFIG, NativeEngine(1), CPU))
    seconds = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(seconds)))
    advance([one, other], 1)
    assert (len(one.seeds), len(other.seeds)) == (2, 1)
    assert (one.seconds, other.seconds) == pytest.approx((1 + 2 / 3, 1 + 1 / 3))
