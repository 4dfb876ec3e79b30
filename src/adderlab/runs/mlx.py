"""MLX checkpoints of Qwen3-style adders (staghado, ``.npz``), read and written.

The file holds weights only, under the names of mlx_lm's Qwen3; sizes are read off their shapes.
Rotary base 3, eps 1e-6 and halves rotated together are the published program's.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from adderlab.errors import Failure, UsageError
from adderlab.models.config import ModelConfig
from adderlab.runs.atomic import write_bytes
from adderlab.runs.weights import check_npz, read_weight_file

_NAMES = {
    "token_emb.weight": "model.embed_tokens.weight",
    "blocks.0.ln1.weight": "model.layers.0.input_layernorm.weight",
    "blocks.0.attn.q_proj.weight": "model.layers.0.self_attn.q_proj.weight",
    "blocks.0.attn.k_proj.weight": "model.layers.0.self_attn.k_proj.weight",
    "blocks.0.attn.v_proj.weight": "model.layers.0.self_attn.v_proj.weight",
    "blocks.0.attn.proj.weight": "model.layers.0.self_attn.o_proj.weight",
    "blocks.0.attn.q_norm.weight": "model.layers.0.self_attn.q_norm.weight",
    "blocks.0.attn.k_norm.weight": "model.layers.0.self_attn.k_norm.weight",
    "blocks.0.ln2.weight": "model.layers.0.post_attention_layernorm.weight",
    "blocks.0.mlp.fc1.weight": "model.layers.0.mlp.up_proj.weight",
    "blocks.0.mlp.gate.weight": "model.layers.0.mlp.gate_proj.weight",
    "blocks.0.mlp.fc2.weight": "model.layers.0.mlp.down_proj.weight",
    "ln_f.weight": "model.norm.weight",
}
"""Our names -> mlx_lm's."""


def read_mlx(path: Path | str) -> tuple[ModelConfig, dict[str, Tensor]]:
    """(configuration, parameters without seed axis) of a one-layer Qwen3 adder in MLX's names.

    Raises ``UsageError`` if there is no such file, ``Failure`` for a damaged one or another model.
    """
    path = Path(path)
    data = read_weight_file(path)
    check_npz(data, path)
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        stored = {name: torch.from_numpy(arrays[name].copy()) for name in arrays.files}
    missing = [name for name in _NAMES.values() if name not in stored]
    unknown = [name for name in stored if name not in _NAMES.values()]
    if missing or unknown:
        what = f"lacks {missing[0]}" if missing else f"has {unknown[0]}"
        raise Failure(f"{path} {what}; only one-layer Qwen3 adders with tied embeddings are read")
    params = {ours: stored[theirs] for ours, theirs in _NAMES.items()}
    return _config(params, path), params


def _config(params: Mapping[str, Tensor], path: Path) -> ModelConfig:
    try:
        vocab_size, width = params["token_emb.weight"].shape
        (head_dim,) = params["blocks.0.attn.q_norm.weight"].shape
        query_width, _ = params["blocks.0.attn.q_proj.weight"].shape
        key_width, _ = params["blocks.0.attn.k_proj.weight"].shape
        hidden, _ = params["blocks.0.mlp.fc1.weight"].shape
        if vocab_size != 10 or query_width % head_dim or key_width % head_dim:
            raise ValueError(
                f"{vocab_size} tokens, query width {query_width}, key width {key_width}, head {head_dim}"
            )
        heads, kv_heads = query_width // head_dim, key_width // head_dim
        return _qwen3(width, hidden, heads, kv_heads, head_dim)
    except (UsageError, ValueError, ZeroDivisionError) as error:
        raise Failure(f"{path} holds weights whose shapes make no adder: {error}") from error


def _qwen3(width: int, hidden: int, heads: int, kv_heads: int, head_dim: int) -> ModelConfig:
    return ModelConfig(
        layout="S",
        d_model=width,
        d_ff=hidden,
        n_head=heads,
        n_kv_head=None if kv_heads == heads else kv_heads,
        positions="none",
        head_dim=head_dim,
        tie_qkv="separate",
        qk_norm="own",
        rope_theta=3.0,
        rope_pairs="halves",
        activation="swiglu",
        norm="rms",
        norm_eps=1e-6,
        init="uniform",
    )


def write_mlx(path: Path | str, config: ModelConfig, params: Mapping[str, Tensor]) -> None:
    """Write weights that staghado's program loads. ``params`` has no seed axis.

    Raises ``UsageError`` for a model of another shape than mlx_lm's Qwen3 with rotary base 3.
    """
    known = _qwen3(config.d_model, config.d_ff, config.n_head, config.kv_heads, config.key_width)
    if config != known:
        raise UsageError(
            "this model is no Qwen3 adder of the MLX family: it needs maps of their own, QK norm, "
            "rotary halves of base 3, SwiGLU and a tied head on layout S"
        )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for ours, theirs in _NAMES.items():
            array = params[ours].detach().cpu().float().numpy()
            with archive.open(zipfile.ZipInfo(f"{theirs}.npy"), "w") as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
    write_bytes(Path(path), buffer.getvalue())
