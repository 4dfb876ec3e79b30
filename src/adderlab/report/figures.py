"""The report's figures: what a run's evidence looks like, and what is inside one trained model: where it
looks, how it lays out digits and positions, how sure it is of each answer digit.

The inside is read from the table form; a model outside the form has margins only. In curves, a seed that
has stopped keeps its last value: it is not trained any further.

Shapes: B pairs, A answer steps, I digits of a sum (11), P positions, V vocabulary, H heads, D width.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from adderlab.engine.torch_tables import TorchEngine
from adderlab.evaluation.exact import Prediction, predict
from adderlab.evaluation.suites import fresh, strata, wilson
from adderlab.format import percent, tick
from adderlab.models.head_program import FUNCTIONS
from adderlab.models.tables import Tables, tables, why_not_trained_by_tables
from adderlab.models.transformer import Transformer
from adderlab.report.evidence import SeedHistory
from adderlab.report.html import Plot, cells, tag, text, ticks
from adderlab.runs.checkpoints import Checkpoint
from adderlab.runs.records import LEARNED, SUCCESS, Metrics
from adderlab.task.addition import SUM_DIGITS, Layout, from_digits

ATTENTION_PAIRS = 2000
MARGIN_PAIRS = 20_000
_CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """Points in the plane: the first two principal components of some rows."""

    names: tuple[str, ...]
    points: tuple[tuple[float, float], ...]
    shares: tuple[float, float]
    """Share of the rows' variance along each axis."""


@dataclass(frozen=True, kw_only=True)
class StepMargin:
    """Margins of one answer step over sampled pairs, in logits, given the right earlier digits."""

    smallest: float
    percentile: float
    """1% of the uniform pairs lie below."""
    median: float
    pair: tuple[int, int]
    """Where the smallest is."""


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """One checkpoint, looked into."""

    attention_HIP: tuple[tuple[tuple[float, ...], ...], ...]
    """Mean attention weight of every head at every answer step; empty without a table form."""
    position_names: tuple[str, ...]
    digits: Cloud | None
    """Rows of the token embedding, digits only; None for a user's file, whose parts are not known."""
    positions: Cloud | None
    """Rows of the position embedding; None for models without one (rotary positions), and as above."""
    position_kinds: tuple[str, ...]
    """a, b, s or nothing, of every position."""
    margins: tuple[StepMargin, ...]
    worst: Prediction
    """The model's answer to the sampled pair of the smallest margin."""
    num_pairs: int
    """Pairs sampled for the margins."""
    no_tables: str | None
    """Why the model has no table form."""


@torch.no_grad()
def dissect(checkpoint: Checkpoint) -> Anatomy:
    """Look into a checkpoint; some seconds of one core."""
    config = checkpoint.config
    layout, model, reason = config.token_layout, checkpoint.module(), why_not_trained_by_tables(config)
    form = None if reason else tables(config, checkpoint.stacked())
    margins, num_pairs = _margins(checkpoint, form)
    worst = min(margins, key=lambda margin: margin.smallest)
    digits = positions = None
    if isinstance(model, Transformer):
        digits = model.token_emb.table()[: layout.base]
        if model.pos_emb is not None:
            positions = model.pos_emb(torch.arange(layout.num_positions))
    names, kinds = position_names(layout)
    return Anatomy(
        attention_HIP=() if form is None else attention_weights(form, layout),
        position_names=names,
        digits=None if digits is None else cloud(digits, layout.vocabulary[: layout.base]),
        positions=None if positions is None else cloud(positions, names),
        position_kinds=kinds,
        margins=margins,
        worst=predict(model, *worst.pair),
        num_pairs=num_pairs,
        no_tables=reason,
    )


