"""The head program: everything that follows the attention mixture, as a short list of operations.

It exists once per architecture and holds no weights. What evaluates a model (``engine``), encloses it
(``proof``, ``checker``), emits its kernel (``engine/native``) or rounds it is an interpretation of this
list: a new operation is one entry in each of them, and a new architecture is none.

Values are vectors of one answer step of one pair. Value 0 is ``mixed``, what attention gives, H x E
numbers with the heads one after another; value 1 is ``row``, R numbers that depend on the step and the
token at its query position alone (the residual stream, as a rule); operation k makes value 2 + k; the
last one makes the logits. Operands that are weights are *constants*, by name: tensors that depend on
the model's parameters alone.

Shapes: S seeds, N samples, M channels of an operand, V vocabulary, R width of ``row``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

Elementwise = Literal["add", "subtract", "multiply", "divide", "minimum", "maximum"]
Function = Literal[
    "negate",
    "abs",
    "square",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "exp",
    "relu",
    "gelu",
    "gelu_tanh",
    "silu",
    "sigmoid",
    "tanh",
    "softplus",
]
Name = Literal[
    Elementwise, Function, "linear", "centre", "rms", "mean", "sum", "clamp", "take", "concat"
]

MIXED, ROW = 0, 1
"""The two values that every program starts from."""

Operand = int | str
"""A value by its number, or a constant by its name."""


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation. What its operands are, by name:

    add, subtract, multiply, divide, minimum, maximum
        two operands, elementwise; one of width 1 stands for as many as the other has. At least one is a
        value; the other may be a constant vector.
    negate ... softplus
        one value, elementwise. ``gelu`` is exact (erf), ``gelu_tanh`` its approximation by tanh.
    linear
        a value (M), a constant matrix (M, M') and possibly a constant vector (M'): x @ matrix + bias.
    centre
        x minus its mean over the channels.
    rms
        x / sqrt(mean(x^2) + eps), over the channels.
    mean, sum
        over the channels; width 1.
    clamp
        between ``low`` and ``high``; an end that is None is none.
    take
        the channels ``indices`` of one value, in that order.
    concat
        several values or constants, one after another.
    """

    name: Name
    operands: tuple[Operand, ...]
    width: int
    """Channels of the result."""
    eps: float = 0.0
    """Of rms."""
    low: float | None = None
    high: float | None = None
    indices: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class HeadProgram:
    """The list, the widths of its two inputs, and the shapes of its constants. Hashable."""

    mixed_width: int
    row_width: int
    operations: tuple[Operation, ...]
    constants: tuple[tuple[str, tuple[int, ...]], ...]
    """(name, shape without the seed axis)."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return dict(self.constants)

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""
        return self.operations[-1].width

    def width(self, operand: Operand) -> int:
        """Channels of a value, or numbers of a constant vector."""
        if isinstance(operand, str):
            return self.shapes[operand][-1]
        if operand < 2:
            return (self.mixed_width, self.row_width)[operand]
        return self.operations[operand - 2].width


class ProgramBuilder:
    """Writes a program operation by operation; every method returns the new value's number."""

    def __init__(self, mixed_width: int, row_width: int) -> None:
        self._widths = [mixed_width, row_width]
        self._operations: list[Operation] = []
        self._constants: dict[str, tuple[int, ...]] = {}

    def constant(self, name: str, *shape: int) -> str:
        """Declare a constant; returns its name."""
        assert self._constants.setdefault(name, shape) == shape, name
        return name

    def width(self, operand: Operand) -> int:
        return self._constants[operand][-1] if isinstance(operand, str) else self._widths[operand]

    def linear(self, x: int, matrix: str, bias: str | None = None) -> int:
        operands = (x, matrix) if bias is None else (x, matrix, bias)
        rows, columns = self._constants[matrix]
        assert rows == self._widths[x], (matrix, rows, self._widths[x])
        return self._append(Operation(name="linear", operands=operands, width=columns))

    def elementwise(self, name: Elementwise, x: Operand, y: Operand) -> int:
        widths = {self.width(x), self.width(y)} - {1}
        assert len(widths) < 2, (name, widths)
        return self._append(Operation(name=name, operands=(x, y), width=max(widths, default=1)))

    def add(self, x: Operand, y: Operand) -> int:
        return self.elementwise("add", x, y)

    def multiply(self, x: Operand, y: Operand) -> int:
        return self.elementwise("multiply", x, y)

    def function(self, name: Function, x: int) -> int:
        return self._append(Operation(name=name, operands=(x,), width=self._widths[x]))

    def centre(self, x: int) -> int:
        return self._append(Operation(name="centre", operands=(x,), width=self._widths[x]))

    def rms(self, x: int, eps: float) -> int:
        return self._append(Operation(name="rms", operands=(x,), width=self._widths[x], eps=eps))

    def reduce(self, name: Literal["mean", "sum"], x: int) -> int:
        return self._append(Operation(name=name, operands=(x,), width=1))

    def clamp(self, x: int, low: float | None, high: float | None) -> int:
        operation = Operation(name="clamp", operands=(x,), width=self._widths[x], low=low, high=high)
        return self._append(operation)

    def take(self, x: int, indices: Iterable[int]) -> int:
        indices = tuple(indices)
        return self._append(Operation(name="take", operands=(x,), width=len(indices), indices=indices))

    def concat(self, parts: Iterable[Operand]) -> int:
        parts = tuple(parts)
        return self._append(Operation(name="concat", operands=parts, width=sum(map(self.width, parts))))

    def build(self) -> HeadProgram:
        """The program; its logits are the value made last."""
        return HeadProgram(
            mixed_width=self._widths[MIXED],
            row_width=self._widths[ROW],
            operations=tuple(self._operations),
            constants=tuple(self._constants.items()),
        )

    def _append(self, operation: Operation) -> int:
        self._operations.append(operation)
        self._widths.append(operation.width)
        return len(self._widths) - 1


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "negate": torch.neg,
    "abs": torch.abs,
    "square": torch.square,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal,
    "exp": torch.exp,
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": functional.softplus,
}
ELEMENTWISE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "subtract": torch.sub,
    "multiply": torch.mul,
    "divide": torch.div,
    "minimum": torch.minimum,
    "maximum": torch.maximum,
}


