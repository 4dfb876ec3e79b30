"""Boxes settled many at a time: by hulls of neighbours, one by one, and in halves."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from adderlab.checker.steps import HULLS, Boxes, halved, hull_boxes, neighbours, settle


def batch(count: int, seed: int = 0, axes: int = 2) -> tuple[Any, Boxes]:
    """Boxes of three right digits and two rows of axes, lying in clusters."""
    rng = np.random.default_rng(seed)
    middle = rng.integers(0, 5, (count, axes)) + rng.normal(0, 0.01, (count, axes))
    radius = rng.uniform(0, 0.02, (count, axes))
    fields = SimpleNamespace(
        right_N=rng.integers(0, 3, count),
        directions=(None, rng.integers(0, 2, count)),
        residual=(None, np.zeros(count, dtype=int)),
    )
    return fields, (np.arange(count), middle - radius, middle + radius)


def test_hulls_hold_their_boxes_and_mix_nothing() -> None:
    fields, boxes = batch(500)
    (rows, low, high), hulls = neighbours(fields, boxes)
    assert sorted(rows) == list(range(500))
    assert (low == boxes[1][rows]).all() and (high == boxes[2][rows]).all()
    assert len(hulls) == len(HULLS)
    for most, hull in zip(HULLS, hulls, strict=True):
        (first, around_low, around_high), member = hull_boxes((rows, low, high), hull)
        assert np.bincount(member).max() <= most
        assert (around_low[member] <= low).all() and (high <= around_high[member]).all()
        for key in (fields.right_N, fields.directions[1]):
            assert (key[first][member] == key[rows]).all()
    # Neighbours, or hulls would be as large as everything.
    (_, around_low, around_high), _ = hull_boxes((rows, low, high), hulls[0])
    assert np.median(around_high - around_low) < 1.5


def test_no_boxes_are_no_trouble() -> None:
    fields, boxes = batch(0)
    least, left = settle(
        fields, boxes, lambda boxes, _: (np.zeros(len(boxes[0])), boxes[0]), lambda _: 0.0, 3, print
    )
    assert least == np.inf and not len(left)


@pytest.mark.parametrize("seed", range(5))
def test_every_point_is_in_a_box_that_was_found_large_enough(seed: int) -> None:
    """f(x) = |x - c| bounded on boxes with some slack: what does not settle is left."""
    fields, boxes = batch(300, seed)
    centre = np.array([2.0, 2.0])
    settled: list[Boxes] = []
    made = 0

    def attempt(boxes: Boxes, wanted: float) -> tuple[np.ndarray, np.ndarray]:
        rows, low, high = boxes
        nearest = np.clip(centre, low, high)
        slack = 0.5 * (high - low).max(1)
        bound = np.abs(nearest - centre).max(1) - slack
        good = bound >= wanted
        settled.append((rows[good], low[good], high[good]))
        return bound, (high - low).argmax(1)

    def spend(boxes: int) -> None:
        nonlocal made
        made += boxes

    least, left = settle(fields, boxes, attempt, lambda _: 0.02, 6, spend)
    assert least >= 0.02 and made > 0
    lows, highs = (np.concatenate([each[k] for each in settled]) for k in (1, 2))
    rng = np.random.default_rng(seed)
    for row in range(300):
        low, high = boxes[1][row], boxes[2][row]
        for point in [low, high, *rng.uniform(low, high, (10, 2))]:
            inside = ((lows <= point) & (point <= highs)).all(1).any()
            assert inside or row in left
    holds_centre = ((boxes[1] <= centre) & (centre <= boxes[2])).all(1)
    assert set(np.flatnonzero(holds_centre)) <= set(left)
    assert len(set(left)) < 100


def test_halves_make_up_the_whole() -> None:
    _, boxes = batch(50)
    axis = np.arange(50) % 2
    rows, low, high = halved(boxes, axis)
    assert (rows[:50] == rows[50:]).all()
    for k in range(2):
        cut = axis == k
        assert (high[:50, k][cut] == low[50:, k][cut]).all()
        assert (low[:50, k] == boxes[1][:, k]).all() and (high[50:, k] == boxes[2][:, k]).all()
