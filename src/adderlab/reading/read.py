"""From a model to what is read of it: recorded, followed, judged, put into the table form.

The trace is walked once for every answer step (``lowering``). What cannot be read is refused in one line
that names the structure or the operation.

A model that returns the logits of the last position alone is recorded in one call for every answer step.
What the longest of these calls computes at an earlier position is, as a rule, what a shorter call
computed at its end. Numbers of a shorter call are then replaced by those of the longest (``Shorter``),
and what is left is a trace of one call, as of a model that returns all its logits. What stays in its own
call is, for instance, a query that is made at the last position only. Whether two numbers are the same
is tried on draws of tokens and parameters; what is read with them is compared with the model as every
reading is (``agreement``).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from adderlab.errors import Failure
from adderlab.models.tables import TableForm
from adderlab.reading.attention import Attention, Coordinate, rows_and_keys
from adderlab.reading.dependence import Dependence
from adderlab.reading.factors import Factors, Origins, find_factors, fold_of
from adderlab.reading.lowering import Answer, Lowered, Lowering
from adderlab.reading.reading import Reading, Tokens, heads_of, rows_at_steps
from adderlab.reading.running import one_thread
from adderlab.reading.trace import Trace, needed_nodes, record, run
from adderlab.reading.writing import Entry, Part, Product, Spec
from adderlab.task.addition import Layout

Model = Callable[[Tensor], Any]
"""Tokens (1, L) -> logits (1, L, V) or (1, V)."""

UNDERFLOW = 800.0
"""exp(-UNDERFLOW) is zero in float64."""


@one_thread()
def read_model(
    model: Model, parameters: Mapping[str, Tensor], layout: Layout, tokens: Tokens
) -> Reading:
    """Read a model that is called with ``tokens`` of shape (1, L).

    Raises ``Failure`` with one line that names the structure or the operation that cannot be read.
    """
    example = tokens.of(_example(layout))
    trace = record(model, example, parameters)
    P, last = layout.num_positions, trace.outputs[0].number
    answers = [Answer(position=q, output=last, row=q, length=P) for q in layout.query_positions]
    size = trace.shapes[last]
    if size == (1, 1, layout.vocab_size):
        lengths = [q + 1 for q in layout.query_positions]
        trace = record(model, example, parameters, lengths)
        answers = [
            Answer(position=q, output=out.number, row=0, length=q + 1)
            for q, out in zip(layout.query_positions, trace.outputs, strict=True)
        ]
    elif size != (1, P, layout.vocab_size):
        raise Failure(
            f"on {P} tokens its logits have the shape {size}: the reading needs those of every "
            f"position, (1, {P}, {layout.vocab_size}), or of the last"
        )
    own = {name: parameters[name].detach() for name in set(trace.parameters.values())}
    dependence = Dependence(trace, own)
    _judge(dependence, answers)
    draws = _draws(trace, own, layout, tokens) if len(trace.outputs) > 1 else None
    calls = [None if draws is None else Shorter(trace, each, answers[-1], draws) for each in answers]
    steps, attentions = _lowered(trace, dependence, answers, tokens, calls)
    reading = _form(trace, dependence, layout, tokens, tuple(answers), steps, attentions, calls)
    _judge_buried(reading, dependence, own, attentions)
    return reading


def _draws(trace: Trace, parameters: Mapping[str, Tensor], layout: Layout, tokens: Tokens) -> Draws:
    """Of the model's own parameters, and of two others."""
    generator = torch.Generator().manual_seed(1)

    def drawn(shape: Sequence[int]) -> Tensor:
        return torch.rand(tuple(shape), generator=generator, dtype=torch.float64) + 0.5

    exact = {name: tensor.double() for name, tensor in parameters.items()}
    signs = {name: torch.where(x < 0, -1.0, 1.0) for name, x in exact.items()}
    others = [{name: drawn(x.shape) * x for name, x in signs.items()} for _ in range(2)]
    shape = len(others) + 1, layout.num_positions
    sequences = torch.randint(0, layout.vocab_size, shape, generator=generator)
    return Draws(
        trace, [exact, *others], [tokens.of(row[None]).reshape(trace.tokens.shape) for row in sequences]
    )


