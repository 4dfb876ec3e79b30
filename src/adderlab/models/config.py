"""The frozen description of a model: which components, of which size. Weights are elsewhere.

Names follow the published 456-parameter program (docs/reproducing.md) where it has one. Every
field is one choice that can be combined with the others; the published models are points in this
space (``models.zoo``). A combination that makes no sense is refused with one line that says what it
needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from adderlab.errors import UsageError
from adderlab.files import schema
from adderlab.files.schema import IMPLIED
from adderlab.task.addition import Addition, Layout, get_layout

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
"""Positions that hold no column of an operand, nor one of the sum beside them: the two separators, the
sum's top digit, the end."""
SPECIALS: tuple[Special, ...] = get_args(Special)

PUBLISHED_ARC = (2.5, -1.2, 0.29)
"""(radius, start, stride) of digits on an arc at the start of every published model that has one
(MicroAdder, M10S); angles in radians."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A pre-norm decoder. A rank of 0 means a full matrix; ties say which matrices are shared."""

    layout: str = "P"
    """Token layout, by its name in ``task.addition``: P (456p), P13, S (rotary line), M (MicroAdder),
    M13, M14, C (our smallest), B or pairs."""
    columns: int = field(default=10, metadata=IMPLIED)
    """Digits of an operand, 1 to 18: the sum has one more. The published task has 10."""
    base: int = field(default=10, metadata=IMPLIED)
    """Of the numbers, 2 to 16: the first so many tokens are its digits."""
    n_layer: int = 1
    """Blocks. More than one leaves the table form: such a model trains slowly and cannot be proved."""
    d_model: int = 7
    """Channels of the residual stream."""
    n_head: int = 1
    """Query heads of attention."""
    d_ff: int = 14
    """Hidden units of the MLP."""
    pos_rank: int = 0
    """Rank of the learned position table, row p = A[p] B (456p: 3); 0 learns it in full."""
    qkv_rank: int = 0
    """Rank of the query, key and value maps, x A B (456p: 3); 0 is full."""
    attn_out_rank: int = 0
    """Rank of attention's output map (456p: 2); 0 is full."""
    ffn_rank: int = 0
    """Rank of the MLP's maps (456p: 3); 0 is full."""
    tie_qkv: TieQKV = "none"
    """Which of the query, key and value maps are shared. "none" is one fused map of all three,
    "separate" three maps; they differ in names, draws and, at a low rank, in what they share. "all",
    "qk" and "kv" share whole maps; "shareA" and "shareB" the first or second low-rank factor of all
    three, and "_tieQK" or "_tieKV" behind them the other factor of two (456p: shareA_tieKV)."""
    norm: Literal["layer", "rms"] = "layer"
    """Norms of the stream: layer norm, or RMS norm (Zhang and Sennrich, arXiv 1910.07467)."""
    activation: Literal["gelu", "relu", "swiglu"] = "gelu"
    """Of the MLP: exact GELU, ReLU, or SwiGLU (arXiv 2002.05202), which has a third map, the gate."""
    position_rows: int | None = None
    """Rows of the position table when it has more than the layout reads (777p: 35)."""

    tokens: Literal["table", "arc", "centred_arc", "unit_arc", "ellipse"] = "table"
    """Token embedding: a learned row for each token; or two channels for digits in order on an "arc",
    digit d at radius (cos, sin)(start + d stride), three learned numbers (MicroAdder, M10S). "ellipse":
    one radius each for both; "centred_arc": start puts 4.5 at angle 0, and "unit_arc" has radius 1
    too."""
    arc: tuple[float, float, float] = PUBLISHED_ARC
    """(radius, start, stride) where an arc of tokens starts; angles in radians."""
    token_dim: int | None = None
    """Channels of the token embedding, the first ones; None is all. With positions, these take the
    other channels (a concatenation); without, the other channels start at zero."""
    positions: PositionKind = "learned"
    """Position embedding. "learned": one row per position. The others give a_j, b_j and s_j the same
    row: "columns" learned rows, "spiral" four learned numbers, "fixed_spiral" no parameters,
    "fixed_circle" none either (a turn has a place for each of the sum's columns, 11 of 10-digit numbers,
    and one for all separators).
    "none": no embedding."""
    learned_specials: tuple[Special, ...] = ("plus", "equals", "top", "end")
    """With shared columns: special positions with a learned row; the others are fixed at zero."""
    spiral: tuple[float, float, float, float] = (3.5, 0.0, 0.15, 0.0)
    """(amplitude, phase in radians, slope, offset) of the fixed spiral, or where the learned one starts:
    column j at amplitude (cos, sin)(2 pi j / columns + phase) and height slope j + offset; a circle has
    the first two."""

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
    query_map: Literal["map", "scaled_rotation"] = "map"
    """"scaled_rotation": a query is the channels that it reads, rotated like ``query_rotation`` and
    scaled by one learned number."""
    keys: Literal["map", "input"] = "map"
    """"input": a key is the channels that it reads."""
    query_rotation: bool = False
    """Queries are rotated by one learned angle in every pair of coordinates (MicroAdder)."""
    key_transform: Literal["none", "scale", "rotate"] = "none"
    """Keys are scaled by one learned number, or rotated like the queries (M10S)."""
    key_rows: Literal["free", "last_scales_first"] = "free"
    """"last_scales_first": the last coordinate of a key is one learned number times the first (39p)."""
    values: Literal["map", "head", "input"] = "map"
    """"head": values are read through the output head's map, transposed (MicroAdder); "input": a value
    is the channels that it reads."""
    qk_norm: Literal["none", "own", "tied", "quarter"] = "none"
    """RMS norm of every query and key; "tied" has one weight for both, "quarter" one number a for
    both, as the weight (a, a/4, 0, -a) (39p)."""
    rope_theta: float | None = None
    """Rotary positions (arXiv 2104.09864) of this base; None has none."""
    rope_pairs: Literal["neighbours", "halves"] = "neighbours"
    """Coordinates rotated together: (0,1), (2,3), ... or (0,K/2), (1,K/2+1), ... (MLX)."""
    attn_out: Literal["map", "last_token", "query_transpose", "query_transpose_tail"] = "map"
    """Output map of attention: its own, one that writes the last token channel alone, or the query
    map's transposed (M10S). A query map that reads the token channels gives those; "_tail" adds the last
    one from its last column, scaled (39p)."""

    gate: Literal["map", "scaled_up", "sparse"] = "map"
    """SwiGLU's gate: its own map, one learned number times the first map (M10S), or a map whose last
    unit does not read the last channel (39p)."""
    fc2: Literal["map", "head", "rotated_up_transpose", "up_transpose_carry"] = "map"
    """Second map of the MLP: its own, the head's transposed (57p), or made from the first map's
    transposed: "rotated_up_transpose" rotates the hidden pairs by one learned angle before (36p);
    "up_transpose_carry" scales each channel but the last, which is zero, and adds the last unit times
    its own row of the gate (39p)."""
    mirror: Literal["none", "pairs", "unit_pairs", "even_pairs"] = "none"
    """"pairs": hidden units come in pairs that mirror each other in the last content channel: the second
    of a pair reads and writes it with the opposite sign. "unit_pairs": they read it with weight 1;
    "even_pairs": and write all channels with the same number (docs/smallest.md)."""
    repeat_mix: bool = False
    """The blocks are applied twice, and the second pass is mixed in by one learned number (39p). Leaves
    the table form."""
    bias: Literal["none", "mlp", "all"] = "none"
    """Which maps have a bias: none, the MLP's, or attention's too."""

    norm_weight: bool = True
    """Whether the norms of the stream have a learned weight."""
    norm_eps: float | None = None
    """Added to the mean square under the root; None is 1e-8 for RMS norm and 1e-5 for layer norm."""
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
    with tables on a spiral (JackCai); the MLX library's defaults, uniform."""

    def __post_init__(self) -> None:
        check(self)

    @property
    def addition(self) -> Addition:
        """The task: how many columns, in which base."""
        return Addition(columns=self.columns, base=self.base)

    @property
    def token_layout(self) -> Layout:
        """The layout that ``layout`` names, of the task's size."""
        return get_layout(self.layout, self.addition)

    @property
    def kv_heads(self) -> int:
        """Key and value heads."""
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


