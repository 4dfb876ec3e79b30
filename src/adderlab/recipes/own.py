"""Our own recipes (docs/why-runs-fail.md, docs/smallest.md); their measured rates are in docs/rates.md.

None encodes addition beyond the pairs and the start: positions on a circle, attention fitted to a
picture that knows no digits, starts drawn wide and chosen among, a factor on the logits in the loss.
"""

import dataclasses
from typing import Any

from adderlab.task.sampling import Phase
from adderlab.training.initialise import AttentionPrefit, Circle, Restarts, WideInit
from adderlab.training.optimiser import Freeze
from adderlab.training.recipe import (
    PUBLISHED_456,
    UNIFORM_LENGTHS,
    UNIFORM_PAIRS,
    NamedRecipe,
    Recipe,
    Stage,
)


def _circle(steps: int, release: float) -> Recipe:
    """The published recipe, from positions on a circle that are released at a fraction of the run."""
    return dataclasses.replace(
        PUBLISHED_456,
        steps=steps,
        circle=Circle(),
        freeze=(Freeze(prefix="pos_emb.A", until=release, then=0.3),),
    )


def _prefit_attention(steps: int) -> Recipe:
    """The circle, with queries that look at their columns and pairs of all lengths from the first step:
    what the digits' phases were for is there already."""
    return dataclasses.replace(
        _circle(steps, 0.2),
        prefit=AttentionPrefit(parameters=("blocks.0.attn.qkv_Bq",), steps=200, lr=0.02, pairs=32),
        data=UNIFORM_LENGTHS,
        warmup_steps=700,
        min_lr_ratio=0.0,
        eval_interval=500,
    )


_SHARP = dataclasses.replace(
    _prefit_attention(54_000), logit_scale=20.0, restarts=Restarts(halve_at=(3000, 6000))
)
_THIRTY_TWO = Restarts(halve_at=(4000, 7000, 10_000, 13_000, 16_000))


_DRAWN_67 = Recipe(
    steps=40_000,
    batch_size=256,
    warmup_steps=1000,
    min_lr_ratio=0.0,
    data=UNIFORM_LENGTHS,
    prefit=AttentionPrefit(parameters=("pos_emb", "blocks.0.attn.qk_shared", "blocks.0.attn.query")),
    restarts=_THIRTY_TWO,
)
_ROTARY = Recipe(
    steps=60_000,
    batch_size=128,
    lr=0.01,
    warmup_steps=0,
    min_lr_ratio=0.0,
    data=UNIFORM_LENGTHS,
    restarts=_THIRTY_TWO,
)


_SPREAD_ROTARY = Recipe(
    steps=40_000,
    batch_size=128,
    warmup_steps=500,
    min_lr_ratio=0.0,
    weight_decay=0.0,
    logit_scale=10.0,
    data=UNIFORM_PAIRS,
    wide_init=WideInit(),
    prefit=AttentionPrefit(parameters=("blocks.0.attn.q", "blocks.0.attn.k"), steps=100),
    restarts=Restarts(halve_at=(1000, 2000, 3000, 4000, 6000)),
    eval_interval=500,
)
_SHORT_ARC = WideInit(arc=(2.0, -0.45, 0.1))
_TWO_STAGES = dataclasses.replace(
    _SPREAD_ROTARY,
    steps=80_000,
    batch_size=64,
    lr=0.01,
    logit_scale=200.0,
    wide_init=_SHORT_ARC,
    restarts=Restarts(halve_at=(1000, 2000, 4000, 10_000, 20_000)),
    stages=(Stage(lr=0.004, steps=60_000, min_lr_ratio=0.0, batch_size=256),),
)


def _finished(recipe: Recipe, steps: int, logit_scale: float, **changes: Any) -> Recipe:
    """The recipe and one more stage, whose loss sees larger logits than before: where a model is nearly
    right, what is left to gain are small margins that the loss hardly sees."""
    changes = {"lr": 0.002, "min_lr_ratio": 0.0, **changes}
    finish = Stage(steps=steps, logit_scale=logit_scale, **changes)
    return dataclasses.replace(recipe, stages=(*recipe.stages, finish))


def _fitted(*names: str) -> AttentionPrefit:
    """Only what values do not share: a map that serves values too would be fitted to be the same for
    all digits, and carry nothing."""
    return AttentionPrefit(parameters=tuple(f"blocks.0.attn.{name}" for name in names), steps=60, lr=0.3)


