"""Measures of a population most of whose seeds fail: outcome, prediction, attention, geometry.

Shapes: S seeds, B pairs, I = 11 answer steps, J = 10 columns, P positions, V tokens, H heads,
K key dimension, R its rank.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from adderlab.evaluation.suites import fresh, wilson
from adderlab.models.tables import Tables
from adderlab.report.evidence import SeedHistory
from adderlab.runs.records import LEARNED, Metrics
from adderlab.study.verdicts import STUCK_BELOW, hopeless
from adderlab.task.addition import OPERAND_DIGITS, SUM_DIGITS
from adderlab.training.recipe import Recipe

CHANCE_BELOW = 0.2
"""An answer step below this accuracy is at chance, where one digit in ten is correct."""
PREDICT_AT = (1000, 2000, 5000, 10_000, 15_000, 20_000, 30_000)
"""Training steps at which success is predicted, as far as the run goes."""
PAIRS = 500
RESAMPLES = 2000


def state(accuracy: float) -> str:
    """learned (99%), unsettled, stuck (below 90%)."""
    return "learned" if accuracy >= LEARNED else "stuck" if accuracy < STUCK_BELOW else "unsettled"


def at(history: SeedHistory, step: int) -> Metrics | None:
    """The seed's last evaluation up to a training step."""
    known = [each for each in history.evaluations if each.step <= step]
    return known[-1] if known else None


def count_learned(metrics: Metrics) -> int:
    return sum(accuracy >= LEARNED for accuracy in metrics.step_acc)


def outcome(histories: Sequence[SeedHistory]) -> dict[str, Any]:
    """Success rate, how many answer steps each seed ends with, which are missing and how."""
    records = [history.record for history in histories]
    reached = [each.first_success_step for each in records if each.first_success_step is not None]
    rate = wilson(sum(record.succeeded for record in records), len(records))
    ever = wilson(len(reached), len(records))
    failed = [each for each, record in zip(histories, records, strict=True) if not record.succeeded]
    final = Counter(count_learned(history.last) for history in histories)
    near = sum(1 <= SUM_DIGITS - count_learned(history.last) <= 2 for history in failed)
    per_step = []
    for i in range(SUM_DIGITS):
        last = [history.last.step_acc[i] for history in histories]
        first = [_first_learned(history, i) for history in histories]
        when = [step for step in first if step is not None]
        per_step.append(
            {
                "learned": sum(a >= LEARNED for a in last),
                "stuck": sum(a < STUCK_BELOW for a in last),
                "at_chance": sum(a < CHANCE_BELOW for a in last),
                "ever_learned": len(when),
                "median_first_learned_at": median(when) if when else None,
                "lost_again": sum(
                    step is not None and a < LEARNED for step, a in zip(first, last, strict=True)
                ),
            }
        )
    return {
        "seeds": len(histories),
        "success": {"count": rate.count, "n": rate.n, "wilson_95": [rate.low, rate.high]},
        "ever_at_99": {"count": ever.count, "n": ever.n, "wilson_95": [ever.low, ever.high]},
        "steps_learned_at_end": [final.get(k, 0) for k in range(SUM_DIGITS + 1)],
        "failed_missing_one_or_two": near,
        "median_steps_learned_of_failed": median(count_learned(s.last) for s in failed)
        if failed
        else None,
        "per_answer_step": per_step,
        "median_grokked_at": median(reached or [0]) or None,
    }


def _first_learned(history: SeedHistory, i: int) -> int | None:
    return next((each.step for each in history.evaluations if each.step_acc[i] >= LEARNED), None)


def prediction(histories: Sequence[SeedHistory], total_steps: int) -> list[dict[str, Any]]:
    """How well early metrics separate seeds that succeed from those that fail: the AUC, with a bootstrap
    interval over seeds. 0.5 is chance."""
    success_S = np.array([history.record.succeeded for history in histories])
    found = []
    for step in [s for s in PREDICT_AT if s < total_steps]:
        known = [at(history, step) for history in histories]
        assert all(known)
        values = {
            "answer steps learned": [count_learned(m) for m in known if m],
            "mean accuracy of answer steps": [float(np.mean(m.step_acc)) for m in known if m],
            "training loss": [-m.train_loss for m in known if m],
        }
        for name, value_S in values.items():
            found.append({"step": step, "of": name, **auc(np.array(value_S), success_S)})
    return found


