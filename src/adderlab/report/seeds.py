"""A seed of a run that the reader chooses: what became of it, which answer steps it has, and where each
of its steps looks, failed ones too. HTML for the report.
"""

from __future__ import annotations

from html import escape

from adderlab.errors import Failure
from adderlab.format import percent
from adderlab.models.tables import why_not_trained_by_tables
from adderlab.models.transformer import Architecture
from adderlab.reading.file_model import FileModel
from adderlab.report import figures as charts
from adderlab.report.evidence import RunEvidence
from adderlab.report.film import film
from adderlab.report.html import figure, paragraph, table, tag
from adderlab.runs.checkpoints import Checkpoint, load_checkpoint
from adderlab.runs.folder import seed_folder
from adderlab.runs.records import LEARNED, SeedRecord
from adderlab.runs.stored import read_snapshots

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
