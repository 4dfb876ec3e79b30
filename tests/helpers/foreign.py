"""Checkpoints of other programs, loaded and evaluated."""

import torch
from torch import Tensor

from adderlab.evaluation.suites import adderboard
from adderlab.models.transformer import Transformer


@torch.no_grad()
def errors_on_adderboard(model: Transformer) -> int:
    """Of the 10,010 pairs, without tables: greedy answers are right where every step, given the
    right digits before it, is."""
    wrong = 0
    for group in adderboard().groups:
        tokens_BP, targets_BA = model.layout.encode(group.a_BJ, group.b_BJ)
        answers_BA = model.answer_logits(tokens_BP).argmax(-1)
        wrong += int((answers_BA[:, :11] != targets_BA[:, :11]).any(1).sum())
    return wrong


def loaded(model: Transformer, params: dict[str, Tensor]) -> Transformer:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(params[name])
    return model
