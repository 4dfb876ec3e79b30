"""MicroAdder as its own programs compute it, one sequence after another: the slow twin of what
``runs.microadder`` reads, in every published form and the options beside them.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

BASE: dict[str, Any] = {
    "d_model": 6,
    "tok_dim": 3,
    "pos_dim": 3,
    "n_heads": 2,
    "head_dim": 3,
    "n_layers": 1,
    "ffn_dim": 2,
    "ffn_bias": True,
    "pos_mode": "spiral_correct",
    "pos_correction_mode": "full",
    "freeze_special": "none",
    "alibi": False,
    "qk_source": "pos",
    "tie_qk": False,
    "attn_out_rank": 0,
    "num_kv_heads": 0,
    "q_phase": False,
    "share_layers": False,
    "norm_mode": "full",
    "tie_vo": False,
    "freeze_z_hi": False,
    "q_proj_rank": 0,
    "tok_emb_mode": "learned",
    "vocab_size": 14,
    "max_seq_len": 34,
}
_203 = BASE | {"pos_correction_mode": "linear", "attn_out_rank": 2, "freeze_special": "eos"}
_170 = _203 | {"tok_dim": 2, "pos_dim": 4, "tie_qk": True, "q_phase": True}
_100 = _170 | {
    **{"d_model": 5, "pos_dim": 3, "n_heads": 1, "head_dim": 5, "ffn_bias": False},
    **{"vocab_size": 10, "tok_emb_mode": "parametric", "attn_out_rank": 1},
}
_80 = _100 | {"norm_mode": "shared", "tie_vo": True}

PUBLISHED: dict[int, dict[str, Any]] = {
    226: BASE,
    203: _203,
    170: _170,
    100: _100,
    80: _80,
    78: _80 | {"pos_correction_mode": "none"},
    75: _80 | {"pos_correction_mode": "none", "freeze_special": "plus_eos"},
}
"""Parameters -> the settings of the published checkpoint."""


def drawn(settings: Mapping[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Weights under the first program's names, none of them special."""
    generator = torch.Generator().manual_seed(seed)
    D, W, P = settings["d_model"], settings["tok_dim"], settings["pos_dim"]
    H, E, F = settings["n_heads"], settings["head_dim"], settings["ffn_dim"]
    G = settings["num_kv_heads"] or H

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    attn, state = "blocks.0.attn.", {"head_proj.weight": normal(W, D)}
    if settings["tok_emb_mode"] == "parametric":
        state |= {f"tok_arc_{name}": normal() + 1 for name in ("A", "B", "start", "stride")}
    else:
        state["tok_emb.weight"] = normal(settings["vocab_size"], W)
    if settings["pos_mode"] == "learned":
        state["digit_pos"] = normal(10, P)
    else:
        state |= {f"spiral_{name}": normal() + 1 for name in ("amp", "phase", "slope", "offset")}
    if settings["pos_correction_mode"] == "full":
        state["pos_correction"] = normal(10)
    if settings["pos_correction_mode"] == "linear":
        state |= {"pos_corr_slope": normal(), "pos_corr_intercept": normal()}
    state["z_hi_pos"] = torch.zeros(1, P) if settings["freeze_z_hi"] else normal(1, P)
    zero = torch.zeros(1, P)
    state |= {
        "none": {"special_pos": normal(3, P)},
        "eos": {"special_pos_learned": normal(2, P), "_eos_pos": zero},
        "plus_eos": {"special_pos_equals": normal(1, P), "_plus_pos": zero, "_eos_pos": zero},
        "all": {"_frozen_special": torch.zeros(3, P)},
    }[settings["freeze_special"]]
    if settings["q_proj_rank"]:
        rank = settings["q_proj_rank"]
        state |= {f"{attn}q_proj.A": normal(P, rank), f"{attn}q_proj.B": normal(rank, H * E)}
    elif settings.get("q_proj_mode") == "toeplitz":
        state[f"{attn}q_proj.vals"] = normal(P + H * E - 1)
    else:
        state[f"{attn}q_proj.weight"] = normal(H * E, P)
    if not settings["tie_qk"]:
        state[f"{attn}k_proj.weight"] = normal(G * E, P)
    if not settings["tie_vo"]:
        state[f"{attn}v_proj.weight"] = normal(G * E, W)
    if settings["q_phase"]:
        state[f"{attn}q_phase_angle"] = normal(H)
    if settings["attn_out_rank"]:
        rank = settings["attn_out_rank"]
        state |= {f"{attn}out_proj.A": normal(H * E, rank), f"{attn}out_proj.B": normal(rank, D)}
    else:
        state[f"{attn}out_proj.weight"] = normal(D, H * E)
    state |= {"blocks.0.ffn.fc1.weight": normal(F, D), "blocks.0.ffn.fc2.weight": normal(D, F)}
    if settings["ffn_bias"]:
        state |= {"blocks.0.ffn.fc1.bias": normal(F), "blocks.0.ffn.fc2.bias": normal(D)}
    norms = ("blocks.0.ln1", "blocks.0.ln2", "ln_f")
    if settings["norm_mode"] in ("shared", "scalar"):
        one = normal(1 if settings["norm_mode"] == "scalar" else D)
        kind = "scale" if settings["norm_mode"] == "scalar" else "weight"
        state |= {f"{name}.{kind}": one for name in norms}
    elif settings["norm_mode"] == "full":
        state |= {f"{name}.weight": normal(D) for name in norms}
    return state