def position_names(layout: Layout) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(what stands at every position: a9, +, s0; its kind: a, b, s or nothing)."""
    names = [""] * layout.num_positions
    kinds = [""] * layout.num_positions
    for position, token in layout.separators:
        names[position] = layout.vocabulary[token].strip("<>")[:3]
    for kind, places in (
        ("a", layout.a_positions),
        ("b", layout.b_positions),
        ("s", layout.sum_positions),
    ):
        for j, position in enumerate(places):
            if position < layout.num_positions:
                shared = layout.pairs and kind == "b"
                names[position] = f"ab{j}" if shared else f"{kind}{j}"
                kinds[position] = kind
    return tuple(names), tuple(kinds)


def cloud(rows_ND: Tensor, names: tuple[str, ...]) -> Cloud:
    """Principal components of the rows; two columns are shown as they are."""
    centred_ND = (rows_ND - rows_ND.mean(0)).double()
    if rows_ND.shape[1] < 2:
        centred_ND = torch.cat([centred_ND, torch.zeros_like(centred_ND)], 1)
    total = float(centred_ND.square().sum()) or 1.0
    if centred_ND.shape[1] == 2:
        plane_N2 = centred_ND
    else:
        _, _, axes_KD = torch.linalg.svd(centred_ND, full_matrices=False)
        # The sign of a component means nothing; fix it so that equal weights draw equal pictures.
        signs_K = torch.sign(axes_KD.gather(1, axes_KD.abs().argmax(1, keepdim=True)))
        plane_N2 = centred_ND @ (axes_KD * signs_K)[:2].T
    shares = (plane_N2.square().sum(0) / total).tolist()
    points = tuple((float(x), float(y)) for x, y in plane_N2.tolist())
    return Cloud(names=names, points=points, shares=(shares[0], shares[1]))


Grid = tuple[tuple[float, ...], ...]


def attention_weights(form: Tables, layout: Layout, pairs: int = ATTENTION_PAIRS) -> tuple[Grid, ...]:
    """Of the first seed, by head: the mean over uniform pairs, teacher-forced."""
    group = fresh(pairs, addition=layout.addition).groups[0]
    tokens_BP, _ = layout.encode(group.a_BJ, group.b_BJ)
    tokens_BP = tokens_BP.long()
    position_P = torch.arange(layout.num_positions)
    key_BPHK = form.key[0][position_P, tokens_BP]
    means = []
    for i in range(layout.sum_digits):
        last = layout.query_positions[i]
        query_BHK = form.query[0][i][tokens_BP[:, last]]
        score_BHP = torch.einsum("bhk,bphk->bhp", query_BHK, key_BPHK)
        if form.score_scale is not None:
            curve = FUNCTIONS[str(form.form.score_function)]
            score_BHP = curve(score_BHP) * form.score_scale[0][i][:, None]
        if form.score is not None:
            V = layout.vocab_size
            more_BHPV = form.score[0][i].expand(V, -1, -1, V)[tokens_BP[:, last]]
            index = tokens_BP[:, None, :, None].expand(-1, more_BHPV.shape[1], -1, 1)
            score_BHP = score_BHP + more_BHPV.gather(3, index)[..., 0]
        score_BHP = score_BHP.masked_fill(position_P > last, float("-inf"))
        if form.sink is not None:
            sink_BH1 = form.sink[0][i][tokens_BP[:, last]][..., None]
            score_BHP = torch.cat([score_BHP, sink_BH1], 2)
        means.append(score_BHP.softmax(-1)[..., : len(position_P)].mean(0))
    mean_HIP = torch.stack(means, 1)
    return tuple(tuple(tuple(row) for row in head) for head in mean_HIP.tolist())


@torch.no_grad()
def _margins(checkpoint: Checkpoint, form: Tables | None) -> tuple[tuple[StepMargin, ...], int]:
    """Over uniform pairs and over pairs by kind (long carries, nines): those find the weak spots."""
    layout = checkpoint.config.token_layout
    task, digits = layout.addition, layout.sum_digits
    uniform, kinds = fresh(MARGIN_PAIRS, addition=task).groups, strata(500, addition=task).groups
    a_BJ = torch.cat([group.a_BJ for group in (*uniform, *kinds)])
    b_BJ = torch.cat([group.b_BJ for group in (*uniform, *kinds)])
    tokens_BP, targets_BA = layout.encode(a_BJ, b_BJ)
    if form is not None:
        margin_BI = TorchEngine().margins(form, tokens_BP[None], targets_BA[None])[0, :, :digits]
    else:
        margin_BI = _oracle_margins(checkpoint, tokens_BP, targets_BA)
    found = []
    for i in range(digits):
        margin_B, sampled_B = margin_BI[:, i], margin_BI[:MARGIN_PAIRS, i]
        row = int(margin_B.argmin())
        found.append(
            StepMargin(
                smallest=float(margin_B[row]),
                percentile=float(sampled_B.kthvalue(max(1, MARGIN_PAIRS // 100)).values),
                median=float(sampled_B.median()),
                pair=(int(from_digits(a_BJ[row], task.base)), int(from_digits(b_BJ[row], task.base))),
            )
        )
    return tuple(found), len(a_BJ)


@torch.no_grad()
def _oracle_margins(checkpoint: Checkpoint, tokens_BP: Tensor, targets_BA: Tensor) -> Tensor:
    model, parts, digits = checkpoint.module(), [], checkpoint.config.token_layout.sum_digits
    for tokens, targets in zip(tokens_BP.split(_CHUNK), targets_BA.split(_CHUNK), strict=True):
        logits_BIV = model.answer_logits(tokens)[:, :digits]
        right_BI1 = targets[:, :digits].long()[..., None]
        other_BI = logits_BIV.scatter(2, right_BI1, float("-inf")).amax(2)
        parts.append(logits_BIV.gather(2, right_BI1)[..., 0] - other_BI)
    return torch.cat(parts)


# Drawings, one function a figure.


MOST_LINES = 64
"""Single seeds are drawn up to this many."""
MOST_COLUMNS = 110
"""Evaluations in a heat map; more are thinned out."""

Value = Callable[[Metrics], float]


def steps_of(histories: Sequence[SeedHistory]) -> list[int]:
    """All steps at which some seed was evaluated."""
    return sorted({each.step for history in histories for each in history.evaluations})


def held(history: SeedHistory, steps: Sequence[int], value: Value) -> list[float]:
    """A seed's value at every step, its last one kept; NaN before its first."""
    own = [each.step for each in history.evaluations]
    places = [bisect_right(own, step) - 1 for step in steps]
    return [math.nan if k < 0 else value(history.evaluations[k]) for k in places]


