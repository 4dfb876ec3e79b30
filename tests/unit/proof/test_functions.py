"""Ranges of the functions and of their derivatives over intervals, against a fine grid."""

import numpy as np
import pytest
import torch

from adderlab.models.head_program import FUNCTIONS as TORCH_FUNCTIONS
from adderlab.proof.forms import FUNCTIONS, relu_derivative_range
from adderlab.proof.head import DIFFERENCES

POSITIVE_ONLY = ("sqrt", "rsqrt")
NAMES = list(FUNCTIONS)


def intervals(name: str) -> tuple[np.ndarray, np.ndarray]:
    """3000 intervals where the function is defined: above zero, or on both sides of it."""
    rng = np.random.default_rng(0)
    low = rng.uniform(-6, 6, 3000)
    high = low + rng.exponential(1.0, 3000)
    if name in POSITIVE_ONLY:
        low, high = np.abs(low) + 0.3, np.abs(low) + 0.3 + high - low
    if name == "reciprocal":
        apart = (low > 0.3) | (high < -0.3)
        low, high = low[apart], high[apart]
    return low, high


def on_grid(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return low + (high - low) * np.linspace(0, 1, 2001)[:, None]


def test_every_function_of_programs_but_negation_is_here() -> None:
    assert set(TORCH_FUNCTIONS) - set(FUNCTIONS) == {"negate"}


@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_pytorch(name: str) -> None:
    x = on_grid(*intervals(name)).ravel()[::97]
    wanted = TORCH_FUNCTIONS[name](torch.from_numpy(x)).numpy()
    assert np.allclose(FUNCTIONS[name].value(x), wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_ranges_are_exact(name: str) -> None:
    low, high = intervals(name)
    values = FUNCTIONS[name].value(on_grid(low, high))
    bottom, top = FUNCTIONS[name].range(low, high)
    room = 1e-14 * (1 + np.abs(values).max(0))
    assert (bottom <= values.min(0) + room).all() and (values.max(0) - room <= top).all()
    near = 1e-5 * (1 + np.abs(values).max(0))
    if name == "abs":  # the grid may miss the kink by half a step
        near += (high - low) / 2000
    assert (values.min(0) - bottom <= near).all() and (top - values.max(0) <= near).all()


@pytest.mark.parametrize("name", NAMES)
def test_slopes_hold_every_difference_and_are_attained(name: str) -> None:
    low, high = intervals(name)
    grid = on_grid(low, high)
    values = FUNCTIONS[name].value(grid)
    differences = np.diff(values, axis=0) / np.diff(grid, axis=0)
    middle, radius = FUNCTIONS[name].slope(low, high)
    room = 1e-8 * (1 + np.abs(differences).max(0)) / np.minimum(high - low, 1.0)
    assert (middle - radius <= differences.min(0) + room).all()
    assert (differences.max(0) - room <= middle + radius).all()
    scale = 1 + np.abs(differences).max(0)
    # Of a kink less than a step from an end, the grid sees a mean.
    seen = np.minimum(np.abs(low), np.abs(high)) > (high - low) / 2000
    assert (differences.min(0) - (middle - radius) <= 0.02 * scale)[seen].all()
    assert (middle + radius - differences.max(0) <= 0.02 * scale)[seen].all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("ends", [(-np.inf, np.inf), (-np.inf, 1.0), (0.5, np.inf), (-np.inf, -1.0)])
@np.errstate(all="ignore")
def test_infinite_ends_are_ends(name: str, ends: tuple[float, float]) -> None:
    low, high = (np.array([end]) for end in ends)
    bottom, top = FUNCTIONS[name].range(low, high)
    x = np.clip(np.linspace(-50, 50, 4001), low, high)
    values = FUNCTIONS[name].value(x)
    known = values[np.isfinite(values)]
    assert bottom <= top
    if len(known):
        assert bottom <= known.min() + 1e-12 and known.max() <= top + 1e-12


@pytest.mark.parametrize("name", ["sqrt", "rsqrt", "reciprocal"])
@np.errstate(all="ignore")
def test_where_a_function_is_not_defined_everything_is_possible(name: str) -> None:
    low, high = np.array([-1.0, 0.0, -1e-300]), np.array([1.0, 1.0, 2.0])
    bottom, top = FUNCTIONS[name].range(low, high)
    assert (bottom == -np.inf).all() and (top == np.inf).all()
    slope = FUNCTIONS[name].slope(low, high)
    assert not np.isfinite(slope.middle + slope.radius).any()


def test_relu_of_no_number_may_have_any_derivative() -> None:
    derivative = relu_derivative_range(np.array([np.nan, -1.0]), np.array([1.0, np.nan]))
    assert derivative.middle.tolist() == [0.5, 0.5] and derivative.radius.tolist() == [0.5, 0.5]
    found = relu_derivative_range(np.array([-2.0, -1.0, 1.0]), np.array([-1.0, 1.0, 2.0]))
    assert (found.middle - found.radius).tolist() == [0, 0, 1]
    assert (found.middle + found.radius).tolist() == [0, 1, 1]


@pytest.mark.parametrize("name", list(DIFFERENCES))
def test_differences_are_exact_where_values_cancel(name: str) -> None:
    rng = np.random.default_rng(0)
    y = rng.uniform(-12, 12, 500)
    gap = rng.choice([1e-9, 1e-3, 1.0, -1.0, -1e-6], 500)
    found = DIFFERENCES[name](y + gap, y, gap)
    assert (np.sign(found) == np.sign(gap)).all()
    slope = FUNCTIONS[name].slope(np.minimum(y, y + gap), np.maximum(y, y + gap))
    ratio = found / gap
    assert (slope.middle - slope.radius <= ratio * (1 + 1e-7)).all()
    assert (ratio * (1 - 1e-7) <= slope.middle + slope.radius).all()
    values = FUNCTIONS[name].value
    far = np.abs(gap) >= 1e-3
    plain = values(y + gap) - values(y)
    assert np.allclose(found[far], plain[far], rtol=1e-6, atol=1e-12)
