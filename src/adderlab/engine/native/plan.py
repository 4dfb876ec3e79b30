"""A head program on its way to C++: the operations its kernel computes, and the code being written.

What can be done in one operation is one node. A vector that multiplies or is added before a matrix
becomes part of it, mean and rms become a layer norm, a residual becomes what a product starts from, and
GELU is computed in its own unit (``gelu::STEP`` in functions.hpp), which the matrices around it carry.
The nodes are divided into stages: a matrix that needs what another one makes begins the next stage. The
kernel takes every stage through several samples before the next one, so that independent ones fill the
processor's waiting times.

``Listing`` holds the functions written from the nodes, line by line, and their buffers. A buffer of N
channels is an array of N vectors. It is written ``@name@`` until all code is there: one that a single
function mentions becomes a local array of it, every other one a field of ``HeadBuffers``; a line that
stores to a buffer that nobody reads is left out.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from adderlab.models.head_program import (
    ELEMENTWISE,
    FUNCTIONS,
    MIXED,
    ROW,
    HeadProgram,
    Operand,
    Operation,
)

ONE, STEP, PER_STEP = "1.0", "gelu::STEP", "1.0 / gelu::STEP"
"""Units, as the C++ source writes them."""


def times(a: str, b: str) -> str:
    """The product of two units."""
    return b if a == ONE else a if b == ONE else f"{a} * ({b})"


@dataclass(kw_only=True)
class Node:
    """One operation, after what could be merged has been."""

    kind: str
    """The name of the operation; ``norm`` for rms, also of a centred value (``centred``)."""
    out: int
    """The value that it makes."""
    width: int
    operands: tuple[Operand, ...]
    """Of a linear node its input alone."""
    operation: Operation
    centred: bool = False
    # What follows is for linear nodes.
    matrix: str = ""
    scale: str | None = None
    """Multiplies the input before the matrix."""
    shift: str | None = None
    """Is added to the input after that."""
    bias: str | None = None
    start: int | None = None
    """The value to which the product is added."""
    in_unit: str = ONE
    """The input is the value divided by this; for a GELU, see ``scaled``."""
    out_unit: str = ONE
    """The result is to be divided by what this is the inverse of."""
    scaled: bool = False
    """Of a GELU: input and output are in its own unit."""
    number: int = -1
    """Of a linear node, among them."""
    stage: int = field(default=-1)

    @property
    def inputs(self) -> tuple[int, ...]:
        """Every value it reads, as often as it reads it."""
        values = [x for x in self.operands if isinstance(x, int)]
        return tuple(values if self.start is None else [*values, self.start])

    @property
    def pointwise(self) -> bool:
        """Whether a channel of the result depends on the same channel of the operands alone."""
        return self.kind in FUNCTIONS or self.kind in ELEMENTWISE or self.kind == "clamp"

    @property
    def has_bias(self) -> bool:
        return self.bias is not None or self.shift is not None


@dataclass(kw_only=True)
class Plan:
    """The nodes in the order of the forward pass."""

    program: HeadProgram
    nodes: list[Node]
    uses: Counter[int]
    """How often each value is read."""

    def __post_init__(self) -> None:
        self.maker = {node.out: node for node in self.nodes}

    @property
    def last(self) -> int:
        """The stage that makes the logits."""
        return self.nodes[-1].stage

    def stage(self, number: int) -> list[Node]:
        return [node for node in self.nodes if node.stage == number]

    @property
    def linears(self) -> list[Node]:
        """By their numbers, which are those of the program's order."""
        linears = [node for node in self.nodes if node.kind == "linear"]
        return sorted(linears, key=lambda node: node.number)

    def plain_logits(self, node: Node) -> bool:
        """Whether a node makes the logits by a product alone, which can give them in bits."""
        return node is self.nodes[-1] and node.kind == "linear" and node.start is None

    @property
    def row_is_start(self) -> bool:
        """Whether the row is nothing but what one product starts from: it is looked up there."""
        return self.uses[ROW] == 1 and any(node.start == ROW for node in self.nodes)


def plan(program: HeadProgram) -> Plan:
    """What the kernel of a program computes, in its order."""
    nodes = _alive(list(_nodes(program)), len(program.operations) + 1)
    nodes = _start_products(_join_norms(nodes), program)
    uses = _uses(nodes)
    _scale_gelus(nodes, uses)
    _number(nodes)
    nodes = _gates_first(nodes, uses)
    return Plan(program=program, nodes=nodes, uses=uses)


