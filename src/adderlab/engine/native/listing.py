"""C++ under construction: the functions of one head program, line by line, and their buffers.

A buffer of N channels is an array of N vectors. It is written ``@name@`` until all code is there: one
that a single function mentions becomes a local array of it, every other one a field of
``HeadBuffers``; a line that stores to a buffer that nobody reads is left out.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from adderlab.models.head_program import MIXED, HeadProgram, Operand

UNROLLED = 32
"""Loops over more channels than this stay loops."""

LOGITS, WEIGHTS = "logits", "weights"
"""Functions beside the stages: the last stage, and the sums of the weights' gradients."""

BUFFER = re.compile(r"@(\w+)@")


@dataclass(kw_only=True)
class Line:
    text: str
    stores: str | None = None
    """The buffer to which it does nothing but store."""


@dataclass(kw_only=True)
class Loop:
    """Code that runs for every channel ``n`` of ``width``."""

    width: int
    n: str = "n"
    before: list[str] = field(default_factory=list)
    body: list[Line] = field(default_factory=list)
    after: list[Line] = field(default_factory=list)


def channels(width: int) -> Loop:
    """An empty loop over all channels of a value."""
    return Loop(width=width, n="n" if width > 1 else "0")


def cpp_bool(value: bool) -> str:
    return "true" if value else "false"


class Listing:
    """The lines of every function, by its name; ``function`` is the one being written."""

    def __init__(self, program: HeadProgram) -> None:
        self.program = program
        self.lines: defaultdict[str, list[Line]] = defaultdict(list)
        self.function = ""
        self.width_of: dict[str, int] = {"logit_grad": program.vocab_size}
        self.place: dict[str, str] = {"logit_grad": "c.logit_grad"}
        """Where a buffer is, as far as that is settled."""
        self.number = {name: i for i, name in enumerate(program.shapes)}
        """Of every constant."""
        self.plain: set[str] = set()
        """Constants that are read as they are."""
        self._names: Counter[str] = Counter()
        self._locals: defaultdict[str, list[str]] = defaultdict(list)

    def buffer(self, name: str, width: int) -> str:
        self.width_of[name] = width
        return f"@{name}@"

    def new(self, prefix: str) -> str:
        self._names[prefix] += 1
        return f"{prefix}{self._names[prefix]}"

    def emit(self, text: str, stores: str | None = None) -> None:
        self.lines[self.function].append(Line(text=text, stores=stores))

    def width(self, x: Operand) -> int:
        return self.program.width(x)

    def value(self, x: int) -> str:
        """The array of a value."""
        if x == MIXED:
            return "c.mix"
        return self.buffer(f"v{x}", self.width(x))

    def read(self, x: Operand, loop: Loop, known: dict[int, str]) -> str:
        """One channel of an operand; a width of 1 stands for all."""
        n = loop.n if self.width(x) == loop.width else "0"
        if isinstance(x, str):
            self.plain.add(x)
            return f"splat(w.k{self.number[x]}[{n}])"
        if x in known:
            return known[x]
        return f"{self.value(x)}[{n}]"

    def run(self, loop: Loop) -> None:
        """Write a loop of its own."""
        for text in loop.before:
            self.emit(text)
        if loop.width == 1:
            self.emit("{ constexpr int n = 0;")
        elif loop.width <= UNROLLED:
            self.emit(f"unroll<{loop.width}>(EACH(n) {{")
        else:
            self.emit(f"for (int n = 0; n < {loop.width}; n++) {{")
        self.lines[self.function] += [Line(text=f"    {x.text}", stores=x.stores) for x in loop.body]
        self.emit("});" if 1 < loop.width <= UNROLLED else "}")
        self.lines[self.function] += loop.after

    def product(self, x: str, weights: str, sizes: tuple[int, int], start: str, loop: Loop) -> None:
        """Write a product of sizes (M, N) whose results ``y`` the loop's body takes."""
        for text in loop.before:
            self.emit(text)
        M, N = sizes
        self.emit(f"product<{M}, {N}>({x}, w.{weights}, START(n) {{ return {start}; }}, SINK(n, y) {{")
        self.lines[self.function] += [Line(text=f"    {x.text}", stores=x.stores) for x in loop.body]
        self.emit("});")
        self.lines[self.function] += loop.after

    def settle(self) -> list[str]:
        """Give every buffer its place, once all lines are there; the fields of ``HeadBuffers``."""
        self._drop_unread()
        functions: defaultdict[str, set[str]] = defaultdict(set)
        for function, lines in self.lines.items():
            for line in lines:
                for name in BUFFER.findall(line.text):
                    functions[name].add(function)
        fields = [f"logit_grad[{self.program.vocab_size}]"]
        for name, where in functions.items():
            if name in self.place:
                continue
            if len(where) == 1:
                self._locals[next(iter(where))].append(name)
                self.place[name] = name
            else:
                fields.append(f"{name}[{self.width_of[name]}]")
                self.place[name] = f"c.{name}"
        return fields

    def _drop_unread(self) -> None:
        """Leave out stores to buffers that no other line reads."""
        while True:
            read = {
                name
                for lines in self.lines.values()
                for line in lines
                for name in BUFFER.findall(line.text)
                if name != line.stores
            }
            unread = [
                line
                for lines in self.lines.values()
                for line in lines
                if line.stores is not None and line.stores not in read
            ]
            if not unread:
                return
            for lines in self.lines.values():
                lines[:] = [line for line in lines if line not in unread]

    def definition(self, function: str, signature: str) -> list[str]:
        """The whole function; after ``settle``."""
        body = [f"vf {name}[{self.width_of[name]}];" for name in self._locals[function]]
        lines = [BUFFER.sub(lambda m: self.place[m[1]], x.text) for x in self.lines[function]]
        return [f"INLINE void {signature} {{", *[f"    {text}" for text in [*body, *lines]], "}", ""]
