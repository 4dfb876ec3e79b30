"""Accuracy per answer step, each step given the right earlier digits.

Exact match hides what a seed has learned: ten right answer digits and one misaligned position still
give 0.0. These figures show it, for a population at once, from an engine's margins.

Shapes: S seeds, B pairs, A answer steps, I = 11 sum digits.
"""

from torch import Tensor

from adderlab.task.digits import SUM_DIGITS


def step_accuracy(margin_SBA: Tensor) -> Tensor:
    """Share of the pairs whose step i is right, (S, I): the target's logit is above all others."""
    return (margin_SBA[..., :SUM_DIGITS] > 0).double().mean(1)


def exact_match(margin_SBA: Tensor) -> Tensor:
    """Share of the pairs that greedy decoding gets right, (S,).

    With all steps right given right digits, greedy decoding sees just those digits. A tie counts as
    wrong here, whereas greedy decoding takes the lowest token of a tie.
    """
    return (margin_SBA[..., :SUM_DIGITS] > 0).all(2).double().mean(1)
