"""What a configuration shares, derives or fixes, one line each, and how many parameters that leaves.

Parameters are counted as AdderBoard does: unique trained numbers, tied ones once. Fixed numbers (a fixed
spiral, rotary angles, a position held at zero) are no tensors here and have no row.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from adderlab.models.config import SPECIALS, ModelConfig
from adderlab.models.layers import SHARED_FACTORS, SHARED_MAPS
from adderlab.models.transformer import Architecture, skeleton

_ROLES = ("Q", "K", "V")
_COLUMNS = {
    "columns": "learned",
    "spiral": "on a learned spiral",
    "fixed_spiral": "on a fixed spiral",
    "fixed_circle": "on a fixed circle",
}


def ties(config: ModelConfig) -> tuple[str, ...]:
    """The ties of a model as text, in the order of the computation; empty without any."""
    return (*_embedding(config), *_maps(config), *_after(config))


def _embedding(config: ModelConfig) -> list[str]:
    lines = []
    if config.tokens == "arc":
        lines.append("token d = radius * (cos, sin)(start + d * stride)")
    if config.tokens == "ellipse":
        lines.append("token d = (radius * cos, sine_radius * sin)(start + d * stride)")
    if config.tokens == "centred_arc":
        lines.append("token d = radius * (cos, sin)((d - 4.5) * stride)")
    if config.tokens == "unit_arc":
        lines.append("token d = (cos, sin)((d - 4.5) * stride)")
    if config.positions in _COLUMNS:
        lines.append(f"position of a_j = that of b_j = that of s_j, {_COLUMNS[config.positions]}")
    if config.positions == "fixed_circle":
        lines.append("the separators share one place of the circle, one before column 0")
    elif config.positions in _COLUMNS:
        learned = ", ".join(config.learned_specials) or "none"
        rest = "; the others are zero" if set(config.learned_specials) != set(SPECIALS) else ""
        lines.append(f"special positions learned: {learned}{rest}")
    if config.rope_theta is not None:
        lines.append(f"rotary positions of base {config.rope_theta:g}, pairs of {config.rope_pairs}")
    return lines


def _maps(config: ModelConfig) -> list[str]:
    lines = []
    if config.content is not None:
        lines.append(
            f"attention writes, and MLP and head use, the first {config.content} channels; "
            "the others hold the position"
        )
    if config.qk_input == "rest":
        lines.append("Q and K read those others")
    elif config.qk_input != "all":
        lines.append(f"Q and K read the {config.qk_input}' channels")
    if config.query_map == "scaled_rotation":
        lines.append("Q = scale * rotation of what it reads")
    if config.keys == "input":
        lines.append("K = what it reads")
    if config.values == "input":
        channels = "last token channel" if config.value_input == "last_token" else "channels it reads"
        lines.append(f"V = the {channels}")
    elif config.value_input != "all":
        lines.append("V reads the tokens' channels")
    tie = config.tie_qkv
    if tie in SHARED_FACTORS:
        for letter, factors in zip("AB", zip(*SHARED_FACTORS[tie], strict=True), strict=True):
            lines += _equal([f"{letter}_{role}" for role in _ROLES], factors)
    elif tie in SHARED_MAPS:
        names = list(SHARED_MAPS[tie])
        if config.values == "head":
            names[2] = "head"
        rotated = "rotation of " if config.query_rotation else ""
        changed = {"none": "", "scale": "alpha * ", "rotate": "rotation of "}[config.key_transform]
        if names[0] == names[1] and (rotated or changed):
            both = f"Q = {rotated}W, K = {changed}W"
            lines.append(both if names[2] != names[0] else f"{both}, V = W")
        else:
            lines += _equal(list(_ROLES), tuple(names))
    if config.key_rows == "last_scales_first":
        lines.append("last row of K = alpha * first row of K")
    if config.kv_heads != config.n_head:
        lines.append(f"each K and V head serves {config.n_head // config.kv_heads} Q heads")
    return lines


def _equal(roles: list[str], sources: tuple[str, ...]) -> list[str]:
    """X = Y for every group of roles with one source."""
    groups: dict[str, list[str]] = {}
    for role, source in zip(roles, sources, strict=True):
        groups.setdefault(source, []).append(role)
    return [" = ".join(group) for group in groups.values() if len(group) > 1]


def _after(config: ModelConfig) -> list[str]:
    chosen = (
        (config.values == "head", "V = head^T"),
        (config.qk_norm == "tied", "QK norm: one weight for Q and K"),
        (config.qk_norm == "quarter", "QK norm: weight (a, a/4, 0, -a) for Q and K"),
        (config.attn_out == "query_transpose", "O = Q^T"),
        (
            config.attn_out == "query_transpose_tail",
            "O = Q^T, last channel from Q's last column, scaled",
        ),
        (config.attn_out == "last_token", "O writes the last token channel alone"),
        (
            config.mirror != "none",
            "hidden units are pairs: the second reads and writes the last channel with its sign turned",
        ),
        (config.mirror in ("unit_pairs", "even_pairs"), "the first of a pair reads it with weight 1"),
        (config.mirror == "even_pairs", "and writes the same number to every channel"),
        (not config.norm_weight, "norms have no weight"),
        (config.gate == "scaled_up", "gate = alpha * up"),
        (config.gate == "sparse", "gate: the last unit does not read the last channel"),
        (config.fc2 == "head", "fc2 = head^T"),
        (config.fc2 == "rotated_up_transpose", "down = up^T after a rotation of hidden pairs"),
        (config.fc2 == "up_transpose_carry", "down = scaled up^T + last unit along its row of the gate"),
        (config.repeat_mix, "the block is applied twice; one learned number mixes the second pass in"),
        (
            config.norm_weight and config.share_norms == "block",
            "norm before attention = norm before MLP",
        ),
        (
            config.norm_weight and config.share_norms == "all",
            "norm before attention = norm before MLP = final norm",
        ),
        (config.head == "tied", "logits: token channels . token table"),
        (config.head == "scaled", "logits: token channels, each scaled, . token table"),
        (config.head == "scaled_once", "logits: alpha * token channels . token table"),
        (config.head == "negated", "logits: -token channels . token table"),
        (config.head == "projected", "logits: head . token table"),
        (
            config.logit_scale != 1.0,
            f"logits are multiplied by {config.logit_scale:g}: no answer depends on it",
        ),
    )
    return [text for holds, text in chosen if holds]


@dataclass(frozen=True, kw_only=True)
class ParameterRow:
    """One tensor of the state dict."""

    name: str
    shape: tuple[int, ...]
    count: int
    """Numbers in the tensor."""
    tied_to: str | None
    """Name of the earlier row that is the same tensor, or None."""
    counted: bool
    """Trained and not tied to an earlier row."""


def parameter_table(config: Architecture) -> tuple[ParameterRow, ...]:
    """Every tensor of the model in the order of the state dict; no weights are made."""
    if not isinstance(config, ModelConfig):
        return tuple(
            ParameterRow(name=name, shape=shape, count=math.prod(shape), tied_to=None, counted=True)
            for name, shape in config.parameter_shapes().items()
        )
    model = skeleton(config)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    first_name: dict[int, str] = {}
    rows = []
    for name, tensor in model.state_dict(keep_vars=True).items():
        earlier = first_name.setdefault(id(tensor), name)
        tied_to = None if earlier == name else earlier
        trained = name in parameters and parameters[name].requires_grad
        shape = tuple(tensor.shape)
        rows.append(
            ParameterRow(
                name=name,
                shape=shape,
                count=math.prod(shape),
                tied_to=tied_to,
                counted=trained and tied_to is None,
            )
        )
    return tuple(rows)


def parameter_rows(rows: Sequence[ParameterRow]) -> list[dict[str, str | int]]:
    """The parameter table for people, with its total."""
    total = sum(row.count for row in rows if row.counted)
    table: list[dict[str, str | int]] = [
        {
            "parameter": row.name,
            "shape": " x ".join(map(str, row.shape)) or "scalar",
            "numbers": row.count,
            "tied to": row.tied_to or "",
            "counted": row.count if row.counted else "-",
        }
        for row in rows
    ]
    return [*table, {"parameter": "total", "shape": "", "numbers": "", "tied to": "", "counted": total}]


def count_parameters(config: Architecture) -> int:
    """Unique trained parameters of a model of this configuration."""
    return sum(row.count for row in parameter_table(config) if row.counted)
