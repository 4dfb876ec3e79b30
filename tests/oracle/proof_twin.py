"""Slow, obvious twin of the prover: every pair of a small instance, one key at a time.

Also a generator of small random instances with any number of columns, heads, norms and activations.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import torch

from adderlab.models.head_program import NormForm, evaluate, standard_program
from adderlab.proof.carries import Leaves
from adderlab.proof.forms import Head
from adderlab.proof.problem import Geometry, Problem, Step, coordinates
from oracle.random_programs import structured_head


def geometry(columns: int, style: str, end_token: int | None = None) -> Geometry:
    """A small cousin of layout P (most significant digit first), M, S or pairs; with a step for the end
    token where there is one."""
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
    elif style == "pairs":
        a = b = tuple(1 + j for j in range(n))
        separators = ((0, 111), (n + 1, 110))
        prompt = n + 2
    else:
        a = tuple(1 + j for j in range(n))
        b = tuple(n + 3 + j for j in range(n))
        separators = ((0, 0), (n + 1, 0), (n + 2, 0), (2 * n + 3, 0))
        prompt = 2 * n + 4
    return Geometry(
        a_positions=a,
        b_positions=b,
        sum_positions=tuple(range(prompt, prompt + n + 1)),
        query_positions=tuple(range(prompt - 1, prompt + n + (end_token is not None))),
        separators=separators,
        end_token=end_token,
    )


def pre_norm_head(norm: str, activation: str, constants: dict[str, np.ndarray]) -> Head:
    """A head of the presets' shape with the constants that are given; without a norm its weight is
    multiplied into the matrix behind it."""
    constants = dict(constants)
    for name, behind in (("norm2", ("fc1", "gate")), ("norm_f", ("unembed",))):
        if norm == "none":
            weight = constants.pop(f"{name}_weight")[:, None]
            constants |= {matrix: weight * constants[matrix] for matrix in behind if matrix in constants}
    (mixed, width), (hidden, vocab) = (
        constants["attn_out"].shape,
        (constants["fc1"].shape[1], constants["unembed"].shape[1]),
    )
    form = NormForm(kind=norm, eps=1e-5)  # type: ignore[arg-type]
    program = standard_program(
        mixed=mixed,
        width=width,
        hidden=hidden,
        vocab=vocab,
        norm2=form,
        norm_f=form,
        activation=activation,  # type: ignore[arg-type]
        biases=[name for name in constants if name.endswith("_bias")],
    )
    return Head(program=program, constants={name: constants[name] for name in program.shapes})


def with_constants(problem: Problem, **changed: np.ndarray) -> Problem:
    """The problem with other constants of the same shapes in its head."""
    head = dataclasses.replace(problem.head, constants={**problem.head.constants, **changed})
    return dataclasses.replace(problem, head=head)


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
    structure: str | None = None,
    end_token: int | None = None,
) -> Problem:
    """Random tables. ``local`` raises the scores of columns i and i - 1, as trained models do;
    ``structure`` is a head of ``random_programs`` in place of one with this norm and activation."""
    rng = np.random.default_rng(seed)
    g = geometry(columns, style, end_token)
    V, D, F, K = {"P": 12, "pairs": 112}.get(style, 10), 4, 5, 2
    A, P = g.num_steps, g.query_positions[-1] + 1
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
    if style == "pairs":
        pair = np.arange(100)
        digit[0, 10:110, 0, 0] = (pair // 10 + pair % 10) / 3.0
    value = slope * digit + 0.3 * rng.normal(size=(P, V, heads, bottleneck))
    biased = norm == "layer"
    constants = {
        "norm2_weight": rng.normal(size=D),
        "norm2_bias": rng.normal(size=D),
        "fc1": rng.normal(size=(D, F)),
        "fc1_bias": 0.3 * rng.normal(size=F),
        "gate": rng.normal(size=(D, F)) if activation == "swiglu" else None,
        "fc2": rng.normal(size=(F, D)),
        "fc2_bias": 0.3 * rng.normal(size=D),
        "norm_f_weight": rng.normal(size=D),
        "norm_f_bias": rng.normal(size=D),
        "unembed": rng.normal(size=(D, V)),
    }
    row_AVR = rng.normal(size=(A, V, D))
    constants["attn_out"] = rng.normal(size=(heads * bottleneck, D))
    some = {
        name: array
        for name, array in constants.items()
        if array is not None and (biased or name not in ("norm2_bias", "norm_f_bias"))
    }
    head = pre_norm_head(norm, activation, some)
    if structure is not None:
        head = structured_head(structure, seed, heads * bottleneck, D, V)
    return Problem(
        geometry=g,
        query_AVHK=np.concatenate([query, near_query], -1),
        key_PVHK=np.concatenate([key, near_key], -1),
        value_PVHE=value,
        row_AVR=row_AVR,
        head=head,
    )


def with_scores(problem: Problem, seed: int, *, slope: float = 0.0, window: int = 0, hide: int = 0):
    """The problem with scores that are no products: falling with the distance by ``slope`` (and random
    by token), hidden beyond ``window`` positions before the query; keys of the digit ``hide`` hidden
    where the query's position is even."""
    rng = np.random.default_rng(seed)
    A, V, H, _ = problem.query_AVHK.shape
    P = len(problem.key_PVHK)
    at_A = np.array(problem.geometry.query_positions)
    distance_AP = at_A[:, None] - np.arange(P)
    score = 0.3 * rng.normal(size=(A, V, H, P, V)) - slope * distance_AP[:, None, None, :, None]
    if window:
        score[np.broadcast_to(distance_AP[:, None, None, :, None] > window, score.shape)] = -np.inf
    if hide:
        keys = np.zeros((A, P), dtype=bool)
        keys[at_A % 2 == 0] = True
        keys[np.arange(A), at_A] = False
        score[..., hide] = np.where(keys[:, None, None], -np.inf, score[..., hide])
    return dataclasses.replace(problem, score_AVHPV=score)


