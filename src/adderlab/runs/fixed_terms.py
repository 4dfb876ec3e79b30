"""Checkpoints of maxencefrenette/transformer-10-digit-addition: R456's family with several models side
by side, and a fixed random matrix of full rank beside the low-rank maps.

There, a map is x A B + x W, of which A and B were trained and W was drawn once. Adderlab's maps have no
such part: the map is read as the full matrix A B + W, rounded to float32, so that the model computes the
same and has more numbers than its program trained (1,128 for 896). Every tensor has an axis of models in
front, and maps are stored (in, out).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adderlab.errors import Failure

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
