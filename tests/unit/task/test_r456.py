"""The replay sampler equals R456's loop of one-element draws, also after a resume."""

import pytest

from adderlab.task.addition import from_digits, pairs_from_ints
from adderlab.task.r456 import Holdout, R456Sampler, holdout
from adderlab.task.sampling import R456_CURRICULUM
from oracle import sampler_twin

ONE_STEP_PER_PHASE = (0, 1, 1999, 2000, 6999, 7000, 7001)
PHASES = R456_CURRICULUM.phases


def next_values(sampler: R456Sampler, step: int) -> list[tuple[int, int]]:
    a_BJ, b_BJ = sampler.next_pairs(step)
    return list(zip(from_digits(a_BJ).tolist(), from_digits(b_BJ).tolist(), strict=True))


@pytest.mark.parametrize("seed", [42, 43])
def test_equals_the_loop(seed: int) -> None:
    split = holdout(seed)
    reserved = set(sampler_twin.holdout_pairs(seed, 15_000))
    fast = R456Sampler(seed, 512, split, PHASES)
    loop = sampler_twin.R456Loop(seed, 512, reserved, R456_CURRICULUM)
    for step in ONE_STEP_PER_PHASE:
        assert next_values(fast, step) == loop.next_pairs(step)


def test_held_out_pairs_are_drawn_again() -> None:
    """Reserve pairs that the stream is known to meet, one-digit, six-digit and ten-digit ones."""
    free = sampler_twin.R456Loop(7, 64, set(), R456_CURRICULUM)
    met = [pair for step in ONE_STEP_PER_PHASE for pair in free.next_pairs(step)[5:9]]
    # Early redraws shift the stream, so further pairs are reserved as the loop meets them.
    reserved = set(met)
    loop = sampler_twin.R456Loop(7, 64, reserved, R456_CURRICULUM)
    for step in ONE_STEP_PER_PHASE:
        reserved.update(loop.next_pairs(step)[30:32])
    a_BJ, b_BJ = pairs_from_ints(sorted(reserved))
    split = Holdout(val_a_BJ=a_BJ, val_b_BJ=b_BJ, test_a_BJ=a_BJ[:0], test_b_BJ=b_BJ[:0])

    fast = R456Sampler(7, 64, split, PHASES)
    loop = sampler_twin.R456Loop(7, 64, reserved, R456_CURRICULUM)
    unhindered = sampler_twin.R456Loop(7, 64, set(), R456_CURRICULUM)
    differ = 0
    for step in ONE_STEP_PER_PHASE:
        expected = loop.next_pairs(step)
        assert next_values(fast, step) == expected
        differ += expected != unhindered.next_pairs(step)
    assert differ == len(ONE_STEP_PER_PHASE), "the reserved pairs must have been met"


def test_without_a_holdout() -> None:
    loop = sampler_twin.R456Loop(5, 16, set(), R456_CURRICULUM)
    fast = R456Sampler(5, 16, None, PHASES)
    assert next_values(fast, 8000) == loop.next_pairs(8000)


def test_resume_continues_the_stream() -> None:
    whole = R456Sampler(3, 100, None, PHASES)
    for step in (0, 5000, 9000):
        whole.next_pairs(step)
    state = whole.get_state()
    resumed = R456Sampler(3, 100, None, PHASES)
    resumed.next_pairs(9000)
    resumed.set_state(state)
    assert resumed.get_state() == state
    assert next_values(resumed, 9001) == next_values(whole, 9001)
