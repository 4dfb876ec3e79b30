"""Head bounds hold at every sampled point of every box, and shrink with the box."""

import itertools

import numpy as np
import pytest

from adderlab.proof.head import (
    OPEN,
    RIGHT,
    WRONG,
    Boxes,
    MarginBounds,
    competitors,
    decide,
    margin_bounds,
    margins_at,
    raise_margins,
)
from oracle.proof_twin import logits, random_problem, with_constants

KINDS = list(itertools.product(["none", "rms", "layer"], ["gelu", "relu", "swiglu"]))


def boxes_of(norm: str, activation: str, width: float, seed: int = 0):
    problem = random_problem(seed, norm=norm, activation=activation, heads=2, bottleneck=2)
    rng = np.random.default_rng(seed)
    N, K = 200, 4
    centre = rng.normal(size=(N, K))
    radius = width * rng.uniform(size=(N, K)) * (rng.uniform(size=(N, K)) < 0.8)
    token = rng.integers(0, 10, N)
    target = rng.integers(0, 10, N)
    row, mixed = problem.row_AVR[1], np.broadcast_to(np.eye(K), (problem.row_AVR.shape[1], K, K))

    def bounds(low: np.ndarray, high: np.ndarray) -> MarginBounds:
        return margin_bounds(problem.head, row, mixed, token, low, high, target)

    return problem, rng, centre, radius, token, target, (row, mixed), bounds


@pytest.mark.parametrize(("norm", "activation"), KINDS)
@pytest.mark.parametrize("width", [0.01, 0.5, 30.0])
def test_points_of_a_box_obey_its_bounds(norm, activation, width) -> None:
    problem, rng, centre, radius, token, target, tables, bounds_of = boxes_of(norm, activation, width)
    bounds = bounds_of(centre - radius, centre + radius)
    V = problem.row_AVR.shape[1]
    for _ in range(12):
        spot = centre + radius * rng.choice([-1.0, 1.0, 0.3, -0.8], size=centre.shape)
        z = logits(problem, 1, token, spot.reshape(-1, 2, 2))
        right = np.take_along_axis(z, target[:, None], 1)
        others = np.array([[t for t in range(V) if t != g] for g in target])
        margin = right - np.take_along_axis(z, others, 1)
        least = margin.min(1)
        assert (bounds.true_low_N <= least + 1e-12).all()
        for sign, bound in ((margin > 0, bounds.high_NT > 0), (margin < 0, bounds.low_NT < 0)):
            assert (~sign | bound).all()
        point = margins_at(problem.head, *tables, token, spot, target)
        assert np.allclose(point, margin, atol=1e-9)


@pytest.mark.parametrize(("norm", "activation"), KINDS)
def test_bounds_tighten_with_the_square_of_the_width(norm, activation) -> None:
    problem, _, centre, radius, token, target, tables, bounds_of = boxes_of(norm, activation, 1.0)

    def looseness(width: float) -> float:
        """How far the bound lies below the smallest margin at the corners, on average."""
        low, high = centre - width * radius, centre + width * radius
        bound = bounds_of(low, high).low_NT
        scale = bounds_of(centre, centre).scale_low_N
        corners = [
            margins_at(problem.head, *tables, token, np.where(np.array(c), high, low), target)
            for c in itertools.product([False, True], repeat=4)
        ]
        return float(np.median(np.min(corners, 0) * scale[:, None] - bound))

    assert looseness(0.002) < 0.2 * looseness(0.02) + 1e-9


def test_a_long_box_is_cut_until_it_is_decided() -> None:
    problem, _, centre, _, token, target, (row, mixed), _ = boxes_of("rms", "gelu", 0.0, seed=4)
    radius = np.zeros_like(centre)
    radius[:, [0, 2]] = 0.3
    boxes = Boxes(
        low_NK=centre - radius,
        high_NK=centre + radius,
        row_RM=row,
        mixed_RKM=mixed,
        pivot_RH=np.tile([0, 2], (len(row), 1)),
        row_N=token,
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


@pytest.mark.parametrize("norm", ["none", "rms", "layer"])
def test_tokens_that_differ_by_rounding_alone_are_not_decided(norm: str) -> None:
    """Two rows of the output table a few units in the last place apart: which of them wins is not known
    from numbers that are themselves rounded."""
    problem = random_problem(2, norm=norm)
    for ulps, known in ((1, False), (16, False), (2**20, True)):
        unembed_DV = problem.head.constants["unembed"].copy()
        unembed_DV[:, 4] = unembed_DV[:, 3] * (1 + ulps * 2.0**-52)
        head = with_constants(problem, unembed=unembed_DV).head
        zero, first = np.zeros((1, 2)), np.array([0])
        bounds = margin_bounds(
            head, problem.row_AVR[0, :1], np.zeros((1, 2, 2)), first, zero, zero, np.array([3])
        )
        (column,) = [k for k, token in enumerate(competitors(3, 12)) if token == 4]
        low, high = bounds.low_NT[0, column], bounds.high_NT[0, column]
        assert (low > 0 or high < 0) == known and low <= bounds.middle_NT[0, column] <= high
