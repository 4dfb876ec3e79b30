"""Head bounds hold at every sampled point of every box, and shrink with the box."""

import dataclasses
import itertools

import numpy as np
import pytest

from adderlab.proof.head import (
    OPEN,
    RIGHT,
    WRONG,
    Boxes,
    competitors,
    decide,
    gelu,
    gelu_derivative,
    gelu_derivative_range,
    margin_bounds,
    margins_at,
    raise_margins,
    relu_derivative_range,
    silu,
    silu_derivative,
    silu_derivative_range,
    silu_range,
)
from oracle.proof_twin import logits, random_problem

KINDS = list(itertools.product(["none", "rms", "layer"], ["gelu", "relu", "swiglu"]))


@pytest.mark.parametrize(
    ("function", "slope"), [(gelu, gelu_derivative), (silu, silu_derivative)], ids=["gelu", "silu"]
)
def test_slopes_are_derivatives(function, slope) -> None:
    x = np.linspace(-6, 6, 400)
    assert np.allclose(slope(x), (function(x + 1e-6) - function(x - 1e-6)) / 2e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("ranged", "function"),
    [
        (gelu_derivative_range, gelu_derivative),
        (silu_derivative_range, silu_derivative),
        (silu_range, silu),
    ],
    ids=["gelu slope", "silu slope", "silu"],
)
def test_ranges_over_intervals_are_exact(ranged, function) -> None:
    rng = np.random.default_rng(0)
    low = rng.uniform(-6, 6, 3000)
    high = low + rng.exponential(1.0, 3000)
    grid = function(low + (high - low) * np.linspace(0, 1, 2001)[:, None])
    found = ranged(low, high)
    bottom, top = found.middle - found.radius, found.middle + found.radius
    assert (bottom <= grid.min(0) + 1e-15).all() and (grid.max(0) - 1e-15 <= top).all()
    assert np.allclose(bottom, grid.min(0), atol=1e-5) and np.allclose(top, grid.max(0), atol=1e-5)


def test_relu_slope_is_all_that_an_interval_allows() -> None:
    found = relu_derivative_range(np.array([-2.0, -1.0, 1.0]), np.array([-1.0, 1.0, 2.0]))
    assert (found.middle - found.radius).tolist() == [0, 0, 1]
    assert (found.middle + found.radius).tolist() == [0, 1, 1]


def boxes_of(norm: str, activation: str, width: float, seed: int = 0):
    problem = random_problem(seed, norm=norm, activation=activation, heads=2, bottleneck=2)
    rng = np.random.default_rng(seed)
    N, K = 200, 4
    centre = rng.normal(size=(N, K))
    radius = width * rng.uniform(size=(N, K)) * (rng.uniform(size=(N, K)) < 0.8)
    token = rng.integers(0, 10, N)
    target = rng.integers(0, 10, N)
    out = np.broadcast_to(problem.attn_out_HED.reshape(K, -1), (N, K, 4))
    residual = problem.residual_AVD[1, token]
    return problem, rng, centre, radius, token, target, out, residual


@pytest.mark.parametrize(("norm", "activation"), KINDS)
@pytest.mark.parametrize("width", [0.01, 0.5, 30.0])
def test_points_of_a_box_obey_its_bounds(norm, activation, width) -> None:
    problem, rng, centre, radius, token, target, out, residual = boxes_of(norm, activation, width)
    bounds = margin_bounds(problem.head, residual, out, centre - radius, centre + radius, target)
    V = problem.residual_AVD.shape[1]
    for _ in range(12):
        spot = centre + radius * rng.choice([-1.0, 1.0, 0.3, -0.8], size=centre.shape)
        z = logits(problem, 1, token, spot.reshape(-1, 2, 2))
        right = np.take_along_axis(z, target[:, None], 1)
        others = np.array([[t for t in range(V) if t != g] for g in target])
        margin = right - np.take_along_axis(z, others, 1)
        least = margin.min(1)
        assert (bounds.true_low_N() <= least + 1e-12).all()
        for sign, bound in ((margin > 0, bounds.high_NT > 0), (margin < 0, bounds.low_NT < 0)):
            assert (~sign | bound).all()
        point = margins_at(problem.head, residual, out, spot, target)
        assert np.allclose(point, margin, atol=1e-9)


