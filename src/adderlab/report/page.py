"""A run's report as one HTML file: no script, nothing fetched, readable in light and dark.

The top answers what a reader asks first: did it grok, how many seeds, since when, proved?
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from adderlab.evaluation.exact import Prediction
from adderlab.evaluation.intervals import clopper_pearson, percent
from adderlab.report import figures as charts
from adderlab.report.anatomy import Anatomy
from adderlab.report.comparison import (
    Comparison,
    compare,
    seeds_text,
    unique_names,
)
from adderlab.report.describe import as_typed, environment_text
from adderlab.report.history import CertificateRecord, EvaluationRecord, RunEvidence, flat_settings
from adderlab.report.log import count_text, evaluation_finding, proof_finding, run_finding, success_rate
from adderlab.report.svg import STYLE, tag, thousands
from adderlab.runs.environment import now
from adderlab.task.digits import SUM_DIGITS

# Pieces of the report's page: HTML helpers, the model from inside, evaluations and failures.


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A run with its best checkpoint looked into; None without a readable checkpoint."""

    run: RunEvidence
    anatomy: Anatomy | None

    @property
    def evaluations(self) -> list[EvaluationRecord]:
        """Of the best checkpoint; files that name no weights are taken at their word."""
        checkpoint = self.run.checkpoint
        if checkpoint is None:
            return list(self.run.evaluations)
        known = (None, checkpoint.weights_sha256)
        return [e for e in self.run.evaluations if e.weights_sha256 in known]


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


def key(kind: str, words: str) -> str:
    """An entry of a legend; ``kind`` is a colour of the style sheet."""
    return tag("span", tag("span", class_=f"key k-{kind}"), escape(words), class_="entry")


RAMP = 'none <span class="ramp"></span> all. '


def inside(subject: Subject, anatomy: Anatomy) -> str:
    checkpoint = subject.run.checkpoint
    assert checkpoint is not None
    where = f"checkpoints/best.pt: seed {checkpoint.seed}, step {checkpoint.step:,}"
    parts = [tag("h2", "Inside the best checkpoint"), paragraph(where, class_="muted")]
    figures = []
    if anatomy.no_tables:
        parts.append(paragraph(f"No attention maps: the model has no table form ({anatomy.no_tables})."))
    for head in range(len(anatomy.attention_HIP)):
        many = f", head {head}" if len(anatomy.attention_HIP) > 1 else ""
        caption = f"Mean weight over 2,000 uniform pairs, from the tables: {RAMP}"
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
    figures.append(_margin_figure(subject, anatomy))
    figures.append(_worst(subject, anatomy))
    return "\n".join([*parts, tag("div", *figures, class_="figures")])


def _margin_figure(subject: Subject, anatomy: Anatomy) -> str:
    certificate = subject.run.proof
    bounds = certificate.step_bounds if certificate is not None else ()
    caption = escape(
        f"Logit of the right digit minus the best other, on {anatomy.num_pairs:,} pairs, uniform ones "
        "and long carries and nines; negative is wrong. Coloured dot: smallest; bar: 1% to median of "
        "the uniform pairs. "
    )
    caption += key("bound", "bound over all 10^20 pairs, from the certificate") if bounds else escape(
        "No certificate gives bounds over all pairs."
    )  # fmt: skip
    return figure("Margin by answer step", charts.margins(anatomy, bounds), caption)


