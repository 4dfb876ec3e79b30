"""The ingredients of a recipe, each a small dataclass with its settings and what applies it: where
training starts, other than at the model's own draw, and what its steps do beside plain AdamW.

Of the start; nothing comes from a trained model, and why each of them helps is measured in
docs/why-runs-fail.md:

- ``Circle``: learned positions start in convex position.
- ``WideInit``: wider draws with norms of either sign.
- ``AttentionPrefit``: before the first step, queries are fitted to look at their column.
- ``Restarts``: several starts of a seed train side by side, the worse half is dropped at given steps.

Of the steps; the step itself is ``engine.step_batch.descend``, and here is what the optimiser remembers
of a population between steps, AdamW's moments among it:

- ``Grokfast``: slow gradients are amplified.
- ``Average``: the running average of the weights.
- ``AdaptiveDecay``: weight decay that falls.
- ``Freeze``: parameters that stand still for a while.

Shapes: S seeds, N parameters of one model, flat; R starts of one seed or the rank of the position
table, P positions or rows of that table, B pairs, A digits of a sum (11), V tokens, H heads, K width of
a key."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim.adam import adam

from adderlab.errors import UsageError
from adderlab.files.schema import IMPLIED
from adderlab.models.config import ModelConfig
from adderlab.models.head_program import FUNCTIONS
from adderlab.models.tables import tables, why_not_trained_by_tables
from adderlab.task.addition import SUM_DIGITS
from adderlab.task.sampling import DataConfig, sample_pairs

# The start.

DRAWN_STD = 0.02
"""Standard deviation of the table's factors and of the token table as models draw them."""


@dataclass(frozen=True, kw_only=True)
class Circle:
    """Learned positions that start in convex position: the columns of a sum on a circle.

    A query can single out a column only if the column's keys are an extreme point of all columns' keys,
    so the columns must stand in convex position. A low-rank table of positions, row p = A[p] @ B, starts
    here with the rows of A that belong to column j - a_j, b_j and the query of answer step j - at
    (cos 2 pi j / period, sin 2 pi j / period, 0, ...). The noise around them is the model's own first
    draw, N(0, 0.02); its B is widened.
    """

    period: int = SUM_DIGITS
    """Columns of a full turn, where a sum has eleven; of other sizes the same share of a turn."""
    spread: float = 0.5
    """Standard deviation of B."""

    def __post_init__(self) -> None:
        if self.period < 3:
            raise UsageError(f"circle.period must be at least 3, not {self.period}")
        if not self.spread >= 0:
            raise UsageError(f"circle.spread must be at least 0, not {self.spread}")


def check_circle(circle: Circle, config: ModelConfig) -> None:
    """Raises ``UsageError`` for a model without a low-rank table of positions."""
    if config.positions != "learned" or config.pos_rank < 2:
        raise UsageError(
            "circle needs learned positions of rank 2 or more (456p, 311p, 262p, ...); this model's "
            f"positions are {config.positions} of rank {config.pos_rank or 'full'}"
        )


def on_circle(circle: Circle, config: ModelConfig, params: dict[str, Tensor]) -> dict[str, Tensor]:
    """Freshly drawn parameters (S in front) with positions moved to the circle."""
    check_circle(circle, config)
    moved = dict(params)
    moved["pos_emb.A"] = params["pos_emb.A"] + _rows(circle, config, params["pos_emb.A"])
    moved["pos_emb.B"] = params["pos_emb.B"] * (circle.spread / DRAWN_STD)
    return moved


def _rows(circle: Circle, config: ModelConfig, table_SPR: Tensor) -> Tensor:
    """Centre of every row of A, (P, R); zero for rows that belong to no column."""
    layout = config.token_layout
    centre_PR = torch.zeros_like(table_SPR[0])
    of_column = [[layout.query_positions[j]] for j in range(layout.sum_digits)]
    for j in range(layout.columns):
        of_column[j] += [layout.a_positions[j], layout.b_positions[j]]
    period = circle.period * layout.sum_digits / SUM_DIGITS
    for j, positions in enumerate(of_column):
        angle = 2 * math.pi * j / period
        for p in positions:
            centre_PR[p, 0], centre_PR[p, 1] = math.cos(angle), math.sin(angle)
    return centre_PR


