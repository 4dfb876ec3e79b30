"""The frozen description of a model: which components, of which size. Weights are elsewhere.

Names follow the published 456-parameter program (docs/reproducing.md) where it has one. Every
field is one choice that can be combined with the others; the published models are points in this
space (models/presets.py). A combination that makes no sense is refused by ``config_rules``.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from adderlab.models import config_rules
from adderlab.task.layouts import Layout, get_layout

TieQKV = Literal[
    "none",
    "separate",
    "all",
    "qk",
    "kv",
    "shareA",
    "shareB",
    "shareB_tieQK",
    "shareB_tieKV",
    "shareA_tieKV",
    "shareA_tieQK",
]
TIE_MODES: tuple[TieQKV, ...] = get_args(TieQKV)

PositionKind = Literal["learned", "columns", "spiral", "fixed_spiral", "fixed_circle", "none"]

Special = Literal["plus", "equals", "top", "end"]
"""Positions that hold no operand or sum column below 10^10: the two separators, s_10, the end."""
SPECIALS: tuple[Special, ...] = get_args(Special)


PUBLISHED_ARC = (2.5, -1.2, 0.29)
"""(radius, start, stride) of digits on an arc at the start of every published model that has one
(MicroAdder, M10S)."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A pre-norm decoder. A rank of 0 means a full matrix; ties say which matrices are shared."""

    layout: str = "P"
    """Token layout: P, P13, S, M, M13, M14, ... (adderlab.task.layouts)."""
    n_layer: int = 1
    d_model: int = 7
    n_head: int = 1
    d_ff: int = 14
    pos_rank: int = 0
    """Rank of the learned position table; 0 learns it in full."""
    qkv_rank: int = 0
    attn_out_rank: int = 0
    ffn_rank: int = 0
    tie_qkv: TieQKV = "none"
    """Which of the query, key and value maps are shared. "none" is one fused map of all three,
    "separate" three maps; they differ in names, draws and, at a low rank, in what they share."""
    norm: Literal["layer", "rms"] = "layer"
    activation: Literal["gelu", "relu", "swiglu"] = "gelu"
    position_rows: int | None = None
    """Rows of the position table when it has more than the layout reads (777p: 35)."""

    tokens: Literal["table", "arc", "centred_arc", "unit_arc", "ellipse"] = "table"
    """"arc": digit d at radius (cos, sin)(start + d stride); "ellipse": one radius each for both;
    "centred_arc": start puts 4.5 at angle 0, and "unit_arc" has radius 1 too."""
    arc: tuple[float, float, float] = PUBLISHED_ARC
    """(radius, start, stride) where an arc of tokens starts."""
    token_dim: int | None = None
    """Channels of the token embedding, the first ones; None is all. With positions, these take the
    other channels (a concatenation); without, the other channels start at zero."""
    positions: PositionKind = "learned"
    """"learned": one row per position. The others give a_j, b_j and s_j the same row: "columns"
    learned rows, "spiral" four learned numbers, "fixed_spiral" no parameters, "fixed_circle" none
    either (twelve places a turn: eleven columns, and one for all separators)."""
    learned_specials: tuple[Special, ...] = ("plus", "equals", "top", "end")
    """With shared columns: special positions with a learned row; the others are fixed at zero."""
    spiral: tuple[float, float, float, float] = (3.5, 0.0, 0.15, 0.0)
    """(amplitude, phase, slope, offset) of the fixed spiral, or where the learned one starts; a circle
    has the first two."""

    n_kv_head: int | None = None
    """Key and value heads, each serving n_head / n_kv_head query heads; None is one per head."""
    head_dim: int | None = None
    """Width of a query and key; None is d_model / n_head."""
    value_dim: int | None = None
    """Width of a value; None is that of a key."""
    content: int | None = None
    """Channels, the first ones, that attention writes and that MLP and head read and write; None is
    all. The others hold the position, for queries and keys alone."""
    qk_input: Literal["all", "tokens", "positions", "rest"] = "all"
    """Channels that the query and key maps read; "rest" are those after the content."""
    value_input: Literal["all", "tokens", "last_token"] = "all"
    """Channels that the value map reads; "last_token" is the last of the token channels alone."""
    query_map: Literal["map", "turn"] = "map"
    """"turn": a query is the channels that it reads, turned like ``query_rotation`` and scaled by one
    learned number."""
    keys: Literal["map", "input"] = "map"
    """"input": a key is the channels that it reads."""
    query_rotation: bool = False
    """Queries are turned by one learned angle in every pair of coordinates."""
    key_transform: Literal["none", "scale", "rotate"] = "none"
    """Keys are scaled by one learned number, or turned like the queries."""
    key_rows: Literal["free", "last_scales_first"] = "free"
    """"last_scales_first": the last coordinate of a key is one learned number times the first."""
    values: Literal["map", "head", "input"] = "map"
    """"head": values are read through the output head's map, transposed; "input": a value is the
    channels that it reads."""
    qk_norm: Literal["none", "own", "tied", "quarter"] = "none"
    """RMS norm of every query and key; "tied" has one weight for both, "quarter" one number a for
    both, as the weight (a, a/4, 0, -a)."""
    rope_theta: float | None = None
    """Rotary positions (arXiv 2104.09864) of this base; None has none."""
    rope_pairs: Literal["neighbours", "halves"] = "neighbours"
    """Coordinates turned together: (0,1), (2,3), ... or (0,K/2), (1,K/2+1), ..."""
    attn_out: Literal["map", "last_token", "query_transpose", "query_transpose_tail"] = "map"
    """Output map of attention: its own, one that writes the last token channel alone, or the query
    map's transposed. A query map that reads the token channels gives those; "_tail" adds the last one
    from its last column, scaled."""

    gate: Literal["map", "scaled_up", "sparse"] = "map"
    """SwiGLU's gate: its own map, one learned number times the first map, or a map whose last unit
    does not read the last channel."""
    fc2: Literal["map", "head", "up_transpose", "rotated_up_transpose", "up_transpose_carry"] = "map"
    """Second map of the MLP: its own, the head's transposed, or the first map's transposed. For the
    latter, "rotated" turns the hidden pairs by one learned angle before, and "_carry" scales each
    channel but the last, which is zero, and adds the last unit times its own row of the gate."""
    mirror: Literal["none", "pairs", "unit_pairs", "even_pairs"] = "none"
    """"pairs": hidden units come in pairs that mirror each other in the last content channel: the second
    of a pair reads and writes it with the opposite sign. "unit_pairs": they read it with weight 1;
    "even_pairs": and write all channels with the same number."""
    repeat_mix: bool = False
    """The blocks are applied twice, and the second pass is mixed in by one learned number."""
    bias: Literal["none", "mlp", "all"] = "none"
    """Which maps have a bias: none, the MLP's, or attention's too."""

    norm_weight: bool = True
    """Whether the norms of the stream have a learned weight."""
    norm_eps: float | None = None
    """None is 1e-8 for RMS norm and 1e-5 for layer norm."""
    share_norms: Literal["none", "block", "all"] = "none"
    """"block": one norm before attention and MLP; "all": the final one too."""
    head: Literal["tied", "projected", "scaled", "scaled_once", "negated"] = "tied"
    """"tied": the token channels are compared with the token table. "projected": a learned map
    from all channels to the token channels comes first. "scaled": each token channel is scaled by
    one learned number first; "scaled_once": all by the same; "negated": by -1."""
    logit_scale: float = 1.0
    """Logits are multiplied by it: the loss sees it, but no answer depends on it."""
    init: Literal["normal", "xavier", "spiral", "uniform"] = "normal"
    """First draw of full maps and tables: N(0, 0.02) (456p); Xavier uniform (MicroAdder); the same
    with tables on a spiral (JackCai); the MLX library's defaults."""

    def __post_init__(self) -> None:
        config_rules.check(self)

    @property
    def token_layout(self) -> Layout:
        return get_layout(self.layout)

    @property
    def kv_heads(self) -> int:
        return self.n_head if self.n_kv_head is None else self.n_kv_head

    @property
    def key_width(self) -> int:
        """Width of one query or key."""
        return self.d_model // self.n_head if self.head_dim is None else self.head_dim

    @property
    def value_width(self) -> int:
        """Width of one value."""
        return self.key_width if self.value_dim is None else self.value_dim

    @property
    def token_width(self) -> int:
        """Channels of the token embedding."""
        return self.d_model if self.token_dim is None else self.token_dim

    @property
    def position_width(self) -> int:
        """Channels of the position embedding: all, or those that tokens leave."""
        return self.d_model if self.token_dim is None else self.d_model - self.token_dim

    @property
    def content_width(self) -> int:
        """Channels that attention writes, and MLP and head read and write."""
        return self.d_model if self.content is None else self.content

    def channels(self, which: str) -> range:
        """The channels that a value of ``qk_input`` or ``value_input`` names."""
        W, D = self.token_width, self.d_model
        named = {
            "all": range(D),
            "tokens": range(W),
            "last_token": range(W - 1, W),
            "positions": range(W, D),
            "rest": range(self.content_width, D),
        }
        return named[which]

    @property
    def eps(self) -> float:
        """Of every norm."""
        default = 1e-8 if self.norm == "rms" else 1e-5
        return default if self.norm_eps is None else self.norm_eps