def evaluate(
    program: HeadProgram, constants: Mapping[str, Tensor], mixed_SMN: Tensor, row_SRN: Tensor
) -> Tensor:
    """The logits (S, V, N) of N samples: the program as PyTorch computes it, channels before samples."""
    values = [mixed_SMN, row_SRN]

    def operand(x: Operand) -> Tensor:
        return constants[x][:, :, None] if isinstance(x, str) else values[x]

    for operation in program.operations:
        values.append(_apply(operation, operand, constants))
    return values[-1]


def _apply(
    operation: Operation, operand: Callable[[Operand], Tensor], constants: Mapping[str, Tensor]
) -> Tensor:
    name, operands = operation.name, operation.operands
    if name == "concat":
        parts = [operand(x) for x in operands]
        S, N = (max(part.shape[axis] for part in parts) for axis in (0, 2))
        return torch.cat([part.expand(S, -1, N) for part in parts], 1)
    if name in ELEMENTWISE:
        x, y = map(operand, operands)
        return ELEMENTWISE[name](x, y)
    x_SMN = operand(operands[0])
    if name in FUNCTIONS:
        return FUNCTIONS[name](x_SMN)
    if name == "linear":
        y_SNN = constants[str(operands[1])].transpose(1, 2) @ x_SMN
        return y_SNN + operand(operands[2]) if len(operands) == 3 else y_SNN
    if name == "centre":
        return x_SMN - x_SMN.mean(1, keepdim=True)
    if name == "rms":
        scale_S1N = 1 / torch.sqrt((x_SMN * x_SMN).mean(1, keepdim=True) + operation.eps)
        return x_SMN * scale_S1N
    if name == "mean":
        return x_SMN.mean(1, keepdim=True)
    if name == "sum":
        return x_SMN.sum(1, keepdim=True)
    if name == "clamp":
        return x_SMN.clamp(operation.low, operation.high)
    assert name == "take", name
    return x_SMN[:, list(operation.indices)]


# The head of every preset: x = row + mixed @ attn_out, x = x + mlp(norm2(x)), logits = norm_f(x) @
# unembed.

NormKind = Literal["none", "rms", "layer"]
Activation = Literal["gelu", "relu", "swiglu"]


@dataclass(frozen=True, kw_only=True)
class NormForm:
    """RMS: x / sqrt(mean(x^2) + eps) * weight. Layer: (x - mean) / sqrt(var + eps) * weight + bias."""

    kind: NormKind
    eps: float


@dataclass(frozen=True, kw_only=True)
class StandardHead:
    """The shape of the presets' heads: one pre-norm MLP. A program of this shape, whoever wrote it, is
    recognised by ``standard_head``, and the kernels that are written by hand compute it."""

    norm2: NormForm
    norm_f: NormForm
    activation: Activation
    hidden: int
    names: tuple[tuple[str, str], ...]
    """(role, name of the constant), the roles being names in ``ROLES``; absent weights are left out."""

    @property
    def roles(self) -> dict[str, str]:
        return dict(self.names)


ROLES = (
    "attn_out",
    "norm2_weight",
    "norm2_bias",
    "fc1",
    "fc1_bias",
    "gate",
    "fc2",
    "fc2_bias",
    "norm_f_weight",
    "norm_f_bias",
    "unembed",
)
"""Constants of a standard head."""