def _judge_buried(
    reading: Reading,
    dependence: Dependence,
    parameters: Mapping[str, Tensor],
    attentions: Sequence[Sequence[Attention]],
) -> None:
    """Whether keys that large negative numbers hide have no weight in any arithmetic, whatever the
    tokens: their scores lie so far below the largest that its exponential is zero."""
    if not dependence.buried:
        return
    others = dependence.buried - {each.source for heads in attentions for each in heads}
    if others:
        raise Failure("it has a softmax beside its attention that large negative numbers are added to")
    exact = {name: tensor.double() for name, tensor in parameters.items()}
    with torch.no_grad():
        score_AVHTJ = reading.pair_scores(exact, -math.inf)
    hidden_AVHTJ = reading.hidden_HAJ.transpose(0, 1)[:, None, :, None].expand_as(score_AVHTJ)
    seen = score_AVHTJ.masked_fill(hidden_AVHTJ, math.inf).amin(3)
    seen = torch.where(torch.isinf(seen), -math.inf, seen).amax(-1)
    hidden = score_AVHTJ.masked_fill(~hidden_AVHTJ, -math.inf).amax((3, 4))
    if bool((hidden > seen - UNDERFLOW).any()):
        raise Failure(
            "its mask adds a number that is not large enough to hide a key whatever the tokens: use "
            "minus infinity"
        )


def _example(layout: Layout) -> Tensor:
    """Some sequence of the layout: (1, P)."""
    generator = torch.Generator().manual_seed(0)
    task = layout.addition
    digits = torch.randint(0, task.base, (2, 1, task.columns), generator=generator, dtype=torch.uint8)
    return layout.encode(digits[0], digits[1])[0].long()


def _judge(dependence: Dependence, answers: Sequence[Answer]) -> None:
    """Whether a step looks at positions that are not yet written when it answers."""
    for answer in answers:
        bits = dependence.positions(answer.output)
        row = bits.reshape(-1, bits.shape[-1])[answer.row].tolist()
        q = answer.position
        later = [int(b).bit_length() - 1 for b in row if int(b) >> (q + 1)]
        if later:
            raise Failure(
                f"the logits at position {q} depend on the token at position {max(later)}, which is not "
                "yet written then: the model looks ahead"
            )


def _lowered(
    trace: Trace,
    dependence: Dependence,
    answers: Sequence[Answer],
    tokens: Tokens,
    calls: Sequence[Shorter | None],
) -> tuple[tuple[Lowered, ...], tuple[tuple[Attention, ...], ...]]:
    """The head of every step, one program and the same constants, and the attentions of its own call.

    ``calls``: of the steps, where every step has its own.
    """
    as_rows: frozenset[tuple[int, int]] = frozenset()
    attentions: tuple[tuple[Attention, ...], ...] = ()
    for _ in range(3):
        steps = tuple(
            Lowering(trace, dependence, each, as_rows).lowered(tokens.order) for each in answers
        )
        attentions = tuple(map(heads_of, steps))
        steps = tuple(
            step if call is None else call.lowered(step) for step, call in zip(steps, calls, strict=True)
        )
        everywhere = set.intersection(*(set(step.origins) for step in steps))
        more = {
            origin for step in steps for spec, origin in step.origins.items() if spec not in everywhere
        }
        if not more:
            break
        as_rows = as_rows | more
    first = steps[0]
    if any(step.program != first.program for step in steps):
        raise Failure("what follows the attention is not the same computation at every answer step")
    if any(
        (step.constants, step.row_shift, step.last) != (first.constants, first.row_shift, first.last)
        for step in steps
    ):
        raise Failure("what follows the attention has other weights at every answer step")
    judge_alike(steps, answers)
    return steps, attentions


