"""The margins at one pair of numbers, enclosed: for witnesses and counterexamples.

Shapes: H heads, E bottleneck, D width, P keys that hold a digit, C constant keys.
"""

from __future__ import annotations

import numpy as np

from adderlab.checker.head import margins
from adderlab.checker.intervals import Interval, stack
from adderlab.checker.model import Model, Step, digits_of


def mix_at(model: Model, step: Step, a: int, b: int) -> tuple[int, int, Interval]:
    """At one pair: row of the query token, right digit, and y (H, E), enclosed."""
    n, i, base = model.columns, step.index, step.base
    answer = digits_of(a + b, n + 1, base)
    row = answer[i - 1] if i else 0
    digits_a, digits_b = digits_of(a, n, base), digits_of(b, n, base)
    if step.pairs:
        seen = [(j, base * digits_a[j] + digits_b[j]) for j in range(n)]
    else:
        seen = [(j, digit) for j, digit in enumerate(digits_a)]
        seen += [(n + j, digit) for j, digit in enumerate(digits_b)]
    seen += [(2 * n + j, answer[j]) for j in range(i - 1)]
    slots, digits = (list(part) for part in zip(*seen, strict=True))
    value_HPE = step.value_LTHE[slots, digits].transpose(1, 0, 2)
    constant_HCE = step.constant_value_ZCHE[row].transpose(1, 0, 2)
    mixed: list[Interval] = []
    for h in range(model.heads):
        # The lowest band that forbids none of the digits is the pair's own: there nothing underflows.
        band = next(b for b in step.bands if b.allowed_RHLT[row, h, slots, digits].all())
        weight_P, constant_C = band.weight_RHLT[row, h][slots, digits], band.constant_RHC[row, h]
        total = weight_P.sum(0) + constant_C.sum(0)
        sum_E = (_last(weight_P) * value_HPE[h]).sum(0) + (_last(constant_C) * constant_HCE[h]).sum(0)
        mixed.append(sum_E / total)
    right = answer[i] if step.end_token is None else step.end_token
    return row, right, stack(mixed)


def margin_by_step(model: Model, a: int, b: int) -> list[tuple[float, float]]:
    """[low, high] of the margin, in logits, of the right token at each of the steps.

    Teacher-forced: every step reads the right digits before it. Below zero at some step means that
    greedy decoding fails on the pair, because the first such step reads only right digits.
    """
    out, (H, E, D) = [], model.out_HED.shape
    for step in model.steps:
        row, right, y_HE = mix_at(model, step, a, b)
        found = margins(
            model.head,
            np.array([right]),
            step.residual_ZD[[row]],
            model.out_HED.reshape(1, H * E, D),
            y_HE.low.reshape(1, H * E),
            y_HE.high.reshape(1, H * E),
        )
        out.append((float(found.true_low_N()[0]), float(found.true_high_N()[0])))
    return out


def smallest_margin(model: Model, a: int, b: int) -> tuple[float, float]:
    """[low, high] of the smallest margin over the steps."""
    by_step = margin_by_step(model, a, b)
    return min(low for low, _ in by_step), min(high for _, high in by_step)


def _last(x: Interval) -> Interval:
    return Interval(x.low[..., None], x.high[..., None])
