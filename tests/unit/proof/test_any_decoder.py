"""Heads, attention and layouts other than the presets', against trying every pair."""

import dataclasses

import numpy as np
import pytest
import torch

from adderlab.errors import UsageError
from adderlab.models.head_program import MIXED, ROW
from adderlab.models.tables import TableForm, Tables
from adderlab.proof import count as union
from adderlab.proof.problem import Problem, coordinates, problem_from_tables
from adderlab.proof.prove import prove_problem
from adderlab.proof.search import Limits, decide_leaves
from adderlab.proof.witnesses import pair_margins, to_digits
from adderlab.task.addition import get_layout
from oracle.proof_twin import (
    all_margins,
    all_pairs,
    attention,
    program_logits,
    random_problem,
    sharing,
    tokens_of,
    with_scores,
    with_sink,
)
from oracle.random_programs import STRUCTURES, Writer


def check(problem: Problem) -> tuple[int, ...]:
    """Verdict, counts and margins of the prover are those of every pair; returns the counts by step."""
    margins = all_margins(problem, *all_pairs(problem.columns))
    wrong = margins < 0
    by_step = tuple(wrong.sum(0).tolist())
    verdict = prove_problem(problem)
    assert verdict.verdict == "refuted" and verdict.reason == ""
    assert verdict.failing_by_step == by_step
    assert verdict.failing_pairs == wrong.any(1).sum()
    assert verdict.margin.bound is not None
    assert verdict.margin.bound <= margins.min() <= verdict.margin.witness + 1e-9
    a, b = verdict.margin.pair
    side = 10**problem.columns
    assert margins[a * side + b, verdict.margin.step] == pytest.approx(verdict.margin.witness, abs=1e-9)
    return by_step


@pytest.mark.parametrize("structure", list(STRUCTURES))
def test_counts_are_exact_for_every_structure(structure: str) -> None:
    styles = "PMS"
    at = list(STRUCTURES).index(structure)
    problem = random_problem(
        1, style=styles[at % 3], bottleneck=1 + at % 2, structure=structure, local=2.0
    )
    counts = check(problem)
    assert 0 < sum(counts) < len(counts) * 10**4


@pytest.mark.parametrize("structure", ["parallel", "gated_tanh", "soft_cap"])
def test_counts_of_two_heads_are_exact(structure: str) -> None:
    check(sharing(random_problem(2, heads=2, bottleneck=1, structure=structure, local=2.0)))


SCORES = {
    "ALiBi": lambda problem: with_scores(problem, 0, slope=0.3),
    "window": lambda problem: with_scores(problem, 0, window=4),
    "a hidden digit": lambda problem: with_scores(problem, 0, hide=3),
    "sharp": lambda problem: with_scores(problem, 0, slope=150.0),
    "sharp and hidden": lambda problem: with_scores(problem, 0, slope=150.0, hide=3),
    "sink": lambda problem: with_sink(problem, 0),
    "sink and window": lambda problem: with_sink(with_scores(problem, 0, window=3), 0),
}


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize(("style", "heads"), [("P", 1), ("M", 2)])
def test_counts_are_exact_for_every_kind_of_score(kind: str, style: str, heads: int) -> None:
    base = random_problem(3, style=style, heads=heads, bottleneck=2 if heads == 1 else 1, local=2.0)
    problem = SCORES[kind](base)
    a, b = (digits[:50] for digits in all_pairs(2))
    tokens, _ = tokens_of(problem, a, b)
    assert not np.allclose(attention(problem, 1, tokens), attention(base, 1, tokens))
    check(problem if heads == 1 else sharing(problem))


def test_a_key_that_is_hidden_everywhere_plays_no_part() -> None:
    """Its value may be anything."""
    problem = with_scores(random_problem(3, local=2.0), 0, window=4)
    at = problem.geometry.query_positions[2]
    value = problem.value_PVHE.copy()
    value[: at - 4] = 1e6
    other = dataclasses.replace(problem, value_PVHE=value)
    for step, changed in zip(problem.steps[2:], other.steps[2:], strict=True):
        assert (step.range_HE2 == changed.range_HE2).all()
        first, second = (decide_leaves(p, s, Limits()) for p, s in ((problem, step), (other, changed)))
        assert (first.ranges.bounds_NHE2 == second.ranges.bounds_NHE2).all()


def test_a_step_without_any_key_is_refused() -> None:
    problem = random_problem(3)
    score = np.zeros((3, 12, 1, len(problem.key_PVHK), 12))
    score[1] = -np.inf
    with pytest.raises(UsageError, match="answer step 1 may see no key"):
        _ = dataclasses.replace(problem, score_AVHPV=score).steps
    score[1, 5, 0, 0] = 0.0
    with pytest.raises(UsageError, match="answer step 1 may see no key"):
        _ = dataclasses.replace(problem, score_AVHPV=score).steps
    hidden = dataclasses.replace(problem, score_AVHPV=score, sink_AVH=np.zeros((3, 12, 1)))
    assert len(hidden.steps) == 3


# The end token.

