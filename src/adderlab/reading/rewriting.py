"""Recorded operations that are others put together: sums with products, complex numbers.

A complex tensor becomes a real one with an axis more, of two, behind the others. It is how rotations are
often written; what comes of them are real numbers again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adderlab.errors import Failure
from adderlab.reading.nodes import Node, Ref

aten = torch.ops.aten

_WITH_SUM = {
    aten.addmm.default: aten.mm.default,
    aten.baddbmm.default: aten.bmm.default,
    aten.addmv.default: aten.mv.default,
}

_SUMS_OF_TWO = {
    aten.addcmul.default: aten.mul.Tensor,
    aten.addcdiv.default: aten.div.Tensor,
    aten.lerp.Tensor: aten.mul.Tensor,
    aten.lerp.Scalar: aten.mul.Scalar,
}


class Rewriting:
    """Nodes of a trace, rewritten one by one. New tensors get numbers after those that there are."""

    def __init__(self, shapes: dict[int, tuple[int, ...]], complex_ones: Collection[int]) -> None:
        self.nodes: list[Node] = []
        self._shapes, self._complex = shapes, set(complex_ones)

    def add(self, node: Node) -> None:
        """Raises ``Failure`` for an operation on complex numbers that is not known."""
        numbers = [ref.number for ref in (*node.inputs(), *node.outputs) if ref is not None]
        if self._complex.intersection(numbers):
            self._on_complex(node)
        elif node.function in _WITH_SUM:
            self._with_sum(node)
        elif node.function in _SUMS_OF_TWO:
            self._sum_of_two(node)
        else:
            self.nodes.append(node)

    def _put(self, function: Any, *args: Any, shape: Sequence[int], out: Ref | None = None) -> Ref:
        out = out or Ref(max(self._shapes) + 1)
        self._shapes[out.number] = tuple(shape)
        self.nodes.append(Node(function=function, args=args, kwargs={}, outputs=(out,), single=True))
        return out

    def _with_sum(self, node: Node) -> None:
        """beta * x + alpha * (a @ b)."""
        alpha, beta = node.named["alpha"], node.named["beta"]
        if node.operation == "addmm" and alpha == beta == 1:
            self.nodes.append(node)  # as it is known
            return
        x, a, b = node.args[:3]
        (out,) = node.outputs
        assert out is not None
        shape = self._shapes[out.number]
        scaled, added = alpha != 1, beta != 0
        y = self._put(_WITH_SUM[node.function], a, b, shape=shape, out=None if scaled or added else out)
        if scaled:
            y = self._put(aten.mul.Scalar, y, alpha, shape=shape, out=None if added else out)
        if added:
            x = x if beta == 1 else self._put(aten.mul.Scalar, x, beta, shape=self._shapes[x.number])
            self._put(aten.add.Tensor, x, y, shape=shape, out=out)

    def _sum_of_two(self, node: Node) -> None:
        """x + value * (a times or by b); x + weight * (y - x)."""
        (out,) = node.outputs
        assert out is not None
        x, a, b = (*node.args, *node.kwargs.values())[:3]
        if node.operation == "lerp":
            y = self._put(aten.sub.Tensor, a, x, shape=self._together(a, x))
            y = self._put(_SUMS_OF_TWO[node.function], y, b, shape=self._together(y, b))
        else:
            y = self._put(_SUMS_OF_TWO[node.function], a, b, shape=self._together(a, b))
            value = node.named["value"]
            if value != 1:
                y = self._put(aten.mul.Scalar, y, value, shape=self._shapes[y.number])
        self._put(aten.add.Tensor, x, y, shape=self._shapes[out.number], out=out)

    def _together(self, *operands: Any) -> tuple[int, ...]:
        shapes = [self._shapes[x.number] for x in operands if isinstance(x, Ref)]
        return tuple(np.broadcast_shapes(*shapes))

    # Complex numbers ------------------------------------------------------------------------------

    def _on_complex(self, node: Node) -> None:
        (out,) = node.outputs if len(node.outputs) == 1 else (None,)
        rule = _COMPLEX.get(node.operation)
        if rule is None or out is None:
            raise Failure(f"the operation {node.name} on complex numbers is not in the reading's table")
        rule(self, node, out)

    def _alias(self, node: Node, out: Ref) -> None:
        x = node.args[0]
        self._put(aten.alias.default, x, shape=self._shapes[x.number], out=out)

    def _pair(self, real: Ref, imaginary: Ref, out: Ref, shape: Sequence[int]) -> None:
        self._put(aten.stack.default, [real, imaginary], -1, shape=(*shape, 2), out=out)

    def _parts(self, x: Ref) -> tuple[Ref, Ref]:
        shape = self._shapes[x.number][:-1]
        return (
            self._put(aten.select.int, x, -1, 0, shape=shape),
            self._put(aten.select.int, x, -1, 1, shape=shape),
        )

    def _polar(self, node: Node, out: Ref) -> None:
        size, angle = node.args
        shape = self._shapes[out.number]
        parts = []
        for function in (aten.cos.default, aten.sin.default):
            turned = self._put(function, angle, shape=self._shapes[angle.number])
            parts.append(self._put(aten.mul.Tensor, turned, size, shape=shape))
        self._pair(parts[0], parts[1], out, shape)

    def _of_parts(self, node: Node, out: Ref) -> None:
        real, imaginary = node.args
        self._pair(real, imaginary, out, self._shapes[out.number])

    def _multiply(self, node: Node, out: Ref) -> None:
        x, y = node.args
        # Tensors with their second axis have it in the table of shapes; the result has not yet.
        shape = self._shapes[out.number]
        if not all(isinstance(z, Ref) and z.number in self._complex for z in (x, y)):
            if isinstance(x, Ref) and x.number not in self._complex:
                x, y = y, x
            if isinstance(y, complex):
                raise Failure(f"{node.name} by a complex number is not in the reading's table")
            if isinstance(y, Ref):
                y = self._put(aten.unsqueeze.default, y, -1, shape=(*self._shapes[y.number], 1))
            self._put(aten.mul.Tensor, x, y, shape=(*shape, 2), out=out)
            return
        (a, b), (c, d) = self._parts(x), self._parts(y)

        def times(u: Ref, v: Ref) -> Ref:
            return self._put(aten.mul.Tensor, u, v, shape=shape)

        real = self._put(aten.sub.Tensor, times(a, c), times(b, d), shape=shape)
        self._pair(real, self._put(aten.add.Tensor, times(a, d), times(b, c), shape=shape), out, shape)

    def _moved(self, node: Node, out: Ref) -> None:
        """The same move, the last axis staying where it is."""
        x, *rest = node.args
        dims = len(self._shapes[x.number]) - 1
        name = node.operation
        if name in ("view", "_unsafe_view", "expand"):
            rest[0] = [*rest[0], 2]
        elif name in ("slice", "select", "unsqueeze"):
            axes = dims + 1 if name == "unsqueeze" else dims
            rest = [(rest[0] if rest else 0) % axes, *rest[1:]]
        elif name == "transpose":
            rest = [each % dims for each in rest]
        elif name == "permute":
            rest[0] = [*(each % dims for each in rest[0]), dims]
        self._put(node.function, x, *rest, shape=(*self._shapes[out.number], 2), out=out)


_COMPLEX: dict[str, Callable[[Rewriting, Node, Ref], None]] = {
    "view_as_complex": Rewriting._alias,
    "view_as_real": Rewriting._alias,
    "polar": Rewriting._polar,
    "complex": Rewriting._of_parts,
    "mul": Rewriting._multiply,
    **dict.fromkeys(
        (
            "view", "_unsafe_view", "expand", "slice", "select", "unsqueeze", "transpose", "permute",
            "clone", "alias", "detach",
        ),
        Rewriting._moved,
    ),
}  # fmt: skip


def as_pair(tensor: Tensor) -> Tensor:
    """A complex constant as a real one."""
    return torch.view_as_real(tensor.resolve_conj()).clone()
