"""Pieces of the report's page: HTML helpers, the model from inside, evaluations and failures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from adderlab.evaluation.intervals import clopper_pearson, percent
from adderlab.evaluation.predict import Prediction
from adderlab.report import charts
from adderlab.report.anatomy import Anatomy
from adderlab.report.evidence import RunEvidence
from adderlab.report.findings import count_text, evaluation_finding, proof_finding
from adderlab.report.judgements import CertificateRecord, EvaluationRecord
from adderlab.report.svg import tag
from adderlab.task.digits import SUM_DIGITS


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
