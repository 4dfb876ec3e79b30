"""When a seed is proved and when it is given up: functions of its evaluations."""

import dataclasses
import math

import pytest

from adderlab.recipes import get_recipe
from adderlab.runs.records import Metrics
from adderlab.study.verdicts import hopeless, open_from, worth_a_proof
from adderlab.training.ingredients import Freeze
from adderlab.training.recipe import Recipe

RECIPE = Recipe(steps=100_000)
"""Its last change is at step 7000, a fifth of it is 20,000 steps."""


def at(step: int, *, exact: float = 0.0, loss: float = 0.5, **accuracy: float) -> Metrics:
    """An evaluation with every answer step learned but those named s0=..., s1=..."""
    return Metrics(
        step=step,
        train_loss=loss,
        val_exact=exact,
        val_token_acc=0.5,
        lr=0.02,
        elapsed_sec=0.0,
        step_acc=tuple(accuracy.get(f"s{i}", 1.0) for i in range(11)),
    )


def curve(*values: float, every: int = 5000) -> list[Metrics]:
    """Answer step 3 with these accuracies, one evaluation after another."""
    return [at(k * every, s3=value) for k, value in enumerate(values)]


def test_proofs_come_after_2_4_8_perfect_evaluations_in_a_row() -> None:
    exact = [0.0, 1.0, 0.9998, *[1.0] * 9]
    history = [at(k, exact=value) for k, value in enumerate(exact)]
    due = [k for k in range(len(history)) if worth_a_proof(history[: k + 1])]
    assert due == [4, 6, 10]
    assert not worth_a_proof([])


def test_the_last_change_of_a_recipe() -> None:
    assert open_from(Recipe()) == 7000
    assert open_from(get_recipe("circle")) == 18_900
    assert open_from(get_recipe("circle-27k")) == 13_500
    assert open_from(get_recipe("restarts-67")) == 16_000
    never = dataclasses.replace(RECIPE, freeze=(Freeze(prefix="x", until=0.9, then=0.0),))
    assert open_from(never) == 7000


def test_a_stuck_step_is_given_up_a_fifth_of_the_run_after_the_last_change() -> None:
    history = curve(*[0.1] * 8)
    dropped = [m.step for k, m in enumerate(history) if hopeless(history[: k + 1], RECIPE)]
    assert dropped == [30_000, 35_000]


@pytest.mark.parametrize(
    "values",
    [
        [0.1, 0.1, 0.1, 0.1, 0.4, 0.4, 0.4],  # 0.3 in 20,000 steps: 1.45 after 70,000 more
        [0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1],  # has been right before
    ],
)
def test_steps_that_move_or_could_do_it_are_waited_for(values: list[float]) -> None:
    assert not hopeless(curve(*values), RECIPE)


def test_a_rise_that_comes_too_late_is_not_waited_for() -> None:
    """0.2 in 20,000 steps is 0.7 more at step 100,000; from 0.1 + 0.2 that is enough, 0.1 is not."""
    assert not hopeless(curve(0.1, 0.1, 0.1, 0.1, 0.3, 0.3, 0.3), RECIPE)
    assert hopeless(curve(0.1, 0.1, 0.1, 0.1, 0.2, 0.2, 0.2), RECIPE)
    # Near the end another fifth counts, not the little that is left.
    late = [at(5000 * k, s3=0.4) for k in range(16)]
    assert not hopeless([*late, at(95_000, s3=0.7)], RECIPE)


def test_one_stuck_step_waits_for_another_that_still_rises() -> None:
    flat = [at(5000 * k, s3=0.1, s4=0.7) for k in range(7)]
    assert hopeless(flat, RECIPE)
    rising = [at(5000 * k, s3=0.1, s4=0.1 * k) for k in range(7)]
    assert not hopeless(rising, RECIPE)


def test_a_stuck_step_is_waited_for_while_others_are_being_learned() -> None:
    history = [at(5000 * k, s3=0.1, s4=0.95 if k >= 6 else 0.1) for k in range(12)]
    dropped = [m.step for k, m in enumerate(history) if hopeless(history[: k + 1], RECIPE)]
    assert dropped == [50_000, 55_000]  # s4 came at 30,000


def test_no_seed_is_given_up_at_the_end_or_in_the_restarts() -> None:
    history = curve(*[0.1] * 19)
    assert hopeless(history, RECIPE)
    assert not hopeless([*history, at(99_999, s3=0.1)], RECIPE)
    assert not hopeless([*history, at(110_000, s3=0.1)], RECIPE)


def test_a_diverged_seed_is_given_up_at_once() -> None:
    assert hopeless([at(0, loss=math.nan)], RECIPE)
    assert not hopeless([], RECIPE)
