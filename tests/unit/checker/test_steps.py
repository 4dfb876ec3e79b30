"""The parts of the checker against brute force over all pairs of a two- or three-digit adder.

Shapes: N pairs, n columns, L slots, T digits, B batch, H heads, E bottleneck, K = H * E, D width.
"""

import dataclasses
import math
from typing import Any, cast

import numpy as np
import pytest

from adderlab.checker.document import Frame, Rejected
from adderlab.checker.head import Head, margins, proved_margins
from adderlab.checker.intervals import Interval
from adderlab.checker.model import (
    Model,
    digits_of,
    leaves_of,
    margin_by_step,
    mix_at,
    smallest_margin,
)
from adderlab.checker.ranges import FREE, NEVER, count, joint_excess, maximum, project, read_tree
from adderlab.checker.steps import MOST_BOXES, functionals, number_of_boxes
from adderlab.errors import Failure
from adderlab.models.head_program import Activation, NormKind
from helpers.checker_cases import axes_frame, geometry, hand_made, head_of, leaf_bounds


def all_pairs(n: int) -> list[tuple[int, int]]:
    return [(a, b) for a in range(10**n) for b in range(10**n)]


def into(a: int, b: int, j: int) -> int:
    """Carry into column j."""
    return int(a % 10**j + b % 10**j >= 10**j)


def random_model(seed: int, n: int, heads: int = 2, bottleneck: int = 2, **head: str) -> Model:
    """A model of random tables, which does not add. ``end`` names a token for the end step."""
    rng = np.random.default_rng(seed)
    where, end = geometry(n), head.pop("end", None)
    V, A, P, D, F, K = 14, n + 1, 3 * n + 2, 4, 5, 3
    if end is not None:
        where, A, P = dataclasses.replace(where, end_token=int(end)), A + 1, P + 1

    def table(*shape: int) -> Interval:
        return Interval(rng.normal(size=shape))

    activation = head.get("activation", "gelu")
    norms = {"norm2": "rms", "norm_f": "layer", **head}
    shapes = {"fc1": (D, F), "fc1_bias": (F,), "fc2": (F, D), "fc2_bias": (D,), "unembed": (D, V)}
    shapes |= {"gate": (D, F)} if activation == "swiglu" else {}
    for name in ("norm2", "norm_f"):
        if norms[name] != "none":
            shapes |= {f"{name}_weight": (D,), f"{name}_bias": (D,)}
    return Model(
        geometry=where,
        query_AVHK=table(A, V, heads, K),
        key_PVHK=table(P, V, heads, K),
        value_PVHE=table(P, V, heads, bottleneck),
        residual_AVD=table(A, V, D),
        out_HED=table(heads, bottleneck, D),
        head=head_of(
            {name: rng.normal(size=shape) for name, shape in shapes.items()},
            norm2=cast(NormKind, norms["norm2"]),
            norm_f=cast(NormKind, norms["norm_f"]),
            activation=cast(Activation, activation),
        ),
    )


def plain_attention(model: Model, i: int, a: int, b: int) -> np.ndarray:
    """y (H, E) of step i at one pair, straight from the definition, float64."""
    where, n = model.geometry, model.columns
    tokens = np.full(where.sum_positions[n] + 1, -1)
    for position, token in where.separators:
        tokens[position] = token
    tokens[list(where.a_positions)] = digits_of(a, n)
    tokens[list(where.b_positions)] = digits_of(b, n)
    tokens[list(where.sum_positions[: n + 1])] = digits_of(a + b, n + 1)
    last = where.query_position(i)
    rows = np.arange(last + 1)
    key, value = (t.low[rows, tokens[: last + 1]] for t in (model.key_PVHK, model.value_PVHE))
    score = np.einsum("hk,phk->hp", model.query_AVHK.low[i, tokens[last]], key)
    if model.score_AVHPV is not None and model.hidden_AVHPV is not None:
        seen = (slice(None), rows, tokens[: last + 1])
        score = score + model.score_AVHPV.low[i, tokens[last]][seen]
        score[model.hidden_AVHPV[i, tokens[last]][seen]] = -np.inf
    if model.sink_AVH is not None:
        score = np.concatenate([score, model.sink_AVH.low[i, tokens[last]][:, None]], 1)
        value = np.concatenate([value, np.zeros((1, *value.shape[1:]))])
    weight = np.exp(score - score.max(1, keepdims=True))
    weight /= weight.sum(1, keepdims=True)
    return np.einsum("hp,phe->he", weight, value)


