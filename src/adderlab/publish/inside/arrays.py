"""Tensors, arrays and lists of numbers alike, whichever library a stranger's model uses.

A library that the file did not import is not imported here either: nothing can be an array of it.
"""

from __future__ import annotations

import sys
from typing import Any


def library(value: Any) -> str | None:
    """The library whose array this is: "torch", "numpy" or "mlx"; None for anything else."""
    for name, module, kind in (
        ("torch", "torch", "Tensor"),
        ("numpy", "numpy", "ndarray"),
        ("mlx", "mlx.core", "array"),
    ):
        found = sys.modules.get(module)
        if found is not None and isinstance(value, getattr(found, kind)):
            return name
    return None


def is_floating(array: Any) -> bool:
    """Whether an array holds floating-point (or complex) numbers."""
    return _kind(array) == "float"


def is_whole(array: Any) -> bool:
    """Whether an array holds whole numbers; truth values are none."""
    return _kind(array) == "whole"


def _kind(array: Any) -> str:
    which = library(array)
    if which == "torch":
        if array.is_floating_point() or array.is_complex():
            return "float"
        return "other" if str(array.dtype) == "torch.bool" else "whole"
    if which == "mlx":
        name = str(array.dtype)
        return (
            "float" if "float" in name or "complex" in name else "other" if "bool" in name else "whole"
        )
    return {"f": "float", "c": "float", "i": "whole", "u": "whole"}.get(array.dtype.kind, "other")


def dtype_name(array: Any) -> str:
    """The number format, without the library's name."""
    return str(array.dtype).rpartition(".")[2]


def to_numpy(array: Any) -> Any:
    """A numpy array of the same numbers; formats that numpy lacks become float32."""
    import numpy

    if library(array) == "torch":
        array = array.detach()
        if str(array.dtype) in ("torch.bfloat16",) or "float8" in str(array.dtype):
            array = array.float()
        return array.cpu().numpy()
    if library(array) == "mlx" and str(array.dtype) == "mlx.core.bfloat16":
        array = array.astype(sys.modules["mlx.core"].float32)
    return numpy.array(array)


def like(which: str, dtype: str, values: Any) -> Any:
    """An array of the named library and number format with the numbers of a numpy array."""
    if which == "torch":
        torch = sys.modules["torch"]
        return torch.from_numpy(values).to(getattr(torch, dtype))
    if which == "mlx":
        mlx = sys.modules["mlx.core"]
        return mlx.array(values).astype(getattr(mlx, dtype))
    return values.astype(dtype)


def first(value: Any, *, floating: bool) -> Any:
    """The first array in (nested tuples, lists and dicts of) ``value`` with floating-point numbers, or
    with whole ones; a nested list of plain numbers counts as one. None without."""
    if library(value) is not None:
        return value if (is_floating if floating else is_whole)(value) else None
    if isinstance(value, (tuple, list)) and _is_numbers(value, float if floating else int):
        return value
    if isinstance(value, dict):
        value = list(value.values())
    elif hasattr(value, "logits"):
        value = [value.logits]
    if isinstance(value, (tuple, list)):
        for part in value:
            found = first(part, floating=floating)
            if found is not None:
                return found
    return None


def _is_numbers(value: Any, kind: type) -> bool:
    """A list of numbers of this kind, or of such lists."""
    while isinstance(value, (tuple, list)) and value and isinstance(value[0], (tuple, list)):
        value = value[0]
    return isinstance(value, (tuple, list)) and bool(value) and all(type(n) is kind for n in value)


def size(value: Any) -> int:
    """How many numbers an array or a nested list holds."""
    if isinstance(value, (tuple, list)):
        return sum(map(size, value))
    which = library(value)
    return 1 if which is None else int(value.numel() if which == "torch" else value.size)


def listed(value: Any) -> Any:
    """Nested lists of plain numbers."""
    return value if isinstance(value, (tuple, list)) else value.tolist()


def last_row(value: Any) -> Any:
    """The last row of the last axis as a numpy array: what a model says of the next token."""
    import numpy

    if isinstance(value, (tuple, list)):
        while isinstance(value[-1], (tuple, list)):
            value = value[-1]
        return numpy.array(value, dtype=float)
    values = to_numpy(value)
    return values.reshape(-1, values.shape[-1])[-1]


def certain(value: Any, token: int) -> Any:
    """An answer of the same form that is sure of one token everywhere."""
    if isinstance(value, (tuple, list)):
        if value and isinstance(value[0], (tuple, list)):
            return type(value)(certain(part, token) for part in value)
        return type(value)(1e4 if i == token else 0.0 for i in range(len(value)))
    import numpy

    chosen = numpy.zeros(tuple(value.shape), dtype=numpy.float32)
    chosen[..., token] = 1e4
    return like(library(value) or "numpy", dtype_name(value), chosen)