def _form(
    trace: Trace,
    dependence: Dependence,
    layout: Layout,
    tokens: Tokens,
    answers: tuple[Answer, ...],
    steps: tuple[Lowered, ...],
    attentions: tuple[tuple[Attention, ...], ...],
    calls: Sequence[Shorter | None],
) -> Reading:
    """The reading whose scores are factors if they can be. ``attentions``: those of each step's call."""

    def same(step: int, entry: Entry) -> Entry:
        call = calls[step]
        return entry if call is None else call.entry(entry)

    first = steps[0]
    heads = heads_of(first)
    _judge_values(dependence, steps[-1], layout.num_positions)
    nothing = {}
    for each in itertools.chain(*attentions):
        number = trace.nodes[each.softmax].outputs[0].number  # type: ignore[union-attr]
        zero = (dependence.bits[number] == 0) & (dependence.fixed[number] == 0)
        nothing[each.source] = zero
    hidden_HAJ = rows_at_steps(nothing, attentions, answers, trace, first.offset, True)

    free = frozenset(n for n in dependence.bits if not bool(dependence.positions(n).any()))
    fold = fold_of(trace, free, steps[-1], len(heads), layout.num_positions)

    def reading(
        factors: tuple[Factors, ...] | None, key_dim: int, curved: tuple[Factors, ...] | None = None
    ) -> Reading:
        form = TableForm(
            layout=layout,
            heads=len(heads),
            key_dim=key_dim,
            value_dim=len(first.mixed) // len(heads) if fold is None else fold.width,
            program=first.program if fold is None else fold.program,
        )
        return Reading(
            layout=layout,
            tokens=tokens,
            trace=trace,
            answers=answers,
            steps=steps,
            form=form,
            factors=factors,
            curved=curved,
            fold=fold,
            hidden_HAJ=hidden_HAJ,
            shapes={name: trace.shapes[number] for number, name in trace.parameters.items()},
            free=free,
        )

    own_heads = [heads_of(step) for step in steps]
    factors = find_factors(trace, dependence, answers, own_heads, first.offset, same)
    if factors is not None:
        width = len(factors[0].keys[0])
        found = reading(factors, width)
        if not found._plain_shift:
            found = reading(factors, width + layout.num_answers)
        if _same_factor(found):
            return found
    curved = find_factors(trace, dependence, answers, own_heads, first.offset, same, curved=True)
    if curved is not None and len(curved[0].keys) == layout.num_positions:
        found = reading(None, 0, curved)
        if _same_factor(found):
            return found
    return reading(None, 0)


def _same_factor(probe: Reading) -> bool:
    """Whether all keys of a step have the same factor, whatever the parameters: tried on two draws.
    Where scores are a function of products, both factors, and nothing is added before it."""
    heads = probe._heads(narrow=True)
    assert heads is not None
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(seed)
        parameters = {
            name: torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5
            for name, shape in probe.shapes.items()
        }
        scales = [probe._affine(parameters, torch.float64, heads)[0]]
        if heads[0].functions:
            inner_HAJ, added_HAJ = probe._before_function(parameters, torch.float64, heads)
            if bool((added_HAJ != 0).any()):
                return False
            scales.append(inner_HAJ)
        P = probe.layout.num_positions
        own = slice(probe.steps[0].offset, probe.steps[0].offset + P)
        seen = probe._visible() & ~probe.hidden_HAJ[:, :, own]
        queries = torch.tensor(probe._query_positions())
        for scale_HAJ in scales:
            scale_HAP = scale_HAJ[:, :, own]
            wanted = scale_HAP[:, torch.arange(len(queries)), queries][..., None]
            if not bool((((scale_HAP - wanted).abs() <= 1e-12 * wanted.abs()) | ~seen).all()):
                return False
    return True


def _judge_values(dependence: Dependence, step: Lowered, length: int) -> None:
    for coordinate in step.mixed:
        if coordinate is None:
            continue
        for key, entry in enumerate(coordinate.values):
            if entry is None:
                continue
            bits = int(dependence.positions(entry[0]).reshape(-1)[entry[1]])
            position = key - step.offset
            allowed = 1 << position if 0 <= position < length else 0
            if not allowed:
                raise Failure(
                    "its attention has a sink with a value: the reading knows sinks that take "
                    "weight alone"
                )
            if bits & ~allowed:
                raise Failure(
                    "the values that attention mixes depend on other tokens than their own: a "
                    "second layer, or positions mixed outside the attention"
                )


# Models that return the logits of the last position alone: one call for every answer step.

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