def _worst(subject: Subject, anatomy: Anatomy) -> str:
    """The pair with the smallest margin, and what the model answers."""
    worst, certificate = anatomy.worst, subject.run.proof
    smallest = min(margin.smallest for margin in anatomy.margins)
    answered = "rightly" if worst.right else "WRONGLY"
    told = [f"Of the sampled pairs: margin {smallest:.4g} logits, answered {answered}."]
    if certificate is not None:
        a, b = certificate.pair
        smallest = f"{certificate.margin_witness:.4g} logits at {a} + {b}"
        told.append(f"Of all 10^20 pairs, by the proof search: {smallest}.")
    return tag(
        "figure",
        tag("h3", "The worst pair"),
        _sum_text(worst),
        tag("figcaption", escape(" ".join(told))),
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


def judgements(subject: Subject) -> str:
    """Evaluations, failures, certificates."""
    parts = [tag("h2", "Evaluations and failures")]
    records = subject.evaluations
    if not records:
        where = subject.run.path / "checkpoints" / "best.pt"
        parts.append(
            paragraph(f"No evaluation is in the run folder. adderlab evaluate {where} makes one.")
        )
    for record in records:
        parts.append(paragraph(evaluation_finding(record)))
        if record.failures:
            rows = [[f.a, f.b, f.a + f.b, f.answer] for f in record.failures]
            head = ("a", "b", "sum", "answered")
            parts.append(table(head, [[str(c) for c in row] for row in rows], numeric=range(4)))
        if 1 < len(record.groups) <= 40 and record.errors:
            rows = [_group_row(*group) for group in record.groups]
            by_group = table(("group", "pairs", "wrong", "exact match"), rows, numeric=(1, 2, 3))
            parts.append(tag("details", tag("summary", "By group"), by_group))
    parts += [paragraph(proof) for proof in (proof_finding(subject.run),) if proof]
    if subject.run.proofs:
        head = ("seed", "verdict", "failing pairs", "smallest margin", "at")
        parts.append(table(head, [_proof_row(proof) for proof in subject.run.proofs], numeric=(0, 2, 3)))
    return "\n".join(parts)


def _proof_row(proof: CertificateRecord) -> list[str]:
    failing, (a, b) = count_text(proof.failing_pairs), proof.pair
    return [str(proof.seed), proof.verdict, failing, f"{proof.margin_witness:.4g}", f"{a} + {b}"]


def _group_row(name: str, n: int, errors: int) -> list[str]:
    return [name, f"{n:,}", f"{errors:,}", percent(1 - clopper_pearson(errors, n).value)]


def report_html(subjects: Sequence[Subject]) -> str:
    """The whole file."""
    assert subjects
    names = unique_names([subject.run for subject in subjects])
    title = names[0] if len(names) == 1 else f"{len(names)} runs"
    parts = []
    if len(subjects) > 1:
        parts.append(_overview(subjects, names))
    for number, (subject, name) in enumerate(zip(subjects, names, strict=True)):
        parts.append(_section(subject, name, number, alone=len(subjects) == 1))
    parts.append(paragraph(f"Written by adderlab report, {now()}.", class_="muted"))
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)} - adderlab report</title><style>{STYLE}</style>"
    )
    body = "\n".join(parts)
    page = f"<head>{head}</head>\n<body><main>\n{body}\n</main></body>"
    return f'<!DOCTYPE html>\n<html lang="en">{page}</html>\n'


# The top


def _section(subject: Subject, name: str, number: int, *, alone: bool) -> str:
    run = subject.run
    heading = tag("h1" if alone else "h2", escape(name), id=f"run-{number}")
    parts = [
        heading,
        paragraph(_what(run), class_="muted"),
        paragraph(run_finding(run), class_="lead"),
        _tiles(subject),
    ]
    parts += [paragraph(f"Missing or damaged: {problem}.", class_="no") for problem in run.problems]
    if run.histories:
        parts.append(_curves(subject))
        parts.append(_digits(subject))
    if subject.anatomy is not None:
        parts.append(inside(subject, subject.anatomy))
    parts.append(judgements(subject))
    if run.notes:
        parts += [tag("h2", "Remarks"), tag("pre", escape(run.notes))]
    parts.append(_settings(run))
    return "\n".join(parts)


