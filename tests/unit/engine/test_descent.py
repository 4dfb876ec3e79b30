"""A descent step against torch.optim.AdamW and the formulas it is named after, seed by seed."""

from typing import Any

import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from adderlab.engine.step_batch import descend
from helpers.optimiser_steps import numbers, settings, state_of


def test_equals_pytorch_with_its_own_settings_for_each_seed() -> None:
    generator = torch.Generator().manual_seed(0)
    start_SN = torch.randn(3, 40, generator=generator, dtype=torch.float64)
    own: list[dict[str, Any]] = [
        {"lr": 0.02, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "clip": 1.0},
        {"lr": 0.01, "beta1": 0.8, "beta2": 0.99, "eps": 1e-3, "clip": torch.inf},
        {"lr": 0.003, "beta1": 0.0, "beta2": 0.95, "eps": 1e-6, "clip": 0.1},
    ]
    decay = [0.01, 0.0, 0.3]
    ours = state_of(start_SN, decay)
    theirs = [torch.nn.Parameter(row.clone()) for row in start_SN]
    optimizers = [
        torch.optim.AdamW(
            [p],
            lr=each["lr"],
            betas=(each["beta1"], each["beta2"]),
            eps=each["eps"],
            weight_decay=own_decay,
        )
        for p, each, own_decay in zip(theirs, own, decay, strict=True)
    ]
    for step in range(1, 61):
        grad_SN = torch.randn(3, 40, generator=generator, dtype=torch.float64)
        descend(ours, grad_SN, *numbers(ours, [settings(step, **each) for each in own]))
        for s, (parameter, optimizer) in enumerate(zip(theirs, optimizers, strict=True)):
            parameter.grad = grad_SN[s].clone()
            torch.nn.utils.clip_grad_norm_([parameter], own[s]["clip"])
            optimizer.step()
    want_SN = torch.stack([p.detach() for p in theirs])
    torch.testing.assert_close(ours.params_SN, want_SN, rtol=1e-10, atol=1e-12)


def test_a_scale_is_a_learning_rate_of_its_own() -> None:
    """As with a parameter group for each half; a scale of 0 leaves parameters where they are."""
    generator = torch.Generator().manual_seed(0)
    start_N = torch.randn(8, generator=generator, dtype=torch.float64)
    ours = state_of(start_N[None], [0.1])
    theirs = [torch.nn.Parameter(part.clone()) for part in start_N.split([3, 3, 2])]
    rates = (0.02, 0.006, 0.0)
    groups = [{"params": [p], "lr": lr} for p, lr in zip(theirs, rates, strict=True)]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.1)
    scale_SN = torch.tensor([[1.0] * 3 + [0.3] * 3 + [0.0] * 2], dtype=torch.float64)
    for step in range(1, 21):
        grad_N = torch.randn(8, generator=generator, dtype=torch.float64)
        descend(ours, grad_N[None], *numbers(ours, [settings(step, lr=0.02)]), scale_SN)
        for parameter, grad in zip(theirs, grad_N.split([3, 3, 2]), strict=True):
            parameter.grad = grad.clone()
        optimizer.step()
    expected_N = torch.cat([p.detach() for p in theirs])
    torch.testing.assert_close(ours.params_SN[0], expected_N, rtol=1e-10, atol=1e-12)
    assert torch.equal(ours.params_SN[0, 6:], start_N[6:])


def test_without_bias_correction_the_first_step_is_mlx_s() -> None:
    """MLX: m = 0.1 g, v = 0.001 g^2, so the first step is lr 0.1 / sqrt(0.001) = 3.16 lr."""
    ours = state_of(torch.zeros(1, 4, dtype=torch.float64), [0.0])
    grad_SN = torch.tensor([[2.0, -1.0, 0.5, 3.0]], dtype=torch.float64)
    descend(ours, grad_SN, *numbers(ours, [settings(1, bias_correction=False)]))
    torch.testing.assert_close(ours.params_SN, -0.0316227766 * grad_SN.sign(), rtol=1e-5, atol=0)


@hypothesis_settings(max_examples=15)
@given(seeds=st.integers(1, 9), parameters=st.integers(1, 70))
def test_a_seed_steps_alike_alone_and_among_seeds_of_other_settings(seeds: int, parameters: int) -> None:
    generator = torch.Generator().manual_seed(seeds * 100 + parameters)
    start_SN = torch.randn(seeds, parameters, generator=generator)
    grads = torch.randn(4, seeds, parameters, generator=generator)
    decay = [0.1 * s for s in range(seeds)]
    together = state_of(start_SN, decay, running=True)
    alone = together.seed(seeds - 1)
    for step, grad_SN in enumerate(grads, 1):
        each = [
            settings(
                step,
                lr=0.01 * (s + 1),
                beta1=0.9 - 0.05 * s,
                beta2=0.99 - 0.01 * s,
                eps=10.0 ** -(s + 3),
                clip=0.5 + s,
                slow=(0.98 - 0.03 * s, 2.0 + s),
                average=0.9 - 0.1 * s,
            )
            for s in range(seeds)
        ]
        descend(together, grad_SN, *numbers(together, each))
        descend(alone, grad_SN[-1:], *numbers(alone, each[-1:]))
    for name, tensor in vars(alone).items():
        assert torch.equal(tensor[0], getattr(together, name)[-1]), name


def test_grokfast_adds_the_weighted_sum_of_all_gradients_so_far() -> None:
    """Seen in Adam's first moment, which with beta1 = 0 is the gradient it was given."""
    generator = torch.Generator().manual_seed(0)
    grads = torch.randn(6, 2, 5, generator=generator, dtype=torch.float64)
    state = state_of(grads[0], [0.0, 0.0], running=True)
    for step, grad_SN in enumerate(grads):
        each = [settings(step + 1, beta1=0.0, slow=(alpha, 3.0)) for alpha in (0.9, 0.5)]
        descend(state, grad_SN, *numbers(state, each))
        for s, alpha in enumerate((0.9, 0.5)):
            weights = [(1 - alpha) * alpha ** (step - i) for i in range(step + 1)]
            mean_N = sum(w * g[s] for w, g in zip(weights, grads, strict=False))
            torch.testing.assert_close(state.mean_SN[s], grad_SN[s] + 3.0 * mean_N)


def test_the_average_is_the_weighted_sum_of_all_weights_so_far() -> None:
    generator = torch.Generator().manual_seed(0)
    state = state_of(
        torch.randn(2, 5, generator=generator, dtype=torch.float64), [0.0, 0.0], running=True
    )
    expected_SN, decays = state.params_SN.clone(), torch.tensor([[0.8], [0.3]], dtype=torch.float64)
    for step in range(1, 7):
        grad_SN = torch.randn(2, 5, generator=generator, dtype=torch.float64)
        each = [settings(step, lr=0.5, average=decay) for decay in (0.8, 0.3)]
        descend(state, grad_SN, *numbers(state, each))
        expected_SN = decays * expected_SN + (1 - decays) * state.params_SN
    torch.testing.assert_close(state.average_SN, expected_SN)


def test_an_average_of_equal_weights_is_those_weights() -> None:
    start_SN = torch.randn(2, 50, generator=torch.Generator().manual_seed(1))
    state = state_of(start_SN, [0.0, 0.0], running=True)
    for step in range(1, 51):
        each = [settings(step, lr=0.0, average=0.999)] * 2
        descend(state, torch.ones_like(start_SN), *numbers(state, each))
    assert state.average_SN is not None and torch.equal(state.average_SN, start_SN)
