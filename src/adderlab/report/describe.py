"""What runs, seeds, evaluations, proofs and rates came to, one sentence or two each.

The log, the report and the command line print the same sentences. Every number in them is counted here
from the evidence; a sentence whose evidence is missing is not written. Rates are a table too, on a
terminal and in docs/rates.md.
"""

from __future__ import annotations

import json
import math
import shlex
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from adderlab.errors import UsageError
from adderlab.evaluation.suites import Rate, clopper_pearson, wilson
from adderlab.files import schema
from adderlab.format import code_block, count, duration, percent, seconds
from adderlab.models.config import ModelConfig, resized
from adderlab.models.describe import count_parameters
from adderlab.models.transformer import Architecture
from adderlab.models.zoo import PRESETS
from adderlab.reading.file_model import FileModel
from adderlab.recipes import RECIPES
from adderlab.recipes.auto import auto
from adderlab.report.evidence import (
    CertificateRecord,
    Count,
    EvaluationRecord,
    RunEvidence,
    missing_steps,
)
from adderlab.runs.records import LEARNED, SeedRecord, best_of
from adderlab.study.rate import RateRecord
from adderlab.task.addition import SUM_DIGITS
from adderlab.training.ingredients import Restarts

MOST_CHANGES = 5
"""A recipe with more settings changed is another recipe."""
NO_FINDING = "No finding: no seed has an evaluation on record."


def describe_seeds(records: Sequence[SeedRecord], best: SeedRecord | None = None) -> list[str]:
    """What became of seeds: success, the answer steps that were learned, the best checkpoint, which is
    that of ``best`` or, without it, the one with the best score."""
    known = [record for record in records if record.steps]
    if not known:
        return [NO_FINDING]
    if len(records) == 1:
        return [_one_seed(known[0]), *_fitted(known), _its_steps(known[0])]
    return [
        *(_population(known), *_fitted(known), *_steps_of(known)),
        _best_checkpoint(best or best_of(known)),
    ]


def _one_seed(record: SeedRecord) -> str:
    last, reached = f"at the end (step {record.steps - 1:,})", record.first_success_step
    exact = f"{percent(record.last_exact)} exact match {last}"
    best = f"{percent(record.best_exact)} at best"
    if record.succeeded:
        text = f"Learned to add: {exact}"
        text += "" if reached is None else f", 99% first at step {reached:,}"
    elif reached is not None:
        text = f"Grokked at step {reached:,} and lost it: {exact}, {best} (step {record.best_step:,})"
    else:
        text = f"Did not learn to add: {exact}, {best}"
    return f"{text}{_why_ended(record)}."


def _why_ended(record: SeedRecord) -> str:
    reasons = {
        "diverged": "its loss is no longer a number (diverged)",
        "dropped": "given up as hopeless",
        "perfect": "stopped early, as its recipe asks",
    }
    return f"; {reasons[record.status]}" if record.status in reasons else ""


def _its_steps(record: SeedRecord) -> str:
    accuracy = record.step_accuracy
    if not accuracy:
        return "Its tables do not hold the answer steps one by one."
    digits = len(accuracy)
    if record.steps_learned == digits:
        return f"All {'eleven' if digits == SUM_DIGITS else digits} answer steps are learned."
    have = ", ".join(f"s_{i}" for i in range(digits) if accuracy[i] >= LEARNED) or "none"
    missing = [f"s_{i} at {percent(accuracy[i])}" for i in range(digits) if accuracy[i] < LEARNED]
    learned = f"Answer steps learned: {record.steps_learned} of {digits} ({have})"
    return f"{learned}; not learned: {', '.join(missing)}."