_SPREAD_44 = dataclasses.replace(_TWO_STAGES, prefit=_fitted("q_norm", "k_norm"))
_SPREAD_36 = dataclasses.replace(
    _TWO_STAGES,
    logit_scale=500.0,
    prefit=_fitted("q_norm", "key.angle"),
    restarts=Restarts(halve_at=(1000, 2000, 4000, 8000, 16_000, 30_000)),
    stages=(
        *_TWO_STAGES.stages,
        Stage(lr=0.004, steps=30_000, min_lr_ratio=0.0, batch_size=1024, beta2=0.99),
    ),
)
_DRAWN_7 = Recipe(
    steps=40_000,
    batch_size=256,
    lr=0.04,
    warmup_steps=1000,
    min_lr_ratio=0.0,
    weight_decay=0.0,
    data=UNIFORM_PAIRS,
    prefit=AttentionPrefit(parameters=("blocks.0.attn.q_proj",), steps=200, lr=0.2),
    restarts=Restarts(halve_at=(2000, 3000, 4000, 6000, 8000)),
)


def _quick_circle() -> Recipe:
    recipe = _circle(13_500, 0.5)
    phases = (
        Phase(until=1000, max_digits=3),
        Phase(until=3500, max_digits=6),
        Phase(until=None, max_digits=10),
    )
    curriculum = dataclasses.replace(recipe.data.curriculum, phases=phases)
    return dataclasses.replace(
        recipe,
        warmup_steps=700,
        data=dataclasses.replace(recipe.data, curriculum=curriculum),
        eval_interval=500,
    )


