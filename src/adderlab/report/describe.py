"""What runs, seeds, evaluations and proofs came to, one sentence or two each.

The log, the report and the command line print the same sentences. Every number in them is counted here
from the evidence; a sentence whose evidence is missing is not written.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from adderlab.evaluation.intervals import clopper_pearson, wilson
from adderlab.files import schema
from adderlab.format import count, percent
from adderlab.models.config import ModelConfig
from adderlab.models.describe import count_parameters
from adderlab.models.zoo import PRESETS
from adderlab.recipes import RECIPES
from adderlab.report.history import (
    CertificateRecord,
    Count,
    EvaluationRecord,
    RunEvidence,
    SeedHistory,
    missing_steps,
)
from adderlab.runs.metrics import LEARNED
from adderlab.runs.records import SUCCESS, SeedRecord, best_of
from adderlab.task.digits import SUM_DIGITS

MOST_CHANGES = 5
"""A recipe with more settings changed is another recipe."""
NO_FINDING = "No finding: the run's metric tables are missing or unreadable."


def describe_run(run: RunEvidence) -> str:
    """What became of the run's seeds."""
    if not run.histories:
        return NO_FINDING
    sentence = _one_seed(run.histories[0]) if run.num_seeds == 1 else _population(run)
    return f"{_unfinished(run)}{sentence}"


def _unfinished(run: RunEvidence) -> str:
    if run.status == "done":
        return ""
    last = max(history.last.step for history in run.histories)
    return f"Not finished ({run.status}, last evaluation at step {last:,}). "


def _one_seed(history: SeedHistory) -> str:
    last, best = history.last, history.best
    if history.succeeded:
        text = f"Learned to add: {percent(last.val_exact)} exact match at the end (step {last.step:,})"
        text += f", 99% first at step {history.grokked_at:,}"
    elif history.grokked_at is not None:
        text = (
            f"Grokked at step {history.grokked_at:,} and lost it: {percent(last.val_exact)} exact match "
            f"at the end (step {last.step:,}), {percent(best.val_exact)} at best (step {best.step:,})"
        )
    else:
        text = (
            f"Did not learn to add: {percent(last.val_exact)} exact match at the end "
            f"(step {last.step:,}), {percent(best.val_exact)} at best"
        )
    if not math.isfinite(last.train_loss):
        text += "; its loss is no longer a number (diverged)"
    return f"{text}. {_steps_of(history)}".strip()


def _steps_of(history: SeedHistory) -> str:
    if not history.learned:
        return "Its tables do not hold the answer steps one by one."
    learned = sum(history.learned)
    if learned == SUM_DIGITS:
        return "All eleven answer steps are learned."
    missing = ", ".join(
        f"s_{i} at {percent(history.last.step_acc[i])}"
        for i in range(SUM_DIGITS)
        if not history.learned[i]
    )
    have = ", ".join(f"s_{i}" for i in range(SUM_DIGITS) if history.learned[i]) or "none"
    return f"Answer steps learned: {learned} of 11 ({have}); not learned: {missing}."


def _population(run: RunEvidence) -> str:
    rate = run.success
    assert rate is not None
    histories = run.histories
    text = f"{rate.count} of {rate.n} seeds learned to add: success rate {rate} (95% Wilson interval)"
    reached = [history.grokked_at for history in histories if history.grokked_at is not None]
    if reached:
        text += f"; 99% first reached at step {min(reached):,}"
        if len(reached) > 1:
            median = f"{statistics.median(reached):,.0f}"
            text += f", by the median of those {len(reached)} seeds at step {median}"
    diverged = sum(not math.isfinite(history.last.train_loss) for history in histories)
    if diverged:
        text += f"; {diverged} diverged"
    learned = [sum(history.learned) for history in histories if history.learned]
    if learned:
        text += f". Answer steps learned: median {statistics.median(learned):g} of 11"
        missing = missing_steps(histories)[:3]
        if missing:
            worst = ", ".join(f"s_{i} ({n} seed{'s' if n > 1 else ''})" for i, n in missing)
            text += f"; most often missing: {worst}"
    best = run.checkpoint
    if best is not None:
        text += f". Best checkpoint: seed {best.seed}, {percent(best.val_exact)} at step {best.step:,}"
    return text + "."


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
        return f"Proved: all 10^20 pairs are added correctly; {margin}."
    if record.verdict == "refuted":
        text = f"Refuted: {count_or_bounds(record.failing_pairs)} of 10^20 pairs fail"
        if record.counterexample is not None:
            text += f", for example {record.counterexample[0]} + {record.counterexample[1]}"
        return f"{text}; {margin}."
    return f"Undecided: {count_or_bounds(record.failing_pairs)} of 10^20 pairs may fail; {margin}."


