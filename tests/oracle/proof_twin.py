"""Slow, obvious twin of the prover: every pair of a small instance, one key at a time.

Also a generator of small random instances with any number of columns, heads, norms and activations.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np

from adderlab.models.head_program import NormForm
from adderlab.proof.carries import Leaves
from adderlab.proof.problem import (
    Geometry,
    Head,
    Problem,
    Step,
    shared_coordinates,
)


def geometry(columns: int, style: str) -> Geometry:
    """A small cousin of layout P (most significant digit first), M or S."""
    n = columns
    if style == "P":
        a = tuple(n - 1 - j for j in range(n))
        b = tuple(2 * n - j for j in range(n))
        separators = ((n, 10), (2 * n + 1, 11))
        prompt = 2 * n + 2
    elif style == "M":
        a = tuple(range(n))
        b = tuple(n + 1 + j for j in range(n))
        separators = ((n, 0), (2 * n + 1, 0))
        prompt = 2 * n + 2
    else:
        a = tuple(1 + j for j in range(n))
        b = tuple(n + 3 + j for j in range(n))
        separators = ((0, 0), (n + 1, 0), (n + 2, 0), (2 * n + 3, 0))
        prompt = 2 * n + 4
    return Geometry(
        a_positions=a,
        b_positions=b,
        sum_positions=tuple(range(prompt, prompt + n + 1)),
        query_positions=tuple(range(prompt - 1, prompt + n)),
        separators=separators,
    )


def random_problem(
    seed: int,
    *,
    columns: int = 2,
    style: str = "P",
    heads: int = 1,
    bottleneck: int = 2,
    norm: str = "rms",
    activation: str = "gelu",
    local: float = 4.0,
) -> Problem:
    """Random tables. ``local`` raises the scores of columns i and i - 1, as trained models do."""
    rng = np.random.default_rng(seed)
    g = geometry(columns, style)
    V, D, F, K = (12 if style == "P" else 10), 4, 5, 2
    A, P = columns + 1, g.sum_positions[0] + columns
    query = rng.normal(size=(A, V, heads, K))
    key = 0.5 * rng.normal(size=(P, V, heads, K))
    # One more key coordinate per step says how near a position's column is.
    near_query = np.zeros((A, V, heads, A))
    near_key = np.zeros((P, V, heads, A))
    for i in range(A):
        near_query[i, :, :, i] = 1.0
        for positions in (g.a_positions, g.b_positions, g.sum_positions[:columns]):
            for j, p in enumerate(positions):
                near_key[p, :, :, i] = local * (j in (i, i - 1)) - 0.7 * abs(i - j)
    slope = rng.normal(size=(1, 1, heads, bottleneck))
    digit = np.minimum(np.arange(V), 9)[None, :, None, None] / 3.0
    value = slope * digit + 0.3 * rng.normal(size=(P, V, heads, bottleneck))
    biased = norm == "layer"
    head = Head(
        norm2=NormForm(kind=norm, eps=1e-5),  # type: ignore[arg-type]
        norm2_weight=rng.normal(size=D),
        norm2_bias=rng.normal(size=D) * biased,
        activation=activation,
        fc1_DF=rng.normal(size=(D, F)),
        fc1_bias=0.3 * rng.normal(size=F),
        gate_DF=rng.normal(size=(D, F)) if activation == "swiglu" else None,
        fc2_FD=rng.normal(size=(F, D)),
        fc2_bias=0.3 * rng.normal(size=D),
        norm_f=NormForm(kind=norm, eps=1e-5),  # type: ignore[arg-type]
        norm_f_weight=rng.normal(size=D),
        norm_f_bias=rng.normal(size=D) * biased,
        unembed_DV=rng.normal(size=(D, V)),
    )
    return Problem(
        geometry=g,
        query_AVHK=np.concatenate([query, near_query], -1),
        key_PVHK=np.concatenate([key, near_key], -1),
        value_PVHE=value,
        residual_AVD=rng.normal(size=(A, V, D)),
        attn_out_HED=rng.normal(size=(heads, bottleneck, D)),
        head=head,
    )


def sharing(problem: Problem) -> Problem:
    """The same problem with the heads in coordinates that they share."""
    value, attn_out = shared_coordinates(problem.value_PVHE, problem.attn_out_HED)
    return dataclasses.replace(problem, value_PVHE=value, attn_out_HED=attn_out, summed=True)


def cancelling(problem: Problem, share: float = 0.9) -> Problem:
    """The problem of one head with a second one that takes ``share`` of its output back."""
    query, key, value = (
        np.concatenate([table, table], 2)
        for table in (problem.query_AVHK, problem.key_PVHK, problem.value_PVHE)
    )
    out = np.concatenate([problem.attn_out_HED, -share * problem.attn_out_HED])
    return dataclasses.replace(
        problem, query_AVHK=query, key_PVHK=key, value_PVHE=value, attn_out_HED=out
    )


def all_pairs(columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Digits of every pair, units first: a (10^(2n), n) and b."""
    digits = np.array(list(itertools.product(range(10), repeat=columns)))[:, ::-1]
    N = len(digits)
    return np.repeat(digits, N, 0), np.tile(digits, (N, 1))


