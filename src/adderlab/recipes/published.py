"""Published recipes, part 1: the low-rank line, split channels, MicroAdder.

Facts: the repositories named as the ``source`` of each entry.
"""

import dataclasses

from adderlab.task.sampling import (
    MICROADDER_CURRICULUM,
    MICROADDER_MIX,
    R456_CURRICULUM,
    CarryMix,
    Curriculum,
    DataConfig,
)
from adderlab.training.finetune import LBFGS, Targeting
from adderlab.training.optimiser import (
    M10S_DECAY,
    MICROADDER_DECAY,
    AdaptiveDecay,
    Average,
    DecayRule,
    Grokfast,
)
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


# Published recipes, part 2: the rotary line (MLX runs, M10S, and what descends from them).
#
# Facts: the repositories named as the ``source`` of each entry.


_TBUKIC = "tbukic/M10S-Transformer"
_STAGHADO = "staghado/minimal-ten-digit-addition-transformer"

_MLX = Recipe(
    steps=45_000,
    batch_size=128,
    lr=0.01,
    warmup_steps=0,
    schedule="constant",
    bias_correction=False,
    data=UNIFORM_PAIRS,
)
_POLISH = Stage(lbfgs=LBFGS())
_MLX_NOTES = "the log keeps the last weights, we keep the best"
MLX_LINE = (
    NamedRecipe(name="staghado-45k", recipe=_MLX, source=_STAGHADO, notes=_MLX_NOTES),
    NamedRecipe(
        name="staghado-122",
        recipe=dataclasses.replace(_MLX, lr=0.02),
        source=_STAGHADO,
        notes=_MLX_NOTES,
    ),
    NamedRecipe(
        name="staghado-122-lbfgs",
        recipe=dataclasses.replace(_MLX, lr=0.02, stages=(_POLISH,)),
        source=_STAGHADO,
        notes="there from the last weights, here from the best; there in single precision",
    ),
    NamedRecipe(
        name="staghado-146",
        recipe=dataclasses.replace(_MLX, lr=5e-3),
        source=_STAGHADO,
        notes=_MLX_NOTES,
    ),
    NamedRecipe(
        name="staghado-228",
        recipe=dataclasses.replace(_MLX, lr=3e-3, steps=35_000),
        source=_STAGHADO,
        notes=_MLX_NOTES,
    ),
)

_STAGE_1 = Recipe(
    steps=100_000,
    batch_size=128,
    lr=0.01,
    warmup_steps=0,
    data=UNIFORM_PAIRS,
    eval_interval=2000,
)


def _after(steps: int, *stages: Stage) -> Recipe:
    return dataclasses.replace(_STAGE_1, steps=steps, stages=stages)


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


def _sub_50(strength: float, *stages: Stage) -> Recipe:
    """The engine of the models below 50 parameters."""
    return dataclasses.replace(
        _STAGE_1,
        data=DataConfig(curriculum=Curriculum(phases=R456_CURRICULUM.phases, lengths="full")),
        adaptive_decay=M10S_DECAY,
        grokfast=Grokfast(alpha=0.98, strength=strength),
        stages=stages,
    )


