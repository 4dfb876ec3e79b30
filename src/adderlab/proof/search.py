"""Branch and bound on digits: decides the leaves that the rod bounds leave open.

Cells are split in chunks, those with the most inputs per cell first, until every cell is right or
wrong or the limits are reached. What is open then is counted too.

Shapes: N cells, K functionals.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from adderlab.proof.boxes import OPEN, PART_STEPS, RIGHT, WRONG, decide
from adderlab.proof.groups import Cells, Decided, Group
from adderlab.proof.ranges import FINE_NODES

CHUNK_PARENTS = 256
CELL_PARTS = 4


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much work a proof may do before it reports what is left."""

    cells: int = 3_000_000
    """Cells bounded in the branch and bound."""
    seconds: float = 120.0
    """Wall time after which the branch and bound stops."""
    union_seconds: float = 15.0
    """Processor time for the overlaps between steps; after it, the failing pairs are bracketed."""
    nodes: int = FINE_NODES
    """Carry programmes per functional, side and query token in the leaf pass."""
    parts: int = PART_STEPS[-1]
    """Parts into which a leaf's rod may be cut (1, 4, 16 or 64)."""


def search(
    groups: list[Group],
    limits: Limits,
    deadline: float,
    progress: Callable[[int, int], None],
) -> int:
    """Decide all groups. Fills their ``decided`` and ``inputs``; returns the number of cells bounded.

    ``progress`` is told the cells bounded and the inputs still open. Right cells are kept only
    while no wrong one is known: they are needed for certificates of proved models.
    """
    queue: list[tuple[float, int, Group, int, Cells]] = []
    pushed = bounded = 0
    open_inputs = sum(group.total for group in groups)
    any_wrong = False

    def push(group: Group, level: int, cells: Cells) -> None:
        nonlocal pushed
        for start in range(0, len(cells.leaf_N), CHUNK_PARENTS):
            chunk = cells.take(slice(start, start + CHUNK_PARENTS))
            pushed += 1
            heapq.heappush(queue, (-group.worth(chunk, level), pushed, group, level, chunk))

    for group in groups:
        push(group, 0, group.roots())
    while queue and bounded < limits.cells and time.monotonic() < deadline:
        _, _, group, level, parents = heapq.heappop(queue)
        if level == len(group.moves):
            _leave_open(group, parents, level)
            continue
        cells = group.children(parents, level)
        level += 1
        box = group.box(cells, level)
        found = decide(group.problem.head, group.boxes(cells, box), CELL_PARTS)
        bounded += len(cells.leaf_N)
        for status in (RIGHT, WRONG):
            rows = np.flatnonzero(found.status_N == status)
            if not len(rows):
                continue
            chosen = cells.take(rows)
            inputs = group.inputs_of(chosen, level)
            group.inputs[status] += inputs
            open_inputs -= inputs
            if status == WRONG and not any_wrong:
                any_wrong = True
                for other in groups:
                    other.decided.clear()
            if status == WRONG or not any_wrong:
                group.decided.append(
                    Decided(
                        level=level,
                        status=status,
                        cells=chosen,
                        bounds_NK2=box[rows],
                        margin_N=found.margin_N[rows],
                        parts_N=found.parts_N[rows],
                    )
                )
        rows = np.flatnonzero(found.status_N == OPEN)
        if len(rows):
            push(group, level, cells.take(rows))
        progress(bounded, open_inputs)
    for _, _, group, level, cells in queue:
        _leave_open(group, cells, level)
    return bounded


def _leave_open(group: Group, cells: Cells, level: int) -> None:
    N, K = len(cells.leaf_N), cells.mass_NHE.shape[1] * cells.mass_NHE.shape[2]
    group.inputs[OPEN] += group.inputs_of(cells, level)
    group.decided.append(
        Decided(
            level=level,
            status=OPEN,
            cells=cells,
            bounds_NK2=np.zeros((N, K, 2)),
            margin_N=np.full(N, -np.inf),
            parts_N=np.zeros(N, dtype=np.int64),
        )
    )
