"""Other programs' forms: the flat settings of the published 456-parameter program, the names of wrapped
modules, the checkpoints of Qwen3-style adders under MLX names (staghado, ``.npz``), and those of
maxencefrenette/transformer-10-digit-addition, with fixed terms beside the low-rank maps.

Source of the settings: yinglunz/A-456-Parameter-Transformer-Solves-10-Digit-Addition ("R456"). Files
saved before a flag existed lack its key; then the defaults below apply. Anything we write for a model
of that family has all thirteen keys and no other, so that the program accepts it.

Fixed terms: R456's family with several models side by side, and a fixed random matrix of full rank
beside the low-rank maps. There, a map is x A B + x W, of which A and B were trained and W was drawn
once. Adderlab's maps have no such part: the map is read as the full matrix A B + W, rounded to float32,
so that the model computes the same and has more numbers than its program trained (1,128 for 896). Every
tensor has an axis of models in front, and maps are stored (in, out)."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from adderlab.errors import Failure, UsageError
from adderlab.files import schema
from adderlab.files.weights import check_npz, read_weight_file
from adderlab.models.config import ModelConfig
from adderlab.models.transformer import Architecture
from adderlab.reading.file_model import FileModel
from adderlab.task.addition import get_layout

Tie = Literal[
    "none",
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
"""R456's modes; ours has more."""

_LAYOUT = "P"
_POSITIONS = 33
_VOCABULARY = 14


@dataclass(frozen=True, kw_only=True)
class R456Config:
    """R456's model settings, by its names and with its defaults."""

    n_layer: int = 1
    d_model: int = 7
    n_head: int = 1
    d_ff: int = 14
    dropout: float = 0.0
    """Used in training only; answers do not depend on it."""
    max_seq_len: int = _POSITIONS
    vocab_size: int = _VOCABULARY
    pos_rank: int = 0
    qkv_rank: int = 0
    attn_out_rank: int = 0
    ffn_rank: int = 0
    use_rmsnorm: bool = False
    tie_qkv: Tie = "none"


_SAME_NAME = (
    "n_layer",
    "d_model",
    "n_head",
    "d_ff",
    "pos_rank",
    "qkv_rank",
    "attn_out_rank",
    "ffn_rank",
)


_FORK_SETTINGS: Mapping[str, tuple[Any, ...]] = {"pe_type": ("learned",), "token_emb_rank": (0,)}
"""Settings that a fork (lichengliu03's, of the 274p) adds, and their values in R456's own family."""
_FORK_INITIAL = "pe_init_period"
"""Another of its settings: where positions start, which no trained model depends on."""


_NORM_TYPES = {"rms": True, "rmsnorm": True, "layer": False, "layernorm": False}
"""``norm_type``, which another fork (of the 262p) has beside or in place of ``use_rmsnorm``."""


def _without_norm_type(flat: Mapping[str, Any]) -> dict[str, Any]:
    flat = dict(flat)
    if "norm_type" not in flat:
        return flat
    name = flat.pop("norm_type")
    is_rms = _NORM_TYPES.get(str(name).lower())
    if is_rms is None or flat.setdefault("use_rmsnorm", is_rms) != is_rms:
        known = ", ".join(_NORM_TYPES)
        raise UsageError(
            f"model_config.norm_type must be {known}, and agree with use_rmsnorm, not {name!r}"
        )
    return flat


def _without_fork_settings(flat: Mapping[str, Any]) -> dict[str, Any]:
    for name, known in _FORK_SETTINGS.items():
        if flat.get(name, known[0]) not in known:
            raise UsageError(f"model_config.{name} must be {known[0]}, not {flat[name]!r}")
    return {k: v for k, v in flat.items() if k not in _FORK_SETTINGS and k != _FORK_INITIAL}


def from_r456(flat: Mapping[str, Any]) -> ModelConfig:
    """R456's flat settings -> ours. Raises ``UsageError`` naming what is unknown or impossible."""
    if isinstance(flat, Mapping):
        flat = _without_norm_type(_without_fork_settings(flat))
    theirs = schema.from_dict(R456Config, flat, "model_config")
    if theirs.vocab_size != _VOCABULARY:
        raise UsageError(f"model_config.vocab_size must be {_VOCABULARY}, not {theirs.vocab_size}")
    if theirs.max_seq_len < _POSITIONS:
        raise UsageError(
            f"model_config.max_seq_len must be at least {_POSITIONS}, not {theirs.max_seq_len}"
        )
    if not 0 <= theirs.dropout < 1:
        raise UsageError(f"model_config.dropout must lie in [0, 1), not {theirs.dropout}")
    return ModelConfig(
        layout=_LAYOUT,
        norm="rms" if theirs.use_rmsnorm else "layer",
        tie_qkv=theirs.tie_qkv,
        position_rows=theirs.max_seq_len if theirs.max_seq_len > _POSITIONS else None,
        **{name: getattr(theirs, name) for name in _SAME_NAME},
    )


