"""The elements of the report's page, and its style sheet.

Everything is text that is escaped here, except where a docstring says HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


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
    """Cells are text; ``numeric`` columns are set to the right."""

    def line(kind: str, row: Sequence[str]) -> str:
        return tag(
            "tr",
            *(tag(kind, escape(c), class_="n" if k in numeric else None) for k, c in enumerate(row)),
        )

    header = tag("thead", line("th", head)) if head else ""
    return tag(
        "div", tag("table", header, tag("tbody", *(line("td", row) for row in rows))), class_="scroll"
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


def page(title: str, body: str) -> str:
    """A whole file around ``body`` (HTML): it fetches nothing and runs nothing."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
    )
    body = f"<head>{head}</head>\n<body><main>\n{body}\n</main></body>"
    return f'<!DOCTYPE html>\n<html lang="en">{body}</html>\n'


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
figure.wide { grid-column: 1 / -1; }
figcaption { margin-top: 4px; }
svg { display: block; width: 100%; height: auto; margin: 0 auto; }
svg text { fill: var(--ink);
  font: 12px system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif; }
svg text.num { fill: var(--muted); }
svg text.strong { font-weight: 650; }
.grid { stroke: var(--line); stroke-width: 1; }
.axis, .tick { stroke: var(--muted); stroke-width: 1; }
.zero { stroke: var(--bad); stroke-width: 1.5; stroke-dasharray: 5 4; }
.seed { stroke: var(--seed); stroke-width: 1; }
.median { stroke: var(--ink); stroke-width: 2; stroke-dasharray: 6 4; }
.best { stroke: var(--accent); stroke-width: 2.5; }
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
.key.k-a { border-color: var(--accent); } .key.k-b { border-color: var(--warm); }
.key.k-s { border-color: var(--second); }
.ramp { display: inline-block; width: 120px; height: 10px; border: 1px solid var(--line);
  background: linear-gradient(90deg, var(--page), var(--accent)); margin: 0 6px; }
table { border-collapse: collapse; font-size: 14px; }
.scroll { overflow-x: auto; margin: 8px 0 16px; }
th, td { text-align: left; padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
code, pre, .sum { font-size: 14px;
  font-family: ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: 8px 12px;
  overflow-x: auto; white-space: pre-wrap; }
.sum { font-size: 18px; line-height: 1.35; white-space: pre; letter-spacing: .08em; }
.sum .wrong { color: var(--bad); font-weight: 700; text-decoration: underline; }
details { margin: 8px 0; } summary { cursor: pointer; color: var(--muted); }
"""
"""The look of a report: light or dark by the reader's own setting."""