_GROKFAST = Grokfast(alpha=0.98, strength=2.0)
_FRESH = (
    "targeted rounds there look for failures in sets that overlap the evaluation and stop at none; "
    "here in fresh pairs, and their number is fixed"
)
_SUB_50_NOTES = (
    "there, operands below ten digits have one drawn length, here they are uniform below 10^max; there "
    "a run ends at 99.9% of 500 pairs, here training goes on and the best weights are kept"
)
M10S_LINE = (
    NamedRecipe(name="m10s-stage1", recipe=_STAGE_1, source=_TBUKIC, notes="100,000 to 300,000 steps"),
    NamedRecipe(name="m10s-122", recipe=_after(200_000), source=_TBUKIC, notes="seed 6; 4 of 10"),
    NamedRecipe(name="m10s-113", recipe=_after(50_000, _constant(1e-3, 30_000)), source=_TBUKIC),
    NamedRecipe(
        name="m10s-101",
        recipe=_after(50_000, *_targeted(2, 3e-4, 1000)),
        source=_TBUKIC,
        notes=f"{_FRESH}; number of rounds unknown",
    ),
    NamedRecipe(
        name="m10s-96",
        recipe=_after(200_000, *_targeted(2, 3e-4, 3000)),
        source=_TBUKIC,
        notes=f"{_FRESH}; number of rounds unknown",
    ),
    NamedRecipe(
        name="m10s-95",
        recipe=_after(50_000, *_targeted(2, 1e-3, 3000)),
        source=_TBUKIC,
        notes=f"{_FRESH}; number of rounds unknown",
    ),
    NamedRecipe(
        name="m10s-multi-stage",
        recipe=_after(
            50_000,
            _constant(1e-3, 30_000),
            _constant(3e-4, 30_000, 128),
            _constant(1e-3, 300_000),
            _constant(3e-4, 20_000),
        ),
        source=_TBUKIC,
        notes="the 89p chain of its reproduction program; its report has 100K + 300K + 30K + 20K steps, "
        "another of its files 100K steps and targeted rounds",
    ),
    NamedRecipe(
        name="m10s-86",
        recipe=_after(100_000, _POLISH, *_targeted(1, 3e-4, 500)),
        source=_TBUKIC,
        notes=f"there L-BFGS takes 300 fresh batches of 512 or 1024, here one fixed set; {_FRESH}",
    ),
    NamedRecipe(
        name="m10s-83",
        recipe=_after(
            100_000,
            _constant(1e-3, 30_000, 128),
            _constant(3e-4, 30_000, 128),
            *_targeted(4, 3e-4, 5000),
        ),
        source=_TBUKIC,
        notes=f"its second stage starts from the last weights, ours from the best; {_FRESH}",
    ),
    NamedRecipe(
        name="m10s-62",
        recipe=_after(
            200_000,
            _constant(1e-3, 50_000, average=Average(decay=0.999)),
            _constant(3e-4, 30_000, average=Average(decay=0.999)),
            Stage(lr=1e-3, steps=50_000, min_lr_ratio=0.0, batch_size=256, weight_decay=0.0),
        ),
        source=_TBUKIC,
        notes="one of its files adds targeted rounds; the published checkpoint is of this last stage",
    ),
    NamedRecipe(
        name="m10s-58",
        recipe=_after(
            290_000,
            Stage(lr=1e-3, steps=60_000, grokfast=_GROKFAST),
            *_targeted(1, 3e-4, 3000, 128, 0.0),
        ),
        source=_TBUKIC,
        notes=f"80,000 Grokfast steps reached 99.99% without targeting; {_FRESH}",
    ),
    NamedRecipe(
        name="m10s-55",
        recipe=_after(
            295_000,
            Stage(lr=1e-3, steps=325_000, grokfast=_GROKFAST),
            *_targeted(6, 3e-4, 5000, 128, 0.0),
        ),
        source=_TBUKIC,
        notes=f"six rounds with 547 pairs in its report, two with 107 in its notes; {_FRESH}",
    ),
    NamedRecipe(
        name="m10s-sub50",
        recipe=_sub_50(2.0, *_targeted(2, 1e-4, 3000, 128, 0.0)),
        source=_TBUKIC,
        notes=f"as for 45p; lambda and number of rounds unknown for it; {_SUB_50_NOTES}; {_FRESH}",
    ),
    NamedRecipe(name="m10s-44", recipe=_sub_50(1.0), source=_TBUKIC, notes=_SUB_50_NOTES),
    NamedRecipe(
        name="m10s-41",
        recipe=_sub_50(2.0, *_targeted(3, 1e-4, 3000, 128, 0.0)),
        source=_TBUKIC,
        notes=f"lambda unknown; {_SUB_50_NOTES}; {_FRESH}",
    ),
    NamedRecipe(
        name="m10s-36",
        recipe=_sub_50(3.0, *_targeted(2, 1e-4, 3000, 128, 0.0)),
        source=_TBUKIC,
        notes=f"{_SUB_50_NOTES}; {_FRESH}",
    ),
    NamedRecipe(
        name="vijec-52",
        recipe=_after(
            290_000,
            Stage(lr=1e-3, steps=60_000, grokfast=_GROKFAST),
            *_targeted(2, 3e-4, 3000, 128, 0.0),
        ),
        source="vijec",
        notes="only Grokfast alpha 0.98, lambda 2 and targeted rounds are reported; the rest is m10s-58",
    ),
    NamedRecipe(
        name="dimopep-140",
        recipe=dataclasses.replace(_STAGE_1, steps=20_000, weight_decay=0.0),
        source="dimopep",
        notes="learning rate, no weight decay and 20,000 steps are reported; the rest is M10S's",
    ),
)
