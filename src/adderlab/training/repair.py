"""Counterexample-guided repair: prove, train briefly on the worst inputs, prove again.

The prover's witnesses are real pairs with the smallest margins; a few hundred steps on them, mixed
with fresh pairs so that nothing else is forgotten, move the weights by a few per cent at most. The
loop is counterexample-guided inductive synthesis (Solar-Lezama et al., ASPLOS 2006) with a trained
model as the program.

Shapes: B pairs, A answer steps, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adderlab.errors import Failure, UsageError
from adderlab.models.config import ModelConfig
from adderlab.models.tables import why_no_tables
from adderlab.models.transformer import Adder
from adderlab.proof.prove import Progress, Proof, Verdict, prove_checkpoint
from adderlab.proof.search import Limits
from adderlab.results import Result
from adderlab.runs.checkpoints import Checkpoint
from adderlab.task.addition import pairs_from_ints
from adderlab.task.sampling import uniform_pairs

STEPS_AT_ONCE = 10
"""Between two words about how far a training is."""


@dataclass(frozen=True, kw_only=True)
class RepairSettings:
    """How hard to try."""

    rounds: int = 5
    """Trainings at most; a proof follows each."""
    steps: int = 1000
    batch_size: int = 256
    """Half witnesses, half fresh uniform pairs."""
    lr: float = 1e-3
    """Adam's in the first round, falling linearly to 0 over it."""
    lr_decay: float = 0.5
    """Factor on the rate from round to round: later rounds change less, and spoil less of what is
    mended."""
    target_margin: float = 1.5
    """Logits, as the loss of the model's training saw them (``recipe.logit_scale``), by which the right
    digit should lead; the loss is what is missing, on average."""
    witness_below: float = 1.0
    """Witnesses with a smaller margin than this, in the same logits, are trained on."""
    seed: int = 0
    """Of the fresh pairs."""

    def __post_init__(self) -> None:
        for name in ("rounds", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("lr", "target_margin"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} must be above 0, not {getattr(self, name)}")
        if not 0 < self.lr_decay <= 1:
            raise UsageError(f"lr_decay must be above 0 and at most 1, not {self.lr_decay}")


@dataclass(frozen=True, kw_only=True)
class Round:
    """One proof, and the training that followed it (0 witnesses: none did)."""

    verdict: Verdict
    witnesses: int


@dataclass(frozen=True, kw_only=True, repr=False)
class Repair(Result):
    """The last model, its proof, and every round before."""

    checkpoint: Checkpoint
    proof: Proof
    rounds: tuple[Round, ...]

    @property
    def proved(self) -> bool:
        return self.proof.verdict == "proved"

    @property
    def trainings(self) -> int:
        """Trainings that were needed, or tried."""
        return sum(each.witnesses > 0 for each in self.rounds)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; a count that is not known exactly is [low, high]."""
        proof = self.proof.to_dict()
        return {
            "verdict": proof["verdict"],
            "trainings": self.trainings,
            "failing_pairs": proof["failing_pairs"],
            "margin": proof["margin"],
        }

    def describe(self) -> list[str]:
        """What came of it."""
        if self.proved:
            word = "Proved" if self.proof.checked else "Decided (float64, not checked)"
            pairs = self.proof.addition.pairs_text
            return [f"{word} after {self.trainings} training(s): all {pairs} pairs."]
        return [f"Not proved after {self.trainings} training(s).", *self.proof.describe()]


def repair(
    checkpoint: Checkpoint,
    settings: RepairSettings | None = None,
    *,
    limits: Limits | None = None,
    on_round: Callable[[Round], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Repair:
    """Until proved, or ``settings.rounds`` trainings. ``progress`` hears of proofs and trainings, and
    ends both by what it raises. Raises ``UsageError`` for models outside the table form."""
    settings = settings or RepairSettings()
    reason = why_no_tables(checkpoint.config)
    if reason and not isinstance(checkpoint.config, ModelConfig):
        raise Failure(f"{checkpoint.config.file} cannot be proved, so not repaired: {reason}")
    if reason:
        raise UsageError(f"this model cannot be proved, so not repaired: {reason}")
    scale = _logit_scale(checkpoint)
    rounds: list[Round] = []
    while True:
        proof = prove_checkpoint(checkpoint, limits=limits, progress=progress)
        worst = [w for w in proof.witnesses if w.margin * scale < settings.witness_below]
        stop = proof.verdict == "proved" or len(rounds) == settings.rounds or not worst
        rounds.append(Round(verdict=proof.summary, witnesses=0 if stop else len(worst)))
        if on_round:
            on_round(rounds[-1])
        if stop:
            return Repair(checkpoint=checkpoint, proof=proof, rounds=tuple(rounds))
        pairs = list(dict.fromkeys((w.a, w.b) for w in worst))
        checkpoint = _train(checkpoint, pairs, settings, len(rounds), progress)


def _logit_scale(checkpoint: Checkpoint) -> float:
    """What the training's loss multiplied logits by in the end; 1 where the checkpoint does not say."""
    scale = checkpoint.recipe.get("logit_scale", 1.0)
    stages = checkpoint.recipe.get("stages")
    for stage in stages if isinstance(stages, list | tuple) else ():
        if isinstance(stage, dict) and stage.get("logit_scale") is not None:
            scale = stage["logit_scale"]
    if not isinstance(scale, int | float) or not scale > 0:
        raise UsageError(
            f"the checkpoint's recipe has logit_scale {scale!r}: it must be a number above 0"
        )
    return float(scale)


def _train(
    checkpoint: Checkpoint,
    pairs: list[tuple[int, int]],
    settings: RepairSettings,
    round_number: int,
    progress: Callable[[Progress], None] | None,
) -> Checkpoint:
    """The checkpoint after one round on the given pairs."""
    model, scale = checkpoint.module(), _logit_scale(checkpoint)
    rate = settings.lr * settings.lr_decay ** (round_number - 1)
    for parameter in model.parameters():
        parameter.requires_grad_(True)  # a plain class's tensors ask for none
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / settings.steps)
    task = model.layout.addition
    witness_a, witness_b = pairs_from_ints(pairs, task)
    generator = torch.Generator().manual_seed(settings.seed + round_number)
    half = settings.batch_size // 2
    fresh_a, fresh_b = uniform_pairs(
        settings.seed * 1000 + round_number, (settings.batch_size - half) * settings.steps, task
    )
    for step in range(settings.steps):
        if progress is not None and step % STEPS_AT_ONCE == 0:
            progress(Progress(phase="training", done=step, total=settings.steps, addition=task))
        chosen = torch.randint(len(pairs), (half,), generator=generator)
        fresh = slice(step * (settings.batch_size - half), (step + 1) * (settings.batch_size - half))
        a_BJ = torch.cat([witness_a[chosen], fresh_a[fresh]])
        b_BJ = torch.cat([witness_b[chosen], fresh_b[fresh]])
        optimizer.zero_grad()
        _margin_loss(model, a_BJ, b_BJ, settings.target_margin / scale).mul(scale).backward()
        optimizer.step()
        schedule.step()
    params = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return dataclasses.replace(
        checkpoint, params=params, step=checkpoint.step + settings.steps, path=None
    )


def _margin_loss(model: Adder, a_BJ: Tensor, b_BJ: Tensor, target: float) -> Tensor:
    """Mean over pairs of the missing margin, summed over the digits (and the end token
    where it counts)."""
    tokens_BP, targets_BA = model.layout.encode(a_BJ, b_BJ)
    decided = model.layout.num_decided
    logits_BIV = model.answer_logits(tokens_BP)[:, :decided]
    right_BI1 = targets_BA[:, :decided].long()[..., None]
    margin_BI = logits_BIV.gather(2, right_BI1)[..., 0] - logits_BIV.scatter(
        2, right_BI1, float("-inf")
    ).amax(2)
    return (target - margin_BI).clamp(min=0.0).sum(1).mean()