OWN_LINE = (
    NamedRecipe(
        name="aimed",
        recipe=_prefit_attention(36_000),
        source="adderlab (docs/why-runs-fail.md)",
        notes="for presets with learned low-rank positions and a query factor of its own: positions "
        "start on a circle, the query factor is fitted to look at its column before the first step, "
        "pairs have all lengths from the start, the positions stand still for 20% of the run",
    ),
    NamedRecipe(
        name="aimed-13k",
        recipe=dataclasses.replace(
            _prefit_attention(13_500),
            min_lr_ratio=0.1,
            prefit=AttentionPrefit(parameters=("blocks.0.attn.qkv_Bq",)),
        ),
        source="adderlab (docs/why-runs-fail.md)",
        notes="aimed in fewer steps: the first proof comes sooner",
    ),
    NamedRecipe(
        name="aimed-two",
        recipe=dataclasses.replace(_prefit_attention(36_000), restarts=Restarts(halve_at=(18_000,))),
        source="adderlab (docs/why-runs-fail.md)",
        notes="aimed, from two draws a seed, of which the better goes on at half of the run: 54,000 "
        "steps in all",
    ),
    NamedRecipe(
        name="aimed-sharp",
        recipe=_SHARP,
        source="adderlab (docs/why-runs-fail.md)",
        notes="aimed for narrower models (311p, 262p): the loss sees logits times 20, the best of four "
        "draws, more steps",
    ),
    NamedRecipe(
        name="aimed-sharper",
        recipe=dataclasses.replace(_SHARP, lr=0.03, weight_decay=0.0, logit_scale=100.0),
        source="adderlab (docs/why-runs-fail.md)",
        notes="aimed-sharp with logits times 100, a higher rate and no weight decay",
    ),
    NamedRecipe(
        name="aimed-sharp-finish",
        recipe=_finished(_SHARP, 8000, 200.0, weight_decay=0.0),
        source="adderlab (docs/why-runs-fail.md)",
        notes="aimed-sharp with a finish of 8,000 steps, logits times 200 and no weight decay",
    ),
    NamedRecipe(
        name="drawn-122",
        recipe=_ROTARY,
        source="adderlab (docs/why-runs-fail.md)",
        notes="for the rotary line: its first stage, with pairs of all lengths and the best of 32 draws",
    ),
    NamedRecipe(
        name="drawn-rotary",
        recipe=dataclasses.replace(
            _ROTARY, prefit=AttentionPrefit(parameters=("blocks.0.attn.q", "blocks.0.attn.k"))
        ),
        source="adderlab (docs/why-runs-fail.md)",
        notes="for the rotary line below 122 parameters: drawn-122 with attention fitted to look at its "
        "column",
    ),
    NamedRecipe(
        name="spread-89",
        recipe=_SPREAD_ROTARY,
        source="adderlab (docs/why-runs-fail.md)",
        notes="for the rotary line with a token table: starts drawn wide, with norms of either sign; "
        "the best of 32 draws; the loss sees logits times 10; attention fitted to look at its column",
    ),
    NamedRecipe(
        name="spread-62",
        recipe=dataclasses.replace(_SPREAD_ROTARY, steps=60_000, lr=0.03, wide_init=_SHORT_ARC),
        source="adderlab (docs/why-runs-fail.md)",
        notes="spread-89 for digits on an arc, which starts short",
    ),
    NamedRecipe(
        name="spread-62-long",
        recipe=dataclasses.replace(
            _TWO_STAGES, logit_scale=100.0, prefit=_fitted("q_proj", "q_norm", "k_norm")
        ),
        source="adderlab (docs/why-runs-fail.md)",
        notes="spread-62 with logits times 100, smaller batches at a lower rate and a second stage",
    ),
    NamedRecipe(
        name="spread-44",
        recipe=_SPREAD_44,
        source="adderlab (docs/why-runs-fail.md)",
        notes="for one map for query, key and value: the loss sees logits times 200; only the norms of "
        "query and key are fitted, as the map has to carry digits; a second stage with larger batches",
    ),
    NamedRecipe(
        name="spread-36",
        recipe=_SPREAD_36,
        source="adderlab (docs/why-runs-fail.md)",
        notes="spread-44 for keys that are turned queries: logits times 500, 64 draws, a third stage",
    ),
    NamedRecipe(
        name="spread-44-finish",
        recipe=_finished(_SPREAD_44, 20_000, 5000.0, lr=0.001),
        source="adderlab (docs/why-runs-fail.md)",
        notes="spread-44 with a finish of 20,000 steps, logits times 5,000",
    ),
    NamedRecipe(
        name="spread-36-finish",
        recipe=_finished(_SPREAD_36, 40_000, 5000.0, lr=0.001, batch_size=1024, beta2=0.99),
        source="adderlab (docs/why-runs-fail.md)",
        notes="spread-36 with a finish of 40,000 steps, logits times 5,000",
    ),
    NamedRecipe(
        name="drawn-67",
        recipe=_DRAWN_67,
        source="adderlab (docs/why-runs-fail.md)",
        notes="for MicroAdder's line: 32 draws a seed, of which the best half goes on at 4,000, 7,000, "
        "10,000, 13,000 and 16,000 steps; attention fitted to look at its column; pairs of all lengths",
    ),
    NamedRecipe(
        name="drawn-67-finish",
        recipe=_finished(_DRAWN_67, 4000, 10.0),
        source="adderlab (docs/why-runs-fail.md)",
        notes="drawn-67 with a finish of 4,000 steps, logits times 10",
    ),
    NamedRecipe(
        name="quick-7",
        recipe=dataclasses.replace(
            _DRAWN_7,
            steps=8000,
            warmup_steps=250,
            eval_interval=250,
            prefit=AttentionPrefit(parameters=("blocks.0.attn.q_proj",), steps=60, lr=0.5, pairs=2),
            restarts=Restarts(halve_at=(250, 500, 750, 1000, 1250, 1500, 2000)),
        ),
        source="adderlab (docs/smallest.md)",
        notes="drawn-7 for the 7p, which learns within some hundred steps or never: 128 draws, a "
        "fifth of the steps",
    ),
    NamedRecipe(
        name="drawn-7",
        recipe=_DRAWN_7,
        source="adderlab (docs/smallest.md)",
        notes="for our own line of 11 parameters and fewer: uniform pairs from the first step, queries "
        "fitted to look at their column, the best of 32 draws",
    ),
    NamedRecipe(
        name="circle",
        recipe=_circle(54_000, 0.35),
        source="adderlab (docs/why-runs-fail.md)",
        notes="for presets with learned low-rank positions: they start on a circle, stand still for "
        "35% of the run and learn at 0.3 x the rate afterwards",
    ),
    NamedRecipe(
        name="circle-27k",
        recipe=dataclasses.replace(_circle(27_000, 0.5), eval_interval=500),
        source="adderlab (docs/why-runs-fail.md)",
        notes="circle in half the steps, released at 50%",
    ),
    NamedRecipe(
        name="circle-13k",
        recipe=_quick_circle(),
        source="adderlab (docs/why-runs-fail.md)",
        notes="circle in a quarter of the steps, data phases and warm-up halved, released at 50%: fewer "
        "seeds succeed, but the first proof comes sooner",
    ),
)
