"""Every operation that is written as C++, and its derivative, against PyTorch in float64."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from adderlab.engine.native.build import NoCode, Program
from adderlab.models.tables import vjp

INDEX = torch.tensor([[3, 0, 3], [1, 1, 2]])
MASK = torch.tensor([[True, False, True, True], [False, True, False, True]]).repeat(3, 1)[:5]
WEIGHT = torch.linspace(-1.0, 1.0, 24).reshape(4, 6)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


FUNCTIONS = {
    "product": lambda x, w: x @ w,
    "product of one column": lambda x, w: x @ w[..., :1],
    "product with a transposed": lambda x, w: x @ x.transpose(1, 2) @ x,
    "product with a constant": lambda x, w: x @ WEIGHT.to(x.dtype),
    "product with more columns than registers": lambda x, w: x @ w.repeat(1, 1, 13),
    "linear layer": lambda x, w: torch.baddbmm(w[:, :1], x, w),
    "vector": lambda x, w: (x[:, 0][:, None] @ w)[:, 0],
    "sum over the first": lambda x, w: x.sum(1),
    "sum over the last": lambda x, w: x.sum(-1, keepdim=True) * x,
    "mean": lambda x, w: x - x.mean((1, 2), keepdim=True),
    "largest": lambda x, w: x.amax(-1) + x.amin(1).sum(-1, keepdim=True),
    "variance": lambda x, w: x / (x.var(-1, keepdim=True) + 1).sqrt() + x.std(-1, keepdim=True),
    "length": lambda x, w: F.normalize(x, dim=-1),
    "layer norm": torch.vmap(lambda x, w: F.layer_norm(x, (4,), w[:, 0], w[:, 1])),
    "root mean square": lambda x, w: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
    "softmax": lambda x, w: x.softmax(-1) + x.log_softmax(1),
    "powers": lambda x, w: x**3 + x.abs() ** 1.5 + (x * x + 1) ** -0.5 + (x * x + 1).reciprocal(),
    "relu": lambda x, w: F.relu(x) + F.relu(-x).square() + F.leaky_relu(x, 0.1) + F.hardtanh(x),
    "gates": lambda x, w: F.gelu(x) + F.gelu(x, approximate="tanh") * F.silu(x) + x.sigmoid(),
    "curves": lambda x, w: x.tanh() + F.softplus(x) * x.exp() + (x * x + 1).log() + torch.erf(x),
    "clamp": lambda x, w: x.clamp(-0.5, 0.7) + x.clamp(min=0.1) * x.clamp_max(0.3),
    "smaller and larger": lambda x, w: torch.minimum(x, -x) + torch.maximum(x[:, :1], x),
    "constant mask": lambda x, w: torch.where(MASK, x, 2 * x) + x.masked_fill(MASK, -1e4),
    "computed mask": lambda x, w: torch.where(x > 0.2, x, x * x) + (x <= 0).to(x.dtype) * x,
    "triangle": lambda x, w: x.tril() - x.triu(1),
    "rows of an index": lambda x, w: w[:, INDEX] + w.index_select(1, INDEX[0])[:, None],
    "embedding": lambda x, w: torch.vmap(lambda own: F.embedding(INDEX, own))(w),
    "gather": lambda x, w: x.gather(2, INDEX[:, :2].expand(len(x), 2, 2)),
    "places put together": lambda x, w: torch.cat([x.flip(2), x.roll(1, 1), x.repeat(1, 2, 1)], 1),
    "padding": lambda x, w: F.pad(x, (1, 2, 0, 1)),
    "pieces": lambda x, w: torch.stack(x.chunk(2, 2), 1)[:, ::1, 1:4:2],
    "diagonal": lambda x, w: x.diagonal(dim1=1, dim2=2) * 2,
    "new scatter": lambda x, w: torch.zeros_like(w).index_add(1, INDEX[0], w[:, :3]),
    "places written": torch.vmap(lambda x, w: w.index_put((INDEX[1],), w[1:] * 2)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_operation_and_its_derivative(name: str) -> None:
    def function(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        return (FUNCTIONS[name](x, w),)

    inputs = [draw(5, 4), draw(4, 6)]
    exact = [tensor.double() for tensor in inputs]
    (want,) = function(*exact)
    cotangent = draw(*want.shape[1:], seed=1)

    def both(*given: Tensor) -> tuple[Tensor, ...]:
        return (*function(*given[:2]), *vjp(function, 2)(*given))

    # One program for result and derivative: most of a case is the compiler's time.
    given = [*inputs, cotangent]
    program = Program(both, [each[:1] for each in given], lean=True)
    wanted = both(*exact, cotangent.double())
    got = program(given)
    for one, two in zip(got, wanted, strict=True):
        scale = max(1.0, float(two.abs().max()))
        assert float((one - two).abs().max()) < 2e-6 * scale, name
    for s in range(3):
        alone = program([each[s : s + 1] for each in given])
        assert all(torch.equal(a[0], b[s]) for a, b in zip(alone, got, strict=True))


def test_places_that_numbers_decide_have_no_code() -> None:
    with pytest.raises(NoCode, match=r"places that depend on numbers$"):
        Program(lambda x: (x.gather(1, x.long()),), [torch.zeros(1, 3)])


def test_what_no_result_needs_is_left_out() -> None:
    def function(x: Tensor) -> tuple[Tensor, ...]:
        torch.exp(x)
        return (x * 2.0,)

    from adderlab.engine.native.build import _trace

    examples = [torch.zeros(1, 3)]
    assert "exp" in _trace(function, examples)
    assert "exp" not in _trace(function, examples, lean=True)
