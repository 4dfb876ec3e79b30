"""Every parameter has one short attribute of its own."""

import pytest

from adderlab.models.config import ModelConfig
from adderlab.models.transformer import Transformer, skeleton
from adderlab.models.zoo import PRESETS
from adderlab.publish.naming import Place, expressions, places


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
