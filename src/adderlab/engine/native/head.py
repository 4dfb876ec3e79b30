"""The C++ source of one table form's kernel: what follows the attention, written from its head program.

The kernel's other parts are the same for every form and are included; written here are the form's sizes,
what the head keeps of a column (``HeadBuffers``) and reads (``HeadWeights``), its stages in both
directions, and how constants become weights and sums gradients.

SIMD lanes are samples, so the code is about one sample: channels are loops.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from adderlab.engine.native.plan import LOGITS, ONE, WEIGHTS, Listing, Node, cpp_bool, plan
from adderlab.engine.native.stages import Backward, Forward
from adderlab.models.head_program import HeadProgram
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
            unit, back = _times(node.in_unit, out), _times(node.in_unit, node.out_unit)
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
        unit = _times(node.in_unit, node.out_unit)
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


def _times(a: str, b: str) -> str:
    return b if a == ONE else a if b == ONE else f"{a} * ({b})"
