"""The sections of a report: what became of seeds and cells, the best checkpoint from inside, results.

Every function gives HTML.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

from adderlab.evaluation.exact import Prediction
from adderlab.evaluation.intervals import clopper_pearson
from adderlab.format import percent, tick
from adderlab.report import figures as charts
from adderlab.report.anatomy import Anatomy
from adderlab.report.describe import (
    count_or_bounds,
    describe_cell,
    describe_evaluation,
    describe_proofs,
    describe_spent,
)
from adderlab.report.evidence import CertificateRecord
from adderlab.report.history import RunEvidence
from adderlab.report.html import figure, key, paragraph, table, tag
from adderlab.runs.records import SeedRecord
from adderlab.task.layouts import SUM_DIGITS

MOST_ROWS = 40
"""A longer table of seeds is folded."""
MOST_CELLS = 48
"""Of a sweep, whose curves are drawn."""

_RAMP = 'none <span class="ramp"></span> all. '
"""The legend of a grid of cells."""


def curves(run: RunEvidence) -> str:
    """Exact match, success rate, answer steps learned and loss over training steps."""
    histories, best, legend = run.histories, run.best, _legend(run)
    several = len(histories) > 1
    figures = [
        figure(
            "Grokking",
            charts.grokking(histories, best),
            f"Exact match on each seed's own validation pairs. {legend}",
        )
    ]
    if several:
        caption = f"A seed counts while it is at 99% or more. {key('band', '95% Wilson interval')}"
        figures.append(figure("Success rate", charts.success(histories), caption))
    if several and any(history.last.step_acc for history in histories):
        caption = f"Of eleven; a step is learned at 99%. {legend}"
        figures.append(figure("Answer steps learned", charts.learned(histories, best), caption))
    figures.append(figure("Loss", charts.losses(histories, best), f"Of one training batch. {legend}"))
    return tag("div", *figures, class_="figures")


def _legend(run: RunEvidence) -> str:
    legend = key("best", f"best seed {run.best.seed}") if run.best else ""
    if len(run.histories) > 1:
        legend += key("median", "median") + key("band", "middle 80% of the seeds")
        legend += key("seed", "every seed") if len(run.histories) <= charts.MOST_LINES else ""
    return legend


def digits(run: RunEvidence) -> str:
    """When each answer digit was learned, of the best seed and of all."""
    histories = [s for s in run.histories if s.last.step_acc]
    if not histories:
        return paragraph(
            "The metric tables do not hold the answer steps one by one (the published program's form)."
        )
    best, figures = run.best, []
    if best is not None and best.last.step_acc:
        since = [(i, best.learned_since(i)) for i in range(SUM_DIGITS)]
        known = ", ".join(f"s_{i} {tick(step)}" for i, step in since if step is not None)
        never = ", ".join(f"s_{i}" for i, step in since if step is None)
        caption = f"Accuracy given the correct earlier digits: {_RAMP}"
        caption += escape(f"Learned (99%) for good since step: {known or 'none'}.")
        caption += escape(f" Not learned: {never}." if never else "")
        figures.append(
            figure(f"Answer steps over time: seed {best.seed}", charts.step_heat(best), caption)
        )
    if len(histories) > 1:
        caption = f"Share of the seeds that have learned (99%) each step: {_RAMP}"
        figures.append(
            figure("Answer steps over time: all seeds", charts.learned_heat(histories), caption)
        )
        caption = f"Accuracy of each answer step at the last evaluation: {_RAMP}"
        figures.append(
            figure("Where every seed ended", charts.final_heat(histories), caption, wide=True)
        )
    return tag("h2", "When each answer digit was learned") + tag("div", *figures, class_="figures")


def inside(run: RunEvidence, anatomy: Anatomy) -> str:
    """The best checkpoint: where it looks, its embeddings, its margins, its worst pair."""
    checkpoint = run.checkpoint
    assert checkpoint is not None
    where = f"Seed {checkpoint.seed}, step {checkpoint.step:,}."
    parts = [tag("h2", "Inside the best checkpoint"), paragraph(where, class_="muted")]
    figures = []
    if anatomy.no_tables:
        parts.append(paragraph(f"No attention maps: the model has no table form ({anatomy.no_tables})."))
    for head in range(len(anatomy.attention_HIP)):
        many = f", head {head}" if len(anatomy.attention_HIP) > 1 else ""
        caption = f"Mean weight over 2,000 uniform pairs, from the tables: {_RAMP}"
        figures.append(
            figure(
                f"Where each answer step looks{many}",
                charts.attention(anatomy, head),
                caption,
                wide=True,
            )
        )
    figures.append(
        figure(
            "Digits",
            charts.scatter(anatomy.digits),
            "Token embedding of the ten digits, joined in order.",
        )
    )
    if anatomy.positions is None:
        parts.append(
            paragraph(
                "The model has no position embedding (rotary positions), so there is no plot of one."
            )
        )
    else:
        caption = (
            "Position embedding. " + key("a", "digits of a") + key("b", "of b") + key("s", "of the sum")
        )
        figures.append(
            figure("Positions", charts.scatter(anatomy.positions, anatomy.position_kinds), caption)
        )
    figures.append(_margin_figure(run, anatomy))
    figures.append(_worst(run, anatomy))
    return "\n".join([*parts, tag("div", *figures, class_="figures")])


def _margin_figure(run: RunEvidence, anatomy: Anatomy) -> str:
    certificate = run.proof
    bounds = certificate.step_bounds if certificate is not None else ()
    caption = escape(
        f"Logit of the correct digit minus the largest other, on {anatomy.num_pairs:,} pairs: uniform "
        "ones, long carries and nines; negative is wrong. Coloured dot: smallest; bar: 1% to median of "
        "the uniform pairs. "
    )
    caption += key("bound", "bound over all 10^20 pairs, from the certificate") if bounds else escape(
        "No certificate gives bounds over all pairs."
    )  # fmt: skip
    return figure("Margin by answer step", charts.margins(anatomy, bounds), caption)


def _worst(run: RunEvidence, anatomy: Anatomy) -> str:
    """The pair with the smallest margin, and what the model answers."""
    worst, certificate = anatomy.worst, run.proof
    smallest = min(margin.smallest for margin in anatomy.margins)
    answered = "correctly" if worst.right else "WRONGLY"
    caption = [f"Of the sampled pairs: margin {smallest:.4g} logits, answered {answered}."]
    if certificate is not None:
        a, b = certificate.pair
        smallest = f"{certificate.margin_witness:.4g} logits at {a} + {b}"
        caption.append(f"Of all 10^20 pairs, by the proof search: {smallest}.")
    return tag(
        "figure",
        tag("h3", "The worst pair"),
        _sum_text(worst),
        tag("figcaption", escape(" ".join(caption))),
    )


def _sum_text(worst: Prediction) -> str:
    """The addition in columns, wrong digits marked."""
    right = f"{worst.right_sum:0{SUM_DIGITS}d}"
    # A token that is no digit has a name of several letters; its column shows a question mark.
    got = [str(token) if token < 10 else "?" for token in reversed(worst.tokens)]
    marked = "".join(
        digit if digit == want else tag("span", digit, class_="wrong")
        for digit, want in zip(got, right, strict=True)
    )
    rows = (("a", f"{worst.a:>11}"), ("b", f"{worst.b:>11}"), ("sum", right), ("answered", marked))
    return tag("div", "\n".join(f"{name:<9}{number}" for name, number in rows), class_="sum")


SEED_COLUMNS = (
    "seed",
    "status",
    "steps",
    "exact at the end",
    "best exact",
    "at step",
    "answer steps",
    "99% first at",
    "verdict",
    "failing pairs",
    "smallest margin",
    "core-s training",
    "core-s proving",
)


def seeds(run: RunEvidence) -> str:
    """What became of each seed, in the order in which they were begun."""
    proofs = {proof.seed: proof for proof in run.proofs}
    rows = [_seed_row(record, proofs.get(record.seed)) for record in run.seeds]
    # A column of which nothing is known is left out.
    known = [k for k in range(len(SEED_COLUMNS)) if any(row[k] for row in rows)]
    listed = table(
        [SEED_COLUMNS[k] for k in known],
        [[row[k] for k in known] for row in rows],
        numeric=[place for place, k in enumerate(known) if SEED_COLUMNS[k] not in ("status", "verdict")],
    )
    if len(rows) > MOST_ROWS:
        listed = tag("details", tag("summary", f"All {len(rows)} seeds"), listed)
    return tag("h2", "What became of each seed") + listed


def _seed_row(record: SeedRecord, proof: CertificateRecord | None) -> list[str]:
    verdict = "proved after repair" if record.route == "assisted" else record.verdict or ""
    return [
        str(record.seed),
        record.status,
        f"{record.steps:,}",
        percent(record.last_exact),
        percent(record.best_exact),
        f"{record.best_step:,}",
        str(record.steps_learned) if record.step_accuracy else "",
        _shown(record.first_success_step, "{:,}"),
        verdict,
        "" if proof is None else count_or_bounds(proof.failing_pairs),
        "" if proof is None else f"{proof.margin_witness:.4g}",
        _shown(record.training_core_seconds, "{:,.1f}"),
        _shown(record.proving_core_seconds, "{:,.1f}"),
    ]


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def cells(sweep: RunEvidence) -> str:
    """A sweep's cells, the best first: their settings and rates, then the curves of the best."""
    settings = list(dict.fromkeys(name for cell in sweep.cells for name in cell.settings))
    head = ["cell", *settings, "status", "seeds at 99%, 95% Wilson interval", "proved", "99% first at"]
    rows = []
    for cell in sweep.cells:
        reached = [each.first_success_step for each in cell.seeds if each.first_success_step is not None]
        rows.append(
            [
                cell.name,
                *(_setting(cell.settings.get(name)) for name in settings),
                cell.status,
                "no evaluation" if cell.success is None else str(cell.success),
                "" if cell.proved is None else str(cell.proved),
                f"{min(reached):,}" if reached else "never",
            ]
        )
    figures = [
        figure(describe_cell(cell), charts.grokking(cell.histories, cell.best), _legend(cell))
        for cell in sweep.cells[:MOST_CELLS]
        if cell.histories
    ]
    parts = [tag("h2", "Cells, the best first"), table(head, rows)]
    if len(sweep.cells) > MOST_CELLS:
        parts.append(paragraph(f"Curves are drawn of the best {MOST_CELLS} cells.", class_="muted"))
    return "\n".join([*parts, tag("div", *figures, class_="figures")])


