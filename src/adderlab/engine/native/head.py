"""The C++ source of one table form's kernel: what follows the attention, written from its head program.

The kernel's other parts are the same for every form and are included; written here are the form's
sizes, what the head keeps of a column (``HeadBuffers``) and reads (``HeadWeights``), its stages in both
directions, and how constants become weights and sums gradients. SIMD lanes are samples, so the code is
about one sample: channels are loops.

Forward the stages lead from the attention's mix to the logits. What depends on one channel of a product
alone is computed where the product's tile leaves the registers. A function is computed together with
its slope, which is all that its way back needs.

Backward they lead from d loss / d logits to the cotangents of the attention's mix and of the row, and
to the sums over samples that make the gradients of the constants. Values are gone through from the last
to the first. A value's gradient is complete once all that read it have given their part; where a
product makes it complete and what made the value works channel by channel, the way back goes on there
and then, while the product is in registers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adderlab.engine.native.plan import (
    LOGITS,
    WEIGHTS,
    Line,
    Listing,
    Loop,
    Node,
    Plan,
    channels,
    cpp_bool,
    indices,
    plan,
    times,
)
from adderlab.models.head_program import FUNCTIONS, MIXED, ROW, HeadProgram, Operand
from adderlab.models.tables import ATTENTION, TableForm

OF_VALUE = {
    "tanh": ("tanh_value(x)", "1.0f - value * value"),
    "sigmoid": ("1.0f / (1.0f + sigmoid_exp(x))", "value - value * value"),
}
"""Functions of scores that stay within +-1, and their slopes, which follow from their values."""


def head_source(form: TableForm, *, score: Sequence[int] | None, sink: bool) -> str:
    """The whole C++ file. ``score``: the shape of that table without the seed axis; ``sink``: whether
    there is one."""
    layout, program = form.layout, form.program
    sizes = {
        "A": layout.num_answers,
        "P": layout.num_positions,
        "T": layout.num_prompt,
        "V": layout.vocab_size,
        "H": form.heads,
        "K": form.key_dim,
        "E": form.value_dim,
        "R": form.width,
    }
    shapes = form.shapes()
    if score is not None:
        shapes["score"] = tuple(score)
    function = form.score_function
    curve, slope = "", "value"
    if function in OF_VALUE:
        value, slope = OF_VALUE[function]
        curve = f"value = {value}"
    elif function is not None:
        curve = f"{function}_value_and_slope(x, value, slope)"
    tables = [math.prod(shapes[name]) for name in (*ATTENTION, *program.shapes)]
    head = _Head(program)
    return "\n".join(
        [
            "// Written by head.py for one table form.",
            '#include "dense.hpp"',
            '#include "functions.hpp"',
            '#include "norms.hpp"',
            "",
            *[f"constexpr int {name} = {value};" for name, value in sizes.items()],
            f"constexpr bool SCORE = {cpp_bool(score is not None)}, SINK = {cpp_bool(sink)};",
            f"constexpr int SCORE_QUERIES = {shapes['score'][1]}, SCORE_KEYS = {shapes['score'][4]};",
            f"constexpr bool CURVED = {cpp_bool(function is not None)};",
            f"constexpr bool LIMITED = {cpp_bool(function in OF_VALUE)};",
            f"INLINE void score_value_and_slope(vf x, vf& value, vf& slope) {{ {curve}; }}",
            f"INLINE vf slope_of_limited(vf value) {{ return {slope}; }}",
            f"constexpr int TABLES = {len(tables)};",
            f"constexpr int TABLE_SIZE[TABLES] = {{{', '.join(map(str, tables))}}};",
            "",
            *head.declarations(),
            '#include "weights.hpp"',
            "",
            *head.definitions(),
            '#include "kernel.hpp"',
            "",
        ]
    )


class _Head:
    def __init__(self, program: HeadProgram) -> None:
        self.plan, self.code = plan(program), Listing(program)
        self.back = Backward(Forward(self.plan, self.code))

    def declarations(self) -> list[str]:
        """HeadBuffers, HeadWeights and DENSE, the number of sums."""
        buffers, weights = self.code.settle(), []
        for node in self.plan.linears:
            M, N = self.code.width(node.inputs[0]), node.width
            weights.append(f"m{node.number}[{M * N}], m{node.number}_back[{N * M}]")
            if node.has_bias:
                weights.append(f"b{node.number}[{N}]")
        shapes = self.plan.program.shapes
        for name in sorted(self.code.plain):
            weights.append(f"k{self.code.number[name]}[{shapes[name][-1]}]")
        return [
            "struct HeadBuffers {",
            *[f"    vf {text};" for text in buffers],
            "};",
            "struct HeadWeights {",
            *[f"    float {text};" for text in weights],
            "};",
            f"constexpr int DENSE = {self.back.size};",
            "",
        ]

    def definitions(self) -> list[str]:
        """All functions; after ``declarations``."""
        stages, back = self.plan.last, self.back.stage + 1
        read = "const Weights& w, const float (*row)[TABLE], vi token, Column& c"
        found = [
            "#define START(n) [&](auto n) __attribute__((always_inline))",
            "#define SINK(n, x) [&](auto n, vf x) __attribute__((always_inline))",
            "template <int I>",
            "using Number = std::integral_constant<int, I>;",
            f"constexpr int STAGES = {stages}, BACK_STAGES = {back};",
            "",
        ]
        define = self.code.definition
        for i in range(stages):
            found += define(f"stage{i}", f"stage(Number<{i}>, {read})")
        found += define(LOGITS, f"logits({read}, vf (&x)[V])")
        for i in range(back):
            found += define(f"back{i}", f"back_stage(Number<{i}>, const Weights& w, Column& c)")
        found += define(WEIGHTS, "sum_weight_grads(int columns, const Column& c, vf* total)")
        return [*found, *self._load(), *self._store_gradients()]

    def _load(self) -> list[str]:
        body = []
        for node in self.plan.linears:
            i, sizes = node.number, f"{self.code.width(node.inputs[0])}, {node.width}"
            matrix, scale, shift, bias = (
                self._constant(name) for name in (node.matrix, node.scale, node.shift, node.bias)
            )
            out = "LOG2E_EXACT" if self.plan.plain_logits(node) else node.out_unit
            unit, back = times(node.in_unit, out), times(node.in_unit, node.out_unit)
            target = f"w.b{i}" if node.has_bias else "nullptr"
            body.append(
                f"fold<{sizes}>({matrix}, {scale}, {shift}, {bias}, {unit}, {back}, {out}, "
                f"w.m{i}, w.m{i}_back, {target});"
            )
        for name in sorted(self.code.plain):
            i, size = self.code.number[name], self.plan.program.shapes[name][-1]
            body.append(f"std::memcpy(w.k{i}, constant[{i}], {4 * size});")
        return [
            "inline void load_head(const float* const* constant, HeadWeights& w) {",
            *[f"    {text}" for text in body],
            "}",
            "",
        ]

    def _constant(self, name: str | None) -> str:
        return "nullptr" if name is None else f"constant[{self.code.number[name]}]"

    def _store_gradients(self) -> list[str]:
        """Sums to gradients. One that is a single sum is written at once, others are added up."""
        number = self.code.number
        size = {name: math.prod(shape) for name, shape in self.plan.program.shapes.items()}
        parts: Counter[str] = Counter(each.constant for each in self.back.sums)
        several = set()
        for node in self.plan.linears:
            parts.update(name for name in (node.matrix, node.bias) if name is not None)
            several |= {name for name in (node.scale, node.shift) if name is not None}
        several |= {name for name, count in parts.items() if count > 1}
        body = [f"double total{number[x]}[{size[x]}] = {{}};" for x in sorted(several)]

        def target(name: str) -> str:
            return f"total{number[name]}" if name in several else f"grad[{number[name]}]"

        for node in self.plan.linears:
            body += self._unfold(node, target)
        for each in self.back.sums:
            to = target(each.constant)
            body.append(f"store(dense + {each.offset}, {each.width}, 1.0, {to});")
        for name in sorted(several):
            body.append(f"store({target(name)}, {size[name]}, 1.0, grad[{number[name]}]);")
        for name in sorted(set(size) - several - set(parts)):
            body.append(f"std::memset(grad[{number[name]}], 0, {4 * size[name]});")
        return [
            "inline void store_head(const double* dense, const float* const* constant,",
            "                       float* const* grad) {",
            *[f"    {text}" for text in body],
            "}",
            "",
        ]

    def _unfold(self, node: Node, target: Callable[[str], str]) -> list[str]:
        M, N = self.code.width(node.inputs[0]), node.width
        first, bias_at = self.back.matrix_sum[node.number]
        unit = times(node.in_unit, node.out_unit)
        bias_sum = "nullptr" if bias_at is None else f"dense + {bias_at}"
        if node.scale is None and node.shift is None:
            lines = [f"store(dense + {first}, {M * N}, {unit}, {target(node.matrix)});"]
            if node.bias is not None:
                lines.append(f"store({bias_sum}, {N}, {node.out_unit}, {target(node.bias)});")
            return lines
        unused = f"unused{node.number}"
        scale, shift = (unused if x is None else target(x) for x in (node.scale, node.shift))
        bias = "(float*)nullptr" if node.bias is None else target(node.bias)
        lines = [f"double {unused}[{M}] = {{}};"] if unused in (scale, shift) else []
        constants = ", ".join(self._constant(x) for x in (node.matrix, node.scale, node.shift))
        lines.append(
            f"unfold<{M}, {N}>(dense + {first}, {bias_sum}, {constants}, {unit}, {target(node.matrix)}, "
            f"{scale}, {shift}, {bias});"
        )
        return lines


class Forward:
    """Writes the functions ``stage0``, ... and ``logits`` of a listing."""

    def __init__(self, plan: Plan, code: Listing) -> None:
        self.plan, self.code = plan, code
        self.composite: dict[int, tuple[Node, Operand]] = {}
        """Product f(a) * b -> (the node of f, b): the slope kept for f is that of the product by a."""
        self._forward()

    def _forward(self) -> None:
        known = {MIXED, ROW}
        for number in range(self.plan.last + 1):
            self.code.function = LOGITS if number == self.plan.last else f"stage{number}"
            if number == 0 and not self.plan.row_is_start and self.plan.uses[ROW]:
                row = self.code.value(ROW)
                R = self.code.width(ROW)
                self.code.emit(f"for (int n = 0; n < {R}; n++) {row}[n] = lookup(row[HK + n], token);")
            nodes = self.plan.stage(number)
            while nodes:
                node = nodes.pop(0)
                together = [node]
                if node.kind == "linear" or node.pointwise:
                    together += self._attached(node, nodes, known)
                    nodes = [other for other in nodes if other not in together]
                self._write(together)
                known |= {other.out for other in together}
        self._finish_logits()

    def _attached(self, root: Node, nodes: list[Node], known: set[int]) -> list[Node]:
        """Later nodes of the stage that can be computed channel by channel as the root's result is."""
        if self.plan.plain_logits(root):
            return []
        here, found = {root.out}, []
        for node in nodes:
            ready = all(x in here or x in known for x in node.inputs)
            if node.pointwise and node.width == root.width and ready and here & set(node.inputs):
                here.add(node.out)
                found.append(node)
        return found

    def _finish_logits(self) -> None:
        last = self.plan.nodes[-1]
        if not self.plan.plain_logits(last):
            V = last.width
            self.code.emit(f"unroll<{V}>(EACH(n) {{ x[n] = {self.code.value(last.out)}[n] * LOG2E; }});")

    def _write(self, nodes: list[Node]) -> None:
        """Nodes that are computed together, the first of them from arrays."""
        root, N = nodes[0], nodes[0].width
        if root.kind == "linear":
            loop, known = Loop(width=N), {root.out: "y"}
            if self.plan.plain_logits(root):
                loop.body.append(Line(text="x[n] = y;"))
            else:
                self._store(root.out, "y", loop)
            self._pointwise(nodes[1:], loop, known)
            x = root.inputs[0]
            sizes = (self.code.width(x), N)
            self.code.product(
                self.code.value(x), f"m{root.number}", sizes, self._start(root, loop), loop
            )
        elif root.pointwise:
            loop = channels(N)
            self._pointwise(nodes, loop, {})
            self.code.run(loop)
        else:
            self._other(root)

    def _start(self, node: Node, loop: Loop) -> str:
        """What a product starts from."""
        bias = f"w.b{node.number}[n]" if node.has_bias else None
        if node.start is None:
            return f"splat({bias})" if bias else "vf{}"
        if node.start == ROW and self.plan.row_is_start:
            start = "lookup(row[HK + n], token)"
        else:
            start = self.code.read(node.start, loop, {})
        return f"{start} + {bias}" if bias else start

    def _store(self, x: int, text: str, loop: Loop) -> None:
        value = self.code.value(x)
        loop.body.append(Line(text=f"{value}[{loop.n}] = {text};", stores=f"v{x}"))

    def _pointwise(self, nodes: list[Node], loop: Loop, known: dict[int, str]) -> None:
        """Nodes of one width, channel by channel; ``known`` are values that are there already."""
        slopes: list[int] = []
        for node in nodes:
            y, s = f"y{node.out}", f"p{node.out}"
            x, *others = (self.code.read(operand, loop, known) for operand in node.operands)
            call = self._call(node, x, others)
            if call:
                loop.body.append(Line(text=f"vf {y}, {s}; {call.format(y=y, s=s)}"))
                slopes.append(node.out)
            else:
                symbol = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}.get(node.kind)
                text = f"-{x}" if symbol is None else f"{x} {symbol} {others[0]}"
                loop.body.append(Line(text=f"vf {y} = {text};"))
            if node.kind == "multiply":
                self._compose(node, loop, known, slopes)
            known[node.out] = y
        for node in nodes:
            self._store(node.out, f"y{node.out}", loop)
        for out in slopes:
            slope = self.code.buffer(f"s{out}", loop.width)
            loop.body.append(Line(text=f"{slope}[{loop.n}] = p{out};", stores=f"s{out}"))

    def _call(self, node: Node, x: str, others: list[str]) -> str | None:
        """The call of a function that gives value {y} and slope {s}; None for plain arithmetic."""
        if node.kind == "gelu":
            if node.scaled:
                return f"gelu::value_and_slope({x}, {{y}}, {{s}});"
            unit = "float(gelu::STEP)"
            return f"gelu::value_and_slope({x} * (1.0f / {unit}), {{y}}, {{s}}); {{y}} *= {unit};"
        if node.kind == "clamp":
            low, high = (_float(end) for end in _ends(node))
            return f"clamp_value_and_slope({x}, {low}, {high}, {{y}}, {{s}});"
        if node.kind in ("minimum", "maximum"):
            return f"{node.kind}_value_and_slope({x}, {others[0]}, {{y}}, {{s}});"
        if node.kind in FUNCTIONS and node.kind != "negate":
            return f"{node.kind}_value_and_slope({x}, {{y}}, {{s}});"
        return None

    def _compose(self, node: Node, loop: Loop, known: dict[int, str], slopes: list[int]) -> None:
        """f(a) * b: the slope of f becomes that of the product by a, if nothing else reads f(a)."""
        first, second = node.operands
        for x, other in ((first, second), (second, first)):
            maker = self.plan.maker.get(x) if isinstance(x, int) else None
            if maker is None or maker.kind not in FUNCTIONS or maker.kind == "negate" or x == other:
                continue
            if self.plan.uses[maker.out] == 1 and maker.width == node.width:
                here = maker.out in slopes
                slope = self.code.buffer(f"s{maker.out}", loop.width)
                to = f"p{maker.out}" if here else f"{slope}[{loop.n}]"
                loop.body.append(Line(text=f"{to} *= {self.code.read(other, loop, known)};"))
                self.composite[node.out] = (maker, other)
                return

    def _other(self, node: Node) -> None:
        """What mixes channels."""
        y, N = self.code.buffer(f"v{node.out}", node.width), node.width
        if node.kind == "concat":
            start = 0
            for part in node.operands:
                loop = Loop(width=self.code.width(part), n="n")
                text = f"{y}[{start} + n] = {self.code.read(part, loop, {})};"
                loop.body.append(Line(text=text))
                self.code.run(loop)
                start += loop.width
            return
        (x,) = node.inputs
        array, M = self.code.value(x), self.code.width(x)
        if node.kind == "norm":
            scale = self.code.buffer(f"r{node.out}", 1)
            eps = f"float({node.operation.eps!r})"
            self.code.emit(f"norm<{cpp_bool(node.centred)}, {M}>({array}, {eps}, {y}, {scale}[0]);")
        elif node.kind == "mean":
            self.code.emit(f"{y}[0] = sum<{M}>({array}) * (1.0f / {M});")
        elif node.kind == "sum":
            self.code.emit(f"{y}[0] = sum<{M}>({array});")
        elif node.kind == "centre":
            mean = self.code.new("mean")
            self.code.emit(f"vf {mean} = sum<{M}>({array}) * (1.0f / {M});")
            self.code.emit(f"for (int n = 0; n < {N}; n++) {y}[n] = {array}[n] - {mean};")
        else:
            assert node.kind == "take", node.kind
            self.code.emit(
                f"{indices(node)} for (int n = 0; n < {N}; n++) {y}[n] = {array}[from[n]]; }}"
            )


