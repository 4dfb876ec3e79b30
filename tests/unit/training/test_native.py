"""Whole training steps on the native engine: the same bits whatever runs beside a seed, on however
many threads, with or without a stop; and the same training as on the PyTorch backend."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from adderlab.engine.base import Compiled, Engine, Stepper
from adderlab.engine.native import NativeEngine
from adderlab.engine.torch_tables import TorchEngine
from adderlab.models.tables import Tables
from adderlab.models.zoo import get_preset
from adderlab.task.addition import Layout
from adderlab.task.sampling import R456_CURRICULUM, CarryMix, DataConfig
from adderlab.training.ingredients import Average, Circle, Freeze, Grokfast
from adderlab.training.objective import objective_for
from adderlab.training.population import Population
from adderlab.training.recipe import UNIFORM_LENGTHS, Recipe, Stage
from helpers.states import assert_same_state

CPU = torch.device("cpu")
RECIPE = Recipe(steps=40, batch_size=48, warmup_steps=4, val_size=40, test_size=20)


def population(name: str, seeds: tuple[int, ...], engine: Engine) -> Population:
    config = get_preset(name).config
    return Population(config, RECIPE, seeds, objective_for(config, engine, CPU), CPU)


def advance(each: Population, steps: int) -> torch.Tensor:
    losses = [each.advance() for _ in range(steps)]
    return torch.stack(losses)


@pytest.mark.parametrize("name", ["456p", "67p"])
def test_one_thread_and_two_alone_and_together_end_in_the_same_bits(name: str) -> None:
    alone, together = (
        population(name, (9,), NativeEngine(1)),
        population(name, (5, 9, 700), NativeEngine(2)),
    )
    own, shared = advance(alone, 25), advance(together, 25)
    assert torch.equal(own[:, 0], shared[:, 1])
    assert torch.equal(alone.flat_SN[0], together.flat_SN[1])


def test_a_resumed_run_ends_in_the_same_bits() -> None:
    whole, first = (population("456p", (1, 2), NativeEngine(2)) for _ in range(2))
    advance(whole, 25)
    advance(first, 11)
    second = population("456p", (1, 2), NativeEngine(1))
    second.load_state(first.state())
    advance(second, 14)
    assert torch.equal(whole.flat_SN, second.flat_SN)


@pytest.mark.parametrize("name", ["456p", "67p"])
def test_the_first_steps_are_those_of_the_torch_backend(name: str) -> None:
    native, plain = population(name, (3, 4), NativeEngine(1)), population(name, (3, 4), TorchEngine())
    one, two = advance(native, 20), advance(plain, 20)
    torch.testing.assert_close(one, two, rtol=2e-5, atol=0)
    after, before = native.evaluate(one[-1]), plain.evaluate(two[-1])
    torch.testing.assert_close(after.margin_S, before.margin_S, rtol=1e-2, atol=1e-3)


class OneByOne(NativeEngine):
    """The native engine without its way to take many steps in one call."""

    def stepper(
        self, map: Compiled, vjp: Compiled, form: Tables, data: DataConfig, layout: Layout
    ) -> Stepper | None:
        return None


CARRIES = DataConfig(
    curriculum=R456_CURRICULUM, carry_mix=CarryMix(share=0.7, fade_start=5, fade_end=20)
)
INGREDIENTS = {
    "plain": RECIPE,
    "unclipped": dataclasses.replace(RECIPE, grad_clip=0.0, bias_correction=False),
    "circle": dataclasses.replace(
        RECIPE, circle=Circle(), freeze=(Freeze(prefix="pos_emb.A", until=0.3, then=0.3),)
    ),
    "slow gradients": dataclasses.replace(RECIPE, grokfast=Grokfast()),
    "average": dataclasses.replace(RECIPE, average=Average(decay=0.9)),
    "carries": dataclasses.replace(RECIPE, data=CARRIES),
    "pool": dataclasses.replace(RECIPE, data=dataclasses.replace(UNIFORM_LENGTHS, pool=200)),
    "stages": dataclasses.replace(RECIPE, steps=20, stages=(Stage(steps=20, average=Average()),)),
}


@pytest.mark.parametrize("ingredient", INGREDIENTS)
@pytest.mark.parametrize("threads", [1, 2])
def test_many_steps_in_one_call_end_in_the_bits_of_single_steps(ingredient: str, threads: int) -> None:
    recipe, seeds = dataclasses.replace(INGREDIENTS[ingredient], eval_interval=15), (4, 8, 15)
    config = get_preset("456p").config
    many, single = (
        Population(config, recipe, seeds, objective_for(config, engine, CPU), CPU)
        for engine in (NativeEngine(threads), OneByOne(1))
    )
    calls = 0
    for each, most in ((many, 100), (single, 1)):
        while not each.done:
            loss_S = each.advance(most)
            calls += each is many
            if recipe.looks_at(each.next_step - 1):
                each.evaluate(loss_S)
    assert calls < 10
    for name, tensor in single.state().items():
        if name != "seconds":
            assert_same_state(many.state()[name], tensor)


def test_one_seed_on_two_threads_takes_many_steps_in_one_call() -> None:
    wide = dataclasses.replace(RECIPE, batch_size=300, eval_interval=100)
    config = get_preset("456p").config
    one, two = (
        Population(config, wide, (6,), objective_for(config, NativeEngine(threads), CPU), CPU)
        for threads in (1, 2)
    )
    for each in (one, two):
        each.advance()
        assert each.advance(12) is not None and each.next_step == 13
    assert torch.equal(one.flat_SN, two.flat_SN)


def test_populations_in_two_threads_do_not_meet() -> None:
    """As a search has them: engines of one thread each, in threads of one process."""
    want, apart = ([population("67p", (s, s + 1, s + 2), NativeEngine(1)) for s in (1, 4)] for _ in "ab")
    for each in want:
        each.advance(40)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda each: each.advance(40), apart))
    for one, other in zip(want, apart, strict=True):
        assert torch.equal(one.flat_SN, other.flat_SN)
