"""A seed of a run that the reader chooses: what became of it, which answer steps it has, and where each
of its steps looks, failed ones too. And its film: its snapshots (``runs.stored``) looked into one by
one. HTML for the report.

The film shows where each answer step looks, how many pairs are right and how far the weakest are from
failing, by training step. The report's script moves it; without it the last frame is shown.

Shapes: F frames, H heads, I answer steps, P positions, B pairs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import torch

from adderlab.engine.torch_tables import TorchEngine
from adderlab.errors import Failure
from adderlab.evaluation.suites import fresh, strata
from adderlab.format import percent
from adderlab.models.tables import tables, why_not_trained_by_tables
from adderlab.models.transformer import Architecture
from adderlab.reading.file_model import FileModel
from adderlab.report import figures as charts
from adderlab.report.evidence import RunEvidence, SeedHistory
from adderlab.report.html import figure, paragraph, table, tag
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint
from adderlab.runs.folder import seed_folder
from adderlab.runs.records import LEARNED, SeedRecord
from adderlab.runs.stored import Snapshots, read_snapshots

MOST_SEEDS = 64
"""Of more, as many of the best are offered as of the worst."""
MOST_FILMS = 12
"""Seeds whose snapshots are shown, likewise."""


def seed_choice(run: RunEvidence) -> str:
    """The section in which one chooses a seed; empty for a run of one."""
    records = _offered(run.evaluated, MOST_SEEDS)
    if len(records) < 2:
        return ""
    filmed = {each.seed for each in _offered(run.evaluated, MOST_FILMS)}
    best = run.best_record
    options = [
        tag(
            "option",
            escape(f"seed {each.seed}: {each.status}, {percent(each.last_exact)} at the end"),
            value=str(each.seed),
            selected="selected" if best is not None and each.seed == best.seed else None,
        )
        for each in records
    ]
    parts = [
        tag("h2", "Look inside a seed"),
        paragraph("Its curves above are drawn stronger.", class_="muted"),
        tag("select", *options, data_seeds="", aria_label="seed"),
    ]
    for record in records:
        shown = {} if best is not None and record.seed == best.seed else {"hidden": "hidden"}
        inside = _inside(run, record)
        inside += seed_film(run, record) if record.seed in filmed else []
        parts.append(tag("div", *inside, data_inside=str(record.seed), **shown))
    return "\n".join(parts)


def seed_film(run: RunEvidence, record: SeedRecord) -> list[str]:
    """The seed's snapshots as a figure with a slider; nothing where there are none to be shown."""
    try:
        kept = read_snapshots(run.path, record.seed) if run.kind == "run" else None
    except Failure as failure:
        return [paragraph(f"{failure}.", class_="no")]
    if kept is None or not kept.steps or not _opens(kept.config.model):
        return []
    histories = {history.seed: history for history in run.histories}
    return [film(kept, histories.get(record.seed))]


def _opens(config: Architecture) -> bool:
    """Whether a model's tables can be had without running a file that was not named."""
    at_hand = not isinstance(config, FileModel) or config.at_hand
    return at_hand and why_not_trained_by_tables(config) is None


def _offered(records: tuple[SeedRecord, ...], most: int) -> list[SeedRecord]:
    ranked = sorted(records, key=lambda each: (-each.last_exact, each.seed))
    if len(ranked) <= most:
        return sorted(ranked, key=lambda each: each.seed)
    half = most // 2
    return sorted([*ranked[:half], *ranked[-half:]], key=lambda each: each.seed)


def _inside(run: RunEvidence, record: SeedRecord) -> list[str]:
    parts = [paragraph(_ended(record))]
    if record.step_accuracy:
        names = [f"s_{i}" for i in range(len(record.step_accuracy))]
        parts.append(table(names, [[percent(each) for each in record.step_accuracy]]))
    model = _checkpoint(run, record)
    if model is None:
        why = "No checkpoint of it was kept: adderlab train --keep all keeps one of every seed."
        return [*parts, paragraph(why, class_="muted")]
    if isinstance(model.config, FileModel) and not model.config.at_hand:
        return [*parts, paragraph(f"Looking into it would run {model.config.file}.", class_="muted")]
    reason = why_not_trained_by_tables(model.config)
    if reason:
        return [*parts, paragraph(f"No attention maps: {reason}.", class_="muted")]
    attention, names = charts.where_it_looks(model)
    for head, grid in enumerate(attention):
        many = f", head {head}" if len(attention) > 1 else ""
        title = f"Where each step of seed {record.seed} looks{many}"
        caption = f"Of its checkpoint at step {model.step:,}; mean weight over uniform pairs."
        drawing = charts.attention_cells(grid, names, f"seed {record.seed}, head {head}")
        parts.append(figure(title, drawing, escape(caption), wide=True))
    return parts


def _ended(record: SeedRecord) -> str:
    missing = [f"s_{i}" for i, each in enumerate(record.step_accuracy or ()) if each < LEARNED]
    steps = f"; not learned: {', '.join(missing)}" if missing else ""
    return (
        f"Seed {record.seed}: {record.status} after {record.steps:,} steps, exact match "
        f"{percent(record.last_exact)} at the end, {percent(record.best_exact)} at best{steps}."
    )


def _checkpoint(run: RunEvidence, record: SeedRecord) -> Checkpoint | None:
    """The seed's own, if one was kept and can be read."""
    if run.checkpoint is not None and run.checkpoint.seed == record.seed:
        return run.checkpoint
    kept = seed_folder(run.path, record.seed) / "checkpoints" / "best.pt"
    for file in (None if record.checkpoint is None else run.path / record.checkpoint, kept):
        if file is not None and file.is_file():
            try:
                return load_checkpoint(file)
            except Failure:
                return None
    return None


# The film of a seed.


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
