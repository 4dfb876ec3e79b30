"""Recipes: everything that decides a training run except the model and the seeds. Data, no code.

Each ingredient that can be left out is a small dataclass or None; the module that has the dataclass
has the method. Defaults are those of the published 456p program (yinglunz/
A-456-Parameter-Transformer-Solves-10-Digit-Addition, docs/reproducing.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from adderlab.engine.step_batch import OptimiserName
from adderlab.errors import UsageError
from adderlab.files import schema
from adderlab.files.schema import IMPLIED
from adderlab.runs.metadata import informed_by
from adderlab.task.sampling import R456_CURRICULUM, Curriculum, DataConfig, Phase
from adderlab.training.finetune import LBFGS, MAX_ROUNDS, Targeting
from adderlab.training.ingredients import (
    AdaptiveDecay,
    AttentionPrefit,
    Average,
    Circle,
    Freeze,
    Grokfast,
    Restarts,
    WideInit,
)

R456_DATA = DataConfig(curriculum=R456_CURRICULUM)
"""Operands of up to 3, 6 and 10 digits, one length for each pair."""
_TEN_DIGITS = (Phase(until=None, max_digits=10),)
UNIFORM_PAIRS = DataConfig(curriculum=Curriculum(phases=_TEN_DIGITS, lengths="full"))
"""Uniform ten-digit operands from the first step."""
UNIFORM_LENGTHS = DataConfig(curriculum=Curriculum(phases=_TEN_DIGITS, lengths="uniform"))
"""One length from 1 to 10 for each pair from the first step."""

Schedule = Literal["cosine", "linear", "constant"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One more stage of training: from the seed's best checkpoint, with a fresh optimiser. None: as in
    the recipe.

    Steps go on counting, so curriculum and carry mix are where they would have been.
    """

    steps: int = 1
    """Optimiser steps of the stage."""
    lr: float = 1e-3
    """Peak learning rate."""
    warmup_steps: int = 0
    """Steps over which the rate rises linearly to its peak."""
    schedule: Schedule = "cosine"
    """How the rate goes on from its peak, as in the recipe."""
    min_lr_ratio: float = 0.1
    """Learning rate at the last step of the cosine or the line, as a fraction of ``lr``."""
    batch_size: int | None = None
    """Pairs in a step."""
    weight_decay: float | None = None
    """Of AdamW."""
    beta2: float | None = None
    """Of AdamW."""
    logit_scale: float | None = None
    """The loss sees logits times this. A larger factor than before, at a low rate, is an anneal stage:
    where a model is nearly right, what is left to gain are small margins that the loss hardly sees."""
    data: DataConfig | None = None
    """Where training pairs come from."""
    grokfast: Grokfast | None = None
    """Amplify slow gradients; None: not in this stage."""
    average: Average | None = None
    """Average the weights over steps; None: not in this stage."""
    lbfgs: LBFGS | None = None
    """L-BFGS instead of AdamW; it is one step, however long."""
    targeting: Targeting | None = None
    """Train on failures of the weights that the stage starts from, looked for at its first step."""
    from_exact: float = field(default=0.0, metadata=IMPLIED)
    """A seed whose best exact match is lower ends before this stage."""

    def __post_init__(self) -> None:
        _check(self, "stage", at_least_1=("steps",), at_least_0=("warmup_steps", "min_lr_ratio"))
        _check(self, "stage", above_0=("lr",))
        if not 0 <= self.from_exact <= 1:
            raise UsageError(f"stage.from_exact is a share from 0 to 1, not {self.from_exact}")
        if self.lbfgs and (self.steps != 1 or self.targeting or self.average or self.grokfast):
            raise UsageError(
                "a stage with lbfgs has steps 1 and no targeting, average or grokfast: put those "
                "into a stage of their own"
            )


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """The trained model that every seed starts from (``training.start``): written by ``--from``, so
    that a run and its models say where they come from."""

    sha256: str
    """Of its weights."""
    start: str
    """How it was started itself: generic, informed and by what, or not recorded (``runs.metadata``)."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An optimiser with warm-up and schedule, a data curriculum, ingredients, and when to look."""

    steps: int = 54_000
    """Optimiser steps before the first stage; ``total_steps`` counts the stages too."""
    batch_size: int = 512
    """Pairs in a step."""
    lr: float = 0.02
    """Peak learning rate."""
    warmup_steps: int = 1350
    """Steps over which the rate rises linearly to its peak."""
    schedule: Schedule = "cosine"
    """From the peak on: a cosine (arXiv 1608.03983) or a line down to ``min_lr_ratio``, or constant."""
    min_lr_ratio: float = 0.1
    """Learning rate at the last step of the cosine or the line, as a fraction of ``lr``."""
    optimiser: OptimiserName = field(default="adamw", metadata=IMPLIED)
    """"adamw"; "muon", which steps matrices (not embeddings and head) by their orthogonalised momentum
    and everything else by AdamW; or "sgd", with momentum beta1. Weight decay is decoupled in all."""
    beta1: float = 0.9
    """Of AdamW (arXiv 1711.05101): decay of the mean gradient; the momentum of the others."""
    beta2: float = 0.999
    """Of AdamW: decay of the mean squared gradient."""
    eps: float = 1e-8
    """Of AdamW: added to the root of the mean square."""
    bias_correction: bool = True
    """Off: as in MLX, whose Adam takes longer first steps."""
    weight_decay: float = 0.01
    """Of AdamW, decoupled: a step shrinks every weight by lr times this."""
    adaptive_decay: AdaptiveDecay | None = None
    """Lowers weight decay of a seed that begins to answer right; before the first stage only."""
    grad_clip: float = 1.0
    """Largest gradient norm of one seed; 0 never clips."""
    logit_scale: float = 1.0
    """The loss sees logits times this, so that it tells close answers apart before weights are large.
    No answer depends on it, and the model does not keep it."""
    grokfast: Grokfast | None = None
    """Amplify slow gradients (arXiv 2405.20233); None: not."""
    average: Average | None = None
    """Evaluate and keep an average of the weights over steps; None: the weights themselves."""
    wide_init: WideInit | None = None
    """Starts drawn wider than the model draws them; None: as the model does."""
    circle: Circle | None = None
    """Where learned positions start; None: as the model draws them."""
    prefit: AttentionPrefit | None = None
    """Where attention starts, after ``circle``; None: as the model draws it."""
    restarts: Restarts | None = None
    """How many starts a seed has, and when the worse are dropped; None: one."""
    warm_start: WarmStart | None = field(default=None, metadata=IMPLIED)
    """The trained model that seeds start from, with --from; None: as the model draws them."""
    freeze: tuple[Freeze, ...] = ()
    """Parameters that stand still at first."""
    data: DataConfig = R456_DATA
    """Where training pairs come from: curriculum and carry mix."""
    sampler: Literal["counter", "r456"] = "counter"
    """"counter": a pure function of (seed, step, row). "r456": the published generator's stream."""
    stages: tuple[Stage, ...] = ()
    """What follows ``steps``, in order."""
    eval_interval: int = 1000
    """Steps between evaluations."""
    val_size: int = 5000
    """Validation pairs, held out for each seed of its own."""
    test_size: int = 10_000
    """Held out with the validation pairs and never drawn in training (r456 sampler)."""
    stop_perfect_steps: int = 0
    """A seed stops once all evaluations over this many steps were at exact match 1; 0 never."""

    def __post_init__(self) -> None:
        _check(self, "recipe", at_least_1=("steps", "batch_size", "eval_interval", "val_size"))
        at_least_0 = (
            "warmup_steps",
            "test_size",
            "stop_perfect_steps",
            "min_lr_ratio",
            "weight_decay",
            "grad_clip",
        )
        _check(self, "recipe", at_least_0=at_least_0, above_0=("lr", "eps", "logit_scale"))
        for _, stage in self.parts:
            assert stage.batch_size is not None and stage.weight_decay is not None
            assert stage.logit_scale is not None
            if not stage.logit_scale > 0:
                raise UsageError(f"a stage's logit_scale must be above 0, not {stage.logit_scale}")
            if stage.batch_size < 1 or stage.weight_decay < 0:
                raise UsageError(
                    "a stage's batch_size must be at least 1 and its weight_decay at least 0, not "
                    f"{stage.batch_size} and {stage.weight_decay}"
                )
            if stage.targeting and stage.targeting.most > stage.batch_size:
                raise UsageError(
                    f"targeting.most {stage.targeting.most} does not fit into a batch of "
                    f"{stage.batch_size}"
                )
            for name, beta in (("beta1", self.beta1), ("beta2", stage.beta2)):
                if beta is None or not 0 <= beta < 1:
                    raise UsageError(f"recipe.{name} must lie in [0, 1), not {beta}")
        if self.sampler == "r456" and any(stage.data for stage in self.stages):
            raise UsageError("sampler r456 draws the recipe's own data: leave data out of the stages")
        for _, stage in self.parts:
            self._check_pool(stage)
        if self.restarts and self.sampler != "counter":
            raise UsageError(f"recipe.restarts goes with sampler counter, not {self.sampler}")
        if self.restarts and self.restarts.widths and self.wide_init:
            raise UsageError(
                "recipe.restarts.widths and recipe.wide_init both say how wide starts are drawn: set "
                "one of them to null"
            )
        if self.restarts and self.restarts.halve_at[-1] >= self.steps:
            raise UsageError(
                f"recipe.restarts: the last halving, at step {self.restarts.halve_at[-1]}, must come "
                f"before step {self.steps}, the last; take more steps, or set recipe.restarts=null"
            )
        if len(self.stages) > MAX_ROUNDS - 1:
            raise UsageError(f"a recipe has at most {MAX_ROUNDS - 1} stages, not {len(self.stages)}")

    @property
    def informed_by(self) -> tuple[str, ...]:
        """Its ingredients that know of columns or digits (``runs.metadata``); none: it is generic."""
        return informed_by(schema.to_dict(self))

    def restarts_after(self, step: int) -> int:
        """Restarts of a seed that go on after the evaluation at ``step``; at -1: all it begins with."""
        return self.restarts.left_after(step) if self.restarts else 1

    @property
    def total_steps(self) -> int:
        """Optimiser steps of one seed, all stages included."""
        return self.steps + sum(stage.steps for stage in self.stages)

    @cached_property
    def parts(self) -> tuple[tuple[int, Stage], ...]:
        """(first step, settings without None) of every stage, the recipe's own steps being the first."""
        parts = [(0, self._own_part())]
        first = self.steps
        for stage in self.stages:
            parts.append((first, self._filled(stage)))
            first += stage.steps
        return tuple(parts)

    def part_index(self, step: int) -> int:
        """Which part a step belongs to; steps after the end belong to the last."""
        return max(i for i, (first, _) in enumerate(self.parts) if first <= step)

    def part_at(self, step: int) -> tuple[int, Stage]:
        """(first step, settings) of the part that a step belongs to."""
        return self.parts[self.part_index(step)]

    def needed_after(self, step: int) -> float:
        """The best exact match below which a seed ends with this step: that of the next stage, at the
        end of one."""
        return next((stage.from_exact for first, stage in self.parts if first == step + 1), 0.0)

    def looks_at(self, step: int) -> bool:
        """Whether seeds are evaluated after this step: regularly, and at the end of every part."""
        ends = (first + stage.steps - 1 for first, stage in self.parts)
        return step % self.eval_interval == 0 or step in ends

    def _check_pool(self, stage: Stage) -> None:
        """Raises ``UsageError`` where something draws training pairs past the pool."""
        assert stage.data is not None
        if stage.data.pool is None:
            return
        if self.sampler != "counter":
            raise UsageError(f"data.pool goes with sampler counter, not {self.sampler}")
        if stage.targeting:
            raise UsageError(
                "targeting trains on pairs of its own, and data.pool on no others: leave one of them out"
            )

    def _own_part(self) -> Stage:
        return Stage(
            steps=self.steps,
            lr=self.lr,
            warmup_steps=self.warmup_steps,
            schedule=self.schedule,
            min_lr_ratio=self.min_lr_ratio,
            batch_size=self.batch_size,
            weight_decay=self.weight_decay,
            beta2=self.beta2,
            logit_scale=self.logit_scale,
            data=self.data,
            grokfast=self.grokfast,
            average=self.average,
        )

    def _filled(self, stage: Stage) -> Stage:
        names = ("batch_size", "weight_decay", "beta2", "logit_scale", "data")
        return replace(
            stage, **{name: getattr(self, name) for name in names if getattr(stage, name) is None}
        )


