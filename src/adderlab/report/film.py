"""The film of a seed: its snapshots (``runs.stored``) looked into one by one. Where each answer step
looks, how many pairs are right and how far the weakest are from failing, by training step. HTML for the
report, whose script moves the film; without it the last frame is shown.

Shapes: F frames, H heads, I answer steps, P positions, B pairs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import torch

from adderlab.engine.torch_tables import TorchEngine
from adderlab.evaluation.suites import fresh, strata
from adderlab.format import percent
from adderlab.models.tables import tables
from adderlab.report import figures as charts
from adderlab.report.evidence import SeedHistory
from adderlab.report.html import figure, table, tag
from adderlab.runs.stored import Snapshots

MOST_FRAMES = 48
PAIRS, PER_STRATUM, LOOKS = 1000, 40, 400
"""Pairs: uniform ones and those of each stratum, over which answers are counted; and uniform ones, over
which attention is averaged."""
LEVELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-"
"""Sixty-four weights from 0 to 1, one letter each: a film is thousands of them."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A seed at one training step."""

    step: int
    look_HIP: tuple[tuple[tuple[float, ...], ...], ...]
    """Mean attention weights."""
    exact: float
    """Share of the uniform pairs whose answer is right."""
    right_I: tuple[float, ...]
    """Share of the uniform pairs at which the answer step is right, given the right earlier digits."""
    smallest_I: tuple[float, ...]
    """Smallest margin in logits over the uniform pairs and the strata."""


@torch.no_grad()
def frames(snapshots: Snapshots) -> tuple[Frame, ...]:
    """A seed's snapshots, looked into; for a model with tables. A tenth of a second of one core each."""
    shown, layout = snapshots.thinned(MOST_FRAMES), snapshots.config.model.token_layout
    form = tables(snapshots.config.model, shown.stacked())
    uniform, kinds = (
        fresh(PAIRS, addition=layout.addition),
        strata(PER_STRATUM, addition=layout.addition),
    )
    a_BJ, b_BJ = (
        torch.cat([getattr(group, f"{name}_BJ") for group in (*uniform.groups, *kinds.groups)])
        for name in "ab"
    )
    tokens_BP, targets_BA = layout.encode(a_BJ, b_BJ)
    margin_FBA = TorchEngine().margins(form, tokens_BP[None], targets_BA[None])
    margin_FBI = margin_FBA[..., : layout.sum_digits]
    right_FBI = margin_FBI[:, :PAIRS] > 0
    return tuple(
        Frame(
            step=step,
            look_HIP=charts.attention_weights(form.seeds(f, f + 1), layout, LOOKS),
            exact=float(right_FBI[f].all(1).double().mean()),
            right_I=tuple(right_FBI[f].double().mean(0).tolist()),
            smallest_I=tuple(margin_FBI[f].amin(0).tolist()),
        )
        for f, step in enumerate(shown.steps)
    )


def film(snapshots: Snapshots, history: SeedHistory | None) -> str:
    """A figure with a slider over a seed's snapshots; ``history``: where its train accuracy stands."""
    shown = frames(snapshots)
    names, _ = charts.position_names(snapshots.config.model.token_layout)
    evaluations = history.evaluations if history is not None else ()
    train = {each.step: each.train_exact for each in evaluations if each.train_exact is not None}
    last, whose = shown[-1], f"seed {snapshots.seed}"
    drawings = [
        charts.attention_cells(grid, names, f"{whose}, head {head}")
        for head, grid in enumerate(last.look_HIP)
    ]
    texts = [_described(frame, train.get(frame.step)) for frame in shown]
    data = {
        "texts": texts,
        "names": names,
        "looks": [[_letters(grid) for grid in frame.look_HIP] for frame in shown],
        "right": [[percent(share) for share in frame.right_I] for frame in shown],
        "smallest": [[f"{margin:.3g}" for margin in frame.smallest_I] for frame in shown],
        "cell": charts.ATTENTION_CELL,
    }
    rows = [["right", *data["right"][-1]], ["smallest margin", *data["smallest"][-1]]]
    steps = [f"s_{i}" for i in range(len(last.right_I))]
    slider = tag(
        "div",
        tag("button", "play", type="button"),
        '<input type="range" min="0" '
        f'max="{len(shown) - 1}" value="{len(shown) - 1}" aria-label="training step of {whose}">',
        class_="film",
    )
    body = tag(
        "div",
        slider,
        tag("p", escape(texts[-1]), class_="at", aria_live="polite"),
        *drawings,
        table(["", *steps], rows),
        data_film=json.dumps(data, separators=(",", ":")),
    )
    caption = (
        f"{len(shown)} of {len(snapshots.steps)} snapshots. Where each answer step looks, mean weight "
        f"over {LOOKS} uniform pairs; the share of {PAIRS:,} uniform pairs that each step gets right, "
        "given the right earlier digits; and the smallest margin in logits over these and all strata."
    )
    return figure(f"The film of {whose}", body, escape(caption), wide=True)


def _described(frame: Frame, train: float | None) -> str:
    text = f"Step {frame.step:,}: {percent(frame.exact)} of the pairs right"
    text += "" if train is None else f", {percent(train)} of the training pairs"
    weakest = min(range(len(frame.smallest_I)), key=lambda i: frame.smallest_I[i])
    return f"{text}; smallest margin {frame.smallest_I[weakest]:.3g} logits, at s_{weakest}."


def _letters(grid: Sequence[Sequence[float]]) -> str:
    return "".join(LEVELS[round(63 * min(1.0, max(0.0, weight)))] for row in grid for weight in row)
