"""A report as one HTML file: nothing fetched, readable in light and dark. Its script (``report.js``)
shows values under the pointer and the seed that the reader chooses, and plays its film (``player.js``);
without it the rest is there.

The top answers what a reader asks first: did it grok, how many seeds, since when, proved?
"""

from __future__ import annotations

import json
import math
import shlex
import statistics
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from adderlab.evaluation.exact import Prediction
from adderlab.evaluation.suites import Rate, clopper_pearson
from adderlab.format import as_typed, duration, percent, seed_list, tick
from adderlab.reading.file_model import FileModel
from adderlab.report import figures as charts
from adderlab.report.comparison import Comparison, compare_runs, unique_names
from adderlab.report.describe import (
    count_or_bounds,
    describe_cell,
    describe_environment,
    describe_evaluation,
    describe_model,
    describe_proofs,
    describe_recipe,
    describe_run,
    describe_spent,
)
from adderlab.report.evidence import (
    CertificateRecord,
    RunEvidence,
    SeedHistory,
    flat_settings,
    populations,
)
from adderlab.report.figures import Anatomy, dissect
from adderlab.report.html import code, figure, key, page, paragraph, table, tag, tile
from adderlab.report.seeds import seed_choice, seed_film
from adderlab.runs.metadata import MODEL_FILE, kind_of_start, now
from adderlab.runs.records import SeedRecord


def report_page(runs: Sequence[RunEvidence]) -> str:
    """The whole file. Looks into every best checkpoint: some seconds of one core for each."""
    assert runs
    names = unique_names(runs)
    alone = len(runs) == 1
    parts = [] if alone else [_overview(runs)]
    parts += [
        _run(run, name, number, alone=alone)
        for number, (run, name) in enumerate(zip(runs, names, strict=True))
    ]
    parts.append(paragraph(f"Written by adderlab report, {now()}.", class_="muted"))
    title = names[0] if alone else f"{len(names)} runs"
    parts.append(f"<script>\n{code('report.js', 'player.js')}</script>")
    return page(f"{title} - adderlab report", "\n".join(parts))


def _run(run: RunEvidence, name: str, number: int, *, alone: bool) -> str:
    """Everything about one run."""
    parts = [
        tag("h1" if alone else "h2", escape(name), id=f"run-{number}"),
        *(paragraph(line, class_="muted") for line in _about(run)),
        paragraph(describe_run(run), class_="lead"),
        _tiles(run),
    ]
    parts += [paragraph(f"Missing or damaged: {problem}.", class_="no") for problem in run.problems]
    if run.kind == "sweep":
        parts.append(_cells(run))
    else:
        parts += _population(run)
    if run.notes:
        parts += [tag("h2", "Remarks"), tag("pre", escape(run.notes))]
    parts.append(_settings(run))
    return tag("div", "\n".join(parts), data_run=str(number))


def _population(run: RunEvidence) -> list[str]:
    """The sections on seeds of one model and recipe: of a run, a search or a rate."""
    parts = [_curves(run), seed_choice(run), _digits(run)] if run.histories else []
    if len(run.seeds) == 1:
        parts += seed_film(run, run.seeds[0])
    if len(run.seeds) > 1 or run.kind != "run":
        parts.append(_seeds(run))
    if run.checkpoint is not None:
        config = run.checkpoint.config
        if isinstance(config, FileModel) and not config.at_hand:
            parts.append(_unopened(config))
        else:
            parts.append(_inside(run, dissect(run.checkpoint)))
    return [*parts, _results(run)]


def _about(run: RunEvidence) -> list[str]:
    """Model, recipe, seeds, date; then how far it is, and where it ran."""
    date = run.started[:10] or "not recorded"
    # A search is given where to start, not where to end; the cells of a sweep share their seeds.
    seeds = list(dict.fromkeys(record.seed for record in run.seeds))
    count = f"{len(seeds)} seed{'s' if len(seeds) != 1 else ''}"
    what = [f"{count}: {seed_list(seeds)}", f"date: {date}"]
    if run.config is not None:
        recipe = (
            f"{describe_recipe(run.config.recipe, run.config.model)}, {run.config.train_steps:,} steps"
        )
        recipe += f", start {kind_of_start(run.config.recipe)}"
        what = [f"model: {describe_model(run.config.model)}", f"recipe: {recipe}", *what]
    what = [run.kind, *what] if run.kind != "run" else what
    return [" | ".join(what), f"status: {run.status} | {describe_environment(run.environment)}"]