def to_r456(config: ModelConfig) -> dict[str, Any] | None:
    """Our settings -> R456's thirteen; None for a model its program cannot build."""
    if config.position_rows == get_layout(config.layout).num_positions:
        config = dataclasses.replace(config, position_rows=None)
    flat = schema.to_dict(
        R456Config(
            max_seq_len=config.position_rows or _POSITIONS,
            use_rmsnorm=config.norm == "rms",
            tie_qkv=cast(Tie, config.tie_qkv),
            **{name: getattr(config, name) for name in _SAME_NAME},
        )
    )
    # Whatever the way back does not restore (another layout, ReLU) is outside the family.
    try:
        return flat if from_r456(flat) == config else None
    except UsageError:
        return None


def model_to_dict(config: Architecture) -> dict[str, Any]:
    """What our files say about a model: R456's settings in its family, otherwise ours; of a user's file
    all that is known of it without running it."""
    if not isinstance(config, ModelConfig):
        return schema.to_dict(config)
    return to_r456(config) or schema.to_dict(config)


def model_from_dict(data: Mapping[str, Any]) -> ModelConfig | FileModel:
    """Any form of settings -> the architecture; ours are known by their ``layout``, those of a file by
    its ``sha256``."""
    if isinstance(data, Mapping) and "sha256" in data:
        return schema.from_dict(FileModel, data, "model_config")
    if isinstance(data, Mapping) and "layout" in data:
        return schema.from_dict(ModelConfig, data, "model_config")
    return from_r456(data)


_TRAIN_NAMES = (
    "seed",
    "train_steps",
    "batch_size",
    "lr",
    "weight_decay",
    "warmup_steps",
    "min_lr_ratio",
    "grad_clip",
    "eval_interval",
    "val_size",
    "test_size",
    "run_name",
    "run_dir",
    "device",
    "dtype",
)


def train_config(recipe: Mapping[str, Any], seed: int | None = None) -> dict[str, Any]:
    """A recipe by R456's names: what its evaluation reads (``seed``, ``train_steps``) and the rest
    that both programs have. A recipe that came from R456 keeps all it has."""
    named = dict(recipe)
    if seed is not None:
        named["seed"] = seed
    if "train_steps" in recipe:
        return named
    if "steps" in recipe:
        named["train_steps"] = recipe["steps"]
    return {name: named[name] for name in _TRAIN_NAMES if name in named}


@dataclass(frozen=True, kw_only=True, eq=False)
class Foreign:
    """A model out of another program's file."""

    config: ModelConfig
    params: dict[str, Tensor]
    """Name -> tensor, without seed axis."""
    trained: int
    """Numbers that the file's own program trained: fewer than there are in ``params`` where a part that
    adderlab does not have is written out as the plain table or map that it stands for."""


_WRAPPERS = ("_orig_mod.", "module.")
"""What ``torch.compile`` and ``DistributedDataParallel`` put before every name."""