def _what(run: RunEvidence) -> str:
    pieces = []
    if run.summary is not None:
        pieces.append(f"{run.summary['params']} parameters")
    if run.config is not None:
        seeds = run.config.seeds
        word = "seeds" if len(seeds) > 1 else "seed"
        pieces.append(f"{len(seeds)} {word} ({seeds_text(seeds)}), {run.config.train_steps:,} steps")
    pieces.append(f"status: {run.status}")
    if run.started:
        pieces.append(f"started {run.started}")
    pieces.append(environment_text(run.environment))
    return " | ".join(pieces)


def _tile(ask: str, answer: str, more: str, mood: str) -> str:
    return tag(
        "div",
        tag("div", escape(ask), class_="ask"),
        tag("div", escape(answer), class_=f"answer {mood}"),
        tag("div", escape(more), class_="more"),
        class_="tile",
    )


def _tiles(subject: Subject) -> str:
    """Did it grok, how many, since when, proved?"""
    run, rate = subject.run, success_rate(subject.run)
    unknown = ("not known", "the metric tables are missing")
    tiles = []
    if rate is None:
        tiles += [
            _tile(ask, *unknown, "open") for ask in ("Did it grok?", "How many seeds?", "Since when?")
        ]
    else:
        best = run.best
        assert best is not None
        if rate.count:
            more = f"best seed {best.seed}: {percent(best.best.val_exact)} on its validation pairs"
            more += "".join(
                f"; {e.errors:,} of {e.n:,} pairs wrong ({e.suite})" for e in subject.evaluations
            )
            tiles.append(_tile("Did it grok?", "Yes", more, "yes"))
        else:
            learned = (
                f"{sum(best.learned)} of 11 answer steps" if best.learned else "answer steps unknown"
            )
            more = f"best seed {best.seed}: {percent(best.best.val_exact)} exact, {learned}"
            tiles.append(_tile("Did it grok?", "No", more, "no"))
        interval = (
            f"rate {percent(rate.value)}, 95% interval {percent(rate.low)} to {percent(rate.high)}"
        )
        tiles.append(
            _tile(
                "How many seeds?", f"{rate.count} of {rate.n}", interval, "yes" if rate.count else "no"
            )
        )
        tiles.append(_since(run))
    tiles.append(_proved(subject))
    return tag("div", *tiles, class_="tiles")


def _since(run: RunEvidence) -> str:
    reached = sorted(s.grokked_at for s in run.histories if s.grokked_at is not None)
    if not reached:
        last = max(history.last.step for history in run.histories)
        return _tile("Since when?", "never", f"watched until step {last:,}", "no")
    more = "first evaluation at 99% or more"
    if len(reached) > 1:
        more += f"; median of those {len(reached)} seeds: step {reached[len(reached) // 2]:,}"
    return _tile("Since when?", f"step {reached[0]:,}", more, "yes")


def _proved(subject: Subject) -> str:
    certificate = subject.run.proof
    if certificate is None:
        where = subject.run.path / "checkpoints" / "best.pt"
        return _tile("Proved?", "not tried", f"adderlab prove {where}", "open")
    others = subject.run.num_proved - (certificate.verdict == "proved")
    also = f"; {others} more of its models proved" if others > 0 else ""
    if certificate.verdict == "proved":
        bound = certificate.margin_bound
        margin = "" if bound is None else f", every margin at least {bound:.3g}"
        return _tile("Proved?", "Yes", f"all 10^20 pairs{margin}{also}", "yes")
    if certificate.verdict == "refuted":
        return _tile(
            "Proved?",
            "Refuted",
            f"{count_text(certificate.failing_pairs)} of 10^20 pairs fail{also}",
            "no",
        )
    return _tile(
        "Proved?", "Undecided", f"{count_text(certificate.failing_pairs)} pairs may fail{also}", "open"
    )


# What happened


def _curves(subject: Subject) -> str:
    histories, best = subject.run.histories, subject.run.best
    several = len(histories) > 1
    legend = key("best", f"best seed {best.seed}") if best else ""
    if several:
        legend += key("median", "median") + key("band", "middle 80% of the seeds")
        legend += key("seed", "every seed") if len(histories) <= charts.MOST_LINES else ""
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


