"""A model read from its trace: tables, head program, layout. Nothing else of the model is needed.

The head is read at each answer step (``lowering``); the tables are numbers of the trace itself, run on
sequences that hold one token throughout. Nothing is guessed: what a number may depend on is decided bit
by bit (``dependence``), and what was read is compared with the model on random sequences.

Shapes: S seeds, A answer steps, P positions, V vocabulary, H heads, K key and E value dimension.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from adderlab.models.head_program import FUNCTIONS, HeadProgram, evaluate
from adderlab.models.tables import TableForm, Tables
from adderlab.reading.attention import Attention, rows_and_keys
from adderlab.reading.factors import Factors, Fold, InputFold, NarrowScores, OutputFold, narrow_scores
from adderlab.reading.lowering import Answer, Lowered
from adderlab.reading.trace import Trace, run
from adderlab.reading.writing import Entry, Part, Product, Spec
from adderlab.task.addition import Layout

HIDDEN = -1e4
"""A hidden key's score where queries times keys say it all: its weight is nothing in any format, and its
derivative a number."""


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Which of the model's own tokens stand for the layout's, position by position."""

    ids_PV: Tensor
    """The model's token for every position and token of the layout."""
    order: tuple[int, ...]
    """The model's token for every logit of the layout."""

    def of(self, tokens_BP: Tensor) -> Tensor:
        """The layout's tokens (B, L), L at most P, as the model's."""
        position_L = torch.arange(tokens_BP.shape[-1])
        return self.ids_PV[position_L, tokens_BP.long()]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """What was read. ``tables`` gives the tables of any parameters of the same shapes."""

    layout: Layout
    tokens: Tokens
    trace: Trace
    answers: tuple[Answer, ...]
    """Where the trace has the logits of every answer step."""
    steps: tuple[Lowered, ...]
    """One for every answer step."""
    form: TableForm
    factors: tuple[Factors, ...] | None
    """One for every head; None where scores are no such products."""
    curved: tuple[Factors, ...] | None
    """Where they are a function of such products: for the narrow form, which training and evaluation
    compute. Elsewhere such scores are tabulated."""
    fold: Fold | None
    """Of values that are read through a narrow matrix, or made by one."""
    hidden_HAJ: Tensor
    """Keys whose weight is zero whatever tokens and parameters are (head, answer step, key)."""
    shapes: Mapping[str, tuple[int, ...]]
    """Of every parameter."""
    free: frozenset[int] = frozenset()
    """Tensors that no token decides."""

    @cached_property
    def program(self) -> HeadProgram:
        return self.form.program

    def tables(
        self, parameters: Mapping[str, Tensor], *, exact: bool = False, narrow: bool = False
    ) -> Tables:
        """The tables of S models, from parameters (S, ...). Differentiable.

        ``exact``: keys that a step does not see, though they stand before its query, have the score
        minus infinity in ``score``; otherwise ``HIDDEN`` in queries and keys, for engines that know no
        more. ``narrow``: of the same model in a form that is faster to compute (``factors``). What is
        added to scores whatever the tokens are is a coordinate of queries and keys for each step, in the
        narrow form one number of ``score`` for each step and key.
        """
        names = list(self.trace.parameters.values())
        used = {name: parameters[name] for name in dict.fromkeys(names)}
        found = torch.vmap(lambda own: self._one(own, exact, narrow))(used)
        head = {name: found.pop(f"head.{name}") for name in self.program.shapes}
        form = replace(self.form, key_dim=found["query"].shape[-1])
        if "score_scale" in found:
            assert self.curved is not None and self.curved[0].functions
            form = replace(form, score_function=self.curved[0].functions[0].name)
        return Tables(form=form, head=head, **found)

    def _one(self, parameters: dict[str, Tensor], exact: bool, narrow: bool) -> dict[str, Tensor]:
        """Tables of one model, by name."""
        entries = [e for spec in self._specs(narrow) for e in spec]
        wanted = {number for number, _ in entries}
        tokens_VP = self.tokens.ids_PV.T
        shape = self.trace.tokens.shape
        every = torch.vmap(lambda own: run(self.trace, parameters, own.reshape(shape), wanted))(
            tokens_VP
        )
        flat_V = {number: tensor.reshape(len(tokens_VP), -1) for number, tensor in every.items()}
        first = self.steps[0]
        dtype = next(iter(parameters.values())).dtype

        def gathered(entries: Sequence[Part], rows: slice = slice(None)) -> Tensor:
            """(V, n) of these entries."""
            return _gather(flat_V, entries, dtype)[rows]

        A, P, V = len(self.steps), self.layout.num_positions, self.layout.vocab_size
        H, fold = self.form.heads, self.fold
        value = gathered(self._value_entries()).reshape(V, P, H, -1).transpose(0, 1)
        row_entries = [entry for step in self.steps for entry in step.rows]
        residual = gathered(row_entries).reshape(V, A, -1).transpose(0, 1)

        def constant(spec: Spec) -> Tensor:
            size, what = spec
            if isinstance(what, Product):
                left, right = constant(what.left), constant(what.right)
                if what.kind == "rows":
                    return left * right[:, None]
                if what.kind == "sum":
                    return left + right
                return left * right if what.kind == "columns" else left @ right
            return gathered(what)[0].reshape(size)

        if first.row_shift is not None:
            residual = residual + constant(first.row_shift)
        tables = {"value": value, "residual": residual}
        constants = dict(first.constants)
        if isinstance(fold, OutputFold):
            into_HEN = constant(fold.into_values).reshape(H, -1, fold.width)
            tables["value"] = (value[..., None, :] @ into_HEN)[..., 0, :]
            constants[fold.constant] = fold.rest
        for name, spec in constants.items():
            tables[f"head.{name}"] = constant(spec)
        if isinstance(fold, OutputFold):
            tables[f"head.{fold.constant}"] = tables[f"head.{fold.constant}"].repeat(H, 1)
        if isinstance(fold, InputFold):
            matrix_HNE = gathered([e for matrix in fold.matrices for e in matrix])[0]
            matrix_HNE = matrix_HNE.reshape(H, fold.width, -1)
            out_HED = tables[f"head.{fold.constant}"].unflatten(0, (H, -1))
            tables[f"head.{fold.constant}"] = (matrix_HNE @ out_HED).flatten(0, 1)
        return {**tables, **self._scores(parameters, gathered, dtype, exact, narrow)}

    def _value_entries(self) -> list[Entry | None]:
        """Position by position, head by head. The last step reads all keys."""
        if isinstance(self.fold, InputFold):
            return [entry for row in self.fold.rows for entry in row]
        last, P = self.steps[-1], self.layout.num_positions
        return [None if c is None else c.values[p + last.offset] for p in range(P) for c in last.mixed]

    @cached_property
    def _narrow_scores(self) -> NarrowScores | None:
        heads = self._heads(narrow=True)
        if heads is None or len(heads[0].keys) != self.layout.num_positions:
            return None
        return narrow_scores(
            self.trace, self.free, [head.queries for head in heads], [head.keys for head in heads]
        )

    def logits(self, parameters: Mapping[str, Tensor], tokens_BP: Tensor) -> Tensor:
        """Logits (B, A, V) of full sequences of the layout's tokens, by the recorded operations."""
        outputs, shape = {answer.output for answer in self.answers}, self.trace.tokens.shape
        used = {name: parameters[name] for name in dict.fromkeys(self.trace.parameters.values())}
        found = torch.vmap(lambda own: run(self.trace, used, own.reshape(shape), outputs))(
            self.tokens.of(tokens_BP)
        )
        rows = {
            number: tensor.reshape(len(tokens_BP), -1, tensor.shape[-1])
            for number, tensor in found.items()
        }
        logits_BAV = torch.stack([rows[each.output][:, each.row] for each in self.answers], 1)
        return logits_BAV[..., list(self.tokens.order)]

    def _specs(self, narrow: bool) -> list[Sequence[Entry]]:
        """Every entry that some table consists of."""
        specs: list[Sequence[Entry]] = [step.rows for step in self.steps]
        specs.append([e for e in self._value_entries() if e is not None])
        specs += self.fold.matrices if isinstance(self.fold, InputFold) else ()
        shift = self.steps[0].row_shift
        for spec in [*self.steps[0].constants.values(), *([] if shift is None else [shift])]:
            specs += _entries(spec)
        cut = self._narrow_scores if narrow else None
        if cut is not None:
            specs += [row for head in cut.rows for row in head] + list(cut.matrices)
        for head in self._heads(narrow) or ():
            if cut is None or cut.side == "key":
                specs += head.queries
            if cut is None or cut.side == "query":
                specs += [[e for e in key if isinstance(e, tuple)] for key in head.keys]
        return specs

    def _heads(self, narrow: bool) -> tuple[Factors, ...] | None:
        return self.factors if self.factors is not None or not narrow else self.curved

    # Scores ---------------------------------------------------------------------------------------

    @cached_property
    def attentions(self) -> tuple[tuple[Attention, ...], ...]:
        """(answer step, head)."""
        return tuple(map(heads_of, self.steps))

    @property
    def _keys(self) -> int:
        """J: positions, and perhaps a sink."""
        return self.trace.shapes[self.attentions[-1][0].source][-1]

    def _scores(
        self,
        parameters: dict[str, Tensor],
        gathered: Callable[..., Tensor],
        dtype: torch.dtype,
        exact: bool,
        narrow: bool,
    ) -> dict[str, Tensor]:
        A, P, V, H = (
            len(self.steps), self.layout.num_positions, self.layout.vocab_size, self.form.heads
        )  # fmt: skip
        heads = self._heads(narrow)
        if heads is None:
            return self._tabulated(parameters, dtype)
        keys, offset = len(heads[0].keys), self.steps[0].offset
        K = len(heads[0].keys[0])
        cut = self._narrow_scores if narrow else None
        rows = {
            "query": [head.queries for head in heads],
            "key": [head.keys for head in heads],
            **({} if cut is None else {cut.side: cut.rows}),
        }
        query_VAHK, key_VJHK = (
            gathered([e for i in range(count) for head in rows[side] for e in head[i]]).reshape(
                V, count, H, cut.width if cut is not None and cut.side == side else K
            )
            for side, count in (("query", A), ("key", keys))
        )
        if cut is not None:
            matrix_HRK = gathered([e for matrix in cut.matrices for e in matrix])[0]
            matrix_HRK = matrix_HRK.reshape(H, cut.width, K)
            if cut.side == "query":
                key_VJHK = torch.einsum("vjhk,hrk->vjhr", key_VJHK, matrix_HRK)
            else:
                query_VAHK = torch.einsum("vahk,hrk->vahr", query_VAHK, matrix_HRK)
        scale_HAJ, shift_HAJ = self._affine(parameters, dtype, heads)
        visible_AP = self._visible()
        own = slice(offset, offset + P)
        # Every key that a step sees has the same factor, or the scores are tabulated instead.
        last_A = [q + offset for q in self._query_positions()]
        factor_HA = scale_HAJ[:, torch.arange(A), last_A]
        out = {}
        if heads[0].functions:
            out["score_scale"] = factor_HA.T
            factor_HA = self._before_function(parameters, dtype, heads)[0][:, torch.arange(A), last_A]
        query = (query_VAHK * factor_HA.T[None, :, :, None]).transpose(0, 1)
        key = key_VJHK[:, own].transpose(0, 1)
        out |= {"query": query, "key": key}
        shift_HAP, hidden_HAP = shift_HAJ[:, :, own], self.hidden_HAJ[:, :, own]
        if not self._plain_shift:
            shift_HAP = torch.where(hidden_HAP, HIDDEN, shift_HAP)
            shift_HAP = torch.where(visible_AP, shift_HAP, 0.0)
            if narrow:
                out["score"] = shift_HAP.transpose(0, 1)[:, None, :, :, None]
            else:
                out["query"], out["key"] = _with_shift(query, key, shift_HAP)
        if exact and self._hides:
            never_AHP = torch.where(hidden_HAP & visible_AP, -math.inf, 0.0).transpose(0, 1)
            out["score"] = never_AHP[:, None, :, :, None].expand(A, V, H, P, V)
        if keys > P:
            place = 0 if offset else keys - 1
            sink_VAH = (
                query_VAHK * key_VJHK[:1, place][:, None] * scale_HAJ[:, :, place].T[None, ..., None]
            )
            out["sink"] = (sink_VAH.sum(-1) + shift_HAJ[:, :, place].T).transpose(0, 1)
        return out

    def _query_positions(self) -> tuple[int, ...]:
        return self.layout.query_positions

    def _visible(self) -> Tensor:
        P = self.layout.num_positions
        last_A = torch.tensor(self._query_positions())
        return torch.arange(P) <= last_A[:, None]

    @cached_property
    def _hides(self) -> bool:
        """Whether some key before a step's query is hidden from it."""
        first = self.steps[0].offset
        own = slice(first, first + self.layout.num_positions)
        return bool((self.hidden_HAJ[:, :, own] & self._visible()).any())

    @cached_property
    def _plain_shift(self) -> bool:
        """Whether nothing is added to queries times keys that a step can see."""
        # Any parameters but special ones: of equal ones a difference is nothing. Not drawn, for vmap.
        parameters = {}
        for i, (name, shape) in enumerate(self.shapes.items()):
            number = torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape)
            parameters[name] = (number * 0.6180339887 + i * 0.7548776662) % 1 + 0.5
        heads = self._heads(narrow=True)
        assert heads is not None
        _, shift_HAJ = self._affine(parameters, torch.float64, heads)
        first = self.steps[0].offset
        shift_HAP = shift_HAJ[:, :, first : first + self.layout.num_positions]
        return not self._hides and bool(((shift_HAP == 0) | ~self._visible()).all())

    def _affine(
        self, parameters: dict[str, Tensor], dtype: torch.dtype, heads: tuple[Factors, ...]
    ) -> tuple[Tensor, Tensor]:
        """score = scale * (query . key) + shift: (H, A, J), from the chain behind the product (or behind
        the function of it) run on zeros and on ones."""
        given = {
            number
            for head in heads
            for number in (head.products if not head.functions else {f.result for f in head.functions})
        }
        wanted = {attention.source for own in self.attentions for attention in own}
        zero, one = self._on_zeros_and_ones(parameters, dtype, given, wanted)
        shift_HAJ, sum_HAJ = self._rows_of(zero, 0.0), self._rows_of(one, 0.0)
        scale_HAJ = torch.where(self.hidden_HAJ, torch.zeros_like(shift_HAJ), sum_HAJ - shift_HAJ)
        return scale_HAJ, shift_HAJ

    def _before_function(
        self, parameters: dict[str, Tensor], dtype: torch.dtype, heads: tuple[Factors, ...]
    ) -> tuple[Tensor, Tensor]:
        """What the function of scores takes is scale * (query . key) + shift: (H, A, J)."""
        given = {number for head in heads for number in head.products}
        wanted = {function.source for head in heads for function in head.functions}
        zero, one = self._on_zeros_and_ones(parameters, dtype, given, wanted)

        def rows(found: Mapping[int, Tensor]) -> Tensor:
            return torch.stack([self._function_rows(found, head) for head in heads])

        shift_HAJ = rows(zero)
        return rows(one) - shift_HAJ, shift_HAJ

    def _function_rows(self, found: Mapping[int, Tensor], head: Factors) -> Tensor:
        """(A, J) of what the function of one head takes at every step."""
        sources = {function.source for function in head.functions}
        if len(sources) == 1:
            cells_AJ = torch.tensor([function.cells for function in head.functions])
            return found[sources.pop()].reshape(-1)[cells_AJ]
        rows = []
        for function, answer in zip(head.functions, self.answers, strict=True):
            row = found[function.source].reshape(-1)[torch.tensor(function.cells)]
            rows.append(_filled(row, answer.length, self._keys, 0.0))
        return torch.stack(rows)

    def _on_zeros_and_ones(
        self, parameters: dict[str, Tensor], dtype: torch.dtype, given: set[int], wanted: set[int]
    ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """The tensors ``wanted`` with those ``given`` all zero, and all one."""
        zero, one = (
            run(
                self.trace,
                parameters,
                self.trace.tokens,
                wanted,
                {n: torch.full(self.trace.shapes[n], value, dtype=dtype) for n in given},
            )
            for value in (0.0, 1.0)
        )
        return zero, one

    def _rows_of(self, found: Mapping[int, Tensor], fill: float) -> Tensor:
        """(H, A, J) of what attentions have at their sources; ``fill`` at keys that a call did not
        read."""
        return rows_at_steps(
            found, self.attentions, self.answers, self.trace, self.steps[0].offset, fill
        )

    def _tabulated(self, parameters: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
        """Scores of every pair (token at the query, token at the key)."""
        A, P, V, H = (
            len(self.steps), self.layout.num_positions, self.layout.vocab_size, self.form.heads
        )  # fmt: skip
        score_AVHTJ = self.pair_scores(parameters)
        own = slice(self.steps[0].offset, self.steps[0].offset + P)
        out = {
            "query": torch.zeros(A, V, H, 0, dtype=dtype),
            "key": torch.zeros(P, V, H, 0, dtype=dtype),
            "score": score_AVHTJ[..., own].transpose(-1, -2),
        }
        if score_AVHTJ.shape[-1] > P:
            out["sink"] = score_AVHTJ[:, :, :, 0, 0 if self.steps[0].offset else -1]
        return out

    def pair_scores(self, parameters: dict[str, Tensor], unread: float = 0.0) -> Tensor:
        """(A, V, H, V, J): the score of every key, hidden ones too, by the tokens at the query and at
        the key, from sequences of two tokens. ``unread``: that of keys that a step's call does not
        have."""
        V = self.layout.vocab_size
        shape = self.trace.tokens.shape
        steps = []
        for answer, heads in zip(self.answers, self.attentions, strict=True):
            sources = {attention.source for attention in heads}
            tokens = self.tokens.ids_PV.T[None].repeat(V, 1, 1)  # (z, t, P)
            tokens[:, :, answer.position] = self.tokens.ids_PV[answer.position][:, None]
            every = torch.vmap(
                lambda own, sources=sources: run(self.trace, parameters, own.reshape(shape), sources)
            )(tokens.flatten(0, 1))
            rows = [rows_of(every[each.source], each, self.trace, [answer.position]) for each in heads]
            read, J = self.steps[0].offset + answer.length, self._keys
            steps.append(
                torch.stack([_filled(own, read, J, unread).reshape(V, V, J) for own in rows], 1)
            )  # (z, H, t, J)
        return torch.stack(steps)


def rows_of(tensor: Tensor, attention: Attention, trace: Trace, positions: Sequence[int]) -> Tensor:
    """(..., A, keys): the rows of one attention at these query positions."""
    rows, keys = rows_and_keys(trace.shapes[attention.source])
    batch = tensor.shape[: tensor.ndim - len(trace.shapes[attention.source])]
    heads = tensor.reshape(*batch, -1, rows, keys)[..., attention.head, :, :]
    return heads[..., [q if rows > 1 else 0 for q in positions], :]


def rows_at_steps(
    found: Mapping[int, Tensor],
    attentions: Sequence[Sequence[Attention]],
    answers: Sequence[Answer],
    trace: Trace,
    offset: int,
    fill: float,
) -> Tensor:
    """(H, A, J) of tensors shaped as the sources of the attentions (answer step, head): the row of each
    at its query; ``fill`` at the keys that a shorter call did not read."""
    heads = []
    for own_A in zip(*attentions, strict=True):
        if len(set(own_A)) == 1:
            positions = [answer.position for answer in answers]
            heads.append(rows_of(found[own_A[0].source], own_A[0], trace, positions))
            continue
        J = trace.shapes[own_A[-1].source][-1]
        rows = [
            _filled(
                rows_of(found[own.source], own, trace, [each.position]), offset + each.length, J, fill
            )
            for own, each in zip(own_A, answers, strict=True)
        ]
        heads.append(torch.cat(rows))
    return torch.stack(heads)


def _filled(rows: Tensor, read: int, keys: int, fill: float) -> Tensor:
    """(..., keys): ``fill`` between the first ``read`` keys and a sink that may follow them."""
    missing = keys - rows.shape[-1]
    if not missing:
        return rows
    size = *rows.shape[:-1], missing
    filling = rows.new_full(size, fill) if fill else rows.new_zeros(size)
    return torch.cat([rows[..., :read], filling, rows[..., read:]], -1)


def _entries(spec: Spec) -> list[list[Entry]]:
    """Every list of entries that a constant consists of."""
    _, what = spec
    if isinstance(what, Product):
        return _entries(what.left) + _entries(what.right)
    return [[part for part in what if isinstance(part, tuple)]]


def _with_shift(query_AVHK: Tensor, key_PVHK: Tensor, shift_HAP: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys whose product has ``shift`` added: one coordinate more for each step."""
    A, V, H, _ = query_AVHK.shape
    P = len(key_PVHK)
    which_AVHA = torch.eye(A, dtype=query_AVHK.dtype)[:, None, None].expand(A, V, H, A)
    more_PVHA = shift_HAP.permute(2, 0, 1)[:, None].expand(P, V, H, A)
    return torch.cat([query_AVHK, which_AVHA], 3), torch.cat([key_PVHK, more_PVHA], 3)


def _gather(flat: Mapping[int, Tensor], entries: Sequence[Part], dtype: torch.dtype) -> Tensor:
    """(V, n): tensor by tensor, in runs."""
    parts, rows = [], len(next(iter(flat.values())))
    for number, run_of in itertools.groupby(entries, lambda e: e[0] if isinstance(e, tuple) else None):
        run_of = list(run_of)
        if number is None:
            fixed = torch.tensor([float(e or 0.0) for e in run_of], dtype=dtype)  # type: ignore[arg-type]
            parts.append(fixed.expand(rows, -1))
        else:
            places = [e[1] for e in run_of if isinstance(e, tuple)]
            straight = places == list(range(places[0], places[0] + len(places)))
            source = flat[number]
            parts.append(
                source[:, places[0] : places[0] + len(places)]
                if straight
                else source[:, torch.tensor(places)]
            )
    return torch.cat(parts, 1) if parts else torch.zeros(rows, 0, dtype=dtype)


def heads_of(step: Lowered) -> tuple[Attention, ...]:
    """The attention of every head."""
    return tuple(dict.fromkeys(c.attention for c in step.mixed if c is not None))


# What was read, computed.


def table_logits(tables: Tables, tokens_BP: Tensor) -> Tensor:
    """Logits (B, A, V) of the first seed, step by step."""
    one = {name: tensor[0] for name, tensor in tables.items()}
    head = {name: tensor[:1] for name, tensor in tables.head.items()}
    steps = []
    for i, last in enumerate(tables.form.layout.query_positions):
        token_B, seen_BT = tokens_BP[:, last].long(), tokens_BP[:, : last + 1].long()
        row_T = torch.arange(last + 1)
        score_BTH = torch.einsum("bhk,bthk->bth", one["query"][i, token_B], one["key"][row_T, seen_BT])
        if tables.score_scale is not None:
            function = FUNCTIONS[str(tables.form.score_function)]
            score_BTH = function(score_BTH) * one["score_scale"][i]
        if "score" in one:
            V = tables.form.layout.vocab_size
            extra_BHPV = one["score"][i].expand(V, -1, -1, V)[token_B]
            index = seen_BT[:, None, :, None].expand(-1, extra_BHPV.shape[1], -1, 1)
            score_BTH = score_BTH + extra_BHPV[:, :, : last + 1].gather(3, index)[..., 0].transpose(1, 2)
        if "sink" in one:
            score_BTH = torch.cat([score_BTH, one["sink"][i, token_B][:, None]], 1)
        weight_BTH = score_BTH.softmax(1)[:, : last + 1]
        mixed_BHE = torch.einsum("bth,bthe->bhe", weight_BTH, one["value"][row_T, seen_BT])
        mixed, row = mixed_BHE.flatten(1).T[None], one["residual"][i, token_B].T[None]
        steps.append(evaluate(tables.form.program, head, mixed, row)[0].T)
    return torch.stack(steps, 1)
