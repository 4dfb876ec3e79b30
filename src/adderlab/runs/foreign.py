"""Other programs' forms: the flat settings of the published 456-parameter program, and the checkpoints
of MicroAdder (evindor/MicroAdder, ``.pt``) and of Qwen3-style adders under MLX names (staghado,
``.npz``).

Source of the settings: yinglunz/A-456-Parameter-Transformer-Solves-10-Digit-Addition ("R456"). Files
saved before a flag existed lack its key; then the defaults below apply. Anything we write for a model of
that family has all thirteen keys and no other, so that the program accepts it.
"""

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
from adderlab.files.weights import check_npz, read_torch, read_weight_file
from adderlab.models.architecture import Architecture
from adderlab.models.config import ModelConfig
from adderlab.reading.file_model import FileModel
from adderlab.task.layouts import get_layout

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


_WRAPPERS = ("_orig_mod.", "module.")
"""What ``torch.compile`` and ``DistributedDataParallel`` put before every name."""


def unwrapped(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state under the names of the model itself, whatever wrapped it when it was saved."""
    names = dict(state)
    while prefix := next((p for p in _WRAPPERS if names and all(n.startswith(p) for n in names)), ""):
        names = {name.removeprefix(prefix): tensor for name, tensor in names.items()}
    return names


# Checkpoints.
#
# Two generations of MicroAdder are read: the program that trained the published 67p and 74p
# (``blocks.0.attn...``) and the later package (57p; flat names).


SPIRAL = ("amp", "phase", "slope", "offset")

_OLD = {
    "blocks.0.ln1.weight": "norm1.weight",
    "blocks.0.ln2.weight": "norm2.weight",
    "ln_f.weight": "norm_f.weight",
    "blocks.0.attn.q_phase_angle": "q_phase_angle",
    "blocks.0.attn.q_proj.weight": "q_proj.weight",
    "blocks.0.attn.out_proj.A": "out_proj.A",
    "blocks.0.attn.out_proj.B": "out_proj.B",
    "blocks.0.ffn.fc1.weight": "fc1.weight",
    "blocks.0.ffn.fc2.weight": "fc2.weight",
    "blocks.0.attn.causal_mask": "causal_mask",
}
"""Names of the first program -> names of the later package."""

_MICROADDER_NAMES = {
    "token_emb.radius": "tok_arc_A",
    "token_emb.sine_radius": "tok_arc_B",
    "token_emb.start": "tok_arc_start",
    "token_emb.stride": "tok_arc_stride",
    "head_proj.weight": "head_proj.weight",
    "blocks.0.ln1.weight": "norm1.weight",
    "blocks.0.attn.qk_shared.weight": "q_proj.weight",
    "blocks.0.attn.query.angle": "q_phase_angle",
    "blocks.0.attn.proj.A": "out_proj.A",
    "blocks.0.attn.proj.B": "out_proj.B",
    "blocks.0.mlp.fc1.weight": "fc1.weight",
    "blocks.0.mlp.fc2.weight": "fc2.weight",
    "pos_emb.columns.amplitude": "spiral_amp",
    "pos_emb.columns.phase": "spiral_phase",
    "pos_emb.columns.slope": "spiral_slope",
    "pos_emb.columns.offset": "spiral_offset",
}
"""Our names -> the later package's. The special positions are one tensor here, two there."""

_EQUALS, _TOP = "special_pos_equals", "z_hi_pos"
_ZEROS = ("_plus_pos", "_eos_pos")
_COPIES = {"norm2.weight": "norm1.weight", "norm_f.weight": "norm1.weight"}
_INDEX_BUFFERS = ("causal_mask", "_pos_sources", "_pos_indices")

_ONLY = {
    "n_heads": (1,),
    "n_layers": (1,),
    "ffn_bias": (False,),
    "vocab_size": (10,),
    "max_seq_len": (34,),
    "alibi": (False,),
    "softmax1": (False,),
    "share_layers": (False,),
    "norm_mode": ("shared", "weighted"),
    "qk_source": ("pos",),
    "qk_input": ("pos",),
    "attn_mode": ("split",),
    "tie_qk": (True,),
    "q_phase": (True,),
    "tie_vo": (True,),
    "num_kv_heads": (0,),
    "q_proj_rank": (0,),
    "q_proj_mode": ("full",),
    "tok_emb_mode": ("parametric",),
    "pos_mode": ("spiral", "spiral_correct"),
    "pos_correction_mode": ("none",),
    "freeze_special": ("plus_eos",),
    "freeze_z_hi": (False,),
    "freeze_tok_arc": ("",),
    "equals_spiral_idx": (-1.0,),
}
"""Settings of either generation that choose a component, and the values that are known here."""


def read_microadder(path: Path | str) -> tuple[ModelConfig, dict[str, Tensor]]:
    """(configuration, parameters without seed axis) of a MicroAdder checkpoint.

    Raises ``UsageError`` if there is no such file, ``Failure`` for a damaged one, one with code in
    it, or one of a variant that is not known here.
    """
    path = Path(path)
    payload = read_torch(read_weight_file(path), path)
    settings = _table(payload, "config", path)
    stored = unwrapped(_table(payload, "model_state_dict", path))
    state = {_OLD.get(name, name): t for name, t in stored.items()}
    config = _microadder_config(settings, state, path)
    return config, _parameters(config, state, path)


def _microadder_config(settings: Mapping[str, Any], state: Mapping[str, Any], path: Path) -> ModelConfig:
    for name, known in _ONLY.items():
        if name in settings and settings[name] not in known:
            shown = " or ".join(map(repr, known))
            raise Failure(
                f"{path} has {name} {settings[name]!r}; only MicroAdders with {name} {shown} are read"
            )
    frozen = {name for name in str(settings.get("freeze_spiral", "")).split(",") if name}
    if frozen not in (set(), set(SPIRAL)):
        raise Failure(
            f"{path} freezes {', '.join(sorted(frozen))} of its spiral; "
            "only a spiral that is learned or frozen as a whole is read"
        )
    try:
        width, tokens = int(settings["d_model"]), int(settings["tok_dim"])
        value = int(settings["head_dim"])
        amplitude, phase, slope, offset = (
            float(settings.get(f"spiral_init_{n}", d)) for n, d in zip(SPIRAL, _START, strict=True)
        )
        return ModelConfig(
            layout="M",
            d_model=width,
            d_ff=int(settings["ffn_dim"]),
            tokens="ellipse" if _two_radii(settings, state) else "arc",
            token_dim=tokens,
            positions="fixed_spiral" if frozen else "spiral",
            learned_specials=("equals", "top"),
            spiral=(amplitude, phase, slope, offset),
            head_dim=int(settings.get("qk_dim") or value),
            value_dim=value,
            qk_input="positions",
            value_input="tokens",
            tie_qkv="qk",
            query_rotation=True,
            values="head",
            attn_out_rank=state["out_proj.A"].shape[1],
            fc2="map" if "fc2.weight" in state else "head",
            norm="rms",
            norm_eps=1e-5,
            share_norms="all",
            head="projected",
            init="xavier",
        )
    except KeyError as error:
        raise Failure(f"{path} lacks {error.args[0]!r}; it is no MicroAdder checkpoint") from error
    except (AttributeError, IndexError, TypeError, UsageError, ValueError) as error:
        raise Failure(f"{path} holds settings that make no model: {error}") from error


def _two_radii(settings: Mapping[str, Any], state: Mapping[str, Any]) -> bool:
    """Whether cosine and sine of the digits have radii of their own. The first program has no setting
    for it: its radii are two, and equal only by chance (16.03 and 15.95 in the published 75p)."""
    tied = settings.get("tie_tok_arc_ab")
    if tied is None and "tok_arc_B" in state:
        return not _same(state["tok_arc_B"], state["tok_arc_A"])
    return tied is False


_START = (1.0, 0.0, 1 / 9, 0.0)
"""Where the first program's spiral starts when its file does not say."""


def _parameters(config: ModelConfig, state: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    names = _names(config)
    buffers = {*_ZEROS, *_COPIES, *_INDEX_BUFFERS, "tok_arc_B", *(f"spiral_{name}" for name in SPIRAL)}
    used = {*names.values(), _EQUALS, _TOP}
    missing = [name for name in sorted(used) if not isinstance(state.get(name), Tensor)]
    unknown = [name for name in state if name not in used | buffers]
    if missing or unknown:
        what = f"lacks the weight {missing[0]}" if missing else f"has an unknown weight {unknown[0]}"
        raise Failure(f"{path} {what} for a model of its settings")
    _check_constants(config, state, path)
    params = {ours: state[theirs] for ours, theirs in names.items()}
    params["pos_emb.special"] = torch.cat([state[_EQUALS], state[_TOP]])
    angle = params["blocks.0.attn.query.angle"]
    if angle.numel() != 1:
        raise Failure(f"{path}: q_phase_angle has {angle.numel()} angles, not one")
    params["blocks.0.attn.query.angle"] = angle.reshape(())
    return params


def _check_constants(config: ModelConfig, state: Mapping[str, Any], path: Path) -> None:
    """What is stored but not learned must be what the model takes it for."""
    for copy, original in _COPIES.items():
        if copy in state and not _same(state[copy], state[original]):
            raise Failure(f"{path}: {copy} differs from {original}; only shared norms are read")
    if (
        config.tokens == "arc"
        and "tok_arc_B" in state
        and not _same(state["tok_arc_B"], state["tok_arc_A"])
    ):
        raise Failure(f"{path}: tok_arc_B differs from tok_arc_A, though its settings tie them")
    for name in _ZEROS:
        if name in state and not _same(state[name], torch.zeros(1, config.position_width)):
            raise Failure(f"{path}: {name} is not zero, though its settings freeze it at zero")
    if config.positions == "fixed_spiral":
        for name, value in zip(SPIRAL, config.spiral, strict=True):
            stored = state.get(f"spiral_{name}")
            if stored is not None and not _same(stored, torch.tensor(value)):
                raise Failure(f"{path}: spiral_{name} is not the {value} of its settings")


def _same(stored: Any, wanted: Any) -> bool:
    return (
        isinstance(stored, Tensor)
        and isinstance(wanted, Tensor)
        and torch.equal(stored.float(), wanted.float())
    )


def _names(config: ModelConfig) -> dict[str, str]:
    """The entries of ``_MICROADDER_NAMES`` that a model of this configuration has."""
    absent = set()
    if config.tokens == "arc":
        absent.add("tok_arc_B")
    if config.fc2 == "head":
        absent.add("fc2.weight")
    if config.positions == "fixed_spiral":
        absent |= {f"spiral_{name}" for name in SPIRAL}
    return {ours: theirs for ours, theirs in _MICROADDER_NAMES.items() if theirs not in absent}


def _table(payload: Mapping[str, Any], key: str, path: Path) -> dict[str, Any]:
    value = payload.get(key)
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise Failure(f"{path} has no table {key!r}; it is no MicroAdder checkpoint")
    return value


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


def read_mlx(path: Path | str) -> tuple[ModelConfig, dict[str, Tensor]]:
    """(configuration, parameters without seed axis) of a one-layer Qwen3 adder in MLX's names.

    Raises ``UsageError`` if there is no such file, ``Failure`` for a damaged one or another model.
    """
    path = Path(path)
    data = read_weight_file(path)
    check_npz(data, path)
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        stored = {name: torch.from_numpy(arrays[name].copy()) for name in arrays.files}
    missing = [name for name in _MLX_NAMES.values() if name not in stored]
    unknown = [name for name in stored if name not in _MLX_NAMES.values()]
    if missing or unknown:
        what = f"lacks {missing[0]}" if missing else f"has {unknown[0]}"
        raise Failure(f"{path} {what}; only one-layer Qwen3 adders with tied embeddings are read")
    params = {ours: stored[theirs] for ours, theirs in _MLX_NAMES.items()}
    return _mlx_config(params, path), params


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
