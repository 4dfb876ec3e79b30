"""The flat settings of the published 456-parameter program, to and from ours.

Source: yinglunz/A-456-Parameter-Transformer-Solves-10-Digit-Addition ("R456"). Files saved before
a flag existed lack its key; then the defaults below apply. Anything we write for a model of that
family has all thirteen keys and no other, so that the program accepts it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from adderlab.errors import UsageError
from adderlab.files import schema
from adderlab.models.config import ModelConfig
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


def _without_fork_settings(flat: Mapping[str, Any]) -> dict[str, Any]:
    for name, known in _FORK_SETTINGS.items():
        if flat.get(name, known[0]) not in known:
            raise UsageError(f"model_config.{name} must be {known[0]}, not {flat[name]!r}")
    return {k: v for k, v in flat.items() if k not in _FORK_SETTINGS and k != _FORK_INITIAL}


def from_r456(flat: Mapping[str, Any]) -> ModelConfig:
    """R456's flat settings -> ours. Raises ``UsageError`` naming what is unknown or impossible."""
    if isinstance(flat, Mapping):
        flat = _without_fork_settings(flat)
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


def model_to_dict(config: ModelConfig) -> dict[str, Any]:
    """What our files say about a model: R456's settings in its family, otherwise ours."""
    return to_r456(config) or schema.to_dict(config)


def model_from_dict(data: Mapping[str, Any]) -> ModelConfig:
    """Either form of settings -> ``ModelConfig``; ours are known by their ``layout``."""
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
