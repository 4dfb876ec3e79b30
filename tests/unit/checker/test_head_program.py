"""The interpreter of head programs against arb, on random programs, and what it refuses.

Shapes: N boxes, K coordinates of a box, V logits.
"""

import dataclasses
from typing import Any, cast

import numpy as np
import pytest
from flint import arb, ctx

from adderlab.checker.head import FUNCTIONS as CHECKER_FUNCTIONS
from adderlab.checker.head import Head, margins, proved_margins
from adderlab.checker.intervals import Interval
from adderlab.checker.program import FUNCTIONS, read_program
from adderlab.errors import Failure
from adderlab.models.head_program import (
    ELEMENTWISE,
    MIXED,
    ROW,
    Function,
    HeadProgram,
    ProgramBuilder,
)
from adderlab.models.head_program import FUNCTIONS as MODEL_FUNCTIONS
from helpers import arb_program

SMOOTH = ["abs", "square", "exp", "relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh", "softplus"]


@pytest.fixture(autouse=True)
def _precise():
    before, ctx.prec = ctx.prec, 250
    yield
    ctx.prec = before


def random_program(seed: int, names: list[str]) -> tuple[HeadProgram, dict[str, np.ndarray]]:
    """A program of about a dozen operations, with each of ``names`` among them, and its weights."""
    rng = np.random.default_rng(seed)
    build, shapes = ProgramBuilder(3, 4), {}
    values = [MIXED, ROW]

    def constant(*shape: int) -> str:
        name = f"c{len(shapes)}"
        shapes[name] = shape
        return build.constant(name, *shape)

    def linear(x: int, width: int) -> int:
        bias = constant(width) if rng.random() < 0.5 else None
        return build.linear(x, constant(build.width(x), width), bias)

    def apply(name: str) -> int:
        x = int(rng.choice(values[-3:]))
        if name == "linear":
            return linear(x, int(rng.integers(1, 6)))
        if name in ("add", "subtract", "multiply", "minimum", "maximum", "divide"):
            y: Any = linear(int(rng.choice(values)), build.width(x) if rng.random() < 0.6 else 1)
            if name == "divide":  # a divisor away from zero
                y = build.elementwise("add", build.function("exp", y), build.function("square", y))
            elif rng.random() < 0.3:
                y = constant(build.width(x))
            return (
                build.elementwise(name, x, y)
                if rng.random() < 0.8 or name == "divide"
                else (build.elementwise(name, y, x))
            )
        if name in ("sqrt", "rsqrt", "reciprocal"):
            positive = build.elementwise("add", build.function("square", x), build.function("exp", x))
            return build.function(name, positive)
        if name == "centre":
            return build.centre(x)
        if name == "rms":
            return build.rms(x, float(rng.choice([1e-5, 0.1])))
        if name in ("mean", "sum"):
            return build.reduce(name, x)
        if name == "clamp":
            return build.clamp(x, *((-0.3, 0.8), (None, 0.5), (0.1, None))[rng.integers(3)])
        if name == "take":
            return build.take(x, rng.integers(0, build.width(x), 3).tolist())
        if name == "concat":
            return build.concat([x, constant(2), int(rng.choice(values))])
        if name == "exp":  # of small numbers: what overflows has no bound
            x = build.clamp(x, -4.0, 4.0)
        return build.function(cast(Function, name), x)

    for name in names:
        values.append(apply(name))
        # Sizes stay small: what comes next should not be in its asymptotes.
        if build.width(values[-1]) == 1 or rng.random() < 0.5:
            values.append(linear(values[-1], 4))
    everything = build.concat([values[-1], values[-2], build.function("tanh", values[-1]), ROW])
    if seed % 2:
        everything = build.multiply(build.rms(everything, 1e-6), constant(build.width(everything)))
    linear(everything, 5)
    weights = {name: rng.normal(size=shape) / max(1, shape[0]) ** 0.5 for name, shape in shapes.items()}
    return build.build(), weights


def head_of_program(program: HeadProgram, weights: dict[str, np.ndarray]) -> Head:
    enclosed = {name: Interval(array) for name, array in weights.items()}
    return Head(program=read_program(program, enclosed), constants=enclosed)


EVERY = [
    *SMOOTH,
    *ELEMENTWISE,
    *("negate", "sqrt", "rsqrt", "reciprocal", "linear", "centre", "rms", "mean", "sum", "clamp"),
    *("take", "concat"),
]


def test_every_operation_of_a_program_is_known() -> None:
    assert FUNCTIONS == set(MODEL_FUNCTIONS) == {*CHECKER_FUNCTIONS, "negate"}
    assert set(MODEL_FUNCTIONS) | set(ELEMENTWISE) < set(EVERY)
    assert set(arb_program.FUNCTIONS) == FUNCTIONS and set(arb_program.PAIRWISE) == set(ELEMENTWISE)


