"""Every published model counts exactly what its author published."""

import json

import pytest
import torch

from adderlab.errors import UsageError
from adderlab.files.schema import from_dict, to_dict
from adderlab.models.config import ModelConfig
from adderlab.models.describe import count_parameters
from adderlab.models.tables import why_no_tables
from adderlab.models.transformer import build_model
from adderlab.models.zoo import PRESETS, get_preset
from adderlab.task.addition import pairs_from_ints
from helpers.models import (
    WITH_TABLES,
    WITHOUT_TABLES,
    assert_population_is_bitwise_alone,
    assert_tables_match_model,
    example,
    random_model,
)

PUBLISHED = (
    *(6080, 1644, 973, 777, 582, 512, 491, 456, 335, 311, 305, 275, 274, 262, 260, 242, 239, 234),
    *(228, 200, 173, 155, 146, 140, 137, 122, 113, 101, 96, 95, 89, 86, 83, 75, 74, 67, 62, 58, 57, 55),
    *(52, 45, 44, 41, 39, 38, 36),
    *(11, 8, 7),
)


def test_the_zoo_is_complete() -> None:
    assert list(PRESETS) == [f"{count}p" for count in PUBLISHED]


@pytest.mark.parametrize("count", PUBLISHED)
def test_count_is_the_published_one(count: int) -> None:
    preset = get_preset(f"{count}p")
    assert preset.parameters == count
    assert count_parameters(preset.config) == count


@pytest.mark.parametrize("name", PRESETS)
def test_its_description_is_complete(name: str) -> None:
    preset = PRESETS[name]
    for text in (preset.source, preset.published, preset.published_rate):
        assert text and not text.endswith(".")


@pytest.mark.parametrize("name", PRESETS)
def test_which_have_tables(name: str) -> None:
    reason = why_no_tables(PRESETS[name].config)
    if name in WITHOUT_TABLES:
        assert reason is not None and WITHOUT_TABLES[name] in reason
    else:
        assert reason is None


@pytest.mark.parametrize("name", WITH_TABLES)
def test_tables_say_what_the_model_says(name: str) -> None:
    assert_tables_match_model(random_model(PRESETS[name].config, spread=0.3))


@pytest.mark.parametrize("name", WITH_TABLES)
def test_a_seed_in_a_population_is_the_seed_alone(name: str) -> None:
    assert_population_is_bitwise_alone(PRESETS[name].config, num_seeds=3)


@pytest.mark.parametrize("name", PRESETS)
def test_settings_survive_json(name: str) -> None:
    config = PRESETS[name].config
    assert from_dict(ModelConfig, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize("name", PRESETS)
def test_every_parameter_learns(name: str) -> None:
    """From the start, a step along the gradient lowers the loss, and nothing read is left out."""
    model = build_model(PRESETS[name].config, 1)
    tokens_BP, targets_BA = example(model, pairs=16)
    first = model.loss(tokens_BP, targets_BA)
    scale = model.config.logit_scale
    assert 0.5 < first.item() < 12.0 * scale
    grads = torch.autograd.grad(first, list(model.parameters()))
    square = sum(float((grad**2).sum()) for grad in grads)
    assert 0.0 < square < 1e4 * scale**2
    with torch.no_grad():
        for parameter, grad in zip(model.parameters(), grads, strict=True):
            parameter -= 1e-3 * grad / square**0.5
    assert model.loss(tokens_BP, targets_BA).item() < first.item()


def test_sequences_of_the_two_largest() -> None:
    """As their authors write them: 1234567890 + 42."""
    for name, wanted in (
        ("6080p", "<BOS>1234567890+0000000042=23976543210<EOS>"),
        ("1644p", "<BOS>P02P94P80P70P60P50P40P30P20P10=23976543210<EOS>"),
    ):
        layout = PRESETS[name].config.token_layout
        tokens_BP, targets_BA = layout.encode(*pairs_from_ints([(1234567890, 42)]))
        tokens = [*tokens_BP[0].tolist(), targets_BA[0, -1].item()]
        assert "".join(layout.vocabulary[int(token)] for token in tokens) == wanted


def test_a_bare_number_names_a_preset() -> None:
    assert get_preset("456") is PRESETS["456p"]


def test_unknown_preset_lists_close_names() -> None:
    with pytest.raises(UsageError, match=r"no preset '457p'; close names: .*456p"):
        get_preset("457p")
    with pytest.raises(UsageError, match=r"no preset 'x'; there are 6080p, .*7p"):
        get_preset("x")
