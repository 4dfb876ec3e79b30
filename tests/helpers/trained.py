"""Adders of any size that were trained, in a second where the kernels are compiled: right, half trained,
and nudged until a few pairs fail.

A one-layer transformer with learned positions and nothing tied. Whoever needs a model that is right by
construction takes ``helpers.adders``.

Shapes: S seeds, N parameters of one, flat; B pairs, I decided answer steps.
"""

import copy
import dataclasses
import functools

import torch
from torch import Tensor

from adderlab.engine.base import select_engine
from adderlab.evaluation.suites import pairs_between
from adderlab.models.config import ModelConfig
from adderlab.models.transformer import Transformer
from adderlab.proof.prove import prove_checkpoint
from adderlab.proof.witnesses import model_margins
from adderlab.recipes import get_recipe
from adderlab.runs.checkpoints import Checkpoint
from adderlab.task.addition import Addition
from adderlab.training.ingredients import AttentionPrefit, Restarts
from adderlab.training.objective import objective_for
from adderlab.training.population import Population
from adderlab.training.recipe import Recipe

CPU = torch.device("cpu")
RECIPE = dataclasses.replace(
    get_recipe("short"),
    # Its own prefit names parts of the rotary line.
    prefit=AttentionPrefit(parameters=("pos_emb", "blocks.0.attn.q_proj", "blocks.0.attn.k_proj")),
    restarts=Restarts(halve_at=(200, 300)),
)
SEEDS = 2
"""That train together."""
ATTEMPTS = ((12, 4000), (24, 12_000), (24, 12_000))
"""(hidden units, steps), each with seeds of its own: base 16 needs more than the first."""
HALF = (0.2, 0.985)
"""Exact match of a half-trained model."""
AT_ONCE = 1 << 15
WEAKEST = 4000
"""Pairs among which those that a nudge makes fail are."""
SOFTER = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)
"""Lengths of queries that are tried, until the model is wrong by them alone."""
DIRECTIONS = 6
"""Pairs at whose cost it is tried."""
CLEARLY = 1e-4
"""Logits by which a failing pair loses, so that fp32 fails too."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """One training: where it passed, and where it ended."""

    half: Checkpoint
    right: Checkpoint


def config_for(layout: str, task: Addition, heads: int, hidden: int) -> ModelConfig:
    """The architecture, in a layout and for a task, with so many hidden units."""
    return ModelConfig(
        layout=layout,
        columns=task.columns,
        base=task.base,
        d_model=10,
        token_dim=4,
        n_head=heads,
        head_dim=4,
        d_ff=hidden,
        tie_qkv="separate",
        qk_input="positions",
        value_input="tokens",
        norm="rms",
    )


@functools.cache
def trained(layout: str, task: Addition, heads: int) -> Trained:
    """A model that is right on all pairs by the prover, and one on its way there."""
    for attempt, (hidden, steps) in enumerate(ATTEMPTS):
        config = config_for(layout, task, heads, hidden)
        recipe = dataclasses.replace(RECIPE, steps=steps)
        found = _train(config, recipe, range(attempt * SEEDS, (attempt + 1) * SEEDS))
        if found is not None:
            return found
    raise AssertionError("no seed is right on all pairs")


def _train(config: ModelConfig, recipe: Recipe, seeds: range) -> Trained | None:
    """None where no seed ends right."""
    objective = objective_for(config, select_engine("auto", config, CPU, threads=1, log=print), CPU)
    population = Population(config, recipe, tuple(seeds), objective, CPU)
    half, choosing = None, True
    while not population.done:
        loss_S = population.advance(recipe.eval_interval)
        step = population.next_step - 1
        if not recipe.looks_at(step):
            continue
        evaluation = population.evaluate(loss_S)
        exact_S = evaluation.val_exact_S.tolist()
        near = [row for row, exact in enumerate(exact_S) if HALF[0] <= exact <= HALF[1]]
        # The first once every seed has one start left; where none is then half right any more, the last
        # before.
        if near and (half is None or choosing):
            half = _checkpoint(config, population.params(evaluation.weights_SN), near[0])
            choosing = population.num_rows > SEEDS
    for row in range(SEEDS):
        right = _checkpoint(config, population.params(), row)
        if half is not None and prove_checkpoint(right).verdict == "proved":
            return Trained(half=half, right=right)
    return None


def _checkpoint(config: ModelConfig, stacked: dict[str, Tensor], row: int) -> Checkpoint:
    params = {name: each[row].clone() for name, each in stacked.items()}
    return Checkpoint(
        config=config, params=params, recipe={}, step=0, val_exact=float("nan"), origin="a test"
    )


def nudged(found: Checkpoint, least: int = 1, most: int = 10) -> Checkpoint:
    """A right model moved down the gradient of its smallest margin, against those of the pairs next to
    it, until from ``least`` to ``most`` pairs fail. Where attention is so sharp that pairs with the same
    digits in two columns fail together, it is softened first."""
    for factor in SOFTER:
        soft = _softened(found, factor)
        exact = copy.deepcopy(soft.module()).double()
        assert isinstance(exact, Transformer)
        a_BJ, b_BJ = _weakest(exact)
        if float(model_margins(exact, a_BJ[:1], b_BJ[:1]).min()) <= 0:
            break
        for worst in range(DIRECTIONS):
            direction = _direction(exact, a_BJ, b_BJ, worst)
            moved = _line_search(soft, direction, a_BJ, b_BJ, least, most)
            if moved is not None:
                return moved
    raise AssertionError(f"no nudge makes {least} to {most} pairs fail")


def _softened(found: Checkpoint, factor: float) -> Checkpoint:
    """With queries so much shorter."""
    query = "blocks.0.attn.q_proj.weight"
    return dataclasses.replace(found, params={**found.params, query: factor * found.params[query]})


def _weakest(exact: Transformer) -> tuple[Tensor, Tensor]:
    """The pairs with the smallest margins, the smallest first."""
    task = exact.layout.addition
    starts = range(0, task.num_pairs, AT_ONCE)
    groups = [pairs_between(k, min(k + AT_ONCE, task.num_pairs), task) for k in starts]
    least_B = torch.cat([model_margins(exact, a_BJ, b_BJ).min(1).values for a_BJ, b_BJ in groups])
    chosen_B = least_B.topk(min(WEAKEST, len(least_B)), largest=False).indices
    a_BJ, b_BJ = (torch.cat(each)[chosen_B] for each in zip(*groups, strict=True))
    return a_BJ, b_BJ


def _direction(exact: Transformer, a_BJ: Tensor, b_BJ: Tensor, worst: int) -> dict[str, Tensor]:
    """The gradient of one pair's margin less the mean of its neighbours', of unit length."""
    layout = exact.layout
    tokens_BP, targets_BA = layout.encode(a_BJ[:200], b_BJ[:200])
    logits_BAV = exact.answer_logits(tokens_BP.long())[:, : layout.num_decided]
    right_BA = targets_BA[:, : layout.num_decided].long()[..., None]
    others_BAV = logits_BAV.scatter(2, right_BA, -torch.inf)
    margin_B = (logits_BAV.gather(2, right_BA)[..., 0] - others_BAV.max(2).values).min(1).values
    parameters = dict(exact.named_parameters())
    grads = torch.autograd.grad(margin_B[worst] - margin_B.mean(), list(parameters.values()))
    length = torch.cat([each.flatten() for each in grads]).norm()
    return {name: each / length for name, each in zip(parameters, grads, strict=True)}


def _line_search(
    found: Checkpoint,
    direction: dict[str, Tensor],
    a_BJ: Tensor,
    b_BJ: Tensor,
    least: int,
    most: int,
) -> Checkpoint | None:
    """The checkpoint as far along the direction as makes the wanted number of pairs fail, if any is."""

    def at(size: float) -> tuple[Checkpoint, int, float]:
        params = {
            name: (each.double() - size * direction[name]).float() for name, each in found.params.items()
        }
        moved = dataclasses.replace(found, params=params)
        exact = copy.deepcopy(moved.module()).double()
        least_B = model_margins(exact, a_BJ, b_BJ).min(1).values
        return moved, int((least_B <= 0).sum()), float(least_B.min())

    low, high = 0.0, 1e-3
    while at(high)[2] > -CLEARLY:
        low, high = high, 2 * high
        if high > 100:
            return None
    for _ in range(30):
        middle = 0.5 * (low + high)
        moved, count, lowest = at(middle)
        if lowest > -CLEARLY or count < least:
            low = middle
        elif count <= most:
            return moved
        else:
            high = middle
    return None
