"""The C++ AdamW step against PyTorch's."""

from typing import Any

import pytest
import torch

from adderlab.engine.native.adamw import adamw_step
from adderlab.training.optimizer import AdamW

BETAS: Any = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}


SETTINGS: Any = {
    "lr_S": torch.tensor([0.02, 0.003, 1e-5]),
    "weight_decay_S": torch.tensor([0.01, 0.0, 0.3]),
    "clip_S": torch.tensor([1.0, float("inf"), 0.1]),
}


@pytest.mark.parametrize("N", [1, 2, 3, 57, 64, 456])
@pytest.mark.parametrize("bias_correction", [True, False])
def test_steps_are_pytorchs(N: int, bias_correction: bool) -> None:
    """From the same state every time: equal up to the last bits that MKL's square root decides."""
    generator = torch.Generator().manual_seed(N)
    twin = AdamW(torch.randn(3, N, generator=generator), **BETAS, bias_correction=bias_correction)
    for t in range(1, 12):
        grad_SN = torch.randn(3, N, generator=generator) * 10.0 ** (t % 5 - 3)
        lr_scale_N = torch.rand(N, generator=generator) if t % 2 else None
        state = [x.clone() for x in (twin.params_SN, twin.mean_SN, twin.square_SN)]
        correction: Any = (
            {"correction": 1 - 0.9**t, "scale": (1 - 0.999**t) ** 0.5} if bias_correction else {}
        )
        params, mean, square = state
        adamw_step(
            params, mean, square, grad_SN, **SETTINGS, lr_scale_N=lr_scale_N, **BETAS, **correction
        )
        twin.step(grad_SN, **SETTINGS, lr_scale_N=lr_scale_N)
        for ours, want in zip(state, (twin.params_SN, twin.mean_SN, twin.square_SN), strict=True):
            torch.testing.assert_close(ours, want, rtol=5e-7, atol=3e-8)


def test_a_seed_is_stepped_alike_alone_and_in_a_population() -> None:
    generator = torch.Generator().manual_seed(0)
    together = [torch.rand(3, 57, generator=generator) for _ in range(4)]
    alone = [x[1:2].clone() for x in together]
    adamw_step(*together, **SETTINGS, **BETAS)
    own: Any = {name: setting[1:2] for name, setting in SETTINGS.items()}
    adamw_step(*alone, **own, **BETAS)
    for one, all_ in zip(alone, together, strict=True):
        assert torch.equal(one[0], all_[1])


def test_a_gradient_that_is_no_number_stays_visible() -> None:
    params_SN, mean_SN, square_SN = torch.ones(2, 5), torch.zeros(2, 5), torch.zeros(2, 5)
    grad_SN = torch.ones(2, 5)
    grad_SN[1, 2] = float("nan")
    ones_S = torch.ones(2)
    adamw_step(
        params_SN,
        mean_SN,
        square_SN,
        grad_SN,
        lr_S=ones_S,
        weight_decay_S=ones_S,
        clip_S=ones_S,
        **BETAS,
    )
    assert bool(params_SN[0].isfinite().all()) and bool(params_SN[1].isnan().all())
