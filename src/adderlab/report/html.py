"""The elements of the report's page, its drawings as inline SVG, and its style sheet.

Everything is text that is escaped here, except where a docstring says HTML. Drawings are axes, lines,
bands, dots, grids of cells: no library; ``report.js`` reads values off them. Their colours are CSS
classes and variables, so that one drawing serves a light and a dark page. Coordinates given to a
``Plot`` are data; it maps them to pixels.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from adderlab.errors import UsageError
from adderlab.files.atomic import disk_failure
from adderlab.format import tick


def tag(name: str, *children: str, **attributes: object) -> str:
    """An element. Attribute names: ``class_`` is class, other underscores become hyphens."""
    pairs = (
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value), quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{''.join(pairs)}>{''.join(children)}</{name}>"


def _number(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def paragraph(content: str, **attributes: object) -> str:
    return tag("p", escape(content), **attributes)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[int] = ()) -> str:
    """Cells are text; ``numeric`` columns are set to the right. On a phone the rows of a table of many
    columns stand as records, each cell with its column's name."""
    many = len(head) > 4

    def line(kind: str, row: Sequence[str]) -> str:
        cells = (
            tag(
                kind,
                escape(content),
                class_="n" if k in numeric else None,
                data_label=head[k] if many and kind == "td" else None,
            )
            for k, content in enumerate(row)
        )
        return tag("tr", *cells)

    header = tag("thead", line("th", head)) if head else ""
    return tag(
        "div",
        tag("table", header, tag("tbody", *(line("td", row) for row in rows))),
        class_="scroll records" if many else "scroll",
    )


def figure(title: str, drawing: str, caption: str, *, wide: bool = False) -> str:
    """``caption`` is HTML."""
    return tag(
        "figure",
        tag("h3", escape(title)),
        drawing,
        tag("figcaption", caption),
        class_="wide" if wide else None,
    )


def key(kind: str, label: str) -> str:
    """An entry of a legend; ``kind`` is a colour of the style sheet."""
    return tag("span", tag("span", class_=f"key k-{kind}"), escape(label), class_="entry")


def tile(ask: str, answer: str, more: str, mood: str) -> str:
    """A short question with its answer in large type; ``mood``: yes, no or open."""
    return tag(
        "div",
        tag("div", escape(ask), class_="ask"),
        tag("div", escape(answer), class_=f"answer {mood}"),
        tag("div", escape(more), class_="more"),
        class_="tile",
    )


def page(title: str, body: str, *, kind: str = "report", style: str = "") -> str:
    """A whole file around ``body`` (HTML); it fetches nothing. ``kind``: what writes it; ``style``: its
    rules besides those of every page."""
    head = (
        f'<meta charset="utf-8"><meta name="generator" content="{GENERATOR} {kind}">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style>"
    )
    body = f"<head>{head}</head>\n<body><main>\n{body}\n</main></body>"
    return f'<!DOCTYPE html>\n<html lang="en">{body}</html>\n'


def code(*names: str) -> str:
    """Scripts or styles that lie beside this module, one after the other."""
    return "".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in names)


GENERATOR = "adderlab"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""What the browser lets a page do: draw and run what is in it, and fetch nothing."""


def refuse_foreign(output: Path) -> None:
    """Raises ``UsageError`` if the file exists and is no page of ours: it is the user's own."""
    if not output.is_file():
        return
    try:
        with output.open(encoding="utf-8", errors="replace") as file:
            beginning = file.read(2000)
    except OSError as error:
        raise disk_failure(error, output, "read") from error
    # Reports of version 0.2 name their program in the title alone.
    ours = (f'name="generator" content="{GENERATOR} ', "adderlab report</title>")
    if beginning.strip() and not any(mark in beginning for mark in ours):
        raise UsageError(
            f"{output} was not written by adderlab and is left as it is; name another file with -o"
        )


