"""How many numbers a submission holds, under each convention that people use, every count by name.

Two sources: the tensors that the running submission shows (by a process that the stranger's code
shares, so a file written to deceive can hide some), and the literals in its text, which are counted
before its code runs.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

_LARGEST = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Literals:
    """Numbers written in the text of a Python file."""

    in_code: tuple[float, ...]
    """Floats among the code: eps, angles, bases."""
    in_tables: int
    """Floats in lists, tuples and texts of at least four."""
    packed: int
    """Characters of long texts without spaces: base64 and the like."""

    @classmethod
    def of(cls, counted: dict[str, Any]) -> Literals:
        """From the reply of ``count_literals``. Raises ``KeyError``, ``TypeError``, ``ValueError``."""
        return cls(
            in_code=tuple(float(value) for value in counted["in_code"]),
            in_tables=int(counted["in_tables"]),
            packed=int(counted["packed"]),
        )


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Distinct numbers; a number that several tensors share counts once."""

    parameters: int
    """In ``nn.Parameter``s, tied ones once: the board's count."""
    trainable: int
    """Of these, in parameters that require a gradient."""
    with_buffers: int
    """Parameters and floating-point buffers."""
    with_others: int
    """And floating-point tensors that are registered nowhere, or lie in the file's globals."""
    with_literals: int
    """And floats in the code; and tables, where they hold more numbers than all tensors."""
    literals: Literals

    def named(self) -> dict[str, int]:
        """Every count under the name that reports use."""
        return {
            "unique parameters": self.parameters,
            "unique trainable parameters": self.trainable,
            "with buffers": self.with_buffers,
            "with tensors held elsewhere": self.with_others,
            "with literals in the source": self.with_literals,
        }


def count(tensors: list[dict[str, Any]], literals: Literals) -> Counts:
    """Counts from what the submission shows: for each tensor its kind, shape, stride and address.

    Raises ``ValueError`` for a list that makes no sense.
    """
    kinds: dict[str, set[int]] = {"parameter": set(), "trained": set(), "buffer": set(), "other": set()}
    total = 0
    for tensor in tensors:
        addresses = _addresses(tensor)
        total += len(addresses)
        if total > _LARGEST:
            raise ValueError(f"more than {_LARGEST:,} numbers")
        kinds[tensor["kind"]] |= addresses
        if tensor["kind"] == "parameter" and tensor["trained"]:
            kinds["trained"] |= addresses
    parameters, buffers = kinds["parameter"], kinds["buffer"]
    registered = parameters | buffers
    everything = registered | kinds["other"]
    extra = len(literals.in_code) + max(0, literals.in_tables - len(everything))
    return Counts(
        parameters=len(parameters),
        trainable=len(kinds["trained"]),
        with_buffers=len(registered),
        with_others=len(everything),
        with_literals=len(everything) + extra,
        literals=literals,
    )


def outside_the_count(counts: Counts) -> list[str]:
    """What lies outside the board's count, for a reader to say whether it is fixed or learned."""
    literals = counts.literals
    found = (
        (counts.with_buffers - counts.parameters, "numbers in buffers"),
        (counts.with_others - counts.with_buffers, "numbers in tensors held elsewhere"),
        (literals.in_tables - counts.with_others, "numbers in the source's tables beyond its tensors"),
        (literals.packed, "characters of packed data in the source"),
    )
    return [f"{number:,} {what}: fixed or learned?" for number, what in found if number > 0]


def _addresses(tensor: dict[str, Any]) -> set[int]:
    """Where each number of a tensor lies in memory."""
    shape, stride, size, start = (tensor[key] for key in ("shape", "stride", "size", "start"))
    whole = all(isinstance(n, int) and n >= 0 for n in (*shape, *stride, size, start))
    if not whole or len(shape) != len(stride) or len(shape) > 8:
        raise ValueError("a tensor of an impossible shape")
    numbers = 1
    for n in shape:
        numbers *= n
    if numbers > _LARGEST:
        raise ValueError(f"a tensor of {numbers:,} numbers")
    steps = [range(0, n * s, s) if s else [0] for n, s in zip(shape, stride, strict=True)]
    if 0 in shape:
        return set()
    return {start + size * sum(offsets) for offsets in itertools.product(*steps)}


def judge_claim(claimed: Any, counts: Counts) -> tuple[bool, str]:
    """(whether the count in the metadata is confirmed, one sentence)."""
    if not isinstance(claimed, int) or isinstance(claimed, bool):
        return False, f"its metadata gives no number of parameters, but {claimed!r}"
    matching = [name for name, value in counts.named().items() if value == claimed]
    if claimed == counts.parameters:
        return True, f"it says {claimed:,} parameters, and holds {claimed:,} unique ones"
    if claimed < counts.parameters:
        also = f" (it has {claimed:,} {matching[0]})" if matching else ""
        return False, f"it says {claimed:,} parameters, but holds {counts.parameters:,}{also}"
    if matching:
        return True, f"it says {claimed:,} parameters: its number {matching[0]}"
    return True, f"it says {claimed:,} parameters, more than the {counts.parameters:,} it holds"
