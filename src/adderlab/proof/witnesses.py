"""Real pairs beside the bounds: witnesses that come closest to failing, samples, and what is left open.

Dinkelbach's iteration finds the largest f.y on a leaf exactly: for a trial value tau the carry DP finds
the best digits for sum_p W (f.U - tau), and the ratio that they give is the next tau. It rises
strictly until no digits do better, so the last tau is the maximum and its digits are a pair that
attains it (W. Dinkelbach, On nonlinear fractional programming, 1967). The sweep's bounds come from
chords and are attained by nothing; a margin that was only bounded could not refute a model.

A model that is refuted is left to count. Bounds of a badly trained model decide few of its cells, and of
three columns' million pairs each is worked out in microseconds, in float64 and from the same tables.
Nothing is proved this way: a proof is made of bounds alone.

Before anything is bounded the real model answers the board's 10,010 pairs and a hundred of every
stratum, in half a second. A model that they refute is refuted whatever the bounds can say; what is left
then is to count.

Shapes: B items or pairs, N cells, n columns, J = n digits of an operand, S = 2 J slots, I sum digits
(and the end token where it counts), A answer steps, H heads, E bottleneck, L slots, T digits, O choices
of a tied column.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adderlab.evaluation.suites import adderboard, strata
from adderlab.models.transformer import Adder
from adderlab.proof import count as union
from adderlab.proof.carries import NO, Leaves, Rest, fixed_digits, run_maximum, tied_children
from adderlab.proof.count import pairs_in, patterns, some_pairs
from adderlab.proof.head import OPEN, WRONG, margins_at
from adderlab.proof.problem import FREE, Array, Problem, Step
from adderlab.proof.ranges import IMPOSSIBLE
from adderlab.proof.search import Group, StepResult
from adderlab.task.addition import OPERAND_DIGITS

Ints = NDArray[np.int64]
MAX_ITERATIONS = 50
EVERY = -1
"""In place of a head: the sum of all of them."""
AT_ONCE = 1 << 16
"""Pairs, about, whose margins are worked out together."""


@dataclass(frozen=True, kw_only=True)
class Witness:
    """A real pair and its smallest margin, in true logits, at one teacher-forced step."""

    margin: float
    step: int
    a: int
    b: int


def step_name(i: int, columns: int = OPERAND_DIGITS) -> str:
    """What answer step i of so many columns produces."""
    return f"digit s_{i}" if i <= columns else "the end token"


def leaf_witnesses(problem: Problem, result: StepResult, count: int) -> list[Witness]:
    """Real pairs at the ends of the ``count`` weakest leaves of a step, smallest margin first.

    Why both ends of the pivot's interval: the box is thin, so the margin is nearly linear along it and
    smallest at one end; which one is not known before the margin is worked out.
    """
    rows = np.argsort(result.decision.margin_N, kind="stable")[:count]
    functional_ZHEE = result.frame.functionals()
    found = []
    # Heads that share their coordinates are bounded together too, where each has a single band.
    together = problem.summed and len(result.step.bands) == 1
    for head in (*range(problem.heads), *((EVERY,) if together else ())):
        h = 0 if head == EVERY else head
        pivot_B = result.frame.pivot_ZH[result.leaves.row_N[rows], h]
        functional_BE = functional_ZHEE[result.leaves.row_N[rows], h, pivot_B]
        for sign in (-1.0, 1.0):
            ends = extremes(result.step, result.leaves, rows, head, sign * functional_BE)
            margin_B = pair_margins(problem, result.step, ends.a_BJ, ends.b_BJ)
            found += [
                Witness(margin=margin, step=result.step.index, a=a, b=b)
                for margin, a, b in zip(
                    margin_B.tolist(),
                    *(to_ints(each, result.step.base) for each in (ends.a_BJ, ends.b_BJ)),
                    strict=True,
                )
            ]
    return sorted(found, key=lambda w: (w.margin, w.a, w.b))


def smallest_witness(problem: Problem, results: Sequence[StepResult], known: Witness) -> Witness:
    """The pair with the smallest margin of all, of a task whose pairs are few.

    ``known``: the smallest found so far. Whatever is smaller lies in a leaf whose bound is: the pairs of
    these are all looked at, weakest leaves first.
    """
    best = known
    for result in results:
        bound_N = result.decision.margin_N
        rows = np.argsort(bound_N, kind="stable")
        for block, a_BJ, b_BJ in _pairs_of(result, rows):
            if bound_N[block[0]] >= best.margin:
                break
            margin_B = pair_margins(problem, result.step, a_BJ, b_BJ)
            worst = int(margin_B.argmin())
            if margin_B[worst] < best.margin:
                a, b = (to_ints(each[worst : worst + 1], result.step.base)[0] for each in (a_BJ, b_BJ))
                best = Witness(margin=float(margin_B[worst]), step=result.step.index, a=a, b=b)
    return best


def _pairs_of(result: StepResult, rows: Ints) -> Iterator[tuple[Ints, Ints, Ints]]:
    """(leaves, the digits of all their pairs a_BJ, b_BJ), some leaves at a time."""
    step, leaves = result.step, result.leaves.take(rows)
    cells = patterns(*fixed_digits(step, leaves), step.base)
    together = max(1, AT_ONCE // int(leaves.inputs_N.max()))
    for start in range(0, len(rows), together):
        a_BJ, b_BJ = pairs_in(cells[start : start + together], step.base)
        if len(a_BJ):
            yield rows[start : start + together], a_BJ, b_BJ


def cell_witnesses(problem: Problem, groups: list[Group], count: int = 16) -> list[Witness]:
    """Real pairs from the wrong cells of every group, those with the lowest margin bounds."""
    found, task = [], problem.geometry.addition
    for group in groups:
        wrong = [part for part in group.decided if part.status == WRONG]
        if not wrong:
            continue
        margin_N = np.concatenate([part.margin_N for part in wrong])
        rows = np.argsort(margin_N, kind="stable")[:count]
        pairs = some_pairs(
            np.concatenate([part.cells.digits_NS for part in wrong])[rows],
            np.concatenate([part.cells.carry_NC for part in wrong])[rows],
            task.base,
        )
        step = problem.steps[group.step.index]
        margins = pair_margins(problem, step, *(to_digits(p, task.columns, task.base) for p in pairs))
        found += [
            Witness(margin=margin, step=step.index, a=a, b=b)
            for margin, a, b in zip(margins.tolist(), *pairs, strict=True)
        ]
    return found


@dataclass(frozen=True, kw_only=True)
class Extremes:
    """Largest value of each functional and a pair that attains it, digits units first."""

    value_B: Array
    a_BJ: Ints
    b_BJ: Ints


def carries_of(a_BJ: Ints, b_BJ: Ints, base: int = 10) -> Ints:
    """Carry into every column, and out of the last: (B, n + 1)."""
    carry = np.zeros_like(a_BJ[:, 0])
    into = [carry]
    for j in range(a_BJ.shape[1]):
        carry = (a_BJ[:, j] + b_BJ[:, j] + carry) // base
        into.append(carry)
    return np.stack(into, 1)


def sums_of(a_BJ: Ints, b_BJ: Ints, base: int = 10) -> Ints:
    """Digits of a + b: (B, n + 1)."""
    carry = carries_of(a_BJ, b_BJ, base)
    return np.concatenate([(a_BJ + b_BJ + carry[:, :-1]) % base, carry[:, -1:]], 1)


def _best_digits(gain_LTB: Array, rest: Rest, carry_B: Ints, a_BJ: Ints, b_BJ: Ints) -> None:
    """Write the best free and tied digits into a_BJ and b_BJ."""
    n, base = rest.columns, rest.base
    pairs = gain_LTB.shape[1] != base
    for slot in rest.free:
        choice_B = gain_LTB[slot].argmax(0)
        if not pairs:
            (a_BJ if slot < n else b_BJ)[:, slot % n] = choice_B
        elif slot < n:
            a_BJ[:, slot], b_BJ[:, slot] = np.divmod(choice_B, base)
    tied = len(rest.tied)
    states = [run_maximum(gain_LTB, rest, (0, j), 1)[0] for j in range(tied)]
    a_O, b_O, s_O, in_O, out_O = tied_children(base).T
    for j in reversed(range(tied)):
        value_OB = states[j][in_O] + gain_LTB[j][base * a_O + b_O if pairs else a_O]
        value_OB = value_OB + gain_LTB[n + j][b_O] + gain_LTB[2 * n + j][s_O]
        value_OB[out_O[:, None] != carry_B] = NO
        choice_B = value_OB.argmax(0)
        a_BJ[:, j], b_BJ[:, j], carry_B = a_O[choice_B], b_O[choice_B], in_O[choice_B]


def attention(step: Step, row_B: Ints, a_BJ: Ints, b_BJ: Ints) -> tuple[Array, Array]:
    """Total weight and mass of real inputs, teacher-forced: (weight_BH, mass_BHE)."""
    n, i = step.columns, step.index
    first_BJ = step.base * a_BJ + b_BJ if step.pairs else a_BJ
    digits_BL = np.concatenate([first_BJ, b_BJ, sums_of(a_BJ, b_BJ, step.base)[:, :n]], 1)
    slots = [*range(n if step.pairs else 2 * n), *(2 * n + j for j in range(max(i - 1, 0)))]
    found = None
    # From the top: the lowest band that forbids none of an input's digits is its own.
    for band in reversed(step.bands):
        weight_BH, mass_BHE = band.weight_ZH[row_B], band.mass_ZHE[row_B]
        allowed_BH = np.ones(weight_BH.shape, dtype=bool)
        for slot in slots:
            weight_BH = weight_BH + band.weight_ZHLT[row_B, :, slot, digits_BL[:, slot]]
            mass_BHE = mass_BHE + band.mass_ZHLTE[row_B, :, slot, digits_BL[:, slot]]
            if band.forbids:
                allowed_BH &= band.allowed_ZHLT[row_B, :, slot, digits_BL[:, slot]]
        if found is not None:
            weight_BH = np.where(allowed_BH, weight_BH, found[0])
            mass_BHE = np.where(allowed_BH[..., None], mass_BHE, found[1])
        found = weight_BH, mass_BHE
    assert found is not None
    return found


def extremes(step: Step, leaf: Leaves, rows_B: Ints, head: int, functional_BE: Array) -> Extremes:
    """The largest value of functional . y of one head on leaves ``rows_B``, and where it is attained.

    For the smallest value, turn the functional's sign. Of the sum of the heads (``EVERY``) a large
    value, not always the largest: each turn takes the best digits for what the sum would be if the total
    weights stayed as they are, and it ends where that is no improvement.
    """
    rest = Rest.of_step(step)
    row_B, carry_B = leaf.row_N[rows_B], leaf.carry_N[rows_B]
    a_BJ, b_BJ = _some_input(step, leaf, rows_B)
    if head == EVERY:
        return _extremes_of_sum(step, rest, row_B, carry_B, a_BJ, b_BJ, functional_BE)
    tables = [
        (
            band.weight_ZHLT[row_B, head].transpose(1, 2, 0),
            np.einsum("blte,be->ltb", band.mass_ZHLTE[row_B, head], functional_BE),
            ~band.allowed_ZHLT[row_B, head].transpose(1, 2, 0) if band.forbids else None,
        )
        for band in step.bands
    ]

    def value(a: Ints, b: Ints) -> Array:
        weight_BH, mass_BHE = attention(step, row_B, a, b)
        return (mass_BHE[:, head] * functional_BE).sum(1) / weight_BH[:, head]

    value_B = value(a_BJ, b_BJ)
    for _ in range(MAX_ITERATIONS):
        done = True
        for weight_LTB, mass_LTB, forbidden_LTB in tables:
            new_a, new_b = a_BJ.copy(), b_BJ.copy()
            gain_LTB = mass_LTB - value_B * weight_LTB
            if forbidden_LTB is not None:
                gain_LTB[forbidden_LTB] = IMPOSSIBLE
            _best_digits(gain_LTB, rest, carry_B, new_a, new_b)
            new_value_B = value(new_a, new_b)
            better_B = new_value_B > value_B + 1e-14 * np.abs(value_B)
            if not better_B.any():
                continue
            done = False
            a_BJ = np.where(better_B[:, None], new_a, a_BJ)
            b_BJ = np.where(better_B[:, None], new_b, b_BJ)
            value_B = np.where(better_B, new_value_B, value_B)
        if done:
            break
    return Extremes(value_B=value_B, a_BJ=a_BJ, b_BJ=b_BJ)


def _extremes_of_sum(
    step: Step,
    rest: Rest,
    row_B: Ints,
    carry_B: Ints,
    a_BJ: Ints,
    b_BJ: Ints,
    functional_BE: Array,
) -> Extremes:
    (band,) = step.bands
    mass_BHLT = np.einsum("bhlte,be->bhlt", band.mass_ZHLTE[row_B], functional_BE)
    weight_BHLT = band.weight_ZHLT[row_B]
    forbidden_LTB = ~band.allowed_ZHLT[row_B, 0].transpose(1, 2, 0)

    def values(a: Ints, b: Ints) -> tuple[Array, Array]:
        weight_BH, mass_BHE = attention(step, row_B, a, b)
        return weight_BH, np.einsum("bhe,be->bh", mass_BHE, functional_BE) / weight_BH

    weight_BH, value_BH = values(a_BJ, b_BJ)
    for _ in range(MAX_ITERATIONS):
        gain_BHLT = (mass_BHLT - value_BH[..., None, None] * weight_BHLT) / weight_BH[..., None, None]
        gain_LTB = gain_BHLT.sum(1).transpose(1, 2, 0)
        gain_LTB[forbidden_LTB] = IMPOSSIBLE
        new_a, new_b = a_BJ.copy(), b_BJ.copy()
        _best_digits(gain_LTB, rest, carry_B, new_a, new_b)
        new_weight_BH, new_value_BH = values(new_a, new_b)
        value_B = value_BH.sum(1)
        better_B = new_value_BH.sum(1) > value_B + 1e-14 * np.abs(value_B)
        if not better_B.any():
            break
        weight_BH = np.where(better_B[:, None], new_weight_BH, weight_BH)
        value_BH = np.where(better_B[:, None], new_value_BH, value_BH)
        a_BJ, b_BJ = (
            np.where(better_B[:, None], new, old) for new, old in ((new_a, a_BJ), (new_b, b_BJ))
        )
    return Extremes(value_B=value_BH.sum(1), a_BJ=a_BJ, b_BJ=b_BJ)


def _some_input(step: Step, leaf: Leaves, rows_B: Ints) -> tuple[Ints, Ints]:
    """Any input of each leaf: zeros, and a 5 + 5 below column i - 1 where a carry is needed."""
    n, i, base = step.columns, step.index, step.base
    if step.given:
        pairs = some_pairs(*fixed_digits(step, leaf.take(rows_B)), base)
        a_BJ, b_BJ = (to_digits(numbers, n, base) for numbers in pairs)
        return a_BJ, b_BJ
    a_BJ = np.zeros((len(rows_B), n), dtype=np.int64)
    b_BJ = np.zeros_like(a_BJ)
    if i > 1:
        a_BJ[:, i - 2] = b_BJ[:, i - 2] = (base + 1) // 2 * leaf.carry_N[rows_B]
    if 0 < i <= n:
        a_BJ[:, i - 1], b_BJ[:, i - 1] = leaf.a_before_N[rows_B], leaf.b_before_N[rows_B]
    if i < n:
        a_BJ[:, i], b_BJ[:, i] = leaf.a_N[rows_B], leaf.b_N[rows_B]
    return a_BJ, b_BJ


def pair_margins(problem: Problem, step: Step, a_BJ: Ints, b_BJ: Ints) -> Array:
    """Smallest margin, in true logits, of real pairs at one teacher-forced step: (B,)."""
    sums = sums_of(a_BJ, b_BJ, step.base)
    i = step.index
    row_B = sums[:, i - 1] if i else np.zeros(len(sums), dtype=np.int64)
    weight_BH, mass_BHE = attention(step, row_B, a_BJ, b_BJ)
    y_BHE = mass_BHE / weight_BH[..., None]
    mixed_BM = y_BHE.sum(1) if problem.summed else y_BHE.reshape(len(sums), -1)
    M = mixed_BM.shape[1]
    itself_ZMM = np.broadcast_to(np.eye(M), (len(step.tokens), M, M))
    target_B = sums[:, i] if step.end_token is None else np.full_like(row_B, step.end_token)
    return margins_at(problem.head, step.row_ZR, itself_ZMM, row_B, mixed_BM, target_B).min(1)


def to_ints(digits_BJ: Ints, base: int = 10) -> list[int]:
    """Digits, units first, as Python integers."""
    powers = [base**j for j in range(digits_BJ.shape[1])]
    return [sum(int(d) * p for d, p in zip(row, powers, strict=True)) for row in digits_BJ.tolist()]


def to_digits(values: list[int], columns: int, base: int = 10) -> Ints:
    """Python integers as digits, units first."""
    return np.array(
        [[value // base**j % base for j in range(columns)] for value in values], dtype=np.int64
    )


# What the search leaves open, of a task whose pairs are few: tried pair by pair.

MOST_TRIED = union.MOST_MARKED
"""Pairs of a task up to which that is done."""
CELLS_AT_ONCE = 256
"""Cells, of up to some hundred pairs each."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """Of one step's open inputs, those whose margins are beyond rounding."""

    right: int
    wrong: union.Patterns
    """A pattern for each."""