STYLE = """
:root {
  --page: #ffffff; --panel: #f6f7f9; --ink: #1b1f24; --muted: #57606a; --line: #d5dae0;
  --accent: #1f5fd0; --warm: #b4430c; --good: #17723b; --bad: #b3261e; --second: #7a3fb0;
  --seed: rgba(87, 96, 106, 0.35); --band: rgba(31, 95, 208, 0.16);
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --panel: #1c2026; --ink: #e8eaed; --muted: #a3acb6; --line: #39414a;
    --accent: #7ab0ff; --warm: #ffa266; --good: #6fd695; --bad: #ff8a80; --second: #cf9bff;
    --seed: rgba(163, 172, 182, 0.35); --band: rgba(122, 176, 255, 0.20);
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif; }
main { max-width: 1400px; margin: 0 auto; padding: 24px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 4px; }
h2 { font-size: 22px; margin: 40px 0 8px; padding-top: 16px; border-top: 2px solid var(--line); }
h3 { font-size: 16px; margin: 0 0 4px; }
p { margin: 6px 0; max-width: 75em; overflow-wrap: anywhere; }
.lead { font-size: 18px; }
.muted, figcaption { color: var(--muted); font-size: 14px; }
.tiles { display: grid; gap: 12px; margin: 16px 0;
  grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); }
.tile { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; 
  padding: 12px 16px; }
.tile .ask { color: var(--muted); font-size: 14px; }
.tile .answer { font-size: 26px; font-weight: 650; line-height: 1.25; }
.tile .more { font-size: 14px; overflow-wrap: anywhere; }
.yes { color: var(--good); } .no { color: var(--bad); } .open { color: var(--warm); }
.figures { display: grid; gap: 16px; margin: 16px 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 560px), 1fr)); }
figure { margin: 0; background: var(--panel); border: 1px solid var(--line); border-radius: 8px;
  padding: 14px 16px; overflow-x: auto; min-width: 0; }
figure.wide { grid-column: 1 / -1; } [data-inside] > figure { margin-top: 12px; }
figcaption { margin-top: 4px; }
svg { display: block; width: 100%; height: auto; margin: 0 auto; }
.tip { display: none; position: fixed; z-index: 3; background: var(--ink); color: var(--page);
  padding: 2px 8px; border-radius: 4px; font-size: 14px; pointer-events: none; max-width: 92vw; }
.mark { fill: none; stroke: var(--ink); stroke-width: 2; }
select { font: inherit; color: inherit; background: var(--page); border: 1px solid var(--muted);
  border-radius: 6px; padding: 6px 8px; max-width: 100%; }
.film { display: flex; gap: 10px; align-items: center; max-width: 640px; }
.film input { flex: 1; min-width: 0; accent-color: var(--accent); }
.film button { font: inherit; color: inherit; background: var(--page); border: 1px solid var(--muted);
  border-radius: 6px; padding: 6px 12px; cursor: pointer; }
svg text { fill: var(--ink);
  font: 12px system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif; }
svg text.num { fill: var(--muted); }
svg text.strong { font-weight: 650; }
.grid { stroke: var(--line); stroke-width: 1; }
.axis, .tick { stroke: var(--muted); stroke-width: 1; }
.zero { stroke: var(--bad); stroke-width: 1.5; stroke-dasharray: 5 4; }
.seed { stroke: var(--seed); stroke-width: 1; }
.seed.chosen { stroke: var(--warm); stroke-width: 2.5; }
.median { stroke: var(--ink); stroke-width: 2; stroke-dasharray: 6 4; }
.best { stroke: var(--accent); stroke-width: 2.5; }
.train { stroke: var(--warm); } .median.val { stroke: var(--accent); }
.band { fill: var(--band); stroke: none; }
.best-dot { fill: var(--accent); } .worst-dot { fill: var(--bad); } .dot { fill: var(--muted); }
.dot.a { fill: var(--accent); } .dot.b { fill: var(--warm); } .dot.s { fill: var(--second); }
.join { stroke: var(--line); stroke-width: 1.5; }
.join.a { stroke: var(--accent); opacity: .5; } .join.b { stroke: var(--warm); opacity: .5; }
.join.s { stroke: var(--second); opacity: .5; }
.whisker { stroke: var(--muted); stroke-width: 1.5; }
.box { stroke: var(--accent); stroke-width: 7; opacity: .45; }
.bound { stroke: var(--good); stroke-width: 3; }
.frame { fill: var(--page); stroke: var(--line); }
.cell { fill: var(--accent); shape-rendering: crispEdges; }
.entry { white-space: nowrap; }
.key { display: inline-block; width: 22px; height: 0; margin: 0 5px 4px 12px; border-top: 2.5px solid; }
.key.k-best { border-color: var(--accent); }
.key.k-median { border-color: var(--ink); border-top-style: dashed; }
.key.k-seed { border-color: var(--seed); border-top-width: 1.5px; }
.key.k-band { height: 10px; border: 0; background: var(--band); margin-bottom: 0; }
.key.k-bound { border-color: var(--good); border-top-width: 3px; }
.key.k-train { border-color: var(--warm); }
.key.k-a { border-color: var(--accent); } .key.k-b { border-color: var(--warm); }
.key.k-s { border-color: var(--second); }
.ramp { display: inline-block; width: 120px; height: 10px; border: 1px solid var(--line);
  background: linear-gradient(90deg, var(--page), var(--accent)); margin: 0 6px; }
table { border-collapse: collapse; font-size: 14px; }
.scroll { overflow-x: auto; margin: 8px 0 16px; }
th, td { text-align: left; padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
@media (max-width: 600px) {
  main { padding: 16px; }
  .rows, .rows tbody, .rows tr, .rows td { display: block; }
  .rows thead { display: none; }
  .rows tr { border-bottom: 2px solid var(--line); padding: 8px 0; }
  .rows td, .rows td.n { border: 0; text-align: left; padding: 1px 0; overflow-wrap: anywhere; }
  .rows td[data-name]::before { content: attr(data-name) ": "; color: var(--muted); }
}
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
code, pre, .sum { font-size: 14px;
  font-family: ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: 8px 12px;
  overflow-x: auto; white-space: pre-wrap; }
.sum { font-size: 18px; line-height: 1.35; white-space: pre; letter-spacing: .08em; }
.sum .wrong { color: var(--bad); font-weight: 700; text-decoration: underline; }
@media (max-width: 640px) {
  main { padding: 14px; } h1 { font-size: 23px; }
  .records thead { display: none; } .records table { width: 100%; }
  .records tr { display: block; border-bottom: 2px solid var(--line); padding: 6px 0; }
  .records td, .records td.n { display: flex; justify-content: space-between; gap: 12px; border: 0;
    padding: 1px 0; text-align: right; overflow-wrap: anywhere; }
  .records td:empty { display: none; }
  .records td::before { content: attr(data-label); color: var(--muted); text-align: left; }
  figure { padding: 10px 8px; } td, th { padding-right: 8px; }
  svg text { font-size: 21px; } svg text.point { font-size: 17px; }
  svg.small text { font-size: 14px; }
  svg text.side { display: none; } svg text.dense { display: none; }
}
details { margin: 8px 0; } summary { cursor: pointer; color: var(--muted); }
"""
"""The look of a report: light or dark by the reader's own setting."""


