"""When a seed in training is worth a proof, and when it is hopeless.

Both are functions of the seed's own evaluations and of its recipe, so a search that was stopped and
resumed decides as one that was not, and a seed's fate does not depend on its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

from adderlab.runs.metrics import Metrics
from adderlab.task.digits import SUM_DIGITS
from adderlab.training.recipe import Recipe

STUCK_BELOW = 0.9
"""An answer step that never was this accurate looks at the wrong column or ignores the carry."""
PATIENCE = 0.2
"""Fraction of the run over which a stuck step's pace is measured."""


def worth_a_proof(history: Sequence[Metrics]) -> bool:
    """After 2, 4, 8, ... evaluations in a row at exact match 1.

    One may be luck at a high learning rate; two rarely are, and a proof costs as much as thousands
    of steps, so each one in vain doubles the wait for the next.
    """
    perfect = 0
    for metrics in reversed(history):
        if metrics.val_exact < 1.0:
            break
        perfect += 1
    return perfect >= 2 and perfect & (perfect - 1) == 0


def open_from(recipe: Recipe) -> int:
    """The first step at which all the data and all the parameters take part in the training, of one
    draw."""
    ends = [phase.until or 0 for phase in recipe.data.curriculum.phases]
    releases = [round(freeze.until * recipe.steps) for freeze in recipe.freeze if freeze.then]
    return max([0, *ends, *releases, *(recipe.draws.halvings if recipe.draws else ())])


def hopeless(history: Sequence[Metrics], recipe: Recipe) -> bool:
    """Whether the seed's learning has come to rest with an answer step missing.

    So it has if some answer step is stuck, that is, has never been 90% accurate, if none has come
    to 90% in the last fifth of the run (steps are learned one after another), and if no stuck step is
    on the way: at the pace at which its best accuracy rose over that fifth, none comes to 90% by the
    end (or within another fifth). Judged from a fifth of the run after the last change of data or
    release of parameters (``open_from``) on; never in the restarts after ``recipe.steps``, which exist
    for such seeds. A seed whose loss is no number is hopeless at once.
    """
    if not history:
        return False
    now = history[-1]
    if now.train_loss != now.train_loss:
        return True
    wait = PATIENCE * recipe.total_steps
    if not open_from(recipe) + wait <= now.step < recipe.steps - 1 or len(now.step_acc) != SUM_DIGITS:
        return False
    before = [metrics for metrics in history if metrics.step <= now.step - wait]
    stuck = [i for i in range(SUM_DIGITS) if _best(history, i) < STUCK_BELOW]
    if not stuck or any(_best(before, i) < STUCK_BELOW for i in range(SUM_DIGITS) if i not in stuck):
        return False
    time = max(1.0, (recipe.steps - now.step) / wait)
    return not any(_in(time, history, before, i) >= STUCK_BELOW for i in stuck)


def _in(time: float, history: Sequence[Metrics], before: Sequence[Metrics], i: int) -> float:
    """Where answer step i's best accuracy will be if it rises on as it did since ``before``; ``time``
    in units of that."""
    return _best(history, i) + time * (_best(history, i) - _best(before, i))


def _best(history: Sequence[Metrics], i: int) -> float:
    """The best accuracy so far of answer step i."""
    return max((metrics.step_acc[i] for metrics in history), default=0.0)
