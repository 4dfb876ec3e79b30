"""What an architecture is to the rest of the program, a ``ModelConfig`` or a model read from a file;
and the readable model of a configuration: a pre-norm decoder over the whole sequence, its embeddings,
its first draw.

Everything that takes an architecture goes through a handful of functions (``build_model``,
``tables.tables``, ``tables.why_no_tables``, ``runs.checkpoints.parameter_shapes``); they ask an
architecture that is no configuration for the methods of ``ReadArchitecture``.

Every fast path is tested on the readable model. Low-rank factors of the 456p family, norms, angles and
arcs start as their modules are built; ``draw`` gives full maps and tables the draws of the published
programs.

Tokens are a table, or digits on an arc of a few learned numbers. Positions have a row each, or one row
for the same column of a, b and s.

Shapes: B batch, T positions read so far, P input positions, A answer steps, D width, V vocabulary, S
seeds, C columns of an operand (10), W channels of a token's or position's embedding."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast, overload

import torch
from torch import Tensor, nn

from adderlab.models import ordered
from adderlab.models.config import SPECIALS, ModelConfig
from adderlab.models.layers import MLP, Attention, norm
from adderlab.models.maps import Linear, LowRankLinear, Map, Negated, ScaledChannels, Stacked, circle
from adderlab.task.addition import Layout

if TYPE_CHECKING:
    from adderlab.models.tables import Tables


class Adder(nn.Module):
    """A module that adds: the layout's tokens (B, T) -> logits (B, T, V) of the layout's tokens.

    Parameters may be read, written and moved by ``named_parameters`` and ``to`` as those of any module.
    """

    config: Any

    @property
    def layout(self) -> Layout:
        return self.config.token_layout

    def next_logits(self, tokens_BT: Tensor) -> Tensor:
        """Logits (B, V) of the token that follows."""
        return self(tokens_BT)[:, -1]

    def answer_logits(self, tokens_BP: Tensor) -> Tensor:
        """Logits (B, A, V) of the answer steps, teacher-forced."""
        return self(tokens_BP)[:, list(self.layout.query_positions)]

    def loss(self, tokens_BP: Tensor, targets_BA: Tensor) -> Tensor:
        """Mean cross-entropy over the B * A answer tokens."""
        logits_BAV = self.answer_logits(tokens_BP)
        return nn.functional.cross_entropy(logits_BAV.flatten(0, 1), targets_BA.flatten().long())

    @torch.no_grad()
    def generate(self, prompt_BT: Tensor) -> Tensor:
        """Greedy decoding: prompt tokens -> answer tokens (B, A), uint8."""
        tokens = prompt_BT.long()
        for _ in range(self.layout.num_answers):
            tokens = torch.cat([tokens, self.next_logits(tokens).argmax(-1, keepdim=True)], 1)
        return tokens[:, prompt_BT.shape[1] :].to(torch.uint8)

    def own_sum(self, a: int, b: int) -> int | None:
        """What the model's own ``add`` answers to a + b, -1 where that is no number; None where it has
        none, and its greedy answer is the answer."""
        return None


class ReadArchitecture(Protocol):
    """An architecture that is no ``ModelConfig``. Hashable; equal ones have the same parameters."""

    @property
    def token_layout(self) -> Layout: ...

    @property
    def layout(self) -> str:
        """The layout's name."""
        ...

    @property
    def file(self) -> str:
        """What the user calls it."""
        ...

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every parameter, in the module's order. Needs no code of the model."""
        ...

    def build(self, seed: int) -> Adder:
        """A freshly initialised model. Raises ``UsageError`` where its code is not at hand."""
        ...

    def tables(self, params: Mapping[str, Tensor], *, exact: bool = False) -> Tables:
        """Tables of S models, differentiable; ``exact``: hidden keys have the score minus infinity, as a
        proof needs it. Raises ``UsageError`` where its code is not at hand."""
        ...

    def why_no_tables(self) -> str | None:
        """None if it has a table form, otherwise the reason."""
        ...

    def bound(self) -> dict[str, Any]:
        """What a certificate binds of it besides weights and head program, as JSON values. Raises
        ``UsageError`` where its code is not at hand."""
        ...


Architecture: TypeAlias = "ModelConfig | ReadArchitecture"
"""What every function that takes an architecture takes."""


# The readable model.


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


# Embeddings.


class TokenTable(nn.Embedding):
    """A learned row per token."""

    def table(self) -> Tensor:
        """(V, W)."""
        return self.weight

    def dense(self, params: Stacked) -> Tensor:
        """(S, V, W)."""
        return params["weight"]