def _fitted(records: Sequence[SeedRecord]) -> list[str]:
    """Of seeds that train on a finite set of pairs: when they knew it, and how much later the rest."""
    own = [record for record in records if record.train_exact is not None]
    if not own:
        return []
    fitted = [record for record in own if record.first_fitted_step is not None]
    later = [
        record.first_success_step - record.first_fitted_step
        for record in fitted
        if record.first_success_step is not None and record.first_fitted_step is not None
    ]
    if len(own) == 1:
        text = f"On its own training pairs: {percent(own[0].train_exact or 0.0)} at the end"
        text += f", 99% first at step {fitted[0].first_fitted_step:,}" if fitted else ", never 99%"
        return [f"{text}{f'; validation {later[0]:,} steps later' if later else ''}."]
    text = f"On their own training pairs {len(fitted)} of {len(own)} seeds reached 99%"
    if fitted:
        steps = [record.first_fitted_step or 0 for record in fitted]
        text += f", by the median at step {statistics.median(steps):,.0f}"
        text += f"; {len(later)} of those reached 99% of their validation pairs too"
    if later:
        text += f", by the median {statistics.median(later):,.0f} steps later"
    return [f"{text}."]


def _population(records: Sequence[SeedRecord]) -> str:
    rate = wilson(sum(record.succeeded for record in records), len(records))
    text = f"{rate.count} of {rate.n} seeds learned to add: success rate {rate} (95% Wilson interval)"
    reached = [each.first_success_step for each in records if each.first_success_step is not None]
    if reached:
        text += f"; 99% first reached at step {min(reached):,}"
        if len(reached) > 1:
            median = f"{statistics.median(reached):,.0f}"
            text += f", by the median of those {len(reached)} seeds at step {median}"
    counts = Counter(record.status for record in records)
    ends = [f"{counts[status]} {status}" for status in ("diverged", "dropped") if counts[status]]
    return f"{'; '.join([text, *ends])}."


def _steps_of(records: Sequence[SeedRecord]) -> list[str]:
    known = [record for record in records if record.step_accuracy]
    if not known:
        return []
    median = statistics.median(record.steps_learned for record in known)
    text = f"Answer steps learned: median {median:g} of {known[0].sum_digits}"
    near = sum(0 < record.missing_steps <= 2 for record in known)
    if near:
        misses = "1 seed misses" if near == 1 else f"{near} seeds miss"
        text += f"; {misses} only one or two, which is enough to fail"
    if missing := missing_steps(known)[:3]:
        worst = ", ".join(f"s_{i} ({n} seed{'s' if n > 1 else ''})" for i, n in missing)
        text += f"; most often missing: {worst}"
    return [f"{text}."]


def _best_checkpoint(best: SeedRecord) -> str:
    return f"Best checkpoint: seed {best.seed}, {percent(best.best_exact)} at step {best.best_step:,}."


def describe_run(run: RunEvidence) -> str:
    """What became of a run's seeds, or of a sweep's cells, in one paragraph; of what is unfinished, that
    it is."""
    text = " ".join(describe_seeds(run.seeds, run.best_record))
    if run.status == "not evaluated yet":
        return _not_evaluated(run)
    if run.kind == "sweep" and run.cells:
        text = f"{len(run.cells)} cells; the best: {describe_cell(run.cells[0])}."
    if run.status == "diverged":
        return f"Diverged: the loss of every seed is no longer a number. {text}"
    if not run.evaluated or run.status == "done":
        return text
    if run.kind == "search" and run.status not in ("running", "stopped"):
        return f"The search ended: {run.status}. {text}"
    last = max(record.steps for record in run.evaluated) - 1
    return f"Not finished ({run.status}, last evaluation at step {last:,}). {text}"


def _not_evaluated(run: RunEvidence) -> str:
    """What there is of something that has not got to its first evaluation."""
    if run.kind == "sweep":
        count = len(run.cells)
        begun = f"{count} cell{' has' if count == 1 else 's have'}" if count else "no cell has"
        return f"Not evaluated yet: {begun} begun to train, and none has reached its first evaluation."
    return f"Not evaluated yet: the {run.kind} has begun, and has not reached its first evaluation."


