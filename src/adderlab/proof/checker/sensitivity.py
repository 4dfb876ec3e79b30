"""Rounding errors drawn back from the end: how much all of them together can move the last number.

Let every operation's own rounding be an unknown delta_j with |delta_j| <= eps_j. The computed result
is a function M of all of them, the real one is M(0), and by the mean value theorem

    |M(delta) - M(0)| <= sum_j eps_j sup |dM / d delta_j|,

with the supremum over everything between the real and the computed values. The derivatives are
enclosed by going through the operations backwards in interval arithmetic. Adding errors forwards
instead loses the cancellation between a rounding's ways to the result, which is most of it.
"""

from __future__ import annotations

import numpy as np

from adderlab.proof.checker.intervals import Array, Interval, above, up
from adderlab.proof.checker.rounding import Rounded


def _order(end: Rounded) -> list[Rounded]:
    """Everything that varies and leads to ``end``, each after what depends on it."""
    order: list[Rounded] = []
    seen: set[int] = set()
    stack = [(end, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack += [(parent, False) for parent, _ in node.parents]
    return order[::-1]


def moved_by_rounding(end: Rounded, direction: Interval) -> Array:
    """Upper bound, for each row, of how far rounding moves ``direction . end``: (N,).

    The first axis of everything that varies is the row.
    """
    pulls: dict[int, Interval] = {id(end): direction}
    bound_N = np.zeros(end.shape[0])
    for node in _order(end):
        g = pulls.pop(id(node), None)
        if g is None:
            continue
        rows = up(g.magnitude() * node.local).reshape(len(bound_N), -1)
        bound_N = up(bound_N + above(rows.sum(1), rows.shape[1]))
        for parent, pull in node.parents:
            share = pull(g)
            before = pulls.get(id(parent))
            pulls[id(parent)] = share if before is None else before + share
    return bound_N
