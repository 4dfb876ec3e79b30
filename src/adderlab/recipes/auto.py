"""The recipe ``auto``: one generic way to train a model that nobody has tuned for.

Everything in it is chosen from the model's tables and size; nothing knows columns, digits or a part by
its name. What cannot be known beforehand is found while it trains, by successive halving: the starts of
a seed differ in their draw, in its width and in their learning rate, and every time the better half goes
on. Anneal stages follow only for seeds whose accuracy makes them worth it.
"""

from __future__ import annotations

import functools
import math
import statistics
from dataclasses import dataclass

import torch
from torch import Tensor

from adderlab.errors import UsageError
from adderlab.models.describe import count_parameters
from adderlab.models.tables import tables, why_not_trained_by_tables
from adderlab.models.transformer import Architecture, build_model
from adderlab.training.ingredients import Restarts, widened
from adderlab.training.objective import stacked_float32
from adderlab.training.recipe import UNIFORM_LENGTHS, Recipe, Stage

SOURCE = "adderlab (docs/why-runs-fail.md)"

RATE = 0.01
RATE_FACTORS = (0.5, 1.0, 2.0, 4.0)
WIDTHS = (0.0, 1.0)
"""Dealt out among the starts: the model's own draw, and Xavier uniform."""
FIRST_HALVING = 1 / 80
"""Of the steps; each further one comes after twice as many, so that all rounds cost the same."""
LEAST_STEPS = 400
"""With fewer, halvings would come faster than anything can be told from a start."""


@dataclass(frozen=True, kw_only=True)
class _Size:
    """What a seed may cost."""

    starts: int
    steps: int
    batch_size: int


SMALL = 200
"""Parameters below which a model counts as small."""
OF_SMALL = _Size(starts=64, steps=40_000, batch_size=128)
"""Most of their starts lead nowhere, and a step is cheap."""
OF_LARGE = _Size(starts=32, steps=30_000, batch_size=256)
BY_MODULE = _Size(starts=8, steps=10_000, batch_size=256)
"""Of models without tables, whose steps are slow."""
ANNEALING = (10.0, 100.0)
"""Logit scales of the anneal stages, as multiples of the first."""
WORTH = (0.5, 0.9)
"""Best exact match from which a seed goes on with each of them."""
DRAWS = 4
"""Starts of either width from which the logit scale is chosen."""


