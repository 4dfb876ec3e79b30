"""Warm starts: seeds that begin from the weights of a trained model, of the same architecture or of a
larger one that encloses it.

One architecture *encloses* another if it can compute whatever the other can and differs only by

- more hidden units, or a larger rank of a map or of the positions (0, the full matrix, is the largest);
- ties given up: norms shared less widely, whole query, key and value maps apart, digits on an ellipse
  instead of an arc, a learned spiral instead of a fixed one, a second map of the MLP of its own instead
  of the head's;
- more rows of positions than the layout reads.

The weights that are added are drawn as the seed draws them, but for the factor behind them, which is
zero: every seed begins with exactly the function of the trained model (to the rounding of float32 where
a low-rank product becomes a full matrix), and what is new can learn at once.

Shapes: S seeds first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from adderlab.errors import UsageError
from adderlab.models.config import ModelConfig
from adderlab.models.transformer import Architecture, build_model
from adderlab.runs.checkpoints import Checkpoint

OWN_START = ("wide_init", "circle", "prefit", "restarts")
"""A recipe's ingredients that choose where seeds start: with a warm start there are none."""

_RANKS = ("pos_rank", "qkv_rank", "attn_out_rank", "ffn_rank")
_LOOSER: Mapping[str, tuple[tuple[object, object], ...]] = {
    "share_norms": (("all", "block"), ("all", "none"), ("block", "none")),
    "tie_qkv": (
        ("qk", "separate"),
        ("kv", "separate"),
        ("all", "separate"),
        ("all", "qk"),
        ("all", "kv"),
    ),
    "tokens": (("arc", "ellipse"),),
    "positions": (("fixed_spiral", "spiral"),),
    "fc2": (("head", "map"),),
}
"""Setting -> (value there, value here) that gives up a tie."""
_FREE = ("init", "arc", "logit_scale")
"""Settings that no answer depends on once there are weights."""

_WHOLE_MAPS = ("q_proj", "k_proj", "v_proj", "qk_shared", "kv_shared", "qkv_shared")
_OLD_MAPS = {
    "q_proj": ("qk_shared", "qkv_shared"),
    "k_proj": ("qk_shared", "kv_shared", "qkv_shared"),
    "v_proj": ("kv_shared", "qkv_shared"),
    "qk_shared": ("qkv_shared",),
    "kv_shared": ("qkv_shared",),
}
"""Map -> those that it may have been a part of."""


def check_encloses(config: Architecture, source: Checkpoint) -> None:
    """Raises ``UsageError`` naming the first setting by which a model does not enclose a trained one."""
    other = source.config
    if config == other:
        return
    if not (isinstance(config, ModelConfig) and isinstance(other, ModelConfig)):
        raise UsageError(
            f"{_name(source)} is of another model: that of a Python file starts from its own weights"
        )
    for field in dataclasses.fields(ModelConfig):
        there, here = getattr(other, field.name), getattr(config, field.name)
        if there != here and not _encloses(field.name, there, here, other, config):
            raise UsageError(
                f"{_name(source)} has model.{field.name}={there}, not {here}: a warm start takes the "
                "same model, or one with fewer hidden units, smaller ranks or more ties "
                "(docs/checkpoints.md)"
            )


def _encloses(name: str, there: object, here: object, old: ModelConfig, new: ModelConfig) -> bool:
    if name in _FREE or (name == "spiral" and new.positions == "spiral"):
        return True
    if name in _RANKS:
        return there != 0 and (here == 0 or int(str(here)) >= int(str(there)))
    if name == "d_ff":
        return int(str(here)) >= int(str(there)) and new.mirror == "none" and new.fc2 in ("map", "head")
    if name == "position_rows":
        rows = [each.position_rows or each.token_layout.num_positions for each in (old, new)]
        return rows[1] >= rows[0]
    return (there, here) in _LOOSER.get(name, ())


def warm(config: Architecture, source: Checkpoint, drawn: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters of every seed: the trained ones, and where the model has more, as ``drawn`` (S, ...) or
    zero. The model must enclose the source's."""
    if config == source.config or not isinstance(config, ModelConfig):
        return {name: source.params[name].to(own).expand_as(own).clone() for name, own in drawn.items()}
    assert isinstance(source.config, ModelConfig)
    known = _every_name(source)
    return {
        name: _grown(name, _counterpart(name, config, source.config, known), own)
        for name, own in drawn.items()
    }


def _every_name(source: Checkpoint) -> dict[str, Tensor]:
    """The trained parameters under each of their names, tied ones under several."""
    model = build_model(source.config, 0)
    by_identity = {id(p): source.params[name] for name, p in model.named_parameters()}
    return {n: by_identity[id(p)] for n, p in model.named_parameters(remove_duplicate=False)}


def _counterpart(
    name: str, config: ModelConfig, old: ModelConfig, known: Mapping[str, Tensor]
) -> Tensor:
    """The trained numbers that a parameter goes on from, in its layout."""
    if name in known:
        return known[name]
    if name.startswith("pos_emb.columns."):
        place = ("amplitude", "phase", "slope", "offset").index(name.rsplit(".", 1)[1])
        return torch.tensor(old.spiral[place])
    if name == "token_emb.sine_radius":
        return known["token_emb.radius"]
    if name.endswith("mlp.fc2.weight") and old.fc2 == "head":
        return known["head_proj.weight"].T
    for part in _WHOLE_MAPS:
        for before in _OLD_MAPS.get(part, ()):
            earlier = name.replace(f".{part}.", f".{before}.")
            if earlier != name and earlier in known:
                return known[earlier]
            low = earlier.removesuffix("weight")
            if earlier != name and f"{low}A" in known:
                return _product(known[f"{low}A"], known[f"{low}B"]).T
    low = name.removesuffix("weight")
    assert f"{low}A" in known, f"{name} has no counterpart, though the configuration encloses the other"
    product = _product(known[f"{low}A"], known[f"{low}B"])
    return product if low.startswith("pos_emb") else product.T


def _product(first: Tensor, second: Tensor) -> Tensor:
    return (first.double() @ second.double()).float()


def _grown(name: str, trained: Tensor, drawn: Tensor) -> Tensor:
    """The trained numbers in the first places of every axis."""
    shape = drawn.shape[1:]
    if trained.shape == shape:
        return trained.expand_as(drawn).clone()
    grown = drawn.clone()
    for axis, (new, old) in enumerate(zip(shape, trained.shape, strict=True)):
        if new > old and _is_behind(name, axis):
            grown.narrow(axis + 1, old, new - old).zero_()
    grown[(slice(None), *(slice(size) for size in trained.shape))] = trained
    return grown


def _is_behind(name: str, axis: int) -> bool:
    """Whether new entries along an axis multiply what is new before them, and so begin at zero: rows of
    a second factor, and the second map's inputs from new hidden units."""
    own = name.rsplit(".", 1)[1]
    if own == "B" or own.startswith("qkv_B"):
        return axis == 0
    return ".fc2." in name and ((own == "weight" and axis == 1) or (own == "A" and axis == 0))


def _name(source: Checkpoint) -> str:
    return str(source.path or "the model to start from")