ENDS = [("P", 11, 1, None), ("M", 0, 1, None), ("S", 0, 1, "gated_tanh"), ("P", 10, 2, None)]


@pytest.mark.parametrize(("style", "end", "heads", "structure"), ENDS)
@pytest.mark.parametrize("columns", [1, 2])
def test_the_end_token_is_counted_where_it_counts(style, end, heads, structure, columns) -> None:
    problem = random_problem(
        5,
        columns=columns,
        style=style,
        heads=heads,
        bottleneck=2 if heads == 1 else 1,
        structure=structure,
        end_token=end,
        local=2.0,
    )
    assert len(problem.steps) == columns + 2 and problem.steps[-1].num_leaves == 2
    assert len(check(problem if heads == 1 else sharing(problem))) == columns + 2


def leaning(problem: Problem, end: float) -> Problem:
    """The end token's logit is raised by ``end`` at the last step; the row says which step it is."""
    w = Writer(np.random.default_rng(0), problem.head.program.mixed_width, 2, 12)
    matrix = np.zeros((2, 12))
    matrix[0, 11] = 1.0
    towards = w.build.linear(ROW, w.constant(matrix))
    w.build.add(towards, w.linear(MIXED, 12))
    row = np.zeros((*problem.row_AVR.shape[:2], 2))
    row[-1, :, 0] = end
    return dataclasses.replace(problem, row_AVR=row, head=w.head())


def test_an_end_token_that_fails_for_some_pairs_splits_its_leaves() -> None:
    """A leaf is one of two carries: half of all pairs. Which of them end rightly takes a search."""
    base = random_problem(5, columns=2, style="P", bottleneck=2, end_token=11, local=0.0)
    margin = all_margins(leaning(base, 0.0), *all_pairs(2))[:, -1]
    problem = leaning(base, -np.quantile(margin, 0.2))
    wrong = (all_margins(problem, *all_pairs(2))[:, -1] < 0).sum()
    assert 1900 < wrong < 2100
    verdict = prove_problem(problem)
    assert verdict.failing_by_step[-1] == wrong
    assert any(group.step.index == 3 for group in verdict.groups)


def test_digits_alone_prove_nothing_where_the_end_token_counts() -> None:
    """One head whose digits are right everywhere, with and without the end token."""

    def of(end: float) -> Problem:
        base = random_problem(5, columns=1, style="P", bottleneck=1, end_token=11, local=0.0)
        # Attention tells a + b apart: the value is the digit, and both operands weigh the same.
        geometry, (A, V) = base.geometry, base.row_AVR.shape[:2]
        key = np.zeros_like(base.key_PVHK)
        value = np.zeros_like(base.value_PVHE)
        for p in (geometry.a_positions[0], geometry.b_positions[0]):
            value[p, :10, 0, 0] = np.arange(10)
        w = Writer(np.random.default_rng(0), 1, 12 + A, 12)
        # mixed = (a + b) / keys; each step scales it back, and the digit wins whose parabola is nearest.
        keys = np.array(geometry.query_positions) + 1.0
        total = w.build.multiply(
            MIXED, w.build.linear(w.build.take(ROW, range(12, 12 + A)), w.constant(keys[:, None]))
        )
        # s_0 = total - 10 [total >= 10]; s_1 = [total >= 10]; both by steps from clamps.
        shifted = w.build.add(total, w.vector(-9.0))
        carry = w.build.clamp(shifted, 0.0, 1.0)
        ten = w.build.multiply(carry, w.vector(10.0))
        units = w.build.elementwise("subtract", total, ten)
        is_step = [w.build.take(ROW, [12 + i]) for i in range(A)]
        digit = w.build.add(w.build.multiply(units, is_step[0]), w.build.multiply(carry, is_step[1]))
        ramp = np.zeros((1, 12))
        ramp[0, :10] = 2.0 * np.arange(10)
        bowl = np.full(12, -200.0)
        bowl[:10] = -(np.arange(10.0) ** 2)
        digits = w.build.linear(digit, w.constant(ramp), w.constant(bowl))
        w.build.add(digits, w.build.take(ROW, range(12)))
        row = np.zeros((A, V, 12 + A))
        for i in range(A):
            row[i, :, 12 + i] = 1.0
        row[2, :, 11] = end
        return dataclasses.replace(
            base,
            key_PVHK=key,
            query_AVHK=0 * base.query_AVHK,
            value_PVHE=value,
            row_AVR=row,
            head=w.head(),
        )

    right = prove_problem(of(300.0))
    assert right.verdict == "proved" and right.failing_by_step == (0, 0, 0)
    assert len(right.results) == 3
    wrong = prove_problem(of(100.0))
    assert wrong.verdict == "refuted" and wrong.failing_by_step == (0, 0, 100)
    assert wrong.failing_pairs == 100 and wrong.margin.step == 2


