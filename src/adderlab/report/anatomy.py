"""What is inside one trained model: where it looks, how it lays out digits and positions, how sure
it is of each answer digit.

Everything is read from the table form; a model outside the form has margins only.

Shapes: B pairs, A answer steps, I = 11 sum digits, P positions, V vocabulary, H heads, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from adderlab.engine.torch_tables import TorchEngine
from adderlab.evaluation.exact import Prediction, predict
from adderlab.evaluation.suites import fresh, strata
from adderlab.models.tables import Tables, tables, why_no_tables
from adderlab.runs.checkpoints import Checkpoint
from adderlab.task.layouts import SUM_DIGITS, Layout, from_digits

ATTENTION_PAIRS = 2000
MARGIN_PAIRS = 20_000
_CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """Points in the plane: the first two principal components of some rows."""

    names: tuple[str, ...]
    points: tuple[tuple[float, float], ...]
    shares: tuple[float, float]
    """Share of the rows' variance along each axis."""


@dataclass(frozen=True, kw_only=True)
class StepMargin:
    """Margins of one answer step over sampled pairs, in logits, given the right earlier digits."""

    smallest: float
    percentile: float
    """1% of the uniform pairs lie below."""
    median: float
    pair: tuple[int, int]
    """Where the smallest is."""


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """One checkpoint, looked into."""

    attention_HIP: tuple[tuple[tuple[float, ...], ...], ...]
    """Mean attention weight of every head at answer steps 0 to 10; empty without a table form."""
    position_names: tuple[str, ...]
    digits: Cloud
    """Rows of the token embedding, digits only."""
    positions: Cloud | None
    """Rows of the position embedding; None for models without one (rotary positions)."""
    position_kinds: tuple[str, ...]
    """a, b, s or nothing, of every position."""
    margins: tuple[StepMargin, ...]
    worst: Prediction
    """The model's answer to the sampled pair of the smallest margin."""
    num_pairs: int
    """Pairs sampled for the margins."""
    no_tables: str | None
    """Why the model has no table form."""


@torch.no_grad()
def dissect(checkpoint: Checkpoint) -> Anatomy:
    """Look into a checkpoint; some seconds of one core."""
    config = checkpoint.config
    layout, model, reason = config.token_layout, checkpoint.model(), why_no_tables(config)
    form = None if reason else tables(config, checkpoint.stacked())
    margins, num_pairs = _margins(checkpoint, form)
    worst = min(margins, key=lambda margin: margin.smallest)
    rows = None if model.pos_emb is None else model.pos_emb(torch.arange(layout.num_positions))
    names, kinds = position_names(layout)
    return Anatomy(
        attention_HIP=() if form is None else _attention(form, layout),
        position_names=names,
        digits=cloud(model.token_emb.table()[:10], tuple("0123456789")),
        positions=None if rows is None else cloud(rows, names),
        position_kinds=kinds,
        margins=margins,
        worst=predict(model, *worst.pair),
        num_pairs=num_pairs,
        no_tables=reason,
    )