def try_open_inputs(
    problem: Problem, result: StepResult, groups: Sequence[Group], rounding: float
) -> Tried:
    """All inputs of a step that neither a leaf nor a cell decides; margins up to ``rounding`` say
    nothing. ``groups`` are those of all steps."""
    step = result.step
    right, wrong = 0, [np.zeros((0, 3 * step.columns + 1), dtype=np.uint16)]
    cells = _open_cells(result, [group for group in groups if group.step.index == step.index])
    for start in range(0, len(cells), CELLS_AT_ONCE):
        a_BJ, b_BJ = union.pairs_in(cells[start : start + CELLS_AT_ONCE], step.base)
        margin_B = pair_margins(problem, step, a_BJ, b_BJ)
        right += int((margin_B > rounding).sum())
        fails_BS = np.concatenate([a_BJ, b_BJ], 1)[margin_B < -rounding].astype(np.int8)
        unsaid = np.full((len(fails_BS), step.columns), FREE, dtype=np.int8)
        wrong.append(union.patterns(fails_BS, unsaid, step.base))
    return Tried(right=right, wrong=np.concatenate(wrong))


def _open_cells(result: StepResult, groups: Sequence[Group]) -> union.Patterns:
    """Leaves that no group took up, and what the groups left open."""
    step, open_N = result.step, result.decision.status_N == OPEN
    for group in groups:
        open_N[group.leaf_rows] = False
    cells = [
        union.patterns(part.cells.digits_NS, part.cells.carry_NC, step.base)
        for group in groups
        for part in group.decided
        if part.status == OPEN
    ]
    return np.concatenate([union.leaf_patterns(step, result.leaves, open_N), *cells])