class TokenArc(nn.Module):
    """Token d at (radius cos(start + d stride), radius sin(start + d stride)): 1 to 4 parameters.

    An ellipse has a radius for the cosine and another for the sine. A centred arc has no start of its
    own: its middle is at angle 0.
    """

    def __init__(self, vocab_size: int, arc: tuple[float, float, float], kind: str) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        radius, start, stride = arc
        self.radius = None if kind == "unit_arc" else nn.Parameter(torch.tensor(radius))
        self.sine_radius = nn.Parameter(torch.tensor(radius)) if kind == "ellipse" else None
        self.start = None if kind in ("centred_arc", "unit_arc") else nn.Parameter(torch.tensor(start))
        self.stride = nn.Parameter(torch.tensor(stride))

    def table(self) -> Tensor:
        """(V, 2)."""
        token_V = self._tokens().to(self.stride)
        angle_V = token_V * self.stride if self.start is None else self.start + token_V * self.stride
        if self.radius is None:
            return torch.stack([angle_V.cos(), angle_V.sin()], 1)
        sine_radius = self.radius if self.sine_radius is None else self.sine_radius
        return torch.stack([self.radius * angle_V.cos(), sine_radius * angle_V.sin()], 1)

    def _tokens(self) -> Tensor:
        """0, 1, ... as the angle counts them (V,)."""
        middle = (self.vocab_size - 1) / 2 if self.start is None else 0.0
        return torch.arange(self.vocab_size) - middle

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table()[tokens]

    def dense(self, params: Stacked) -> Tensor:
        """(S, V, 2)."""
        stride_S, V = params["stride"], self.vocab_size
        angle_SV = ordered.scale(self._tokens().to(stride_S).expand(len(stride_S), V), stride_S)
        if "start" in params:
            angle_SV = ordered.expand(params["start"], 1, V) + angle_SV
        if "radius" not in params:
            return torch.stack([angle_SV.cos(), angle_SV.sin()], 2)
        if "sine_radius" not in params:
            return ordered.scale(torch.stack([angle_SV.cos(), angle_SV.sin()], 2), params["radius"])
        cosine_SV = ordered.scale(angle_SV.cos(), params["radius"])
        return torch.stack([cosine_SV, ordered.scale(angle_SV.sin(), params["sine_radius"])], 2)


def token_embedding(config: ModelConfig) -> TokenTable | TokenArc:
    """The token embedding that the configuration names."""
    V = config.token_layout.vocab_size
    if config.tokens == "table":
        return TokenTable(V, config.token_width)
    return TokenArc(V, config.arc, config.tokens)


class PositionTable(nn.Embedding):
    """A learned row per position."""

    def dense(self, params: Stacked, num_positions: int) -> Tensor:
        """(S, P, W)."""
        return params["weight"][:, :num_positions]


class LowRankPositionTable(nn.Module):
    """Row p is A[p] @ B: rows * r + r * W parameters, each N(0, 0.02) at the start."""

    def __init__(self, rows: int, width: int, rank: int) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.empty(rows, rank).normal_(0.0, 0.02))
        self.B = nn.Parameter(torch.empty(rank, width).normal_(0.0, 0.02))

    def forward(self, index: Tensor) -> Tensor:
        return self.A[index] @ self.B

    def dense(self, params: Stacked, num_positions: int) -> Tensor:
        """(S, P, W)."""
        return ordered.matmul(params["A"][:, :num_positions], params["B"])


class LearnedColumns(nn.Module):
    """A learned row per column."""

    def __init__(self, columns: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(columns, width).normal_(0.0, 0.02))

    def rows(self) -> Tensor:
        """(C, W)."""
        return self.weight

    def dense(self, params: Stacked) -> Tensor:
        """(S, C, W)."""
        return params["weight"]


class SpiralColumns(nn.Module):
    """Column j at (amplitude cos(2 pi j / C + phase), amplitude sin(...), slope j + offset)."""

    NAMES = ("amplitude", "phase", "slope", "offset")

    def __init__(self, columns: int, start: tuple[float, float, float, float], *, learned: bool) -> None:
        super().__init__()
        self.columns, self.start, self.learned = columns, start, learned
        if learned:
            for name, value in zip(self.NAMES, start, strict=True):
                setattr(self, name, nn.Parameter(torch.tensor(value)))

    def rows(self) -> Tensor:
        """(C, 3)."""
        if self.learned:
            return self.dense({name: getattr(self, name)[None] for name in self.NAMES})[0]
        values = torch.tensor([self.start], dtype=torch.float64).unbind(1)
        return self._rows(*values)[0]

    def dense(self, params: Stacked) -> Tensor:
        """(S, C, 3); the fixed spiral has no parameters and S = 1."""
        if not self.learned:
            return self.rows()[None]
        return self._rows(*(params[name] for name in self.NAMES))

    def _rows(self, amplitude_S: Tensor, phase_S: Tensor, slope_S: Tensor, offset_S: Tensor) -> Tensor:
        C = self.columns
        column_C = torch.arange(C, device=phase_S.device, dtype=phase_S.dtype)
        angle_SC = column_C * (2 * math.pi / C) + ordered.expand(phase_S, 1, C)
        circle_SC2 = ordered.scale(torch.stack([angle_SC.cos(), angle_SC.sin()], 2), amplitude_S)
        steps_SC = ordered.scale(column_C.expand(len(slope_S), C), slope_S)
        height_SC = steps_SC + ordered.expand(offset_S, 1, C)
        return torch.cat([circle_SC2, height_SC[:, :, None]], 2)