_NORMS = ("ln1.weight", "ln2.weight", "ln_f.weight")
_SIGNS_STREAM = 7_919
"""Added to a start's number: signs come from a stream of their own."""


@dataclass(frozen=True, kw_only=True)
class WideInit:
    """Starts that differ: where a model's own draw is nearly the same for every seed, a wider one.

    Most published starts are narrow: maps N(0, 0.02), every weight of a norm 1, digits on an arc of 150
    degrees. Two draws of such a model differ in little that matters, and what training would have to
    cross zero for, the sign of a channel, is the same in all. A wide start draws whole maps Xavier
    uniform and gives every weight of the stream's norms a random sign; with ``recipe.restarts`` a seed
    then begins with starts that are worth choosing from. Digits may start on a short arc, on which a
    channel is nearly linear in the digit. No parameter is added or fixed.
    """

    signs: bool = True
    """Whether every weight of the norms before attention, MLP and head gets a random sign."""
    arc: tuple[float, float, float] | None = None
    """(radius, start, stride) of digits on an arc; None: as the model has it."""

    def __post_init__(self) -> None:
        if self.arc is not None and not self.arc[0] > 0:
            raise UsageError(f"wide_init.arc starts with a radius above 0, not {self.arc[0]}")


def check_wide_init(wide_init: WideInit, config: ModelConfig, names: list[str]) -> None:
    """Raises ``UsageError`` for a model that has no arc, or no norm with weights."""
    if wide_init.arc is not None and config.tokens == "table":
        raise UsageError(
            "wide_init.arc needs digits on an arc (67p, 62p, 44p, ...); this model has a table of them: "
            "set recipe.wide_init.arc=null"
        )
    if wide_init.signs and not any(name.endswith(_NORMS) for name in names):
        raise UsageError(
            "wide_init.signs needs norms with weights; this model has none: set "
            "recipe.wide_init.signs=false"
        )


def drawn_as(wide_init: WideInit, config: ModelConfig) -> ModelConfig:
    """The model whose own draw is the wide one; their parameters have the same names and shapes."""
    return dataclasses.replace(config, init="xavier", arc=wide_init.arc or config.arc)


def with_signs(params: dict[str, Tensor], drawn: list[int]) -> dict[str, Tensor]:
    """Norm weights (S, D) of starts numbered ``drawn`` with signs at random."""
    signed = dict(params)
    generators = [torch.Generator().manual_seed(number + _SIGNS_STREAM) for number in drawn]
    for name, tensor in params.items():
        if name.endswith(_NORMS):
            bits = [torch.randint(2, tensor.shape[1:], generator=each) for each in generators]
            signed[name] = tensor * (2 * torch.stack(bits) - 1)
    return signed


def widened(
    params: dict[str, Tensor], drawn: list[int], *, signs: bool, widths: Sequence[float] | None = None
) -> dict[str, Tensor]:
    """The wide draw of a model whose parts are not known, by shape: of starts numbered ``drawn``
    (S, ...), every parameter of two axes or more Xavier uniform over its last two, and with ``signs``
    every vector of ones, as norms begin, with signs at random. The rest stays as the model drew it.
    ``widths``: what the uniform draw of each start is multiplied by; one of 0 is left alone."""
    wide = {name: tensor.clone() for name, tensor in params.items()}
    for row, number in enumerate(drawn):
        width = 1.0 if widths is None else widths[row]
        if width == 0:
            continue
        generator = torch.Generator().manual_seed(number + _SIGNS_STREAM)
        for tensor in wide.values():
            own = tensor[row]
            if own.ndim >= 2:
                bound = width * math.sqrt(6 / (own.shape[-1] + own.shape[-2]))
                own.uniform_(-bound, bound, generator=generator)
            elif signs and own.ndim == 1 and bool((own == 1).all()):
                own *= 2 * torch.randint(2, own.shape, generator=generator) - 1
    return wide


