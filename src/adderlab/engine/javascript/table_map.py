"""A traced function of small tensors as JavaScript: the native engine's loops in another language.

``engine.native.emit`` turns a trace into loops over known places. Their text is C++ of floats; what
differs here are the names of functions, the form of literals, and that there are no pointers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from torch import Tensor

from adderlab.engine.base import Function
from adderlab.engine.native.emit import OPERATIONS_PER_FUNCTION, Emitter, Place
from adderlab.engine.native.program import traced

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


def map_source(function: Function, examples: Sequence[Tensor]) -> str:
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