def with_sink(problem: Problem, seed: int) -> Problem:
    """The problem with a key that every query has besides, of value 0."""
    rng = np.random.default_rng(seed)
    sink = 2.0 + rng.normal(size=problem.query_AVHK.shape[:3])
    return dataclasses.replace(problem, sink_AVH=sink)


def sharing(problem: Problem) -> Problem:
    """The same problem with the heads in coordinates that they share."""
    value, head = coordinates(problem.value_PVHE, problem.head)
    return dataclasses.replace(problem, value_PVHE=value, head=head, summed=True)


def cancelling(problem: Problem, share: float = 0.9) -> Problem:
    """The problem of one head with a second one that takes ``share`` of its output back."""
    query, key, value = (
        np.concatenate([table, table], 2)
        for table in (problem.query_AVHK, problem.key_PVHK, problem.value_PVHE)
    )
    out = problem.head.constants["attn_out"]
    return dataclasses.replace(
        problem,
        query_AVHK=query,
        key_PVHK=key,
        value_PVHE=value,
        head=with_attn_out(problem.head, np.concatenate([out, -share * out])),
    )


def with_attn_out(head: Head, out_MD: np.ndarray) -> Head:
    """The head with another output projection, of any number of rows."""
    shapes = {**head.program.shapes, "attn_out": out_MD.shape}
    program = dataclasses.replace(head.program, mixed_width=len(out_MD), constants=tuple(shapes.items()))
    return Head(program=program, constants={**head.constants, "attn_out": out_MD})


