"""A model as JavaScript: its map from parameters to tables, from the trace that the native engine
compiles, its head program, and the attention between them (javascript.js). A page computes with it what
the engines do, in double precision and one pair at a time.

``engine.native.emit`` turns a trace into loops over known places. Their text is C++ of floats; what
differs here are the names of functions, the form of literals, and that there are no pointers. Of a head
program every operation is one loop.

Shapes: M and N channels of an operation's operand and result.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adderlab.engine import base
from adderlab.engine.native.build import NoCode, traced
from adderlab.engine.native.emit import OPERATIONS_PER_FUNCTION, Emitter, Place
from adderlab.models.head_program import (
    ELEMENTWISE,
    FUNCTIONS,
    MIXED,
    ROW,
    Function,
    HeadProgram,
    Operand,
    Operation,
)
from adderlab.models.tables import Tables, tables
from adderlab.models.transformer import Architecture
from adderlab.task.addition import Layout

ENGINE = Path(__file__).with_name("javascript.js")


@dataclass(frozen=True, kw_only=True)
class Script:
    """A model as JavaScript."""

    source: str
    """``createEngine`` and what it calls of this model."""
    form: dict[str, Any]
    """What ``createEngine`` is given, as JSON values."""
    parameters: dict[str, Tensor]
    """What its ``setParameters`` is given, flat and in this order: the model's parameters, float64."""
    are_tables: bool
    """Whether these are the tables instead, for the map to them has an operation without code."""


@torch.no_grad()
def script(config: Architecture, params: Mapping[str, Tensor]) -> Script:
    """A model of one seed (no seed axis) as JavaScript. Raises ``UsageError`` for one outside the table
    form."""
    names = list(params)
    values = [params[name][None].double() for name in names]
    built = tables(config, dict(zip(names, values, strict=True)))

    def table_tuple(*values: Tensor) -> tuple[Tensor, ...]:
        made = tables(config, dict(zip(names, values, strict=True)))
        return tuple(table for _, table in made.items())

    are_tables = False
    try:
        source = map_source(table_tuple, values)
    except NoCode:
        named = dict(built.items())
        names, values, are_tables = list(named), [each.double() for each in named.values()], True
        source = "function createMap() { return (tables) => tables; }"
    text = [
        ENGINE.read_text(encoding="utf-8"),
        head_source(built.form.program),
        function_source("scoreFunction", built.form.score_function),
        source,
    ]
    return Script(
        source="\n".join(text),
        form=_form(built),
        parameters={name: value[0] for name, value in zip(names, values, strict=True)},
        are_tables=are_tables,
    )


def _form(built: Tables) -> dict[str, Any]:
    form, score = built.form, built.score
    return {
        "heads": form.heads,
        "keyDim": form.key_dim,
        "valueDim": form.value_dim,
        "rowWidth": form.width,
        "scoreTokens": [1, 1] if score is None else [score.shape[2], score.shape[5]],
        "tables": [name for name, _ in built.items()],
        "constants": list(form.program.shapes),
        "layout": _layout(form.layout),
    }


def _layout(layout: Layout) -> dict[str, Any]:
    zeros = torch.zeros(1, layout.columns, dtype=torch.uint8)
    return {
        "name": layout.name,
        "columns": layout.columns,
        "base": layout.base,
        "vocabulary": list(layout.vocabulary),
        "a": list(layout.a_positions),
        "b": list(layout.b_positions),
        "prompt": layout.encode_prompt(zeros, zeros)[0].tolist(),
        "positions": layout.num_positions,
        "decided": layout.num_decided,
        "end": layout.end_token,
        "pairs": layout.pairs,
        "pairToken": layout.pair_token if layout.pairs else 0,
    }


# Head programs.


ELEMENTWISE_TEXT = {
    "add": "{} + {}",
    "subtract": "{} - {}",
    "multiply": "{} * {}",
    "divide": "{} / {}",
    "minimum": "Math.min({}, {})",
    "maximum": "Math.max({}, {})",
}
FUNCTION_TEXT = {
    "negate": "-{0}",
    "abs": "Math.abs({0})",
    "square": "{0} * {0}",
    "sqrt": "Math.sqrt({0})",
    "rsqrt": "1 / Math.sqrt({0})",
    "reciprocal": "1 / {0}",
    "exp": "Math.exp({0})",
    "relu": "larger({0}, 0)",
    "gelu": "gelu({0})",
    "gelu_tanh": "gelu_tanh({0})",
    "silu": "{0} * sigmoid({0})",
    "sigmoid": "sigmoid({0})",
    "tanh": "Math.tanh({0})",
    "softplus": "softplus({0}, 1, 20)",
}
assert ELEMENTWISE_TEXT.keys() == ELEMENTWISE.keys() and FUNCTION_TEXT.keys() == FUNCTIONS.keys()