class CircleColumns(nn.Module):
    """Place j at (amplitude cos(2 pi j / (C + 2) + phase), amplitude sin(...)): the sum's C + 1 columns,
    and one more place that the separators share. No parameters.

    The query that asks for column j stands one place before it, and the last separator before column 0:
    to rotate by one place is what every query needs.
    """

    def __init__(self, columns: int, amplitude: float, phase: float) -> None:
        super().__init__()
        self.columns, self.amplitude, self.phase = columns, amplitude, phase
        self.places = circle(columns + 2, amplitude, phase)

    def rows(self) -> Tensor:
        """(C, W)."""
        return torch.tensor(self.places[: self.columns], dtype=torch.float64)

    def dense(self, params: Stacked) -> Tensor:
        """(1, C, W)."""
        return self.rows()[None]

    def specials(self) -> Tensor:
        """Rows in the order of SPECIALS: the top is a column, the others are separators (4, W)."""
        top, separator = self.places[self.columns :]
        rows = [top if name == "top" else separator for name in SPECIALS]
        return torch.tensor(rows, dtype=torch.float64)


class ColumnPositions(nn.Module):
    """One row for a_j, b_j and s_j; special positions have their own learned row, or a fixed one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        columns, width = config.columns, config.position_width
        self.columns: LearnedColumns | SpiralColumns | CircleColumns
        if config.positions == "columns":
            self.columns = LearnedColumns(columns, width)
        elif config.positions == "fixed_circle":
            self.columns = CircleColumns(columns, *config.spiral[:2])
        else:
            self.columns = SpiralColumns(columns, config.spiral, learned=config.positions == "spiral")
        self.width, self.learned_specials = width, config.learned_specials
        if self.learned_specials:
            self.special = nn.Parameter(torch.empty(len(self.learned_specials), width))
            nn.init.normal_(self.special, 0.0, 0.02)
        self.num_columns = columns
        self.row_of_position = _rows_of_positions(config.token_layout)

    def forward(self, index: Tensor) -> Tensor:
        special = self.special if self.learned_specials else None
        rows = self._assemble(self.columns.rows(), special)
        return rows[self._row_index(rows)[index]]

    def dense(self, params: Stacked, num_positions: int) -> Tensor:
        """(S, P, W)."""
        columns = {name[8:]: tensor for name, tensor in params.items() if name.startswith("columns.")}
        rows_SRW = self._assemble(self.columns.dense(columns), params.get("special"))
        return ordered.gather(rows_SRW, self.row_of_position[:num_positions])

    def _row_index(self, like: Tensor) -> Tensor:
        return torch.tensor(self.row_of_position, device=like.device)

    def _assemble(self, columns: Tensor, special: Tensor | None) -> Tensor:
        """(..., C + 4, W): the columns, then the specials in the order of SPECIALS."""
        if special is None:
            rest = columns.new_zeros((*columns.shape[:-2], len(SPECIALS), self.width))
            if isinstance(self.columns, CircleColumns):
                rest = self.columns.specials().to(rest).expand_as(rest)
            return torch.cat([columns, rest], -2)
        columns = columns.to(special).expand(*special.shape[:-2], -1, -1)
        zero = torch.zeros_like(special[..., :1, :])
        rows = [
            special.narrow(-2, self.learned_specials.index(name), 1)
            if name in self.learned_specials
            else zero
            for name in SPECIALS
        ]
        return torch.cat([columns, *rows], -2)


def _rows_of_positions(layout: Layout) -> tuple[int, ...]:
    """Position -> row of ``ColumnPositions._assemble``, the end position included."""
    row = {p: j for columns in (layout.a_positions, layout.b_positions) for j, p in enumerate(columns)}
    C = layout.columns
    row |= {p: j for j, p in enumerate(layout.sum_positions[:C])}
    *others, (equals, _) = layout.separators
    top = layout.sum_positions[C]
    special = {p: "plus" for p, _ in others} | {equals: "equals", top: "top", top + 1: "end"}
    special |= dict.fromkeys(layout.top_zeros, "top")
    row |= {p: C + SPECIALS.index(name) for p, name in special.items()}
    return tuple(row[p] for p in range(len(row)))


Positions = PositionTable | LowRankPositionTable | ColumnPositions


def position_embedding(config: ModelConfig) -> Positions | None:
    """The position embedding that the configuration names; None without one."""
    if config.positions == "none":
        return None
    if config.positions != "learned":
        return ColumnPositions(config)
    rows = config.position_rows or config.token_layout.num_positions
    if config.pos_rank:
        return LowRankPositionTable(rows, config.position_width, config.pos_rank)
    return PositionTable(rows, config.position_width)
