"""Where the logits are in what a model returned: a tensor, or something that holds it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

Step = tuple[str, Any]
"""("item", index or key) or ("attribute", name)."""
_DEPTH = 4


def logits_place(result: Any, depth: int = _DEPTH) -> tuple[Step, ...] | None:
    """The way to what is called logits, or to the first tensor of real numbers; None if there is none.

    A single number is none (a loss).
    """
    if isinstance(result, Tensor):
        return () if result.is_floating_point() and result.ndim else None
    for step, part in _parts(result) if depth else ():
        rest = logits_place(part, depth - 1)
        if rest is not None:
            return (step, *rest)
    return None


def first_logits(result: Any) -> Tensor | None:
    """The tensor at ``logits_place``."""
    place = logits_place(result)
    if place is None:
        return None
    for step in place:
        result = _taken(result, step)
    return result


def with_logits(result: Any, place: tuple[Step, ...], new: Tensor) -> Any:
    """The same with another tensor at that place; what was returned is left as it is."""
    if not place:
        return new
    step, *rest = place
    kind, name = step
    part = with_logits(_taken(result, step), tuple(rest), new)
    if isinstance(result, (tuple, list)) and kind == "item":
        parts = [part if i == name else own for i, own in enumerate(result)]
        # A named tuple takes its fields one by one.
        return type(result)(*parts) if hasattr(result, "_fields") else type(result)(parts)
    changed = copy.copy(result)
    if kind == "item":
        changed[name] = part
    # Some mappings hold their items as attributes too.
    if kind == "attribute" or name in getattr(changed, "__dict__", {}):
        object.__setattr__(changed, name, part)
    return changed


def _taken(result: Any, step: Step) -> Any:
    kind, name = step
    return result[name] if kind == "item" else getattr(result, name)


def _parts(result: Any) -> Iterator[tuple[Step, Any]]:
    """What it holds, what is called logits first."""
    if isinstance(result, Mapping):
        named = [(("item", key), value) for key, value in result.items()]
    elif isinstance(result, (tuple, list)):
        names = getattr(result, "_fields", range(len(result)))
        parts = [(("item", i), value) for i, value in enumerate(result)]
        yield from (part for name, part in zip(names, parts, strict=True) if name == "logits")
        named = parts
    elif isinstance(result, nn.Module):
        return
    else:
        names = [*(["logits"] if hasattr(result, "logits") else []), *getattr(result, "__dict__", {})]
        named = [(("attribute", name), getattr(result, name)) for name in names]
    yield from (part for part in named if part[0][1] == "logits")
    yield from named
