"""Attention that starts where a sum needs it: each answer step looks at its own column.

A query that begins far from the keys of its column may never turn to them (docs/why-runs-fail.md). So
before the first step, named parameters of the query (or of query and key, where those are one) are
fitted, seed by seed, to a picture of the attention that says nothing of digits or sums: of what answer
step i looks at, ``1 - below`` goes to a_i and b_i, ``below`` to a_(i-1) and b_(i-1), where the carry
comes from. The fit is plain Adam on the cross-entropy of that picture; nothing comes from a trained
model, values and the rest of the network stay as drawn.

Shapes: R draws of one seed, B pairs, A = 11 answer steps, P positions, V tokens, H heads, K width of a
key.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.adam import adam

from adderlab.errors import UsageError
from adderlab.models.config import ModelConfig
from adderlab.models.mapping import tables, why_no_tables
from adderlab.task.curriculum import DataConfig
from adderlab.task.digits import OPERAND_DIGITS, SUM_DIGITS
from adderlab.task.sampling import sample_pairs


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What is fitted, and to what."""

    parameters: tuple[str, ...]
    """Beginnings of the names of the parameters that are fitted."""
    below: float = 0.1
    """Share of the attention for the column below."""
    steps: int = 40
    lr: float = 0.1
    pairs: int = 8
    """Drawn afresh for every step of the fit, as training pairs are."""

    def __post_init__(self) -> None:
        if not self.parameters or not all(self.parameters):
            raise UsageError("aim.parameters needs beginnings of names, such as blocks.0.attn.qkv_Bq")
        if not 0 <= self.below < 1:
            raise UsageError(f"aim.below is a share from 0 to below 1, not {self.below}")
        if self.steps < 1 or self.pairs < 1 or not self.lr > 0:
            raise UsageError(
                "aim needs steps and pairs at least 1 and lr above 0, not "
                f"{self.steps}, {self.pairs} and {self.lr}"
            )


def check_aim(aim: Aim, config: ModelConfig, names: list[str]) -> None:
    """Raises ``UsageError`` for a model without tables, or names that none of its parameters has."""
    reason = why_no_tables(config)
    if reason:
        raise UsageError(f"aim reads attention from the tables: {reason}")
    for prefix in aim.parameters:
        if not any(name.startswith(prefix) for name in names):
            raise UsageError(
                f"aim: no parameter's name begins with {prefix!r}; there are {', '.join(names)}"
            )


def picture(config: ModelConfig, below: float) -> Tensor:
    """The wanted attention, (A, P); every row sums to 1.

    Where a column does not exist, its share goes to the other. Rotary and circular positions know only
    distances, and the places beside a number's digits hold zeros: there they stand for columns -1 and
    10.
    """
    layout = config.token_layout
    wanted_AP = torch.zeros(SUM_DIGITS, layout.num_positions)
    beyond = config.rope_theta is not None or config.positions == "fixed_circle"
    for positions in (layout.a_positions, layout.b_positions):
        stride = positions[1] - positions[0]
        for i in range(SUM_DIGITS):
            for column, share in ((i, 1.0 - below), (i - 1, below)):
                place = positions[0] + stride * column
                if 0 <= column < OPERAND_DIGITS or (beyond and 0 <= place < layout.num_positions):
                    wanted_AP[i, place] += share / 2
    return wanted_AP / wanted_AP.sum(1, keepdim=True)


def aimed(
    aim: Aim, config: ModelConfig, data: DataConfig, seed: int, params: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """One seed's draws (R, ...) with the named parameters fitted; on the CPU."""
    check_aim(aim, config, list(params))
    wanted_AP = picture(config, aim.below)
    values = {name: tensor.detach().clone() for name, tensor in params.items()}
    fitted = [
        tensor.requires_grad_() for name, tensor in values.items() if name.startswith(aim.parameters)
    ]
    means, squares = ([torch.zeros_like(each) for each in fitted] for _ in range(2))
    counts = [torch.zeros(()) for _ in fitted]
    layout = config.token_layout
    for step in range(aim.steps):
        a_SBJ, b_SBJ = sample_pairs(data, torch.tensor([seed]), step, aim.pairs)
        tokens_SBP, _ = layout.encode(a_SBJ, b_SBJ)
        log_RBAHP = log_attention(config, values, tokens_SBP[0].long())
        # The sum over draws: each has the gradient of its own mean.
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
                lr=aim.lr,
                weight_decay=0.0,
                eps=1e-8,
                maximize=False,
            )
    return {name: tensor.detach() for name, tensor in values.items()}


def log_attention(config: ModelConfig, params: Mapping[str, Tensor], tokens_BP: Tensor) -> Tensor:
    """Log of the attention weights of R models, log_RBAHP. Positions not yet written are at -80: a
    finite number, for zero times infinity is none."""
    built, layout = tables(config, params), config.token_layout
    asked, places = layout.query_positions[:SUM_DIGITS], range(layout.num_positions)
    query_RBAHK = torch.stack([built.query[:, i, tokens_BP[:, p]] for i, p in enumerate(asked)], 2)
    key_RBPHK = torch.stack([built.key[:, p, tokens_BP[:, p]] for p in places], 2)
    score_RBAHP = (query_RBAHK[:, :, :, None] * key_RBPHK[:, :, None]).sum(-1).transpose(3, 4)
    written_AP = torch.arange(layout.num_positions) <= torch.tensor(asked)[:, None]
    score_RBAHP = score_RBAHP.masked_fill(~written_AP[:, None], -1e4)
    return score_RBAHP.log_softmax(-1).clamp(min=-80.0)
