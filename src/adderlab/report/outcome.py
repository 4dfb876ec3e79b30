"""What a run came to, in plain words."""

from __future__ import annotations

import statistics
from collections import Counter

from adderlab.runs.metrics import LEARNED, SeedRow
from adderlab.task.digits import SUM_DIGITS
from adderlab.training.job import Outcome
from adderlab.training.ledger import SUCCESS


def describe(outcome: Outcome) -> list[str]:
    """Sentences about success, the best seed and the answer steps that were learned."""
    rows = list(outcome.ledger.rows.values())
    lines = [_success(outcome, rows), _best(outcome)]
    if any(row.step_acc for row in rows):
        lines.append(_learned(rows))
    return lines


def _success(outcome: Outcome, rows: list[SeedRow]) -> str:
    count = outcome.ledger.num_successes
    if len(rows) == 1:
        exact = rows[0].final_val_exact
        verdict = "learned to add" if count else "did not learn to add"
        return f"Seed {rows[0].seed} {verdict}: {exact:.2%} of its validation pairs are exactly right."
    return (
        f"{count} of {len(rows)} seeds end at {SUCCESS:.0%} exact match or more: "
        f"success rate {outcome.ledger.successes()} (95% Wilson interval)."
    )


def _best(outcome: Outcome) -> str:
    seed = outcome.ledger.best_seed
    row = outcome.ledger.rows[seed]
    exact = f"{row.best_val_exact:.2%} exact match"
    text = f"The best checkpoint is seed {seed} at step {row.best_step}: {exact}"
    if row.first_step_100 is not None:
        text += f", 100% first at step {row.first_step_100}"
    return text + "."


def _learned(rows: list[SeedRow]) -> str:
    known = [row for row in rows if row.step_acc]
    missing = Counter(i for row in known for i in range(SUM_DIGITS) if row.step_acc[i] < LEARNED)
    median = statistics.median(row.steps_learned for row in known)
    text = f"Of the eleven answer digits, {median:g} are learned"
    text += " (median over seeds)" if len(known) > 1 else ""
    near = sum(9 <= row.steps_learned < SUM_DIGITS for row in known)
    if near:
        who = "1 seed misses" if near == 1 else f"{near} seeds miss"
        text += f"; {who} only one or two, which alone makes exact match 0"
    if missing:
        worst = ", ".join(f"s_{i} ({count})" for i, count in missing.most_common(3))
        text += f"; most often missing: {worst}"
    return text + "."
