"""Heads of any program: points of a box obey its bounds."""

import numpy as np
import pytest

from adderlab.errors import Failure
from adderlab.models.head_program import MIXED, ROW
from adderlab.proof.enclosure import BoxValues, Rows
from adderlab.proof.head import cap_of, margin_bounds, margins_at
from oracle.proof_twin import program_logits
from oracle.random_programs import STRUCTURES, Writer, cut_off, random_head, structured_head

K, M, R, V, N, TOKENS = 3, 4, 4, 6, 60, 5
WIDTHS = [0.01, 0.3, 5.0]
SPOTS = [-1.0, 1.0, 0.3, -0.8]


class Case:
    """Random boxes, with ``mixed`` a linear image of u."""

    def __init__(self, head, width: float, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.head = head
        self.row_RM, self.mixed_RKM = rng.normal(size=(TOKENS, R)), rng.normal(size=(TOKENS, K, M))
        self.row_N, self.target_N = rng.integers(0, TOKENS, N), rng.integers(0, V, N)
        self.centre_NK = rng.normal(size=(N, K))
        self.radius_NK = width * rng.uniform(size=(N, K)) * (rng.uniform(size=(N, K)) < 0.8)
        self.spots = [
            self.centre_NK + self.radius_NK * rng.choice(SPOTS, size=(N, K)) for _ in range(10)
        ]

    def values(self, head, u_NK: np.ndarray) -> np.ndarray:
        """What a program makes of points, the slow way."""
        mixed_NM = np.einsum("nk,nkm->nm", u_NK, self.mixed_RKM[self.row_N])
        with np.errstate(all="ignore"):
            return program_logits(head, mixed_NM, self.row_RM[self.row_N])

    @np.errstate(all="ignore")
    def margins(self, u_NK: np.ndarray) -> np.ndarray:
        z_NV = self.values(self.head, u_NK)
        right_N1 = np.take_along_axis(z_NV, self.target_N[:, None], 1)
        others = np.array([[t for t in range(V) if t != target] for target in self.target_N])
        return right_N1 - np.take_along_axis(z_NV, others, 1)

    def bounds(self):
        low, high = self.centre_NK - self.radius_NK, self.centre_NK + self.radius_NK
        tables = self.row_RM, self.mixed_RKM, self.row_N
        return margin_bounds(self.head, *tables, low, high, self.target_N)

    def check_margins(self) -> None:
        bounds = self.bounds()
        for spot in self.spots:
            margin_NT = self.margins(spot)
            fine_N = np.isfinite(margin_NT).all(1)
            least_N, scale_N = margin_NT.min(1), 1e-9 * (1 + np.abs(margin_NT).max(1))
            assert (bounds.true_low_N <= least_N + scale_N)[fine_N].all()
            # Where the program computes no number nothing is known.
            assert (bounds.true_low_N == -np.inf)[~fine_N].all()
            tiny_N1 = scale_N[:, None]
            assert ((margin_NT < tiny_N1) | (bounds.high_NT > 0))[fine_N].all()
            assert ((margin_NT > -tiny_N1) | (bounds.low_NT < 0))[fine_N].all()

    @np.errstate(all="ignore")
    def check_values(self) -> int:
        """Every value of the program, not its margins alone; returns how many bounds are finite."""
        boxes = BoxValues(
            Rows(self.head, self.mixed_RKM, self.row_RM), self.row_N, self.centre_NK, self.radius_NK
        )
        known = 0
        for value in range(2, self.head.logits + 1):
            found, part = boxes.value(value), cut_off(self.head, value - 1)
            at_centre = self.values(part, self.centre_NK)
            reach = np.nan_to_num(found.reach_NM, nan=np.inf)
            low, high = (
                np.nan_to_num(end, nan=sign * np.inf)
                for end, sign in zip(found.ends, (-1, 1), strict=True)
            )
            room = 1e-9 * (1 + found.size_NM) + 1e-9 * np.abs(at_centre)
            room = np.nan_to_num(room, nan=np.inf)
            known += int((np.isfinite(low) & np.isfinite(high)).sum())
            # A channel that is no number makes others none where a matrix is multiplied by zeros.
            fine = np.isfinite(at_centre) & np.isfinite(found.value_NM)
            assert (np.abs(found.value_NM - at_centre) <= room)[fine].all()
            for spot in self.spots:
                here = self.values(part, spot)
                fine = np.isfinite(here)
                assert ((low - room <= here) & (here <= high + room))[fine].all()
                both = fine & np.isfinite(at_centre)
                assert (np.abs(here - at_centre) <= reach + room)[both].all()
        return known


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", list(STRUCTURES))
def test_points_of_a_box_obey_its_bounds(name: str, width: float) -> None:
    case = Case(structured_head(name, 1, M, R, V), width)
    case.check_margins()
    assert case.check_values() > 0
    point = margins_at(case.head, case.row_RM, case.mixed_RKM, case.row_N, case.spots[0], case.target_N)
    assert np.allclose(point, case.margins(case.spots[0]), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("seed", range(60))
def test_points_of_a_box_obey_the_bounds_of_random_programs(seed: int) -> None:
    for width in WIDTHS:
        case = Case(random_head(seed, M, R, V), width, seed)
        case.check_values()
        case.check_margins()


@pytest.mark.parametrize("name", list(STRUCTURES))
def test_bounds_tighten_with_the_square_of_the_width(name: str) -> None:
    """A first-order bound: what is lost falls with the width squared, but at kinks."""

    def looseness(width: float) -> float:
        case = Case(structured_head(name, 1, M, R, V), 0.0)
        radius = width * np.random.default_rng(0).uniform(size=(N, K))
        tables = case.head, case.row_RM, case.mixed_RKM, case.row_N
        low, high = case.centre_NK - radius, case.centre_NK + radius
        corners = [
            margins_at(*tables, np.where(np.array(c), high, low), case.target_N).min(1)
            for c in np.ndindex(2, 2, 2)
        ]
        found = margin_bounds(*tables, low, high, case.target_N)
        return float(np.median(np.min(corners, 0) - found.true_low_N))

    assert looseness(0.002) < 0.2 * looseness(0.02) + 1e-9


def test_a_soft_cap_is_seen_through() -> None:
    head = structured_head("soft_cap", 1, M, R, V)
    cap = cap_of(head)
    assert cap.steps == ("tanh", 5.0) and cap.value == head.logits - 2
    # A cap that differs from logit to logit, or turns them around, changes their order.
    for factor in (np.linspace(1.0, 2.0, V), np.full(V, -1.0)):
        w = Writer(np.random.default_rng(0), M, R, V)
        w.build.function("tanh", w.build.multiply(w.linear(w.attended(), V), w.constant(factor)))
        head = w.head()
        assert cap_of(head).value == head.logits - 1
        case = Case(head, 0.3)
        case.check_margins()


def test_saturated_logits_are_told_apart() -> None:
    """tanh is 1 to the last bit at 30, and still rises."""
    w = Writer(np.random.default_rng(0), M, R, V)
    lifted = w.build.add(w.linear(w.attended(), V, scale=0.1), w.vector(30.0))
    w.build.function("tanh", lifted)
    case = Case(w.head(), 0.01)
    tables = case.head, case.row_RM, case.mixed_RKM, case.row_N
    margin_NT = margins_at(*tables, case.spots[0], case.target_N)
    assert np.abs(margin_NT).max() < 1e-12 and (margin_NT != 0).all()
    bounds = case.bounds()
    assert ((bounds.low_NT > 0) | (bounds.high_NT < 0)).mean() > 0.9
    assert (bounds.true_low_N <= margin_NT.min(1)).all()


def test_a_factor_of_all_logits_decides_nothing_else_than_their_order() -> None:
    """A positive scalar is taken out: bounds are as sharp as without it."""
    w = Writer(np.random.default_rng(0), M, R, V)
    x = w.attended()
    logits = w.linear(x, V)
    without = Case(w.head(), 1.0).bounds()
    w.build.multiply(logits, w.build.function("softplus", w.linear(x, 1)))
    with_factor = Case(w.head(), 1.0)
    bounds = with_factor.bounds()
    assert np.allclose(bounds.low_NT, without.low_NT) and np.allclose(bounds.high_NT, without.high_NT)
    assert (bounds.scale_high_N > bounds.scale_low_N).any()
    with_factor.check_margins()


def test_division_by_what_may_be_zero_is_open_and_no_number_an_error() -> None:
    w = Writer(np.random.default_rng(0), M, R, V)
    w.build.elementwise("divide", w.linear(w.attended(), V), w.build.take(MIXED, [0]))
    case = Case(w.head(), 1.0)
    mixed_N = np.einsum("nk,nk->n", case.centre_NK, case.mixed_RKM[case.row_N][..., 0])
    reach_N = np.einsum("nk,nk->n", case.radius_NK, np.abs(case.mixed_RKM[case.row_N][..., 0]))
    crosses = np.abs(mixed_N) <= reach_N
    bounds = case.bounds()
    assert crosses.any() and not crosses.all()
    assert (bounds.low_NT[crosses] == -np.inf).all() and (bounds.high_NT[crosses] == np.inf).all()
    assert np.isfinite(bounds.low_NT[~crosses]).all()
    case.check_margins()
    with pytest.raises(Failure, match="no number"):
        zeros = np.zeros((N, K))
        margins_at(case.head, case.row_RM, case.mixed_RKM, case.row_N, zeros, case.target_N)


def test_what_depends_on_the_query_token_alone_is_exact() -> None:
    """Any function of the row is a constant of a box."""
    w = Writer(np.random.default_rng(0), M, R, V)
    gate = w.build.function("exp", w.mlp(w.norm(ROW)))
    w.logits(w.build.add(w.build.multiply(w.linear(MIXED, R), gate), w.build.function("square", ROW)))
    head = w.head()
    assert all(head.affine)
    case = Case(head, 1.0)
    bounds = case.bounds()
    corners = [
        case.margins(case.centre_NK + case.radius_NK * np.array(signs))
        for signs in np.ndindex(2, 2, 2)
        for signs in [2 * np.array(signs) - 1]
    ]
    assert np.allclose(bounds.low_NT, np.min(corners, 0)) and np.allclose(
        bounds.high_NT, np.max(corners, 0)
    )
