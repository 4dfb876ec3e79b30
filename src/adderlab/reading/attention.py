"""Attention in a trace: softmaxes over keys, and the sums of values by their weights.

The weights of one query position have codes, as everything that a walk follows has (``lowering``). What
they multiply, by themselves and nothing else, are the values; each such sum is a channel of ``mixed``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adderlab.errors import Failure
from adderlab.reading.dependence import Dependence
from adderlab.reading.trace import Node, Trace
from adderlab.reading.writing import Entry, Part

BEFORE, OTHER = -1, -2
"""Codes: comes before the attention; belongs to another query position."""
FIRST_WEIGHT = -10
"""Code FIRST_WEIGHT - k is attention weight k."""
FIRST_PART = -(10**12)
"""Code FIRST_PART - k is part k of those that were put among numbers of the head, constants as a
rule."""
TWO_TOKENS = (
    "an attention whose scores depend on more than two tokens: a second layer, or a block applied twice"
)


@dataclass(frozen=True, kw_only=True)
class Attention:
    """One softmax over the keys, of one head."""

    softmax: int
    """Number of the node."""
    source: int
    """The tensor of scores that it takes."""
    head: int
    """Which of its rows: the place of the leading axes, counted row by row."""


@dataclass(frozen=True, kw_only=True)
class Coordinate:
    """One channel of ``mixed``: what the weights of one head multiply."""

    attention: Attention
    values: tuple[Entry | None, ...]
    """For every key of the softmax; None where it has no value."""


class Mixtures:
    """The attentions that were met, their weights at one query position, the channels of ``mixed``."""

    def __init__(self, trace: Trace, dependence: Dependence, position: int, length: int) -> None:
        self.trace, self.dependence, self.position = trace, dependence, position
        self.length = length
        """Tokens that the call has."""
        self._weights: list[tuple[Attention, int]] = []
        """(attention, key) of every weight that has a code."""
        self._offsets: dict[int, int] = {}
        """Of every softmax."""
        self._mixed: dict[Coordinate, int] = {}

    @property
    def offset(self) -> int:
        """Keys before the first position, of all heads that the channels come from."""
        return self._offsets[next(iter(self._mixed)).attention.softmax]

    def keys(self, attention: Attention) -> int:
        return self.trace.shapes[attention.source][-1]

    def is_attention(self, node: Node) -> bool:
        """Whether the softmax runs over keys: as many as there are tokens, or one more."""
        if node.operation not in ("_softmax", "_safe_softmax"):
            return False
        ref, dim = node.args[0], int(node.args[1])
        shape = self.trace.shapes[ref.number]
        if not shape or dim % len(shape) != len(shape) - 1:
            return False
        return shape[-1] in (self.length, self.length + 1)

    def attend(self, number: int, node: Node) -> Tensor:
        """The codes of its weights."""
        source = node.args[0].number
        shape = self.trace.shapes[source]
        rows, keys = rows_and_keys(shape)
        if rows not in (1, self.length):
            raise Failure(f"its attention has {rows} queries and {keys} keys: that cannot be placed")
        bits = self.dependence.positions(source).reshape(-1, rows, keys)
        row = self.position if rows == self.length else 0
        offset = self._offset(bits[:, row])
        self._offsets[number] = offset
        codes = torch.full((len(bits), rows, keys), OTHER)
        for head, key in itertools.product(range(len(bits)), range(keys)):
            allowed = 1 << self.position
            position = key - offset
            if 0 <= position < self.length:
                allowed |= 1 << position
            if int(bits[head, row, key]) & ~allowed:
                raise Failure(TWO_TOKENS)
            self._weights.append((Attention(softmax=number, source=source, head=head), key))
            codes[head, row, key] = FIRST_WEIGHT - (len(self._weights) - 1)
        return codes.reshape(shape)

    def _offset(self, bits_HJ: Tensor) -> int:
        """By how much keys are shifted against positions: 1 with a sink before the first."""
        keys = bits_HJ.shape[1]
        if keys == self.length:
            return 0
        for offset in (0, 1):
            key_J = torch.zeros(keys, dtype=torch.int64)
            key_J[offset : offset + self.length] = 1 << torch.arange(self.length)
            if not bool((bits_HJ & ~((1 << self.position) | key_J)).any()):
                return offset
        raise Failure(TWO_TOKENS)

    def channel(self, pairs: Sequence[tuple[int, Part]]) -> int:
        """The channel of ``mixed`` that is the sum of these (weight's code, value)."""
        chosen = [self._weights[FIRST_WEIGHT - code] for code, _ in pairs]
        attentions = {attention for attention, _ in chosen}
        if len(attentions) != 1:
            raise Failure("values are mixed by the weights of more than one softmax at once")
        attention = attentions.pop()
        found: list[Entry | None] = [None] * self.keys(attention)
        for (_, key), (_, value) in zip(chosen, pairs, strict=True):
            if found[key] is not None:
                raise Failure("one attention weight multiplies two values")
            assert not isinstance(value, float)
            found[key] = value
        coordinate = Coordinate(attention=attention, values=tuple(found))
        return self._mixed.setdefault(coordinate, len(self._mixed))

    def by_head(self) -> tuple[tuple[Coordinate | None, ...], dict[int, int]]:
        """The channels of ``mixed`` in the tables' order, each head filled up to the longest with None,
        and where each channel went."""
        heads: dict[Attention, list[Coordinate]] = {}
        for coordinate in self._mixed:
            heads.setdefault(coordinate.attention, []).append(coordinate)
        if len({(self._offsets[own.softmax], self.keys(own)) for own in heads}) > 1:
            raise Failure("some of its heads have a sink and some have none, or another one")
        longest = max(map(len, heads.values()))
        ordered: list[Coordinate | None] = []
        for own in heads.values():
            ordered += [*own, *[None] * (longest - len(own))]
        place = {self._mixed[c]: i for i, c in enumerate(ordered) if c is not None}
        return tuple(ordered), place


def rows_and_keys(shape: Sequence[int]) -> tuple[int, int]:
    """Of scores: the last two axes, or one row where there is but one axis."""
    return (1, shape[-1]) if len(shape) == 1 else (shape[-2], shape[-1])


def is_weight(code: int) -> bool:
    return FIRST_PART < code <= FIRST_WEIGHT
