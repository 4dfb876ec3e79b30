"""How many numbers a submission holds, under each convention that people use, every count by name.

Two sources: what the running submission holds (shown by a process that the stranger's code shares, so a
file written to deceive can hide some), and the literals in its text, which are counted before its code
runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


class TooMany(Exception):
    """There are more numbers than are counted here."""


_LARGEST = 20_000_000
_MASKED = -1e4
"""Scores from which on down a position is masked, as minus infinity masks it."""
_KINDS = ("parameter", "held", "buffer", "other", "loose")


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
    """A number that several tensors share is counted once, and so is a copy of a tensor."""

    parameters: int
    """In ``nn.Parameter``s, tied ones once: the board's count. Of a model that registers none, in
    everything that it holds."""
    trainable: int
    """Of these, in parameters that require a gradient."""
    with_buffers: int
    """Parameters and floating-point buffers."""
    with_others: int
    """And floating-point tensors that are registered nowhere, or lie in the file's globals."""
    with_literals: int
    """And floats in the code; and tables, where they hold more numbers than all tensors."""
    distinct: int | None
    """Different values among the parameters; None where there are too many to say."""
    nonzero: int | None
    masks: int
    """Numbers in buffers and other tensors that only say which positions are seen: 0 and 1, or 0 and
    minus infinity. They are in none of the counts above."""
    whole: int
    """Whole numbers in tensors: positions, or weights packed into integers. In none of them either."""
    literals: Literals

    def named(self) -> dict[str, int]:
        """Every count under the name that reports use."""
        names = {
            "unique parameters": self.parameters,
            "unique trainable parameters": self.trainable,
            "with buffers": self.with_buffers,
            "with tensors held elsewhere": self.with_others,
            "with literals in the source": self.with_literals,
            "distinct values": self.distinct,
            "nonzero values": self.nonzero,
            "in 0/1 masks": self.masks,
        }
        return {name: value for name, value in names.items() if value is not None}

    @property
    def least(self) -> int:
        """The fewest that any convention counts."""
        fewer = (self.trainable, self.distinct, self.nonzero)
        return min(self.parameters, *(n for n in fewer if n), self.parameters)