def _nodes(program: HeadProgram) -> Iterator[Node]:
    """One node for each operation; matrices with what is before them."""
    for out, operation in enumerate(program.operations, 2):
        node = Node(
            kind="norm" if operation.name == "rms" else operation.name,
            out=out,
            width=operation.width,
            operands=operation.operands,
            operation=operation,
        )
        if operation.name == "linear":
            x, matrix, *bias = operation.operands
            assert isinstance(x, int)
            x, node.shift = _peel(program, x, "add")
            x, node.scale = _peel(program, x, "multiply")
            node.operands, node.matrix = (x,), str(matrix)
            node.bias = str(bias[0]) if bias else None
        yield node


def _peel(program: HeadProgram, x: int, name: str) -> tuple[int, str | None]:
    """(y, constant) if x is y and a constant vector of its width, added or multiplied."""
    if x < 2 or program.operations[x - 2].name != name:
        return x, None
    operands = program.operations[x - 2].operands
    for y, constant in (operands, operands[::-1]):
        named = isinstance(y, int) and isinstance(constant, str)
        if named and program.width(y) == program.width(constant):
            return y, constant
    return x, None


def _alive(nodes: list[Node], last: int) -> list[Node]:
    """The nodes on which the logits depend."""
    needed = {last}
    for node in reversed(nodes):
        if node.out in needed:
            needed |= set(node.inputs)
    return [node for node in nodes if node.out in needed]


def _uses(nodes: list[Node]) -> Counter[int]:
    return Counter(x for node in nodes for x in node.inputs)


def _join_norms(nodes: list[Node]) -> list[Node]:
    """A mean taken off for the sake of an rms becomes part of it."""
    uses, maker = _uses(nodes), {node.out: node for node in nodes}
    gone = set()
    for node in nodes:
        if node.kind == "norm":
            (x,) = node.inputs
            if x in maker and maker[x].kind == "centre" and uses[x] == 1:
                node.centred, node.operands = True, maker[x].operands
                gone.add(x)
    return [node for node in nodes if node.out not in gone]


def _start_products(nodes: list[Node], program: HeadProgram) -> list[Node]:
    """A product to which something is added that is there before starts from it."""
    uses, place = _uses(nodes), {node.out: i for i, node in enumerate(nodes)}
    gone = set()
    for add in nodes:
        if add.kind != "add" or not all(isinstance(x, int) for x in add.operands):
            continue
        first, second = sorted(add.inputs, key=lambda x: place.get(x, -1))
        product = nodes[place[second]] if second in place else None
        if product is None or product.kind != "linear" or product.start is not None or first == second:
            continue
        if uses[second] == 1 and program.width(first) == product.width:
            product.start, product.out = first, add.out
            place[add.out] = place[second]
            gone.add(id(add))
    return [node for node in nodes if id(node) not in gone]


def _scale_gelus(nodes: list[Node], uses: Counter[int]) -> None:
    """A GELU between matrices works in its own unit."""
    maker = {node.out: node for node in nodes}
    for node in nodes:
        if node.kind != "gelu":
            continue
        (x,) = node.inputs
        before = maker.get(x)
        after = [other for other in nodes if node.out in other.inputs]
        if before is None or before.kind != "linear" or before.start is not None or uses[x] != 1:
            continue
        if all(
            other.kind == "linear"
            and other.operands == (node.out,)
            and other.start != node.out
            and other.scale is None
            and other.shift is None
            for other in after
        ):
            node.scaled, before.out_unit = True, PER_STEP
            for other in after:
                other.in_unit = STEP


def _number(nodes: list[Node]) -> None:
    stage, made_in = 0, {MIXED: -1, ROW: -1}
    for number, node in enumerate(node for node in nodes if node.kind == "linear"):
        node.number = number
    for node in nodes:
        if node.kind == "linear" and made_in[node.inputs[0]] == stage:
            stage += 1
        made_in[node.out] = node.stage = stage


def _gates_first(nodes: list[Node], uses: Counter[int]) -> list[Node]:
    """f(x @ a) * (x @ b): the second product comes last, and meets the gate while in registers."""
    nodes = list(nodes)
    maker = {node.out: node for node in nodes}
    for gated in [node for node in nodes if node.kind == "multiply"]:
        product, gate = (maker.get(x) if isinstance(x, int) else None for x in gated.operands)
        if product is None or gate is None:
            continue
        if product.kind != "linear":
            product, gate = gate, product
        early = product.kind == "linear" and nodes.index(product) < nodes.index(gate)
        if early and product.stage == gate.stage and uses[product.out] == 1 and gate.pointwise:
            nodes.remove(product)
            nodes.insert(nodes.index(gate) + 1, product)
    return nodes


# The code while it is written.


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


def indices(node: Node) -> str:
    chosen = ", ".join(map(str, node.operation.indices))
    return f"{{ static constexpr int from[] = {{{chosen}}};"


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
