"""Whether what was read is what the model computes: asked of the model itself, on random sequences.

Reading follows the operations of one call. Here the model is called a few hundred times, at every length
that greedy decoding uses and with two sequences at once, and what it answered while it was driven is
compared too: so what changes from call to call, looks at the other rows, or depends on the length is
found. In float64 where the model runs so; rounding then hides nothing.

Shapes: N sequences, P positions, T positions read so far, A answer steps, V vocabulary.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from adderlab.errors import Failure
from adderlab.models.tables import Tables
from adderlab.reading.driving import Foreign
from adderlab.reading.read import read_model
from adderlab.reading.reading import Reading, table_logits
from adderlab.reading.running import in_double, one_line, one_thread

SEQUENCES = 24
"""Each asked at all lengths of greedy decoding: about 270 calls."""
Precision = Literal["float64", "float64 (float32 within it left out)", "float32"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
"""In which a model is tried, until one agrees."""
SLACK, SLACK_FLOAT32 = 1e-9, 1e-3
"""Of the largest logit (or 1)."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How near the model is to what was read of it."""

    calls: int
    """Of the model, each of one sequence or two."""
    precision: Precision
    """In which the model was called: float64, or float32 where it does not run in that."""
    difference: float
    """The largest of a logit."""
    scale: float
    """The largest logit."""
    batched: bool
    """Whether the model takes several sequences at once, and answers each as alone."""

    def __str__(self) -> str:
        return (
            f"logits agree with the model's within {self.difference:.1e} on {self.calls} calls in "
            f"{self.precision} (largest logit {self.scale:.3g})"
        )


class NoTables(Failure):
    """What a model computes is no table form: a second layer, an operation that is not known."""


class _Differs(Failure):
    """In this precision."""


@one_thread()
def read_foreign(foreign: Foreign) -> tuple[Reading, Agreement]:
    """Read a model and compare. Raises ``NoTables`` with one line for what cannot be read, ``Failure``
    where what was read is not what the model computes."""
    # What makes float32 numbers in so many words runs in float64 only with that left out, or not at all;
    # what else is wrong is wrong in every precision.
    first = None
    for precision in PRECISIONS:
        try:
            with running(foreign.model, precision):
                return _read_and_compare(foreign, precision)
        except _Differs as difference:
            first = first or difference
    raise Failure(str(first)) from first


def running(model: Any, precision: Precision) -> contextlib.AbstractContextManager[None]:
    """The model in this precision, within a ``with`` block."""
    if precision == "float32":
        return contextlib.nullcontext()
    return in_double(model, all_of_it=precision == PRECISIONS[1])


def _read_and_compare(foreign: Foreign, precision: Precision) -> tuple[Reading, Agreement]:
    try:
        try:
            reading = read_model(foreign.call, foreign.params, foreign.layout, foreign.tokens)
        except Failure as failure:
            raise NoTables(str(failure)) from failure
        return reading, compare(foreign, reading, precision)
    except Failure:
        raise
    except (RuntimeError, TypeError, IndexError, ValueError) as error:
        raise _Differs(f"the model fails when it is called: {one_line(error)}") from error


