"""From leaves to verdicts: one pass over all leaves of a step, then branch and bound on digits.

The leaf pass bounds y on every leaf and asks the head about the box; nearly all leaves are decided
there. What is left open is split: the open leaves of one step and query token form a *group* and fix
their digits in one order, the most influential first, so that a few carry DPs per level serve every
cell of the group. A tied column is fixed together with its carry in (in base 10 up to 200 children), a
free digit alone (10 children). Cells are split in chunks, those with the most inputs per cell first,
until each is right or wrong or the limits are reached; what is open then is counted too.

Shapes: N leaves or cells, G leaves of a group, Z query tokens, H heads, E functionals per head,
K = H * E, D width, M nodes, n columns, O options of a move, B bands.
"""

from __future__ import annotations

import dataclasses
import functools
import heapq
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from adderlab.errors import UsageError
from adderlab.proof.carries import (
    Fixed,
    Leaves,
    Rest,
    fixed_digits,
    fixed_parts,
    keys_of,
    leaves,
    tied_children,
)
from adderlab.proof.head import OPEN, PART_STEPS, RIGHT, WRONG, Boxes, Decision, decide
from adderlab.proof.problem import FREE, Array, Problem, Step
from adderlab.proof.ranges import (
    CELL_NODES,
    FINE_NODES,
    Frame,
    Ranges,
    chord_bounds,
    even_nodes,
    free_maxima,
    functionals,
    in_functionals,
    joint_bounds,
    joint_leaf_bounds,
    narrower,
    summed_bounds,
    sweep,
    thin_frame,
    widest,
)

Ints = NDArray[np.int64]
Bytes = NDArray[np.int8]
GROUP_LEAVES = 256
CHUNK_PARENTS = 256
CELL_PARTS = 4
"""A cell is cut into fewer parts than a leaf: fixing one more digit says more than a cut."""
MAX_RUNS = 3
"""Runs of tied columns between fixed ones. Each multiplies the carry codes of a group by four."""
FRAME_LEVEL = 3


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
    """Carry DPs per functional, side and query token in the leaf pass."""
    parts: int = PART_STEPS[-1]
    """Parts into which a leaf's box may be cut (1, 4, 16 or 64)."""

    def __post_init__(self) -> None:
        if self.cells < 0:
            raise UsageError(f"a proof's cells must be 0 or more, not {self.cells}")
        if not self.seconds > 0:
            raise UsageError(f"a proof's seconds must be above 0, not {self.seconds:g}")


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What the leaf pass found out about a step."""

    step: Step
    leaves: Leaves
    frame: Frame
    ranges: Ranges
    boxes: Boxes
    decision: Decision

    def inputs(self, status: int) -> int:
        """Number of inputs in leaves of this status."""
        return sum(self.leaves.inputs_N[self.decision.status_N == status].tolist())


def decide_leaves(problem: Problem, step: Step, limits: Limits) -> StepResult:
    """Ranges and verdicts of all leaves of a step.

    Where heads share their coordinates and their own ranges leave a leaf open, they are bounded jointly.
    """
    leaf, frame = leaves(step), thin_frame(step, Rest.of_step(step))
    ranges = sweep(step, leaf, frame, limits.nodes)
    if problem.summed:
        bounds_NK2 = ranges.joint_NE2()
    else:
        bounds_NK2 = ranges.bounds_NHE2.reshape(len(leaf.row_N), -1, 2)
    mixed_RKM, pivot_RH = _coordinates(problem, frame)
    boxes = Boxes(
        low_NK=bounds_NK2[..., 0],
        high_NK=bounds_NK2[..., 1],
        row_RM=step.row_ZR,
        mixed_RKM=mixed_RKM,
        pivot_RH=pivot_RH,
        row_N=leaf.row_N,
        target_N=leaf.target_N,
    )
    decision = decide(problem.head, boxes, limits.parts)
    rows = np.flatnonzero(decision.status_N == OPEN)
    if problem.summed and len(step.bands) == 1 and len(rows):
        joint_NE2 = joint_leaf_bounds(step, leaf.take(rows), frame, ranges.bounds_NHE2[rows])
        boxes.low_NK[rows], boxes.high_NK[rows] = joint_NE2[..., 0], joint_NE2[..., 1]
        closer = decide(problem.head, boxes.take(rows), limits.parts)
        for name, each in vars(decision).items():
            each[rows] = getattr(closer, name)
    return StepResult(step=step, leaves=leaf, frame=frame, ranges=ranges, boxes=boxes, decision=decision)


def _coordinates(problem: Problem, frame: Frame) -> tuple[Array, Ints]:
    """``mixed`` in the coordinates of each row of a frame (R, K, M), and the pivots among them, one for
    each head, or one for all where they share their coordinates."""
    H, E = problem.heads, problem.bottleneck
    if problem.summed:
        return frame.attn_out(np.broadcast_to(np.eye(E), (H, E, E)))[:, 0], frame.pivot_ZH[:, :1]
    mixed_RHEM = frame.attn_out(np.eye(H * E).reshape(H, E, H * E))
    return mixed_RHEM.reshape(-1, H * E, H * E), frame.pivot_ZH + E * np.arange(H)


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Cells of one group at one level; digits and carries are FREE (-1) where they are not fixed."""

    leaf_N: Ints
    """Index among the group's leaves."""
    weight_NBH: Array
    mass_NBHE: Array
    """Weight times functional, of the fixed keys, in each of the B bands."""
    possible_NBH: NDArray[np.bool_]
    """False where a fixed digit is forbidden in the band."""
    digits_NS: Bytes
    """Slots a_0 .. a_(n-1), b_0 .. b_(n-1)."""
    carry_NC: Bytes
    """Carries into columns 0 .. n - 1 and out of the last, where known: C = n + 1."""

    def take(self, rows: NDArray | slice) -> Cells:
        return Cells(**{name: value[rows] for name, value in vars(self).items()})

    def codes(self, rest: Rest) -> Ints:
        """The carries in and out of each run as one binary number (``carries.maximum``)."""
        code_N = np.zeros(len(self.leaf_N), dtype=np.int64)
        for boundary in (edge for run in rest.runs for edge in run):
            code_N = 2 * code_N + self.carry_NC[:, boundary]
        return code_N