def standard_program(
    *,
    mixed: int,
    width: int,
    hidden: int,
    vocab: int,
    norm2: NormForm,
    norm_f: NormForm,
    activation: Activation,
    biases: Collection[str] = (),
) -> HeadProgram:
    """The program of a standard head whose constants are called by their roles. ``biases``: which of
    norm2_bias, fc1_bias, fc2_bias and norm_f_bias there are."""
    build = ProgramBuilder(mixed, width)

    def norm(x: int, name: str, form: NormForm) -> int:
        if form.kind == "none":
            return x
        if form.kind == "layer":
            x = build.centre(x)
        x = build.multiply(build.rms(x, form.eps), build.constant(f"{name}_weight", width))
        bias = f"{name}_bias"
        return build.add(x, build.constant(bias, width)) if bias in biases else x

    def linear(x: int, name: str, columns: int) -> int:
        matrix, bias = build.constant(name, build.width(x), columns), f"{name}_bias"
        return build.linear(x, matrix, build.constant(bias, columns) if bias in biases else None)

    x = build.add(ROW, linear(MIXED, "attn_out", width))
    normed = norm(x, "norm2", norm2)
    up = linear(normed, "fc1", hidden)
    if activation == "swiglu":
        up = build.multiply(build.function("silu", linear(normed, "gate", hidden)), up)
    else:
        up = build.function(activation, up)
    x = build.add(x, linear(up, "fc2", width))
    linear(norm(x, "norm_f", norm_f), "unembed", vocab)
    return build.build()


@cache
def standard_head(program: HeadProgram) -> StandardHead | None:
    """What kind of standard head a program is; None if it is another."""
    return _Recogniser(program).found()


class _Recogniser:
    """Walks back from the logits; in which order a program computes what it needs does not matter."""

    def __init__(self, program: HeadProgram) -> None:
        self._program = program
        self._names: dict[str, str] = {}
        self._seen: set[int] = set()

    def found(self) -> StandardHead | None:
        try:
            head = self._head()
        except _OtherHead:
            return None
        return head if len(self._seen) == len(self._program.operations) else None

    def _head(self) -> StandardHead:
        normed = self._linear(len(self._program.operations) + 1, "unembed")
        x, norm_f = self._norm(normed, "norm_f")
        (first, branch), _ = self._operands(x, "add")
        if self._name(branch) != "linear" or self._name(first) != "add":
            first, branch = branch, first
        activated = self._linear(branch, "fc2")
        hidden = self._program.width(activated)
        activation, normed = self._activation(activated)
        source, norm2 = self._norm(normed, "norm2")
        if source != first:
            raise _OtherHead
        (row, mixed), _ = self._operands(first, "add")
        row, mixed = (row, mixed) if row == ROW else (mixed, row)
        if row != ROW or self._linear(mixed, "attn_out") != MIXED:
            raise _OtherHead
        if {"unembed_bias", "attn_out_bias", "gate_bias"} & set(self._names):
            raise _OtherHead
        ordered = tuple((role, self._names[role]) for role in ROLES if role in self._names)
        return StandardHead(
            norm2=norm2, norm_f=norm_f, activation=activation, hidden=hidden, names=ordered
        )

    def _activation(self, x: int) -> tuple[Activation, int]:
        """(kind, the value that the first maps read)."""
        name = self._name(x)
        if name in ("relu", "gelu"):
            (up, *_), _ = self._operands(x, name)
            return ("relu" if name == "relu" else "gelu"), self._linear(up, "fc1")
        (gate, up), _ = self._operands(x, "multiply")
        if self._name(gate) != "silu":
            gate, up = up, gate
        (gate, *_), _ = self._operands(gate, "silu")
        normed = self._linear(up, "fc1")
        if self._linear(gate, "gate") != normed:
            raise _OtherHead
        return "swiglu", normed

    def _name(self, x: Operand) -> str | None:
        return self._program.operations[x - 2].name if isinstance(x, int) and x >= 2 else None

    def _operands(self, x: Operand, name: str) -> tuple[tuple[Any, ...], Operation]:
        if not isinstance(x, int) or self._name(x) != name:
            raise _OtherHead
        self._seen.add(x)
        operation = self._program.operations[x - 2]
        return operation.operands, operation

    def _linear(self, x: Operand, role: str) -> Any:
        """The operand of a linear map, whose constants get their roles."""
        (source, *names), _ = self._operands(x, "linear")
        for name, of in zip(names, (role, f"{role}_bias"), strict=False):
            self._names[of] = name
        return source

    def _norm(self, x: Operand, role: str) -> tuple[Any, NormForm]:
        """(the value that is normed, how)."""
        if self._name(x) == "add" and isinstance(self._program.operations[int(x) - 2].operands[1], str):
            (x, bias), _ = self._operands(x, "add")
            self._names[f"{role}_bias"] = bias
            if self._name(x) != "multiply":
                raise _OtherHead
        if self._name(x) == "multiply":
            (x, weight), _ = self._operands(x, "multiply")
            if not isinstance(weight, str) or self._program.width(weight) != self._program.width(x):
                raise _OtherHead
            self._names[f"{role}_weight"] = weight
        elif self._name(x) != "rms":
            return x, NormForm(kind="none", eps=0.0)
        (source, *_), rms = self._operands(x, "rms")
        if self._name(source) != "centre":
            return source, NormForm(kind="rms", eps=rms.eps)
        (source, *_), _ = self._operands(source, "centre")
        return source, NormForm(kind="layer", eps=rms.eps)


class _OtherHead(Exception):
    """This program is no standard head."""
