"""What the published 456-parameter program does with a checkpoint, written anew from its facts.

It builds its model from ``model_config`` as keyword arguments, so an unknown key is an error, and
loads ``model_state`` strictly. Parameter names and shapes are listed here by hand.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass
class PublishedConfig:
    n_layer: int = 1
    d_model: int = 7
    n_head: int = 1
    d_ff: int = 14
    dropout: float = 0.0
    max_seq_len: int = 33
    vocab_size: int = 14
    pos_rank: int = 0
    qkv_rank: int = 0
    attn_out_rank: int = 0
    ffn_rank: int = 0
    use_rmsnorm: bool = False
    tie_qkv: str = "none"


def expected_shapes(config: PublishedConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the state of a one-layer model with tie mode none or shareA_tieKV."""
    assert config.n_layer == 1
    d, f, r = config.d_model, config.d_ff, config.qkv_rank
    shapes: dict[str, tuple[int, ...]] = {"token_emb.weight": (config.vocab_size, d)}

    def matrix(name: str, rows: int, columns: int, rank: int, full: tuple[int, int]) -> None:
        if rank:
            shapes[f"{name}.A"], shapes[f"{name}.B"] = (rows, rank), (rank, columns)
        else:
            shapes[f"{name}.weight"] = full

    def norm(name: str) -> None:
        shapes[f"{name}.weight"] = (d,)
        if not config.use_rmsnorm:
            shapes[f"{name}.bias"] = (d,)

    matrix("pos_emb", config.max_seq_len, d, config.pos_rank, (config.max_seq_len, d))
    norm("blocks.0.ln1")
    if config.tie_qkv == "none":
        matrix("blocks.0.attn.qkv", d, 3 * d, r, (3 * d, d))
    else:
        assert config.tie_qkv == "shareA_tieKV"
        shapes["blocks.0.attn.qkv_A"] = (d, r)
        shapes["blocks.0.attn.qkv_Bq"] = shapes["blocks.0.attn.qkv_Bkv"] = (r, d)
    matrix("blocks.0.attn.proj", d, d, config.attn_out_rank, (d, d))
    norm("blocks.0.ln2")
    matrix("blocks.0.mlp.fc1", d, f, config.ffn_rank, (f, d))
    matrix("blocks.0.mlp.fc2", f, d, config.ffn_rank, (d, f))
    norm("ln_f")
    shapes["lm_head.weight"] = (config.vocab_size, d)
    return shapes


def load_as_published(path: Path) -> dict[str, Any]:
    """The checkpoint, if the published program would take it; otherwise an exception."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    config = PublishedConfig(**checkpoint["model_config"])
    state = checkpoint["model_state"]
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == expected_shapes(config)
    assert all(tensor.dtype == torch.float32 for tensor in state.values())
    assert torch.equal(state["lm_head.weight"], state["token_emb.weight"])
    for name in ("seed", "train_steps"):
        assert isinstance(checkpoint["train_config"][name], int)
    assert isinstance(checkpoint["params"], int)
    assert isinstance(checkpoint["step"], int)
    assert isinstance(checkpoint["val_exact"], float)
    return checkpoint
