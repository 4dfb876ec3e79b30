"""Head programs of unlike structure with random constants, for tests of what interprets programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from adderlab.models.head_program import MIXED, ROW, HeadProgram, ProgramBuilder
from adderlab.proof.forms import Head

EPS = 1e-5


class Writer:
    """A ``ProgramBuilder`` that draws its constants as it goes. R is the width of the stream."""

    def __init__(self, rng: np.random.Generator, M: int, R: int, V: int) -> None:
        self.rng, self.R, self.V = rng, R, V
        self.build = ProgramBuilder(M, R)
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        return self.build.constant(name, *array.shape)

    def vector(self, *numbers: float) -> str:
        return self.constant(np.array(numbers))

    def linear(self, x: int, columns: int, bias: bool = False, scale: float = 1.0) -> int:
        matrix = self.constant(scale * self.rng.normal(size=(self.build.width(x), columns)))
        vector = self.constant(0.3 * self.rng.normal(size=columns)) if bias else None
        return self.build.linear(x, matrix, vector)

    def norm(self, x: int, layer: bool = False, bias: bool = False) -> int:
        x = self.build.rms(self.build.centre(x) if layer else x, EPS)
        x = self.build.multiply(x, self.constant(self.rng.normal(size=self.build.width(x))))
        return self.build.add(x, self.constant(self.rng.normal(size=self.build.width(x)))) if bias else x

    def attended(self, scale: float = 1.0) -> int:
        """row + mixed @ matrix."""
        return self.build.add(ROW, self.linear(MIXED, self.R, scale=scale))

    def mlp(self, x: int, activation: str = "gelu", hidden: int = 5) -> int:
        up = self.build.function(activation, self.linear(x, hidden, bias=True))  # type: ignore[arg-type]
        return self.linear(up, self.R, bias=True)

    def logits(self, x: int) -> int:
        return self.linear(x, self.V)

    def head(self) -> Head:
        return Head(program=self.build.build(), constants=self.constants)


def _no_mlp(w: Writer) -> None:
    w.logits(w.norm(w.attended()))


def _parallel(w: Writer) -> None:
    x = w.build.add(w.attended(), w.mlp(w.norm(ROW)))
    w.logits(w.norm(w.build.add(x, w.mlp(w.norm(w.attended())))))


def _post_norm(w: Writer) -> None:
    x = w.norm(w.attended(), layer=True, bias=True)
    w.logits(w.norm(w.build.add(x, w.mlp(x)), layer=True, bias=True))


def _sandwich(w: Writer) -> None:
    x = w.build.add(ROW, w.norm(w.linear(MIXED, w.R)))
    w.logits(w.norm(w.build.add(x, w.norm(w.mlp(w.norm(x))))))


def _two_mlps(w: Writer) -> None:
    x = w.attended()
    x = w.build.add(x, w.mlp(w.norm(x), "gelu_tanh"))
    w.logits(w.build.add(x, w.mlp(w.norm(x), "silu")))


def _gated_tanh(w: Writer) -> None:
    x = w.attended()
    normed = w.norm(x)
    gate = w.build.function("tanh", w.linear(normed, 5))
    up = w.build.multiply(w.linear(normed, 5, bias=True), gate)
    w.logits(w.norm(w.build.add(x, w.linear(up, w.R))))


def _squared_relu(w: Writer) -> None:
    x = w.attended(0.5)
    up = w.build.function("square", w.build.function("relu", w.linear(w.norm(x), 5, bias=True)))
    w.logits(w.norm(w.build.add(x, w.linear(up, w.R, scale=0.5))))


def _softplus(w: Writer) -> None:
    x = w.attended()
    up = w.build.function("softplus", w.linear(x, 5, bias=True))
    w.logits(w.build.add(x, w.linear(up, w.R)))


def _soft_cap(w: Writer) -> None:
    x = w.attended()
    logits = w.linear(w.norm(w.build.add(x, w.mlp(w.norm(x)))), w.V)
    capped = w.build.function("tanh", w.build.elementwise("divide", logits, w.vector(5.0)))
    w.build.multiply(capped, w.constant(np.full(w.V, 5.0)))


def _own_norm(w: Writer) -> None:
    """Norms written out: by rsqrt, and by a division by a square root."""
    x = w.attended()
    mean = w.build.reduce("mean", w.build.function("square", x))
    normed = w.build.multiply(x, w.build.function("rsqrt", w.build.add(mean, w.vector(EPS))))
    x = w.build.add(x, w.mlp(normed))
    mean = w.build.reduce("mean", w.build.multiply(x, x))
    root = w.build.function("sqrt", w.build.add(mean, w.vector(EPS)))
    w.logits(w.build.elementwise("divide", x, root))


def _softmax(w: Writer) -> None:
    """Hidden units compete."""
    x = w.attended()
    up = w.build.function("exp", w.linear(w.norm(x), 4))
    shares = w.build.elementwise("divide", up, w.build.reduce("sum", up))
    w.logits(w.build.add(x, w.linear(shares, w.R, scale=2.0)))


def _piecewise(w: Writer) -> None:
    """What hand-made models are made of."""
    x = w.attended()
    up = w.linear(x, 4, bias=True)
    steps = w.build.clamp(up, 0.0, 1.0)
    bent = w.build.elementwise("maximum", w.build.function("abs", w.linear(x, 4)), up)
    low = w.build.elementwise("minimum", bent, w.constant(np.abs(w.rng.normal(size=4))))
    both = w.build.concat([steps, w.build.take(low, [2, 0, 2]), w.vector(0.5, -1.0)])
    gate = w.build.function("sigmoid", w.build.take(up, [1]))
    w.logits(w.build.multiply(w.build.add(x, w.linear(both, w.R)), gate))


def _quotient(w: Writer) -> None:
    """A reciprocal of what is surely positive, a negated and a subtracted value, a scalar of the row."""
    x = w.attended()
    positive = w.build.add(w.build.function("softplus", w.linear(x, 3)), w.vector(0.2, 0.3, 0.4))
    inverse = w.build.function("reciprocal", positive)
    part = w.linear(w.build.elementwise("subtract", inverse, w.build.function("negate", positive)), w.R)
    scalar = w.linear(w.build.function("tanh", ROW), 1)
    w.logits(w.build.elementwise("subtract", w.build.multiply(x, scalar), part))


STRUCTURES: dict[str, Callable[[Writer], None]] = {
    write.__name__[1:]: write
    for write in (
        _no_mlp,
        _parallel,
        _post_norm,
        _sandwich,
        _two_mlps,
        _gated_tanh,
        _squared_relu,
        _softplus,
        _soft_cap,
        _own_norm,
        _softmax,
        _piecewise,
        _quotient,
    )
}


def structured_head(name: str, seed: int, M: int, R: int, V: int) -> Head:
    """A head of one of the ``STRUCTURES``."""
    writer = Writer(np.random.default_rng(seed), M, R, V)
    STRUCTURES[name](writer)
    return writer.head()


def random_head(seed: int, M: int, R: int, V: int, length: int = 14) -> Head:
    """A head of random operations on random values made before, then logits. Roots, reciprocals and
    quotients are of anything: they need not be defined everywhere."""
    rng = np.random.default_rng(seed)
    w = Writer(rng, M, R, V)
    values = [MIXED, ROW, w.attended()]
    functions = (
        *("negate", "abs", "square", "relu", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh", "softplus"),
        *("sqrt", "rsqrt", "reciprocal", "exp"),
    )
    for _ in range(length):
        x = int(rng.choice(values[-5:] if rng.uniform() < 0.7 else values))
        width = w.build.width(x)
        match int(rng.integers(9)):
            case 0 | 1:
                y = w.linear(x, int(rng.integers(1, 5)), bias=bool(rng.integers(2)), scale=0.7)
            case 2:
                y = w.norm(x, layer=bool(rng.integers(2)) and width > 1)
            case 3 | 4:
                y = w.build.function(functions[int(rng.integers(len(functions)))], x)  # type: ignore[arg-type]
            case 5:
                fits = [v for v in values if w.build.width(v) in (1, width)]
                other = (
                    int(rng.choice(fits)) if rng.uniform() < 0.7 else w.constant(rng.normal(size=width))
                )
                names = ("add", "subtract", "multiply", "divide", "minimum", "maximum")
                pair = (x, other) if rng.integers(2) else (other, x)
                y = w.build.elementwise(names[int(rng.integers(6))], *pair)  # type: ignore[arg-type]
            case 6:
                y = w.build.clamp(x, -0.5 if rng.integers(2) else None, 0.8)
            case 7:
                y = w.build.reduce("mean" if rng.integers(2) else "sum", x)
            case _:
                other = int(rng.choice(values))
                both = w.build.concat([x, other, w.constant(rng.normal(size=2))])
                y = w.build.take(both, rng.integers(0, w.build.width(both), 4).tolist())
        values.append(y)
    last = w.build.concat([values[-1], values[-2], values[-3], values[2]])
    w.logits(w.norm(last) if rng.integers(2) else last)
    return w.head()


def cut_off(head: Head, operations: int) -> Head:
    """The program of the first operations alone: its logits are what the last of them makes."""
    program = HeadProgram(
        mixed_width=head.program.mixed_width,
        row_width=head.program.row_width,
        operations=head.program.operations[:operations],
        constants=head.program.constants,
    )
    return dataclasses.replace(head, program=program)
