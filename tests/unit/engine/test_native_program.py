"""Traced functions compiled to C++ against the same functions in PyTorch."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from adderlab.engine.native.build import NoCode, Program
from adderlab.models import ordered
from adderlab.models.tables import stack_parameters, tables, vjp
from adderlab.models.transformer import build_model
from adderlab.models.zoo import get_preset


def agree(function, inputs: list[Tensor]) -> None:  # type: ignore[no-untyped-def]
    """The compiled function equals the function, for three seeds at once and one by one."""
    program = Program(function, [tensor[:1] for tensor in inputs], threads=2)
    want, got = function(*inputs), program(inputs)
    assert [tuple(t.shape) for t in got] == [tuple(t.shape) for t in want]
    for one, two in zip(got, want, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)
    for s in range(len(inputs[0])):
        for one, two in zip(program([t[s : s + 1] for t in inputs]), got, strict=True):
            assert torch.equal(one[0], two[s])


def random(*shape: int) -> Tensor:
    return torch.randn(3, *shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_views_broadcasts_joins_and_writing_in_place() -> None:
    constant = torch.arange(4.0)

    def function(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        part = x.transpose(1, 2)[:, 1:3] * y[:, None, :]
        written = torch.zeros_like(x)
        written[:, 1:].copy_(x[:, :-1])
        written[:, 0].add_(constant)
        total = constant.clone()
        total.mul_(2.0)
        return (
            torch.cat([part, y[:, None].expand(-1, 2, -1)], 2),
            torch.stack([x[:, 0], -x[:, 1]], 1) / 3.0,
            (x * x + 1.0).sqrt() - x.cos() * x.sin(),
            written,
            x,
            total.expand(len(x), -1),
        )

    agree(function, [random(5, 4), random(5)])


def test_the_derivative_of_ordered_sums_and_slices() -> None:
    def function(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        y = ordered.matmul(x, w)
        return ordered.total(y * y, 1), y[:, 1:, ::2], ordered.expand(y[:, 0], 1, 3)

    cotangents = [random(7), random(4, 4), random(3, 7)]
    agree(vjp(function, 2), [random(5, 6), random(6, 7), *cotangents])


@pytest.mark.parametrize(
    "name", ["456p", *(pytest.param(name, marks=pytest.mark.slow) for name in ("67p", "122p"))]
)
def test_the_map_to_tables_and_its_derivative(name: str) -> None:
    config = get_preset(name).config
    params = stack_parameters([build_model(config, seed) for seed in range(3)])
    values = [value + 0.2 * random(*value.shape[1:]) for value in params.values()]

    def function(*given: Tensor) -> tuple[Tensor, ...]:
        return tuple(t for _, t in tables(config, dict(zip(params, given, strict=True))).items())

    program = Program(function, [value[:1] for value in values])
    precise = [value.double().requires_grad_() for value in values]
    want = function(*precise)
    for one, two in zip(program(values), want, strict=True):
        assert (one - two).abs().max() <= 1e-6 * two.abs().max()
    cotangents = [random(*table.shape[1:]) for table in want]
    gradients = Program(vjp(function, len(values)), [t[:1] for t in (*values, *cotangents)], threads=2)
    exact = torch.autograd.grad(want, precise, [cotangent.double() for cotangent in cotangents])
    for one, two in zip(gradients([*values, *cotangents]), exact, strict=True):
        assert (one - two).abs().max() <= 5e-6 * two.abs().max()


def test_an_operation_without_code_is_named() -> None:
    with pytest.raises(NoCode, match=r"erfinv$"):
        Program(lambda x: (x.erfinv(),), [torch.zeros(1, 3)])


def test_a_keyed_program_is_traced_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ADDERLAB_CACHE", str(tmp_path))
    traced = []

    def double(x: Tensor) -> tuple[Tensor, ...]:
        traced.append(1)
        return (x + x,)

    examples, values = [torch.zeros(1, 3)], torch.randn(2, 3)
    assert torch.equal(Program(double, examples, key="twice")([values])[0], 2 * values)
    first = len(traced)
    again = Program(double, examples, key="twice")
    assert len(traced) == first and again.shapes == [(3,)]
    assert torch.equal(again([values])[0], 2 * values)
    other = Program(lambda x: (x * x,), examples, key="squared")
    assert torch.equal(other([values])[0], values * values)
    wide = Program(double, [torch.zeros(1, 5)], key="twice")
    assert wide.shapes == [(5,)] and len(traced) > first
