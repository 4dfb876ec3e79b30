"""Models that return the logits of the last position alone: one call for every answer step.

What the longest of these calls computes at an earlier position is, as a rule, what a shorter call
computed at its end. Numbers of a shorter call are then replaced by those of the longest, and what is
left is a trace of one call, as of a model that returns all its logits. What stays in its own call is,
for instance, a query that is made at the last position only.

Whether two numbers are the same is tried on draws of tokens and parameters; what is read with them is
compared with the model as every reading is (``agreement``).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from adderlab.errors import Failure
from adderlab.reading.attention import Attention, Coordinate, rows_and_keys
from adderlab.reading.lowering import Answer, Lowered
from adderlab.reading.origins import Origins
from adderlab.reading.trace import Trace, needed_nodes, run
from adderlab.reading.writing import Entry, Part, Product, Spec

SAME = 1e-9
"""Numbers are the same up to this, relative to the larger (or 1)."""


class Shorter:
    """The numbers of the call of one answer step, as numbers of the longest call where they are some."""

    def __init__(self, trace: Trace, answer: Answer, longest: Answer, draws: Draws) -> None:
        self._trace, self._answer, self._longest, self._draws = trace, answer, longest, draws
        self._twins = _twins(trace, answer, longest)
        self._places: dict[int, list[int]] = {}

    def entry(self, entry: Entry) -> Entry:
        """The same number in the longest call, or where it was before it was moved."""
        number, place = self._draws.origins.unmoved(entry)
        if self._twins.get(number, number) == number:
            return number, place
        if number not in self._places:
            self._places[number] = self._placed(number)
        there = self._places[number][place]
        return (number, place) if there < 0 else (self._twins[number], there)

    def lowered(self, step: Lowered) -> Lowered:
        """The program of the step, made of numbers of the longest call."""
        mixed = tuple(None if c is None else self._coordinate(c) for c in step.mixed)
        return dataclasses.replace(
            step,
            constants={name: self._spec(spec) for name, spec in step.constants.items()},
            origins={self._what(what): origin for what, origin in step.origins.items()},
            rows=tuple(map(self.entry, step.rows)),
            row_shift=None if step.row_shift is None else self._spec(step.row_shift),
            mixed=mixed,
        )

    def _spec(self, spec: Spec) -> Spec:
        return spec[0], self._what(spec[1])

    def _what(self, what: tuple[Part, ...] | Product) -> tuple[Part, ...] | Product:
        if isinstance(what, Product):
            return dataclasses.replace(what, left=self._spec(what.left), right=self._spec(what.right))
        return tuple(self.entry(part) if isinstance(part, tuple) else part for part in what)

    def _coordinate(self, own: Coordinate) -> Coordinate:
        values = tuple(None if entry is None else self.entry(entry) for entry in own.values)
        return Coordinate(attention=self._attention(own.attention), values=values)

    def _attention(self, own: Attention) -> Attention:
        """The longest call's, if its scores of this step's query are the same."""
        source, trace = own.source, self._trace
        softmax = trace.nodes[own.softmax].outputs[0]
        if softmax is None or self._twins.get(source, source) == source:
            return own
        twin = self._twins[source]
        (rows, keys), (wide, most) = (rows_and_keys(trace.shapes[x]) for x in (source, twin))
        if rows != self._answer.length or wide != self._longest.length:
            return own
        start = (own.head * rows + self._answer.position) * keys
        there = (own.head * wide + self._answer.position) * most
        # A sink may stand after the keys.
        behind = {0, most - keys} if keys > rows else {0}
        for more in behind:
            moved = [j + more * (j == keys - 1) for j in range(keys)]
            if self._draws.same(
                source, [start + j for j in range(keys)], twin, [there + j for j in moved]
            ):
                node = self._draws.made[self._twins[softmax.number]]
                return Attention(softmax=node, source=twin, head=own.head)
        return own

    def _placed(self, number: int) -> list[int]:
        """For every place of a tensor that of the same number in its twin, -1 where there is none."""
        twin, trace = self._twins[number], self._trace
        own, other = trace.shapes[number], trace.shapes[twin]
        size = math.prod(own)
        found = torch.full((size,), -1)
        if len(own) != len(other):
            return found.tolist()
        at = torch.unravel_index(torch.arange(size), own)
        # Where an axis is longer, the same index, or the same counted from its end.
        shifts = [{0, longer - length} for length, longer in zip(own, other, strict=True)]
        for shift in itertools.product(*(sorted(each) for each in shifts)):
            places, inside = torch.zeros(size, dtype=torch.int64), torch.ones(size, dtype=torch.bool)
            for index, more, length in zip(at, shift, other, strict=True):
                inside &= (index + more >= 0) & (index + more < length)
                places = places * length + (index + more).clamp(0, length - 1)
            equal = inside & self._draws.equal(number, twin, places)
            found = torch.where((found < 0) & equal, places, found)
        return found.tolist()


class Draws:
    """What a trace computes of a few random tokens and parameters."""

    def __init__(
        self, trace: Trace, parameters: Sequence[Mapping[str, Tensor]], tokens: Sequence[Tensor]
    ) -> None:
        self.origins = Origins(trace)
        self.made = {
            ref.number: i
            for i, node in enumerate(trace.nodes)
            for ref in node.outputs
            if ref is not None
        }
        """The node that made a tensor."""
        needed = needed_nodes(trace, {ref.number for ref in trace.outputs})
        wanted = {number for number, node in self.made.items() if needed[node]}
        self._found = [
            {
                number: tensor.reshape(-1).double()
                for number, tensor in run(trace, own, drawn, wanted).items()
            }
            for own, drawn in zip(parameters, tokens, strict=True)
        ]

    def equal(self, number: int, other: int, places: Tensor) -> Tensor:
        """Which of a tensor's numbers are those at these places of the other, in all draws."""
        equal = torch.ones(len(places), dtype=torch.bool)
        for found in self._found:
            equal &= torch.isclose(found[number], found[other][places], rtol=SAME, atol=SAME)
        return equal

    def same(self, number: int, places: Sequence[int], other: int, there: Sequence[int]) -> bool:
        """Whether the numbers at these places are the same in all draws."""
        return all(
            torch.allclose(found[number][list(places)], found[other][list(there)], rtol=SAME, atol=SAME)
            for found in self._found
        )