@one_thread()
@torch.no_grad()
def compare(
    foreign: Foreign, reading: Reading, precision: Precision, sequences: int = SEQUENCES
) -> Agreement:
    """The tables of the model's parameters beside the model. Raises ``Failure`` where they differ."""
    layout = reading.layout
    params = {name: tensor.detach().double()[None] for name, tensor in foreign.params.items()}
    tables = reading.tables(params)
    _judge_finite(tables)
    tokens_NP = random_sequences(reading, sequences, seed=1)
    read_NAV = comparable(reading, table_logits(tables, tokens_NP))
    scale = max(1.0, float(read_NAV.abs().max()))
    _judge_narrow(reading, params, tokens_NP, read_NAV, SLACK * scale)
    limit = scale * (SLACK_FLOAT32 if precision == "float32" else SLACK)
    order = list(reading.tokens.order)
    worst, calls = 0.0, 0

    def ask(tokens_NT: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        found = foreign.call(reading.tokens.of(tokens_NT)).double()[..., order]
        return comparable(reading, found, model=True)

    def judge(found: Tensor, wanted: Tensor, what: str) -> None:
        nonlocal worst
        difference = float(torch.nan_to_num((found - wanted).abs(), nan=torch.inf).max())
        if not difference <= limit:
            raise _Differs(
                f"what was read is not what the model computes {what}: a logit differs by "
                f"{difference:.2g}"
            )
        worst = max(worst, difference)

    for row, own_AV in zip(tokens_NP, read_NAV, strict=True):
        if (whole := ask(row[None])[0]).shape[0] > 1:
            judge(whole[list(layout.query_positions)], own_AV, "on a whole sequence")
        for i, last in enumerate(layout.query_positions):
            judge(ask(row[None, : last + 1])[0, -1], own_AV[i], f"after {last + 1} tokens")
    _compare_first_calls(foreign, reading, tables)
    batched = _takes_two(ask, tokens_NP, read_NAV, foreign, max(limit, 10 * worst))
    return Agreement(
        calls=calls,
        precision=precision,
        difference=worst,
        scale=scale,
        batched=batched,
    )


def _judge_narrow(
    reading: Reading, params: Mapping[str, Tensor], tokens_NP: Tensor, read_NAV: Tensor, limit: float
) -> None:
    """The form that is trained computes the same."""
    few = slice(None, None, 6)
    logits_NAV = table_logits(reading.tables(params, narrow=True), tokens_NP[few])
    difference = float((comparable(reading, logits_NAV) - read_NAV[few]).abs().max())
    if not difference <= limit:
        raise Failure(
            f"the tables for training are not those of the proof (a logit differs by {difference:.2g}): "
            "a bug; report it"
        )


def _judge_finite(tables: Tables) -> None:
    """What a zero weight takes away must be a number: zero times infinity is none."""
    for name, tensor in tables.items():
        hidden = tensor == -torch.inf if name in ("score", "sink") else torch.zeros(())
        if not bool((torch.isfinite(tensor) | hidden.bool()).all()):
            raise Failure(f"some tokens make its {name} table infinite, or no number")


def comparable(reading: Reading, logits: Tensor, *, model: bool = False) -> Tensor:
    """``compared`` of what this reading's model gives out."""
    return compared(reading.steps[0].last, logits, model=model)


def compared(last: str, logits: Tensor, *, model: bool = False) -> Tensor:
    """Logits as they are; where a model's ``last`` operation makes probabilities, their logarithms.

    ``model``: it is what the model gave out, not the logits of tables.
    """
    if last == "logits":
        return logits
    return logits.log() if model and last == "probabilities" else logits.log_softmax(-1)


def _compare_first_calls(foreign: Foreign, reading: Reading, tables: Tables) -> None:
    """What the model answered from its first call on, in its own precision, which a counter inside it
    would have changed since."""
    layout, order = reading.layout, list(reading.tokens.order)
    token_of = [{own: t for t, own in enumerate(row)} for row in reading.tokens.ids_PV.tolist()]
    rows, asked, formats = [], [], set()
    for own, logits_V in foreign.asked:
        step = len(own) - layout.num_prompt
        if not 0 <= step < layout.num_answers:
            continue  # after the answer
        tokens = [token_of[p].get(token) for p, token in enumerate(own)]
        if None in tokens:
            continue
        rows.append([*tokens, *[0] * (layout.num_positions - len(own))])
        asked.append((step, comparable(reading, logits_V.double()[order], model=True)))
        formats.add(logits_V.dtype)
    if not rows:
        return
    read_NAV = comparable(reading, table_logits(tables, torch.tensor(rows)))
    scale = max(1.0, float(read_NAV.abs().max()))
    for call, (read_AV, (step, wanted_V)) in enumerate(zip(read_NAV, asked, strict=True)):
        difference = float(torch.nan_to_num((read_AV[step] - wanted_V).abs(), nan=torch.inf).max())
        if not difference <= SLACK_FLOAT32 * scale:
            if coarse := formats & {torch.float16, torch.bfloat16}:
                name = str(coarse.pop()).removeprefix("torch.")
                raise Failure(
                    f"it computes in {name}, whose rounding moves a logit by {difference:.2g}, more "
                    "than the reading allows: make the model float32"
                )
            raise Failure(
                f"the model answered its call {call + 1} otherwise than now (a logit differs by "
                f"{difference:.2g}): its answers change from call to call"
            )


def _takes_two(
    ask: Callable[[Tensor], Tensor], tokens_NP: Tensor, read_NAV: Tensor, foreign: Foreign, limit: float
) -> bool:
    """Whether the model takes two rows at once, at every length. Raises where they change each other."""
    if foreign.rows_alone:
        return False
    layout = foreign.layout
    for i, last in enumerate(layout.query_positions):
        two = torch.arange(2) + i
        try:
            found = ask(tokens_NP[two % len(tokens_NP), : last + 1])
        except Exception:
            return False  # It is made for one sequence, and is asked so.
        if len(found) != 2:
            return False
        _judge_rows(found[:, -1], read_NAV[two % len(read_NAV), i], limit)
    return True


@one_thread()
@torch.no_grad()
def takes_rows_together(foreign: Foreign) -> bool:
    """Of a model without tables: whether it takes several sequences at once, and answers each as alone.
    Raises ``Failure`` where they change each other's answers."""
    if foreign.rows_alone:
        return False
    layout = foreign.layout
    generator = torch.Generator().manual_seed(1)
    tokens_NP = torch.randint(0, layout.base, (2, layout.num_positions), generator=generator)
    for length in (layout.num_prompt, layout.num_positions):
        own_NL = foreign.tokens.of(tokens_NP[:, :length])
        alone_NLV, again_NLV = (torch.cat([foreign.call(row[None]) for row in own_NL]) for _ in range(2))
        if not torch.equal(alone_NLV, again_NLV):
            return False  # It draws random numbers: nothing follows from a difference.
        try:
            found_NLV = foreign.call(own_NL)
        except Exception:
            return False  # It is made for one sequence, and is asked so.
        if found_NLV.shape != alone_NLV.shape:
            return False
        _judge_rows(found_NLV, alone_NLV, SLACK_FLOAT32 * max(1.0, float(alone_NLV.abs().max())))
    return True


def _judge_rows(together: Tensor, alone: Tensor, limit: float) -> None:
    difference = float(torch.nan_to_num(together - alone).abs().max())
    if not difference <= limit:
        raise Failure(
            "two sequences at once change each other's answers (a logit differs by "
            f"{difference:.2g}): the model's results depend on the batch"
        )


def random_sequences(reading: Reading, count: int, seed: int) -> Tensor:
    """Full sequences (N, P) of the layout: half of any tokens, half of additions."""
    layout = reading.layout
    generator = torch.Generator().manual_seed(seed)
    anything = torch.randint(0, layout.vocab_size, (count, layout.num_positions), generator=generator)
    task = layout.addition
    shape = 2, count // 2, task.columns
    digits = torch.randint(0, task.base, shape, generator=generator, dtype=torch.uint8)
    anything[: count // 2] = layout.encode(digits[0], digits[1])[0].long()
    return anything


def canonical_trace(reading: Reading) -> dict[str, Any]:
    """Every operation and every constant of the trace, as JSON values: what a certificate binds.

    Numbers stand as hexadecimal floats, so that the same trace gives the same bytes."""
    trace = reading.trace

    def plain(value: Any) -> Any:
        if isinstance(value, bool | int | str | None):
            return value
        if isinstance(value, float):
            return value.hex()
        if isinstance(value, list | tuple):
            return [plain(x) for x in value]
        if hasattr(value, "number"):
            return {"tensor": value.number}
        return str(value)

    return {
        "parameters": {str(number): name for number, name in sorted(trace.parameters.items())},
        "constants": {
            str(number): {
                "shape": list(tensor.shape),
                "numbers": [x.hex() if isinstance(x, float) else x for x in tensor.reshape(-1).tolist()],
            }
            for number, tensor in sorted(trace.constants.items())
        },
        "operations": [
            {
                "name": str(node.function),
                "arguments": plain(node.args),
                "options": {key: plain(value) for key, value in sorted(node.kwargs.items())},
                "results": [None if ref is None else ref.number for ref in node.outputs],
            }
            for node in trace.nodes
        ],
        **(
            {"output": trace.outputs[0].number}
            if len(trace.outputs) == 1
            else {"outputs": [ref.number for ref in trace.outputs]}
        ),
        "length": trace.length,
    }