def _span(steps: Sequence[int]) -> tuple[float, float]:
    # The last step of N is N - 1: end the axis at N.
    return float(steps[0]), float(steps[-1] + 1)


def percent_tick(value: float) -> str:
    return f"{100 * value:.0f}%"


def grokking(histories: Sequence[SeedHistory], best: SeedHistory | None) -> str:
    """Exact match of every seed over time, with the middle 80% of the population and its median."""
    return _curves(
        histories, best, lambda m: m.val_exact, "exact match", y=(0.0, 1.0), shown=percent_tick
    )


def losses(histories: Sequence[SeedHistory], best: SeedHistory | None) -> str:
    """Training loss over time."""
    return _curves(histories, best, lambda m: m.train_loss, "training loss")


def weight_norms(histories: Sequence[SeedHistory], best: SeedHistory | None) -> str:
    """Norm of all parameters over time."""
    largest = max(_or_nan(each.weight_norm) for own in histories for each in own.evaluations)
    y = (0.0, 1.05 * largest) if math.isfinite(largest) and largest > 0 else (0.0, 1.0)
    return _curves(histories, best, lambda m: _or_nan(m.weight_norm), "weight norm", y=y)


def fitting(histories: Sequence[SeedHistory], best: SeedHistory) -> str:
    """Exact match on the pairs that are trained on and on those that are not: the best seed, and the
    median of all."""
    steps = steps_of(histories)
    plot = Plot(x=_span(steps), y=(0.0, 1.0))
    plot.axes(x_label="training step", y_label="exact match", y_text=percent_tick)
    values: dict[str, Value] = {"train": lambda m: _or_nan(m.train_exact), "val": lambda m: m.val_exact}
    for name, value in values.items():
        if len(histories) > 1:
            rows_SN = np.array([held(history, steps, value) for history in histories])
            middle = [_quantiles(column)[1] for column in rows_SN.T]
            plot.line(zip(steps, middle, strict=True), f"median {name}", f"median, {_PAIRS[name]}")
        row = held(best, steps, value)
        plot.line(zip(steps, row, strict=True), f"best {name}", f"seed {best.seed}, {_PAIRS[name]}")
    return plot.svg("exact match on training and on validation pairs over steps", percent=True)