def resized(config: ModelConfig, *, columns: int | None = None, base: int | None = None) -> ModelConfig:
    """The same architecture for a task of another size; what is None stays.

    A position table keeps the rows that it has beyond those the layout reads. Raises ``UsageError`` for
    a size that there is not.
    """
    task = Addition(
        columns=config.columns if columns is None else columns,
        base=config.base if base is None else base,
    )
    rows = config.position_rows
    if rows is not None:
        new = get_layout(config.layout, task).num_positions
        rows += new - config.token_layout.num_positions
    return replace(config, columns=task.columns, base=task.base, position_rows=rows)


def changed(config: ModelConfig, settings: Sequence[tuple[str, str]]) -> ModelConfig:
    """``schema.with_settings`` of a model: its size first, by ``resized``. Raises ``UsageError``."""
    sizes = [(name, value) for name, value in settings if name in ("columns", "base")]
    wanted = schema.with_settings(ModelConfig(columns=config.columns, base=config.base), sizes, "model")
    config = resized(config, columns=wanted.columns, base=wanted.base)
    return schema.with_settings(config, [each for each in settings if each not in sizes], "model")


# Which combinations of fields make a model: one line for each that does not.


def check(config: ModelConfig) -> None:
    """Raises ``UsageError`` naming the setting and what it needs."""
    _sizes(config)
    _embedding(config)
    _attention(config)
    _unmapped(config)
    _ties(config)
    _mlp(config)


