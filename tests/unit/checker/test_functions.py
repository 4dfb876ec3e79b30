"""Enclosures of exp, GELU, SiLU and their derivatives against Arb at thousands of bits."""

import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from flint import arb, ctx

from adderlab.checker import functions
from adderlab.checker.intervals import Interval


def normal_cdf(x: arb) -> arb:
    return (1 + (x / arb(2).sqrt()).erf()) / 2


def normal_density(x: arb) -> arb:
    return (-x * x / 2).exp() / (2 * arb.pi()).sqrt()


def sigmoid(x: arb) -> arb:
    return 1 / (1 + (-x).exp())


def inner(x: arb) -> arb:
    """What GELU's approximation takes the tanh of."""
    return (2 / arb.pi()).sqrt() * (x + arb("0.044715") * x * x * x)


def inner_slope(x: arb) -> arb:
    return (2 / arb.pi()).sqrt() * (1 + 3 * arb("0.044715") * x * x)


CASES: dict[str, tuple[Callable[[Interval], Interval], Callable[[arb], arb]]] = {
    "gelu": (functions.gelu, lambda x: x * normal_cdf(x)),
    "gelu'": (functions.gelu_derivative, lambda x: normal_cdf(x) + x * normal_density(x)),
    "silu": (functions.silu, lambda x: x * sigmoid(x)),
    "silu'": (functions.silu_derivative, lambda x: sigmoid(x) * (1 + x * (1 - sigmoid(x)))),
    "exp": (functions.exp, lambda x: x.exp()),
    "exp, many": (functions.exp_fast, lambda x: x.exp()),
    "sigmoid": (functions.sigmoid, sigmoid),
    "sigmoid'": (functions.sigmoid_derivative, lambda x: sigmoid(x) * sigmoid(-x)),
    "tanh": (functions.tanh, lambda x: x.tanh()),
    "tanh'": (functions.tanh_derivative, lambda x: 1 - x.tanh() ** 2),
    "softplus": (functions.softplus, lambda x: (1 + x.exp()).log()),
    "gelu_tanh": (functions.gelu_tanh, lambda x: x * sigmoid(2 * inner(x))),
    "gelu_tanh'": (
        functions.gelu_tanh_derivative,
        lambda x: (
            sigmoid(2 * inner(x))
            + 2 * x * inner_slope(x) * sigmoid(2 * inner(x)) * sigmoid(-2 * inner(x))
        ),
    ),
    "abs": (functions.absolute, abs),
}
BY_SLOPE = {"gelu_tanh", "gelu_tanh'"}
"""Bounded by the steepest slope: their ranges may be wider."""
EDGES = (functions.EDGE, functions.NORMAL_EDGE, functions.CUBIC_EDGE)
POINTS = np.concatenate(
    [
        np.random.default_rng(0).uniform(-12, 12, 150),
        np.random.default_rng(1).uniform(-70, 70, 60),
        np.random.default_rng(2).normal(size=60) * 1e-3,
        (np.arange(-20, 21) + 0.5) / 32,  # edges of the cells
        [sign * each for sign in (1, -1) for edge in EDGES for each in (edge, np.nextafter(edge, 99))],
        [0.0, -0.0, 1e-300, 90.0, -90.0],
    ]
)


@pytest.fixture(autouse=True)
def _precise():
    before = ctx.prec
    ctx.prec = 8000  # 1 + erf(-50) leaves nothing of fewer
    yield
    ctx.prec = before


@pytest.mark.parametrize("name", CASES)
def test_points_are_enclosed_tightly(name: str) -> None:
    function, exact = CASES[name]
    found = function(Interval(POINTS))
    for x, low, high in zip(POINTS, found.low, found.high, strict=True):
        value = exact(arb(float(x)))
        assert arb(float(low)) <= value and value <= arb(float(high)), (name, x)
        # softplus holds what PyTorch makes of it, too, which from 20 on is x.
        jump = 4e-9 if name == "softplus" and x > 20 else 0.0
        assert high - low <= 2e-13 * max(1.0, abs(x), abs(high)) + jump, (name, x)


@pytest.mark.parametrize("name", CASES)
def test_intervals_are_enclosed_and_not_overestimated(name: str) -> None:
    """The range over [x, x + w] holds every sampled value and is at most a little wider."""
    ctx.prec = 300
    function, exact = CASES[name]
    rng = np.random.default_rng(3)
    low = rng.uniform(-8, 8, 80)
    high = low + rng.choice([1e-9, 0.01, 0.3, 3.0, 9.0], 80)
    found = function(Interval(low, high))
    for x, y, least, most in zip(low, high, found.low, found.high, strict=True):
        values = [float(exact(arb(float(t)))) for t in np.linspace(x, y, 40)]
        assert least <= min(values) and max(values) <= most
        slack = 1e-12 * max(1.0, abs(most)) + 3e-3 * (y - x) ** 2 * max(1.0, abs(most))
        if name in BY_SLOPE:
            slack += (y - x) ** 2 + 0.02 * (y - x)
        assert most - max(values) <= slack and min(values) - least <= slack, (name, x, y)