def all_pairs(columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Digits of every pair, units first: a (10^(2n), n) and b."""
    digits = np.array(list(itertools.product(range(10), repeat=columns)))[:, ::-1]
    N = len(digits)
    return np.repeat(digits, N, 0), np.tile(digits, (N, 1))


def pairs_of_leaf(step: Step, leaf: Leaves, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Digits of every pair of one leaf, by trying all digits of the other columns."""
    n, i = step.columns, step.index
    fixed = {}
    if 0 < i <= n:
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
    """Teacher-forced token sequences and the right answers: the digits of a + b, then the end token if
    it counts."""
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
    if g.pairs:
        tokens[:, list(g.a_positions)] = 10 + 10 * a + b
    else:
        tokens[:, list(g.b_positions)] = b
    tokens[:, list(g.sum_positions)] = s
    if g.end_token is not None:
        s = np.concatenate([s, np.full((len(s), 1), g.end_token)], 1)
    return tokens, s


def attention(problem: Problem, i: int, tokens: np.ndarray) -> np.ndarray:
    """The attention output y of step i for token sequences: (B, H, E)."""
    position = problem.geometry.query_positions[i]
    asked = tokens[:, position]
    query = problem.query_AVHK[i, asked]
    score, value = [], []
    for p in range(position + 1):
        key = problem.key_PVHK[p, tokens[:, p]]
        score.append((query * key).sum(-1))
        if problem.score_AVHPV is not None:
            score[-1] = score[-1] + problem.score_AVHPV[i, asked, :, p, tokens[:, p]]
        value.append(problem.value_PVHE[p, tokens[:, p]])
    if problem.sink_AVH is not None:
        score.append(problem.sink_AVH[i, asked])
        value.append(np.zeros_like(value[0]))
    score = np.stack(score, 1)
    weight = np.exp(score - score.max(1, keepdims=True))
    weight = weight / weight.sum(1, keepdims=True)
    return (weight[..., None] * np.stack(value, 1)).sum(1)


def logits(problem: Problem, i: int, token: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Logits of step i from the query tokens (B,) and y (B, H, E): (B, V)."""
    mixed = y.sum(1) if problem.summed else y.reshape(len(y), -1)
    return program_logits(problem.head, mixed, problem.row_AVR[i, token])


def program_logits(head: Head, mixed: np.ndarray, row: np.ndarray) -> np.ndarray:
    """The program as PyTorch computes it: (B, M), (B, R) -> (B, V)."""
    constants = {name: torch.from_numpy(np.array(x))[None] for name, x in head.constants.items()}
    inputs = (torch.from_numpy(np.ascontiguousarray(x.T))[None] for x in (mixed, row))
    return evaluate(head.program, constants, *inputs)[0].T.numpy().copy()


def all_margins(problem: Problem, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Teacher-forced margin of every pair at every step, true logits: (B, n + 1)."""
    tokens, s = tokens_of(problem, a, b)
    return np.stack([_margins(problem, i, tokens, s) for i in range(problem.geometry.num_steps)], 1)


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
    V, E = base.row_AVR.shape[1], base.bottleneck
    constants = {
        "fc1": 2.0 * rng.normal(size=(V, hidden)),
        "fc1_bias": 3.0 * rng.normal(size=hidden),
        "fc2": np.zeros((hidden, V)),
        "norm2_weight": np.ones(V),
        "norm_f_weight": np.ones(V),
        "unembed": np.eye(V),
    }
    row_AVR = rng.normal(size=(columns + 1, V, V))
    constants["attn_out"] = 0.7 * rng.normal(size=(E, V))
    problem = dataclasses.replace(base, row_AVR=row_AVR, head=pre_norm_head("none", "gelu", constants))
    a, b = all_pairs(columns)
    rows = rng.choice(len(a), 4000, replace=False)
    tokens, s = tokens_of(problem, a[rows], b[rows])
    features, wanted = [], []
    for i, position in enumerate(problem.geometry.query_positions):
        y = attention(problem, i, tokens)
        x = problem.row_AVR[i, tokens[:, position]] + y[:, 0] @ constants["attn_out"]
        up = torch.from_numpy(x @ constants["fc1"] + constants["fc1_bias"])
        features.append(torch.nn.functional.gelu(up).numpy())
        wanted.append(3.0 * np.eye(V)[s[:, i]] - x)
    fc2, *_ = np.linalg.lstsq(np.concatenate(features), np.concatenate(wanted), rcond=None)
    return with_constants(problem, fc2=fc2)
