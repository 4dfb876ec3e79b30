"""Whole steps as a CUDA graph would replay them: the bits of steps taken one by one, and nothing in a
step that would make a device wait for the host.

Without a CUDA device the same function runs on the CPU, and on PyTorch's "meta" device, which has
shapes and no numbers: asking it for a number fails, and what comes from the host can be seen coming.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from adderlab.engine.device_steps import Eager, sample, step_numbers, trace
from adderlab.engine.torch_tables import TorchEngine
from adderlab.task.addition import get_layout
from adderlab.task.sampling import (
    DataConfig,
    sample_pairs,
)
from adderlab.training.population import Population
from adderlab.training.recipe import Recipe
from helpers.device_steps import (
    GROWING,
    MIXED,
    PLAIN,
    POOL,
    RICH,
    HostTraffic,
    host_traffic_of_a_step,
    population,
)

CPU, META = torch.device("cpu"), torch.device("meta")


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


@pytest.mark.parametrize(
    "data", [GROWING, MIXED, POOL], ids=["uniform lengths", "carry mix", "a finite set"]
)
def test_pairs_drawn_from_numbers_in_memory_are_the_sampler_s(data: DataConfig) -> None:
    seeds_S, layout = torch.tensor([0, 43, 2**40]), get_layout("S")
    steps = (0, 3, 4, 5, 8, 9, 1999, 2000, 54_000)
    for step, number_3 in zip(steps, step_numbers(data, steps), strict=True):
        want = layout.encode(*sample_pairs(data, seeds_S, step, 33))
        assert all(map(torch.equal, sample(data, layout, seeds_S, number_3, 33), want)), step


@pytest.mark.parametrize("recipe", [RICH, replace(PLAIN, data=POOL)], ids=["fresh", "a finite set"])
def test_a_step_exchanges_nothing_with_the_host(recipe: Recipe) -> None:
    """67p computes its positions from numbers of its own, which a plain call of the map copies."""
    assert host_traffic_of_a_step("67p", recipe, TorchEngine(whole_steps=True)) == []


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
