"""MicroAdder's published checkpoint reads, adds and goes back; anything else is refused in a line."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adderlab.errors import Failure, UsageError
from adderlab.models.tables import stack_parameters
from adderlab.models.transformer import build_model
from adderlab.models.zoo import get_preset
from adderlab.runs.foreign import read_microadder
from helpers.foreign import errors_on_adderboard, loaded, write_microadder
from helpers.reference import reference_checkpoint

PUBLISHED = "microadder_67p_s71046.pt"


def test_published_67p_adds() -> None:
    config, params = read_microadder(reference_checkpoint(PUBLISHED))
    assert config == get_preset("67p").config
    assert sum(tensor.numel() for tensor in params.values()) == 67
    assert errors_on_adderboard(loaded(build_model(config, 0), params)) == 0


def test_published_67p_goes_back(tmp_path: Path) -> None:
    config, params = read_microadder(reference_checkpoint(PUBLISHED))
    write_microadder(tmp_path / "again.pt", config, params, step=46_000)
    again_config, again = read_microadder(tmp_path / "again.pt")
    assert again_config == config
    assert all(torch.equal(again[name], params[name]) for name in params)


@pytest.mark.parametrize("name", ["74p", "67p", "57p"])
def test_presets_are_written_and_read(name: str, tmp_path: Path) -> None:
    config = get_preset(name).config
    params = {k: t[0] for k, t in stack_parameters([build_model(config, 3)]).items()}
    write_microadder(tmp_path / "model.pt", config, params)
    read_config, read = read_microadder(tmp_path / "model.pt")
    assert read_config == config
    assert read.keys() == params.keys()
    assert all(torch.equal(read[key], params[key]) for key in params)


def test_other_families_are_not_written(tmp_path: Path) -> None:
    config = get_preset("456p").config
    params = {k: t[0] for k, t in stack_parameters([build_model(config, 0)]).items()}
    with pytest.raises(UsageError, match="no MicroAdder"):
        write_microadder(tmp_path / "model.pt", config, params)


def _saved(tmp_path: Path) -> dict[str, Any]:
    config = get_preset("67p").config
    params = {k: t[0] for k, t in stack_parameters([build_model(config, 3)]).items()}
    write_microadder(tmp_path / "good.pt", config, params)
    return torch.load(tmp_path / "good.pt", weights_only=True)


@pytest.mark.parametrize(
    ("entry", "value", "complaint"),
    [
        ("qk_input", "full", "qk_input 'full'"),
        ("norm_mode", "structured", "norm_mode 'structured'"),
        ("freeze_spiral", "amp", "freezes amp"),
        ("d_model", "wide", "settings that make no model"),
        ("d_model", 2, "settings that make no model"),
    ],
)
def test_unknown_settings_are_refused(entry: str, value: Any, complaint: str, tmp_path: Path) -> None:
    payload = _saved(tmp_path)
    payload["config"][entry] = value
    torch.save(payload, tmp_path / "bad.pt")
    with pytest.raises(Failure, match=complaint):
        read_microadder(tmp_path / "bad.pt")


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("norm2.weight", torch.zeros(5), "norm2.weight differs"),
        ("tok_arc_B", torch.tensor(9.0), "tok_arc_B differs"),
        ("_plus_pos", torch.ones(1, 3), "_plus_pos is not zero"),
        ("spiral_amp", torch.tensor(1.0), "spiral_amp is not"),
        ("q_phase_angle", torch.zeros(2), "2 angles"),
        ("alibi_log_slopes", torch.zeros(1), "unknown weight alibi_log_slopes"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    name: str, value: Tensor, complaint: str, tmp_path: Path
) -> None:
    payload = _saved(tmp_path)
    payload["config"]["tie_tok_arc_ab"] = True
    payload["model_state_dict"][name] = value
    torch.save(payload, tmp_path / "bad.pt")
    with pytest.raises(Failure, match=complaint):
        read_microadder(tmp_path / "bad.pt")


def test_missing_weights_and_tables_are_refused(tmp_path: Path) -> None:
    payload = _saved(tmp_path)
    del payload["model_state_dict"]["q_proj.weight"]
    torch.save(payload, tmp_path / "bad.pt")
    with pytest.raises(Failure, match=r"lacks the weight q_proj\.weight"):
        read_microadder(tmp_path / "bad.pt")
    del payload["config"]
    torch.save(payload, tmp_path / "bad.pt")
    with pytest.raises(Failure, match="no table 'config'"):
        read_microadder(tmp_path / "bad.pt")
