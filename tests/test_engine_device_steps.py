"""Whole steps as a CUDA graph would replay them: the bits of steps taken one by one, and nothing in a
step that would make a device wait for the host.

Without a CUDA device the same function runs on the CPU, and on PyTorch's "meta" device, which has
shapes and no numbers: asking it for a number fails, and what comes from the host can be seen coming.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adderlab.engine.device_sampler import sample, step_numbers
from adderlab.engine.device_steps import DeviceStepper, Eager, _Buffers
from adderlab.engine.stretch import Settings, Stretch
from adderlab.engine.torch_tables import TorchEngine
from adderlab.engine.trace import trace
from adderlab.models.presets import get_preset
from adderlab.task.curriculum import (
    MICROADDER_CURRICULUM,
    PATTERNS,
    CarryMix,
    Curriculum,
    DataConfig,
    Phase,
)
from adderlab.task.layouts import get_layout
from adderlab.task.sampling import sample_pairs
from adderlab.training.average import Average
from adderlab.training.freeze import Freeze
from adderlab.training.grokfast import Grokfast
from adderlab.training.objective import objective_for
from adderlab.training.population import Population
from adderlab.training.recipe import Recipe

CPU, META = torch.device("cpu"), torch.device("meta")
GROWING = DataConfig(
    curriculum=Curriculum(
        phases=(Phase(until=5, max_digits=3), Phase(until=None, max_digits=10)), lengths="uniform"
    )
)
MIXED = DataConfig(
    curriculum=MICROADDER_CURRICULUM,
    carry_mix=CarryMix(share=0.8, fade_start=3, fade_end=9, patterns=PATTERNS),
)
PLAIN = Recipe(steps=14, batch_size=16, warmup_steps=4, val_size=20, test_size=20, data=GROWING)
RICH = replace(
    PLAIN,
    data=MIXED,
    grokfast=Grokfast(),
    average=Average(decay=0.9),
    grad_clip=0,
    freeze=(Freeze(prefix="blocks.0.mlp", until=0.3, then=0.5),),
)


def population(name: str, recipe: Recipe, engine: TorchEngine, device: torch.device = CPU) -> Population:
    config = get_preset(name).config
    return Population(config, recipe, (3, 4, 90), objective_for(config, engine, device), device)


def advanced(each: Population, steps: int, most: int) -> Tensor:
    """Loss before the last step."""
    loss_S = torch.empty(0)
    while each.next_step < steps:
        loss_S = each.advance(min(most, steps - each.next_step))
    return loss_S


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("242p", RICH),
        pytest.param("456p", PLAIN, marks=pytest.mark.slow),
        pytest.param("67p", RICH, marks=pytest.mark.slow),
    ],
)
def test_whole_steps_end_in_the_bits_of_single_steps(name: str, recipe: Recipe) -> None:
    single = population(name, recipe, TorchEngine())
    whole = population(name, recipe, TorchEngine(whole_steps=True))
    one, many = advanced(single, 12, 1), advanced(whole, 12, 5)
    assert torch.equal(one, many)
    for (key, mine), (_, other) in zip(single.state().items(), whole.state().items(), strict=True):
        if isinstance(mine, Tensor):
            assert torch.equal(mine, other), key
    assert torch.equal(single.optimizer.square_SN, whole.optimizer.square_SN)


@pytest.mark.parametrize("data", [GROWING, MIXED], ids=["uniform lengths", "carry mix"])
def test_pairs_drawn_from_numbers_in_memory_are_the_sampler_s(data: DataConfig) -> None:
    seeds_S, layout = torch.tensor([0, 43, 2**40]), get_layout("S")
    steps = (0, 3, 4, 5, 8, 9, 1999, 2000, 54_000)
    for step, number_3 in zip(steps, step_numbers(data, steps), strict=True):
        want = layout.encode(*sample_pairs(data, seeds_S, step, 33))
        assert all(map(torch.equal, sample(data, layout, seeds_S, number_3, 33), want)), step


class HostTraffic(TorchDispatchMode):
    """Notes every operation on, or from, a tensor of the host, or that asks for a number."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        if any(each.device.type == "cpu" for each in given) or "_local_scalar_dense" in str(func):
            self.found.append(str(func))
        result = func(*args, **kwargs)
        made = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
        if any(each.device.type == "cpu" for each in made):
            self.found.append(f"{func} on the host")
        return result