def _tiles(run: RunEvidence) -> str:
    """Did it grok, how many, since when, proved? Of a sweep, which cell is best."""
    if run.kind == "sweep":
        return tag("div", *_sweep_tiles(run), class_="tiles")
    return tag("div", *_success_tiles(run), _proved(run), *_cost(run), class_="tiles")


def _sweep_tiles(sweep: RunEvidence) -> list[str]:
    best = sweep.cells[0] if sweep.cells else None
    counts = Counter(cell.status for cell in sweep.cells)
    states = ", ".join(f"{n} {status}" for status, n in counts.items())
    tiles = [tile("How many cells?", str(len(sweep.cells)), states, "open")]
    if best is None or best.success is None:
        return [*tiles, tile("Which is best?", "not known", "no cell has been evaluated", "open")]
    mood = "yes" if best.success.count else "no"
    settings = ", ".join(f"{name} {_plain(value)}" for name, value in best.settings.items())
    rate = f"{best.success.count} of {best.success.n}"
    return [
        *tiles,
        tile("Which is best?", best.name, settings, mood),
        tile("How many of its seeds?", rate, _interval(best.success), mood),
    ]


def _interval(rate: Rate) -> str:
    return f"rate {percent(rate.value)}, 95% interval {percent(rate.low)} to {percent(rate.high)}"


def _cost(run: RunEvidence) -> list[str]:
    """What a search took; nothing for others."""
    spent = (run.summary or {}).get("spent")
    if not isinstance(spent, dict):
        return []
    more = f"{spent['core_seconds']:,.1f} core-seconds, {spent['seed_steps']:,} seed-steps"
    return [tile("What did it take?", duration(spent["wall_seconds"]), more, "open")]


def _success_tiles(run: RunEvidence) -> list[str]:
    asks = ("Did it grok?", "How many seeds?", "Since when?")
    rate, best = run.success, run.best_record
    if rate is None or best is None:
        return [tile(ask, "not known", "no seed has an evaluation on record", "open") for ask in asks]
    mood = "yes" if rate.count else "no"
    more = f"best seed {best.seed}: {percent(best.best_exact)}"
    if rate.count:
        more += " on its validation pairs"
        measured = run.evaluations_of_best
        more += "".join(f"; {e.errors:,} of {e.n:,} pairs wrong ({e.suite})" for e in measured)
    else:
        known = bool(best.step_accuracy)
        steps = (
            f"{best.steps_learned} of {best.sum_digits} answer steps"
            if known
            else "answer steps unknown"
        )
        more += f" exact, {steps}"
    return [
        tile(asks[0], "Yes" if rate.count else "No", more, mood),
        tile(asks[1], f"{rate.count} of {rate.n}", _interval(rate), mood),
        _since(run),
    ]


def _since(run: RunEvidence) -> str:
    reached = [each.first_success_step for each in run.seeds if each.first_success_step is not None]
    if not reached:
        last = max(record.steps for record in run.evaluated) - 1
        return tile("Since when?", "never", f"watched until step {last:,}", "no")
    more = "first evaluation at 99% or more"
    if len(reached) > 1:
        more += f"; median of those {len(reached)} seeds: step {statistics.median(reached):,.0f}"
    return tile("Since when?", f"step {min(reached):,}", more, "yes")


def _proved(run: RunEvidence) -> str:
    certificate = run.proof
    if certificate is None:
        return tile(
            "Proved?", "not tried", shlex.join(["adderlab", "prove", str(best_file(run))]), "open"
        )
    several = run.proved is not None and run.proved.n > 1
    also = f"; {run.proved.count} of {run.proved.n} seeds proved" if several and run.proved else ""
    failing, pairs = count_or_bounds(certificate.failing_pairs), certificate.addition.pairs_text
    if certificate.verdict == "proved":
        bound = certificate.margin_bound
        margin = "" if bound is None else f", every margin at least {bound:.3g}"
        return tile("Proved?", "Yes", f"all {pairs} pairs{margin}{also}", "yes")
    if certificate.verdict == "refuted":
        return tile("Proved?", "Refuted", f"{failing} of {pairs} pairs fail{also}", "no")
    return tile("Proved?", "Undecided", f"{failing} pairs may fail{also}", "open")


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