@dataclass(frozen=True, kw_only=True)
class AttentionPrefit:
    """Attention that starts where a sum needs it: each answer step looks at its own column.

    A query that begins far from the keys of its column may never turn to them. So before the first step,
    named parameters of the query (or of query and key, where those are one) are fitted, seed by seed, to
    a pattern of attention that says nothing of digits or sums: of what answer step i looks at,
    ``1 - below`` goes to a_i and b_i, ``below`` to a_(i-1) and b_(i-1), where the carry comes from. The
    fit is plain Adam on the cross-entropy of that pattern; values and the rest of the network stay as
    drawn.
    """

    parameters: tuple[str, ...]
    """Beginnings of the names of the parameters that are fitted."""
    below: float = 0.1
    """Share of the attention for the column below."""
    steps: int = 40
    """Steps of Adam."""
    lr: float = 0.1
    """Learning rate of the fit."""
    pairs: int = 8
    """Drawn afresh for every step of the fit, as training pairs are."""

    def __post_init__(self) -> None:
        if not self.parameters or not all(self.parameters):
            raise UsageError("prefit.parameters needs beginnings of names, such as blocks.0.attn.qkv_Bq")
        if not 0 <= self.below < 1:
            raise UsageError(f"prefit.below is a share from 0 to below 1, not {self.below}")
        if self.steps < 1 or self.pairs < 1 or not self.lr > 0:
            raise UsageError(
                "prefit needs steps and pairs at least 1 and lr above 0, not "
                f"{self.steps}, {self.pairs} and {self.lr}"
            )


def check_prefit(prefit: AttentionPrefit, config: ModelConfig, names: list[str]) -> None:
    """Raises ``UsageError`` for a model without tables, or names that none of its parameters has."""
    reason = why_not_trained_by_tables(config)
    if reason:
        raise UsageError(f"prefit reads attention from the tables: {reason}")
    for prefix in prefit.parameters:
        if not any(name.startswith(prefix) for name in names):
            raise UsageError(
                f"prefit: no parameter's name begins with {prefix!r}; there are {', '.join(names)}"
            )


def wanted_attention(config: ModelConfig, below: float) -> Tensor:
    """The wanted attention, (A, P); every row sums to 1.

    Where a column does not exist, its share goes to the other. Rotary and circular positions know only
    distances, and the places beside a number's digits hold zeros: there they stand for the columns
    below and above.
    """
    layout = config.token_layout
    wanted_AP = torch.zeros(layout.sum_digits, layout.num_positions)
    beyond = config.rope_theta is not None or config.positions == "fixed_circle"
    for positions in (layout.a_positions, layout.b_positions):
        stride = positions[1] - positions[0] if len(positions) > 1 else 1
        for i in range(layout.sum_digits):
            for column, share in ((i, 1.0 - below), (i - 1, below)):
                place = positions[0] + stride * column
                if 0 <= column < layout.columns or (beyond and 0 <= place < layout.num_positions):
                    wanted_AP[i, place] += share / 2
    return wanted_AP / wanted_AP.sum(1, keepdim=True)