def _check(
    config: Recipe | Stage,
    kind: str,
    *,
    at_least_1: tuple[str, ...] = (),
    at_least_0: tuple[str, ...] = (),
    above_0: tuple[str, ...] = (),
) -> None:
    """Raises ``UsageError`` naming the first setting out of range (NaN is)."""
    for names, holds, need in (
        (at_least_1, lambda x: x >= 1, "at least 1"),
        (at_least_0, lambda x: x >= 0, "at least 0"),
        (above_0, lambda x: x > 0, "above 0"),
    ):
        for name in names:
            if not holds(getattr(config, name)):
                raise UsageError(f"{kind}.{name} must be {need}, not {getattr(config, name)}")


def learning_rate(recipe: Recipe, step: int) -> float:
    """Steps count from 0; the peak is reached at step ``warmup_steps - 1`` of each part."""
    return learning_rates(recipe, range(step, step + 1))[0]


def learning_rates(recipe: Recipe, steps: range) -> list[float]:
    """Of consecutive steps within one part."""
    first, stage = recipe.part_at(steps.start)
    return [_at(stage, step - first) for step in steps]


def _at(stage: Stage, step: int) -> float:
    if step < stage.warmup_steps:
        return stage.lr * (step + 1) / stage.warmup_steps
    if stage.schedule == "constant":
        return stage.lr
    progress = min(1.0, (step - stage.warmup_steps) / max(1, stage.steps - stage.warmup_steps))
    low = stage.lr * stage.min_lr_ratio
    if stage.schedule == "linear":
        return low + (stage.lr - low) * (1.0 - progress)
    return low + (stage.lr - low) * 0.5 * (1.0 + math.cos(math.pi * progress))