def _setting(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def best_file(run: RunEvidence) -> Path:
    """Where the best checkpoint lies."""
    best = run.best_record
    if run.kind == "run" or best is None or best.checkpoint is None:
        return run.path / "checkpoints" / "best.pt"
    return run.path / best.checkpoint


def results(run: RunEvidence) -> str:
    """Evaluations, failures, certificates."""
    parts = [tag("h2", "Evaluations and failures")]
    records = run.evaluations_of_best
    if not records:
        where = best_file(run)
        parts.append(
            paragraph(f"No evaluation is in the run folder. adderlab evaluate {where} makes one.")
        )
    for record in records:
        parts.append(paragraph(describe_evaluation(record)))
        if record.failures:
            rows = [[f.a, f.b, f.a + f.b, f.answer] for f in record.failures]
            head = ("a", "b", "sum", "answered")
            parts.append(table(head, [[str(c) for c in row] for row in rows], numeric=range(4)))
        if 1 < len(record.groups) <= 40 and record.errors:
            rows = [_group_row(*group) for group in record.groups]
            by_group = table(("group", "pairs", "wrong", "exact match"), rows, numeric=(1, 2, 3))
            parts.append(tag("details", tag("summary", "By group"), by_group))
    sentences = (describe_proofs(run), describe_spent(run))
    return "\n".join([*parts, *(paragraph(sentence) for sentence in sentences if sentence)])


def _group_row(name: str, n: int, errors: int) -> list[str]:
    return [name, f"{n:,}", f"{errors:,}", percent(1 - clopper_pearson(errors, n).value)]
