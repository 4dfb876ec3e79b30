"""The readable model: a pre-norm decoder over the whole sequence, and its first draw.

Every fast path is tested on it. Low-rank factors of the 456p family, norms, angles and arcs start as
their modules are built; ``draw`` gives full maps and tables the draws of the published programs.

Shapes: B batch, T positions, D width, W token channels, V vocabulary.
"""

from __future__ import annotations

import math
import threading
from functools import cache
from typing import cast, overload

import torch
from torch import Tensor, nn

from adderlab.models.architecture import Adder, Architecture
from adderlab.models.config import ModelConfig
from adderlab.models.embeddings import LearnedColumns, TokenTable, position_embedding, token_embedding
from adderlab.models.layers import MLP, Attention, norm
from adderlab.models.maps import Linear, LowRankLinear, Map, Negated, ScaledChannels, circle
from adderlab.task.layouts import Layout

SPIRAL_SPECIALS = {
    "+": (2.0, 0.0, -1.0),
    "=": (0.0, 2.0, -1.0),
    "<EOS>": (-2.0, 0.0, -1.0),
    "<PAD>": (0.0, -2.0, -1.0),
}
"""Token rows beside the digits' spiral (JackCai)."""

_DRAWING = threading.Lock()
"""PyTorch's generator is one for all threads of the process."""


class Block(nn.Module):
    """x + attn(ln1(x)), then x + mlp(ln2(x))."""

    def __init__(self, config: ModelConfig, head: Map | None, shared_norm: nn.Module | None) -> None:
        super().__init__()
        self.ln1 = shared_norm or norm(config)
        self.attn = Attention(config, head)
        self.ln2 = norm(config) if config.share_norms == "none" else self.ln1
        self.mlp = MLP(config, head)

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.attn(self.ln1(x_BTD))
        return x_BTD + self.mlp(self.ln2(x_BTD))


class Transformer(Adder):
    """Token and position embedding, blocks, final norm, head read against the token embedding.

    Parameter names and the order of random draws are those of the published 456p program, so that
    its checkpoints load here and a seed starts from the same weights.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        W = config.token_width
        self.token_emb = token_embedding(config)
        self.pos_emb = position_embedding(config)
        self.head_proj = _head(config)
        shared_norm = norm(config) if config.share_norms == "all" else None
        self.blocks = nn.ModuleList(
            [Block(config, self.head_proj, shared_norm) for _ in range(config.n_layer)]
        )
        self.ln_f = shared_norm or norm(config)
        if config.repeat_mix:
            self.repeat_gain = nn.Parameter(torch.tensor(0.0))
        if config.tokens == "table" and config.head == "tied":
            # Adds no parameter: the published files and their draws have the tied matrix twice.
            self.lm_head = nn.Linear(W, config.token_layout.vocab_size, bias=False)
            self.lm_head.weight = cast(nn.Embedding, self.token_emb).weight
        draw(self, config.init, config.token_layout)

    def block(self, index: int) -> Block:
        return cast(Block, self.blocks[index])

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits (B, T, V) at every position."""
        x_BTD = self._embed(tokens_BT.long())
        x_BTD = self._through_blocks(x_BTD)
        if self.config.repeat_mix:
            x_BTD = x_BTD + self.repeat_gain * (self._through_blocks(x_BTD) - x_BTD)
        return self.read_out(x_BTD)

    def read_out(self, x_BTD: Tensor) -> Tensor:
        """Logits of the stream after the last block: (..., D) -> (..., V)."""
        logits_BTV = nn.functional.linear(self.read(x_BTD), self.token_emb.table())
        scale = self.config.logit_scale
        return logits_BTV if scale == 1.0 else logits_BTV * scale

    def read(self, x_BTD: Tensor) -> Tensor:
        """What is compared with the tokens: (..., D) -> (..., W)."""
        config = self.config
        width = config.content_width if config.head == "projected" else config.token_width
        x_BTC = self.ln_f(x_BTD)[..., :width]
        return x_BTC if self.head_proj is None else self.head_proj(x_BTC)

    def _through_blocks(self, x_BTD: Tensor) -> Tensor:
        for block in self.blocks:
            x_BTD = block(x_BTD)
        return x_BTD

    def _embed(self, tokens_BT: Tensor) -> Tensor:
        """The residual stream at the start (B, T, D)."""
        token_BTW = self.token_emb(tokens_BT)
        if self.pos_emb is None:
            return nn.functional.pad(token_BTW, (0, self.config.d_model - self.config.token_width))
        positions_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        position_TW = self.pos_emb(positions_T).to(token_BTW)
        if self.config.token_dim is None:
            return token_BTW + position_TW
        return torch.cat([token_BTW, position_TW.expand(len(tokens_BT), -1, -1)], -1)


def _head(config: ModelConfig) -> Linear | ScaledChannels | Negated | None:
    """What happens to the stream before it is compared with the token table."""
    W = config.token_width
    if config.head == "projected":
        return Linear(config.content_width, W)
    if config.head == "negated":
        return Negated(W)
    return None if config.head == "tied" else ScaledChannels(W, once=config.head == "scaled_once")


@overload
def build_model(config: ModelConfig, seed: int) -> Transformer: ...
@overload
def build_model(config: Architecture, seed: int) -> Adder: ...
def build_model(config: Architecture, seed: int) -> Adder:
    """A freshly initialised model; a pure function of (config, seed).

    Raises ``UsageError`` for a model of a file that was not named."""
    with _DRAWING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Transformer(config) if isinstance(config, ModelConfig) else config.build(seed)


@cache
def skeleton(config: ModelConfig) -> Transformer:
    """The module tree: it knows names, shapes and how parts read their parameters. Its own weights are
    nobody's (on the meta device, drawing them would load torch's compiler, which takes seconds)."""
    return build_model(config, 0)


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
    """Digit or column i of n at (cos 2 pi i/n, sin 2 pi i/n, i/(n - 1))."""
    if not isinstance(module, (TokenTable, LearnedColumns)):
        return
    n = layout.base if isinstance(module, TokenTable) else layout.columns
    for i, (cos, sin) in enumerate(circle(n, 1.0, 0.0)):
        module.weight[i] = torch.tensor([cos, sin, i / max(n - 1, 1)])
    if isinstance(module, TokenTable):
        for token, name in enumerate(layout.vocabulary):
            if name in SPIRAL_SPECIALS:
                module.weight[token] = torch.tensor(SPIRAL_SPECIALS[name])
