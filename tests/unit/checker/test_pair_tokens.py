"""Pair tokens, one for both digits of a column: proved and checked, and against trying every pair."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch

from adderlab.checker.intervals import Interval
from adderlab.checker.model import (
    Geometry,
    Leaves,
    Model,
    digits_of,
    leaves_of,
    model_from_tables,
    smallest_margin,
)
from adderlab.checker.ranges import FREE, cell_excess, count, joint_excess, project
from adderlab.checker.steps import functionals
from adderlab.checker.verify import Report, check, plain_config
from adderlab.models.config import ModelConfig
from adderlab.models.head_program import NormForm, standard_program
from adderlab.models.tables import TableForm, Tables, plain_form
from adderlab.proof.certificate import certificate
from adderlab.proof.problem import problem_from_tables
from adderlab.proof.prove import Proof, prove_problem
from adderlab.proof.search import Limits
from adderlab.task.addition import get_layout
from helpers.checker_cases import axes_frame, hand_made, packed, sealed, unpacked

WEIGHTS = "a" * 64
CONFIG = plain_config(ModelConfig(layout="pairs"))
LAYOUT = get_layout("pairs")


def adder(leak: float = 1e-4, heads: int = 1) -> Tables:
    """The hand-made adder of ten columns (``helpers.checker_cases``) in pair tokens: a pair has the
    weight of both digits and the mean of their values. With two heads the second one takes back what
    the first one writes too much."""
    n = 10
    P, A, V = LAYOUT.num_positions, LAYOUT.num_answers, LAYOUT.vocab_size
    total = 22.0
    query = np.full((A, V, 1, P), np.log(leak))
    for i in range(n + 1):
        weights = {LAYOUT.a_positions[i]: 20.0} if i < n else {}
        if i > 0:
            weights[LAYOUT.a_positions[i - 1]] = 2.0
        weights[0] = total - sum(weights.values()) or leak
        for position, weight in weights.items():
            query[i, :, 0, position] = np.log(weight)
    key = np.broadcast_to(np.eye(P)[:, None, None], (P, V, 1, P)).copy()
    value = np.zeros((P, V, 1, 1))
    pair = np.arange(100)
    value[list(LAYOUT.a_positions), 10:110, 0, 0] = (pair // 10 + pair % 10) / 2
    residual = np.zeros((A, V, 2))
    residual[:, :, 1] = 1.0
    residual[1:, :10, 0] = -np.arange(10) / 10
    unembed = np.zeros((2, V))
    unembed[0, :10] = 2 * np.arange(10)
    unembed[1] = -(np.arange(V) ** 2.0)
    out = np.array([[total / 10, 0.0]])
    if heads == 2:
        query, key, value = (np.concatenate([x, x], 2) for x in (query, key, value))
        out = np.concatenate([4.0 * out, -3.0 * out]) + np.array([[0.0, 0.3], [0.0, -0.3]])
    none = NormForm(kind="none", eps=1e-8)
    program = standard_program(
        mixed=heads, width=2, hidden=2, vocab=V, norm2=none, norm_f=none, activation="relu", biases=()
    )
    form = TableForm(layout=LAYOUT, heads=heads, key_dim=P, value_dim=1, program=program)
    named = {
        "attn_out": out,
        "fc1": np.array([[4.0, 4.0], [-37.8, -38.8]]),
        "fc2": np.array([[-10.0, 0.0], [10.0, 0.0]]),
        "unembed": unembed,
    }
    return Tables(
        form=form,
        query=torch.from_numpy(query)[None],
        key=torch.from_numpy(key)[None],
        value=torch.from_numpy(value)[None],
        residual=torch.from_numpy(residual)[None],
        head={name: torch.from_numpy(named[name])[None] for name in form.program.shapes},
    )


def answer(document, tables: Tables) -> Report:
    return check(
        json.loads(json.dumps(document)),
        model_from_tables(tables.form, {name: Interval(t[0].numpy()) for name, t in tables.items()}),
        form=plain_form(tables.form),
        weights_sha256=WEIGHTS,
        config=CONFIG,
    )


def proved(tables: Tables, **limits: int) -> Proof:
    return prove_problem(
        problem_from_tables(tables), weights_sha256=WEIGHTS, config=CONFIG, limits=Limits(**limits)
    )


@pytest.mark.parametrize("heads", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.slow
def test_an_adder_in_pair_tokens_is_proved_and_accepted(heads: int) -> None:
    tables = adder(heads=heads)
    proof = proved(tables)
    assert proof.verdict == "proved" and proof.failing_pairs == 0
    document = certificate(proof)
    report = answer(document, tables)
    assert report.accepted and report.reason is None and report.pairs_per_step == 10**20
    assert report.margin is not None and proof.margin.bound is not None
    assert 0 < proof.margin.bound <= report.margin <= proof.margin.witness + 1e-9
    # A bound narrower than the values its leaf takes.
    steps = [dict(step) for step in document["steps"]]
    bounds = unpacked(steps[5]["bounds"])
    bounds[700, 0, 0, 1] = 0.5 * bounds[700, 0, 0].sum()
    steps[5]["bounds"] = packed(bounds, "<f4")
    changed = sealed({k: v for k, v in document.items() if k != "digest"} | {"steps": steps})
    assert "leaf 700 is not proved" in (answer(changed, tables).reason or "")


@pytest.mark.slow
def test_a_leaky_adder_in_pair_tokens_is_refuted() -> None:
    tables = adder(leak=0.03)
    proof = proved(tables, cells=2000)
    assert proof.verdict == "refuted" and proof.split_leaves > 0 and proof.counterexample is not None
    report = answer(certificate(proof), tables)
    assert report.counterexample_confirmed and not report.accepted
    low, high = smallest_margin(
        model_from_tables(tables.form, {name: Interval(t[0].numpy()) for name, t in tables.items()}),
        *proof.margin.pair,
    )
    assert low - 1e-6 <= proof.margin.witness <= high + 1e-6


# Against every pair of three columns.

N = 3


def small_model(seed: int) -> Model:
    """Three columns of pair tokens, random tables; the second head is close to minus the first."""
    rng = np.random.default_rng(seed)
    where = Geometry(
        a_positions=(1, 2, 3),
        b_positions=(1, 2, 3),
        sum_positions=(5, 6, 7, 8),
        query_positions=(4, 5, 6, 7),
        separators=((0, 111), (4, 110)),
    )
    model = hand_made(N)
    P, V, K = 9, 112, 3
    query, key = rng.normal(size=(N + 1, V, 1, K)), 0.5 * rng.normal(size=(P, V, 1, K))
    value = rng.normal(size=(P, V, 1, 3))
    return dataclasses.replace(
        model,
        geometry=where,
        query_AVHK=Interval(np.concatenate([query, query + 0.05], 2)),
        key_PVHK=Interval(np.concatenate([key, key], 2)),
        value_PVHE=Interval(np.concatenate([value, -0.9 * value], 2)),
        residual_AVD=Interval(np.zeros((N + 1, V, 3))),
        out_HED=Interval(np.broadcast_to(np.eye(3), (2, 3, 3)).copy()),
        shared=True,
    )


def outputs(model: Model, i: int, a: int, b: int) -> np.ndarray:
    """y (H, E) of step i at one pair, straight from the definition."""
    s = digits_of(a + b, N + 1)
    pairs = [10 + 10 * x + y for x, y in zip(digits_of(a, N), digits_of(b, N), strict=True)]
    tokens = np.array([111, *pairs, 110, *s[:i]])
    rows = np.arange(len(tokens))
    score = np.einsum(
        "hk,phk->hp", model.query_AVHK.low[i, tokens[-1]], model.key_PVHK.low[rows, tokens]
    )
    weight = np.exp(score - score.max(1, keepdims=True))
    return np.einsum("hp,phe->he", weight, model.value_PVHE.low[rows, tokens]) / weight.sum(1)[:, None]


@pytest.mark.parametrize(
    ("i", "leaf", "fixed", "carries"),
    [
        (0, (0, 0, 0, 7, 5), {1: 3, N + 1: 9}, {}),
        (0, (0, 0, 0, 2, 9), {2: 4}, {}),
        (3, (1, 8, 6, 0, 0), {}, {}),
        (3, (0, 4, 4, 0, 0), {0: 5, N: 6}, {}),
        (3, (1, 9, 9, 0, 0), {N + 1: 2}, {1: 1}),
    ],
)
def test_bounds_of_cells_hold_for_every_pair_and_are_nearly_exact(i, leaf, fixed, carries) -> None:
    model = small_model(i)
    step, shape = model.steps[i], model.steps[i].leaf_shape
    number = int(np.ravel_multi_index(leaf, shape))
    leaves = leaves_of(step)
    own = Leaves(**{k: v[[number]] for k, v in vars(leaves).items()})
    digits = np.full((1, 2 * N), FREE, dtype=np.int8)
    carry = np.full((1, N), FREE, dtype=np.int8)
    for slot, digit in fixed.items():
        digits[0, slot] = digit
    for j, value in carries.items():
        carry[0, j] = value
    shared = axes_frame(1, 1, 3)
    every = axes_frame(1, 2, 3)
    parts = project(step, own.row, functionals(every))
    joint_parts = project(step, own.row, functionals(shared))
    row = np.zeros(1, dtype=np.intp)

    def narrowest(proved, width: float, shape: tuple[int, ...]) -> np.ndarray:
        good = np.broadcast_to(np.array([-width, width]), shape).copy()
        bad = good[..., ::-1].copy()
        assert proved(good).all()
        for _ in range(40):
            middle = 0.5 * (good + bad)
            yes = proved(middle)
            good, bad = np.where(yes, middle, good), np.where(yes, bad, middle)
        return good

    bounds = narrowest(
        lambda x: cell_excess(step, own, parts, row, digits, carry, x) <= 0, 9.0, (1, 2, 3, 2)
    )
    joint = narrowest(
        lambda x: joint_excess(step, own, joint_parts, row, digits, carry, bounds, x) <= 0,
        20.0,
        (1, 3, 2),
    )
    least, most = np.full((2, 3), np.inf), np.full((2, 3), -np.inf)
    sums = [np.full(3, np.inf), np.full(3, -np.inf)]
    held = 0
    for a, b in pairs_of(i, leaf, fixed, carries):
        y = outputs(model, i, a, b)
        least, most = np.minimum(least, y), np.maximum(most, y)
        sums = [np.minimum(sums[0], y.sum(0)), np.maximum(sums[1], y.sum(0))]
        held += 1
    assert held == count(list(digits[0, :N]), list(digits[0, N:]), list(carry[0]), i)[leaf[0]]
    assert np.allclose(bounds[0, ..., 0], least, atol=1e-7)
    assert np.allclose(bounds[0, ..., 1], most, atol=1e-7)
    assert (joint[0, :, 0] <= sums[0] + 1e-9).all() and (sums[1] <= joint[0, :, 1] + 1e-9).all()
    alone = (bounds[0, ..., 1] - bounds[0, ..., 0]).sum(0)
    assert ((joint[0, :, 1] - joint[0, :, 0]) < 0.8 * alone).all()


def pairs_of(i, leaf, fixed, carries) -> list[tuple[int, int]]:
    """All pairs of a cell, by trying every pair of three digits."""
    c, a_before, b_before, a_here, b_here = leaf
    wanted = dict(fixed)
    if i:
        wanted |= {i - 1: a_before, N + i - 1: b_before}
    if i < N:
        wanted |= {i: a_here, N + i: b_here}
    choices = [[wanted[slot]] if slot in wanted else range(10) for slot in range(2 * N)]
    found = []
    for digits in itertools.product(*choices):
        a, b = (sum(d * 10**j for j, d in enumerate(part)) for part in (digits[:N], digits[N:]))
        into = [int(a % 10**j + b % 10**j >= 10**j) for j in range(N)]
        right = all(into[j] == value for j, value in carries.items())
        if right and (i < 2 or into[i - 1] == c):
            found.append((a, b))
    return found