def head_source(program: HeadProgram) -> str:
    """JavaScript of a function that is given the program's constants, arrays in the program's order,
    and makes another: (mixed, row) -> the values of all operations, the logits last."""
    names = {name: f"k{i}" for i, name in enumerate(program.shapes)}
    writer = _Writer(program, names)
    values = [f"    const v{k} = new Float64Array({o.width});" for k, o in writer.numbered]
    body = [f"        {line}" for _, operation in writer.numbered for line in writer.lines(operation)]
    results = ", ".join(f"v{k}" for k, _ in writer.numbered)
    return "\n".join(
        [
            f"function createHead([{', '.join(names.values())}]) {{",
            *values,
            f"    return function head(v{MIXED}, v{ROW}) {{",
            *body,
            f"        return [{results}];",
            "    };",
            "}",
        ]
    )


def function_source(name: str, function: Function | None) -> str:
    """JavaScript of one of the program's functions of a number; without one, of the identity."""
    text = "x" if function is None else FUNCTION_TEXT[function].format("x")
    return f"function {name}(x) {{ return {text}; }}"


class _Writer:
    def __init__(self, program: HeadProgram, names: dict[str, str]) -> None:
        self._program, self._names = program, names
        self.numbered = list(enumerate(program.operations, 2))
        self._number = {id(operation): k for k, operation in self.numbered}

    def lines(self, operation: Operation) -> list[str]:
        """The statements of one operation."""
        name, width, out = operation.name, operation.width, f"v{self._number[id(operation)]}"
        x = operation.operands[0]
        M, channel = self._program.width(x), self._at(x, "m")
        each_m = f"for (let m = 0; m < {M}; m++)"
        if name in ELEMENTWISE_TEXT:
            text = ELEMENTWISE_TEXT[name].format(*(self._read(y, width) for y in operation.operands))
            return [_each(width, f"{out}[n] = {text};")]
        if name in FUNCTION_TEXT:
            return [_each(width, f"{out}[n] = {FUNCTION_TEXT[name].format(self._read(x, width))};")]
        if name == "linear":
            _, matrix, *bias = operation.operands
            start = self._read(bias[0], width) if bias else "0"
            product = f"s += {channel} * {self._names[str(matrix)]}[m * {width} + n];"
            return [_each(width, f"{{ let s = {start}; {each_m} {product} {out}[n] = s; }}")]
        if name == "centre":
            mean = f"{{ let s = 0; {each_m} s += {channel}; s /= {M};"
            return [mean, f"  {_each(width, f'{out}[n] = {self._at(x)} - s;')} }}"]
        if name == "rms":
            square = f"{{ let s = 0; {each_m} s += {channel} * {channel};"
            scale = f"  s = 1 / Math.sqrt(s / {M} + {operation.eps!r});"
            return [square, scale, f"  {_each(width, f'{out}[n] = {self._at(x)} * s;')} }}"]
        if name in ("mean", "sum"):
            scale = f" / {M}" if name == "mean" else ""
            return [f"{{ let s = 0; {each_m} s += {channel}; {out}[0] = s{scale}; }}"]
        if name == "clamp":
            text = self._at(x)
            text = text if operation.low is None else f"Math.max({text}, {operation.low!r})"
            text = text if operation.high is None else f"Math.min({text}, {operation.high!r})"
            return [_each(width, f"{out}[n] = {text};")]
        if name == "take":
            return [f"{out}[{n}] = {self._at(x, str(m))};" for n, m in enumerate(operation.indices)]
        assert name == "concat", name
        parts, start = [], 0
        for part in operation.operands:
            size = self._program.width(part)
            parts.append(_each(size, f"{out}[n + {start}] = {self._at(part)};"))
            start += size
        return parts

    def _at(self, x: Operand, channel: str = "n") -> str:
        return f"{self._names[x] if isinstance(x, str) else f'v{x}'}[{channel}]"

    def _read(self, x: Operand, width: int) -> str:
        """One channel of an operand; a width of 1 stands for all."""
        return self._at(x, "n" if self._program.width(x) == width else "0")