def _float(x: float) -> str:
    return {"inf": "HUGE_VALF", "-inf": "-HUGE_VALF"}.get(repr(x), f"float({x!r})")


def _ends(node: Node) -> tuple[float, float]:
    low, high = node.operation.low, node.operation.high
    return float("-inf") if low is None else low, float("inf") if high is None else high


@dataclass(frozen=True, kw_only=True)
class _Gradient:
    """Where d loss / d value lies, so far."""

    buffer: str
    own: bool
    """Whether the buffer is this value's alone; otherwise another gradient that happens to be equal."""


@dataclass(frozen=True, kw_only=True)
class Sum:
    """A gradient summed over columns and samples."""

    constant: str
    buffer: str
    width: int
    offset: int


class Backward:
    """Writes the functions ``back0``, ... and the sums of a listing whose stages are written."""

    def __init__(self, forward: Forward) -> None:
        self.plan, self.code, self.composite = forward.plan, forward.code, forward.composite
        self.stage = 0
        """The one being written; in the end the last one."""
        self.size = 0
        """How many sums there are."""
        self.sums: list[Sum] = []
        """Of constants that are no matrices and not folded into one."""
        self.matrix_sum: dict[int, tuple[int, int | None]] = {}
        """Number of a linear node -> where the sums of its matrix begin, and those of its bias."""
        self._gradient: dict[int, _Gradient] = {}
        self._remaining = Counter(self.plan.uses)
        """How many parts of a value's gradient are to come."""
        self._done: set[int] = set()
        self._made_in: dict[str, int] = {"logit_grad": -1}
        """In which stage a gradient's buffer was last written."""
        self._backward()
        self._weight_gradients()

    def _backward(self) -> None:
        self._gradient[self.plan.nodes[-1].out] = _Gradient(buffer="logit_grad", own=False)
        self.code.width_of["logit_grad"] = self.plan.program.vocab_size
        self.code.function = "back0"
        for node in reversed(self.plan.nodes):
            if node.out in self._done:
                continue
            if node.kind == "linear":
                self._linear_back(node)
            elif node.pointwise:
                self._pointwise_back(node)
            else:
                self._other_back(node)
            self._done.add(node.out)
        self._finish_row()
        self._finish_mixed()

    def _at(self, x: int) -> str:
        """The array of a value's gradient, which is complete."""
        return f"@{self._gradient[x].buffer}@"

    def _made(self, buffer: str) -> None:
        self._made_in[buffer] = self.stage

    def _linear_back(self, node: Node) -> None:
        """Of all products of one input whose results' gradients are there."""
        x = node.inputs[0]
        group = [
            other
            for other in self.plan.linears
            if other.inputs[0] == x
            and other.out not in self._done
            and other.out in self._gradient
            and self._remaining[other.out] == 0
        ]
        just_made = any(self._made_in[self._gradient[each.out].buffer] == self.stage for each in group)
        if just_made and x != MIXED:
            self.stage += 1
            self.code.function = f"back{self.stage}"
        for each in group:
            self._done.add(each.out)
            if each.start is not None:
                self._pass_on(each.start, each.out)
        for each in group:
            loop = Loop(width=self.code.width(x))
            old = self._gradient.get(x)
            start = f"@{old.buffer}@[n]" if old else "vf{}"
            self._give(x, "y", loop, added=True)
            sizes = (each.width, loop.width)
            self.code.product(self._at(each.out), f"m{each.number}_back", sizes, start, loop)

    def _pass_on(self, x: Operand, out: int) -> None:
        """The gradient of a sum goes to an addend of its width as it is."""
        if isinstance(x, int) and x not in self._gradient:
            self._remaining[x] -= 1
            self._gradient[x] = _Gradient(buffer=self._gradient[out].buffer, own=False)
            return
        if isinstance(x, str):
            self._sum(x, self._gradient[out].buffer, self.code.width(out))
            return
        loop = Loop(width=self.code.width(x), n="n" if self.code.width(x) > 1 else "0")
        self._give(x, f"{self._at(out)}[{loop.n}]", loop)
        self.code.run(loop)

    def _sum(self, constant: str, buffer: str, width: int) -> None:
        self.sums.append(Sum(constant=constant, buffer=buffer, width=width, offset=self.size))
        self.size += width

    def _give(
        self, x: Operand, text: str, loop: Loop, *, added: bool = False, place: str | None = None
    ) -> None:
        """Add to an operand's gradient. ``added``: what was there is in it already. ``place``: a buffer
        that nobody needs any more."""
        wide = self.code.width(x) == loop.width
        if not wide:
            total = self.code.new("total")
            loop.before.append(f"vf {total}{{}};")
            loop.body.append(Line(text=f"{total} += {text};"))
            rest = Loop(width=1, n="0")
            self._give(x, total, rest)
            loop.after += [*[Line(text=line) for line in rest.before], *rest.body, *rest.after]
            return
        if isinstance(x, str):
            name = self.code.new("k")
            buffer = self.code.buffer(name, loop.width)
            loop.body.append(Line(text=f"{buffer}[{loop.n}] = {text};"))
            self._sum(x, name, loop.width)
            return
        self._remaining[x] -= 1
        old = self._gradient.get(x)
        maker = self.plan.maker.get(x)
        if self._remaining[x] == 0 and maker is not None and maker.pointwise:
            g = self.code.new("g_")
            sum_text = text if old is None or added else f"{text} + @{old.buffer}@[{loop.n}]"
            loop.body.append(Line(text=f"vf {g} = {sum_text};"))
            self._done.add(x)
            self._through(maker, g, loop)
            return
        if old is not None and old.own:
            sign = "=" if added else "+="
            loop.body.append(Line(text=f"@{old.buffer}@[{loop.n}] {sign} {text};"))
            self._made(old.buffer)
            return
        if old is not None and not added:
            text = f"{text} + @{old.buffer}@[{loop.n}]"
        name = place if place is not None and old is None else self.code.new("g")
        buffer = self.code.buffer(name, loop.width)
        loop.body.append(Line(text=f"{buffer}[{loop.n}] = {text};"))
        self._gradient[x] = _Gradient(buffer=name, own=True)
        self._made(name)

    def _through(self, node: Node, g: str, loop: Loop) -> None:
        """Through a pointwise node, ``g`` being the gradient of one channel of its result."""
        n = loop.n
        gifts: list[tuple[Operand, str, str | None]] = []
        first, *others = node.operands
        slope = f"@s{node.out}@[{n}]"
        if node.out in self.composite:
            maker, other = self.composite[node.out]
            (x,) = maker.inputs
            self._remaining[maker.out] -= 1
            self._done.add(maker.out)
            value = self.code.read(maker.out, loop, {})
            gifts = [
                (x, f"{g} * @s{maker.out}@[{n}]", f"s{maker.out}"),
                (other, f"{g} * {value}", f"v{maker.out}"),
            ]
        elif node.kind == "negate":
            gifts = [(first, f"-{g}", None)]
        elif node.kind in FUNCTIONS or node.kind == "clamp":
            gifts = [(first, f"{g} * {slope}", f"s{node.out}")]
        else:
            second = others[0]
            a, b = (self.code.read(x, loop, {}) for x in (first, second))
            if node.kind in ("add", "subtract"):
                gifts = [(first, g, None), (second, g if node.kind == "add" else f"-{g}", None)]
            elif node.kind == "multiply":
                gifts = [(first, f"{g} * {b}", None), (second, f"{g} * {a}", None)]
            elif node.kind == "divide":
                gifts = [
                    (first, f"{g} / {b}", None),
                    (second, f"-{g} / {b} * {self.code.read(node.out, loop, {})}", None),
                ]
            else:
                assert node.kind in ("minimum", "maximum"), node.kind
                gifts = [(first, f"{g} * {slope}", None), (second, f"{g} * (1.0f - {slope})", None)]
        # All are computed before one of them is stored where another one reads.
        names = [self.code.new("d_") for _ in gifts]
        for name, (_, text, _) in zip(names, gifts, strict=True):
            loop.body.append(Line(text=f"vf {name} = {text};"))
        for name, (x, _, place) in zip(names, gifts, strict=True):
            self._give(x, name, loop, place=place)

    def _pointwise_back(self, node: Node) -> None:
        N = node.width
        if node.kind == "add":
            plain = [x for x in node.operands if self.code.width(x) == N]
            if len(plain) == len(node.operands):
                for x in plain:
                    self._pass_on(x, node.out)
                return
        loop = channels(N)
        self._through(node, f"{self._at(node.out)}[{loop.n}]", loop)
        self.code.run(loop)

    def _other_back(self, node: Node) -> None:
        out, N = self._at(node.out), node.width
        if node.kind == "concat":
            start = 0
            for part in node.operands:
                loop = Loop(width=self.code.width(part), n="n")
                self._give(part, f"{out}[{start} + n]", loop)
                self.code.run(loop)
                start += loop.width
            return
        (x,) = node.inputs
        M = self.code.width(x)
        if node.kind == "take":
            self._take_back(node, x, out)
            return
        loop = channels(M)
        if node.kind == "norm":
            grads = self.code.buffer(self.code.new("t"), M)
            normed, scale = f"@v{node.out}@", f"@r{node.out}@[0]"
            self.code.emit(
                f"norm_back<{cpp_bool(node.centred)}, {M}>({out}, {normed}, {scale}, {grads});"
            )
            self._give(x, f"{grads}[{loop.n}]", loop)
        elif node.kind in ("mean", "sum"):
            mean = self.code.new("mean")
            share = f" * (1.0f / {M})" if node.kind == "mean" else ""
            self.code.emit(f"vf {mean} = {out}[0]{share};")
            self._give(x, mean, loop)
        else:
            assert node.kind == "centre", node.kind
            mean = self.code.new("mean")
            self.code.emit(f"vf {mean} = sum<{N}>({out}) * (1.0f / {N});")
            self._give(x, f"{out}[{loop.n}] - {mean}", loop)
        self.code.run(loop)

    def _take_back(self, node: Node, x: int, out: str) -> None:
        old, M = self._gradient.get(x), self.code.width(x)
        if old is None or not old.own:
            name = self.code.new("g")
            buffer, start = self.code.buffer(name, M), f"@{old.buffer}@[n]" if old else "vf{}"
            self.code.emit(f"for (int n = 0; n < {M}; n++) {buffer}[n] = {start};")
            old = self._gradient[x] = _Gradient(buffer=name, own=True)
        self._remaining[x] -= 1
        self._made(old.buffer)
        add = f"@{old.buffer}@[from[n]] += {out}[n];"
        self.code.emit(f"{indices(node)} for (int n = 0; n < {node.width}; n++) {add} }}")

    def _finish_row(self) -> None:
        R, found = self.code.width(ROW), self._gradient.get(ROW)
        if found is not None and found.buffer != "logit_grad" and self.code.width_of[found.buffer] == R:
            self.code.place[found.buffer] = "(c.row_grad + HK)"
            return
        text = f"@{found.buffer}@[n]" if found else "vf{}"
        self.code.emit(f"for (int n = 0; n < {R}; n++) c.row_grad[HK + n] = {text};")

    def _finish_mixed(self) -> None:
        if MIXED in self._gradient:
            self.code.emit(f"set_cotangent({self._at(MIXED)}, c);")
        else:
            self.code.emit("for (vf& x : c.cotangent) x = vf{};")
            self.code.emit("for (vf& x : c.cotangent_mean) x = vf{};")

    def _weight_gradients(self) -> None:
        self.code.function = WEIGHTS
        for node in self.plan.linears:
            x, N = node.inputs[0], node.width
            M, out, first = self.code.width(x), self._at(node.out), self.size
            self.code.emit(
                f"outer<{M}, {N}>(columns, COLUMN, {self.code.value(x)}, {out}, total + {first});"
            )
            self.size += M * N
            bias = None
            if node.has_bias:
                bias = self.size
                self.code.emit(f"add_columns<{N}>(columns, COLUMN, {out}, total + {bias});")
                self.size += N
            self.matrix_sum[node.number] = (first, bias)
        for each in self.sums:
            array = f"@{each.buffer}@"
            self.code.emit(
                f"add_columns<{each.width}>(columns, COLUMN, {array}, total + {each.offset});"
            )
