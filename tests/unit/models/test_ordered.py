"""Sums in a fixed order: right to the last bit of float64, and blind to their neighbours."""

import pytest
import torch
from torch import Tensor

from adderlab.models import ordered


def _random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=dtype)


@pytest.mark.parametrize("n", range(1, 18))
def test_total_is_the_sum(n: int) -> None:
    x = _random(2, n, 3)
    torch.testing.assert_close(ordered.total(x, 1), x.sum(1), rtol=1e-14, atol=1e-14)


def test_halving_keeps_the_documented_order() -> None:
    """Length 5 is ((x0 + x3) + x2) + (x1 + x4): checked where every other order differs."""
    x = torch.tensor([[1e16, 1.0, -1e16, 1.0, 1.0]], dtype=torch.float64)
    wanted = ((x[0, 0] + x[0, 3]) + x[0, 2]) + (x[0, 1] + x[0, 4])
    assert ordered.halving_sum(x, 1).item() == wanted.item()


@pytest.mark.parametrize("k", [1, 2, 3, 7, 14])
def test_matmul_and_its_derivatives(k: int) -> None:
    x, w = _random(3, 4, k).requires_grad_(), _random(3, k, 5).requires_grad_()
    torch.testing.assert_close(ordered.matmul(x, w), x @ w, rtol=1e-13, atol=1e-13)
    assert torch.autograd.gradcheck(ordered.matmul, (x, w))


def test_expand_sums_in_its_derivative() -> None:
    x = _random(3, 4).requires_grad_()
    assert torch.equal(ordered.expand(x, 1, 6), x[:, None].expand(3, 6, 4))
    assert torch.autograd.gradcheck(lambda y: ordered.expand(y, 1, 6), (x,))
    assert torch.autograd.gradcheck(lambda y: ordered.total(y, 1), (x,))


@pytest.mark.parametrize("seeds", [1, 2, 5, 16, 33])
def test_a_slice_is_bitwise_the_slice_alone(seeds: int) -> None:
    x, w = _random(seeds, 6, 7, dtype=torch.float32), _random(seeds, 7, 5, dtype=torch.float32)
    together = ordered.matmul(x, w)
    for s in range(seeds):
        assert torch.equal(together[s], ordered.matmul(x[s : s + 1], w[s : s + 1])[0])


def test_scale_and_its_derivatives() -> None:
    x, factor = _random(3, 4, 5).requires_grad_(), _random(3).requires_grad_()
    assert torch.equal(ordered.scale(x, factor)[2], x[2] * factor[2])
    assert torch.autograd.gradcheck(ordered.scale, (x, factor))


def test_gather_adds_every_use_of_a_row() -> None:
    x, index = _random(3, 4, 2).requires_grad_(), (1, 3, 1, 1, 0)
    assert torch.equal(ordered.gather(x, index), x[:, list(index)])
    assert torch.autograd.gradcheck(lambda y: ordered.gather(y, index), (x,))
