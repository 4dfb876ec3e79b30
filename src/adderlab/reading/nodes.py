"""One operation of a trace, and the tensors that it takes and makes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch.utils._pytree import tree_flatten


@dataclass(frozen=True)
class Ref:
    """A tensor of the trace, by its number."""

    number: int


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operation: arguments as it got them, tensors replaced by references."""

    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Ref | None, ...]
    """One for each tensor that it returned; None where it returned something else."""
    single: bool
    """Whether it returned one tensor and no sequence of them."""

    @property
    def name(self) -> str:
        """As PyTorch prints it, without the overload: ``aten.softmax``."""
        return ".".join(str(self.function).split(".")[:2])

    @property
    def operation(self) -> str:
        """Its name among PyTorch's own operations, ``softmax``; of others the whole name."""
        return self.name.removeprefix("aten.")

    @cached_property
    def named(self) -> dict[str, Any]:
        """Every argument by its name in the operation's schema, defaults included."""
        schema = self.function._schema
        given = {argument.name: x for argument, x in zip(schema.arguments, self.args, strict=False)}
        defaults = {argument.name: argument.default_value for argument in schema.arguments}
        return {**defaults, **given, **self.kwargs}

    @property
    def writes(self) -> bool:
        """Whether it changes a tensor that was there before the call: the model's own state."""
        return self.function._schema.is_mutable

    def inputs(self) -> list[Ref]:
        """Every tensor it took, in order."""
        return [leaf for leaf in tree_flatten((self.args, self.kwargs))[0] if isinstance(leaf, Ref)]