def plain_logits(head: Head, x: np.ndarray) -> np.ndarray:
    """Logits from the stream after attention, float64, written for a standard head by its constants."""
    weights = {name: table.low for name, table in head.constants.items()}
    names = [operation.name for operation in head.program.operations]
    centres = iter(np.flatnonzero([name in ("rms", "centre") for name in names]).tolist())

    def norm(role: str, x: np.ndarray) -> np.ndarray:
        if f"{role}_weight" not in weights:
            return x
        if names[next(centres)] == "centre":
            x = x - x.mean()
            next(centres)
        x = x / np.sqrt((x * x).mean() + 1e-5)
        return x * weights[f"{role}_weight"] + weights[f"{role}_bias"]

    u = norm("norm2", x)
    h = u @ weights["fc1"] + weights.get("fc1_bias", 0.0)
    if "gate" in weights:
        q = u @ weights["gate"]
        h = q / (1 + np.exp(-q)) * h
    elif "gelu" in names:
        h = h * 0.5 * (1 + np.vectorize(math.erf)(h / math.sqrt(2)))
    else:
        h = np.maximum(h, 0)
    x = x + h @ weights["fc2"] + weights.get("fc2_bias", 0.0)
    return norm("norm_f", x) @ weights["unembed"]


def leaf_of(i: int, a: int, b: int, n: int) -> int:
    """Canonical index of the leaf that holds a pair."""
    c = into(a, b, i - 1) if i > 1 else 0
    if i > n:
        return c
    before = (a // 10 ** (i - 1) % 10, b // 10 ** (i - 1) % 10) if i else (0, 0)
    here = (a // 10**i % 10, b // 10**i % 10) if i < n else (0, 0)
    shape = (
        (1, 1, 1, 10, 10) if i == 0 else (1 if i == 1 else 2, 10, 10, *((1, 1) if i == n else (10, 10)))
    )
    return int(np.ravel_multi_index((c, *before, *here), shape))


def test_leaves_partition_the_pairs_and_name_the_right_digit() -> None:
    n, model = 2, hand_made(2)
    for step in model.steps:
        i, leaves = step.index, leaves_of(step)
        held = np.zeros(len(leaves), dtype=int)
        for a, b in all_pairs(n):
            leaf, answer = leaf_of(i, a, b, n), digits_of(a + b, n + 1)
            held[leaf] += 1
            assert leaves.right[leaf] == answer[i]
            assert leaves.row[leaf] == (answer[i - 1] if i else 0)
        by_carry = count([FREE] * n, [FREE] * n, [FREE] * n, i)
        assert held.tolist() == [by_carry[c] for c in leaves.carry]


@pytest.mark.parametrize("i", range(4))
def test_carry_dp_is_the_maximum(i: int) -> None:
    """Against all digits of three columns, with forbidden digits and a fixed carry."""
    n, rng = 3, np.random.default_rng(i)
    gain = rng.normal(size=(3 * n, 10, 4))
    gain[rng.random((3 * n, 10, 4)) < 0.2] = NEVER
    gain[2 * n :] = rng.normal(size=(n, 10, 4))
    carry = np.ones((n, 2, 4), dtype=bool)
    carry[1, 0, 1] = carry[1, 1, 2] = False
    found = maximum(gain, i, n, carry)
    best = np.full((2, 4), -np.inf)
    for a, b in all_pairs(n) if i else [(a, b) for a, b in all_pairs(n) if a % 10 == b % 10 == 0]:
        own = {i, i - 1} if i else {0}
        if any(a // 10**j % 10 or b // 10**j % 10 for j in own if j < n):
            continue  # the leaf's own columns, which it leaves out
        c = into(a, b, i - 1) if i > 1 else 0
        total = np.zeros(4)
        for j in range(n):
            if j in own:
                continue
            x, y = a // 10**j % 10, b // 10**j % 10
            total = total + gain[j, x] + gain[n + j, y]
            if j < i - 1:
                total = total + gain[2 * n + j, (x + y + into(a, b, j)) % 10]
                total = np.where(carry[j, into(a, b, j)], total, NEVER)
        best[c] = np.maximum(best[c], total)
    for c in range(2 if i > 1 else 1):
        finite = best[c] > NEVER / 2
        np.testing.assert_allclose(found[c][finite], best[c][finite], rtol=1e-13)
        assert (found[c] >= best[c]).all() and (found[c][~finite] < NEVER / 2).all()


def test_counts_are_exact() -> None:
    n, rng = 3, np.random.default_rng(0)
    x, y = np.divmod(np.arange(100**n), 10**n)
    for i in range(n + 1):
        own = {i, i - 1} & set(range(n))
        for _ in range(6):
            a, b = (rng.choice([FREE, FREE, 0, 4, 5, 9], n).tolist() for _ in "ab")
            carry = [FREE, int(rng.choice([FREE, 0, 1])), FREE] if i >= 3 else [FREE] * n
            fits = np.ones(len(x), dtype=bool)
            for j in range(n):
                for number, fixed in ((x, a[j]), (y, b[j])):
                    wanted = 0 if j in own else fixed  # own columns are left out: one choice
                    fits &= (number // 10**j % 10 == wanted) | (wanted == FREE)
                fits &= (x % 10**j + y % 10**j >= 10**j) == carry[j] if carry[j] != FREE else True
            over = (
                (x % 10 ** (i - 1) + y % 10 ** (i - 1) >= 10 ** (i - 1))
                if i > 1
                else np.zeros_like(fits)
            )
            totals = (int((fits & ~over).sum()), int((fits & over).sum()))
            assert count(a, b, carry, i) == totals, (i, a, b, carry)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.slow
def test_accepted_bounds_hold_for_every_pair_and_are_nearly_exact(seed: int) -> None:
    n, model = 2, random_model(seed, 2)
    for i in range(n + 1):
        frame = axes_frame(len(model.steps[i].tokens), model.heads, model.bottleneck)
        frame.shear_RHE[..., 1] = 0.3 * seed
        bounds, _ = leaf_bounds(model, i, frame, nodes=129)
        least = np.full(bounds.shape[:-1], np.inf)
        most = -least
        for a, b in all_pairs(n):
            y = plain_attention(model, i, a, b)
            u = np.stack([y[:, 0], y[:, 1] - 0.3 * seed * y[:, 0]], 1)
            leaf = leaf_of(i, a, b, n)
            assert (bounds[leaf, ..., 0] <= u).all() and (u <= bounds[leaf, ..., 1]).all()
            least[leaf], most[leaf] = np.minimum(least[leaf], u), np.maximum(most[leaf], u)
        # What is left is the chords' slack, where the extremes change quickly between nodes.
        slack = np.stack([least - bounds[..., 0], bounds[..., 1] - most])
        assert slack.max() < 0.05 and np.median(slack) < 1e-5


@pytest.mark.parametrize(("seed", "heads", "bottleneck"), [(1, 2, 3), (2, 3, 1)])
def test_accepted_bounds_of_the_sum_of_heads_hold_for_every_pair(
    seed: int, heads: int, bottleneck: int
) -> None:
    n = 2
    apart = random_model(seed, n, heads, bottleneck)
    if heads == 2:
        # The second head takes most of the first one's output back.
        query, key, value = (
            x[:, :, [0, 0]] for x in (apart.query_AVHK, apart.key_PVHK, apart.value_PVHE)
        )
        out = Interval(np.stack([apart.out_HED.low[0], -0.9 * apart.out_HED.low[0]]))
        apart = dataclasses.replace(apart, query_AVHK=query, key_PVHK=key, value_PVHE=value, out_HED=out)
    model = apart.in_coordinates(min(heads * bottleneck, 4), shared=True)
    E = model.bottleneck
    for i in (0, n):
        step, leaves = model.steps[i], leaves_of(model.steps[i])
        frame = axes_frame(len(step.tokens), 1, E)
        frame.shear_RHE[..., 1:] = 0.3 * seed
        functional = functionals(frame)
        every = Frame(
            pivot_RH=np.repeat(frame.pivot_RH, heads, 1), shear_RHE=np.repeat(frame.shear_RHE, heads, 1)
        )
        bounds = leaf_bounds(model, i, every, nodes=65, halvings=16)[0].astype(np.float64)
        parts = project(step, np.arange(len(step.tokens)), functional)
        free = np.full((len(leaves), 2 * n), FREE, dtype=np.int8)

        def proved(joint, step=step, leaves=leaves, parts=parts, free=free, bounds=bounds):
            found = joint_excess(step, leaves, parts, leaves.row, free, free[:, :n], bounds, joint)
            return found <= 0

        good = bounds.sum(1) + np.array([-1e-3, 1e-3])
        bad, alone = good[..., ::-1].copy(), good[..., 1] - good[..., 0]
        assert proved(good).all()
        for _ in range(20):
            middle = 0.5 * (good + bad)
            yes = proved(middle)
            good, bad = np.where(yes, middle, good), np.where(yes, bad, middle)
        assert ((good[..., 1] - good[..., 0]) <= alone).all()
        if heads == 2 and i == n:
            assert np.mean((good[..., 1] - good[..., 0]) / alone) < 0.6
        for a, b in all_pairs(n):
            leaf = leaf_of(i, a, b, n)
            y = plain_attention(model, i, a, b).sum(0)
            u = functional.low[leaves.row[leaf], 0] @ y
            assert (good[leaf, :, 0] <= u + 1e-12).all() and (u <= good[leaf, :, 1] + 1e-12).all()
            if (100 * a + b) % 499 == 0:
                # The stream moves as it does where each head has its own coordinates.
                there = np.einsum("he,hed->d", plain_attention(apart, i, a, b), apart.out_HED.low)
                assert np.allclose(y @ model.out_HED.low[0], there, atol=1e-9)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.slow
def test_bounds_with_more_scores_hidden_keys_a_sink_and_the_end_step(seed: int) -> None:
    n, model = 2, random_model(seed, 2, end="13")
    A, V, H, _ = model.query_AVHK.shape
    P, rng = model.key_PVHK.shape[0], np.random.default_rng(seed)
    hidden = rng.random((A, V, H, P, V)) < 0.2
    for i in range(A):  # of its own token every query sees something
        hidden[i, :, :, model.geometry.query_position(i)] = False
    model = dataclasses.replace(
        model,
        score_AVHPV=Interval(np.where(hidden, 0.0, rng.normal(size=hidden.shape))),
        hidden_AVHPV=hidden,
        sink_AVH=Interval(rng.normal(size=(A, V, H))),
    )
    assert len(model.steps) == n + 2
    for step in model.steps:
        i, leaves = step.index, leaves_of(step)
        frame = axes_frame(len(step.tokens), model.heads, model.bottleneck)
        bounds, _ = leaf_bounds(model, i, frame, nodes=65, halvings=14)
        least = np.full(bounds.shape[:-1], np.inf)
        most, held = -least, np.zeros(len(leaves), dtype=int)
        for a, b in all_pairs(n):
            y, leaf = plain_attention(model, i, a, b), leaf_of(i, a, b, n)
            answer = digits_of(a + b, n + 1)
            assert leaves.right[leaf] == (13 if i > n else answer[i])
            assert leaves.row[leaf] == (answer[i - 1] if i else 0)
            held[leaf] += 1
            if (100 * a + b) % 97 == 0:
                row, right, enclosed = mix_at(model, step, a, b)
                assert (row, right) == (leaves.row[leaf], leaves.right[leaf])
                assert (enclosed.low <= y + 1e-12).all() and (y <= enclosed.high + 1e-12).all()
            least[leaf], most[leaf] = np.minimum(least[leaf], y), np.maximum(most[leaf], y)
        by_carry = count([FREE] * n, [FREE] * n, [FREE] * n, i)
        assert held.tolist() == [by_carry[c] for c in leaves.carry]
        assert (bounds[..., 0] <= least).all() and (most <= bounds[..., 1]).all()
        slack = np.stack([least - bounds[..., 0], bounds[..., 1] - most])
        assert slack.max() < 0.1


def test_a_query_that_may_see_no_key_is_refused() -> None:
    model = random_model(0, 2)
    A, V, H, _ = model.query_AVHK.shape
    shape = (A, V, H, model.key_PVHK.shape[0], V)
    model = dataclasses.replace(
        model, score_AVHPV=Interval(np.zeros(shape)), hidden_AVHPV=np.ones(shape, dtype=bool)
    )
    with pytest.raises(Failure, match="no key"):
        model.steps[0]


@pytest.mark.parametrize("shared", [False, True])
def test_other_coordinates_make_the_same_model(shared: bool) -> None:
    """Folded into the channels that the projection reaches, one of which is zero."""
    model = random_model(4, 2, heads=2, bottleneck=3)
    out = model.out_HED.low.copy()
    out[:, :, 1] = 1e-300
    out[:, :, 2] = 0.0
    model = dataclasses.replace(model, out_HED=Interval(out))
    for number in (2, 4, 6 if shared else 3):
        other = model.in_coordinates(number, shared)
        assert other.bottleneck == number and other.shared == shared
        for a, b in ((0, 0), (47, 52)):
            step = model.steps[1]
            found = []
            for each in (model, other):
                _, _, y = mix_at(each, each.steps[1], a, b)
                x = (Interval(y.low[..., None], y.high[..., None]) * each.out_HED).sum(0).sum(0)
                found.append(x + each.steps[1].residual_ZD[step.tokens.index(digits_of(a + b, 3)[0])])
            x, y = found
            assert np.abs(x.low - y.low).max() < 1e-12 and np.abs(x.high - y.high).max() < 1e-12
            assert (y.low[1:3] <= x.high[1:3]).all() and (x.low[1:3] <= y.high[1:3]).all()
    assert model.in_coordinates(5, shared) is model


@pytest.mark.parametrize("factor", [30.0, 1e4])
@pytest.mark.slow
def test_bounds_of_sharp_attention_hold_for_every_pair(factor: float) -> None:
    """Scores so far apart that the weights of most inputs underflow beside those of others."""
    n, model = 2, random_model(3, 2, heads=1)
    model = dataclasses.replace(model, query_AVHK=model.query_AVHK * factor)
    assert any(len(step.bands) > 1 for step in model.steps) == (factor > 100)
    for i, step in list(enumerate(model.steps))[1:]:
        frame = axes_frame(len(step.tokens), model.heads, model.bottleneck)
        bounds, _ = leaf_bounds(model, i, frame, nodes=65, halvings=10)
        least = np.full(bounds.shape[:-1], np.inf)
        most = -least
        for a, b in all_pairs(n):
            y = plain_attention(model, i, a, b)
            if (100 * a + b) % 97 == 0:
                _, _, enclosed = mix_at(model, step, a, b)
                assert (enclosed.low <= y + 1e-9).all() and (y <= enclosed.high + 1e-9).all()
                assert (enclosed.high - enclosed.low < 1e-7).all()
            leaf = leaf_of(i, a, b, n)
            assert (bounds[leaf, ..., 0] <= y).all() and (y <= bounds[leaf, ..., 1]).all()
            least[leaf], most[leaf] = np.minimum(least[leaf], y), np.maximum(most[leaf], y)
        slack = np.stack([least - bounds[..., 0], bounds[..., 1] - most])
        assert slack.max() < 0.2


@pytest.mark.parametrize("activation", ["gelu", "relu", "swiglu"])
@pytest.mark.parametrize("norm2", ["none", "rms", "layer"])
@pytest.mark.parametrize("norm_f", ["none", "rms", "layer"])
def test_head_bounds_hold_over_boxes(activation: str, norm2: str, norm_f: str) -> None:
    rng = np.random.default_rng(1)
    for seed in range(3):
        model = random_model(seed, 2, activation=activation, norm2=norm2, norm_f=norm_f)
        N, K, D = 4, 4, 4
        x0, out = rng.normal(size=(N, D)) * 2, model.out_HED.low.reshape(K, D)
        low = rng.normal(size=(N, K))
        high = low + rng.choice([0.0, 1e-6, 0.01, 0.3], (N, 1)) * rng.random((N, K))
        right_N = seed * 4 + np.arange(N)
        found = margins(
            model.head, right_N, Interval(x0), Interval(np.broadcast_to(out, (N, K, D))), low, high
        )
        proved_low, proved_high = found.true_low_N(), found.true_high_N()
        for box, right in enumerate(right_N):
            others, smallest = [t for t in range(14) if t != right], np.inf
            for trial in range(40):
                share = rng.integers(0, 2, K) if trial % 2 else rng.random(K)
                x = x0[box] + (low[box] + share * (high[box] - low[box])) @ out
                logits = plain_logits(model.head, x)
                margin = (logits[right] - logits[others]).min()
                assert proved_low[box] <= margin + 1e-9
                smallest = min(smallest, margin)
            assert smallest <= proved_high[box] + 1e-9
            if (high[box] - low[box]).max() <= 1e-6:
                assert proved_high[box] - proved_low[box] < 1e-2


def test_halving_proves_what_one_box_cannot() -> None:
    model = hand_made(2)
    R = Interval(model.out_HED.low.reshape(1, 1, 2))
    zero, nine = np.zeros(1, dtype=np.intp), np.array([9])
    x0 = Interval(np.array([[0.0, 1.0]]))
    # x_0 = l from 8.7 to 9.49: up to 9.45 it is a 9 by 0.1 or more; then the first hidden unit sets
    # in, and its bend spoils the bound of a box that reaches over it.
    low, high = np.array([[8.7 / 2.2]]), np.array([[9.46 / 2.2]])
    assert margins(model.head, nine, x0, R, low, high).true_low_N()[0] < 0
    smallest = min(
        (lambda x: x[9] - np.delete(x, 9).max())(plain_logits(model.head, np.array([l, 1.0])))
        for l in np.linspace(8.7, 9.46, 1000)
    )
    wanted = 0.9 * smallest
    assert wanted > 0
    proved = proved_margins(model.head, nine, (x0, zero), (R, zero), low, high, wanted)
    assert wanted <= proved[0] <= smallest
    impossible = proved_margins(model.head, nine, (x0, zero), (R, zero), low, high, 1.1 * smallest)
    assert np.isnan(impossible[0])


def test_margins_at_a_pair_are_those_of_the_definition() -> None:
    for model in (hand_made(2), random_model(5, 2, activation="swiglu")):
        D = model.out_HED.shape[2]
        for a, b in ((0, 0), (99, 99), (47, 52), (5, 95)):
            answer = digits_of(a + b, 3)
            by_step = margin_by_step(model, a, b)
            for i in range(3):
                row = dict(model.geometry.separators)[model.geometry.query_positions[0]]
                row = answer[i - 1] if i else row
                y = plain_attention(model, i, a, b).reshape(-1)
                x = model.residual_AVD.low[i, row] + y @ model.out_HED.low.reshape(-1, D)
                logits = plain_logits(model.head, x)
                margin = (logits[answer[i]] - np.delete(logits, answer[i])).min()
                low, high = by_step[i]
                assert low <= margin + 1e-9 and margin - 1e-9 <= high and high - low < 1e-8
            assert smallest_margin(model, a, b)[0] == min(low for low, _ in by_step)


def test_trees() -> None:
    n, i = 4, 4
    everything = count([FREE] * n, [FREE] * n, [FREE] * n, i)
    single, pairs = read_tree([-1], i, n, 1)
    assert len(single) == 1 and pairs == everything[1]
    # a_2 first; where it is 3, the carry into column 2; where it is 7, b_1.
    tree = [2, -1, -1, -1, 2 * n + 2, -1, -1, -1, -1, -1, n + 1, *[-1] * 10, -1, -1]
    cells, pairs = read_tree(tree, i, n, 1)
    assert len(cells) == 20 and pairs == everything[1]
    assert cells.digits_NS[4, 2] == 3 and cells.carries_NJ[4].tolist() == [FREE, FREE, 1, FREE]
    assert cells.digits_NS[17].tolist() == [FREE, FREE, 7, FREE, FREE, 9, FREE, FREE]
    # a_2 = b_2 = 9 carries always: no pair has carry 0 into column 3.
    ends = [-1] * 9
    cells, pairs = read_tree([2, *ends, n + 2, *ends, -2], i, n, 0)
    assert pairs == everything[0] and len(cells) == 18


@pytest.mark.parametrize(
    ("tree", "why"),
    [
        ([], "ends before"),
        ([2, -1], "ends before"),
        ([-1, -1], "goes on after"),
        ([2, *[-1] * 11], "goes on after"),
        ([3, *[-1] * 10], "the leaf fixes already"),
        ([4 + 3, *[-1] * 10], "the leaf fixes already"),
        ([8, -1, -1], "the carry into column 0"),
        ([8 + 3, -1, -1], "the carry into column 3"),
        ([12, *[-1] * 10], "unknown code"),
        ([-3], "unknown code"),
        ([2, 2, *[-1] * 19], "twice"),
        ([10, 10, -1, -1, -1], "twice"),
        ([2, -2, *[-1] * 9], "holds"),
        ([-2], "holds"),
    ],
)
def test_what_is_no_tree_is_refused(tree: list[int], why: str) -> None:
    with pytest.raises(Rejected, match=why):
        read_tree(tree, 4, 4, 1)


def test_unknown_layouts_are_refused() -> None:
    good = geometry(3)
    changes: list[dict[str, Any]] = [
        {"separators": good.separators[:1]},
        {"separators": (*good.separators, good.separators[0])},
        {"a_positions": (0, 1, 1)},
        {"b_positions": good.b_positions[:2]},
        {"query_positions": tuple(p + 1 for p in good.query_positions)},
        {"sum_positions": tuple(reversed(good.sum_positions))},
    ]
    for change in changes:
        with pytest.raises(Failure, match="layout"):
            dataclasses.replace(good, **change)


def test_parts_of_many_heads_are_counted_beyond_64_bits() -> None:
    parts_NH = np.full((3, 6), 4096)
    assert number_of_boxes(parts_NH) == 3 * 2.0**72 > MOST_BOXES
    assert number_of_boxes(np.array([[2, 3], [1, 4]])) == 10