@dataclass(frozen=True, kw_only=True)
class Decided:
    """Terminal cells of one level: which, what they are, and the box and parts that show it."""

    level: int
    status: int
    cells: Cells
    bounds_NK2: Array
    """Of every head's functionals."""
    joint_NE2: Array | None
    """Of the sum of the heads, where they share their coordinates."""
    margin_N: Array
    parts_N: Ints


@dataclass(kw_only=True)
class Group:
    """The open leaves of one step and query token, and how they are split.

    ``step`` and ``leaves`` hold this query token and these leaves only.
    """

    problem: Problem
    step: Step
    leaves: Leaves
    leaf_rows: Ints
    """Where the leaves stand in the canonical order of the step."""
    frame: Frame
    nodes: Array
    """(G, H, E, 2, M): nodes between the bounds of each leaf."""
    moves: list[int]
    """Slots in the order they are fixed; a tied column j is named by slot j."""
    rests: list[Rest]
    """What is left before each move, and after the last."""
    decided: list[Decided] = field(default_factory=list)
    inputs: list[int] = field(default_factory=lambda: [0, 0, 0])
    """Inputs found right, wrong and left open."""

    def __post_init__(self) -> None:
        self._table = functionals(self.step, self.frame)
        self._best: dict[int, list[Array]] = {}
        self._weight_BHLT = np.stack([band.weight_ZHLT[0] for band in self.step.bands])
        self._mass_BHELT = np.stack([mass_ZHELT[0] for mass_ZHELT in self._table.bands])
        self._allowed_BHLT = np.stack([band.allowed_ZHLT[0] for band in self.step.bands])
        self._mixed_RKM, self._pivot_RH = _coordinates(self.problem, self.frame)

    @classmethod
    def open(cls, problem: Problem, step: Step, leaves: Leaves, row: int, leaf_rows: Ints) -> Group:
        """A group of the leaves ``leaf_rows`` of a step, which share the query token ``row``."""
        step, leaves = step.only(row), leaves.take(leaf_rows)
        leaves = dataclasses.replace(leaves, row_N=np.zeros_like(leaves.row_N))
        whole = thin_frame(step, Rest.of_step(step))
        moves, rests = _order(step, whole, sweep(step, leaves, whole).bounds_NHE2.mean((0, -1)))
        # Most cells lie a few levels down: take the frame that is thin for them.
        frame = thin_frame(step, rests[min(FRAME_LEVEL, len(moves) - 1)]) if moves else whole
        bounds = sweep(step, leaves, frame).bounds_NHE2
        slack = functionals(step, frame).slack_ZHE[0]
        ends = np.stack([bounds[..., 0] - slack, bounds[..., 1] + slack], -1)
        return cls(
            problem=problem,
            step=step,
            leaves=leaves,
            leaf_rows=leaf_rows,
            frame=frame,
            nodes=even_nodes(ends, CELL_NODES),
            moves=moves,
            rests=rests,
        )

    @property
    def total(self) -> int:
        """Inputs of all leaves of the group."""
        return sum(self.leaves.inputs_N.tolist())

    def roots(self) -> Cells:
        """The leaves themselves, as the cells of level 0."""
        fixed = [
            in_functionals(fixed_parts(self.step, band, self.leaves), self._table, self.leaves.row_N)
            for band in self.step.bands
        ]
        digits_NS, carry_NC = fixed_digits(self.step, self.leaves)
        return Cells(
            leaf_N=np.arange(len(self.leaf_rows)),
            weight_NBH=np.stack([part.weight_NH for part in fixed], 1),
            mass_NBHE=np.stack([part.mass_NHE for part in fixed], 1),
            possible_NBH=np.stack([part.possible_NH for part in fixed], 1),
            digits_NS=digits_NS,
            carry_NC=carry_NC,
        )

    def children(self, cells: Cells, level: int) -> Cells:
        """All children of cells of ``level``: the next digit, or tied column, takes every value."""
        n, slot = self.step.columns, self.moves[level]
        a_O, b_O, s_O, in_O, out_O = tied_children(self.step.base).T
        free = slot in self.rests[level].free
        if free:
            digits = self._free_choices(slot)
            parent_N, option_N = np.indices((len(cells.leaf_N), len(digits[0][1]))).reshape(2, -1)
        else:
            digits = [(slot, a_O), (n + slot, b_O), (2 * n + slot, s_O)]
            known_in, known_out = cells.carry_NC[:, [slot]], cells.carry_NC[:, [slot + 1]]
            fits = (known_in == FREE) | (known_in == in_O)
            fits &= (known_out == FREE) | (known_out == out_O)
            parent_N, option_N = np.nonzero(fits)
        for key, digit_O in digits[:2] if self.step.given else ():
            if self.step.given[key] != FREE:
                fits = digit_O[option_N] == self.step.given[key]
                parent_N, option_N = parent_N[fits], option_N[fits]
        keys = keys_of(self.step, digits)
        weight_BHO = np.sum([self._weight_BHLT[:, :, key, digit_O] for key, digit_O in keys], 0)
        mass_BHEO = np.sum([self._mass_BHELT[:, :, :, key, digit_O] for key, digit_O in keys], 0)
        allowed_BHO = np.all([self._allowed_BHLT[:, :, key, digit_O] for key, digit_O in keys], 0)
        digits_NS, carry_NC = cells.digits_NS[parent_N], cells.carry_NC[parent_N]
        for key, digit_O in digits[:2]:
            digits_NS[:, key] = digit_O[option_N]
        if not free:
            carry_NC[:, slot], carry_NC[:, slot + 1] = in_O[option_N], out_O[option_N]
        children = Cells(
            leaf_N=cells.leaf_N[parent_N],
            weight_NBH=cells.weight_NBH[parent_N] + weight_BHO.transpose(2, 0, 1)[option_N],
            mass_NBHE=cells.mass_NBHE[parent_N] + mass_BHEO.transpose(3, 0, 1, 2)[option_N],
            possible_NBH=cells.possible_NBH[parent_N] & allowed_BHO.transpose(2, 0, 1)[option_N],
            digits_NS=digits_NS,
            carry_NC=carry_NC,
        )
        if not self.step.given:
            return children
        # The digits that a window gives may rule out carries: cells without any input have no bounds.
        rest = self.rests[level + 1]
        some_C = np.array([ways > 0 for ways in self._ways(rest)])
        return children.take(np.flatnonzero(some_C[children.codes(rest)]))

    def _free_choices(self, slot: int) -> list[tuple[int, Ints]]:
        """(slot, digits) of a free slot: of its whole column where one token is both digits."""
        if not self.step.pairs:
            return [(slot, np.arange(self.step.base))]
        a_O, b_O = np.divmod(np.arange(self.step.base**2), self.step.base)
        return [(slot, a_O), (self.step.columns + slot, b_O)]

    def box(self, cells: Cells, level: int) -> Array:
        """Sound bounds of every functional on cells of ``level``: (N, K, 2)."""
        rest = self.rests[level]
        bands, N = self.step.bands, len(cells.leaf_N)
        if level not in self._best:
            row_G = np.zeros(len(self.leaf_rows), dtype=np.int64)
            self._best[level] = [
                free_maxima(band, rest, mass[row_G], row_G, self.nodes)
                for band, mass in zip(bands, self._table.bands, strict=True)
            ]
        codes_N, found = cells.codes(rest), []
        for b, (band, best) in enumerate(zip(bands, self._best[level], strict=True)):
            fixed = Fixed(
                weight_NH=cells.weight_NBH[:, b],
                mass_NHE=cells.mass_NBHE[:, b],
                possible_NH=cells.possible_NBH[:, b],
            )
            least_HE = band.least_ZH[0][:, None] * self._table.size_ZHE[0]
            least_NHE = np.broadcast_to(least_HE, (N, *least_HE.shape))
            found.append(chord_bounds(best, self.nodes, cells.leaf_N, codes_N, fixed, least_NHE))
        bounds = widest(found)
        slack = self._table.slack_ZHE[0]
        bounds[..., 0] -= slack
        bounds[..., 1] += slack
        return bounds.reshape(len(bounds), -1, 2)

    def decide(self, cells: Cells, level: int) -> tuple[Decision, Array, Array | None]:
        """Verdicts on cells of ``level``, the bounds (N, K, 2) of every head, and those of the sum of
        the heads (N, E, 2) where they share their coordinates."""
        head, bounds_NK2 = self.problem.head, self.box(cells, level)
        if not self.problem.summed:
            return decide(head, self._boxes(cells, bounds_NK2), CELL_PARTS), bounds_NK2, None
        bounds_NHE2 = bounds_NK2.reshape(-1, self.problem.heads, self.problem.bottleneck, 2)
        joint_NE2 = summed_bounds(bounds_NHE2)
        found = decide(head, self._boxes(cells, joint_NE2), CELL_PARTS)
        rows = np.flatnonzero(found.status_N == OPEN)
        if len(self.step.bands) == 1 and len(rows):
            chosen, rest = cells.take(rows), self.rests[level]
            fixed = Fixed(
                weight_NH=chosen.weight_NBH[:, 0],
                mass_NHE=chosen.mass_NBHE[:, 0],
                possible_NH=chosen.possible_NBH[:, 0],
            )
            row_N = np.zeros(len(rows), dtype=np.int64)
            closer_NE2 = joint_bounds(
                self.step, self._table, rest, row_N, chosen.codes(rest), fixed, bounds_NHE2[rows]
            )
            joint_NE2[rows] = narrower(joint_NE2[rows], closer_NE2)
            closer = decide(head, self._boxes(chosen, joint_NE2[rows]), CELL_PARTS)
            for name, each in vars(found).items():
                each[rows] = getattr(closer, name)
        return found, bounds_NK2, joint_NE2

    def _boxes(self, cells: Cells, bounds_NK2: Array) -> Boxes:
        return Boxes(
            low_NK=bounds_NK2[..., 0],
            high_NK=bounds_NK2[..., 1],
            row_RM=self.step.row_ZR,
            mixed_RKM=self._mixed_RKM,
            pivot_RH=self._pivot_RH,
            row_N=np.zeros(len(bounds_NK2), dtype=np.int64),
            target_N=self.leaves.target_N[cells.leaf_N],
        )

    def inputs_of(self, cells: Cells, level: int) -> int:
        """Exact number of inputs in the cells."""
        rest = self.rests[level]
        number_C = np.bincount(cells.codes(rest), minlength=rest.codes).tolist()
        return sum(n * ways for n, ways in zip(number_C, self._ways(rest), strict=True) if n)

    @staticmethod
    @functools.cache
    def _ways(rest: Rest) -> list[int]:
        """Inputs of a cell for every carry code."""
        digits = 2 * len(rest.runs)
        return [
            rest.ways(tuple(code >> (digits - 1 - d) & 1 for d in range(digits)))
            for code in range(rest.codes)
        ]

    def worth(self, cells: Cells, level: int) -> float:
        """Open inputs per child that splitting the cells would make."""
        if level == len(self.moves):
            return 1.0
        single = self.moves[level] in self.rests[level].free and not self.step.pairs
        fan = self.step.base if single else self.step.base**2
        return self.inputs_of(cells, level) / (len(cells.leaf_N) * fan)


