"""Token and position embeddings.

Tokens are a table, or digits on an arc of a few learned numbers. Positions have a row each, or one row
for the same column of a, b and s.

Shapes: S seeds, V vocabulary, P positions, C columns of an operand (10), W channels of the embedding.
"""

import math

import torch
from torch import Tensor, nn

from adderlab.models import ordered
from adderlab.models.config import SPECIALS, ModelConfig
from adderlab.models.maps import Stacked, circle
from adderlab.task.layouts import Layout


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