def describe_proofs(run: RunEvidence) -> str | None:
    """What is known of the run's models on all pairs; None if nothing was tried."""
    if not run.proofs and not run.certificates:
        return None
    sentences = []
    if run.num_seeds > 1:
        verdicts = [proof.verdict for proof in run.proofs]
        counts = [f"{verdicts.count(v)} {v}" for v in ("refuted", "undecided") if v in verdicts]
        proved = wilson(run.num_proved, run.num_seeds)
        also = f", {', '.join(counts)}" if counts else ""
        sentences.append(f"On all pairs: {proved} of the seeds are proved (95% Wilson interval){also}.")
    if run.proof is not None:
        which = "" if run.num_seeds == 1 else "Best checkpoint: "
        sentences.append(f"{which}{describe_certificate(run.proof)}")
    return " ".join(sentences) or None


def count_or_bounds(number: Count) -> str:
    """An exact number, or both ends of what is known."""
    if isinstance(number, tuple):
        return f"between {count(number[0])} and {count(number[1])}"
    return count(number)


def describe_model(config: ModelConfig) -> str:
    """The preset's name, if the configuration is that of one, and the number of parameters."""
    parameters = f"{count_parameters(config)} parameters"
    name = next((name for name, preset in PRESETS.items() if preset.config == config), None)
    return f"{name} ({parameters})" if name else f"no preset ({parameters})"


def describe_recipe(settings: dict[str, Any]) -> str:
    """The named recipe with these settings, or the closest one and how many settings were changed."""
    flat = _flat(settings)
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


def describe_seeds(records: Sequence[SeedRecord]) -> list[str]:
    """Sentences about success, the best seed and the answer steps that were learned."""
    lines = [_success_of(records), _best_seed(records)]
    if any(record.step_accuracy for record in records):
        lines.append(_learned_by(records))
    return lines


def _success_of(records: Sequence[SeedRecord]) -> str:
    count = sum(record.succeeded for record in records)
    if len(records) == 1:
        exact = records[0].last_exact
        verdict = "learned to add" if count else "did not learn to add"
        return (
            f"Seed {records[0].seed} {verdict}: {exact:.2%} of its validation pairs are exactly right."
        )
    return (
        f"{count} of {len(records)} seeds end at {SUCCESS:.0%} exact match or more: "
        f"success rate {wilson(count, len(records))} (95% Wilson interval)."
    )


def _best_seed(records: Sequence[SeedRecord]) -> str:
    best = best_of(records)
    exact = f"{best.best_exact:.2%} exact match"
    text = f"The best checkpoint is seed {best.seed} at step {best.best_step}: {exact}"
    if best.first_perfect_step is not None:
        text += f", 100% first at step {best.first_perfect_step}"
    return text + "."


def _learned_by(records: Sequence[SeedRecord]) -> str:
    known = [record for record in records if record.step_accuracy]
    missing = Counter(i for each in known for i in range(SUM_DIGITS) if each.step_accuracy[i] < LEARNED)
    median = statistics.median(record.steps_learned for record in known)
    text = f"Of the eleven answer digits, {median:g} are learned"
    text += " (median over seeds)" if len(known) > 1 else ""
    near = sum(9 <= record.steps_learned < SUM_DIGITS for record in known)
    if near:
        who = "1 seed misses" if near == 1 else f"{near} seeds miss"
        text += f"; {who} only one or two, which alone makes exact match 0"
    if missing:
        worst = ", ".join(f"s_{i} ({count})" for i, count in missing.most_common(3))
        text += f"; most often missing: {worst}"
    return text + "."
