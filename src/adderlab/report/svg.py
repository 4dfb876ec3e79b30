"""Small drawings as inline SVG: axes, lines, bands, dots, grids of cells. No library, no script.

Colours are CSS classes and variables, so that one drawing serves a light and a dark page.
Coordinates given to a ``Plot`` are data; it maps them to pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape

from adderlab.format import tick
from adderlab.report.html import tag

Point = tuple[float, float]


def text(x: float, y: float, content: str, **attributes: object) -> str:
    return tag("text", escape(content), x=float(x), y=float(y), **attributes)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About ``count`` round numbers from ``low`` to ``high``."""
    span = high - low
    assert span > 0
    raw = span / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


@dataclass(kw_only=True)
class Plot:
    """A drawing area with axes. ``log_y``: y is shown on a logarithmic scale."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: int = 640
    height: int = 300
    left: int = 58
    right: int = 16
    top: int = 14
    bottom: int = 44
    log_y: bool = False
    parts: list[str] = field(default_factory=list)

    def px(self, x: float) -> float:
        low, high = self.x
        return self.left + (x - low) / (high - low) * (self.width - self.left - self.right)

    def py(self, y: float) -> float:
        low, high = self.y
        if self.log_y:
            y, low, high = (math.log10(v) for v in (max(y, low), low, high))
        share = min(1.0, max(0.0, (y - low) / (high - low)))
        return self.height - self.bottom - share * (self.height - self.top - self.bottom)

    def axes(
        self,
        *,
        x_label: str,
        y_label: str,
        x_text: Callable[[float], str] = tick,
        y_text: Callable[[float], str] = lambda v: f"{v:g}",
        x_ticks: Sequence[float] | None = None,
        y_ticks: Sequence[float] | None = None,
    ) -> None:
        """Grid lines, numbers, labels."""
        bottom, right = self.height - self.bottom, self.width - self.right
        if y_ticks is None:
            y_ticks = self._decades() if self.log_y else ticks(*self.y)
        for y in y_ticks:
            self.parts.append(
                tag("line", class_="grid", x1=self.left, x2=right, y1=self.py(y), y2=self.py(y))
            )
            self.parts.append(
                text(self.left - 8, self.py(y) + 4, y_text(y), class_="num", text_anchor="end")
            )
        for x in ticks(*self.x, 6) if x_ticks is None else x_ticks:
            self.parts.append(
                tag("line", class_="tick", x1=self.px(x), x2=self.px(x), y1=bottom, y2=bottom + 4)
            )
            self.parts.append(
                text(self.px(x), bottom + 18, x_text(x), class_="num", text_anchor="middle")
            )
        self.parts.append(tag("line", class_="axis", x1=self.left, x2=right, y1=bottom, y2=bottom))
        middle = (self.left + right) / 2
        self.parts.append(text(middle, self.height - 8, x_label, class_="label", text_anchor="middle"))
        self.parts.append(
            text(
                0,
                0,
                y_label,
                class_="label",
                text_anchor="middle",
                transform=f"translate(14 {(self.top + bottom) / 2:.0f}) rotate(-90)",
            )
        )

    def _decades(self) -> list[float]:
        low, high = (math.log10(v) for v in self.y)
        return [10.0**k for k in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)]

    def line(self, points: Iterable[Point], class_: str, title: str | None = None) -> None:
        """A line through the points; gaps where y is not a number."""
        pieces, gap = [], True
        for x, y in points:
            if math.isfinite(y):
                pieces.append(f"{'M' if gap else 'L'}{self.px(x):.1f} {self.py(y):.1f}")
                gap = False
            else:
                gap = True
        if pieces:
            titles = [tag("title", escape(title))] if title else []
            self.parts.append(tag("path", *titles, class_=class_, d="".join(pieces), fill="none"))

    def band(self, points: Iterable[tuple[float, float, float]], class_: str) -> None:
        """The area between low and high over x."""
        known = [p for p in points if math.isfinite(p[1]) and math.isfinite(p[2])]
        if not known:
            return
        there = [f"{self.px(x):.1f},{self.py(low):.1f}" for x, low, _ in known]
        back = [f"{self.px(x):.1f},{self.py(high):.1f}" for x, _, high in reversed(known)]
        self.parts.append(tag("polygon", class_=class_, points=" ".join([*there, *back])))

    def dot(self, x: float, y: float, class_: str, radius: float = 4.0, title: str = "") -> None:
        titles = [tag("title", escape(title))] if title else []
        self.parts.append(
            tag("circle", *titles, class_=class_, cx=self.px(x), cy=self.py(y), r=float(radius))
        )

    def note(self, x: float, y: float, content: str, **attributes: object) -> None:
        """Text at a point of the data."""
        attributes = {"class_": "num", "text_anchor": "start"} | attributes
        self.parts.append(text(self.px(x), self.py(y), content, **attributes))

    def svg(self, description: str) -> str:
        return drawing(self.width, self.height, self.parts, description)


def drawing(width: int, height: int, parts: Iterable[str], description: str) -> str:
    """An SVG that scales with the page; ``description`` is read to those who do not see it."""
    return tag(
        "svg",
        *parts,
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=description,
        style=f"max-width:{width}px;min-width:{min(width, 560)}px",
    )


def cells(
    share_RC: Sequence[Sequence[float]],
    *,
    row_names: Sequence[str],
    column_names: Sequence[str],
    titles: Callable[[int, int], str],
    x_label: str = "",
    y_label: str = "",
    cell: tuple[float, float] = (20.0, 20.0),
    left: int = 58,
    description: str,
    class_: str = "cell",
) -> str:
    """A grid of cells, opaque at 1 and clear at 0. Empty names are not written.

    ``titles(row, column)`` is shown when the pointer rests on a cell.
    """
    wide, high = cell
    rows, columns = len(share_RC), len(share_RC[0])
    top, bottom, right = 8, 44 if x_label else 26, 16
    width = math.ceil(left + columns * wide + right)
    height = math.ceil(top + rows * high + bottom)
    parts = [
        tag("rect", class_="frame", x=left, y=top, width=columns * wide, height=rows * high),
    ]
    for r, row in enumerate(share_RC):
        parts.append(
            text(left - 8, top + (r + 0.5) * high + 4, row_names[r], class_="num", text_anchor="end")
        )
        for c, share in enumerate(row):
            if share > 0.004:
                parts.append(
                    tag(
                        "rect",
                        tag("title", escape(titles(r, c))),
                        class_=class_,
                        x=left + c * wide,
                        y=top + r * high,
                        width=wide,
                        height=high,
                        fill_opacity=round(min(1.0, share), 3),
                    )
                )
    for c, name in enumerate(column_names):
        if name:
            x = left + (c + 0.5) * wide
            parts.append(text(x, top + rows * high + 15, name, class_="num", text_anchor="middle"))
    if x_label:
        middle = left + columns * wide / 2
        parts.append(text(middle, height - 8, x_label, class_="label", text_anchor="middle"))
    if y_label:
        turn = f"translate(12 {top + rows * high / 2:.0f}) rotate(-90)"
        parts.append(text(0, 0, y_label, class_="label", text_anchor="middle", transform=turn))
    return drawing(width, height, parts, description)
