"""Operations of head programs in JavaScript, functions that it lacks, traces: as PyTorch has them."""

import json
import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch

from adderlab.engine.javascript import ENGINE, head_source, map_source
from adderlab.models.head_program import (
    MIXED,
    ROW,
    Elementwise,
    Function,
    HeadProgram,
    ProgramBuilder,
    evaluate,
)
from helpers.javascript import node


def programs() -> dict[str, HeadProgram]:
    """One for every operation, and one of several."""
    found = {}
    for name in get_args(Elementwise):
        build = ProgramBuilder(3, 1)
        build.elementwise(name, MIXED, ROW)
        build.elementwise(name, build.elementwise(name, MIXED, build.constant("k", 3)), MIXED)
        found[name] = build.build()
    for name in get_args(Function):
        build = ProgramBuilder(3, 1)
        build.function(name, MIXED)
        found[name] = build.build()
    uses: dict[str, Callable[[ProgramBuilder], int]] = {
        "linear": lambda b: b.linear(MIXED, b.constant("w", 3, 2)),
        "biased": lambda b: b.linear(MIXED, b.constant("w", 3, 2), b.constant("b", 2)),
        "centre": lambda b: b.centre(MIXED),
        "rms": lambda b: b.rms(MIXED, 1e-3),
        "mean": lambda b: b.reduce("mean", MIXED),
        "sum": lambda b: b.reduce("sum", MIXED),
        "clamp": lambda b: b.clamp(b.clamp(MIXED, 0.6, None), None, 1.1),
        "take": lambda b: b.take(MIXED, (2, 0)),
        "concat": lambda b: b.concat((b.constant("c", 2), MIXED, ROW)),
    }
    for name, use in uses.items():
        build = ProgramBuilder(3, 1)
        use(build)
        found[name] = build.build()
    return found


def test_every_operation_is_what_pytorch_makes_of_it() -> None:
    generator = torch.Generator().manual_seed(0)
    parts, wanted = [ENGINE.read_text(), "const found = [];"], []
    mixed, row = torch.tensor([0.4, 1.3, 0.9]).double(), torch.tensor([0.7]).double()
    for program in programs().values():
        constants = {
            name: torch.rand(1, *shape, generator=generator, dtype=torch.float64) + 0.1
            for name, shape in program.shapes.items()
        }
        wanted.append(evaluate(program, constants, mixed[None, :, None], row[None, :, None]))
        given = [value.flatten().tolist() for value in constants.values()]
        parts.append(
            f"{{ {head_source(program)}\nconst values = createHead({json.dumps(given)})"
            f"({mixed.tolist()}, {row.tolist()}); found.push(Array.from(values[values.length - 1])); }}"
        )
    found = node("\n".join([*parts, "console.log(JSON.stringify(found));"]))
    for name, own, right in zip(programs(), found, wanted, strict=True):
        assert own == pytest.approx(right.flatten().tolist(), rel=1e-12), name


def test_functions_that_javascript_lacks() -> None:
    x = [-7.0, -3.3, -1.0, -1e-9, 0.0, 0.25, 0.9, 2.0, 4.5, 5.9, 8.0]
    halves = [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 2.4, 2.6]
    found = node(
        f"{ENGINE.read_text()}\nconsole.log(JSON.stringify([{x}.map(erf), {x}.map(sign), {x}.map(exp2), "
        f"{halves}.map(nearbyint), [NaN, 1].map((v) => larger(v, 2)), "
        "[NaN, 1].map((v) => smaller(v, 2))]));"
    )
    assert found[0] == pytest.approx([math.erf(v) for v in x], abs=1e-15)
    assert found[1] == torch.tensor(x).sign().tolist()
    assert found[2] == pytest.approx([2.0**v for v in x])
    assert found[3] == torch.tensor(halves).round().tolist()
    assert found[4] == [None, 2] and found[5] == [None, 1]  # JSON has no NaN


def test_a_traced_function_computes_what_it_was() -> None:
    def function(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        index = torch.tensor([2, 0, 1, 1])
        product = x @ y.transpose(1, 2)
        grown = torch.zeros(1, 3, 3, dtype=x.dtype)
        grown[:, 0] = x[:, 1, :3]
        return (
            torch.baddbmm(product, x, y.transpose(1, 2)).mean(2),
            torch.cat([x[:, index], y.tril()], 1).softmax(-1),
            torch.where(x > 0, x.exp().clamp(max=1.5), -x.abs().sqrt()).amax(1),
            grown,
        )

    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(1, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    given = json.dumps([value.flatten().tolist() for value in (x, y)])
    found = node(
        f"{ENGINE.read_text()}\n{map_source(function, [x, y])}\n"
        f"const map = createMap(); map({given});"
        f"console.log(JSON.stringify(map({given}).map((own) => Array.from(own))));"
    )
    for own, right in zip(found, function(x, y), strict=True):
        assert own == pytest.approx(right.flatten().tolist(), rel=1e-12)