def unwrapped(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state under the names of the model itself, whatever wrapped it when it was saved."""
    names = dict(state)
    while prefix := next((p for p in _WRAPPERS if names and all(n.startswith(p) for n in names)), ""):
        names = {name.removeprefix(prefix): tensor for name, tensor in names.items()}
    return names


# MLX checkpoints of Qwen3-style adders.
#
# The file holds weights only, under the names of mlx_lm's Qwen3; sizes are read off their shapes.
# Rotary base 3, eps 1e-6 and halves rotated together are the published program's.


_MLX_NAMES = {
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


def read_mlx(path: Path | str) -> Foreign:
    """A one-layer Qwen3 adder in MLX's names.

    Raises ``UsageError`` if there is no such file, ``Failure`` for a damaged one or another model.
    """
    path = Path(path)
    data = read_weight_file(path)
    check_npz(data, path)
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        stored = {name: torch.from_numpy(arrays[name].copy()) for name in arrays.files}
    return from_mlx(stored, path)


def is_mlx(names: Mapping[str, Any]) -> bool:
    """Whether weights have the names of mlx_lm's Qwen3."""
    return set(_MLX_NAMES.values()) <= set(names)


def from_mlx(stored: Mapping[str, Tensor], path: Path) -> Foreign:
    """The model of weights under MLX's names; ``path`` is named in complaints. Raises ``Failure``."""
    missing = [name for name in _MLX_NAMES.values() if name not in stored]
    unknown = [name for name in stored if name not in _MLX_NAMES.values()]
    if missing or unknown:
        what = f"lacks {missing[0]}" if missing else f"has {unknown[0]}"
        raise Failure(f"{path} {what}; only one-layer Qwen3 adders with tied embeddings are read")
    params = {ours: stored[theirs] for ours, theirs in _MLX_NAMES.items()}
    trained = sum(tensor.numel() for tensor in params.values())
    return Foreign(config=_mlx_config(params, path), params=params, trained=trained)


def _mlx_config(params: Mapping[str, Tensor], path: Path) -> ModelConfig:
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


# Fixed terms beside the low-rank maps (maxencefrenette).


_OWN_SETTINGS = (
    *("num_models", "pos_fixed_a_rank"),
    *("fixed_full_rank", "fixed_full_rank_attn", "fixed_full_rank_mlp"),
)
_MAPS = {
    "blocks.0.attn.qkv": ("qkv_rank", "attn"),
    "blocks.0.attn.proj": ("attn_out_rank", "attn"),
    "blocks.0.mlp.fc1": ("ffn_rank", "mlp"),
    "blocks.0.mlp.fc2": ("ffn_rank", "mlp"),
}
"""Map -> (setting of its rank, the part of the model whose switch its fixed term has)."""


def is_fixed_terms(settings: Any, state: Any) -> bool:
    """Whether settings and weights are of this program, and not of R456's own."""
    return (
        isinstance(settings, Mapping)
        and isinstance(state, Mapping)
        and (
            any(name in settings for name in _OWN_SETTINGS)
            or any(str(name).endswith("_fixed") for name in state)
        )
    )


def as_r456(
    settings: Mapping[str, Any], state: Mapping[str, Any], path: Path
) -> tuple[dict[str, Any], dict[str, Tensor], int]:
    """(R456's settings, weights by R456's names, numbers that were trained). Raises ``Failure`` for a
    file of several models, of shared depth or without norms."""
    flat = {name: value for name, value in settings.items() if name not in _OWN_SETTINGS}
    weights = {
        f"blocks.0.{name.removeprefix('block.')}" if name.startswith("block.") else name: tensor
        for name, tensor in state.items()
        if isinstance(tensor, Tensor) and not name.endswith("mask")
    }
    _check(flat, weights, path)
    weights = _one_model(weights, path)
    fixed = {name for name in weights if name.endswith("_fixed")}
    trained = sum(t.numel() for n, t in weights.items() if n not in fixed and n != "lm_head.weight")
    for name, (rank, part) in _MAPS.items():
        term = weights.pop(f"{name}.W_fixed", None)
        if term is not None and settings.get(
            f"fixed_full_rank_{part}", settings.get("fixed_full_rank", True)
        ):
            first, second = weights.pop(f"{name}.A").double(), weights.pop(f"{name}.B").double()
            weights[f"{name}.weight"] = (first @ second + term.double()).float().T
            flat[rank] = 0
    _positions(flat, weights, settings)
    return {"use_rmsnorm": "ln_f.bias" not in weights, **flat}, weights, trained


def _check(flat: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path) -> None:
    if "ln_f.weight" not in weights:
        raise Failure(f"{path} has no norms; adderlab's models have, so it has no part for it")
    layers = flat.get("n_layer", 1)
    if layers != 1:
        raise Failure(
            f"{path} applies one block {layers} times (shared depth); only models of one pass are read"
        )


def _one_model(weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Without the axis of models, maps as ``nn.Linear`` stores them."""
    if weights.get("token_emb.weight", torch.empty(0)).ndim != 3:
        return dict(weights)
    count = len(weights["token_emb.weight"])
    if count != 1:
        raise Failure(
            f"{path} holds {count} models side by side; name the file of one of them "
            "(model_000/checkpoints/best.pt)"
        )
    maps = {f"{name}.weight" for name in _MAPS}
    return {name: t[0].T if name in maps else t[0] for name, t in weights.items()}


def _positions(flat: dict[str, Any], weights: dict[str, Tensor], settings: Mapping[str, Any]) -> None:
    """Fixed columns of the first factor, or a fixed table beside the product."""
    columns = weights.pop("pos_emb.A_fixed", None)
    if columns is not None:
        weights["pos_emb.A"] = torch.cat([weights["pos_emb.A"], columns], 1)
    table = weights.pop("pos_emb.W_fixed", None)
    if table is not None and settings.get("fixed_full_rank", True):
        first, second = weights.pop("pos_emb.A").double(), weights.pop("pos_emb.B").double()
        weights["pos_emb.weight"] = (first @ second + table.double()).float()
        flat["pos_rank"] = 0
