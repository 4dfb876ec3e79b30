"""What can be seen of a stranger's file: the calls of its model, what it holds, numbers in its text."""

from __future__ import annotations

import ast
import re
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

_NUMBER = re.compile(r"[-+]?(0x[0-9a-f]*\.?[0-9a-f]+p[-+]?\d+|\d*\.\d+(e[-+]?\d+)?|\d+e[-+]?\d+)", re.I)
_PACKED = re.compile(r"[A-Za-z0-9+/=_-]{64,}")
_TABLE = 4
"""Floats in one list or text from which on they are a table of data, not constants of the code."""


class Watch:
    """Sees the outermost calls of the model's modules, and can replace what they answer."""

    def __init__(self, modules: list[tuple[str, Any]]) -> None:
        self._modules = modules
        self._depth = 0
        self._before: list[tuple[Any, Any]] = []
        self.calls: list[dict[str, Any]] = []
        self.forced: list[int | None] | None = None
        self.replaced = 0

    def __enter__(self) -> Watch:
        for name, module in self._modules:
            table = vars(module)
            self._before.append((table, table.get("forward")))
            table["forward"] = self._wrap(name, module.forward)
        return self

    def __exit__(self, *_: object) -> None:
        for table, forward in self._before:
            del table["forward"]
            if forward is not None:
                table["forward"] = forward

    def _wrap(self, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **named: Any) -> Any:
            self._depth += 1
            try:
                output = forward(*arguments, **named)
            finally:
                self._depth -= 1
            return output if self._depth else self._note(name, arguments, named, output)

        return watched

    def _note(self, name: str, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> Any:
        tokens = first_tensor((arguments, list(named.values())), floating=False)
        logits = first_tensor(output, floating=True)
        call: dict[str, Any] = {"module": name, "plain": len(arguments) == 1 and not named}
        if tokens is not None and tokens.numel() <= 400:
            call["tokens"], call["dtype"] = tokens.tolist(), str(tokens.dtype).removeprefix("torch.")
        if logits is not None and logits.ndim:
            call["next"] = int(logits.reshape(-1, logits.shape[-1])[-1].argmax())
        if len(self.calls) < 400:
            self.calls.append(call)
        if self.forced is None:
            return output
        token = self.forced.pop(0) if self.forced else None
        if token is None or logits is None or not 0 <= token < logits.shape[-1]:
            return output
        chosen = logits.detach() * 0
        chosen[..., token] = 1e4
        self.replaced += 1
        return _exchange(output, logits, chosen)


def _exchange(output: Any, old: Any, new: Any) -> Any:
    if output is old:
        return new
    if isinstance(output, (tuple, list)):
        return type(output)(_exchange(part, old, new) for part in output)
    return output


def first_tensor(value: Any, *, floating: bool) -> Any:
    """The first tensor in (nested tuples and lists of) ``value`` of that kind; None without."""
    import torch

    if isinstance(value, torch.Tensor):
        return value if value.is_floating_point() == floating and value.dtype != torch.bool else None
    if isinstance(value, (tuple, list)):
        for part in value:
            found = first_tensor(part, floating=floating)
            if found is not None:
                return found
    return None


def is_real(tensor: Any) -> bool:
    return tensor.layout == sys.modules["torch"].strided and tensor.is_floating_point()


def walk(thing: Any, name: str, depth: int, torch: Any) -> Iterator[tuple[str, Any]]:
    """``thing`` and what can be reached from it, outermost first, a few steps deep."""
    seen: set[int] = set()
    level = [(name, thing)]
    for _ in range(depth):
        following: list[tuple[str, Any]] = []
        for label, item in level:
            if id(item) in seen or len(seen) > 100_000:
                continue
            seen.add(id(item))
            yield label, item
            following += _parts(label, item, torch)
        level = following


def _parts(label: str, item: Any, torch: Any) -> list[tuple[str, Any]]:
    if isinstance(item, (torch.Tensor, types.ModuleType)):
        return []
    if isinstance(item, dict):
        parts = list(item.items())
    elif isinstance(item, (list, tuple, set)):
        parts = list(enumerate(item)) if len(item) < 10_000 else []
    elif isinstance(item, types.FunctionType):
        cells = [cell.cell_contents for cell in item.__closure__ or () if _filled(cell)]
        parts = list(enumerate([*cells, *(item.__defaults__ or ())]))
    elif isinstance(item, torch.nn.Module):
        state = vars(item)
        tables = ("_modules", "_parameters", "_buffers")
        parts = [pair for table in tables for pair in state.get(table, {}).items()]
        parts += [pair for pair in state.items() if pair[0] not in tables]
    elif hasattr(item, "__dict__") and not isinstance(item, type):
        parts = list(vars(item).items())
    else:
        return []
    prefix = f"{label}." if label else ""
    simple = (str, bytes, int, float, complex, bool, type(None))
    return [(f"{prefix}{key}", part) for key, part in parts if not isinstance(part, simple)]


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def count_literals(text: str) -> dict[str, Any]:
    """Numbers written in a Python file; whole ones are structure and do not count.

    ``in_code``: floats among the code, ``in_tables``: how many floats in lists, tuples and texts
    of at least four, ``packed``: characters of long texts without spaces.

    Raises what ``ast.parse`` raises.
    """
    tree = ast.parse(text)
    in_code: list[float] = []
    in_tables = packed = 0
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.List, ast.Tuple, ast.Set, ast.Dict)) and id(node) not in inside:
            floats = [each for each in ast.walk(node) if _is_float(each)]
            if len(floats) >= _TABLE:
                in_tables += len(floats)
                inside |= {id(each) for each in ast.walk(node) if not isinstance(each, ast.Constant)}
                inside |= {id(each) for each in floats}
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or id(node) in inside | prose:
            continue
        if isinstance(node.value, float):
            in_code.append(node.value)
        elif isinstance(node.value, (str, bytes)):
            text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
            in_tables += _numbers_in(text)
            packed += sum(len(run) for run in _PACKED.findall(text))
    return {"in_code": in_code, "in_tables": in_tables, "packed": packed}


def _numbers_in(text: str) -> int:
    """Floats in a text of nothing but numbers, or of at least four."""
    words = [word for word in re.split(r"[\s,;\[\]()]+", text) if word]
    numbers = sum(1 for word in words if _NUMBER.fullmatch(word))
    return numbers if numbers == len(words) or numbers >= _TABLE else 0


def _is_float(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, float)
