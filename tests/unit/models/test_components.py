"""Each linear map: what it does to activations is its dense weight, and what its name promises."""

import math

import pytest
import torch
from torch import Tensor, nn

from adderlab.models.maps import (
    CarryDown,
    Identity,
    InputRotated,
    LastScalesFirst,
    Linear,
    LowRankLinear,
    Map,
    MirroredDown,
    MirroredUp,
    Negated,
    OneChannel,
    QuarterNorm,
    QueryTransposeTail,
    Rotated,
    Scaled,
    ScaledChannels,
    ScaledRotation,
    SparseGate,
    Transposed,
    join_pairs,
    rotary,
    rotate,
    rotate_neighbours,
    split_pairs,
)


def _stirred(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(4)
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def _stacked(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach()[None] for name, p in module.named_parameters(remove_duplicate=False)}


UP, GATE = Linear(5, 4), SparseGate(5, 4)
MAPS: dict[str, tuple[int, Map]] = {
    "full": (5, Linear(5, 4)),
    "low rank": (5, LowRankLinear(5, 4, 2)),
    "scaled": (5, Scaled(Linear(5, 4))),
    "rotated": (5, Rotated(Linear(5, 6), 3, 0.1)),
    "rotated low rank": (5, Rotated(LowRankLinear(5, 4, 2), 4, 0.1)),
    "input rotated": (5, InputRotated(Transposed(Linear(3, 5)), 0.1)),
    "transposed": (4, Transposed(Linear(5, 4))),
    "last scales first": (5, LastScalesFirst(5, 4)),
    "query transpose tail": (4, QueryTransposeTail(Linear(5, 4))),
    "sparse gate": (5, SparseGate(5, 4)),
    "carry down": (4, CarryDown(UP, GATE)),
    "same": (5, Identity(5)),
    "negated": (5, Negated(5)),
    "turn": (4, ScaledRotation(4)),
    "turn all but last": (5, ScaledRotation(5)),
    "mirrored up": (5, MirroredUp(5, 4, unit=False)),
    "mirrored up by one": (5, MirroredUp(5, 4, unit=True)),
    "mirrored down": (4, MirroredDown(4, 5, even=False)),
    "mirrored down, even": (4, MirroredDown(4, 5, even=True)),
    "one channel": (5, OneChannel(5, 1, 2)),
    "scaled channels": (5, ScaledChannels(5, once=False)),
    "channels scaled once": (5, ScaledChannels(5, once=True)),
}


@pytest.mark.parametrize("name", MAPS)
def test_forward_is_the_dense_weight(name: str) -> None:
    inputs, map_ = MAPS[name]
    assert isinstance(map_, nn.Module)
    _stirred(map_)
    x = torch.randn(7, inputs, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(map_(x), x @ map_.dense(_stacked(map_))[0].to(x), rtol=1e-12, atol=1e-12)


def test_rotated_turns_pairs_by_its_angle() -> None:
    """A quarter turn takes (u, v) to (-v, u) in each head; the odd last one stays."""
    rotated = Rotated(Linear(6, 6), 3, math.pi / 2)
    with torch.no_grad():
        rotated.source.weight.copy_(torch.eye(6))  # type: ignore[attr-defined]
    y = rotated(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))
    torch.testing.assert_close(y, torch.tensor([-2.0, 1.0, 3.0, -5.0, 4.0, 6.0]))


def test_a_quarter_turn_of_hidden_units_comes_before_the_map() -> None:
    turned = InputRotated(Linear(2, 1), math.pi / 2)
    with torch.no_grad():
        turned.source.weight.copy_(torch.tensor([[10.0, 1.0]]))  # type: ignore[attr-defined]
    torch.testing.assert_close(turned(torch.tensor([3.0, 4.0])), torch.tensor([-40.0 + 3.0]))


def test_scaled_multiplies() -> None:
    scaled = Scaled(Linear(2, 1))
    with torch.no_grad():
        scaled.source.weight.copy_(torch.tensor([[1.0, 2.0]]))  # type: ignore[attr-defined]
        scaled.scale.fill_(-3.0)
    assert scaled(torch.tensor([1.0, 1.0])).item() == -9.0


def test_sparse_maps_have_the_zeros_they_promise() -> None:
    gate = _stirred(SparseGate(3, 2))
    assert isinstance(gate, SparseGate)
    weight_FD = gate.weight()
    assert weight_FD[1, 2] == 0 and bool((weight_FD.flatten()[:5] != 0).all())
    key = LastScalesFirst(2, 4).double()
    with torch.no_grad():
        key.scale.fill_(-2.0)
    y = key(torch.randn(2, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    torch.testing.assert_close(y[3], -2.0 * y[0])


def test_quarter_norm_weighs_one_quarter_none_minus_one() -> None:
    norm = QuarterNorm(0.0)
    with torch.no_grad():
        norm.scale.fill_(8.0)
    y = norm(torch.full((4,), 5.0))
    torch.testing.assert_close(y, torch.tensor([8.0, 2.0, 0.0, -8.0]))
    assert torch.equal(norm.dense(_stacked(norm))[0], torch.tensor([8.0, 2.0, 0.0, -8.0]))


@pytest.mark.parametrize("pairs", ["neighbours", "halves"])
def test_pairs_split_and_join(pairs: str) -> None:
    x = torch.arange(12.0).reshape(2, 6)
    assert torch.equal(join_pairs(*split_pairs(x, pairs), pairs), x)
    first, second = split_pairs(x[0], pairs)
    assert (first[0].item(), second[0].item()) == ((0, 1) if pairs == "neighbours" else (0, 3))


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    """The defining property (arXiv 2104.09864), and the published frequencies 1 and 3^-1/2."""
    cos_RG, sin_RG = rotary([3, 10, 13, 20], 4, 3.0)
    assert math.isclose(cos_RG[0, 1].item(), math.cos(3 / math.sqrt(3)))
    q, k = torch.randn(2, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for pairs in ("neighbours", "halves"):
        turned_q, turned_k = (rotate(y[None], cos_RG, sin_RG, pairs) for y in (q, k))
        torch.testing.assert_close(turned_q[0] @ turned_k[2], turned_q[1] @ turned_k[3])


def test_an_odd_last_coordinate_stays() -> None:
    x = torch.tensor([1.0, 0.0, 7.0])
    y = rotate_neighbours(x, torch.tensor(0.0), torch.tensor(1.0))
    assert torch.equal(y, torch.tensor([0.0, 1.0, 7.0]))
