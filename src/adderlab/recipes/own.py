"""Our own recipes as a table (docs/why-runs-fail.md, docs/smallest.md); their rates: docs/rates.md.

None encodes addition beyond the pairs and the start: positions on a circle, attention fitted to a
pattern that knows no digits, wide initialisation, restarts with successive halving, a logit scale in the
loss.
"""

from __future__ import annotations

from typing import Any

from adderlab.recipes.entries import entry
from adderlab.task.sampling import Curriculum, DataConfig, Phase
from adderlab.training.ingredients import AttentionPrefit, Circle, Freeze, Restarts, WideInit
from adderlab.training.recipe import UNIFORM_LENGTHS, UNIFORM_PAIRS, Stage

_FAILURES = "adderlab (docs/why-runs-fail.md)"
_SMALLEST = "adderlab (docs/smallest.md)"


def _frozen(until: float) -> tuple[Freeze, ...]:
    """Positions stand still for a fraction of the run and learn slowly afterwards."""
    return (Freeze(prefix="pos_emb.A", until=until, then=0.3),)


def _prefit(*names: str, **settings: Any) -> AttentionPrefit:
    return AttentionPrefit(parameters=tuple(f"blocks.0.attn.{name}" for name in names), **settings)


def _anneal(steps: int, logit_scale: float, *, lr: float, **settings: Any) -> tuple[Stage, ...]:
    """One more stage, whose loss sees larger logits than before: where a model is nearly right, what is
    left to gain are small margins that the loss hardly sees."""
    return (Stage(steps=steps, logit_scale=logit_scale, lr=lr, min_lr_ratio=0.0, **settings),)


_SHORT_ARC = WideInit(arc=(2.0, -0.45, 0.1))