def _twins(trace: Trace, answer: Answer, longest: Answer) -> dict[int, int]:
    """The tensors of one call and those of the longest that the same operations made; none where the
    two calls consist of different operations."""
    calls = []
    for each in (answer, longest):
        needed = needed_nodes(trace, {each.output})
        # A slice of all there is, as of the longest call's positions, is written in another way.
        calls.append(
            [
                node
                for node, use in zip(trace.nodes, needed, strict=True)
                if use and node.operation not in ("alias", "slice")
            ]
        )
    if [node.function for node in calls[0]] != [node.function for node in calls[1]]:
        return {}
    return {
        ours.number: theirs.number
        for pair in zip(*calls, strict=True)
        for ours, theirs in zip(pair[0].outputs, pair[1].outputs, strict=True)
        if ours is not None and theirs is not None
    }


def judge_alike(steps: Sequence[Lowered], answers: Sequence[Answer]) -> None:
    """Whether every step mixes the values of the longest call, as far as it reads."""
    last = steps[-1]
    heads = [_heads(step) for step in steps]
    for step, answer, own in zip(steps, answers, heads, strict=True):
        alike = own == heads[-1] and step.offset == last.offset
        for mine, whole in zip(step.mixed, last.mixed, strict=False):
            if alike and mine is not None and whole is not None:
                seen = slice(step.offset, step.offset + answer.length)
                alike = mine.values[seen] == whole.values[seen]
        if not alike:
            raise Failure("the values that attention mixes are not the same at every answer step")


def _heads(step: Lowered) -> list[int | None]:
    """The head that every channel belongs to."""
    order = list(dict.fromkeys(c.attention for c in step.mixed if c is not None))
    return [None if c is None else order.index(c.attention) for c in step.mixed]
