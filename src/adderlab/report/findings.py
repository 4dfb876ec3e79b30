"""One sentence each for what a run, an evaluation and a certificate came to, with its figures.

The log and the report use the same sentences. Every number in them is counted here from the
evidence; a sentence whose evidence is missing is not written.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from adderlab.evaluation.intervals import Rate, clopper_pearson, percent, wilson
from adderlab.report.evidence import RunEvidence, Story, missing_steps
from adderlab.report.judgements import CertificateRecord, Count, EvaluationRecord
from adderlab.task.digits import SUM_DIGITS
from adderlab.training.ledger import SUCCESS

NO_FINDING = "No finding: the run's metric tables are missing or unreadable."


def success_rate(run: RunEvidence) -> Rate | None:
    """Seeds that end at 99% exact match or more, of all that have been evaluated; None without
    evaluations. Its interval is Wilson's."""
    if not run.stories:
        return None
    return wilson(sum(story.succeeded for story in run.stories), len(run.stories))


def run_finding(run: RunEvidence) -> str:
    """What the run came to."""
    if not run.stories:
        return NO_FINDING
    sentence = _one_seed(run.stories[0]) if run.num_seeds == 1 else _population(run)
    return f"{_unfinished(run)}{sentence}"


def _unfinished(run: RunEvidence) -> str:
    if run.status == "done":
        return ""
    last = max(story.last.step for story in run.stories)
    return f"Not finished ({run.status}, last evaluation at step {last}). "


def _one_seed(story: Story) -> str:
    last, best = story.last, story.best
    if story.succeeded:
        text = f"Learned to add: {percent(last.val_exact)} exact match at the end (step {last.step})"
        text += f", 99% first at step {story.grokked_at}"
    elif story.grokked_at is not None:
        text = (
            f"Grokked at step {story.grokked_at} and lost it: {percent(last.val_exact)} exact match at "
            f"the end (step {last.step}), {percent(best.val_exact)} at best (step {best.step})"
        )
    else:
        text = (
            f"Did not learn to add: {percent(last.val_exact)} exact match at the end "
            f"(step {last.step}), {percent(best.val_exact)} at best"
        )
    if not math.isfinite(last.train_loss):
        text += "; its loss is not a number any more (diverged)"
    return f"{text}. {_steps_of(story)}".strip()


def _steps_of(story: Story) -> str:
    if not story.learned:
        return "Its tables do not tell the answer steps apart."
    learned = sum(story.learned)
    if learned == SUM_DIGITS:
        return "All eleven answer steps are learned."
    missing = ", ".join(
        f"s_{i} at {percent(story.last.step_acc[i])}" for i in range(SUM_DIGITS) if not story.learned[i]
    )
    have = ", ".join(f"s_{i}" for i in range(SUM_DIGITS) if story.learned[i]) or "none"
    return f"Answer steps learned: {learned} of 11 ({have}); not learned: {missing}."


def _population(run: RunEvidence) -> str:
    rate = success_rate(run)
    assert rate is not None
    stories = run.stories
    text = f"{rate.count} of {rate.n} seeds learned to add: success rate {rate} (95% Wilson interval)"
    reached = [story.grokked_at for story in stories if story.grokked_at is not None]
    if reached:
        text += f"; 99% first reached at step {min(reached)}"
        if len(reached) > 1:
            text += (
                f", by the median of those {len(reached)} seeds at step {statistics.median(reached):g}"
            )
    diverged = sum(not math.isfinite(story.last.train_loss) for story in stories)
    if diverged:
        text += f"; {diverged} diverged"
    told = [sum(story.learned) for story in stories if story.learned]
    if told:
        text += f". Answer steps learned: median {statistics.median(told):g} of 11"
        missing = missing_steps(stories)[:3]
        if missing:
            worst = ", ".join(f"s_{i} ({count} seeds)" for i, count in missing)
            text += f"; most often missing: {worst}"
    best = run.checkpoint
    if best is not None:
        text += f". Best checkpoint: seed {best.seed}, {percent(best.val_exact)} at step {best.step}"
    return text + "."


def evaluation_finding(record: EvaluationRecord, *, digits: bool = True) -> str:
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


def certificate_finding(record: CertificateRecord) -> str:
    """What the certificate claims; the independent check is ``adderlab check``."""
    a, b = record.pair
    margin = f"smallest margin {record.margin_witness:.4g} logits at {a} + {b}"
    if record.margin_bound is not None:
        margin += f", nowhere below {record.margin_bound:.4g}"
    if record.verdict == "proved":
        return f"Proved: all 10^20 pairs are added rightly; {margin}."
    if record.verdict == "refuted":
        text = f"Refuted: {count_text(record.failing_pairs)} of 10^20 pairs fail"
        if record.counterexample is not None:
            text += f", for example {record.counterexample[0]} + {record.counterexample[1]}"
        return f"{text}; {margin}."
    return f"Undecided: {count_text(record.failing_pairs)} of 10^20 pairs may fail; {margin}."


def proof_finding(run: RunEvidence) -> str | None:
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
        sentences.append(f"{which}{certificate_finding(run.proof)}")
    return " ".join(sentences) or None


def count_text(count: Count) -> str:
    """An exact number, or both ends of what is known; large ones by power of ten."""
    if isinstance(count, tuple):
        return f"between {_large(count[0])} and {_large(count[1])}"
    return _large(count)


def _large(count: int) -> str:
    if count < 10**9:
        return f"{count:,}"
    power = len(str(count)) - 1
    return f"{count / 10**power:.3g} x 10^{power}"


def pooled_rate(runs: Sequence[RunEvidence]) -> Rate | None:
    """Success rate over the seeds of several runs; None if none was evaluated.

    A seed that was run again and came to the very same numbers is the same draw and counts once.
    """
    draws = {
        (story.seed, story.last.step, story.last.train_loss, story.last.val_token_acc): story
        for run in runs
        for story in run.stories
    }
    if not draws:
        return None
    return wilson(sum(story.succeeded for story in draws.values()), len(draws))


__all__ = [
    "NO_FINDING",
    "SUCCESS",
    "certificate_finding",
    "count_text",
    "evaluation_finding",
    "pooled_rate",
    "proof_finding",
    "run_finding",
    "success_rate",
]
