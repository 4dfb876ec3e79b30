"""The dynamic programme over carries against trying every choice."""

import itertools

import numpy as np
import pytest

from adderlab.proof.carries import Rest, maximum, tied_children

RESTS = [
    Rest(columns=4, runs=((0, 2),), free=()),
    Rest(columns=4, runs=((0, 1),), free=(3, 7)),
    Rest(columns=4, runs=((1, 3),), free=()),
    Rest(columns=4, runs=((0, 1), (2, 3)), free=()),
    Rest(columns=4, runs=(), free=(2, 3, 6)),
    Rest(columns=4, runs=(), free=()),
]


def choices(rest: Rest):
    """Every choice of what is left: slots with digits, and the carries of the runs it fits."""
    n = rest.columns
    entry = [(0, 1) if lo else (0,) for lo, _ in rest.runs]
    digits = [range(10)] * (2 * len(rest.tied) + len(rest.free))
    for first in itertools.product(*entry):
        for values in itertools.product(*digits):
            it = iter(values)
            held, carries = [], []
            for (lo, hi), carry in zip(rest.runs, first, strict=True):
                carries.append(carry)
                for j in range(lo, hi):
                    a, b = next(it), next(it)
                    held += [(j, a), (n + j, b), (2 * n + j, (a + b + carry) % 10)]
                    carry = (a + b + carry) // 10
                carries.append(carry)
            held += [(slot, next(it)) for slot in rest.free]
            yield tuple(carries), held


@pytest.mark.parametrize("rest", RESTS, ids=str)
def test_maximum_and_ways_are_those_of_all_choices(rest: Rest) -> None:
    rng = np.random.default_rng(0)
    gain = rng.normal(size=(12, 10, 2))
    best = np.full((rest.codes, 2), -np.inf)
    number: dict[tuple[int, ...], int] = {}
    for carries, held in choices(rest):
        code = int("".join(map(str, carries)) or "0", 2)
        total = sum((gain[slot, digit] for slot, digit in held), np.zeros(2))
        best[code] = np.maximum(best[code], total)
        number[carries] = number.get(carries, 0) + 1
    assert np.allclose(maximum(gain, rest), best, atol=1e-12)
    for carries in itertools.product((0, 1), repeat=2 * len(rest.runs)):
        assert rest.ways(carries) == number.get(carries, 0)


def test_fixing_a_column_breaks_its_run() -> None:
    rest = Rest.of_leaf(7, 10)
    assert rest.runs == ((0, 6),) and rest.free == (8, 9, 18, 19)
    assert rest.without(3).runs == ((0, 3), (4, 6))
    assert rest.without(0).runs == ((1, 6),)
    assert rest.without(5).runs == ((0, 5),)
    assert rest.without(18).free == (8, 9, 19) and rest.without(18).runs == rest.runs
    assert Rest.of_leaf(1, 10).runs == () and Rest.of_leaf(10, 10).free == ()


def test_children_of_a_tied_column_are_all_its_choices() -> None:
    rows = tied_children()
    assert len({tuple(row) for row in rows.tolist()}) == 200
    a, b, s, carry_in, carry_out = rows.T
    assert (10 * carry_out + s == a + b + carry_in).all()
    assert (np.bincount(carry_out) == 100).all()