@pytest.mark.parametrize("name", EVERY)
def test_points_of_random_programs_lie_in_the_bounds(name: str) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        names = rng.permutation([name, name, *rng.choice(EVERY, 2)]).tolist()
        program, weights = random_program(seed, names)
        head = head_of_program(program, weights)
        N, K = 4, 3
        right_N = (seed + np.arange(N)) % 5
        # The first three channels move with u, obliquely; the row does not.
        R = np.zeros((K, 7))
        R[:, :3] = np.eye(3) + 0.3 * rng.normal(size=(3, 3))
        x0 = rng.normal(size=(N, 7))
        low = rng.normal(size=(N, K))
        high = low + np.array([[0.0], [1e-6], [0.01], [0.3]]) * rng.random((N, K))
        directions = Interval(np.broadcast_to(R, (N, K, 7)))
        found = margins(head, right_N, Interval(x0), directions, low, high)
        proved_low, proved_high = found.true_low_N(), found.true_high_N()
        assert np.isfinite(proved_low[:3]).all() and np.isfinite(proved_high[:3]).all()
        for box, right in enumerate(right_N):
            smallest = arb("inf")
            for trial in range(8):
                share = rng.integers(0, 2, K) if trial % 2 else rng.random(K)
                u = low[box] + share * (high[box] - low[box])
                x = x0[box] + u @ R
                logits = arb_program.logits(program, weights, x[:3], x[3:])
                margin = logits[right] - max((logits[t] for t in range(5) if t != right), key=float)
                # x is rounded here: that moves the margin by next to nothing.
                slack = 1e-9 * (1 + abs(float(margin)))
                assert arb(float(proved_low[box]) - slack) <= margin, (names, box)
                smallest = margin if trial == 0 else smallest.min(margin)
            assert smallest <= arb(float(proved_high[box]) + 1e-9 * (1 + abs(float(smallest))))
        scale = 1 + np.abs(proved_low[:2])
        assert (proved_high[:2] - proved_low[:2] < 1e-2 * scale).all(), names


def divided(low: float, high: float, wanted: float) -> float:
    """logits (1 / u, 0) on a box of u."""
    build = ProgramBuilder(1, 0)
    build.concat([build.function("reciprocal", MIXED), build.constant("zero", 1)])
    head = head_of_program(build.build(), {"zero": np.zeros(1)})
    one, zero = Interval(np.ones((1, 1, 1))), np.zeros(1, dtype=np.intp)
    x0 = Interval(np.zeros((1, 1)))
    return float(
        proved_margins(
            head, zero, (x0, zero), (one, zero), np.array([[low]]), np.array([[high]]), wanted
        )[0]
    )


def test_division_by_what_may_be_zero_proves_nothing() -> None:
    assert divided(0.5, 1.0, 0.9) == pytest.approx(1.0, abs=0.1)
    assert np.isnan(divided(0.5, 1.0, 1.1))
    for low, high in ((-1.0, 1.0), (0.0, 1.0), (-1e-300, 1.0), (-2.0, -1.0)):
        assert np.isnan(divided(low, high, 0.1)), (low, high)


def test_a_box_that_is_lost_is_halved() -> None:
    """1 / (u + u^2) over [0.1, 3]: with u and u^2 apart, plain intervals find the divisor positive only
    on a part of it where a wide negative term stands beside them."""
    build = ProgramBuilder(1, 0)
    u, square = MIXED, build.function("square", MIXED)
    # u^2 - u + 0.3 is at least 0.05, which intervals do not see at once.
    divisor = build.add(build.elementwise("subtract", square, u), build.constant("shift", 1))
    root = build.function("rsqrt", divisor)
    build.concat([root, build.constant("zero", 1)])
    head = head_of_program(build.build(), {"shift": np.array([0.3]), "zero": np.zeros(1)})
    one, zero = Interval(np.ones((1, 1, 1))), np.zeros(1, dtype=np.intp)
    x0, low, high = Interval(np.zeros((1, 1))), np.array([[0.0]]), np.array([[2.0]])
    assert margins(head, zero, x0, one[[0]], low, high).true_low_N()[0] == -np.inf
    proved = proved_margins(head, zero, (x0, zero), (one, zero), low, high, 0.6)
    assert 0.6 <= proved[0] <= 1 / np.sqrt(2.3)
    assert np.isnan(proved_margins(head, zero, (x0, zero), (one, zero), low, high, 0.67)[0])


def test_numbers_of_no_operation_count_as_nothing() -> None:
    """exp of exp overflows: no bound, not a wrong one."""
    build = ProgramBuilder(1, 0)
    huge = build.function("exp", build.function("exp", MIXED))
    build.concat([build.elementwise("divide", huge, huge), build.constant("zero", 1)])
    head = head_of_program(build.build(), {"zero": np.zeros(1)})
    one, zero = Interval(np.ones((1, 1, 1))), np.zeros(1, dtype=np.intp)
    for low, high in ((9.0, 9.1), (700.0, 800.0)):
        found = margins(
            head, zero, Interval(np.zeros((1, 1))), one, np.array([[low]]), np.array([[high]])
        ).true_low_N()
        assert not found[0] > 1.01, found


@pytest.mark.parametrize(
    "change",
    [
        {"name": "sine"},
        {"width": 7},
        {"width": True},
        {"operands": (9,)},
        {"operands": (-1,)},
        {"operands": ("nowhere",)},
        {"operands": (True,)},
        {"operands": ()},
        {"eps": float("nan")},
        {"eps": -1.0},
    ],
)
def test_programs_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    build = ProgramBuilder(3, 2)
    build.linear(build.rms(MIXED, 1e-5), build.constant("w", 3, 4))
    program, weights = build.build(), {"w": Interval(np.ones((3, 4)))}
    assert read_program(program, weights).vocab_size == 4
    wrong: Any = dataclasses.replace(program.operations[0], **change)
    with pytest.raises(Failure, match="head program"):
        read_program(dataclasses.replace(program, operations=(wrong, *program.operations[1:])), weights)
    with pytest.raises(Failure, match="'w'"):
        read_program(program, {"w": Interval(np.ones((3, 5)))})