def _need(holds: bool, complaint: str) -> None:
    if not holds:
        raise UsageError(complaint)


def _sizes(config: ModelConfig) -> None:
    for name in ("n_layer", "d_model", "n_head", "d_ff"):
        _need(getattr(config, name) >= 1, f"{name} must be at least 1, not {getattr(config, name)}")
    for name in ("n_kv_head", "head_dim", "value_dim", "token_dim"):
        size = getattr(config, name)
        _need(size is None or size >= 1, f"{name} must be at least 1 or left out, not {size}")
    for name in ("pos_rank", "qkv_rank", "attn_out_rank", "ffn_rank"):
        rank = getattr(config, name)
        _need(rank >= 0, f"{name} must be 0 (full) or a positive rank, not {rank}")
    scale = config.logit_scale
    _need(scale > 0, f"logit_scale must be positive, not {scale}")
    _need(
        config.norm_weight or config.norm == "rms", "norm_weight false is for RMS norm: set norm to rms"
    )
    eps = config.norm_eps
    _need(eps is None or eps > 0, f"norm_eps must be positive, not {eps}")


def _embedding(config: ModelConfig) -> None:
    layout = config.token_layout
    rows, columns = config.position_rows, config.positions not in ("learned", "none")
    _need(
        rows is None or rows >= layout.num_positions,
        f"position_rows {rows} is less than the {layout.num_positions} positions of layout "
        f"{config.layout}",
    )
    _need(
        config.positions == "learned" or (rows is None and config.pos_rank == 0),
        f"positions {config.positions} have no table: leave position_rows and pos_rank out",
    )
    token_dim, width = config.token_dim, config.d_model
    _need(
        token_dim is None or token_dim < width,
        f"token_dim {token_dim} must be less than d_model {width}; leave it out for all channels",
    )
    _need(
        config.tokens == "table" or config.token_width == 2,
        f"tokens on an {config.tokens} have 2 channels: set token_dim to 2, not {token_dim}",
    )
    _need(
        config.init != "spiral" or (config.tokens == "table" and config.token_width == 3),
        "init spiral places a token table of 3 channels: set tokens to table and token_dim to 3",
    )
    _need(
        config.init != "spiral" or config.positions != "columns" or config.position_width == 3,
        f"init spiral places columns in 3 channels, not {config.position_width}: set d_model to 6",
    )
    _need(
        not columns or config.positions == "fixed_circle" or len(layout.separators) == 2,
        f"positions {config.positions} need a layout with two separators, not {config.layout}",
    )
    _need(
        config.positions not in ("spiral", "fixed_spiral") or config.position_width == 3,
        f"a spiral has 3 position channels, not {config.position_width}: set token_dim to d_model - 3",
    )
    _need(
        config.positions != "fixed_circle" or config.position_width == 2,
        f"a circle has 2 position channels, not {config.position_width}: set token_dim to d_model - 2",
    )
    _need(
        config.positions != "fixed_circle" or not config.learned_specials,
        "fixed_circle has a place for the separators: set learned_specials to none",
    )
    _need(
        len(set(config.learned_specials)) == len(config.learned_specials),
        f"learned_specials names a position twice: {', '.join(config.learned_specials)}",
    )