_PAIRS = {"train": "training pairs", "val": "validation pairs"}


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _curves(
    histories: Sequence[SeedHistory],
    best: SeedHistory | None,
    value: Value,
    name: str,
    *,
    y: tuple[float, float] | None = None,
    shown: Callable[[float], str] = lambda v: f"{v:g}",
    y_ticks: Sequence[float] | None = None,
) -> str:
    """Every seed, the middle 80%, the median, the best. Without a range ``y`` the scale is
    logarithmic and fits the values."""
    steps = steps_of(histories)
    rows_SN = np.array([held(history, steps, value) for history in histories])
    plot = Plot(x=_span(steps), y=y or _decades(rows_SN), log_y=y is None)
    plot.axes(x_label="training step", y_label=name, y_text=shown, y_ticks=y_ticks)
    edges = [_quantiles(column) for column in rows_SN.T]
    if len(histories) > 1:
        plot.band([(s, e[0], e[2]) for s, e in zip(steps, edges, strict=True)], "band")
    if len(histories) <= MOST_LINES:
        for history, row in zip(histories, rows_SN, strict=True):
            plot.line(zip(steps, row, strict=True), "seed", f"seed {history.seed}", history.seed)
    if len(histories) > 1:
        plot.line([(s, e[1]) for s, e in zip(steps, edges, strict=True)], "median", "median")
    if best is not None:
        row = held(best, steps, value)
        plot.line(zip(steps, row, strict=True), "best", f"best: seed {best.seed}")
    return plot.svg(f"{name} over training steps, {len(histories)} seeds", percent=shown is percent_tick)


def median_hidden(
    histories: Sequence[SeedHistory], best: SeedHistory | None, value: Value, near: float
) -> str:
    """That the median cannot be seen, if it is within ``near`` of the best seed's line; or nothing."""
    if best is None or len(histories) < 2:
        return ""
    steps = steps_of(histories)
    rows_SN = np.array([held(history, steps, value) for history in histories])
    apart_N = np.abs(np.median(rows_SN, 0) - np.array(held(best, steps, value)))
    return "The median lies under the best seed's line." if (apart_N < near).mean() > 0.9 else ""