def _each(width: int, statement: str) -> str:
    return f"for (let n = 0; n < {width}; n++) {statement}"


# Traced functions.


WORDS = {
    r"\bint (?=\w)": "let ",
    r"\bfloat (?=s\b)": "let ",
    r"\bstd::fabs\b": "Math.abs",
    r"\bstd::(nearbyint|exp2|erf|isinf|isnan|isfinite)\b": r"\1",
    r"\bstd::": "Math.",
    r"\bINFINITY\b": "Infinity",
    r"\bNAN\b": "NaN",
    r"(?<![\w.])(\d+\.?\d*(?:e[-+]?\d+)?)f\b": r"\1",
}
"""C++ as the emitter writes it -> JavaScript."""


def map_source(function: base.Function, examples: Sequence[Tensor]) -> str:
    """JavaScript of ``createMap()``, which makes a function from arrays, one for each input, to arrays,
    one for each output, of one seed. The arrays it returns are its own, written anew by the next call.

    The examples hold one seed; float32 or float64. Raises ``NoCode`` naming an operation for which
    there is no code.
    """
    examples = [example.detach().clone().contiguous() for example in examples]
    graph = traced(function, examples, lean=True)
    return _Emitter(graph, examples).source()


class _Emitter(Emitter):
    def _multiply(self, name: str, out: Tensor, args: Any, kwargs: Any) -> None:
        found = self._product(name, out, args, kwargs)
        if found is None:
            return
        added, target, a, b = found
        G, I, J = target.shape
        to, left, right = target.stride(), a.stride(), b.stride()
        loops = "".join(
            f"for (let {index} = 0; {index} < {size}; {index}++) "
            for index, size in (("g", G), ("i", I), ("j", J))
        )
        place = f"@0[g * {to[0]} + i * {to[1]} + j * {to[2]}]"
        x = f"@1[g * {left[0]} + i * {left[1]} + k * {left[2]}]"
        y = f"@2[g * {right[0]} + k * {right[1]} + j * {right[2]}]"
        first = place if added else "0"
        summed = f"for (let k = 0; k < {a.shape[2]}; k++) s += {x} * {y};"
        line = f"{loops}{{ let s = {first}; {summed} {place} = s; }}"
        self._emit(line, [self._place(target), self._place(a), self._place(b)])

    def source(self) -> str:
        """``createMap``."""
        scratch = self.give_places()
        lines = [
            "function createMap() {",
            f"    const w = new Float64Array({max(scratch, 1)});",
            f"    const y = {_shapes(self.output_sizes)}.map((n) => new Float64Array(n));",
            *(f"    const {name} = {_numbers(numbers)};" for name, numbers in self.constants.items()),
            *(f"    const {name} = [{text}];" for text, name in self.tables.items()),
        ]
        chunks = [
            self.lines[start : start + OPERATIONS_PER_FUNCTION]
            for start in range(0, len(self.lines), OPERATIONS_PER_FUNCTION)
        ]
        for number, chunk in enumerate(chunks):
            body = [f"        {_statement(line, places)}" for line, places in chunk]
            lines += [f"    function part{number}(x) {{", *body, "    }"]
        calls = " ".join(f"part{number}(x);" for number in range(len(chunks)))
        return "\n".join([*lines, f"    return function map(x) {{ {calls} return y; }};", "}"])


def _statement(line: str, places: Sequence[Place]) -> str:
    for pattern, text in WORDS.items():
        line = re.sub(pattern, text, line)
    for i, (buffer, offset) in enumerate(places):
        name, _, start = buffer.base.partition(" + ")
        offset += int(start or 0)
        line = line.replace(f"@{i}[", f"{name}[{offset} + " if offset else f"{name}[")
    return line


def _shapes(sizes: Sequence[int]) -> str:
    return f"[{', '.join(map(str, sizes))}]"


def _numbers(numbers: Sequence[float]) -> str:
    """An array; what comes again and again is written once."""
    runs = [(value, len(list(same))) for value, same in groupby(map(_literal, numbers))]
    if 4 * len(runs) < len(numbers):
        return f"repeated([{', '.join(f'[{value}, {count}]' for value, count in runs)}])"
    return f"[{', '.join(map(_literal, numbers))}]"


def _literal(number: float) -> str:
    if math.isfinite(number):
        return f"{number:.0f}" if number == round(number) and abs(number) < 1e9 else repr(number)
    return "NaN" if number != number else "Infinity" if number > 0 else "-Infinity"