def _attention(config: ModelConfig) -> None:
    D, H, kv_heads = config.d_model, config.n_head, config.kv_heads
    _need(
        config.head_dim is not None or D % H == 0,
        f"d_model {D} is not a multiple of n_head {H}: set head_dim",
    )
    _need(H % kv_heads == 0, f"n_head {H} is not a multiple of n_kv_head {kv_heads}")
    _need(
        config.qk_input != "positions" or (config.token_dim is not None and config.positions != "none"),
        "qk_input positions needs channels of their own: set token_dim and positions",
    )
    for name in ("qk_input", "value_input"):
        _need(
            getattr(config, name) != "tokens" or config.token_dim is not None,
            f"{name} tokens needs channels of their own: set token_dim",
        )
    content = config.content
    _need(
        content is None or config.token_width <= content < D,
        f"content {content} must hold the {config.token_width} token channels and leave some of the {D}",
    )
    _need(
        content is None or (config.attn_out in ("map", "last_token") and config.bias == "none"),
        "content needs a map of its own for attention to write, and no biases: set attn_out to map or "
        "last_token and bias to none",
    )
    _need(
        config.qk_input != "rest" or content is not None,
        "qk_input rest is the channels after the content: set content",
    )
    theta, width = config.rope_theta, config.key_width
    _need(theta is None or theta > 0, f"rope_theta must be positive, not {theta}")
    _need(
        theta is None or width % 2 == 0, f"rope_theta rotates pairs: head_dim must be even, not {width}"
    )
    _need(
        config.values != "head" or config.head == "projected",
        "values head reads the output head's map: set head to projected",
    )
    heads_width, read = H * config.value_width, config.content_width
    _need(
        config.values != "head" or (heads_width == read and config.value_input == "tokens"),
        f"values head maps the token channels to the {read} channels that the head reads: set "
        f"value_input to tokens and value_dim so that n_head x value_dim is {read}, not {heads_width}",
    )


def _unmapped(config: ModelConfig) -> None:
    """Queries, keys and values that are the channels they read."""
    for name, width, read in (
        ("query_map", config.key_width, config.qk_input),
        ("keys", config.key_width, config.qk_input),
        ("values", config.value_width, config.value_input),
    ):
        chosen, channels = getattr(config, name), len(config.channels(read))
        _need(
            chosen in ("map", "head") or (width == channels and config.n_head == 1),
            f"{name} {chosen} needs one head as wide as the {channels} channels read, not {width}",
        )
    _need(
        config.query_map == config.keys == "map"
        or (config.tie_qkv == "separate" and config.qkv_rank == 0),
        "query_map scaled_rotation and keys input need maps of their own: set tie_qkv to separate, "
        "qkv_rank to 0",
    )
    _need(
        config.query_map == "map" or "query" not in config.attn_out,
        f"query_map scaled_rotation has no map to transpose: set attn_out to map, not {config.attn_out}",
    )