@pytest.mark.parametrize("seed", range(4))
def test_the_union_of_whole_leaves_knows_the_end_token(seed: int) -> None:
    problem = random_problem(0, columns=2, end_token=11)
    rng = np.random.default_rng(seed)
    chosen = [rng.uniform(size=step.num_leaves) < 0.3 for step in problem.steps]
    chosen[-1] = np.array([seed % 2 == 1, seed > 1])
    a, b = all_pairs(2)
    units = a[:, 0] + b[:, 0] >= 10
    top = a[:, 1] + b[:, 1] + units >= 10
    inside = np.stack(
        [
            chosen[0].reshape(10, 10)[a[:, 0], b[:, 0]],
            chosen[1].reshape(10, 10, 10, 10)[a[:, 0], b[:, 0], a[:, 1], b[:, 1]],
            chosen[2].reshape(2, 10, 10)[units.astype(int), a[:, 1], b[:, 1]],
            chosen[3][top.astype(int)],
        ]
    )
    assert union.leaf_union(problem.steps, chosen) == inside.any(0).sum()


# Coordinates.


@pytest.mark.parametrize(("heads", "value_dim", "filled"), [(1, 5, 2), (2, 3, 2), (2, 3, 4), (1, 3, 3)])
def test_values_are_folded_where_their_only_reader_has_fewer_columns(heads, value_dim, filled) -> None:
    """The same logits from the values multiplied by the columns that are not zero."""
    rng = np.random.default_rng(0)
    M, D, V = heads * value_dim, 4, 6
    w = Writer(rng, M, D, V)
    matrix = np.zeros((M, D))
    matrix[:, rng.permutation(D)[:filled]] = rng.normal(size=(M, filled))
    w.logits(w.norm(w.build.add(ROW, w.build.linear(MIXED, w.constant(matrix)))))
    head, value = w.head(), rng.normal(size=(7, V, heads, value_dim))
    narrow, small = coordinates(value, head)
    J = min(filled, M)
    assert narrow.shape == (7, V, heads, J) and small.program.mixed_width == J
    weight = rng.dirichlet(np.ones(7), size=(50, heads))
    token, row = rng.integers(0, V, (50, 7)), rng.normal(size=(50, D))

    def mixed(value: np.ndarray) -> np.ndarray:
        return np.einsum("bhp,bphe->bhe", weight, value[np.arange(7), token])

    before = program_logits(head, mixed(value).reshape(50, M), row)
    after = program_logits(small, mixed(narrow).sum(1), row)
    assert np.allclose(before, after, atol=1e-12)


def test_what_is_read_twice_is_not_folded() -> None:
    w = Writer(np.random.default_rng(0), 5, 2, 6)
    both = w.build.add(w.linear(MIXED, 2), w.build.take(MIXED, [0, 1]))
    w.logits(w.build.add(both, ROW))
    value = np.ones((3, 6, 1, 5))
    same, head = coordinates(value, w.head())
    assert (same == value).all() and head.program.mixed_width == 5


@pytest.mark.parametrize("end_decided", [False, True])
def test_tables_of_any_form_are_a_problem(end_decided: bool) -> None:
    """Scores, sinks, programs and layouts go from tables into the problem."""
    layout = dataclasses.replace(get_layout("M13"), name="own", end_decided=end_decided)
    w = Writer(np.random.default_rng(0), 2 * 3, 4, layout.vocab_size)
    x = w.attended()
    w.build.multiply(
        w.build.function("tanh", w.logits(w.norm(w.build.add(x, w.mlp(x, "gelu_tanh"))))), w.vector(3.0)
    )
    program = w.build.build()
    form = TableForm(layout=layout, heads=2, key_dim=0, value_dim=3, program=program)
    torch.manual_seed(0)
    shapes = form.shapes()
    made = {n: torch.randn(1, *shape, dtype=torch.float64) for n, shape in shapes.items()}
    made["score"][..., 3:5, :] = -torch.inf
    head = {name: torch.from_numpy(array)[None] for name, array in w.constants.items()}
    attention_names = ("query", "key", "score", "value", "residual", "sink")
    tables = Tables(form=form, head=head, **{name: made[name] for name in attention_names})
    problem = problem_from_tables(tables)
    assert problem.summed and problem.bottleneck == 4 and len(problem.steps) == 11 + end_decided
    values = [0, 9999999999, 1234567890], [5, 1, 9876543219]
    a, b = (to_digits(each, 10) for each in values)
    tokens, answers = layout.encode(torch.from_numpy(a).byte(), torch.from_numpy(b).byte())
    for step in problem.steps:
        i, at = step.index, layout.query_positions[step.index]
        wanted = []
        for row in range(3):
            asked = int(tokens[row, at])
            t = tokens[row, : at + 1].long()
            p = torch.arange(at + 1)
            score = torch.cat(
                [made["score"][0, i, asked, :, p, t], made["sink"][0, i, asked][:, None]], 1
            )
            mixed = torch.einsum("hp,phe->he", score.softmax(1)[:, :-1], made["value"][0, p, t])
            z = program_logits(
                w.head(), mixed.reshape(1, -1).numpy(), made["residual"][0, i, [asked]].numpy()
            )[0]
            right = int(answers[row, i])
            wanted.append(z[right] - np.delete(z, right).max())
        assert pair_margins(problem, step, a, b) == pytest.approx(np.array(wanted), abs=1e-9)
