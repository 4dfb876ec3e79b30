"""The stages of a head, forward: from the attention's mix to the logits.

What depends on one channel of a product alone is computed where the product's tile leaves the registers.
A function is computed together with its slope, which is all that its way back needs.
"""

from __future__ import annotations

from adderlab.engine.native.listing import LOGITS, Line, Listing, Loop, channels, cpp_bool
from adderlab.engine.native.nodes import Node, Plan
from adderlab.models.head_program import FUNCTIONS, MIXED, ROW, Operand


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


def indices(node: Node) -> str:
    chosen = ", ".join(map(str, node.operation.indices))
    return f"{{ static constexpr int from[] = {{{chosen}}};"