def hidden_lines(histories: Sequence[SeedHistory], best: SeedHistory | None) -> str:
    """What a reader of the curves of exact match does not see: which lines lie under others; empty if
    none does."""
    steps = steps_of(histories)
    rows_SN = np.array([held(history, steps, lambda m: m.val_exact) for history in histories])
    parts = [median_hidden(histories, best, lambda m: m.val_exact, 0.004)]
    ends = np.round(rows_SN[:, -1], 2)
    values, counts = np.unique(ends[np.isfinite(ends)], return_counts=True)
    parts += [
        f"{count} seeds end on one another at {percent(float(value))}."
        for value, count in zip(values, counts, strict=True)
        if count > max(2, len(histories) // 8)
    ]
    return " ".join(filter(None, parts))


def _decades(values: np.ndarray) -> tuple[float, float]:
    """Whole powers of ten around the positive values."""
    positive = values[np.isfinite(values) & (values > 0)]
    if not len(positive):
        return 0.1, 1.0
    low, high = math.floor(math.log10(positive.min())), math.ceil(math.log10(positive.max()))
    return 10.0**low, 10.0 ** max(high, low + 1)


def _quantiles(column: np.ndarray) -> tuple[float, float, float]:
    known = column[np.isfinite(column)]
    if not len(known):
        return math.nan, math.nan, math.nan
    low, middle, high = np.quantile(known, (0.1, 0.5, 0.9))
    return float(low), float(middle), float(high)


def success(histories: Sequence[SeedHistory]) -> str:
    """Share of seeds at 99% exact match over time, with its 95% Wilson interval."""
    steps, n = steps_of(histories), len(histories)
    rows_SN = np.array([held(history, steps, lambda m: m.val_exact) for history in histories])
    rates = [wilson(int(count), n) for count in (rows_SN >= SUCCESS).sum(0)]
    plot = Plot(x=_span(steps), y=(0.0, 1.0), right=120)
    plot.axes(x_label="training step", y_label="seeds at 99% or more", y_text=percent_tick)
    plot.band([(s, r.low, r.high) for s, r in zip(steps, rates, strict=True)], "band")
    plot.line([(s, r.value) for s, r in zip(steps, rates, strict=True)], "best", "success rate")
    last = rates[-1]
    plot.dot(steps[-1], last.value, "best-dot", title=str(last))
    end = {"dx": 10, "class_": "strong"}
    plot.note(steps[-1], last.value, f"{last.count} of {n}", dy=_clear(last.value), **end)
    return plot.svg(f"success rate over training steps, at the end {last}", percent=True)


def _clear(share: float) -> int:
    """Pixels by which a note at the end of a curve moves to stay inside the drawing."""
    return 14 if share > 0.95 else -4 if share < 0.05 else 5


def learned(histories: Sequence[SeedHistory], best: SeedHistory | None) -> str:
    """Number of answer steps learned over time."""

    def count(metrics: Metrics) -> float:
        known = metrics.step_acc
        return float(sum(accuracy >= LEARNED for accuracy in known)) if known else math.nan

    digits = _digits_of(histories)
    y, whole = (0.0, float(digits)), range(0, digits + 1, 2)
    return _curves(histories, best, count, "answer steps learned", y=y, y_ticks=whole)


def _digits_of(histories: Sequence[SeedHistory]) -> int:
    """Of a sum: as many as answer steps are recorded."""
    return max((len(history.last.step_acc) for history in histories), default=0) or SUM_DIGITS


def step_heat(history: SeedHistory) -> str:
    """Accuracy of each answer step of one seed over time."""
    return _heat(
        [history],
        lambda column, i: float(column[0][i]),
        f"accuracy of answer steps of seed {history.seed} over training steps",
        lambda share: f"{percent(share)} correct",
    )


def learned_heat(histories: Sequence[SeedHistory]) -> str:
    """Share of the seeds that have learned each answer step, over time."""
    return _heat(
        histories,
        lambda column, i: float(np.mean([acc[i] >= LEARNED for acc in column])),
        "share of seeds that have learned each answer step over training steps",
        lambda share: f"learned by {percent(share)} of the seeds",
    )


def _heat(
    histories: Sequence[SeedHistory],
    share: Callable[[list[tuple[float, ...]], int], float],
    description: str,
    shown: Callable[[float], str],
) -> str:
    steps = steps_of(histories)
    steps = [steps[k] for k in _spread(len(steps), MOST_COLUMNS)]
    columns = [
        [history.evaluations[max(0, _last_at(history, step))].step_acc for history in histories]
        for step in steps
    ]
    rows = range(_digits_of(histories))
    grid = [[share(column, i) for column in columns] for i in rows]
    wide = 560 / len(steps)
    marked = _round_marks(steps)
    return cells(
        grid,
        row_names=[_step_name(i, len(rows)) for i in rows],
        column_names=[marked.get(k, "") for k in range(len(steps))],
        titles=lambda r, c: f"s_{rows[r]} at step {steps[c]}: {shown(grid[r][c])}",
        x_label="training step",
        cell=(wide, 24.0),
        left=116,
        description=description,
    )


def _round_marks(steps: Sequence[int]) -> dict[int, str]:
    """Column -> the round number of steps that it is nearest to, for about six columns."""
    if len(steps) < 2:
        return {k: tick(step) for k, step in enumerate(steps)}
    marks = {}
    for value in ticks(steps[0], steps[-1] + 1, 6):
        # The last step of N is N - 1.
        k = min(range(len(steps)), key=lambda k: min(abs(steps[k] - value), abs(steps[k] + 1 - value)))
        marks.setdefault(k, tick(value))
    return marks


def _last_at(history: SeedHistory, step: int) -> int:
    return bisect_right([each.step for each in history.evaluations], step) - 1


def _spread(n: int, most: int) -> list[int]:
    """At most ``most`` of n places, evenly, both ends among them."""
    if n <= most:
        return list(range(n))
    return sorted({round(k * (n - 1) / (most - 1)) for k in range(most)})


def _step_name(i: int, digits: int) -> str:
    return {0: "s_0 units", digits - 1: f"s_{i} top"}.get(i, f"s_{i}")


def final_heat(histories: Sequence[SeedHistory]) -> str:
    """Where every seed ended: accuracy of each answer step, best seeds first."""
    ranked = sorted(histories, key=lambda s: (s.last.val_exact, sum(s.last.step_acc)), reverse=True)
    shown = ranked[:MOST_LINES]
    rows = range(_digits_of(shown))
    grid = [[history.last.step_acc[i] for history in shown] for i in rows]
    wide = min(28.0, 560 / len(shown))
    longest = max(len(str(history.seed)) for history in shown)
    every = math.ceil((7.5 * longest + 4) / wide)
    of_all = f" ({len(shown)} of {len(ranked)})" if len(shown) < len(ranked) else ""
    return cells(
        grid,
        row_names=[_step_name(i, len(rows)) for i in rows],
        column_names=[str(s.seed) if k % every == 0 else "" for k, s in enumerate(shown)],
        titles=lambda r, c: f"seed {shown[c].seed}, s_{rows[r]}: {percent(grid[r][c])} correct",
        x_label=f"seed, best first{of_all}",
        cell=(wide, 24.0),
        left=116,
        description="accuracy of each answer step at the end, by seed",
    )


def attention(anatomy: Anatomy, head: int) -> str:
    """Mean attention of one head: which positions each answer step reads."""
    return attention_cells(anatomy.attention_HIP[head], anatomy.position_names, f"head {head}")


@torch.no_grad()
def where_it_looks(checkpoint: Checkpoint) -> tuple[tuple[Grid, ...], tuple[str, ...]]:
    """(mean attention weights of every head at every answer step, what stands at every position) of a
    model with tables."""
    layout = checkpoint.config.token_layout
    form = tables(checkpoint.config, checkpoint.stacked())
    return attention_weights(form, layout), position_names(layout)[0]


ATTENTION_CELL = (20.0, 24.0)


def attention_cells(grid: Grid, names: Sequence[str], whose: str) -> str:
    """Weights by answer step and position."""
    return cells(
        grid,
        row_names=[_step_name(i, len(grid)) for i in range(len(grid))],
        column_names=names,
        titles=lambda r, c: f"s_{r} reads {names[c] or c}: {percent(grid[r][c])} of its attention",
        x_label="position read, in the order of the sequence",
        cell=ATTENTION_CELL,
        left=116,
        description=f"mean attention by answer step and position: {whose}",
    )


def scatter(cloud: Cloud, kinds: Sequence[str] = ()) -> str:
    """Points with their names; points of one kind are joined column by column.

    Each axis has its own scale: the second component is often far smaller than the first.
    """
    spans = [_padded([point[k] for point in cloud.points]) for k in (0, 1)]
    plot = Plot(x=spans[0], y=spans[1], width=640, height=460, left=66)
    shares = [f"{100 * share:.0f}% of the variance" for share in cloud.shares]
    plot.axes(
        x_label=f"first component, {shares[0]}",
        y_label=f"second component, {shares[1]}",
        x_text=lambda v: f"{v:g}",
    )
    for kind in dict.fromkeys(kinds) if kinds else ("",):
        rows = [k for k in range(len(cloud.points)) if not kinds or kinds[k] == kind]
        # Layouts write some operands top digit first: join by column, not by place.
        rows.sort(key=lambda k: _column(cloud.names[k]))
        if kind or not kinds:
            plot.line([cloud.points[k] for k in rows], f"join {kind}".strip())
        for k in rows:
            plot.dot(*cloud.points[k], f"dot {kind}".strip(), 4.0, cloud.names[k])
    for name, place in zip(cloud.names, name_places(plot, cloud), strict=True):
        if place is not None:
            plot.parts.append(text(*place, name, class_="num point"))
    return plot.svg("first two principal components")


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    pad = 0.09 * (high - low) or 1.0
    return low - pad, high + pad


def _column(name: str) -> int:
    digits = "".join(c for c in name if c.isdigit())
    return int(digits) if digits else -1


_HIGH, _WIDE = 16, 10.5
"""Pixels of a line of text and of a letter, as large as names of points are on a phone."""


def name_places(plot: Plot, cloud: Cloud) -> list[tuple[float, float] | None]:
    """A place beside each point for its name, clear of all points and of the names before it; None
    where there is no room (the pointer still shows it)."""
    dots = [(plot.px(x), plot.py(y)) for x, y in cloud.points]
    taken: list[tuple[float, float, float]] = []
    places: list[tuple[float, float] | None] = []
    for name, (x, y) in zip(cloud.names, dots, strict=True):
        wide = _WIDE * len(name)
        free = [
            (left, base)
            for left, base in _beside(x, y, wide)
            if plot.left < left < plot.width - plot.right - wide
            and plot.top + _HIGH < base < plot.height - plot.bottom
            and not any(
                left < other + w + 2 and other < left + wide + 2 and abs(base - line) < _HIGH + 1
                for other, line, w in taken
            )
            and not any(
                left - 4 < dx < left + wide + 4 and base - _HIGH - 2 < dy < base + 4 for dx, dy in dots
            )
        ]
        places.append(free[0] if free else None)
        if free:
            taken.append((*free[0], wide))
    return places


def _beside(x: float, y: float, wide: float) -> list[tuple[float, float]]:
    """Places for a name around a point, the nearest first."""
    places = []
    for reach in (7, 13):
        right, left = x + reach, x - reach - wide
        places += [(right, y + 4), (left, y + 4)]
        above, below = y - reach, y + reach + _HIGH - 1
        places += [(x - wide / 2, above), (x - wide / 2, below)]
        places += [(side, line) for line in (above, below) for side in (right, left)]
    return places


def margins(anatomy: Anatomy, bounds: Sequence[float]) -> str:
    """Margin of each answer step: sampled (smallest, 1%, median) and, where proved, the bound."""
    values = [v for m in anatomy.margins for v in (m.smallest, m.percentile, m.median)]
    low, high = min(0.0, *values, *bounds), max(0.0, *values, *bounds)
    pad = 0.06 * (high - low or 1.0)
    digits = len(anatomy.margins)
    plot = Plot(x=(-0.6, digits - 0.4), y=(low - pad, high + pad))
    plot.axes(
        x_label="answer step",
        y_label="margin in logits",
        x_text=lambda v: f"s_{v:g}",
        x_ticks=range(digits),
    )
    plot.parts.append(
        tag(
            "line", class_="zero", x1=plot.left, x2=plot.width - plot.right, y1=plot.py(0), y2=plot.py(0)
        )
    )
    for i, margin in enumerate(anatomy.margins):
        plot.line([(i, margin.smallest), (i, margin.median)], "whisker")
        plot.line([(i, margin.percentile), (i, margin.median)], "box")
        where = f"s_{i}: smallest {margin.smallest:.3g} at {margin.pair[0]} + {margin.pair[1]}"
        plot.dot(i, margin.smallest, "worst-dot" if margin.smallest <= 0 else "best-dot", 4.5, where)
        plot.dot(i, margin.median, "dot", 3.0, f"s_{i}: median {margin.median:.3g}")
    for i, bound in enumerate(bounds):
        plot.line([(i - 0.3, bound), (i + 0.3, bound)], "bound", f"s_{i}: proved bound {bound:.3g}")
    return plot.svg("margin of each answer step in logits")