def _order(step: Step, frame: Frame, tau_HE: Array) -> tuple[list[int], list[Rest]]:
    """Moves by falling influence on the pivot functional, and what is left before each."""
    n = step.columns
    pivot_H = frame.pivot_ZH[0]
    heads = np.arange(len(pivot_H))
    mass_HLT = functionals(step, frame).bands[-1][0, heads, pivot_H]
    gain = mass_HLT - tau_HE[heads, pivot_H][:, None, None] * step.bands[-1].weight_ZHLT[0]
    allowed_LT = step.bands[-1].allowed_ZHLT[0, 0]
    gain = np.where(allowed_LT, gain, gain.mean(2, keepdims=True, where=allowed_LT))
    influence_L = (gain.max(2) - gain.min(2)).sum(0)
    rest = Rest.of_step(step)
    moves, rests = [], [rest]

    def influence(slot: int) -> float:
        if slot in rest.free:
            return influence_L[slot]
        if len(rest.without(slot).runs) > MAX_RUNS:
            return -1.0
        # A tied column is one move of two digits and their answer.
        return influence_L[[slot, n + slot, 2 * n + slot]].sum() / 2

    while rest.runs or rest.free:
        free = [slot for slot in rest.free if slot < n or not step.pairs]
        moves.append(max((*free, *rest.tied), key=influence))
        if step.pairs and moves[-1] in free:
            rest = rest.without(n + moves[-1])
        rest = rest.without(moves[-1])
        rests.append(rest)
    return moves, rests


