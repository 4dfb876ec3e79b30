"""The recipes as tables: how they are written, the published ones, and our own.

Each entry names its parent and what differs from it; ``Recipe``'s own defaults are the published 456p
program's. Facts of the published ones: the repositories named as the ``source`` of each entry.

Of our own (docs/why-runs-fail.md, docs/smallest.md) the measured rates are in docs/rates.md. None
encodes addition beyond the pairs and the start: positions on a circle, attention fitted to a pattern
that knows no digits, wide initialisation, restarts with successive halving, a logit scale in the loss.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adderlab.task.sampling import (
    MICROADDER_CURRICULUM,
    MICROADDER_MIX,
    R456_CURRICULUM,
    CarryMix,
    Curriculum,
    DataConfig,
    Phase,
)
from adderlab.training.finetune import LBFGS, Targeting
from adderlab.training.ingredients import (
    M10S_DECAY,
    MICROADDER_DECAY,
    AdaptiveDecay,
    AttentionPrefit,
    Average,
    Circle,
    DecayRule,
    Freeze,
    Grokfast,
    Restarts,
    WideInit,
)
from adderlab.training.recipe import UNIFORM_LENGTHS, UNIFORM_PAIRS, Recipe, Stage


@dataclass(frozen=True, kw_only=True)
class NamedRecipe:
    """A recipe and where it comes from."""

    name: str
    recipe: Recipe
    source: str
    """Repository, or the page of ours, that it is taken from."""
    notes: str = ""
    """What it is for, what could not be confirmed, and where we differ from the source."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A recipe as its differences. What is None is the parent's."""

    parent: str | None
    """Name of another entry; None: the defaults of ``Recipe``."""
    source: str | None
    notes: str | None
    then: tuple[Stage, ...]
    """Stages after the parent's."""
    changes: Mapping[str, Any]
    """Fields of ``Recipe`` with other values than the parent's."""


def entry(
    parent: str | None = None,
    *,
    source: str | None = None,
    notes: str | None = None,
    then: tuple[Stage, ...] = (),
    **changes: Any,
) -> Entry:
    """See ``Entry``."""
    return Entry(parent=parent, source=source, notes=notes, then=then, changes=changes)


def resolve(entries: Mapping[str, Entry]) -> dict[str, NamedRecipe]:
    """Every entry as a whole recipe, in the order of the table; parents may stand anywhere in it."""
    whole: dict[str, NamedRecipe] = {}

    def of(name: str) -> NamedRecipe:
        if name not in whole:
            own = entries[name]
            parent = NamedRecipe(name="", recipe=Recipe(), source="")
            if own.parent is not None:
                parent = of(own.parent)
            recipe = dataclasses.replace(parent.recipe, **own.changes)
            whole[name] = NamedRecipe(
                name=name,
                recipe=dataclasses.replace(recipe, stages=(*recipe.stages, *own.then)),
                source=parent.source if own.source is None else own.source,
                notes=parent.notes if own.notes is None else own.notes,
            )
        return whole[name]

    return {name: of(name) for name in entries}


# The published recipes.


_LBFGS = Stage(lbfgs=LBFGS())
_GROKFAST = Grokfast(alpha=0.98, strength=2.0)


def _restarts(*rates_and_steps: tuple[float, int]) -> tuple[Stage, ...]:
    """Fine-tuning as R456's descendants do it: restarts at lower rates."""
    return tuple(Stage(lr=lr, steps=steps) for lr, steps in rates_and_steps)


def _constant(lr: float, steps: int, batch_size: int = 256, average: Average | None = None) -> Stage:
    return Stage(lr=lr, steps=steps, schedule="constant", batch_size=batch_size, average=average)


def _targeted(
    rounds: int, lr: float, steps: int, batch_size: int = 256, weight_decay: float = 0.01
) -> tuple[Stage, ...]:
    stage = Stage(
        lr=lr,
        steps=steps,
        schedule="constant",
        batch_size=batch_size,
        weight_decay=weight_decay,
        targeting=Targeting(most=min(128, batch_size)),
    )
    return (stage,) * rounds


