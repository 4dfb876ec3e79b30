"""Pairs that the real model decodes before anything is bounded.

The board's 10,010 pairs and a hundred of every stratum take half a second. A model that they refute is
refuted whatever the bounds can say; what is left then is to count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from adderlab.evaluation.suites import adderboard, strata
from adderlab.models.transformer import Adder
from adderlab.proof.attack import model_margins
from adderlab.proof.problem import Problem
from adderlab.proof.witnesses import Witness, pair_margins, to_digits, to_ints

PER_STRATUM = 100
MOST = 1000
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
    rows = rows[~(least_B[rows] > 0)][: 2 * MOST].numpy()
    pairs = zip(*(to_ints(x_BJ.numpy()[rows], task.base) for x_BJ in (a_BJ, b_BJ)), strict=True)
    return list(dict.fromkeys(pairs))[:MOST]  # the board has a pair twice


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
