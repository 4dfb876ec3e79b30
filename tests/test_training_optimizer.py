"""Batched AdamW against torch.optim.AdamW, seed by seed."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adderlab.training.optimizer import AdamW


def test_equals_pytorch_with_its_own_settings_for_each_seed() -> None:
    generator = torch.Generator().manual_seed(0)
    start_SN = torch.randn(3, 40, generator=generator, dtype=torch.float64)
    lr_S = torch.tensor([0.02, 0.01, 0.003], dtype=torch.float64)
    decay_S = torch.tensor([0.01, 0.0, 0.3], dtype=torch.float64)
    clip_S = torch.tensor([1.0, torch.inf, 0.1], dtype=torch.float64)
    ours = AdamW(start_SN.clone(), beta1=0.9, beta2=0.999, eps=1e-8)
    theirs = [torch.nn.Parameter(row.clone()) for row in start_SN]
    optimizers = [
        torch.optim.AdamW([p], lr=float(lr), weight_decay=float(decay))
        for p, lr, decay in zip(theirs, lr_S, decay_S, strict=True)
    ]
    for _ in range(60):
        grad_SN = torch.randn(3, 40, generator=generator, dtype=torch.float64)
        ours.step(grad_SN, lr_S=lr_S, weight_decay_S=decay_S, clip_S=clip_S)
        for s, (parameter, optimizer) in enumerate(zip(theirs, optimizers, strict=True)):
            parameter.grad = grad_SN[s].clone()
            torch.nn.utils.clip_grad_norm_([parameter], float(clip_S[s]))
            optimizer.step()
    torch.testing.assert_close(
        ours.params_SN, torch.stack([p.detach() for p in theirs]), rtol=1e-10, atol=1e-12
    )


def test_a_scale_is_a_learning_rate_of_its_own() -> None:
    """As with a parameter group for each half; a scale of 0 leaves parameters where they are."""
    generator = torch.Generator().manual_seed(0)
    start_N = torch.randn(8, generator=generator, dtype=torch.float64)
    ours = AdamW(start_N[None].clone(), beta1=0.9, beta2=0.999, eps=1e-8)
    theirs = [torch.nn.Parameter(part.clone()) for part in start_N.split([3, 3, 2])]
    rates = (0.02, 0.006, 0.0)
    groups = [{"params": [p], "lr": lr} for p, lr in zip(theirs, rates, strict=True)]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.1)
    one_S = torch.ones(1, dtype=torch.float64)
    scale_N = torch.tensor([1.0] * 3 + [0.3] * 3 + [0.0] * 2, dtype=torch.float64)
    for _ in range(20):
        grad_N = torch.randn(8, generator=generator, dtype=torch.float64)
        ours.step(
            grad_N[None],
            lr_S=one_S * 0.02,
            weight_decay_S=one_S * 0.1,
            clip_S=one_S * torch.inf,
            lr_scale_N=scale_N,
        )
        for parameter, grad in zip(theirs, grad_N.split([3, 3, 2]), strict=True):
            parameter.grad = grad.clone()
        optimizer.step()
    expected_N = torch.cat([p.detach() for p in theirs])
    torch.testing.assert_close(ours.params_SN[0], expected_N, rtol=1e-10, atol=1e-12)
    assert torch.equal(ours.params_SN[0, 6:], start_N[6:])


def test_without_bias_correction_the_first_step_is_mlx_s() -> None:
    """MLX: m = 0.1 g, v = 0.001 g^2, so the first step is lr 0.1 / sqrt(0.001) = 3.16 lr."""
    start_SN = torch.zeros(1, 4, dtype=torch.float64)
    ours = AdamW(start_SN, beta1=0.9, beta2=0.999, eps=1e-8, bias_correction=False)
    one_S = torch.ones(1, dtype=torch.float64)
    grad_SN = torch.tensor([[2.0, -1.0, 0.5, 3.0]], dtype=torch.float64)
    ours.step(grad_SN, lr_S=one_S * 0.01, weight_decay_S=one_S * 0.0, clip_S=one_S * torch.inf)
    torch.testing.assert_close(ours.params_SN, -0.0316227766 * grad_SN.sign(), rtol=1e-5, atol=0)


@settings(max_examples=15, deadline=None)
@given(seeds=st.integers(1, 9), parameters=st.integers(1, 70))
def test_a_seed_steps_alike_alone_and_in_a_population(seeds: int, parameters: int) -> None:
    generator = torch.Generator().manual_seed(seeds * 100 + parameters)
    start_SN = torch.randn(seeds, parameters, generator=generator)
    grads = torch.randn(4, seeds, parameters, generator=generator)
    together = AdamW(start_SN.clone(), beta1=0.9, beta2=0.99, eps=1e-8)
    alone = AdamW(start_SN[-1:].clone(), beta1=0.9, beta2=0.99, eps=1e-8)
    for grad_SN in grads:
        for optimizer, own in ((together, grad_SN), (alone, grad_SN[-1:])):
            ones_S = torch.ones(len(own))
            optimizer.step(own, lr_S=ones_S * 0.01, weight_decay_S=ones_S * 0.1, clip_S=ones_S * 0.5)
    assert torch.equal(together.params_SN[-1], alone.params_SN[0])
