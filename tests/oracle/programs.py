"""Head programs of unlike structure, and random tables for them, for tests of the engines."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from adderlab.models.head_program import MIXED, ROW, Function, HeadProgram, ProgramBuilder
from adderlab.models.tables import TableForm, Tables, tables_of
from adderlab.task.addition import get_layout

V, D, F = 14, 6, 9
"""Vocabulary of layout P, width of the row, hidden units."""


class Builder(ProgramBuilder):
    """With names for what models are made of."""

    def weights(self, x: int, name: str, columns: int, *, bias: bool = False) -> int:
        matrix = self.constant(name, self.width(x), columns)
        return self.linear(x, matrix, self.constant(f"{name}_bias", columns) if bias else None)

    def norm(self, x: int, name: str, *, bias: bool = False, eps: float = 1e-5) -> int:
        x = self.multiply(self.rms(x, eps), self.constant(f"{name}_weight", self.width(x)))
        return self.add(x, self.constant(f"{name}_bias", self.width(x))) if bias else x

    def layer_norm(self, x: int, name: str) -> int:
        return self.norm(self.centre(x), name, bias=True)

    def mlp(self, x: int, name: str, *functions: str, bias: bool = False) -> int:
        x = self.weights(x, f"{name}_up", F, bias=bias)
        for function in functions:
            x = self.function(function, x)  # type: ignore[arg-type]
        return self.weights(x, f"{name}_down", D, bias=bias)

    def gated(self, x: int, name: str, function: str) -> int:
        gate = self.function(function, self.weights(x, f"{name}_gate", F))  # type: ignore[arg-type]
        return self.weights(self.multiply(gate, self.weights(x, f"{name}_up", F)), f"{name}_down", D)

    def attended(self) -> int:
        return self.add(ROW, self.weights(MIXED, "attn_out", self.width(ROW)))

    def logits(self, x: int) -> HeadProgram:
        self.weights(x, "unembed", V)
        return self.build()


def parallel(b: Builder) -> HeadProgram:
    mlp = b.mlp(b.norm(ROW, "norm"), "mlp", "gelu")
    return b.logits(b.norm(b.add(b.attended(), mlp), "final"))


def post_norm(b: Builder) -> HeadProgram:
    x = b.layer_norm(b.attended(), "norm1")
    x = b.layer_norm(b.add(x, b.mlp(x, "mlp", "relu", bias=True)), "norm2")
    return b.logits(x)


def sandwich(b: Builder) -> HeadProgram:
    x = b.add(ROW, b.norm(b.weights(MIXED, "attn_out", D), "norm1"))
    x = b.add(x, b.norm(b.gated(b.norm(x, "norm2"), "mlp", "gelu_tanh"), "norm3"))
    return b.logits(b.norm(x, "final"))


def no_mlp(b: Builder) -> HeadProgram:
    b.weights(b.norm(b.attended(), "final"), "unembed", V, bias=True)
    return b.build()


def attention_alone(b: Builder) -> HeadProgram:
    return b.logits(MIXED)


def no_attention(b: Builder) -> HeadProgram:
    return b.logits(b.mlp(ROW, "mlp", "tanh"))


def two_mlps(b: Builder) -> HeadProgram:
    x = b.attended()
    x = b.add(x, b.mlp(b.norm(x, "norm1"), "mlp1", "gelu", bias=True))
    x = b.add(x, b.mlp(b.norm(x, "norm2"), "mlp2", "softplus"))
    return b.logits(b.layer_norm(x, "final"))


def squared_relu(b: Builder) -> HeadProgram:
    x = b.attended()
    return b.logits(b.add(b.mlp(b.norm(x, "norm"), "mlp", "relu", "square"), x))


def tanh_gate(b: Builder) -> HeadProgram:
    x = b.attended()
    return b.logits(b.norm(b.add(x, b.gated(b.norm(x, "norm"), "mlp", "tanh")), "final"))


def geglu(b: Builder) -> HeadProgram:
    x = b.attended()
    x = b.add(x, b.gated(b.norm(x, "norm"), "mlp", "gelu"))
    return b.logits(b.add(x, b.gated(x, "mlp2", "sigmoid")))


def residual_scales(b: Builder) -> HeadProgram:
    """One number, a vector, and a number that the sample decides, before each residual sum."""
    attended = b.weights(MIXED, "attn_out", D)
    x = b.add(b.multiply(b.constant("row_scale", 1), ROW), b.multiply(attended, b.constant("scale1", 1)))
    mlp = b.mlp(b.norm(x, "norm"), "mlp", "silu")
    x = b.add(
        b.multiply(mlp, b.constant("scale2", D)), b.multiply(x, b.function("tanh", b.reduce("mean", x)))
    )
    return b.logits(x)


def soft_cap(b: Builder) -> HeadProgram:
    x = b.attended()
    b.logits(b.norm(b.add(x, b.mlp(x, "mlp", "gelu")), "final"))
    x = len(b.build().operations) + 1
    b.multiply(b.function("tanh", b.elementwise("divide", x, b.constant("cap", 1))), "cap")
    return b.build()


def tied(b: Builder) -> HeadProgram:
    """Constants in several places: one matrix twice, one vector as norm weight, bias and factor."""
    square = b.constant("square", D, D)
    x = b.attended()
    x = b.linear(b.function("gelu", b.linear(x, square)), square)
    vector = b.constant("vector", D)
    x = b.add(b.multiply(b.rms(x, 1e-6), vector), vector)
    y = b.linear(x, b.constant("unembed", D, V))
    return b.logits(b.add(b.multiply(b.elementwise("subtract", vector, x), x), b.take(y, range(D))))


def residual_logits(b: Builder) -> HeadProgram:
    """The logits are a sum, of values that others need too."""
    first = b.weights(b.attended(), "unembed", V)
    b.add(b.weights(b.function("relu", first), "again", V), first)
    return b.build()


def every_operation(b: Builder) -> HeadProgram:
    """What the others leave out: extremes, quotients, roots, clamps, channels taken and joined."""
    x, y = b.attended(), b.weights(MIXED, "other", D)
    positive = b.add(b.function("square", x), b.constant("one", 1))
    roots = b.add(b.function("sqrt", positive), b.function("rsqrt", positive))
    z = b.elementwise("divide", b.elementwise("minimum", x, y), roots)
    z = b.add(z, b.elementwise("maximum", b.constant("floor", D), b.function("negate", y)))
    z = b.add(b.clamp(z, -0.7, 1.1), b.clamp(b.clamp(y, 0.2, None), None, 0.9))
    joined = b.concat(
        [b.take(z, (3, 0, 3)), b.constant("middle", 2), b.reduce("sum", x), b.centre(y), "one"]
    )
    half = b.function("reciprocal", b.add(b.function("exp", joined), "one"))
    joined = b.multiply(b.function("exp", b.clamp(joined, None, 1.5)), half)
    mean = b.reduce("mean", b.function("abs", joined))
    return b.logits(
        b.elementwise("subtract", b.elementwise("divide", joined, mean), b.reduce("mean", x))
    )


def narrow(b: Builder) -> HeadProgram:
    """Values of width 1 throughout."""
    x = b.weights(b.attended(), "one", 1)
    x = b.add(b.function("silu", b.multiply(x, b.constant("scale", 1))), b.norm(x, "norm", eps=0.3))
    return b.logits(b.add(x, b.function("square", b.reduce("sum", ROW))))


def wide(b: Builder) -> HeadProgram:
    """Beyond what is unrolled."""
    x = b.weights(b.attended(), "up", 70)
    return b.logits(b.layer_norm(b.multiply(b.function("gelu", x), x), "norm"))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A program, and the attention before it."""

    build: Callable[[Builder], HeadProgram]
    heads: int = 1
    key: int = 3
    value: int = 2
    score: str = ""
    """tokens: any score of any pair; query, key: only that token matters; positions: none does; hidden:
    and some keys are hidden."""
    function: Function | None = None
    sink: bool = False

    @property
    def name(self) -> str:
        parts = [self.build.__name__, self.score, self.function, "sink" * self.sink]
        return "-".join(part for part in parts if part)

    def form(self) -> TableForm:
        return TableForm(
            layout=get_layout("P"),
            heads=self.heads,
            key_dim=self.key,
            value_dim=self.value,
            program=self.build(Builder(self.heads * self.value, D)),
            score_function=self.function,
        )

    def tables(self, S: int, seed: int = 0) -> Tables:
        """Standard normal tables; matrices are scaled to keep the size of what they multiply."""
        form, generator = self.form(), torch.Generator().manual_seed(seed)
        found = {}
        for name, shape in form.shapes().items():
            if name == "score_scale" and not self.function:
                continue
            tensor = torch.randn(S, *shape, generator=generator)
            if name in form.program.shapes:
                tensor = tensor / shape[-2] ** 0.5 if len(shape) == 2 else 1 + 0.3 * tensor
            found[name] = tensor
        if not self.sink:
            del found["sink"]
        if not self.score:
            del found["score"]
        elif self.score != "tokens":
            query, key = (slice(None if self.score == side else 1) for side in ("query", "key"))
            score = found["score"][:, :, query, :, :, key].clone()
            hidden_P = torch.arange(score.shape[4]) % 5 == 3
            hides = self.score == "hidden"
            found["score"] = score.masked_fill(hides & hidden_P[:, None], float("-inf"))
        return tables_of(form, found)


CASES = (
    Case(build=parallel),
    Case(build=post_norm, heads=2),
    Case(build=sandwich, heads=4, key=1, value=1),
    Case(build=no_mlp),
    Case(build=attention_alone, heads=2, value=5),
    Case(build=no_attention),
    Case(build=two_mlps, heads=3),
    Case(build=squared_relu),
    Case(build=tanh_gate),
    Case(build=geglu),
    Case(build=residual_scales),
    Case(build=soft_cap),
    Case(build=tied),
    Case(build=residual_logits),
    Case(build=every_operation, heads=2),
    Case(build=narrow),
    Case(build=wide),
    Case(build=no_mlp, score="tokens", heads=2),
    Case(build=no_mlp, score="hidden", key=0),
    Case(build=soft_cap, sink=True, heads=2, value=3),
    Case(build=parallel, score="hidden", sink=True, heads=3),
    Case(build=no_mlp, score="query"),
    Case(build=no_mlp, score="key", function="softplus"),
    Case(build=no_mlp, score="positions", function="tanh", heads=2, sink=True),
)
