"""What the reading of a stranger's file hands out of the sandbox, taken in without trust.

A message is JSON: the prompt rule (a layout), the head program, the shapes of the tables; then the
numbers, chunk by chunk, as base64 of float64. Any of it may have been forged by the file. So every key,
type, size and number is looked at before anything is made of it, nothing of it is executed, and what
does not fit is refused in one sentence. That a message fits says nothing about whose tables they are:
``decide`` compares them with what the file answers.

Shapes: A answer steps, P positions, V vocabulary, H heads, K key dimension, E value dimension.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from adderlab.errors import UsageError
from adderlab.models.head_program import HeadProgram, Name, Operand, Operation
from adderlab.models.tables import ATTENTION, TableForm, Tables, tables_of
from adderlab.reading.agreement import PRECISIONS
from adderlab.task.addition import MAX_BASE, MAX_COLUMNS, Addition, Layout

MOST_TOKENS, MOST_POSITIONS, MOST_HEADS, MOST_WIDTH = 256, 63, 16, 1024
"""Of the vocabulary, of a sequence (the reading holds its positions as bits of an int64), of attention,
and of any vector."""
MOST_OPERATIONS, MOST_PARAMETERS = 500, 2000
MOST_NUMBERS = 8_000_000
"""In all tables together: 64 MB."""
CHUNK = 250_000
"""Numbers in one reply, which must fit into the sandbox's channel."""
_LONGEST_NAME = 200
_ELEMENTWISE = {"add", "subtract", "multiply", "divide", "minimum", "maximum"}
_REDUCING = {"mean", "sum"}
_OPERATIONS = {name for kind in get_args(Name) for name in (get_args(kind) or (kind,))}
_ENTRIES = {
    "layout", "program", "sizes", "tables", "file", "weights_sha256", "last", "precision",
}  # fmt: skip
_LAST = ("logits", "log_probabilities", "probabilities")

Ask = Callable[[str, int, int], dict[str, Any]]
"""(table, first number, how many) -> the reply of the process."""


class Refused(Exception):
    """Why a message is not taken in, in a few words that quote none of it at length."""


@dataclass(frozen=True, kw_only=True)
class HandOut:
    """Head program, prompt rule and sizes as the sandboxed reading gave them; they fit one another."""

    form: TableForm
    shapes: Mapping[str, tuple[int, ...]]
    """Table -> shape, without a seed axis, of those that there are."""
    file: Mapping[str, Any]
    """What a certificate binds of the file besides its source: parameters, tokens, the trace's hash."""
    weights_sha256: str
    last: str
    """What the model gives out: logits, or the logarithms or values of its probabilities."""
    precision: str
    """In which the model is asked for logits."""


def take(reply: Mapping[str, Any]) -> HandOut:
    """What the first part of a message says. Raises ``Refused``."""
    _keys(reply, _ENTRIES, "the reading")
    layout = _layout(reply["layout"])
    sizes = _list(reply["sizes"], "the sizes", 3, 3)
    heads = _int(sizes[0], "the number of heads", 1, MOST_HEADS)
    key_dim, value_dim = (_int(x, "a width of the attention", 0, MOST_WIDTH) for x in sizes[1:])
    if not value_dim:
        _refuse("the width of the values")
    program = _program(reply["program"], heads * value_dim, layout.vocab_size)
    form = TableForm(layout=layout, heads=heads, key_dim=key_dim, value_dim=value_dim, program=program)
    last, precision = _one_of(reply["last"], _LAST), _one_of(reply["precision"], PRECISIONS)
    return HandOut(
        form=form,
        shapes=_shapes(reply["tables"], form),
        file=_file(reply["file"], layout),
        weights_sha256=_hash(reply["weights_sha256"]),
        last=last,
        precision=precision,
    )


def take_numbers(handout: HandOut, ask: Ask) -> dict[str, NDArray[np.float64]]:
    """The numbers of every table, asked for chunk by chunk. Raises ``Refused``."""
    return {name: _numbers(name, shape, ask) for name, shape in handout.shapes.items()}


