"""Split leaves: a tree of fixed digits and carries, read in pre-order, with every pair accounted for.

A split proves a leaf only if its cells leave no pair out. That is not seen from the shape of the tree,
which may call cells empty; so the pairs in every cell are counted exactly and have to add up to those of
the leaf, and a cell that is called empty has to hold none.

Shapes: N terminal cells, n columns, slots a_0 .. a_(n-1), b_0 .. b_(n-1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adderlab.checker.document import Rejected
from adderlab.checker.model import FREE
from adderlab.checker.ranges import count

TERMINAL, EMPTY = -1, -2


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Terminal cells of one leaf in pre-order; FREE where nothing is fixed."""

    digits_NS: NDArray[np.int8]
    carries_NJ: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.digits_NS)


def _walk(codes: Sequence[int], i: int, n: int, base: int) -> Iterator[tuple[int, list[int], list[int]]]:
    """(code, digits, carries) of every end of the tree, in pre-order; ``Rejected`` if it is no tree."""
    digits, carries = [FREE] * (2 * n), [FREE] * n
    fixed = {i, i - 1}
    position = 0
    # A frame is (variable, next value to visit); visiting a value descends into that child.
    path: list[list[int]] = []
    while True:
        if position == len(codes):
            raise Rejected("a tree of splits ends before its cells do")
        code = codes[position]
        position += 1
        if code in (TERMINAL, EMPTY):
            yield code, digits, carries
            while path:
                variable, value = path[-1]
                target, slot, values = _variable(variable, digits, carries, n, base)
                if value < values:
                    target[slot] = value
                    path[-1][1] += 1
                    break
                target[slot] = FREE
                path.pop()
            if not path:
                break
        else:
            column = code % n
            if not 0 <= code < 3 * n:
                raise Rejected(f"a tree of splits has the unknown code {code}")
            if code < 2 * n and column in fixed:
                raise Rejected(f"a tree of splits fixes column {column}, which the leaf fixes already")
            if code >= 2 * n and not 1 <= column <= i - 2:
                raise Rejected(f"a tree of splits fixes the carry into column {column} of step {i}")
            target, slot, _ = _variable(code, digits, carries, n, base)
            if target[slot] != FREE:
                raise Rejected("a tree of splits fixes a digit or carry twice on one path")
            target[slot] = 0
            path.append([code, 1])
    if position != len(codes):
        raise Rejected("a tree of splits goes on after its last cell")


def _variable(
    code: int, digits: list[int], carries: list[int], n: int, base: int
) -> tuple[list[int], int, int]:
    """Where the value of a variable stands, and how many values it has."""
    return (digits, code, base) if code < 2 * n else (carries, code - 2 * n, 2)


def read_tree(
    codes: Sequence[int], i: int, n: int, carry: int, given: Sequence[int] = (), base: int = 10
) -> tuple[Cells, int]:
    """The terminal cells of a leaf with carry ``carry`` into column i - 1, and their exact number of
    pairs; ``given`` are the digits of a window. ``Rejected`` if the tree is malformed or an empty cell
    is not empty."""
    given = given or (FREE,) * (2 * n)
    digits: list[list[int]] = []
    carries: list[list[int]] = []
    pairs = 0
    for code, cell_digits, cell_carries in _walk(codes, i, n, base):
        fixed = [own if own != FREE else held for own, held in zip(cell_digits, given, strict=True)]
        fits = all(held in (FREE, own) for own, held in zip(fixed, given, strict=True))
        inside = count(fixed[:n], fixed[n:], cell_carries, i, base)[carry] if fits else 0
        if code == EMPTY:
            if inside:
                raise Rejected(f"a cell is called empty and holds {inside} pairs")
            continue
        pairs += inside
        digits.append(fixed)
        carries.append(list(cell_carries))
    cells = Cells(
        digits_NS=np.array(digits, dtype=np.int8).reshape(-1, 2 * n),
        carries_NJ=np.array(carries, dtype=np.int8).reshape(-1, n),
    )
    return cells, pairs