def auc(value_S: np.ndarray, success_S: np.ndarray, seed: int = 0) -> dict[str, float | None]:
    """Area under the ROC curve: the share of pairs of a seed that succeeds and one that fails in
    which the first is ahead, ties a half; with a 95% bootstrap interval."""
    if success_S.all() or not success_S.any():
        return {"auc": None, "low": None, "high": None}
    won, lost = value_S[success_S], value_S[~success_S]
    ahead = (won[:, None] > lost) + 0.5 * (won[:, None] == lost)
    rng = np.random.default_rng(seed)
    drawn = [
        ahead[rng.integers(len(won), size=len(won))][:, rng.integers(len(lost), size=len(lost))].mean()
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {"auc": float(ahead.mean()), "low": float(low), "high": float(high)}


def giving_up(histories: Sequence[SeedHistory], recipe: Recipe) -> dict[str, Any]:
    """What ``--until proved`` would have dropped of these seeds, and what that saves."""
    dropped, wrongly, spent = 0, 0, 0
    for history in histories:
        seen = history.evaluations
        end = next((k for k in range(len(seen)) if hopeless(seen[: k + 1], recipe)), None)
        spent += recipe.total_steps if end is None else seen[end].step + 1
        dropped += end is not None
        wrongly += end is not None and history.record.succeeded
    return {
        "dropped": dropped,
        "dropped_that_succeed": wrongly,
        "seed_steps_saved": 1 - spent / (recipe.total_steps * len(histories)),
    }


@torch.no_grad()
def attention(form: Tables) -> np.ndarray:
    """Attention of every seed, mean over heads and uniform pairs, teacher-forced: (S, I, J + 1); the
    last entry is what goes to no column of the operands."""
    layout = form.form.layout
    group = fresh(PAIRS).groups[0]
    tokens_BP = layout.encode(group.a_BJ, group.b_BJ)[0].long()
    position_P = torch.arange(layout.num_positions)
    own_JP = torch.zeros(OPERAND_DIGITS, layout.num_positions, dtype=form.key.dtype)
    for j in range(OPERAND_DIGITS):
        own_JP[j, [layout.a_positions[j], layout.b_positions[j]]] = 1.0
    found = []
    for s in range(form.num_seeds):
        key_BPHK, rows = form.key[s][position_P, tokens_BP], []
        for i in range(SUM_DIGITS):
            last = layout.query_positions[i]
            query_BHK = form.query[s][i][tokens_BP[:, last]]
            score_BHP = torch.einsum("bhk,bphk->bhp", query_BHK, key_BPHK)
            weight_BHP = score_BHP.masked_fill(position_P > last, -torch.inf).softmax(-1)
            column_J = own_JP @ weight_BHP.mean((0, 1))
            rows.append(torch.cat([column_J, 1.0 - column_J.sum(0, keepdim=True)]))
        found.append(torch.stack(rows))
    return torch.stack(found).numpy()


def margins(form: Tables) -> np.ndarray:
    """Convex-position margin of every column for every seed, the best over heads: (S, J).

    A query q prefers column j if q . k_j > q . k_other for every other column, k being the column's
    mean key over digits and both operands: it exists only if k_j is an extreme point of the columns.
    The margin is the largest lead max_q min_other q . (k_j - k_other) over |q_r| <= 1 in the principal
    axes of the cloud, whose root-mean-square radius is scaled to 1; 0 is a column in the hull of the
    others, which no query can single out. A linear programme.
    """
    layout = form.form.layout
    key_SPHK = form.key[:, :, :10].double().mean(2)
    a, b = list(layout.a_positions), list(layout.b_positions)
    column_SJHK = (key_SPHK[:, a] + key_SPHK[:, b]) / 2
    return np.array(
        [
            [
                max(column_margin(keys_JHK[:, h].numpy(), j) for h in range(keys_JHK.shape[1]))
                for j in range(OPERAND_DIGITS)
            ]
            for keys_JHK in column_SJHK
        ]
    )


def column_margin(keys_JK: np.ndarray, j: int) -> float:
    """The margin of row j against the other rows; see ``margins``."""
    centred_JK = keys_JK - keys_JK.mean(0)
    radius = math.sqrt((centred_JK**2).sum(1).mean())
    if radius == 0:
        return 0.0
    _, sizes_R, axes_RK = np.linalg.svd(centred_JK / radius, full_matrices=False)
    points_JR = (centred_JK / radius) @ axes_RK[sizes_R > 1e-6].T
    lead_OR = points_JR[j] - np.delete(points_JR, j, 0)
    rank = points_JR.shape[1]
    # Unknowns q_1 .. q_R, t; maximise t with t - q . lead <= 0 for every other column.
    result = linprog(
        np.append(np.zeros(rank), -1.0),
        A_ub=np.hstack([-lead_OR, np.ones((len(lead_OR), 1))]),
        b_ub=np.zeros(len(lead_OR)),
        bounds=[(-1.0, 1.0)] * rank + [(None, None)],
    )
    assert result.status == 0, result.message
    return max(0.0, float(-result.fun))


def own_column(i: int) -> int:
    """The column that answer step i must read: the top digit is the carry out of column 9."""
    return min(i, OPERAND_DIGITS - 1)


def by_state(
    histories: Sequence[SeedHistory], attention_SIJ: np.ndarray, margin_SJ: np.ndarray
) -> dict[str, Any]:
    """Margins, and attention to the own column, of learned and of stuck answer steps.

    Step 10 is left out of the geometry: it reads column 9, as step 9 does.
    """
    found: dict[str, Any] = {}
    for name in ("learned", "unsettled", "stuck"):
        places = [
            (s, i)
            for s, history in enumerate(histories)
            for i in range(OPERAND_DIGITS)
            if state(history.last.step_acc[i]) == name
        ]
        found[name] = {
            "answer_steps": len(places),
            **_middle_80("margin", [margin_SJ[s, i] for s, i in places]),
            **_middle_80("own_column_attention", [attention_SIJ[s, i, i] for s, i in places]),
            "in_the_hull": sum(float(margin_SJ[s, i]) < 1e-6 for s, i in places),
        }
    single = [
        margin_SJ[s, i]
        for s, history in enumerate(histories)
        if sum(a < LEARNED for a in history.last.step_acc) == 1
        for i in range(OPERAND_DIGITS)
        if history.last.step_acc[i] < STUCK_BELOW
    ]
    found["the_only_stuck_step"] = {
        "answer_steps": len(single),
        **_middle_80("margin", single),
        "in_the_hull": sum(float(margin) < 1e-6 for margin in single),
    }
    return found


def _middle_80(name: str, values: Sequence[float]) -> dict[str, Any]:
    """Median and the middle 80%."""
    if not values:
        return {f"{name}_median": None, f"{name}_middle_80": None}
    low, middle, high = np.quantile(values, (0.1, 0.5, 0.9)).tolist()
    return {f"{name}_median": middle, f"{name}_middle_80": [low, high]}


def mean_maps(histories: Sequence[SeedHistory], attention_SIJ: np.ndarray) -> dict[str, np.ndarray]:
    """Mean attention of learned and of stuck answer steps, (I, J + 1); NaN where there are none."""
    maps = {}
    for name in ("learned", "stuck"):
        rows = []
        for i in range(SUM_DIGITS):
            own = [s for s, history in enumerate(histories) if state(history.last.step_acc[i]) == name]
            empty = np.full(attention_SIJ.shape[2], np.nan)
            rows.append(attention_SIJ[own, i].mean(0) if own else empty)
        maps[name] = np.array(rows)
    return maps


def stack(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Parameters of single models with the seed axis in front."""
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}
