"""Tokens, positions and first draws, against their formulas."""

import dataclasses
import math

import pytest
import torch

from adderlab.models.config import ModelConfig
from adderlab.models.describe import ties
from adderlab.models.transformer import ColumnPositions, build_model, position_embedding, token_embedding
from adderlab.models.zoo import PRESETS, get_preset


def _positions(config: ModelConfig) -> torch.Tensor:
    embedding = position_embedding(config)
    assert embedding is not None
    return embedding(torch.arange(config.token_layout.num_positions)).detach()


def test_tokens_on_an_arc() -> None:
    """MicroAdder starts at radius 2.5, angle -1.2, stride 0.29."""
    rows_VW = token_embedding(get_preset("57p").config).table()
    wanted = [(2.5 * math.cos(-1.2 + 0.29 * d), 2.5 * math.sin(-1.2 + 0.29 * d)) for d in range(10)]
    torch.testing.assert_close(rows_VW, torch.tensor(wanted))


def test_an_ellipse_has_two_radii() -> None:
    tokens = token_embedding(get_preset("75p").config)
    with torch.no_grad():
        tokens.sine_radius.fill_(1.0)  # type: ignore[union-attr]
    torch.testing.assert_close(tokens.table()[3], torch.tensor([2.5 * math.cos(-0.33), math.sin(-0.33)]))


def test_columns_of_x_y_and_z_share_a_point_of_the_spiral() -> None:
    rows_PW = _positions(get_preset("57p").config)
    for j in range(10):
        angle = 2 * math.pi * j / 10
        wanted = torch.tensor([3.5 * math.cos(angle), 3.5 * math.sin(angle), 0.15 * j])
        for position in (j, 11 + j, 22 + j):
            torch.testing.assert_close(rows_PW[position].float(), wanted)


def test_special_positions_are_learned_or_zero() -> None:
    """MicroAdder: PLUS is zero, EQ and Z10 are learned; JackCai learns PLUS too."""
    rows_PW = _positions(get_preset("57p").config)
    assert rows_PW[10].abs().max() == 0
    assert rows_PW[21].abs().max() > 0 and rows_PW[32].abs().max() > 0
    assert _positions(get_preset("242p").config)[10].abs().max() > 0
    frozen = dataclasses.replace(get_preset("57p").config, learned_specials=())
    assert _positions(frozen)[[10, 21, 32]].abs().max() == 0


def test_columns_follow_the_layout() -> None:
    """In layout P a_j stands at 9 - j, b_j at 20 - j and s_j at 22 + j."""
    config = ModelConfig(positions="columns")
    rows_PW = _positions(config)
    for j in range(10):
        assert torch.equal(rows_PW[9 - j], rows_PW[20 - j])
        assert torch.equal(rows_PW[9 - j], rows_PW[22 + j])
    assert len({tuple(row) for row in rows_PW.tolist()}) == 10 + 3


def test_the_end_position_counts_but_is_not_read() -> None:
    embedding = position_embedding(get_preset("242p").config)
    assert isinstance(embedding, ColumnPositions)
    assert embedding.special.shape == (4, 3)
    assert len(embedding.row_of_position) == get_preset("242p").config.token_layout.num_positions + 1


def test_a_learned_spiral_starts_where_it_says() -> None:
    rows_PW = _positions(get_preset("74p").config)
    wanted = torch.tensor([math.cos(1.8 * math.pi), math.sin(1.8 * math.pi), 1.0])
    torch.testing.assert_close(rows_PW[9], wanted)


def test_xavier_start_of_microadder() -> None:
    """Xavier-uniform maps, the low-rank output at zero, angles at zero."""
    weights = dict(build_model(get_preset("67p").config, 0).named_parameters())
    for name, fan in (("blocks.0.attn.qk_shared.weight", 7), ("head_proj.weight", 7)):
        bound = math.sqrt(6 / fan)
        assert 0.5 * bound < weights[name].abs().max() <= bound, name
    assert weights["blocks.0.attn.proj.B"].abs().max() == 0
    assert weights["blocks.0.attn.proj.A"].abs().max() > 0.02
    assert weights["blocks.0.attn.query.angle"] == 0


def test_spiral_start_of_jackcai() -> None:
    model = build_model(get_preset("242p").config, 0)
    table_VW = model.token_emb.table()
    angle = 2 * math.pi * 3 / 10
    torch.testing.assert_close(table_VW[3], torch.tensor([math.cos(angle), math.sin(angle), 3 / 9]))
    torch.testing.assert_close(table_VW[10], torch.tensor([2.0, 0.0, -1.0]))
    assert isinstance(model.pos_emb, ColumnPositions)
    torch.testing.assert_close(model.pos_emb.columns.rows()[3], table_VW[3])


def test_uniform_start_of_mlx() -> None:
    weights = dict(build_model(get_preset("200p").config, 0).named_parameters())
    largest = weights["blocks.0.mlp.fc1.weight"].abs().max().item()
    assert 0.5 / math.sqrt(3) < largest <= 1 / math.sqrt(3)
    assert weights["token_emb.weight"].std().item() == pytest.approx(1 / math.sqrt(3), rel=0.4)


def test_normal_start_has_no_biases() -> None:
    weights = dict(build_model(get_preset("1644p").config, 0).named_parameters())
    assert weights["blocks.0.mlp.fc1.bias"].abs().max() == 0
    assert weights["blocks.0.attn.qkv.weight"].std().item() == pytest.approx(0.02, rel=0.3)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("456p", ["A_Q = A_K = A_V", "B_K = B_V"]),
        ("57p", ["Q = rotation of W, K = W", "V = head^T", "fc2 = head^T"]),
        ("44p", ["Q = K = V", "O = Q^T"]),
        ("36p", ["Q = W, K = rotation of W, V = W", "down = up^T after a rotation of hidden pairs"]),
        ("58p", ["Q = W, K = alpha * W", "gate = alpha * up"]),
        ("7p", ["K = what it reads", "V = the last token channel", "norms have no weight"]),
        ("137p", ["each K and V head serves 2 Q heads"]),
    ],
)
def test_ties_are_described(name: str, lines: list[str]) -> None:
    assert set(lines) <= set(ties(PRESETS[name].config))