def write(path: Path, settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """A checkpoint as the first program writes it, its mask included."""
    whole = {**state, "blocks.0.attn.causal_mask": torch.ones(34, 34).tril()[None, None]}
    payload = {"step": 1000, "model_state_dict": whole, "config": dict(settings)}
    torch.save({**payload, "metrics": {"exact_match": 1.0}, "args": {"seed": 7}}, path)


def logits(settings: Mapping[str, Any], state: Mapping[str, Tensor], tokens_T: Tensor) -> Tensor:
    """Logits of one sequence at every position (T, V), float64."""
    s = {name.removeprefix("blocks.0."): tensor.double() for name, tensor in state.items()}
    W, H, E = settings["tok_dim"], settings["n_heads"], settings["head_dim"]
    G, T = settings["num_kv_heads"] or H, len(tokens_T)
    table_VW = _tokens(settings, s)
    x_TD = torch.cat([table_VW[tokens_T], _positions(settings, s)[:T]], 1)

    def norm(name: str, x: Tensor) -> Tensor:
        x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return x * s.get(f"{name}.weight", s.get(f"{name}.scale", torch.ones(())))

    h_TD = norm("ln1", x_TD)
    tok, pos = h_TD[:, :W], h_TD[:, W:]
    query = pos @ _query_map(settings, s).T
    key = query[:, : G * E] if settings["tie_qk"] else pos @ s["attn.k_proj.weight"].T
    value = tok @ (s["head_proj.weight"] if settings["tie_vo"] else s["attn.v_proj.weight"].T)
    mixed = []
    for head in range(H):
        group = head // (H // G)
        q, k, v = query[:, head * E :][:, :E], key[:, group * E :][:, :E], value[:, group * E :][:, :E]
        if settings["q_phase"]:
            angle, q = s["attn.q_phase_angle"][head], q.clone()
            for i in range(0, E - 1, 2):
                first, second = q[:, i].clone(), q[:, i + 1].clone()
                q[:, i] = first * angle.cos() - second * angle.sin()
                q[:, i + 1] = first * angle.sin() + second * angle.cos()
        score = q @ k.T / math.sqrt(E)
        mixed.append(score.masked_fill(torch.ones(T, T).triu(1) > 0, -math.inf).softmax(1) @ v)
    out = torch.cat(mixed, 1)
    if "attn.out_proj.A" in s:
        x_TD = x_TD + out @ s["attn.out_proj.A"] @ s["attn.out_proj.B"]
    else:
        x_TD = x_TD + out @ s["attn.out_proj.weight"].T
    hidden = norm("ln2", x_TD) @ s["ffn.fc1.weight"].T + s.get("ffn.fc1.bias", torch.zeros(()))
    x_TD = x_TD + torch.nn.functional.gelu(hidden) @ s["ffn.fc2.weight"].T
    x_TD = x_TD + s.get("ffn.fc2.bias", torch.zeros(()))
    return norm("ln_f", x_TD) @ s["head_proj.weight"].T @ table_VW.T


def _tokens(settings: Mapping[str, Any], s: Mapping[str, Tensor]) -> Tensor:
    if "tok_emb.weight" in s:
        return s["tok_emb.weight"]
    angles = s["tok_arc_start"] + torch.arange(settings["vocab_size"]) * s["tok_arc_stride"]
    return torch.stack([s["tok_arc_A"] * angles.cos(), s["tok_arc_B"] * angles.sin()], 1)


def _positions(settings: Mapping[str, Any], s: Mapping[str, Tensor]) -> Tensor:
    """(34, P): X, PLUS, Y, EQUALS, Z, the carry, EOS."""
    width = settings["pos_dim"]
    if "digit_pos" in s:
        rows = s["digit_pos"]
    else:
        rows = torch.zeros(10, width, dtype=torch.float64)
        for i in range(10):
            turn = 2 * math.pi * i / 10
            rows[i, 0] = s["spiral_amp"] * torch.cos(turn + s["spiral_phase"])
            if width == 2:
                rows[i, 1] = s["spiral_slope"] * torch.sin(turn + s["spiral_offset"])
                continue
            rows[i, 1] = s["spiral_amp"] * torch.sin(turn + s["spiral_phase"])
            rows[i, 2] = s["spiral_slope"] * i + s["spiral_offset"]
            if settings["pos_correction_mode"] == "full":
                rows[i] *= 1 + s["pos_correction"][i]
            if settings["pos_correction_mode"] == "linear":
                rows[i] *= 1 + s["pos_corr_intercept"] + s["pos_corr_slope"] * i
    zero = torch.zeros(1, width, dtype=torch.float64)
    plus, equals, end = {
        "none": lambda: s["special_pos"].split(1),
        "eos": lambda: (*s["special_pos_learned"].split(1), zero),
        "plus_eos": lambda: (zero, s["special_pos_equals"], zero),
        "all": lambda: (zero, zero, zero),
    }[settings["freeze_special"]]()
    return torch.cat([rows, plus, rows, equals, rows, s["z_hi_pos"], end])


def _query_map(settings: Mapping[str, Any], s: Mapping[str, Tensor]) -> Tensor:
    if "attn.q_proj.A" in s:
        return (s["attn.q_proj.A"] @ s["attn.q_proj.B"]).T
    if "attn.q_proj.vals" in s:
        rows, columns = settings["n_heads"] * settings["head_dim"], settings["pos_dim"]
        values = s["attn.q_proj.vals"]
        return torch.tensor(
            [[values[rows - 1 - i + j] for j in range(columns)] for i in range(rows)],
            dtype=torch.float64,
        )
    return s["attn.q_proj.weight"]