def _ties(config: ModelConfig) -> None:
    tie, share = config.tie_qkv, config.tie_qkv.startswith("share")
    _need(
        not share or config.qkv_rank > 0,
        f"tie_qkv {tie} shares low-rank factors: qkv_rank must be 1 or more",
    )
    plain = (
        config.kv_heads * config.key_width == config.d_model
        and config.kv_heads == config.n_head
        and config.value_width == config.key_width
        and config.qk_input == config.value_input == "all"
        and config.values == "map"
    )
    _need(
        plain or not (share or tie == "none"),
        f"tie_qkv {tie} needs query, key and value of width d_model reading all channels: "
        "set tie_qkv to separate",
    )
    _need(
        tie not in ("all", "qk") or config.kv_heads == config.n_head,
        f"tie_qkv {tie} needs as many key as query heads",
    )
    _need(
        tie not in ("all", "kv")
        or (config.value_width == config.key_width and config.qk_input == config.value_input),
        f"tie_qkv {tie} needs values as wide as keys, from the same channels",
    )
    _need(
        config.values == "map" or tie in ("separate", "qk"),
        f"values {config.values} leaves no value map to tie: set tie_qkv to separate or qk, not {tie}",
    )
    transformed = config.query_rotation or config.key_transform != "none"
    _need(
        not transformed or not (share or tie == "none"),
        f"query_rotation and key_transform need maps of their own: tie_qkv {tie} has none",
    )
    full_maps = tie in ("separate", "all", "qk", "kv") and config.qkv_rank == 0
    tail = config.attn_out == "query_transpose_tail"
    _need(
        not tail
        or (
            full_maps
            and config.n_head == 1
            and config.key_width > 1
            and config.attn_out_rank == 0
            and config.qk_input == "tokens"
            and config.token_width == config.d_model - 1
            and config.value_width == config.key_width
        ),
        "attn_out query_transpose_tail needs one head whose full query map reads all channels but "
        "the last (qk_input tokens, token_dim d_model - 1), and values as wide as queries",
    )
    _need(
        config.key_rows == "free"
        or (
            tie in ("separate", "kv") and config.qkv_rank == 0 and config.kv_heads * config.key_width > 1
        ),
        f"key_rows {config.key_rows} needs a full key map: tie_qkv separate or kv, not {tie}, rank 0",
    )
    _need(
        config.qk_norm != "quarter" or config.key_width == 4,
        f"qk_norm quarter is a weight of 4 numbers: head_dim must be 4, not {config.key_width}",
    )
    _need(
        config.attn_out != "query_transpose"
        or (
            full_maps
            and config.attn_out_rank == 0
            and config.qk_input == "all"
            and config.value_width == config.key_width
        ),
        "attn_out query_transpose needs a full query map that reads all channels, "
        "and values as wide as queries",
    )


def _mlp(config: ModelConfig) -> None:
    _need(
        config.gate == "map" or config.activation == "swiglu",
        f"gate {config.gate} needs activation swiglu, not {config.activation}",
    )
    _need(
        config.gate != "sparse" or (config.ffn_rank == 0 and config.d_ff >= 2 and config.d_model >= 2),
        "gate sparse is a full map of two units or more: set ffn_rank to 0 and d_ff to 2 or more",
    )
    _need(
        config.mirror == "none"
        or (
            config.d_ff % 2 == 0
            and config.activation != "swiglu"
            and config.fc2 == "map"
            and config.ffn_rank == 0
            and config.bias == "none"
        ),
        "mirror pairs the units of a full MLP without biases: set d_ff to an even number, activation to "
        "gelu or relu, fc2 to map, ffn_rank to 0 and bias to none",
    )
    _need(
        config.fc2 != "up_transpose_carry" or config.gate == "sparse",
        f"fc2 up_transpose_carry uses the sparse gate's last row: set gate to sparse, not {config.gate}",
    )
    _need(
        config.fc2 not in ("rotated_up_transpose", "up_transpose_carry") or config.ffn_rank == 0,
        f"fc2 {config.fc2} needs a full first map: set ffn_rank to 0",
    )
    _need(
        config.fc2 != "rotated_up_transpose" or config.d_ff % 2 == 0,
        f"fc2 rotated_up_transpose rotates pairs of hidden units: d_ff must be even, not {config.d_ff}",
    )
    _need(
        config.fc2 != "head" or (config.head == "projected" and config.d_ff == config.token_width),
        "fc2 head is the output head's map transposed: set head to projected and d_ff to token_dim",
    )
    _need(
        config.bias == "none" or config.ffn_rank == 0,
        f"bias {config.bias} is for full maps: set ffn_rank to 0",
    )
    _need(
        config.bias == "none" or (config.activation != "swiglu" and config.fc2 == "map"),
        f"bias {config.bias} is for MLPs with two maps of their own: activation gelu or relu, fc2 map",
    )
    _need(
        config.bias != "all"
        or (
            config.qkv_rank == config.attn_out_rank == 0
            and config.tie_qkv == "none"
            and config.attn_out == "map"
        ),
        "bias all is for full fused maps: set tie_qkv to none, attn_out to map, qkv_rank and "
        "attn_out_rank to 0",
    )
