"""A model and its training in words, for metadata, model cards and the board's issue form."""

from __future__ import annotations

from typing import Any

from adderlab.models.config import ModelConfig
from adderlab.models.describe import count_parameters, ties
from adderlab.models.zoo import PRESETS
from adderlab.runs.checkpoints import Checkpoint

_ACTIVATION = {"gelu": "GELU", "relu": "ReLU", "swiglu": "SwiGLU"}
_ORIGIN = {
    "adderlab": "adderlab",
    "r456": "the published 456-parameter program (R456)",
    "microadder": "MicroAdder (evindor)",
    "mlx": "an MLX program (staghado's family)",
}


def preset_of(config: ModelConfig) -> str | None:
    """The zoo's name of this very configuration."""
    return next((name for name, preset in PRESETS.items() if preset.config == config), None)


def title(config: ModelConfig) -> str:
    """``456p``: the zoo's name, or the number of parameters."""
    return preset_of(config) or f"{count_parameters(config)}p"


def architecture(config: ModelConfig) -> str:
    """One line: depth, width, heads, norms, activation, layout."""
    layers = "1 layer" if config.n_layer == 1 else f"{config.n_layer} layers"
    heads = "1 head" if config.n_head == 1 else f"{config.n_head} heads"
    if config.kv_heads != config.n_head:
        heads += f" ({config.kv_heads} for keys and values)"
    norm = "RMSNorm" if config.norm == "rms" else "LayerNorm"
    layout = config.token_layout
    return (
        f"decoder-only transformer, {layers}, d_model {config.d_model}, {heads} of width "
        f"{config.key_width}, {_ACTIVATION[config.activation]} MLP of {config.d_ff}, pre-{norm}, "
        f"{layout.vocab_size} tokens, {layout.num_positions} positions"
    )


def tricks(config: ModelConfig) -> list[str]:
    """What saves parameters or helps training: ranks, ties, the order of digits."""
    ranks = {
        "positions": config.pos_rank,
        "Q, K, V": config.qkv_rank,
        "attention output": config.attn_out_rank,
        "MLP": config.ffn_rank,
    }
    lines = [f"{what} of rank {rank}" for what, rank in ranks.items() if rank]
    return [*lines, *ties(config), "the sum is written units first"]


def recipe(checkpoint: Checkpoint) -> list[str]:
    """Lines about the training, as far as the checkpoint tells."""
    lines = [f"trained by {_ORIGIN.get(checkpoint.origin, checkpoint.origin)}"]
    if checkpoint.seed is not None:
        lines[0] += f", seed {checkpoint.seed}"
    if checkpoint.step:
        lines[0] += f", {checkpoint.step:,} steps"
    settings = {name: value for name, value in _flat(checkpoint.recipe) if name != "seed"}
    if settings:
        lines.append(", ".join(f"{name} {value}" for name, value in settings.items()))
    else:
        lines.append("the checkpoint does not say with which settings")
    return lines


_MACHINERY = ("run_name", "run_dir", "split_dir", "device", "eval_batch_size", "test_size", "output")
"""Settings that say where and not how a model was trained."""


def _flat(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{name}.")
        elif name not in _MACHINERY and not name.endswith("_out") and value not in (None, "", [], False):
            found.append((f"{prefix}{name}", str(value)))
    return found