def describe_cell(cell: RunEvidence) -> str:
    """A cell of a sweep: its settings and its success rate."""
    settings = ", ".join(f"{name.partition('.')[2]} {value}" for name, value in cell.settings.items())
    rate = "no evaluation" if cell.success is None else str(cell.success)
    return f"{cell.name} ({settings}): {rate}" if settings else f"{cell.name}: {rate}"


def describe_evaluation(record: EvaluationRecord, *, digits: bool = True) -> str:
    """For example: 0 of 100,000 pairs wrong on suite published (exact match 100%; error rate below
    3.7e-05, 95% Clopper-Pearson). With ``digits``, which digits fail, where the file says."""
    rate = clopper_pearson(record.errors, record.n)
    if record.errors == 0:
        bound = f"exact match 100%; error rate below {rate.high:.1e}, 95% Clopper-Pearson"
    else:
        exact, low, high = (percent(1 - r) for r in (rate.value, rate.high, rate.low))
        bound = f"exact match {exact} [{low}, {high}], 95% Clopper-Pearson"
    text = f"{record.errors:,} of {record.n:,} pairs wrong on suite {record.suite} ({bound})"
    weak = [(i, acc) for i, acc in enumerate(record.digit_accuracy) if acc < 1]
    if weak and digits:
        text += "; digits that fail: " + ", ".join(f"s_{i} {percent(acc)}" for i, acc in weak)
    return text + "."


def describe_certificate(record: CertificateRecord) -> str:
    """What the certificate claims; the independent check is ``adderlab check``."""
    a, b = record.pair
    margin = f"smallest margin {record.margin_witness:.4g} logits at {a} + {b}"
    if record.margin_bound is not None:
        margin += f", nowhere below {record.margin_bound:.4g}"
    if record.verdict == "proved":
        return f"Proved: all {record.addition.pairs_text} pairs are added correctly; {margin}."
    if record.verdict == "refuted":
        pairs = record.addition.pairs_text
        text = f"Refuted: {count_or_bounds(record.failing_pairs)} of {pairs} pairs fail"
        if record.counterexample is not None:
            text += f", for example {record.counterexample[0]} + {record.counterexample[1]}"
        return f"{text}; {margin}."
    pairs = record.addition.pairs_text
    return f"Undecided: {count_or_bounds(record.failing_pairs)} of {pairs} pairs may fail; {margin}."


def describe_proofs(run: RunEvidence) -> str | None:
    """What is known of the run's models on all pairs; None if no proof was asked for."""
    sentences = []
    if len(run.seeds) > 1 and run.proved is not None:
        verdicts = [proof.verdict for proof in run.proofs]
        counts = [f"{verdicts.count(v)} {v}" for v in ("refuted", "undecided") if v in verdicts]
        repaired = sum(record.route == "assisted" for record in run.seeds)
        counts += [f"{repaired} of the proved after repair"] if repaired else []
        also = f", {', '.join(counts)}" if counts else ""
        sentences.append(
            f"On all pairs: {run.proved} of the seeds are proved (95% Wilson interval){also}."
        )
    if run.proof is not None:
        which = "" if len(run.seeds) == 1 else "Best checkpoint: "
        sentences.append(f"{which}{describe_certificate(run.proof)}")
    return " ".join(sentences) or None


def describe_spent(run: RunEvidence) -> str | None:
    """What a search, or training and proving of recorded seeds, took; None where nothing is known."""
    spent = (run.summary or {}).get("spent")
    if isinstance(spent, dict):
        return (
            f"Spent: {spent['seed_steps']:,} seed-steps, {spent['core_seconds']:,.1f} core-seconds, "
            f"{duration(spent['wall_seconds'])} by the clock, failures included."
        )
    training = [r.training_core_seconds for r in run.seeds if r.training_core_seconds is not None]
    proving = [r.proving_core_seconds for r in run.seeds if r.proving_core_seconds is not None]
    if not training:
        return None
    return (
        f"Spent: {math.fsum(training):,.1f} core-seconds of training and {math.fsum(proving):,.1f} of "
        "proving, failures included."
    )