def test_turning_points_are_where_the_enclosures_have_them() -> None:
    """Just over a turning point the range must contain the extreme value."""
    for name, x in (
        ("gelu", -0.7517915246935645),
        ("gelu'", 2**0.5),
        ("gelu'", -(2**0.5)),
        ("silu", -1.2784645427610738),
        ("silu'", 2.3993572805154677),
        ("silu'", -2.3993572805154677),
    ):
        function, exact = CASES[name]
        found = function(Interval(np.array([x - 0.5]), np.array([x + 0.5])))
        extreme = exact(arb(x))
        assert arb(float(found.low[0])) <= extreme <= arb(float(found.high[0]))
        tight = min(extreme - arb(float(found.low[0])), arb(float(found.high[0])) - extreme)
        assert tight < arb("1e-12"), name


def test_relu_is_exact() -> None:
    x = Interval(np.array([-2.0, -1.0, 0.5]), np.array([-1.0, 1.0, 2.0]))
    value, slope = functions.relu(x), functions.relu_derivative(x)
    assert value.low.tolist() == [0, 0, 0.5] and value.high.tolist() == [0, 1, 2]
    assert slope.low.tolist() == [0, 0, 1] and slope.high.tolist() == [0, 1, 1]


def test_clamp_is_exact_and_knows_where_it_is_flat() -> None:
    x = Interval(np.array([-2.0, -1.0, 0.2, 0.9, 2.0]), np.array([-1.0, 0.5, 0.4, 1.5, 3.0]))
    low, high = Interval(0.0), Interval(1.0)
    value, slope = functions.clamp(x, low, high), functions.clamp_derivative(x, low, high)
    assert value.low.tolist() == [0, 0, 0.2, 0.9, 1] and value.high.tolist() == [0, 0.5, 0.4, 1, 1]
    assert slope.low.tolist() == [0, 0, 1, 0, 0] and slope.high.tolist() == [0, 1, 1, 1, 0]


def test_softplus_holds_what_pytorch_makes_of_it() -> None:
    points = np.array([19.9, 20.0, 20.1, 25.0, 100.0])
    found = functions.softplus(Interval(points))
    value = torch.nn.functional.softplus(torch.as_tensor(points)).numpy()
    assert (found.low <= value).all() and (value <= found.high).all()


def test_of_no_number_nothing_is_known() -> None:
    """An end that is no number must not become a derivative of 0, which would say "does not change"."""
    x = Interval(np.array([np.nan, -1.0, np.nan, 70.0]), np.array([1.0, np.nan, np.nan, np.nan]))
    with np.errstate(all="ignore"):
        for derivative in (functions.gelu_derivative, functions.silu_derivative):
            found = derivative(x)
            assert not (np.isfinite(found.low) & np.isfinite(found.high)).any()
        for function in (functions.sigmoid_derivative, functions.tanh_derivative, functions.sigmoid):
            found = function(x)
            assert not (np.isfinite(found.low) & np.isfinite(found.high)).any()
        for derivative in (functions.gelu_tanh_derivative, functions.absolute_derivative):
            found = derivative(x)
            assert not (found.high - found.low < 1)[:3].any()
    slope = functions.clamp_derivative(x, Interval(0.0), Interval(2.0))
    assert slope.low.tolist() == [0, 0, 0, 0] and slope.high.tolist() == [1, 1, 1, 0]
    relu = functions.relu_derivative(x)
    assert relu.low.tolist() == [0, 0, 0, 1] and relu.high.tolist() == [1, 1, 1, 1]


def test_a_table_is_the_same_while_other_threads_work() -> None:
    """Arb's settings, the number of terms among them, are those of the whole process."""
    cells, done = np.arange(2 * int(functions.NORMAL_EDGE) * functions.CELLS_PER_UNIT), threading.Event()
    alone, beside = (functions._Table(functions._gelu_derivative) for _ in range(2))
    alone.know(cells)

    def turn() -> None:
        while not done.is_set():
            functions._turn.__wrapped__(functions._gelu_bend, functions._gelu_derivative, 2.0**0.5)

    thread, interval = threading.Thread(target=turn), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        beside.know(cells)
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert (beside.coefficients[cells] == alone.coefficients[cells]).all()
    assert (beside.error[cells] == alone.error[cells]).all()