def meta_stretch(num_parameters: int, recipe: Recipe) -> Stretch:
    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, device=META)

    S, N = 2, num_parameters
    settings = Settings(
        lr=[0.1],
        correction=[1.0],
        scale=[1.0],
        beta1=0.9,
        beta2=0.99,
        eps=1e-8,
        clip=1.0,
        lr_scale_N=zeros(N),
    )
    return Stretch(
        seeds_S=torch.zeros(S, dtype=torch.int64, device=META),
        first=0,
        batch_size=8,
        params_SN=zeros(S, N),
        mean_SN=zeros(S, N),
        square_SN=zeros(S, N),
        weight_decay_S=zeros(S),
        settings=(settings, replace(settings, lr=[0.2])),
        setting_S=torch.zeros(S, dtype=torch.int32, device=META),
        slow_SN=zeros(S, N) if recipe.grokfast else None,
        average_SN=zeros(S, N) if recipe.average else None,
    )


def host_traffic_of_a_step(name: str, recipe: Recipe, engine: Any) -> list[str]:
    config = get_preset(name).config
    objective = objective_for(config, engine, CPU)
    stepper = objective.stepper(recipe.data, get_layout(config.layout))
    assert isinstance(stepper, DeviceStepper)
    with torch.no_grad():
        size = sum(t.numel() for t in population(name, recipe, TorchEngine()).params().values()) // 3
    stretch = meta_stretch(size, recipe)
    buffers = _Buffers(stretch)
    stepper.prepare(len(stretch.params_SN), META)
    with HostTraffic() as traffic:
        stepper.step(buffers)
    return traffic.found


def test_a_step_exchanges_nothing_with_the_host() -> None:
    """67p computes its positions from numbers of its own, which a plain call of the map copies."""
    assert host_traffic_of_a_step("67p", RICH, TorchEngine(whole_steps=True)) == []


def test_host_traffic_is_seen() -> None:
    with HostTraffic() as traffic:
        torch.zeros(3, device=META) + torch.tensor(1.0)
    assert traffic.found
    with HostTraffic(), pytest.raises(RuntimeError, match="item"):
        bool(torch.zeros(1, device=META) > 0)


def test_a_traced_map_has_the_map_s_bits_and_its_constants_at_hand() -> None:
    def turned(x_SN: Tensor) -> tuple[Tensor, ...]:
        angle_N = torch.tensor([0.1 * n for n in range(x_SN.shape[1])])
        return x_SN * angle_N.cos(), x_SN[:, [2, 0]] + 1

    x_SN = torch.randn(2, 3)
    assert all(map(torch.equal, trace(turned, [(2, 3)], CPU)(x_SN), turned(x_SN)))
    on_meta, given_SN = trace(turned, [(2, 3)], META), x_SN.to(META)
    with HostTraffic() as traffic:
        on_meta(given_SN)
    assert traffic.found == []


def test_writing_into_a_constant_cannot_be_recorded() -> None:
    def counting(x_SN: Tensor) -> tuple[Tensor, ...]:
        return (torch.zeros(3).add_(x_SN[0]),)

    with pytest.raises(AssertionError, match="writes into a constant"):
        trace(counting, [(2, 3)], CPU)


def test_other_settings_get_buffers_of_their_own() -> None:
    """A stage with another batch size, or fewer seeds, must not run on the old recording."""
    single = population("242p", PLAIN, TorchEngine())
    whole = population("242p", PLAIN, TorchEngine(whole_steps=True))
    for each in (single, whole):
        advanced(each, 2, 1)
        each.keep([0, 2])
        advanced(each, 4, 1)
    assert torch.equal(single.flat_SN, whole.flat_SN)


def test_eager_functions_keep_their_shapes() -> None:
    eager = Eager(lambda x: (x + 1,), [torch.zeros(1, 4, 2)])
    assert eager.shapes == [(4, 2)]
    assert torch.equal(eager([torch.zeros(3, 4, 2)])[0], torch.ones(3, 4, 2))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="records a CUDA graph: needs a CUDA device")
def test_a_replayed_graph_takes_the_steps_of_the_cpu() -> None:
    cuda = torch.device("cuda")
    on_cpu = population("456p", PLAIN, TorchEngine())
    on_cuda = population("456p", PLAIN, TorchEngine(whole_steps=True), cuda)
    torch.testing.assert_close(
        advanced(on_cuda, 5, 5).cpu(), advanced(on_cpu, 5, 1), rtol=1e-4, atol=1e-6
    )
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert on_cuda.stepper is not None
        on_cuda.stepper._graph.replay()  # type: ignore[union-attr, attr-defined]
    finally:
        torch.cuda.set_sync_debug_mode("default")