def prefit_attention(
    prefit: AttentionPrefit,
    config: ModelConfig,
    data: DataConfig,
    seeds: Sequence[int],
    params: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """The starts (R, ...) of the seeds, as many of each, with the named parameters fitted; on the CPU.
    A seed's do not depend on the others."""
    check_prefit(prefit, config, list(params))
    wanted_AP = wanted_attention(config, prefit.below)
    values = {name: tensor.detach().clone() for name, tensor in params.items()}
    fitted = [
        tensor.requires_grad_() for name, tensor in values.items() if name.startswith(prefit.parameters)
    ]
    means, squares = ([torch.zeros_like(each) for each in fitted] for _ in range(2))
    counts = [torch.zeros(()) for _ in fitted]
    layout, seed_S = config.token_layout, torch.tensor(seeds)
    starts = len(next(iter(values.values()))) // len(seeds)
    for step in range(prefit.steps):
        a_SBJ, b_SBJ = sample_pairs(data, seed_S, step, prefit.pairs, layout.addition)
        tokens_SBP, _ = layout.encode(a_SBJ, b_SBJ)
        log_RBAHP = log_attention(config, values, tokens_SBP.long().repeat_interleave(starts, 0))
        # The sum over starts: each has the gradient of its own mean.
        loss = -(log_RBAHP.mean(3) * wanted_AP).sum(-1).mean((1, 2)).sum()
        gradients = torch.autograd.grad(loss, fitted, allow_unused=True, materialize_grads=True)
        with torch.no_grad():
            # The function, not the class: to build one of those loads torch's compiler, for a second.
            adam(
                fitted,
                list(gradients),
                means,
                squares,
                max_exp_avg_sqs=[],
                state_steps=counts,
                foreach=False,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=prefit.lr,
                weight_decay=0.0,
                eps=1e-8,
                maximize=False,
            )
    return {name: tensor.detach() for name, tensor in values.items()}


def log_attention(config: ModelConfig, params: Mapping[str, Tensor], tokens_RBP: Tensor) -> Tensor:
    """Log of the attention weights of R models, log_RBAHP, each on its own pairs or (1, B, P) all on the
    same. Positions not yet written are at -80: a finite number, for zero times infinity is none."""
    built, layout = tables(config, params), config.token_layout
    asked_A = torch.tensor(layout.query_positions[: layout.sum_digits])
    A, V, P = len(asked_A), layout.vocab_size, layout.num_positions
    model_R11 = torch.arange(len(built.query))[:, None, None]
    asked_RBA = tokens_RBP[:, :, asked_A]
    query_RBAHK = built.query[model_R11, torch.arange(A), asked_RBA]
    key_RBPHK = built.key[model_R11, torch.arange(P), tokens_RBP]
    score_RBAHP = (query_RBAHK[:, :, :, None] * key_RBPHK[:, :, None]).sum(-1).transpose(3, 4)
    if built.score_scale is not None:
        curve = FUNCTIONS[str(built.form.score_function)]
        score_RBAHP = curve(score_RBAHP) * built.score_scale[:, None, :A, :, None]
    if built.score is not None:
        every_RAVHPV = built.score.expand(-1, -1, V, -1, -1, V)
        row_RBAHPV = every_RAVHPV[model_R11, torch.arange(A), asked_RBA]
        index = tokens_RBP[:, :, None, None, :, None].expand(*row_RBAHPV.shape[:-1], 1)
        score_RBAHP = score_RBAHP + row_RBAHPV.gather(5, index)[..., 0]
    written_AP = torch.arange(P) <= asked_A[:, None]
    score_RBAHP = score_RBAHP.masked_fill(~written_AP[:, None], -1e4)
    return score_RBAHP.log_softmax(-1).clamp(min=-80.0)


_APART = 1_000_000
"""Between the numbers of two starts: start 0 of a seed is drawn from the seed itself."""


@dataclass(frozen=True, kw_only=True)
class Restarts:
    """Several starts for a seed, by successive halving: they train side by side, and at the first
    evaluation from each of ``halve_at`` on the better half goes on.

    Whether a start leads anywhere shows early. Where most starts of a small model lead nowhere, a seed
    that begins with sixteen and soon goes on with one costs a few runs and succeeds far more often. All
    starts of a seed train and are measured on the seed's own pairs; what decides is accuracy on its
    validation pairs. That is a choice among starts, so a rate measured with it says so.

    The starts may differ in more than their draw: learning rates and widths are dealt out among them,
    and what suits the model is chosen with the draw that it suited.
    """

    halve_at: tuple[int, ...]
    """Steps, rising; after the last one start is left, so ``count`` is 2 to their number."""
    lr_factors: tuple[float, ...] = field(default=(), metadata=IMPLIED)
    """What learning rates are multiplied by, dealt out among the starts in turn, in all stages; empty:
    every start has the recipe's."""
    widths: tuple[float, ...] = field(default=(), metadata=IMPLIED)
    """How wide the starts are drawn, dealt out so that every width meets every rate: 0 is the model's
    own draw; else maps are this multiple of Xavier uniform, and vectors of ones have signs at random.
    Empty: all as drawn."""

    def __post_init__(self) -> None:
        if not self.halve_at or list(self.halve_at) != sorted(set(self.halve_at)):
            raise UsageError(f"restarts.halve_at must be rising steps, not {list(self.halve_at)}")
        if self.halve_at[0] < 0 or len(self.halve_at) > 8:
            raise UsageError("restarts.halve_at holds one to eight steps, none below 0")
        if not all(factor > 0 for factor in self.lr_factors):
            raise UsageError(f"restarts.lr_factors must be above 0, not {list(self.lr_factors)}")
        if not all(width >= 0 for width in self.widths):
            raise UsageError(f"restarts.widths must be at least 0, not {list(self.widths)}")

    @property
    def count(self) -> int:
        """How many starts a seed begins with."""
        return int(2 ** len(self.halve_at))

    def lr_factor(self, start: int) -> float:
        """Of the start with that number, from 0."""
        return self.lr_factors[start % len(self.lr_factors)] if self.lr_factors else 1.0

    def width(self, start: int) -> float:
        """Of the start with that number, from 0."""
        turn = start // max(1, len(self.lr_factors))
        return self.widths[turn % len(self.widths)] if self.widths else 0.0

    def left_after(self, step: int) -> int:
        """How many go on after the evaluation at ``step``."""
        return int(2 ** sum(step < halving for halving in self.halve_at))

    def seed_steps(self, steps: int) -> int:
        """Steps of all starts together in a run of ``steps``, if evaluations fall on ``halve_at``."""
        return steps + sum(halving * (self.count >> i) // 2 for i, halving in enumerate(self.halve_at))


def restart_seeds(seed: int, count: int) -> list[int]:
    """The numbers that ``count`` starts of a seed's parameters are drawn from."""
    return [seed + i * _APART for i in range(count)]


def rows_of(of_row: Sequence[int]) -> dict[int, list[int]]:
    """The rows of every seed, in their order. ``of_row``: which seed each row is of."""
    rows: dict[int, list[int]] = {}
    for row, seed in enumerate(of_row):
        rows.setdefault(seed, []).append(row)
    return rows


def leaders(of_row: Sequence[int], scores: Sequence[tuple[float, ...]], count: int) -> list[int]:
    """The ``count`` best rows of every seed, in their order."""
    chosen: list[int] = []
    for rows in rows_of(of_row).values():
        chosen += sorted(sorted(rows, key=lambda row: scores[row], reverse=True)[:count])
    return chosen


# The steps.


class AdamW:
    """The moments of every seed's gradient, and how many steps they are of."""

    def __init__(
        self, like_SN: Tensor, *, beta1: float, beta2: float, bias_correction: bool = True
    ) -> None:
        """Without ``bias_correction`` the moments are taken as they are, zero at the start (MLX)."""
        self.mean_SN = torch.zeros_like(like_SN)
        self.square_SN = torch.zeros_like(like_SN)
        self.beta1, self.beta2 = beta1, beta2
        self.bias_correction = bias_correction
        self.steps = 0

    def correction(self, step: int) -> float:
        """Divisor of the rate at the optimiser's ``step``-th step, from 1."""
        return 1.0 - self.beta1**step if self.bias_correction else 1.0

    def scale(self, step: int) -> float:
        """Divisor of the root of the square."""
        return (1.0 - self.beta2**step) ** 0.5 if self.bias_correction else 1.0

    def keep(self, rows: Tensor) -> None:
        """Go on with the seeds in ``rows`` only."""
        self.mean_SN, self.square_SN = self.mean_SN[rows].clone(), self.square_SN[rows].clone()

    def state(self) -> dict[str, Tensor | int]:
        """What a resume needs."""
        return {"mean": self.mean_SN, "square": self.square_SN, "steps": self.steps}

    def load_state(self, state: dict[str, Tensor | int]) -> None:
        """Go on from ``state()``."""
        mean, square, steps = state["mean"], state["square"], state["steps"]
        assert isinstance(mean, Tensor) and isinstance(square, Tensor) and isinstance(steps, int)
        self.mean_SN.copy_(mean)
        self.square_SN.copy_(square)
        self.steps = steps


@dataclass(frozen=True, kw_only=True)
class Grokfast:
    """Grokfast-EMA: the slow part of the gradient, amplified before clipping.

    m <- alpha m + (1 - alpha) g;  g <- g + lambda m (Lee et al., arXiv 2405.20233). The average starts
    at zero, as in the published runs below 60 parameters (tbukic/M10S-Transformer).
    """

    alpha: float = 0.98
    """Decay of the average of gradients, per step."""
    strength: float = 2.0
    """lambda of the paper."""

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < 1:
            raise UsageError(f"grokfast.alpha must lie in [0, 1), not {self.alpha}")
        if not self.strength >= 0:
            raise UsageError(f"grokfast.strength must be at least 0, not {self.strength}")


class SlowGradients:
    """The running average of every seed's gradient."""

    def __init__(self, settings: Grokfast, like_SN: Tensor) -> None:
        self.settings = settings
        self.mean_SN = torch.zeros_like(like_SN)

    def keep(self, rows: Tensor) -> None:
        """Go on with the seeds in ``rows`` only."""
        self.mean_SN = self.mean_SN[rows].clone()


@dataclass(frozen=True, kw_only=True)
class Average:
    """A running average of the weights, mean <- decay mean + (1 - decay) weights after every step,
    evaluated beside the weights themselves.

    The average lags behind a seed that is learning and is steadier than one that jumps between right
    and wrong at a high learning rate; the better of the two is kept (tbukic/M10S-Transformer, 62p).
    """

    decay: float = 0.999
    """Of the average, each step."""
    """Of the average, per step."""

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise UsageError(f"average.decay must lie in [0, 1), not {self.decay}")


class WeightAverage:
    """The average of every seed; it starts at the weights given."""

    def __init__(self, settings: Average, flat_SN: Tensor) -> None:
        self.settings = settings
        self.mean_SN = flat_SN.clone()

    def keep(self, rows: Tensor) -> None:
        """Go on with the seeds in ``rows`` only."""
        self.mean_SN = self.mean_SN[rows].clone()


@dataclass(frozen=True, kw_only=True)
class DecayRule:
    """From these accuracies of the validation pairs on, weight decay is ``factor`` x its setting."""

    factor: float
    """Multiple of the weight decay."""
    val_exact: float
    """Exact match from which the rule holds."""
    val_token_acc: float = 0.0
    """Accuracy of single answer tokens from which it holds; both must be reached."""

    def __post_init__(self) -> None:
        if not self.factor >= 0:
            raise UsageError(f"adaptive_decay's factor must be at least 0, not {self.factor}")
        for name in ("val_exact", "val_token_acc"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(
                    f"adaptive_decay's {name} is a share from 0 to 1, not {getattr(self, name)}"
                )


@dataclass(frozen=True, kw_only=True)
class AdaptiveDecay:
    """Weight decay that falls once a seed begins to answer right, seed by seed.

    Weight decay pushes a seed towards simple solutions before it has one and away from a right one
    afterwards. Sources: evindor/MicroAdder (74p) and tbukic/M10S-Transformer (36p to 45p).
    """

    rules: tuple[DecayRule, ...]
    """From the weakest to the strictest; the last one that holds decides."""
    """From the weakest to the strictest."""
    lasting: bool = True
    """A rule that held once holds from then on; if not, the last evaluation alone decides."""

    def __post_init__(self) -> None:
        if not self.rules:
            raise UsageError("adaptive_decay needs at least one rule; leave it out for none")


MICROADDER_DECAY = AdaptiveDecay(
    rules=(
        DecayRule(factor=0.1, val_exact=0.02, val_token_acc=0.7),
        DecayRule(factor=0.01, val_exact=0.2, val_token_acc=0.7),
    ),
    lasting=False,
)
"""x 0.1 at 2% exact match, x 0.01 at 20%, while 70% of the digits are right."""

M10S_DECAY = AdaptiveDecay(
    rules=(DecayRule(factor=0.1, val_exact=0.01), DecayRule(factor=0.001, val_exact=0.05))
)
"""x 0.1 at 1% exact match, x 0.01 more at 5%."""


class DecayFactors:
    """How many rules each seed has reached."""

    def __init__(self, settings: AdaptiveDecay, num_seeds: int) -> None:
        self.settings = settings
        self.reached = [0] * num_seeds

    def update(self, val_exact: Sequence[float], val_token_acc: Sequence[float]) -> None:
        """Note one evaluation, a value per seed."""
        rules = self.settings.rules
        for s, (exact, tokens) in enumerate(zip(val_exact, val_token_acc, strict=True)):
            holding = [
                number
                for number, rule in enumerate(rules, 1)
                if exact >= rule.val_exact and tokens >= rule.val_token_acc
            ]
            now = max(holding, default=0)
            self.reached[s] = max(now, self.reached[s]) if self.settings.lasting else now

    def factors(self) -> list[float]:
        """What the weight decay of each seed is multiplied by."""
        factors = (1.0, *(rule.factor for rule in self.settings.rules))
        return [factors[number] for number in self.reached]

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with the seeds in ``rows`` only."""
        self.reached = [self.reached[row] for row in rows]


@dataclass(frozen=True, kw_only=True)
class Freeze:
    """Parameters that stand still for a part of the run and learn at a rate of their own afterwards.

    Standing still is a learning rate of 0: gradients and Adam's moments go on, so the release is smooth.
    """

    prefix: str
    """Beginning of the parameters' names."""
    until: float
    """Fraction of ``recipe.steps``; before it they stand still."""
    then: float = 1.0
    """Their learning rate from there on (later stages included), as a multiple of the others'."""

    def __post_init__(self) -> None:
        if not self.prefix:
            raise UsageError("freeze needs the beginning of a parameter's name, such as pos_emb.A")
        if not 0 <= self.until <= 1:
            raise UsageError(f"freeze.until is a fraction of the run from 0 to 1, not {self.until}")
        if not self.then >= 0:
            raise UsageError(f"freeze.then must be at least 0, not {self.then}")

    def multiplier(self, step: int, steps: int) -> float:
        """Of the learning rate at that step of a run of ``steps``."""
        return 0.0 if step < self.until * steps else self.then


def check_names(freezes: Sequence[Freeze], names: Sequence[str]) -> None:
    """Raises ``UsageError`` for a prefix that no parameter has."""
    for freeze in freezes:
        if not any(name.startswith(freeze.prefix) for name in names):
            raise UsageError(
                f"freeze: no parameter's name begins with {freeze.prefix!r}; there are "
                f"{', '.join(names)}"
            )


class LearningRates:
    """The multiple of the learning rate at which every parameter learns."""

    def __init__(
        self, freezes: Sequence[Freeze], sizes: Mapping[str, int], steps: int, like: Tensor
    ) -> None:
        """``sizes``: numbers of every parameter, in flat order. ``like``: dtype and device."""
        self.freezes, self.sizes, self.steps, self.like = freezes, sizes, steps, like
        self._multipliers: tuple[float, ...] | None = None
        self._scale_N: Tensor | None = None

    def at(self, step: int) -> Tensor | None:
        """scale_N, or None where every parameter learns at the full rate."""
        multipliers = tuple(freeze.multiplier(step, self.steps) for freeze in self.freezes)
        if multipliers != self._multipliers:
            self._multipliers, self._scale_N = multipliers, self._build(multipliers)
        return self._scale_N

    def same_until(self, step: int) -> int | None:
        """The next step at which some rate changes; None: never again."""
        changes = [math.ceil(freeze.until * self.steps) for freeze in self.freezes]
        return min((change for change in changes if change > step), default=None)

    def _build(self, multipliers: Sequence[float]) -> Tensor | None:
        values: list[float] = []
        for name, size in self.sizes.items():
            own = 1.0
            for freeze, multiplier in zip(self.freezes, multipliers, strict=True):
                if name.startswith(freeze.prefix):
                    own *= multiplier
            values += [own] * size
        if all(value == 1.0 for value in values):
            return None
        return torch.tensor(values, dtype=self.like.dtype, device=self.like.device)
