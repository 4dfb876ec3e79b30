"""Whole training steps on the native engine: the same bits whatever runs beside a seed, on however
many threads, with or without a stop; and the same training as on the PyTorch backend."""

import pytest
import torch

from adderlab.engine.base import Engine
from adderlab.engine.native import NativeEngine
from adderlab.engine.torch_tables import TorchEngine
from adderlab.models.presets import get_preset
from adderlab.training.objective import objective_for
from adderlab.training.population import Population
from adderlab.training.recipe import Recipe

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
