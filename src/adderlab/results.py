"""What every result of the public API offers, besides its own fields.

``to_dict`` gives plain JSON values (a row for pandas or polars), ``describe`` lines for people, and a
notebook shows those lines or a table. Standard library only, so that every package may use it.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any


class Result:
    """Base of the frozen dataclasses that public functions return."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        raise NotImplementedError

    def describe(self) -> list[str]:
        """The result for people, line by line."""
        raise NotImplementedError

    def __repr__(self) -> str:
        # A dataclass with repr=False has this one: its fields would fill the screen.
        return "\n".join(self.describe())

    def _repr_html_(self) -> str:
        return html_lines(self.describe())


def html_lines(lines: Iterable[str]) -> str:
    """Lines of text, the first in bold, as a notebook shows them."""
    first, *rest = map(escape, lines)
    return "<br>".join([f"<b>{first}</b>", *rest])


def html_table(rows: Sequence[Mapping[str, Any]], caption: str = "") -> str:
    """Rows with the same keys as an HTML table; numbers stand to the right."""
    if not rows:
        return f"<i>{escape(caption or 'nothing')}</i>"
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    body = "".join(f"<tr>{''.join(map(_cell, row.values()))}</tr>" for row in rows)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def text_table(rows: Sequence[Mapping[str, Any]], width: int | None = None) -> list[str]:
    """Rows with the same keys as aligned lines, a head in front; numbers stand to the right.

    What is wider than ``width`` becomes records, a line for each cell. ``width``: by default that of the
    terminal; without a limit where the output goes elsewhere.
    """
    if not rows:
        return []
    lines = _aligned(rows)
    if width is None and sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
    return lines if width is None or max(map(len, lines)) <= width else _records(rows)


def _records(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The first cell of a row, and below it the others by name; empty ones are left out."""
    first, *names = rows[0]
    longest = max(map(len, names), default=0)
    lines = []
    for row in rows:
        lines.append(f"{first} {_text(row[first])}".strip())
        shown = [(name, _text(row[name])) for name in names]
        lines += [f"  {name.ljust(longest)}  {text}".rstrip() for name, text in shown if text]
    return lines


def _aligned(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = list(rows[0])
    cells = [names, *([_text(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    right = [all(_is_figure(row[name]) for row in rows) for name in names]
    return [
        "  ".join(
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in cells
    ]


def _is_figure(value: Any) -> bool:
    """A number, a percentage, or nothing."""
    if isinstance(value, bool):
        return False
    if isinstance(value, str):
        return value in ("", "-") or value.removesuffix("%").replace(".", "", 1).isdigit()
    return value is None or isinstance(value, int | float)


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _cell(value: Any) -> str:
    text = _text(value)
    style = ' style="text-align:right"' if text and _is_figure(value) else ""
    return f"<td{style}>{escape(text)}</td>"