# Drawings.


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
    bottom: int = 54
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
        """Grid lines, numbers, labels. To be called before anything is drawn: it makes room for them."""
        if y_ticks is None:
            y_ticks = self._decades() if self.log_y else ticks(*self.y)
        longest = max((len(y_text(y)) for y in y_ticks), default=0)
        # As large as letters are on a phone.
        self.left = max(self.left, 14 + math.ceil(13.5 * longest))
        bottom, right = self.height - self.bottom, self.width - self.right
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
            anchor = "end" if self.px(x) > self.width - 34 else "middle"
            self.parts.append(text(self.px(x), bottom + 19, x_text(x), class_="num", text_anchor=anchor))
        self.parts.append(tag("line", class_="axis", x1=self.left, x2=right, y1=bottom, y2=bottom))
        middle = (self.left + right) / 2
        self.parts.append(text(middle, self.height - 8, x_label, class_="label", text_anchor="middle"))
        self.parts.append(
            text(
                0,
                0,
                y_label,
                class_="label side",
                text_anchor="middle",
                transform=f"translate(14 {(self.top + bottom) / 2:.0f}) rotate(-90)",
            )
        )

    def _decades(self) -> list[float]:
        low, high = (math.log10(v) for v in self.y)
        return [10.0**k for k in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)]

    def line(
        self, points: Iterable[Point], class_: str, title: str | None = None, seed: int | None = None
    ) -> None:
        """A line through the points; gaps where y is not a number. With a ``title`` its values are shown
        under a pointer; ``seed``: whose it is, for a reader who chooses that one."""
        pieces, gap = [], True
        for x, y in points:
            if math.isfinite(y):
                pieces.append(f"{'M' if gap else 'L'}{self.px(x):.1f} {self.py(y):.1f}")
                gap = False
            else:
                gap = True
        if pieces:
            drawn = {"class_": class_, "d": "".join(pieces), "fill": "none"}
            self.parts.append(tag("path", **drawn, data_name=title, data_seed=seed))

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

    def svg(self, description: str, *, percent: bool = False) -> str:
        """The drawing. ``percent``: how values on y are shown under a pointer."""
        box = (self.left, self.top, self.width - self.right, self.height - self.bottom)
        plot = {"x": self.x, "y": self.y, "box": box, "log": self.log_y, "percent": percent}
        return drawing(self.width, self.height, self.parts, description, plot=json.dumps(plot))


SMALL = 480
"""Pixels: a drawing less wide is not made smaller on a phone, nor need its letters be larger there."""


def drawing(
    width: int, height: int, parts: Iterable[str], description: str, plot: str | None = None
) -> str:
    """An SVG that scales with the page; ``description`` is read to those who do not see it. ``plot``:
    what its pixels mean, for the page's script."""
    return tag(
        "svg",
        *parts,
        class_="small" if width < SMALL else None,
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_label=description,
        data_plot=plot,
        style=f"max-width:{width}px",
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
    top, bottom, right = 8, 56 if x_label else 28, 24
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
    # On a phone's screen, where letters are large beside the drawing, some names have no room.
    sparse = math.ceil(14 * max((len(name) for name in column_names), default=0) / wide)
    last = -sparse
    for c, name in enumerate(column_names):
        if name:
            x = left + (c + 0.5) * wide
            dense = "" if c - last >= sparse else " dense"
            last = last if dense else c
            below = top + rows * high + 17
            anchor = "end" if x + 6.5 * len(name) > width else "middle"
            parts.append(text(x, below, name, class_=f"num{dense}", text_anchor=anchor))
    if x_label:
        middle = left + columns * wide / 2
        parts.append(text(middle, height - 8, x_label, class_="label", text_anchor="middle"))
    if y_label:
        turn = f"translate(12 {top + rows * high / 2:.0f}) rotate(-90)"
        parts.append(text(0, 0, y_label, class_="label side", text_anchor="middle", transform=turn))
    return drawing(width, height, parts, description)
