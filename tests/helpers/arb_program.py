"""A head program in arb, one input at a time: the slow reference of the checker's intervals."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flint import arb

from adderlab.models.head_program import HeadProgram


def _sigmoid(x: arb) -> arb:
    return 1 / (1 + (-x).exp())


def _gelu_tanh(x: arb) -> arb:
    inner = (2 / arb.pi()).sqrt() * (x + arb("0.044715") * x * x * x)
    return x * (1 + inner.tanh()) / 2


FUNCTIONS: dict[str, Callable[[arb], arb]] = {
    "negate": lambda x: -x,
    "abs": abs,
    "square": lambda x: x * x,
    "sqrt": lambda x: x.sqrt(),
    "rsqrt": lambda x: 1 / x.sqrt(),
    "reciprocal": lambda x: 1 / x,
    "exp": lambda x: x.exp(),
    "relu": lambda x: x.max(arb(0)),
    "gelu": lambda x: x * (1 + (x / arb(2).sqrt()).erf()) / 2,
    "gelu_tanh": _gelu_tanh,
    "silu": lambda x: x * _sigmoid(x),
    "sigmoid": _sigmoid,
    "tanh": lambda x: x.tanh(),
    "softplus": lambda x: (1 + x.exp()).log(),
}
PAIRWISE: dict[str, Callable[[arb, arb], arb]] = {
    "add": lambda x, y: x + y,
    "subtract": lambda x, y: x - y,
    "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / y,
    "minimum": lambda x, y: x.min(y),
    "maximum": lambda x, y: x.max(y),
}


def logits(
    program: HeadProgram, constants: Mapping[str, np.ndarray], mixed: np.ndarray, row: np.ndarray
) -> list[arb]:
    """Of one input, in the precision of ``flint.ctx``."""
    values = [[arb(float(x)) for x in part] for part in (mixed, row)]

    def operand(x: Any) -> list[arb]:
        return [arb(float(c)) for c in constants[x]] if isinstance(x, str) else values[x]

    for operation in program.operations:
        name, operands = operation.name, operation.operands
        x = operand(operands[0])
        size = arb(len(x))
        if name in PAIRWISE:
            both = [operand(each) for each in operands]
            x, y = (each * operation.width if len(each) == 1 else each for each in both)
            found = [PAIRWISE[name](a, b) for a, b in zip(x, y, strict=True)]
        elif name in FUNCTIONS:
            found = [FUNCTIONS[name](each) for each in x]
        elif name == "linear":
            matrix = constants[str(operands[1])]
            found = [
                sum((a * arb(float(w)) for a, w in zip(x, column, strict=True)), arb(0))
                for column in matrix.T
            ]
            if len(operands) == 3:
                found = [a + b for a, b in zip(found, operand(operands[2]), strict=True)]
        elif name == "centre":
            mean = sum(x, arb(0)) / size
            found = [each - mean for each in x]
        elif name == "rms":
            mean = sum((each * each for each in x), arb(0)) / size
            found = [each / (mean + arb(operation.eps)).sqrt() for each in x]
        elif name in ("mean", "sum"):
            found = [sum(x, arb(0)) / (size if name == "mean" else 1)]
        elif name == "clamp":
            found = x
            if operation.low is not None:
                found = [each.max(arb(operation.low)) for each in found]
            if operation.high is not None:
                found = [each.min(arb(operation.high)) for each in found]
        elif name == "take":
            found = [x[index] for index in operation.indices]
        else:
            assert name == "concat", name
            found = [each for part in operands for each in operand(part)]
        values.append(found)
    return values[-1]
