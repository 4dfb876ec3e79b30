"""Published recipes, part 1: the low-rank line, split channels, MicroAdder.

Facts: the repositories named as the ``source`` of each entry.
"""

import dataclasses

from adderlab.task.curriculum import (
    MICROADDER_CURRICULUM,
    MICROADDER_MIX,
    CarryMix,
    DataConfig,
)
from adderlab.training.decay import MICROADDER_DECAY, AdaptiveDecay, DecayRule
from adderlab.training.recipe import (
    PUBLISHED_456,
    UNIFORM_LENGTHS,
    UNIFORM_PAIRS,
    NamedRecipe,
    Recipe,
    Stage,
)

_R456 = "yinglunz/A-456-Parameter-Transformer-Solves-10-Digit-Addition"
_REZABYT = "rezabyt/digit-addition-311p"
_LICHENGLIU = "lichengliu03/digit-addition-274p"
_EVINDOR = "evindor/MicroAdder"
_JACKCAI = "JackCai1206/smallest-addition-transformer"
_H3NOCK = "h3nock/tiny-adder-lab"


def _fine_tuned(steps: int, *rates_and_steps: tuple[float, int]) -> Recipe:
    """R456's recipe, then restarts at lower rates."""
    stages = tuple(Stage(lr=lr, steps=n) for lr, n in rates_and_steps)
    return dataclasses.replace(PUBLISHED_456, steps=steps, stages=stages)


_TUNING = "the fine-tuning program was not seen: its schedule is taken to be a cosine to a tenth"
LOW_RANK_LINE = (
    NamedRecipe(
        name="r456-54k",
        recipe=PUBLISHED_456,
        source=_R456,
        notes="the published program draws its pairs from its own generator: --set "
        "recipe.sampler=r456, or python -m src.train",
    ),
    NamedRecipe(name="r456-27k", recipe=dataclasses.replace(PUBLISHED_456, steps=27_000), source=_R456),
    NamedRecipe(
        name="yhavinga-777",
        recipe=dataclasses.replace(PUBLISHED_456, steps=27_000),
        source="yhavinga/gpt-acc-jax",
        notes="phases of 2000, 5000 and 20000 steps; R456's recipe descends from it",
    ),
    NamedRecipe(
        name="yhavinga-973",
        recipe=dataclasses.replace(PUBLISHED_456, steps=27_000, lr=0.01),
        source="yhavinga/gpt-acc-jax",
    ),
    NamedRecipe(
        name="rezabyt-311",
        recipe=_fine_tuned(162_000, (1e-3, 100_000), (3e-4, 50_000), (1e-4, 30_000)),
        source=_REZABYT,
        notes=f"its rounds restart the best of 8 to 100 seeds, ours each seed from itself; {_TUNING}",
    ),
    NamedRecipe(
        name="lichengliu-274",
        recipe=_fine_tuned(200_000, (1e-3, 100_000), (3e-4, 50_000)),
        source=_LICHENGLIU,
        notes=_TUNING,
    ),
    NamedRecipe(
        name="lichengliu-262",
        recipe=dataclasses.replace(PUBLISHED_456, steps=500_000),
        source="lichengliu03/TinyAdder-262p",
        notes="repository not seen: what is not 500,000 steps is taken from the 274p",
    ),
    NamedRecipe(
        name="h3nock-305",
        recipe=dataclasses.replace(
            PUBLISHED_456,
            steps=512_000,
            lr=0.01808611797410989,
            warmup_steps=2000,
            weight_decay=0.003,
            eval_interval=2000,
        ),
        source=_H3NOCK,
        notes="found by a Bayesian sweep, seed 43",
    ),
    NamedRecipe(
        name="h3nock-239",
        recipe=dataclasses.replace(
            PUBLISHED_456, steps=512_000, lr=0.00408, warmup_steps=2000, eval_interval=2000
        ),
        source=_H3NOCK,
        notes="found by a Bayesian sweep, seed 34; warm-up as in the sweep's settings",
    ),
    NamedRecipe(
        name="codex-1644",
        recipe=dataclasses.replace(
            PUBLISHED_456,
            steps=5000,
            lr=3e-3,
            warmup_steps=100,
            data=UNIFORM_PAIRS,
            val_size=2000,
            eval_interval=300,
        ),
        source="Codex, by sytelus/smallest-addition-transformer-codex",
    ),
)

_CAI = Recipe(
    steps=294_000,
    lr=1e-3,
    warmup_steps=0,
    schedule="constant",
    grad_clip=0.0,
    data=UNIFORM_LENGTHS,
    eval_interval=2000,
)
_CAI_NOTES = (
    "50,000 samples an epoch, up to 3000 epochs; there, operands have exactly the length drawn, here "
    "at most that; it stops after epochs without a gain, here never"
)
SPLIT_LINE = (
    NamedRecipe(name="jackcai-242", recipe=_CAI, source=_JACKCAI, notes=_CAI_NOTES),
    NamedRecipe(name="jackcai-260", recipe=_CAI, source=_JACKCAI, notes=_CAI_NOTES),
    NamedRecipe(
        name="jackcai-234",
        recipe=dataclasses.replace(
            _CAI,
            weight_decay=0.0,
            stages=(Stage(lr=1e-3, schedule="constant", steps=49_000, data=UNIFORM_PAIRS),),
        ),
        source=_JACKCAI,
        notes=f"{_CAI_NOTES}; length and rate of the fine-tuning on uniform pairs unknown",
    ),
)

_MICROADDER = Recipe(
    steps=60_000,
    batch_size=256,
    warmup_steps=1000,
    data=DataConfig(curriculum=MICROADDER_CURRICULUM, carry_mix=MICROADDER_MIX),
    eval_interval=2000,
    stop_perfect_steps=10_000,
)
_NOT_2025 = "there, validation pairs are AdderBoard's first 5000, here they are not"
MICROADDER_LINE = (
    NamedRecipe(name="microadder-60k", recipe=_MICROADDER, source=_EVINDOR, notes=_NOT_2025),
    NamedRecipe(
        name="microadder-74",
        recipe=dataclasses.replace(
            _MICROADDER,
            steps=120_000,
            data=DataConfig(
                curriculum=MICROADDER_CURRICULUM,
                carry_mix=CarryMix(share=0.8, fade_start=10_000, fade_end=80_000),
            ),
            adaptive_decay=MICROADDER_DECAY,
        ),
        source=_EVINDOR,
        notes=f"{_NOT_2025}, so weight decay falls by our own pairs' accuracy",
    ),
    NamedRecipe(
        name="microadder-75",
        recipe=dataclasses.replace(
            _MICROADDER,
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
        source=_EVINDOR,
        notes=f"{_NOT_2025}; there the carry mix fades by accuracy and ends at step 100,000, here it "
        "fades by step",
    ),
)
