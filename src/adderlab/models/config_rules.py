"""Which combinations of a ``ModelConfig``'s fields make a model. One line for each that does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adderlab.errors import UsageError
from adderlab.task.layouts import get_layout

if TYPE_CHECKING:
    from adderlab.models.config import ModelConfig


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
    layout = get_layout(config.layout)
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
    _need(theta is None or width % 2 == 0, f"rope_theta turns pairs: head_dim must be even, not {width}")
    _need(
        config.values != "head" or config.head == "projected",
        "values head reads the output head's map: set head to projected",
    )
    heads_width = H * config.value_width
    _need(
        config.values != "head" or (heads_width == D and config.value_input == "tokens"),
        f"values head maps the token channels to d_model {D}: set value_input to tokens and "
        f"value_dim so that n_head x value_dim is {D}, not {heads_width}",
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
        "query_map turn and keys input need maps of their own: set tie_qkv to separate, qkv_rank to 0",
    )
    _need(
        config.query_map == "map" or "query" not in config.attn_out,
        f"query_map turn has no map to transpose: set attn_out to map, not {config.attn_out}",
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
        "up_transpose" not in config.fc2 or config.ffn_rank == 0,
        f"fc2 {config.fc2} needs a full first map: set ffn_rank to 0",
    )
    _need(
        config.fc2 != "rotated_up_transpose" or config.d_ff % 2 == 0,
        f"fc2 rotated_up_transpose turns pairs of hidden units: d_ff must be even, not {config.d_ff}",
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
        or (config.qkv_rank == config.attn_out_rank == 0 and config.tie_qkv == "none"),
        "bias all is for full fused maps: set tie_qkv to none, qkv_rank and attn_out_rank to 0",
    )