def count_or_bounds(number: Count | None) -> str:
    """An exact number, or both ends of what is known; "some" where it is not recorded."""
    if number is None:
        return "some"
    if isinstance(number, tuple):
        if count(number[0]) == count(number[1]):
            return f"about {count(number[0])}"
        return f"between {count(number[0])} and {count(number[1])}"
    return count(number)


def describe_model(config: Architecture) -> str:
    """The preset's name, if the configuration is that of one, and the number of parameters; else the
    nearest preset and what differs from it, if that is little. Of a user's file its name."""
    if not isinstance(config, ModelConfig):
        return f"{config.file} ({count_parameters(config)} parameters)"
    parameters = f"{count_parameters(config)} parameters"
    changes = {name: _changes(preset.config, config) for name, preset in PRESETS.items()}
    name = min(changes, key=lambda each: len(changes[each]))
    if not changes[name]:
        return f"{name} ({parameters})"
    if len(changes[name]) > MOST_CHANGES:
        return f"no preset ({parameters})"
    return f"{parameters}: {name} with {', '.join(changes[name])}"


MOST_CHANGES = 4
"""Settings in which a model may differ from a preset and still be described by it."""


def _changes(preset: ModelConfig, config: ModelConfig) -> list[str]:
    """Settings that differ, as one types them."""
    own, other = schema.to_dict(config), schema.to_dict(_at_size_of(preset, config))
    size = {key: getattr(config, key) for key in ("columns", "base")}
    changed = {key: value for key, value in size.items() if value != getattr(preset, key)}
    changed |= {key: value for key, value in own.items() if value != other.get(key)}
    return [f"model.{key}={_as_typed(value)}" for key, value in changed.items()]


def _at_size_of(preset: ModelConfig, config: ModelConfig) -> ModelConfig:
    """The preset for the other's task; itself where its layout does not go so far."""
    try:
        return resized(preset, columns=config.columns, base=config.base)
    except UsageError:
        return preset


def _as_typed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def describe_recipe(settings: dict[str, Any], model: Architecture | None = None) -> str:
    """The named recipe with these settings, or the closest one and how many settings were changed; with
    the model also "auto", which is chosen for it."""
    flat = _flat(settings)
    if model is not None and _is_auto(settings, model):
        return "auto"
    distances = {
        name: sum(flat.get(key) != own.get(key) for key in {*flat, *own})
        for name, own in ((name, _flat(schema.to_dict(each.recipe))) for name, each in RECIPES.items())
    }
    closest = min(distances, key=lambda name: distances[name])
    changed = distances[closest]
    if changed == 0:
        return closest
    if changed > MOST_CHANGES:
        return "none of the named ones"
    return f"{closest} with {changed} setting{'s' if changed > 1 else ''} changed"


def _is_auto(settings: dict[str, Any], model: Architecture) -> bool:
    """Whether auto would choose these for the model, given the steps."""
    if isinstance(model, FileModel) and not model.at_hand:
        return False  # what it chooses is read off the tables, which only running the file gives
    try:
        return schema.to_dict(auto(model, settings.get("steps"))) == settings
    except UsageError:
        return False


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: list(value) if isinstance(value, tuple) else value}
    return {key: v for k, inner in value.items() for key, v in _flat(inner, f"{prefix}.{k}").items()}


def describe_environment(environment: dict[str, Any]) -> str:
    """One line on where a run ran; what was not recorded is named as such."""
    if not environment:
        return "not recorded"
    revision = environment.get("git_revision")
    version = f"adderlab {environment.get('adderlab', 'of unknown version')}"
    if isinstance(revision, str):
        dirty = " with uncommitted changes" if revision.endswith("-dirty") else ""
        version += f" (revision {revision[:10]}{dirty})"
    device = environment.get("device", "unknown")
    name = environment.get("device_name") or environment.get("cpu")
    parts = [
        version,
        f"Python {environment.get('python', '?')}",
        f"PyTorch {environment.get('torch', '?')}",
    ]
    if environment.get("engine"):
        parts.append(f"engine {environment['engine']}")
    parts.append(
        f"device {device}" + (f" ({name}, {environment.get('cpu_count', '?')} cores)" if name else "")
    )
    return ", ".join(parts)


