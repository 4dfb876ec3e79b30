"""A head program as a JavaScript function: one loop for each operation.

Shapes: M and N channels of an operation's operand and result.
"""

from __future__ import annotations

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