def _overview(runs: Sequence[RunEvidence]) -> str:
    """Several runs, or cells of sweeps, at a glance."""
    rows = []
    shown = populations(runs)
    for run, name in zip(shown, unique_names(shown), strict=True):
        reached = [each.first_success_step for each in run.seeds if each.first_success_step is not None]
        rows.append(
            [
                name,
                "no evaluation" if run.success is None else str(run.success),
                f"step {min(reached):,}" if reached else "never",
                "not tried" if run.proof is None else run.proof.verdict,
            ]
        )
    head = ("run", "seeds at 99%, 95% Wilson interval", "first at", "best checkpoint proved?")
    parts = [tag("h1", f"{len(runs)} runs"), table(head, rows)]
    if len(shown) > 1 and all(run.config and run.evaluated for run in shown):
        parts.append(_contrasts(compare_runs(runs)))
    return "\n".join(parts)


def _contrasts(comparison: Comparison) -> str:
    rows = [
        [run.name, c.points, f"{c.fisher_p:.2g}", f"{c.fisher_holm_p:.2g}", c.log_rank]
        for run in comparison.runs
        if (c := run.contrast) is not None
    ]
    first = comparison.runs[0].name
    head = ("run", f"success rate against {first}", "Fisher p", "Holm", "steps to grok")
    parts = [table(head, rows)]
    if comparison.differing:
        names = ["setting", *(run.name for run in comparison.runs)]
        settings = [[name, *map(_plain, values)] for name, values in comparison.differing]
        parts.append(tag("details", tag("summary", "Settings that differ"), table(names, settings)))
    return "\n".join(parts)


# The sections: what became of seeds and cells, the best checkpoint from inside, results. HTML.


MOST_ROWS = 40
"""A longer table of seeds is folded."""
MOST_CELLS = 48
"""Of a sweep, whose curves are drawn."""

_RAMP = 'none <span class="ramp"></span> all. '
"""The legend of a grid of cells."""


def _curves(run: RunEvidence) -> str:
    """Exact match, success rate, answer steps learned and loss over training steps."""
    histories, best, legend = run.histories, run.best, _legend(run)
    several, fitted = len(histories) > 1, best is not None and best.last.train_exact is not None
    # On a line of its own: a legend ends without a full stop.
    hidden = "".join(f"<br>{escape(line)}" for line in [charts.hidden_lines(histories, best)] if line)
    figures = [
        figure(
            "Grokking",
            charts.grokking(histories, best),
            f"Exact match on each seed's own validation pairs. {legend}{hidden}",
        )
    ]
    if fitted and best is not None:
        figures.append(_fitting(run, best))
    if several:
        caption = f"A seed counts while it is at 99% or more. {key('band', '95% Wilson interval')}"
        figures.append(figure("Success rate", charts.success(histories), caption))
    if several and any(history.last.step_acc for history in histories):
        digits = max(len(history.last.step_acc) for history in histories)
        count = "eleven" if digits == 11 else digits
        caption = f"Of {count}; a step is learned at 99%. {legend}"
        figures.append(figure("Answer steps learned", charts.learned(histories, best), caption))
    # Losses span decades: a pixel is some two hundredths of the value.
    logarithm = charts.median_hidden(
        histories, best, lambda m: math.log10(max(m.train_loss, 1e-9)), 0.02
    )
    caption = f"Of one training batch. {legend}"
    caption += f"<br>{escape(logarithm)}" if logarithm else ""
    figures.append(figure("Loss", charts.losses(histories, best), caption))
    if all(history.last.weight_norm is not None for history in histories):
        caption = f"Euclidean norm of all parameters of a seed. {legend}"
        figures.append(figure("Weight norm", charts.weight_norms(histories, best), caption))
    return tag("div", *figures, class_="figures")


def _fitting(run: RunEvidence, best: SeedHistory) -> str:
    """Of a run on a finite set of pairs: what it knows of them, and what of others."""
    recipe = run.config.recipe if run.config else {}
    pool = (recipe.get("data") or {}).get("pool")
    legend = key("train", "its training pairs") + key("best", "its validation pairs")
    more = "; dashed: medians of the seeds" if len(run.histories) > 1 else ""
    caption = f"Exact match of seed {best.seed} on {legend}{more}."
    caption += "" if pool is None else f" Each seed trains on {pool:,} pairs, drawn once."
    return figure("Training and validation pairs", charts.fitting(run.histories, best), caption)


def _legend(run: RunEvidence) -> str:
    legend = key("best", f"best seed {run.best.seed}") if run.best else ""
    if len(run.histories) > 1:
        legend += key("median", "median") + key("band", "middle 80% of the seeds")
        legend += key("seed", "every seed") if len(run.histories) <= charts.MOST_LINES else ""
    return legend