@pytest.mark.parametrize(("norm", "activation"), KINDS)
def test_bounds_tighten_with_the_square_of_the_width(norm, activation) -> None:
    problem, _, centre, radius, _, target, out, residual = boxes_of(norm, activation, 1.0)

    def looseness(width: float) -> float:
        """How far the bound lies below the smallest margin at the corners, on average."""
        low, high = centre - width * radius, centre + width * radius
        bound = margin_bounds(problem.head, residual, out, low, high, target).low_NT
        scale = margin_bounds(problem.head, residual, out, centre, centre, target).scale_low_N
        corners = [
            margins_at(problem.head, residual, out, np.where(np.array(c), high, low), target)
            for c in itertools.product([False, True], repeat=4)
        ]
        return float(np.median(np.min(corners, 0) * scale[:, None] - bound))

    assert looseness(0.002) < 0.2 * looseness(0.02) + 1e-9


def test_a_long_box_is_cut_until_it_is_decided() -> None:
    problem, _, centre, _, _, target, out, residual = boxes_of("rms", "gelu", 0.0, seed=4)
    N = len(centre)
    radius = np.zeros_like(centre)
    radius[:, [0, 2]] = 0.3
    boxes = Boxes(
        low_NK=centre - radius,
        high_NK=centre + radius,
        residual_RD=residual,
        out_RKD=np.array(out),
        pivot_RH=np.tile([0, 2], (N, 1)),
        row_N=np.arange(N),
        target_N=target,
    )
    once, often = decide(problem.head, boxes, 1), decide(problem.head, boxes, 4)
    decided = once.status_N != OPEN
    assert (often.status_N[decided] == once.status_N[decided]).all()
    assert (often.status_N != OPEN).sum() > decided.sum()
    assert set(often.status_N.tolist()) >= {RIGHT, WRONG}
    assert (often.margin_N >= once.margin_N).all()
    sharp = raise_margins(problem.head, boxes, once, np.inf)
    assert (sharp.margin_N >= once.margin_N).all() and (sharp.margin_N > once.margin_N).any()
    pieces = boxes.take(np.array([5])).cut(4)
    assert len(pieces.low_NK) == 16
    assert pieces.low_NK.min(0).tolist() == boxes.low_NK[5].tolist()
    assert pieces.high_NK.max(0).tolist() == boxes.high_NK[5].tolist()


def test_relu_of_no_number_may_have_any_derivative() -> None:
    derivative = relu_derivative_range(np.array([np.nan, -1.0]), np.array([1.0, np.nan]))
    assert derivative.middle.tolist() == [0.5, 0.5] and derivative.radius.tolist() == [0.5, 0.5]


@pytest.mark.parametrize("norm", ["none", "rms", "layer"])
def test_tokens_that_differ_by_rounding_alone_are_not_decided(norm: str) -> None:
    """Two rows of the output table a few units in the last place apart: which of them wins is not known
    from numbers that are themselves rounded."""
    problem = random_problem(2, norm=norm)
    for ulps, known in ((1, False), (16, False), (2**20, True)):
        unembed_DV = problem.head.unembed_DV.copy()
        unembed_DV[:, 4] = unembed_DV[:, 3] * (1 + ulps * 2.0**-52)
        head = dataclasses.replace(problem.head, unembed_DV=unembed_DV)
        zero = np.zeros((1, 1))
        bounds = margin_bounds(
            head, problem.residual_AVD[0, :1], np.zeros((1, 1, 4)), zero, zero, np.array([3])
        )
        (column,) = [k for k, token in enumerate(competitors(3, 12)) if token == 4]
        low, high = bounds.low_NT[0, column], bounds.high_NT[0, column]
        assert (low > 0 or high < 0) == known and low <= bounds.middle_NT[0, column] <= high
