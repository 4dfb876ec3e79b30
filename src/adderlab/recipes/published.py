"""The published recipes as a table. Facts: the repositories named as the ``source`` of each entry."""

from __future__ import annotations

from adderlab.recipes.entries import entry
from adderlab.task.sampling import (
    MICROADDER_CURRICULUM,
    MICROADDER_MIX,
    R456_CURRICULUM,
    CarryMix,
    Curriculum,
    DataConfig,
)
from adderlab.training.finetune import LBFGS, Targeting
from adderlab.training.ingredients import (
    M10S_DECAY,
    MICROADDER_DECAY,
    AdaptiveDecay,
    Average,
    DecayRule,
    Grokfast,
)
from adderlab.training.recipe import UNIFORM_LENGTHS, UNIFORM_PAIRS, Stage

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