# Rates.


COLUMNS = (
    "preset",
    "recipe",
    "start",
    "seeds",
    "steps",
    "proved",
    "with repair",
    "99% at end",
    "99% ever",
    "0 of 100,000",
    "steps to 99%",
    "train s",
    "prove s",
    "to a proof",
)
"""The last three: core-seconds of one seed (median), and time from nothing on 2 cores."""


def table_row(record: RateRecord) -> list[str]:
    """A row under ``COLUMNS``."""
    return [
        record.preset,
        record.recipe + (" (published)" if record.published else ""),
        record.start,
        f"{record.seeds} ({record.n})",
        _steps(record),
        share(record.pure),
        share(record.assisted),
        f"{record.exact_at_end.count}/{record.n}",
        f"{record.exact_ever.count}/{record.n}",
        f"{record.published_perfect.count}/{record.n}",
        _or_dash(record.median_steps_to_grok, "{:,.0f}".format),
        seconds(record.median_training_core_seconds),
        _or_dash(record.median_proving_core_seconds, seconds),
        _or_dash(record.expected_seconds_on_2_cores, duration),
    ]


def _steps(record: RateRecord) -> str:
    """``54,000``, or ``40,000 (32 restarts, 242,000 in all)``."""
    settings = (record.recipe_settings or {}).get("restarts")
    if settings is None:
        return f"{record.steps:,}"
    restarts = Restarts(halve_at=tuple(settings["halve_at"]))
    return f"{record.steps:,} ({restarts.count} restarts, {restarts.seed_steps(record.steps):,} in all)"


def share(value: Rate | None) -> str:
    """``12/16 = 75.0% [50.5%, 89.8%]``; ``-`` for what was not or cannot be measured."""
    return "-" if value is None else str(value)


def _or_dash(value: float | None, shown: Callable[[float], str]) -> str:
    """``-`` for what was not measured, or never happens."""
    return "-" if value is None else shown(value)


def describe_rate(record: RateRecord) -> list[str]:
    """A row as sentences."""
    lines = [
        f"{record.preset}, recipe {record.recipe}, {record.n} seeds ({record.seeds}), "
        f"{record.steps:,} steps at most (intervals: Wilson, 95%)",
        f"start: {record.start}",
    ]
    if record.pure is None:
        lines.append("this model has no table form: it cannot be proved")
    else:
        lines.append(f"proved on all 10^20 pairs as trained: {share(record.pure)}")
    if record.assisted is not None:
        lines.append(f"proved as trained or after repair: {share(record.assisted)}")
    lines += [
        f"99% exact match or more at the end: {share(record.exact_at_end)}; at any time: "
        f"{share(record.exact_ever)}",
        f"no error on the 100,000 published pairs: {share(record.published_perfect)}",
        f"median core-seconds of a seed: {seconds(record.median_training_core_seconds)} of training, "
        f"{_or_dash(record.median_proving_core_seconds, seconds)} of proving (where one was tried)",
    ]
    if record.median_steps_to_grok is not None:
        lines.append(f"median step from which a seed stays at 99%: {record.median_steps_to_grok:,.0f}")
    if record.pure is not None:
        expected = record.expected_seconds_on_2_cores
        lines.append(
            "no seed was proved: no expected time to a proved model"
            if expected is None
            else f"expected time from nothing to a proved model on 2 cores: {duration(expected)}"
        )
    return lines


