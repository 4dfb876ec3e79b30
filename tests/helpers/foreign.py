"""Checkpoints of other programs: written as those programs do, loaded, and evaluated."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adderlab.errors import UsageError
from adderlab.evaluation.suites import adderboard
from adderlab.files.atomic import write_bytes, write_torch
from adderlab.models.config import ModelConfig
from adderlab.models.transformer import Transformer
from adderlab.models.zoo import get_preset
from adderlab.runs.foreign import _MLX_NAMES, _qwen3
from adderlab.runs.microadder import SPIRAL

_MICROADDER_NAMES = {
    "token_emb.radius": "tok_arc_A",
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
"""Our names -> the later package's."""
_SPECIAL = "pos_emb.special"
"""Of the special positions, which are one tensor here and two there."""


@torch.no_grad()
def errors_on_adderboard(model: Transformer) -> int:
    """Of the 10,010 pairs, without tables: greedy answers are right where every step, given the
    right digits before it, is."""
    wrong = 0
    for group in adderboard().groups:
        tokens_BP, targets_BA = model.layout.encode(group.a_BJ, group.b_BJ)
        answers_BA = model.answer_logits(tokens_BP).argmax(-1)
        wrong += int((answers_BA[:, :11] != targets_BA[:, :11]).any(1).sum())
    return wrong


def loaded(model: Transformer, params: dict[str, Tensor]) -> Transformer:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(params[name])
    return model


def write_microadder(
    path: Path | str, config: ModelConfig, params: Mapping[str, Tensor], *, step: int = 0
) -> None:
    """Write a checkpoint that the MicroAdder package loads (``ModelConfig.from_dict(config)``).

    ``params`` has no seed axis. Raises ``UsageError`` for a model outside MicroAdder's family.
    """
    settings = _settings(config)
    state = {
        theirs: params[ours].detach() for ours, theirs in _MICROADDER_NAMES.items() if ours in params
    }
    state["q_phase_angle"] = state["q_phase_angle"].reshape(1)
    state["special_pos_equals"], state["z_hi_pos"] = params[_SPECIAL].detach().clone().split(1)
    state |= {name: torch.zeros(1, config.position_width) for name in ("_plus_pos", "_eos_pos")}
    state |= {copy: state["norm1.weight"] for copy in ("norm2.weight", "norm_f.weight")}
    if config.positions == "fixed_spiral":
        state |= {f"spiral_{n}": torch.tensor(v) for n, v in zip(SPIRAL, config.spiral, strict=True)}
    state["causal_mask"] = torch.ones(34, 34).tril()[None, None]
    payload = {"step": step, "model_state_dict": state, "config": settings, "metrics": {}, "args": {}}
    write_torch(Path(path), payload)


def _settings(config: ModelConfig) -> dict[str, Any]:
    if config not in [get_preset(name).config for name in ("57p", "67p", "74p")]:
        raise UsageError(
            "this model is no MicroAdder: its package has one shape with an arc of one radius, "
            "spiral columns, tied Q and K and a rank-1 output"
        )
    amplitude, phase, slope, offset = config.spiral
    return {
        "d_model": config.d_model,
        "tok_dim": config.token_width,
        "pos_dim": config.position_width,
        "n_heads": config.n_head,
        "head_dim": config.value_width,
        "ffn_dim": config.d_ff,
        "vocab_size": 10,
        "max_seq_len": 34,
        "qk_dim": config.key_width,
        "norm_mode": "weighted",
        "qk_input": "pos",
        "freeze_tok_arc": "",
        "tie_fc2_head": config.fc2 == "head",
        "freeze_spiral": ",".join(SPIRAL) if config.positions == "fixed_spiral" else "",
        "spiral_init_amp": amplitude,
        "spiral_init_phase": phase,
        "spiral_init_slope": slope,
        "spiral_init_offset": offset,
        "equals_spiral_idx": -1.0,
    }


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
        for ours, theirs in _MLX_NAMES.items():
            array = params[ours].detach().cpu().float().numpy()
            with archive.open(zipfile.ZipInfo(f"{theirs}.npy"), "w") as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
    write_bytes(Path(path), buffer.getvalue())
