"""The C++ descent step against PyTorch's."""

from typing import Any

import pytest
import torch

from adderlab.engine.native.engine import native_descent
from adderlab.engine.step_batch import descend
from helpers.optimiser_steps import numbers, settings, state_of

DECAY = [0.01, 0.0, 0.3]
OWN: list[dict[str, Any]] = [
    {"lr": 0.02, "clip": 1.0, "slow": (0.98, 2.0), "average": 0.999},
    {"lr": 0.003, "beta1": 0.8, "beta2": 0.99, "slow": (0.9, 0.5), "average": 0.5},
    {"lr": 1e-5, "eps": 1e-3, "clip": 0.1, "slow": (0.0, 1.0), "average": 0.0},
]


@pytest.mark.parametrize("N", [1, 2, 3, 57, 64, 456])
@pytest.mark.parametrize("bias_correction", [True, False])
def test_steps_are_pytorchs(N: int, bias_correction: bool) -> None:
    """From the same state every time: equal up to the last bits that MKL's square root decides."""
    generator = torch.Generator().manual_seed(N)
    start_SN = torch.randn(3, N, generator=generator)
    for running in (False, True):
        twin = state_of(start_SN, DECAY, running=running)
        for t in range(1, 12):
            grad_SN = torch.randn(3, N, generator=generator) * 10.0 ** (t % 5 - 3)
            lr_scale_SN = torch.rand(3, N, generator=generator) if t % 2 else None
            each = [settings(t, bias_correction=bias_correction, **own) for own in OWN]
            state = twin.clone()
            native_descent(state, grad_SN.clone(), *numbers(state, each), lr_scale_SN)
            descend(twin, grad_SN, *numbers(twin, each), lr_scale_SN)
            for name, want in vars(twin).items():
                if want is not None:
                    torch.testing.assert_close(getattr(state, name), want, rtol=5e-7, atol=3e-8)


def test_a_seed_is_stepped_alike_alone_and_among_seeds_of_other_settings() -> None:
    generator = torch.Generator().manual_seed(0)
    together = state_of(torch.rand(3, 57, generator=generator), DECAY, running=True)
    alone = together.seed(1)
    for t in range(1, 4):
        grad_SN, scale_SN = torch.rand(2, 3, 57, generator=generator)
        each = [settings(t, **own) for own in OWN]
        native_descent(together, grad_SN.clone(), *numbers(together, each), scale_SN)
        own_grad_SN, own_scale_SN = grad_SN[1:2].clone(), scale_SN[1:2].clone()
        native_descent(alone, own_grad_SN, *numbers(alone, each[1:2]), own_scale_SN)
    for name, tensor in vars(alone).items():
        assert torch.equal(tensor[0], getattr(together, name)[1]), name


def test_a_gradient_that_is_no_number_stays_visible() -> None:
    state = state_of(torch.ones(2, 5), [1.0, 1.0])
    grad_SN = torch.ones(2, 5)
    grad_SN[1, 2] = float("nan")
    native_descent(state, grad_SN, *numbers(state, [settings(1, lr=1.0, clip=1.0)] * 2))
    assert bool(state.params_SN[0].isfinite().all()) and bool(state.params_SN[1].isnan().all())


def test_numbers_that_lack_precision_are_zero_inside_and_left_alone_outside() -> None:
    """A processor takes a hundred cycles for each of them: engine/native/denormals.hpp."""
    state = state_of(torch.ones(1, 5), [0.0])
    state.mean_SN.fill_(1e-39)
    state.square_SN.fill_(1e-40)
    assert bool((state.mean_SN * 0.5 != 0).all()), "PyTorch does not flush such numbers"
    native_descent(state, torch.zeros(1, 5), *numbers(state, [settings(1)]))
    assert not bool(state.mean_SN.any()) and not bool(state.square_SN.any())
    assert bool((torch.full((5,), 1e-39) * 0.5 != 0).all()), "the caller's arithmetic has changed"
