"""How a model answers pairs: through an engine where it has tables, else through the full model.

Shapes: B pairs, J = 10 operand columns, A answer steps.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from adderlab.engine.base import Engine
from adderlab.evaluation.exact import Decoder
from adderlab.models.config import ModelConfig
from adderlab.models.mapping import tables, why_no_tables
from adderlab.models.transformer import Transformer, build_model
from adderlab.task.layouts import get_layout

ORACLE_CHUNK = 4096
"""Pairs the full model takes at once: it holds logits and scores of every position."""


def decoder_for(config: ModelConfig, params: Mapping[str, Tensor], engine: Engine | None) -> Decoder:
    """The fastest decoder for one model: ``params`` with a seed axis of length 1 in front.

    Without an engine, or for a model outside the table form, the full model decodes.
    """
    assert all(tensor.shape[0] == 1 for tensor in params.values())
    if engine is None or why_no_tables(config):
        return oracle_decoder(model_of(config, params))
    layout = get_layout(config.layout)
    with torch.no_grad():
        form = tables(config, params)

    def decode(a_BJ: Tensor, b_BJ: Tensor) -> Tensor:
        prompt_BT = layout.encode_prompt(a_BJ, b_BJ).to(form.query.device)
        return engine.decode(form, prompt_BT[None])[0].cpu()

    return decode


def oracle_decoder(model: Transformer) -> Decoder:
    """Greedy decoding by the full model over the whole sequence; slow, and right by inspection."""
    device = next(model.parameters()).device

    def decode(a_BJ: Tensor, b_BJ: Tensor) -> Tensor:
        prompt_BT = model.layout.encode_prompt(a_BJ, b_BJ).to(device)
        return torch.cat([model.generate(chunk) for chunk in prompt_BT.split(ORACLE_CHUNK)]).cpu()

    return decode


def model_of(config: ModelConfig, params: Mapping[str, Tensor]) -> Transformer:
    """The readable model with these weights (a seed axis of 1 in front), of their type and device."""
    like = next(iter(params.values()))
    model = build_model(config, seed=0).to(device=like.device, dtype=like.dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(params[name][0])
    return model.eval()