def count(shown: list[dict[str, Any]], literals: Literals) -> Counts:
    """Counts from what the submission shows: of each tensor its kind, shape, stride and address, and
    its values unless there are too many.

    Raises ``TooMany`` beyond 20 million, ``ValueError`` and its like for a list that makes no sense.
    """
    places: dict[str, list[NDArray[np.int64]]] = {kind: [] for kind in (*_KINDS, "trained")}
    values: list[NDArray[np.float64] | None] = []
    copies: set[bytes] = set()
    total = masks = whole = tables = 0
    for tensor in sorted(shown, key=lambda tensor: _KINDS.index(tensor["kind"])):
        addresses, kind = _addresses(tensor), tensor["kind"]
        total += len(addresses)
        if total > _LARGEST:
            raise TooMany(f"more than {_LARGEST:,} numbers")
        numbers = _values(tensor, len(addresses))
        if tensor.get("whole"):
            whole += len(addresses)
            continue
        if tensor.get("table") and kind == "loose":
            tables += len(addresses)  # written in the text, or read from a file: see ``with_literals``
            continue
        if kind != "parameter" and numbers is not None and _is_mask(numbers):
            masks += len(np.unique(addresses))
            continue
        content = b"" if numbers is None or len(numbers) < 2 else numbers.tobytes()
        if kind in ("other", "loose") and content and content in copies:
            continue
        copies.add(content)
        places[kind].append(addresses)
        if kind in ("parameter", "held"):
            values.append(numbers)
            if tensor["trained"]:
                places["trained"].append(addresses)
    own = [*places["parameter"], *places["held"]]
    parameters = _union(own)
    registered = _union([parameters, *places["buffer"]])
    everything = _union([registered, *places["other"], *places["loose"]])
    held = _of_each(own, values)
    extra = len(literals.in_code) + max(
        0, literals.in_tables - len(everything), tables - len(everything)
    )
    return Counts(
        parameters=len(parameters),
        trainable=len(_union(places["trained"])),
        with_buffers=len(registered),
        with_others=len(everything),
        with_literals=len(everything) + extra,
        distinct=None if held is None else len(np.unique(held)),
        nonzero=None if held is None else int(np.count_nonzero(held)),
        masks=masks,
        whole=whole,
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
    notes = [f"{number:,} {what}: fixed or learned?" for number, what in found if number > 0]
    if counts.whole:
        notes.append(f"{counts.whole:,} whole numbers in tensors: positions, or packed weights?")
    return notes


def _addresses(tensor: dict[str, Any]) -> NDArray[np.int64]:
    """Where each number of a tensor lies in memory."""
    shape, stride, size, start = (tensor[key] for key in ("shape", "stride", "size", "start"))
    whole = all(type(n) is int and abs(n) < 1 << 62 for n in (*shape, *stride, size, start))
    if not whole or len(shape) != len(stride) or len(shape) > 8 or any(n < 0 for n in shape):
        raise ValueError("a tensor of an impossible shape")
    if (numbers := math.prod(shape)) > _LARGEST:
        raise TooMany(f"a tensor of {numbers:,} numbers")
    reach = sum(abs(size * step) * n for n, step in zip(shape, stride, strict=True))
    if abs(start) + reach >= 1 << 63:
        raise ValueError("a tensor beyond all memory")
    addresses = np.full((1,) * len(shape), start, dtype=np.int64)
    for axis, (n, step) in enumerate(zip(shape, stride, strict=True)):
        along = np.arange(n, dtype=np.int64) * (size * step)
        addresses = addresses + along.reshape(-1, *(1,) * (len(shape) - 1 - axis))
    return addresses.reshape(-1)


def _values(tensor: dict[str, Any], numbers: int) -> NDArray[np.float64] | None:
    """The values in the order of their addresses; NaN and the infinities came as texts."""
    if "values" not in tensor:
        return None
    values = np.array([float(value) for value in tensor["values"]], dtype=np.float64)
    if len(values) != numbers:
        raise ValueError("a tensor with another number of values than numbers")
    return values


def _is_mask(values: NDArray[np.float64]) -> bool:
    """Whether the values only say which positions are seen."""
    if len(values) < 2:
        return False
    return bool(np.isin(values, (0.0, 1.0)).all() or ((values == 0) | (values <= _MASKED)).all())


def _union(places: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.unique(np.concatenate([np.empty(0, dtype=np.int64), *places]))


def _of_each(
    places: list[NDArray[np.int64]], values: list[NDArray[np.float64] | None]
) -> NDArray[np.float64] | None:
    """The value at each address, once; None if some were left out."""
    known = [each for each in values if each is not None]
    if len(known) < len(values):
        return None
    if not known:
        return np.empty(0)
    _, first = np.unique(np.concatenate(places), return_index=True)
    return np.concatenate(known)[first]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The count in the metadata compared with the counts."""

    confirmed: bool | None
    """Whether it is one of them or above the board's; None: there is no number to compare."""
    sentence: str
    false: bool = False
    """It is below what every convention counts."""


def judge_claim(claimed: Any, counts: Counts) -> Claim:
    """Compare the count in the metadata with what was counted."""
    number = _as_number(claimed)
    if number is None:
        sentence = f"its metadata gives no number of parameters, but {str(claimed)[:80]!r}"
        return Claim(confirmed=None, sentence=sentence)
    says = f"it says {number:,} parameters"
    if number == counts.parameters:
        return Claim(confirmed=True, sentence=f"{says}, and holds {number:,} unique ones")
    named = counts.named() | {"with buffers and masks": counts.with_buffers + counts.masks}
    del named["in 0/1 masks"]
    matching = [name for name, value in named.items() if value == number]
    if number < counts.least:
        sentence = f"{says}, but holds {counts.parameters:,}"
        if counts.least < counts.parameters:
            sentence += f", and by no convention fewer than {counts.least:,}"
        return Claim(confirmed=False, false=True, sentence=sentence)
    if matching:
        convention = matching[0] if matching[0].startswith("with") else f"of {matching[0]}"
        sentence = (
            f"{says}: its number {convention}; of unique parameters it holds {counts.parameters:,}"
        )
        return Claim(confirmed=True, sentence=sentence)
    if number > counts.parameters:
        return Claim(confirmed=True, sentence=f"{says}, more than the {counts.parameters:,} it holds")
    sentence = f"{says}, but holds {counts.parameters:,}; no convention counts {number:,}"
    return Claim(confirmed=False, sentence=sentence)


def _as_number(claimed: Any) -> int | None:
    """A count as people write it: 456, 456.0, "456", "1,644"."""
    if isinstance(claimed, str) and claimed.replace(",", "").strip().isdecimal() and len(claimed) < 20:
        return int(claimed.replace(",", ""))
    if isinstance(claimed, bool) or not isinstance(claimed, (int, float)):
        return None
    return int(claimed) if math.isfinite(claimed) and claimed == int(claimed) else None