def rates_page(records: Sequence[RateRecord]) -> str:
    """docs/rates.md: the table, then how to measure every row again."""
    lines = [
        "# Measured success rates",
        "",
        "Written by `adderlab rate --markdown` from `records/rates/`. Every seed trains alone, however",
        "many run side by side; each that reached 99% exact match is then decided on all 10^20 pairs.",
        "",
        "- **start**: *generic*, or *informed* by what was made for columns and digits",
        "  ([statistics.md](statistics.md#generic-and-informed-starts)).",
        "- **proved**: right on all 10^20 pairs as trained (last weights, else the best by validation),",
        "  with the 95% Wilson interval of the rate. **with repair**: those, and seeds proved after",
        "  `adderlab repair`'s method was tried on the near misses.",
        "- **steps**: of the model that a seed ends with. With *restarts* a seed begins with several",
        "  starts and goes on with the best: a choice, made on the seed's own validation pairs.",
        "- **99% at end**, **99% ever**: exact match on the seed's own validation pairs.",
        "- **0 of 100,000**: no error on the ten published test sets, which choose nothing.",
        "- **steps to 99%**: median step from which a seed stays at 99%, over those that do.",
        "- **train s**, **prove s**: median core-seconds (processor time) of a seed; proving where it",
        "  was tried.",
        "- **to a proof**: expected time from nothing to a proved model on 2 cores, failures included:",
        "  core-seconds of training and proving of all seeds / seeds proved / 2.",
        "",
    ]
    if not records:
        return "\n".join([*lines, "No rate has been measured yet."])
    lines += [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    lines += [f"| {' | '.join(table_row(record))} |" for record in records]
    lines += ["", *_best_of_kinds(records), "", "## How each was measured", ""]
    for record in records:
        lines += [*_about(record), ""]
    return "\n".join(lines[:-1])


ENOUGH = 48
"""Seeds from which a rate stands among the best of a preset."""


def _best_of_kinds(records: Sequence[RateRecord]) -> list[str]:
    """Of every preset the best generic and the best informed rate over enough seeds."""
    lines = [
        "## The best of either kind",
        "",
        f"The highest share of seeds proved as trained, of rows with {ENOUGH} seeds or more; a dash",
        "where there is none.",
        "",
        "| preset | generic recipe | proved | informed recipe | proved |",
        "|---|---|---|---|---|",
    ]
    for preset in dict.fromkeys(record.preset for record in records):
        cells = [preset]
        for generic in (True, False):
            rows = [
                (record.pure.value, record.recipe, share(record.pure))
                for record in records
                if record.preset == preset and record.pure is not None and record.n >= ENOUGH
                if (record.start == "generic") == generic
            ]
            # Of equal rates the one that stands first above.
            cells += max(rows, key=lambda row: row[0])[1:] if rows else ("-", "-")
        if set(cells[1:]) != {"-"}:
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _about(record: RateRecord) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    where = f"{record.machine}; {record.engine} engine, {record.threads} threads; {versions}"
    limits = record.limits
    lines = [
        f"### {record.preset}, {record.recipe}",
        "",
        f"{record.date[:10]}, commit {_commit(record.git_revision)}; {where}. A proof took at most "
        f"{limits.cells:,} cells and {limits.seconds:g} s.",
    ]
    if record.repair_settings is not None:
        tried = sum(each.repair is not None for each in record.results)
        expected = _or_dash(record.expected_assisted_seconds_on_2_cores, duration)
        seeds = "1 seed" if tried == 1 else f"{tried} seeds"
        rounds, steps = (record.repair_settings[name] for name in ("rounds", "steps"))
        lines[-1] += (
            f" Repair, at most {rounds} rounds of {steps:,} steps, was tried on {seeds}; expected time "
            f"with it: {expected}."
        )
    return [*lines, "", "```sh", code_block(shlex.join(record.command)), "```"]


def _commit(revision: str | None) -> str:
    if revision is None:
        return "not recorded"
    names = revision.split("; ")
    return ", ".join(
        each[:10] + (" with uncommitted changes" if each.endswith("-dirty") else "") for each in names
    )
