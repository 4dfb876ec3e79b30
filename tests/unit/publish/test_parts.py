"""The source of each part computes what the part computes; every weight has one short name."""

from typing import Any

import pytest
import torch
from torch import nn

from adderlab.errors import UsageError
from adderlab.models.config import ModelConfig
from adderlab.models.layers import PlainRMSNorm, RMSNorm
from adderlab.models.maps import (
    CarryDown,
    Identity,
    InputRotated,
    LastScalesFirst,
    Linear,
    LowRankLinear,
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
)
from adderlab.models.transformer import Transformer, skeleton
from adderlab.models.zoo import PRESETS
from adderlab.publish.forward import Code, Place, applied, expressions, operand, places, width


def run(part: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, str]:
    """(the value of the part's source, the source)."""
    names = {id(p): f"w{i}" for i, p in enumerate(part.parameters())}
    code = Code(names)
    result = applied(part, "x", code)
    scope: dict[str, Any] = {f"w{i}": p for i, p in enumerate(part.parameters())}
    scope |= {"torch": torch, "x": x}
    scope |= {name: getattr(nn.functional, name) for name in code.functions}
    for helper in code.helpers.values():
        exec(helper, scope)
    for line in code.take_lines():
        exec(line, scope)
    return eval(result, scope), result


def parts() -> list[tuple[nn.Module, int]]:
    up, gate = Linear(3, 4), SparseGate(3, 4)
    return [
        (Linear(3, 4), 3),
        (Linear(3, 4, bias=True), 3),
        (LowRankLinear(3, 4, 2), 3),
        (Scaled(LowRankLinear(3, 4, 2)), 3),
        (Rotated(Linear(3, 4), 4, 0.3), 3),
        (Rotated(Linear(3, 4), 2, 0.3), 3),
        (Rotated(LowRankLinear(3, 6, 1), 3, 0.3), 3),
        (Rotated(Linear(4, 3), 3, 0.3), 4),
        (Scaled(Rotated(LastScalesFirst(3, 5), 5, 0.1)), 3),
        (Transposed(Linear(3, 4)), 4),
        (InputRotated(Transposed(Linear(3, 4)), 0.4), 4),
        (LastScalesFirst(3, 4), 3),
        (QueryTransposeTail(Linear(3, 4)), 4),
        (SparseGate(3, 4), 3),
        (CarryDown(up, gate), 4),
        (RMSNorm(3, 1e-5), 3),
        (QuarterNorm(1e-5), 4),
        (PlainRMSNorm(1e-5), 3),
        (Identity(3), 3),
        (Negated(3), 3),
        (ScaledRotation(4), 4),
        (ScaledRotation(3), 3),
        (MirroredUp(3, 4, unit=False), 3),
        (MirroredUp(3, 4, unit=True), 3),
        (MirroredDown(4, 3, even=False), 4),
        (MirroredDown(4, 3, even=True), 4),
        (OneChannel(3, 1, 2), 3),
        (ScaledChannels(3, once=False), 3),
        (ScaledChannels(3, once=True), 3),
        (nn.LayerNorm(3), 3),
        (nn.LayerNorm(3, eps=1e-3), 3),
    ]


@pytest.mark.parametrize(("part", "size"), parts(), ids=lambda value: type(value).__name__)
def test_source_equals_forward(part: nn.Module, size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        x = torch.randn(2, 5, size, generator=generator)
        result, source = run(part, x)
        assert torch.equal(result, part(x)), source


def test_defaults_are_left_out() -> None:
    _, source = run(nn.LayerNorm(3), torch.ones(3))
    assert source == "layer_norm(x, (3,), w0, w1)"
    _, source = run(Linear(3, 4), torch.ones(3))
    assert source == "linear(x, w0)"


def test_operands_are_bracketed_only_where_needed() -> None:
    assert operand("x") == "x"
    assert operand("silu(a + b)") == "silu(a + b)"
    assert operand("x[..., 0::2]") == "x[..., 0::2]"
    assert operand("a @ b") == "(a @ b)"


def test_unknown_parts_are_refused() -> None:
    with pytest.raises(UsageError, match="cannot write the part Conv1d"):
        applied(nn.Conv1d(1, 1, 1), "x", Code({}))
    with pytest.raises(UsageError, match="width of a Conv1d"):
        width(nn.Conv1d(1, 1, 1))


def test_two_helpers_of_one_name_must_be_one() -> None:
    code = Code({})
    code.helper("turn", "a")
    with pytest.raises(AssertionError):
        code.helper("turn", "b")


@pytest.mark.parametrize("name", PRESETS)
def test_places_are_distinct_and_are_identifiers(name: str) -> None:
    config = PRESETS[name].config
    found = places(config)
    assert list(found) == [name for name, _ in skeleton(config).named_parameters()]
    assert len(set(found.values())) == len(found)
    assert all(place.attribute.isidentifier() for place in found.values())


def test_names_are_short() -> None:
    found = places(PRESETS["456p"].config)
    assert {place.attribute for place in found.values()} == {
        *("token_emb", "pos_emb_A", "pos_emb_B", "ln1", "ln2", "ln_f", "qkv_A", "qkv_Bq", "qkv_Bkv"),
        *("proj_A", "proj_B", "fc1_A", "fc1_B", "fc2_A", "fc2_B"),
    }


def test_a_weight_with_a_bias_keeps_its_word() -> None:
    found = places(ModelConfig())
    assert found["ln_f.weight"].attribute == "ln_f_weight"
    assert found["ln_f.bias"].attribute == "ln_f_bias"


def test_layers_have_their_own_and_share_what_is_shared() -> None:
    found = places(ModelConfig(n_layer=2, share_norms="all", norm="rms"))
    assert found["blocks.1.attn.qkv.weight"] == Place(layer=1, attribute="qkv")
    assert found["blocks.0.ln1.weight"] == Place(layer=None, attribute="ln1")
    assert Place(layer=1, attribute="qkv").expression == "layer.qkv"


def test_tied_parameters_are_read_under_one_name() -> None:
    model = Transformer(PRESETS["57p"].config)
    names = expressions(model)
    block = model.block(0)
    assert model.head_proj is not None
    assert names[id(model.head_proj.weight)] == "self.head_proj"
    assert names[id(block.ln2.weight)] == names[id(model.ln_f.weight)] == "self.ln1"