_TUNING = "the fine-tuning program was not seen: its schedule is taken to be a cosine to a tenth"
_LOW_RANK = {
    "r456-54k": entry(
        source="yinglunz/A-456-Parameter-Transformer-Solves-10-Digit-Addition",
        notes="the published program draws its pairs from its own generator: --set "
        "recipe.sampler=r456, or python -m src.train",
    ),
    "r456-27k": entry("r456-54k", notes="", steps=27_000),
    "yhavinga-777": entry(
        "r456-27k",
        source="yhavinga/gpt-acc-jax",
        notes="phases of 2000, 5000 and 20000 steps; R456's recipe descends from it",
    ),
    "yhavinga-973": entry("yhavinga-777", notes="", lr=0.01),
    "rezabyt-311": entry(
        "r456-54k",
        source="rezabyt/digit-addition-311p",
        notes=f"its rounds restart the best of 8 to 100 seeds, ours each seed from itself; {_TUNING}",
        steps=162_000,
        stages=_restarts((1e-3, 100_000), (3e-4, 50_000), (1e-4, 30_000)),
    ),
    "lichengliu-274": entry(
        "r456-54k",
        source="lichengliu03/digit-addition-274p",
        notes=_TUNING,
        steps=200_000,
        stages=_restarts((1e-3, 100_000), (3e-4, 50_000)),
    ),
    "lichengliu-262": entry(
        "r456-54k",
        source="lichengliu03/TinyAdder-262p",
        notes="repository not seen: what is not 500,000 steps is taken from the 274p",
        steps=500_000,
    ),
    "h3nock-305": entry(
        "r456-54k",
        source="h3nock/tiny-adder-lab",
        notes="found by a Bayesian sweep, seed 43",
        steps=512_000,
        lr=0.01808611797410989,
        warmup_steps=2000,
        weight_decay=0.003,
        eval_interval=2000,
    ),
    "h3nock-239": entry(
        "h3nock-305",
        notes="found by a Bayesian sweep, seed 34; warm-up as in the sweep's settings",
        lr=0.00408,
        weight_decay=0.01,
    ),
    "codex-1644": entry(
        "r456-54k",
        source="Codex, by sytelus/smallest-addition-transformer-codex",
        notes="",
        steps=5000,
        lr=3e-3,
        warmup_steps=100,
        data=UNIFORM_PAIRS,
        val_size=2000,
        eval_interval=300,
    ),
}

_SPLIT_NOTES = (
    "50,000 samples an epoch, up to 3000 epochs; there, operands have exactly the length drawn, here "
    "at most that; it stops after epochs without a gain, here never"
)
_SPLIT = {
    "jackcai-242": entry(
        source="JackCai1206/smallest-addition-transformer",
        notes=_SPLIT_NOTES,
        steps=294_000,
        lr=1e-3,
        warmup_steps=0,
        schedule="constant",
        grad_clip=0.0,
        data=UNIFORM_LENGTHS,
        eval_interval=2000,
    ),
    "jackcai-260": entry("jackcai-242"),
    "jackcai-234": entry(
        "jackcai-242",
        notes=f"{_SPLIT_NOTES}; length and rate of the fine-tuning on uniform pairs unknown",
        weight_decay=0.0,
        stages=(Stage(lr=1e-3, schedule="constant", steps=49_000, data=UNIFORM_PAIRS),),
    ),
}