OWN = {
    "circle": entry(
        source=_FAILURES,
        notes="for presets with learned low-rank positions: they start on a circle, are frozen for 35% "
        "of the run and learn at 0.3 x the rate afterwards",
        circle=Circle(),
        freeze=_frozen(0.35),
    ),
    "circle-27k": entry(
        "circle",
        notes="circle in half the steps, frozen for 50%",
        steps=27_000,
        freeze=_frozen(0.5),
        eval_interval=500,
    ),
    "circle-13k": entry(
        "circle-27k",
        notes="circle in a quarter of the steps, data phases and warm-up halved, frozen for 50%: fewer "
        "seeds succeed, but the first proof comes sooner",
        steps=13_500,
        warmup_steps=700,
        data=DataConfig(
            curriculum=Curriculum(
                phases=(
                    Phase(until=1000, max_digits=3),
                    Phase(until=3500, max_digits=6),
                    Phase(until=None, max_digits=10),
                ),
                lengths="uniform",
            )
        ),
    ),
    "prefit": entry(
        "circle",
        notes="for presets with learned low-rank positions and a query factor of its own: positions "
        "start on a circle, an attention prefit turns each query to its column before the first step, "
        "pairs have all lengths from the start, positions are frozen for 20% of the run",
        steps=36_000,
        freeze=_frozen(0.2),
        prefit=_prefit("qkv_Bq", steps=200, lr=0.02, pairs=32),
        # The phases of growing length were for digits to be told apart; with attention in place they
        # only delay the long carries.
        data=UNIFORM_LENGTHS,
        warmup_steps=700,
        min_lr_ratio=0.0,
        eval_interval=500,
    ),
    "prefit-13k": entry(
        "prefit",
        notes="prefit in fewer steps: the first proof comes sooner",
        steps=13_500,
        min_lr_ratio=0.1,
        prefit=_prefit("qkv_Bq"),
    ),
    "prefit-9k-anneal": entry(
        "prefit-13k",
        notes="prefit in a quarter of the steps and half the batch, with logits five times as large in "
        "the loss, a higher rate, and an anneal stage for seeds that come to 90%: fewer seeds succeed, "
        "but each takes two core-seconds",
        steps=9000,
        batch_size=256,
        lr=0.03,
        logit_scale=5.0,
        eval_interval=250,
        then=_anneal(1500, 50.0, lr=0.003, weight_decay=0.0, from_exact=0.9),
    ),
    "prefit-9k-anneal-3k": entry(
        "prefit-9k-anneal",
        notes="prefit-9k-anneal with an anneal stage twice as long, at twice the rate",
        stages=_anneal(3000, 50.0, lr=0.006, weight_decay=0.0, from_exact=0.9),
    ),
    "prefit-restarts2": entry(
        "prefit",
        notes="prefit from two starts a seed, of which the better goes on at half of the run: 54,000 "
        "steps in all",
        restarts=Restarts(halve_at=(18_000,)),
    ),
    "prefit-restarts2-anneal": entry(
        "prefit-restarts2",
        notes="prefit-restarts2 with logits five times as large in the loss, and an anneal stage of "
        "2,000 steps for seeds that come to 90%",
        logit_scale=5.0,
        then=_anneal(2000, 50.0, lr=0.002, weight_decay=0.0, from_exact=0.9),
    ),
    "prefit-scale20": entry(
        "prefit",
        notes="prefit for narrower models (311p, 262p): logit scale 20, the best of four starts, more "
        "steps",
        steps=54_000,
        logit_scale=20.0,
        restarts=Restarts(halve_at=(3000, 6000)),
    ),
    "prefit-scale100": entry(
        "prefit-scale20",
        notes="prefit-scale20 with logit scale 100, a higher learning rate and no weight decay",
        lr=0.03,
        weight_decay=0.0,
        logit_scale=100.0,
    ),
    "prefit-scale20-anneal": entry(
        "prefit-scale20",
        notes="prefit-scale20 and 8,000 steps more at logit scale 200, without weight decay",
        then=_anneal(8000, 200.0, lr=0.002, weight_decay=0.0),
    ),
    "restarts-122": entry(
        source=_FAILURES,
        notes="for the rotary line: its first stage, with pairs of all lengths and the best of 32 "
        "starts",
        steps=60_000,
        batch_size=128,
        lr=0.01,
        warmup_steps=0,
        min_lr_ratio=0.0,
        data=UNIFORM_LENGTHS,
        restarts=Restarts(halve_at=(4000, 7000, 10_000, 13_000, 16_000)),
    ),
    "plain-228": entry(
        "restarts-122",
        notes="restarts-122 from one start a seed, for the two heads of the 228p",
        restarts=None,
    ),
    "restarts-rotary": entry(
        "restarts-122",
        notes="for the rotary line below 122 parameters: restarts-122 with an attention prefit",
        prefit=_prefit("q", "k"),
    ),
    "short": entry(
        "restarts-rotary",
        notes="for numbers of a few digits, by the rotary line: wide starts, of which the best of 32 is "
        "known after 900 steps; logits times 100 and no weight decay, so that the last few of a million "
        "pairs still count in the loss",
        steps=6000,
        batch_size=64,
        lr=0.02,
        weight_decay=0.0,
        logit_scale=100.0,
        eval_interval=100,
        val_size=1000,
        wide_init=WideInit(),
        restarts=Restarts(halve_at=(200, 300, 400, 600, 900)),
        then=_anneal(2000, 300.0, lr=0.003),
    ),
    "restarts-67": entry(
        "restarts-122",
        notes="for MicroAdder's line: 32 starts a seed, of which the best half goes on at 4,000, 7,000, "
        "10,000, 13,000 and 16,000 steps; an attention prefit; pairs of all lengths",
        steps=40_000,
        batch_size=256,
        lr=0.02,
        warmup_steps=1000,
        # Query and key are one map here; positions are the only other thing that attention reads.
        prefit=AttentionPrefit(parameters=("pos_emb", "blocks.0.attn.qk_shared", "blocks.0.attn.query")),
    ),
    "restarts-67-anneal": entry(
        "restarts-67",
        notes="restarts-67 with an anneal stage of 4,000 steps at logit scale 10",
        then=_anneal(4000, 10.0, lr=0.002),
    ),
    "restarts-57": entry(
        "restarts-67-anneal",
        notes="restarts-67-anneal with 20,000 steps more at logit scale 1,000, the last 8,000 with "
        "larger batches",
        then=(
            *_anneal(12_000, 1000.0, lr=0.005, beta2=0.99),
            *_anneal(8000, 1000.0, lr=0.002, batch_size=1024, beta2=0.99),
        ),
    ),
    "restarts-7": entry(
        source=_SMALLEST,
        notes="for our own line of 11 parameters and fewer: uniform pairs from the first step, an "
        "attention prefit, the best of 32 starts",
        steps=40_000,
        batch_size=256,
        lr=0.04,
        warmup_steps=1000,
        min_lr_ratio=0.0,
        weight_decay=0.0,
        data=UNIFORM_PAIRS,
        prefit=_prefit("q_proj", steps=200, lr=0.2),
        restarts=Restarts(halve_at=(2000, 3000, 4000, 6000, 8000)),
    ),
    "generic-8": entry("restarts-7", notes="restarts-7 without the prefit, for 8p and 11p", prefit=None),
    "restarts-7-8k": entry(
        "restarts-7",
        notes="restarts-7 for the 7p, which learns within some hundred steps or never: 128 starts, a "
        "fifth of the steps",
        steps=8000,
        warmup_steps=250,
        eval_interval=250,
        prefit=_prefit("q_proj", steps=60, lr=0.5, pairs=2),
        restarts=Restarts(halve_at=(250, 500, 750, 1000, 1250, 1500, 2000)),
    ),
    "generic-7": entry(
        "restarts-7-8k",
        notes="restarts-7-8k without the attention prefit: stride, scale and angle begin at the "
        "model's own constants, the other four at random",
        prefit=None,
    ),
    "wide-89": entry(
        source=_FAILURES,
        notes="for the rotary line with a token table: wide initialisation, with norms of either sign; "
        "the best of 32 starts; logit scale 10; an attention prefit",
        steps=40_000,
        batch_size=128,
        warmup_steps=500,
        min_lr_ratio=0.0,
        weight_decay=0.0,
        logit_scale=10.0,
        data=UNIFORM_PAIRS,
        wide_init=WideInit(),
        prefit=_prefit("q", "k", steps=100),
        restarts=Restarts(halve_at=(1000, 2000, 3000, 4000, 6000)),
        eval_interval=500,
    ),
    "generic-89": entry("wide-89", notes="wide-89 without the attention prefit", prefit=None),
    "generic-89-64": entry(
        "generic-89",
        notes="generic-89 with the best of 64 starts",
        restarts=Restarts(halve_at=(500, 1000, 2000, 3000, 4000, 6000)),
    ),
    "wide-62": entry(
        "wide-89",
        notes="wide-89 for digits on an arc, which starts short",
        steps=60_000,
        lr=0.03,
        wide_init=_SHORT_ARC,
    ),
    "wide-62-long": entry(
        "wide-62",
        notes="wide-62 at logit scale 100, with smaller batches at a lower rate and a second stage",
        steps=80_000,
        batch_size=64,
        lr=0.01,
        logit_scale=100.0,
        prefit=_prefit("q_proj", "q_norm", "k_norm", steps=60, lr=0.3),
        restarts=Restarts(halve_at=(1000, 2000, 4000, 10_000, 20_000)),
        then=(Stage(lr=0.004, steps=60_000, min_lr_ratio=0.0, batch_size=256),),
    ),
    "wide-44": entry(
        "wide-62-long",
        notes="for one map for query, key and value: logit scale 200; the prefit moves only the norms "
        "of query and key, as the map has to carry digits; a second stage with larger batches",
        logit_scale=200.0,
        # A map that serves values too would be fitted to be the same for all digits, and carry nothing.
        prefit=_prefit("q_norm", "k_norm", steps=60, lr=0.3),
    ),
    "wide-44-anneal": entry(
        "wide-44",
        notes="wide-44 with an anneal stage of 20,000 steps at logit scale 5,000",
        then=_anneal(20_000, 5000.0, lr=0.001),
    ),
    "wide-44-anneal3": entry(
        "wide-44-anneal",
        notes="wide-44-anneal with two more anneal stages of 16,000 steps at logit scales 50,000 and "
        "500,000, with larger batches",
        then=(
            *_anneal(16_000, 50_000.0, lr=0.001, batch_size=1024, beta2=0.99),
            *_anneal(16_000, 500_000.0, lr=0.001, batch_size=1024, beta2=0.99),
        ),
    ),
    "wide-36": entry(
        "wide-44",
        notes="wide-44 for keys that are rotated queries: logit scale 500, 64 starts, a third stage",
        logit_scale=500.0,
        prefit=_prefit("q_norm", "key.angle", steps=60, lr=0.3),
        restarts=Restarts(halve_at=(1000, 2000, 4000, 8000, 16_000, 30_000)),
        then=(Stage(lr=0.004, steps=30_000, min_lr_ratio=0.0, batch_size=1024, beta2=0.99),),
    ),
    "wide-36-anneal": entry(
        "wide-36",
        notes="wide-36 with an anneal stage of 40,000 steps at logit scale 5,000",
        then=_anneal(40_000, 5000.0, lr=0.001, batch_size=1024, beta2=0.99),
    ),
}
