"""A population: many seeds of one model and one recipe, trained side by side.

A seed's weights, data and results are a pure function of (config, recipe, seed): whatever runs
beside it, however often the run was resumed (on the CPU, bit for bit). Evaluations are part of that
function where the recipe lets them steer (adaptive weight decay, restarts from the best weights):
call ``evaluate`` after the steps at which ``Recipe.looks_at`` is true, and only then.

Populations of one model can take their steps in one batch (``advance``), each ending in the bits that
it would reach alone, as long as their next steps have the same number, as many pairs of the same data,
and the same ingredients; rates, decay, betas, clipping and the like are numbers of each seed
(``engine.step_batch``). Everything else, from evaluations to run folders, stays each population's own.

Shapes: S seeds still training (in a batch those of all its populations), N parameters of one model,
flat; B pairs, J columns (10), I columns of a sum (11).
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from adderlab.engine.base import Descent
from adderlab.engine.step_batch import Settings, StepBatch, descend, joined, scatter, update_for
from adderlab.models.transformer import Architecture
from adderlab.runs.checkpoints import Checkpoint
from adderlab.task.r456 import Holdout, R456Sampler, holdout
from adderlab.task.sampling import pool_pairs, sample_pairs
from adderlab.training.finetune import FailingPairs, find_failures, minimise
from adderlab.training.ingredients import (
    AdamW,
    DecayFactors,
    LearningRates,
    SlowGradients,
    WeightAverage,
    leaders,
    rows_of,
)
from adderlab.training.measure import Best, Evaluation, TrainingSet, Validation, better
from adderlab.training.objective import Objective
from adderlab.training.recipe import Recipe, Stage, learning_rate, learning_rates
from adderlab.training.start import check_fits, start, warm


def unseen(recipe: Recipe, seed: int, held: Holdout) -> Holdout:
    """The seed's split, its validation pairs in no pool that it trains on. Raises ``UsageError`` where
    the pools leave too few."""
    pools = {stage.data for _, stage in recipe.parts if stage.data and stage.data.pool}
    if not pools:
        return held
    drawn = [pool_pairs(data, torch.tensor([seed]), held.addition) for data in pools]
    a_NJ, b_NJ = (torch.cat([each[o][0] for each in drawn]) for o in range(2))
    return held.without(a_NJ, b_NJ)


class Population:
    """S models and their optimiser, advanced one step at a time."""

    def __init__(
        self,
        config: Architecture,
        recipe: Recipe,
        seeds: tuple[int, ...],
        objective: Objective,
        device: torch.device,
        source: Checkpoint | None = None,
    ) -> None:
        """``source``: the trained model that the seeds start from. Raises ``UsageError`` if the recipe
        or the source does not fit the model."""
        check_fits(config, recipe, seeds, source)
        self.config, self.recipe, self.device = config, recipe, device
        self._plain = objective
        self.layout = config.token_layout
        self.all_seeds = seeds
        self.seeds = seeds
        """Those still training. Each has a row of everything below; with ``recipe.restarts`` one for
        every restart that is left, the first restart's first."""
        self._of_row = [seed for seed in seeds for _ in range(recipe.restarts_after(-1))]
        self._start_of_row = [start for _ in seeds for start in range(recipe.restarts_after(-1))]
        """Which of its seed's starts each row is, from 0."""
        stacked = start(config, recipe, seeds)
        if source is not None:
            stacked = warm(config, source, stacked)
        self.shapes = {name: tensor.shape[1:] for name, tensor in stacked.items()}
        self.flat_SN = flatten(stacked.values()).to(device)
        self.next_step = 0
        self.seconds = 0.0
        """Time spent in steps and evaluations, over all resumes."""
        self._best = Best(self.first_SN)
        rule = recipe.adaptive_decay
        self._decay = DecayFactors(rule, self.num_rows) if rule else None
        sizes = {name: shape.numel() for name, shape in self.shapes.items()}
        self._rates = LearningRates(recipe.freeze, sizes, recipe.steps, self.flat_SN)
        shapes = {name: tuple(shape) for name, shape in self.shapes.items()}
        self.update = update_for(recipe.optimiser, shapes)
        self._failing: FailingPairs | None = None
        self._prepare_data()
        self._enter_part(0)

    def _prepare_data(self) -> None:
        recipe = self.recipe
        holdouts = [
            unseen(recipe, seed, holdout(seed, recipe.val_size, recipe.test_size, self.layout.addition))
            for seed in self.seeds
        ]
        self._validation = Validation(self.layout, holdouts, self.device)
        if self.num_rows > len(self.seeds):
            draws = self.num_rows // len(self.seeds)
            self._validation.keep(torch.arange(len(self.seeds)).repeat_interleave(draws))
        self._seeds_S = torch.tensor(self._of_row, dtype=torch.int64, device=self.device)
        self._replays: list[R456Sampler] = []
        if recipe.sampler == "r456":
            self._replays = [
                R456Sampler(
                    seed,
                    recipe.batch_size,
                    held,
                    recipe.data.curriculum.phases,
                    self.layout.addition,
                )
                for seed, held in zip(self.seeds, holdouts, strict=True)
            ]

    @property
    def _stage(self) -> Stage:
        return self.recipe.parts[self._part][1]

    def _enter_part(self, part: int) -> None:
        """A fresh optimiser, and everything else that follows from the part's settings."""
        self._part = part
        recipe, stage = self.recipe, self._stage
        assert stage.beta2 is not None and stage.batch_size is not None
        assert stage.logit_scale is not None
        self.objective = self._plain.sharpened(stage.logit_scale)
        """Of the model as the part's loss sees it."""
        self.optimizer = AdamW(
            self.flat_SN,
            beta1=recipe.beta1,
            beta2=stage.beta2,
            bias_correction=recipe.bias_correction,
        )
        self._grokfast = SlowGradients(stage.grokfast, self.flat_SN) if stage.grokfast else None
        self._average = WeightAverage(stage.average, self.flat_SN) if stage.average else None
        assert stage.data is not None
        self._training_set: TrainingSet | None = None
        if stage.data.pool is not None:
            self._training_set = TrainingSet(self.layout, stage.data, self._seeds_S)
        self.sample = self.objective.sampler(stage.data, self.layout)
        self.stepper = self.objective.stepper(stage.data, self.layout)
        for replay in self._replays:
            replay.batch_size = stage.batch_size

    def _restart(self, part: int) -> None:
        """Go back to the best weights and on with the next part."""
        self.flat_SN = self._best.weights_SN.clone()
        self._enter_part(part)
        targeting, earlier = self._stage.targeting, self._failing
        self._failing = None
        if targeting:
            found = find_failures(
                self.objective, self.layout, self.params(), self.seeds, part, targeting
            )
            self._failing = FailingPairs(found, targeting.most, self.device).joined(earlier)

    def params(self, flat_SN: Tensor | None = None) -> dict[str, Tensor]:
        """Stacked parameters by name, views of ``flat_SN`` (the current ones unless given)."""
        flat_SN = self.flat_SN if flat_SN is None else flat_SN
        sizes = [shape.numel() for shape in self.shapes.values()]
        columns = zip(self.shapes.items(), flat_SN.split(sizes, 1), strict=True)
        return {name: part.reshape(len(part), *shape) for (name, shape), part in columns}

    @property
    def num_rows(self) -> int:
        """Models in training: a seed's draws, or one of each seed."""
        return len(self._of_row)

    @property
    def first_SN(self) -> Tensor:
        """The first row of every active seed."""
        return self.flat_SN[[rows[0] for rows in rows_of(self._of_row).values()]]

    @property
    def num_parameters(self) -> int:
        return self.flat_SN.shape[1]

    @property
    def done(self) -> bool:
        return not self.seeds or self.next_step >= self.recipe.total_steps

    def advance(self, most: int = 1) -> Tensor:
        """From 1 to ``most`` steps of every active seed, in one call where the engine can, and never
        past one after which to evaluate. The loss before the last of them, loss_S."""
        return advance([self], most)[0]

    def prepare(self) -> None:
        """Be ready for the next step: at the beginning of a part, go back to the best weights."""
        started = time.perf_counter()
        part = self.recipe.part_index(self.next_step)
        if part != self._part:
            self._restart(part)
        self.seconds += time.perf_counter() - started

    @property
    def kind(self) -> Hashable:
        """Prepared populations of one objective that are equal in this can share their next steps."""
        own = (self.takes_many, self.draws_its_own, self.recipe.optimiser)
        return self.next_step, part_shape(self._stage), *own

    @property
    def takes_lbfgs(self) -> bool:
        return self._stage.lbfgs is not None

    @property
    def draws_its_own(self) -> bool:
        """Whether pairs are more than a function of seed and step."""
        return bool(self._replays or self._failing)

    @property
    def takes_many(self) -> bool:
        """Whether the engine can take many of these steps in one call: engines know AdamW alone."""
        engines = self.recipe.optimiser == "adamw" and self.stepper is not None
        return engines and not self.draws_its_own and not self.takes_lbfgs

    def uniform_steps(self, most: int) -> int:
        """How many of the next steps differ in nothing but number, rates and pairs."""
        recipe, step = self.recipe, self.next_step
        first, stage = recipe.part_at(step)
        ends = [
            step + most,
            first + stage.steps,
            -(-step // recipe.eval_interval) * recipe.eval_interval + 1,
        ]
        change = self._rates.same_until(step)
        return min(ends if change is None else [*ends, change]) - step

    def step_batch(self, steps: int) -> StepBatch:
        """The next steps, as a call."""
        recipe, optimizer, first = self.recipe, self.optimizer, self.next_step
        assert self._stage.batch_size is not None
        slow, average = self._grokfast, self._average
        counts = range(optimizer.steps + 1, optimizer.steps + steps + 1)
        rates = learning_rates(recipe, range(first, first + steps))
        factors = self._lr_factors()
        kinds = list(dict.fromkeys(factors))
        common = Settings(
            lr=rates,
            correction=[optimizer.correction(count) for count in counts],
            scale=[optimizer.scale(count) for count in counts],
            beta1=optimizer.beta1,
            beta2=optimizer.beta2,
            eps=recipe.eps,
            clip=recipe.grad_clip or torch.inf,
            lr_scale_N=self._rates.at(first),
            slow=(slow.settings.alpha, slow.settings.strength) if slow else (0.0, 0.0),
            average=average.settings.decay if average else 0.0,
        )
        return StepBatch(
            seeds_S=self._seeds_S,
            first=first,
            batch_size=self._stage.batch_size,
            params_SN=self.flat_SN,
            mean_SN=optimizer.mean_SN,
            square_SN=optimizer.square_SN,
            weight_decay_S=self._weight_decay_S(),
            settings=tuple(
                dataclasses.replace(common, lr=[factor * rate for rate in rates]) for factor in kinds
            ),
            setting_S=torch.tensor(
                [kinds.index(factor) for factor in factors], dtype=torch.int32, device=self.device
            ),
            slow_SN=slow.mean_SN if slow else None,
            average_SN=average.mean_SN if average else None,
        )

    def _lr_factors(self) -> list[float]:
        """Of every row."""
        restarts = self.recipe.restarts
        return [restarts.lr_factor(start) if restarts else 1.0 for start in self._start_of_row]

    def took(self, steps: int, seconds: float) -> None:
        """Note that the steps of ``step_batch``, or of ``take_lbfgs``, were taken."""
        if not self.takes_lbfgs:
            self.optimizer.steps += steps
        self.next_step += steps
        self.seconds += seconds

    def _weight_decay_S(self) -> Tensor:
        decay_S = self.flat_SN.new_full((self.num_rows,), self._stage.weight_decay or 0.0)
        if self._decay and self._part == 0:
            decay_S = decay_S * decay_S.new_tensor(self._decay.factors())
        return decay_S

    def take_lbfgs(self) -> Tensor:
        """L-BFGS on every seed, one after another; the loss before, loss_S."""
        settings, data, losses = self._stage.lbfgs, self._stage.data, []
        assert settings is not None and data is not None
        params = self.params()
        for s in range(self.num_rows):
            own_seed_S = self._seeds_S[s : s + 1]
            a_SBJ, b_SBJ = sample_pairs(
                data, own_seed_S, self.next_step, settings.examples, self.layout.addition
            )
            own = {name: tensor[s] for name, tensor in params.items()}
            found = minimise(
                self.objective.config, own, a_SBJ[0], b_SBJ[0], settings, self.objective.sharpness
            )
            self.flat_SN[s] = torch.cat([each.flatten() for each in found.params.values()])
            losses.append(found.loss_before)
        return self.flat_SN.new_tensor(losses)

    def own_batch(self) -> tuple[Tensor, Tensor]:
        """(tokens_SBP, targets_SBA) of the next step, where the population draws its own."""
        a_SBJ, b_SBJ = self._pairs(self.next_step)
        if self._failing:
            a_SBJ, b_SBJ = self._failing.mix_into(a_SBJ, b_SBJ)
        return self.layout.encode(a_SBJ, b_SBJ)

    def _pairs(self, step: int) -> tuple[Tensor, Tensor]:
        if self._replays:
            a_SBJ, b_SBJ = zip(*(replay.next_pairs(step) for replay in self._replays), strict=True)
            return torch.stack(a_SBJ).to(self.device), torch.stack(b_SBJ).to(self.device)
        data, batch_size = self._stage.data, self._stage.batch_size
        assert data is not None and batch_size is not None
        return sample_pairs(data, self._seeds_S, step, batch_size, self.layout.addition)

    def evaluate(self, train_loss_S: Tensor) -> Evaluation:
        """Validation of every active seed after the step just taken; see the module's head."""
        started = time.perf_counter()
        measured = self._validation.measure(self.objective, self.params())
        weights_SN, averaged_S = self.flat_SN.clone(), torch.zeros(self.num_rows, dtype=torch.bool)
        if self._average:
            mean_SN = self._average.mean_SN
            other = self._validation.measure(self.objective, self.params(mean_SN))
            measured, averaged_S = better(measured, other)
            weights_SN = torch.where(averaged_S.to(self.device)[:, None], mean_SN, weights_SN)
        if self._decay:
            self._decay.update(measured.val_exact_S.tolist(), measured.val_token_acc_S.tolist())
        step, training_set = self.next_step - 1, self._training_set
        train_exact_S = None
        if training_set is not None:
            train_exact_S = training_set.exact(self.objective, self.params(weights_SN))
        evaluation = Evaluation(
            step=step,
            lr=learning_rate(self.recipe, step),
            seeds=tuple(self._of_row),
            train_loss_S=train_loss_S.cpu(),
            weights_SN=weights_SN,
            averaged_S=averaged_S,
            lr_factor_S=torch.tensor(self._lr_factors(), dtype=torch.float64),
            train_exact_S=train_exact_S,
            **{field.name: getattr(measured, field.name) for field in dataclasses.fields(measured)},
        )
        if self.num_rows > len(self.seeds):
            evaluation = self._among_restarts(evaluation)
        self._best.take(evaluation)
        self.seconds += time.perf_counter() - started
        return evaluation

    def _among_restarts(self, of_rows: Evaluation) -> Evaluation:
        """The best draw of every seed speaks for it; the worse are dropped where the recipe says so."""
        scores, of_row = of_rows.scores(), self._of_row
        left = self.recipe.restarts_after(of_rows.step)
        if left * len(self.seeds) < self.num_rows:
            self._keep_rows(leaders(of_row, scores, left))
        return of_rows.of(self.seeds, leaders(of_row, scores, 1))

    def keep(self, rows: list[int]) -> None:
        """Go on with the seeds in ``rows`` of ``seeds`` only."""
        kept = [self.seeds[row] for row in rows]
        if self._failing:
            self._failing = self._failing.keep(rows) if rows else None
        self._replays = [self._replays[row] for row in rows] if self._replays else []
        self._best.keep(rows)
        rows_of_seed = rows_of(self._of_row)
        self._keep_rows([row for seed in kept for row in rows_of_seed[seed]])
        self.seeds = tuple(kept)

    def _keep_rows(self, rows: list[int]) -> None:
        index = torch.tensor(rows, dtype=torch.int64, device=self.device)
        self._of_row = [self._of_row[row] for row in rows]
        self._start_of_row = [self._start_of_row[row] for row in rows]
        self.flat_SN = self.flat_SN[index].clone()
        self.optimizer.keep(index)
        self._validation.keep(index)
        if self._training_set:
            self._training_set.keep(index)
        if self._grokfast:
            self._grokfast.keep(index)
        if self._average:
            self._average.keep(index)
        if self._decay:
            self._decay.keep(rows)
        self._seeds_S = self._seeds_S[index]

    def state(self) -> dict[str, Any]:
        """Everything a resume needs, as plain tensors and numbers."""
        return {
            "next_step": self.next_step,
            "seconds": self.seconds,
            "seeds": list(self.seeds),
            "starts": list(self._start_of_row),
            "part": self._part,
            "params": self.flat_SN,
            "optimizer": self.optimizer.state(),
            "best": self._best.weights_SN,
            "best_scores": [list(score) for score in self._best.scores],
            "grokfast": self._grokfast.mean_SN if self._grokfast else None,
            "average": self._average.mean_SN if self._average else None,
            "decay": self._decay.reached if self._decay else None,
            "failing": self._failing.pairs if self._failing else None,
            "samplers": [replay.get_state() for replay in self._replays],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from ``state()`` of a population of the same config, recipe and seeds."""
        if list(self.seeds) != state["seeds"]:
            self.keep([self.seeds.index(seed) for seed in state["seeds"]])
        if len(state["params"]) < self.num_rows:
            left = len(state["params"]) // len(self.seeds)
            self._keep_rows(leaders(self._of_row, [()] * self.num_rows, left))
        # States of before there were rates and widths to tell starts apart do not have their numbers.
        self._start_of_row = list(state.get("starts", self._start_of_row))
        self.next_step, self.seconds = state["next_step"], state["seconds"]
        self.flat_SN.copy_(state["params"])
        self._enter_part(state["part"])
        self.optimizer.load_state(state["optimizer"])
        self._best.weights_SN.copy_(state["best"])
        self._best.scores = [tuple(score) for score in state["best_scores"]]
        if self._grokfast:
            self._grokfast.mean_SN.copy_(state["grokfast"])
        if self._average:
            self._average.mean_SN.copy_(state["average"])
        if self._decay:
            self._decay.reached = list(state["decay"])
        self._failing = None
        if state["failing"] is not None:
            targeting = self._stage.targeting
            assert targeting is not None
            self._failing = FailingPairs(state["failing"], targeting.most, self.device)
        for replay, saved in zip(self._replays, state["samplers"], strict=True):
            replay.set_state(saved)


def part_shape(stage: Stage) -> Hashable:
    """What a batch of steps has only once: populations in parts that are equal in this can share it."""
    return (
        *(stage.batch_size, stage.data, stage.logit_scale, stage.lbfgs is not None),
        *(stage.grokfast is None, stage.average is None),
    )


def batch_shape(recipe: Recipe) -> Hashable:
    """Populations of one model whose recipes are equal in this share their steps, but for the moments at
    which their parts begin and end at different steps."""
    parts = tuple(part_shape(stage) for _, stage in recipe.parts)
    return recipe.sampler, recipe.optimiser, parts


def furthest_behind(populations: Sequence[Population]) -> tuple[list[Population], int | None]:
    """(those to advance next, in one batch; the step before which to stop).

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
    if lead.takes_lbfgs:
        losses = [each.take_lbfgs() for each in populations]
    else:
        if lead.takes_many:
            steps = min(each.uniform_steps(most) for each in populations)
        step_batches = [each.step_batch(steps) for each in populations]
        together = joined(step_batches)
        take = lead.stepper if lead.takes_many else None
        loss_S = take(together) if take else _one_step(populations, together)
        scatter(together, step_batches)
        losses = list(loss_S.split([each.num_rows for each in populations]))
    spent, rows = time.perf_counter() - started, sum(each.num_rows for each in populations)
    for each in populations:
        each.took(steps, spent * each.num_rows / rows)
    return losses


def _one_step(populations: Sequence[Population], step_batch: StepBatch) -> Tensor:
    lead = populations[0]
    if lead.draws_its_own:
        tokens, targets = zip(*(each.own_batch() for each in populations), strict=True)
        tokens_SBP, targets_SBA = torch.cat(tokens), torch.cat(targets)
    else:
        tokens_SBP, targets_SBA = lead.sample(
            step_batch.seeds_S, step_batch.first, step_batch.batch_size
        )
    params = lead.params(step_batch.params_SN)
    loss_S, grads = lead.objective.loss_and_grad(params, tokens_SBP, targets_SBA)
    step: Descent = functools.partial(descend, update=lead.update)
    if lead.recipe.optimiser == "adamw":
        step = lead.objective.descent() or descend
    device, scale_GN = step_batch.params_SN.device, step_batch.lr_scale_GN()
    step(
        step_batch,
        flatten(grads[name] for name in params),
        step_batch.rates_CGR()[0].to(device)[step_batch.setting_S],
        step_batch.constants_GX().to(device)[step_batch.setting_S],
        None if scale_GN is None else scale_GN[step_batch.setting_S],
    )
    return loss_S


def flatten(stacked: Iterable[Tensor]) -> Tensor:
    """Parameters (S, ...) side by side -> (S, N)."""
    return torch.cat([tensor.reshape(len(tensor), -1) for tensor in stacked], 1)
