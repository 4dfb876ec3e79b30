"""Numbers written in the text of a stranger's file, counted before any of its code runs."""

from __future__ import annotations

import ast
import re
from typing import Any

_NUMBER = re.compile(r"[-+]?(0x[0-9a-f]*\.?[0-9a-f]+p[-+]?\d+|\d*\.\d+(e[-+]?\d+)?|\d+e[-+]?\d+)", re.I)
_PACKED = re.compile(r"[A-Za-z0-9+/=_-]{64,}")
_TABLE = 4
"""Floats in one list or text from which on they are a table of data, not constants of the code."""


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