_NOT_2025 = "there, validation pairs are AdderBoard's first 5000, here they are not"
_MICROADDER = {
    "microadder-60k": entry(
        source="evindor/MicroAdder",
        notes=_NOT_2025,
        steps=60_000,
        batch_size=256,
        warmup_steps=1000,
        data=DataConfig(curriculum=MICROADDER_CURRICULUM, carry_mix=MICROADDER_MIX),
        eval_interval=2000,
        stop_perfect_steps=10_000,
    ),
    "microadder-74": entry(
        "microadder-60k",
        notes=f"{_NOT_2025}, so weight decay falls by our own pairs' accuracy",
        steps=120_000,
        data=DataConfig(
            curriculum=MICROADDER_CURRICULUM,
            carry_mix=CarryMix(share=0.8, fade_start=10_000, fade_end=80_000),
        ),
        adaptive_decay=MICROADDER_DECAY,
    ),
    "microadder-75": entry(
        "microadder-60k",
        notes=f"{_NOT_2025}; there the carry mix fades by accuracy and ends at step 100,000, here it "
        "fades by step",
        steps=500_000,
        data=DataConfig(
            curriculum=MICROADDER_CURRICULUM,
            carry_mix=CarryMix(share=0.3, fade_start=0, fade_end=100_000),
        ),
        adaptive_decay=AdaptiveDecay(
            rules=(
                DecayRule(factor=0.1, val_exact=0.01, val_token_acc=0.7),
                DecayRule(factor=0.01, val_exact=0.05, val_token_acc=0.7),
            ),
            lasting=False,
        ),
        eval_interval=3000,
    ),
}

_MLX = {
    "staghado-45k": entry(
        source="staghado/minimal-ten-digit-addition-transformer",
        notes="the log keeps the last weights, we keep the best",
        steps=45_000,
        batch_size=128,
        lr=0.01,
        warmup_steps=0,
        schedule="constant",
        bias_correction=False,
        data=UNIFORM_PAIRS,
    ),
    "staghado-122": entry("staghado-45k", lr=0.02),
    "staghado-122-lbfgs": entry(
        "staghado-122",
        notes="there from the last weights, here from the best; there in single precision",
        then=(_LBFGS,),
    ),
    "staghado-146": entry("staghado-45k", lr=5e-3),
    "staghado-228": entry("staghado-45k", lr=3e-3, steps=35_000),
}