def position_names(layout: Layout) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(what stands at every position: a9, +, s0; its kind: a, b, s or nothing)."""
    names = [""] * layout.num_positions
    kinds = [""] * layout.num_positions
    for position, token in layout.separators:
        names[position] = layout.vocabulary[token].strip("<>")[:3]
    for kind, places in (
        ("a", layout.a_positions),
        ("b", layout.b_positions),
        ("s", layout.sum_positions),
    ):
        for j, position in enumerate(places):
            if position < layout.num_positions:
                shared = layout.pairs and kind == "b"
                names[position] = f"ab{j}" if shared else f"{kind}{j}"
                kinds[position] = kind
    return tuple(names), tuple(kinds)


def cloud(rows_ND: Tensor, names: tuple[str, ...]) -> Cloud:
    """Principal components of the rows; two columns are shown as they are."""
    centred_ND = (rows_ND - rows_ND.mean(0)).double()
    if rows_ND.shape[1] < 2:
        centred_ND = torch.cat([centred_ND, torch.zeros_like(centred_ND)], 1)
    total = float(centred_ND.square().sum()) or 1.0
    if centred_ND.shape[1] == 2:
        plane_N2 = centred_ND
    else:
        _, _, axes_KD = torch.linalg.svd(centred_ND, full_matrices=False)
        # The sign of a component means nothing; fix it so that equal weights draw equal pictures.
        signs_K = torch.sign(axes_KD.gather(1, axes_KD.abs().argmax(1, keepdim=True)))
        plane_N2 = centred_ND @ (axes_KD * signs_K)[:2].T
    shares = (plane_N2.square().sum(0) / total).tolist()
    points = tuple((float(x), float(y)) for x, y in plane_N2.tolist())
    return Cloud(names=names, points=points, shares=(shares[0], shares[1]))


def _attention(form: Tables, layout: Layout) -> tuple[tuple[tuple[float, ...], ...], ...]:
    """Mean over uniform pairs, teacher-forced."""
    group = fresh(ATTENTION_PAIRS).groups[0]
    tokens_BP, _ = layout.encode(group.a_BJ, group.b_BJ)
    tokens_BP = tokens_BP.long()
    position_P = torch.arange(layout.num_positions)
    key_BPHK = form.key[0][position_P, tokens_BP]
    means = []
    for i in range(SUM_DIGITS):
        last = layout.query_positions[i]
        query_BHK = form.query[0][i][tokens_BP[:, last]]
        score_BHP = torch.einsum("bhk,bphk->bhp", query_BHK, key_BPHK)
        score_BHP = score_BHP.masked_fill(position_P > last, float("-inf"))
        means.append(score_BHP.softmax(-1).mean(0))
    mean_HIP = torch.stack(means, 1)
    return tuple(tuple(tuple(row) for row in head) for head in mean_HIP.tolist())


@torch.no_grad()
def _margins(checkpoint: Checkpoint, form: Tables | None) -> tuple[tuple[StepMargin, ...], int]:
    """Over uniform pairs and over pairs by kind (long carries, nines): those find the weak spots."""
    uniform, kinds = fresh(MARGIN_PAIRS).groups, strata(500).groups
    a_BJ = torch.cat([group.a_BJ for group in (*uniform, *kinds)])
    b_BJ = torch.cat([group.b_BJ for group in (*uniform, *kinds)])
    layout = checkpoint.config.token_layout
    tokens_BP, targets_BA = layout.encode(a_BJ, b_BJ)
    if form is not None:
        margin_BI = TorchEngine().margins(form, tokens_BP[None], targets_BA[None])[0, :, :SUM_DIGITS]
    else:
        margin_BI = _oracle_margins(checkpoint, tokens_BP, targets_BA)
    found = []
    for i in range(SUM_DIGITS):
        margin_B, sampled_B = margin_BI[:, i], margin_BI[:MARGIN_PAIRS, i]
        row = int(margin_B.argmin())
        found.append(
            StepMargin(
                smallest=float(margin_B[row]),
                percentile=float(sampled_B.kthvalue(max(1, MARGIN_PAIRS // 100)).values),
                median=float(sampled_B.median()),
                pair=(int(from_digits(a_BJ[row])), int(from_digits(b_BJ[row]))),
            )
        )
    return tuple(found), len(a_BJ)


@torch.no_grad()
def _oracle_margins(checkpoint: Checkpoint, tokens_BP: Tensor, targets_BA: Tensor) -> Tensor:
    model, parts = checkpoint.model(), []
    for tokens, targets in zip(tokens_BP.split(_CHUNK), targets_BA.split(_CHUNK), strict=True):
        logits_BIV = model.answer_logits(tokens)[:, :SUM_DIGITS]
        right_BI1 = targets[:, :SUM_DIGITS].long()[..., None]
        other_BI = logits_BIV.scatter(2, right_BI1, float("-inf")).amax(2)
        parts.append(logits_BIV.gather(2, right_BI1)[..., 0] - other_BI)
    return torch.cat(parts)