def _digits(subject: Subject) -> str:
    """Which answer digit locked in when."""
    histories = [s for s in subject.run.histories if s.last.step_acc]
    if not histories:
        return paragraph(
            "The metric tables do not tell the answer steps apart (the published program's form)."
        )
    best, figures = subject.run.best, []
    if best is not None and best.last.step_acc:
        locked = [(i, best.locked_in(i)) for i in range(SUM_DIGITS)]
        known = ", ".join(f"s_{i} {thousands(step)}" for i, step in locked if step is not None)
        never = ", ".join(f"s_{i}" for i, step in locked if step is None)
        caption = f"Accuracy given the right earlier digits: {RAMP}"
        caption += escape(f"Learned (99%) for good since step: {known or 'none'}.")
        caption += escape(f" Not learned: {never}." if never else "")
        figures.append(
            figure(f"Answer steps over time: seed {best.seed}", charts.step_heat(best), caption)
        )
    if len(histories) > 1:
        caption = f"Share of the seeds that have learned (99%) each step: {RAMP}"
        figures.append(
            figure("Answer steps over time: all seeds", charts.learned_heat(histories), caption)
        )
        caption = f"Accuracy of each answer step at the last evaluation: {RAMP}"
        figures.append(
            figure("Where every seed ended", charts.final_heat(histories), caption, wide=True)
        )
    return tag("h2", "Which answer digit locked in when") + tag("div", *figures, class_="figures")


# The end


def _settings(run: RunEvidence) -> str:
    parts = [tag("h2", "Configuration")]
    if run.config is not None and run.config.command:
        parts.append(tag("pre", escape(shlex.join(as_typed(run.config.command)))))
    rows = [[name, _plain(value)] for name, value in flat_settings(run).items()]
    rows += [[f"environment.{name}", _plain(value)] for name, value in run.environment.items()]
    settings = table(("setting", "value"), rows)
    summary = tag("summary", "All settings and the environment")
    return "\n".join([*parts, tag("details", summary, settings)])


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _overview(subjects: Sequence[Subject], names: Sequence[str]) -> str:
    """Several runs at a glance."""
    rows = []
    for subject, name in zip(subjects, names, strict=True):
        rate = success_rate(subject.run)
        certificate = subject.run.proof
        reached = [s.grokked_at for s in subject.run.histories if s.grokked_at is not None]
        rows.append(
            [
                name,
                "no evaluation" if rate is None else str(rate),
                f"step {min(reached):,}" if reached else "never",
                "not tried" if certificate is None else certificate.verdict,
            ]
        )
    head = ("run", "seeds at 99%, 95% Wilson interval", "first at", "best checkpoint proved?")
    parts = [tag("h1", f"{len(subjects)} runs"), table(head, rows)]
    if all(subject.run.histories for subject in subjects):
        parts.append(_contrasts(compare([subject.run for subject in subjects])))
    return "\n".join(parts)


def _contrasts(comparison: Comparison) -> str:
    rows = []
    for run in comparison.runs:
        c = run.contrast
        if c is not None:
            log_rank = "no seed grokked" if c.log_rank_p is None else f"{c.log_rank_p:.2g}"
            difference = f"{100 * c.difference:+.1f} points [{100 * c.low:+.1f}, {100 * c.high:+.1f}]"
            rows.append([run.name, difference, f"{c.fisher_p:.2g}", f"{c.fisher_holm_p:.2g}", log_rank])
    first = comparison.runs[0].name
    head = ("run", f"success rate against {first}", "Fisher p", "Holm", "log-rank p (steps to grok)")
    parts = [table(head, rows)]
    if comparison.differing:
        names = ["setting", *(run.name for run in comparison.runs)]
        settings = [[name, *map(_plain, values)] for name, values in comparison.differing]
        parts.append(tag("details", tag("summary", "Settings that differ"), table(names, settings)))
    return "\n".join(parts)