def _digits(run: RunEvidence) -> str:
    """When each answer digit was learned, of the best seed and of all."""
    histories = [s for s in run.histories if s.last.step_acc]
    if not histories:
        return paragraph(
            "The metric tables do not hold the answer steps one by one (the published program's form)."
        )
    best, figures = run.best, []
    if best is not None and best.last.step_acc:
        since = [(i, best.learned_since(i)) for i in range(len(best.last.step_acc))]
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


def _unopened(config: FileModel) -> str:
    """In the place of ``_inside``, of a model whose file was not named: nothing of it is run."""
    text = (
        f"Looking into it would run {config.file}: name that file, or the run's own {MODEL_FILE}, "
        "beside the run."
    )
    return tag("h2", "Inside the best checkpoint") + paragraph(text, class_="muted")


def _inside(run: RunEvidence, anatomy: Anatomy) -> str:
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
    if anatomy.digits is not None:
        figures.append(
            figure(
                "Digits",
                charts.scatter(anatomy.digits),
                "Token embedding of the ten digits, joined in order.",
            )
        )
    if anatomy.digits is None:
        parts.append(
            paragraph("No plots of embeddings: what the parts of a user's file are is not known.")
        )
    elif anatomy.positions is None:
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
    caption += key("bound", "bound over all pairs, from the certificate") if bounds else escape(
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
        caption.append(
            f"Of all {certificate.addition.pairs_text} pairs, by the proof search: {smallest}."
        )
    return tag(
        "figure",
        tag("h3", "The worst pair"),
        _sum_text(worst),
        tag("figcaption", escape(" ".join(caption))),
    )


def _sum_text(worst: Prediction) -> str:
    """The addition in columns, wrong digits marked."""
    task = worst.addition
    right, numeral = task.numeral(worst.right_sum, task.sum_digits), task.numeral
    wide = task.sum_digits
    # A token that is no digit has a name of several letters; its column shows a question mark.
    got = [numeral(token) if token < task.base else "?" for token in reversed(worst.tokens)]
    marked = "".join(
        digit if digit == want else tag("span", digit, class_="wrong")
        for digit, want in zip(got, right, strict=True)
    )
    rows = (
        ("a", numeral(worst.a).rjust(wide)),
        ("b", numeral(worst.b).rjust(wide)),
        ("sum", right),
        ("answered", marked),
    )
    return tag("div", "\n".join(f"{name:<9}{number}" for name, number in rows), class_="sum")


SEED_COLUMNS = (
    "seed",
    "status",
    "steps",
    "exact at the end",
    "best exact",
    "training pairs",
    "at step",
    "answer steps",
    "99% first at",
    "verdict",
    "failing pairs",
    "smallest margin",
    "core-s training",
    "core-s proving",
)


def _seeds(run: RunEvidence) -> str:
    """What became of each seed, in the order in which they were begun."""
    proofs = {proof.seed: proof for proof in run.proofs}
    rows = [_seed_row(record, proofs.get(record.seed)) for record in run.seeds]
    head, rows = _known(SEED_COLUMNS, rows)
    numeric = [k for k, name in enumerate(head) if name not in ("status", "verdict")]
    listed = table(head, rows, numeric=numeric)
    if len(rows) > MOST_ROWS:
        listed = tag("details", tag("summary", f"All {len(rows)} seeds"), listed)
    return tag("h2", "What became of each seed") + listed


def _known(head: Sequence[str], rows: Sequence[list[str]]) -> tuple[list[str], list[list[str]]]:
    """A table without the columns of which nothing is known."""
    known = [k for k in range(len(head)) if any(row[k] for row in rows)]
    return [head[k] for k in known], [[row[k] for k in known] for row in rows]


def _seed_row(record: SeedRecord, proof: CertificateRecord | None) -> list[str]:
    verdict = "proved after repair" if record.route == "assisted" else record.verdict or ""
    return [
        str(record.seed),
        record.status,
        f"{record.steps:,}",
        percent(record.last_exact),
        percent(record.best_exact),
        _shown(record.train_exact, "{:.1%}"),
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


def _cells(sweep: RunEvidence) -> str:
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
    parts = [tag("h2", "Cells, the best first"), table(*_known(head, rows))]
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


def _results(run: RunEvidence) -> str:
    """Evaluations, failures, certificates."""
    parts = [tag("h2", "Evaluations and failures")]
    records = run.evaluations_of_best
    if not records:
        where = shlex.join(["adderlab", "evaluate", str(best_file(run))])
        parts.append(paragraph(f"No evaluation is in the run folder. {where} makes one."))
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
