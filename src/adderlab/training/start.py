"""Where a population starts, whether a recipe can train a model from there at all, and warm starts.

Each seed's parameters are its own draw, moved by the recipe's ingredients for the start
(``training.ingredients``). What does not fit the model is said before anything is written.

With a warm start seeds begin from the weights of a trained model, of the same architecture or of a
larger one that encloses it. One architecture *encloses* another if it can compute whatever the other
can and differs only by

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
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from adderlab.errors import UsageError
from adderlab.models.config import ModelConfig
from adderlab.models.tables import stack_parameters
from adderlab.models.transformer import Architecture, build_model, skeleton
from adderlab.runs.checkpoints import Checkpoint
from adderlab.training.ingredients import (
    check_circle,
    check_names,
    check_prefit,
    check_wide_init,
    drawn_as,
    on_circle,
    prefit_attention,
    restart_seeds,
    widened,
    with_signs,
)
from adderlab.training.measure import check_validation
from adderlab.training.objective import stacked_float32
from adderlab.training.recipe import UNIFORM_PAIRS, Recipe

PREFIT_ROWS = 32
"""Starts whose attention is fitted together, many enough to share each operation's fixed cost."""


def start(config: Architecture, recipe: Recipe, seeds: tuple[int, ...]) -> dict[str, Tensor]:
    """Parameters at step 0, stacked over all draws of the first seed, then of the next; a seed's do not
    depend on the others."""
    count = recipe.restarts_after(-1)
    drawn = [own for seed in seeds for own in restart_seeds(seed, count)]
    spread = recipe.wide_init
    if not isinstance(config, ModelConfig):
        stacked = stacked_float32([build_model(config, own) for own in drawn])
        stacked = widened(stacked, drawn, signs=spread.signs) if spread else stacked
        return _at_widths(recipe, stacked, drawn)
    as_drawn = drawn_as(spread, config) if spread else config
    stacked = stack_parameters([build_model(as_drawn, own) for own in drawn])
    if spread and spread.signs:
        stacked = with_signs(stacked, drawn)
    stacked = _at_widths(recipe, stacked, drawn)
    if recipe.circle:
        stacked = on_circle(recipe.circle, config, stacked)
    if recipe.prefit is None:
        return stacked
    together, each = max(1, PREFIT_ROWS // count), []
    for first in range(0, len(seeds), together):
        own = seeds[first : first + together]
        rows = slice(first * count, (first + len(own)) * count)
        params = {name: tensor[rows] for name, tensor in stacked.items()}
        each.append(prefit_attention(recipe.prefit, config, UNIFORM_PAIRS, own, params))
    return {name: torch.cat([params[name] for params in each]) for name in stacked}


def _at_widths(recipe: Recipe, stacked: dict[str, Tensor], drawn: list[int]) -> dict[str, Tensor]:
    """The starts, each as wide as ``recipe.restarts`` deals out."""
    restarts = recipe.restarts
    if restarts is None or not restarts.widths:
        return stacked
    widths = [restarts.width(i % restarts.count) for i in range(len(drawn))]
    return widened(stacked, drawn, signs=True, widths=widths)


def check_file_start(recipe: Recipe) -> None:
    """Raises ``UsageError`` for an ingredient of the start that only presets have something for."""
    for name in ("circle", "prefit"):
        if getattr(recipe, name):
            raise UsageError(
                f"recipe.{name} names parts of a preset; a file's model trains without: set "
                f"recipe.{name}=null, or take --recipe auto"
            )
    if recipe.wide_init and recipe.wide_init.arc is not None:
        raise UsageError(
            "wide_init.arc moves digits of a preset; a file's model trains without: set "
            "recipe.wide_init.arc=null"
        )


def check_start(config: Architecture, recipe: Recipe) -> None:
    """Raises ``UsageError`` for an ingredient of the start, or of frozen parameters, that the model
    has nothing for."""
    if not isinstance(config, ModelConfig):
        check_file_start(recipe)
        check_names(recipe.freeze, list(config.parameter_shapes()))
        return
    names = [name for name, _ in skeleton(config).named_parameters()]
    if recipe.wide_init:
        check_wide_init(recipe.wide_init, config, names)
    if recipe.circle:
        check_circle(recipe.circle, config)
    if recipe.prefit:
        check_prefit(recipe.prefit, config, names)
    check_names(recipe.freeze, names)


def check_fits(
    config: Architecture, recipe: Recipe, seeds: Sequence[int], source: Checkpoint | None = None
) -> None:
    """Raises ``UsageError`` naming the setting that does not fit the model, the seeds, or the trained
    model that they start from."""
    named = recipe.warm_start and recipe.warm_start.sha256
    if named != (source and source.weights_sha256):
        raise UsageError("recipe.warm_start goes with the weights that it names: set it by --from")
    if source is not None:
        check_encloses(config, source)
        for name in OWN_START:
            if getattr(recipe, name) is not None:
                raise UsageError(f"a warm start has no other start: set recipe.{name}=null")
    check_start(config, recipe)
    check_validation(recipe.val_size, seeds)


# Warm starts.


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
