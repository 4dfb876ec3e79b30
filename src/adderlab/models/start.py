"""Where training starts: the first draw of full maps and tables, as the published programs do it.

Low-rank factors of the 456p family, norms, angles and arcs start as their modules are built.
"""

import math

import torch
from torch import nn

from adderlab.models.components import LowRankLinear
from adderlab.models.positions import LearnedColumns
from adderlab.models.rotation import circle
from adderlab.models.tokens import TokenTable
from adderlab.task.digits import OPERAND_DIGITS
from adderlab.task.layouts import Layout

SPIRAL_SPECIALS = {
    "+": (2.0, 0.0, -1.0),
    "=": (0.0, 2.0, -1.0),
    "<EOS>": (-2.0, 0.0, -1.0),
    "<PAD>": (0.0, -2.0, -1.0),
}
"""Token rows beside the digits' spiral (JackCai)."""


def draw(model: nn.Module, init: str, layout: Layout) -> None:
    """Draw the model's full maps and tables anew in the way that ``ModelConfig.init`` names."""
    if init == "normal":
        # A walk that meets tied modules twice: the published 456p program's stream of draws.
        model.apply(_normal)
        return
    for module in model.modules():
        if init == "uniform":
            _uniform(module)
        else:
            _xavier(module)
        if init == "spiral":
            _spiral(module, layout)


@torch.no_grad()
def _normal(module: nn.Module) -> None:
    """N(0, 0.02), biases zero."""
    if isinstance(module, (nn.Embedding, nn.Linear)):
        module.weight.normal_(0.0, 0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        module.bias.zero_()


@torch.no_grad()
def _uniform(module: nn.Module) -> None:
    """Maps and biases U(-1/sqrt(in), 1/sqrt(in)), tables N(0, 1/sqrt(width)): MLX's defaults."""
    if isinstance(module, nn.Linear):
        bound = 1.0 / math.sqrt(module.in_features)
        module.weight.uniform_(-bound, bound)
        if module.bias is not None:
            module.bias.uniform_(-bound, bound)
    elif isinstance(module, nn.Embedding):
        module.weight.normal_(0.0, 1.0 / math.sqrt(module.embedding_dim))


@torch.no_grad()
def _xavier(module: nn.Module) -> None:
    """Xavier-uniform maps; a low-rank map starts at zero, its second factor being zero."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
    elif isinstance(module, nn.Embedding):
        module.weight.normal_(0.0, 0.02)
    elif isinstance(module, LowRankLinear):
        nn.init.kaiming_uniform_(module.A, a=math.sqrt(5))
        module.B.zero_()


@torch.no_grad()
def _spiral(module: nn.Module, layout: Layout) -> None:
    """Digits and columns i at (cos 2 pi i/10, sin 2 pi i/10, i/9)."""
    if not isinstance(module, (TokenTable, LearnedColumns)):
        return
    for i, (cos, sin) in enumerate(circle(OPERAND_DIGITS, 1.0, 0.0)):
        module.weight[i] = torch.tensor([cos, sin, i / (OPERAND_DIGITS - 1)])
    if isinstance(module, TokenTable):
        for token, name in enumerate(layout.vocabulary):
            if name in SPIRAL_SPECIALS:
                module.weight[token] = torch.tensor(SPIRAL_SPECIALS[name])