def open_groups(problem: Problem, result: StepResult) -> Iterator[Group]:
    """The open leaves of a step, by query token, ready for branch and bound."""
    open_N = result.decision.status_N == OPEN
    for z in range(len(result.step.tokens)):
        rows = np.flatnonzero(open_N & (result.leaves.row_N == z))
        for start in range(0, len(rows), GROUP_LEAVES):
            some = rows[start : start + GROUP_LEAVES]
            yield Group.open(problem, result.step, result.leaves, z, some)


def search(
    groups: list[Group],
    limits: Limits,
    deadline: float,
    progress: Callable[[int, int], None],
) -> int:
    """Decide all groups. Fills their ``decided`` and ``inputs``; returns the number of cells bounded.

    ``progress`` is called with the cells bounded and the inputs still open. Right cells are kept only
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
        found, box, joint = group.decide(cells, level)
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
                        joint_NE2=None if joint is None else joint[rows],
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
    N, K = len(cells.leaf_N), cells.mass_NBHE.shape[2] * cells.mass_NBHE.shape[3]
    group.inputs[OPEN] += group.inputs_of(cells, level)
    group.decided.append(
        Decided(
            level=level,
            status=OPEN,
            cells=cells,
            bounds_NK2=np.zeros((N, K, 2)),
            joint_NE2=None,
            margin_N=np.full(N, -np.inf),
            parts_N=np.zeros(N, dtype=np.int64),
        )
    )
