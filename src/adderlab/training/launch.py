"""Steps of several populations in one launch: each ends in the bits that it would reach alone.

Populations of one model share the launches of their engine as long as their next steps have the same
number, batches of one size from the same data, and the same ingredients; learning rates, decay, betas,
clipping and the like are numbers of each seed (``engine.stretch``). Everything else, from evaluations to
run folders, stays each population's own.

Shapes: S seeds of all populations of a launch, N parameters of one model, flat; B pairs.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adderlab.engine.descent import descend
from adderlab.engine.stretch import Stretch, hand_back, joined
from adderlab.training.recipe import Recipe, Stage

if TYPE_CHECKING:
    from adderlab.training.population import Population


def part_shape(stage: Stage) -> Hashable:
    """What a launch has only once: populations in parts that are equal in this can share theirs."""
    return (
        *(stage.batch_size, stage.data, stage.logit_scale, stage.polish is not None),
        *(stage.grokfast is None, stage.average is None),
    )


def launch_shape(recipe: Recipe) -> Hashable:
    """Populations of one model whose recipes are equal in this share their launches, but for the
    moments at which their parts begin and end at different steps."""
    return recipe.sampler, tuple(part_shape(stage) for _, stage in recipe.parts)


def furthest_behind(populations: Sequence[Population]) -> tuple[list[Population], int | None]:
    """(those to advance next, in one launch; the step before which to stop).

    Populations that were stopped at different steps catch up with one another first: the step is the
    one that the next of the others has reached, None where no other is ahead.
    """
    step = min(each.next_step for each in populations)
    behind = [each for each in populations if each.next_step == step]
    for each in behind:
        each.prepare()
    together = [each for each in behind if each.kind == behind[0].kind]
    ahead = min((each.next_step for each in populations if each.next_step > step), default=None)
    return together, ahead


def advance(populations: Sequence[Population], most: int) -> list[Tensor]:
    """From 1 to ``most`` steps of every active seed, the same number in all populations, in one call
    where the engine can, and never past one after which some population is evaluated. The loss before
    the last of them, loss_S of each.

    The populations have one objective and, once prepared, one ``kind``.
    """
    for each in populations:
        each.prepare()
    lead = populations[0]
    assert all(each.kind == lead.kind for each in populations)
    assert all(each.objective is lead.objective for each in populations)
    started, steps = time.perf_counter(), 1
    if lead.polishes:
        losses = [each.polish() for each in populations]
    else:
        if lead.takes_many:
            steps = min(each.uniform_steps(most) for each in populations)
        stretches = [each.stretch(steps) for each in populations]
        together = joined(stretches)
        take = lead.stepper if lead.takes_many else None
        loss_S = take(together) if take else _one_step(populations, together)
        hand_back(together, stretches)
        losses = list(loss_S.split([each.num_rows for each in populations]))
    spent, rows = time.perf_counter() - started, sum(each.num_rows for each in populations)
    for each in populations:
        each.took(steps, spent * each.num_rows / rows)
    return losses


def _one_step(populations: Sequence[Population], stretch: Stretch) -> Tensor:
    lead = populations[0]
    if lead.draws_its_own:
        tokens, targets = zip(*(each.own_batch() for each in populations), strict=True)
        tokens_SBP, targets_SBA = torch.cat(tokens), torch.cat(targets)
    else:
        tokens_SBP, targets_SBA = lead.sample(stretch.seeds_S, stretch.first, stretch.batch_size)
    params = lead.params(stretch.params_SN)
    loss_S, grads = lead.objective.loss_and_grad(params, tokens_SBP, targets_SBA)
    step, device = lead.objective.descent() or descend, stretch.params_SN.device
    scale_GN = stretch.lr_scale_GN()
    step(
        stretch,
        flatten(grads[name] for name in params),
        stretch.rates_CGR()[0].to(device)[stretch.setting_S],
        stretch.constants_GX().to(device)[stretch.setting_S],
        None if scale_GN is None else scale_GN[stretch.setting_S],
    )
    return loss_S


def flatten(stacked: Iterable[Tensor]) -> Tensor:
    """Parameters (S, ...) side by side -> (S, N)."""
    return torch.cat([tensor.reshape(len(tensor), -1) for tensor in stacked], 1)
