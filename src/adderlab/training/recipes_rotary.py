"""Published recipes, part 2: the rotary line (MLX runs, M10S, and what descends from them).

Facts: the repositories named as the ``source`` of each entry.
"""

import dataclasses

from adderlab.task.curriculum import R456_CURRICULUM, Curriculum, DataConfig
from adderlab.training.average import Average
from adderlab.training.decay import M10S_DECAY
from adderlab.training.finish import Polish
from adderlab.training.grokfast import Grokfast
from adderlab.training.recipe import UNIFORM_PAIRS, NamedRecipe, Recipe, Stage
from adderlab.training.targeted import Targeting

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
_POLISH = Stage(polish=Polish())
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