def pairs_of_leaf(step: Step, leaf: Leaves, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Digits of every pair of one leaf, by trying all digits of the other columns."""
    n, i = step.columns, step.index
    fixed = {}
    if i:
        fixed |= {i - 1: leaf.a_before_N[row], n + i - 1: leaf.b_before_N[row]}
    if i < n:
        fixed |= {i: leaf.a_N[row], n + i: leaf.b_N[row]}
    digits = np.indices([1 if slot in fixed else 10 for slot in range(2 * n)]).reshape(2 * n, -1)
    for slot, digit in fixed.items():
        digits[slot] = digit
    a, b = digits[:n].T, digits[n:].T
    carry = np.zeros(len(a), dtype=np.int64)
    for j in range(i - 1):
        carry = (a[:, j] + b[:, j] + carry) // 10
    return a[carry == leaf.carry_N[row]], b[carry == leaf.carry_N[row]]


def tokens_of(problem: Problem, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Teacher-forced token sequences and the digits of a + b."""
    g, n = problem.geometry, problem.columns
    carry = np.zeros(len(a), dtype=np.int64)
    sums = []
    for j in range(n):
        total = a[:, j] + b[:, j] + carry
        sums.append(total % 10)
        carry = total // 10
    s = np.stack([*sums, carry], 1)
    tokens = np.zeros((len(a), g.sum_positions[-1] + 1), dtype=np.int64)
    for p, token in g.separators:
        tokens[:, p] = token
    tokens[:, list(g.a_positions)] = a
    tokens[:, list(g.b_positions)] = b
    tokens[:, list(g.sum_positions)] = s
    return tokens, s


def attention(problem: Problem, i: int, tokens: np.ndarray) -> np.ndarray:
    """The attention output y of step i for token sequences: (B, H, E)."""
    position = problem.geometry.query_positions[i]
    query = problem.query_AVHK[i, tokens[:, position]]
    score, value = [], []
    for p in range(position + 1):
        key = problem.key_PVHK[p, tokens[:, p]]
        score.append((query * key).sum(-1))
        value.append(problem.value_PVHE[p, tokens[:, p]])
    score = np.stack(score, 1)
    weight = np.exp(score - score.max(1, keepdims=True))
    weight = weight / weight.sum(1, keepdims=True)
    return (weight[..., None] * np.stack(value, 1)).sum(1)


def _norm(kind: str, eps: float, weight: np.ndarray, bias: np.ndarray, x: np.ndarray) -> np.ndarray:
    if kind == "layer":
        x = x - x.mean(-1, keepdims=True)
    if kind != "none":
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
    return x * weight + bias


def logits(problem: Problem, i: int, token: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Logits of step i from the query tokens (B,) and y (B, H, E): (B, V)."""
    head = problem.head
    x = problem.residual_AVD[i, token] + np.einsum("bhe,hed->bd", y, problem.attn_out_HED)
    u = _norm(head.norm2.kind, head.norm2.eps, head.norm2_weight, head.norm2_bias, x)
    up = u @ head.fc1_DF + head.fc1_bias
    if head.activation == "swiglu":
        gate = u @ head.gate_DF
        hidden = gate / (1 + np.exp(-gate)) * up
    elif head.activation == "gelu":
        hidden = up * 0.5 * (1 + np.vectorize(math.erf)(up / math.sqrt(2)))
    else:
        hidden = np.maximum(up, 0)
    x = x + hidden @ head.fc2_FD + head.fc2_bias
    return (
        _norm(head.norm_f.kind, head.norm_f.eps, head.norm_f_weight, head.norm_f_bias, x)
        @ head.unembed_DV
    )


def all_margins(problem: Problem, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Teacher-forced margin of every pair at every step, true logits: (B, n + 1)."""
    tokens, s = tokens_of(problem, a, b)
    return np.stack([_margins(problem, i, tokens, s) for i in range(problem.columns + 1)], 1)


def step_margins(problem: Problem, i: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """As ``all_margins``, for one step: (B,)."""
    return _margins(problem, i, *tokens_of(problem, a, b))


def _margins(problem: Problem, i: int, tokens: np.ndarray, s: np.ndarray) -> np.ndarray:
    z = logits(problem, i, tokens[:, problem.geometry.query_positions[i]], attention(problem, i, tokens))
    right = np.take_along_axis(z, s[:, [i]], 1)[:, 0]
    np.put_along_axis(z, s[:, [i]], -np.inf, 1)
    return right - z.max(1)


def fitted_problem(seed: int, *, columns: int = 2, hidden: int = 80, style: str = "M") -> Problem:
    """A random instance whose last map is fitted, by least squares, to add right on most pairs."""
    rng = np.random.default_rng(seed)
    base = random_problem(seed, columns=columns, style=style, norm="none", local=6.0)
    V = base.residual_AVD.shape[1]
    E = base.bottleneck
    head = Head(
        norm2=base.head.norm2,
        norm2_weight=np.ones(V),
        norm2_bias=np.zeros(V),
        activation="gelu",
        fc1_DF=2.0 * rng.normal(size=(V, hidden)),
        fc1_bias=3.0 * rng.normal(size=hidden),
        gate_DF=None,
        fc2_FD=np.zeros((hidden, V)),
        fc2_bias=np.zeros(V),
        norm_f=base.head.norm_f,
        norm_f_weight=np.ones(V),
        norm_f_bias=np.zeros(V),
        unembed_DV=np.eye(V),
    )
    problem = dataclasses.replace(
        base,
        residual_AVD=rng.normal(size=(columns + 1, V, V)),
        attn_out_HED=0.7 * rng.normal(size=(1, E, V)),
        head=head,
    )
    a, b = all_pairs(columns)
    rows = rng.choice(len(a), 4000, replace=False)
    tokens, s = tokens_of(problem, a[rows], b[rows])
    features, wanted = [], []
    for i, position in enumerate(problem.geometry.query_positions):
        y = attention(problem, i, tokens)
        x = problem.residual_AVD[i, tokens[:, position]] + np.einsum(
            "bhe,hed->bd", y, problem.attn_out_HED
        )
        up = x @ head.fc1_DF + head.fc1_bias
        features.append(up * 0.5 * (1 + np.vectorize(math.erf)(up / math.sqrt(2))))
        wanted.append(3.0 * np.eye(V)[s[:, i]] - x)
    fc2, *_ = np.linalg.lstsq(np.concatenate(features), np.concatenate(wanted), rcond=None)
    return dataclasses.replace(problem, head=dataclasses.replace(head, fc2_FD=fc2))