# Pairs that the real model answers, before anything is bounded.

CHUNK = 4096
"""Pairs that a model answers together."""
PER_STRATUM = 100
MOST_FAILING = 1000
"""Failing pairs kept, those with the lowest margins: a model that fails everywhere needs no list."""


def failing_samples(model: Adder) -> list[tuple[int, int]]:
    """Sampled pairs that the model fails on in its own arithmetic, the lowest margin first."""
    task = model.layout.addition
    groups = [*adderboard(task).groups, *strata(PER_STRATUM, addition=task).groups]
    a_BJ = torch.cat([group.a_BJ for group in groups])
    b_BJ = torch.cat([group.b_BJ for group in groups])
    least_B = model_margins(model, a_BJ, b_BJ).min(1).values
    # A margin that is no number is a failure too: nothing won.
    rows = torch.nan_to_num(least_B, nan=-torch.inf).argsort()
    rows = rows[~(least_B[rows] > 0)][: 2 * MOST_FAILING].numpy()
    pairs = zip(*(to_ints(x_BJ.numpy()[rows], task.base) for x_BJ in (a_BJ, b_BJ)), strict=True)
    return list(dict.fromkeys(pairs))[:MOST_FAILING]  # the board has a pair twice


def real_margins(problem: Problem, pairs: Sequence[tuple[int, int]]) -> Iterator[Witness]:
    """Each pair at the step where its margin in real arithmetic is smallest."""
    if not pairs:
        return
    task = problem.geometry.addition
    a_BJ, b_BJ = (to_digits([pair[side] for pair in pairs], task.columns, task.base) for side in (0, 1))
    margin_IB = np.stack([pair_margins(problem, step, a_BJ, b_BJ) for step in problem.steps])
    step_B = margin_IB.argmin(0)
    for (a, b), step, margin_I in zip(pairs, step_B.tolist(), margin_IB.T, strict=True):
        yield Witness(margin=float(margin_I[step]), step=step, a=a, b=b)


@torch.no_grad()
def model_margins(model: Adder, a_BJ: Tensor, b_BJ: Tensor) -> Tensor:
    """Teacher-forced margins of the answer's decided tokens, the digits and perhaps the end
    token, by the full model: margin_BI."""
    parts, decided = [], model.layout.num_decided
    for a, b in zip(a_BJ.split(CHUNK), b_BJ.split(CHUNK), strict=True):
        tokens_BP, targets_BA = model.layout.encode(a, b)
        logits_BIV = model.answer_logits(tokens_BP)[:, :decided]
        parts.append(margins_of(logits_BIV, targets_BA[:, :decided]))
    return torch.cat(parts)


def margins_of(logits: Tensor, target: Tensor) -> Tensor:
    """Logit of the target minus the best other one, over the last axis."""
    index = target[..., None].long()
    right = logits.gather(-1, index)[..., 0]
    return right - logits.scatter(-1, index, -torch.inf).amax(-1)
