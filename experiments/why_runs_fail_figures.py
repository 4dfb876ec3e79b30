"""The figures of the failure study: single SVG files, drawn by the report's plotting code.

Shapes: S seeds, I = 11 answer steps, J = 10 columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from adderlab.format import tick
from adderlab.report import figures as charts
from adderlab.report.evidence import SeedHistory
from adderlab.report.html import STYLE, Plot, cells, tag
from adderlab.task.addition import OPERAND_DIGITS, SUM_DIGITS

STEP_NAMES = [f"s_{i}" for i in range(SUM_DIGITS)]
COLUMN_NAMES = [*(str(j) for j in range(OPERAND_DIGITS)), "rest"]
EXTRA = """
svg { background: var(--page); }
.learned { fill: var(--good); } .chance { fill: var(--bad); } .stuck { fill: var(--warm); }
.bar { fill: var(--accent); }
.curve-learned { stroke: var(--good); stroke-width: 2.5; }
.curve-stuck { stroke: var(--bad); stroke-width: 2.5; }
.curve-0 { stroke: var(--accent); stroke-width: 2.5; }
.curve-1 { stroke: var(--warm); stroke-width: 2.5; }
.curve-2 { stroke: var(--second); stroke-width: 2.5; }
.band-0 { fill: var(--band); }
"""


def as_file(svg: str) -> str:
    """A drawing for a page, as a file of its own: with its name space and its style."""
    assert svg.startswith("<svg ")
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(
        ">", f"><style>{STYLE}{EXTRA}</style>", 1
    )


def steps_learned(counts: Sequence[int]) -> str:
    """How many seeds end with 0, 1, ... 11 answer steps learned."""
    plot = Plot(x=(-0.6, SUM_DIGITS + 0.6), y=(0.0, max(*counts, 1) * 1.12))
    plot.axes(
        x_label="answer steps learned at the end",
        y_label="seeds",
        x_text=lambda v: f"{v:g}",
        x_ticks=range(SUM_DIGITS + 1),
    )
    for k, count in enumerate(counts):
        _bar(plot, k, 0.0, count, "learned" if k == SUM_DIGITS else "bar")
        if count:
            plot.note(k, count, str(count), dy=-4, text_anchor="middle")
    return as_file(plot.svg("histogram of answer steps learned"))


def per_step(rows: Sequence[dict[str, Any]], seeds: int) -> str:
    """Of each answer step: share of seeds that end stuck at chance and stuck above it."""
    plot = Plot(x=(-0.6, SUM_DIGITS - 0.4), y=(0.0, 1.0), width=700, right=160)
    plot.axes(
        x_label="answer step (units first)",
        y_label="share of seeds at the end",
        x_text=lambda v: f"s_{v:g}",
        x_ticks=range(SUM_DIGITS),
        y_text=charts.percent_tick,
    )
    for i, row in enumerate(rows):
        chance, stuck = row["at_chance"] / seeds, row["stuck"] / seeds
        _bar(plot, i, 0.0, chance, "chance")
        _bar(plot, i, chance, stuck, "stuck")
    for k, (name, words) in enumerate((("chance", "at chance"), ("stuck", "above chance, below 90%"))):
        plot.parts.append(
            tag("rect", class_=name, x=plot.width - 152, y=20 + 22 * k, width=12, height=12)
        )
        plot.parts.append(tag("text", words, x=plot.width - 135, y=30 + 22 * k))
    return as_file(plot.svg("stuck answer steps"))


def _bar(plot: Plot, x: float, low: float, high: float, class_: str) -> None:
    left, right, top, bottom = plot.px(x - 0.38), plot.px(x + 0.38), plot.py(high), plot.py(low)
    plot.parts.append(
        tag("rect", class_=class_, x=left, y=top, width=right - left, height=max(0.0, bottom - top))
    )


def learning(histories: Sequence[SeedHistory]) -> str:
    """Number of answer steps learned over time: middle 80% of the seeds and their median."""
    return as_file(charts.learned(histories, None))


def learned_when(histories: Sequence[SeedHistory]) -> str:
    """Share of seeds that know each answer step, over time."""
    return as_file(charts.learned_heat(histories))


def prediction(rows: Sequence[dict[str, Any]], total_steps: int) -> str:
    """AUC of early figures over the training step at which they are taken."""
    plot = Plot(x=(0.0, float(total_steps)), y=(0.0, 1.0), width=700, right=240)
    plot.axes(x_label="training step", y_label="AUC for success at the end")
    for k, name in enumerate(dict.fromkeys(row["of"] for row in rows)):
        own = [row for row in rows if row["of"] == name and row["auc"] is not None]
        if not own:
            continue
        if k == 0:
            plot.band([(row["step"], row["low"], row["high"]) for row in own], "band-0")
        plot.line([(row["step"], row["auc"]) for row in own], f"curve-{k}", name)
        y = 20 + 20 * k
        plot.parts.append(
            tag(
                "line",
                class_=f"curve-{k}",
                x1=plot.width - 232,
                x2=plot.width - 216,
                y1=y,
                y2=y,
            )
        )
        plot.parts.append(tag("text", name, x=plot.width - 210, y=y + 4))
    return as_file(plot.svg("how well early figures predict success"))


def margins(learned: Sequence[float], stuck: Sequence[float]) -> str:
    """Distribution of the convex-position margin: share of answer steps at or below it."""
    top = max([1.0, *learned, *stuck])
    plot = Plot(x=(-0.02 * top, top), y=(0.0, 1.0), right=110)
    plot.axes(
        x_label="convex-position margin of the step's column (0: in the hull of the others)",
        y_label="share of answer steps",
        x_text=lambda v: f"{v:g}",
        y_text=charts.percent_tick,
    )
    for name, values in (("learned", sorted(learned)), ("stuck", sorted(stuck))):
        if not values:
            continue
        points = [(values[0], 0.0)]
        for k, value in enumerate(values):
            points += [(value, k / len(values)), (value, (k + 1) / len(values))]
        plot.line([*points, (top, 1.0)], f"curve-{name}", f"{len(values)} {name}")
        y = 30 if name == "learned" else 50
        plot.parts.append(
            tag("line", class_=f"curve-{name}", x1=plot.width - 104, x2=plot.width - 88, y1=y, y2=y)
        )
        plot.parts.append(tag("text", f"{name} ({len(values)})", x=plot.width - 82, y=y + 4))
    return as_file(plot.svg("convex-position margins of learned and stuck answer steps"))


def attention(map_IJ: np.ndarray, described: str) -> str:
    """Where answer steps attend: columns of the operands, and the rest."""
    return as_file(
        cells(
            np.nan_to_num(map_IJ).tolist(),
            row_names=STEP_NAMES,
            column_names=COLUMN_NAMES,
            titles=lambda r, c: f"s_{r} reads column {COLUMN_NAMES[c]}: {map_IJ[r, c]:.1%}",
            x_label="column read (a and b together)",
            cell=(30.0, 20.0),
            description=described,
        )
    )


def film(steps: Sequence[int], own_TI: np.ndarray, accuracy_TI: np.ndarray, what: str) -> str:
    """One seed over time: attention of each answer step to its own column, or its accuracy."""
    share_TI = own_TI if what == "attention" else accuracy_TI
    every = max(1, len(steps) // 7)
    return as_file(
        cells(
            share_TI.T.tolist(),
            row_names=STEP_NAMES,
            column_names=[tick(step) if k % every == 0 else "" for k, step in enumerate(steps)],
            titles=lambda r, c: f"s_{r} at step {steps[c]}: {share_TI[c, r]:.1%}",
            x_label="training step",
            cell=(560 / len(steps), 20.0),
            description=f"{what} of each answer step over time",
        )
    )
