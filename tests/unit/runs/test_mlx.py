"""The published MLX weights read, add exactly as well as their authors report, and go back."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from adderlab.errors import Failure, UsageError
from adderlab.models.tables import stack_parameters
from adderlab.models.transformer import build_model
from adderlab.models.zoo import get_preset
from adderlab.runs.foreign import read_mlx
from helpers.foreign import errors_on_adderboard, loaded, write_mlx
from helpers.reference import reference_checkpoint


@pytest.mark.parametrize(("file", "errors"), [("qwen3_122p.npz", 5), ("qwen3_122p_lbfgs.npz", 0)])
def test_published_122p_adds_as_reported(file: str, errors: int) -> None:
    """The authors report 10005 and 10010 of 10010 under MLX."""
    found = read_mlx(reference_checkpoint(file))
    config, params = found.config, found.params
    assert config == get_preset("122p").config
    assert sum(tensor.numel() for tensor in params.values()) == 122
    assert errors_on_adderboard(loaded(build_model(config, 0), params)) == errors


def test_published_122p_goes_back(tmp_path: Path) -> None:
    path = reference_checkpoint("qwen3_122p.npz")
    found = read_mlx(path)
    write_mlx(tmp_path / "again.npz", found.config, found.params)
    with np.load(path) as wanted, np.load(tmp_path / "again.npz") as found:
        assert set(wanted.files) == set(found.files)
        assert all(np.array_equal(wanted[name], found[name]) for name in wanted.files)


def test_grouped_heads_are_written_and_read(tmp_path: Path) -> None:
    config = dataclasses.replace(get_preset("122p").config, n_head=2, n_kv_head=1, d_model=4, d_ff=6)
    params = {k: t[0] for k, t in stack_parameters([build_model(config, 3)]).items()}
    write_mlx(tmp_path / "model.npz", config, params)
    found = read_mlx(tmp_path / "model.npz")
    read_config, read = found.config, found.params
    assert read_config == config
    assert all(torch.equal(read[name], params[name]) for name in params)


def test_other_families_are_not_written(tmp_path: Path) -> None:
    config = get_preset("67p").config
    with pytest.raises(UsageError, match="no Qwen3 adder"):
        write_mlx(tmp_path / "model.npz", config, {})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"model.norm.weight": None}, r"lacks model\.norm\.weight"),
        ({"model.layers.1.mlp.up_proj.weight": np.zeros((3, 3))}, r"has model\.layers\.1"),
        ({"model.embed_tokens.weight": np.zeros((14, 3))}, "14 tokens"),
        ({"model.layers.0.self_attn.q_norm.weight": np.zeros((4, 1))}, "make no adder"),
        ({"model.layers.0.self_attn.q_norm.weight": np.zeros(0)}, "make no adder"),
    ],
)
def test_other_weights_are_refused(
    change: dict[str, np.ndarray | None], complaint: str, tmp_path: Path
) -> None:
    config = get_preset("122p").config
    params = {k: t[0] for k, t in stack_parameters([build_model(config, 3)]).items()}
    write_mlx(tmp_path / "good.npz", config, params)
    with np.load(tmp_path / "good.npz") as good:
        arrays = {name: good[name] for name in good.files} | change
    kept: Any = {name: array for name, array in arrays.items() if array is not None}
    np.savez(tmp_path / "bad.npz", **kept)
    with pytest.raises(Failure, match=complaint):
        read_mlx(tmp_path / "bad.npz")


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", weight=np.array([{}], dtype=object))
    with pytest.raises(Failure, match="pickled"):
        read_mlx(tmp_path / "bad.npz")