def tables(handout: HandOut, arrays: Mapping[str, NDArray[np.float64]]) -> Tables:
    """As the prover takes them, with a seed axis of length 1."""
    return tables_of(
        handout.form, {name: torch.from_numpy(arrays[name])[None] for name in handout.shapes}
    )


def numbers(reply: Mapping[str, Any], count: int, what: str) -> NDArray[np.float64]:
    """``count`` float64 numbers of a reply, whatever they are. Raises ``Refused``."""
    text = reply.get("numbers")
    if not isinstance(text, str) or len(text) != 4 * ((8 * count + 2) // 3):
        _refuse(f"the length of {what}")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        _refuse(f"the text of {what}")
    if len(data) != 8 * count:
        _refuse(f"the length of {what}")
    return np.frombuffer(data, "<f8").astype(np.float64)


def _numbers(name: str, shape: tuple[int, ...], ask: Ask) -> NDArray[np.float64]:
    total = math.prod(shape)
    array = np.empty(total)
    for start in range(0, total, CHUNK):
        count = min(CHUNK, total - start)
        array[start : start + count] = numbers(ask(name, start, count), count, f"the table {name}")
    fine = np.isfinite(array)
    if name in ("score", "sink"):
        fine |= np.isneginf(array)  # a key that is hidden
    if not fine.all():
        _refuse(f"the table {name}: a number that is none")
    return array.reshape(shape)


# The prompt rule.


def _layout(value: Any) -> Layout:
    names = {
        "name", "source", "vocabulary", "a_positions", "b_positions", "num_prompt", "separators",
        "end_token", "end_decided", "top_zeros", "pairs",
    }  # fmt: skip
    # A size that is ten is written nowhere.
    sized = isinstance(value, dict) and "base" in value
    _keys(value, names | {"base"} if sized else names, "the layout")
    base = _int(value["base"], "the base", 2, MAX_BASE) if sized else 10
    vocabulary = tuple(
        _text(x, "the vocabulary") for x in _list(value["vocabulary"], "the vocabulary", 1, MOST_TOKENS)
    )
    V = len(vocabulary)
    num_prompt = _int(value["num_prompt"], "the length of the prompt", 1, MOST_POSITIONS)

    def places(key: str) -> tuple[int, ...]:
        found = _list(value[key], key, 1, MAX_COLUMNS)
        return tuple(_int(x, key, 0, num_prompt - 1) for x in found)

    a_positions, b_positions = places("a_positions"), places("b_positions")
    pairs, end_decided = _bool(value["pairs"], "pairs"), _bool(value["end_decided"], "end_decided")
    least = base + base**2 if pairs else base
    if len(a_positions) != len(b_positions):
        _refuse("the layout: its operands have different numbers of digits")
    try:
        Addition(columns=len(a_positions), base=base)
    except UsageError:
        _refuse("the layout: its operands are wider than 64-bit integers")
    if least > V:
        _refuse("the vocabulary: it has too few tokens for the digits")
    separators = tuple(
        (
            _int(place, "a separator", 0, num_prompt - 1),
            _int(token, "a separator", 0, V - 1),
        )
        for place, token in (
            _list(x, "a separator", 2, 2)
            for x in _list(value["separators"], "the separators", 0, num_prompt)
        )
    )
    every = [*a_positions, *(() if pairs else b_positions), *(place for place, _ in separators)]
    if sorted(every) != list(range(num_prompt)) or (pairs and a_positions != b_positions):
        _refuse("the layout: its prompt is not filled once by digits and separators")
    if num_prompt - 1 not in dict(separators):
        _refuse("the layout: the first answer is asked at a digit, which the prover does not know")
    end_token = value["end_token"]
    end_token = None if end_token is None else _int(end_token, "the end token", 0, V - 1)
    if end_decided and end_token is None:
        _refuse("the layout: it decides by an end token that it does not have")
    zeros = _list(value["top_zeros"], "top_zeros", 0, num_prompt)
    layout = Layout(
        name=_text(value["name"], "the layout's name"),
        source=_text(value["source"], "the layout's source"),
        vocabulary=vocabulary,
        a_positions=a_positions,
        b_positions=b_positions,
        num_prompt=num_prompt,
        separators=separators,
        end_token=end_token,
        end_decided=end_decided,
        top_zeros=tuple(_int(x, "top_zeros", 0, num_prompt - 1) for x in zeros),
        pairs=pairs,
        base=base,
    )
    if layout.num_positions > MOST_POSITIONS:
        _refuse("the layout: its sequences are too long")
    return layout


# The head program.


def _program(value: Any, mixed_width: int, vocab_size: int) -> HeadProgram:
    _keys(value, {"mixed_width", "row_width", "operations", "constants"}, "the head program")
    if _int(value["mixed_width"], "a width", 0, MOST_WIDTH) != mixed_width:
        _refuse("the head program: its first width is not that of the attention")
    widths = [mixed_width, _int(value["row_width"], "a width", 0, MOST_WIDTH)]
    constants: dict[str, tuple[int, ...]] = {}
    for entry in _list(value["constants"], "the constants", 0, MOST_OPERATIONS):
        name, shape = _list(entry, "a constant", 2, 2)
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w{0,30}", name, re.ASCII):
            _refuse("the name of a constant")
        if name in constants or name in ATTENTION:
            _refuse("the constants: two of one name")
        constants[name] = _shape(shape, 1, 2)
    operations = []
    for entry in _list(value["operations"], "the operations", 1, MOST_OPERATIONS):
        operations.append(_operation(entry, widths, constants))
        widths.append(operations[-1].width)
    if widths[-1] != vocab_size:
        _refuse("the head program: it ends in another number of logits than there are tokens")
    return HeadProgram(
        mixed_width=mixed_width,
        row_width=widths[1],
        operations=tuple(operations),
        constants=tuple(constants.items()),
    )


def _operation(value: Any, widths: list[int], constants: Mapping[str, tuple[int, ...]]) -> Operation:
    _keys(value, {"name", "operands", "width", "eps", "low", "high", "indices"}, "an operation")
    name, width = value["name"], _int(value["width"], "a width", 1, MOST_WIDTH)
    if not isinstance(name, str) or name not in _OPERATIONS:
        _refuse("an operation that the head program does not know")
    operands = tuple(
        x if isinstance(x, str) else _int(x, "an operand", 0, len(widths) - 1)
        for x in _list(value["operands"], "the operands", 1, MOST_OPERATIONS)
    )
    if any(isinstance(x, str) and x not in constants for x in operands):
        _refuse("an operand: a constant that there is not")
    low, high = (None if value[key] is None else _float(value[key], key) for key in ("low", "high"))
    own = [_int(x, "an index", 0, MOST_WIDTH) for x in _list(value["indices"], "indices", 0, MOST_WIDTH)]
    operation = Operation(
        name=name,  # type: ignore[bad-argument-type]  # it is one of them
        operands=operands,
        width=width,
        eps=_float(value["eps"], "eps"),
        low=low,
        high=high,
        indices=tuple(own),
    )
    if not _fits(operation, widths, constants):
        _refuse(f"the operation {name}: it does not fit its operands")
    return operation


def _fits(operation: Operation, widths: list[int], constants: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether the operands' numbers and widths are those of the operation."""
    name, operands, width = operation.name, operation.operands, operation.width
    if operation.eps < 0 or (name != "rms" and operation.eps) or (name != "take" and operation.indices):
        return False
    low, high = operation.low, operation.high
    if name != "clamp" and (low, high) != (None, None):
        return False
    if low is not None and high is not None and low > high:
        return False

    def vector(x: Operand) -> int:
        """Its width; 0 for a matrix, which is none."""
        if isinstance(x, int):
            return widths[x]
        return constants[x][0] if len(constants[x]) == 1 else 0

    first = operands[0]
    sizes = [vector(x) for x in operands]
    if name == "linear":
        matrix = operands[1] if len(operands) in (2, 3) else None
        if not isinstance(first, int) or not isinstance(matrix, str):
            return False
        bias = len(operands) == 2 or (isinstance(operands[2], str) and sizes[2] == width)
        return bias and constants[matrix] == (widths[first], width)
    if name == "concat":
        return all(sizes) and sum(sizes) == width
    if name in _ELEMENTWISE:
        values = any(isinstance(x, int) for x in operands)
        return len(operands) == 2 and values and set(sizes) <= {1, width} and width in sizes
    if len(operands) != 1 or not isinstance(first, int) or not sizes[0]:
        return False
    if name == "take":
        return len(operation.indices) == width and all(i < sizes[0] for i in operation.indices)
    return width == (1 if name in _REDUCING else sizes[0])


# Tables, and what a certificate binds.


def _shapes(value: Any, form: TableForm) -> dict[str, tuple[int, ...]]:
    """Table -> shape, of the tables that there are, in their order."""
    # A proof knows scores as products and tables, not as functions of products.
    wanted = {name: shape for name, shape in form.shapes().items() if name != "score_scale"}
    if not isinstance(value, dict) or not set(value) <= set(wanted):
        _refuse("the names of the tables")
    optional = {"score", "sink"}
    missing = set(wanted) - set(value) - optional
    if missing:
        _refuse("the tables: one is missing")
    found = {name: shape for name, shape in wanted.items() if name in value}
    for name, shape in found.items():
        if _shape(value[name], len(shape), len(shape), least=0) != shape:
            _refuse(f"the shape of the table {name}")
    if sum(map(math.prod, found.values())) > MOST_NUMBERS:
        _refuse(f"the tables: more than {MOST_NUMBERS:,} numbers")
    return found


def _file(value: Any, layout: Layout) -> dict[str, Any]:
    _keys(value, {"parameters", "ids", "order", "double", "trace_sha256"}, "what is bound")
    parameters = []
    for each in _list(value["parameters"], "the parameters", 0, MOST_PARAMETERS):
        _keys(each, {"name", "shape"}, "a parameter")
        shape = _shape(each["shape"], 0, 8, least=0, most=MOST_NUMBERS)
        parameters.append({"name": _text(each["name"], "a parameter"), "shape": list(shape)})
    V, P = layout.vocab_size, layout.num_positions
    most = 1 << 31
    ids = [
        [_int(x, "a token", 0, most) for x in _list(row, "the tokens", V, V)]
        for row in _list(value["ids"], "the tokens", P, P)
    ]
    order = [_int(x, "a token", 0, most) for x in _list(value["order"], "the order of the tokens", V, V)]
    return {
        "parameters": parameters,
        "ids": ids,
        "order": order,
        "double": _bool(value["double"], "double"),
        "trace_sha256": _hash(value["trace_sha256"]),
    }


# Values. What is refused is named by its place, not quoted: it is a stranger's text.


def _refuse(what: str) -> NoReturn:
    raise Refused(what)


def _keys(value: Any, names: set[str], what: str) -> None:
    if not isinstance(value, dict) or set(value) != names:
        _refuse(f"{what}: not the entries that it must have")


def _list(value: Any, what: str, least: int, most: int) -> list[Any]:
    if not isinstance(value, list) or not least <= len(value) <= most:
        _refuse(f"{what}: not as many entries as there must be")
    return value


def _int(value: Any, what: str, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        _refuse(f"{what}: no whole number from {least} to {most}")
    return value


def _float(value: Any, what: str) -> float:
    whole = type(value) is int and abs(value) < 1 << 53
    if not whole and not (type(value) is float and math.isfinite(value)):
        _refuse(f"{what}: no number")
    return float(value)


def _bool(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        _refuse(f"{what}: neither true nor false")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST_NAME or not value.isprintable():
        _refuse(f"{what}: no text of at most {_LONGEST_NAME} characters")
    return value


def _one_of(value: Any, choices: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in choices:
        _refuse("a word: none of those that it may be")
    return value


def _hash(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
        _refuse("a hash that is none")
    return value


def _shape(
    value: Any, fewest: int, most_axes: int, *, least: int = 1, most: int = MOST_NUMBERS
) -> tuple[int, ...]:
    found = tuple(_int(x, "a shape", least, most) for x in _list(value, "a shape", fewest, most_axes))
    if math.prod(found) > MOST_NUMBERS:
        _refuse("a shape: too many numbers")
    return found