_FRESH = (
    "targeted rounds there look for failures in sets that overlap the evaluation and stop at none; "
    "here in fresh pairs, and their number is fixed"
)
_SUB_50_NOTES = (
    "there, operands below ten digits have one drawn length, here they are uniform below 10^max; there "
    "a run ends at 99.9% of 500 pairs, here training goes on and the best weights are kept"
)
_M10S = {
    "m10s-stage1": entry(
        source="tbukic/M10S-Transformer",
        notes="100,000 to 300,000 steps",
        steps=100_000,
        batch_size=128,
        lr=0.01,
        warmup_steps=0,
        data=UNIFORM_PAIRS,
        eval_interval=2000,
    ),
    "m10s-122": entry("m10s-stage1", notes="seed 6; 4 of 10", steps=200_000),
    "m10s-113": entry("m10s-stage1", notes="", steps=50_000, then=(_constant(1e-3, 30_000),)),
    "m10s-101": entry(
        "m10s-stage1",
        notes=f"{_FRESH}; number of rounds unknown",
        steps=50_000,
        then=_targeted(2, 3e-4, 1000),
    ),
    "m10s-96": entry(
        "m10s-stage1",
        notes=f"{_FRESH}; number of rounds unknown",
        steps=200_000,
        then=_targeted(2, 3e-4, 3000),
    ),
    "m10s-95": entry(
        "m10s-stage1",
        notes=f"{_FRESH}; number of rounds unknown",
        steps=50_000,
        then=_targeted(2, 1e-3, 3000),
    ),
    "m10s-multi-stage": entry(
        "m10s-113",
        notes="the 89p chain of its reproduction program; its report has 100K + 300K + 30K + 20K steps, "
        "another of its files 100K steps and targeted rounds",
        then=(_constant(3e-4, 30_000, 128), _constant(1e-3, 300_000), _constant(3e-4, 20_000)),
    ),
    "m10s-86": entry(
        "m10s-stage1",
        notes=f"there L-BFGS takes 300 fresh batches of 512 or 1024, here one fixed set; {_FRESH}",
        then=(_LBFGS, *_targeted(1, 3e-4, 500)),
    ),
    "m10s-83": entry(
        "m10s-stage1",
        notes=f"its second stage starts from the last weights, ours from the best; {_FRESH}",
        then=(
            _constant(1e-3, 30_000, 128),
            _constant(3e-4, 30_000, 128),
            *_targeted(4, 3e-4, 5000),
        ),
    ),
    "m10s-62": entry(
        "m10s-stage1",
        notes="one of its files adds targeted rounds; the published checkpoint is of this last stage",
        steps=200_000,
        then=(
            _constant(1e-3, 50_000, average=Average(decay=0.999)),
            _constant(3e-4, 30_000, average=Average(decay=0.999)),
            Stage(lr=1e-3, steps=50_000, min_lr_ratio=0.0, batch_size=256, weight_decay=0.0),
        ),
    ),
    "m10s-58": entry(
        "m10s-stage1",
        notes=f"80,000 Grokfast steps reached 99.99% without targeting; {_FRESH}",
        steps=290_000,
        then=(
            Stage(lr=1e-3, steps=60_000, grokfast=_GROKFAST),
            *_targeted(1, 3e-4, 3000, 128, 0.0),
        ),
    ),
    "m10s-55": entry(
        "m10s-stage1",
        notes=f"six rounds with 547 pairs in its report, two with 107 in its notes; {_FRESH}",
        steps=295_000,
        then=(
            Stage(lr=1e-3, steps=325_000, grokfast=_GROKFAST),
            *_targeted(6, 3e-4, 5000, 128, 0.0),
        ),
    ),
    # The engine of the models below 50 parameters, for which m10s-44 stands: it adds nothing to it.
    "m10s-44": entry(
        "m10s-stage1",
        notes=_SUB_50_NOTES,
        data=DataConfig(curriculum=Curriculum(phases=R456_CURRICULUM.phases, lengths="full")),
        adaptive_decay=M10S_DECAY,
        grokfast=Grokfast(alpha=0.98, strength=1.0),
    ),
    "m10s-sub50": entry(
        "m10s-44",
        notes=f"as for 45p; lambda and number of rounds unknown for it; {_SUB_50_NOTES}; {_FRESH}",
        grokfast=_GROKFAST,
        then=_targeted(2, 1e-4, 3000, 128, 0.0),
    ),
    "m10s-41": entry(
        "m10s-44",
        notes=f"lambda unknown; {_SUB_50_NOTES}; {_FRESH}",
        grokfast=_GROKFAST,
        then=_targeted(3, 1e-4, 3000, 128, 0.0),
    ),
    "m10s-36": entry(
        "m10s-44",
        notes=f"{_SUB_50_NOTES}; {_FRESH}",
        grokfast=Grokfast(alpha=0.98, strength=3.0),
        then=_targeted(2, 1e-4, 3000, 128, 0.0),
    ),
    "vijec-52": entry(
        "m10s-stage1",
        source="vijec",
        notes="only Grokfast alpha 0.98, lambda 2 and targeted rounds are reported; the rest is m10s-58",
        steps=290_000,
        then=(
            Stage(lr=1e-3, steps=60_000, grokfast=_GROKFAST),
            *_targeted(2, 3e-4, 3000, 128, 0.0),
        ),
    ),
    "dimopep-140": entry(
        "m10s-stage1",
        source="dimopep",
        notes="learning rate, no weight decay and 20,000 steps are reported; the rest is M10S's",
        steps=20_000,
        weight_decay=0.0,
    ),
}

PUBLISHED = {**_LOW_RANK, **_SPLIT, **_MICROADDER, **_MLX, **_M10S}


# Our own recipes.


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