def auto(config: Architecture, steps: int | None = None) -> Recipe:
    """Chosen for the model; ``steps`` before the anneal stages, None for its own number. Raises
    ``UsageError`` for too few."""
    size = OF_SMALL if count_parameters(config) < SMALL else OF_LARGE
    size = size if why_not_trained_by_tables(config) is None else BY_MODULE
    steps = steps or size.steps
    if steps < LEAST_STEPS:
        raise UsageError(
            f"the recipe auto halves its starts within {LEAST_STEPS} steps or more, not {steps}: for "
            "fewer, name another recipe, such as --recipe plain-228"
        )
    first = max(1, round(steps * FIRST_HALVING))
    scale, _ = _logit_scale(config)
    return Recipe(
        steps=steps,
        batch_size=size.batch_size,
        lr=RATE,
        warmup_steps=first,
        min_lr_ratio=0.0,
        weight_decay=0.0,
        logit_scale=scale,
        restarts=Restarts(
            halve_at=tuple(first << i for i in range(int(math.log2(size.starts)))),
            lr_factors=RATE_FACTORS,
            widths=WIDTHS,
        ),
        data=UNIFORM_LENGTHS,
        stages=tuple(
            Stage(
                steps=max(1, steps // 10),
                lr=RATE * lower,
                min_lr_ratio=0.0,
                batch_size=2 * size.batch_size,
                logit_scale=scale * more,
                from_exact=worth,
            )
            for more, worth, lower in zip(ANNEALING, WORTH, (0.2, 0.1), strict=True)
        ),
        eval_interval=first,
        val_size=2000,
    )


def explained(config: Architecture, recipe: Recipe) -> tuple[str, ...]:
    """What was chosen for the model and why, a line each; ``recipe`` may have been changed since."""
    restarts, reason = recipe.restarts, why_not_trained_by_tables(config)
    size = f"{count_parameters(config):,} parameters"
    size += f", trained by its module, slowly: {reason}" if reason else ", trained by tables"
    lines = []
    if restarts:
        rates = ", ".join(f"{recipe.lr * each:g}" for each in restarts.lr_factors or (1.0,))
        steps = ", ".join(f"{step:,}" for step in restarts.halve_at)
        drawn = " and Xavier uniform" if any(restarts.widths) else ""
        lines = [
            f"{restarts.count} starts a seed ({size}), drawn as the model does{drawn}, at rates "
            f"{rates}; the better half goes on at steps {steps}"
        ]
    return (
        *lines,
        f"{recipe.steps:,} steps in batches of {recipe.batch_size}, logit scale "
        f"{recipe.logit_scale:g} ({_logit_scale(config)[1]})",
        *(
            f"then {stage.steps:,} steps at logit scale {stage.logit_scale:g}, of seeds that came to "
            f"{stage.from_exact:.0%} exact match"
            for _, stage in recipe.parts[1:]
        ),
    )


@functools.lru_cache(maxsize=64)
def _logit_scale(config: Architecture) -> tuple[float, str]:
    """(what the loss multiplies logits by, why): 1 / the lead that a digit can have at the start.

    Cross-entropy begins to tell answers apart where they lead by about one logit.
    """
    if why_not_trained_by_tables(config):
        return 1.0, "there are no tables to read a digit's lead from"
    own = stacked_float32([build_model(config, seed) for seed in range(DRAWS)])
    wide = widened(own, list(range(DRAWS)), signs=True)
    leads = []
    for params in (own, wide):
        head = _last_map(config, params)
        if head is None:
            return 1.0, "its logits are no linear map of what comes before them"
        leads.append(
            statistics.median(_lead(head_DV, config.token_layout.addition.base) for head_DV in head)
        )
    typical = math.sqrt(math.prod(max(lead, 1e-6) for lead in leads))
    scale = min(50.0, max(1.0, _rounded(1 / typical)))
    return scale, f"a digit can lead by {typical:.2g} logits at the start"


def _last_map(config: Architecture, params: dict[str, Tensor]) -> Tensor | None:
    """The matrices (S, D, V) that logits are made by; None where they are made otherwise."""
    with torch.no_grad():
        built = tables(config, params)
    operation = built.form.program.operations[-1]
    name = operation.operands[1] if len(operation.operands) > 1 else None
    return built.head[name] if operation.name == "linear" and isinstance(name, str) else None


def _lead(head_DV: Tensor, digits: int) -> float:
    """By how much a digit's logit can exceed every other's where no channel exceeds 1; the median over
    digits."""
    from scipy.optimize import linprog  # only here, and it takes a moment to load

    columns_VD = head_DV.double().T[:digits].numpy()
    channels, leads = columns_VD.shape[1], []
    for digit in range(digits):
        others = [other for other in range(digits) if other != digit]
        above = columns_VD[others] - columns_VD[digit]
        # Maximise t with (column - other) . x >= t, x in the box, t >= 0 (x = 0 has it).
        found = linprog(
            [0.0] * channels + [-1.0],
            A_ub=[[*row, 1.0] for row in above],
            b_ub=[0.0] * len(others),
            bounds=[(-1.0, 1.0)] * channels + [(0.0, None)],
        )
        leads.append(-float(found.fun))
    return statistics.median(leads)


def _rounded(value: float) -> float:
    """To 1, 2, 5, 10, 20, ..."""
    power = 10.0 ** math.floor(math.log10(value))
    return min((1.0, 2.0, 5.0, 10.0), key=lambda each: abs(math.log(each * power / value))) * power
